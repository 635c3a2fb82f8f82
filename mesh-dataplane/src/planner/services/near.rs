//! How near backends are to a node: by node, zone, cluster and region.

use mesh_core::{Backend, ClusterName, Locality, NodeId, State};

/// The zone of a node, unique in its cluster.
const ZONE_LABEL: &str = "topology.kubernetes.io/zone";
/// The region of a node, where its cluster's grant has no attribute of this name.
const REGION_LABEL: &str = "topology.kubernetes.io/region";
const REGION_ATTRIBUTE: &str = "region";

/// The place from which distances are measured.
#[derive(Clone, Copy, Debug)]
pub(super) struct Near<'a> {
    state: &'a State,
    node: &'a NodeId,
    zone: Option<&'a str>,
    region: Option<&'a str>,
}

impl<'a> Near<'a> {
    pub(super) fn new(state: &'a State, node: &'a NodeId) -> Near<'a> {
        Near { state, node, zone: label(state, node, ZONE_LABEL), region: region(state, &node.cluster, Some(node)) }
    }

    /// Returns how near a backend is. A zone or region that is not known is not the same as any other.
    pub(super) fn locality(&self, backend: &Backend) -> Locality {
        let node = backend.node.as_ref();
        if node == Some(self.node) {
            return Locality::Node;
        }
        if backend.cluster == self.node.cluster {
            let zone = node.and_then(|node| label(self.state, node, ZONE_LABEL));
            return if zone.is_some() && zone == self.zone { Locality::Zone } else { Locality::Cluster };
        }
        let region = region(self.state, &backend.cluster, node);
        if region.is_some() && region == self.region { Locality::Region } else { Locality::Anywhere }
    }
}

/// The root's word on where a cluster is comes before the cluster's own.
fn region<'a>(state: &'a State, cluster: &ClusterName, node: Option<&NodeId>) -> Option<&'a str> {
    let granted = state.facts().grants.get(cluster).and_then(|grant| grant.attributes.get(REGION_ATTRIBUTE));
    granted.map(|region| &**region).or_else(|| label(state, node?, REGION_LABEL))
}

fn label<'a>(state: &'a State, node: &NodeId, key: &str) -> Option<&'a str> {
    state.facts().nodes.get(node)?.labels.get(key)
}
