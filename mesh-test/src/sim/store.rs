//! Stores, what reads them, and mirrors that cannot be trusted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use mesh_core::record::{self, Opened};
use mesh_core::{Bytes, RootRecord, SecretKey};

use super::fleet;

/// Where a record lies: the cluster whose it is (`None`: the root's), and a name that says what it is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Path {
    /// The cluster, by number.
    pub of: Option<usize>,
    /// The name.
    pub name: Arc<str>,
}

impl Path {
    /// Makes a path.
    pub fn new(of: Option<usize>, name: impl Into<Arc<str>>) -> Path {
        Path { of, name: name.into() }
    }
}

/// A store of one cluster.
#[derive(Debug, Default)]
pub struct Store {
    /// What is in it.
    pub records: BTreeMap<Path, Bytes>,
    /// It answers.
    pub up: bool,
    /// What was in it when it was backed up.
    pub backup: Option<BTreeMap<Path, Bytes>>,
    /// Older records of its own cluster: what a bad mirror or a restored backup tells again.
    pub history: Vec<(Path, Bytes)>,
}

/// How many older records are remembered for replays.
const HISTORY: usize = 64;

impl Store {
    /// Puts a record; tells whether something is different now.
    pub fn put(&mut self, path: &Path, bytes: &Bytes) -> bool {
        match self.records.insert(path.clone(), bytes.clone()) {
            Some(old) if old == *bytes => false,
            Some(old) => {
                if self.history.len() < HISTORY {
                    self.history.push((path.clone(), old));
                }
                true
            }
            None => true,
        }
    }
}

/// Who reads a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// A node of its cluster.
    Node(usize),
    /// The mirror to another cluster's store.
    Mirror(usize),
}

/// One reader of one store.
#[derive(Debug)]
pub struct Tail {
    /// The store, by number.
    pub from: usize,
    /// Who reads.
    pub to: Reader,
    /// What it has not read yet.
    pub pending: BTreeSet<Path>,
    /// It has to read everything again.
    pub all: bool,
    /// A reading is on its way.
    pub scheduled: bool,
    /// What a bad mirror did not pass on.
    pub withheld: BTreeSet<Path>,
    /// 0 honest, 1 drops, 2 tells old records, 3 edits.
    pub mode: u32,
}

impl Tail {
    /// Makes a reader that has read nothing.
    pub fn new(from: usize, to: Reader) -> Tail {
        Tail { from, to, pending: BTreeSet::new(), all: true, scheduled: false, withheld: BTreeSet::new(), mode: 0 }
    }
}

/// What is known of signed bytes, so that each signature is made once and verified at most once, however many nodes read it: they
/// cost more than all else that a simulation does.
#[derive(Debug, Default)]
pub struct Verified {
    opened: HashMap<Bytes, Option<Arc<Opened>>, foldhash::fast::RandomState>,
    /// The first grants of all clusters, which are the same in every run.
    grants: Vec<(RootRecord, Bytes)>,
    /// Signatures that were verified.
    pub checked: u64,
}

/// The records that are kept between runs; beyond, all are forgotten.
const MAX_VERIFIED: usize = 1 << 12;
/// The clusters of the largest fleet.
const MAX_GRANTS: usize = 4;

impl Verified {
    /// Returns what is in the bytes; `None` where they are no record.
    pub fn open(&mut self, bytes: &Bytes) -> Option<Arc<Opened>> {
        if let Some(known) = self.opened.get(bytes) {
            return known.clone();
        }
        self.checked += 1;
        let opened = record::open(bytes).ok().map(Arc::new);
        self.keep(bytes, opened.clone());
        opened
    }

    /// Notes what one of `keys` has just signed: it is read as any record, and its signature is known to be right.
    pub fn signed<'a>(&mut self, bytes: &Bytes, keys: impl IntoIterator<Item = &'a SecretKey>) {
        if !self.opened.contains_key(bytes)
            && let Some(opened) = keys.into_iter().find_map(|key| record::open_own(bytes, key).ok())
        {
            self.keep(bytes, Some(Arc::new(opened)));
        }
    }

    /// Signs a statement of the root.
    ///
    /// # Panics
    /// Panics where it does not fit into a record.
    pub fn sign_root(&mut self, said: &RootRecord) -> Bytes {
        if let Some((_, bytes)) = self.grants.iter().find(|(known, _)| known == said) {
            return bytes.clone();
        }
        let key = fleet::root_key();
        let bytes = said.sign(key).expect("what the root says fits into a record");
        if matches!(said, RootRecord::Grant(grant) if grant.epoch == 1) && self.grants.len() < MAX_GRANTS {
            self.grants.push((said.clone(), bytes.clone()));
        }
        self.signed(&bytes, [key]);
        bytes
    }

    fn keep(&mut self, bytes: &Bytes, opened: Option<Arc<Opened>>) {
        if self.opened.len() >= MAX_VERIFIED {
            self.opened.clear();
        }
        self.opened.insert(bytes.clone(), opened);
    }
}
