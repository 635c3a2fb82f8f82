//! Which offered facts are believed: those inside their cluster's grant.

use std::net::IpAddr;

use super::ledger::Standing;
use super::{MAX_CLOCK_SKEW, Origin, Trust};
use crate::policy::PolicyScope;
use crate::{ClusterName, Grant, Key, NodeId, Prefix, RefusalReason, Resource, State, WorkloadId};

pub(crate) type Admission = Result<(), (RefusalReason, String)>;

fn refuse(reason: RefusalReason, detail: impl Into<String>) -> Admission {
    Err((reason, detail.into()))
}

impl State {
    /// Decides whether `resource` is believed from `origin`, by the facts of now.
    pub(super) fn admit(&self, origin: &Origin, resource: &Resource) -> Admission {
        let key = resource.key();
        if let (Trust::Signed { cluster, .. }, Origin::Source(_)) = (&self.config.trust, origin) {
            check_plain(&key, cluster)?;
        }
        if matches!(self.config.trust, Trust::Open) {
            return Ok(());
        }
        let Some(cluster) = key.cluster() else { return Ok(()) };
        if matches!(resource, Resource::Grant(_)) {
            return Ok(());
        }
        let Some(grant) = self.facts.grants.get(cluster) else {
            return match self.ledger.standing(cluster, self.now.wall) {
                Standing::Revoked => refuse(RefusalReason::Revoked, format!("the grant of cluster {cluster} is revoked")),
                Standing::NotInForce => {
                    refuse(RefusalReason::GrantExpired, format!("the grant of cluster {cluster} is not in force"))
                }
                Standing::Unknown | Standing::InForce(_) => {
                    refuse(RefusalReason::NoGrant, format!("no grant for cluster {cluster} is known"))
                }
            };
        };
        check_grant(grant, resource)?;
        self.check_rivals(grant, resource)?;
        if matches!(origin, Origin::Record(..)) { self.check_record(grant, resource) } else { Ok(()) }
    }

    /// Checks that nobody else is granted the prefixes that `resource` names: an address is the cluster's whose granted prefix
    /// around it is the longest, and of equally long ones nobody's.
    pub(crate) fn check_rivals(&self, grant: &Grant, resource: &Resource) -> Admission {
        if !self.prefixes.has_rivals(&grant.cluster) {
            return Ok(());
        }
        for prefix in claims(resource) {
            let around = grant.prefixes.iter().filter(|granted| granted.covers(prefix)).map(|granted| granted.len()).max();
            let rival = around.and_then(|len| self.prefixes.rival(&grant.cluster, prefix, len));
            if let Some((theirs, other)) = rival {
                return refuse(RefusalReason::Contested, format!("{prefix}: {theirs} is granted to cluster {other}"));
            }
        }
        Ok(())
    }

    /// Checks what is asked of signed facts only: they are inside the prefixes of their node, the labels of their namespace are
    /// known, and they are of this time.
    fn check_record(&self, grant: &Grant, resource: &Resource) -> Admission {
        match resource {
            Resource::Workload(workload) => match &workload.node {
                Some(name) => {
                    let WorkloadId { cluster, namespace, .. } = &workload.id;
                    if !self.facts.namespaces.contains_key(&(cluster.clone(), namespace.clone())) {
                        let detail = format!("namespace {namespace} of cluster {cluster} is not known");
                        return refuse(RefusalReason::UnknownNamespace, detail);
                    }
                    self.check_node(&NodeId { cluster: cluster.clone(), name: name.clone() }, &workload.addresses)
                }
                None => refuse(RefusalReason::OutsideNode, "it names no node"),
            },
            Resource::NodeLink(link) => self.check_node(&link.id, &link.overlay),
            Resource::ServiceImport(import) => {
                if !grant.speaks_for(&import.id.namespace) {
                    let detail = format!("namespace {} is not in the grant of cluster {}", import.id.namespace, grant.cluster);
                    return refuse(RefusalReason::OutsideNamespaces, detail);
                }
                let outside =
                    import.addresses.iter().find(|address| !grant.service_prefixes.iter().any(|p| p.contains(**address)));
                match outside {
                    Some(address) => {
                        refuse(RefusalReason::OutsidePrefixes, format!("{address} is not in the service prefixes of the grant"))
                    }
                    None => Ok(()),
                }
            }
            Resource::Lease(lease) if lease.issued > self.now.wall + MAX_CLOCK_SKEW => {
                refuse(RefusalReason::Future, format!("issued at {}, now is {}", lease.issued, self.now.wall))
            }
            _ => Ok(()),
        }
    }

