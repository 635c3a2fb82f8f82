//! Identity policy of a Landbridge mesh: NetworkPolicy and ClusterNetworkPolicy to a verdict with its reason.
//!
//! ```text
//!   State ──┬───────────────> naive::decide ─────────────────────┐
//!           │                 (linear scans, the yardstick)      ├──> Verdict: allow or deny, and why
//!           └─ Change ─> Compiler ─> PolicySet ─> flow, decide ──┘    (side, tier, policy, rule, or which default)
//!                                     ▲
//!       address ─> end, profile ──────┤  what rules see of an end: identity, named ports, networks
//!       profile ─> class, rule sets ──┤  peers that no rule tells apart are one class, subjects with the same rules have one
//!       rule set, class ─> row ───────┘  rule set; a row has one verdict for each interval of ports that its rules name
//! ```
//!
//! A connection is decided twice: on the source's side by the egress policies of its cluster, on the destination's side by the
//! ingress policies of its own. It is allowed when both allow it.
//!
//! ```
//! use std::sync::Arc;
//!
//! use mesh_core::policy::{NetworkPolicy, PolicyScope};
//! use mesh_core::{
//!     Change, Direction, Event, FiveTuple, Now, Protocol, Reason, Resource, Selector, Settings, SourceId, State, StateConfig, Trust,
//!     Verdict, Workload,
//! };
//! use mesh_policy::Compiler;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let config = StateConfig { fleet: "demo".into(), trust: Trust::Open, settings: Settings::default(), domains: Default::default() };
//! let mut state = State::new(config);
//! let db = Workload {
//!     id: "east/shop/db-0".parse()?,
//!     labels: [("app", "db")].into_iter().collect(),
//!     service_account: "default".into(),
//!     node: None,
//!     host_network: false,
//!     addresses: vec!["10.1.0.2".parse()?],
//!     ports: Vec::new(),
//! };
//! let closed = NetworkPolicy {
//!     scope: PolicyScope::Cluster("east".parse()?),
//!     namespace: "shop".parse()?,
//!     name: "closed".parse()?,
//!     subject: Selector::ALL,
//!     ingress: Some(Vec::new()),
//!     egress: None,
//! };
//! let mut change = Change::default();
//! for fact in [Resource::Workload(db), Resource::NetworkPolicy(Arc::new(closed))] {
//!     change.merge(state.apply(Event::Set(SourceId("example".into()), fact), Now::default()));
//! }
//!
//! let mut compiler = Compiler::new();
//! let set = compiler.update(&state, &change);
//! let flow = set.flow(&FiveTuple {
//!     source: "192.0.2.1".parse()?,
//!     destination: "10.1.0.2".parse()?,
//!     protocol: Protocol::Tcp,
//!     source_port: 40000,
//!     destination_port: 5432,
//! });
//! assert_eq!(set.decide(&flow, Direction::Ingress), Verdict::Deny(Reason::Isolated));
//! assert_eq!(set.decide(&flow, Direction::Egress), Verdict::Allow(Reason::NotPoliced));
//! # Ok(())
//! # }
//! ```
//!
//! # The rules, and where they are
//!
//! The numbers are those of SEMANTICS §2. Each rule is written twice, in [`naive`] to be read and in the compiler to be fast, and
//! `tests/policy/property.rs` holds the two together over random fleets. The tests named are in `tests/policy/stories.rs`.
//!
//! | rule | what | yardstick (`naive`) | compiled | test |
//! | --- | --- | --- | --- | --- |
//! | 1 | egress and ingress side, each decided by its own cluster | `decide` | [`PolicySet::decide`] | `without_policies_…`, `check::an_answer_names_both_sides_…` |
//! | 2 | Admin, NetworkPolicy, Baseline, default; Pass; priority, then name | `Side::cluster_tier` | `book`, `compiler/rows` | `rule_2_…` |
//! | 3 | NetworkPolicy is final for its direction, Baseline for each direction | `Side::network_policies` | `compiler/rulesets`: `Selection` | `rule_3_…` |
//! | 4 | scopes, fleet policies, namespace sameness | `matching`: `is_subject_of`, `is_peer` | `compiler/rulesets`, `peers` | `rule_4_…` |
//! | 4 | the default between clusters, exports as consent | `Side::no_tier`, `exports` | `PolicySet::no_tier`, `compiler/exports` | `rule_4_joining_…`, `rule_4_an_export_…`, `rule_4_the_default_…` |
//! | 5 | ipBlock and networks match workloads too; except is no deny | `is_in_networks` | `compiler/regions` | `rule_5_…` |
//! | 6 | host-network pods are their node | `State::locate` | `compiler/workloads` | `rule_6_…` |
//! | 7 | absent keys, `{}` and missing selectors | `mesh_core::Selector` | the same | `rule_7_…` |
//! | 8 | missing policyTypes | read from the manifest: mesh-core | | mesh-core |
//! | 9 | empty lists, endPort, named ports | `matches_rule`, `is_port` | `compiler/rows`: `spans` | `rule_9_…` |
//! | 10 | a workload and itself | `decide` | [`PolicySet::decide`] | `rule_10_a_workload_…` |
//! | 10 | the own node | `is_own_node_allowed` | the same name in `set` | `rule_10_the_own_node_…`, `nodes_of_two_clusters_…` |
//! | 11 | peers of ClusterNetworkPolicy; nodes, domain names | `is_node_address`, `is_domain_address` | `compiler/regions` | `rule_11_…` |
//! | 12 | what is not understood fails closed | `rules::fails_closed` | `book`: `cluster_rule` | `rule_12_…` |
//! | 13 | external and identity-pending | `decide` | `Ends::get` | `rule_13_…` |
//! | 14 | protocols without ports | `is_port` | `set/ruleset`: `key` | `rule_14_…` |
//! | 14 | translated addresses, fragments, ICMP errors, multicast | the data plane, before it asks | | mesh-dataplane |
//!
//! Readings, where the text leaves a choice:
//!
//! - A node's own address inside the mesh counts as one of its addresses for `nodes` and for the own node: a rule that denies
//!   nodes must not be passed by another address of theirs. Two clusters' nodes may have the same underlay address, which is then
//!   an address of each; inside granted prefixes only the owning cluster's nodes are believed.
//! - `Pass` in Baseline decides nothing, so between clusters the fleet's default follows it.
//! - A ClusterNetworkPolicy rule with a peer that has no meaning where it stands (`networks` in ingress, `domainNames` with Deny)
//!   fails closed like an unknown one.
//! - An endpoint's port without a number is exported with the Service port's own.
//! - In the offline check, an address that is not its named owner's is matched as the address it is, for the owner's side; a
//!   workload that reaches itself by such an address is policed like any other peer.

mod book;
pub mod check;
mod compiler;
pub mod diff;
pub mod explain;
mod exports;
pub mod lint;
pub mod matrix;
pub mod naive;
mod peers;
mod reach;
mod rules;
mod set;
mod store;
mod words;

pub use self::compiler::Compiler;
pub use self::reach::{Party, Ports};
pub use self::set::{
    End, Exported, Flow, Interval, Known, NodeHandle, PolicySet, Profile, ProfileHandle, Protocols, Row, Rulings, WorkloadHandle,
    WorkloadInfo,
};
