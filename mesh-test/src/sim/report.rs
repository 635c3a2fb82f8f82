//! What many runs came to: counts by fault and promise, as JSON and as the fault matrix.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::Outcome;
use super::script::Action;
use super::world::{Counts, Promise};

/// What many runs came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Runs.
    pub runs: u64,
    /// The sums of what was counted.
    pub counts: Counts,
    /// Runs with each kind of fault, and how many of them broke each promise.
    pub faults: BTreeMap<Action, (u64, BTreeMap<Promise, u64>)>,
    /// Seeds that broke a promise.
    pub failed: Vec<u64>,
}

impl Report {
    /// Takes in a run.
    pub fn add(&mut self, seed: u64, outcome: &Outcome) {
        let broken = outcome.violation.as_ref().map(|violation| violation.promise);
        let by = BTreeMap::from_iter(broken.map(|promise| (promise, 1)));
        let faults = outcome.faults.iter().map(|fault| (*fault, (1, by.clone()))).collect();
        let failed = Vec::from_iter(broken.map(|_| seed));
        self.merge(Report { runs: 1, counts: outcome.counts.clone(), faults, failed });
    }

    /// Takes in other runs.
    pub fn merge(&mut self, other: Report) {
        self.runs += other.runs;
        let (sum, one) = (&mut self.counts, &other.counts);
        sum.events += one.events;
        sum.packets += one.packets;
        sum.delivered += one.delivered;
        sum.compared += one.compared;
        sum.quiet += one.quiet;
        sum.converged += one.converged;
        sum.refused += one.refused;
        for (fault, (runs, by)) in other.faults {
            let mine = self.faults.entry(fault).or_default();
            mine.0 += runs;
            for (promise, count) in by {
                *mine.1.entry(promise).or_default() += count;
            }
        }
        self.failed.extend(other.failed);
    }

    /// Returns the counts as JSON.
    pub fn json(&self) -> Value {
        let Counts { events, packets, delivered, compared, quiet, converged, refused } = self.counts;
        let faults: BTreeMap<&str, u64> = self.faults.iter().map(|(fault, (runs, _))| (fault.word(), *runs)).collect();
        json!({
            "runs": self.runs, "failed": self.failed, "events": events, "packets": packets, "delivered": delivered,
            "compared_with_model": compared, "quiet": quiet, "delivered_in_quiet": converged, "refused": refused, "faults": faults,
        })
    }

    /// Returns the fault matrix, as Markdown.
    pub fn matrix(&self, seeds: &str) -> String {
        let mut text = String::from(HEAD);
        text.push_str(&format!(
            "\nSimulated: seeds {seeds}, {} runs, {} broke a promise. {} packets, {} delivered, {} comparisons of a node's whole \
             state with the model, {} times quiet.\n\n| fault |",
            self.runs,
            self.failed.len(),
            self.counts.packets,
            self.counts.delivered,
            self.counts.compared,
            self.counts.quiet
        ));
        for promise in Promise::ALL {
            text.push_str(&format!(" {} |", promise.title()));
        }
        text.push_str(&format!("\n| --- |{}\n", " --- |".repeat(Promise::ALL.len())));
        for (fault, (runs, broken)) in &self.faults {
            let Some(title) = fault.fault() else { continue };
            text.push_str(&format!("| {title} |"));
            for promise in Promise::ALL {
                let count = broken.get(&promise).copied().unwrap_or_default();
                let what = if count == 0 { "held".to_owned() } else { format!("**{count} broken**") };
                text.push_str(&format!(" {runs}: {what} |"));
            }
            text.push('\n');
        }
        text.push_str(LAB_HEAD);
        for (fault, promise, test) in LAB {
            text.push_str(&format!("| {fault} | {promise} | `{test}` |\n"));
        }
        text
    }
}

const HEAD: &str = "# The fault matrix

Generated: `cargo run --release -p mesh-test --bin sim -- --seeds 0..N --matrix docs/fault-matrix.md`; do not edit by hand.

Rows are faults, columns promises. A cell says how many simulated runs had the fault, among others, and how many of them broke the
promise. What each promise means, and what is simulated and what is the real code, is in `ARCHITECTURE.md`, \"The simulator\".
";

const LAB_HEAD: &str = "
Real processes, namespaces and stores, by the test that does it (each runs in `./test.sh`):

| fault | what holds | test |
| --- | --- | --- |
";

/// What lab tests say, by test.
const LAB: &[(&str, &str, &str)] = &[
    (
        "agent killed, restarted, absent",
        "no packet of the fleet leaves in the clear, no denied packet arrives",
        "examples/tests/fail_closed.rs",
    ),
    ("both agents killed during a transfer", "every byte arrives", "examples/tests/restart.rs"),
    (
        "random bytes on WireGuard, DNS and TUN; forged records in a store",
        "nothing crashes; refused and counted",
        "examples/tests/garbage.rs",
    ),
    (
        "all nodes of a cluster killed; a path that flaps",
        "its traffic leaves within 3 s, comes back, and loses no request",
        "examples/tests/traffic.rs",
    ),
    (
        "mirror stopped, a new workload speaks",
        "held, its identity pulled, decided by the right rule",
        "examples/tests/first_packet.rs",
    ),
    (
        "revocation in a running fleet",
        "its openings and its established flows end within 5 s, and stay ended over restarts",
        "examples/tests/revocation.rs",
    ),
    ("demo killed in the middle", "the next one cleans up and succeeds", "examples/tests/demo.rs"),
    (
        "etcd: leader killed, member paused, quota full, compaction under a watcher, restored backup",
        "nothing is lost or resurrected, everybody converges",
        "mesh-source/tests/etcd",
    ),
    ("publisher lost its claim, or is gone", "it puts nothing any more; another one goes on", "mesh-source/tests/outbox.rs"),
    ("store directory removed", "the publisher fills it again", "mesh-source/tests/outbox.rs"),
];
