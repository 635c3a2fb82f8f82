//! Taking a lab down: by its records, and by the marks its namespaces carry.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::time::Duration;

use super::resolver;
use super::run_dir::RunDir;
use crate::netns::{self, Netns, NetnsError};
use crate::process::{ProcessRecord, stop_all};
use crate::topology::{TopologyError, check_name};

/// How long processes have between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(3);
/// The word that starts the mark on the loopback of each namespace.
const MARK: &str = "landbridge-lab";

/// What a [`Lab::down`](super::Lab::down) found and ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DownReport {
    /// Recorded processes that still ran.
    pub processes: Vec<ProcessRecord>,
    /// Network namespaces.
    pub namespaces: Vec<String>,
    /// Processes that the lab did not start, for example a shell in a namespace: left alone. Their namespace lost its
    /// name, and ends with them.
    pub strangers: Vec<Stranger>,
}

/// A process in a lab's namespace that the lab did not start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stranger {
    /// Its number.
    pub pid: u32,
    /// The namespace it is in.
    pub netns: String,
}

/// Why a lab could not be taken down wholly. Trying again is safe.
#[derive(Debug, thiserror::Error)]
pub enum DownError {
    /// The name is none a lab can have.
    #[error(transparent)]
    Name(#[from] TopologyError),
    /// The records could not be read.
    #[error("could not read the records of lab {lab} in {run_dir}: remove the directory if it is damaged")]
    Records {
        /// The lab.
        lab: String,
        /// Its directory.
        run_dir: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A process could not be ended.
    #[error("could not stop the processes of lab {lab}: was it started by another user?")]
    Processes {
        /// The lab.
        lab: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A namespace could not be inspected or removed.
    #[error("could not remove a namespace of lab {lab}")]
    Namespace {
        /// The lab.
        lab: String,
        /// The cause.
        #[source]
        source: NetnsError,
    },
    /// Files could not be removed.
    #[error("could not remove {run_dir} of lab {lab}")]
    Files {
        /// The lab.
        lab: String,
        /// The directory.
        run_dir: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Returns the mark of a lab's namespaces: whose they are, and where the records are.
pub(super) fn mark(lab: &str, run_dir: &RunDir) -> String {
    format!("{MARK} {lab} {}", run_dir.path().display())
}

/// Reads a mark; `None` when the namespace is of another lab or of none.
fn read_mark(mark: &str, lab: &str) -> Option<RunDir> {
    let (name, run_dir) = mark.strip_prefix(MARK)?.strip_prefix(' ')?.split_once(' ')?;
    (name == lab).then(|| RunDir::at(PathBuf::from(run_dir)))
}

/// What stands of a lab.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// Directories with records.
    pub(super) run_dirs: BTreeSet<RunDir>,
    /// Its namespaces.
    namespaces: Vec<Netns>,
}

/// Finds what stands of a lab: in the directories given, the default one, and by the marks of namespaces.
pub(super) fn discover(lab: &str, known: impl IntoIterator<Item = RunDir>) -> Result<Standing, NetnsError> {
    let mut standing = Standing::default();
    standing.run_dirs.extend(known);
    standing.run_dirs.insert(RunDir::default_for(lab));
    let listed = netns::names(&format!("{lab}-"));
    let listed = listed.map_err(|source| NetnsError::Step { step: "list", name: format!("{lab}-*"), source })?;
    for name in listed {
        let netns = match Netns::open(&name) {
            // Gone meanwhile, or an empty file without a namespace: nothing to enter.
            Err(NetnsError::Missing(_)) => continue,
            netns => netns?,
        };
        if let Some(run_dir) = netns.mark()?.and_then(|mark| read_mark(&mark, lab)) {
            standing.run_dirs.insert(run_dir);
            standing.namespaces.push(netns);
        }
    }
    standing.run_dirs.retain(|run_dir| run_dir.path().exists());
    Ok(standing)
}

/// Takes down all that stands of a lab.
pub(super) fn clean(lab: &str, known: impl IntoIterator<Item = RunDir>) -> Result<DownReport, DownError> {
    check_name("lab", lab)?;
    let of_namespace = |source| DownError::Namespace { lab: lab.to_owned(), source };
    let standing = discover(lab, known).map_err(of_namespace)?;
    let mut report = DownReport::default();
    for run_dir in &standing.run_dirs {
        let path = run_dir.path().to_owned();
        let records = run_dir.processes().map_err(|source| DownError::Records { lab: lab.to_owned(), run_dir: path, source })?;
        report.processes.extend(records.into_iter().filter(|record| record.id.is_alive()));
    }
    // Newest first: what was started later may need what was started before.
    let ids: Vec<_> = report.processes.iter().rev().map(|record| record.id.clone()).collect();
    stop_all(&ids, GRACE).map_err(|source| DownError::Processes { lab: lab.to_owned(), source })?;
    report.strangers = strangers(&standing.namespaces);
    for netns in &standing.namespaces {
        netns::delete(netns.name()).map_err(of_namespace)?;
        report.namespaces.push(netns.name().to_owned());
    }
    for run_dir in &standing.run_dirs {
        let removed = remove_empty_names(run_dir).and_then(|()| resolver::uninstall_all(run_dir)).and_then(|()| run_dir.remove());
        let path = run_dir.path().to_owned();
        removed.map_err(|source| DownError::Files { lab: lab.to_owned(), run_dir: path, source })?;
    }
    Ok(report)
}

/// Removes the empty files of namespaces that a crash kept from coming into being.
fn remove_empty_names(run_dir: &RunDir) -> io::Result<()> {
    let Some(record) = run_dir.load()? else { return Ok(()) };
    for name in record.topology.netns_names() {
        let path = PathBuf::from(netns::NETNS_DIR).join(&name);
        if path.exists() && !crate::sys::is_namespace(&path)? {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Finds the processes in these namespaces.
fn strangers(namespaces: &[Netns]) -> Vec<Stranger> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let find = |pid: u32| {
        let id = fs::metadata(format!("/proc/{pid}/ns/net")).ok()?.ino();
        let netns = namespaces.iter().find(|netns| netns.id().is_ok_and(|own| own == id))?;
        Some(Stranger { pid, netns: netns.name().to_owned() })
    };
    pids.filter(|pid| *pid != std::process::id()).filter_map(find).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_names_one_lab_only() {
        let run_dir = RunDir::at(PathBuf::from("/run/a dir"));
        let text = mark("demo", &run_dir);
        assert_eq!(read_mark(&text, "demo"), Some(run_dir));
        assert_eq!(read_mark(&text, "dem"), None);
        assert_eq!(read_mark(&text, "demo-2"), None);
        assert_eq!(read_mark("", "demo"), None);
    }
}
