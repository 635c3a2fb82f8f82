//! A node's forwarding without a tunnel: the tunnel's device and the workloads' device are TUNs in the test's hands.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::AsRawFd;

use mesh_core::FiveTuple;
use mesh_dataplane::Local;
use mesh_policy::PolicySet;
use mesh_wireguard::PolicyRules;
use mesh_wireguard::batch::Packets;
use mesh_wireguard::tun::Tun;

use crate::netns::Netns;
use crate::packets;

/// The tunnel's device, and the one that all workloads of the node are behind.
const DEVICES: [&str; 2] = ["landbridge0", "pods0"];

/// How long the devices are listened to, in milliseconds: the kernel forwards a packet while it is written.
const QUIET: i32 = 20;

pub(crate) struct Router {
    pub(crate) netns: Netns,
    pub(crate) rules: PolicyRules,
    pub(crate) tunnel: Tun,
    pub(crate) pods: Tun,
    local: BTreeSet<std::net::IpAddr>,
}

impl Router {
    pub(crate) fn new() -> Router {
        let netns = Netns::new();
        let [tunnel, pods] = DEVICES.map(|name| netns.run(move || Tun::open_plain(name).unwrap()));
        for (setting, value) in [
            ("ipv4/ip_forward", "1"),
            ("ipv4/conf/all/rp_filter", "0"),
            ("ipv4/conf/default/rp_filter", "0"),
            ("ipv6/conf/all/forwarding", "1"),
        ] {
            netns.sysctl(setting, value);
        }
        for device in DEVICES {
            for (setting, value) in [("rp_filter", "0"), ("send_redirects", "0")] {
                netns.sysctl(&format!("ipv4/conf/{device}/{setting}"), value);
            }
            netns.ip(&format!("link set {device} up txqueuelen 5000"));
        }
        netns.ip("route add default dev landbridge0");
        netns.ip("-6 route add default dev landbridge0");
        let rules = netns.run(|| PolicyRules::open().unwrap());
        Router { netns, rules, tunnel, pods, local: BTreeSet::new() }
    }

    /// Programs a policy, and routes what is local to the workloads.
    pub(crate) fn program(&mut self, set: &PolicySet, local: &Local) {
        self.rules.set(set, Some(local), DEVICES[0]).unwrap();
        let addresses: BTreeSet<_> = local.prefixes.iter().map(|prefix| prefix.address()).collect();
        for gone in self.local.difference(&addresses) {
            self.netns.ip(&format!("route del {gone} dev pods0"));
        }
        for new in addresses.difference(&self.local) {
            self.netns.ip(&format!("route add {new} dev pods0"));
        }
        self.local = addresses;
        // Conntrack is there once a rule asks for it.
        self.netns.sysctl("netfilter/nf_conntrack_checksum", "0");
        // What went both ways without ports before is one connection.
        self.netns.run(forget_connections);
    }

    /// Opens connections; returns those of which the first packet came out where it belongs.
    pub(crate) fn probe(&mut self, tuples: &[FiveTuple]) -> BTreeSet<FiveTuple> {
        let mut from: [Packets; 2] = [Packets::new(), Packets::new()];
        for (number, tuple) in tuples.iter().enumerate() {
            from[usize::from(self.local.contains(&tuple.source))].push(&packets::opening(tuple, number as u16));
        }
        let devices = [&mut self.tunnel, &mut self.pods];
        for (device, packets) in devices.into_iter().zip(&from) {
            assert_eq!(device.send(packets), 0, "the device takes every packet");
        }
        let mut passed = BTreeSet::new();
        while self.is_readable() {
            for (at, device) in [&mut self.tunnel, &mut self.pods].into_iter().enumerate() {
                let mut packets = Packets::new();
                device.receive(&mut packets, 10_000, 1500);
                for tuple in packets.iter().filter_map(packets::read) {
                    if self.local.contains(&tuple.destination) == (at == 1) {
                        passed.insert(tuple);
                    }
                }
            }
        }
        passed
    }

    /// Has a workload's packet (or else one from the tunnel) forwarded; returns what comes out at the other device.
    pub(crate) fn forward(&mut self, from_workload: bool, packet: &[u8]) -> Vec<Vec<u8>> {
        let mut packets = Packets::new();
        packets.push(packet);
        let (from, to) = match from_workload {
            true => (&mut self.pods, &mut self.tunnel),
            false => (&mut self.tunnel, &mut self.pods),
        };
        assert_eq!(from.send(&packets), 0);
        packets.clear();
        to.receive(&mut packets, 100, 1500);
        packets.iter().filter(|packet| !packets::is_of_the_kernel(packet)).map(<[u8]>::to_vec).collect()
    }

    /// Returns how many packets each chain of a verdict has counted.
    pub(crate) fn counted(&self) -> BTreeMap<String, u64> {
        let (ok, text) = self.netns.command(&format!("nft list table inet {}", self.rules.table()));
        assert!(ok, "{text}");
        let mut counted = BTreeMap::new();
        let mut chain = "";
        for line in text.lines().map(str::trim) {
            if let Some(name) = line.strip_prefix("chain ") {
                chain = name.trim_end_matches(" {");
            }
            if let Some(rest) = line.strip_prefix("counter packets ") {
                counted.insert(chain.to_owned(), rest.split(' ').next().unwrap().parse().unwrap());
            }
        }
        counted
    }

    #[allow(unsafe_code, reason = "the kernel is called here")]
    fn is_readable(&self) -> bool {
        let mut polled =
            [&self.tunnel, &self.pods].map(|tun| libc::pollfd { fd: tun.as_raw_fd(), events: libc::POLLIN, revents: 0 });
        // SAFETY: the descriptors and their number are those of the array.
        unsafe { libc::poll(polled.as_mut_ptr(), 2, QUIET) > 0 }
    }
}

/// Has the kernel forget the connections of this namespace: ctnetlink's DELETE without a name.
#[allow(unsafe_code, reason = "the kernel is called here")]
fn forget_connections() {
    let mut request = [0u8; 20];
    request[0] = 20;
    request[4..8].copy_from_slice(&[2, 1, (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u8, 0]);
    let mut answer = [0u8; 64];
    // SAFETY: each call gets a buffer with its own length; the descriptor is closed once.
    let error = unsafe {
        let socket = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_NETFILTER);
        assert!(socket >= 0 && libc::send(socket, request.as_ptr().cast(), request.len(), 0) == 20);
        assert!(libc::recv(socket, answer.as_mut_ptr().cast(), answer.len(), 0) >= 20);
        libc::close(socket);
        i32::from_ne_bytes([answer[16], answer[17], answer[18], answer[19]])
    };
    assert_eq!(error, 0, "connections can be forgotten");
}
