//! Named network namespaces, as `ip netns` makes them: made, entered, removed.

use std::ffi::{CString, OsStr};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use crate::netlink::{self, NetlinkError, Session};
use crate::sys;

mod directory;
mod sysctl;

pub(crate) use sysctl::Role;

/// Where named network namespaces live; the same directory that `ip netns` uses.
pub const NETNS_DIR: &str = "/run/netns";

/// A named network namespace, held open.
///
/// It stays usable after its name is gone, until the last holder drops it: the namespace itself ends then.
#[derive(Clone, Debug)]
pub struct Netns {
    name: String,
    file: Arc<File>,
    /// Files mounted over others for programs started in here: source and target.
    binds: Arc<Vec<(PathBuf, PathBuf)>>,
}

/// Why a network namespace could not be made, opened or removed.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// There is one of that name already, and it is not a leftover of this lab.
    #[error("network namespace {0} exists and is not this lab's: remove it (`ip netns del {0}`) or rename the lab")]
    Exists(String),
    /// There is none of that name.
    #[error("network namespace {0} does not exist: is the lab up?")]
    Missing(String),
    /// The directory of namespaces could not be prepared.
    #[error("could not prepare {NETNS_DIR} for network namespaces: root (CAP_SYS_ADMIN) is needed")]
    Directory(#[source] io::Error),
    /// A system call failed.
    #[error("could not {step} network namespace {name}")]
    Step {
        /// What was tried.
        step: &'static str,
        /// The namespace.
        name: String,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// A kernel setting inside could not be written.
    #[error("could not write {value:?} to /proc/sys/{key} in network namespace {name}: is /proc/sys read-only, or IPv6 off?")]
    Sysctl {
        /// The namespace.
        name: String,
        /// The setting, as a path below `/proc/sys`.
        key: String,
        /// The value.
        value: &'static str,
        /// The kernel's answer.
        #[source]
        source: io::Error,
    },
    /// The kernel refused something inside.
    #[error("network namespace {name}: links could not be set up")]
    Netlink {
        /// The namespace.
        name: String,
        /// The refused step.
        #[source]
        source: NetlinkError,
    },
}

impl Netns {
    /// Opens the namespace of that name.
    pub fn open(name: &str) -> Result<Netns, NetnsError> {
        let path = path(name);
        match File::open(&path) {
            Ok(file) if sys::is_namespace(&path).unwrap_or(false) => {
                Ok(Netns { name: name.to_owned(), file: Arc::new(file), binds: Arc::default() })
            }
            Ok(_) => Err(NetnsError::Missing(name.to_owned())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(NetnsError::Missing(name.to_owned())),
            Err(source) => Err(NetnsError::Step { step: "open", name: name.to_owned(), source }),
        }
    }

    /// Returns its name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the inode that identifies it, as `/proc/PID/ns/net` shows it.
    pub fn id(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.ino())
    }

    /// Runs `f` in a fresh thread inside this namespace and returns what it returns; a panic comes through.
    ///
    /// Sockets that `f` opens and threads it starts stay in the namespace. Note that `/proc/net` shows the namespace
    /// of the main thread; `/proc/thread-self/net` shows this one.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> io::Result<T> {
        in_thread(|| {
            sys::enter_net(self.as_fd())?;
            Ok(f())
        })?
    }

    /// Returns a command that starts `program` in this namespace: see [`Netns::enter`].
    pub fn command(&self, program: impl AsRef<OsStr>) -> io::Result<Command> {
        let mut command = Command::new(program);
        self.enter(&mut command)?;
        Ok(command)
    }

    /// Makes `command` start in this namespace.
    ///
    /// In a workload it also gets a mount namespace in which `/etc/resolv.conf` names the mesh's DNS and
    /// `/etc/nsswitch.conf` asks files and DNS only, so that `getaddrinfo` asks the mesh. Do not combine with a change
    /// of user ([`std::os::unix::process::CommandExt::uid`]): entering needs the rights that it drops.
    pub fn enter(&self, command: &mut Command) -> io::Result<()> {
        let bind = |(source, target): &(PathBuf, PathBuf)| Ok((sys::c_path(source)?, sys::c_path(target)?));
        let binds: Vec<(CString, CString)> = self.binds.iter().map(bind).collect::<io::Result<_>>()?;
        let netns: OwnedFd = self.file.as_fd().try_clone_to_owned()?;
        sys::enter_before_exec(command, netns, binds);
        Ok(())
    }

    /// Adds files that programs started in here see in place of others.
    pub(crate) fn with_binds(mut self, binds: Vec<(PathBuf, PathBuf)>) -> Netns {
        self.binds = Arc::new(binds);
        self
    }

    /// Holds a netlink conversation inside.
    pub(crate) fn netlink<T: Send>(
        &self,
        talk: impl AsyncFnOnce(&Session) -> Result<T, NetlinkError> + Send,
    ) -> Result<T, NetnsError> {
        let result = self.run(|| netlink::session(talk)).map_err(|source| self.step("enter", source))?;
        result.map_err(|source| NetnsError::Netlink { name: self.name.clone(), source })
    }

    /// Returns the mark that [`create`] left inside.
    pub(crate) fn mark(&self) -> Result<Option<String>, NetnsError> {
        self.netlink(async |session: &Session| session.alias("lo").await)
    }

    fn step(&self, step: &'static str, source: io::Error) -> NetnsError {
        NetnsError::Step { step, name: self.name.clone(), source }
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Creates a namespace with its loopback up, its kernel settings made, and `mark` written onto the loopback.
///
/// The mark (the interface's alias) is there before the name is: whoever finds the name later can tell whose it is.
pub(crate) fn create(name: &str, mark: &str, role: Role) -> Result<Netns, NetnsError> {
    let failed = |step| move |source| NetnsError::Step { step, name: name.to_owned(), source };
    directory::prepare().map_err(NetnsError::Directory)?;
    let path = path(name);
    // The empty file of a run that died between creating and mounting it is nobody's.
    if path.exists() && !sys::is_namespace(&path).map_err(failed("inspect"))? {
        fs::remove_file(&path).map_err(failed("replace"))?;
    }
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o444).open(&path).map_err(|source| {
        let exists = source.kind() == io::ErrorKind::AlreadyExists;
        if exists { NetnsError::Exists(name.to_owned()) } else { failed("name")(source) }
    })?;
    let made = in_thread(|| {
        sys::unshare_net().map_err(failed("create"))?;
        sysctl::write_all(name, role)?;
        let marked = netlink::session(async |session: &Session| {
            let loopback = session.up("lo").await?;
            session.set_alias(loopback, mark).await
        });
        marked.map_err(|source| NetnsError::Netlink { name: name.to_owned(), source })?;
        let target = sys::c_path(&path).map_err(failed("name"))?;
        sys::mount(c"/proc/thread-self/ns/net", &target, libc::MS_BIND).map_err(failed("name"))
    });
    let opened = made.map_err(failed("start a thread for")).and_then(|made| made).and_then(|()| Netns::open(name));
    if opened.is_err() {
        // The error at hand says more than one from tidying up after it.
        let _ = delete(name);
    }
    opened
}

/// Removes the name of a namespace; it ends when the last process or handle inside it does. No such name is no error.
pub(crate) fn delete(name: &str) -> Result<(), NetnsError> {
    let failed = |step| move |source| NetnsError::Step { step, name: name.to_owned(), source };
    let path = path(name);
    let target = sys::c_path(&path).map_err(failed("remove"))?;
    match sys::unmount(&target) {
        Err(error) if !matches!(error.raw_os_error(), Some(libc::EINVAL | libc::ENOENT)) => {
            return Err(failed("unmount")(error));
        }
        _ => {}
    }
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove")(error)),
        _ => Ok(()),
    }
}

/// Returns the names of all network namespaces that begin with `prefix`, sorted.
pub(crate) fn names(prefix: &str) -> io::Result<Vec<String>> {
    let entries = match fs::read_dir(NETNS_DIR) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    for entry in entries {
        if let Ok(name) = entry?.file_name().into_string()
            && name.starts_with(prefix)
        {
            names.push(name);
        }
    }
    names.sort();
    Ok(names)
}

fn path(name: &str) -> PathBuf {
    Path::new(NETNS_DIR).join(name)
}

/// Runs `f` in a thread of its own, which it may move to another namespace for good.
fn in_thread<T: Send>(f: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, f)?;
        thread.join().or_else(|panic| std::panic::resume_unwind(panic))
    })
}
