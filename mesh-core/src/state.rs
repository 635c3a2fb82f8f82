//! The fleet's state: events in, changes out, and the views that everything else derives from.
//!
//! Every fact that a source offers is kept; the admitted ones are those inside their cluster's grant. The admitted facts are
//! a function of what is known and of the time, whatever the order in which it was told.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use self::addresses::Addresses;
use self::index::{FleetPrefixes, Namespaces, ServiceIndex};
use self::leases::Due;
use self::ledger::Ledger;
use self::offers::Offers;
use self::shared::SharedLabels;
use crate::settings::{DomainAddresses, Settings};
use crate::{
    Change, ClusterName, Event, Key, NodeId, Now, PublicKey, RecordKey, Refusal, RefusalReason, SourceId, Version, Workload,
};

mod addresses;
mod admission;
mod facts;
mod forget;
mod index;
mod leases;
mod ledger;
mod limits;
mod offers;
mod refresh;
mod restore;
mod root;
mod shared;
mod signed;
mod standing;
mod views;

pub(crate) use self::admission::check_grant;
pub use self::facts::Facts;
pub use self::leases::{EXPIRED_AFTER, MAX_CLOCK_SKEW, MAX_LEASE_TTL, STALE_AFTER};
pub use self::limits::{Limits, Usage};
pub use self::standing::GrantStanding;

/// How a state decides what to believe.
#[derive(Clone, Debug)]
pub enum Trust {
    /// No fleet: every cluster speaks for everything. Plain directories of manifests.
    Open,
    /// An offline check of what grants say: facts and grants come from plain sources, and the grants bound the facts.
    Declared,
    /// A fleet: the own cluster's facts come from plain sources, everybody else's and all grants only signed.
    Signed {
        /// The fleet's root key.
        root: PublicKey,
        /// The own cluster.
        cluster: ClusterName,
    },
}

/// What a state is made with.
#[derive(Clone, Debug)]
pub struct StateConfig {
    /// The fleet's name; empty without a fleet.
    pub fleet: Arc<str>,
    /// What to believe.
    pub trust: Trust,
    /// The settings of policy.
    pub settings: Settings,
    /// Domain names and the addresses known for them.
    pub domains: DomainAddresses,
}

/// What the state knows of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Located<'a> {
    /// A workload with an identity.
    Workload(&'a Workload),
    /// A node's own address (also a host-network pod's).
    Node(&'a NodeId),
    /// Inside a fleet prefix, identity not known (yet) or not granted.
    Pending,
    /// Outside the fleet.
    External,
}

/// How fresh a cluster's facts are, by its leases. Identity and policy hold on through all of it (the last known is enforced);
/// load balancing does not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Freshness {
    /// A lease runs.
    Live,
    /// The last lease ran out.
    Suspect,
    /// No lease for three times its time to live.
    Stale,
    /// No lease for a day, or ever.
    Expired,
}

/// Who offered a fact. Of those that are admitted, the first in this order counts: manifests before allocations, and of two
/// records of a cluster the newer one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Origin {
    Source(SourceId),
    Root,
    Record(Reverse<Version>, RecordKey),
}

/// An offered fact that is not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Refused {
    refusal: Refusal,
    /// The addresses that a workload of a plain source claims: without identity, and not external either.
    addresses: Vec<IpAddr>,
}

/// The state of the fleet as one process knows it.
#[derive(Clone, Debug)]
pub struct State {
    config: StateConfig,
    now: Now,
    /// The next moments that change something by themselves.
    due: Due,
    /// Everything that is said, by whom.
    offered: BTreeMap<Key, Offers>,
    /// The keys told since `Begin` by the sources that have not said `Synced` yet.
    shadows: BTreeMap<SourceId, BTreeSet<Key>>,
    synced: BTreeSet<SourceId>,
    ledger: Ledger,
    /// Whose records are looked at, for each cluster: what counts of them is offered.
    active: BTreeMap<ClusterName, Vec<PublicKey>>,
    /// The clusters whose grant is not in force, and why.
    ended: BTreeMap<ClusterName, RefusalReason>,
    freshness: BTreeMap<ClusterName, Freshness>,
    labels: SharedLabels,
    facts: Facts,
    /// Admitted facts that do not make a namespace exist.
    derived: BTreeSet<Key>,
    addresses: Addresses,
    namespaces: Namespaces,
    prefixes: FleetPrefixes,
    services: ServiceIndex,
    refused: BTreeMap<Key, Refused>,
    refusals: BTreeMap<RefusalReason, u64>,
}

