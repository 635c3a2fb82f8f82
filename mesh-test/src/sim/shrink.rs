//! From a script that fails to a shorter one that still does.

use super::run;
use super::script::Script;
use super::store::Verified;
use super::world::Violation;

/// How many runs the search may cost.
const MAX_RUNS: usize = 600;

/// Drops what the failure does not need: halves of the steps, quarters, single steps; then waiting.
///
/// A shorter script counts where it breaks the same promise, however it says so.
pub fn shrink(script: &Script, violation: &Violation, verified: &mut Verified) -> (Script, Violation) {
    let (mut best, mut why) = (script.clone(), violation.clone());
    let mut runs = 0;
    let mut fails = |script: &Script| {
        runs += 1;
        let found = (runs <= MAX_RUNS).then(|| run(script, verified, false).violation).flatten();
        found.filter(|found| found.promise == violation.promise)
    };
    let mut size = best.steps.len().div_ceil(2);
    while size > 0 {
        let mut at = 0;
        let mut dropped = false;
        while at < best.steps.len() {
            let mut shorter = best.clone();
            shorter.steps.drain(at..(at + size).min(best.steps.len()));
            match fails(&shorter) {
                Some(found) => (best, why, dropped) = (shorter, found, true),
                None => at += size,
            }
        }
        size = if dropped && size == 1 { 1 } else { size / 2 };
    }
    for at in 0..best.steps.len() {
        let mut sooner = best.clone();
        sooner.steps[at].after = 0;
        if let Some(found) = fails(&sooner) {
            (best, why) = (sooner, found);
        }
    }
    (best, why)
}
