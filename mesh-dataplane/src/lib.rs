//! What one node of the mesh does: its plan, the steps to it, and the decision about every packet.
//!
//! ```text
//!  State + PolicySet ─> Planner ─> Plan ──diff──> Op … ──> Tunnel ─┬─ user:   Forwarder between TUN and UDP
//!                                   ^              │               └─ kernel: WireGuard, routes, nftables
//!                                   │          Reconciler              │
//!                                   └── Actual <─ observe ─────────────┘──> FlowRecord
//! ```
//!
//! A [`Plan`] is a value: policy, peers, routes, what is local and what is guarded. The [`Reconciler`] takes a [`Tunnel`] to it
//! from wherever it is; the [`Forwarder`] is the deciding half of a user-space tunnel. Nothing here reads a clock or touches a
//! socket: `now` and bytes come in, values go out.
//!
//! Two nodes, a packet and its refusal, all in memory:
//!
//! ```
//! use std::collections::BTreeMap;
//! use std::sync::Arc;
//! use mesh_core::policy::{NetworkPolicy, PolicyScope};
//! use mesh_core::{Event, Node, NodeLink, Now, Resource, Selector, Settings, SourceId, State, StateConfig, Trust, WireGuardKey, Workload};
//! use mesh_dataplane::{Actual, DropReason, Forwarder, Inbound, Outbound, Planner, Scope};
//! use mesh_policy::Compiler;
//!
//! // A workload on each node, and a policy that isolates those of cluster east.
//! let config = StateConfig { fleet: "".into(), trust: Trust::Open, settings: Settings::default(), domains: BTreeMap::new() };
//! let (mut state, mut compiler) = (State::new(config), Compiler::new());
//! let mut facts = vec![Resource::NetworkPolicy(Arc::new(NetworkPolicy {
//!     scope: PolicyScope::Cluster("east".parse()?),
//!     namespace: "shop".parse()?,
//!     name: "isolate".parse()?,
//!     subject: Selector::ALL,
//!     ingress: Some(vec![]),
//!     egress: None,
//! }))];
//! for (cluster, net) in [("east", 1), ("west", 2)] {
//!     let (id, address) = (format!("{cluster}/node").parse()?, [10, net, 0, 5].into());
//!     let link = NodeLink {
//!         id, key: WireGuardKey([net; 32]), next_key: None, endpoints: vec![([192, 0, 2, net], 51820).into()], overlay: vec![],
//!     };
//!     let prefixes = vec![format!("10.{net}.0.0/24").parse()?];
//!     facts.push(Resource::Node(Node { id: link.id.clone(), labels: Default::default(), addresses: vec![], prefixes }));
//!     facts.push(Resource::NodeLink(link));
//!     facts.push(Resource::Workload(Workload {
//!         id: format!("{cluster}/shop/web").parse()?, labels: Default::default(), service_account: "default".into(),
//!         node: Some("node".parse()?), host_network: false, addresses: vec![address], ports: vec![],
//!     }));
//! }
//! for fact in facts {
//!     let change = state.apply(Event::Set(SourceId("example".into()), fact), Now::default());
//!     compiler.update(&state, &change);
//! }
//!
//! // Each node plans for itself; here the plan goes straight to a forwarder.
//! let forwarder = |node: &str| -> Result<Forwarder, mesh_core::NameError> {
//!     let plan = Planner::new(node.parse()?, Scope::Fleet).plan(&state, compiler.current());
//!     let mut forwarder = Forwarder::new();
//!     plan.diff(&Actual::default()).iter().for_each(|op| forwarder.apply(op));
//!     Ok(forwarder)
//! };
//! let (mut east, mut west) = (forwarder("east/node")?, forwarder("west/node")?);
//! let (to_west, from_east) = (east.peer(&"west/node".parse()?), west.peer(&"east/node".parse()?));
//! let (to_east, from_west) = (west.peer(&"east/node".parse()?), east.peer(&"west/node".parse()?));
//! let datagram = |from: u8, from_port: u16, to: u8, to_port: u16| {
//!     let [a, b] = from_port.to_be_bytes();
//!     let [c, d] = to_port.to_be_bytes();
//!     [0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, from, 0, 5, 10, to, 0, 5, a, b, c, d, 0, 8, 0, 0]
//! };
//!
//! // East asks west: allowed on both sides, and the answer flows though east is isolated.
//! let (question, answer, now) = (datagram(1, 4000, 2, 53), datagram(2, 53, 1, 4000), Now::default());
//! assert_eq!(east.handle_outbound(&question, now), Outbound::Send(to_west));
//! assert_eq!(west.handle_inbound(from_east, &question, now), Inbound::Deliver);
//! assert_eq!(west.handle_outbound(&answer, now), Outbound::Send(to_east));
//! assert_eq!(east.handle_inbound(from_west, &answer, now), Inbound::Deliver);
//!
//! // West asks east: west lets it go, east refuses it, and the record says why.
//! let uninvited = datagram(2, 4000, 1, 53);
//! assert_eq!(west.handle_outbound(&uninvited, now), Outbound::Send(to_east));
//! assert_eq!(east.handle_inbound(from_west, &uninvited, now), Inbound::Drop(DropReason::Policy));
//! let records: Vec<_> = std::iter::from_fn(|| east.poll_flow()).collect();
//! assert_eq!(records.iter().map(|record| record.reason.as_str()).collect::<Vec<_>>(), ["fleet-default", "isolated-by-network-policy"]);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod balancer;
pub mod community_id;
pub mod conformance;
pub mod counters;
pub mod fake;
mod flow_table;
pub mod forwarder;
pub mod health;
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

pub use balancer::Balancer;
pub use community_id::community_id;
pub use counters::{Counters, DropReason, Drops, HoldCounters, Traffic};
pub use fake::FakeTunnel;
pub use forwarder::{Forwarder, Inbound, Opening, Outbound, PeerHandle, Released, Want};
pub use health::Health;
pub use op::Op;
pub use plan::{Backends, Frontend, Local, Peer, PeerKeys, Plan, Scope, ServiceTable};
pub use planner::Planner;
pub use planner::services::ServicePlanner;
pub use reconciler::Reconciler;
pub use tunnel::{Actual, Tunnel, TunnelError};
