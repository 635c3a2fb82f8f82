//! The kernel calls that std has no name for, each behind a safe function.
#![allow(unsafe_code, reason = "setns, unshare, mount, pidfd and pre_exec have no safe form in std")]

use std::ffi::{CStr, CString, c_int};
use std::io;
use std::mem::MaybeUninit;
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

pub(crate) mod packet;

/// The magic number of the file system that namespace files live in (`NSFS_MAGIC`).
const NSFS_MAGIC: u64 = 0x6e73_6673;

/// Turns the -1 of a C call into the error it left behind.
fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Returns a path as the kernel wants it; a path with a zero byte inside is invalid input.
pub(crate) fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Moves the calling thread into a new network namespace.
pub(crate) fn unshare_net() -> io::Result<()> {
    // SAFETY: unshare takes no pointers and changes only the calling thread.
    check(unsafe { libc::unshare(libc::CLONE_NEWNET) }).map(drop)
}

/// Moves the calling thread into the network namespace behind `netns`.
pub(crate) fn enter_net(netns: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the borrow; the call changes only the calling thread.
    check(unsafe { libc::setns(netns.as_raw_fd(), libc::CLONE_NEWNET) }).map(drop)
}

/// Calls `mount(2)` without a file system type and without data: bind mounts and changes of propagation.
pub(crate) fn mount(source: &CStr, target: &CStr, flags: libc::c_ulong) -> io::Result<()> {
    let none = std::ptr::null();
    // SAFETY: both strings end in zero and outlive the call; type and data may be null for these flags.
    check(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), none, flags, none.cast()) }).map(drop)
}

/// Detaches whatever is mounted at `target`.
pub(crate) fn unmount(target: &CStr) -> io::Result<()> {
    // SAFETY: the string ends in zero and outlives the call.
    check(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) }).map(drop)
}

/// Says whether `path` is the file of a namespace, and not merely the empty file to mount one on.
pub(crate) fn is_namespace(path: &Path) -> io::Result<bool> {
    let path = c_path(path)?;
    let mut found = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: the string ends in zero; the buffer has the size and alignment of the structure the kernel fills.
    check(unsafe { libc::statfs(path.as_ptr(), found.as_mut_ptr()) })?;
    // SAFETY: the call succeeded, so the kernel has filled the structure.
    let found = unsafe { found.assume_init() };
    Ok(found.f_type as u64 == NSFS_MAGIC)
}

/// Says whether this process may write `path`; the error tells a read-only file system from missing permission.
pub(crate) fn writable(path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: the string ends in zero and outlives the call.
    check(unsafe { libc::access(path.as_ptr(), libc::W_OK) }).map(drop)
}

/// A process, held by a descriptor: its number cannot come to mean another process.
#[derive(Debug)]
pub(crate) struct PidFd(OwnedFd);

impl PidFd {
    /// Opens the process that has this number now.
    pub(crate) fn open(pid: u32) -> io::Result<PidFd> {
        // SAFETY: pidfd_open takes two integers.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = check(c_int::try_from(fd).unwrap_or(-1))?;
        // SAFETY: the kernel has just returned this descriptor, nobody else owns it.
        Ok(PidFd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Waits until the process has ended (a zombie has ended); `false` when the time is over first.
    pub(crate) fn wait(&self, timeout: Duration) -> io::Result<bool> {
        Ok(poll(&[self.0.as_fd()], Some(timeout))? != 0)
    }
}

/// Makes a blocked `accept` on this socket return with an error, now and for ever.
pub(crate) fn stop_listening(listener: &TcpListener) {
    // SAFETY: shutdown takes integers; the descriptor is open for the length of the borrow.
    unsafe { libc::shutdown(listener.as_raw_fd(), libc::SHUT_RDWR) };
}

/// Sends a signal to the process group `pgid`.
pub(crate) fn signal_group(pgid: u32, signal: c_int) -> io::Result<()> {
    let group = libc::pid_t::try_from(pgid).map_err(|_| io::ErrorKind::InvalidInput)?;
    if group <= 1 {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // SAFETY: kill takes two integers; the group is neither 0, 1 nor -1, which would mean other processes.
    check(unsafe { libc::kill(-group, signal) }).map(drop)
}

/// Waits until a descriptor is readable; returns a bit for each that is, 0 when the time is over.
pub(crate) fn poll(descriptors: &[BorrowedFd<'_>], timeout: Option<Duration>) -> io::Result<u64> {
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let mut polled: Vec<libc::pollfd> =
        descriptors.iter().map(|fd| libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 }).collect();
    loop {
        let left = deadline.map_or(-1, |deadline| {
            let left = deadline.saturating_duration_since(Instant::now());
            c_int::try_from(left.as_micros().div_ceil(1000)).unwrap_or(c_int::MAX)
        });
        // SAFETY: the pointer and the length describe the vector, which outlives the call.
        let ready = check(unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, left) });
        match ready {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let bits = polled.iter().enumerate().filter(|(_, fd)| fd.revents != 0);
    Ok(bits.fold(0, |mask, (bit, _)| mask | 1 << bit))
}

/// Makes `command` start in the network namespace, and, if there are any, with `binds` mounted in a mount namespace
/// of its own.
///
/// The mounts become slaves, not private: a namespace file that the lab removes later disappears here too, so that a
/// forgotten process cannot keep the network namespace of another workload alive.
pub(crate) fn enter_before_exec(command: &mut Command, netns: OwnedFd, binds: Vec<(CString, CString)>) {
    let enter = move || {
        enter_net(netns.as_fd())?;
        if binds.is_empty() {
            return Ok(());
        }
        // SAFETY: unshare takes no pointers; after fork this is the only thread.
        check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
        mount(c"", c"/", libc::MS_SLAVE | libc::MS_REC)?;
        binds.iter().try_for_each(|(source, target)| mount(source, target, libc::MS_BIND))
    };
    // SAFETY: between fork and exec the closure only makes system calls; all memory it reads was prepared before.
    unsafe { command.pre_exec(enter) };
}

/// Makes the child of `command` receive SIGKILL when the **thread** that spawned it ends.
pub(crate) fn die_with_spawning_thread(command: &mut Command) {
    let parent = std::process::id();
    let arrange = move || {
        // SAFETY: prctl takes integers here.
        check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
        // A parent that died before the call above sends no signal any more.
        // SAFETY: getppid has no arguments and cannot fail.
        let now = unsafe { libc::getppid() };
        if u32::try_from(now) == Ok(parent) { Ok(()) } else { Err(io::Error::from_raw_os_error(libc::ESRCH)) }
    };
    // SAFETY: between fork and exec the closure only makes system calls and touches no memory of others.
    unsafe { command.pre_exec(arrange) };
}
