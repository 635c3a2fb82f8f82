//! From what is offered to what is believed, one fact at a time.

use super::{Origin, Refused, State, Trust};
use crate::{Change, ClusterName, Key, Refusal, RefusalReason, Resource};

impl State {
    /// Takes back what `origin` offered for `key`.
    pub(super) fn withdraw(&mut self, key: &Key, origin: &Origin, change: &mut Change) {
        if self.unoffer(key, origin) {
            self.refresh(key, change);
        }
    }

    /// Forgets what `origin` offered for `key`, without looking at the fact anew.
    pub(super) fn unoffer(&mut self, key: &Key, origin: &Origin) -> bool {
        let Some(by) = self.offered.get_mut(key) else { return false };
        let gone = by.remove(origin);
        if by.is_empty() {
            self.offered.remove(key);
        }
        gone
    }

    /// Derives the admitted fact of `key` from what is offered for it, and what depends on it.
    pub(super) fn refresh(&mut self, key: &Key, change: &mut Change) {
        let (admitted, refused) = self.judge(key);
        self.note_refused(key, refused, change);
        let counts = admitted.as_ref().is_some_and(|(origin, _)| self.makes_namespace(origin, key));
        let admitted = admitted.map(|(_, resource)| resource);
        let before = match &admitted {
            Some(resource) => self.facts.insert(resource.clone()),
            None => self.facts.remove(key),
        };
        let counted = before.is_some() && !self.derived.contains(key);
        if counted != counts {
            if counts {
                self.namespaces.add(key);
            } else {
                self.namespaces.remove(key);
            }
            change.dirty.insert(key.clone());
        }
        if admitted.is_some() && !counts {
            self.derived.insert(key.clone())
        } else {
            self.derived.remove(key)
        };
        if before == admitted {
            return;
        }
        if let Some(before) = &before {
            self.addresses.remove(before);
            self.services.remove(before);
        }
        if let Some(after) = &admitted {
            self.addresses.add(after);
            self.services.add(after);
        }
        change.dirty.insert(key.clone());
        match key {
            Key::Grant(cluster) => {
                self.index_prefixes(cluster, change);
                self.refresh_cluster(cluster, change);
            }
            Key::Node(node) => {
                for key in self.dependents(node) {
                    self.refresh(&key, change);
                }
            }
            Key::Namespace(cluster, name) if before.is_some() != admitted.is_some() => {
                for key in self.workloads_in(cluster, name) {
                    if admitted.is_none() || self.is_judged(&key) {
                        self.refresh(&key, change);
                    }
                }
            }
            Key::ServiceExport(cluster, id) => {
                let signed = Key::Export(cluster.clone(), id.clone());
                if self.offered.contains_key(&signed) {
                    self.refresh(&signed, change);
                }
            }
            _ => {}
        }
    }

    /// Tells whether a fact is refused for what it says itself. What is not, while its cluster is being looked at, has its turn
    /// after the nodes: nothing is refused on the way that is not at the end.
    fn is_judged(&self, key: &Key) -> bool {
        let of_cluster = [RefusalReason::NoGrant, RefusalReason::GrantExpired, RefusalReason::Revoked];
        self.refused.get(key).is_some_and(|refused| !of_cluster.contains(&refused.refusal.reason))
    }

    /// Looks anew at all that is offered of `cluster`, but its grant.
    pub(super) fn refresh_cluster(&mut self, cluster: &ClusterName, change: &mut Change) {
        let of_cluster = |key: &&Key| key.cluster() == Some(cluster) && !matches!(key, Key::Grant(_));
        for key in self.offered.keys().filter(of_cluster).cloned().collect::<Vec<_>>() {
            self.refresh(&key, change);
        }
    }

    /// Returns what counts of what is offered for `key`, and the first of it that is refused.
    fn judge(&self, key: &Key) -> (Option<(Origin, Resource)>, Option<Refused>) {
        let mut refused = None;
        let mut admitted: Option<(&Origin, &Resource)> = None;
        for (origin, resource) in self.offered.get(key).into_iter().flatten() {
            if self.is_over(origin, key) {
                continue;
            }
            match self.admit(origin, resource) {
                Ok(()) => {
                    // A ServiceImport without addresses leaves them to the publisher.
                    if admitted.is_none_or(|(_, first)| is_blank(first) && !is_blank(resource)) {
                        admitted = Some((origin, resource));
                    }
                }
                Err((reason, detail)) => {
                    refused.get_or_insert_with(|| Refused {
                        refusal: Refusal { subject: key.to_string(), reason, detail },
                        addresses: match (origin, resource) {
                            (Origin::Source(_), Resource::Workload(workload)) => workload.addresses.clone(),
                            _ => Vec::new(),
                        },
                    });
                }
            }
        }
        (admitted.map(|(origin, resource)| (origin.clone(), resource.clone())), refused)
    }

    /// Tells whether a signed export of the own cluster has no manifest any more: its publisher has not heard of it yet.
    fn is_over(&self, origin: &Origin, key: &Key) -> bool {
        match (&self.config.trust, origin, key) {
            (Trust::Signed { cluster: own, .. }, Origin::Record(..), Key::Export(cluster, id)) => {
                own == cluster && !self.facts.service_exports.contains_key(&(cluster.clone(), id.clone()))
            }
            _ => false,
        }
    }

    fn note_refused(&mut self, key: &Key, refused: Option<Refused>, change: &mut Change) {
        let before = self.refused.get(key);
        if before == refused.as_ref() {
            return;
        }
        change.dirty.insert(key.clone());
        let told = before.is_some_and(|before| refused.as_ref().is_some_and(|refused| refused.refusal == before.refusal));
        if let Some(before) = self.refused.remove(key) {
            self.addresses.unrefuse(&before.addresses, key);
        }
        if let Some(refused) = refused {
            self.addresses.refuse(&refused.addresses, key);
            if !told {
                self.count_refusal(change, refused.refusal.clone());
            }
            self.refused.insert(key.clone(), refused);
        }
    }

    pub(super) fn count_refusal(&mut self, change: &mut Change, refusal: Refusal) {
        *self.refusals.entry(refusal.reason).or_default() += 1;
        change.refusals.push(refusal);
    }

    /// Tells whether a fact has part in its namespace's existence. What a publisher derived from a namespace's existence does
    /// not, or nothing could ever end it: allocated addresses, and all records of the own cluster.
    fn makes_namespace(&self, origin: &Origin, key: &Key) -> bool {
        match (origin, &self.config.trust) {
            (Origin::Source(_), _) => true,
            (Origin::Record(..), Trust::Signed { cluster, .. }) => {
                key.cluster() != Some(cluster) && !matches!(key, Key::ServiceImport(..))
            }
            _ => false,
        }
    }

    /// Keeps the index of the fleet's prefixes: the grant in force names them, else the last one that was.
    pub(super) fn index_prefixes(&mut self, cluster: &ClusterName, change: &mut Change) {
        let in_force = self.facts.grants.get(cluster);
        let known = || self.ledger.clusters.get(cluster)?.deciding(self.now.wall);
        let grant = in_force.or_else(known);
        let prefixes = grant.map(|grant| grant.prefixes.as_slice()).unwrap_or_default();
        if let Some(concerned) = self.prefixes.set(cluster, prefixes, in_force.is_some()) {
            change.dirty.insert(Key::Grant(cluster.clone()));
            for other in concerned {
                self.refresh_cluster(&other, change);
            }
        }
    }
}

fn is_blank(resource: &Resource) -> bool {
    matches!(resource, Resource::ServiceImport(import) if import.addresses.is_empty())
}
