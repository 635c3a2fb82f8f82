//! Canonical prefixes and the longest-prefix map over them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use hashbrown::HashMap;
use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// An IPv4 or IPv6 prefix whose host bits are zero, so that equal sets of addresses are equal values.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix(IpNetwork);

/// Why a string is not a prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{text}' is not a prefix such as 10.1.0.0/16 or fd00:1::/48")]
pub struct PrefixError {
    /// The refused text.
    pub text: String,
}

impl Prefix {
    /// Makes the prefix of `len` bits that holds `address`; `None` when the family has fewer bits than that.
    pub fn new(address: IpAddr, len: u8) -> Option<Prefix> {
        IpNetwork::new(masked(address, len)?, len).ok().map(Prefix)
    }

    /// Makes the prefix that holds `address` alone.
    pub fn host(address: IpAddr) -> Prefix {
        Prefix(IpNetwork::from(address))
    }

    /// Returns the first address.
    pub fn address(self) -> IpAddr {
        self.0.ip()
    }

    /// Returns the number of leading bits that count.
    #[allow(clippy::len_without_is_empty, reason = "the length of a prefix is its mask's, not a number of elements")]
    pub fn len(self) -> u8 {
        self.0.prefix()
    }

    /// Returns the last address.
    pub fn last_address(self) -> IpAddr {
        match self.0 {
            IpNetwork::V4(network) => IpAddr::V4(network.broadcast()),
            IpNetwork::V6(network) => IpAddr::V6(network.broadcast()),
        }
    }

    /// Tells whether `address` is of this family and inside.
    pub fn contains(self, address: IpAddr) -> bool {
        self.0.contains(address)
    }

    /// Tells whether every address of `other` is inside.
    pub fn covers(self, other: Prefix) -> bool {
        self.len() <= other.len() && self.contains(other.address())
    }

    /// Tells whether some address is in both.
    pub fn overlaps(self, other: Prefix) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// Tells whether this is an IPv4 prefix.
    pub fn is_ipv4(self) -> bool {
        self.0.is_ipv4()
    }
}

/// Returns the first address of the prefix of `len` bits that holds `address`; `None` when the family has fewer bits than that.
fn masked(address: IpAddr, len: u8) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => {
            let host_bits = 32_u32.checked_sub(len.into())?;
            let mask = u32::MAX.checked_shl(host_bits).unwrap_or(0);
            Some(IpAddr::V4((u32::from(address) & mask).into()))
        }
        IpAddr::V6(address) => {
            let host_bits = 128_u32.checked_sub(len.into())?;
            let mask = u128::MAX.checked_shl(host_bits).unwrap_or(0);
            Some(IpAddr::V6((u128::from(address) & mask).into()))
        }
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    /// Reads `address/len`; host bits are ignored, and an address alone is not a prefix.
    fn from_str(text: &str) -> Result<Prefix, PrefixError> {
        let error = || PrefixError { text: text.chars().take(80).collect() };
        let (address, len) = text.split_once('/').ok_or_else(error)?;
        let (address, len) = (address.parse().map_err(|_| error())?, len.parse().map_err(|_| error())?);
        Prefix::new(address, len).ok_or_else(error)
    }
}

impl TryFrom<String> for Prefix {
    type Error = PrefixError;
    fn try_from(text: String) -> Result<Prefix, PrefixError> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> String {
        prefix.to_string()
    }
}

/// A map from prefixes to values that answers for an address with its longest prefix.
///
/// One hash table per length and family: a look-up costs one probe for each length in use, longest first.
#[derive(Clone, Debug)]
pub struct PrefixMap<V> {
    v4: BTreeMap<u8, Table<V>>,
    v6: BTreeMap<u8, Table<V>>,
}

type Table<V> = HashMap<IpAddr, V, foldhash::fast::RandomState>;

impl<V> PrefixMap<V> {
    /// Makes an empty map.
    pub fn new() -> PrefixMap<V> {
        PrefixMap { v4: BTreeMap::new(), v6: BTreeMap::new() }
    }

