//! The test program itself, started once more to be a process of a lab, or to own one and die.

use std::net::{Ipv6Addr, TcpListener};
use std::process::Command;

use mesh_lab::{Lab, LabOptions, probe, serve, transfer};

use crate::support::{PATIENCE, topology};

const ROLE: &str = "MESH_LAB_HELPER";

/// Returns a command that plays the part `role`; `words` are separated by spaces.
pub(crate) fn command(role: &str, words: &[&str]) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "helper::plays_a_part", "--nocapture", "--test-threads=1"]);
    command.env(ROLE, [&[role], words].concat().join(" "));
    command
}

/// Not a test of its own: does nothing unless started by [`command`].
#[test]
fn plays_a_part() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let words: Vec<&str> = role.split(' ').collect();
    match words[..] {
        ["wait"] => wait_for_ever(),
        ["serve", port, name] => serve::http(port.parse().unwrap(), name).unwrap(),
        ["fetch", url] => println!("\n{}", serde_json::to_string(&probe::fetch(url, PATIENCE)).unwrap()),
        ["receive", port] => {
            let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port.parse().unwrap())).unwrap();
            println!("\n{}", serde_json::to_string(&transfer::receive(&listener, PATIENCE).unwrap()).unwrap());
        }
        ["clean", name] => println!("\n{:?}", Lab::clean(name).unwrap()),
        ["own", name, keep] => own(name, keep == "keep"),
        _ => panic!("no such part: {role}"),
    }
}

/// Sets up a lab with one process in it, says so, and waits to be killed; or leaves, if the lab is to be kept.
fn own(name: &str, keep: bool) {
    let lab = Lab::up(&topology(name.to_owned(), 1, 1), LabOptions { keep, ..LabOptions::default() }).unwrap();
    let netns = lab.node("c1", "n1").unwrap();
    lab.spawn(&netns, command("wait", &[]), "agent").unwrap();
    std::fs::write(lab.run_dir().join("ready"), "").unwrap();
    if !keep {
        wait_for_ever();
    }
}

fn wait_for_ever() -> ! {
    loop {
        std::thread::park();
    }
}
