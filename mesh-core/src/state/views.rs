//! What else is asked of the state: who is where, which labels selectors see, which namespaces exist.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;

use super::{Located, Origin, State, Trust};
use crate::labels::{self, RESERVED_PREFIX};
use crate::settings::CrossClusterDefault;
use crate::{
    ClusterName, EndpointSlice, Identity, Key, Labels, NamespaceName, Node, ObjectName, Prefix, RecordKey, Resource, ServiceId,
    Statement, Workload, WorkloadId, record,
};

impl State {
    /// Returns what holds between two clusters where no tier decides.
    pub fn cross_cluster_default(&self) -> CrossClusterDefault {
        self.config.settings.cross_cluster_default.unwrap_or(match self.config.trust {
            Trust::Open => CrossClusterDefault::Allow,
            Trust::Declared | Trust::Signed { .. } => CrossClusterDefault::Exports,
        })
    }

    /// Returns what is known of `address`.
    ///
    /// Inside a cluster's prefixes nobody else's node is believed to have an address.
    pub fn locate(&self, address: IpAddr) -> Located<'_> {
        if let Some(workload) = self.addresses.workload(address).and_then(|id| self.facts.workloads.get(id)) {
            return Located::Workload(workload);
        }
        let owners = self.prefixes.owners(address);
        if let Some(node) = self.addresses.node(address, |node| owners.is_none_or(|owners| owners.contains(&node.cluster))) {
            return Located::Node(node);
        }
        if owners.is_some() || self.addresses.is_refused(address) { Located::Pending } else { Located::External }
    }

    /// Returns the workload at `address`, as [`State::locate`] finds it.
    pub fn workload_at(&self, address: IpAddr) -> Option<&WorkloadId> {
        self.addresses.workload(address)
    }

    /// Returns the signed record, as it travelled, that tells of the workload at `address`; `None` where only a plain source
    /// does, or nobody.
    pub fn signed_slice_of(&self, address: IpAddr) -> Option<&Bytes> {
        let workload = self.facts.workloads.get(self.addresses.workload(address)?)?;
        let key = RecordKey::Slice(workload.id.namespace.clone(), workload.node.clone()?);
        self.signed(&workload.id.cluster, &key, &Key::Workload(workload.id.clone()))
    }

    /// Returns the signed record, as it travelled, of the namespace of the workload at `address`, without which nobody believes
    /// its slice; `None` as for [`State::signed_slice_of`].
    pub fn signed_namespace_of(&self, address: IpAddr) -> Option<&Bytes> {
        let WorkloadId { cluster, namespace, .. } = self.addresses.workload(address)?;
        let key = RecordKey::Namespace(namespace.clone());
        self.signed(cluster, &key, &Key::Namespace(cluster.clone(), namespace.clone()))
    }

    /// Returns the record of a cluster that counts about `key`, if it tells of `fact`.
    fn signed(&self, cluster: &ClusterName, key: &RecordKey, fact: &Key) -> Option<&Bytes> {
        let known = self.ledger.clusters.get(cluster)?;
        let (_, held) = known.counting(&known.speaking(self.now.wall), key)?;
        (!held.disputed && held.keys.contains(fact)).then_some(&held.bytes)
    }

    /// Returns the workloads that the signed records of `cluster` tell of, as far as they are known, believed or not.
    pub(crate) fn signed_workloads(&self, cluster: &ClusterName) -> Vec<Workload> {
        let Some(known) = self.ledger.clusters.get(cluster) else { return Vec::new() };
        let speaking = known.speaking(self.now.wall);
        let keys = speaking.iter().filter_map(|signer| known.signers.get(signer)).flat_map(|signer| signer.records.keys());
        let slices: BTreeSet<&RecordKey> = keys.filter(|key| matches!(key, RecordKey::Slice(..))).collect();
        let held = slices.into_iter().filter_map(|key| known.counting(&speaking, key));
        let opened = held.filter(|(_, held)| !held.disputed).filter_map(|(_, held)| record::open(&held.bytes).ok());
        let resources = opened.flat_map(|opened| match opened.into_contents().statement {
            Statement::Record(record) => record.resources,
            Statement::Root(_) => Vec::new(),
        });
        let workloads = resources.filter_map(|resource| match resource {
            Resource::Workload(workload) => Some(workload),
            _ => None,
        });
        workloads.collect()
    }

    /// Returns the prefixes in which an address without an identity is pending, never external: those of the grants, also of
    /// grants that are over or revoked, and the addresses of refused workloads of plain sources.
    pub fn pending_prefixes(&self) -> impl Iterator<Item = Prefix> {
        let refused = self.refused.values().flat_map(|refused| refused.addresses.iter().copied().map(Prefix::host));
        self.prefixes.iter().chain(refused)
    }

    /// Returns the prefixes of each cluster: those of its grant in force, else of the last one that was. What is inside stays
    /// the fleet's when the grant is over or revoked.
    pub fn cluster_prefixes(&self) -> impl Iterator<Item = (&ClusterName, &[Prefix])> {
        self.prefixes.by_cluster()
    }

    /// Returns what a plain source says of a workload that is not believed: it has no identity, and its addresses are pending.
    pub fn refused_workload(&self, id: &WorkloadId) -> Option<&Workload> {
        let key = Key::Workload(id.clone());
        self.refused.get(&key)?;
        self.offered.get(&key)?.iter().find_map(|offered| match offered {
            (Origin::Source(_), Resource::Workload(workload)) => Some(workload),
            _ => None,
        })
    }

    /// Returns the identity of `workload`.
    pub fn identity(&self, workload: &Workload) -> Identity {
        Identity {
            fleet: self.config.fleet.clone(),
            cluster: workload.id.cluster.clone(),
            namespace: workload.id.namespace.clone(),
            service_account: workload.service_account.clone(),
            labels: workload.labels.clone(),
        }
    }

    /// Returns the labels that selectors see on `workload`: its own and the implicit ones.
    pub fn workload_labels(&self, workload: &Workload) -> Labels {
        let own = (labels::SERVICE_ACCOUNT_LABEL.into(), workload.service_account.clone());
        workload.labels.with([own].into_iter().chain(self.cluster_labels(&workload.id.cluster)))
    }

    /// Returns the labels that selectors see on a namespace of a cluster; the implicit ones alone where it has no manifest.
    pub fn namespace_labels(&self, cluster: &ClusterName, namespace: &NamespaceName) -> Labels {
        let declared = self.facts.namespaces.get(&(cluster.clone(), namespace.clone()));
        let declared = declared.map(|namespace| namespace.labels.clone()).unwrap_or_default();
        let name = (labels::NAMESPACE_NAME_LABEL.into(), namespace.as_str().into());
        declared.with([name].into_iter().chain(self.cluster_labels(cluster)))
    }

    /// Returns the labels that selectors see on `node`.
    pub fn node_labels(&self, node: &Node) -> Labels {
        node.labels.with(self.cluster_labels(&node.id.cluster))
    }

    /// Returns the implicit labels of everything in a cluster: the attributes of its grant, and its name, which wins.
    pub(crate) fn cluster_labels(&self, cluster: &ClusterName) -> impl Iterator<Item = (Arc<str>, Arc<str>)> {
        let attributes = self.facts.grants.get(cluster).map(|grant| &grant.attributes);
        let attributes = attributes.into_iter().flatten();
        let attributes = attributes.map(|(key, value)| (format!("{RESERVED_PREFIX}{key}").into(), value.clone()));
        attributes.chain([(labels::CLUSTER_LABEL.into(), cluster.as_str().into())])
    }

    /// Tells whether `namespace` exists in `cluster`: it has a Namespace, or something is in it.
    pub fn namespace_exists(&self, cluster: &ClusterName, namespace: &NamespaceName) -> bool {
        self.namespaces.contains(cluster, namespace)
    }

    /// Returns the namespaces that exist in `cluster`, in order.
    pub fn namespaces(&self, cluster: &ClusterName) -> impl Iterator<Item = &NamespaceName> {
        self.namespaces.of(cluster)
    }

    /// Returns the EndpointSlices of a service of `cluster`, by name.
    pub(crate) fn slices_of(&self, cluster: &ClusterName, id: &ServiceId) -> impl Iterator<Item = &EndpointSlice> {
        let names = self.services.slices(cluster, id).iter();
        names.filter_map(|name| self.facts.slices.get(&(cluster.clone(), id.namespace.clone(), name.clone())))
    }

    /// Returns the clusters that have an export of a service, by manifest or signed, valid or not; in order.
    pub(crate) fn exporters(&self, id: &ServiceId) -> impl Iterator<Item = &ClusterName> {
        self.services.exporters(id)
    }

    /// Tells whether `cluster` has a signed export in `namespace`.
    pub(crate) fn has_export(&self, cluster: &ClusterName, namespace: &NamespaceName) -> bool {
        let first = ServiceId { namespace: namespace.clone(), name: ObjectName::first() };
        let next = self.facts.exports.range((cluster.clone(), first)..).next();
        next.is_some_and(|((of, id), _)| of == cluster && id.namespace == *namespace)
    }

    /// Returns the services that some cluster has an export of, in order; of one namespace where one is given.
    pub(crate) fn exported(&self, namespace: Option<&NamespaceName>) -> impl Iterator<Item = &ServiceId> {
        let first = namespace.map(|namespace| ServiceId { namespace: namespace.clone(), name: ObjectName::first() });
        self.services.exported(first).take_while(move |id| namespace.is_none_or(|namespace| id.namespace == *namespace))
    }

    /// Returns the clusterset addresses that a ServiceImport manifest gives a service in `cluster`; none where there is none.
    pub(crate) fn manifest_addresses(&self, cluster: &ClusterName, id: &ServiceId) -> &[IpAddr] {
        let by = self.offered.get(&Key::ServiceImport(cluster.clone(), id.clone()));
        let plain = by.into_iter().flatten().filter(|(origin, _)| matches!(origin, Origin::Source(_)));
        let addresses = plain.filter_map(|(_, resource)| match resource {
            Resource::ServiceImport(import) if !import.addresses.is_empty() => Some(import.addresses.as_slice()),
            _ => None,
        });
        addresses.into_iter().next().unwrap_or_default()
    }
}
