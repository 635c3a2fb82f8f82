//! The longest prefix of an address, by one search among ranges that do not overlap.

use std::net::IpAddr;

use mesh_core::Prefix;

/// Values of prefixes, flattened to ranges of addresses: made once, then read.
///
/// A look-up is a binary search; where there are many ranges, it begins in the slice of those that share the address's first
/// bits.
#[derive(Clone, Debug)]
pub(crate) struct Ranges<V> {
    v4: Family<V>,
    v6: Family<V>,
}

/// The bits that choose a slice.
const INDEX_BITS: u32 = 12;
/// Below this many ranges the index would be larger than what it saves.
const MIN_INDEXED: usize = 64;

#[derive(Clone, Debug)]
struct Family<V> {
    /// The first address of each range, ascending; the first range begins at zero. IPv4 addresses are the upper 32 of 128 bits.
    starts: Box<[u128]>,
    values: Box<[Option<V>]>,
    /// For each value of the first bits, how many ranges begin before it.
    index: Box<[u32]>,
}

impl<V> Default for Ranges<V> {
    fn default() -> Ranges<V> {
        Ranges { v4: Family::none(), v6: Family::none() }
    }
}

impl<V> Family<V> {
    fn none() -> Family<V> {
        Family { starts: Box::default(), values: Box::default(), index: Box::default() }
    }
}

impl<V: Clone + PartialEq> Ranges<V> {
    /// Flattens `prefixes`, in which none is twice.
    pub(crate) fn new(prefixes: impl IntoIterator<Item = (Prefix, V)>) -> Ranges<V> {
        let (v4, v6): (Vec<_>, Vec<_>) = prefixes.into_iter().partition(|(prefix, _)| prefix.is_ipv4());
        Ranges { v4: Family::new(v4), v6: Family::new(v6) }
    }
}

impl<V> Ranges<V> {
    /// Returns the value of the longest prefix that holds `address`.
    #[inline]
    pub(crate) fn lookup(&self, address: IpAddr) -> Option<&V> {
        let family = if address.is_ipv4() { &self.v4 } else { &self.v6 };
        if family.starts.is_empty() {
            return None;
        }
        let at = bits(address);
        let (first, end) = match family.index.as_ref() {
            [] => (0, family.starts.len()),
            index => {
                let slice = usize::try_from(at >> (128 - INDEX_BITS)).expect("few bits");
                (index[slice] as usize, index[slice + 1] as usize)
            }
        };
        let range = first + family.starts[first..end].partition_point(|start| *start <= at);
        family.values[range - 1].as_ref()
    }

    /// Returns the value of each range that has one.
    pub(crate) fn values(&self) -> impl Iterator<Item = &V> {
        self.v4.values.iter().chain(&*self.v6.values).flatten()
    }

    /// Returns the first address of every range, with a value or without.
    pub(crate) fn starts(&self) -> impl Iterator<Item = IpAddr> {
        let v6 = self.v6.starts.iter().map(|start| address(*start, false));
        self.v4.starts.iter().map(|start| address(*start, true)).chain(v6)
    }

    /// Replaces every value by `f` of it.
    pub(crate) fn map<W>(&self, mut f: impl FnMut(&V) -> W) -> Ranges<W> {
        let mut family = |family: &Family<V>| Family {
            starts: family.starts.clone(),
            values: family.values.iter().map(|value| value.as_ref().map(&mut f)).collect(),
            index: family.index.clone(),
        };
        Ranges { v4: family(&self.v4), v6: family(&self.v6) }
    }

    /// Returns the first address of every range that has a value, with the value.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (IpAddr, &V)> {
        let of = |v4: bool| {
            let family = if v4 { &self.v4 } else { &self.v6 };
            let pairs = family.starts.iter().zip(&*family.values);
            pairs.filter_map(move |(start, value)| Some((address(*start, v4), value.as_ref()?)))
        };
        of(true).chain(of(false))
    }
}

