//! Identity policy of a Landbridge mesh: NetworkPolicy and ClusterNetworkPolicy to a verdict with its reason.
