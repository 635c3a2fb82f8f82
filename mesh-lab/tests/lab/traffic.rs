//! Workloads reach each other, by both families, with their own addresses, and by name.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use mesh_lab::probe::{ProbeFailure, ProbeResult, fetch};
use mesh_lab::serve::HttpServer;
use mesh_lab::transfer::{self, TransferOptions, TransferReport};
use mesh_lab::{Capture, CaptureFilter, CaptureOptions, DEFAULT_DNS_V4, Netns};

use crate::helper;
use crate::support::{PATIENCE, privileged, up, v4, v6, wait_until};

fn ask(netns: &Netns, url: &str) -> ProbeResult {
    netns.run(|| fetch(url, PATIENCE)).unwrap()
}

#[test]
fn workloads_of_two_clusters_speak_plaintext_without_a_mesh() {
    if !privileged() {
        return;
    }
    let lab = up("traffic", 2, 2);
    let client = lab.workload("c1", "shop", "w0").unwrap();
    let server = lab.workload("c2", "shop", "w1").unwrap();
    let _http = server.run(|| HttpServer::start(80, "c2-w1")).unwrap().unwrap();
    let underlay = Capture::start(&lab.underlay().unwrap()).unwrap();
    let filter = CaptureFilter::default().from(v4(1, 0)).to(v4(2, 1)).port(80).protocol(6);
    let options = CaptureOptions { filter: Some(filter), ..CaptureOptions::default() };
    let arrivals = Capture::start_with(&server, options).unwrap();
    for (url, own) in [(format!("http://{}/", v4(2, 1)), v4(1, 0)), (format!("http://[{}]/", v6(2, 1)), v6(1, 0))] {
        let result = ask(&client, &url);
        assert_eq!(result.field("server").as_deref(), Some("c2-w1"), "{result:?}");
        let client: SocketAddr = result.field("client").unwrap().parse().unwrap();
        assert_eq!((client.ip(), Some(client)), (own, result.local), "the source is kept");
    }
    let seen = underlay.stop().unwrap();
    assert_eq!((seen.wireguard, seen.drops), (0, 0));
    assert!(seen.other >= 10 && !seen.is_clean(), "two whole connections: {seen}");
    let first = format!("{}:", v4(1, 0));
    assert!(seen.samples.iter().any(|line| line.starts_with(&first) && line.ends_with("10.2.0.6:80 TCP")), "{seen}");
    assert!(arrivals.stop().unwrap().matched >= 4);
}

#[test]
fn workloads_of_one_node_reach_each_other_and_the_nodes_dns_address() {
    if !privileged() {
        return;
    }
    let lab = up("node", 1, 2);
    let (one, two) = (lab.workload("c1", "shop", "w0").unwrap(), lab.workload("c1", "shop", "w1").unwrap());
    let node = lab.node("c1", "n1").unwrap();
    let _two = two.run(|| HttpServer::start(80, "two")).unwrap().unwrap();
    let _node = node.run(|| HttpServer::start(80, "node")).unwrap().unwrap();
    for address in [v4(1, 1), v6(1, 1)] {
        let result = ask(&one, &format!("http://{}/", SocketAddr::new(address, 80)));
        assert_eq!(result.field("server").as_deref(), Some("two"), "{result:?}");
    }
    for address in lab.topology().dns {
        let result = ask(&one, &format!("http://{}/", SocketAddr::new(address, 80)));
        assert_eq!(result.field("server").as_deref(), Some("node"), "{result:?}");
    }
    // The node speaks to its workloads with its own address.
    let result = ask(&node, &format!("http://{}/", v4(1, 1)));
    assert_eq!(result.local.map(|local| local.ip()), Some(IpAddr::from([198, 51, 100, 1])));
    // And where nothing is, the underlay says so.
    assert_eq!(ask(&one, "http://203.0.113.7/").failure, Some(ProbeFailure::Unreachable));
    assert_eq!(ask(&one, "http://[2001:db8:ffff::7]/").failure, Some(ProbeFailure::Unreachable));
}

