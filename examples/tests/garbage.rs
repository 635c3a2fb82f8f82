//! What comes from outside may be anything: a running agent counts it and goes on.

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

mod common;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use common::{demo_fleet, eventually, fetch_until, finish, may_build_labs, node, workload};
use mesh_core::ClusterName;
use mesh_lab::probe::ProbeResult;

const DB: &str = "http://db.shop.svc.clusterset.local:5432/";

/// A small generator with a fixed seed: the same bytes in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        let len = self.next() as usize % (most + 1);
        (0..len).map(|_| self.next() as u8).collect()
    }
}

#[test]
fn random_bytes_on_wireguard_dns_and_tun_crash_nothing() {
    if !may_build_labs() {
        return;
    }
    let fleet = demo_fleet("garbage");
    let victim = node("east/node-1");
    let attacker = fleet.lab().node("west", "node-2").unwrap();
    let mut random = Random(0x5eed_1234_5678_9abc);

    // The WireGuard port, from the underlay: noise, and noise that begins like a message.
    attacker
        .run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for round in 0..2000 {
                let mut bytes = random.bytes(1500);
                if round % 2 == 0 && bytes.len() > 4 {
                    bytes[..4].copy_from_slice(&[1 + (round / 2 % 4) as u8, 0, 0, 0]);
                    bytes.resize([148, 92, 64, bytes.len()][round / 2 % 4].max(16), 0);
                }
                let _ = socket.send_to(&bytes, "172.31.11.2:51820");
            }
        })
        .unwrap();

    // The DNS port, from a workload, UDP and TCP.
    let inside = fleet.lab().workload("east", "shop", "web-0").unwrap();
    let dns: SocketAddr = "169.254.20.10:53".parse().unwrap();
    inside
        .run(|| {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            for _ in 0..2000 {
                let _ = socket.send_to(&random.bytes(600), dns);
            }
            for _ in 0..20 {
                let mut stream = TcpStream::connect_timeout(&dns, Duration::from_secs(5)).unwrap();
                stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
                let _ = stream.write_all(&random.bytes(2000));
                let _ = stream.read(&mut [0; 512]);
            }
        })
        .unwrap();

    // The TUN device: packets that no workload would send, from a raw socket on its node.
    let on_node = fleet.lab().node("east", "node-1").unwrap();
    on_node.run(|| send_raw_into_device("landbridge0", &mut random)).unwrap();

    // The agent shows what it counted a little later.
    let mut last = String::new();
    eventually("what was dropped is counted", || {
        let drops = fleet.status(&victim).unwrap().drops;
        if format!("{drops:?}") != last {
            last = format!("{drops:?}");
            eprintln!("{last}");
        }
        drops.values().sum::<u64>() >= 1000
    });
    assert!(fleet.agent(&victim).unwrap().is_running());
    let result = fetch_until(&fleet, "east/shop/web-0", DB, ProbeResult::is_ok);
    assert!(result.field("server").unwrap().contains("db-0"));
    finish(fleet);
}

/// Sends random bytes out of a device as IP packets, so that whoever holds its other end reads them.
#[allow(unsafe_code, reason = "a packet socket has no safe interface in the standard library")]
fn send_raw_into_device(device: &str, random: &mut Random) {
    use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
    let name = std::ffi::CString::new(device).unwrap();
    // SAFETY: a plain system call without pointers.
    let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) };
    assert!(fd >= 0, "{}", std::io::Error::last_os_error());
    // SAFETY: the descriptor was just made and is nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(fd) };
    // SAFETY: the name is a C string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    assert!(index > 0, "{device} is there");
    for round in 0..2000 {
        let mut bytes = random.bytes(1400);
        if let Some(first) = bytes.first_mut() {
            *first = [0x45, 0x60, 0x4f, *first][round % 4];
        }
        // SAFETY: all-zero bytes are a valid sockaddr_ll.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = u16::to_be(if round % 4 == 1 { 0x86dd } else { 0x0800 });
        address.sll_ifindex = index as i32;
        // SAFETY: both pointers are to values that outlive the call, with their own lengths.
        unsafe {
            libc::sendto(
                socket.as_raw_fd(),
                bytes.as_ptr().cast(),
                bytes.len(),
                0,
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
    }
}

/// A store is not trusted: what it holds is refused and counted, and what was true stays true.
#[test]
fn forged_records_are_refused_and_counted() {
    if !may_build_labs() {
        return;
    }
    let fleet = demo_fleet("forged");
    let (east, west) = (ClusterName::new("east").unwrap(), ClusterName::new("west").unwrap());
    let victim = node("east/node-2");
    let store = fleet.store(&east).join("west");
    let slices: Vec<_> = fs::read_dir(&store).unwrap().flatten().map(|entry| entry.path()).collect();
    let original =
        slices.iter().find(|path| path.to_string_lossy().contains("slice")).expect("west's slices were mirrored").clone();
    let bytes = fs::read(&original).unwrap();
    let count = |reason: &str| fleet.status(&victim).unwrap().refusals.get(reason).copied().unwrap_or(0);

    // One bit of a signed record, under a name that no mirror writes.
    let mut flipped = bytes.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    fs::write(store.join("slice__shop__forged-1.rec"), &flipped).unwrap();
    eventually("the bad signature is counted", || count("bad-signature") + count("malformed") > 0);

    // Bytes that are no record at all.
    fs::write(store.join("slice__shop__forged-2.rec"), b"\xff\xfe not a record").unwrap();
    eventually("the nonsense is counted", || count("malformed") > 0);

    // A record outside its signer's grant, signed with the real key of west.
    let root = mesh_source::keyfiles::read_signing_key(&fleet.root_key()).unwrap();
    let key = mesh_source::keyfiles::read_signing_key(&fleet.cluster_key(&west)).unwrap();
    let lie = common::slice_record("west", "node-1", "10.1.1.10", (u64::MAX, 1)).sign(&root.public(), &key).unwrap();
    fs::write(store.join("slice__shop__forged-3.rec"), &lie).unwrap();
    eventually("the foreign prefix is counted", || count("outside-prefixes") + count("outside-node") > 0);

    // An old version of what west says now.
    let old = common::slice_record("west", "node-1", "10.2.1.77", (0, 1)).sign(&root.public(), &key).unwrap();
    fs::write(store.join("slice__shop__forged-4.rec"), &old).unwrap();
    eventually("the replay is counted", || count("replayed") > 0);

    let result = fetch_until(&fleet, "east/shop/web-0", "http://10.1.2.10:8080/", ProbeResult::is_ok);
    assert_eq!(result.field("server").unwrap(), "east/shop/cart-0");
    let probe = fleet.probe(&workload("east/shop/web-0"), "http://10.2.1.77:5432/", Duration::from_millis(500)).unwrap();
    assert!(!probe.is_ok());
    finish(fleet);
}
