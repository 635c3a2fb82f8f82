//! What every store does: one suite for all of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use mesh_core::{Bytes, ClusterName, RecordKey};
use mesh_source::{Claim, ClaimError, Following, Interest, RecordPath, Store, StoreError, Told};
use tokio::sync::watch;
use tokio::time::timeout;

use super::{DEADLINE, east};

pub(crate) fn west() -> ClusterName {
    ClusterName::new("west").expect("valid")
}

pub(crate) fn node(cluster: &ClusterName, name: &str) -> RecordPath {
    RecordPath::record(cluster, &RecordKey::Node(name.parse().expect("valid")))
}

pub(crate) async fn put(store: &dyn Store, path: &RecordPath, text: &str) {
    store.put(path, Bytes::from(text.to_owned()), None).await.unwrap_or_else(|error| panic!("{path}: {error}"));
}

/// What a follower knows, from what it was told.
pub(crate) struct Known {
    following: Following,
    pub(crate) records: BTreeMap<RecordPath, Bytes>,
    pub(crate) synced: usize,
    pub(crate) problems: Vec<String>,
}

impl Known {
    pub(crate) fn follow(store: &dyn Store, interest: Interest) -> Known {
        Known::following(store.follow(interest.fixed()))
    }

    pub(crate) fn following(following: Following) -> Known {
        Known { following, records: BTreeMap::new(), synced: 0, problems: Vec::new() }
    }

    pub(crate) async fn take(&mut self) {
        match timeout(DEADLINE, self.following.next()).await.expect("something in time").expect("it goes on") {
            Told::Begin => {}
            Told::Record(path, bytes) => {
                self.records.insert(path, bytes);
            }
            Told::Gone(path) => {
                self.records.remove(&path);
            }
            Told::Synced => self.synced += 1,
            Told::Problems(problems) => self.problems = problems,
        }
    }

    /// Takes what is told until it is so.
    pub(crate) async fn until(&mut self, what: &str, is_so: impl Fn(&Known) -> bool) {
        let wait = async {
            while !is_so(self) {
                self.take().await;
            }
        };
        let waited = timeout(DEADLINE, wait).await;
        waited.unwrap_or_else(|_| panic!("not in time: {what}; known: {:?}, problems: {:?}", self.records, self.problems));
    }

    pub(crate) fn text(&self, path: &RecordPath) -> Option<&str> {
        self.records.get(path).map(|bytes| std::str::from_utf8(bytes).expect("text"))
    }
}

pub(crate) async fn conformance(store: Arc<dyn Store>) {
    records(&*store).await;
    following(&*store).await;
    claims(&*store).await;
    one_wins(&store).await;
}

async fn records(store: &dyn Store) {
    let (one, two, grant) = (node(&east(), "n1"), node(&east(), "n2.example"), RecordPath::grant(&east()));
    assert!(store.list().await.expect("an empty list").is_empty());
    assert_eq!(store.get(&one).await.expect("nothing"), None);
    store.remove(&one).await.expect("nothing to remove is fine");
    for (path, text) in [(&two, "b"), (&one, "a"), (&grant, "")] {
        put(store, path, text).await;
    }
    assert_eq!(store.list().await.expect("a list"), [one.clone(), two.clone(), grant.clone()]);
    assert_eq!(store.get(&grant).await.expect("there").as_deref(), Some(b"".as_slice()));
    put(store, &one, "newer").await;
    assert_eq!(store.get(&one).await.expect("there").as_deref(), Some(b"newer".as_slice()));
    let huge = Bytes::from(vec![0; (1 << 20) + 1]);
    assert!(matches!(store.put(&one, huge.clone(), None).await, Err(StoreError::TooLarge { .. })));
    assert_eq!(store.get(&one).await.expect("there").as_deref(), Some(b"newer".as_slice()));
    store.put(&grant, huge, None).await.expect("root records may be larger");
    store.remove(&one).await.expect("removed");
    assert_eq!(store.get(&one).await.expect("nothing"), None);
    assert_eq!(store.list().await.expect("a list"), [two, grant]);
}

