//! What a cluster has to say, from its state.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Memory;
use crate::service::allocate;
use crate::{
    Export, Grant, Labels, Namespace, NamespaceName, NodeId, ObjectName, Prefix, RecordKey, Resource, ServiceId, ServiceImport,
    ServiceKind, State, WallTime,
};

type Records = BTreeMap<RecordKey, Vec<Resource>>;

/// Returns what each record of the grant's cluster is to say.
pub(super) fn derive(state: &State, grant: &Grant, memory: &mut Memory, now: WallTime) -> Records {
    let mut records = Records::new();
    nodes(state, grant, &mut records);
    namespaces(state, grant, &mut records);
    slices(state, grant, &mut records);
    exports(state, grant, memory, now, &mut records);
    imports(state, grant, memory, &mut records);
    records
}

fn nodes(state: &State, grant: &Grant, records: &mut Records) {
    let facts = state.facts();
    for node in facts.nodes.values().filter(|node| node.id.cluster == grant.cluster) {
        let link = facts.links.get(&node.id).cloned().map(Resource::NodeLink);
        let resources = [Resource::Node(node.clone())].into_iter().chain(link);
        let resources: Vec<_> = resources.filter(|resource| state.may_publish(grant, resource)).collect();
        records.insert(RecordKey::Node(node.id.name.clone()), resources);
    }
}

/// Namespaces that exist only because something is in them are published too: elsewhere they would not exist.
fn namespaces(state: &State, grant: &Grant, records: &mut Records) {
    for name in state.namespaces(&grant.cluster).filter(|name| grant.speaks_for(name)) {
        let declared = state.facts().namespaces.get(&(grant.cluster.clone(), name.clone())).cloned();
        let implied = || Namespace { cluster: grant.cluster.clone(), name: name.clone(), labels: Labels::default() };
        let namespace = declared.unwrap_or_else(implied);
        records.insert(RecordKey::Namespace(name.clone()), vec![Resource::Namespace(namespace)]);
    }
}

fn slices(state: &State, grant: &Grant, records: &mut Records) {
    let mut slices: BTreeMap<(&NamespaceName, &ObjectName), Vec<Resource>> = BTreeMap::new();
    for workload in state.facts().workloads.values() {
        let Some(node) = &workload.node else { continue };
        if workload.id.cluster != grant.cluster || workload.host_network || workload.addresses.is_empty() {
            continue;
        }
        let resource = Resource::Workload(workload.clone());
        if state.may_publish(grant, &resource) {
            slices.entry((&workload.id.namespace, node)).or_default().push(resource);
        }
    }
    records.extend(
        slices.into_iter().map(|((namespace, node), resources)| (RecordKey::Slice(namespace.clone(), node.clone()), resources)),
    );
}

fn exports(state: &State, grant: &Grant, memory: &mut Memory, now: WallTime, records: &mut Records) {
    // A signed export of the own cluster stands for a manifest: without the manifest it is over.
    let manifest = |export: &Export| state.facts().service_exports.contains_key(&(export.cluster.clone(), export.id.clone()));
    let own = |export: &Export| export.cluster == grant.cluster && manifest(export) && grant.may_export(&export.id);
    let exports: Vec<Export> = state.exports().into_iter().filter(own).collect();
    let ids: BTreeSet<&ServiceId> = exports.iter().map(|export| &export.id).collect();
    memory.exports.retain(|id, _| ids.contains(id));
    for mut export in exports {
        export.created = Some(*memory.exports.entry(export.id.clone()).or_insert(now));
        // Backends outside the grant (host-network pods have their node's address) cannot be reached through the mesh.
        for endpoint in &mut export.endpoints {
            endpoint.addresses.retain(|address| grant.covers(Prefix::host(*address)));
        }
        export.endpoints.retain(|endpoint| !endpoint.addresses.is_empty());
        records.insert(RecordKey::Export(export.id.clone()), vec![Resource::Export(export)]);
    }
}

/// Allocates clusterset addresses, one for each family with a range, for the services that no manifest gives addresses.
fn imports(state: &State, grant: &Grant, memory: &mut Memory, records: &mut Records) {
    let cluster = &grant.cluster;
    let imported = state.imported_services(cluster).services;
    let open = |id: &&ServiceId| {
        let cluster_ip = imported.get(*id).is_some_and(|service| service.kind == ServiceKind::ClusterIp);
        cluster_ip && grant.speaks_for(&id.namespace) && state.manifest_addresses(cluster, id).is_empty()
    };
    let ids: BTreeSet<ServiceId> = imported.keys().filter(open).cloned().collect();
    let of_manifests = state.facts().service_imports.keys().filter(|key| key.0 == *cluster);
    let declared: BTreeSet<IpAddr> = of_manifests.flat_map(|key| state.manifest_addresses(cluster, &key.1)).copied().collect();
    let mut taken = declared.clone();
    memory.imports.retain(|id, addresses| {
        // What a manifest names is another service's from then on: no address is ever two services'.
        let is_granted = |address: &IpAddr| grant.service_prefixes.iter().any(|range| range.contains(*address));
        addresses.retain(|address| is_granted(address) && !declared.contains(address));
        taken.extend(addresses.iter().copied());
        ids.contains(id)
    });
    for id in ids {
        let addresses = memory.imports.entry(id.clone()).or_default();
        for v4 in [true, false] {
            if addresses.iter().any(|address| address.is_ipv4() == v4) {
                continue;
            }
            let mut ranges = grant.service_prefixes.iter().filter(|range| range.is_ipv4() == v4);
            let address = ranges.find_map(|range| allocate(*range, &taken, &id));
            taken.extend(address);
            addresses.extend(address);
        }
        if !addresses.is_empty() {
            let import = ServiceImport { cluster: cluster.clone(), id: id.clone(), addresses: addresses.clone() };
            records.insert(RecordKey::Import(id), vec![Resource::ServiceImport(import)]);
        }
    }
}

impl State {
    /// Tells whether others would believe `resource` from the publisher of the grant's cluster.
    fn may_publish(&self, grant: &Grant, resource: &Resource) -> bool {
        let node = match resource {
            Resource::Workload(workload) => workload.node.as_ref().map(|name| (name, &workload.addresses)),
            Resource::NodeLink(link) => Some((&link.id.name, &link.overlay)),
            _ => None,
        };
        let in_node = node.is_none_or(|(name, addresses)| {
            self.check_node(&NodeId { cluster: grant.cluster.clone(), name: name.clone() }, addresses).is_ok()
        });
        in_node && crate::state::check_grant(grant, resource).is_ok()
    }
}
