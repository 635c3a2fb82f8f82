//! A lab: namespaces, processes and the records that let another process end both.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::netns::{self, Netns, NetnsError};
use crate::privileges::{self, MissingPrivilege};
use crate::process::{Process, ProcessId, ProcessRecord, stop_all};
use crate::topology::{Topology, TopologyError, WorkloadSpec};
use crate::wiring;

mod down;
mod error;
mod resolver;
mod run_dir;
mod spawner;

pub use down::{DownError, DownReport, Stranger};
pub use error::{OpenError, SpawnError, UpError, WorkloadError};
use run_dir::{LabRecord, RunDir};
use spawner::Spawner;

/// The longest run directory: the mark that names it must fit into an interface alias (255 bytes) beside the lab's name.
const LONGEST_RUN_DIR: usize = 180;

/// How a lab is set up.
#[derive(Clone, Debug, Default)]
pub struct LabOptions {
    /// Where it keeps its records; by default `/run/landbridge/lab/NAME`. Deleted by [`Lab::down`] with all in it.
    pub run_dir: Option<PathBuf>,
    /// The lab and its processes outlive this process, until [`Lab::down`] or [`Lab::clean`].
    pub keep: bool,
}

/// A running lab.
///
/// The handle that [`Lab::up`] returns owns the lab: dropping it takes the lab down, unless it was set up to be kept.
/// Handles of [`Lab::open`] and [`Lab::find`] do not.
#[derive(Debug)]
pub struct Lab {
    run_dir: RunDir,
    record: Mutex<LabRecord>,
    processes: Mutex<Vec<Process>>,
    spawner: Option<Spawner>,
    down_on_drop: bool,
}

impl Lab {
    /// Checks that this process may do all that a lab needs, and says what is missing and what to do.
    pub fn check_privileges() -> Result<(), Vec<MissingPrivilege>> {
        privileges::check()
    }

    /// Sets up a lab. One of the same name that a killed process left behind is taken down first.
    pub fn up(topology: &Topology, options: LabOptions) -> Result<Lab, UpError> {
        topology.validate()?;
        Lab::check_privileges().map_err(UpError::Privileges)?;
        let name = topology.name.clone();
        let wanted = options.run_dir.map_or_else(|| RunDir::default_for(&name), RunDir::at);
        make_room(&name, &wanted)?;
        let failed = |source| UpError::RunDir { run_dir: wanted.path().to_owned(), source };
        let run_dir = wanted.create().map_err(failed)?;
        let owner = ProcessId::current().map_err(failed)?;
        let spawner = if options.keep { None } else { Some(Spawner::start().map_err(failed)?) };
        let mut lab = Lab {
            run_dir,
            record: Mutex::new(LabRecord { owner, keep: options.keep, topology: topology.clone() }),
            processes: Mutex::default(),
            spawner,
            // Also when setting up fails halfway, kept or not.
            down_on_drop: true,
        };
        let path_fits = lab.run_dir.path().as_os_str().len() < LONGEST_RUN_DIR;
        let saved = if path_fits { lab.run_dir.save(&lab.record()) } else { Err(io::ErrorKind::InvalidFilename.into()) };
        saved.map_err(failed)?;
        wiring::build(topology, &lab.mark()).map_err(|source| UpError::Network { lab: name, source })?;
        for workload in &topology.workloads {
            let netns = workload.netns(&topology.name);
            resolver::install(&lab.run_dir, &netns, workload, &topology.dns).map_err(failed)?;
        }
        lab.down_on_drop = !options.keep;
        Ok(lab)
    }

    /// Opens the lab with these records.
    pub fn open(run_dir: impl Into<PathBuf>) -> Result<Lab, OpenError> {
        let run_dir = RunDir::at(run_dir.into());
        let path = run_dir.path().to_owned();
        let record = run_dir.load().map_err(|source| OpenError::Records { run_dir: path.clone(), source })?;
        let record = Mutex::new(record.ok_or(OpenError::NoRecords(path))?);
        Ok(Lab { run_dir, record, processes: Mutex::default(), spawner: None, down_on_drop: false })
    }

    /// Opens the lab of that name, wherever its records are.
    pub fn find(name: &str) -> Result<Lab, OpenError> {
        let standing = down::discover(name, []);
        let standing = standing.map_err(|source| OpenError::Search { lab: name.to_owned(), source })?;
        let of_name = |lab: &Lab| lab.name() == name;
        let mut found = standing.run_dirs.into_iter().filter_map(|run_dir| Lab::open(run_dir.path()).ok());
        found.find(of_name).ok_or_else(|| OpenError::NotFound(name.to_owned()))
    }

