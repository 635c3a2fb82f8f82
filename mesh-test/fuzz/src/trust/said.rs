//! Records and grants from bytes: few names, few addresses, and everything that can be odd about them.

use std::net::IpAddr;
use std::sync::Arc;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use mesh_core::{
    Endpoint, Export, Grant, Labels, Lease, NamePattern, NamedPort, Namespace, NamespaceName, Node, NodeId, NodeLink, ObjectName,
    Prefix, Protocol, Record, RecordKey, Resource, RootRecord, ServiceId, ServiceImport, ServiceKind, SessionAffinity, Traffic,
    Version, WallTime, WireGuardKey, Workload, WorkloadId,
};

use super::{START, cluster, first_grant, key};

const PREFIXES: [&str; 9] = [
    "10.1.0.0/16",
    "10.2.0.0/16",
    "10.1.1.0/24",
    "10.2.1.0/24",
    "10.1.128.0/17",
    "10.0.0.0/8",
    "0.0.0.0/0",
    "fd00:1::/48",
    "10.1.1.5/32",
];
const ADDRESSES: [&str; 8] =
    ["10.1.1.5", "10.1.1.6", "10.2.1.5", "10.1.200.1", "10.9.9.9", "192.0.2.1", "fd00:1::5", "100.80.1.9"];
const NAMESPACES: [&str; 3] = ["shop", "team-a", "bank"];
const SERVICES: [&str; 3] = ["shop/db", "shop/web", "bank/db"];
const LABELS: [(&str, &str); 4] = [("app", "web"), ("app", "db"), ("cluster-mesh.io/cluster", "west"), ("tier", "x")];

fn pick<T: std::str::FromStr<Err: std::fmt::Debug>>(u: &mut Unstructured<'_>, of: &[&str]) -> Result<T> {
    Ok(u.choose(of)?.parse().expect("valid"))
}

fn some<T>(u: &mut Unstructured<'_>, most: usize, mut one: impl FnMut(&mut Unstructured<'_>) -> Result<T>) -> Result<Vec<T>> {
    (0..u.int_in_range(0..=most)?).map(|_| one(u)).collect()
}

fn prefixes(u: &mut Unstructured<'_>, most: usize) -> Result<Vec<Prefix>> {
    some(u, most, |u| pick(u, &PREFIXES))
}

fn addresses(u: &mut Unstructured<'_>) -> Result<Vec<IpAddr>> {
    some(u, 2, |u| pick(u, &ADDRESSES))
}

fn labels(u: &mut Unstructured<'_>) -> Result<Labels> {
    Ok(some(u, 2, |u| u.choose(&LABELS).copied())?.into_iter().collect())
}

fn node(u: &mut Unstructured<'_>) -> Result<ObjectName> {
    pick(u, &["n1", "n2", "n3"])
}

fn namespace(u: &mut Unstructured<'_>) -> Result<NamespaceName> {
    pick(u, &NAMESPACES)
}

fn service(u: &mut Unstructured<'_>) -> Result<ServiceId> {
    pick(u, &SERVICES)
}

fn endpoint(u: &mut Unstructured<'_>) -> Result<Endpoint> {
    let addresses = addresses(u)?;
    Ok(Endpoint { addresses, ready: u.arbitrary()?, terminating: false, hostname: None, node: None, ports: Vec::new() })
}

fn record_key(u: &mut Unstructured<'_>) -> Result<RecordKey> {
    Ok(match u.int_in_range(0..=6)? {
        0 => RecordKey::Node(node(u)?),
        1 => RecordKey::Namespace(namespace(u)?),
        2 | 3 => RecordKey::Slice(namespace(u)?, node(u)?),
        4 => RecordKey::Export(service(u)?),
        5 => RecordKey::Import(service(u)?),
        _ => RecordKey::Lease,
    })
}