    /// Sets the value of `prefix`; returns the one it had.
    pub fn insert(&mut self, prefix: Prefix, value: V) -> Option<V> {
        self.family_mut(prefix.is_ipv4()).entry(prefix.len()).or_default().insert(prefix.address(), value)
    }

    /// Removes `prefix`; returns its value.
    pub fn remove(&mut self, prefix: Prefix) -> Option<V> {
        let family = self.family_mut(prefix.is_ipv4());
        let table = family.get_mut(&prefix.len())?;
        let value = table.remove(&prefix.address());
        if table.is_empty() {
            family.remove(&prefix.len());
        }
        value
    }

    /// Returns the value of exactly `prefix`.
    pub fn get(&self, prefix: Prefix) -> Option<&V> {
        self.family(prefix.is_ipv4()).get(&prefix.len())?.get(&prefix.address())
    }

    /// Returns the longest prefix that holds `address`, and its value.
    pub fn lookup(&self, address: IpAddr) -> Option<(Prefix, &V)> {
        self.family(address.is_ipv4()).iter().rev().find_map(|(len, table)| {
            let first = masked(address, *len)?;
            let value = table.get(&first)?;
            Prefix::new(first, *len).map(|prefix| (prefix, value))
        })
    }

    /// Returns every prefix with its value, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = (Prefix, &V)> {
        self.v4
            .iter()
            .chain(&self.v6)
            .flat_map(|(len, table)| table.iter().filter_map(|(address, value)| Some((Prefix::new(*address, *len)?, value))))
    }

    /// Tells whether there is no prefix.
    pub fn is_empty(&self) -> bool {
        self.v4.is_empty() && self.v6.is_empty()
    }

    fn family(&self, v4: bool) -> &BTreeMap<u8, Table<V>> {
        if v4 { &self.v4 } else { &self.v6 }
    }

    fn family_mut(&mut self, v4: bool) -> &mut BTreeMap<u8, Table<V>> {
        if v4 { &mut self.v4 } else { &mut self.v6 }
    }
}

/// Returns what `map` holds for the prefixes that have an address in common with `prefix`: those around it from the shortest on,
/// then itself and those inside, in their order. The cost is that of the look-ups around it and of what is found.
pub fn overlapping<V>(map: &BTreeMap<Prefix, V>, prefix: Prefix) -> impl Iterator<Item = (Prefix, &V)> {
    let around = (0..prefix.len()).filter_map(move |len| Prefix::new(prefix.address(), len));
    let around = around.filter_map(|around| Some((around, map.get(&around)?)));
    // In their order a prefix comes right before what it covers.
    around.chain(map.range(prefix..=Prefix::host(prefix.last_address())).map(|(inside, value)| (*inside, value)))
}

impl<V> Default for PrefixMap<V> {
    fn default() -> PrefixMap<V> {
        PrefixMap::new()
    }
}

