//! `meshctl policy why` and `meshctl policy lint`, as a person and as CI calls them.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;

fn meshctl(command: &str, directory: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_meshctl")).args(["policy", command]).arg(directory).args(arguments).output().unwrap()
}

fn why(arguments: &str) -> (Option<i32>, String) {
    let output = meshctl("why", demo(), &arguments.split(' ').collect::<Vec<_>>());
    let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
    (output.status.code(), String::from_utf8(text).unwrap())
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn demo() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/demo"))
}

fn assert_lines(page: &str, lines: &[&str]) {
    let mut rest = page.lines();
    for line in lines {
        assert!(rest.any(|other| other.trim_start() == *line), "expected {line:?}, in this order, in:\n{page}");
    }
}

#[test]
fn an_allowed_connection_shows_both_sides_and_what_would_deny_it() {
    let (status, page) = why("--from east/shop/web-0 --to west/shop/db-0 --port 5432");
    assert_eq!(status, Some(0));
    assert_lines(
        &page,
        &[
            "ALLOW  east/shop/web-0 > west/shop/db-0  5432/TCP",
            "from   east/shop/web-0 at 10.1.1.10",
            "labels      app=web  cluster-mesh.io/service-account=web",
            "cluster     east  cluster-mesh.io/jurisdiction=de  cluster-mesh.io/region=eu",
            "EGRESS allow, decided by the policies of east",
            "why         no tier decided, and west exports shop/db to east",
            "INGRESS allow, decided by the policies of west",
            "without it  deny: isolated-by-network-policy (NetworkPolicy)",
            "to deny     nearest is west/ClusterNetworkPolicy/guests-stay-out/ingress[0]; it lacks:",
            "- namespace label tenant=guest is wanted, it has no tenant",
            "> [0] allow from pods app=web in namespace shop of every cluster, on sql/TCP: matches and decides",
        ],
    );
}

#[test]
fn a_denied_connection_names_the_nearest_rule_and_what_it_lacks() {
    let (status, page) = why("--from east/shop/cart-0 --to west/shop/db-0 --port 5433");
    assert_eq!(status, Some(1));
    assert_lines(
        &page,
        &[
            "DENY  east/shop/cart-0 > west/shop/db-0  5433/TCP",
            "to allow    nearest is the fleet's default; it lacks:",
            "- west exports no service with a backend at 10.2.1.10:5433/TCP: shop/db is exported with that backend, for other ports",
            "to allow    nearest is west/NetworkPolicy/shop/db-in/ingress[0]; it lacks:",
            "- label app=web is wanted, it has app=cart",
            "- port 5433/TCP is not in sql/TCP (which is 5432/TCP at west/shop/db-0)",
        ],
    );
    let (status, page) = why("--from east/guest/outsider-0 --to west/shop/db-0 --port 5432");
    assert_eq!(status, Some(1));
    let by = "- west/ClusterNetworkPolicy/guests-stay-out/ingress[0] matches and comes before it";
    assert_lines(
        &page,
        &["INGRESS deny, decided by the policies of west", by, "west/NetworkPolicy/shop/db-in (NetworkPolicy, not asked)"],
    );
}

#[test]
fn an_address_without_identity_says_why_it_has_none() {
    let (status, page) = why("--from east/shop/web-0 --to 10.2.9.9 --protocol ICMP");
    assert_eq!(status, Some(1));
    let because = "- 10.2.9.9 has no identity: it lies in 10.2.0.0/16 of cluster west, where no workload and no node has it";
    assert_lines(&page, &["to     10.2.9.9, identity pending", "to allow    no rule can; what is missing:", because]);
}

