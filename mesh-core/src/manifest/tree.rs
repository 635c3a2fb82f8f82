//! YAML (and so JSON) text to trees of nodes that know their place.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use super::cursor::short;
use serde_saphyr::granit_parser::{Event, Options, Parser, ScalarStyle, ScanError, Span, StrInput, Tag, options};

/// How many nodes the aliases of one text may add: far more than any manifest repeats, far less than a bomb needs.
const ALIASED_NODES: usize = 100_000;

/// So many keys of a map are compared one by one: nearly all maps have fewer, and need no tree of them.
const FEW: usize = 16;

/// A value with the place where it begins.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) value: Value,
    /// The number of nodes in it, itself included.
    weight: usize,
}

/// Line and column, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) line: u32,
    pub(super) column: u32,
}

#[derive(Debug)]
pub(super) enum Value {
    /// A scalar without quotes or a tag that makes it a string: what it means depends on what is asked for.
    Plain(String),
    /// A scalar that is text and nothing else.
    Text(String),
    List(Vec<Rc<Node>>),
    Map(Vec<Field>),
}

/// An entry of a map.
#[derive(Clone, Debug)]
pub(super) struct Field {
    pub(super) key: Rc<str>,
    pub(super) place: Place,
    pub(super) value: Rc<Node>,
}

/// A document that is not empty.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) root: Rc<Node>,
    /// There is a mistake in it that left the tree whole: it is read to find the others, and not believed.
    pub(super) broken: bool,
}

/// A mistake in the text as YAML.
#[derive(Debug)]
pub(super) struct SyntaxError {
    pub(super) place: Place,
    pub(super) field: String,
    pub(super) message: String,
}

impl Node {
    /// Tells whether this is `null`, in any spelling, or nothing at all.
    pub(super) fn is_null(&self) -> bool {
        matches!(&self.value, Value::Plain(text) if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }
}

/// Reads every document of `text`; a broken one does not stand in the way of the next.
pub(super) fn documents(text: &str) -> (Vec<Document>, Vec<SyntaxError>) {
    let (mut documents, mut errors) = (Vec::new(), Vec::new());
    each_document(text, |document| documents.push(document), |error| errors.push(error));
    (documents, errors)
}

/// Reads one document of `text` after the other, so that no more than one of a large file is in memory.
pub(super) fn each_document(text: &str, mut take: impl FnMut(Document), mut complain: impl FnMut(SyntaxError)) {
    let options: Options = options! { emit_comments: false };
    let mut parser = Parser::new_from_str_with_options(text.strip_prefix('\u{feff}').unwrap_or(text), options);
    let mut aliased = 0;
    loop {
        match document(&mut parser, &mut aliased) {
            Ok(Some(builder)) => {
                let broken = !builder.errors.is_empty();
                builder.errors.into_iter().for_each(&mut complain);
                if let Some(root) = builder.root.filter(|root| !root.is_null()) {
                    take(Document { root, broken });
                }
            }
            Ok(None) => return,
            Err(error) => {
                complain(error);
                if !parser.proceed_next_document().unwrap_or(false) {
                    return;
                }
            }
        }
    }
}

/// Reads one document; `None` at the end of the text.
fn document<'t>(parser: &mut Parser<'t, StrInput<'t>>, aliased: &mut usize) -> Result<Option<Builder>, SyntaxError> {
    let mut builder = Builder { aliased: *aliased, ..Builder::default() };
    while let Some(event) = parser.next_event() {
        let (event, span) = event.map_err(|error| builder.scan_error(&error))?;
        if matches!(event, Event::DocumentEnd) {
            *aliased = builder.aliased;
            return Ok(Some(builder));
        }
        builder.take(event, &span)?;
    }
    Ok(None)
}

#[derive(Default)]
struct Builder {
    root: Option<Rc<Node>>,
    open: Vec<Frame>,
    anchors: BTreeMap<usize, Rc<Node>>,
    aliased: usize,
    errors: Vec<SyntaxError>,
}

struct Frame {
    place: Place,
    anchor: usize,
    weight: usize,
    content: Content,
}

enum Content {
    List(Vec<Rc<Node>>),
    Map(Map),
}

impl Frame {
    /// Returns the weight and the map of a frame in which a key comes next.
    fn awaits_key(&mut self) -> Option<(&mut usize, &mut Map)> {
        match &mut self.content {
            Content::Map(map) if map.key.is_none() => Some((&mut self.weight, map)),
            _ => None,
        }
    }
}

