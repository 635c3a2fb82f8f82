//! Stores, what reads them, and mirrors that cannot be trusted.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use mesh_core::Bytes;
use mesh_core::record::{self, Opened};

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

/// Every record is verified once, however many nodes read it: a signature costs more than all else that a simulation does.
#[derive(Debug, Default)]
pub struct Verified {
    opened: HashMap<Bytes, Option<Arc<Opened>>>,
    /// Signatures that were verified.
    pub checked: u64,
}

/// The records that are kept between runs; beyond, all are forgotten.
const MAX_VERIFIED: usize = 1 << 16;

impl Verified {
    /// Returns what is in the bytes; `None` where they are no record.
    pub fn open(&mut self, bytes: &Bytes) -> Option<Arc<Opened>> {
        if let Some(known) = self.opened.get(bytes) {
            return known.clone();
        }
        if self.opened.len() >= MAX_VERIFIED {
            self.opened.clear();
        }
        self.checked += 1;
        let opened = record::open(bytes).ok().map(Arc::new);
        self.opened.insert(bytes.clone(), opened.clone());
        opened
    }
}
