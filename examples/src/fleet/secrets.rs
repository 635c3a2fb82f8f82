//! Secret keys where they should not be: in a directory that goes to git, or readable for others.

use std::fs;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mesh_source::keyfiles;

use super::audit::Finding;

/// A key file is one line of 44 characters; anything much longer is no key.
const LONGEST: u64 = 256;

/// Looks for secret keys below `directory`, which is or goes to git.
pub fn look(directory: &Path) -> Vec<Finding> {
    let mut keys = Vec::new();
    walk(directory, &mut keys, 0);
    let repository = directory.canonicalize().ok().and_then(|path| Repository::around(&path));
    let mut findings = Vec::new();
    for (path, mode) in keys {
        let place = path.display().to_string();
        if mode & 0o077 != 0 {
            findings.push(Finding::error(
                &place,
                format!("mode {mode:04o} lets others read a secret key"),
                format!("chmod 600 {place}"),
            ));
        }
        match &repository {
            Some(repository) if repository.has(&path) => findings.push(Finding::error(
                &place,
                "a secret key is in git: whoever has a clone has the key",
                "take it for lost: make a new key (`meshctl fleet rotate`, or `revoke` and `join`), and remove the file from git",
            )),
            _ if is_ignored(directory, &path) => {}
            _ => findings.push(Finding::warning(
                &place,
                "a secret key lies in the fleet's directory, and nothing keeps it out of git",
                format!("move it elsewhere, or name it in {}", directory.join(".gitignore").display()),
            )),
        }
    }
    findings
}

/// Finds files that hold a key: 32 bytes in base64 and nothing else. Public keys are not kept in files of their own.
fn walk(directory: &Path, keys: &mut Vec<(PathBuf, u32)>, depth: usize) {
    let mut paths: Vec<_> = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() && depth < 16 && path.file_name().is_some_and(|name| name != ".git") {
            walk(&path, keys, depth + 1);
        } else if metadata.is_file() && metadata.len() <= LONGEST && holds_key(&path) {
            keys.push((path, metadata.mode() & 0o7777));
        }
    }
}

fn holds_key(path: &Path) -> bool {
    let mut content = zeroize::Zeroizing::new(Vec::with_capacity(LONGEST as usize + 1));
    let read = fs::File::open(path).and_then(|file| file.take(LONGEST).read_to_end(&mut content));
    read.is_ok() && keyfiles::is_key(&content)
}

/// Tells whether the directory's `.gitignore` names the file, in one of its plain forms: `/root.key`, `root.key`, `*.key`.
fn is_ignored(directory: &Path, path: &Path) -> bool {
    let rules = fs::read_to_string(directory.join(".gitignore")).unwrap_or_default();
    let relative = path.strip_prefix(directory).unwrap_or(path).to_string_lossy().into_owned();
    let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    rules.lines().map(str::trim).any(|rule| match rule.strip_prefix('/') {
        Some(anchored) => anchored == relative,
        None => rule == name || rule.strip_prefix('*').is_some_and(|ending| ending.len() > 1 && name.ends_with(ending)),
    })
}

/// A git repository, by its index: which files are in the next commit.
struct Repository {
    root: PathBuf,
    index: Vec<u8>,
}

impl Repository {
    fn around(directory: &Path) -> Option<Repository> {
        let root = directory.ancestors().find(|at| at.join(".git").is_dir())?;
        let index = fs::read(root.join(".git/index")).ok()?;
        Some(Repository { root: root.to_owned(), index })
    }

    /// Tells whether the index names the file. Its entries hold whole paths, ended by a zero byte.
    fn has(&self, path: &Path) -> bool {
        let Ok(path) = path.canonicalize() else { return false };
        let Ok(relative) = path.strip_prefix(&self.root) else { return false };
        let mut name = relative.as_os_str().as_encoded_bytes().to_vec();
        name.push(0);
        self.index.windows(name.len()).any(|part| part == name)
    }
}
