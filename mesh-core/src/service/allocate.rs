//! Clusterset addresses out of a range: the same service gets the same address wherever it can.

use std::net::IpAddr;

use sha2::{Digest, Sha256};

use crate::{Prefix, ServiceId};

/// Returns the address for `id` in `range` that is not taken; `None` when there is none left. `taken` says how many addresses
/// are taken at most, and whether one is.
///
/// The search begins at a hash of the service's name and goes on address by address, so that an address depends on little but
/// the name. The first address of a range (network, or IPv6's subnet-router anycast) and the last (IPv4's broadcast) are nobody's.
pub fn allocate(range: Prefix, taken: (usize, impl Fn(&IpAddr) -> bool), id: &ServiceId) -> Option<IpAddr> {
    let (count, is_taken) = taken;
    let (first, last) = (bits(range.address()), bits(range.last_address()));
    let usable = (last - first).checked_sub(1).filter(|usable| *usable > 0)?;
    let digest: [u8; 32] = Sha256::digest(id.to_string().as_bytes()).into();
    let hash = digest.iter().take(16).fold(0u128, |hash, byte| hash << 8 | u128::from(*byte));
    // Among one more candidate than there are taken addresses, one is free.
    let probes = usable.min(count as u128 + 1);
    let start = hash % usable;
    let candidate = |step: u128| {
        let offset = if step < usable - start { start + step } else { step - (usable - start) };
        address(first + 1 + offset, range.is_ipv4())
    };
    (0..probes).map(candidate).find(|address| !is_taken(address))
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn address(bits: u128, v4: bool) -> IpAddr {
    if v4 { IpAddr::V4((bits as u32).into()) } else { IpAddr::V6(bits.into()) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn allocate(range: Prefix, taken: &BTreeSet<IpAddr>, id: &ServiceId) -> Option<IpAddr> {
        super::allocate(range, (taken.len(), |address: &IpAddr| taken.contains(address)), id)
    }

    fn id(name: &str) -> ServiceId {
        format!("shop/{name}").parse().expect("a service")
    }

    #[test]
    fn a_small_range_is_used_up_without_its_edges() {
        let range: Prefix = "100.80.0.0/29".parse().expect("a prefix");
        let mut taken = BTreeSet::new();
        for step in 0..6 {
            let address = allocate(range, &taken, &id(&format!("s{step}"))).expect("room for six");
            assert!(range.contains(address) && address != range.address() && address != range.last_address(), "{address}");
            assert!(taken.insert(address), "{address} was given twice");
        }
        assert_eq!(allocate(range, &taken, &id("s7")), None);
    }

    #[test]
    fn the_address_depends_on_the_name_until_it_is_taken() {
        let range: Prefix = "fd00:80::/112".parse().expect("a prefix");
        let first = allocate(range, &BTreeSet::new(), &id("db")).expect("room");
        assert_eq!(allocate(range, &BTreeSet::new(), &id("db")), Some(first));
        assert_ne!(allocate(range, &BTreeSet::new(), &id("web")), Some(first));
        assert_ne!(allocate(range, &BTreeSet::from([first]), &id("db")), Some(first));
    }

    #[test]
    fn a_range_without_room_and_the_widest_range_are_no_trouble() {
        for narrow in ["10.0.0.0/31", "10.0.0.0/32", "fd00::/127", "fd00::/128"] {
            assert_eq!(allocate(narrow.parse().expect("a prefix"), &BTreeSet::new(), &id("db")), None, "{narrow}");
        }
        assert!(allocate("::/0".parse().expect("a prefix"), &BTreeSet::new(), &id("db")).is_some());
    }
}
