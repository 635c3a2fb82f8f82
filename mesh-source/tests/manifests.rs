//! A directory of manifests, with real files and real inotify.

use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

use mesh_core::policy::PolicyScope;
use mesh_source::{ManifestDirectory, Source};

use common::{east, id, next, scope, until, until_synced};

mod common;

fn namespace(name: &str, team: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{team: {team}}}}}\n---\n")
}

#[tokio::test]
async fn everything_first_and_differences_after_that() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str| directory.path().join(name);
    fs::write(file("a.yaml"), namespace("a", "x") + &namespace("b", "x")).expect("written");
    fs::write(file("notes.txt"), "not: [a manifest").expect("written");
    fs::write(file(".hidden.yaml"), "not: [a manifest").expect("written");
    let mut source = ManifestDirectory::new(id(), directory.path(), scope());
    let events = until_synced(&mut source).await;
    assert_eq!(events, ["begin", "set Namespace east/a", "set Namespace east/b", "synced"]);

    fs::write(file("a.yaml"), namespace("a", "x") + &namespace("b", "y")).expect("written");
    assert_eq!(next(&mut source).await, "set Namespace east/b");

    // As editors and GitOps tools write: a temporary file, then a rename.
    fs::write(file(".a.tmp"), namespace("a", "x")).expect("written");
    fs::rename(file(".a.tmp"), file("a.yaml")).expect("renamed");
    assert_eq!(next(&mut source).await, "unset Namespace east/b");

    fs::create_dir_all(file("sub/dir")).expect("made");
    fs::write(file("sub/dir/c.yml"), namespace("c", "x")).expect("written");
    assert_eq!(next(&mut source).await, "set Namespace east/c");

    // A move is no change of facts; what follows is the next event.
    fs::rename(file("a.yaml"), file("moved.yaml")).expect("renamed");
    fs::remove_file(file("sub/dir/c.yml")).expect("removed");
    assert_eq!(next(&mut source).await, "unset Namespace east/c");
    assert!(source.diagnostics().borrow().is_clean());
}

#[tokio::test]
async fn a_broken_edit_keeps_the_last_good_facts() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("a.yaml");
    fs::write(&file, namespace("a", "x") + &namespace("b", "x")).expect("written");
    let mut source = ManifestDirectory::new(id(), directory.path(), scope());
    let mut diagnostics = source.diagnostics();
    until_synced(&mut source).await;

    fs::write(&file, namespace("a", "y") + &namespace("B", "x")).expect("written");
    let found = until(&mut source, &mut diagnostics, |now| !now.errors.is_empty()).await;
    assert!(found.synced && found.errors.len() == 1);
    let error = found.errors[0].to_string();
    assert!(error.starts_with(&format!("{}:7:18: metadata.name: ", file.display())), "{error}");

    fs::write(&file, namespace("a", "y")).expect("written");
    assert_eq!(next(&mut source).await, "set Namespace east/a");
    assert_eq!(next(&mut source).await, "unset Namespace east/b");
    assert!(diagnostics.borrow().is_clean());

    fs::write(&file, b"\xff\xfe").expect("written");
    let found = until(&mut source, &mut diagnostics, |now| !now.errors.is_empty()).await;
    assert!(found.errors[0].message.contains("UTF-8"));
    fs::remove_file(&file).expect("removed");
    assert_eq!(next(&mut source).await, "unset Namespace east/a");
}

