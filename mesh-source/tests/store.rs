//! Stores: one suite for all of them, the store as a source, and the mirror.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;

use mesh_core::Bytes;
use mesh_source::{
    ClaimError, DirectoryStore, Interest, MemoryStore, Mirror, MirrorFrom, RecordPath, Store, StoreError, StoreSource,
};

use common::conformance::{Known, conformance, node, put, west};
use common::{DEADLINE, east, id, next, until, until_synced};

mod common;

#[tokio::test]
async fn every_store_conforms() {
    conformance(Arc::new(MemoryStore::default())).await;
    let directory = tempfile::tempdir().expect("a directory");
    conformance(Arc::new(DirectoryStore::new(directory.path().join("made/on/demand")))).await;
}

#[tokio::test]
async fn a_directory_store_does_not_trip_over_strangers() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = DirectoryStore::new(directory.path());
    put(&store, &node(&east(), "n1"), "x").await;
    fs::write(directory.path().join("stray.rec"), "x").expect("written");
    fs::write(directory.path().join("east/.tmp-1-1"), "x").expect("written");
    fs::create_dir(directory.path().join("Not A Cluster")).expect("made");
    assert_eq!(store.list().await.expect("a list"), [node(&east(), "n1")]);
    fs::write(directory.path().join("west"), "a file in the way").expect("written");
    let error = store.put(&node(&west(), "n1"), Bytes::from_static(b"x"), None).await.expect_err("in the way").to_string();
    assert!(error.contains("west/node__n1.rec"), "{error}");
}

#[tokio::test]
async fn a_store_is_a_source() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().join("store");
    let mut source = StoreSource::new(id(), &DirectoryStore::new(&root), Interest::everything().fixed());
    let mut diagnostics = source.diagnostics();
    let found = until(&mut source, &mut diagnostics, |now| !now.problems.is_empty()).await;
    assert!(!found.synced, "a store that is not there has told nothing");

    let new = directory.path().join("new");
    let store = DirectoryStore::new(&new);
    put(&store, &node(&east(), "n1"), "east 1").await;
    put(&store, &RecordPath::grant(&east()), "grant").await;
    fs::write(new.join("east/slice__huge.rec"), vec![b'x'; (1 << 20) + 1]).expect("written");
    fs::rename(&new, &root).expect("renamed");
    assert_eq!(until_synced(&mut source).await, ["begin", "record grant", "record east 1", "synced"]);
    assert!(diagnostics.borrow().problems.iter().any(|problem| problem.contains("slice__huge")), "{diagnostics:?}");

    let store = DirectoryStore::new(&root);
    put(&store, &node(&west(), "n1"), "west 1").await;
    assert_eq!(next(&mut source).await, "record west 1");
    store.remove(&node(&west(), "n1")).await.expect("removed");
    put(&store, &node(&east(), "n1"), "east 2").await;
    assert_eq!(next(&mut source).await, "record east 2");
}

async fn appears(store: &dyn Store, path: &RecordPath, bytes: &[u8]) {
    let there = async {
        while store.get(path).await.expect("readable").as_deref() != Some(bytes) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, there).await.unwrap_or_else(|_| panic!("{path} does not appear"));
}

fn directory_store(path: &Path) -> Arc<dyn Store> {
    Arc::new(DirectoryStore::new(path))
}

fn mirror_from(path: &Path) -> MirrorFrom {
    MirrorFrom { cluster: west(), store: directory_store(path) }
}

#[tokio::test]
async fn a_mirror_copies_what_it_is_told_and_nothing_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let (theirs, ours) = (directory.path().join("west"), directory.path().join("east"));
    let mirror = Mirror::new([mirror_from(&theirs)], &directory_store(&ours));
    let mut diagnostics = mirror.diagnostics().remove(&west()).expect("one for each");
    let task = tokio::spawn(mirror.run());
    let missing = tokio::time::timeout(DEADLINE, diagnostics.wait_for(|now| !now.problems.is_empty())).await;
    missing.expect("in time").expect("it runs");

    let (from, to) = (DirectoryStore::new(&theirs), DirectoryStore::new(&ours));
    put(&to, &RecordPath::grant(&west()), "our grant").await;
    for (path, bytes) in [
        (node(&east(), "forged"), "not theirs to say"),
        (RecordPath::parse("fleet/grant__west__seen-in__north.rec").expect("valid"), "a copy of a copy"),
        (RecordPath::grant(&west()), "their grant"),
        (node(&west(), "n1"), "one"),
    ] {
        put(&from, &path, bytes).await;
    }
    appears(&to, &node(&west(), "n1"), b"one").await;
    let copy = RecordPath::parse("fleet/grant__west__seen-in__west.rec").expect("valid");
    appears(&to, &copy, b"their grant").await;
    put(&from, &node(&west(), "n1"), "two").await;
    appears(&to, &node(&west(), "n1"), b"two").await;
    assert_eq!(to.list().await.expect("a list"), [RecordPath::grant(&west()), copy, node(&west(), "n1")]);
    assert_eq!(to.get(&RecordPath::grant(&west())).await.expect("there").as_deref(), Some(b"our grant".as_slice()));
    task.abort();
}

