//! Whether backends are in reach: the path to their node, their cluster's lease, and whether they answer.
//!
//! | path (probe) | lease | backends |
//! | --- | --- | --- |
//! | answers | any | in reach: a dead control plane moves no traffic |
//! | dead, or alive again for less than the hold-down | any | demoted at once: what is sent there is lost |
//! | has no say (not probed, or not yet) | expired | demoted |
//! | has no say | live, suspect, stale | in reach |
//!
//! Apart from that a backend that refuses [`REFUSALS`] openings one after the other is demoted for [`EJECTED`]. A silent one is
//! not: a policy on its side may be what is silent, and one denied client must not move the connections of the others.
//!
//! Demoted is not deleted: a backend that is out of reach is used when nothing better is.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use mesh_core::{ClusterName, Freshness, NodeId, Time};

use self::path::Path;
pub use self::path::{HOLD, HOLD_AGAIN, INTERVAL, LOST, PathState};

mod path;
#[cfg(test)]
mod tests;

/// How many paths are probed: at two probes a second each, 512 small packets a second. What is beyond has no say.
pub const MAX_PATHS: usize = 256;
/// How many openings in a row a backend refuses before it is demoted.
pub const REFUSALS: u32 = 3;
/// For how long: twice a minute something shifts for a backend that goes on refusing, not more.
pub const EJECTED: Duration = Duration::from_secs(60);
/// How many backends that refuse are remembered; beyond, further ones are not.
const MAX_REFUSING: usize = 4096;

/// Health, as this node sees it.
#[derive(Clone, Debug, Default)]
pub struct Health {
    paths: BTreeMap<NodeId, Path>,
    /// Whose address it is.
    nodes: BTreeMap<IpAddr, NodeId>,
    clusters: BTreeMap<ClusterName, Freshness>,
    refusing: BTreeMap<(IpAddr, u16), Refusing>,
    changed: Moved,
}

#[derive(Clone, Copy, Debug, Default)]
struct Refusing {
    count: u32,
    until: Option<Time>,
}

/// A probe to send: an echo request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probe {
    /// To whom: a node's own address inside the mesh.
    pub address: IpAddr,
    /// Its number, which the reply repeats.
    pub sequence: u16,
}

/// What is in reach or out of it since the last time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Nodes.
    pub nodes: BTreeSet<NodeId>,
    /// Clusters.
    pub clusters: BTreeSet<ClusterName>,
    /// Backends by themselves.
    pub backends: BTreeSet<IpAddr>,
}

/// Whether a backend is in reach, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reach {
    /// The path to its node answers.
    Answers,
    /// The path has no say, and nothing speaks against it.
    Presumed,
    /// The path does not answer.
    Dead,
    /// The path answers again, not yet for long enough.
    Held,
    /// The path has no say, and its cluster's lease expired.
    Expired,
    /// It refuses connections.
    Refuses,
}

impl Reach {
    /// Tells whether connections may go there while others could take them.
    pub fn is_good(self) -> bool {
        matches!(self, Reach::Answers | Reach::Presumed)
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reach::Answers => "the path answers",
            Reach::Presumed => "presumed: nothing speaks against it",
            Reach::Dead => "the path is dead",
            Reach::Held => "the path answers again, on hold",
            Reach::Expired => "the cluster's lease expired, and no path has a say",
            Reach::Refuses => "refuses connections",
        })
    }
}

impl Moved {
    /// Tells whether nothing moved.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty() && self.clusters.is_empty() && self.backends.is_empty()
    }
}

impl Health {
    /// Begins knowing nothing: everything is presumed to be in reach.
    pub fn new() -> Health {
        Health::default()
    }

    /// Sets which paths to probe, each by the overlay address of a node; the first [`MAX_PATHS`] by name. One that was probed
    /// before keeps its state.
    pub fn set_paths(&mut self, paths: &BTreeMap<NodeId, IpAddr>, now: Time) {
        let wanted = |node: &NodeId, path: &Path| paths.get(node) == Some(&path.address());
        let gone: Vec<NodeId> =
            self.paths.iter().filter(|(node, path)| !wanted(node, path)).map(|(node, _)| node.clone()).collect();
        for node in gone {
            if let Some(path) = self.paths.remove(&node) {
                self.nodes.remove(&path.address());
                self.changed.nodes.extend((!path.is_good()).then_some(node));
            }
        }
        for (node, address) in paths {
            if self.paths.len() >= MAX_PATHS {
                break;
            }
            if !self.paths.contains_key(node) {
                // The first probes are spread over one interval.
                let number = u32::try_from(self.paths.len()).unwrap_or(0);
                self.paths.insert(node.clone(), Path::new(*address, now + INTERVAL * number / MAX_PATHS as u32));
                self.nodes.insert(*address, node.clone());
            }
        }
    }

