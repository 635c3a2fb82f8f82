//! A whole fleet in one thread, under virtual time, with everything going wrong.
//!
//! ```text
//!   script ──> World: virtual time, a queue of what is due
//!    (seed)     │
//!               ├─ Fleet: the truth ─── what each cluster's API says, what the root signed
//!               ├─ Store, Tail ──────── records, readers, mirrors that drop, reorder, edit
//!               ├─ SimNode ──────────── State, Publisher, Compiler, Planner, Reconciler, Engine<SimSession>: the real ones
//!               ├─ Network ──────────── delay, loss, duplicates, reordering, partitions, NAT, MTU
//!               └─ Known ────────────── the reference model beside each node: what reached it, and what follows
//! ```
//!
//! The same script gives the same run. Everything random comes from its seed; nothing reads a clock. After each step, nodes are
//! compared with the model, and each packet that a node lets pass is judged by the naive evaluator on that node's newest facts.
//! `quiet` heals everything; two seconds of virtual time later every node must believe what is true, and what the truth allows
//! must be delivered and answered, and nothing else.
//!
//! What is not the real thing: the encryption ([`session`]: WireGuard's messages and timers with a checksum for a cipher), the
//! stores' and the API's transport (delays and retries), the kernel. Signatures are real, and verified once for all nodes.
//!
//! ```
//! let mut verified = mesh_test::sim::store::Verified::default();
//! let outcome = mesh_test::sim::run(&mesh_test::sim::generate::script(1), &mut verified, false);
//! assert_eq!(outcome.violation, None);
//! ```

use std::collections::BTreeSet;

use self::script::{Action, Script};
use self::store::Verified;
use self::world::{Counts, MS, Violation, World};

pub mod fleet;
pub mod generate;
mod happen;
pub mod known;
mod lies;
pub mod network;
pub mod node;
pub mod packet;
mod packets;
mod quiet;
pub mod report;
pub mod rng;
pub mod script;
pub mod session;
pub mod shrink;
mod steps;
pub mod store;
pub mod world;

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The promise that was broken, if one was.
    pub violation: Option<Violation>,
    /// What was counted.
    pub counts: Counts,
    /// The kinds of faults that happened.
    pub faults: BTreeSet<Action>,
}

/// Runs a script to its end, or to the first broken promise.
pub fn run(script: &Script, verified: &mut Verified, trace: bool) -> Outcome {
    let mut world = World::new(script, verified, trace);
    let mut turn = script.seed as usize;
    for step in &script.steps {
        world.run_until(world.now + step.after * MS);
        if world.violation.is_some() {
            break;
        }
        world.step(step);
        // One node after the other: comparing all of them each time would cost more than everything else.
        turn += 1;
        world.compare(turn % world.nodes.len());
        if world.violation.is_some() {
            break;
        }
    }
    if world.violation.is_none() {
        world.check_versions();
    }
    world.finish()
}
