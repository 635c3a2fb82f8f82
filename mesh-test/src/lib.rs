//! Tests across the crates of a Landbridge mesh; never published, and a dependency of none.
//!
//! ```text
//!   scenarios/**.yaml ──> Scenario ─┬─> files ──> Checked ──────────────────────┬─> naive, compiled, checkers, resolver
//!                                   ├─> facts ─> expander ─> events ─> State ───┤        each probe: expected = told?
//!                                   └─> facts ─> publishers ─> records ─> States┘
//! ```
//!
//! What is here is what no single crate can say of itself: [`scenario`] is behaviour as text, one file for each rule of
//! SEMANTICS, run by every executor in `tests/scenarios.rs`; `tests/workspace.rs` holds the workspace to its own rules.
//! `fuzz/` is a workspace of its own, for it is built with instrumentation: what is read from foreign text, run by `fuzz/run.sh`.
//!
//! ```
//! use mesh_test::scenario::Scenario;
//!
//! let text = "
//! name: two addresses of nobody
//! clusters: {east: ''}
//! policy: [192.0.2.1 -> 192.0.2.2:80/tcp allow egress None ingress None]
//! ";
//! let scenario = &Scenario::read(text).expect("a scenario")[0];
//! assert!(scenario.checked().is_ok());
//! assert_eq!(scenario.policy.len(), 1);
//! ```

pub mod derived;
pub mod expand;
pub mod probe;
pub mod scenario;
pub mod signed;
pub mod sim;
