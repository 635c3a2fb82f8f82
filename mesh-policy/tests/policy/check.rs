//! The offline check, by its lines.

use mesh_core::*;
use mesh_policy::check::{self, Checker};

use crate::fleet::*;

fn fleet() -> Fleet {
    let mut fleet = Fleet::open();
    fleet.node("east/n1", "172.16.1.1", "");
    fleet.pod("east/shop/web", "10.1.0.1,fd00:1::1", "app=web", "").pod("east/shop/db", "fd00:1::2,10.1.0.2", "app=db", "");
    fleet.pod("east/shop/six", "fd00:1::3", "", "");
    let mut host = workload("east/shop/agent", "172.16.1.1", "", "");
    host.host_network = true;
    let _ = fleet.set(Resource::Workload(host));
    let rules = Some(vec![policy::NetworkPolicyRule { peers: vec![pods("app=web")], ports: vec![tcp(5432)] }]);
    fleet.network_policy(policy::NetworkPolicy { ingress: rules, ..network_policy(own("east"), "db-in", "app=db") });
    fleet
}

fn ask(fleet: &Fleet, line: &str) -> String {
    match Checker::new(&fleet.state).answer_line(line) {
        Ok(answer) => serde_json::to_string(&answer).expect("answers serialize"),
        Err(error) => serde_json::to_string(&error).expect("errors serialize"),
    }
}