async fn following(store: &dyn Store) {
    let (one, two, three) = (node(&west(), "n1"), node(&west(), "n2"), node(&east(), "n3"));
    put(store, &one, "a").await;
    let mut all = Known::follow(store, Interest::everything());
    let mut wests = Known::follow(store, Interest::root_and(&west()));
    all.until("everything", |known| known.synced == 1).await;
    wests.until("everything of west", |known| known.synced == 1).await;
    assert_eq!(all.records.keys().cloned().collect::<Vec<_>>(), store.list().await.expect("a list"));
    assert_eq!(wests.records.keys().cloned().collect::<Vec<_>>(), [RecordPath::grant(&east()), one.clone()]);

    put(store, &one, "b").await;
    put(store, &two, "c").await;
    put(store, &three, "d").await;
    wests.until("changes", |known| known.text(&one) == Some("b") && known.text(&two) == Some("c")).await;
    store.remove(&one).await.expect("removed");
    all.until("a removal", |known| known.text(&three) == Some("d") && !known.records.contains_key(&one)).await;
    wests.until("a removal", |known| !known.records.contains_key(&one)).await;
    assert!(!wests.records.contains_key(&three), "nobody asked for it");

    let (grows, interest) = watch::channel(Interest::default());
    let mut growing = Known::following(store.follow(interest));
    growing.until("nothing is all there is of no interest", |known| known.synced == 1).await;
    assert!(growing.records.is_empty());
    grows.send_modify(|interest| assert!(interest.add("east/node__n3")));
    growing.until("what is wanted now", |known| known.synced == 2).await;
    assert_eq!(growing.records.keys().collect::<Vec<_>>(), [&three]);
    grows.send_modify(|interest| assert!(interest.add("west/")));
    growing.until("more", |known| known.synced == 3).await;
    assert_eq!(growing.records.keys().collect::<Vec<_>>(), [&three, &two]);
    put(store, &three, "e").await;
    put(store, &two, "f").await;
    growing.until("changes of both", |known| known.text(&three) == Some("e") && known.text(&two) == Some("f")).await;
}

async fn claims(store: &dyn Store) {
    let path = node(&east(), "n3");
    let first = store.claim(&east(), "first", 7).await.expect("free");
    assert!(first.incarnation() >= 7 && first.is_held());
    match store.claim(&east(), "second", 0).await {
        Err(ClaimError::Held { holder, .. }) => assert_eq!(holder, "first"),
        other => panic!("{other:?}"),
    }
    let other = store.claim(&west(), "second", 0).await.expect("another cluster is another claim");
    store.put(&path, Bytes::from_static(b"by the first"), Some(&first)).await.expect("held");
    let before = first.incarnation();
    drop(first);
    let second = claim_soon(store, "second", 0).await;
    assert!(second.incarnation() > before, "a fencing token only grows");
    drop(second);
    let third = claim_soon(store, "third", before + 1000).await;
    assert!(third.incarnation() >= before + 1000);
    drop((third, other));
}

/// A claim that was dropped may take a moment to be free again.
pub(crate) async fn claim_soon(store: &dyn Store, holder: &str, floor: u64) -> Claim {
    let claim = async {
        loop {
            match store.claim(&east(), holder, floor).await {
                Ok(claim) => return claim,
                Err(ClaimError::Held { .. }) => tokio::time::sleep(std::time::Duration::from_millis(10)).await,
                Err(error) => panic!("{error}"),
            }
        }
    };
    timeout(DEADLINE, claim).await.expect("free in time")
}

/// Several publishers want one cluster: no two hold the claim at once, and what is put only ever grows newer.
async fn one_wins(store: &Arc<dyn Store>) {
    let path = node(&east(), "contended");
    let holders = Arc::new(AtomicUsize::new(0));
    let mut seen = Known::follow(&**store, Interest::cluster(&east()));
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..4 {
        let (store, path, holders) = (store.clone(), path.clone(), holders.clone());
        tasks.spawn(async move {
            for _ in 0..3 {
                let claim = claim_soon(&*store, &format!("publisher {number}"), 0).await;
                assert_eq!(holders.fetch_add(1, Ordering::SeqCst), 0, "somebody else holds the claim too");
                for _ in 0..3 {
                    let text = format!("{:020}", claim.incarnation());
                    store.put(&path, Bytes::from(text), Some(&claim)).await.expect("the claim is held");
                }
                holders.fetch_sub(1, Ordering::SeqCst);
                drop(claim);
            }
        });
    }
    let mut last = None;
    while !tasks.is_empty() {
        tokio::select! {
            done = tasks.join_next() => done.expect("not empty").expect("no two winners"),
            () = seen.take() => {
                let now = seen.text(&path).map(str::to_owned);
                assert!(now >= last, "{now:?} came after {last:?}");
                last = now;
            }
        }
    }
    store.remove(&path).await.expect("removed");
}
