//! The protobuf messages of signed records. Numbers are never reused; a field that narrows what an older field says needs a
//! new [`Kind`], because a reader skips the fields that it does not know.

use prost::{Message, Oneof};

/// What is in an envelope's payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Record = 1,
    Grant = 2,
    Policies = 3,
    Revocation = 4,
}

impl Kind {
    pub(super) fn from_number(number: u32) -> Option<Kind> {
        [Kind::Record, Kind::Grant, Kind::Policies, Kind::Revocation].into_iter().find(|kind| *kind as u32 == number)
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Envelope {
    #[prost(uint32, tag = "1")]
    pub(super) kind: u32,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) payload: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) signer: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    pub(super) signature: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Record {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) fleet: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) cluster: String,
    #[prost(uint64, tag = "3")]
    pub(super) incarnation: u64,
    #[prost(uint64, tag = "4")]
    pub(super) counter: u64,
    #[prost(oneof = "Key", tags = "5, 6, 8, 9, 10, 12")]
    pub(super) key: Option<Key>,
    #[prost(message, repeated, tag = "11")]
    pub(super) resources: Vec<Resource>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Key {
    #[prost(string, tag = "5")]
    Node(String),
    #[prost(string, tag = "6")]
    Namespace(String),
    #[prost(string, tag = "8")]
    Export(String),
    #[prost(string, tag = "9")]
    Import(String),
    #[prost(bool, tag = "10")]
    Lease(bool),
    #[prost(message, tag = "12")]
    Slice(Slice),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Slice {
    #[prost(string, tag = "1")]
    pub(super) namespace: String,
    #[prost(string, tag = "2")]
    pub(super) node: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Resource {
    /// The cluster that the resource names, where it is not the record's.
    #[prost(string, tag = "1")]
    pub(super) cluster: String,
    #[prost(oneof = "Fact", tags = "2, 3, 4, 5, 6, 7, 8")]
    pub(super) fact: Option<Fact>,
}

#[derive(Clone, PartialEq, Oneof)]
pub(super) enum Fact {
    #[prost(message, tag = "2")]
    Node(Node),
    #[prost(message, tag = "3")]
    NodeLink(NodeLink),
    #[prost(message, tag = "4")]
    Namespace(Namespace),
    #[prost(message, tag = "5")]
    Workload(Workload),
    #[prost(message, tag = "6")]
    Export(Export),
    #[prost(message, tag = "7")]
    ServiceImport(ServiceImport),
    #[prost(message, tag = "8")]
    Lease(Lease),
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Label {
    #[prost(string, tag = "1")]
    pub(super) key: String,
    #[prost(string, tag = "2")]
    pub(super) value: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Prefix {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) address: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub(super) len: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct SocketAddress {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) address: Vec<u8>,
    #[prost(uint32, tag = "2")]
    pub(super) port: u32,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Node {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) labels: Vec<Label>,
    #[prost(bytes = "vec", repeated, tag = "3")]
    pub(super) addresses: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "4")]
    pub(super) prefixes: Vec<Prefix>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct NodeLink {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(bytes = "vec", tag = "2")]
    pub(super) key: Vec<u8>,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) next_key: Vec<u8>,
    #[prost(message, repeated, tag = "4")]
    pub(super) endpoints: Vec<SocketAddress>,
    #[prost(bytes = "vec", repeated, tag = "5")]
    pub(super) overlay: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Namespace {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(message, repeated, tag = "2")]
    pub(super) labels: Vec<Label>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Workload {
    #[prost(string, tag = "1")]
    pub(super) namespace: String,
    #[prost(string, tag = "2")]
    pub(super) name: String,
    #[prost(message, repeated, tag = "3")]
    pub(super) labels: Vec<Label>,
    #[prost(string, tag = "4")]
    pub(super) service_account: String,
    #[prost(string, optional, tag = "5")]
    pub(super) node: Option<String>,
    #[prost(bool, tag = "6")]
    pub(super) host_network: bool,
    #[prost(bytes = "vec", repeated, tag = "7")]
    pub(super) addresses: Vec<Vec<u8>>,
    #[prost(message, repeated, tag = "8")]
    pub(super) ports: Vec<Port>,
}

/// A port of any kind: what a kind does not have is absent.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Port {
    #[prost(string, optional, tag = "1")]
    pub(super) name: Option<String>,
    #[prost(uint32, tag = "2")]
    pub(super) protocol: u32,
    #[prost(uint32, optional, tag = "3")]
    pub(super) port: Option<u32>,
    #[prost(string, optional, tag = "4")]
    pub(super) app_protocol: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Endpoint {
    #[prost(bytes = "vec", repeated, tag = "1")]
    pub(super) addresses: Vec<Vec<u8>>,
    #[prost(bool, tag = "2")]
    pub(super) ready: bool,
    #[prost(string, optional, tag = "3")]
    pub(super) hostname: Option<String>,
    #[prost(string, optional, tag = "4")]
    pub(super) node: Option<String>,
    #[prost(message, repeated, tag = "5")]
    pub(super) ports: Vec<Port>,
    #[prost(bool, tag = "6")]
    pub(super) terminating: bool,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Export {
    #[prost(string, tag = "1")]
    pub(super) service: String,
    #[prost(uint64, optional, tag = "2")]
    pub(super) created: Option<u64>,
    #[prost(bool, tag = "3")]
    pub(super) headless: bool,
    #[prost(message, repeated, tag = "4")]
    pub(super) ports: Vec<Port>,
    /// `sessionAffinityConfig.clientIP.timeoutSeconds`; absent: no affinity.
    #[prost(uint32, optional, tag = "5")]
    pub(super) affinity_seconds: Option<u32>,
    #[prost(bool, tag = "6")]
    pub(super) publish_not_ready: bool,
    #[prost(message, repeated, tag = "7")]
    pub(super) endpoints: Vec<Endpoint>,
    /// The first group of backends: 0 anywhere, 1 region, 2 cluster, 3 zone, 4 node. A reader that knows none of these three
    /// spreads connections evenly; none of them permits anything.
    #[prost(uint32, tag = "8")]
    pub(super) first: u32,
    #[prost(bool, tag = "9")]
    pub(super) node_only: bool,
    /// Absent: the default.
    #[prost(uint32, optional, tag = "10")]
    pub(super) weight: Option<u32>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct ServiceImport {
    #[prost(string, tag = "1")]
    pub(super) service: String,
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub(super) addresses: Vec<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Lease {
    #[prost(uint64, tag = "1")]
    pub(super) issued: u64,
    #[prost(uint32, tag = "2")]
    pub(super) ttl_seconds: u32,
    #[prost(uint64, optional, tag = "3")]
    pub(super) policies: Option<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Grant {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) fleet: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) cluster: String,
    #[prost(bytes = "vec", tag = "3")]
    pub(super) key: Vec<u8>,
    #[prost(message, repeated, tag = "4")]
    pub(super) prefixes: Vec<Prefix>,
    #[prost(message, repeated, tag = "5")]
    pub(super) service_prefixes: Vec<Prefix>,
    #[prost(string, repeated, tag = "6")]
    pub(super) namespaces: Vec<String>,
    #[prost(string, repeated, tag = "7")]
    pub(super) exports: Vec<String>,
    #[prost(message, repeated, tag = "8")]
    pub(super) attributes: Vec<Label>,
    #[prost(uint64, tag = "9")]
    pub(super) not_before: u64,
    #[prost(uint64, tag = "10")]
    pub(super) not_after: u64,
    #[prost(uint64, tag = "11")]
    pub(super) epoch: u64,
    /// Empty: none. A reader that does not know it believes the key alone.
    #[prost(bytes = "vec", tag = "12")]
    pub(super) next_key: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Policies {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) fleet: Vec<u8>,
    #[prost(uint64, tag = "2")]
    pub(super) serial: u64,
    #[prost(message, repeated, tag = "3")]
    pub(super) manifests: Vec<Manifest>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Manifest {
    #[prost(string, tag = "1")]
    pub(super) file: String,
    #[prost(string, tag = "2")]
    pub(super) text: String,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Revocation {
    #[prost(bytes = "vec", tag = "1")]
    pub(super) fleet: Vec<u8>,
    #[prost(string, tag = "2")]
    pub(super) cluster: String,
    #[prost(uint64, tag = "3")]
    pub(super) epoch: u64,
}
