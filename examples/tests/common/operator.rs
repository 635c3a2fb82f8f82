//! What an operator of a fleet does: `meshctl fleet`, with the fleet's directory, its root key and its stores.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use landbridge::config::{AgentConfig, StoreConfig};
use landbridge::lab::fleet::Fleet;
use mesh_core::{ClusterName, NodeId};
use mesh_source::keyfiles;

use super::meshctl;

pub fn cluster(name: &str) -> ClusterName {
    ClusterName::new(name).unwrap()
}

/// The directory that is in git.
pub fn desired(fleet: &Fleet) -> PathBuf {
    fleet.manifests(&cluster("west")).join("../..").canonicalize().unwrap()
}

/// The clusters' first nodes: the lab has the publishers there, and the etcds.
fn first_nodes(fleet: &Fleet) -> Vec<NodeId> {
    let mut nodes = fleet.nodes();
    nodes.dedup_by(|next, before| next.cluster == before.cluster);
    nodes
}

/// Where the store of a cluster is, as its agents are told; an etcd in a file of its own, for `--store`.
fn store(fleet: &Fleet, node: &NodeId) -> PathBuf {
    let config = fleet.socket(node).with_file_name("agent.yaml");
    match AgentConfig::load(&config).unwrap().store {
        StoreConfig::Directory(path) => path,
        etcd @ StoreConfig::Etcd(_) => {
            let path = config.with_file_name("store.yaml");
            fs::write(&path, serde_saphyr::to_string(&etcd).unwrap()).unwrap();
            path
        }
    }
}

/// Runs `meshctl fleet` where every store is in reach; returns whether it succeeded, and what it said.
pub fn try_fleet(fleet: &Fleet, command: &str, more: &[&str]) -> (bool, String) {
    let nodes = first_nodes(fleet);
    let mut program = fleet.command_on(&nodes[0], &meshctl()).unwrap();
    program.args(["fleet", command]).arg(desired(fleet)).args(more);
    if ["grant", "revoke", "rotate"].contains(&command) {
        program.arg("--root-key").arg(fleet.root_key());
    }
    for node in &nodes {
        program.arg("--store").arg(store(fleet, node));
    }
    said(program)
}

pub fn said(mut program: Command) -> (bool, String) {
    let output = program.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

/// Runs `meshctl fleet`, which succeeds; returns what it said.
pub fn meshctl_fleet(fleet: &Fleet, command: &str, more: &[&str]) -> String {
    let (succeeded, text) = try_fleet(fleet, command, more);
    assert!(succeeded, "{command} {more:?}: {text}");
    text
}

/// Writes the public keys of the root and of each cluster into the fleet's files, as a fleet that was set up by hand has them.
pub fn name_keys(fleet: &Fleet, clusters: &[&str]) {
    let path = desired(fleet).join("fleet.yaml");
    let root = keyfiles::read_signing_key(&fleet.root_key()).unwrap().public();
    let mut text = format!("root: {root}\n{}", fs::read_to_string(&path).unwrap());
    for name in clusters {
        let key = keyfiles::read_signing_key(&fleet.cluster_key(&cluster(name))).unwrap().public();
        let own = desired(fleet).join("clusters").join(format!("{name}.yaml"));
        if own.exists() {
            fs::write(&own, format!("key: {key}\n{}", fs::read_to_string(&own).unwrap())).unwrap();
            continue;
        }
        text = text.replace(&format!("\n  {name}:\n"), &format!("\n  {name}:\n    key: {key}\n"));
        assert!(text.contains(&key.to_string()));
    }
    fs::write(path, text).unwrap();
}

/// Moves each cluster of a fleet.yaml into its own file, where `meshctl fleet` keeps it.
pub fn split(directory: &Path) {
    let path = directory.join("fleet.yaml");
    let text = fs::read_to_string(&path).unwrap();
    let (head, clusters) = text.split_once("clusters:\n").unwrap();
    let (mut name, mut files) = (String::new(), std::collections::BTreeMap::<String, String>::new());
    for line in clusters.lines() {
        match line.strip_prefix("    ") {
            Some(field) => *files.get_mut(&name).unwrap() += &format!("{field}\n"),
            None => {
                name = line.trim().trim_end_matches(':').to_owned();
                files.insert(name.clone(), String::new());
            }
        }
    }
    for (name, text) in files {
        fs::write(directory.join("clusters").join(format!("{name}.yaml")), text).unwrap();
    }
    fs::write(&path, head).unwrap();
}
