//! What can go wrong with a lab, one enum per operation.

use std::io;
use std::path::PathBuf;

use super::DownError;
use crate::netns::NetnsError;
use crate::privileges::MissingPrivilege;
use crate::topology::TopologyError;

/// Why a lab could not be set up. Nothing of it is left behind.
#[derive(Debug, thiserror::Error)]
pub enum UpError {
    /// The topology is not one that can be built.
    #[error("the topology of the lab is not valid")]
    Topology(#[from] TopologyError),
    /// The machine or the user lacks something.
    #[error("a lab cannot run here:{}", .0.iter().map(|missing| format!("\n  {missing}")).collect::<String>())]
    Privileges(Vec<MissingPrivilege>),
    /// A lab of that name is up, and its owner runs.
    #[error("lab {lab} is in use by process {pid}: end that one, take the lab down, or choose another name")]
    InUse {
        /// The lab.
        lab: String,
        /// Its owner.
        pid: u32,
    },
    /// A lab of that name was set up to be kept.
    #[error("lab {lab} is up and was to be kept ({run_dir}): take it down first, or choose another name")]
    Kept {
        /// The lab.
        lab: String,
        /// Where its records are.
        run_dir: PathBuf,
    },
    /// What an earlier run left behind could not be found or removed.
    #[error("could not clean up after an earlier run of the lab")]
    Stale(#[source] DownError),
    /// The directory for records could not be used.
    #[error("could not use {run_dir} for the records of the lab: it must be new or empty, and its path below 180 bytes")]
    RunDir {
        /// The directory.
        run_dir: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Namespaces could not be made or joined.
    #[error("could not set up the network of lab {lab}")]
    Network {
        /// The lab.
        lab: String,
        /// The cause.
        #[source]
        source: NetnsError,
    },
}

/// Why a lab that should stand could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// There is none of that name.
    #[error("lab {0} is not up")]
    NotFound(String),
    /// There are no records of a lab in that directory.
    #[error("{0} holds no records of a lab")]
    NoRecords(PathBuf),
    /// The records could not be read.
    #[error("could not read the records in {run_dir}")]
    Records {
        /// The directory.
        run_dir: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The namespaces could not be searched.
    #[error("could not search the network namespaces for lab {lab}")]
    Search {
        /// The lab.
        lab: String,
        /// The cause.
        #[source]
        source: NetnsError,
    },
}

/// Why a workload could not be added or removed.
#[derive(Debug, thiserror::Error)]
pub enum WorkloadError {
    /// The topology would not be valid with it.
    #[error("workload {workload} does not fit into the lab")]
    Topology {
        /// The workload.
        workload: String,
        /// What is wrong.
        #[source]
        source: TopologyError,
    },
    /// There is no such workload or node.
    #[error("the lab has no {0}")]
    Unknown(String),
    /// Its namespace could not be made, joined or removed.
    #[error("could not change the network for workload {workload}")]
    Network {
        /// The workload.
        workload: String,
        /// The cause.
        #[source]
        source: NetnsError,
    },
    /// The lab's records could not be brought up to date.
    #[error("could not record the change of workload {workload} in {run_dir}")]
    Records {
        /// The workload.
        workload: String,
        /// The directory.
        run_dir: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// Why a process could not be started.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// The log file could not be opened, or has a name that is none.
    #[error("could not open the log {path}: is the name free of '/'?")]
    Log {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The program could not be started.
    #[error("could not start {program:?} in network namespace {netns}: is it installed and executable?")]
    Start {
        /// The program.
        program: String,
        /// The namespace.
        netns: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The process was started but could not be recorded, and was ended again.
    #[error("could not record process {pid} of {program:?}; it was ended again")]
    Record {
        /// The program.
        program: String,
        /// Its number.
        pid: u32,
        /// The cause.
        #[source]
        source: io::Error,
    },
}
