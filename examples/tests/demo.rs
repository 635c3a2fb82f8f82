//! The main job, as a newcomer runs it.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;

use std::process::{Command, Stdio};
use std::time::Instant;

use common::{eventually, is_installed, lab_name, may_build_labs, meshctl};

fn demo(name: &str, more: &[&str]) -> (bool, String) {
    let output = Command::new(meshctl()).args(["lab", "demo", "--name", name]).args(more).stdin(Stdio::null()).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), text)
}

/// Namespaces of the lab that are still there.
fn leftovers(name: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|file| file.starts_with(&format!("{name}-")))
        .collect()
}

#[test]
fn the_demo_succeeds_twice_and_after_a_kill_in_the_middle() {
    if !may_build_labs() {
        return;
    }
    let name = lab_name("demo");
    let start = Instant::now();
    let (succeeded, text) = demo(&name, &[]);
    println!("{text}\nfirst run: {:?}", start.elapsed());
    assert!(succeeded && !text.contains("FAIL"), "{text}");
    assert!(text.contains("nothing but WireGuard"));
    assert_eq!(leftovers(&name), [""; 0]);

    let mut killed = Command::new(meshctl())
        .args(["lab", "demo", "--name", &name])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("agents run", || {
        std::path::Path::new(&format!("/run/landbridge/lab/{name}/fleet/nodes/west-node-2/agent.sock")).exists()
    });
    killed.kill().unwrap();
    killed.wait().unwrap();
    assert!(!leftovers(&name).is_empty(), "a killed demo cannot clean up: the next one must");

    let (succeeded, text) = demo(&name, &["--ipv6"]);
    assert!(succeeded && !text.contains("FAIL"), "{text}");
    assert_eq!(leftovers(&name), [""; 0]);
}

/// The same story with an etcd for each cluster, over TLS.
#[test]
fn the_demo_succeeds_with_etcd() {
    if !may_build_labs() || !is_installed("etcd", "etcd-server") {
        return;
    }
    let name = lab_name("demoetcd");
    let (succeeded, text) = demo(&name, &["--store", "etcd"]);
    println!("{text}");
    assert!(succeeded && !text.contains("FAIL"), "{text}");
    assert!(text.contains("nothing but WireGuard, and TLS"), "{text}");
    assert_eq!(leftovers(&name), [""; 0]);
}

#[test]
fn ctrl_c_takes_everything_down() {
    if !may_build_labs() {
        return;
    }
    let name = lab_name("ctrlc");
    let mut child = Command::new(meshctl())
        .args(["lab", "demo", "--name", &name])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    eventually("the lab is being built", || !leftovers(&name).is_empty());
    let status = Command::new("sh").args(["-c", &format!("kill -INT {}", child.id())]).status().unwrap();
    assert!(status.success());
    assert_eq!(child.wait().unwrap().code(), Some(130));
    assert_eq!(leftovers(&name), [""; 0]);
}
