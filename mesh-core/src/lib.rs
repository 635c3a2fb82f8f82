//! Vocabulary and fleet state of a Landbridge mesh.

pub mod event;
pub mod flow;
pub mod grant;
pub mod identity;
pub mod keys;
pub mod labels;
pub mod manifest;
pub mod name;
pub mod policy;
pub mod prefix;
pub mod publish;
pub mod record;
pub mod resource;
pub mod service;
pub mod settings;
pub mod snapshot;
pub mod state;
pub mod time;
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
pub use record::{Opened, Record, RecordError, RecordKey, RootRecord, SignError, Statement, Version};
pub use resource::{
    Endpoint, EndpointPort, EndpointSlice, Export, Key, Lease, NamedPort, Namespace, Node, NodeLink, Protocol, Resource, Service,
    ServiceExport, ServiceImport, ServiceKind, ServicePort, SessionAffinity, WireGuardKey, Workload,
};
pub use service::{Backend, ExportCondition, ExportValidity, Exporter, ImportedService, ImportedServices, LocalService};
pub use settings::{CrossClusterDefault, Settings};
pub use snapshot::SnapshotError;
pub use state::{Facts, Freshness, Located, State, StateConfig, Trust};
pub use time::{Now, Time, WallTime};
pub use verdict::{Direction, Reason, RuleId, RuleName, Tier, Verdict};
