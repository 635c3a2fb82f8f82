//! The inbox: nodes announce themselves, each in its own file.

use std::fs;

use mesh_core::{NodeLink, WireGuardKey};
use mesh_source::{InboxDirectory, announce};

use common::{east, id, next, until, until_synced};

mod common;

fn link(node: &str, key: u8) -> NodeLink {
    let id = node.parse().expect("valid");
    NodeLink { id, key: WireGuardKey([key; 32]), next_key: None, endpoints: Vec::new(), overlay: Vec::new() }
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
