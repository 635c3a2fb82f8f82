//! `meshctl dns query` against a running fleet.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;

use std::process::Command;

use common::may_build_labs;

/// `meshctl dns query` asks the agent itself, not its DNS sockets, and teaches where there is no answer.
#[test]
fn meshctl_dns_query_answers_from_the_running_agent() {
    if !may_build_labs() {
        return;
    }
    let fleet = common::demo_fleet("dnsquery");
    common::fetch_until(
        &fleet,
        "east/shop/web-0",
        "http://db.shop.svc.clusterset.local:5432/",
        mesh_lab::probe::ProbeResult::is_ok,
    );
    let socket = fleet.socket(&common::node("east/node-1"));
    let ask = |arguments: &[&str]| {
        let output =
            Command::new(common::meshctl()).args(["dns", "query", "--socket"]).arg(&socket).args(arguments).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code().unwrap(), text)
    };
    let (status, text) = ask(&["db.shop.svc.clusterset.local"]);
    let address = text.lines().nth(1).and_then(|line| line.split(' ').next_back()).unwrap_or_default().to_owned();
    assert!(status == 0 && text.contains("NOERROR (this node's own answer)") && address.starts_with("100.80."), "{text}");
    let (status, text) = ask(&["--json", "-t", "aaaa", "DB.shop.svc.clusterset.local."]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &json["rcode"], &json["authoritative"]), (0, &"NOERROR".into(), &true.into()));
    assert_eq!((&json["name"], &json["answer"][0]["type"]), (&"db.shop.svc.clusterset.local.".into(), &"AAAA".into()), "{text}");
    let (status, text) = ask(&[&address]);
    assert!(status == 0 && text.contains(" PTR db.shop.svc.clusterset.local."), "{text}");
    let (status, text) = ask(&["ghost.shop.svc.clusterset.local"]);
    assert!(status == 1 && text.contains("NXDOMAIN") && text.contains("authority: ") && text.contains("meshctl state"), "{text}");
    for (arguments, words) in [(&["a..b"][..], "is not a DNS name"), (&["-t", "QUUX", "a.b"], "is not a DNS record type")] {
        let (status, text) = ask(arguments);
        assert!(status == 1 && text.starts_with("error: ") && text.contains(words), "{text}");
    }
    common::finish(fleet);
    let (status, text) = ask(&["db.shop.svc.clusterset.local"]);
    assert!(status == 1 && text.contains("is mesh-agent running"), "{text}");
    let help = Command::new(common::meshctl()).args(["dns", "query", "--help"]).output().unwrap();
    let help = String::from_utf8(help.stdout).unwrap();
    assert!(help.contains("Exit status") && help.contains("meshctl dns check"), "{help}");
}
