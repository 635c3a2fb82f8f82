//! Grants: what the fleet's root lets a cluster speak for.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::prefix::overlapping;
use crate::{ClusterName, NamespaceName, Prefix, PublicKey, ServiceId, WallTime};

/// What a cluster may say, and what is true of it, by the word of the fleet's root. Absent means not granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grant {
    /// The cluster.
    pub cluster: ClusterName,
    /// The key that signs its records; `None` only in an offline check, where nothing is signed.
    pub key: Option<PublicKey>,
    /// The key that takes its place, accepted beside it until a grant names it alone: see [`Grant::keys`].
    pub next_key: Option<PublicKey>,
    /// The prefixes of its workloads.
    pub prefixes: Vec<Prefix>,
    /// The range from which its publisher allocates clusterset addresses.
    pub service_prefixes: Vec<Prefix>,
    /// The namespaces it may speak for.
    pub namespaces: Vec<NamePattern>,
    /// The services it may export.
    pub exports: Vec<ServicePattern>,
    /// Its attributes (`region`, `jurisdiction`, …), labels `cluster-mesh.io/<attribute>` of everything in it.
    pub attributes: BTreeMap<Arc<str>, Arc<str>>,
    /// The first moment of its validity.
    pub not_before: WallTime,
    /// The moment at which it ends.
    pub not_after: WallTime,
    /// The revocation epoch: a grant of an earlier epoch than the fleet's latest for the cluster is void.
    pub epoch: u64,
}

impl Grant {
    /// Tells whether the grant is in force at `now`.
    pub fn is_valid_at(&self, now: WallTime) -> bool {
        self.not_before <= now && now < self.not_after
    }

    /// Returns the keys whose signatures count: the key, and the one that follows it. Of two records about one thing the higher
    /// version counts, whichever key signed it.
    pub fn keys(&self) -> impl Iterator<Item = PublicKey> {
        self.key.into_iter().chain(self.next_key.filter(|next| self.key != Some(*next)))
    }

    /// Tells whether the cluster may speak for `namespace`.
    pub fn speaks_for(&self, namespace: &NamespaceName) -> bool {
        self.namespaces.iter().any(|pattern| pattern.matches(namespace.as_str()))
    }

    /// Tells whether the cluster may export `service`.
    pub fn may_export(&self, service: &ServiceId) -> bool {
        self.speaks_for(&service.namespace) && self.exports.iter().any(|pattern| pattern.matches(service))
    }

    /// Tells whether every address of `prefix` is the cluster's.
    pub fn covers(&self, prefix: Prefix) -> bool {
        self.prefixes.iter().any(|granted| granted.covers(prefix))
    }
}

/// Two clusters that are granted the same address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overlap<'a> {
    /// The place of the later one in what was given.
    pub index: usize,
    /// The earlier cluster.
    pub other: &'a str,
    /// What the earlier one is granted.
    pub theirs: Prefix,
}

impl Overlap<'_> {
    /// Returns what is wrong, for a person; `prefix` is what the later cluster is granted.
    pub fn message(&self, prefix: Prefix) -> String {
        let other: String = self.other.chars().take(80).collect();
        format!("{prefix} overlaps {} of cluster {other}: both may speak for the same addresses", self.theirs)
    }
}

/// Returns each prefix that has an address in common with one of another cluster before it. One other is enough to say: one for
/// every pair would be many times the input.
pub fn overlaps<'a>(granted: impl IntoIterator<Item = (&'a str, Prefix)>) -> Vec<Overlap<'a>> {
    let mut seen: BTreeMap<Prefix, BTreeSet<&str>> = BTreeMap::new();
    let mut found = Vec::new();
    for (index, (cluster, prefix)) in granted.into_iter().enumerate() {
        let first = overlapping(&seen, prefix).find_map(|(theirs, clusters)| {
            let other = clusters.iter().find(|other| **other != cluster)?;
            Some(Overlap { index, other, theirs })
        });
        found.extend(first);
        seen.entry(prefix).or_default().insert(cluster);
    }
    found
}

/// A name, or `*` for all of them, or a name's beginning with `*` after it (`team-*`).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NamePattern(pub Arc<str>);

impl NamePattern {
    /// Tells whether `name` is meant.
    pub fn matches(&self, name: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => *self.0 == *name,
        }
    }
}

/// `namespace/name`, each a [`NamePattern`]; `*` alone for every service.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServicePattern {
    /// The namespaces meant.
    pub namespace: NamePattern,
    /// The names meant.
    pub name: NamePattern,
}

impl ServicePattern {
    /// Tells whether `service` is meant.
    pub fn matches(&self, service: &ServiceId) -> bool {
        self.namespace.matches(service.namespace.as_str()) && self.name.matches(service.name.as_str())
    }
}

impl FromStr for ServicePattern {
    type Err = String;
    fn from_str(text: &str) -> Result<ServicePattern, String> {
        let (namespace, name) = match text.split_once('/') {
            Some(parts) => parts,
            None if text == "*" => ("*", "*"),
            None => {
                let text: String = text.chars().take(80).collect();
                return Err(format!("'{text}' is not of the form namespace/name, namespace/* or *"));
            }
        };
        Ok(ServicePattern { namespace: NamePattern(namespace.into()), name: NamePattern(name.into()) })
    }
}

impl fmt::Display for ServicePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace.0, self.name.0)
    }
}

impl TryFrom<String> for ServicePattern {
    type Error = String;
    fn try_from(text: String) -> Result<ServicePattern, String> {
        text.parse()
    }
}

impl From<ServicePattern> for String {
    fn from(pattern: ServicePattern) -> String {
        pattern.to_string()
    }
}
