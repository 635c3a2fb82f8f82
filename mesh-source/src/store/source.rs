//! The records of a store as a source.

use std::collections::BTreeMap;

use async_trait::async_trait;
use mesh_core::{Bytes, Event, SourceId};
use tokio::sync::watch;

use super::{Following, Interest, RecordPath, Store, Told};
use crate::diagnostics::Reporter;
use crate::{Diagnostics, Source, SourceError};

/// The records of a store: all of them at first, then each that changes. What they say is the state's to judge; damaged records
/// are bytes that the state refuses.
///
/// A record that is gone is no event: a record ends by a newer one.
pub struct StoreSource {
    id: SourceId,
    following: Following,
    /// What was told of each record.
    told: BTreeMap<RecordPath, Bytes>,
    now: Diagnostics,
    reporter: Reporter,
}

impl StoreSource {
    /// Follows the records of a store that are of interest; nothing is told before it can be read.
    ///
    /// # Panics
    /// Panics outside of a tokio runtime.
    pub fn new(id: SourceId, store: &dyn Store, interest: watch::Receiver<Interest>) -> StoreSource {
        let reporter = Reporter::new(&id);
        let (told, now) = (BTreeMap::new(), Diagnostics::default());
        StoreSource { id, following: store.follow(interest), told, now, reporter }
    }

    /// Returns what is wrong now, kept up to date.
    pub fn diagnostics(&self) -> watch::Receiver<Diagnostics> {
        self.reporter.subscribe()
    }

    fn take(&mut self, told: Told) -> Option<Event> {
        match told {
            Told::Begin => Some(Event::Begin(self.id.clone())),
            Told::Record(path, bytes) => {
                let before = self.told.insert(path, bytes.clone());
                (before.as_ref() != Some(&bytes)).then_some(Event::Record(bytes))
            }
            Told::Gone(path) => {
                self.told.remove(&path);
                None
            }
            Told::Synced => {
                self.now.synced = true;
                self.reporter.report(self.now.clone());
                Some(Event::Synced(self.id.clone()))
            }
            Told::Problems(problems) => {
                self.now.problems = problems;
                self.reporter.report(self.now.clone());
                None
            }
        }
    }
}

#[async_trait]
impl Source for StoreSource {
    async fn next(&mut self) -> Result<Event, SourceError> {
        loop {
            let ended = || SourceError::Ended { name: self.id.0.to_string() };
            let told = self.following.next().await.ok_or_else(ended)?;
            if let Some(event) = self.take(told) {
                return Ok(event);
            }
        }
    }
}
