//! Processes of a lab, known by number and start time, so that nothing else is ever signalled.

use std::fs;
use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::sys;

/// What tells a process from every other, before and after it, on this machine.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessId {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since boot: field 22 of `/proc/PID/stat`.
    pub start_time: u64,
    /// The boot that the ticks are counted from.
    pub boot: String,
}

/// A process as a lab records it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessRecord {
    /// The name it was spawned under.
    pub name: String,
    /// The network namespace it was spawned in.
    pub netns: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Where its output goes.
    pub log: PathBuf,
    /// Which process it is.
    pub id: ProcessId,
}

impl ProcessId {
    /// Returns the identity of the process that has this number now.
    pub fn of(pid: u32) -> io::Result<ProcessId> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned();
        let (_, start_time) = stat(pid)?;
        Ok(ProcessId { pid, start_time, boot })
    }

    /// Returns the identity of this process.
    pub fn current() -> io::Result<ProcessId> {
        ProcessId::of(std::process::id())
    }

    /// Says whether this very process runs; a zombie does not.
    pub fn is_alive(&self) -> bool {
        self.holds_number() && stat(self.pid).is_ok_and(|(state, _)| !matches!(state, 'Z' | 'X'))
    }

    /// Says whether the number still means this process, be it a zombie.
    fn holds_number(&self) -> bool {
        ProcessId::of(self.pid).is_ok_and(|now| now == *self)
    }

    /// Signals the process and the group it leads; does nothing when the number has come to mean another process.
    fn signal_group(&self, signal: i32) -> io::Result<()> {
        // A leader that is gone may leave members; their group keeps its number from being given away.
        if ProcessId::of(self.pid).is_ok_and(|now| now != *self) {
            return Ok(());
        }
        match sys::signal_group(self.pid, signal) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
            result => result,
        }
    }

    /// Waits until the process has ended; `false` when the time is over first.
    fn wait(&self, timeout: Duration) -> io::Result<bool> {
        match sys::PidFd::open(self.pid) {
            Ok(pidfd) if self.holds_number() => pidfd.wait(timeout),
            // Not there, or another.
            Ok(_) => Ok(true),
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(true),
            Err(error) => Err(error),
        }
    }
}

/// Ends processes: SIGTERM to all, and after `grace` SIGKILL to what is left. Returns when all have ended.
pub(crate) fn stop_all(processes: &[ProcessId], grace: Duration) -> io::Result<()> {
    let alive = processes.iter().filter(|process| process.is_alive()).collect::<Vec<_>>();
    for process in &alive {
        process.signal_group(libc::SIGTERM)?;
    }
    let deadline = Instant::now() + grace;
    for process in &alive {
        process.wait(deadline.saturating_duration_since(Instant::now()))?;
    }
    for process in &alive {
        process.signal_group(libc::SIGKILL)?;
        process.wait(Duration::from_secs(10))?;
    }
    Ok(())
}

/// Returns state and start time of a process.
fn stat(pid: u32) -> io::Result<(char, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the program's name in parentheses and may contain anything, parentheses too.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace().collect();
    let state = fields.first().and_then(|state| state.chars().next());
    let start = fields.get(19).and_then(|start| start.parse().ok());
    state.zip(start).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("/proc/{pid}/stat: {stat}")))
}

/// A process that a [`Lab`](crate::Lab) started. Clones mean the same process; dropping them does not end it.
#[derive(Clone, Debug)]
pub struct Process {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    record: ProcessRecord,
    record_file: PathBuf,
    child: Mutex<Child>,
}

impl Process {
    pub(crate) fn new(record: ProcessRecord, record_file: PathBuf, child: Child) -> Process {
        Process { inner: Arc::new(Inner { record, record_file, child: Mutex::new(child) }) }
    }

    /// Returns its number.
    pub fn pid(&self) -> u32 {
        self.record().id.pid
    }

    /// Returns what the lab has recorded of it.
    pub fn record(&self) -> &ProcessRecord {
        &self.inner.record
    }

    /// Returns where its output goes.
    pub fn log_path(&self) -> &Path {
        &self.record().log
    }

    /// Returns its output so far; output of earlier processes with the same log name comes first.
    pub fn log(&self) -> io::Result<String> {
        let mut bytes = Vec::new();
        fs::File::open(self.log_path())?.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Says whether it still runs.
    pub fn is_running(&self) -> bool {
        self.try_wait().is_ok_and(|status| status.is_none())
    }

    /// Returns how it ended, or `None` while it runs.
    pub fn try_wait(&self) -> io::Result<Option<ExitStatus>> {
        let status = self.child().try_wait()?;
        if status.is_some() {
            self.forget();
        }
        Ok(status)
    }

    /// Waits until it ends; `None` when the time is over first.
    pub fn wait(&self, timeout: Duration) -> io::Result<Option<ExitStatus>> {
        if let Some(status) = self.try_wait()? {
            return Ok(Some(status));
        }
        self.record().id.wait(timeout)?;
        self.try_wait()
    }

    /// Sends a signal (`libc::SIGUSR1`, …) to it and the processes of its group.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        // Holding the child keeps another thread from reaping it between the check and the signal.
        let mut child = self.child();
        if child.try_wait()?.is_some() {
            return Ok(());
        }
        sys::signal_group(self.pid(), signal)
    }

    /// Ends it at once with SIGKILL, as a crash would, and waits for that.
    pub fn kill(&self) -> io::Result<ExitStatus> {
        self.signal(libc::SIGKILL)?;
        self.reap()
    }

    /// Ends it with SIGTERM, or with SIGKILL if it still runs after `grace`.
    pub fn stop(&self, grace: Duration) -> io::Result<ExitStatus> {
        self.signal(libc::SIGTERM)?;
        match self.wait(grace)? {
            Some(status) => Ok(status),
            None => self.kill(),
        }
    }

    /// Takes note that it has ended.
    fn reap(&self) -> io::Result<ExitStatus> {
        let status = self.child().wait()?;
        self.forget();
        Ok(status)
    }

    fn forget(&self) {
        // A record that stays names a process that is not there any more: harmless.
        let _ = fs::remove_file(&self.inner.record_file);
    }

    fn child(&self) -> MutexGuard<'_, Child> {
        self.inner.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Says in words how a process ended, for messages.
pub fn describe_exit(status: ExitStatus) -> String {
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("exited with status {code}"),
        (None, Some(signal)) => format!("ended by signal {signal}"),
        (None, None) => "ended".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_alone_is_not_a_process() {
        let current = ProcessId::current().unwrap();
        assert!(current.is_alive());
        let earlier = ProcessId { start_time: current.start_time - 1, ..current.clone() };
        assert!(!earlier.is_alive());
        let before_boot = ProcessId { boot: "another".to_owned(), ..current };
        assert!(!before_boot.is_alive());
        // Neither is signalled: this test would end here.
        stop_all(&[earlier.clone(), before_boot], Duration::ZERO).unwrap();
        earlier.signal_group(libc::SIGKILL).unwrap();
    }
}
