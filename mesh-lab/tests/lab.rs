//! Labs on the machine the tests run on. Needs root; skips loudly without, and fails if MESH_REQUIRE_ALL=1.
#![allow(clippy::unwrap_used, reason = "a test ends at its first surprise")]

#[path = "lab/captures.rs"]
mod captures;
#[path = "lab/helper.rs"]
mod helper;
#[path = "lab/lifecycle.rs"]
mod lifecycle;
#[path = "lab/processes.rs"]
mod processes;
#[path = "lab/support.rs"]
mod support;
#[path = "lab/traffic.rs"]
mod traffic;
