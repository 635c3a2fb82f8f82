//! The outbox of a publisher: one wins, another one takes over, and what is signed stays in the store.

use std::fs;
use std::sync::Arc;

use mesh_source::{DirectoryStore, MemoryStore, RecordPath, Store};

use common::conformance::put;
use common::east;
use common::fleet::{Agent, Publishing, namespace, store_says};

mod common;

#[tokio::test]
async fn one_publishes_and_another_takes_over() {
    let directory = tempfile::tempdir().expect("a directory");
    for store in
        [Arc::new(MemoryStore::default()) as Arc<dyn Store>, Arc::new(DirectoryStore::new(directory.path().join("store")))]
    {
        let mut first = Publishing::start(&store, "one", 5);
        first.set("shop", Some("a"));
        first.set("team", Some("a"));
        first.until("the claim", |publishing| publishing.incarnation.is_some()).await;
        store_says(&*store, &mut first, &["shop=a", "team=a"]).await;
        let mut second = Publishing::start(&store, "two", 5);
        second.set("shop", Some("b"));
        let mut agent = Agent::start(&*store);
        first.set("shop", Some("aa"));
        agent.until(&mut first, &["shop=aa", "team=a"]).await;
        assert!(second.incarnation.is_none(), "there is a publisher");
        let before = first.incarnation.expect("it publishes");
        drop(first);
        // The second one stands behind shop only: the rest gets its tombstone.
        second.until("the claim", |publishing| publishing.incarnation.is_some()).await;
        assert!(second.incarnation.is_some_and(|incarnation| incarnation > before));
        agent.until(&mut second, &["shop=b"]).await;
    }
}

#[tokio::test]
async fn what_was_signed_comes_back() {
    let memory = MemoryStore::default();
    let store: Arc<dyn Store> = Arc::new(memory.clone());
    let mut publishing = Publishing::start(&store, "one", 0);
    publishing.set("shop", Some("a"));
    publishing.set("old", Some("a"));
    publishing.until("the claim", |publishing| publishing.incarnation.is_some()).await;
    let mut agent = Agent::start(&*store);
    agent.until(&mut publishing, &["shop=a", "old=a"]).await;
    let backup = memory.records();
    publishing.set("shop", Some("b"));
    publishing.set("old", None);
    publishing.set("new", Some("a"));
    agent.until(&mut publishing, &["shop=b", "new=a"]).await;
    for state in [backup, Default::default()] {
        memory.restore(state);
        store_says(&*store, &mut publishing, &["shop=b", "new=a"]).await;
        agent.until(&mut publishing, &["shop=b", "new=a"]).await;
    }
    // What somebody else put into the cluster's place: signed earlier with its key, damaged, or nothing that anybody reads.
    let incarnation = publishing.incarnation.expect("it publishes");
    let (path, stray) = namespace((incarnation - 1, 1), "stray", Some("x"));
    store.put(&path, stray, None).await.expect("put");
    put(&*store, &namespace((1, 1), "shop", None).0, "damaged").await;
    put(&*store, &RecordPath::parse("east/node__garbage.rec").expect("a path"), "garbage").await;
    let mut newcomer = Agent::start(&*store);
    while newcomer.namespaces().contains("stray=x") || !newcomer.namespaces().contains("shop=b") {
        tokio::select! {
            () = newcomer.take() => {}
            event = publishing.outbox.next() => publishing.take(event.expect("it goes on")),
        }
    }
    store_says(&*store, &mut publishing, &["shop=b", "new=a"]).await;
}

/// The claim is taken away, and the next publisher's clock or memory is behind: its incarnation is above all that was signed.
#[tokio::test]
async fn an_incarnation_is_above_everything_that_was_signed() {
    let memory = MemoryStore::default();
    let store: Arc<dyn Store> = Arc::new(memory.clone());
    let far = 1 << 60;
    let (path, bytes) = namespace((far, 7), "shop", Some("ahead"));
    store.put(&path, bytes, None).await.expect("put");
    let mut publishing = Publishing::start(&store, "one", 0);
    publishing.set("shop", Some("a"));
    publishing.until("the claim", |publishing| publishing.incarnation.is_some_and(|incarnation| incarnation > far)).await;
    let mut agent = Agent::start(&*store);
    agent.until(&mut publishing, &["shop=a"]).await;
    // Lost, and won again: never with the same one.
    let before = publishing.incarnation;
    memory.expire(&east());
    publishing.until("another claim", |publishing| publishing.incarnation > before).await;
    agent.until(&mut publishing, &["shop=a"]).await;
    // Somebody with the key has signed newer records meanwhile.
    let (path, bytes) = namespace((far + 1000, 1), "team", Some("rogue"));
    store.put(&path, bytes, None).await.expect("put");
    publishing.until("a claim above it", |publishing| publishing.incarnation.is_some_and(|now| now > far + 1000)).await;
    agent.until(&mut publishing, &["shop=a"]).await;
}

/// A store directory that is removed under the publisher is made again.
#[tokio::test]
async fn a_removed_directory_is_filled_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("store");
    let store: Arc<dyn Store> = Arc::new(DirectoryStore::new(&path));
    let mut publishing = Publishing::start(&store, "one", 0);
    publishing.set("shop", Some("a"));
    publishing.until("the claim", |publishing| publishing.incarnation.is_some()).await;
    store_says(&*store, &mut publishing, &["shop=a"]).await;
    let before = publishing.incarnation;
    fs::remove_dir_all(&path).expect("removed");
    publishing.until("another claim", |publishing| publishing.incarnation > before).await;
    store_says(&*store, &mut publishing, &["shop=a"]).await;
}
