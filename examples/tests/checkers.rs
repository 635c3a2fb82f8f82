//! The offline checkers: the formats of SEMANTICS §4, answers from the production code.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

fn check(kind: &str, directory: &Path, queries: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
    command.args([kind, "check"]).arg(directory).args(["--queries", "-", "--output", "jsonl"]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // A checker that refuses the manifests does not read its input.
    let _ = child.stdin.take().unwrap().write_all(queries.as_bytes());
    child.wait_with_output().unwrap()
}

fn answers(output: &Output) -> Vec<Value> {
    String::from_utf8_lossy(&output.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn demo() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/demo"))
}

#[test]
fn policy_check_answers_from_the_manifests() {
    let queries = r#"{"id": 1, "from": "east/shop/web-0", "to": "west/shop/db-0", "protocol": "TCP", "port": 5432}
{"id": "two", "from": "east/guest/outsider-0", "to": "west/shop/db-0", "port": 5432}
{"id": 3, "from": "east/shop/web-0", "to": "west/shop/report-0", "port": 8080}
{"id": 4, "from": "east/shop/web-0", "to": "east/shop/web-0", "port": 1}
{"id": 5, "from": "192.0.2.1", "to": "west/shop/report-0", "port": 8080}
"#;
    let output = check("policy", demo(), queries);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let none = Value::Null;
    let side = |verdict: &str, tier: &str, rule: &Value| json!({"verdict": verdict, "tier": tier, "rule": rule});
    let by = |rule: &str| Value::from(rule);
    let expected = [
        json!({"id": 1, "verdict": "allow", "egress": side("allow", "Fleet", &none), "ingress": side("allow", "NetworkPolicy", &by("west/NetworkPolicy/shop/db-in/ingress[0]"))}),
        json!({"id": "two", "verdict": "deny", "egress": side("allow", "Fleet", &none), "ingress": side("deny", "Admin", &by("west/ClusterNetworkPolicy/guests-stay-out/ingress[0]"))}),
        json!({"id": 3, "verdict": "deny", "egress": side("deny", "Fleet", &none), "ingress": side("deny", "Fleet", &none)}),
        json!({"id": 4, "verdict": "allow", "egress": side("allow", "Self", &none), "ingress": side("allow", "Self", &none)}),
        json!({"id": 5, "verdict": "allow", "egress": side("allow", "None", &none), "ingress": side("allow", "Default", &none)}),
    ];
    assert_eq!(answers(&output), expected);
}

#[test]
fn dns_check_answers_from_the_manifests() {
    let queries = r#"{"id": 1, "cluster": "east", "name": "db.shop.svc.clusterset.local", "type": "A"}
{"id": 2, "cluster": "west", "name": "DB.shop.svc.cluster.local.", "type": "A"}
{"id": 3, "cluster": "east", "name": "cart.shop.svc.clusterset.local", "type": "A"}
{"id": 4, "cluster": "east", "name": "example.com", "type": "A"}
{"id": 5, "cluster": "east", "name": "db.shop.svc.clusterset.local", "type": "TXT"}
{"id": 6, "cluster": "east", "name": "db.shop.svc.clusterset.local", "type": "SRV"}
"#;
    let output = check("dns", demo(), queries);
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    let answers = answers(&output);
    assert_eq!(answers[0]["rcode"], "NOERROR");
    let address = answers[0]["answer"][0].as_str().unwrap();
    assert!(address.starts_with("A 100.80."), "from the range of east's grant: {address}");
    assert_eq!(answers[1], json!({"id": 2, "rcode": "NOERROR", "answer": ["A 10.96.2.10"], "soa": false}));
    assert_eq!(answers[2], json!({"id": 3, "rcode": "NXDOMAIN", "answer": [], "soa": true}));
    assert_eq!(answers[3], json!({"id": 4, "rcode": "FORWARD", "answer": [], "soa": false}));
    assert_eq!(answers[4], json!({"id": 5, "rcode": "NOERROR", "answer": [], "soa": true}));
    assert_eq!(answers[5]["answer"], json!(["SRV 5432 db.shop.svc.clusterset.local."]));
}

#[test]
fn a_query_that_makes_no_sense_is_answered_with_its_error_and_the_others_are_answered() {
    let queries = "{\"id\": 1, \"from\": \"east/shop/nobody\", \"to\": \"west/shop/db-0\", \"port\": 1}\nnot json\n\
                   {\"id\": 3, \"from\": \"east/shop/web-0\", \"to\": \"west/shop/db-0\", \"port\": 5432}\n";
    let output = check("policy", demo(), queries);
    assert_eq!(output.status.code(), Some(1));
    let answers = answers(&output);
    assert_eq!(answers[0]["id"], 1);
    assert!(answers[0]["error"].as_str().unwrap().contains("nobody"));
    assert!(answers[1]["error"].is_string() && answers[1]["id"].is_null());
    assert_eq!(answers[2]["verdict"], "allow");
    let output = check("dns", demo(), "{\"id\": 1, \"cluster\": \"nowhere\", \"name\": \"a\", \"type\": \"A\"}\n");
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn three_mistakes_are_reported_all_three_with_their_places_and_nothing_is_answered() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = directory.path().join("clusters/east");
    std::fs::create_dir_all(&cluster).unwrap();
    let manifest = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: Bad_Name
  namespace: shop
spec:
  podSelector: {}
  ingress:
    - from:
        - ipBlock:
            cidr: 10.0.0.0/99
      ports:
        - port: 70000
";
    std::fs::write(cluster.join("broken.yaml"), manifest).unwrap();
    for kind in ["policy", "dns"] {
        let output = check(kind, directory.path(), "{\"id\": 1}\n");
        assert_eq!(output.status.code(), Some(2));
        assert!(output.stdout.is_empty(), "no answers");
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        for expected in [
            "clusters/east/broken.yaml:4:9: metadata.name: ",
            "clusters/east/broken.yaml:11:19: spec.ingress[0].from[0].ipBlock.cidr: ",
            "clusters/east/broken.yaml:13:17: spec.ingress[0].ports[0].port: ",
        ] {
            assert!(text.contains(expected), "expected {expected:?} in:\n{text}");
        }
    }
}
