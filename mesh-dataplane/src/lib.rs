//! The node plan of a Landbridge mesh: planner, reconciler, forwarder, flow records, and the Tunnel seam.

pub mod counters;
pub mod forwarder;
pub mod op;
pub mod plan;
pub mod tunnel;

pub use counters::{Counters, DropReason, Drops, Traffic};
pub use forwarder::{Forwarder, Inbound, Outbound, PeerHandle};
pub use op::Op;
pub use plan::{Backends, Frontend, Local, Peer, PeerKeys, Plan, Scope, ServiceTable};
pub use tunnel::{Actual, Tunnel, TunnelError};
