//! The directory in which a lab keeps its records, so that another process can find and end it.
//!
//! ```text
//! landbridge-lab      empty: says that the directory is a lab's, to be deleted with all in it
//! lab.json            owner, keep, topology
//! processes/PID.json  one per process
//! logs/NAME.log       their output
//! resolver/NETNS/     files that programs in a workload see in place of those of /etc
//! ```

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::process::{ProcessId, ProcessRecord};
use crate::topology::Topology;

/// Where labs keep their records unless told otherwise.
const ROOT: &str = "/run/landbridge/lab";
/// The file without which a directory is never deleted.
const MARKER: &str = "landbridge-lab";

/// What is known about a lab as a whole.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct LabRecord {
    pub(crate) owner: ProcessId,
    pub(crate) keep: bool,
    pub(crate) topology: Topology,
}

/// The directory of one lab.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RunDir(PathBuf);

impl RunDir {
    /// Returns the directory a lab of that name has when none was asked for.
    pub(crate) fn default_for(name: &str) -> RunDir {
        RunDir(Path::new(ROOT).join(name))
    }

    pub(crate) fn at(path: PathBuf) -> RunDir {
        RunDir(path)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Creates the directory, which must not exist or be empty; returns its absolute path.
    pub(crate) fn create(&self) -> io::Result<RunDir> {
        fs::create_dir_all(&self.0)?;
        let dir = RunDir(fs::canonicalize(&self.0)?);
        if fs::read_dir(&dir.0)?.next().is_some() {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
        fs::write(dir.0.join(MARKER), "")?;
        for part in ["processes", "logs", "resolver"] {
            fs::create_dir(dir.0.join(part))?;
        }
        Ok(dir)
    }

    /// Removes the directory with all in it; only if it is a lab's.
    pub(crate) fn remove(&self) -> io::Result<()> {
        if !self.0.join(MARKER).is_file() {
            return Ok(());
        }
        match fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    pub(crate) fn save(&self, record: &LabRecord) -> io::Result<()> {
        write_json(&self.0.join("lab.json"), record)
    }

    /// Returns the lab's record, or `None` when there is none here.
    pub(crate) fn load(&self) -> io::Result<Option<LabRecord>> {
        read_json(&self.0.join("lab.json"))
    }

    pub(crate) fn process_file(&self, pid: u32) -> PathBuf {
        self.0.join("processes").join(format!("{pid}.json"))
    }

    pub(crate) fn log_file(&self, name: &str) -> PathBuf {
        self.0.join("logs").join(format!("{name}.log"))
    }

    pub(crate) fn resolver_dir(&self, netns: &str) -> PathBuf {
        self.0.join("resolver").join(netns)
    }

    /// Records a process; returns the file it is recorded in.
    pub(crate) fn save_process(&self, record: &ProcessRecord) -> io::Result<PathBuf> {
        let path = self.process_file(record.id.pid);
        write_json(&path, record)?;
        Ok(path)
    }

    /// Returns all recorded processes, whether they still run or not, oldest first.
    pub(crate) fn processes(&self) -> io::Result<Vec<ProcessRecord>> {
        let entries = match fs::read_dir(self.0.join("processes")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut records: Vec<ProcessRecord> = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "json") {
                records.extend(read_json(&path)?);
            }
        }
        records.sort_by_key(|record| (record.id.start_time, record.id.pid));
        Ok(records)
    }
}

/// Writes a file in one step: a reader sees the old one or the new one.
fn write_json(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, serde_json::to_vec_pretty(value)?)?;
    fs::rename(new, path)
}

fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(serde_json::from_slice(&bytes)?)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
