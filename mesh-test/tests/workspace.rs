//! Holds the workspace to its own rules: one-way dependencies, pure crates, licences, file sizes.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn metadata() -> Value {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let output = Command::new(cargo)
        .args(["metadata", "--format-version", "1", "--locked", "--offline", "--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output();
    let output = output.expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo metadata is JSON")
}

/// The names of a package's direct dependencies of one kind (`null` is normal).
fn dependencies(package: &Value, kinds: &[Option<&str>]) -> BTreeSet<String> {
    let of_kind = |dependency: &&Value| kinds.contains(&dependency["kind"].as_str());
    let all = package["dependencies"].as_array().unwrap().iter();
    all.filter(of_kind).map(|dependency| dependency["name"].as_str().unwrap().to_owned()).collect()
}

fn members(metadata: &Value) -> BTreeMap<String, &Value> {
    let ids: BTreeSet<&str> = metadata["workspace_members"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    let packages = metadata["packages"].as_array().unwrap().iter();
    packages
        .filter(|package| ids.contains(package["id"].as_str().unwrap()))
        .map(|p| (p["name"].as_str().unwrap().to_owned(), p))
        .collect()
}

#[test]
fn dependencies_point_one_way() {
    let allowed: BTreeMap<&str, &[&str]> = BTreeMap::from([
        ("mesh-core", &[][..]),
        ("mesh-policy", &["mesh-core"]),
        ("mesh-dataplane", &["mesh-core", "mesh-policy"]),
        ("mesh-discovery", &["mesh-core"]),
        ("mesh-source", &["mesh-core"]),
        ("mesh-wireguard", &["mesh-core", "mesh-policy", "mesh-dataplane"]),
        ("mesh-lab", &[]),
    ]);
    let metadata = metadata();
    let members = members(&metadata);
    for (name, allowed) in allowed {
        for dependency in dependencies(members[name], &[None, Some("build")]) {
            let inside = members.contains_key(&dependency);
            assert!(!inside || allowed.contains(&dependency.as_str()), "{name} must not depend on {dependency}");
        }
    }
    for (name, package) in &members {
        let all = dependencies(package, &[None, Some("build"), Some("dev")]);
        for forbidden in ["mesh-test", "landbridge", "mesh-benches"] {
            assert!(!all.contains(forbidden), "{name} must not depend on {forbidden}");
        }
    }
}

/// The clippy lists of the pure crates forbid direct use; this forbids what could do it for them.
#[test]
fn pure_crates_depend_on_nothing_that_touches_the_world() {
    let metadata = metadata();
    let impure =
        ["tokio", "mio", "socket2", "notify", "libc", "nix", "rustix", "hyper", "rtnetlink", "getrandom", "tempfile", "tracing"];
    for name in ["mesh-core", "mesh-policy", "mesh-dataplane"] {
        let direct = dependencies(members(&metadata)[name], &[None, Some("build")]);
        let touching: Vec<_> = impure.iter().filter(|impure| direct.contains(**impure)).collect();
        assert!(touching.is_empty(), "{name} is pure and depends on {touching:?}");
        assert!(root().join(name).join("clippy.toml").exists(), "{name}/clippy.toml is its list of what it must not touch");
    }
}

#[test]
fn every_licence_is_permissive() {
    let deny = fs::read_to_string(root().join("deny.toml")).unwrap();
    let list = deny.split_once("allow = [").and_then(|(_, rest)| rest.split_once(']')).expect("deny.toml has an allow list").0;
    let allowed: BTreeSet<&str> = list.split(',').map(|item| item.trim().trim_matches('"')).collect();
    assert!(allowed.contains("MIT"), "the list was read");
    let permitted = |licence: &str| {
        // An SPDX expression without parentheses inside parentheses: every AND part has an OR choice that is allowed.
        let licence = licence.replace('/', " OR ").replace(['(', ')'], "");
        licence.split(" AND ").all(|part| part.split(" OR ").any(|choice| allowed.contains(choice.trim())))
    };
    assert!(!permitted("GPL-3.0") && !permitted("MIT AND MPL-2.0") && permitted("MIT OR GPL-3.0"));
    let metadata = metadata();
    let refused: Vec<_> = metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|package| !permitted(package["license"].as_str().unwrap_or("none")))
        .map(|package| format!("{} ({})", package["name"], package["license"]))
        .collect();
    assert!(refused.is_empty(), "not in deny.toml's list: {refused:?}");
}

/// A file over 500 lines is two files, unless it says why in its first lines (`//! long: …`).
#[test]
fn files_fit_a_reader() {
    let mut long = Vec::new();
    visit(&root(), &mut |path, text| {
        let lines = text.lines().count();
        if lines > 500 && !text.lines().take(5).any(|line| line.starts_with("//! long:")) {
            long.push(format!("{} ({lines} lines)", path.display()));
        }
    });
    assert!(long.is_empty(), "over 500 lines: {long:?}");
}

fn visit(directory: &Path, look: &mut impl FnMut(&Path, &str)) {
    for entry in fs::read_dir(directory).unwrap().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        if path.is_dir() && name != "target" && !name.to_string_lossy().starts_with('.') {
            visit(&path, look);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            look(&path, &fs::read_to_string(&path).unwrap());
        }
    }
}