#[derive(Default)]
struct Map {
    fields: Vec<Field>,
    /// The keys of the fields, once they are more than [`FEW`].
    keys: BTreeSet<Rc<str>>,
    /// The key whose value comes next, and whether it is the merge key `<<`.
    key: Option<(Rc<str>, Place, bool)>,
    /// What `<<` merges in, where the map itself has no such key.
    merges: Vec<Rc<Node>>,
}

impl Map {
    /// Adds a field; tells whether its key is new.
    fn add(&mut self, field: Field) -> bool {
        let is_new = if self.fields.len() < FEW {
            self.fields.iter().all(|known| known.key != field.key)
        } else {
            if self.keys.is_empty() {
                self.keys.extend(self.fields.iter().map(|known| known.key.clone()));
            }
            self.keys.insert(field.key.clone())
        };
        if is_new {
            self.fields.push(field);
        }
        is_new
    }

    fn finish(mut self) -> Vec<Field> {
        for source in std::mem::take(&mut self.merges) {
            let Value::Map(fields) = &source.value else { continue };
            for field in fields {
                self.add(field.clone());
            }
        }
        self.fields
    }
}

impl Builder {
    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), SyntaxError> {
        let place = Place::of(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                if let Some((weight, map)) = self.open.last_mut().and_then(Frame::awaits_key).filter(|_| anchor == 0) {
                    // Half of all scalars are keys, which need no node of their own.
                    *weight = weight.saturating_add(1);
                    map.key = Some((text.as_ref().into(), place, text == "<<" && is_plain(style, tag.as_deref())));
                    return Ok(());
                }
                let value = scalar(text.into_owned(), style, tag.as_deref());
                self.add(Node { place, value, weight: 1 }, anchor)
            }
            Event::Alias(anchor) => {
                let Some(node) = self.anchors.get(&anchor).cloned() else {
                    return Err(self.error(place, "an alias inside the value that it stands for"));
                };
                self.aliased = self.aliased.saturating_add(node.weight);
                if self.aliased > ALIASED_NODES {
                    return Err(self.error(place, format!("aliases repeat more than {ALIASED_NODES} values")));
                }
                self.add_shared(node, 0)
            }
            Event::SequenceStart(_, anchor, _) => {
                self.open.push(Frame { place, anchor, weight: 1, content: Content::List(Vec::new()) });
                Ok(())
            }
            Event::MappingStart(_, anchor, _) => {
                self.open.push(Frame { place, anchor, weight: 1, content: Content::Map(Map::default()) });
                Ok(())
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let frame = self.open.pop().expect("the parser pairs starts with ends");
                let value = match frame.content {
                    Content::List(items) => Value::List(items),
                    Content::Map(map) => Value::Map(map.finish()),
                };
                self.add(Node { place: frame.place, value, weight: frame.weight }, frame.anchor)
            }
            _ => Ok(()),
        }
    }

    fn add(&mut self, node: Node, anchor: usize) -> Result<(), SyntaxError> {
        self.add_shared(Rc::new(node), anchor)
    }

    fn add_shared(&mut self, node: Rc<Node>, anchor: usize) -> Result<(), SyntaxError> {
        if anchor > 0 {
            self.anchors.insert(anchor, node.clone());
        }
        let Some(frame) = self.open.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        frame.weight = frame.weight.saturating_add(node.weight);
        let map = match &mut frame.content {
            Content::List(items) => {
                items.push(node);
                return Ok(());
            }
            Content::Map(map) => map,
        };
        let Some((key, place, merge)) = map.key.take() else {
            map.key = match &node.value {
                Value::Plain(text) => Some((text.as_str().into(), node.place, text == "<<")),
                Value::Text(text) => Some((text.as_str().into(), node.place, false)),
                Value::List(_) | Value::Map(_) => return Err(self.error(node.place, "a key is a string, not a list or a map")),
            };
            return Ok(());
        };
        if merge {
            match &node.value {
                Value::Map(_) => map.merges.push(node),
                Value::List(items) => map.merges.extend(items.iter().cloned()),
                Value::Plain(_) | Value::Text(_) => return Err(self.error(node.place, "'<<' merges maps only")),
            }
        } else if !map.add(Field { key: key.clone(), place, value: node }) {
            let error = self.error(place, format!("the key '{}' is there twice", short(&key)));
            self.errors.push(error);
        }
        Ok(())
    }

    fn error(&self, place: Place, message: impl Into<String>) -> SyntaxError {
        SyntaxError { place, field: self.path(), message: message.into() }
    }

    fn scan_error(&self, error: &ScanError) -> SyntaxError {
        let place = Place::at(error.marker().line(), error.marker().col());
        self.error(place, format!("not YAML: {}", error.kind()))
    }

    /// Returns the path of the field that is being read.
    fn path(&self) -> String {
        let mut path = String::new();
        for frame in &self.open {
            match &frame.content {
                Content::List(items) => path.push_str(&format!("[{}]", items.len())),
                Content::Map(Map { key: Some((key, ..)), .. }) => {
                    path.push_str(if path.is_empty() { "" } else { "." });
                    path.push_str(&short(key));
                }
                Content::Map(_) => {}
            }
        }
        path
    }
}

