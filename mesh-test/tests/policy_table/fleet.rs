//! What there is to ask about a policy: nodes, and connections to and from them.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mesh_core::{Direction, FiveTuple, NodeId, Prefix, Protocol};
use mesh_dataplane::{Local, Scope};
use mesh_policy::{End, PolicySet, Protocols};

/// Returns the nodes that workloads are on, each with what lives there; workloads of a cluster that are on none share one.
pub(crate) fn nodes(set: &PolicySet) -> Vec<Local> {
    let mut prefixes: BTreeMap<NodeId, BTreeSet<Prefix>> = BTreeMap::new();
    for (address, known) in set.addresses().filter(|(address, _)| is_carried(*address)) {
        let Some(workload) = set.workload(known.end) else { continue };
        let nowhere = || NodeId { cluster: workload.id.cluster.clone(), name: "none".parse().unwrap() };
        prefixes.entry(workload.node.cloned().unwrap_or_else(nowhere)).or_default().insert(Prefix::host(address));
    }
    let local = |(node, prefixes)| Local { node, prefixes, overlay: Vec::new(), scope: Scope::Node };
    prefixes.into_iter().map(local).collect()
}

/// Tells whether the kernel forwards packets from and to an address.
fn is_carried(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            !(v4.is_loopback() || v4.is_multicast() || v4.is_broadcast() || v4.octets()[0] == 0 || v4.octets()[0] >= 240)
        }
        IpAddr::V6(v6) => v6.segments()[0] != 0 && v6.segments()[0] < 0xfe00,
    }
}

/// Returns connections to and from the node: between all that the set knows, at the edges of what its rules name.
pub(crate) fn tuples(set: &PolicySet, local: &Local, seed: u64) -> Vec<FiveTuple> {
    let mut numbers = Numbers(seed);
    let here: Vec<IpAddr> = local.prefixes.iter().map(|prefix| prefix.address()).collect();
    let mut others: Vec<IpAddr> = set.addresses().map(|(address, _)| address).collect();
    others.extend(set.outside().into_iter().map(|(address, _)| address));
    others.extend(["203.0.113.77", "10.255.254.253", "2001:db8:ffff::77"].map(|text| text.parse::<IpAddr>().unwrap()));
    others.retain(|address| is_carried(*address));
    others.sort_unstable();
    others.dedup();
    let mut tuples = BTreeSet::new();
    let mut source_port = 1024;
    for _ in 0..40 {
        let (own, peer) = (here[numbers.below(here.len())], others[numbers.below(others.len())]);
        if own.is_ipv4() != peer.is_ipv4() {
            continue;
        }
        let (source, destination) = if numbers.below(2) == 0 { (own, peer) } else { (peer, own) };
        for (protocol, port) in [edge(set, source, destination, &mut numbers), edge(set, source, destination, &mut numbers)] {
            source_port += 1;
            let (source_port, destination_port) = if protocol.has_ports() { (source_port, port) } else { (0, 0) };
            let tuple = FiveTuple { source, destination, protocol, source_port, destination_port };
            // Without ports, both ways are one connection.
            if protocol.has_ports() || !tuples.contains(&tuple.reversed()) {
                tuples.insert(tuple);
            }
        }
    }
    tuples.into_iter().collect()
}

/// Returns a protocol and port at or beside the end of an interval.
fn edge(set: &PolicySet, source: IpAddr, destination: IpAddr, numbers: &mut Numbers) -> (Protocol, u16) {
    let [from, to] = [source, destination].map(|address| set.known(address));
    let (subject, peer, direction) = match (numbers.below(2), from.end, to.end) {
        (0, _, End::Workload(_)) | (_, End::Node(_) | End::External | End::Pending, _) => (to, from, Direction::Ingress),
        _ => (from, to, Direction::Egress),
    };
    let intervals = set.intervals(subject.profile, peer.profile, direction);
    let interval = &intervals[numbers.below(intervals.len())];
    let icmp = Protocol::Other(if source.is_ipv4() { 1 } else { 58 });
    match interval.protocols {
        Protocols::One(protocol) => {
            let (first, last) = interval.ports;
            let port = [first, last, first.saturating_sub(1), last.saturating_add(1)][numbers.below(4)];
            (protocol, port.max(1))
        }
        Protocols::Others(..) => ([icmp, Protocol::Other(89)][numbers.below(2)], 0),
    }
}

/// SplitMix64.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((bits ^ (bits >> 31)) % limit as u64) as usize
    }
}
