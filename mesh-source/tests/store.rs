//! Stores: one suite for all of them, the store as a source, and the mirror.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use mesh_core::{Bytes, ClusterName, RecordKey};
use mesh_source::{DirectoryStore, MemoryStore, Mirror, MirrorFrom, RecordPath, Store, StoreError, StoreSource};

use common::{DEADLINE, east, id, next, until, until_synced};

mod common;

fn west() -> ClusterName {
    ClusterName::new("west").expect("valid")
}

fn node(cluster: &ClusterName, name: &str) -> RecordPath {
    RecordPath::record(cluster, &RecordKey::Node(name.parse().expect("valid")))
}

/// What every store does.
async fn conformance(store: &mut dyn Store) {
    let (one, two, grant) = (node(&east(), "n1"), node(&east(), "n2.example"), RecordPath::grant(&east()));
    assert!(store.list().await.expect("an empty list").is_empty());
    assert_eq!(store.get(&one).await.expect("nothing"), None);
    store.remove(&one).await.expect("nothing to remove is fine");
    for (path, bytes) in [(&two, "b"), (&one, "a"), (&grant, "")] {
        store.put(path, Bytes::from_static(bytes.as_bytes())).await.expect("put");
    }
    assert_eq!(store.list().await.expect("a list"), [one.clone(), two.clone(), grant.clone()]);
    assert_eq!(store.get(&grant).await.expect("there").as_deref(), Some(b"".as_slice()));
    store.put(&one, Bytes::from_static(b"newer")).await.expect("put again");
    assert_eq!(store.get(&one).await.expect("there").as_deref(), Some(b"newer".as_slice()));
    let huge = Bytes::from(vec![0; (1 << 20) + 1]);
    assert!(matches!(store.put(&one, huge.clone()).await, Err(StoreError::TooLarge { .. })));
    assert_eq!(store.get(&one).await.expect("there").as_deref(), Some(b"newer".as_slice()));
    store.put(&grant, huge).await.expect("root records may be larger");
    store.remove(&one).await.expect("removed");
    assert_eq!(store.get(&one).await.expect("nothing"), None);
    assert_eq!(store.list().await.expect("a list"), [two, grant]);
}

#[tokio::test]
async fn every_store_conforms() {
    conformance(&mut MemoryStore::default()).await;
    let directory = tempfile::tempdir().expect("a directory");
    conformance(&mut DirectoryStore::new(directory.path().join("made/on/demand"))).await;
}

#[tokio::test]
async fn a_directory_store_does_not_trip_over_strangers() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut store = DirectoryStore::new(directory.path());
    store.put(&node(&east(), "n1"), Bytes::from_static(b"x")).await.expect("put");
    fs::write(directory.path().join("stray.rec"), "x").expect("written");
    fs::write(directory.path().join("east/.tmp-1-1"), "x").expect("written");
    fs::create_dir(directory.path().join("Not A Cluster")).expect("made");
    assert_eq!(store.list().await.expect("a list"), [node(&east(), "n1")]);
    fs::write(directory.path().join("west"), "a file in the way").expect("written");
    let error = store.put(&node(&west(), "n1"), Bytes::from_static(b"x")).await.expect_err("in the way").to_string();
    assert!(error.contains("west/node__n1.rec"), "{error}");
}

#[tokio::test]
async fn a_store_is_a_source() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path().join("store");
    let mut source = StoreSource::new(id(), &root);
    let mut diagnostics = source.diagnostics();
    let found = until(&mut source, &mut diagnostics, |now| !now.problems.is_empty()).await;
    assert!(!found.synced, "a store that is not there has told nothing");

    let new = directory.path().join("new");
    let mut store = DirectoryStore::new(&new);
    store.put(&node(&east(), "n1"), Bytes::from_static(b"east 1")).await.expect("put");
    store.put(&RecordPath::grant(&east()), Bytes::from_static(b"grant")).await.expect("put");
    fs::write(new.join("east/slice__huge.rec"), vec![b'x'; (1 << 20) + 1]).expect("written");
    fs::rename(&new, &root).expect("renamed");
    assert_eq!(until_synced(&mut source).await, ["begin", "record grant", "record east 1", "synced"]);
    assert!(diagnostics.borrow().problems.iter().any(|problem| problem.contains("slice__huge")), "{diagnostics:?}");

    let mut store = DirectoryStore::new(&root);
    store.put(&node(&west(), "n1"), Bytes::from_static(b"west 1")).await.expect("put");
    assert_eq!(next(&mut source).await, "record west 1");
    store.remove(&node(&west(), "n1")).await.expect("removed");
    store.put(&node(&east(), "n1"), Bytes::from_static(b"east 2")).await.expect("put");
    assert_eq!(next(&mut source).await, "record east 2");
}