/// Answers every A question with `address` and every other with nothing, until told to stop by an empty datagram.
fn answer_dns(socket: &UdpSocket, address: Ipv4Addr) -> Vec<String> {
    let mut asked = Vec::new();
    let mut query = [0; 512];
    loop {
        let (length, client) = socket.recv_from(&mut query).unwrap();
        if length == 0 {
            return asked;
        }
        let end = 12 + query[12..length].iter().position(|byte| *byte == 0).unwrap() + 5;
        let mut name = String::new();
        let mut rest = &query[12..end - 5];
        while let Some((label, after)) = rest.split_first().map(|(length, rest)| rest.split_at(usize::from(*length))) {
            name += &format!("{}.", String::from_utf8_lossy(label));
            rest = after;
        }
        let known = name == "web.shop.svc.cluster.local.";
        let is_a = query[end - 3] == 1;
        asked.push(name);
        let mut answer = query[..end].to_vec();
        answer[2] = 0x84;
        answer[3] = if known { 0x80 } else { 0x83 };
        answer[6..12].fill(0);
        if known && is_a {
            answer[7] = 1;
            answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4]);
            answer.extend(address.octets());
        }
        socket.send_to(&answer, client).unwrap();
    }
}

#[test]
fn programs_in_a_workload_resolve_names_by_the_nodes_dns() {
    if !privileged() {
        return;
    }
    let lab = up("dns", 1, 2);
    let (client, server) = (lab.workload("c1", "shop", "w0").unwrap(), lab.workload("c1", "shop", "w1").unwrap());
    let node = lab.node("c1", "n1").unwrap();
    let socket = node.run(|| UdpSocket::bind((DEFAULT_DNS_V4, 53))).unwrap().unwrap();
    let stop = socket.try_clone().unwrap();
    let IpAddr::V4(address) = v4(1, 1) else { unreachable!() };
    let dns = std::thread::spawn(move || answer_dns(&socket, address));
    let _http = server.run(|| HttpServer::start(80, "web")).unwrap().unwrap();
    // A process, not a thread: it has the workload's resolv.conf.
    let found = lab.spawn(&client, helper::command("fetch", &["http://web/"]), "found").unwrap();
    let missing = lab.spawn(&client, helper::command("fetch", &["http://nobody.shop/"]), "missing").unwrap();
    for process in [&found, &missing] {
        let status = process.wait(PATIENCE).unwrap();
        assert!(status.is_some_and(|status| status.success()), "{status:?}: {}", process.log().unwrap());
    }
    node.run(|| stop.send_to(&[], (DEFAULT_DNS_V4, 53))).unwrap().unwrap();
    let asked = dns.join().unwrap();
    let result = |log: String| log.lines().find_map(|line| serde_json::from_str::<ProbeResult>(line).ok());
    let found = result(found.log().unwrap()).unwrap();
    assert_eq!(found.resolved, [SocketAddr::new(v4(1, 1), 80)], "{asked:?}");
    assert_eq!(found.field("server").as_deref(), Some("web"));
    assert_eq!(result(missing.log().unwrap()).unwrap().failure, Some(ProbeFailure::NameNotFound));
    assert!(asked.contains(&"nobody.shop.svc.cluster.local.".to_owned()), "{asked:?}");
    // The host's own file is as it was.
    assert!(!std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default().contains("shop.svc"));
}

#[test]
fn a_transfer_between_clusters_arrives_whole() {
    if !privileged() {
        return;
    }
    let lab = up("transfer", 2, 1);
    let (from, to) = (lab.workload("c1", "shop", "w0").unwrap(), lab.workload("c2", "shop", "w0").unwrap());
    let receiver = lab.spawn(&to, helper::command("receive", &["9000"]), "receiver").unwrap();
    let peer = SocketAddr::new(v6(2, 0), 9000);
    let options = TransferOptions { bytes: 2_000_000, rate: 10_000_000, seed: 1, stall: Duration::from_secs(5) };
    let mut sent = None;
    wait_until("the receiver listens", || {
        sent = from.run(|| transfer::send(peer, options, |_| {})).unwrap().ok();
        sent.is_some()
    });
    assert!(receiver.wait(PATIENCE).unwrap().is_some_and(|status| status.success()), "{}", receiver.log().unwrap());
    let log = receiver.log().unwrap();
    let received: TransferReport = log.lines().find_map(|line| serde_json::from_str(line).ok()).unwrap();
    assert_eq!((received.bytes, received.checksum), (2_000_000, sent.unwrap().checksum));
    assert_eq!(received.peer.ip(), v6(1, 0));
}
