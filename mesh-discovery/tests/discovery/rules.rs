//! A story for each rule of SEMANTICS §3 that shows in an answer.

use mesh_core::State;
use mesh_discovery::{DnsChecker, ZoneConfig};

use crate::manifests::{Cluster, fleet};

/// Asks as a workload of `cluster`; the answer as `RCODE record, record`, with ` soa` where there is one.
fn ask(state: &State, cluster: &str, name: &str, rtype: &str) -> String {
    let mut checker = DnsChecker::new(state, ZoneConfig::default());
    let query = format!(r#"{{"id":"q","cluster":"{cluster}","name":"{name}","type":"{rtype}"}}"#);
    match serde_json::to_value(checker.answer_line(&query)).expect("plain data") {
        value if value.get("error").is_some() => format!("error: {}", value["error"].as_str().expect("text")),
        value => {
            let records: Vec<_> = value["answer"].as_array().expect("a list").iter().map(|r| r.as_str().expect("text")).collect();
            let soa = if value["soa"] == true { " soa" } else { "" };
            format!("{} {}{soa}", value["rcode"].as_str().expect("text"), records.join(", "))
                .replace("  ", " ")
                .trim_end()
                .to_owned()
        }
    }
}

const WEB: &str = "clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, \"fd00:96::1\"], ports: [{name: http, port: 80}, {name: dns, port: 53, protocol: UDP}]";
const HEADLESS: &str = "clusterIP: None, ports: [{name: pg, port: 5432}]";
const PG: &str = "{name: pg, port: 5433}";

fn shop() -> State {
    let east = Cluster::new()
        .service("web", WEB)
        .export("web")
        .import("web", "100.80.0.1")
        .service("db", HEADLESS)
        .export("db")
        .endpoints("db", PG, "{addresses: [10.1.0.5], hostname: db-0}, {addresses: [10.1.0.6], conditions: {ready: false}}")
        .service("idle", HEADLESS)
        .export("idle")
        .endpoints("idle", PG, "{addresses: [10.1.0.9], conditions: {ready: false}}")
        .service("plain", "clusterIP: 10.96.0.7, ports: [{port: 80}]")
        .service("mail", "type: ExternalName, externalName: Mail.Example.com")
        .service("alias", "type: ExternalName, externalName: web.shop.svc.cluster.local")
        .service("loop", "type: ExternalName, externalName: loop.shop.svc.cluster.local");
    let west = Cluster::new().service("db", HEADLESS).export("db").endpoints("db", PG, "{addresses: [10.2.0.5]}");
    let north = Cluster::new().namespace("other");
    fleet(&[("east", &east), ("west", &west), ("north", &north)])
}

#[test]
fn rule_1_a_service_is_known_where_its_namespace_exists() {
    let state = shop();
    assert_eq!(ask(&state, "west", "web.shop.svc.clusterset.local", "SRV").split(' ').next(), Some("NOERROR"));
    assert_eq!(ask(&state, "north", "web.shop.svc.clusterset.local", "A"), "NXDOMAIN soa");
    assert_eq!(ask(&state, "east", "plain.shop.svc.clusterset.local", "A"), "NXDOMAIN soa");
}

#[test]
fn rule_3_a_clusterset_ip_answers_without_endpoints() {
    let state = shop();
    assert_eq!(ask(&state, "east", "web.shop.svc.clusterset.local", "A"), "NOERROR A 100.80.0.1");
    assert_eq!(ask(&state, "east", "web.shop.svc.clusterset.local", "AAAA"), "NOERROR soa");
    let allocated = ask(&state, "west", "web.shop.svc.clusterset.local", "A");
    assert!(allocated.starts_with("NOERROR A 100.80."), "{allocated}");
}

#[test]
fn rule_4_a_headless_service_is_its_ready_endpoints_in_every_cluster() {
    let state = shop();
    assert_eq!(ask(&state, "east", "db.shop.svc.clusterset.local", "A"), "NOERROR A 10.1.0.5, A 10.2.0.5");
    assert_eq!(ask(&state, "east", "db-0.east.db.shop.svc.clusterset.local", "A"), "NOERROR A 10.1.0.5");
    assert_eq!(ask(&state, "east", "10-2-0-5.west.db.shop.svc.clusterset.local", "A"), "NOERROR A 10.2.0.5");
    assert_eq!(ask(&state, "east", "10-1-0-6.east.db.shop.svc.clusterset.local", "A"), "NXDOMAIN soa");
    for zone in ["clusterset.local", "cluster.local"] {
        assert_eq!(ask(&state, "east", &format!("idle.shop.svc.{zone}"), "A"), "NXDOMAIN soa", "{zone}");
    }
}

#[test]
fn rule_5_srv_is_at_the_port_and_at_the_service_and_nothing_at_a_cluster() {
    let state = shop();
    let target = "web.shop.svc.clusterset.local";
    assert_eq!(ask(&state, "east", &format!("_http._tcp.{target}"), "SRV"), format!("NOERROR SRV 80 {target}."));
    assert_eq!(ask(&state, "east", &format!("_dns._udp.{target}"), "SRV"), format!("NOERROR SRV 53 {target}."));
    assert_eq!(ask(&state, "east", &format!("_http._udp.{target}"), "SRV"), "NXDOMAIN soa");
    assert_eq!(ask(&state, "east", target, "SRV"), format!("NOERROR SRV 53 {target}., SRV 80 {target}."));
    assert_eq!(ask(&state, "east", "plain.shop.svc.cluster.local", "SRV"), "NOERROR soa", "an unnamed port has none");
    assert_eq!(
        ask(&state, "west", "_pg._tcp.db.shop.svc.clusterset.local", "SRV"),
        "NOERROR SRV 5433 10-2-0-5.west.db.shop.svc.clusterset.local., SRV 5433 db-0.east.db.shop.svc.clusterset.local."
    );
    assert_eq!(ask(&state, "east", "west.db.shop.svc.clusterset.local", "A"), "NOERROR soa");
    assert_eq!(ask(&state, "east", "north.db.shop.svc.clusterset.local", "A"), "NXDOMAIN soa");
    assert_eq!(ask(&state, "east", "east.idle.shop.svc.clusterset.local", "A"), "NXDOMAIN soa");
    assert_eq!(ask(&state, "east", "east.web.shop.svc.clusterset.local", "A"), "NXDOMAIN soa");
    assert_eq!(ask(&state, "east", "10-1-0-5.east.web.shop.svc.clusterset.local", "A"), "NXDOMAIN soa");
}

#[test]
fn rule_6_negative_answers_versions_and_case() {
    let state = shop();
    assert_eq!(ask(&state, "east", "web.shop.svc.clusterset.local", "TXT"), "NOERROR soa");
    for empty in ["_tcp.web.shop.svc.clusterset.local", "shop.svc.cluster.local", "svc.cluster.local"] {
        assert_eq!(ask(&state, "east", empty, "A"), "NOERROR soa", "{empty}");
    }
    assert_eq!(ask(&state, "east", "cluster.local", "A"), "NOERROR soa");
    assert!(ask(&state, "east", "cluster.local", "SOA").starts_with("NOERROR SOA ns.dns.cluster.local"));
    assert_eq!(ask(&state, "east", "WEB.Shop.svc.CLUSTERSET.local.", "a"), "NOERROR A 100.80.0.1");
    assert_eq!(ask(&state, "east", "dns-version.clusterset.local", "TXT"), "NOERROR TXT 1.0.0");
    assert_eq!(ask(&state, "east", "dns-version.cluster.local", "TXT"), "NOERROR TXT 1.1.0");
}

#[test]
fn rule_6_reverse_names_of_both_zones() {
    let state = shop();
    assert_eq!(ask(&state, "east", "1.0.96.10.in-addr.arpa", "PTR"), "NOERROR PTR web.shop.svc.cluster.local.");
    assert_eq!(ask(&state, "east", "1.0.80.100.in-addr.arpa", "PTR"), "NOERROR PTR web.shop.svc.clusterset.local.");
    assert_eq!(ask(&state, "east", "5.0.2.10.in-addr.arpa", "PTR"), "NOERROR PTR 10-2-0-5.west.db.shop.svc.clusterset.local.");
    assert_eq!(
        ask(&state, "east", "5.0.1.10.in-addr.arpa", "PTR"),
        "NOERROR PTR db-0.db.shop.svc.cluster.local., PTR db-0.east.db.shop.svc.clusterset.local."
    );
    assert_eq!(ask(&state, "east", "1.0.96.10.in-addr.arpa", "A"), "NOERROR soa");
    assert_eq!(ask(&state, "east", "9.9.9.9.in-addr.arpa", "PTR"), "FORWARD");
    assert_eq!(ask(&state, "east", "6.0.1.10.in-addr.arpa", "PTR"), "FORWARD", "an endpoint that is not ready has no name");
    let v6 = "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.6.9.0.0.0.0.d.f.ip6.arpa";
    assert_eq!(ask(&state, "east", v6, "PTR"), "NOERROR PTR web.shop.svc.cluster.local.");
}

#[test]
fn rule_7_cluster_local_is_the_own_cluster_and_the_rest_is_forwarded() {
    let state = shop();
    assert_eq!(ask(&state, "east", "web.shop.svc.cluster.local", "A"), "NOERROR A 10.96.0.1");
    assert_eq!(ask(&state, "east", "web.shop.svc.cluster.local", "AAAA"), "NOERROR AAAA fd00:96::1");
    assert_eq!(ask(&state, "west", "web.shop.svc.cluster.local", "A"), "NXDOMAIN soa");
    assert_eq!(ask(&state, "west", "db.shop.svc.cluster.local", "A"), "NOERROR A 10.2.0.5");
    assert_eq!(ask(&state, "east", "db-0.db.shop.svc.cluster.local", "A"), "NOERROR A 10.1.0.5");
    assert_eq!(
        ask(&state, "east", "_pg._tcp.db.shop.svc.cluster.local", "SRV"),
        "NOERROR SRV 5433 db-0.db.shop.svc.cluster.local."
    );
    assert_eq!(ask(&state, "east", "10-1-0-5.shop.pod.cluster.local", "A"), "NXDOMAIN soa", "pod records are left out");
    for outside in ["example.com", "local", "xcluster.local", "."] {
        assert_eq!(ask(&state, "east", outside, "A"), "FORWARD", "{outside}");
    }
}

#[test]
fn an_external_name_is_an_alias_that_is_followed_inside_the_zones() {
    let state = shop();
    assert_eq!(ask(&state, "east", "mail.shop.svc.cluster.local", "A"), "NOERROR CNAME mail.example.com.");
    assert_eq!(ask(&state, "east", "mail.shop.svc.cluster.local", "CNAME"), "NOERROR CNAME mail.example.com.");
    assert_eq!(
        ask(&state, "east", "alias.shop.svc.cluster.local", "A"),
        "NOERROR A 10.96.0.1, CNAME web.shop.svc.cluster.local."
    );
    assert_eq!(ask(&state, "east", "loop.shop.svc.cluster.local", "A"), "SERVFAIL");
}

#[test]
fn a_query_that_makes_no_sense_is_told_so_with_its_id() {
    let state = shop();
    assert_eq!(ask(&state, "south", "web.shop.svc.cluster.local", "A"), "error: cluster 'south' is not known");
    assert_eq!(ask(&state, "east", "a..b", "A"), "error: 'a..b' is not a DNS name");
    assert_eq!(ask(&state, "east", "a.b", "QUUX"), "error: 'QUUX' is not a DNS record type");
    let mut checker = DnsChecker::new(&state, ZoneConfig::default());
    let mut line = |text: &str| serde_json::to_string(&checker.answer_line(text)).expect("plain data");
    assert!(line(r#"{"id":7,"cluster":"east","name":"a.b"}"#).starts_with(r#"{"id":7,"error":"#));
    assert!(line("{").starts_with(r#"{"id":null,"error":"#));
    let good = line(r#"{"id":[1],"cluster":"east","name":"web.shop.svc.clusterset.local","type":"A"}"#);
    assert_eq!(good, r#"{"id":[1],"rcode":"NOERROR","answer":["A 100.80.0.1"],"soa":false}"#);
}
