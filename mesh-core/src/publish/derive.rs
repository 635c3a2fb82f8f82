//! What each record has to say, from the cluster's state. Nothing: there is no such record.

use super::dirty::Index;
use super::recent::Recent;
use crate::{
    Export, Grant, Labels, Namespace, NamespaceName, NodeId, ObjectName, Prefix, Resource, ServiceId, State, WorkloadId,
};

pub(super) fn node(state: &State, grant: &Grant, name: &ObjectName) -> Vec<Resource> {
    let id = NodeId { cluster: grant.cluster.clone(), name: name.clone() };
    let Some(node) = state.facts().nodes.get(&id) else { return Vec::new() };
    let link = state.facts().links.get(&id).cloned().map(Resource::NodeLink);
    let resources = [Resource::Node(node.clone())].into_iter().chain(link);
    resources.filter(|resource| may_publish(state, grant, resource)).collect()
}

/// Namespaces that exist only because something is in them are published too: elsewhere they would not exist.
pub(super) fn namespace(state: &State, grant: &Grant, name: &NamespaceName) -> Vec<Resource> {
    if !grant.speaks_for(name) || !state.namespace_exists(&grant.cluster, name) {
        return Vec::new();
    }
    let declared = state.facts().namespaces.get(&(grant.cluster.clone(), name.clone())).cloned();
    let implied = || Namespace { cluster: grant.cluster.clone(), name: name.clone(), labels: Labels::default() };
    vec![Resource::Namespace(declared.unwrap_or_else(implied))]
}

pub(super) fn slice(
    state: &State,
    grant: &Grant,
    index: &Index,
    (namespace, node): &(NamespaceName, ObjectName),
) -> Vec<Resource> {
    let workload = |name: &ObjectName| {
        let id = WorkloadId { cluster: grant.cluster.clone(), namespace: namespace.clone(), name: name.clone() };
        state.facts().workloads.get(&id).cloned().map(Resource::Workload)
    };
    let workloads = index.workloads(namespace, node).filter_map(workload);
    workloads.filter(|workload| may_publish(state, grant, workload)).collect()
}

/// Returns the export of a service; its age is the publisher's to say.
pub(super) fn export(state: &State, grant: &Grant, recent: &Recent, id: &ServiceId) -> Option<Export> {
    // A signed export of the own cluster stands for a manifest: without the manifest it is over.
    let manifest = state.facts().service_exports.contains_key(&(grant.cluster.clone(), id.clone()));
    let mut export = state.export(&grant.cluster, id).filter(|_| manifest && grant.may_export(id))?;
    // Backends outside the grant (host-network pods have their node's address) cannot be reached through the mesh; those whose
    // address rests cannot be yet.
    for endpoint in &mut export.endpoints {
        endpoint.addresses.retain(|address| grant.covers(Prefix::host(*address)) && !recent.withholds(*address));
    }
    export.endpoints.retain(|endpoint| !endpoint.addresses.is_empty());
    Some(export)
}

/// Tells whether others would believe `resource` from the publisher of the grant's cluster.
fn may_publish(state: &State, grant: &Grant, resource: &Resource) -> bool {
    let node = match resource {
        Resource::Workload(workload) => workload.node.as_ref().map(|name| (name, &workload.addresses)),
        Resource::NodeLink(link) => Some((&link.id.name, &link.overlay)),
        _ => None,
    };
    let in_node = node.is_none_or(|(name, addresses)| {
        state.check_node(&NodeId { cluster: grant.cluster.clone(), name: name.clone() }, addresses).is_ok()
    });
    in_node && crate::state::check_grant(grant, resource).is_ok() && state.check_rivals(grant, resource).is_ok()
}
