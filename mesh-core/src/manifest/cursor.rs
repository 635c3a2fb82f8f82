//! A cursor over a tree: every mistake is noted with its place and path, and reading goes on.

use std::cell::{Cell, RefCell};
use std::fmt::{Display, Write};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::rc::Rc;
use std::str::FromStr;

use super::tree::{Field, Node, Place, SyntaxError, Value};
use super::{Location, ManifestError};
use crate::Prefix;

/// Collects what is wrong and what is odd in one file.
#[derive(Debug)]
pub(super) struct Report<'s> {
    file: &'s str,
    errors: RefCell<Vec<ManifestError>>,
    warnings: RefCell<Vec<ManifestError>>,
    unknown: Cell<usize>,
}

impl<'s> Report<'s> {
    pub(super) fn new(file: &'s str) -> Report<'s> {
        Report { file, errors: RefCell::default(), warnings: RefCell::default(), unknown: Cell::new(0) }
    }

    pub(super) fn syntax(&self, error: &SyntaxError) {
        self.errors.borrow_mut().push(self.entry(error.place, &error.field, &error.message));
    }

    /// Returns the number of mistakes so far: an object with none more after it than before is good.
    pub(super) fn mistakes(&self) -> usize {
        self.errors.borrow().len()
    }

    /// Returns the number of unknown fields so far, where they matter.
    pub(super) fn unknown(&self) -> usize {
        self.unknown.get()
    }

    /// Returns errors and warnings in the order of their places.
    pub(super) fn finish(self) -> (Vec<ManifestError>, Vec<ManifestError>) {
        let (mut errors, mut warnings) = (self.errors.into_inner(), self.warnings.into_inner());
        errors.sort();
        warnings.sort();
        (errors, warnings)
    }

    fn entry(&self, place: Place, field: &str, message: &str) -> ManifestError {
        let (field, message) = (one_line(field), one_line(message));
        ManifestError { file: self.file.to_owned(), line: place.line, column: place.column, field, message }
    }
}

#[derive(Debug)]
struct Path<'a> {
    parent: Option<Rc<Path<'a>>>,
    segment: Segment<'a>,
}

#[derive(Debug)]
enum Segment<'a> {
    Root,
    Field(&'a str),
    Index(usize),
}

impl Path<'_> {
    fn write(&self, out: &mut String) {
        if let Some(parent) = &self.parent {
            parent.write(out);
        }
        match &self.segment {
            Segment::Root => {}
            // Label keys have dots of their own, so they are set off.
            Segment::Field(name) if name.contains(['.', '/', '[']) => write!(out, "['{}']", short(name)).unwrap_or_default(),
            Segment::Field(name) => {
                out.push_str(if out.is_empty() { "" } else { "." });
                out.push_str(&short(name));
            }
            Segment::Index(index) => write!(out, "[{index}]").unwrap_or_default(),
        }
    }
}

/// A node with its path.
#[derive(Clone, Debug)]
pub(super) struct Cursor<'a> {
    node: &'a Node,
    path: Rc<Path<'a>>,
    report: &'a Report<'a>,
}

impl<'a> Cursor<'a> {
    pub(super) fn root(node: &'a Node, report: &'a Report<'a>) -> Cursor<'a> {
        Cursor { node, path: Rc::new(Path { parent: None, segment: Segment::Root }), report }
    }

    pub(super) fn report(&self) -> &'a Report<'a> {
        self.report
    }

    pub(super) fn location(&self) -> Location {
        Location { file: self.report.file.to_owned(), line: self.node.place.line }
    }

    pub(super) fn is_null(&self) -> bool {
        self.node.is_null()
    }

    pub(super) fn error(&self, message: impl Display) {
        self.report.errors.borrow_mut().push(self.entry(self.node.place, None, message));
    }

    pub(super) fn warn(&self, message: impl Display) {
        self.report.warnings.borrow_mut().push(self.entry(self.node.place, None, message));
    }

    fn entry(&self, place: Place, more: Option<&str>, message: impl Display) -> ManifestError {
        let mut field = String::new();
        self.path.write(&mut field);
        if let Some(name) = more {
            Path { parent: None, segment: Segment::Field(name) }.write(&mut field);
        }
        self.report.entry(place, &field, &message.to_string())
    }

    fn child(&self, node: &'a Node, segment: Segment<'a>) -> Cursor<'a> {
        Cursor { node, path: Rc::new(Path { parent: Some(self.path.clone()), segment }), report: self.report }
    }

