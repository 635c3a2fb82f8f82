//! The compiled policy against the yardstick, over random fleets and their histories.

#[path = "policy/absent.rs"]
mod absent;
#[path = "policy/any.rs"]
mod any;
#[path = "policy/check.rs"]
mod check;
#[path = "policy/explain.rs"]
mod explain;
#[path = "policy/fleet.rs"]
mod fleet;
#[path = "policy/lint.rs"]
mod lint;
#[path = "policy/property.rs"]
mod property;
#[path = "policy/stories.rs"]
mod stories;
