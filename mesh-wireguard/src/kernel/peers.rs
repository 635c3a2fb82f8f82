//! Which node has which of the kernel's peers, and what has to change in the kernel for it. No clock, no socket.
//!
//! The kernel knows keys, not nodes: names are this process's, and a new process learns them from the plan. What nobody has named
//! yet is told under a name of its own, `unnamed/<key in hex>`, so that the plan keeps it by giving it a name, or removes it.
//!
//! A node with a next key has two peers. The one in use has the node's prefixes and is called; the other one has neither, and
//! only answers: it is the one in use as soon as its latest handshake is the later one, which is looked for with every reading.
//! Until then what the node sends by its next key is dropped (whose source is not the peer's), for that long at most.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use mesh_core::{ClusterName, NodeId, ObjectName, Prefix, WallTime, WireGuardKey};
use mesh_dataplane::Peer;

use crate::netlink::wireguard::{Device, PeerChange, Verb};

/// How long a silent node lets pass: keeps the mappings of NATs and the session itself alive. Only nodes that can be called have
/// it; the others call, and do the same.
const KEEPALIVE: u16 = 25;
/// A peer without a handshake for so long is not there, where it is said to be: with keepalives there is one every two minutes.
const LOST: Duration = Duration::from_secs(180);
/// How long an endpoint is tried before the next one: three of the kernel's attempts.
const TURN: Duration = Duration::from_secs(15);
/// The cluster of what nobody has named.
const UNNAMED: &str = "unnamed";

/// The nodes that this process has named, and the prefixes that it has given them.
#[derive(Debug, Default)]
pub(super) struct Peers {
    nodes: BTreeMap<NodeId, Known>,
    routes: BTreeMap<Prefix, NodeId>,
}

/// A node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Known {
    /// As it was set.
    peer: Peer,
    /// The key that its prefixes are at: that of the latest handshake, else the current one.
    active: WireGuardKey,
    /// Since when its endpoint is tried.
    tried: WallTime,
}

impl Peers {
    /// Returns the nodes, as they were set.
    pub(super) fn nodes(&self) -> impl Iterator<Item = (&NodeId, &Peer, WireGuardKey)> {
        self.nodes.iter().map(|(node, known)| (node, &known.peer, known.active))
    }

    /// Returns the key that a node's prefixes are at; `None` for an unknown node.
    pub(super) fn active(&self, node: &NodeId) -> Option<WireGuardKey> {
        Some(self.nodes.get(node)?.active)
    }

    /// Returns what makes `node` the `peer`, and what to remember once that is done. Sessions that exist stay.
    pub(super) fn set(&self, node: &NodeId, peer: &Peer, device: &Device, now: WallTime) -> (Known, Vec<PeerChange>) {
        let before = self.nodes.get(node);
        let active = latest(peer, device, peer.keys.current);
        // The kernel knows better where a peer is that it has heard of; but for one that the plan has elsewhere now.
        let heard = |key: &WireGuardKey| device.peers.get(key).and_then(|peer| peer.endpoint);
        let planned = peer.endpoints.iter().copied().find(|endpoint| self.is_outside(*endpoint));
        let is_elsewhere = before.is_some_and(|before| before.peer.endpoints != peer.endpoints);
        let endpoint = match heard(&active) {
            _ if is_elsewhere && planned.is_some() => planned,
            Some(_) => None,
            None => before.and_then(|before| heard(&before.active)).or(planned),
        };
        let has = |prefix: &&Prefix| device.allowed.get(*prefix) == Some(&active);
        let mut changes = vec![PeerChange {
            endpoint,
            keepalive: Some(keepalive(peer)),
            allow: self.prefixes(node).filter(|prefix| !has(prefix)).copied().collect(),
            ..PeerChange::new(Verb::Make, active)
        }];
        for key in keys(peer).filter(|key| *key != active && !self.is_active(*key, node)) {
            changes.push(PeerChange { keepalive: Some(0), ..PeerChange::new(Verb::Make, key) });
        }
        let left = before.iter().flat_map(|before| keys(&before.peer)).filter(|key| keys(peer).all(|kept| kept != *key));
        changes.extend(left.filter(|key| !self.is_claimed(*key, node)).map(|key| PeerChange::new(Verb::Remove, key)));
        let tried = before.filter(|_| endpoint.is_none()).map_or(now, |before| before.tried);
        (Known { peer: peer.clone(), active, tried }, changes)
    }

    /// Remembers a node.
    pub(super) fn insert(&mut self, node: &NodeId, known: Known) {
        self.nodes.insert(node.clone(), known);
    }

