//! `meshctl policy matrix` and `meshctl policy diff`, as a person and as CI calls them.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use serde_json::Value;
use tempfile::TempDir;

fn meshctl(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_meshctl")).arg("policy").args(arguments).output().unwrap()
}

fn demo() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/demo")
}

fn text(output: &Output) -> String {
    String::from_utf8([&output.stdout[..], &output.stderr[..]].concat()).unwrap()
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Returns a copy of the demo in which `edit` replaced the text of some files.
fn edited(edit: &[(&str, &str, &str)]) -> TempDir {
    fn copy(from: &Path, to: &Path) {
        fs::create_dir_all(to).unwrap();
        for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
            let to = to.join(entry.file_name());
            if entry.path().is_dir() { copy(&entry.path(), &to) } else { fs::copy(entry.path(), to).map(drop).unwrap() }
        }
    }
    let directory = tempfile::tempdir().unwrap();
    copy(Path::new(demo()), directory.path());
    for (file, old, new) in edit {
        let path = directory.path().join(file);
        let known = fs::read_to_string(&path).unwrap_or_default();
        assert!(known.contains(old), "{file} has no {old:?}");
        fs::write(path, if old.is_empty() { (*new).to_owned() } else { known.replace(old, new) }).unwrap();
    }
    directory
}

fn diff(before: &str, after: &TempDir, more: &[&str]) -> Output {
    meshctl(&[&["diff", before, after.path().to_str().unwrap()], more].concat())
}

/// Returns the cell of two groups in a matrix as JSON has it: what every pair and what some pair may.
fn cell<'a>(matrix: &'a Value, from: &str, to: &str) -> Option<(&'a Value, &'a Value)> {
    let place = |name: &str| matrix["groups"].as_array().unwrap().iter().position(|group| group["name"] == name).unwrap();
    let (from, to) = (place(from), place(to));
    let mut cells = matrix["cells"].as_array().unwrap().iter();
    cells.find(|cell| cell["from"] == from && cell["to"] == to).map(|cell| (&cell["every"], &cell["some"]))
}

