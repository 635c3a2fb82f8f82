//! The directory of named namespaces, prepared the way iproute2 does.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::path::Path;

use super::NETNS_DIR;
use crate::sys;

/// Makes sure the directory exists and is a mount point with shared propagation.
///
/// Shared, so that a namespace named or removed here is so in the mount namespaces of other processes too: without
/// it, a process with a copy of this directory would keep a removed namespace alive. It locks the directory
/// as iproute2 does: two that start at once would mount it on itself twice.
pub(super) fn prepare() -> io::Result<()> {
    fs::create_dir_all(NETNS_DIR)?;
    let directory = File::open(Path::new(NETNS_DIR))?;
    directory.lock()?;
    let target = CString::new(NETNS_DIR)?;
    let share = || sys::mount(c"", &target, libc::MS_SHARED | libc::MS_REC);
    match share() {
        // Not a mount point yet.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            sys::mount(&target, &target, libc::MS_BIND | libc::MS_REC)?;
            share()?;
        }
        result => result?,
    }
    Ok(())
}
