//! What a change of the policy does to connections, and what a table does that is not as it was left.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mesh_core::{Direction, FiveTuple, Protocol};
use mesh_dataplane::Local;
use mesh_policy::PolicySet;
use mesh_test::scenario::Scenario;
use mesh_wireguard::batch::Packets;
use mesh_wireguard::{PolicyError, PolicyRules};

use crate::fleet::nodes;
use crate::netns::{Netns, possible};
use crate::packets::{self, icmp_error, opening, tcp};
use crate::router::Router;

/// A policy of cluster east, and the node of `web-0` (10.1.0.5), which speaks with the other cluster's `db-0` (10.2.0.9).
fn policy(spec: &str) -> (PolicySet, Local) {
    let text = format!(
        "name: x\nbase: shop\nclusters:\n  east: |\n    apiVersion: networking.k8s.io/v1\n    kind: NetworkPolicy\n    \
         metadata: {{name: web, namespace: shop}}\n    spec: {{podSelector: {{matchLabels: {{app: web}}}}, {spec}}}\n"
    );
    let scenario = Scenario::read(&text).unwrap().remove(0);
    let set = PolicySet::compile(&scenario.checked().map_err(|errors| format!("{errors:?}")).unwrap().state);
    let web = "10.1.0.5".parse().unwrap();
    let local = nodes(&set).into_iter().find(|node| node.prefixes.iter().any(|prefix| prefix.contains(web))).unwrap();
    (set, local)
}

const ALL: &str = "policyTypes: [Egress], egress: [{}]";
const TO_DB: &str = "policyTypes: [Egress, Ingress], egress: [{ports: [{port: 5432}, {port: 80}]}, {to: [{podSelector: {}}]}]";
const NOTHING: &str = "policyTypes: [Egress, Ingress]";
const ELSEWHERE: &str = "policyTypes: [Egress], egress: [{ports: [{port: 80}]}, {to: [{ipBlock: {cidr: 203.0.113.0/24}}]}]";

fn to_db(source_port: u16) -> FiveTuple {
    let [source, destination] = ["10.1.0.5", "10.2.0.9"].map(|text| text.parse().unwrap());
    FiveTuple { source, destination, protocol: Protocol::Tcp, source_port, destination_port: 5432 }
}

/// Opens connections in a tight loop while `change` has its way with the tables; returns how many were opened, and how many of
/// the openings came out.
fn opening_all_the_time(router: Router, change: impl FnOnce(&mut PolicyRules, &Netns)) -> (u64, u64) {
    let Router { mut rules, mut pods, mut tunnel, netns, .. } = router;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let client = std::thread::spawn(move || {
        let (mut sent, mut arrived) = (0u64, 0u64);
        while !stopped.load(Ordering::Relaxed) {
            let mut batch = Packets::new();
            for _ in 0..16 {
                batch.push(&opening(&to_db(1024 + (sent % 60_000) as u16), 0));
                sent += 1;
            }
            assert_eq!(pods.send(&batch), 0);
            batch.clear();
            tunnel.receive(&mut batch, 1000, 1500);
            arrived += batch.iter().filter(|packet| !packets::is_of_the_kernel(packet)).count() as u64;
        }
        (sent, arrived)
    });
    change(&mut rules, &netns);
    stop.store(true, Ordering::Relaxed);
    client.join().unwrap()
}

/// Has two policies take turns, a thousand times or `MESH_SWAPS`.
fn swap(specs: [&str; 2]) -> (u64, u64) {
    let mut router = Router::new();
    let policies = specs.map(policy);
    router.program(&policies[0].0, &policies[0].1);
    let swaps = std::env::var("MESH_SWAPS").map_or(1000, |text| text.parse::<usize>().unwrap());
    let result = opening_all_the_time(router, |rules, _| {
        for round in 0..swaps {
            let (set, local) = &policies[(round + 1) % 2];
            rules.set(set, Some(local), "landbridge0").unwrap();
        }
    });
    println!("{specs:?}: {} sent, {} arrived", result.0, result.1);
    result
}

#[test]
#[ignore = "the program that the next test starts and kills: it never ends"]
fn an_agent_that_changes_its_policy_all_the_time() {
    let policies = [NOTHING, ELSEWHERE].map(policy);
    let mut rules = PolicyRules::open().unwrap();
    for (set, local) in policies.iter().cycle() {
        rules.set(set, Some(local), "landbridge0").unwrap();
    }
}