#[tokio::test]
async fn nothing_is_told_before_every_file_is_good() {
    let directory = tempfile::tempdir().expect("a directory");
    let missing = directory.path().join("east");
    let mut source = ManifestDirectory::new(id(), &missing, scope());
    let mut diagnostics = source.diagnostics();
    let found = until(&mut source, &mut diagnostics, |now| !now.problems.is_empty()).await;
    assert!(!found.synced && found.problems[0].contains("east"), "{found:?}");

    // Made under another name, so that the source sees both files at once.
    let new = directory.path().join("new");
    fs::create_dir(&new).expect("made");
    fs::write(new.join("bad.yaml"), "kind: [").expect("written");
    fs::write(new.join("good.yaml"), namespace("a", "x")).expect("written");
    fs::rename(&new, &missing).expect("renamed");
    let found = until(&mut source, &mut diagnostics, |now| !now.errors.is_empty()).await;
    assert!(!found.synced);
    fs::remove_file(missing.join("bad.yaml")).expect("removed");
    assert_eq!(until_synced(&mut source).await, ["begin", "set Namespace east/a", "synced"]);

    // Facts outlive their directory, and a new one is followed.
    fs::rename(&missing, &new).expect("renamed");
    until(&mut source, &mut diagnostics, |now| !now.problems.is_empty()).await;
    fs::write(new.join("good.yaml"), namespace("a", "y")).expect("written");
    fs::rename(&new, &missing).expect("renamed");
    assert_eq!(next(&mut source).await, "set Namespace east/a");
    fs::write(missing.join("good.yaml"), namespace("a", "z")).expect("written");
    assert_eq!(next(&mut source).await, "set Namespace east/a");
}

#[tokio::test]
async fn a_file_that_is_being_written_is_not_read_by_halves() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.yaml");
    fs::write(&path, namespace("a", "x") + &namespace("b", "x")).expect("written");
    let mut source = ManifestDirectory::new(id(), directory.path(), scope());
    until_synced(&mut source).await;

    // Truncated, and the first document written again: b would be gone for somebody who read now.
    let mut file = fs::File::create(&path).expect("opened");
    file.write_all(namespace("a", "x").as_bytes()).expect("written");
    let early = tokio::time::timeout(Duration::from_millis(100), source.next()).await;
    assert!(early.is_err(), "{early:?}");
    file.write_all(namespace("b", "y").as_bytes()).expect("written");
    drop(file);
    assert_eq!(next(&mut source).await, "set Namespace east/b");
}

#[tokio::test]
async fn two_files_that_disagree_change_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = |name: &str| directory.path().join(name);
    fs::write(file("b.yaml"), namespace("a", "x")).expect("written");
    let mut source = ManifestDirectory::new(id(), directory.path(), scope());
    let mut diagnostics = source.diagnostics();
    until_synced(&mut source).await;
    fs::write(file("a.yaml"), namespace("a", "forged")).expect("written");
    let found = until(&mut source, &mut diagnostics, |now| !now.errors.is_empty()).await;
    assert!(found.errors[0].message.contains("already at"), "{found:?}");
    fs::remove_file(file("b.yaml")).expect("removed");
    assert_eq!(next(&mut source).await, "set Namespace east/a");
}

#[tokio::test]
async fn a_call_that_is_dropped_loses_nothing() {
    let directory = tempfile::tempdir().expect("a directory");
    for number in 0..50 {
        fs::write(directory.path().join(format!("{number}.yaml")), namespace(&format!("n{number}"), "x")).expect("written");
    }
    let mut source = ManifestDirectory::new(id(), directory.path(), PolicyScope::Cluster(east()));
    let mut events = 0;
    let end = Instant::now() + common::DEADLINE;
    while events < 52 && Instant::now() < end {
        if tokio::time::timeout(Duration::from_micros(50), source.next()).await.is_ok() {
            events += 1;
        }
    }
    assert_eq!(events, 52);
}

#[tokio::test]
async fn a_change_is_told_soon() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("a.yaml");
    fs::write(&path, namespace("a", "x")).expect("written");
    let mut source = ManifestDirectory::new(id(), directory.path(), scope());
    until_synced(&mut source).await;
    let mut times = Vec::new();
    for number in 0..15 {
        let begun = Instant::now();
        fs::write(&path, namespace("a", &format!("t{number}"))).expect("written");
        assert_eq!(next(&mut source).await, "set Namespace east/a");
        times.push(begun.elapsed());
    }
    times.sort();
    println!("write to event: median {:?}, slowest {:?}", times[7], times[14]);
    // The rescan alone would take seconds.
    assert!(times[7] < Duration::from_millis(500), "{times:?}");
}
