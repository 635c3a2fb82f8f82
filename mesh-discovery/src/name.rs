//! DNS names put together from labels.

use std::fmt::{self, Write};
use std::net::IpAddr;

use domain::base::Name;
use mesh_core::Bytes;

/// An absolute name in canonical form: lower case, uncompressed.
pub(crate) type DnsName = Name<Bytes>;

/// Puts `labels` in front of `suffix`; `None` where DNS has no such name (a label of 0 or over 63 bytes, 255 bytes in all).
pub(crate) fn join(labels: &[&str], suffix: &DnsName) -> Option<DnsName> {
    let mut wire = Vec::with_capacity(labels.iter().map(|label| label.len() + 1).sum::<usize>() + suffix.as_slice().len());
    for label in labels {
        let len = u8::try_from(label.len()).ok().filter(|len| (1..=63).contains(len))?;
        wire.push(len);
        wire.extend(label.bytes().map(|byte| byte.to_ascii_lowercase()));
    }
    wire.extend_from_slice(suffix.as_slice());
    Name::from_octets(Bytes::from(wire)).ok()
}

/// Reads a name as people write it, with or without the final dot; `None` where it is not one.
pub(crate) fn parse(text: &str) -> Option<DnsName> {
    let name: Name<Vec<u8>> = text.parse().ok().filter(|_| !text.is_empty() && text.is_ascii())?;
    let lower: Vec<u8> = name.as_slice().to_ascii_lowercase();
    Name::from_octets(Bytes::from(lower)).ok()
}

/// Adds a label of at most 63 bytes in wire form, in lower case.
pub(crate) fn push_label(wire: &mut Vec<u8>, label: &[u8]) {
    wire.push(u8::try_from(label.len()).expect("labels have at most 63 bytes"));
    wire.extend(label.iter().map(u8::to_ascii_lowercase));
}

/// A label of at most 63 bytes, in place.
#[derive(Clone, Copy)]
pub(crate) struct Label {
    bytes: [u8; 63],
    len: u8,
}

impl Label {
    /// Returns what `value` is written as, cut where it is longer than a label.
    pub(crate) fn of(value: impl fmt::Display) -> Label {
        let mut label = Label { bytes: [0; 63], len: 0 };
        let _ = write!(label, "{value}");
        label
    }

    /// Returns the label of an endpoint: its hostname where that is one DNS label, else its address with dashes.
    pub(crate) fn of_host(hostname: Option<&str>, address: IpAddr) -> Label {
        let is_label = |name: &&str| {
            let inner = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            (1..=63).contains(&name.len()) && inner && !name.starts_with('-') && !name.ends_with('-')
        };
        match hostname.filter(is_label) {
            Some(hostname) => Label::of(hostname),
            None => Label::of(address),
        }
    }
}

impl std::ops::Deref for Label {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len.into()]
    }
}

impl Write for Label {
    /// Adds `text` in lower case, with dashes for what separates the parts of an address.
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            let place = self.bytes.get_mut(usize::from(self.len)).ok_or(fmt::Error)?;
            *place = if matches!(byte, b'.' | b':') { b'-' } else { byte.to_ascii_lowercase() };
            self.len += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
/// Returns the name under `in-addr.arpa` or `ip6.arpa` for `address` (RFC 1035 §3.5, RFC 3596 §2.5).
pub(crate) fn reverse(address: IpAddr) -> DnsName {
    let labels: Vec<String> = match address {
        IpAddr::V4(address) => address.octets().iter().rev().map(u8::to_string).collect(),
        IpAddr::V6(address) => {
            address.octets().iter().rev().flat_map(|byte| [format!("{:x}", byte & 15), format!("{:x}", byte >> 4)]).collect()
        }
    };
    let labels: Vec<&str> = labels.iter().map(String::as_str).collect();
    let suffix = if address.is_ipv4() { "in-addr.arpa" } else { "ip6.arpa" };
    parse(suffix).and_then(|suffix| join(&labels, &suffix)).expect("32 nibbles and a suffix are within 255 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_called_by_hostname_or_dashed_address() {
        let address = "10.1.0.5".parse().expect("an address");
        assert_eq!(*Label::of_host(Some("Web-0"), address), *b"web-0");
        for bad in ["a.b", "", "-a", "a_b", &"x".repeat(64)] {
            assert_eq!(*Label::of_host(Some(bad), address), *b"10-1-0-5", "{bad}");
        }
        assert_eq!(*Label::of_host(Some(&"x".repeat(63)), address), [b'x'; 63]);
        for (text, label) in [("fd00::5", "fd00--5"), ("::ffff:192.0.2.1", "--ffff-192-0-2-1")] {
            assert_eq!(*Label::of_host(None, text.parse().expect("an address")), *label.as_bytes());
        }
    }

    #[test]
    fn reverse_names_are_those_of_the_rfcs() {
        assert_eq!(reverse("192.0.2.7".parse().expect("v4")).to_string(), "7.2.0.192.in-addr.arpa");
        let v6 = reverse("2001:db8::1".parse().expect("v6")).to_string();
        assert!(v6.starts_with("1.0.0.0.") && v6.ends_with("8.b.d.0.1.0.0.2.ip6.arpa"), "{v6}");
    }

    #[test]
    fn names_that_dns_does_not_have_are_refused() {
        for bad in ["", "a..b", ".a", "ä.local", &"a".repeat(64), &"a.".repeat(130)] {
            assert_eq!(parse(bad), None, "{bad}");
        }
        assert_eq!(parse("Web.Prod").map(|name| name.to_string()), parse("web.prod.").map(|name| name.to_string()));
    }
}
