//! Which offered facts are believed: those inside their cluster's grant.

use crate::policy::PolicyScope;
use crate::{ClusterName, Grant, Key, Prefix, RefusalReason, Resource, State};

use super::{Origin, Trust};

pub(super) type Admission = Result<(), (RefusalReason, String)>;

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
            return refuse(RefusalReason::NoGrant, format!("no grant for cluster {cluster} is known"));
        };
        check_grant(grant, resource)
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

fn check_grant(grant: &Grant, resource: &Resource) -> Admission {
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
