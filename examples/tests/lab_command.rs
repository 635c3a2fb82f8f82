//! `meshctl lab` as somebody uses it by hand: up, list, exec, apply, down.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;

use std::process::{Command, Output};

use common::{lab_name, may_build_labs, meshctl, shipped_fleet};

fn lab(arguments: &[&str]) -> Output {
    Command::new(meshctl()).arg("lab").args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn a_lab_is_left_running_looked_into_and_taken_down() {
    if !may_build_labs() {
        return;
    }
    let name = lab_name("hand");
    let fleet = shipped_fleet();
    let up = lab(&["up", "--name", &name, fleet.path().to_str().unwrap()]);
    let down = || lab(&["down", "--name", &name]);
    let result = std::panic::catch_unwind(|| {
        assert!(up.status.success() && text(&up).contains("meshctl lab down"), "{}", text(&up));
        assert!(text(&lab(&["list"])).lines().any(|line| line == name));
        // glibc's resolver, by the workload's own /etc/resolv.conf.
        let names = lab(&["exec", "--name", &name, "east/shop/web-0", "--", "getent", "ahosts", "db.shop.svc.clusterset.local"]);
        assert!(text(&names).contains("100.80.") && text(&names).contains("fd00:80:1::"), "{}", text(&names));
        let short = lab(&["exec", "--name", &name, "west/shop/report-0", "--", "getent", "hosts", "db"]);
        assert!(text(&short).contains("10.96.2.10"), "the search list finds a service of the own namespace: {}", text(&short));
        let node = lab(&["exec", "--name", &name, "east/node-1", "--", "cat", "/proc/net/dev"]);
        assert!(text(&node).contains("landbridge0"), "{}", text(&node));
        let again = lab(&["up", "--name", &name, fleet.path().to_str().unwrap()]);
        assert!(!again.status.success() && text(&again).contains("down"), "says what to do: {}", text(&again));
        let nowhere = lab(&["exec", "--name", &name, "east/shop/nobody", "--", "true"]);
        assert!(!nowhere.status.success() && text(&nowhere).contains("nobody"), "{}", text(&nowhere));
        assert!(lab(&["apply", "--name", &name]).status.success());
    });
    assert!(down().status.success());
    assert!(!text(&lab(&["list"])).lines().any(|line| line == name));
    assert!(down().status.success(), "a second time there is nothing to do");
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn a_broken_fleet_is_refused_with_every_mistake() {
    if !may_build_labs() {
        return;
    }
    let fleet = shipped_fleet();
    std::fs::write(fleet.path().join("clusters/east/bad.yaml"), "apiVersion: v1\nkind: Pod\nmetadata: {name: UPPER}\n").unwrap();
    std::fs::write(fleet.path().join("clusters/west/bad.yaml"), "kind: Service\n").unwrap();
    let up = lab(&["up", "--name", &lab_name("bad"), fleet.path().to_str().unwrap()]);
    assert!(!up.status.success());
    assert!(text(&up).contains("clusters/east/bad.yaml:3") && text(&up).contains("clusters/west/bad.yaml"), "{}", text(&up));
}
