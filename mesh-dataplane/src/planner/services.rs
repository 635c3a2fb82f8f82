//! The service table of a cluster: clusterset addresses and the cluster's own, with their ready backends.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use mesh_core::{ClusterName, ServiceKind, ServicePort, SessionAffinity, State};

use crate::plan::{Backends, Frontend, ServiceTable};

/// A service's side of a frontend.
struct Side<'a> {
    addresses: &'a [IpAddr],
    ports: &'a [ServicePort],
    affinity: SessionAffinity,
}

/// Returns the frontends that clients in `cluster` can use. Backends are equal among each other: locality has no say yet.
pub(super) fn table(state: &State, cluster: &ClusterName) -> ServiceTable {
    let mut table = BTreeMap::new();
    let local = state.local_services(cluster);
    let imported = state.imported_services(cluster);
    // An address that two services claim stays with the first to come: the cluster's own, then by name.
    for local in local.values().filter(|local| local.service.kind == ServiceKind::ClusterIp) {
        let service = &local.service;
        let side = Side { addresses: &service.addresses, ports: &service.ports, affinity: service.affinity };
        add(&mut table, &side, |index| local.ready_backends(index).collect());
    }
    for import in imported.services.values().filter(|import| import.kind == ServiceKind::ClusterIp) {
        let side = Side { addresses: &import.addresses, ports: &import.ports, affinity: import.affinity };
        add(&mut table, &side, |index| import.ready_backends(index).collect());
    }
    ServiceTable(table)
}

fn add(table: &mut BTreeMap<Frontend, Backends>, side: &Side<'_>, ready: impl Fn(usize) -> BTreeSet<(IpAddr, u16)>) {
    for (index, port) in side.ports.iter().enumerate() {
        let ready = ready(index);
        for address in side.addresses {
            let frontend = Frontend { address: *address, protocol: port.protocol, port: port.port };
            let of_family = ready.iter().copied().filter(|(backend, _)| backend.is_ipv4() == address.is_ipv4());
            table.entry(frontend).or_insert_with(|| Backends { affinity: side.affinity, ready: of_family.collect() });
        }
    }
}
