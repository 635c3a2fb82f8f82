//! How a store tells what is in it: everything, then what changes.

use std::collections::BTreeSet;
use std::future::Future;
use std::ops::Bound;

use mesh_core::interest::{Topic, Topics};
use mesh_core::{Bytes, ClusterName, RecordKey};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use super::{ROOT, RecordPath};

/// What is told and not taken yet; more waits in the store.
const AHEAD: usize = 256;

/// Which records are wanted: those whose path begins with one of these.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interest(BTreeSet<String>);

impl From<&Topics> for Interest {
    /// Returns the interest in the root's records and in what belongs to the topics.
    fn from(topics: &Topics) -> Interest {
        let mut interest = Interest(BTreeSet::from([format!("{ROOT}/")]));
        let one = |cluster: &ClusterName, key: RecordKey| RecordPath::record(cluster, &key).0;
        for topic in topics.iter() {
            match topic {
                Topic::Fleet => drop(interest.add("")),
                Topic::Cluster(cluster) => drop(interest.add(format!("{cluster}/"))),
                Topic::Members(cluster) => {
                    interest.add(format!("{cluster}/node__"));
                    interest.add(format!("{cluster}/namespace__"));
                    interest.add(one(cluster, RecordKey::Lease));
                }
                Topic::Namespaces(cluster) => drop(interest.add(format!("{cluster}/namespace__"))),
                Topic::Namespace(cluster, name) => drop(interest.add(one(cluster, RecordKey::Namespace(name.clone())))),
                Topic::Exports(cluster, namespace) => drop(interest.add(format!("{cluster}/export__{namespace}__"))),
                Topic::AllSlices(cluster) => drop(interest.add(format!("{cluster}/slice__"))),
                Topic::Slices(cluster, namespace) => drop(interest.add(format!("{cluster}/slice__{namespace}__"))),
                Topic::Slice(cluster, namespace, node) => {
                    interest.add(one(cluster, RecordKey::Slice(namespace.clone(), node.clone())));
                }
            }
        }
        interest
    }
}

impl Interest {
    /// Returns the interest in every record.
    pub fn everything() -> Interest {
        Interest(BTreeSet::from([String::new()]))
    }

    /// Returns the interest in the records of the root and of one cluster.
    pub fn root_and(cluster: &ClusterName) -> Interest {
        Interest(BTreeSet::from([format!("{ROOT}/"), format!("{cluster}/")]))
    }

    /// Returns the interest in the records of one cluster.
    pub fn cluster(cluster: &ClusterName) -> Interest {
        Interest(BTreeSet::from([format!("{cluster}/")]))
    }

    /// Adds the records whose path begins with `prefix`; tells whether that is more than before.
    pub fn add(&mut self, prefix: impl Into<String>) -> bool {
        let prefix = prefix.into();
        if self.holds(&prefix) {
            return false;
        }
        // No prefix begins with another one.
        let from = (Bound::Included(prefix.as_str()), Bound::Unbounded);
        let narrower = self.0.range::<str, _>(from).take_while(|each| each.starts_with(&prefix)).cloned().collect::<Vec<_>>();
        for each in narrower {
            self.0.remove(&each);
        }
        self.0.insert(prefix)
    }

    /// Tells whether a record at `path` is wanted.
    pub fn covers(&self, path: &RecordPath) -> bool {
        self.holds(path.as_str())
    }

    /// Returns the prefixes, none of which begins with another one.
    pub fn prefixes(&self) -> &BTreeSet<String> {
        &self.0
    }

    /// Returns a channel on which this interest stays what it is.
    pub fn fixed(self) -> watch::Receiver<Interest> {
        watch::channel(self).1
    }

    /// Of prefixes that do not begin with each other, only the last one before a text can be one of it.
    fn holds(&self, text: &str) -> bool {
        let before = (Bound::Unbounded, Bound::Included(text));
        self.0.range::<str, _>(before).next_back().is_some_and(|prefix| text.starts_with(prefix.as_str()))
    }
}

/// What a store tells those who follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// The store is looked at as a whole: up to `Synced`, everything that was not told as it is now is told.
    Begin,
    /// These bytes are at the path now.
    Record(RecordPath, Bytes),
    /// Nothing is at the path any more.
    Gone(RecordPath),
    /// Everything that is there was told, now or before, and whatever is not there any more was told to be gone.
    Synced,
    /// What is wrong now, each with a way out; empty when nothing is. What was told still stands.
    Problems(Vec<String>),
}

/// A store that is being followed, until the value is dropped.
#[derive(Debug)]
pub struct Following {
    told: mpsc::Receiver<Told>,
    task: JoinHandle<()>,
}

