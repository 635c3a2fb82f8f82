//! The node plan of a Landbridge mesh: planner, reconciler, forwarder, flow records, and the Tunnel seam.