#[test]
fn an_answer_names_both_sides_and_echoes_the_id() {
    assert_eq!(
        ask(&fleet(), r#"{"id": ["x", 1], "from": "east/shop/web", "to": "east/shop/db", "protocol": "TCP", "port": 5432}"#),
        concat!(
            r#"{"id":["x",1],"verdict":"allow","egress":{"verdict":"allow","tier":"Default","rule":null},"#,
            r#""ingress":{"verdict":"allow","tier":"NetworkPolicy","rule":"east/NetworkPolicy/shop/db-in/ingress[0]"}}"#,
        )
    );
    let denied = ask(&fleet(), r#"{"id": 1, "from": "east/shop/six", "to": "east/shop/db", "port": 5432}"#);
    assert!(denied.contains(r#""ingress":{"verdict":"deny","tier":"NetworkPolicy","rule":null}"#), "{denied}");
}

#[test]
fn missing_addresses_are_the_first_of_the_common_family() {
    let fleet = fleet();
    let mut checker = Checker::new(&fleet.state);
    let mut tuple = |line: &str| checker.answer_line(line).map(|answer| answer.tuple.to_string());
    let web_to_db = tuple(r#"{"from": "east/shop/web", "to": "east/shop/db", "port": 1}"#);
    assert_eq!(web_to_db, Ok("10.1.0.1:0 > 10.1.0.2:1/TCP".into()));
    let to_six = tuple(r#"{"from": "east/shop/web", "to": "east/shop/six", "port": 1, "protocol": "udp"}"#);
    assert_eq!(to_six, Ok("[fd00:1::1]:0 > [fd00:1::3]:1/UDP".into()));
    let given = tuple(r#"{"from": "east/shop/web", "to": "east/shop/db", "port": 1, "src_ip": "fd00:1::1"}"#);
    assert_eq!(given, Ok("[fd00:1::1]:0 > [fd00:1::2]:1/TCP".into()));
    let icmp = tuple(r#"{"from": "east/shop/web", "to": "192.0.2.1", "protocol": "ICMP"}"#);
    assert_eq!(icmp, Ok("10.1.0.1 > 192.0.2.1/ICMP".into()));
}

#[test]
fn an_address_that_belongs_to_a_pod_is_that_pod() {
    let by_address = ask(&fleet(), r#"{"id": 1, "from": "10.1.0.1", "to": "10.1.0.2", "port": 5432}"#);
    let by_name = ask(&fleet(), r#"{"id": 1, "from": "east/shop/web", "to": "east/shop/db", "port": 5432}"#);
    assert_eq!(by_address, by_name);
    let host = ask(&fleet(), r#"{"id": 1, "from": "east/shop/agent", "to": "east/shop/db", "port": 1}"#);
    assert!(host.contains(r#""egress":{"verdict":"allow","tier":"None","rule":null}"#), "{host}");
    assert!(host.contains(r#""ingress":{"verdict":"allow","tier":"NetworkPolicy","rule":null}"#), "{host}");
}

#[test]
fn names_say_whose_a_translated_address_is() {
    let mut fleet = fleet();
    let service = r#""to": "east/shop/db", "dst_ip": "10.96.0.1", "port": 5432"#;
    let allowed = ask(&fleet, &format!(r#"{{"from": "east/shop/web", {service}}}"#));
    assert!(allowed.contains("db-in/ingress[0]") && allowed.contains(r#""verdict":"allow""#), "{allowed}");
    let denied = ask(&fleet, &format!(r#"{{"from": "east/shop/six", "src_ip": "10.1.0.77", {service}}}"#));
    assert!(denied.contains(r#""verdict":"deny","egress""#), "{denied}");
    // Rules about addresses see the address, rule 10 asks for own addresses.
    let hairpin = ask(&fleet, &format!(r#"{{"from": "east/shop/db", {service}}}"#));
    assert!(hairpin.contains(r#""ingress":{"verdict":"deny","tier":"NetworkPolicy""#), "{hairpin}");
    let rules = Some(vec![policy::NetworkPolicyRule { peers: vec![block("10.96.0.0/16", "")], ports: vec![] }]);
    fleet.network_policy(policy::NetworkPolicy { egress: rules, ..network_policy(own("east"), "web-out", "app=web") });
    let out = ask(&fleet, &format!(r#"{{"from": "east/shop/web", {service}}}"#));
    assert!(out.contains("web-out/egress[0]"), "{out}");
}

#[test]
fn a_pod_outside_its_clusters_grant_has_addresses_and_no_identity() {
    let mut fleet = Fleet::with(Trust::Declared, Settings::default());
    fleet.grant("east", "10.1.0.0/16", "");
    fleet.pod("east/shop/web", "10.1.0.1", "", "").pod("east/bank/vault", "10.1.0.3", "", "");
    let answer = ask(&fleet, r#"{"from": "east/bank/vault", "to": "east/shop/web", "port": 1}"#);
    let denied = r#"{"verdict":"deny","tier":"Fleet","rule":null}"#;
    assert_eq!(answer, format!(r#"{{"id":null,"verdict":"deny","egress":{denied},"ingress":{denied}}}"#));
}

#[test]
fn what_cannot_be_understood_is_an_error_with_the_id() {
    for (line, expected) in [
        ("nonsense", r#"{"id":null,"error":"not JSON"#),
        ("[1]", r#"{"id":null,"error":"not a JSON object"}"#),
        (r#"{"id":7,"to":"10.1.0.1","port":1}"#, r#"{"id":7,"error":"field 'from' is missing"}"#),
        (r#"{"id":7,"from":"east/web","to":"10.1.0.1","port":1}"#, r#"{"id":7,"error":"'east/web' is not of the form"#),
        (r#"{"id":7,"from":"east/shop/none","to":"10.1.0.1","port":1}"#, r#"{"id":7,"error":"pod east/shop/none is not known"}"#),
        (r#"{"id":7,"from":"10.1.0.1","to":"east/shop/six","port":1}"#, r#"{"id":7,"error":"10.1.0.1 and east/shop/six have no"#),
        (r#"{"id":7,"from":"10.1.0.1","to":"10.1.0.2"}"#, r#"{"id":7,"error":"field 'port' is missing"#),
        (r#"{"id":7,"from":"10.1.0.1","to":"10.1.0.2","port":0}"#, r#"{"id":7,"error":"0 in 'port' is not"#),
        (r#"{"id":7,"from":"10.1.0.1","to":"10.1.0.2","port":65536}"#, r#"{"id":7,"error":"65536 in 'port' is not"#),
        (r#"{"id":7,"from":"10.1.0.1","to":"10.1.0.2","port":1,"protocol":"X"}"#, r#"{"id":7,"error":"'X' is not a protocol"#),
        (r#"{"id":7,"from":"10.1.0.1","to":"10.1.0.2","port":1,"src_ip":"x"}"#, r#"{"id":7,"error":"'x' in 'src_ip' is not"#),
        (r#"{"id":7,"from":1,"to":"10.1.0.2","port":1}"#, r#"{"id":7,"error":"1 in 'from' is not a string"}"#),
    ] {
        let answer = ask(&fleet(), line);
        assert!(answer.starts_with(expected), "{line}: {answer}");
    }
}

#[test]
fn the_text_is_one_readable_line() {
    let fleet = fleet();
    let query = check::Query::parse(r#"{"id": 1, "from": "east/shop/web", "to": "10.1.0.2", "port": 5432}"#).expect("valid");
    let answer = Checker::new(&fleet.state).answer(&query).expect("an answer");
    assert_eq!(
        check::answer_text(&query, &answer),
        "1: allow east/shop/web (10.1.0.1) > 10.1.0.2 5432/TCP: egress allow: default (Default), \
         ingress allow by east/NetworkPolicy/shop/db-in/ingress[0] (NetworkPolicy)"
    );
}