/// The store's end of a [`Following`].
#[derive(Debug)]
pub struct Teller {
    sender: mpsc::Sender<Told>,
    problems: Vec<String>,
}

/// Nobody follows any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NobodyListens;

impl Following {
    /// Runs `work`, which tells what is in a store until nobody listens.
    ///
    /// # Panics
    /// Panics outside of a tokio runtime.
    pub fn start<W: Future<Output = Result<(), NobodyListens>> + Send>(
        work: impl FnOnce(Teller) -> W + Send + 'static,
    ) -> Following {
        let (sender, told) = mpsc::channel(AHEAD);
        let teller = Teller { sender, problems: Vec::new() };
        let task = tokio::spawn(async move {
            let _ = work(teller).await;
        });
        Following { told, task }
    }

    /// Returns what the store tells next; `None` when it ends with its runtime. Cancel-safe.
    pub async fn next(&mut self) -> Option<Told> {
        self.told.recv().await
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Teller {
    /// Tells something, once there is room for it.
    ///
    /// # Errors
    /// Returns an error when nobody follows any more: the work is over.
    pub async fn tell(&self, told: Told) -> Result<(), NobodyListens> {
        self.sender.send(told).await.map_err(|_| NobodyListens)
    }

    /// Tells what is wrong now, where that is something else than before.
    ///
    /// # Errors
    /// As [`Teller::tell`].
    pub async fn problems(&mut self, problems: Vec<String>) -> Result<(), NobodyListens> {
        if self.problems != problems {
            self.problems = problems;
            self.tell(Told::Problems(self.problems.clone())).await?;
        }
        Ok(())
    }
}

/// Waits for the interest to become another one; for ever where nobody can change it any more.
pub(super) async fn changed(interest: &mut watch::Receiver<Interest>) {
    if interest.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What belongs to a topic is told, and nothing else.
    #[test]
    fn the_paths_of_topics_are_the_records_that_belong_to_them() {
        let (east, fleet): (ClusterName, ClusterName) = ("east".parse().expect("a name"), "fleet".parse().expect("a name"));
        let other = ClusterName::new("east-2").expect("a name");
        let name = |text: &str| text.parse().expect("a name");
        let keys = ["node/n1", "namespace/shop", "namespace/shop-2", "slice/shop/n1", "slice/shop/n1.x", "slice/shop-2/n1"];
        let keys = keys.into_iter().chain(["export/shop/db", "export/shop-2/db", "import/shop/db", "lease"]);
        let keys: Vec<RecordKey> = keys.map(|key| key.parse().expect("a key")).collect();
        let topics = [
            Topic::Fleet,
            Topic::Cluster(east.clone()),
            Topic::Members(east.clone()),
            Topic::Namespaces(east.clone()),
            Topic::Namespace(east.clone(), name("shop")),
            Topic::Exports(east.clone(), name("shop")),
            Topic::AllSlices(east.clone()),
            Topic::Slices(east.clone(), name("shop")),
            Topic::Slice(east.clone(), name("shop"), "n1".parse().expect("a name")),
        ];
        for first in &topics {
            for second in &topics {
                let topics: Topics = [first.clone(), second.clone()].into_iter().collect();
                let interest = Interest::from(&topics);
                for (cluster, key) in keys.iter().flat_map(|key| [(&east, key), (&other, key)]) {
                    let path = RecordPath::record(cluster, key);
                    assert_eq!(interest.covers(&path), topics.covers(cluster, key), "{topics:?}: {path}");
                }
                assert!(interest.covers(&RecordPath::policies()) && interest.covers(&RecordPath::grant(&fleet)));
            }
        }
    }

    #[test]
    fn an_interest_is_the_shortest_prefixes() {
        let mut interest = Interest::default();
        let path = |text: &str| RecordPath::parse(text).expect("a path");
        assert!(!interest.covers(&path("east/lease.rec")));
        assert!(interest.add("east/slice__shop__") && interest.add("east/slice__shop__n1") == interest.add("east/slice__shop__"));
        assert!(interest.add("fleet/") && interest.add("east/lease"));
        for (text, covered) in [
            ("east/lease.rec", true),
            ("east/slice__shop__n1.rec", true),
            ("east/slice__shop.rec", false),
            ("east/slice__shop_.rec", false),
            ("fleet/policies.rec", true),
            ("west/lease.rec", false),
        ] {
            assert_eq!(interest.covers(&path(text)), covered, "{text}");
        }
        assert!(interest.add("east/") && !interest.add("east/lease"));
        assert_eq!(interest.prefixes().len(), 2);
        assert!(interest.add("") && interest == Interest::everything());
    }
}
