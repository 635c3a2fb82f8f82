//! The offline checker: what a cluster's workloads would be told, without a network.
//!
//! Every answer is a real query message through the production [`Resolver`], read back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use domain::base::iana::Rtype;
use domain::base::{Message, MessageBuilder, ParsedName, RecordData};
use domain::rdata::AllRecordData;
use mesh_core::{ClusterName, State, Time};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::name;
use crate::resolver::{Reply, Resolver, ResolverConfig};
use crate::wire::Transport;
use crate::zone::{Area, Zone, ZoneConfig};

/// One question of the checker: `{"id": 1, "cluster": "east", "name": "web.prod.svc.clusterset.local", "type": "A"}`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct DnsQuery {
    /// Whatever the asker calls the question; it comes back with the answer.
    #[serde(default)]
    pub id: Value,
    /// The cluster whose workload asks.
    pub cluster: String,
    /// The name, always absolute, with or without a final dot.
    pub name: String,
    /// The record type (`A`, `AAAA`, `SRV`, `CNAME`, `PTR`, `TXT`, …).
    #[serde(rename = "type")]
    pub rtype: String,
}

/// One answer of the checker, a JSON object.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct DnsAnswer {
    /// The question's id.
    pub id: Value,
    /// What a client would be told, or why the question makes no sense.
    #[serde(flatten)]
    pub outcome: DnsOutcome,
}

/// What the checker says about a question.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum DnsOutcome {
    /// The reply.
    Reply {
        /// The reply's code, or `FORWARD` for a name that the upstreams would be asked for.
        rcode: String,
        /// The records of the answer section as text, sorted, each once.
        answer: Vec<String>,
        /// The authority section has the zone's SOA record.
        soa: bool,
    },
    /// The question cannot be understood.
    Error {
        /// Why.
        error: String,
    },
}

/// Why a question cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DnsQueryError {
    /// Not a JSON object with the right fields.
    #[error("not a DNS query: {0}")]
    Json(String),
    /// No fact names the cluster.
    #[error("cluster '{0}' is not known")]
    UnknownCluster(String),
    /// Not a DNS name.
    #[error("'{0}' is not a DNS name")]
    Name(String),
    /// Not a record type that can be asked for.
    #[error("'{0}' is not a DNS record type")]
    Type(String),
}

/// Answers questions about a state; builds the zone of a cluster when it is first asked about.
pub struct DnsChecker<'a> {
    state: &'a State,
    config: ZoneConfig,
    clusters: BTreeSet<ClusterName>,
    zones: BTreeMap<ClusterName, Arc<Zone>>,
}

impl<'a> DnsChecker<'a> {
    /// Makes a checker of what `state` says. The clusters that can be asked for are those that some fact names.
    pub fn new(state: &'a State, config: ZoneConfig) -> DnsChecker<'a> {
        DnsChecker { state, config, clusters: clusters_of(state), zones: BTreeMap::new() }
    }

    /// Returns the checker with `clusters` known as well: those whose directory has no manifest.
    #[must_use]
    pub fn with_clusters(mut self, clusters: impl IntoIterator<Item = ClusterName>) -> DnsChecker<'a> {
        self.clusters.extend(clusters);
        self
    }

    /// Answers a line of JSON.
    pub fn answer_line(&mut self, line: &str) -> DnsAnswer {
        match serde_json::from_str::<DnsQuery>(line) {
            Ok(query) => self.answer(&query),
            Err(error) => {
                // Name the question all the same where its id can be read.
                let value: Option<Value> = serde_json::from_str(line).ok();
                let id = value.and_then(|value| value.get("id").cloned()).unwrap_or_default();
                DnsAnswer { id, outcome: DnsOutcome::Error { error: DnsQueryError::Json(error.to_string()).to_string() } }
            }
        }
    }

    /// Answers a question.
    pub fn answer(&mut self, query: &DnsQuery) -> DnsAnswer {
        let outcome = self.outcome(query).unwrap_or_else(|error| DnsOutcome::Error { error: error.to_string() });
        DnsAnswer { id: query.id.clone(), outcome }
    }

