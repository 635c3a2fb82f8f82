//! The files of a directory, and which of them are different since the last look.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// Deeper directories are not looked at.
const MAX_DEPTH: usize = 8;
/// A file that changed less than this before a look is read again at the next one: it may change within one tick of the
/// file system's clock and look the same.
const RACY: Duration = Duration::from_millis(100);

/// Decides which files count, by their path relative to the directory, and how large they may be.
pub(crate) type Accept = Arc<dyn Fn(&Path) -> Option<u64> + Send + Sync>;

/// The files of a directory as they were at the last look.
pub(crate) struct Files {
    root: PathBuf,
    accept: Accept,
    known: BTreeMap<PathBuf, Option<Stamp>>,
}

/// What is different at one look.
#[derive(Debug, Default)]
pub(crate) struct Look {
    /// New or changed files, by their path relative to the directory.
    pub(crate) changed: BTreeMap<PathBuf, Result<Vec<u8>, io::Error>>,
    /// Files that are gone.
    pub(crate) gone: BTreeSet<PathBuf>,
    /// Directories that cannot be read: what is known of the files in them stays.
    pub(crate) unreadable: Vec<(PathBuf, io::Error)>,
    /// The directory itself cannot be read.
    pub(crate) no_root: bool,
}

/// What tells one state of a file from another without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// Returns the stamp of a file, unless it is too fresh to mean anything.
    fn of(metadata: &Metadata, now: SystemTime) -> Option<Stamp> {
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let at = Duration::new(u64::try_from(changed.0).unwrap_or(0), u32::try_from(changed.1).unwrap_or(0));
        (since > at + RACY).then_some(Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed,
        })
    }
}

impl Files {
    pub(crate) fn new(root: PathBuf, accept: Accept) -> Files {
        Files { root, accept, known: BTreeMap::new() }
    }

    /// Looks at the directory; files whose stamps are as before are not read.
    pub(crate) fn look(&mut self) -> Look {
        let mut look = Look::default();
        let mut seen = BTreeSet::new();
        let now = SystemTime::now();
        self.directory(Path::new(""), &mut Vec::new(), &mut seen, &mut look, now);
        let lost = |path: &PathBuf| look.unreadable.iter().any(|(directory, _)| path.starts_with(directory));
        look.gone = self.known.keys().filter(|path| !seen.contains(*path) && !lost(path)).cloned().collect();
        self.known.retain(|path, _| !look.gone.contains(path));
        look
    }

    fn directory(
        &mut self,
        relative: &Path,
        above: &mut Vec<(u64, u64)>,
        seen: &mut BTreeSet<PathBuf>,
        look: &mut Look,
        now: SystemTime,
    ) {
        let path = self.root.join(relative);
        let listed = fs::metadata(&path).and_then(|metadata| {
            let id = (metadata.dev(), metadata.ino());
            let names: io::Result<Vec<_>> = fs::read_dir(&path)?.map(|entry| entry.map(|entry| entry.file_name())).collect();
            Ok((id, names?))
        });
        let (id, mut names) = match listed {
            Ok(listed) => listed,
            Err(error) => {
                look.no_root |= relative.as_os_str().is_empty();
                look.unreadable.push((relative.to_owned(), error));
                return;
            }
        };
        if above.contains(&id) || above.len() >= MAX_DEPTH {
            return;
        }
        above.push(id);
        names.sort();
        for name in names.iter().filter(|name| !name.as_encoded_bytes().starts_with(b".")) {
            let relative = relative.join(name);
            // Links are followed: that is how Kubernetes mounts a ConfigMap.
            match fs::metadata(self.root.join(&relative)) {
                Ok(metadata) if metadata.is_dir() => self.directory(&relative, above, seen, look, now),
                Ok(metadata) if metadata.is_file() => {
                    if let Some(limit) = (self.accept)(&relative) {
                        self.file(&relative, limit, Stamp::of(&metadata, now), look);
                        seen.insert(relative);
                    }
                }
                _ => {}
            }
        }
        above.pop();
    }

    fn file(&mut self, relative: &Path, limit: u64, stamp: Option<Stamp>, look: &mut Look) {
        if stamp.is_some() && self.known.get(relative) == Some(&stamp) {
            return;
        }
        let content = read_bounded(&self.root.join(relative), limit);
        // A file that could not be read is tried again at every look.
        let stamp = if content.is_ok() { stamp } else { None };
        self.known.insert(relative.to_owned(), stamp);
        look.changed.insert(relative.to_owned(), content);
    }
}

/// Reads a file of at most `limit` bytes.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    fs::File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut content)?;
    if content.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {limit} bytes")));
    }
    Ok(content)
}