    /// Returns the next probe that is due.
    pub fn poll_probe(&mut self, now: Time) -> Option<Probe> {
        let (node, path) = self.paths.iter_mut().find(|(_, path)| path.due() <= now)?;
        let before = path.is_good();
        let probe = Probe { address: path.address(), sequence: path.probe(now) };
        if path.is_good() != before {
            self.changed.nodes.insert(node.clone());
        }
        Some(probe)
    }

    /// Takes the reply to a probe, from where it came.
    pub fn handle_reply(&mut self, address: IpAddr, sequence: u16, now: Time) {
        let Some(node) = self.nodes.get(&address) else { return };
        let Some(path) = self.paths.get_mut(node) else { return };
        let before = path.is_good();
        path.handle_reply(sequence, now);
        if path.is_good() != before {
            self.changed.nodes.insert(node.clone());
        }
    }

    /// Takes how fresh a cluster's facts are.
    pub fn set_freshness(&mut self, cluster: &ClusterName, freshness: Freshness) {
        let before = self.clusters.insert(cluster.clone(), freshness);
        if (before == Some(Freshness::Expired)) != (freshness == Freshness::Expired) {
            self.changed.clusters.insert(cluster.clone());
        }
    }

    /// Takes that a backend refused the opening of a connection, or answered it.
    pub fn handle_opening(&mut self, backend: (IpAddr, u16), refused: bool, now: Time) {
        if !refused {
            // An ejected one that answers was asked as a last resort: it serves its time all the same.
            if self.refusing.get(&backend).is_some_and(|refusing| refusing.until.is_none()) {
                self.refusing.remove(&backend);
            }
            return;
        }
        if self.refusing.len() >= MAX_REFUSING && !self.refusing.contains_key(&backend) {
            return;
        }
        let refusing = self.refusing.entry(backend).or_default();
        refusing.count += 1;
        if refusing.count >= REFUSALS && refusing.until.is_none() {
            refusing.until = Some(now + EJECTED);
            self.changed.backends.insert(backend.0);
        }
    }

    /// Lets backends back in whose time is over.
    pub fn handle_timeout(&mut self, now: Time) {
        let back = |refusing: &Refusing| refusing.until.is_some_and(|until| until <= now);
        let changed = &mut self.changed.backends;
        self.refusing.retain(|backend, refusing| {
            if back(refusing) {
                changed.insert(backend.0);
            }
            !back(refusing)
        });
    }

    /// Returns when there is a probe to send, or a backend to let back in.
    pub fn poll_timeout(&self) -> Option<Time> {
        let paths = self.paths.values().map(Path::due);
        paths.chain(self.refusing.values().filter_map(|refusing| refusing.until)).min()
    }

    /// Returns what has moved in or out of reach since the last call.
    pub fn take_moved(&mut self) -> Moved {
        std::mem::take(&mut self.changed)
    }

    /// Tells whether a backend is in reach, by itself, its node and its cluster.
    pub fn reach(&self, backend: (IpAddr, u16), node: Option<&NodeId>, cluster: &ClusterName) -> Reach {
        if self.refusing.get(&backend).is_some_and(|refusing| refusing.until.is_some()) {
            return Reach::Refuses;
        }
        match node.map_or(Reach::Presumed, |node| self.reach_of(node)) {
            Reach::Presumed if self.clusters.get(cluster) == Some(&Freshness::Expired) => Reach::Expired,
            reach => reach,
        }
    }

    /// Returns what the path to a node says; [`Reach::Presumed`] where it has no say.
    pub fn reach_of(&self, node: &NodeId) -> Reach {
        match self.paths.get(node).map(Path::state) {
            Some(PathState::Up) => Reach::Answers,
            Some(PathState::Dead) => Reach::Dead,
            Some(PathState::Held) => Reach::Held,
            Some(PathState::Untried) | None => Reach::Presumed,
        }
    }

    /// Returns the probed paths with their states, by node.
    pub fn paths(&self) -> impl Iterator<Item = (&NodeId, PathState)> {
        self.paths.iter().map(|(node, path)| (node, path.state()))
    }
}