    /// Reads a map; anything else is an error, and reads as an empty one.
    pub(super) fn object(&self) -> Object<'a> {
        let fields: &'a [Field] = match &self.node.value {
            Value::Map(fields) => fields,
            _ => {
                self.expected("a map");
                &[]
            }
        };
        Object { cursor: self.clone(), fields }
    }

    /// Reads a list; anything else is an error, and reads as an empty one.
    pub(super) fn items(&self) -> Vec<Cursor<'a>> {
        let Value::List(items) = &self.node.value else {
            self.expected("a list");
            return Vec::new();
        };
        items.iter().enumerate().map(|(index, node)| self.child(node, Segment::Index(index))).collect()
    }

    /// Reads a string. Numbers and booleans without quotes are errors, as the Kubernetes API server has them.
    pub(super) fn text(&self) -> Option<&'a str> {
        match &self.node.value {
            Value::Text(text) => Some(text),
            Value::Plain(text) if !self.is_null() => {
                if is_boolean(text) || is_number(text) {
                    let text = short(text);
                    self.error(format_args!("{text} is not a string here: write \"{text}\" in quotes"));
                    return None;
                }
                if is_old_scalar(text) {
                    let text = short(text);
                    self.warn(format_args!("other YAML readers do not take {text} for a string: write \"{text}\" in quotes"));
                }
                Some(text)
            }
            _ => {
                self.expected("a string");
                None
            }
        }
    }

    /// Reads a string as a `T`.
    pub(super) fn parse<T: FromStr<Err: Display>>(&self) -> Option<T> {
        self.text()?.parse().map_err(|error: T::Err| self.error(error)).ok()
    }

    /// Reads a whole number in `range`.
    pub(super) fn integer(&self, range: RangeInclusive<i64>) -> Option<i64> {
        let number = match &self.node.value {
            Value::Plain(text) if is_integer(text) => text.parse::<i64>().ok(),
            Value::Text(text) if is_integer(text) => {
                self.error(format_args!("a number must not be in quotes: write {}", short(text)));
                return None;
            }
            _ => {
                self.expected("a whole number");
                return None;
            }
        };
        let number = number.filter(|number| range.contains(number));
        if number.is_none() {
            self.error(format_args!("{} is out of range: {} to {} are allowed", self.shown(), range.start(), range.end()));
        }
        number
    }

    /// Reads a port number.
    pub(super) fn port(&self) -> Option<u16> {
        self.integer(1..=65535).and_then(|port| u16::try_from(port).ok())
    }

    /// Tells whether this is a number, rather than text (IntOrString).
    pub(super) fn is_integer(&self) -> bool {
        matches!(&self.node.value, Value::Plain(text) if is_integer(text))
    }

    pub(super) fn boolean(&self) -> Option<bool> {
        match &self.node.value {
            Value::Plain(text) => match text.as_str() {
                "true" | "True" | "TRUE" => return Some(true),
                "false" | "False" | "FALSE" => return Some(false),
                _ => {}
            },
            Value::Text(text) if is_boolean(text) => {
                self.error(format_args!("a boolean must not be in quotes: write {text}"));
                return None;
            }
            _ => {}
        }
        self.expected("true or false");
        None
    }

    pub(super) fn address(&self) -> Option<IpAddr> {
        let text = self.text()?;
        let address = text.parse().ok();
        if address.is_none() {
            self.error(format_args!("'{}' is not an IP address", short(text)));
        }
        address
    }

    /// Reads a CIDR; host bits are ignored.
    pub(super) fn prefix(&self) -> Option<Prefix> {
        let text = self.text()?;
        let digits = text.rsplit_once('/').is_some_and(|(_, len)| len.bytes().all(|byte| byte.is_ascii_digit()));
        let prefix = text.parse::<Prefix>().ok().filter(|_| digits);
        if prefix.is_none() {
            self.error(format_args!("'{}' is not a prefix such as 10.1.0.0/16 or fd00:1::/48", short(text)));
        }
        prefix
    }

    /// Reads one of a closed set of words.
    pub(super) fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        let found = words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
        if found.is_none() {
            let allowed: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            self.error(format_args!("'{}' is none of {}", short(text), allowed.join(", ")));
        }
        found
    }

    fn expected(&self, what: &str) {
        self.error(format_args!("expected {what}, found {}", self.shown()));
    }

    fn shown(&self) -> String {
        match &self.node.value {
            _ if self.is_null() => "nothing".into(),
            Value::Plain(text) => short(text),
            Value::Text(text) => format!("the string \"{}\"", short(text)),
            Value::List(_) => "a list".into(),
            Value::Map(_) => "a map".into(),
        }
    }
}

/// A map with its path.
#[derive(Clone, Debug)]
pub(super) struct Object<'a> {
    pub(super) cursor: Cursor<'a>,
    fields: &'a [Field],
}

