//! The regions of the address space: in each of them the same `ipBlock`, `networks`, `nodes` and `domainNames` peers match.

use std::collections::BTreeMap;
use std::net::IpAddr;

use mesh_core::{Prefix, State};

use crate::peers::{Peer, Peers};
use crate::rules;
use crate::store::{Interner, Ranges};

/// A distinct set of peers, ascending.
pub(super) type PeerSet = Box<[u32]>;

/// For each prefix that some peer names: the peers that it begins, and those that it ends (`except`).
type Edges = BTreeMap<Prefix, (Vec<u32>, Vec<u32>)>;

/// Computes the regions, by the number of the set of peers that match there; each distinct set gets one more user.
pub(super) fn regions(state: &State, peers: &Peers, sets: &mut Interner<PeerSet>) -> Ranges<u32> {
    let mut edges = Edges::new();
    for (number, peer) in peers.iter() {
        let mut host = |address: IpAddr| edges.entry(Prefix::host(address)).or_default().0.push(number);
        match peer {
            Peer::Workloads { .. } => {}
            Peer::Networks { networks, except } => {
                networks.iter().for_each(|prefix| edges.entry(*prefix).or_default().0.push(number));
                except.iter().for_each(|prefix| edges.entry(*prefix).or_default().1.push(number));
            }
            Peer::Nodes(selector) => {
                for node in state.facts().nodes.values().filter(|node| selector.matches(&state.node_labels(node))) {
                    rules::node_addresses(state, &node.id).into_iter().for_each(&mut host);
                }
            }
            Peer::Domains(patterns) => {
                let meant = state
                    .config()
                    .domains
                    .iter()
                    .filter(|(name, _)| patterns.iter().any(|pattern| rules::domain_matches(pattern, name)));
                meant.flat_map(|(_, addresses)| addresses).copied().for_each(&mut host);
            }
        }
    }
    let mut around: Vec<(Prefix, Region)> = Vec::new();
    let mut found = Vec::with_capacity(edges.len());
    // Prefixes in this order: each comes after those around it.
    let mut ordered: Vec<_> = edges.into_iter().collect();
    ordered.sort_unstable_by_key(|(prefix, _)| (prefix.address(), prefix.len()));
    for (prefix, (begins, ends)) in ordered {
        while around.last().is_some_and(|(outer, _)| !outer.covers(prefix)) {
            around.pop();
        }
        let outer = around.last().map(|(_, region)| region.clone()).unwrap_or_default();
        let region = Region { inside: merged(outer.inside, begins), except: merged(outer.except, ends) };
        let matching = region.inside.iter().filter(|peer| region.except.binary_search(peer).is_err());
        let (set, _) = sets.intern(matching.copied().collect());
        found.push((prefix, set));
        around.push((prefix, region));
    }
    let ranges = Ranges::new(found);
    ranges.values().for_each(|set| sets.retain(*set));
    ranges
}

#[derive(Clone, Default)]
struct Region {
    /// The peers that name a prefix around it, ascending.
    inside: Vec<u32>,
    /// The peers that except a prefix around it: whatever they name inside that.
    except: Vec<u32>,
}

fn merged(mut peers: Vec<u32>, more: Vec<u32>) -> Vec<u32> {
    if !more.is_empty() {
        peers.extend(more);
        peers.sort_unstable();
        peers.dedup();
    }
    peers
}