#[test]
fn the_page_as_json_has_everything() {
    let arguments = ["--from", "east/guest/outsider-0", "--to", "west/shop/db-0", "--port", "5432", "--output", "json"];
    let output = meshctl("why", demo(), &arguments);
    assert_eq!(output.status.code(), Some(1));
    let page = json(&output);
    assert_eq!(page["verdict"], "deny");
    assert_eq!((&page["from"]["kind"], &page["from"]["workload"]), (&"workload".into(), &"east/guest/outsider-0".into()));
    assert_eq!(page["from"]["namespace_labels"]["tenant"], "guest");
    assert_eq!(page["ingress"]["rule"], "west/ClusterNetworkPolicy/guests-stay-out/ingress[0]");
    assert_eq!(page["ingress"]["policies"][0]["rules"][0]["outcome"], "decides");
    let otherwise = &page["ingress"]["otherwise"];
    assert_eq!(otherwise["rule"], "west/NetworkPolicy/shop/db-in/ingress[0]");
    let kinds: Vec<&str> = otherwise["lacks"].as_array().unwrap().iter().map(|lack| lack["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["namespace", "label", "preceded"]);
    assert_eq!(otherwise["lacks"][1]["wanted"], "app=web");
    assert_eq!(otherwise["lacks"][1]["text"], "label app=web is wanted, it has app=outsider");
}

#[test]
fn a_question_that_makes_no_sense_names_the_way_out() {
    for (arguments, expected) in [
        ("--from east/shop/web --to west/shop/db-0 --port 1", "did you mean east/shop/web-0"),
        ("--from west/shop/web-0 --to west/shop/db-0 --port 1", "did you mean east/shop/web-0?"),
        ("--from east/shop/web-0 --to west/shop/db-0", "say which with --port"),
        ("--from east/shop/web-0 --to west/shop/db-0 --port 1 --protocol ICMP", "leave out --port"),
        ("--from east/shop/web-0 --to fd00::1 --port 1 --src-ip 10.1.1.10", "no addresses of one family"),
        ("--from east/web-0 --to west/shop/db-0 --port 1", "cluster/namespace/pod"),
    ] {
        let (status, text) = why(arguments);
        assert_eq!(status, Some(2), "{arguments}: {text}");
        assert!(text.contains(expected), "{arguments}: {text}");
    }
    let output = meshctl("why", Path::new("/nowhere"), &["--from", "10.0.0.1", "--to", "10.0.0.2", "--port", "1"]);
    assert_eq!(output.status.code(), Some(2));
}

/// Two clusters with mistakes of every severity.
fn mistaken() -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    let write = |path: &str, text: &str| {
        let path = directory.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    let pod = |name: &str, namespace: &str, app: &str, address: &str| {
        format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}, namespace: {namespace}, labels: {{app: {app}}}}}\n\
             spec: {{containers: [{{name: c, ports: [{{name: http, containerPort: 80}}]}}]}}\n\
             status: {{podIPs: [{{ip: {address}}}]}}\n---\n"
        )
    };
    write(
        "fleet.yaml",
        "name: f\nclusters:\n  east: {prefixes: [10.1.0.0/16], namespaces: [shop]}\n  west: {prefixes: [10.2.0.0/16], namespaces: [shop]}\n",
    );
    write("clusters/east/pods.yaml", &(pod("web", "shop", "web", "10.1.0.1") + &pod("db", "shop", "db", "10.1.0.2")));
    write("clusters/west/pods.yaml", &(pod("web", "shop", "web", "10.2.0.1") + &pod("vault", "bank", "vault", "10.2.0.3")));
    let policy = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\n";
    write(
        "clusters/east/policies.yaml",
        &format!(
            "{policy}metadata: {{name: typo, namespace: shop}}\nspec: {{podSelector: {{matchLabels: {{app: wbe}}}}}}\n---\n\
             {policy}metadata: {{name: db-in, namespace: shop}}\nspec:\n  podSelector: {{matchLabels: {{app: db}}}}\n  ingress:\n  \
             - from: [{{podSelector: {{matchLabels: {{app: web}}}}}}]\n    ports: [{{port: sql}}]\n  \
             - from: [{{podSelector: {{matchLabels: {{app: none}}}}}}, {{ipBlock: {{cidr: 0.0.0.0/0}}}}]\n  \
             - from: [{{podSelector: {{matchLabels: {{app: web}}}}}}]\n    ports: [{{port: 80}}]\n  \
             - from: [{{podSelector: {{matchLabels: {{app: web}}}}}}]\n    ports: [{{port: 80}}]\n  \
             - from: [{{namespaceSelector: {{matchLabels: {{kubernetes.io/metadata.name: bank, cluster-mesh.io/cluster: west}}}}}}]\n"
        ),
    );
    let admin = |name: &str, rules: &str| {
        format!(
            "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: {name}}}\n\
             spec:\n  tier: Admin\n  priority: 5\n  subject: {{namespaces: {{}}}}\n  ingress:\n{rules}---\n"
        )
    };
    let rule = |action: &str, app: &str| {
        let pods = format!("{{namespaceSelector: {{}}, podSelector: {{matchLabels: {{app: {app}}}}}}}");
        format!("  - {{action: {action}, from: [{{pods: {pods}}}]}}\n")
    };
    let broken = "  - {action: Accept, from: [{planets: {}}]}\n";
    write("fleet/a.yaml", &admin("a", &(rule("Accept", "db") + &rule("Deny", "db"))));
    write("fleet/b.yaml", &admin("b", &(rule("Deny", "db") + broken)));
    directory
}