    /// Returns what removes a node, named or not. A key that another node has, too, stays with that one's prefixes.
    pub(super) fn remove(&self, node: &NodeId, device: &Device) -> Vec<PeerChange> {
        let keys: Vec<WireGuardKey> = match self.nodes.get(node) {
            Some(known) => keys(&known.peer).collect(),
            None => key_of(node).into_iter().collect(),
        };
        let (kept, gone): (Vec<_>, Vec<_>) = keys.into_iter().partition(|key| self.is_claimed(*key, node));
        let mut changes: Vec<_> = gone.into_iter().map(|key| PeerChange::new(Verb::Remove, key)).collect();
        let is_left = |prefix: &&Prefix| device.allowed.get(*prefix).is_some_and(|owner| kept.contains(owner));
        let left: Vec<Prefix> = self.prefixes(node).filter(is_left).copied().collect();
        if !left.is_empty() {
            changes.extend(PeerChange::evict(left));
        }
        changes
    }

    /// Forgets a node with its prefixes.
    pub(super) fn forget(&mut self, node: &NodeId) {
        self.nodes.remove(node);
        self.routes.retain(|_, owner| owner != node);
    }

    /// Returns the prefixes of a node; those of an unnamed one are those that nobody else was given.
    pub(super) fn prefixes_of(&self, node: &NodeId, device: &Device) -> Vec<Prefix> {
        let unnamed = key_of(node).filter(|key| !self.nodes.contains_key(node) && !self.is_claimed(*key, node));
        let allowed = device.allowed.iter().filter(|(_, owner)| Some(**owner) == unnamed);
        let nobodys = allowed.map(|(prefix, _)| *prefix).filter(|prefix| !self.routes.contains_key(prefix));
        self.prefixes(node).copied().chain(nobodys).collect()
    }

    /// Remembers whose a prefix is; `None` for nobody's.
    pub(super) fn route(&mut self, prefix: Prefix, node: Option<&NodeId>) {
        match node {
            Some(node) => _ = self.routes.insert(prefix, node.clone()),
            None => _ = self.routes.remove(&prefix),
        }
    }

    /// Forgets what the kernel does not have any more, whoever removed it; returns what the kernel tells to change: which keys
    /// are in use, and who has to be looked for elsewhere.
    pub(super) fn follow(&mut self, device: &Device, now: WallTime) -> Vec<PeerChange> {
        self.nodes.retain(|_, known| keys(&known.peer).all(|key| device.peers.contains_key(&key)));
        let mut changes = Vec::new();
        let nodes: Vec<NodeId> = self.nodes.keys().cloned().collect();
        for node in nodes {
            let known = &self.nodes[&node];
            let (before, active) = (known.active, latest(&known.peer, device, known.active));
            if active != before {
                let is_its = |(prefix, owner): &(&Prefix, &WireGuardKey)| {
                    **owner == before && self.routes.get(*prefix).is_none_or(|to| *to == node)
                };
                changes.push(PeerChange {
                    keepalive: Some(keepalive(&known.peer)),
                    allow: device.allowed.iter().filter(is_its).map(|(prefix, _)| *prefix).collect(),
                    ..PeerChange::new(Verb::Update, active)
                });
                if !self.is_active(before, &node) {
                    changes.push(PeerChange { keepalive: Some(0), ..PeerChange::new(Verb::Update, before) });
                }
            }
            let elsewhere = if active == before { self.elsewhere(known, device, now) } else { None };
            if let Some(endpoint) = elsewhere {
                changes.push(PeerChange { endpoint: Some(endpoint), ..PeerChange::new(Verb::Update, active) });
            }
            let known = self.nodes.get_mut(&node).expect("it was there above");
            known.active = active;
            if elsewhere.is_some() {
                known.tried = now;
            }
        }
        changes
    }

    /// Returns the nodes that the kernel has, and the keys that nobody has named.
    pub(super) fn programmed(&self, device: &Device) -> BTreeMap<NodeId, Peer> {
        let claimed = |key: &WireGuardKey| self.nodes.values().any(|known| keys(&known.peer).any(|claimed| claimed == *key));
        let unnamed = device.peers.iter().filter(|(key, _)| !claimed(key)).map(|(key, state)| {
            let keys = mesh_dataplane::PeerKeys { current: *key, next: None };
            (unnamed(*key), Peer { keys, endpoints: state.endpoint.into_iter().collect() })
        });
        let named = self.nodes.iter().map(|(node, known)| (node.clone(), known.peer.clone()));
        unnamed.chain(named).collect()
    }

