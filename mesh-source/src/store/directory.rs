//! A store in a directory: one file for each record.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use mesh_core::{Bytes, ClusterName};
use tokio::sync::watch;

use super::follow::{NobodyListens, Teller, changed};
use super::{Claim, ClaimError, Following, Hold, Interest, RecordPath, Store, StoreError, Told, check_size};
use crate::files::{Look, read_bounded};
use crate::tail::Tail;
use crate::write::{Existing, write_atomically};

/// Where claims lie: no record's path begins with a dot.
const CLAIMS: &str = ".claims";
/// A holder's name, or an incarnation.
const MAX_NOTE: u64 = 1024;

/// Records as files `<directory>/<cluster>/<kind>__<name>.rec` and `<directory>/fleet/….rec`, each there whole or not at all.
///
/// A claim is a locked file below `.claims`: it holds on one machine, and is given back by the kernel when its holder dies. A
/// put looks at the claim before it writes, not in one step with writing.
#[derive(Clone, Debug)]
pub struct DirectoryStore {
    directory: PathBuf,
}

impl DirectoryStore {
    /// Makes the store of a directory, which is made when the first record is put.
    pub fn new(directory: impl Into<PathBuf>) -> DirectoryStore {
        DirectoryStore { directory: directory.into() }
    }

    /// Returns the directory.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    fn file(&self, path: &RecordPath) -> PathBuf {
        self.directory.join(path.as_str())
    }
}

#[async_trait]
impl Store for DirectoryStore {
    async fn put(&self, path: &RecordPath, bytes: Bytes, claim: Option<&Claim>) -> Result<(), StoreError> {
        check_size(path, &bytes)?;
        if let Some(claim) = claim.filter(|claim| !claim.is_held()) {
            return Err(claim.lost());
        }
        blocking(self.file(path), move |file| {
            if let Some(parent) = file.parent() {
                fs::create_dir_all(parent)?;
            }
            write_atomically(file, &bytes, 0o644, Existing::Replace)
        })
        .await
    }

    async fn get(&self, path: &RecordPath) -> Result<Option<Bytes>, StoreError> {
        let limit = path.limit();
        blocking(self.file(path), move |file| missing_is_none(read_bounded(file, limit)).map(|bytes| bytes.map(Bytes::from)))
            .await
    }

    async fn list(&self) -> Result<Vec<RecordPath>, StoreError> {
        blocking(self.directory.clone(), |directory| {
            let mut paths = Vec::new();
            for cluster in missing_is_none(fs::read_dir(directory))?.into_iter().flatten() {
                let cluster = cluster?;
                if !cluster.file_type()?.is_dir() {
                    continue;
                }
                for record in fs::read_dir(cluster.path())? {
                    let name = record?.file_name();
                    let path = cluster.file_name().to_str().zip(name.to_str()).map(|(cluster, name)| format!("{cluster}/{name}"));
                    paths.extend(path.and_then(|path| RecordPath::parse(&path)));
                }
            }
            paths.sort();
            Ok(paths)
        })
        .await
    }

    async fn remove(&self, path: &RecordPath) -> Result<(), StoreError> {
        blocking(self.file(path), |file| missing_is_none(fs::remove_file(file)).map(drop)).await
    }

    fn follow(&self, interest: watch::Receiver<Interest>) -> Following {
        let directory = self.directory.clone();
        Following::start(|teller| tell(directory, interest, teller))
    }

    async fn claim(&self, cluster: &ClusterName, holder: &str, floor: u64) -> Result<Claim, ClaimError> {
        let path = self.directory.join(CLAIMS).join(cluster.as_str());
        let holder = holder.to_owned();
        let locked = blocking(path, move |path| lock(path, &holder, floor)).await?;
        let cluster = cluster.clone();
        match locked {
            Ok((lock, incarnation)) => Ok(Claim::new(cluster, incarnation, 0, lock)),
            Err(holder) => Err(ClaimError::Held { cluster, holder }),
        }
    }
}

