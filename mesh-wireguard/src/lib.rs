//! The tunnels of a Landbridge mesh: WireGuard between nodes, fail-closed routes, service translation.
