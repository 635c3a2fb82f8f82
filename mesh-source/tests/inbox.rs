//! The inbox: nodes announce themselves, each in its own file.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Instant;

use mesh_core::{NodeLink, WallTime, WireGuardKey};
use mesh_source::inbox::{Announced, SILENT_AFTER, policies_in_force};
use mesh_source::{AnnounceError, InboxDirectory, Source};

use common::{east, id, next, until, until_synced};

mod common;

fn link(node: &str, key: u8) -> NodeLink {
    let id = node.parse().expect("valid");
    NodeLink { id, key: WireGuardKey([key; 32]), next_key: None, endpoints: Vec::new(), overlay: Vec::new() }
}

fn announce(inbox: &Path, link: &NodeLink) -> Result<(), AnnounceError> {
    mesh_source::announce(inbox, link, None, WallTime::from_unix_secs(1))
}

#[tokio::test]
async fn nodes_say_which_policies_they_have_in_force_without_a_change_of_their_links() {
    let directory = tempfile::tempdir().expect("a directory");
    let say = |node: &str, policies, seconds| {
        mesh_source::announce(directory.path(), &link(node, 1), policies, WallTime::from_unix_secs(seconds)).expect("announced");
    };
    say("east/node-1", Some(17), 1);
    // As a version before wrote it: without the fields.
    let old = serde_json::to_vec(&link("east/node-2", 1)).expect("plain data");
    fs::write(directory.path().join("node-2.json"), old).expect("written");
    let mut source = InboxDirectory::new(id(), directory.path(), east());
    let mut announced = source.announced();
    until_synced(&mut source).await;
    let said = |announced: &BTreeMap<_, Announced>| announced.values().map(|node| node.policies).collect::<Vec<_>>();
    assert_eq!(said(&announced.borrow()), [Some(17), None]);
    assert_eq!(policies_in_force(announced.borrow().values(), Instant::now()), None);

    let before = announced.borrow().clone();
    say("east/node-1", Some(17), 2);
    say("east/node-2", Some(16), 2);
    let later = tokio::select! {
        event = source.next() => panic!("no link is different, and yet: {event:?}"),
        later = announced.wait_for(|now| now.iter().all(|(name, node)| node.heard > before[name].heard)) => {
            later.expect("the source lives").clone()
        }
    };
    assert_eq!(policies_in_force(later.values(), Instant::now()), Some(16));

    // Who is silent for long has no say, and where all are nobody says anything.
    let mut silent = later;
    for node in silent.values_mut().skip(1) {
        node.heard -= SILENT_AFTER;
    }
    assert_eq!(policies_in_force(silent.values(), Instant::now()), Some(17));
    assert_eq!(policies_in_force([], Instant::now()), None);
}

#[tokio::test]
async fn announcements_come_and_go() {
    let directory = tempfile::tempdir().expect("a directory");
    let inbox = directory.path().join("inbox");
    let mut source = InboxDirectory::new(id(), &inbox, east());
    assert_eq!(until_synced(&mut source).await, ["begin", "synced"]);
    announce(&inbox, &link("east/node-1", 1)).expect("announced");
    assert_eq!(next(&mut source).await, "set NodeLink east/node-1");
    announce(&inbox, &link("east/node-1", 2)).expect("announced");
    assert_eq!(next(&mut source).await, "set NodeLink east/node-1");
    fs::remove_file(inbox.join("node-1.json")).expect("removed");
    assert_eq!(next(&mut source).await, "unset NodeLink east/node-1");
    let left: Vec<_> = fs::read_dir(&inbox).expect("read").collect();
    assert!(left.is_empty(), "temporary files are left: {left:?}");
}

#[tokio::test]
async fn a_file_speaks_for_its_own_node_only() {
    let directory = tempfile::tempdir().expect("a directory");
    announce(directory.path(), &link("east/node-1", 1)).expect("announced");
    announce(directory.path(), &link("west/node-3", 1)).expect("announced");
    fs::write(directory.path().join("node-4.json"), "{").expect("written");
    let mut source = InboxDirectory::new(id(), directory.path(), east());
    let mut diagnostics = source.diagnostics();
    assert_eq!(until_synced(&mut source).await, ["begin", "set NodeLink east/node-1", "synced"]);
    assert_eq!((diagnostics.borrow().mismatches, diagnostics.borrow().problems.len()), (1, 2));

    // node-2's file claims to be node-1, with another key: node-1 stays as it is.
    let forged = serde_json::to_vec(&link("east/node-1", 9)).expect("plain data");
    fs::write(directory.path().join("node-2.json"), forged).expect("written");
    let found = until(&mut source, &mut diagnostics, |now| now.mismatches == 2).await;
    assert!(found.problems.iter().any(|problem| problem.contains("node-2") && problem.contains("refused")), "{found:?}");

    // A broken announcement leaves the last good one.
    fs::write(directory.path().join("node-1.json"), "{").expect("written");
    until(&mut source, &mut diagnostics, |now| now.problems.len() == 4).await;
    announce(directory.path(), &link("east/node-2", 3)).expect("announced");
    assert_eq!(next(&mut source).await, "set NodeLink east/node-2");
}
