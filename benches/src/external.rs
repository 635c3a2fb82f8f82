//! Many external prefixes in rules, for the look-up of addresses that are nobody's.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use mesh_core::policy::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule, PolicyScope, PortMatch};
use mesh_core::{Prefix, Protocol, Resource, Selector};

use crate::random::Random;

/// The prefixes of one rule: the size of a provider's published list.
const PER_RULE: usize = 100;
/// The rules of one policy.
const RULES: usize = 10;

/// Returns `count` different prefixes outside 10.0.0.0/8: four in five IPv4, of 8 to 32 bits (most of them 16 to 24, as routing
/// tables have them), the others IPv6, of 29 to 64 bits.
pub fn prefixes(count: usize) -> Vec<Prefix> {
    let mut random = Random::of("prefix", 0);
    let mut prefixes = BTreeSet::new();
    let mut ordered = Vec::with_capacity(count);
    while ordered.len() < count {
        let prefix = if random.percent(80) {
            let len = match random.below(100) {
                0..2 => 8 + random.below(8),
                2..85 => 16 + random.below(9),
                _ => 25 + random.below(8),
            };
            Prefix::new(v4(&mut random), u8::try_from(len).expect("at most 32"))
        } else {
            Prefix::new(v6(&mut random), u8::try_from(29 + random.below(36)).expect("at most 64"))
        };
        let prefix = prefix.expect("no longer than its family");
        if prefixes.insert(prefix) {
            ordered.push(prefix);
        }
    }
    ordered
}

/// Returns NetworkPolicies of the fleet's first namespace whose egress rules name `prefixes`: 100 in a rule, ten rules in a policy,
/// each rule with a port of its own.
pub fn policies(prefixes: &[Prefix]) -> impl Iterator<Item = Resource> {
    prefixes.chunks(PER_RULE * RULES).zip(0..).map(|(prefixes, number)| {
        let rule = |(blocks, at): (&[Prefix], u16)| NetworkPolicyRule {
            peers: blocks.iter().map(|cidr| NetworkPolicyPeer::IpBlock { cidr: *cidr, except: Vec::new() }).collect(),
            ports: vec![PortMatch::Range(Protocol::Tcp, 8000 + at, 8000 + at)],
        };
        Resource::NetworkPolicy(Arc::new(NetworkPolicy {
            scope: PolicyScope::Fleet,
            namespace: "team-0-prod".parse().expect("valid"),
            name: format!("networks-{number}").parse().expect("valid"),
            subject: Selector::ALL,
            ingress: None,
            egress: Some(prefixes.chunks(PER_RULE).zip(0..).map(rule).collect()),
        }))
    })
}

/// Returns `count` external addresses: three in four inside one of `prefixes`, the others anywhere outside 10.0.0.0/8.
pub fn addresses(prefixes: &[Prefix], count: usize) -> Vec<IpAddr> {
    let mut random = Random::of("external", 0);
    let one = |_| {
        if random.percent(25) {
            return if random.percent(80) { v4(&mut random) } else { v6(&mut random) };
        }
        let prefix = *random.one(prefixes);
        match (prefix.address(), prefix.last_address()) {
            (IpAddr::V4(first), IpAddr::V4(last)) => {
                let host = random.bits() & (first.to_bits() ^ last.to_bits());
                IpAddr::V4(Ipv4Addr::from_bits(first.to_bits() | host))
            }
            (IpAddr::V6(first), IpAddr::V6(last)) => {
                let host = wide(&mut random) & (first.to_bits() ^ last.to_bits());
                IpAddr::V6(Ipv6Addr::from_bits(first.to_bits() | host))
            }
            _ => unreachable!("a prefix has one family"),
        }
    };
    (0..count).map(one).collect()
}

fn v4(random: &mut Random) -> IpAddr {
    loop {
        let bits = random.bits();
        if (11 << 24..224 << 24).contains(&bits) {
            return Ipv4Addr::from_bits(bits).into();
        }
    }
}

fn v6(random: &mut Random) -> IpAddr {
    // 2000::/6, of which all that is in use is a part.
    Ipv6Addr::from_bits(0x2000 << 112 | wide(random) & (u128::MAX >> 6)).into()
}

fn wide(random: &mut Random) -> u128 {
    (0..4).fold(0, |bits, _| bits << 32 | u128::from(random.bits()))
}