    fn outcome(&mut self, query: &DnsQuery) -> Result<DnsOutcome, DnsQueryError> {
        let cluster = ClusterName::new(&query.cluster).ok().filter(|cluster| self.clusters.contains(cluster));
        let cluster = cluster.ok_or_else(|| DnsQueryError::UnknownCluster(query.cluster.clone()))?;
        let qname = name::parse(&query.name).ok_or_else(|| DnsQueryError::Name(query.name.clone()))?;
        let rtype: Rtype = query.rtype.to_ascii_uppercase().parse().map_err(|_| DnsQueryError::Type(query.rtype.clone()))?;
        let zone =
            self.zones.entry(cluster).or_insert_with_key(|cluster| Arc::new(Zone::build(self.state, cluster, &self.config)));
        if zone.find(qname.for_slice()).area == Area::Outside {
            return Ok(DnsOutcome::Reply { rcode: "FORWARD".into(), answer: Vec::new(), soa: false });
        }
        let mut message = MessageBuilder::new_vec();
        message.header_mut().set_rd(true);
        let mut message = message.question();
        message.push((&qname, rtype)).expect("a vector has room for one question");
        let mut resolver = Resolver::new(ResolverConfig::default(), zone.clone(), Box::new(|| 0));
        // TCP: the answer is not cut to what a datagram takes.
        let reply = resolver.handle_message(&message.finish(), Transport::Tcp, (), Time::default());
        let Reply::Answer(bytes) = reply else { unreachable!("a resolver without upstreams answers every query") };
        Ok(decode(&bytes).expect("the resolver writes messages that can be read"))
    }
}

impl DnsAnswer {
    /// Tells whether the question made sense.
    pub fn is_understood(&self) -> bool {
        matches!(self.outcome, DnsOutcome::Reply { .. })
    }
}

fn decode(bytes: &[u8]) -> Option<DnsOutcome> {
    let message = Message::from_octets(bytes).ok()?;
    let (_, answers, authority, _) = message.sections().ok()?;
    let texts = answers.limit_to::<AllRecordData<_, ParsedName<_>>>().map(|record| record.ok().map(|record| text(record.data())));
    let texts: BTreeSet<String> = texts.collect::<Option<_>>()?;
    let soa = authority.flatten().any(|record| record.rtype() == Rtype::SOA);
    Some(DnsOutcome::Reply { rcode: message.header().rcode().to_string(), answer: texts.into_iter().collect(), soa })
}

/// Writes a record's type and data. Names are in lower case and end in a dot; an SRV record is its port and target.
fn text(data: &AllRecordData<&[u8], ParsedName<&[u8]>>) -> String {
    let name = |name: &ParsedName<&[u8]>| format!("{}.", name.to_string().to_ascii_lowercase().trim_end_matches('.'));
    match data {
        AllRecordData::A(data) => format!("A {}", data.addr()),
        AllRecordData::Aaaa(data) => format!("AAAA {}", data.addr()),
        AllRecordData::Srv(data) => format!("SRV {} {}", data.port(), name(data.target())),
        AllRecordData::Cname(data) => format!("CNAME {}", name(data.cname())),
        AllRecordData::Ptr(data) => format!("PTR {}", name(data.ptrdname())),
        AllRecordData::Txt(data) => format!("TXT {}", String::from_utf8_lossy(&data.text::<Vec<u8>>())),
        other => format!("{} {other}", other.rtype()),
    }
}

fn clusters_of(state: &State) -> BTreeSet<ClusterName> {
    let facts = state.facts();
    let mut clusters: BTreeSet<ClusterName> = facts.grants.keys().cloned().collect();
    clusters.extend(facts.leases.keys().cloned());
    clusters.extend(facts.namespaces.keys().map(|key| key.0.clone()));
    clusters.extend(facts.nodes.keys().map(|key| key.cluster.clone()));
    clusters.extend(facts.workloads.keys().map(|key| key.cluster.clone()));
    clusters.extend(facts.services.keys().map(|key| key.0.clone()));
    clusters.extend(facts.slices.keys().map(|key| key.0.clone()));
    clusters.extend(facts.service_exports.keys().map(|key| key.0.clone()));
    clusters.extend(facts.service_imports.keys().map(|key| key.0.clone()));
    clusters.extend(facts.exports.keys().map(|key| key.0.clone()));
    let policies = facts.network_policies.keys().map(|key| &key.0).chain(facts.cluster_policies.keys().map(|key| &key.0));
    clusters.extend(policies.filter_map(|scope| match scope {
        mesh_core::policy::PolicyScope::Cluster(cluster) => Some(cluster.clone()),
        mesh_core::policy::PolicyScope::Fleet => None,
    }));
    clusters
}
