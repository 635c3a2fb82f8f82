//! `fleet.yaml`, `mesh.yaml`, and a whole directory.

use super::super::*;
use super::cluster_text;
use crate::{CrossClusterDefault, Trust};

#[test]
fn the_fleet_file_is_grants() {
    let text = "
name: demo
clusters:
  east: {prefixes: [10.1.0.0/16], service_prefixes: [100.80.0.0/16], namespaces: [shop, 'team-*'], exports: [shop/db, 'shop/*'],
         attributes: {region: eu}, not_after: '2030-01-01T00:00:00Z', epoch: 3}
  west:
  west2: {prefixes: [10.1.2.0/24]}
";
    let fleet = parse_fleet("fleet.yaml", text).expect("good");
    let grants = fleet.grants();
    assert_eq!((grants.len(), &*fleet.name, grants[0].epoch), (3, "demo", 3));
    assert!(grants[0].speaks_for(&"team-a".parse().expect("valid")) && !grants[1].speaks_for(&"shop".parse().expect("valid")));
    assert!(
        fleet.warnings[0].to_string().starts_with("fleet.yaml:7:22: clusters.west2.prefixes[0]: 10.1.2.0/24 overlaps"),
        "{:?}",
        fleet.warnings
    );
    let bad = "clusters: {East: {}, east: {key: x, prefixes: [10.0.0.0], namespaces: ['a*b'], exports: [x], attributes: {cluster: x}, \
               not_before: y, epoch: -1, more: 1}}";
    let errors = parse_fleet("fleet.yaml", bad).expect_err("bad");
    assert_eq!(errors.len(), 9, "{errors:#?}");
}

#[test]
fn the_mesh_file_is_settings_and_names() {
    let text = "params: {ipblock_matches_pods: false, cross_cluster_default: deny}\nfqdns: {API.example.com.: ['192.0.2.7', '::7'], x.y: null}\n";
    let mesh = parse_mesh("mesh.yaml", text).expect("good");
    assert!(!mesh.settings.ipblock_matches_pods && mesh.settings.own_node_ingress_allowed);
    assert_eq!(mesh.settings.cross_cluster_default, Some(CrossClusterDefault::Deny));
    assert_eq!(mesh.domains.get("api.example.com").map(Vec::len), Some(2));
    let errors =
        parse_mesh("mesh.yaml", "params: {x: 1, own_node_egress_allowed: 'true'}\nfqdns: {a: [b]}\nmore: 1\n").expect_err("bad");
    assert_eq!(errors.len(), 4, "{errors:#?}");
    assert_eq!(parse_mesh("mesh.yaml", "").expect("empty"), MeshFile::default());
}

#[test]
fn a_directory_is_a_state_or_all_its_errors() {
    let namespace = |name: &str| format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}}}\n");
    let (shop, pay) = (namespace("shop"), namespace("pay"));
    let open = Checked::load([("clusters/east/a.yaml", shop.as_str()), ("README.md", "x"), ("clusters/east/.b.yaml.swp", "[")])
        .expect("good");
    assert!(matches!(open.state.config().trust, Trust::Open));
    assert_eq!((open.state.facts().namespaces.len(), open.locations.len()), (1, 1));

    let fleet = "clusters: {east: {namespaces: [shop]}}";
    let declared =
        Checked::load([("clusters/east/a.yaml", shop.as_str()), ("clusters/east/b.yaml", pay.as_str()), ("fleet.yaml", fleet)])
            .expect("good");
    assert!(matches!(declared.state.config().trust, Trust::Declared));
    assert_eq!(declared.state.facts().namespaces.len(), 1);
    assert!(
        declared.warnings[0]
            .to_string()
            .starts_with("clusters/east/b.yaml:1:1: Namespace east/pay is refused: outside-namespaces")
    );

    let cluster_policies = cluster_text("ingress: []");
    let other = cluster_policies.replace("name: c", "name: d");
    let same =
        Checked::load([("clusters/east/a.yaml", cluster_policies.as_str()), ("fleet/b.yaml", other.as_str())]).expect("good");
    assert!(same.warnings[0].message.contains("same priority 5"), "{:?}", same.warnings);

    let errors = Checked::load([
        ("clusters/east/a.yaml", shop.as_str()),
        ("clusters/east/sub/b.yml", shop.as_str()),
        ("clusters/West/c.yaml", shop.as_str()),
        ("mesh.yaml", "x: 1"),
        ("fleet/p.yaml", "kind: 1"),
    ])
    .expect_err("bad");
    let files: Vec<_> = errors.iter().map(|error| error.file.as_str()).collect();
    assert_eq!(
        files,
        ["clusters/West/c.yaml", "clusters/east/sub/b.yml", "fleet/p.yaml", "fleet/p.yaml", "mesh.yaml"],
        "{errors:#?}"
    );
    assert!(errors[1].message.contains("clusters/east/a.yaml:1"));
}

#[test]
fn a_cluster_may_have_a_file_of_its_own_beside_its_manifests() {
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n";
    let (fleet, east) =
        ("name: demo\nclusters: {west: {prefixes: [10.2.0.0/16]}}\n", "prefixes: [10.1.0.0/16]\nnamespaces: [shop]\n");
    let files = [("clusters/east.yaml", east), ("clusters/east/a.yaml", namespace), ("fleet.yaml", fleet)];
    let checked = Checked::load(files).expect("good");
    assert_eq!((checked.state.facts().grants.len(), checked.state.facts().namespaces.len()), (2, 1), "{:?}", checked.warnings);

    // Revoked, it is granted nothing until its file has the epoch that counts.
    let revoked = |epoch: &str| {
        let east = format!("{east}epoch: {epoch}\n");
        let files = [("clusters/east.yaml", east.as_str()), files[1], files[2], ("revoked.yaml", "east: 3\n")];
        Checked::load(files).expect("good").state.facts().namespaces.len()
    };
    assert_eq!((revoked("2"), revoked("3")), (0, 1));

    // Two files that name one cluster, and the mistakes of each file.
    let twice = [("clusters/west.yaml", "prefixes: []"), ("fleet.yaml", fleet)];
    let error = Checked::load(twice).expect_err("twice").remove(0).to_string();
    assert!(error.contains("clusters/west.yaml") && error.contains("fleet.yaml too"), "{error}");
    let mistakes = [
        ("clusters/east.yaml", namespace, "clusters/east/"),
        ("clusters/East.yaml", "", "no cluster's"),
        ("clusters/east.yaml", "prefixes: [10.0.0.0]\n", "prefixes[0]"),
        ("clusters/east.yaml", "name: x\n", "unknown field"),
        ("revoked.yaml", "east: 0\n", "out of range"),
    ];
    for (path, text, say) in mistakes {
        let errors = Checked::load([(path, text), ("fleet.yaml", fleet)]).expect_err("bad");
        assert!(errors.iter().any(|error| error.to_string().contains(say)), "{path}: {errors:?}");
    }
    let overlap = [("clusters/east.yaml", "prefixes: [10.2.3.0/24]"), ("fleet.yaml", fleet)];
    let warning = Checked::load(overlap).expect("odd, not wrong").warnings.remove(0).to_string();
    assert!(
        warning.starts_with("clusters/east.yaml:1:1") && warning.contains("overlaps 10.2.0.0/16 of cluster west"),
        "{warning}"
    );
    // Without fleet.yaml there is no fleet, whatever lies there.
    let stray = ("clusters/kustomization.yaml", "resources: [a]\n");
    assert!(matches!(Checked::load([files[0], files[1], stray]).expect("open").state.config().trust, Trust::Open));
}