impl<V> FromIterator<(Prefix, V)> for PrefixMap<V> {
    fn from_iter<I: IntoIterator<Item = (Prefix, V)>>(items: I) -> PrefixMap<V> {
        let mut map = PrefixMap::new();
        for (prefix, value) in items {
            map.insert(prefix, value);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_prefix() -> impl Strategy<Value = Prefix> {
        // Few distinct addresses, so that prefixes nest and collide.
        prop_oneof![
            (0u32..64, 0u8..=32).prop_map(|(bits, len)| Prefix::new(IpAddr::V4((bits << 26 | bits).into()), len).expect("v4")),
            (0u128..64, 0u8..=128).prop_map(|(bits, len)| Prefix::new(IpAddr::V6((bits << 122 | bits).into()), len).expect("v6")),
        ]
    }

    proptest! {
        #[test]
        fn lookup_equals_linear_scan(edits in prop::collection::vec((any_prefix(), any::<bool>()), 0..40), probes in prop::collection::vec(any_prefix(), 1..20)) {
            let mut map = PrefixMap::new();
            let mut model = BTreeMap::new();
            for (step, (prefix, insert)) in edits.into_iter().enumerate() {
                if insert {
                    prop_assert_eq!(map.insert(prefix, step), model.insert(prefix, step));
                } else {
                    prop_assert_eq!(map.remove(prefix), model.remove(&prefix));
                }
            }
            for address in probes.into_iter().map(Prefix::address) {
                let expected = model.iter().filter(|(p, _)| p.contains(address)).max_by_key(|(p, _)| p.len());
                prop_assert_eq!(map.lookup(address).map(|(p, v)| (p, *v)), expected.map(|(p, v)| (*p, *v)));
            }
            prop_assert_eq!(map.iter().map(|(p, v)| (p, *v)).collect::<BTreeMap<_, _>>(), model);
        }
    }

    proptest! {
        /// A prefix is the range of addresses from its first to its last.
        #[test]
        fn prefixes_are_ranges(one in any_prefix(), other in any_prefix()) {
            let range = |prefix: Prefix| (prefix.address(), prefix.last_address());
            let ((first, last), (start, end)) = (range(one), range(other));
            let same_family = one.is_ipv4() == other.is_ipv4();
            prop_assert_eq!(one.is_ipv4(), first.is_ipv4());
            prop_assert!(one.contains(first) && one.contains(last));
            prop_assert_eq!(one.contains(start), same_family && (first..=last).contains(&start));
            prop_assert_eq!(one.covers(other), same_family && first <= start && end <= last);
            prop_assert_eq!(one.overlaps(other), same_family && first <= end && start <= last);
            prop_assert_eq!(one.len() == other.len() && one.covers(other), one == other);

            let text = String::from(one);
            prop_assert_eq!(&text, &format!("{first}/{}", one.len()));
            prop_assert_eq!(&format!("{one:?}"), &text);
            prop_assert_eq!(Prefix::try_from(text), Ok(one));
        }
    }

    #[test]
    fn first_and_last_addresses_of_every_length() {
        let (v4, v6) = (IpAddr::from([255; 4]), IpAddr::from([255; 16]));
        for len in 0..=u8::MAX {
            let prefix = Prefix::new(v4, len);
            assert_eq!(prefix.is_some(), len <= 32);
            if let Some(prefix) = prefix {
                let ones = (0..u32::from(len)).fold(0, |bits, bit| bits | 1 << (31 - bit));
                assert_eq!((prefix.address(), prefix.last_address(), prefix.len()), (IpAddr::V4(ones.into()), v4, len));
            }
            let prefix = Prefix::new(v6, len);
            assert_eq!(prefix.is_some(), len <= 128);
            if let Some(prefix) = prefix {
                let ones = (0..u32::from(len)).fold(0, |bits, bit| bits | 1 << (127 - bit));
                assert_eq!((prefix.address(), prefix.last_address(), prefix.len()), (IpAddr::V6(ones.into()), v6, len));
            }
        }
        assert_eq!((Prefix::host(v4), Prefix::host(v6)), (Prefix::new(v4, 32).expect("v4"), Prefix::new(v6, 128).expect("v6")));
    }

    #[test]
    fn a_map_is_empty_when_its_last_prefix_of_either_family_is_gone() {
        for text in ["10.0.0.0/8", "fd00::/8"] {
            let prefix: Prefix = text.parse().expect("a prefix");
            let mut map: PrefixMap<u8> = [(prefix, 1)].into_iter().collect();
            assert!(!map.is_empty() && PrefixMap::<u8>::default().is_empty());
            assert_eq!((map.get(prefix), map.get("11.0.0.0/8".parse().expect("a prefix"))), (Some(&1), None));
            assert_eq!((map.insert(prefix, 2), map.remove(prefix), map.remove(prefix)), (Some(1), Some(2), None));
            assert!(map.is_empty() && map.v4.is_empty() && map.v6.is_empty(), "no length is probed in vain");
        }
    }

    #[test]
    fn host_bits_are_ignored_and_bare_addresses_refused() {
        assert_eq!("10.1.2.3/16".parse::<Prefix>().map(|p| p.to_string()), Ok("10.1.0.0/16".into()));
        for bad in ["10.1.2.3", "10.0.0.0/33", "::/129", "x/8", "10.0.0.0/+8x", "/"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }
}
