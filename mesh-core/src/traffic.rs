//! How connections to a service are spread over its backends: what the service and its exports say of it.

/// How near a backend is to the client's node; each holds those before it. A service's setting names the first that counts:
/// backends that are as near or nearer are preferred together, then those one step further, and so on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Locality {
    /// On the client's node.
    Node,
    /// In its zone, of its cluster.
    Zone,
    /// In its cluster.
    Cluster,
    /// In a cluster of its region.
    Region,
    /// Anywhere: as a setting, all backends are alike.
    #[default]
    Anywhere,
}

/// How connections to a service are spread over its backends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Traffic {
    /// The first group: by `spec.trafficDistribution`, or the annotation `cluster-mesh.io/traffic-distribution`.
    pub first: Locality,
    /// `spec.internalTrafficPolicy: Local`: backends on the client's node, or none.
    pub node_only: bool,
    /// The weight of each backend of this cluster, by the annotation `cluster-mesh.io/weight`: 0 to [`Traffic::MAX_WEIGHT`];
    /// 0 takes connections only where nobody else does.
    pub weight: u16,
}

impl Traffic {
    /// The weight where none is given.
    pub const DEFAULT_WEIGHT: u16 = 100;
    /// The greatest weight.
    pub const MAX_WEIGHT: u16 = 10_000;
}

impl Default for Traffic {
    fn default() -> Traffic {
        Traffic { first: Locality::Anywhere, node_only: false, weight: Traffic::DEFAULT_WEIGHT }
    }
}

/// What a ServiceExport's annotations say of traffic, before its Service's own settings.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExportTraffic {
    /// `cluster-mesh.io/traffic-distribution`.
    pub first: Option<Locality>,
    /// `cluster-mesh.io/weight`.
    pub weight: Option<u16>,
}
