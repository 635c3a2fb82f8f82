//! Follows the records of an etcd: a listing, then a watch from the revision of the listing on.
//!
//! A stream that breaks is opened again where it ended, on another member. That is right only while the history is the one
//! that was followed: the last record that was told must be in it, at its revision. Where it is not (compacted, or the etcd was
//! restored from a backup) everything is listed anew, and what is not there any more is told to be gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::Bytes;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};

use super::Keys;
use super::client::{Client, Error, Stream};
use super::messages::{
    KeyValue, RangeRequest, WatchAction, WatchCancelRequest, WatchCreateRequest, WatchProgressRequest, WatchRequest,
    WatchResponse, end_of,
};
use crate::store::follow::{NobodyListens, changed};
use crate::store::{Interest, RecordPath, Teller, Told, check_size};

/// How often a member is asked for a sign of life, and after which silence another one is asked.
const ASK: Duration = Duration::from_secs(1);
const SILENCE: Duration = Duration::from_secs(4);
/// How soon a broken stream is opened again, at first and at most.
const AGAIN: Duration = Duration::from_millis(50);
const AGAIN_MAX: Duration = Duration::from_secs(2);
const DELETED: i32 = 1;

pub(super) struct Follower {
    client: Arc<Client>,
    keys: Keys,
    interest: watch::Receiver<Interest>,
    teller: Teller,
    /// The revision of each record that was told.
    told: BTreeMap<RecordPath, i64>,
    /// The revision from which on each prefix is watched.
    followed: BTreeMap<String, i64>,
    /// The latest record that was told, with its revision: what is known of each prefix is not older.
    anchor: Option<(RecordPath, i64, Bytes)>,
    /// Which etcd is followed.
    cluster_id: Option<u64>,
    /// The first listing was told.
    begun: bool,
    /// What was left out, and why.
    odd: BTreeMap<RecordPath, String>,
}

/// The watches that are open.
struct Watches {
    requests: mpsc::UnboundedSender<WatchRequest>,
    prefixes: BTreeMap<i64, String>,
    last: i64,
}

/// Why a stream was left.
enum Break {
    Nobody,
    /// Another member may do better.
    Member(Error),
    /// What was followed is not this etcd's history.
    History,
}

impl From<NobodyListens> for Break {
    fn from(_: NobodyListens) -> Break {
        Break::Nobody
    }
}

impl From<Error> for Break {
    fn from(error: Error) -> Break {
        Break::Member(error)
    }
}

impl Follower {
    pub(super) fn new(client: Arc<Client>, keys: Keys, interest: watch::Receiver<Interest>, teller: Teller) -> Follower {
        let (told, followed, odd) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        Follower { client, keys, interest, teller, told, followed, anchor: None, cluster_id: None, begun: false, odd }
    }

    pub(super) async fn run(mut self) -> Result<(), NobodyListens> {
        let mut again = AGAIN;
        loop {
            let begun = Instant::now();
            match self.stream().await {
                Break::Nobody => return Err(NobodyListens),
                Break::History => {
                    // Revisions of another history mean nothing: everything is told again.
                    self.followed.clear();
                    self.cluster_id = None;
                    self.told.values_mut().for_each(|revision| *revision = 0);
                    self.anchor = None;
                }
                Break::Member(error) => {
                    self.client.turn();
                    if begun.elapsed() > AGAIN_MAX {
                        again = AGAIN;
                    }
                    // A member that restarts is no news; an etcd that is gone is.
                    if again > AGAIN {
                        let problem = format!("{}: {error}; what was read still stands", self.client.name());
                        self.teller.problems(vec![problem]).await?;
                    }
                    sleep(again).await;
                    again = (again * 2).min(AGAIN_MAX);
                }
            }
        }
    }

    /// Lists what is not followed yet, and watches, until something breaks.
    async fn stream(&mut self) -> Break {
        match self.try_stream().await {
            Ok(never) => match never {},
            Err(broken) => broken,
        }
    }

