//! The nftables policy table against the compiled policy: real packets through the kernel's forwarding, every scenario.
#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

#[path = "policy_table/changes.rs"]
mod changes;
#[path = "policy_table/fleet.rs"]
mod fleet;
#[path = "../../mesh-wireguard/tests/common/netns.rs"]
mod netns;
#[path = "policy_table/packets.rs"]
mod packets;
#[path = "policy_table/router.rs"]
mod router;

use fleet::{nodes, tuples};
use mesh_core::{Direction, FiveTuple};
use mesh_dataplane::Local;
use mesh_policy::PolicySet;
use mesh_test::scenario::{self, Scenario};
use netns::possible;
use router::Router;

/// Decides both sides as far as they live on the node.
fn is_allowed(set: &PolicySet, local: &Local, tuple: &FiveTuple) -> bool {
    let lives_here = |address| local.prefixes.iter().any(|prefix| prefix.contains(address));
    let flow = set.flow(tuple);
    let side = |address, direction| !lives_here(address) || set.decide(&flow, direction).is_allow();
    side(tuple.source, Direction::Egress) && side(tuple.destination, Direction::Ingress)
}

fn scenarios() -> Vec<(String, PolicySet)> {
    let mut all = Vec::new();
    for (file, text) in scenario::all().expect("the scenarios can be read") {
        for scenario in Scenario::read(&text).expect("a scenario") {
            let Ok(checked) = scenario.checked() else { continue };
            all.push((format!("{file}: {}", scenario.name), PolicySet::compile(&checked.state)));
        }
    }
    all
}

#[test]
fn every_scenario_is_decided_by_the_kernel_as_by_the_compiled_policy() {
    if !possible(&["ip", "nft"]) {
        return;
    }
    let mut router = Router::new();
    let (mut asked, mut allowed, mut failures) = (0, 0, Vec::new());
    for (name, set) in scenarios() {
        for local in nodes(&set) {
            // One table after the other, each by what is different.
            router.program(&set, &local);
            let tuples = tuples(&set, &local, asked as u64);
            let passed = router.probe(&tuples);
            for tuple in &tuples {
                let expected = is_allowed(&set, &local, tuple);
                asked += 1;
                allowed += usize::from(expected);
                if passed.contains(tuple) != expected {
                    failures.push(format!(
                        "{name}, at {}: {tuple:?} is {}",
                        local.node,
                        if expected { "dropped" } else { "let pass" }
                    ));
                }
            }
        }
    }
    let shown = failures.iter().take(20).cloned().collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "{} of {asked} wrong:\n{shown}", failures.len());
    println!("{asked} connections, {allowed} allowed");
    assert!(asked > 2_000 && allowed > asked / 10 && allowed < asked * 9 / 10, "{asked} asked, {allowed} allowed");
}
