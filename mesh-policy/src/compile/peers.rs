//! The peers that rules name, each distinct one once, and who satisfies them.

use std::net::IpAddr;
use std::sync::Arc;

use hashbrown::{HashMap, HashSet};
use mesh_core::{Labels, NamespaceName, NodeId, Prefix, PrefixMap, Selector, State};

use crate::rules;

/// A distinct peer of some rule.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Peer<'a> {
    Workloads { namespace: Option<&'a NamespaceName>, namespaces: Option<&'a Selector>, pods: Option<&'a Selector> },
    Networks { networks: &'a [Prefix], except: &'a [Prefix] },
    Nodes(&'a Selector),
    Domains(&'a [Arc<str>]),
}

/// Every distinct peer, by a dense number.
#[derive(Debug, Default)]
pub(super) struct Peers<'a> {
    ids: HashMap<Peer<'a>, u32>,
    list: Vec<Peer<'a>>,
}

/// The labels that decide which peers an identity is.
pub(super) struct Who<'a> {
    pub(super) namespace: &'a NamespaceName,
    pub(super) namespace_labels: &'a Labels,
    pub(super) labels: &'a Labels,
}

impl<'a> Peers<'a> {
    pub(super) fn intern(&mut self, peer: Peer<'a>) -> u32 {
        let next = u32::try_from(self.list.len()).expect("fewer peers than a u32 counts");
        let id = *self.ids.entry(peer.clone()).or_insert(next);
        if id == next {
            self.list.push(peer);
        }
        id
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    fn numbered(&self) -> impl Iterator<Item = (u32, &Peer<'a>)> {
        (0u32..).zip(&self.list)
    }

    /// Splits the peers that selectors name by the namespace that they are bound to, so that an identity is asked about its own.
    pub(super) fn selectors(&self) -> Selectors<'_, 'a> {
        let mut selectors = Selectors { anywhere: Vec::new(), bound: HashMap::new() };
        for (id, peer) in self.numbered() {
            match peer {
                Peer::Workloads { namespace: Some(namespace), .. } => {
                    selectors.bound.entry(*namespace).or_default().push((id, peer));
                }
                Peer::Workloads { namespace: None, .. } => selectors.anywhere.push((id, peer)),
                _ => {}
            }
        }
        selectors
    }

    /// Returns the regions of the address space in which the same address peers match.
    pub(super) fn regions(&self, state: &State) -> Regions {
        let by_address: Vec<(u32, Addresses<'_>)> =
            self.numbered().filter_map(|(id, peer)| Some((id, addresses(state, peer)?))).collect();
        let mut prefixes: Vec<Prefix> = by_address.iter().flat_map(|(_, addresses)| addresses.prefixes()).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        let matching =
            |prefix: Prefix| by_address.iter().filter(move |(_, addresses)| addresses.covers(prefix)).map(|(id, _)| *id);
        let blocks = by_address.iter().filter(|(_, addresses)| matches!(addresses, Addresses::Blocks(..))).map(|(id, _)| *id);
        Regions {
            blocks: blocks.collect(),
            map: prefixes.into_iter().map(|prefix| (prefix, matching(prefix).collect())).collect(),
        }
    }
}

/// The peers that selectors name.
pub(super) struct Selectors<'p, 'a> {
    anywhere: Vec<(u32, &'p Peer<'a>)>,
    bound: HashMap<&'a NamespaceName, Vec<(u32, &'p Peer<'a>)>>,
}

impl Selectors<'_, '_> {
    /// Returns the peers that `who` is, in ascending order.
    pub(super) fn matching(&self, who: &Who<'_>) -> Vec<u32> {
        let bound = self.bound.get(who.namespace).into_iter().flatten();
        let holds = |peer: &Peer<'_>| match peer {
            Peer::Workloads { namespaces, pods, .. } => {
                namespaces.is_none_or(|selector| selector.matches(who.namespace_labels))
                    && pods.is_none_or(|selector| selector.matches(who.labels))
            }
            _ => false,
        };
        let mut matching: Vec<u32> =
            self.anywhere.iter().chain(bound).filter(|(_, peer)| holds(peer)).map(|(id, _)| *id).collect();
        matching.sort_unstable();
        matching
    }
}

/// The regions of the address space: addresses with the same longest prefix satisfy the same address peers.
#[derive(Debug)]
pub(super) struct Regions {
    map: PrefixMap<Vec<u32>>,
    /// The peers that are `ipBlock` or `networks`, which a setting keeps from matching workloads.
    blocks: Vec<u32>,
}

impl Regions {
    /// Returns the address peers that `address` satisfies, in ascending order.
    pub(super) fn matching(&self, address: IpAddr) -> &[u32] {
        self.map.lookup(address).map_or(&[], |(_, peers)| peers)
    }

    /// Tells whether a peer is an `ipBlock` or `networks`.
    pub(super) fn is_block(&self, peer: u32) -> bool {
        self.blocks.binary_search(&peer).is_ok()
    }

    /// Returns the regions in order of their prefixes.
    pub(super) fn sorted(&self) -> Vec<(Prefix, &Vec<u32>)> {
        let mut regions: Vec<_> = self.map.iter().collect();
        regions.sort_unstable_by_key(|(prefix, _)| *prefix);
        regions
    }
}

/// An address peer, with nodes and names resolved.
enum Addresses<'a> {
    Blocks(&'a [Prefix], &'a [Prefix]),
    Hosts(HashSet<IpAddr>),
}

impl Addresses<'_> {
    fn prefixes(&self) -> Vec<Prefix> {
        match self {
            Addresses::Blocks(networks, except) => networks.iter().chain(*except).copied().collect(),
            Addresses::Hosts(hosts) => hosts.iter().map(|host| Prefix::host(*host)).collect(),
        }
    }

    /// Tells whether all of `prefix` matches. Every prefix named by any peer is a region of its own, so none matches in part.
    fn covers(&self, prefix: Prefix) -> bool {
        match self {
            Addresses::Blocks(networks, except) => {
                let inside = |list: &[Prefix]| list.iter().any(|known| known.covers(prefix));
                inside(networks) && !inside(except)
            }
            Addresses::Hosts(hosts) => Prefix::host(prefix.address()) == prefix && hosts.contains(&prefix.address()),
        }
    }
}

fn addresses<'a>(state: &State, peer: &Peer<'a>) -> Option<Addresses<'a>> {
    match peer {
        Peer::Workloads { .. } => None,
        Peer::Networks { networks, except } => Some(Addresses::Blocks(networks, except)),
        Peer::Nodes(selector) => {
            let nodes = state.facts().nodes.values().filter(|node| selector.matches(&state.node_labels(node)));
            Some(Addresses::Hosts(nodes.flat_map(|node| node_addresses(state, &node.id)).collect()))
        }
        Peer::Domains(patterns) => {
            let known = state.config().domains.iter();
            let meant = known.filter(|(name, _)| patterns.iter().any(|pattern| rules::domain_matches(pattern, name)));
            Some(Addresses::Hosts(meant.flat_map(|(_, addresses)| addresses).copied().collect()))
        }
    }
}

/// Returns every address of `node` that is believed to be its own.
pub(super) fn node_addresses(state: &State, node: &NodeId) -> Vec<IpAddr> {
    let facts = state.facts();
    let own = facts.nodes.get(node).into_iter().flat_map(|node| &node.addresses);
    let claimed = own.chain(facts.links.get(node).into_iter().flat_map(|link| &link.overlay)).copied();
    claimed.filter(|address| rules::node_has_address(state, node, *address)).collect()
}