    /// Takes the lab of that name down, even if its records are lost or its owner died while setting it up.
    ///
    /// Ends the processes it recorded (never by name), removes its namespaces (known by a mark inside, not by name
    /// alone) and its records. That there is nothing is no error.
    pub fn clean(name: &str) -> Result<DownReport, DownError> {
        down::clean(name, [])
    }

    /// Takes the lab down; a second time it finds nothing.
    pub fn down(&self) -> Result<DownReport, DownError> {
        let report = down::clean(&self.name(), [self.run_dir.clone()]);
        // Children of this process stay zombies until they are waited for.
        for process in self.processes().iter() {
            let _ = process.try_wait();
        }
        report
    }

    /// Returns the name of the lab.
    pub fn name(&self) -> String {
        self.record().topology.name.clone()
    }

    /// Returns where the lab keeps its records; the owner may keep files of its own there.
    pub fn run_dir(&self) -> &Path {
        self.run_dir.path()
    }

    /// Returns the process that set it up, which may have ended.
    pub fn owner(&self) -> ProcessId {
        self.record().owner.clone()
    }

    /// Says whether it was set up to outlive its owner.
    pub fn is_kept(&self) -> bool {
        self.record().keep
    }

    /// Returns the topology as this handle knows it.
    pub fn topology(&self) -> Topology {
        self.record().topology.clone()
    }

    /// Opens the namespace of the underlay.
    pub fn underlay(&self) -> Result<Netns, NetnsError> {
        Netns::open(&self.record().topology.underlay_netns())
    }

    /// Opens the namespace of a node.
    pub fn node(&self, cluster: &str, node: &str) -> Result<Netns, NetnsError> {
        Netns::open(&format!("{}-{cluster}-{node}", self.name()))
    }

    /// Opens the namespace of a workload; programs in it resolve names by the mesh's DNS.
    pub fn workload(&self, cluster: &str, namespace: &str, pod: &str) -> Result<Netns, NetnsError> {
        let netns = Netns::open(&format!("{}-{cluster}-{namespace}-{pod}", self.name()))?;
        let binds = resolver::binds(&self.run_dir, netns.name());
        Ok(netns.with_binds(binds))
    }

    /// Adds a workload to a node of the lab.
    pub fn add_workload(&self, workload: &WorkloadSpec) -> Result<(), WorkloadError> {
        let name = workload.to_string();
        let mark = self.mark();
        let mut record = self.record();
        let mut next = record.clone();
        next.topology.workloads.push(workload.clone());
        let invalid = |source: TopologyError| WorkloadError::Topology { workload: name.clone(), source };
        next.topology.validate().map_err(invalid)?;
        // Recorded first: a crash from here on leaves nothing that a clean-up would not know.
        self.save(&next, &name)?;
        let netns = workload.netns(&next.topology.name);
        let added = wiring::add(&next.topology, workload, &mark)
            .map_err(|source| WorkloadError::Network { workload: name.clone(), source })
            .and_then(|()| {
                let installed = resolver::install(&self.run_dir, &netns, workload, &next.topology.dns);
                installed.map_err(|source| self.not_recorded(&name, source))
            });
        if let Err(error) = added {
            // The error at hand says more than one from taking the half of it back.
            let _ = wiring::remove(&next.topology, workload);
            let _ = self.save(&record, &name);
            return Err(error);
        }
        *record = next;
        Ok(())
    }

    /// Removes a workload: ends the processes that were spawned in it, then its namespace.
    pub fn remove_workload(&self, cluster: &str, namespace: &str, pod: &str) -> Result<WorkloadSpec, WorkloadError> {
        let mut record = self.record();
        let name = format!("{cluster}/{namespace}/{pod}");
        let found = record.topology.workload(cluster, namespace, pod).cloned();
        let workload = found.ok_or_else(|| WorkloadError::Unknown(format!("workload {name}")))?;
        let netns = workload.netns(&record.topology.name);
        let processes = self.run_dir.processes().map_err(|source| self.not_recorded(&name, source))?;
        let own = processes.into_iter().filter(|process| process.netns == netns).map(|process| process.id);
        stop_all(&own.collect::<Vec<_>>(), Duration::from_secs(1)).map_err(|source| self.not_recorded(&name, source))?;
        let removed = wiring::remove(&record.topology, &workload);
        removed.map_err(|source| WorkloadError::Network { workload: name.clone(), source })?;
        resolver::uninstall(&self.run_dir, &netns).map_err(|source| self.not_recorded(&name, source))?;
        record.topology.workloads.retain(|other| *other != workload);
        self.save(&record, &name)?;
        Ok(workload)
    }