/// Tells the records of a directory, which need not be there yet.
async fn tell(directory: PathBuf, mut interest: watch::Receiver<Interest>, mut teller: Teller) -> Result<(), NobodyListens> {
    let wanted = interest.clone();
    let accept = move |path: &Path| record_path(path).filter(|path| wanted.borrow().covers(path)).map(|path| path.limit());
    let mut tail = Tail::new(directory, accept);
    let mut unread = BTreeMap::new();
    let mut whole = true;
    // A look that began before the interest grew is not a whole one.
    let mut early = false;
    interest.mark_unchanged();
    loop {
        let look = tokio::select! {
            look = tail.changes() => look,
            () = changed(&mut interest) => {
                whole = true;
                early = tail.is_looking();
                tail.look_soon();
                continue;
            }
        };
        let problems = problems(&tail, &look, &mut unread);
        let there = !look.no_root && !std::mem::take(&mut early);
        if whole && there {
            teller.tell(Told::Begin).await?;
        }
        for path in look.gone.iter().filter_map(|path| record_path(path)) {
            teller.tell(Told::Gone(path)).await?;
        }
        let records = look.changed.into_iter().filter_map(|(path, content)| Some((record_path(&path)?, content.ok()?)));
        let mut records: Vec<_> = records.collect();
        // Grants come first: what they allow is judged by them.
        records.sort_by_key(|(path, _)| !path.is_root());
        for (path, bytes) in records {
            teller.tell(Told::Record(path, Bytes::from(bytes))).await?;
        }
        teller.problems(problems).await?;
        if whole && there {
            whole = false;
            teller.tell(Told::Synced).await?;
        }
    }
}

/// Returns what is wrong at a look; `unread` keeps the files that are there and could not be read.
fn problems(tail: &Tail, look: &Look, unread: &mut BTreeMap<PathBuf, String>) -> Vec<String> {
    for path in &look.gone {
        unread.remove(path);
    }
    for (path, content) in &look.changed {
        match content {
            Ok(_) => unread.remove(path),
            Err(error) => unread.insert(path.clone(), error.to_string()),
        };
    }
    let mut problems: Vec<_> = tail.problem().map(str::to_owned).into_iter().collect();
    let unreadable = look.unreadable.iter().map(|(path, error)| (path, error.to_string()));
    for (path, error) in unreadable.chain(unread.iter().map(|(path, error)| (path, error.clone()))) {
        problems.push(format!("{}: {error}: make it readable for this process", tail.root().join(path).display()));
    }
    problems
}

fn record_path(path: &Path) -> Option<RecordPath> {
    RecordPath::parse(path.to_str()?)
}

/// A claim's file, locked for as long as it is open.
#[derive(Debug)]
struct Lock {
    path: PathBuf,
    file: File,
}

impl Hold for Lock {
    /// A file that was removed can be made and locked by somebody else: the claim is the file at the path.
    fn is_held(&self) -> bool {
        let id = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
        let (there, ours) = (fs::metadata(&self.path).map(id), self.file.metadata().map(id));
        matches!((there, ours), (Ok(there), Ok(ours)) if there == ours)
    }
}

/// Locks the file of a claim, and takes the next incarnation; where it is locked, returns the holder's name.
fn lock(path: &Path, holder: &str, floor: u64) -> io::Result<Result<(Lock, u64), String>> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut name = Vec::new();
            file.take(MAX_NOTE).read_to_end(&mut name)?;
            return Ok(Err(String::from_utf8_lossy(&name).trim_end().to_owned()));
        }
        Err(TryLockError::Error(error)) => return Err(error),
    }
    let mut lock = Lock { path: path.to_owned(), file };
    if !lock.is_held() {
        return Ok(Err("somebody".to_owned()));
    }
    // No cluster's name has a `~`.
    let mut beside = path.as_os_str().to_owned();
    beside.push("~incarnation");
    let last = missing_is_none(read_bounded(Path::new(&beside), MAX_NOTE))?;
    let last = last.and_then(|text| String::from_utf8(text).ok()?.trim().parse::<u64>().ok()).unwrap_or(0);
    let incarnation = floor.max(last.saturating_add(1));
    write_atomically(Path::new(&beside), format!("{incarnation}\n").as_bytes(), 0o644, Existing::Replace)?;
    lock.file.set_len(0)?;
    lock.file.rewind()?;
    writeln!(lock.file, "{holder}")?;
    Ok(Ok((lock, incarnation)))
}

fn missing_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// Does file work away from the runtime's own threads.
async fn blocking<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
) -> Result<T, StoreError> {
    let done = path.clone();
    let result = tokio::task::spawn_blocking(move || work(&done)).await;
    result.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(|source| StoreError::File { path, source })
}
