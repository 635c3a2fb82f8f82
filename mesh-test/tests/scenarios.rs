//! Every scenario in every executor that needs no network.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use domain::base::iana::Rtype;
use domain::base::{Message, MessageBuilder, Name, ParsedName, RecordData};
use domain::rdata::AllRecordData;
use mesh_core::{ClusterName, Direction, FiveTuple, RuleName, SourceId, State, Time, Trust, Verdict};
use mesh_discovery::{DnsChecker, Reply, Resolver, ResolverConfig, Transport, Zone, ZoneConfig};
use mesh_policy::check::{Checker, Party};
use mesh_policy::{Compiler, PolicySet, naive};
use mesh_test::expand::{EXPANDERS, play};
use mesh_test::probe::{DnsProbe, PolicyProbe};
use mesh_test::scenario::{self, Scenario};
use mesh_test::signed::SignedFleet;
use serde_json::{Value, json};

/// Runs `run` on every scenario; tells all that fails at once.
fn each(run: impl Fn(&Scenario, &mut dyn FnMut(String))) {
    let files = scenario::all().expect("the scenarios can be read");
    let (mut count, mut failures) = (0, Vec::new());
    for (file, text) in files {
        match Scenario::read(&text) {
            Ok(scenarios) => {
                for scenario in scenarios {
                    count += scenario.policy.len() + scenario.dns.len() + scenario.lines.len() + scenario.errors.len();
                    run(&scenario, &mut |failure| failures.push(format!("{file}: {}: {failure}", scenario.name)));
                }
            }
            Err(error) => failures.push(format!("{file}: {error}")),
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    assert!(count > 100, "{count} probes: the scenarios were not found");
}

/// Loads a scenario that must load; the offline checkers' test tells of those that do not.
fn state(scenario: &Scenario) -> Option<State> {
    scenario.checked().ok().map(|checked| checked.state)
}

fn probes<'a>(scenario: &'a Scenario, fail: &mut dyn FnMut(String)) -> Vec<(&'a str, PolicyProbe)> {
    let read = |text: &'a String| match PolicyProbe::read(text) {
        Ok(probe) => Some((text.as_str(), probe)),
        Err(error) => {
            fail(error);
            None
        }
    };
    scenario.policy.iter().filter_map(read).collect()
}

fn dns_probes(scenario: &Scenario, fail: &mut dyn FnMut(String)) -> Vec<DnsProbe> {
    scenario.dns.iter().filter_map(|text| DnsProbe::read(text).map_err(&mut *fail).ok()).collect()
}

/// Returns the connection of a probe; `None` where a word for whose an address is cannot be had from the state.
fn tuple(state: &State, probe: &PolicyProbe) -> Option<FiveTuple> {
    let query = &probe.query;
    let addresses = |party: &Party, given: Option<IpAddr>| match (given, party) {
        (Some(address), _) => vec![address],
        (None, Party::Address(address)) => vec![*address],
        (None, Party::Workload(id)) => {
            let workload = state.facts().workloads.get(id).or_else(|| state.refused_workload(id));
            workload.map(|workload| workload.addresses.clone()).unwrap_or_default()
        }
    };
    let (from, to) = (addresses(&query.from, query.src_ip), addresses(&query.to, query.dst_ip));
    let (source, destination) = from.iter().find_map(|source| {
        let same = to.iter().find(|destination| destination.is_ipv4() == source.is_ipv4())?;
        Some((*source, *same))
    })?;
    Some(FiveTuple { source, destination, protocol: query.protocol, source_port: 40_000, destination_port: query.port })
}

fn told(decide: impl Fn(Direction) -> Verdict<RuleName>) -> Value {
    let side = |verdict: &Verdict<RuleName>| {
        let (word, reason) = (if verdict.is_allow() { "allow" } else { "deny" }, verdict.reason());
        let rule = reason.rule().map(ToString::to_string);
        json!({"verdict": word, "tier": reason.tier().to_string(), "rule": rule, "reason": reason.as_str()})
    };
    let (egress, ingress) = (decide(Direction::Egress), decide(Direction::Ingress));
    let word = if egress.is_allow() && ingress.is_allow() { "allow" } else { "deny" };
    json!({"verdict": word, "egress": side(&egress), "ingress": side(&ingress)})
}