/// Returns a record of a cluster: mostly about what its key says, sometimes about something else.
pub fn record(u: &mut Unstructured<'_>) -> Result<Record> {
    let (own, key) = (cluster(u.int_in_range(0..=3)?), record_key(u)?);
    let version = match u.arbitrary::<u8>()? {
        255 => Version { incarnation: u64::MAX, counter: u64::MAX },
        few => Version { incarnation: u64::from(few & 1) + 1, counter: u64::from(few >> 1) },
    };
    let about = if u.ratio(1, 10)? { record_key(u)? } else { key.clone() };
    let of = if u.ratio(1, 10)? { cluster(u.arbitrary()?) } else { own.clone() };
    let resources = match about {
        RecordKey::Node(name) => {
            let id = NodeId { cluster: of, name };
            let node = Node { id: id.clone(), labels: labels(u)?, addresses: addresses(u)?, prefixes: prefixes(u, 2)? };
            let overlay = addresses(u)?;
            let link = NodeLink { id, key: WireGuardKey([u.arbitrary()?; 32]), next_key: None, endpoints: Vec::new(), overlay };
            if u.ratio(1, 2)? { vec![Resource::Node(node)] } else { vec![Resource::Node(node), Resource::NodeLink(link)] }
        }
        RecordKey::Namespace(name) => vec![Resource::Namespace(Namespace { cluster: of, name, labels: labels(u)? })],
        RecordKey::Slice(namespace, node) => some(u, 4, |u| {
            let id = WorkloadId { cluster: of.clone(), namespace: namespace.clone(), name: pick(u, &["a", "b", "c"])? };
            Ok(Resource::Workload(Workload {
                id,
                labels: labels(u)?,
                service_account: "web".into(),
                node: if u.ratio(1, 20)? { None } else { Some(node.clone()) },
                host_network: u.ratio(1, 20)?,
                addresses: addresses(u)?,
                ports: some(u, 1, |u| Ok(NamedPort { name: "http".into(), protocol: Protocol::Tcp, port: u.arbitrary()? }))?,
            }))
        })?,
        RecordKey::Export(id) => {
            let kind = if u.arbitrary()? { ServiceKind::ClusterIp } else { ServiceKind::Headless };
            vec![Resource::Export(Export {
                cluster: of,
                id,
                created: None,
                kind,
                ports: Vec::new(),
                affinity: SessionAffinity::None,
                traffic: Traffic::default(),
                publish_not_ready: u.arbitrary()?,
                endpoints: some(u, 3, endpoint)?,
            })]
        }
        RecordKey::Import(id) => vec![Resource::ServiceImport(ServiceImport { cluster: of, id, addresses: addresses(u)? })],
        RecordKey::Lease => vec![Resource::Lease(lease(u, of)?)],
    };
    let resources = if u.ratio(1, 6)? { Vec::new() } else { resources };
    Ok(Record { cluster: own, version, key, resources })
}

fn lease(u: &mut Unstructured<'_>, cluster: mesh_core::ClusterName) -> Result<Lease> {
    let issued = WallTime::from_unix_secs(START + *u.choose(&[0, 10, 30, 299, 301, 9_000])?);
    Ok(Lease { cluster, issued, ttl_seconds: *u.choose(&[0, 30, u32::MAX])?, policies: u.arbitrary()? })
}

/// Returns a statement of the root: mostly a grant.
pub fn root_record(u: &mut Unstructured<'_>) -> Result<RootRecord> {
    let number = u.int_in_range(0..=3)?;
    Ok(match u.int_in_range(0..=6)? {
        0 => RootRecord::Revocation { cluster: cluster(number), epoch: u.int_in_range(0..=4)? },
        1 => RootRecord::Policies {
            serial: u.int_in_range(0..=4)?,
            manifests: some(u, 2, |u| Ok(("p.yaml".to_owned(), u.arbitrary::<&str>()?.to_owned())))?,
        },
        _ => RootRecord::Grant(Arc::new(grant(u, number)?)),
    })
}

fn grant(u: &mut Unstructured<'_>, number: u8) -> Result<Grant> {
    let first = first_grant(number);
    let time = |u: &mut Unstructured<'_>, of: &[u64]| u.choose(of).map(|at| WallTime::from_unix_secs(START - 200 + *at));
    Ok(Grant {
        key: Some(key(u.int_in_range(0..=7)?).public()),
        next_key: if u.arbitrary()? { Some(key(u.int_in_range(0..=7)?).public()) } else { None },
        prefixes: if u.ratio(1, 3)? { first.prefixes } else { prefixes(u, 3)? },
        service_prefixes: prefixes(u, 1)?,
        namespaces: some(u, 2, |u| u.choose(&["shop", "team-*", "*", "bank"]).map(|text| NamePattern((*text).into())))?,
        exports: some(u, 2, |u| pick(u, &["shop/db", "*", "bank/*"]))?,
        not_before: time(u, &[0, 100, 250, 400])?,
        not_after: time(u, &[150, 300, 500, 20_000])?,
        epoch: u.int_in_range(0..=4)?,
        ..first
    })
}

/// Returns the number of a key of a cluster, or of somebody else.
pub fn signer(u: &mut Unstructured<'_>, record: &Record) -> Result<u8> {
    let own = super::CLUSTERS.iter().position(|name| *name == record.cluster.as_str()).expect("one of them") as u8 + 1;
    if u.ratio(1, 5)? { u.int_in_range(0..=7) } else { Ok(own) }
}
