//! Everything that is signed in a store, judged by the production state: what is refused and why, what is in force.

use std::collections::BTreeMap;

use mesh_core::grant::overlaps;
use mesh_core::{
    Bytes, ClusterName, Contents, Event, Now, Opened, PublicKey, Record, RefusalReason, RootRecord, Settings, State, StateConfig,
    Statement, Trust, record,
};
use mesh_source::RecordPath;
use serde::Serialize;

use super::{SignError, block_on};
use crate::config::StoreConfig;

/// A grant that ends within this many days is told of.
pub const ENDING_DAYS: u64 = 30;
const DAY: u64 = 86_400;

/// Something that is wrong, or odd.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Agents refuse it, or a secret is in danger; else it is worth a look.
    pub wrong: bool,
    /// The file, or the cluster.
    pub place: String,
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub way_out: String,
}

impl Finding {
    /// Makes one that fails the check.
    pub fn error(place: impl Into<String>, what: impl Into<String>, way_out: impl Into<String>) -> Finding {
        Finding { wrong: true, place: place.into(), what: what.into(), way_out: way_out.into() }
    }

    /// Makes one that is only told.
    pub fn warning(place: impl Into<String>, what: impl Into<String>, way_out: impl Into<String>) -> Finding {
        Finding { wrong: false, ..Finding::error(place, what, way_out) }
    }
}

/// What a store's records make of the state of somebody who is in none of the clusters.
#[derive(Debug)]
pub struct Audit {
    /// The state.
    pub state: State,
    /// Refusals, by path, and oddities.
    pub findings: Vec<Finding>,
    /// How many statements of the root and how many records of clusters were read.
    pub read: (usize, usize),
    /// How many records that say something each key has signed of each cluster, also a stranger's.
    pub signers: BTreeMap<ClusterName, BTreeMap<PublicKey, usize>>,
}

/// A record of a store: where it lies, and its bytes.
pub type Stored = (RecordPath, Bytes);

/// Reads every record of a store.
pub fn read_store(config: &StoreConfig) -> Result<Vec<Stored>, SignError> {
    block_on(async {
        let (store, mut records) = (config.open("--store")?, Vec::new());
        for path in store.list().await? {
            if let Some(bytes) = store.get(&path).await? {
                records.push((path, bytes));
            }
        }
        Ok(records)
    })?
}

/// Judges records by the root's public key, at `now`.
pub fn audit(records: &[Stored], root: PublicKey, now: Now) -> Audit {
    let opened = records.iter().map(|(path, bytes)| (path, bytes, record::open(bytes).ok()));
    let mut ordered: Vec<(&RecordPath, &Bytes, Option<Opened>)> = opened.collect();
    // What allows comes before what is allowed, and a node before what is judged by its prefixes: what is refused then, is.
    ordered.sort_by_key(|(path, _, opened)| {
        let rank = match opened.as_ref().map(|opened| &opened.statement) {
            Some(Statement::Root(RootRecord::Revocation { .. })) => 0,
            Some(Statement::Root(_)) => 1,
            Some(Statement::Record(_)) => 2,
            None => 3,
        };
        let record = opened.as_ref().and_then(|opened| match &opened.statement {
            Statement::Record(Record { cluster, key, .. }) => Some((cluster.clone(), key.clone())),
            Statement::Root(_) => None,
        });
        (rank, path.is_seen_in(), record, (*path).clone())
    });
    let names: Vec<_> = ordered.iter().filter_map(|(_, _, opened)| cluster_of(opened.as_ref()?)).collect();
    let mut audit = Audit { state: onlooker(root, &names), findings: Vec::new(), read: (0, 0), signers: BTreeMap::new() };
    for (path, bytes, opened) in ordered {
        *if path.is_root() { &mut audit.read.0 } else { &mut audit.read.1 } += 1;
        let misplaced = opened.as_ref().map(home).filter(|home| home != path && !path.is_seen_in());
        let change = audit.state.apply(Event::Record(bytes.clone()), now);
        for refusal in change.refusals {
            let what = format!("{}: {}: {}", refusal.subject, refusal.reason.as_str(), refusal.detail);
            // A mirror keeps copies of different age on purpose, and a grant of a cluster that is out is no lie.
            let is_old = path.is_seen_in() && refusal.reason == RefusalReason::Replayed;
            let is_over = matches!(refusal.reason, RefusalReason::Revoked | RefusalReason::GrantExpired);
            let finding = Finding { wrong: !is_old && !is_over, ..Finding::error(path.as_str(), what, way_out(refusal.reason)) };
            audit.findings.push(finding);
        }
        if let Some(home) = misplaced {
            let what = format!("it is the record of {home}");
            audit.findings.push(Finding::warning(
                path.as_str(),
                what,
                "remove the copy: a newer record does not replace it here",
            ));
        }
        // A tombstone is one whoever signed it: it is not signed again with another key.
        if let Some(Contents { signer, statement: Statement::Record(record), .. }) = opened.map(Opened::into_contents)
            && !record.resources.is_empty()
        {
            *audit.signers.entry(record.cluster).or_default().entry(signer).or_default() += 1;
        }
    }
    audit.look_at_grants(now);
    audit
}