    /// Checks that `addresses` are inside the prefixes of `node`; a node without prefixes has the addresses of its workloads.
    pub(crate) fn check_node(&self, node: &NodeId, addresses: &[IpAddr]) -> Admission {
        let Some(known) = self.facts.nodes.get(node) else {
            return refuse(RefusalReason::UnknownNode, format!("node {node} is not known"));
        };
        let inside = |address: &IpAddr| known.prefixes.is_empty() || known.prefixes.iter().any(|p| p.contains(*address));
        match addresses.iter().find(|address| !inside(address)) {
            Some(address) => refuse(RefusalReason::OutsideNode, format!("{address} is not in the prefixes of node {node}")),
            None => Ok(()),
        }
    }
}

/// In a fleet, plain sources speak of their own cluster only, and never for the root.
fn check_plain(key: &Key, own: &ClusterName) -> Admission {
    match key {
        Key::Grant(_) | Key::Export(..) | Key::Lease(_) => refuse(RefusalReason::NotAllowedHere, "believed only when signed"),
        Key::NetworkPolicy(PolicyScope::Fleet, ..) | Key::ClusterNetworkPolicy(PolicyScope::Fleet, _) => {
            refuse(RefusalReason::NotAllowedHere, "fleet policies are believed only when signed by the root")
        }
        _ => match key.cluster() {
            Some(cluster) if cluster != own => {
                refuse(RefusalReason::ForeignCluster, format!("a plain source of cluster {own} cannot speak for {cluster}"))
            }
            _ => Ok(()),
        },
    }
}

pub(crate) fn check_grant(grant: &Grant, resource: &Resource) -> Admission {
    let namespace = |name: &crate::NamespaceName| {
        if grant.speaks_for(name) {
            return Ok(());
        }
        refuse(RefusalReason::OutsideNamespaces, format!("namespace {name} is not in the grant of cluster {}", grant.cluster))
    };
    let prefix = |prefix: Prefix| {
        if grant.covers(prefix) {
            return Ok(());
        }
        refuse(RefusalReason::OutsidePrefixes, format!("{prefix} is not in the grant of cluster {}", grant.cluster))
    };
    let export = |id: &crate::ServiceId| {
        if grant.may_export(id) {
            return Ok(());
        }
        refuse(
            RefusalReason::OutsideExports,
            format!("service {id} is not among the exports granted to cluster {}", grant.cluster),
        )
    };
    match resource {
        Resource::Namespace(ns) => namespace(&ns.name),
        Resource::Workload(workload) => {
            namespace(&workload.id.namespace)?;
            if workload.host_network {
                return Ok(());
            }
            workload.addresses.iter().try_for_each(|address| prefix(Prefix::host(*address)))
        }
        Resource::Node(node) => node.prefixes.iter().try_for_each(|p| prefix(*p)),
        Resource::NodeLink(link) => link.overlay.iter().try_for_each(|address| prefix(Prefix::host(*address))),
        Resource::ServiceExport(service) => export(&service.id),
        Resource::Export(service) => {
            export(&service.id)?;
            let addresses = service.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
            addresses.copied().try_for_each(|address| prefix(Prefix::host(address)))
        }
        _ => Ok(()),
    }
}

/// Returns the prefixes that a fact says are its cluster's.
fn claims(resource: &Resource) -> Vec<Prefix> {
    let hosts = |addresses: &[IpAddr]| addresses.iter().copied().map(Prefix::host).collect();
    match resource {
        Resource::Workload(workload) if !workload.host_network => hosts(&workload.addresses),
        Resource::Node(node) => node.prefixes.clone(),
        Resource::NodeLink(link) => hosts(&link.overlay),
        Resource::Export(export) => export.endpoints.iter().flat_map(|e| e.addresses.iter().copied().map(Prefix::host)).collect(),
        _ => Vec::new(),
    }
}
