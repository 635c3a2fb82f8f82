//! `meshctl fleet show`: what git grants, and what a store says is in force.

use std::collections::BTreeMap;

use mesh_core::manifest::FleetFile;
use mesh_core::{ClusterName, Freshness, Now, PublicKey};
use mesh_source::keyfiles;
use serde::Serialize;

use super::ShowArgs;
use crate::api::Policies;
use crate::cli::agent::Output;
use crate::fleet::audit::{self, Audit};
use crate::fleet::{self, SignError};

#[derive(Serialize)]
struct Shown {
    name: String,
    root: Option<PublicKey>,
    clusters: BTreeMap<ClusterName, Cluster>,
    /// The files of the fleet policies.
    policies: Vec<String>,
    /// The policies that are signed, and where they are in force; with a store only.
    in_force: Option<Policies>,
    /// What agents refuse in the stores; `verify` tells it whole.
    refused: usize,
}

#[derive(Default, Serialize)]
struct Cluster {
    /// What git grants; missing for a cluster that only the store knows.
    granted: Option<Granted>,
    /// What the store says; missing without a store, and for a cluster that it does not know.
    live: Option<Live>,
}

#[derive(Serialize)]
struct Granted {
    key: Option<PublicKey>,
    next_key: Option<PublicKey>,
    prefixes: Vec<String>,
    service_prefixes: Vec<String>,
    namespaces: Vec<String>,
    exports: Vec<String>,
    attributes: BTreeMap<String, String>,
    not_before: Option<String>,
    not_after: Option<String>,
    epoch: u64,
    revoked_below: Option<u64>,
}

#[derive(Serialize)]
struct Live {
    /// `in force`, or why not: `revoked`, `grant-expired`.
    grant: String,
    epoch: u64,
    revoked_below: Option<u64>,
    days_left: Option<u64>,
    key: Option<PublicKey>,
    /// The key that signed all that the cluster says; missing where it was not one key.
    signs_with: Option<PublicKey>,
    /// How many records that say something each key has signed, where it was not one key.
    signed_by: BTreeMap<PublicKey, usize>,
    quarantined: bool,
    freshness: String,
    lease_issued: Option<String>,
    /// The serial of the fleet policies that are in force on all its nodes.
    policies: Option<u64>,
    nodes: usize,
    workloads: usize,
    exports: usize,
}

/// Prints the fleet.
pub(super) fn show(args: &ShowArgs) -> Result<(), SignError> {
    let file = fleet::read_fleet(&args.directory)?;
    let secret = args.directory.join("root.key");
    let root = match file.root {
        None if secret.exists() => Some(keyfiles::read_signing_key(&secret)?.public()),
        root => root,
    };
    let names = fleet::read_policies(&args.directory)?.into_iter().map(|(name, _)| name).collect();
    let mut shown =
        Shown { name: file.name.to_string(), root, clusters: granted(&file), policies: names, in_force: None, refused: 0 };
    if !args.store.is_empty() {
        let Some(root) = root else {
            return Err(SignError::Refused(format!(
                "{}: it does not name the root: write `root: KEY` into fleet.yaml",
                args.directory.join("fleet.yaml").display()
            )));
        };
        let mut records = Vec::new();
        for store in &args.store {
            records.extend(audit::read_store(store)?);
        }
        let now = fleet::now();
        shown.add_live(&audit::audit(&records, root, now), now);
    }
    if args.output == Output::Json {
        println!("{}", serde_json::to_string_pretty(&shown).expect("texts and numbers are JSON"));
    } else {
        shown.print();
    }
    Ok(())
}

fn granted(file: &FleetFile) -> BTreeMap<ClusterName, Cluster> {
    fn texts<T: ToString>(items: impl IntoIterator<Item = T>) -> Vec<String> {
        items.into_iter().map(|item| item.to_string()).collect()
    }
    let one = |(name, cluster): (&ClusterName, &mesh_core::manifest::FleetCluster)| {
        let granted = Granted {
            key: cluster.key,
            next_key: cluster.next_key,
            prefixes: texts(&cluster.prefixes),
            service_prefixes: texts(&cluster.service_prefixes),
            namespaces: texts(cluster.namespaces.iter().map(|pattern| &pattern.0)),
            exports: texts(&cluster.exports),
            attributes: cluster.attributes.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect(),
            not_before: cluster.not_before.map(|time| time.to_string()),
            not_after: cluster.not_after.map(|time| time.to_string()),
            epoch: cluster.epoch,
            revoked_below: file.revoked.get(name).copied(),
        };
        (name.clone(), Cluster { granted: Some(granted), live: None })
    };
    file.clusters.iter().map(one).collect()
}

