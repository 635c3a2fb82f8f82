//! What the root has to sign, by the desired state and by what it has signed before.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use mesh_core::manifest::{FleetCluster, FleetFile};
use mesh_core::state::MAX_CLOCK_SKEW;
use mesh_core::{Bytes, ClusterName, Grant, Opened, PublicKey, RootRecord, Statement, WallTime, record};
use mesh_source::RecordPath;

/// A grant may begin this much after now and still count as begun: two of one second are told apart by nanoseconds.
const SLACK: Duration = Duration::from_secs(1);

/// What the files in git want.
#[derive(Clone, Debug, Default)]
pub struct Desired {
    /// Grants and revocations.
    pub fleet: FleetFile,
    /// The fleet policies.
    pub policies: Manifests,
}

/// What the root has signed before, as far as stores still have it.
#[derive(Clone, Debug, Default)]
pub struct Held {
    /// The grants of each cluster.
    pub grants: BTreeMap<ClusterName, Vec<(Arc<Grant>, Bytes)>>,
    /// The highest revocation of each cluster.
    pub revocations: BTreeMap<ClusterName, (u64, Bytes)>,
    /// The fleet policies of the highest serial.
    pub policies: Option<(u64, Manifests, Bytes)>,
    /// The stores that could not be read, and why.
    pub unread: Vec<String>,
}

/// Manifests by file name.
pub type Manifests = Vec<(String, String)>;

impl Held {
    /// Takes bytes in; tells whether they are a statement of the root with this key.
    pub fn take(&mut self, bytes: &Bytes, root: &PublicKey) -> bool {
        let Ok(opened) = record::open(bytes).map(Opened::into_contents) else { return false };
        let Statement::Root(statement) = opened.statement else { return false };
        if opened.signer != *root || opened.fleet != *root {
            return false;
        }
        match statement {
            RootRecord::Grant(grant) => {
                self.grants.entry(grant.cluster.clone()).or_default().push((grant, bytes.clone()));
            }
            RootRecord::Revocation { cluster, epoch } => {
                let known = self.revocations.entry(cluster).or_default();
                if epoch > known.0 {
                    *known = (epoch, bytes.clone());
                }
            }
            RootRecord::Policies { serial, manifests } => {
                if self.policies.as_ref().is_none_or(|(known, ..)| serial > *known) {
                    self.policies = Some((serial, manifests, bytes.clone()));
                }
            }
        }
        true
    }

    /// Returns the highest grant of a cluster.
    pub fn newest(&self, cluster: &ClusterName) -> Option<&(Arc<Grant>, Bytes)> {
        self.grants.get(cluster)?.iter().max_by_key(|(grant, _)| (grant.epoch, grant.not_before, grant.not_after))
    }

    /// Returns the first epoch of a cluster that counts.
    pub fn revoked(&self, cluster: &ClusterName) -> u64 {
        self.revocations.get(cluster).map_or(0, |(epoch, _)| *epoch)
    }
}

/// Something that shall be in every store.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// Where.
    pub path: RecordPath,
    /// What it says.
    pub statement: RootRecord,
    /// The bytes, where it was signed before.
    pub held: Option<Bytes>,
}

/// Everything that shall be in every store.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// The artifacts, grants first.
    pub wanted: Vec<Wanted>,
    /// What the root's owner should know.
    pub notes: Vec<String>,
}

/// Returns what shall be signed, and what stands. With `renew` everything is signed anew.
///
/// # Errors
/// Returns every reason for which something cannot be signed so that agents believe it, each with a way out.
pub fn plan(desired: &Desired, held: &Held, now: WallTime, renew: bool) -> Result<Plan, Vec<String>> {
    let (mut plan, mut problems) = (Plan { notes: held.unread.clone(), ..Plan::default() }, Vec::new());
    for (name, cluster) in &desired.fleet.clusters {
        let revoked = desired.fleet.revoked.get(name).copied().unwrap_or(0).max(held.revoked(name));
        if cluster.epoch < revoked {
            plan.notes.push(format!(
                "cluster {name} is revoked below epoch {revoked} and gets no grant; to let it back in, set `epoch: {revoked}` for it"
            ));
            continue;
        }
        let held =
            if renew { held.newest(name).map(|(grant, _)| (grant, None)) } else { held.newest(name).map(|(g, b)| (g, Some(b))) };
        match grant(name, cluster, held, now) {
            Ok(wanted) => plan.wanted.push(wanted),
            Err(problem) => problems.push(problem),
        }
    }
    for (name, (grant, _)) in held.grants.keys().filter_map(|name| Some((name, held.newest(name)?))) {
        if !desired.fleet.clusters.contains_key(name) && grant.epoch >= held.revoked(name) && now < grant.not_after {
            plan.notes.push(format!(
                "cluster {name} is in no file any more, and its grant is still good: `meshctl fleet revoke DIR {name}` ends it"
            ));
        }
    }
    for (name, epoch) in &desired.fleet.revoked {
        let known = held.revocations.get(name).filter(|(known, _)| known >= epoch);
        let epoch = known.map_or(*epoch, |(known, _)| *known);
        let statement = RootRecord::Revocation { cluster: name.clone(), epoch };
        let held = known.map(|(_, bytes)| bytes.clone()).filter(|_| !renew);
        plan.wanted.push(Wanted { path: RecordPath::revocation(name), statement, held });
    }
    plan.wanted.push(policies(desired, held, now, renew));
    if problems.is_empty() { Ok(plan) } else { Err(problems) }
}

