//! Tests across the crates of a Landbridge mesh; never published, and a dependency of none.
//!
//! What is here is what no single crate can say of itself: `tests/workspace.rs` holds the workspace to its own rules.
