//! The node plan of a Landbridge mesh: planner, reconciler, forwarder, flow records, and the Tunnel seam.

pub mod community_id;
pub mod conformance;
pub mod counters;
pub mod fake;
mod flow_table;
pub mod forwarder;
pub mod op;
pub mod packet;
pub mod plan;
pub mod planner;
pub mod reconciler;
#[cfg(test)]
mod test_fleet;
#[cfg(test)]
mod test_packets;
pub mod tunnel;

pub use community_id::community_id;
pub use counters::{Counters, DropReason, Drops, Traffic};
pub use fake::FakeTunnel;
pub use forwarder::{Forwarder, Inbound, Outbound, PeerHandle};
pub use op::Op;
pub use plan::{Backends, Frontend, Local, Peer, PeerKeys, Plan, Scope, ServiceTable};
pub use planner::Planner;
pub use reconciler::Reconciler;
pub use tunnel::{Actual, Tunnel, TunnelError};
