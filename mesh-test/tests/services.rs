//! The probes of derived services in every scenario, and the table of the MCS conformance suite.
#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use mesh_core::{Change, ClusterName, Event, Now, Services, SourceId, State};
use mesh_discovery::{DnsChecker, ZoneConfig};
use mesh_test::derived::{ConditionProbe, ImportProbe};
use mesh_test::expand::{EXPANDERS, play};
use mesh_test::probe::DnsProbe;
use mesh_test::scenario::{self, Scenario};

/// What is to be so at one time.
struct Probes<'a> {
    dns: &'a [String],
    imports: &'a [String],
    conditions: &'a [String],
}

/// The views that agents of several clusters would have.
type Views = BTreeMap<ClusterName, Services>;

fn update(views: &mut Views, state: &State, change: &Change) {
    for view in views.values_mut() {
        view.update(state, change);
    }
}

impl Probes<'_> {
    /// Asks the state, and the views that were kept up to date all along.
    fn ask(&self, state: &State, views: &Views, fail: &mut dyn FnMut(String)) {
        for text in self.imports {
            let probe = match ImportProbe::read(text) {
                Ok(probe) => probe,
                Err(error) => return fail(error),
            };
            let derived = state.imported_services(&probe.cluster).services.remove(&probe.id);
            let kept = views.get(&probe.cluster).and_then(|view| view.imported().get(&probe.id)).map(|kept| &**kept);
            if kept != derived.as_ref() {
                fail(format!("{text}: the view has {kept:?}, the state {derived:?}"));
            }
            probe.compare(derived.as_ref()).unwrap_or_else(|difference| fail(format!("{text}: {difference}")));
        }
        for text in self.conditions {
            let told = ConditionProbe::read(text)
                .and_then(|probe| probe.compare(state.export_conditions(&probe.cluster).get(&probe.id)));
            told.unwrap_or_else(|difference| fail(format!("{text}: {difference}")));
        }
        let mut names = DnsChecker::new(state, ZoneConfig::default()).with_clusters(views.keys().cloned());
        for text in self.dns {
            let probe = match DnsProbe::read(text) {
                Ok(probe) => probe,
                Err(error) => return fail(error),
            };
            let told = serde_json::to_value(names.answer_line(&probe.line())).expect("plain data");
            if told != probe.expected() {
                fail(format!("{text}: told {told}"));
            }
        }
    }
}

/// Plays a scenario: the facts as `expand` tells them, then its steps.
fn run(scenario: &Scenario, expand: mesh_test::expand::Expander, fail: &mut dyn FnMut(String)) {
    let (config, facts) = scenario.facts();
    let clusters = scenario.checked().map(|checked| checked.clusters).unwrap_or_default();
    let mut views: Views = clusters.into_iter().map(|name| (name.clone(), Services::new(name))).collect();
    let (mut state, source) = (State::new(config), SourceId("manifests".into()));
    play(&mut state, expand(&source, &facts), |state, change| update(&mut views, state, change));
    // The other tests ask the scenario's own names.
    let now = Probes { dns: &[], imports: &scenario.imports, conditions: &scenario.conditions };
    now.ask(&state, &views, fail);
    for step in &scenario.then {
        let key = match step.key() {
            Ok(key) => key,
            Err(error) => return fail(error),
        };
        let change = state.apply(Event::Unset(source.clone(), key), Now::default());
        if change.dirty.is_empty() {
            fail(format!("'{}' deletes nothing", step.delete));
        }
        update(&mut views, &state, &change);
        let then = Probes { dns: &step.dns, imports: &step.imports, conditions: &step.conditions };
        then.ask(&state, &views, &mut |failure| fail(format!("after '{}': {failure}", step.delete)));
    }
}

#[test]
fn derived_services_are_as_told_in_every_scenario_and_after_each_expander() {
    let (mut count, mut failures) = (0, Vec::new());
    for (file, text) in scenario::all().expect("the scenarios can be read") {
        for scenario in Scenario::read(&text).unwrap_or_else(|error| panic!("{file}: {error}")) {
            let probes = scenario.imports.len() + scenario.conditions.len();
            if probes == 0 && scenario.then.is_empty() {
                continue;
            }
            count += probes;
            if let Err(errors) = scenario.checked() {
                failures.push(format!("{file}: {}: {errors:?}", scenario.name));
            }
            for (name, expand) in EXPANDERS {
                run(&scenario, *expand, &mut |failure| failures.push(format!("{file}: {}: {name}: {failure}", scenario.name)));
            }
        }
    }
    assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    assert!(count > 50, "{count} probes: the scenarios were not found");
}

/// A row of the table: number, spec, what answers for it.
fn rows() -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/mcs-conformance.md");
    let text = fs::read_to_string(path).expect("the table is there");
    let cells =
        |line: &str| -> Vec<String> { line.trim().trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect() };
    let rows = text.lines().filter(|line| line.starts_with("| ")).map(cells).filter(|cells| cells[0].parse::<u32>().is_ok());
    rows.map(|cells| (cells[1].trim_matches('`').to_owned(), cells[2].clone())).collect()
}

#[test]
fn the_conformance_table_names_every_scenario_and_every_scenario_is_there() {
    let mut scenarios = BTreeSet::new();
    for (file, text) in scenario::all().expect("the scenarios can be read") {
        if file.starts_with("mcs/") {
            for scenario in Scenario::read(&text).unwrap() {
                let asked =
                    [&scenario.imports, &scenario.conditions, &scenario.dns, &scenario.policy].iter().any(|p| !p.is_empty());
                assert!(asked, "{file}: {} asks nothing", scenario.name);
                assert!(scenarios.insert((scenario.name, file.clone())), "{file}: two scenarios of one name");
            }
        }
    }
    let rows = rows();
    assert_eq!(rows.len(), 27, "one row for each spec of the suite");
    let mut named = BTreeSet::new();
    for (spec, answer) in rows {
        match answer.strip_prefix("not applicable: ") {
            Some(reason) => assert!(reason.len() > 20, "{spec}: a reason"),
            None => {
                let file = answer.split('`').nth(1).unwrap_or_else(|| panic!("{spec}: no file in '{answer}'")).to_owned();
                assert!(named.insert((spec.clone(), file.clone())), "{spec} is there twice");
                assert!(scenarios.contains(&(spec.clone(), file.clone())), "{file} has no scenario named '{spec}'");
            }
        }
    }
    assert_eq!(named, scenarios, "every scenario is in the table");
}

/// Every rule of SEMANTICS §3 has a file named after it.
#[test]
fn every_rule_of_discovery_has_a_scenario() {
    let files: Vec<String> = scenario::all().expect("the scenarios can be read").into_iter().map(|(file, _)| file).collect();
    for rule in 1..=7 {
        assert!(files.iter().any(|file| file.starts_with(&format!("dns/rule-{rule:02}-"))), "no scenario for rule {rule}");
    }
}