impl<V: Clone + PartialEq> Family<V> {
    fn new(mut prefixes: Vec<(Prefix, V)>) -> Family<V> {
        if prefixes.is_empty() {
            return Family::none();
        }
        // Outer prefixes come before what is inside them.
        prefixes.sort_unstable_by_key(|(prefix, _)| (prefix.address(), prefix.len()));
        let mut ranges: Vec<(u128, Option<V>)> = vec![(0, None)];
        let mut begin = |start: u128, value: Option<V>| {
            if ranges.last().is_some_and(|(last, _)| *last == start) {
                ranges.pop();
            }
            if ranges.last().is_none_or(|(_, last)| *last != value) {
                ranges.push((start, value));
            }
        };
        // The prefixes around the present place, by their last addresses.
        let mut around: Vec<(u128, V)> = Vec::new();
        let end = |around: &mut Vec<(u128, V)>, before: Option<u128>, begin: &mut dyn FnMut(u128, Option<V>)| {
            while let Some((last, _)) = around.last() {
                let last = *last;
                if before.is_some_and(|before| last >= before) {
                    break;
                }
                around.pop();
                if let Some(next) = last.checked_add(1) {
                    begin(next, around.last().map(|(_, value)| value.clone()));
                }
            }
        };
        for (prefix, value) in prefixes {
            let first = bits(prefix.address());
            end(&mut around, Some(first), &mut begin);
            begin(first, Some(value.clone()));
            around.push((first | (u128::MAX.checked_shr(u32::from(prefix.len())).unwrap_or(0)), value));
        }
        end(&mut around, None, &mut begin);
        let (starts, values): (Vec<u128>, Vec<Option<V>>) = ranges.into_iter().unzip();
        Family { index: index(&starts), starts: starts.into(), values: values.into() }
    }
}

/// Returns, for each value of the first bits, how many of `starts` are below it; the range that holds the slice's first address
/// is part of the slice.
fn index(starts: &[u128]) -> Box<[u32]> {
    if starts.len() < MIN_INDEXED {
        return Box::default();
    }
    let below = |slice: u32| match u128::from(slice) << (128 - INDEX_BITS) {
        _ if slice == 1 << INDEX_BITS => starts.len(),
        first => starts.partition_point(|start| *start <= first),
    };
    // `below` counts the range that holds the first address itself; it begins at or before it.
    (0..=1u32 << INDEX_BITS).map(|slice| u32::try_from(below(slice)).expect("fewer ranges than a u32 counts")).collect()
}

/// Returns an address as the upper bits of 128.
fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u128::from(address.to_bits()) << 96,
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address(bits: u128, v4: bool) -> IpAddr {
    if v4 { IpAddr::V4(u32::try_from(bits >> 96).expect("32 bits").into()) } else { IpAddr::V6(bits.into()) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn any_prefix() -> impl Strategy<Value = Prefix> {
        prop_oneof![
            (any::<u32>(), 0u8..=32)
                .prop_map(|(bits, len)| Prefix::new(IpAddr::V4((bits & 0xe003_8007).into()), len).expect("v4")),
            (any::<u128>(), 0u8..=128)
                .prop_map(|(bits, len)| Prefix::new(IpAddr::V6((bits & (0xe003 << 112 | 7)).into()), len).expect("v6")),
        ]
    }

    proptest! {
        #[test]
        fn lookup_equals_linear_scan(
            prefixes in proptest::collection::btree_map(any_prefix(), 0u8..4, 0..150),
            probes in proptest::collection::vec(any_prefix(), 1..50),
        ) {
            let ranges = Ranges::new(prefixes.clone());
            let ends = prefixes.keys().chain(&probes).flat_map(|prefix| [prefix.address(), prefix.last_address()]);
            let beside = |address: IpAddr| match address {
                IpAddr::V4(address) => vec![IpAddr::V4(address.to_bits().wrapping_add(1).into()), IpAddr::V4(address.to_bits().wrapping_sub(1).into())],
                IpAddr::V6(address) => vec![IpAddr::V6(address.to_bits().wrapping_add(1).into()), IpAddr::V6(address.to_bits().wrapping_sub(1).into())],
            };
            for address in ends.flat_map(|address| beside(address).into_iter().chain([address])) {
                let expected = prefixes.iter().filter(|(prefix, _)| prefix.contains(address)).max_by_key(|(prefix, _)| prefix.len());
                prop_assert_eq!(ranges.lookup(address), expected.map(|(_, value)| value), "{}", address);
            }
            let found: BTreeMap<IpAddr, u8> = ranges.iter().map(|(address, value)| (address, *value)).collect();
            prop_assert!(found.iter().all(|(address, value)| ranges.lookup(*address) == Some(value)));
            prop_assert_eq!(ranges.values().count(), found.len());
        }
    }
}
