//! Netlink's wire form: messages of attributes, written by hand where no crate knows the attribute.

/// Nested attributes carry this flag in their type.
pub(crate) const NESTED: u16 = 0x8000;

/// Attributes being written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Attributes(Vec<u8>);

impl Attributes {
    /// Adds an attribute of bytes.
    pub(crate) fn bytes(&mut self, kind: u16, value: &[u8]) -> &mut Attributes {
        let len = u16::try_from(value.len() + 4).expect("an attribute is shorter than 64 KiB");
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// Adds a text with its terminating zero.
    pub(crate) fn text(&mut self, kind: u16, value: &str) -> &mut Attributes {
        self.bytes(kind, &[value.as_bytes(), &[0]].concat())
    }

    /// Adds a number in network byte order, as all of netfilter's are.
    pub(crate) fn number(&mut self, kind: u16, value: u32) -> &mut Attributes {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Adds an attribute of attributes.
    pub(crate) fn nested(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes) -> &mut Attributes) -> &mut Attributes {
        let mut inner = Attributes::default();
        fill(&mut inner);
        self.bytes(kind | NESTED, &inner.0)
    }

    /// Returns the length so far.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Appends a message: header, the family's own header, attributes.
pub(crate) fn push_message(to: &mut Vec<u8>, kind: u16, flags: u16, sequence: u32, body: [&[u8]; 2]) {
    let len = 16 + body[0].len() + body[1].len();
    to.extend_from_slice(&u32::try_from(len).expect("a message is shorter than 4 GiB").to_ne_bytes());
    to.extend_from_slice(&kind.to_ne_bytes());
    to.extend_from_slice(&flags.to_ne_bytes());
    to.extend_from_slice(&sequence.to_ne_bytes());
    to.extend_from_slice(&[0; 4]);
    to.extend_from_slice(body[0]);
    to.extend_from_slice(body[1]);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// Takes the next message off `rest`: its type, its sequence number, and what follows the header.
pub(crate) fn next_message<'a>(rest: &mut &'a [u8]) -> Option<(u16, u32, &'a [u8])> {
    let len = u32::from_ne_bytes(rest.get(..4)?.try_into().ok()?) as usize;
    let kind = u16::from_ne_bytes(rest.get(4..6)?.try_into().ok()?);
    let sequence = u32::from_ne_bytes(rest.get(8..12)?.try_into().ok()?);
    let body = rest.get(16..len)?;
    *rest = rest.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, sequence, body))
}

/// Returns the positive error number of an error message; zero for an acknowledgement.
pub(crate) fn errno(body: &[u8]) -> i32 {
    let code = body.get(..4).and_then(|code| code.try_into().ok()).map_or(0, i32::from_ne_bytes);
    code.checked_neg().unwrap_or(i32::MAX)
}

/// Returns the value of the first attribute of `kind`.
pub(crate) fn find(attributes: &[u8], kind: u16) -> Option<&[u8]> {
    all(attributes).find(|(found, _)| *found == kind).map(|(_, value)| value)
}

/// Returns the attributes with their kinds, up to one that makes no sense.
pub(crate) fn all(mut attributes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (header, _) = attributes.split_first_chunk::<4>()?;
        let len = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & !(NESTED | 0x4000);
        let value = attributes.get(4..len)?;
        attributes = attributes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_written_is_found() {
        let mut attributes = Attributes::default();
        attributes.text(1, "landbridge").nested(2, |inner| inner.number(1, 7).bytes(2, &[9]));
        assert_eq!(find(attributes.as_bytes(), 1), Some(&b"landbridge\0"[..]));
        let inner = find(attributes.as_bytes(), 2).unwrap();
        assert_eq!((find(inner, 1), find(inner, 2), find(inner, 3)), (Some(&[0, 0, 0, 7][..]), Some(&[9][..]), None));
    }

    proptest! {
        #[test]
        fn random_bytes_end(bytes in prop::collection::vec(any::<u8>(), 0..200), kind in any::<u16>()) {
            let _ = find(&bytes, kind);
            let mut rest = &bytes[..];
            let mut before = usize::MAX;
            while next_message(&mut rest).is_some() {
                prop_assert!(rest.len() < before);
                before = rest.len();
            }
            let _ = errno(&bytes);
        }
    }
}