/// Asks the probes that the state alone can answer.
fn ask(
    scenario: &Scenario,
    state: &State,
    fail: &mut dyn FnMut(String),
    decide: impl Fn(&FiveTuple, Direction) -> Verdict<RuleName>,
) {
    for (text, probe) in probes(scenario, fail) {
        if probe.claims() {
            continue;
        }
        let answer = match tuple(state, &probe) {
            Some(tuple) => probe.compare(&told(|direction| decide(&tuple, direction))),
            None => Err("no addresses of one family".to_owned()),
        };
        answer.unwrap_or_else(|difference| fail(format!("{text}: {difference}")));
    }
}

fn compiled(set: &PolicySet, tuple: &FiveTuple, direction: Direction) -> Verdict<RuleName> {
    set.named(set.decide(&set.flow(tuple), direction))
}

#[test]
fn naive_evaluator() {
    each(|scenario, fail| {
        let Some(state) = state(scenario) else { return };
        ask(scenario, &state, fail, |tuple, direction| naive::decide(&state, tuple, direction));
    });
}

#[test]
fn compiled_policy() {
    each(|scenario, fail| {
        let Some(state) = state(scenario) else { return };
        let set = PolicySet::compile(&state);
        ask(scenario, &state, fail, |tuple, direction| compiled(&set, tuple, direction));
    });
}

/// However a source tells the facts, the policy compiled on the way is in the end the same.
#[test]
fn compiled_policy_and_names_after_each_expander() {
    each(|scenario, fail| {
        let Some(checked) = state(scenario) else { return };
        let fingerprint = PolicySet::compile(&checked).fingerprint();
        let (config, facts) = scenario.facts();
        for (name, expand) in EXPANDERS {
            let fail = &mut |failure| fail(format!("{name}: {failure}"));
            let (mut state, mut compiler) = (State::new(config.clone()), Compiler::new());
            let events = expand(&SourceId("manifests".into()), &facts);
            play(&mut state, events, |state, change| {
                compiler.update(state, change);
            });
            let set = compiler.current();
            if set.fingerprint() != fingerprint {
                fail("another policy".to_owned());
            }
            ask(scenario, &state, fail, |tuple, direction| compiled(set, tuple, direction));
            resolve(scenario, &state, fail);
        }
    });
}

/// Each side as an agent of its own cluster decides it, which has of the other clusters what they have signed.
#[test]
fn compiled_policy_of_a_signed_fleet() {
    let asked = Cell::new(0);
    each(|scenario, fail| {
        let (Some(state), false) = (state(scenario), scenario.policy.is_empty()) else { return };
        let Some(fleet) = SignedFleet::new(scenario) else { return };
        let sets: BTreeMap<_, _> = fleet.states().map(|(name, state)| (name, PolicySet::compile(state))).collect();
        ask(scenario, &state, fail, |tuple, direction| {
            asked.set(asked.get() + 1);
            let own = if direction == Direction::Egress { tuple.source } else { tuple.destination };
            let Trust::Signed { cluster, .. } = &fleet.state_at(own).config().trust else { unreachable!("a signed fleet") };
            compiled(&sets[cluster], tuple, direction)
        });
    });
    assert!(asked.get() > 500, "{} sides of probes", asked.get());
}

#[test]
fn offline_checkers() {
    each(|scenario, fail| {
        let checked = match scenario.checked() {
            Ok(checked) => checked,
            Err(errors) => {
                let told: Vec<String> = errors.iter().map(ToString::to_string).collect();
                let as_expected = told.len() == scenario.errors.len()
                    && told.iter().zip(&scenario.errors).all(|(told, expected)| told.starts_with(expected.as_str()));
                if !as_expected {
                    fail(format!("expected the errors {:#?}, told {told:#?}", scenario.errors));
                }
                return;
            }
        };
        if !scenario.errors.is_empty() {
            return fail(format!("expected the errors {:#?}, and it loads", scenario.errors));
        }
        if let Some(expected) = &scenario.warnings {
            let told: Vec<String> = checked.warnings.iter().map(ToString::to_string).collect();
            let missing = expected.iter().any(|part| !told.iter().any(|warning| warning.contains(part.as_str())));
            if missing || told.len() != expected.len() {
                fail(format!("expected the warnings {expected:#?}, told {told:#?}"));
            }
        }
        if scenario.ignored.is_some_and(|ignored| ignored != checked.ignored) {
            fail(format!("{} objects were ignored", checked.ignored));
        }
        let (state, mut checker) = (&checked.state, Checker::new(&checked.state));
        let mut names = DnsChecker::new(state, ZoneConfig::default()).with_clusters(checked.clusters.iter().cloned());
        let mut policy = |line: &str| match checker.answer_line(line) {
            Ok(answer) => serde_json::to_value(answer).expect("plain data"),
            Err(error) => serde_json::to_value(error).expect("plain data"),
        };
        for (text, probe) in probes(scenario, fail) {
            let answer = policy(&probe.line);
            let result = if answer["id"] == text { probe.compare(&answer) } else { Err(format!("told {answer}")) };
            result.unwrap_or_else(|difference| fail(format!("{text}: {difference}")));
        }
        for probe in dns_probes(scenario, fail) {
            let answer = serde_json::to_value(names.answer_line(&probe.line())).expect("plain data");
            if answer != probe.expected() {
                fail(format!("{}: expected {}, told {answer}", probe.line(), probe.expected()));
            }
        }
        for line in &scenario.lines {
            let mut answer = match line.to.as_str() {
                "policy" => policy(&line.ask),
                "dns" => serde_json::to_value(names.answer_line(&line.ask)).expect("plain data"),
                other => return fail(format!("no checker is called {other}")),
            };
            let expected: Value = serde_json::from_str(&line.answer).expect("the expected answer is JSON");
            if expected["error"] == "*" && answer["error"].is_string() {
                answer["error"] = "*".into();
            }
            if answer != expected {
                fail(format!("{}: expected {expected}, told {answer}", line.ask));
            }
        }
    });
}

