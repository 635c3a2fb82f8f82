//! Reverse names: from the question's name to an address, and whose an address is.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use super::Area;

/// The names that an address has: each with its zone, those of the own cluster first, then in order.
///
/// One block of bytes, as there are as many of these as addresses: for each name which zone, its length, and its labels in
/// front of `svc` and the zone's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owners(Arc<[u8]>);

impl Owners {
    /// Returns the owners with some more and without some, each once; `None` where nobody is left.
    pub(super) fn edit<'a>(
        before: Option<&'a Owners>,
        without: &[(Area, Box<[u8]>)],
        with: &'a [(Area, Box<[u8]>)],
    ) -> Option<Owners> {
        let kept = before.into_iter().flat_map(Owners::iter);
        let without: std::collections::BTreeSet<(Area, &[u8])> = without.iter().map(|(area, name)| (*area, &**name)).collect();
        let kept = kept.filter(|owner| !without.contains(owner));
        let mut owners: Vec<(Area, &[u8])> = kept.chain(with.iter().map(|(area, name)| (*area, &**name))).collect();
        owners.sort_unstable();
        owners.dedup();
        let mut bytes = Vec::with_capacity(owners.iter().map(|(_, name)| name.len() + 2).sum());
        for (area, name) in &owners {
            bytes.extend([u8::from(*area == Area::Clusterset), u8::try_from(name.len()).expect("a name has at most 255 bytes")]);
            bytes.extend_from_slice(name);
        }
        (!owners.is_empty()).then(|| Owners(bytes.into()))
    }

    /// Returns the zone and the labels of each name.
    pub(super) fn iter(&self) -> Names<'_> {
        Names(&self.0)
    }
}

/// The names of an address.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Names<'a>(&'a [u8]);

impl<'a> Iterator for Names<'a> {
    type Item = (Area, &'a [u8]);

    fn next(&mut self) -> Option<(Area, &'a [u8])> {
        let (&[area, len], rest) = self.0.split_first_chunk()?;
        let (name, rest) = rest.split_at(len.into());
        self.0 = rest;
        Some((if area == 0 { Area::Cluster } else { Area::Clusterset }, name))
    }
}

/// Reads the name under `in-addr.arpa` or `ip6.arpa` of an address (RFC 1035 §3.5, RFC 3596 §2.5), in canonical wire form.
pub(super) fn parse(wire: &[u8]) -> Option<IpAddr> {
    const V4: &[u8] = b"\x07in-addr\x04arpa\x00";
    const V6: &[u8] = b"\x03ip6\x04arpa\x00";
    if let Some(mut labels) = wire.strip_suffix(V4) {
        let mut octets = [0; 4];
        for octet in octets.iter_mut().rev() {
            let (len, rest) = labels.split_first()?;
            let (digits, rest) = rest.split_at_checked((*len).into())?;
            *octet = decimal(digits)?;
            labels = rest;
        }
        return labels.is_empty().then(|| Ipv4Addr::from(octets).into());
    }
    let labels = wire.strip_suffix(V6).filter(|labels| labels.len() == 64)?;
    let mut bits = 0u128;
    for (label, place) in labels.chunks_exact(2).zip((0..128).step_by(4)) {
        let nibble = match label {
            [1, digit @ b'0'..=b'9'] => digit - b'0',
            [1, digit @ b'a'..=b'f'] => digit - b'a' + 10,
            _ => return None,
        };
        bits |= u128::from(nibble) << place;
    }
    Some(Ipv6Addr::from(bits).into())
}

/// Reads an octet as it is written: no leading zeros.
fn decimal(digits: &[u8]) -> Option<u8> {
    match *digits {
        [only @ b'0'..=b'9'] => Some(only - b'0'),
        [b'1'..=b'9', ..] if digits.len() <= 3 => std::str::from_utf8(digits).ok()?.parse().ok(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name;

    #[test]
    fn reverse_names_are_read_as_they_are_written() {
        for text in ["0.0.0.0", "192.0.2.7", "255.255.255.255", "10.100.9.99", "::", "2001:db8::1", "fd00:a:b:c:d:e:f:1"] {
            let address: IpAddr = text.parse().expect("an address");
            assert_eq!(parse(name::reverse(address).as_slice()), Some(address), "{text}");
        }
        for bad in [
            "07.2.0.192.in-addr.arpa",
            "256.2.0.192.in-addr.arpa",
            "2.0.192.in-addr.arpa",
            "1.7.2.0.192.in-addr.arpa",
            "+1.2.0.192.in-addr.arpa",
        ] {
            assert_eq!(parse(name::parse(bad).expect("a name").as_slice()), None, "{bad}");
        }
        for bad in ["in-addr.arpa", "ip6.arpa", "1.ip6.arpa", "a.in-addr.arpa", "x.y", &format!("{}ip6.arpa", "g.".repeat(32))] {
            assert_eq!(parse(name::parse(bad).expect("a name").as_slice()), None, "{bad}");
        }
    }

    #[test]
    fn owners_come_and_go() {
        let owner = |area, name: &str| (area, name.as_bytes().into());
        let (own, fleet) = (owner(Area::Cluster, "b"), owner(Area::Clusterset, "a"));
        let both = Owners::edit(None, &[], &[fleet.clone(), own.clone(), fleet.clone()]).expect("two");
        assert_eq!(both.iter().collect::<Vec<_>>(), [(Area::Cluster, &b"b"[..]), (Area::Clusterset, &b"a"[..])]);
        let one = Owners::edit(Some(&both), std::slice::from_ref(&own), &[]).expect("one");
        assert_eq!(one.iter().collect::<Vec<_>>(), [(Area::Clusterset, &b"a"[..])]);
        assert_eq!(Owners::edit(Some(&one), &[own, fleet], &[]), None);
    }
}
