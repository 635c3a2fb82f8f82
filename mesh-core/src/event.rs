//! What sources tell the state, and what the state answers.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::{Key, Opened, Resource};

/// A source of facts, by a name that is unique in the process (`manifests`, `store`, …).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SourceId(pub Arc<str>);

/// Something that a source says. It may repeat, skip, or go back in time.
#[derive(Clone, Debug)]
pub enum Event {
    /// From here to `Synced` the source tells everything it has: what it does not repeat is gone by then, not before.
    Begin(SourceId),
    /// A fact is so.
    Set(SourceId, Resource),
    /// A fact is no more.
    Unset(SourceId, Key),
    /// A signed record or root record, as it travelled.
    Record(Bytes),
    /// A signed record or root record whose form and signature were found right by [`open`](crate::record::open).
    Opened(Arc<Opened>),
    /// The source has told everything.
    Synced(SourceId),
}

/// What an event changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Change {
    /// The facts that are different now: set, unset, or newly admitted or refused.
    pub dirty: BTreeSet<Key>,
    /// What was refused, and why.
    pub refusals: Vec<Refusal>,
}

impl Change {
    /// Tells whether nothing changed and nothing was refused.
    pub fn is_empty(&self) -> bool {
        self.dirty.is_empty() && self.refusals.is_empty()
    }

    /// Takes over what `other` changed.
    pub fn merge(&mut self, other: Change) {
        self.dirty.extend(other.dirty);
        self.refusals.extend(other.refusals);
    }
}

/// Something that was not believed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What was refused, as far as it could be read (`east slice/shop/node-1`).
    pub subject: String,
    /// Why.
    pub reason: RefusalReason,
    /// What about it, for a person.
    pub detail: String,
}

/// Why something was not believed: the counter's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RefusalReason {
    /// The bytes are no record.
    Malformed,
    /// Signed by a key that has no say, or not signed right.
    BadSignature,
    /// No grant for the cluster is known.
    NoGrant,
    /// The grant is not in force now.
    GrantExpired,
    /// The grant was revoked.
    Revoked,
    /// An address or prefix that the grant does not hold.
    OutsidePrefixes,
    /// An address or prefix that the grants of two clusters hold.
    Contested,
    /// A namespace that the grant does not hold.
    OutsideNamespaces,
    /// A service that the grant does not let the cluster export.
    OutsideExports,
    /// A workload that is not inside the prefixes of the node that it names.
    OutsideNode,
    /// A workload or link of a node that is not known (yet).
    UnknownNode,
    /// A workload of a namespace whose labels are not known (yet): who selects by what is absent would take it in.
    UnknownNamespace,
    /// Older than what was seen before, also before a restart.
    Replayed,
    /// The same version with other bytes: the cluster is quarantined.
    Equivocation,
    /// The cluster is quarantined.
    Quarantined,
    /// It speaks of another cluster than its signer's.
    ForeignCluster,
    /// A kind of fact that its source has no say in.
    NotAllowedHere,
    /// It is for another fleet.
    ForeignFleet,
    /// Dated further ahead than clocks differ.
    Future,
    /// More than the state keeps.
    OverLimit,
}

impl RefusalReason {
    /// Returns the reason in kebab case, as metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            RefusalReason::Malformed => "malformed",
            RefusalReason::BadSignature => "bad-signature",
            RefusalReason::NoGrant => "no-grant",
            RefusalReason::GrantExpired => "grant-expired",
            RefusalReason::Revoked => "revoked",
            RefusalReason::OutsidePrefixes => "outside-prefixes",
            RefusalReason::Contested => "contested",
            RefusalReason::OutsideNamespaces => "outside-namespaces",
            RefusalReason::OutsideExports => "outside-exports",
            RefusalReason::OutsideNode => "outside-node",
            RefusalReason::UnknownNode => "unknown-node",
            RefusalReason::UnknownNamespace => "unknown-namespace",
            RefusalReason::Replayed => "replayed",
            RefusalReason::Equivocation => "equivocation",
            RefusalReason::Quarantined => "quarantined",
            RefusalReason::ForeignCluster => "foreign-cluster",
            RefusalReason::NotAllowedHere => "not-allowed-here",
            RefusalReason::ForeignFleet => "foreign-fleet",
            RefusalReason::Future => "future",
            RefusalReason::OverLimit => "over-limit",
        }
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.subject, self.reason.as_str(), self.detail)
    }
}