#[test]
fn resolver() {
    each(|scenario, fail| {
        let Some(state) = state(scenario) else { return };
        resolve(scenario, &state, fail);
    });
}

/// Asks the resolver with every second letter of the name in the other case, and looks at the bytes.
fn resolve(scenario: &Scenario, state: &State, fail: &mut dyn FnMut(String)) {
    for probe in dns_probes(scenario, fail) {
        let cluster = ClusterName::new(&probe.cluster).expect("a cluster's name");
        let zone = Arc::new(Zone::build(state, &cluster, &ZoneConfig::default()));
        let upstreams = vec!["192.0.2.53:53".parse().expect("an address")];
        let mut resolver = Resolver::new(ResolverConfig { upstreams, ..ResolverConfig::default() }, zone, Box::new(|| 7));
        let swap = |(index, letter): (usize, char)| if index % 2 == 0 { letter.to_ascii_uppercase() } else { letter };
        let odd: String = probe.name.chars().enumerate().map(swap).collect();
        let name: Name<Vec<u8>> = odd.parse().expect("a name");
        let rtype: Rtype = probe.rtype.parse().expect("a record type");
        let mut query = MessageBuilder::new_vec().question();
        query.push((&name, rtype)).expect("room for a question");
        let query = query.finish();
        let told = match resolver.handle_message(&query, Transport::Tcp, (), Time::default()) {
            Reply::Forward => ("FORWARD".to_owned(), false, Vec::new()),
            Reply::Answer(reply) => {
                if reply[12..query.len()] != query[12..] {
                    fail(format!("{odd}: the reply does not echo the question"));
                }
                read_reply(&reply)
            }
            Reply::Drop => ("dropped".to_owned(), false, Vec::new()),
        };
        let mut expected = (probe.rcode.clone(), probe.soa, probe.answer.clone());
        let mut sorted = told.clone();
        // The order of a reverse name's records is told (the own cluster's first), the others' is not.
        if probe.rtype != "PTR" {
            expected.2.sort();
            sorted.2.sort();
        }
        if sorted != expected {
            fail(format!("{odd} {}: expected {expected:?}, told {told:?}", probe.rtype));
        }
    }
}

/// Returns the code, whether there is a SOA record in the authority section, and the answer.
fn read_reply(reply: &[u8]) -> (String, bool, Vec<String>) {
    let message = Message::from_octets(reply).expect("a message");
    let (_, answers, authority, _) = message.sections().expect("sections");
    let records = answers.limit_to::<AllRecordData<_, ParsedName<_>>>().map(|record| text(record.expect("a record").data()));
    let soa = authority.flatten().any(|record| record.rtype() == Rtype::SOA);
    (message.header().rcode().to_string(), soa, records.collect())
}

fn text(data: &AllRecordData<&[u8], ParsedName<&[u8]>>) -> String {
    let full = |name: &ParsedName<&[u8]>| format!("{name}.");
    match data {
        AllRecordData::Srv(data) => format!("SRV {} {}", data.port(), full(data.target())),
        AllRecordData::Ptr(data) => format!("PTR {}", full(data.ptrdname())),
        AllRecordData::Cname(data) => format!("CNAME {}", full(data.cname())),
        AllRecordData::Txt(data) => format!("TXT {}", String::from_utf8_lossy(&data.text::<Vec<u8>>())),
        other => format!("{} {other}", other.rtype()),
    }
}