impl<'a> Object<'a> {
    /// Returns a field; one that is `null` is missing.
    pub(super) fn get(&self, name: &str) -> Option<Cursor<'a>> {
        let field = self.fields.iter().find(|field| *field.key == *name && !field.value.is_null())?;
        Some(self.cursor.child(&field.value, Segment::Field(&field.key)))
    }

    /// Returns a field; it is an error where it is missing.
    pub(super) fn require(&self, name: &'static str) -> Option<Cursor<'a>> {
        let field = self.get(name);
        if field.is_none() {
            self.missing(name, "is missing");
        }
        field
    }

    /// Notes a mistake about a field that is not there.
    pub(super) fn missing(&self, name: &str, message: impl Display) {
        // A key without a value has a place of its own.
        let place = self.fields.iter().find(|field| *field.key == *name).map_or(self.cursor.node.place, |field| field.place);
        let entry = self.cursor.entry(place, Some(name), message);
        self.cursor.report.errors.borrow_mut().push(entry);
    }

    /// Returns every field, in the order of the text.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&'a str, Cursor<'a>)> + use<'a> {
        let cursor = self.cursor.clone();
        self.fields.iter().map(move |field| (field.key.as_ref(), cursor.child(&field.value, Segment::Field(&field.key))))
    }

    /// Returns the items of a list; none where it is missing.
    pub(super) fn items(&self, name: &str) -> Vec<Cursor<'a>> {
        self.get(name).map(|list| list.items()).unwrap_or_default()
    }

    pub(super) fn text(&self, name: &str) -> Option<&'a str> {
        self.get(name)?.text()
    }

    /// Tells whether the boolean `name` is there and `true`.
    pub(super) fn flag(&self, name: &str) -> bool {
        self.get(name).and_then(|cursor| cursor.boolean()).unwrap_or(false)
    }

    /// Warns of every field that is none of `known`, and counts them.
    pub(super) fn only(&self, known: &[&str]) {
        for field in self.unknown(known) {
            let entry =
                self.cursor.entry(field.place, Some(&field.key), format_args!("unknown field; known: {}", known.join(", ")));
            self.cursor.report.warnings.borrow_mut().push(entry);
            self.cursor.report.unknown.set(self.cursor.report.unknown.get() + 1);
        }
    }

    /// Notes every field that is none of `known` as a mistake.
    pub(super) fn exactly(&self, known: &[&str]) {
        for field in self.unknown(known) {
            let entry =
                self.cursor.entry(field.place, Some(&field.key), format_args!("unknown field; known: {}", known.join(", ")));
            self.cursor.report.errors.borrow_mut().push(entry);
        }
    }

    fn unknown<'k>(&self, known: &'k [&str]) -> impl Iterator<Item = &'a Field> + use<'a, 'k> {
        self.fields.iter().filter(|field| !known.contains(&field.key.as_ref()))
    }
}

fn is_boolean(text: &str) -> bool {
    matches!(text, "true" | "True" | "TRUE" | "false" | "False" | "FALSE")
}

fn is_integer(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits == "0" || (!digits.starts_with('0') && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()))
}

/// Tells whether every reader of YAML and JSON takes `text` for a number.
fn is_number(text: &str) -> bool {
    let mantissa = text.split(['e', 'E']).next().unwrap_or(text);
    let mut parts = mantissa.splitn(2, '.');
    let whole = parts.next().is_some_and(is_integer);
    let fraction = parts.next().is_none_or(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()));
    whole && fraction && text.parse::<f64>().is_ok()
}

/// Tells whether YAML 1.1, which Kubernetes' own reader follows, takes `text` for a boolean or a number.
fn is_old_scalar(text: &str) -> bool {
    let lower = text.to_ascii_lowercase();
    let bare = lower.trim_start_matches(['+', '-']).replace('_', "");
    matches!(lower.as_str(), "yes" | "no" | "on" | "off")
        || (bare.starts_with(|c: char| c.is_ascii_digit()) && bare.bytes().all(|byte| byte.is_ascii_digit()))
        || bare.strip_prefix("0x").is_some_and(|hex| !hex.is_empty() && hex.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

/// Bounds what a message repeats of a text.
pub(super) fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The length of a message, and of a field's path, in characters: many mistakes must not make much text out of a little.
const LONGEST: usize = 600;

/// Makes one line of bounded length of a message, whatever the text has that it repeats.
pub(super) fn one_line(text: &str) -> String {
    let bounded = text.chars().take(LONGEST);
    bounded.map(|c| if c.is_control() { ' ' } else { c }).collect()
}
