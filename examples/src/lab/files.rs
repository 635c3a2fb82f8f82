//! Where a lab's fleet keeps its files: one directory, laid out as on real machines.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use mesh_core::{ClusterName, NodeId};

/// The files of a lab's fleet below its run directory.
#[derive(Clone, Debug)]
pub(super) struct Files {
    root: PathBuf,
}

impl Files {
    pub(super) fn new(run_dir: &Path) -> Files {
        Files { root: run_dir.join("fleet") }
    }

    /// The desired state, in the layout of the offline checkers: a copy of the directory that the lab was made from.
    pub(super) fn desired(&self) -> PathBuf {
        self.root.join("desired")
    }

    pub(super) fn manifests(&self, cluster: &ClusterName) -> PathBuf {
        self.desired().join("clusters").join(cluster.as_str())
    }

    pub(super) fn inbox(&self, cluster: &ClusterName) -> PathBuf {
        self.root.join("clusters").join(cluster.as_str()).join("inbox")
    }

    pub(super) fn store(&self, cluster: &ClusterName) -> PathBuf {
        self.root.join("clusters").join(cluster.as_str()).join("store")
    }

    /// What the etcds of a lab keep, and their certificates.
    pub(super) fn etcd(&self) -> PathBuf {
        self.root.join("etcd")
    }

    pub(super) fn root_key(&self) -> PathBuf {
        self.root.join("keys").join("root.key")
    }

    pub(super) fn cluster_key(&self, cluster: &ClusterName) -> PathBuf {
        self.root.join("keys").join(format!("{cluster}.key"))
    }

    pub(super) fn node(&self, node: &NodeId) -> PathBuf {
        self.root.join("nodes").join(format!("{}-{}", node.cluster, node.name))
    }

    pub(super) fn config(&self, node: &NodeId) -> PathBuf {
        self.node(node).join("agent.yaml")
    }

    pub(super) fn socket(&self, node: &NodeId) -> PathBuf {
        self.node(node).join("agent.sock")
    }
}

/// Copies the YAML and JSON files of a directory tree.
pub(super) fn copy_tree(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
        if path.is_dir() {
            copy_tree(&path, &to.join(name))?;
        } else if path.extension().is_some_and(|ending| ["yaml", "yml", "json"].iter().any(|known| ending == *known)) {
            fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}

/// Writes a file so that nobody ever reads half of it.
pub(super) fn write_atomic(path: &Path, text: &str) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    fs::write(&temporary, text)?;
    fs::rename(&temporary, path)
}
