//! Who is at an end of a connection.

use std::net::IpAddr;

use mesh_core::{IdentityName, Key, Labels, Located, NodeId, Prefix, State, Workload, WorkloadId};
use serde::Serialize;

use super::Lack;
use crate::check::Party;

/// One end of a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct End {
    /// Its address.
    pub address: IpAddr,
    /// Who has it.
    #[serde(flatten)]
    pub who: Who,
}

/// Who has an address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Who {
    /// A workload with an identity.
    Workload(WorkloadEnd),
    /// A node, by one of its own addresses (also a host-network pod).
    Node {
        /// The node.
        node: NodeId,
        /// The labels that selectors see.
        labels: Labels,
    },
    /// Nobody that is known, inside the fleet's prefixes.
    Pending {
        /// Why there is no identity.
        because: String,
    },
    /// Somebody outside the fleet.
    External,
}

/// A workload at an end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct WorkloadEnd {
    /// The workload.
    pub workload: WorkloadId,
    /// The name of its identity.
    pub identity: IdentityName,
    /// The node it runs on, once scheduled.
    pub node: Option<NodeId>,
    /// The labels that selectors see, the implicit ones included.
    pub labels: Labels,
    /// The labels of its namespace that selectors see.
    pub namespace_labels: Labels,
}

impl End {
    pub(super) fn new(state: &State, address: IpAddr, located: Located<'_>) -> End {
        let who = match located {
            Located::Workload(workload) => Who::Workload(workload_end(state, workload)),
            Located::Node(node) => Who::Node {
                node: node.clone(),
                labels: state.facts().nodes.get(node).map(|node| state.node_labels(node)).unwrap_or_default(),
            },
            Located::Pending => Who::Pending { because: why_pending(state, address) },
            Located::External => Who::External,
        };
        End { address, who }
    }

    /// Returns the lack of an identity.
    pub(super) fn pending(&self) -> Option<Lack> {
        let Who::Pending { because } = &self.who else { return None };
        Some(Lack::IdentityPending { address: self.address, because: because.clone() })
    }
}

fn workload_end(state: &State, workload: &Workload) -> WorkloadEnd {
    let node = workload.node.clone().map(|name| NodeId { cluster: workload.id.cluster.clone(), name });
    WorkloadEnd {
        workload: workload.id.clone(),
        identity: state.identity(workload).name(),
        node,
        labels: state.workload_labels(workload),
        namespace_labels: state.namespace_labels(&workload.id.cluster, &workload.id.namespace),
    }
}

/// Returns who has `address` when `party` says whose it is, as the offline check reads it.
pub(super) fn named<'a>(state: &'a State, party: &Party, address: IpAddr) -> Located<'a> {
    let Party::Workload(id) = party else { return state.locate(address) };
    let facts = state.facts();
    let (workload, refused) = match (facts.workloads.get(id), state.refused_workload(id)) {
        (Some(workload), _) => (workload, false),
        (None, Some(workload)) => (workload, true),
        (None, None) => return state.locate(address),
    };
    match (workload.host_network, refused) {
        (true, _) if refused || workload.addresses.contains(&address) => state.locate(address),
        (true, _) => {
            let node = workload.node.clone().map(|name| NodeId { cluster: id.cluster.clone(), name });
            let known = node.and_then(|node| facts.nodes.get_key_value(&node));
            known.map_or_else(|| state.locate(address), |(node, _)| Located::Node(node))
        }
        (false, true) => Located::Pending,
        (false, false) => Located::Workload(workload),
    }
}

fn why_pending(state: &State, address: IpAddr) -> String {
    for (key, refusal) in state.refused() {
        let Key::Workload(id) = key else { continue };
        if state.refused_workload(id).is_some_and(|workload| workload.addresses.contains(&address)) {
            return format!("{id} is not believed: {} ({})", refusal.detail, refusal.reason.as_str());
        }
    }
    let owners = state.cluster_prefixes().flat_map(|(cluster, prefixes)| prefixes.iter().map(move |prefix| (cluster, *prefix)));
    let longest = owners.filter(|(_, prefix)| prefix.contains(address)).max_by_key(|(_, prefix): &(_, Prefix)| prefix.len());
    match longest {
        Some((cluster, prefix)) if state.facts().grants.contains_key(cluster) => {
            format!("it lies in {prefix} of cluster {cluster}, where no workload and no node has it")
        }
        Some((cluster, prefix)) => format!("it lies in {prefix} of cluster {cluster}, whose grant is not in force"),
        None => "the question says that it is a workload that is not believed".into(),
    }
}
