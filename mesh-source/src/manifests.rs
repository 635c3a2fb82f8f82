//! A directory of manifests as a source.

use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::time::Duration;

use async_trait::async_trait;
use mesh_core::manifest::{self, Location, ManifestError, ManifestSource};
use mesh_core::policy::PolicyScope;
use mesh_core::{Event, Key, Resource, SourceId};
use tokio::sync::watch;

use crate::diagnostics::Reporter;
use crate::files::Look;
use crate::tail::Tail;
use crate::{Diagnostics, Source, SourceError};

/// A file of manifests may not be larger: the pods of a cluster of 5,000 nodes in one file still fit.
const MAX_FILE_BYTES: u64 = 256 << 20;

/// The manifests of one cluster (or the fleet's policies) in a directory and those below it: `*.yaml`, `*.yml`, `*.json`.
///
/// Nothing is told before every file can be read whole once. After that a file that is broken leaves its facts as they were,
/// and so does a directory that cannot be read: only an object that is taken out of a good file, or a file that is deleted,
/// ends facts. Hidden files are not looked at.
pub struct ManifestDirectory {
    id: SourceId,
    scope: PolicyScope,
    tail: Tail,
    files: BTreeMap<PathBuf, FileFacts>,
    told: BTreeMap<Key, Resource>,
    events: VecDeque<Event>,
    synced: bool,
    reporter: Reporter,
}

/// A file: what it said when it was last good, and what is wrong with it now.
#[derive(Default)]
struct FileFacts {
    good: BTreeMap<Key, (Resource, Location)>,
    errors: Vec<ManifestError>,
    warnings: Vec<ManifestError>,
    ignored: usize,
}

impl ManifestDirectory {
    /// Follows `directory`, which need not be there yet.
    pub fn new(id: SourceId, directory: impl Into<PathBuf>, scope: PolicyScope) -> ManifestDirectory {
        let tail = Tail::new(directory.into(), |path| is_manifest(path).then_some(MAX_FILE_BYTES));
        let reporter = Reporter::new(&id);
        let (files, told, events) = (BTreeMap::new(), BTreeMap::new(), VecDeque::new());
        ManifestDirectory { id, scope, tail, files, told, events, synced: false, reporter }
    }

    /// Sets how often the directory is looked at even though nothing was heard of it: 10 s unless set.
    #[must_use]
    pub fn with_rescan(mut self, rescan: Duration) -> ManifestDirectory {
        self.tail.set_rescan(rescan);
        self
    }

    /// Returns what is wrong now, kept up to date.
    pub fn diagnostics(&self) -> watch::Receiver<Diagnostics> {
        self.reporter.subscribe()
    }

    fn take(&mut self, look: Look) {
        let mut diagnostics = Diagnostics::default();
        diagnostics.problems.extend(self.tail.problem().map(str::to_owned));
        for (directory, error) in &look.unreadable {
            let path = self.tail.root().join(directory);
            let path = path.display();
            diagnostics.problems.push(format!("{path}: {error}: make it a directory that this process can read"));
        }
        for path in look.gone {
            self.files.remove(&path);
        }
        for (path, content) in look.changed {
            let name = self.tail.root().join(&path).display().to_string();
            self.files.entry(path).or_default().take(&name, &self.scope, content);
        }
        for file in self.files.values() {
            diagnostics.errors.extend(file.errors.iter().cloned());
            diagnostics.warnings.extend(file.warnings.iter().cloned());
            diagnostics.ignored += file.ignored;
        }
        let wanted = self.wanted(&mut diagnostics.errors);
        let readable = look.unreadable.is_empty();
        if self.synced || (readable && diagnostics.errors.is_empty()) {
            self.tell(wanted);
        }
        diagnostics.synced = self.synced;
        self.reporter.report(diagnostics);
    }

    /// Returns the facts of all files. Where two files disagree about one, it stays as it was told.
    fn wanted(&self, errors: &mut Vec<ManifestError>) -> BTreeMap<Key, Resource> {
        let mut wanted: BTreeMap<Key, (&Resource, &Location)> = BTreeMap::new();
        for (key, (resource, location)) in self.files.values().flat_map(|file| &file.good) {
            let Some((first, at)) = wanted.get(key).copied() else {
                wanted.insert(key.clone(), (resource, location));
                continue;
            };
            errors.push(error_at(&location.file, location.line, format!("{key} is already at {at}: take one of them out")));
            if first != resource
                && let Some(told) = self.told.get(key)
            {
                wanted.insert(key.clone(), (told, at));
            }
        }
        wanted.into_iter().map(|(key, (resource, _))| (key, resource.clone())).collect()
    }

    /// Queues what is different from what was told: what is new before what is gone, so that a policy that got another name is
    /// in force all the time.
    fn tell(&mut self, wanted: BTreeMap<Key, Resource>) {
        let first = !std::mem::replace(&mut self.synced, true);
        if first {
            self.events.push_back(Event::Begin(self.id.clone()));
        }
        for (key, resource) in &wanted {
            if self.told.get(key) != Some(resource) {
                self.events.push_back(Event::Set(self.id.clone(), resource.clone()));
            }
        }
        for key in self.told.keys().filter(|key| !wanted.contains_key(key)) {
            self.events.push_back(Event::Unset(self.id.clone(), key.clone()));
        }
        if first {
            self.events.push_back(Event::Synced(self.id.clone()));
        }
        self.told = wanted;
    }
}

#[async_trait]
impl Source for ManifestDirectory {
    async fn next(&mut self) -> Result<Event, SourceError> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(event);
            }
            let look = self.tail.changes().await;
            self.take(look);
        }
    }
}

impl FileFacts {
    fn take(&mut self, name: &str, scope: &PolicyScope, content: std::io::Result<Vec<u8>>) {
        let text = content.map_err(|error| error.to_string()).and_then(|bytes| {
            String::from_utf8(bytes).map_err(|error| format!("not UTF-8 after {} bytes", error.utf8_error().valid_up_to()))
        });
        let text = match text {
            Ok(text) => text,
            Err(message) => {
                self.errors = vec![error_at(name, 1, message)];
                return;
            }
        };
        let parsed = manifest::parse(&ManifestSource { file: name, scope: scope.clone() }, &text);
        self.errors = parsed.errors;
        let mut good = BTreeMap::new();
        for (resource, location) in parsed.resources {
            let key = resource.key();
            if let Some((_, first)) = good.insert(key.clone(), (resource, location.clone())) {
                self.errors.push(error_at(name, location.line, format!("{key} is already at {first}: take one of them out")));
            }
        }
        if self.errors.is_empty() {
            self.good = good;
            self.warnings = parsed.warnings;
            self.ignored = parsed.ignored;
        }
    }
}

fn error_at(file: &str, line: u32, message: String) -> ManifestError {
    ManifestError { file: file.to_owned(), line, column: 1, field: String::new(), message }
}

fn is_manifest(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json")
}
