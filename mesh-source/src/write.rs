//! Files that are there whole or not at all.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Makes two temporary files of one process differ.
static NEXT: AtomicU64 = AtomicU64::new(0);

/// What happens to a file that is there already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Existing {
    Replace,
    Keep,
}

/// Writes a file under a hidden temporary name, syncs it and renames it: after a crash there is the old file or the new one.
///
/// # Errors
/// With [`Existing::Keep`], `AlreadyExists` where there is a file of the name.
pub(crate) fn write_atomically(path: &Path, bytes: &[u8], mode: u32, existing: Existing) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = temporary(directory);
    let written = write_new(&temporary, bytes, mode).and_then(|()| match existing {
        Existing::Replace => fs::rename(&temporary, path),
        // A link fails where the name is taken, a rename does not.
        Existing::Keep => fs::hard_link(&temporary, path),
    });
    if written.is_err() || existing == Existing::Keep {
        let _ = fs::remove_file(&temporary);
    }
    written?;
    fs::File::open(directory)?.sync_all()
}

fn temporary(directory: &Path) -> PathBuf {
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    directory.join(format!(".tmp-{}-{number}", std::process::id()))
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    // What an earlier process of this number left behind.
    let _ = fs::remove_file(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
