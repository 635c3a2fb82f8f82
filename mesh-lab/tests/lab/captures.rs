//! Captures tell real WireGuard-shaped datagrams from others, also in super-packets, and write readable files.
#![allow(unsafe_code, reason = "UDP_SEGMENT has no safe form in std")]

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd;

use mesh_lab::serve::HttpServer;
use mesh_lab::{Capture, CaptureFilter, CaptureOptions, Lab, probe};

use crate::support::{PATIENCE, privileged, up, v4};

/// A transport data message in form.
fn data(length: usize) -> Vec<u8> {
    let mut message = vec![0xee; length];
    message[..4].copy_from_slice(&[4, 0, 0, 0]);
    message
}

/// Returns a socket on node `c1` that speaks to node `c2`, both on WireGuard's port.
///
/// A test has one for all it sends: a child that another test is just forking may hold a copy of a closed one, and the
/// port with it, until it executes its program.
fn socket(lab: &Lab) -> UdpSocket {
    let node = lab.node("c1", "n1").unwrap();
    let socket = node.run(|| UdpSocket::bind((IpAddr::from([198, 51, 100, 1]), 51820))).unwrap().unwrap();
    socket.connect((IpAddr::from([198, 51, 100, 2]), 51820)).unwrap();
    socket
}

/// Sends a payload, as one super-packet of segments of this size; 0 for a plain packet.
fn send(socket: &UdpSocket, payload: &[u8], segment: i32) {
    // SAFETY: pointer and length describe an integer that outlives the call.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_UDP, libc::UDP_SEGMENT, (&raw const segment).cast(), 4) };
    assert_eq!(set, 0);
    assert_eq!(socket.send(payload).unwrap(), payload.len());
}

#[test]
fn super_packets_count_as_the_wireguard_messages_in_them() {
    if !privileged() {
        return;
    }
    let lab = up("gso", 2, 0);
    let receiver = lab.node("c2", "n1").unwrap();
    let _open = receiver.run(|| UdpSocket::bind((IpAddr::from([198, 51, 100, 2]), 51820))).unwrap().unwrap();
    let capture = Capture::start(&lab.underlay().unwrap()).unwrap();
    let socket = socket(&lab);
    send(&socket, &data(32), 0);
    send(&socket, &data(148 - 4), 0);
    send(&socket, &[data(1440), data(1440), data(48)].concat(), 1440);
    let clean = capture.wait_for(PATIENCE, |report| report.wireguard == 5).expect("five messages");
    assert_eq!((clean.by_type.keepalive, clean.by_type.data), (1, 4));
    assert!(clean.is_clean(), "{clean}");
    send(&socket, b"GET / HTTP/1.1\r\n\r\n", 0);
    send(&socket, &[data(1440), vec![0; 1440]].concat(), 1440);
    let report = capture.wait_for(PATIENCE, |report| report.other == 3).expect("three that are none");
    assert_eq!(report.samples[0], "198.51.100.1:51820 > 198.51.100.2:51820 UDP");
    let stopped = capture.stop().unwrap();
    assert_eq!((stopped.wireguard, stopped.other, stopped.drops), (5, 3, 0));
}

#[test]
fn an_error_that_quotes_ciphertext_is_not_plaintext() {
    if !privileged() {
        return;
    }
    let lab = up("icmp", 2, 0);
    let capture = Capture::start(&lab.underlay().unwrap()).unwrap();
    // Nobody listens: the node answers with "port unreachable".
    send(&socket(&lab), &data(64), 0);
    let report = capture.wait_for(PATIENCE, |report| report.control == 1).expect("one error");
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_pcap_file_holds_the_packets_that_were_seen() {
    if !privileged() {
        return;
    }
    let lab = up("pcap", 1, 2);
    let path = lab.run_dir().join("capture.pcap");
    let filter = CaptureFilter::default().from(v4(1, 0)).port(80);
    let options = CaptureOptions {
        pcap: Some(path.clone()),
        interface: Some("eth0".to_owned()),
        filter: Some(filter),
        ..CaptureOptions::default()
    };
    let server = lab.workload("c1", "shop", "w1").unwrap();
    let capture = Capture::start_with(&server, options).unwrap();
    let _http = server.run(|| HttpServer::start(80, "w1")).unwrap().unwrap();
    let client = lab.workload("c1", "shop", "w0").unwrap();
    assert!(client.run(|| probe::fetch(&format!("http://{}/needle", v4(1, 1)), PATIENCE)).unwrap().is_ok());
    let report = capture.stop().unwrap();
    if let Ok(keep) = std::env::var("MESH_LAB_KEEP_PCAP") {
        std::fs::copy(&path, keep).unwrap();
    }

    let file = std::fs::read(&path).unwrap();
    let word = |at: usize| u32::from_ne_bytes(file[at..at + 4].try_into().unwrap());
    assert_eq!((word(0), word(20)), (0xa1b2_3c4d, 276));
    let (mut at, mut frames, mut needle) = (24, 0, false);
    while at < file.len() {
        let (captured, original) = (word(at + 8) as usize, word(at + 12) as usize);
        assert_eq!(captured, original);
        let frame = &file[at + 16..at + 16 + captured];
        let version = frame[20] >> 4;
        match u16::from_be_bytes([frame[0], frame[1]]) {
            0x0800 => assert_eq!(version, 4),
            0x86dd => assert_eq!(version, 6),
            0x0806 => {}
            other => panic!("EtherType {other:#x}"),
        }
        needle |= frame.windows(11).any(|window| window == b"GET /needle");
        frames += 1;
        at += 16 + captured;
    }
    assert_eq!((at, frames), (file.len(), report.other + report.neighbour));
    assert!(needle && report.matched >= 4, "{report}");
}
