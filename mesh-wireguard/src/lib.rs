//! The tunnels of a Landbridge mesh: WireGuard between nodes, fail-closed routes, service translation.
pub mod batch;
pub mod engine;
pub mod key;
pub mod message;
pub mod session;
pub mod stats;
pub use key::NodeKey;
