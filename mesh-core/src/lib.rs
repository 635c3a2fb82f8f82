//! Vocabulary and fleet state of a Landbridge mesh: who is who, who may say what, and what is believed now.
//!
//! ```text
//!   own cluster:   manifests, Kubernetes ──Set, Unset──┐
//!                                                      ├──> State ──> Facts, Change ──> policy, DNS, plan
//!   the others:    signed bytes ────────────Record─────┘      │
//!                       ^                                     ├──> snapshot  (the last known state, for the disk)
//!                       │                                     └──> refusals  (what was not believed, and why)
//!              Publisher (own State, cluster key)
//!                       ^
//!              Grant (root key): prefixes, namespaces, exports
//! ```
//!
//! Everything here is pure: bytes, events and the time come in, values go out. What is believed is a function of what is
//! known and of the time, whatever the order in which it was told: an event may repeat, be skipped, or come late.
//!
//! One publisher for each cluster signs what its [`State`] knows; another cluster's [`State`] believes it inside the grant
//! that the fleet's root signed, and refuses the rest with a reason:
//!
//! ```
//! # use std::{collections::BTreeMap, sync::Arc};
//! # use mesh_core::*;
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (root, east_key) = (SecretKey::from_bytes([1; 32]), SecretKey::from_bytes([2; 32]));
//! let grant = Grant {
//!     cluster: "east".parse()?,
//!     key: Some(east_key.public()),
//!     next_key: None,
//!     prefixes: vec!["10.1.0.0/16".parse()?],
//!     service_prefixes: vec![],
//!     namespaces: vec![NamePattern("shop".into())],
//!     exports: vec![],
//!     attributes: BTreeMap::new(),
//!     not_before: WallTime::from_unix_secs(0),
//!     not_after: WallTime::from_unix_secs(1000),
//!     epoch: 1,
//! };
//! let grant = RootRecord::Grant(Arc::new(grant)).sign(&root)?;
//! let now = Now { time: Time::ZERO, wall: WallTime::from_unix_secs(10) };
//! let state = |cluster: &str| -> Result<State, NameError> {
//!     let trust = Trust::Signed { root: root.public(), cluster: cluster.parse()? };
//!     Ok(State::new(StateConfig { fleet: "demo".into(), trust, settings: Settings::default(), domains: BTreeMap::new() }))
//! };
//!
//! // East tells its own state what it has, from a plain source, and its publisher signs it.
//! let mut east = state("east")?;
//! let source = SourceId("manifests".into());
//! let shop = Namespace { cluster: "east".parse()?, name: "shop".parse()?, labels: [("team", "blue")].into_iter().collect() };
//! let _ = east.apply(Event::Record(grant.clone()), now);
//! let _ = east.apply(Event::Begin(source.clone()), now);
//! let _ = east.apply(Event::Set(source.clone(), Resource::Namespace(shop)), now);
//! let _ = east.apply(Event::Synced(source), now);
//! let mut publisher = Publisher::new("east".parse()?, east_key.clone(), root.public(), 1);
//! let records = publisher.update(&east, now);
//!
//! // West believes it, because the root's grant says that it may be said.
//! let mut west = state("west")?;
//! let _ = west.apply(Event::Record(grant), now);
//! for (_, bytes) in records {
//!     assert!(west.apply(Event::Record(bytes), now).refusals.is_empty());
//! }
//! assert!(west.namespace_exists(&"east".parse()?, &"shop".parse()?));
//!
//! // It does not believe what is outside the grant, whoever signed it.
//! let bank = Namespace { cluster: "east".parse()?, name: "bank".parse()?, labels: Labels::default() };
//! let lie = Record {
//!     cluster: "east".parse()?,
//!     version: Version { incarnation: 1, counter: 100 },
//!     key: RecordKey::Namespace("bank".parse()?),
//!     resources: vec![Resource::Namespace(bank)],
//! };
//! let change = west.apply(Event::Record(lie.sign(&root.public(), &east_key)?), now);
//! assert_eq!(change.refusals[0].reason, RefusalReason::OutsideNamespaces);
//! # Ok(())
//! # }
//! ```

pub mod event;
pub mod flow;
pub mod grant;
pub mod identity;
pub mod interest;
pub mod keys;
pub mod labels;
pub mod manifest;
pub mod name;
pub mod policy;
pub mod prefix;
pub mod publish;
pub mod rate;
pub mod record;
pub mod resource;
pub mod service;
pub mod settings;
pub mod snapshot;
pub mod state;
pub mod time;
pub mod traffic;
pub mod verdict;

pub use bytes::Bytes;
pub use event::{Change, Event, Refusal, RefusalReason, SourceId};
pub use flow::{FiveTuple, FlowEnd, FlowEvent, FlowRecord};
pub use grant::{Grant, NamePattern, ServicePattern};
pub use identity::{Identities, Identity, IdentityHandle, IdentityName};
pub use keys::{PublicKey, SecretKey};
pub use labels::{Labels, Requirement, Selector};
pub use name::{ClusterName, NameError, NamespaceName, NodeId, ObjectName, ServiceId, WorkloadId};
pub use prefix::{Prefix, PrefixMap};
pub use publish::{Publisher, RestoreError};
pub use record::{Contents, Opened, Record, RecordError, RecordKey, RootRecord, SignError, Statement, Version};
pub use resource::{
    Endpoint, EndpointPort, EndpointSlice, Export, Key, Lease, NamedPort, Namespace, Node, NodeLink, Protocol, Resource, Service,
    ServiceExport, ServiceImport, ServiceKind, ServicePort, SessionAffinity, WireGuardKey, Workload,
};
pub use service::{
    Backend, ExportCondition, ExportValidity, Exporter, ImportedService, ImportedServices, LocalService, Services,
};
pub use settings::{CrossClusterDefault, Settings};
pub use snapshot::SnapshotError;
pub use state::{Facts, Freshness, GrantStanding, Located, State, StateConfig, Trust};
pub use time::{Now, Time, WallTime};
pub use traffic::{ExportTraffic, Locality, Traffic};
pub use verdict::{Direction, Reason, RuleId, RuleName, Tier, Verdict};
