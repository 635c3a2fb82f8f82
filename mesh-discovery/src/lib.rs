//! Native DNS of a Landbridge mesh: `cluster.local` and `clusterset.local` from services and exports.
//!
//! ```text
//!   State ── Services ── ZoneBuilder ──> Zone ──> Resolver ──> bytes back to the client
//!            (pure, one per cluster,      │       │   ▲
//!             each change at its cost)    │       ▼   │  names outside the zones
//!   sockets (Server) <── poll_* ──────────┼── forwarded queries <── handle_* ── upstreams
//!                                         ▼
//!   programs <── Zone::lookup, Zone::changes_since
//! ```
//!
//! A [`Zone`] is a snapshot that readers share; [`ZoneBuilder`] keeps the latest one in step. Programs that want names without
//! DNS ask it directly: the example `names` looks some up and follows a change over a `tokio::sync::watch`.
//!
//! What the rules of discovery (SEMANTICS §3) say, where they are, and what holds them:
//!
//! | rule | where | test |
//! | --- | --- | --- |
//! | 1 importable where the namespace exists; nothing without a Service or of ExternalName | `mesh_core`: `State::exports`, `State::imported_services` | `a_service_is_importable_where_its_namespace_exists`, `an_export_is_consent_…` |
//! | 2 the oldest decides, ports merged, conflicts told | `mesh_core`: `service/merge.rs` | `the_oldest_export_decides_…`, `ports_are_merged_…`, `a_missing_timestamp_…` |
//! | 3 ClusterSetIP regardless of endpoints, from the ServiceImport or allocated | `zone/entry.rs`, `mesh_core`: `service/import.rs` | `rule_3_a_clusterset_ip_answers_without_endpoints` |
//! | 4 headless: ready endpoints of all clusters, names per endpoint, NXDOMAIN without any | `zone/entry.rs`, `zone/entry/fill.rs` | `rule_4_…` |
//! | 5 SRV at the port's name and the service's, nothing for one cluster | `zone.rs`, `zone/entry/fill.rs` | `rule_5_…` |
//! | 6 negative answers, case, versions, reverse names | `zone.rs`, `zone/reverse.rs`, `resolver/local.rs`, `wire.rs` | `rule_6_…` |
//! | 7 own cluster only in `cluster.local`, the rest forwarded | `zone/builder.rs`, `resolver/forward.rs` | `rule_7_…`, `tests/discovery/server.rs` |
//!
//! All of it is also told record by record (`zone/tests/naive.rs`), and a property holds the zone to that after random edits.
//!
//! Choices where the specifications leave one:
//! - The SRV records of a headless service have the endpoint's port, which is what a client connects to, not the Service's.
//! - There are no pod records (`10-1-0-5.shop.pod.cluster.local`): NXDOMAIN. They say nothing that the address does not.
//! - An address with names in both zones has one PTR record for each of them, those of `cluster.local` first.
//! - A CNAME of an ExternalName service is followed: inside the zones at once, else at the upstreams.
//! - Without upstreams, names outside the zones are refused (REFUSED).
//!
//! ```
//! use mesh_core::{ClusterName, manifest::Checked};
//! use mesh_discovery::{DnsChecker, ZoneConfig};
//!
//! let files = [
//!     ("clusters/east/web.yaml", "
//! {apiVersion: v1, kind: Service, metadata: {name: web, namespace: prod}, spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}}
//! ---
//! {apiVersion: multicluster.x-k8s.io/v1beta1, kind: ServiceExport, metadata: {name: web, namespace: prod}}
//! "),
//!     ("clusters/west/prod.yaml", "
//! {apiVersion: v1, kind: Namespace, metadata: {name: prod}}
//! ---
//! apiVersion: multicluster.x-k8s.io/v1beta1
//! kind: ServiceImport
//! metadata: {name: web, namespace: prod}
//! spec: {type: ClusterSetIP, ips: [100.80.0.1], ports: [{port: 80, protocol: TCP}]}
//! "),
//! ];
//! let checked = Checked::load(files).expect("correct manifests");
//! let mut checker = DnsChecker::new(&checked.state, ZoneConfig::default());
//! let answer = checker.answer_line(r#"{"id": 1, "cluster": "west", "name": "web.prod.svc.clusterset.local", "type": "A"}"#);
//! let json = serde_json::to_string(&answer).expect("plain data");
//! assert_eq!(json, r#"{"id":1,"rcode":"NOERROR","answer":["A 100.80.0.1"],"soa":false}"#);
//! ```

pub mod answer;
pub mod check;
pub(crate) mod name;
pub mod resolver;
pub mod server;
pub(crate) mod wire;
pub mod zone;

pub use answer::{Answer, AnswerError, AnswerRecord};
pub use check::{DnsAnswer, DnsChecker, DnsOutcome, DnsQuery, DnsQueryError};
pub use resolver::{Counters, Entropy, ForwardId, Handled, Reply, Resolver, ResolverConfig, Responder, Transmit};
pub use server::{BindError, QueryError, Server, ServerCounters, ServerHandle, ServerLimits, ServerStats};
pub use wire::Transport;
pub use zone::{Area, Lookup, Record, RecordType, Zone, ZoneBuilder, ZoneChange, ZoneConfig, ZoneConfigError};