impl Place {
    fn of(span: &Span) -> Place {
        Place::at(span.start.line(), span.start.col())
    }

    /// Takes a line from 1 and a column from 0.
    fn at(line: usize, column: usize) -> Place {
        let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        Place { line: number(line), column: number(column.saturating_add(1)) }
    }
}

/// Reads a scalar.
fn scalar(text: String, style: ScalarStyle, tag: Option<&Tag>) -> Value {
    if is_plain(style, tag) { Value::Plain(text) } else { Value::Text(text) }
}

/// Tells whether a scalar is not text by its looks: quotes and the tag `!!str` make it text.
fn is_plain(style: ScalarStyle, tag: Option<&Tag>) -> bool {
    match tag.and_then(Tag::core_suffix) {
        Some("str") => false,
        Some("null" | "bool" | "int" | "float") => true,
        _ => style == ScalarStyle::Plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(text: &str) -> Rc<Node> {
        let (documents, errors) = documents(text);
        assert!(errors.is_empty(), "{errors:?}");
        assert_eq!(documents.len(), 1);
        documents[0].root.clone()
    }

    fn field<'a>(node: &'a Node, key: &str) -> &'a Node {
        let Value::Map(fields) = &node.value else { panic!("no map: {node:?}") };
        &fields.iter().find(|field| *field.key == *key).expect("the key is there").value
    }

    #[test]
    fn places_are_counted_from_one() {
        let root = one("a: 1\nb:\n  c: [x, y]\n");
        assert_eq!((root.place.line, root.place.column), (1, 1));
        let c = field(field(&root, "b"), "c");
        let Value::List(items) = &c.value else { panic!("no list") };
        assert_eq!((items[1].place.line, items[1].place.column), (3, 10));
    }

    #[test]
    fn merge_keys_and_aliases_work_and_own_keys_win() {
        let root = one("base: &b {x: one, y: two}\nuse: {<<: *b, y: three}\n");
        let used = field(&root, "use");
        assert!(matches!(&field(used, "x").value, Value::Plain(text) if text == "one"));
        assert!(matches!(&field(used, "y").value, Value::Plain(text) if text == "three"));
    }

    #[test]
    fn an_alias_bomb_is_an_error_and_quick() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for level in 1..12 {
            let below = format!("*a{}, ", level - 1).repeat(10);
            text.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        let (documents, errors) = documents(&text);
        assert!(documents.is_empty());
        assert!(errors[0].message.contains("aliases"), "{errors:?}");
    }

    #[test]
    fn a_broken_document_does_not_hide_the_next() {
        let (documents, errors) = documents("a: [1, 2\n---\nb: 1\n---\nc: 1\nc: 2\n---\n# nothing\n");
        assert_eq!(documents.iter().map(|document| document.broken).collect::<Vec<_>>(), [false, true]);
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert_eq!((errors[1].place.line, errors[1].place.column), (6, 1));
    }

    #[test]
    fn json_is_yaml_with_tabs_and_long_values() {
        let long = "x".repeat(5000);
        let root =
            one(&format!("{{\n\t\"kind\": \"Pod\",\n\t\"list\": [\n\t\t{{\"a\": \"{long}\", \"b\":\"\\u00e9\\/\"}}\n\t]\n}}\n"));
        assert!(matches!(&field(&root, "kind").value, Value::Text(text) if text == "Pod"));
    }
}