impl Shown {
    fn add_live(&mut self, audit: &Audit, now: Now) {
        let state = &audit.state;
        let facts = state.facts();
        for (name, standing) in state.standings() {
            let lease = facts.leases.get(name);
            let mut signers = audit.signers.get(name).cloned().unwrap_or_default();
            signers.retain(|signer, _| standing.grant.keys().any(|key| key == *signer));
            let only = signers.keys().next().copied().filter(|_| signers.len() == 1);
            let live = Live {
                grant: standing.ended.map_or("in force", mesh_core::RefusalReason::as_str).to_owned(),
                epoch: standing.grant.epoch,
                revoked_below: standing.revoked,
                days_left: audit.days_left(&standing.grant, now),
                key: standing.grant.key,
                signs_with: only,
                signed_by: if only.is_some() { BTreeMap::new() } else { signers },
                quarantined: state.is_quarantined(name),
                freshness: freshness(state.freshness(name, now.wall)).to_owned(),
                lease_issued: lease.map(|lease| lease.issued.to_string()),
                policies: lease.and_then(|lease| lease.policies),
                nodes: facts.nodes.keys().filter(|node| node.cluster == *name).count(),
                workloads: facts.workloads.keys().filter(|id| id.cluster == *name).count(),
                exports: facts.exports.keys().filter(|(cluster, _)| cluster == name).count(),
            };
            self.clusters.entry(name.clone()).or_default().live = Some(live);
        }
        self.in_force = state.policies_serial().map(|serial| {
            let (active, clusters) = state.policies_active();
            Policies { serial, active, clusters }
        });
        self.refused = audit.findings.iter().filter(|finding| finding.wrong).count();
    }

    fn print(&self) {
        println!("fleet      {}", if self.name.is_empty() { "(no name)" } else { &self.name });
        println!("root key   {}", self.root.map_or("not named in fleet.yaml".into(), |root| root.to_string()));
        for (name, cluster) in &self.clusters {
            println!("\ncluster    {name}");
            match &cluster.granted {
                Some(granted) => granted.print(),
                None => println!("  in no file of git"),
            }
            if let Some(live) = &cluster.live {
                live.print();
            }
        }
        println!("\npolicies   {}", list(&self.policies));
        if let Some(Policies { serial, active, clusters }) = self.in_force {
            println!("           serial {serial}: active in {active} of {clusters}");
        }
        if self.refused > 0 {
            println!("refused    {} thing(s) in the stores: `meshctl fleet verify` tells which and why", self.refused);
        }
    }
}

impl Granted {
    fn print(&self) {
        println!("  key        {}", self.key.map_or("MISSING: `meshctl fleet join` makes one".into(), |key| key.to_string()));
        if let Some(next) = self.next_key {
            println!("  next key   {next}");
        }
        println!("  prefixes   {}", list(&self.prefixes));
        println!("  services   {}", list(&self.service_prefixes));
        println!("  namespaces {}", list(&self.namespaces));
        println!("  exports    {}", list(&self.exports));
        let attributes: Vec<_> = self.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
        println!("  attributes {}", list(&attributes));
        let (from, to) = (self.not_before.as_deref().unwrap_or("always"), self.not_after.as_deref().unwrap_or("ever"));
        println!("  valid      from {from} to {to}, epoch {}", self.epoch);
        if let Some(first) = self.revoked_below {
            println!("  revoked    below epoch {first}");
        }
    }
}

impl Live {
    fn print(&self) {
        let left = match self.days_left {
            Some(days) if self.grant == "in force" => format!(", ends in {days} days"),
            _ => String::new(),
        };
        let revoked = self.revoked_below.map_or(String::new(), |first| format!(", revoked below {first}"));
        println!("  signed     {} (epoch {}{revoked}){left}", self.grant, self.epoch);
        if self.quarantined {
            println!("  QUARANTINED: its key signed two records with one version");
        }
        if let (Some(key), true) = (self.signs_with, self.signs_with != self.key) {
            println!("  signs with {key}");
        }
        for (key, count) in &self.signed_by {
            println!("  signs with {key}: {count} record(s)");
        }
        println!("  lease      {}, issued {}", self.freshness, self.lease_issued.as_deref().unwrap_or("never"));
        println!("  policies   {}", self.policies.map_or("not said".into(), |serial| format!("serial {serial} on all nodes")));
        println!("  says       {} nodes, {} workloads, {} exports", self.nodes, self.workloads, self.exports);
    }
}

fn list(items: &[String]) -> String {
    if items.is_empty() { "none".into() } else { items.join(" ") }
}

fn freshness(freshness: Freshness) -> &'static str {
    match freshness {
        Freshness::Live => "live",
        Freshness::Suspect => "suspect",
        Freshness::Stale => "stale",
        Freshness::Expired => "expired",
    }
}