#[test]
fn an_agent_that_is_killed_at_any_point_leaves_nothing_open_and_the_next_one_goes_on() {
    if !possible(&["ip", "nft"]) {
        return;
    }
    let mut router = Router::new();
    let (set, local) = policy(NOTHING);
    router.program(&set, &local);
    let foreign = "add table inet foreign { chain theirs { counter comment \"kept\" ; } ; }";
    let (ok, text) = router.netns.command(&format!("nft {foreign}"));
    assert!(ok, "{text}");
    let before = router.netns.command("nft list table inet foreign").1;
    let kills = std::env::var("MESH_SWAPS").map_or(200, |text| text.parse::<u64>().unwrap());
    let mut programmed = 0;
    let (sent, arrived) = opening_all_the_time(router, |rules, netns| {
        for round in 0..kills {
            let mut child = netns.run(|| {
                let mut child = std::process::Command::new(std::env::current_exe().unwrap());
                child.args(["--ignored", "--exact", "changes::an_agent_that_changes_its_policy_all_the_time"]);
                child.stdout(std::process::Stdio::null()).spawn().unwrap()
            });
            // From before its first step to the midst of its changes.
            std::thread::park_timeout(std::time::Duration::from_micros(round * 7919 % 60_000));
            child.kill().unwrap();
            assert!(!child.wait().unwrap().success(), "it ended by itself");
            programmed += u64::from(!rules.is_in_force().unwrap());
            // Every third time the next agent comes, and finds what is there.
            if round % 3 == 2 {
                let mut next = netns.run(|| PolicyRules::open().unwrap());
                assert!(next.fingerprint().unwrap().is_some(), "a table is in force");
                next.set(&set, Some(&local), "landbridge0").unwrap();
                assert!(next.is_in_force().unwrap());
                assert_eq!(next.fingerprint().unwrap(), Some(set.fingerprint()));
            }
        }
        assert_eq!(netns.command("nft list table inet foreign").1, before);
    });
    println!("{kills} kills, {programmed} tables found changed; {sent} sent, {arrived} arrived");
    assert!(programmed > kills / 4, "{programmed} of {kills} came so far as to program anything");
    assert!(sent > 1_000);
    assert_eq!(arrived, 0);
}

#[test]
fn of_two_policies_that_both_deny_no_change_lets_anything_through() {
    if !possible(&["ip", "nft"]) {
        return;
    }
    let (sent, arrived) = swap([NOTHING, ELSEWHERE]);
    assert!(sent > 1_000);
    assert_eq!(arrived, 0);
}

#[test]
fn of_two_policies_that_both_allow_no_change_loses_anything() {
    if !possible(&["ip", "nft"]) {
        return;
    }
    let (sent, arrived) = swap([ALL, TO_DB]);
    assert!(sent > 1_000);
    assert_eq!(arrived, sent);
}

#[test]
fn a_change_holds_for_connections_that_exist_and_for_their_errors() {
    if !possible(&["ip", "nft"]) {
        return;
    }
    let mut router = Router::new();
    let (allows, local) = policy(TO_DB);
    router.program(&allows, &local);
    let (there, back) = (to_db(40_000), to_db(40_000).reversed());
    assert_eq!(router.forward(true, &opening(&there, 0)).len(), 1);
    // The reply is let in, though nobody may open anything to the client.
    let ingress = allows.decide(&allows.flow(&back), Direction::Ingress);
    assert!(!ingress.is_allow());
    assert_eq!(router.forward(false, &tcp(&back, 0x12, 1, 2)).len(), 1);
    assert_eq!(router.forward(true, &tcp(&there, 0x10, 2, 2)).len(), 1);
    let error = |of: &FiveTuple| icmp_error(&tcp(of, 0x10, 2, 2), "10.2.0.1".parse().unwrap());
    assert_eq!(router.forward(false, &error(&there)).len(), 1, "an error follows the connection that it quotes");
    assert_eq!(router.forward(false, &error(&to_db(40_001))).len(), 0, "an error of no connection is dropped");

    let (denies, _) = policy(ELSEWHERE);
    router.rules.set(&denies, Some(&local), "landbridge0").unwrap();
    assert_eq!(router.forward(true, &tcp(&there, 0x10, 2, 2)).len(), 0, "an established connection ends");
    assert_eq!(router.forward(false, &tcp(&back, 0x10, 2, 2)).len(), 0);
    assert_eq!(router.forward(false, &error(&there)).len(), 0);
    router.rules.set(&allows, Some(&local), "landbridge0").unwrap();
    assert_eq!(router.forward(true, &tcp(&there, 0x10, 2, 2)).len(), 1);

    // What somebody else keeps from being tracked has no connection.
    router.netns.command("nft add table inet other");
    router.netns.command("nft add chain inet other raw { type filter hook prerouting priority raw ; }");
    let (ok, text) = router.netns.command("nft add rule inet other raw ip saddr 10.1.0.5 notrack");
    assert!(ok, "{text}");
    assert_eq!(router.forward(true, &opening(&to_db(40_002), 0)).len(), 0);
}