#[test]
fn lint_finds_each_mistake_at_its_place() {
    let directory = mistaken();
    let output = meshctl("lint", directory.path(), &["--output", "json"]);
    let document = json(&output);
    let mut found: Vec<String> = document["findings"]
        .as_array()
        .unwrap()
        .iter()
        .map(|finding| {
            let text = |key: &str| finding[key].as_str().unwrap();
            format!("{} {} {}", text("place"), text("code"), text("field")).trim_end().to_owned()
        })
        .collect();
    let listed = found.clone();
    found.sort();
    let counted: u64 = ["errors", "warnings", "hints"].iter().map(|severity| document[severity].as_u64().unwrap()).sum();
    assert_eq!(counted, listed.len() as u64);
    for expected in [
        "clusters/east/policies.yaml:1 selects-nothing spec.podSelector",
        "clusters/east/policies.yaml:6 unknown-port spec.ingress[0].ports",
        "clusters/east/policies.yaml:6 matches-nobody spec.ingress[1].from[0]",
        "clusters/east/policies.yaml:6 block-hits-pods spec.ingress[1].from[1]",
        "clusters/east/policies.yaml:6 redundant-rule spec.ingress[3]",
        "clusters/east/policies.yaml:6 peer-not-granted spec.ingress[4].from[0]",
        "clusters/west/pods.yaml:7 namespace-not-granted",
        "fleet/a.yaml:1 shadowed-rule spec.ingress[1]",
        "fleet/b.yaml:1 equal-priorities spec.priority",
        "fleet/b.yaml:1 not-understood spec.ingress[1]",
    ] {
        assert!(found.contains(&expected.to_owned()), "expected {expected:?} in {listed:#?}");
    }
    let places: Vec<&str> =
        document["findings"].as_array().unwrap().iter().map(|finding| finding["place"].as_str().unwrap()).collect();
    assert!(places.is_sorted(), "{places:?}");
    let again = meshctl("lint", directory.path(), &["--output", "json"]);
    assert_eq!(again.stdout, output.stdout);
}

#[test]
fn the_exit_status_of_lint_is_for_ci() {
    let good = meshctl("lint", demo(), &["--strict"]);
    assert_eq!(good.status.code(), Some(0), "{good:?}");
    assert_eq!(String::from_utf8(good.stdout).unwrap(), "2 policies: 0 error(s), 0 warning(s), 0 hint(s)\n");

    let directory = mistaken();
    let bad = meshctl("lint", directory.path(), &[]);
    assert_eq!(bad.status.code(), Some(1));
    let text = String::from_utf8(bad.stdout).unwrap();
    let place = "clusters/west/pods.yaml:7: error namespace-not-granted\n    Workload west/bank/vault: namespace bank is not in the grant of cluster west";
    assert!(text.contains(place) && text.contains("    help: add bank to clusters.west.namespaces in fleet.yaml"), "{text}");

    // Warnings alone fail where CI asks for it.
    for file in ["fleet/a.yaml", "fleet/b.yaml", "clusters/west/pods.yaml"] {
        std::fs::remove_file(directory.path().join(file)).unwrap();
    }
    assert_eq!(meshctl("lint", directory.path(), &[]).status.code(), Some(0));
    assert_eq!(meshctl("lint", directory.path(), &["--strict"]).status.code(), Some(1));

    std::fs::write(directory.path().join("clusters/east/pods.yaml"), "kind: [").unwrap();
    assert_eq!(meshctl("lint", directory.path(), &[]).status.code(), Some(2));
}
