//! What needs WireGuard in the kernel. `mesh-test/guest/run.sh` runs it on a kernel that has it; so does `./test.sh`.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

#[path = "common/foreign.rs"]
mod foreign;
#[path = "kernel/mixed.rs"]
mod mixed;
#[path = "common/netns.rs"]
mod netns;
#[path = "common/node.rs"]
mod node;
#[path = "kernel/police.rs"]
mod police;
#[path = "kernel/restart.rs"]
mod restart;
#[path = "kernel/tunnel.rs"]
mod tunnel;