impl Audit {
    /// Tells whether nothing is wrong.
    pub fn is_clean(&self) -> bool {
        self.findings.iter().all(|finding| !finding.wrong)
    }

    /// Returns how many days are left of a grant that ends; `None` for one without an end.
    pub fn days_left(&self, grant: &mesh_core::Grant, now: Now) -> Option<u64> {
        let ends = grant.not_after.as_unix_nanos() < u64::MAX;
        ends.then(|| grant.not_after.since(now.wall).as_secs() / DAY)
    }

    fn look_at_grants(&mut self, now: Now) {
        let standings: Vec<_> = self.state.standings().filter(|(_, standing)| standing.ended.is_none()).collect();
        let mut more = Vec::new();
        for (name, standing) in &standings {
            if let Some(days) = self.days_left(&standing.grant, now).filter(|days| *days < ENDING_DAYS) {
                let what = format!("the grant ends at {}, in {days} days", standing.grant.not_after);
                more.push(Finding::warning(
                    name.as_str(),
                    what,
                    "set a later not_after in its file and run `meshctl fleet grant`",
                ));
            }
            if self.state.is_quarantined(name) {
                let what = "quarantined: its key signed two records with one version";
                more.push(Finding::error(
                    name.as_str(),
                    what,
                    "find out who has its key; then revoke, and grant a new key in the new epoch",
                ));
            }
        }
        let granted: Vec<_> =
            standings.iter().flat_map(|(name, standing)| standing.grant.prefixes.iter().map(|p| (name.as_str(), *p))).collect();
        for overlap in overlaps(granted.iter().copied()) {
            let (name, prefix) = granted[overlap.index];
            more.push(Finding::warning(name, overlap.message(prefix), "grant each prefix to one cluster"));
        }
        self.findings.extend(more);
    }
}

/// Makes the state of somebody whose own cluster is none of `names`: it takes nothing but signed facts.
fn onlooker(root: PublicKey, names: &[ClusterName]) -> State {
    let mut own = "onlooker".to_owned();
    while names.iter().any(|name| name.as_str() == own) {
        own.push('x');
    }
    State::new(StateConfig {
        fleet: "".into(),
        trust: Trust::Signed { root, cluster: ClusterName::new(&own).expect("letters are a name") },
        settings: Settings::default(),
        domains: Default::default(),
    })
}

fn cluster_of(opened: &Opened) -> Option<ClusterName> {
    match &opened.statement {
        Statement::Record(record) => Some(record.cluster.clone()),
        Statement::Root(RootRecord::Grant(grant)) => Some(grant.cluster.clone()),
        Statement::Root(RootRecord::Revocation { cluster, .. }) => Some(cluster.clone()),
        Statement::Root(RootRecord::Policies { .. }) => None,
    }
}

/// Returns where a record belongs in a store.
fn home(opened: &Opened) -> RecordPath {
    match &opened.statement {
        Statement::Record(record) => RecordPath::record(&record.cluster, &record.key),
        Statement::Root(RootRecord::Grant(grant)) => RecordPath::grant(&grant.cluster),
        Statement::Root(RootRecord::Revocation { cluster, .. }) => RecordPath::revocation(cluster),
        Statement::Root(RootRecord::Policies { .. }) => RecordPath::policies(),
    }
}

/// Returns what to do about something that was refused.
fn way_out(reason: RefusalReason) -> &'static str {
    match reason {
        RefusalReason::Malformed => "damaged or foreign: remove the file; the publisher or `meshctl fleet grant` puts it again",
        RefusalReason::BadSignature => "signed by a key without a say: grant that key, or remove the file",
        RefusalReason::NoGrant => "grant the cluster (`meshctl fleet grant`), or remove its records",
        RefusalReason::GrantExpired => "set a later not_after in the cluster's file and run `meshctl fleet grant`",
        RefusalReason::Revoked => "nothing, where the cluster shall be out; to let it back in, grant it in the new epoch",
        RefusalReason::OutsidePrefixes | RefusalReason::OutsideNamespaces | RefusalReason::OutsideExports => {
            "widen the grant in the cluster's file, or correct what the cluster says"
        }
        RefusalReason::Contested => "grant each prefix to one cluster",
        RefusalReason::OutsideNode | RefusalReason::UnknownNode => "correct the node's podCIDRs, or where the workload runs",
        RefusalReason::UnknownNamespace => "nothing, if the namespace's record comes; else look at that cluster's publisher",
        RefusalReason::Replayed => "older than what is known: remove the file",
        RefusalReason::Equivocation | RefusalReason::Quarantined => {
            "find out who else has the cluster's key; then `meshctl fleet revoke`, and grant a new key in the new epoch"
        }
        RefusalReason::ForeignCluster | RefusalReason::NotAllowedHere => {
            "its signer may not say this: look at that cluster's publisher"
        }
        RefusalReason::ForeignFleet => "it is another fleet's: remove the file, or give the right --root",
        RefusalReason::Future => "set the clock of the cluster's publisher, or this machine's",
        RefusalReason::OverLimit => "more than agents keep: look at what that cluster publishes",
    }
}
