//! YAML as `kubectl` writes it, line by line: block style, two columns a level, list items at their key's column.

use std::fmt::{Display, Write};

use mesh_core::{Labels, Requirement, Selector};

/// A text that grows by lines.
pub(crate) struct Yaml<'t>(&'t mut String);

impl Yaml<'_> {
    pub(crate) fn new(text: &mut String) -> Yaml<'_> {
        Yaml(text)
    }

    /// Writes a line that begins at a column.
    pub(crate) fn line(&mut self, column: usize, content: impl Display) {
        writeln!(self.0, "{:column$}{content}", "").expect("a String takes everything");
    }

    /// Writes what every object begins with: kind and metadata, with namespace and name.
    pub(crate) fn object(&mut self, version: &str, kind: &str, id: (Option<&str>, &str), labels: Option<&Labels>) {
        let (namespace, name) = id;
        self.line(0, format_args!("apiVersion: {version}\nkind: {kind}\nmetadata:"));
        self.line(2, "creationTimestamp: \"2026-03-01T08:00:00Z\"");
        if let Some(labels) = labels.filter(|labels| !labels.is_empty()) {
            self.line(2, "labels:");
            for (key, value) in labels.iter() {
                self.line(4, format_args!("{key}: {}", quoted(value)));
            }
        }
        self.line(2, format_args!("name: {name}"));
        if let Some(namespace) = namespace {
            self.line(2, format_args!("namespace: {namespace}"));
        }
        let bits = name.bytes().fold(7_u64, |hash, byte| hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte));
        self.line(2, format_args!("resourceVersion: \"{}\"", bits % 100_000_000));
        self.line(2, format_args!("uid: {:08x}-6c1f-4a57-9d0e-{:012x}", bits >> 32, bits & 0xffff_ffff_ffff));
    }

    /// Writes a field that is a selector.
    pub(crate) fn selector(&mut self, column: usize, key: &str, selector: &Selector) {
        if selector.requirements.is_empty() {
            return self.line(column, format_args!("{key}: {{}}"));
        }
        self.line(column, format_args!("{key}:"));
        let equal = |requirement: &&Requirement| matches!(requirement, Requirement::In(_, values) if values.len() == 1);
        if !selector.requirements.iter().all(|requirement| equal(&requirement)) {
            self.line(column + 2, "matchExpressions:");
        }
        for requirement in selector.requirements.iter().filter(|requirement| !equal(requirement)) {
            let (key, operator, values): (_, _, &[_]) = match requirement {
                Requirement::In(key, values) => (key, "In", values),
                Requirement::NotIn(key, values) => (key, "NotIn", values),
                Requirement::Exists(key) => (key, "Exists", &[]),
                Requirement::DoesNotExist(key) => (key, "DoesNotExist", &[]),
            };
            self.line(column + 2, format_args!("- key: {key}\n{:indent$}operator: {operator}", "", indent = column + 4));
            if !values.is_empty() {
                self.line(column + 4, "values:");
            }
            values.iter().for_each(|value| self.line(column + 4, format_args!("- {}", quoted(value))));
        }
        if selector.requirements.iter().any(|requirement| equal(&requirement)) {
            self.line(column + 2, "matchLabels:");
        }
        for requirement in selector.requirements.iter().filter(equal) {
            if let Requirement::In(key, values) = requirement {
                self.line(column + 4, format_args!("{key}: {}", quoted(&values[0])));
            }
        }
    }
}

/// Puts quotes around what a reader could take for a number.
fn quoted(text: &str) -> String {
    if text.starts_with(|first: char| first.is_ascii_digit()) { format!("\"{text}\"") } else { text.to_owned() }
}