#[tokio::test]
async fn a_mirror_tries_again_what_it_could_not_write() {
    let directory = tempfile::tempdir().expect("a directory");
    let (theirs, ours) = (directory.path().join("west"), directory.path().join("east"));
    fs::write(&ours, "a file in the way of the store").expect("written");
    put(&DirectoryStore::new(&theirs), &node(&west(), "n1"), "one").await;
    let mirror = Mirror::new([mirror_from(&theirs)], &directory_store(&ours));
    let mut diagnostics = mirror.diagnostics().remove(&west()).expect("one for each");
    let task = tokio::spawn(mirror.run());
    let failed =
        tokio::time::timeout(DEADLINE, diagnostics.wait_for(|now| now.problems.iter().any(|p| p.contains("trying again"))));
    failed.await.expect("in time").expect("it runs");
    fs::remove_file(&ours).expect("removed");
    appears(&DirectoryStore::new(&ours), &node(&west(), "n1"), b"one").await;
    task.abort();
}

/// Files are readable for other processes of the node: records are public.
#[tokio::test]
async fn records_are_readable_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let store = DirectoryStore::new(directory.path());
    put(&store, &node(&east(), "n1"), "x").await;
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&directory.path().join("east/node__n1.rec")) & 0o600, 0o600);
}

/// A lease that runs out, a lock file that somebody removes: the holder finds out by its next put at the latest.
#[tokio::test]
async fn a_publisher_that_lost_its_claim_puts_nothing() {
    let memory = MemoryStore::default();
    let claim = memory.claim(&east(), "one", 0).await.expect("free");
    memory.expire(&east());
    let directory = tempfile::tempdir().expect("a directory");
    let files = DirectoryStore::new(directory.path());
    let locked = files.claim(&east(), "one", 0).await.expect("free");
    fs::remove_file(directory.path().join(".claims/east")).expect("removed");
    for (store, claim) in [(&memory as &dyn Store, claim), (&files, locked)] {
        assert!(!claim.is_held());
        let winner = store.claim(&east(), "two", 0).await.expect("free again");
        let path = node(&east(), "n1");
        let lost = store.put(&path, Bytes::from_static(b"late"), Some(&claim)).await;
        assert!(matches!(lost, Err(StoreError::ClaimLost { .. })), "{lost:?}");
        store.put(&path, Bytes::from_static(b"new"), Some(&winner)).await.expect("held");
        drop(claim);
        assert!(winner.is_held() && winner.incarnation() > 1, "giving back what was lost takes nothing from the winner");
        assert_eq!(store.get(&path).await.expect("there").as_deref(), Some(b"new".as_slice()));
        assert!(matches!(store.claim(&east(), "three", 0).await, Err(ClaimError::Held { .. })));
    }
}

/// A copy that is damaged or lost at its place comes back, and so does one that was thrown back to an old state.
#[tokio::test]
async fn a_mirror_heals_its_copies() {
    let (theirs, ours) = (MemoryStore::default(), MemoryStore::default());
    let (one, two) = (node(&west(), "n1"), node(&west(), "n2"));
    put(&theirs, &one, "one").await;
    let old = theirs.records();
    put(&theirs, &two, "two").await;
    let to: Arc<dyn Store> = Arc::new(ours.clone());
    let task = tokio::spawn(Mirror::new([MirrorFrom { cluster: west(), store: Arc::new(theirs.clone()) }], &to).run());
    appears(&ours, &two, b"two").await;
    put(&ours, &two, "damaged").await;
    appears(&ours, &two, b"two").await;
    ours.restore(old);
    appears(&ours, &two, b"two").await;
    ours.restore(Default::default());
    appears(&ours, &one, b"one").await;
    appears(&ours, &two, b"two").await;
    theirs.restore(Default::default());
    put(&theirs, &one, "newer").await;
    appears(&ours, &one, b"newer").await;
    let mut known = Known::follow(&ours, Interest::everything());
    known.until("everything", |known| known.synced == 1).await;
    assert_eq!(known.text(&two), Some("two"), "a mirror removes nothing");
    task.abort();
}