    /// Starts `command` in a namespace of the lab, with its output in the log of that name, and records it.
    ///
    /// It leads a process group of its own, so a Ctrl-C at the terminal does not reach it. It dies with this process,
    /// by whatever signal that one dies, unless the lab was set up to be kept or was merely opened.
    pub fn spawn(&self, netns: &Netns, mut command: Command, log: &str) -> Result<Process, SpawnError> {
        let path = self.run_dir.log_file(log);
        let no_log = |source| SpawnError::Log { path: path.clone(), source };
        if log.is_empty() || log.contains('/') {
            return Err(no_log(io::ErrorKind::InvalidFilename.into()));
        }
        let output = OpenOptions::new().create(true).append(true).open(&path).map_err(no_log)?;
        let errors = output.try_clone().map_err(no_log)?;
        let program = command.get_program().to_string_lossy().into_owned();
        let arguments = command.get_args().map(|argument| argument.to_string_lossy().into_owned());
        let words = [program.clone()].into_iter().chain(arguments).collect();
        command.stdin(Stdio::null()).stdout(output).stderr(errors).process_group(0);
        let entered = netns.enter(&mut command);
        let started = entered.and_then(|()| match &self.spawner {
            Some(spawner) => spawner.spawn(command),
            None => command.spawn(),
        });
        let netns = netns.name().to_owned();
        let mut child = started.map_err(|source| SpawnError::Start { program: program.clone(), netns: netns.clone(), source })?;
        let pid = child.id();
        let recorded = ProcessId::of(pid).and_then(|id| {
            let record = ProcessRecord { name: log.to_owned(), netns, command: words, log: path.clone(), id };
            Ok((self.run_dir.save_process(&record)?, record))
        });
        match recorded {
            Ok((file, record)) => {
                let process = Process::new(record, file, child);
                self.processes().push(process.clone());
                Ok(process)
            }
            Err(source) => {
                let _ = child.kill().and_then(|()| child.wait());
                Err(SpawnError::Record { program, pid, source })
            }
        }
    }

    /// Returns the recorded processes that run, also those another process has started; oldest first.
    pub fn running(&self) -> io::Result<Vec<ProcessRecord>> {
        let records = self.run_dir.processes()?;
        Ok(records.into_iter().filter(|record| record.id.is_alive()).collect())
    }

    fn mark(&self) -> String {
        down::mark(&self.name(), &self.run_dir)
    }

    fn save(&self, record: &LabRecord, workload: &str) -> Result<(), WorkloadError> {
        self.run_dir.save(record).map_err(|source| self.not_recorded(workload, source))
    }

    fn not_recorded(&self, workload: &str, source: io::Error) -> WorkloadError {
        WorkloadError::Records { workload: workload.to_owned(), run_dir: self.run_dir().to_owned(), source }
    }

    fn record(&self) -> MutexGuard<'_, LabRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn processes(&self) -> MutexGuard<'_, Vec<Process>> {
        self.processes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.down_on_drop
            && let Err(error) = self.down()
        {
            tracing::error!(lab = self.name(), %error, "the lab could not be taken down");
        }
    }
}

/// Takes down what an earlier run of the lab left behind; refuses if that one is alive or was to be kept.
fn make_room(name: &str, wanted: &RunDir) -> Result<(), UpError> {
    let searched = |source| UpError::Stale(DownError::Namespace { lab: name.to_owned(), source });
    let standing = down::discover(name, [wanted.clone()]).map_err(searched)?;
    for run_dir in &standing.run_dirs {
        let path = run_dir.path().to_owned();
        let unreadable = |source| UpError::Stale(DownError::Records { lab: name.to_owned(), run_dir: path.clone(), source });
        match run_dir.load().map_err(unreadable)? {
            Some(record) if record.topology.name != name => {
                return Err(UpError::RunDir { run_dir: path, source: io::ErrorKind::AlreadyExists.into() });
            }
            Some(record) if record.keep => return Err(UpError::Kept { lab: name.to_owned(), run_dir: path }),
            Some(record) if record.owner.is_alive() => {
                return Err(UpError::InUse { lab: name.to_owned(), pid: record.owner.pid });
            }
            _ => {}
        }
    }
    down::clean(name, standing.run_dirs).map(drop).map_err(UpError::Stale)
}

/// Returns the names of the labs that stand on this machine.
pub fn labs() -> io::Result<Vec<String>> {
    const UNDERLAY: &str = "-underlay";
    let names = netns::names("")?;
    let candidates: BTreeSet<&str> = names.iter().filter_map(|name| name.strip_suffix(UNDERLAY)).collect();
    Ok(candidates.into_iter().filter(|name| Lab::find(name).is_ok()).map(str::to_owned).collect())
}