impl State {
    /// Makes an empty state.
    pub fn new(config: StateConfig) -> State {
        State {
            config,
            now: Now::default(),
            due: Due::default(),
            offered: BTreeMap::new(),
            shadows: BTreeMap::new(),
            synced: BTreeSet::new(),
            ledger: Ledger::default(),
            active: BTreeMap::new(),
            ended: BTreeMap::new(),
            freshness: BTreeMap::new(),
            labels: SharedLabels::default(),
            facts: Facts::default(),
            derived: BTreeSet::new(),
            addresses: Addresses::default(),
            namespaces: Namespaces::default(),
            prefixes: FleetPrefixes::default(),
            services: ServiceIndex::default(),
            refused: BTreeMap::new(),
            refusals: BTreeMap::new(),
        }
    }

    /// Takes an event; returns what is different now.
    pub fn apply(&mut self, event: Event, now: Now) -> Change {
        let mut change = Change::default();
        self.advance(now, &mut change);
        match event {
            Event::Begin(source) => {
                self.synced.remove(&source);
                self.shadows.insert(source, BTreeSet::new());
            }
            Event::Set(source, resource) => {
                let key = resource.key();
                if let Some(shadow) = self.shadows.get_mut(&source) {
                    shadow.insert(key.clone());
                }
                self.offered.entry(key.clone()).or_default().insert(Origin::Source(source), resource);
                self.refresh(&key, &mut change);
            }
            Event::Unset(source, key) => self.withdraw(&key, &Origin::Source(source), &mut change),
            Event::Record(bytes) => self.take_signed(&bytes, &mut change),
            Event::Opened(opened) => self.take_opened(&opened, &mut change),
            Event::Synced(source) => {
                if let Some(told) = self.shadows.remove(&source) {
                    let origin = Origin::Source(source.clone());
                    let gone = |(key, by): (&Key, &Offers)| (by.has(&origin) && !told.contains(key)).then(|| key.clone());
                    for key in self.offered.iter().filter_map(gone).collect::<Vec<_>>() {
                        self.withdraw(&key, &origin, &mut change);
                    }
                }
                self.synced.insert(source);
            }
        }
        change
    }

    /// Takes notice of the addresses that a domain name has now (lower-case, without a final dot), for rules with `domainNames`;
    /// none: it is not known any more.
    pub fn learn(&mut self, name: &str, addresses: &[IpAddr]) -> Change {
        let mut change = Change::default();
        let before = self.config.domains.remove(name).unwrap_or_default();
        if before != addresses {
            change.dirty.insert(Key::Domain(name.into()));
        }
        if !addresses.is_empty() {
            self.config.domains.insert(name.into(), addresses.to_vec());
        }
        change
    }

    /// Returns the admitted facts.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// Returns what is offered and not believed, with the reasons.
    pub fn refused(&self) -> impl Iterator<Item = (&Key, &Refusal)> {
        self.refused.iter().map(|(key, refused)| (key, &refused.refusal))
    }

    /// Returns how often something was refused, by reason.
    pub fn refusal_counts(&self) -> &BTreeMap<RefusalReason, u64> {
        &self.refusals
    }

    /// Tells whether `source` has told everything once and is not in the middle of telling it again.
    pub fn is_synced(&self, source: &SourceId) -> bool {
        self.synced.contains(source)
    }

    /// Tells whether every source that has begun to tell has told everything, and there is one.
    pub fn is_settled(&self) -> bool {
        self.shadows.is_empty() && !self.synced.is_empty()
    }

    /// Returns the configuration that the state was made with.
    pub fn config(&self) -> &StateConfig {
        &self.config
    }
}
