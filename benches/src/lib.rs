//! Criterion benchmarks of the Landbridge crates, and the fixed inputs that they measure with.
//!
//! ```text
//!   Size ──> Fleet ──┬─> State          workloads, identities, policies      benches/policy, benches/policy_memory
//!                    ├─> queries        connections between its workloads    decide, lookup
//!                    └─> manifests      a directory for `meshctl`            examples/check_fleet, check.sh
//!   Catalog ───────────> State          services with their endpoints         benches/discovery_zone, benches/discovery_memory
//!   Remote ────────────> records        what a publisher signs of a cluster           benches/records, benches/record_memory
//! ```
//!
//! Everything here is a function of its arguments: two machines, and two versions of the engine, measure the same thing.
//!
//! ```
//! use mesh_benches::fleet::{Fleet, Size};
//!
//! let fleet = Fleet::new(Size { workloads: 300, identities: 100, policies: 10, rules_per_policy: 10 });
//! let state = fleet.state();
//! assert_eq!(state.facts().workloads.len(), 300);
//! assert_eq!(state.facts().network_policies.len() + state.facts().cluster_policies.len(), 10);
//! ```

pub mod allocations;
pub mod external;
pub mod fleet;
pub mod manifests;
pub mod peers;
pub mod queries;
pub mod random;
pub mod records;
pub mod services;
mod yaml;

/// Tells whether this is a benchmark that `cargo bench` runs, rather than `cargo test`.
pub fn is_measured() -> bool {
    std::env::args().any(|argument| argument == "--bench")
}

/// Tells whether the benchmark `name` is among those that were asked for: `cargo bench -- NAME` means criterion's benchmarks of
/// that name, of which one without criterion is none.
pub fn is_wanted(name: &str) -> bool {
    let mut names = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).peekable();
    names.peek().is_none() || names.any(|wanted| name.contains(&wanted))
}
