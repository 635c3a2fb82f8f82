//! The matrix and the difference of policy sets, against the production evaluator.

#[path = "policy/any.rs"]
#[allow(dead_code, reason = "shared with the other laws")]
mod any;
#[path = "policy/fleet.rs"]
#[allow(dead_code, reason = "shared with the other laws")]
mod fleet;
#[path = "policy/reach.rs"]
mod reach;
