//! A store in a directory: one file for each record.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use async_trait::async_trait;
use mesh_core::Bytes;

use super::{RecordPath, Store, StoreError, check_size};
use crate::files::read_bounded;
use crate::write::{Existing, write_atomically};

/// Records as files `<directory>/<cluster>/<kind>__<name>.rec` and `<directory>/fleet/….rec`, each there whole or not at all.
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
    async fn put(&mut self, path: &RecordPath, bytes: Bytes) -> Result<(), StoreError> {
        check_size(path, &bytes)?;
        blocking(self.file(path), move |file| {
            if let Some(parent) = file.parent() {
                fs::create_dir_all(parent)?;
            }
            write_atomically(file, &bytes, 0o644, Existing::Replace)
        })
        .await
    }

    async fn get(&mut self, path: &RecordPath) -> Result<Option<Bytes>, StoreError> {
        let limit = path.limit();
        blocking(self.file(path), move |file| missing_is_none(read_bounded(file, limit)).map(|bytes| bytes.map(Bytes::from)))
            .await
    }

    async fn list(&mut self) -> Result<Vec<RecordPath>, StoreError> {
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

    async fn remove(&mut self, path: &RecordPath) -> Result<(), StoreError> {
        blocking(self.file(path), |file| missing_is_none(fs::remove_file(file)).map(drop)).await
    }
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