fn grant(
    name: &ClusterName,
    cluster: &FleetCluster,
    held: Option<(&Arc<Grant>, Option<&Bytes>)>,
    now: WallTime,
) -> Result<Wanted, String> {
    let Some(key) = cluster.key else {
        return Err(format!(
            "cluster {name}: no key: `meshctl fleet join` makes one in that cluster, and writes its public half"
        ));
    };
    let one = FleetFile { clusters: [(name.clone(), cluster.clone())].into(), ..FleetFile::default() };
    let mut grant = one.grants().remove(0);
    grant.key = Some(key);
    let floor = grant.not_before;
    let mut begin = floor.max(now - MAX_CLOCK_SKEW);
    let mut bytes = None;
    if let Some((known, held)) = held {
        if known.epoch > grant.epoch {
            return Err(format!(
                "cluster {name}: a grant of epoch {0} is signed already and beats epoch {1}: set `epoch: {0}` or higher",
                known.epoch, grant.epoch
            ));
        }
        if known.epoch == grant.epoch {
            if known.not_before > floor.max(now) + SLACK {
                return Err(format!(
                    "cluster {name}: a grant that begins at {} is signed already and would take over then: set `epoch: {}` (or the \
                     clock, if that is not in the future)",
                    known.not_before,
                    grant.epoch + 1
                ));
            }
            grant.not_before = known.not_before;
            if known.not_before >= floor && grant == **known {
                bytes = held.cloned();
            }
            // Of two grants of one epoch the one that begins later counts.
            begin = begin.max(known.not_before + Duration::from_nanos(1));
        }
    }
    if bytes.is_none() {
        grant.not_before = begin;
    }
    if grant.not_after <= now {
        return Err(format!("cluster {name}: not_after: {} is over: set a later time, or remove the cluster", grant.not_after));
    }
    Ok(Wanted { path: RecordPath::grant(name), statement: RootRecord::Grant(Arc::new(grant)), held: bytes })
}

fn policies(desired: &Desired, held: &Held, now: WallTime, renew: bool) -> Wanted {
    let manifests = desired.policies.clone();
    let millis = now.as_unix_nanos() / 1_000_000;
    let (serial, held) = match &held.policies {
        Some((serial, known, bytes)) if *known == manifests && !renew => (*serial, Some(bytes.clone())),
        Some((serial, ..)) => (millis.max(serial + 1), None),
        None => (millis, None),
    };
    Wanted { path: RecordPath::policies(), statement: RootRecord::Policies { serial, manifests }, held }
}

#[cfg(test)]
mod tests {
    use mesh_core::SecretKey;

    use super::*;

    const NOW: WallTime = WallTime::from_unix_secs(1_800_000_000);

    fn root() -> SecretKey {
        SecretKey::from_bytes([7; 32])
    }

    fn east() -> ClusterName {
        ClusterName::new("east").expect("valid")
    }

    fn desired(change: impl FnOnce(&mut FleetCluster)) -> Desired {
        let mut cluster = FleetCluster {
            key: Some(SecretKey::from_bytes([1; 32]).public()),
            prefixes: vec!["10.1.0.0/16".parse().expect("valid")],
            ..FleetCluster::default()
        };
        change(&mut cluster);
        let fleet = FleetFile { clusters: [(east(), cluster)].into(), ..FleetFile::default() };
        Desired { fleet, policies: vec![("a.yaml".into(), String::new())] }
    }

