//! Processes in a lab: started in the right namespace, killed, started again, and told apart from others.

use std::process::Command;
use std::time::Duration;

use mesh_lab::{Lab, Privilege, SpawnError, describe_exit};

use crate::helper;
use crate::support::{PATIENCE, privileged, up, wait_until};

#[test]
fn a_process_is_killed_and_started_again_under_the_same_log() {
    if !privileged() {
        return;
    }
    let lab = up("kill", 1, 0);
    let node = lab.node("c1", "n1").unwrap();
    let first = lab.spawn(&node, helper::command("wait", &[]), "agent").unwrap();
    let inside = std::fs::metadata(format!("/proc/{}/ns/net", first.pid())).unwrap();
    assert_eq!(std::os::unix::fs::MetadataExt::ino(&inside), node.id().unwrap());
    assert!(first.wait(Duration::from_millis(1)).unwrap().is_none() && first.is_running());
    let started = |times| move |log: String| log.matches("running 1 test").count() == times;
    wait_until("the first has started", || first.log().is_ok_and(started(1)));
    assert_eq!(describe_exit(first.kill().unwrap()), "ended by signal 9");
    assert!(!first.is_running());
    let second = lab.spawn(&node, helper::command("wait", &[]), "agent").unwrap();
    wait_until("the second has started", || second.log().is_ok_and(started(2)));
    assert_eq!(describe_exit(second.stop(PATIENCE).unwrap()), "ended by signal 15");
    assert_eq!(lab.running().unwrap(), []);
    let third = lab.spawn(&node, helper::command("fetch", &["https://no/"]), "agent").unwrap();
    assert!(third.wait(PATIENCE).unwrap().is_some_and(|status| status.success()));
    assert!(started(3)(third.log().unwrap()), "{}", third.log().unwrap());
}

#[test]
fn what_cannot_start_says_why() {
    if !privileged() {
        return;
    }
    let lab = up("start", 1, 0);
    let node = lab.node("c1", "n1").unwrap();
    let missing = lab.spawn(&node, Command::new("/no/such/program"), "x");
    assert!(matches!(&missing, Err(SpawnError::Start { program, .. }) if program == "/no/such/program"), "{missing:?}");
    let bad_log = lab.spawn(&node, helper::command("wait", &[]), "../x");
    assert!(matches!(bad_log, Err(SpawnError::Log { .. })), "{bad_log:?}");
    assert!(lab.node("c1", "n9").is_err());
}

#[test]
fn a_stranger_in_a_namespace_is_reported_and_left_alone() {
    if !privileged() {
        return;
    }
    let lab = up("stranger", 1, 0);
    let mut command = helper::command("wait", &[]);
    lab.node("c1", "n1").unwrap().enter(&mut command).unwrap();
    let mut stranger = command.spawn().unwrap();
    let report = lab.down().unwrap();
    let alive = stranger.try_wait().unwrap().is_none();
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert!(alive);
    assert_eq!(report.strangers.iter().map(|found| found.pid).collect::<Vec<_>>(), [stranger.id()]);
}

#[test]
fn privileges_are_all_there_or_each_has_a_remedy() {
    match Lab::check_privileges() {
        Ok(()) => assert!(std::fs::metadata("/run/netns").is_ok()),
        Err(missing) => {
            for missing in missing {
                assert!(missing.to_string().contains(missing.privilege.remedy()));
            }
        }
    }
    assert!(Privilege::Tun.remedy().contains("modprobe tun"));
}
