//! Words for keys and values, and the rules of the Kubernetes API for them in other words than the reader's.

use libfuzzer_sys::arbitrary::{Result, Unstructured};

/// Keys and values that mean something somewhere, so that labels and selectors meet.
const WORDS: &[&str] = &[
    "app",
    "tier",
    "web",
    "db",
    "",
    "true",
    "null",
    "~",
    "0x1f",
    "yes",
    "1e3",
    "<<",
    "a.b/c",
    "/x",
    "-a",
    "east",
    "west",
    "us",
    "cluster-mesh.io/cluster",
    "cluster-mesh.io/region",
    "cluster-mesh.io/service-account",
    "cluster-mesh.io/",
    "kubernetes.io/metadata.name",
    "shop",
    "exactly-63-characters-are-as-many-as-a-name-or-a-value-may-have",
    "exactly-64-characters-are-more-than-a-name-or-a-value-may-have-x",
];

/// Takes one of the words, or any short text.
pub(super) fn word(u: &mut Unstructured<'_>) -> Result<String> {
    let index = usize::from(u.arbitrary::<u8>()?);
    match WORDS.get(index % (WORDS.len() + 4)) {
        Some(word) => Ok((*word).to_owned()),
        None => {
            let len = u.int_in_range(0..=66)?;
            let bytes = u.bytes(u.len().min(len))?;
            Ok(String::from_utf8_lossy(bytes).into_owned())
        }
    }
}

/// Tells whether `text` is a label's key: a name, with a DNS subdomain and a slash before it or not.
pub(super) fn is_key(text: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    match parts[..] {
        [name] => !name.is_empty() && is_value(name),
        [domain, name] => !name.is_empty() && is_value(name) && is_domain(domain),
        _ => false,
    }
}

fn is_domain(text: &str) -> bool {
    let letter = |c: char| c.is_ascii_digit() || c.is_ascii_lowercase();
    let part = |part: &str| {
        !part.is_empty() && !part.starts_with('-') && !part.ends_with('-') && part.chars().all(|c| letter(c) || c == '-')
    };
    text.len() <= 253 && text.split('.').all(part)
}

/// Tells whether `text` is a label's value.
pub(super) fn is_value(text: &str) -> bool {
    let ends = text.chars().next().into_iter().chain(text.chars().last());
    text.len() < 64
        && ends.into_iter().all(|c| c.is_ascii_alphanumeric())
        && !text.contains(|c: char| !c.is_ascii_alphanumeric() && !"-_.".contains(c))
}

/// Writes `text` as YAML that can be taken for nothing else: plain where that is safe, in quotes of one kind or the other.
pub(super) fn quoted(text: &str) -> String {
    let reserved = ["true", "false", "null"].iter().any(|word| text.eq_ignore_ascii_case(word));
    let letters = text.chars().all(|c| c.is_ascii_alphanumeric());
    if letters && text.starts_with(|c: char| c.is_ascii_alphabetic()) && !reserved {
        return text.to_owned();
    }
    if text.len() % 2 == 0 && text.chars().all(|c| c.is_ascii_graphic()) {
        return format!("'{}'", text.replace('\'', "''"));
    }
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_ascii_graphic() || c == ' ' => out.push(c),
            c => out.push_str(&format!("\\U{:08X}", u32::from(c))),
        }
    }
    out.push('"');
    out
}
