//! The simulator's short form, and every script that ever found a bug.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use mesh_test::sim::script::Script;
use mesh_test::sim::shrink::shrink;
use mesh_test::sim::store::Verified;
use mesh_test::sim::world::Promise;
use mesh_test::sim::{generate, run};

/// Seeds of the short form; `SIM_SEEDS` takes another number, the long form is in CONTRIBUTING.md.
const SEEDS: u64 = 1_000;

#[test]
fn seeds() {
    let seeds: u64 = std::env::var("SIM_SEEDS").map_or(SEEDS, |text| text.parse().expect("SIM_SEEDS is a number"));
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                let mut verified = Verified::default();
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        return;
                    }
                    let script = generate::script(seed);
                    if let Some(violation) = run(&script, &mut verified, false).violation {
                        let (short, why) = shrink(&script, &violation, &mut verified);
                        panic!("seed {seed}: {violation:?}\nshortened, where {}:\n{short}", why.what);
                    }
                }
            });
        }
    });
}

#[test]
fn scripts_that_found_a_bug() {
    let mut count = 0;
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("sim")).expect("the scripts are there") {
        let path = entry.expect("a directory entry").path();
        if path.is_dir() {
            // `open`: scripts of failures that are not mended yet.
            continue;
        }
        let script: Script = fs::read_to_string(&path).expect("a text").parse().expect("a script");
        let outcome = run(&script, &mut Verified::default(), false);
        assert_eq!(outcome.violation, None, "{}", path.display());
        count += 1;
    }
    assert!(count >= 2, "{count} scripts");
}

fn broken(steps: &str) -> Option<Promise> {
    let script: Script = format!("seed 1\nfleet 2,1 workloads 3 default 1 nat 0\n{steps}").parse().expect("a script");
    run(&script, &mut Verified::default(), false).violation.map(|violation| violation.promise)
}

#[test]
fn what_a_broken_node_does_is_noticed() {
    assert_eq!(broken("+500 quiet\n"), None);
    assert_eq!(broken("+500 break 1 0\n+0 add 0 5 1\n+0 quiet\n"), Some(Promise::Converged));
    assert_eq!(broken("+500 break 1 1\n+0 quiet\n"), Some(Promise::Verdict));
}

#[test]
fn a_failure_is_shortened_to_what_it_needs() {
    let text =
        "seed 1\nfleet 2,1 workloads 3 default 1 nat 0\n+500 burst 2\n+0 policy 0 0 1\n+0 break 1 1\n+0 loss 20\n+0 quiet\n";
    let script: Script = text.parse().expect("a script");
    let mut verified = Verified::default();
    let violation = run(&script, &mut verified, false).violation.expect("it is noticed");
    let (short, _) = shrink(&script, &violation, &mut verified);
    assert!(short.steps.len() < script.steps.len(), "{short}");
    for at in 0..short.steps.len() {
        let mut shorter = short.clone();
        shorter.steps.remove(at);
        let found = run(&shorter, &mut verified, false).violation;
        assert_ne!(found.map(|found| found.promise), Some(violation.promise), "step {at} is not needed: {short}");
    }
}

#[test]
fn the_same_script_gives_the_same_run() {
    let script = generate::script(5);
    let counts = [(); 2].map(|()| run(&script, &mut Verified::default(), false).counts);
    assert_eq!(counts[0], counts[1]);
}
