//! Native DNS of a Landbridge mesh: cluster.local and clusterset.local from services and exports.

pub mod check;
pub(crate) mod name;
pub mod resolver;
pub mod server;
pub(crate) mod wire;
pub mod zone;

pub use check::{DnsAnswer, DnsChecker, DnsOutcome, DnsQuery, DnsQueryError};
pub use resolver::{Counters, Entropy, ForwardId, Reply, Resolver, ResolverConfig, Transmit};
pub use server::{BindError, Server, ServerCounters, ServerLimits, ServerStats};
pub use wire::Transport;
pub use zone::{Area, Zone, ZoneConfig, ZoneConfigError};
