//! The tunnels of a Landbridge mesh: WireGuard between nodes, fail-closed routes, service translation.
//!
//! ```text
//!   workload ── veth ── kernel ──────────────────────────── landbridge0 (Tun)
//!                        │ rule 7300: iif landbridge0 → main      │ packets
//!                        │ rule 7301: table 7300 (Guard, routes)  ▼
//!                        │ table inet landbridge (services)    Engine ── Forwarder: policy, flows, routes
//!                        │                                        │   └─ Session: encryption, by key of a peer
//!   underlay ─────────── UDP 51820 (Udp) ◄── datagrams ───────────┘
//! ```
//!
//! [`KernelTunnel`] has the kernel's own WireGuard in the place of Tun, Engine and Udp.
//! [`UserTunnel`] is the whole of it: it implements [`mesh_dataplane::Tunnel`], with one thread that moves packets. Its engine
//! is pure and runs without devices; two of them, back to back:
//!
//! ```
//! use mesh_core::{Now, NodeId, WireGuardKey};
//! use mesh_dataplane::{Op, Peer, PeerKeys};
//! use mesh_wireguard::{NodeKey, batch::Output, engine::Engine, session::{BoringKey, BoringSession}};
//!
//! let (east, west) = (NodeKey::from_bytes([1; 32]), NodeKey::from_bytes([2; 32]));
//! let peer = |key: WireGuardKey, endpoint: &str| Peer {
//!     keys: PeerKeys { current: key, next: None },
//!     endpoints: vec![endpoint.parse().expect("an address")],
//! };
//! let (at_east, at_west) = ("192.0.2.1:51820", "192.0.2.2:51820");
//! let (node_1, node_2): (NodeId, NodeId) = ("east/node-1".parse()?, "west/node-1".parse()?);
//! let mut a = Engine::<BoringSession>::new(BoringKey::new(east.clone()));
//! let mut b = Engine::<BoringSession>::new(BoringKey::new(west.clone()));
//! let (mut from_a, mut from_b, now) = (Output::new(), Output::new(), Now::default());
//! b.apply(&Op::SetPeer(node_1, peer(east.public(), at_east)), now, &mut from_b)?;
//! from_b.clear(); // Its initiation is lost.
//! a.apply(&Op::SetPeer(node_2, peer(west.public(), at_west)), now, &mut from_a)?;
//!
//! // Initiation, response, and the keepalive that confirms the keys.
//! for _ in 0..2 {
//!     let mut wire = mesh_wireguard::batch::Datagrams::new();
//!     from_a.datagrams.iter().for_each(|(_, bytes)| wire.push(at_east.parse().expect("an address"), bytes));
//!     from_a.clear();
//!     b.handle_udp(&wire, now, &mut from_b);
//!     wire.clear();
//!     from_b.datagrams.iter().for_each(|(_, bytes)| wire.push(at_west.parse().expect("an address"), bytes));
//!     from_b.clear();
//!     a.handle_udp(&wire, now, &mut from_a);
//! }
//! assert_eq!((a.stats().engine.handshakes, b.stats().engine.handshakes), (1, 1));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! Who owns what in the kernel, and how a restart knows it: routes and rules carry protocol number 73, routes are in table 7300,
//! the nftables table says in its comment that it is ours. [`Guard::down`] and [`ServiceRules::remove`] remove them.

pub mod batch;
mod conntrack;
mod driver;
mod ecn;
pub mod engine;
mod guard;
mod host;
mod kernel;
mod key;
pub mod message;
mod netlink;
mod nft;
pub mod offload;
mod policy;
mod services;
pub mod session;
mod stats;
mod sys;
pub mod tun;
mod udp;
mod user;

pub use driver::{Ended, StatsHandle};
pub use guard::{Guard, GuardStatus};
pub use kernel::{KernelStartError, KernelTunnel, KernelTunnelConfig};
pub use key::NodeKey;
pub use netlink::NetlinkError;
pub use policy::{POLICY_TABLE, PolicyError, PolicyRules, PolicySize};
pub use services::{NFT_TABLE, ServiceRules, ServicesError};
pub use stats::{EngineCounters, IoCounters, PeerStats, Refusals, TunnelStats};
pub use user::{StartError, UserTunnel, UserTunnelConfig};

/// The TUN device's usual name.
pub const DEVICE: &str = "landbridge0";
/// The routing table that is ours.
pub const TABLE: u32 = 7300;
/// The protocol number of our routes and rules.
pub const PROTOCOL: u8 = 73;
/// The priority of the rule that delivers what comes out of the tunnel.
pub const PRIORITY_DELIVER: u32 = 7300;
/// The priority of the rule that asks our table.
pub const PRIORITY_OVERLAY: u32 = 7301;
/// The priority of the rule that drops what comes out of the tunnel and nobody here takes.
pub const PRIORITY_END: u32 = 7302;

/// `RT_TABLE_MAIN`.
const TABLE_MAIN: u32 = 254;
