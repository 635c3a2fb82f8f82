//! What the fleet's root says: grants, revocations, fleet policies.

use bytes::Bytes;

use super::ledger::{Policies, Sha};
use super::{Origin, State};
use crate::policy::PolicyScope;
use crate::{Change, Key, RefusalReason, Resource, RootRecord, manifest};

impl State {
    pub(super) fn take_root(&mut self, record: RootRecord, subject: &str, digest: Sha, bytes: Bytes, change: &mut Change) {
        match record {
            RootRecord::Grant(grant) => {
                let name = grant.cluster.clone();
                let cluster = self.ledger.clusters.entry(name.clone()).or_default();
                let known = cluster.grants.iter().any(|known| known.grant == grant);
                let superseded = cluster.deciding(self.now.wall).is_some_and(|known| {
                    (grant.epoch, grant.not_before) < (known.epoch, known.not_before) && grant.not_before <= self.now.wall
                });
                let void = cluster.revoked.as_ref().is_some_and(|(epoch, _)| grant.epoch < *epoch);
                let kept = self.ledger.note_grant(grant, digest, bytes);
                if void && !known {
                    self.refuse(change, subject, RefusalReason::Revoked, "its epoch is revoked");
                } else if (superseded && !known) || !kept {
                    self.refuse(change, subject, RefusalReason::Replayed, "a newer grant is known");
                }
                self.settle(&name, change);
                self.watch(&name, change);
            }
            RootRecord::Revocation { cluster: name, epoch } => {
                let cluster = self.ledger.clusters.entry(name.clone()).or_default();
                match &cluster.revoked {
                    Some((known, _)) if *known == epoch => return,
                    Some((known, _)) if *known > epoch => {
                        let detail = format!("epochs below {known} are revoked already");
                        return self.refuse(change, subject, RefusalReason::Replayed, detail);
                    }
                    _ => cluster.revoked = Some((epoch, bytes)),
                }
                self.settle(&name, change);
                self.watch(&name, change);
            }
            RootRecord::Policies { serial, manifests } => {
                let known = self.ledger.policies.as_ref().map(|known| (known.serial, known.digest));
                if known == Some((serial, digest)) {
                    return;
                }
                // The root has no twin to fear but a person's slip: the digest decides, so that all agree.
                if let Some((newer, _)) = known.filter(|known| *known > (serial, digest)) {
                    return self.refuse(change, subject, RefusalReason::Replayed, format!("serial {newer} is known"));
                }
                match fleet_policies(&manifests) {
                    Err(detail) => self.refuse(change, subject, RefusalReason::Malformed, detail),
                    Ok(resources) => {
                        let keys = resources.iter().map(Resource::key).collect();
                        let old = self.ledger.policies.replace(Policies { serial, digest, bytes, keys });
                        let old = old.map(|old| (Origin::Root, old.keys));
                        self.replace(old, Some((Origin::Root, resources)), change);
                    }
                }
            }
        }
    }
}

/// Reads the manifests of the fleet policies: all of them, or none where one is broken, for a policy that is left out may be
/// the one that denies.
fn fleet_policies(manifests: &[(String, String)]) -> Result<Vec<Resource>, String> {
    let mut resources = Vec::new();
    for (file, text) in manifests {
        let parsed = manifest::parse(&manifest::ManifestSource { file, scope: PolicyScope::Fleet }, text);
        if let Some(error) = parsed.errors.first() {
            return Err(error.to_string());
        }
        for (resource, location) in parsed.resources {
            match resource.key() {
                Key::NetworkPolicy(PolicyScope::Fleet, ..) | Key::ClusterNetworkPolicy(PolicyScope::Fleet, _) => {
                    resources.push(resource);
                }
                key => return Err(format!("{location}: {key} is no fleet policy")),
            }
        }
    }
    Ok(resources)
}