    /// Returns whose the prefixes are, as the kernel has them: `overlay` are those with a route, and whether it is as it should
    /// be. What is there by half, or was never given to a node by this process, is an unnamed one's. What is not whole is
    /// forgotten.
    pub(super) fn routed(&mut self, device: &Device, overlay: &BTreeMap<Prefix, bool>) -> BTreeMap<Prefix, NodeId> {
        let mut routes = BTreeMap::new();
        for prefix in device.allowed.keys().chain(overlay.keys()) {
            let owner = device.allowed.get(prefix).copied();
            let named = self.routes.get(prefix).filter(|node| owner.is_some() && self.active(node) == owner);
            let whole = named.filter(|_| overlay.get(prefix) == Some(&true)).cloned();
            routes.insert(*prefix, whole.unwrap_or_else(|| unnamed(owner.unwrap_or(WireGuardKey([0; 32])))));
        }
        self.routes.retain(|prefix, node| routes.get(prefix) == Some(node));
        routes
    }

    /// Returns where else a peer may be that is not where it is looked for.
    fn elsewhere(&self, known: &Known, device: &Device, now: WallTime) -> Option<SocketAddr> {
        let state = device.peers.get(&known.active)?;
        let is_lost = state.last_handshake.is_none_or(|at| now.since(at) >= LOST) && now.since(known.tried) >= TURN;
        let others: Vec<_> = known.peer.endpoints.iter().copied().filter(|endpoint| self.is_outside(*endpoint)).collect();
        let at = state.endpoint.and_then(|endpoint| others.iter().position(|other| *other == endpoint));
        let next = others.get(at.map_or(0, |at| (at + 1) % others.len())).copied();
        next.filter(|next| is_lost && Some(*next) != state.endpoint)
    }

    /// Tells whether an endpoint is outside of the overlay: the tunnel does not carry its own datagrams.
    fn is_outside(&self, endpoint: SocketAddr) -> bool {
        !self.routes.keys().any(|prefix| prefix.contains(endpoint.ip()))
    }

    fn prefixes<'a>(&'a self, node: &'a NodeId) -> impl Iterator<Item = &'a Prefix> {
        self.routes.iter().filter(move |(_, owner)| *owner == node).map(|(prefix, _)| prefix)
    }

    /// Tells whether another node has the key in use.
    fn is_active(&self, key: WireGuardKey, but: &NodeId) -> bool {
        self.nodes.iter().any(|(node, known)| node != but && known.active == key)
    }

    /// Tells whether another node has the key.
    fn is_claimed(&self, key: WireGuardKey, but: &NodeId) -> bool {
        self.nodes.iter().any(|(node, known)| node != but && keys(&known.peer).any(|claimed| claimed == key))
    }
}

fn keys(peer: &Peer) -> impl Iterator<Item = WireGuardKey> + use<> {
    std::iter::once(peer.keys.current).chain(peer.keys.next)
}

/// Returns the key of the latest handshake; `else_this` where there was none or both were at once.
fn latest(peer: &Peer, device: &Device, else_this: WireGuardKey) -> WireGuardKey {
    let at = |key| device.peers.get(&key).and_then(|peer| peer.last_handshake);
    let (current, Some(next)) = (peer.keys.current, peer.keys.next) else { return peer.keys.current };
    match at(next).cmp(&at(current)) {
        std::cmp::Ordering::Greater => next,
        std::cmp::Ordering::Less => current,
        std::cmp::Ordering::Equal => else_this,
    }
}

fn keepalive(peer: &Peer) -> u16 {
    if peer.endpoints.is_empty() { 0 } else { KEEPALIVE }
}

/// Returns the name of a key that nobody has named.
fn unnamed(key: WireGuardKey) -> NodeId {
    let hex: String = key.0.iter().map(|byte| format!("{byte:02x}")).collect();
    NodeId {
        cluster: ClusterName::new(UNNAMED).expect("a name of a cluster"),
        name: ObjectName::new(&hex).expect("hexadecimal digits make a name"),
    }
}

/// Returns the key that such a name is of.
fn key_of(node: &NodeId) -> Option<WireGuardKey> {
    let hex = node.name.as_str();
    if node.cluster.as_str() != UNNAMED || hex.len() != 64 || !hex.is_ascii() {
        return None;
    }
    let mut key = [0; 32];
    for (at, byte) in key.iter_mut().enumerate() {
        *byte = u8::from_str_radix(hex.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(WireGuardKey(key))
}

#[cfg(test)]
mod tests;