#[test]
fn fragments_follow_the_first_one() {
    if !possible(&["ip", "nft"]) {
        return;
    }
    let mut router = Router::new();
    let (set, local) = policy("policyTypes: [Egress], egress: [{ports: [{port: 53, protocol: UDP}]}]");
    router.program(&set, &local);
    for (port, whole) in [(53, true), (54, false)] {
        let tuple = FiveTuple { protocol: Protocol::Udp, destination_port: port, ..to_db(40_000) };
        let mut datagram = opening(&tuple, 0);
        datagram.extend([7; 1600]);
        let came: usize = packets::fragments(&datagram, 800).iter().map(|part| router.forward(true, part).len()).sum();
        assert_eq!(came > 0, whole, "port {port}");
    }
}

#[test]
fn a_table_that_is_not_ours_stays_and_one_that_was_taken_away_comes_back() {
    if !possible(&["ip", "nft"]) {
        return;
    }
    let mut router = Router::new();
    let (set, local) = policy(NOTHING);
    router.netns.command("nft add table inet landbridge-policy");
    router.netns.command("nft add chain inet landbridge-policy theirs");
    let error = router.rules.set(&set, Some(&local), "landbridge0").unwrap_err();
    assert!(matches!(error, PolicyError::ForeignTable(_)), "{error}");
    assert!(matches!(router.rules.remove().unwrap_err(), PolicyError::ForeignTable(_)));
    assert!(router.netns.command("nft list table inet landbridge-policy").1.contains("chain theirs"));
    router.netns.command("nft delete table inet landbridge-policy");

    // Nothing passes while no policy is there, and nothing that a new process finds is taken for its own.
    router.rules.set(&PolicySet::default(), None, "landbridge0").unwrap();
    assert_eq!(router.forward(true, &opening(&to_db(40_000), 0)).len(), 0);
    router.program(&set, &local);
    assert_eq!(router.rules.fingerprint().unwrap(), Some(set.fingerprint()));
    let mut other = router.netns.run(|| PolicyRules::open().unwrap());
    assert_eq!(other.fingerprint().unwrap(), Some(set.fingerprint()), "what is in force is said by the kernel");
    assert!(!other.is_in_force().unwrap());

    for away in ["delete table", "flush table"] {
        assert!(router.rules.is_in_force().unwrap());
        assert!(router.netns.command(&format!("nft {away} inet {}", router.rules.table())).0);
        assert!(!router.rules.is_in_force().unwrap(), "{away}");
        router.rules.set(&set, Some(&local), "landbridge0").unwrap();
        assert!(router.rules.is_in_force().unwrap(), "{away}");
        assert_eq!(router.forward(true, &opening(&to_db(40_000), 0)).len(), 0, "{away}");
    }
    router.rules.remove().unwrap();
    assert!(!router.netns.command("nft list tables").1.contains("landbridge-policy"));
}

/// `why` names the rule, and the rule's own counter moves.
#[test]
fn the_counters_that_move_are_those_of_the_rules_that_decide() {
    if !possible(&["ip", "nft"]) {
        return;
    }
    let mut router = Router::new();
    let (set, local) = policy(TO_DB);
    router.program(&set, &local);
    for tuple in [to_db(40_000), FiveTuple { destination_port: 81, ..to_db(40_001) }, to_db(40_002).reversed()] {
        let from_here = local.prefixes.iter().any(|prefix| prefix.contains(tuple.source));
        let direction = if from_here { Direction::Egress } else { Direction::Ingress };
        let verdict = set.named(set.decide(&set.flow(&tuple), direction));
        let before = router.counted();
        router.forward(from_here, &opening(&tuple, 0));
        let after = router.counted();
        let moved: Vec<&String> =
            after.iter().filter(|(chain, count)| before.get(*chain) != Some(count)).map(|(name, _)| name).collect();
        let word = if verdict.is_allow() { "allow" } else { "deny" };
        let expected = match verdict.reason().rule() {
            Some(rule) => format!("{word}/{rule}").replace('[', "-").replace(']', ""),
            None => format!("{word}/{direction}/{}", verdict.reason().as_str()),
        };
        assert_eq!(moved, [&expected], "{tuple:?}");
    }
}
