//! The admitted facts, by kind and key.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::policy::{ClusterNetworkPolicy, NetworkPolicy, PolicyScope};
use crate::{
    ClusterName, EndpointSlice, Export, Grant, Key, Lease, Namespace, NamespaceName, Node, NodeId, NodeLink, ObjectName,
    Resource, Service, ServiceExport, ServiceId, ServiceImport, Workload, WorkloadId,
};

/// The facts that the state believes: read them freely, they change only through [`State::apply`](crate::State::apply).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs, reason = "each table is the kind of its name")]
pub struct Facts {
    pub grants: BTreeMap<ClusterName, Arc<Grant>>,
    pub namespaces: BTreeMap<(ClusterName, NamespaceName), Namespace>,
    pub nodes: BTreeMap<NodeId, Node>,
    pub links: BTreeMap<NodeId, NodeLink>,
    pub workloads: BTreeMap<WorkloadId, Workload>,
    pub services: BTreeMap<(ClusterName, ServiceId), Service>,
    pub slices: BTreeMap<(ClusterName, NamespaceName, ObjectName), EndpointSlice>,
    pub service_exports: BTreeMap<(ClusterName, ServiceId), ServiceExport>,
    pub service_imports: BTreeMap<(ClusterName, ServiceId), ServiceImport>,
    pub exports: BTreeMap<(ClusterName, ServiceId), Export>,
    pub network_policies: BTreeMap<(PolicyScope, NamespaceName, ObjectName), Arc<NetworkPolicy>>,
    pub cluster_policies: BTreeMap<(PolicyScope, ObjectName), Arc<ClusterNetworkPolicy>>,
    pub leases: BTreeMap<ClusterName, Lease>,
}

impl Facts {
    /// Makes `resource` the fact of its key; returns the fact it replaces.
    pub(super) fn insert(&mut self, resource: Resource) -> Option<Resource> {
        match (resource.key(), resource) {
            (Key::Grant(key), Resource::Grant(value)) => self.grants.insert(key, value).map(Resource::Grant),
            (Key::Namespace(a, b), Resource::Namespace(value)) => self.namespaces.insert((a, b), value).map(Resource::Namespace),
            (Key::Node(key), Resource::Node(value)) => self.nodes.insert(key, value).map(Resource::Node),
            (Key::NodeLink(key), Resource::NodeLink(value)) => self.links.insert(key, value).map(Resource::NodeLink),
            (Key::Workload(key), Resource::Workload(value)) => self.workloads.insert(key, value).map(Resource::Workload),
            (Key::Service(a, b), Resource::Service(value)) => self.services.insert((a, b), value).map(Resource::Service),
            (Key::EndpointSlice(a, b, c), Resource::EndpointSlice(value)) => {
                self.slices.insert((a, b, c), value).map(Resource::EndpointSlice)
            }
            (Key::ServiceExport(a, b), Resource::ServiceExport(value)) => {
                self.service_exports.insert((a, b), value).map(Resource::ServiceExport)
            }
            (Key::ServiceImport(a, b), Resource::ServiceImport(value)) => {
                self.service_imports.insert((a, b), value).map(Resource::ServiceImport)
            }
            (Key::Export(a, b), Resource::Export(value)) => self.exports.insert((a, b), value).map(Resource::Export),
            (Key::NetworkPolicy(a, b, c), Resource::NetworkPolicy(value)) => {
                self.network_policies.insert((a, b, c), value).map(Resource::NetworkPolicy)
            }
            (Key::ClusterNetworkPolicy(a, b), Resource::ClusterNetworkPolicy(value)) => {
                self.cluster_policies.insert((a, b), value).map(Resource::ClusterNetworkPolicy)
            }
            (Key::Lease(key), Resource::Lease(value)) => self.leases.insert(key, value).map(Resource::Lease),
            (key, _) => unreachable!("a resource has the key of its own kind, not {key}"),
        }
    }

    /// Removes the fact of `key`; returns it.
    pub(super) fn remove(&mut self, key: &Key) -> Option<Resource> {
        match key.clone() {
            Key::Grant(key) => self.grants.remove(&key).map(Resource::Grant),
            Key::Namespace(a, b) => self.namespaces.remove(&(a, b)).map(Resource::Namespace),
            Key::Node(key) => self.nodes.remove(&key).map(Resource::Node),
            Key::NodeLink(key) => self.links.remove(&key).map(Resource::NodeLink),
            Key::Workload(key) => self.workloads.remove(&key).map(Resource::Workload),
            Key::Service(a, b) => self.services.remove(&(a, b)).map(Resource::Service),
            Key::EndpointSlice(a, b, c) => self.slices.remove(&(a, b, c)).map(Resource::EndpointSlice),
            Key::ServiceExport(a, b) => self.service_exports.remove(&(a, b)).map(Resource::ServiceExport),
            Key::ServiceImport(a, b) => self.service_imports.remove(&(a, b)).map(Resource::ServiceImport),
            Key::Export(a, b) => self.exports.remove(&(a, b)).map(Resource::Export),
            Key::NetworkPolicy(a, b, c) => self.network_policies.remove(&(a, b, c)).map(Resource::NetworkPolicy),
            Key::ClusterNetworkPolicy(a, b) => self.cluster_policies.remove(&(a, b)).map(Resource::ClusterNetworkPolicy),
            Key::Lease(key) => self.leases.remove(&key).map(Resource::Lease),
            Key::Domain(_) => None,
        }
    }
}