    /// Signs what is wanted; returns how much of it is new.
    fn sign(held: &mut Held, desired: &Desired, now: WallTime) -> usize {
        let plan = plan(desired, held, now, false).expect("a plan");
        let new: Vec<_> = plan.wanted.iter().filter(|wanted| wanted.held.is_none()).collect();
        for wanted in &new {
            assert!(held.take(&wanted.statement.sign(&root()).expect("fits"), &root().public()));
        }
        new.len()
    }

    #[test]
    fn what_says_the_same_is_not_signed_again_and_what_says_something_else_counts() {
        let (mut held, day) = (Held::default(), Duration::from_secs(86_400));
        assert_eq!(sign(&mut held, &desired(|_| ()), NOW), 2);
        assert_eq!(sign(&mut held, &desired(|_| ()), NOW + day), 0);
        // At the same moment, and by a clock that went back some minutes: the newer grant has the higher rank all the same.
        for (second, now) in [(1, NOW), (2, NOW - Duration::from_secs(240))] {
            let changed = desired(|cluster| cluster.prefixes.push(format!("10.2.{second}.0/24").parse().expect("valid")));
            assert_eq!(sign(&mut held, &changed, now), 1);
            assert_eq!(sign(&mut held, &changed, now), 0);
            assert_eq!(held.newest(&east()).expect("signed").0.prefixes, changed.fleet.clusters[&east()].prefixes);
        }
        let again = plan(&desired(|_| ()), &held, NOW, true).expect("a plan");
        assert!(again.wanted.iter().all(|wanted| wanted.held.is_none()));
    }

    #[test]
    fn policies_get_a_higher_serial_only_when_they_are_others() {
        let mut held = Held::default();
        let mut wants = desired(|_| ());
        assert_eq!(sign(&mut held, &wants, NOW), 2);
        let first = held.policies.clone().expect("signed").0;
        wants.policies.push(("b.yaml".into(), "x".into()));
        assert_eq!(sign(&mut held, &wants, NOW - Duration::from_secs(9)), 1);
        assert_eq!(held.policies.clone().expect("signed").0, first + 1);
        assert_eq!(sign(&mut held, &wants, NOW), 0);
    }

    #[test]
    fn a_revoked_cluster_gets_a_grant_of_the_new_epoch_only() {
        let mut held = Held::default();
        sign(&mut held, &desired(|_| ()), NOW);
        let mut wants = desired(|_| ());
        wants.fleet.revoked.insert(east(), 1);
        assert_eq!(sign(&mut held, &wants, NOW), 1, "the revocation");
        let plan = plan(&wants, &held, NOW, false).expect("a plan");
        assert!(plan.notes[0].contains("epoch: 1") && plan.wanted.len() == 2, "{plan:?}");
        let mut back = desired(|cluster| cluster.epoch = 1);
        back.fleet.revoked.insert(east(), 1);
        assert_eq!(sign(&mut held, &back, NOW), 1, "the grant");
        assert_eq!(held.newest(&east()).expect("signed").0.epoch, 1);
    }

    #[test]
    fn what_agents_would_not_believe_is_refused_with_a_way_out() {
        let mut held = Held::default();
        sign(&mut held, &desired(|cluster| cluster.epoch = 3), NOW);
        let problem = |held: &Held, wants: &Desired| plan(wants, held, NOW, false).expect_err("a problem").remove(0);
        assert!(problem(&held, &desired(|_| ())).contains("set `epoch: 3` or higher"));
        assert!(problem(&held, &desired(|cluster| cluster.key = None)).contains("fleet join"));
        let over = desired(|cluster| (cluster.epoch, cluster.not_after) = (3, Some(NOW)));
        assert!(problem(&held, &over).contains("not_after"));
        // A grant for next year is signed; dropping the date would let it take over next year.
        let next_year = NOW + Duration::from_secs(365 * 86_400);
        let later = desired(|cluster| (cluster.epoch, cluster.not_before) = (4, Some(next_year)));
        assert_eq!(sign(&mut held, &later, NOW), 1);
        assert_eq!(sign(&mut held, &later, NOW), 0);
        assert!(problem(&held, &desired(|cluster| cluster.epoch = 4)).contains("epoch: 5"));
        // A cluster that no file names any more is not forgotten.
        let notes = plan(&Desired::default(), &held, NOW, false).expect("a plan").notes;
        assert!(notes[0].contains("fleet revoke DIR east"), "{notes:?}");
        // What another root signed is not ours.
        let foreign = RootRecord::Revocation { cluster: east(), epoch: 9 }.sign(&SecretKey::from_bytes([8; 32])).expect("fits");
        assert!(!held.take(&foreign, &root().public()) && held.revoked(&east()) == 0);
    }
}