async fn appears(store: &mut DirectoryStore, path: &RecordPath, bytes: &[u8]) {
    let there = async {
        while store.get(path).await.expect("readable").as_deref() != Some(bytes) {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(DEADLINE, there).await.unwrap_or_else(|_| panic!("{path} does not appear"));
}

#[tokio::test]
async fn a_mirror_copies_what_it_is_told_and_nothing_else() {
    let directory = tempfile::tempdir().expect("a directory");
    let (theirs, ours) = (directory.path().join("west"), directory.path().join("east"));
    let mirror = Mirror::new([MirrorFrom { cluster: west(), directory: theirs.clone() }], &ours);
    let mut diagnostics = mirror.diagnostics().remove(&west()).expect("one for each");
    let task = tokio::spawn(mirror.run());
    let missing = tokio::time::timeout(DEADLINE, diagnostics.wait_for(|now| !now.problems.is_empty())).await;
    missing.expect("in time").expect("it runs");

    let (mut from, mut to) = (DirectoryStore::new(&theirs), DirectoryStore::new(&ours));
    to.put(&RecordPath::grant(&west()), Bytes::from_static(b"our grant")).await.expect("put");
    for (path, bytes) in [
        (node(&east(), "forged"), "not theirs to say"),
        (RecordPath::parse("fleet/grant__west__seen-in__north.rec").expect("valid"), "a copy of a copy"),
        (RecordPath::grant(&west()), "their grant"),
        (node(&west(), "n1"), "one"),
    ] {
        from.put(&path, Bytes::from_static(bytes.as_bytes())).await.expect("put");
    }
    appears(&mut to, &node(&west(), "n1"), b"one").await;
    let copy = RecordPath::parse("fleet/grant__west__seen-in__west.rec").expect("valid");
    appears(&mut to, &copy, b"their grant").await;
    from.put(&node(&west(), "n1"), Bytes::from_static(b"two")).await.expect("put");
    appears(&mut to, &node(&west(), "n1"), b"two").await;
    assert_eq!(to.list().await.expect("a list"), [RecordPath::grant(&west()), copy, node(&west(), "n1")]);
    assert_eq!(to.get(&RecordPath::grant(&west())).await.expect("there").as_deref(), Some(b"our grant".as_slice()));
    task.abort();
}

#[tokio::test]
async fn a_mirror_tries_again_what_it_could_not_write() {
    let directory = tempfile::tempdir().expect("a directory");
    let (theirs, ours) = (directory.path().join("west"), directory.path().join("east"));
    fs::write(&ours, "a file in the way of the store").expect("written");
    DirectoryStore::new(&theirs).put(&node(&west(), "n1"), Bytes::from_static(b"one")).await.expect("put");
    let mirror = Mirror::new([MirrorFrom { cluster: west(), directory: theirs }], &ours);
    let mut diagnostics = mirror.diagnostics().remove(&west()).expect("one for each");
    let task = tokio::spawn(mirror.run());
    let failed =
        tokio::time::timeout(DEADLINE, diagnostics.wait_for(|now| now.problems.iter().any(|p| p.contains("trying again"))));
    failed.await.expect("in time").expect("it runs");
    fs::remove_file(&ours).expect("removed");
    appears(&mut DirectoryStore::new(&ours), &node(&west(), "n1"), b"one").await;
    task.abort();
}

/// Files are readable for other processes of the node: records are public.
#[tokio::test]
async fn records_are_readable_files() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut store = DirectoryStore::new(directory.path());
    store.put(&node(&east(), "n1"), Bytes::from_static(b"x")).await.expect("put");
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode(&directory.path().join("east/node__n1.rec")) & 0o600, 0o600);
}