    async fn try_stream(&mut self) -> Result<std::convert::Infallible, Break> {
        self.check_history().await?;
        self.list_new().await?;
        let (requests, outgoing) = mpsc::unbounded_channel();
        let mut watches = Watches { requests, prefixes: BTreeMap::new(), last: 0 };
        for (prefix, from) in &self.followed {
            watches.create(&self.keys, prefix, *from);
        }
        // Without a request a member has nothing to answer, and the stream does not open.
        watches.ask();
        let mut stream = self.client.watch(outgoing).await?;
        self.teller.problems(self.odd.values().cloned().collect()).await?;
        let mut ask = interval(ASK);
        ask.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                answer = stream.next() => {
                    self.take(answer?, &watches, &stream).await?;
                    heard = Instant::now();
                }
                () = changed(&mut self.interest) => {
                    let gone = self.list_new().await?;
                    watches.update(&self.keys, &self.followed, &gone);
                    heard = Instant::now();
                }
                _ = ask.tick() => watches.ask(),
                () = sleep_until(heard + SILENCE) => return Err(stream.broken("it is silent").into()),
            }
        }
    }

    /// Makes sure that the last record that was told is where it was in this etcd's history: it is followed from there on.
    async fn check_history(&mut self) -> Result<(), Break> {
        let Some((path, revision, value)) = &self.anchor else {
            self.followed.clear();
            return Ok(());
        };
        let key = self.keys.record(path).into();
        let found = self.client.range(RangeRequest { key, revision: *revision, ..RangeRequest::default() }).await;
        let found = match found {
            Err(error) if error.is_other_history() => return Err(Break::History),
            found => found?,
        };
        let same = |kv: &KeyValue| kv.mod_revision == *revision && kv.value == *value;
        if !found.kvs.first().is_some_and(same) {
            return Err(Break::History);
        }
        self.followed.values_mut().for_each(|from| *from = *revision);
        Ok(())
    }

    /// Lists and tells what is of interest and not followed yet; returns the prefixes that are of no interest any more.
    async fn list_new(&mut self) -> Result<Vec<String>, Break> {
        let wanted = self.interest.borrow_and_update().clone();
        let gone: Vec<_> = self.followed.keys().filter(|prefix| !wanted.prefixes().contains(*prefix)).cloned().collect();
        let mut new: Vec<_> = wanted.prefixes().iter().filter(|prefix| !self.followed.contains_key(*prefix)).cloned().collect();
        // Grants come first: what they allow is judged by them.
        new.sort_by_key(|prefix| !prefix.starts_with(super::super::ROOT));
        let mut lists = Vec::new();
        for prefix in new {
            let listed = self.client.list(&format!("{}{prefix}", self.keys.records), false).await?;
            lists.push((prefix, listed));
        }
        if self.begun && lists.is_empty() && gone.is_empty() {
            return Ok(gone);
        }
        self.begun = true;
        self.teller.tell(Told::Begin).await?;
        for (prefix, listed) in lists {
            let there: BTreeMap<_, _> = listed.kvs.into_iter().filter_map(|kv| Some((self.keys.path(&kv.key)?, kv))).collect();
            let is_gone = |path: &&RecordPath| path.as_str().starts_with(&prefix) && !there.contains_key(*path);
            let missing: Vec<_> = self.told.keys().filter(is_gone).cloned().collect();
            for path in missing {
                self.tell_gone(path).await?;
            }
            let mut there: Vec<_> = there.into_iter().collect();
            there.sort_by_key(|(path, _)| !path.is_root());
            for (path, kv) in there {
                self.tell(path, kv).await?;
            }
            self.followed.insert(prefix, listed.revision + 1);
            self.cluster_id.get_or_insert(listed.cluster_id);
        }
        for prefix in &gone {
            self.followed.remove(prefix);
        }
        let unwanted: Vec<_> = self.told.keys().filter(|path| !wanted.covers(path)).cloned().collect();
        for path in unwanted {
            self.tell_gone(path).await?;
        }
        self.teller.tell(Told::Synced).await?;
        Ok(gone)
    }

    /// Takes what a watch says.
    async fn take(&mut self, answer: WatchResponse, watches: &Watches, stream: &Stream) -> Result<(), Break> {
        let cluster_id = answer.header.as_ref().map(|header| header.cluster_id);
        if self.cluster_id.is_some() && cluster_id != self.cluster_id {
            return Err(Break::History);
        }
        if !watches.prefixes.contains_key(&answer.watch_id) {
            return Ok(());
        }
        if answer.canceled {
            return Err(match answer.compact_revision {
                0 => stream.broken(&answer.cancel_reason).into(),
                _ => Break::History,
            });
        }
        for event in answer.events {
            let Some(kv) = event.kv else { continue };
            let Some(path) = self.keys.path(&kv.key) else { continue };
            if event.kind == DELETED {
                self.tell_gone(path).await?;
            } else {
                self.tell(path, kv).await?;
            }
        }
        self.teller.problems(self.odd.values().cloned().collect()).await?;
        Ok(())
    }

    async fn tell(&mut self, path: RecordPath, kv: KeyValue) -> Result<(), NobodyListens> {
        if self.told.get(&path).is_some_and(|told| *told >= kv.mod_revision) {
            return Ok(());
        }
        self.told.insert(path.clone(), kv.mod_revision);
        if self.anchor.as_ref().is_none_or(|(_, revision, _)| *revision < kv.mod_revision) {
            self.anchor = Some((path.clone(), kv.mod_revision, kv.value.clone()));
        }
        if let Err(error) = check_size(&path, &kv.value) {
            self.odd.insert(path, format!("{}: {error}", self.client.name()));
            return Ok(());
        }
        self.odd.remove(&path);
        self.teller.tell(Told::Record(path, kv.value)).await
    }

    async fn tell_gone(&mut self, path: RecordPath) -> Result<(), NobodyListens> {
        self.odd.remove(&path);
        match self.told.remove(&path) {
            Some(_) => self.teller.tell(Told::Gone(path)).await,
            None => Ok(()),
        }
    }
}

impl Watches {
    fn create(&mut self, keys: &Keys, prefix: &str, start_revision: i64) {
        self.last += 1;
        self.prefixes.insert(self.last, prefix.to_owned());
        let key = format!("{}{prefix}", keys.records);
        let create =
            WatchCreateRequest { range_end: end_of(&key), key: key.into(), start_revision, watch_id: self.last, fragment: true };
        self.send(WatchAction::Create(create));
    }

    /// Ends the watches of the prefixes that are gone, and opens those that are missing.
    fn update(&mut self, keys: &Keys, followed: &BTreeMap<String, i64>, gone: &[String]) {
        let ended: Vec<_> = self.prefixes.iter().filter(|(_, prefix)| gone.contains(prefix)).map(|(id, _)| *id).collect();
        for watch_id in ended {
            self.prefixes.remove(&watch_id);
            self.send(WatchAction::Cancel(WatchCancelRequest { watch_id }));
        }
        let open: BTreeSet<_> = self.prefixes.values().cloned().collect();
        for (prefix, from) in followed.iter().filter(|(prefix, _)| !open.contains(*prefix)) {
            self.create(keys, prefix, *from);
        }
    }

    /// Asks for a sign of life.
    fn ask(&self) {
        self.send(WatchAction::Progress(WatchProgressRequest {}));
    }

    fn send(&self, action: WatchAction) {
        // An error means that the stream has ended, which its other end says as well.
        let _ = self.requests.send(WatchRequest { action: Some(action) });
    }
}