#[test]
fn a_matrix_by_namespace_says_where_pods_differ() {
    let output = meshctl(&["matrix", demo()]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    let page = text(&output);
    let row = |name: &str| page.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(page.starts_with("FROM \\ TO"), "{page}");
    // Only web may, and only to the database; guests may nothing in namespace shop.
    assert!(row("east/shop").contains("some: TCP 5432"), "{page}");
    assert!(row("east/guest").contains("none"), "{page}");

    let matrix = json(&meshctl(&["matrix", demo(), "--output", "json"]));
    let (none, all) = (serde_json::json!([]), serde_json::json!(["all"]));
    assert_eq!(cell(&matrix, "east/shop", "west/shop"), Some((&none, &serde_json::json!(["TCP 5432"]))));
    assert_eq!(cell(&matrix, "east/guest", "west/shop"), Some((&none, &none)));
    assert_eq!(cell(&matrix, "east/guest", "east/shop"), Some((&none, &none)));
    assert_eq!(cell(&matrix, "east/shop", "east/shop"), Some((&all, &all)));
    // One guest is no pair, and nodes among themselves are nobody's to police.
    assert_eq!(cell(&matrix, "east/guest", "east/guest"), None);
    assert_eq!(cell(&matrix, "nodes", "outside"), None);
    // The database is isolated, but not from its own node.
    assert_eq!(cell(&matrix, "nodes", "west/shop"), Some((&none, &all)));
}

#[test]
fn a_matrix_by_identity_has_uniform_cells() {
    let matrix = json(&meshctl(&["matrix", demo(), "--by", "identity", "--output", "json"]));
    let (none, sql) = (serde_json::json!([]), serde_json::json!(["TCP 5432"]));
    assert_eq!(cell(&matrix, "east/shop app=web", "west/shop app=db"), Some((&sql, &sql)));
    assert_eq!(cell(&matrix, "east/shop app=cart", "west/shop app=db"), Some((&none, &none)));
    assert_eq!(cell(&matrix, "outside", "west/shop app=db"), Some((&none, &none)));
}

#[test]
fn a_matrix_of_a_cluster_has_cells_with_its_pods_only() {
    let matrix = json(&meshctl(&["matrix", demo(), "--cluster", "west", "--output", "json"]));
    assert!(cell(&matrix, "east/shop", "west/shop").is_some() && cell(&matrix, "east/guest", "east/shop").is_none());
    let nobody = meshctl(&["matrix", demo(), "--namespace", "nowhere"]);
    assert_eq!((nobody.status.code(), nobody.stdout.len()), (Some(2), 0));
}

#[test]
fn a_directory_does_not_differ_from_itself() {
    let output = meshctl(&["diff", demo(), demo(), "--reasons"]);
    assert_eq!((output.status.code(), text(&output).as_str()), (Some(0), "no verdict changes\n"));
}

#[test]
fn a_changed_rule_closes_one_path_and_opens_another() {
    let after = edited(&[("clusters/west/db-in.yaml", "app: web", "app: cart")]);
    let output = diff(demo(), &after, &[]);
    assert_eq!(output.status.code(), Some(1));
    let expected = "\
OPENED  east/shop app=cart (1 pod) > west/shop app=db (1 pod): TCP 5432
  was   deny, ingress isolated-by-network-policy
  now   allow, egress fleet-default, ingress by west/NetworkPolicy/shop/db-in/ingress[0]

CLOSED  east/shop app=web (1 pod) > west/shop app=db (1 pod): TCP 5432
  was   allow, egress fleet-default, ingress by west/NetworkPolicy/shop/db-in/ingress[0]
  now   deny, ingress isolated-by-network-policy

1 group(s) of connections opened, 1 closed
";
    assert_eq!(text(&output), expected);

    let document = json(&diff(demo(), &after, &["--output", "json"]));
    let opened = &document["changes"][0];
    assert_eq!(opened["kind"], "opened");
    assert_eq!(opened["sources"]["workloads"][0], "east/shop/cart-0");
    assert_eq!((&opened["ports"], &opened["workload_pairs"]), (&serde_json::json!(["TCP 5432"]), &serde_json::json!(1)));
    assert_eq!(opened["before"]["ingress"]["reason"], "isolated-by-network-policy");
    assert_eq!(opened["after"]["ingress"]["rule"], "west/NetworkPolicy/shop/db-in/ingress[0]");
}

#[test]
fn what_only_has_another_reason_is_told_when_asked_for() {
    let after = edited(&[("clusters/west/db-in.yaml", "name: db-in", "name: only-web")]);
    let quiet = diff(demo(), &after, &[]);
    assert_eq!((quiet.status.code(), text(&quiet).as_str()), (Some(0), "no verdict changes\n"));
    let told = diff(demo(), &after, &["--reasons"]);
    let page = text(&told);
    assert_eq!(told.status.code(), Some(0));
    assert!(page.contains("REASON  east/shop app=web (1 pod) > west/shop app=db (1 pod): TCP 5432"), "{page}");
    assert!(page.contains("now   allow, egress fleet-default, ingress by west/NetworkPolicy/shop/only-web/ingress[0]"), "{page}");
}

#[test]
fn an_isolated_pod_is_still_reached_by_its_own_node() {
    let closed = "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: closed, namespace: shop}\n\
                  spec: {podSelector: {matchLabels: {app: cart}}, policyTypes: [Ingress]}\n";
    let after = edited(&[("clusters/east/closed.yaml", "", closed)]);
    let page = text(&diff(demo(), &after, &[]));
    assert!(page.contains("every node, outside > east/shop app=cart (1 pod): all, not a pod's own node"), "{page}");
    assert!(page.contains("CLOSED"), "{page}");
    assert!(!page.contains("OPENED"), "{page}");
}

#[test]
fn who_is_there_on_one_side_only_is_no_change() {
    let pod = fs::read_to_string(Path::new(demo()).join("clusters/east/web-0.yaml")).unwrap();
    let more = pod.replace("web-0", "web-1").replace("10.1.1.10", "10.1.1.11").replace("1:1::10", "1:1::11");
    let after = edited(&[("clusters/east/web-1.yaml", "", &more)]);
    let output = diff(demo(), &after, &["--reasons"]);
    let page = text(&output);
    assert_eq!(output.status.code(), Some(0), "{page}");
    assert!(page.contains("added   east/shop/web-1 at 10.1.1.11, fd00:10:1:1::11"), "{page}");
    assert!(page.contains("no verdict changes; 1 end(s) added, 0 removed"), "{page}");
}

#[test]
fn a_grant_that_goes_closes_everything() {
    let after = edited(&[(
        "fleet.yaml",
        "namespaces: [shop, guest]\n    exports: [shop/*]\n    attributes: {region: eu",
        "namespaces: [shop]\n    exports: [shop/*]\n    attributes: {region: eu",
    )]);
    let output = diff(demo(), &after, &[]);
    let page = text(&output);
    assert_eq!(output.status.code(), Some(1), "{page}");
    assert!(page.contains("now   deny, egress identity-pending, ingress identity-pending"), "{page}");
    assert!(page.contains("east/guest"), "{page}");
}

#[test]
fn what_cannot_be_compared_is_an_error() {
    let broken = edited(&[("clusters/west/db-in.yaml", "podSelector:\n    matchLabels: {app: db}", "podSelector: 7")]);
    let output = diff(demo(), &broken, &[]);
    assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0));
    assert!(text(&output).contains("db-in.yaml"), "{}", text(&output));
}
