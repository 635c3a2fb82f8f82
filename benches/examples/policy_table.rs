//! What the kernel's policy table costs: to program a whole one, to change it, and for each packet.
//!
//! ```text
//! cargo run --release -p mesh-benches --example policy_table [WORKLOADS [POLICIES]]     10000 and 1000 unless said otherwise
//! ```
//!
//! Runs as root, in a network namespace of its own. The fleet is generated; the kernel, its nftables and the packets are real:
//! TUN devices stand for the tunnel and for the workloads, and one thread writes packets and reads them again.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use mesh_benches::fleet::{CLUSTERS, Fleet, Size, set, unset};
use mesh_core::{Direction, FiveTuple, NodeId, ObjectName, Prefix, Protocol, Resource, State, Workload};
use mesh_dataplane::{Local, Scope};
use mesh_policy::{Compiler, PolicySet};
use mesh_wireguard::batch::Packets;
use mesh_wireguard::tun::Tun;
use mesh_wireguard::{DEVICE, PolicyRules};

/// The workloads' device.
const PODS: &str = "pods0";
/// Changes of each kind.
const CHANGES: u32 = 40;
/// Packets of each round, rounds, and the connections that they are of.
const PACKETS: usize = 20_000;
const ROUNDS: usize = 9;
const CONNECTIONS: usize = 64;

fn main() -> ExitCode {
    if std::env::var_os("OWN_NAMESPACE").is_none() {
        let program = std::env::current_exe().expect("a program has a file");
        let mut inside = Command::new("unshare");
        inside.arg("--net").arg(program).args(std::env::args_os().skip(1)).env("OWN_NAMESPACE", "1");
        let done = inside.status().is_ok_and(|status| status.success());
        return if done { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let mut numbers = std::env::args().skip(1).map(|text| text.parse::<u32>().expect("WORKLOADS and POLICIES are numbers"));
    let (workloads, policies) = (numbers.next().unwrap_or(10_000), numbers.next().unwrap_or(1_000));
    let mut router = Router::new();
    let small = Node::new(10, 10);
    router.rules.set(&small.policy(), Some(&small.local), DEVICE).expect("the kernel takes the table");
    let mut large = Node::new(workloads, policies);
    program(&mut router, &mut large);

    // Side by side, round by round: the machine may not be quiet.
    let mut costs = [Vec::new(), Vec::new(), Vec::new()];
    let connections = [&small, &small, &large].map(Node::connections);
    for _ in 0..ROUNDS {
        for (at, node) in [None, Some(&small), Some(&large)].into_iter().enumerate() {
            match node {
                None => router.rules.remove().expect("the table is ours"),
                Some(node) => router.rules.set(&node.policy(), Some(&node.local), DEVICE).expect("the kernel takes the table"),
            }
            costs[at].push(router.cost(&connections[at]));
        }
    }
    let [bare, small, large] = costs.map(median);
    println!("a packet forwarded: {bare:.0?} without a table, {small:.0?} with 10 workloads, {large:.0?} with {workloads}");
    let part = |a: Duration, b: Duration| a.as_secs_f64() / b.as_secs_f64().max(1e-9);
    let alone = part(large.saturating_sub(bare), small.saturating_sub(bare));
    println!("    {:.2} times as much; of what the table adds {alone:.2} times", part(large, small));
    ExitCode::SUCCESS
}

/// Programs a large node from nothing, then changes it.
fn program(router: &mut Router, node: &mut Node) {
    router.rules.remove().expect("the table is ours");
    let started = Instant::now();
    router.rules.set(&node.policy(), Some(&node.local), DEVICE).expect("the kernel takes the table");
    let whole = started.elapsed();
    let size = router.rules.size();
    println!(
        "{} workloads ({} of them here), {} policies: {whole:.1?} to program, {} chains, {} rules, {} sets, {} elements",
        node.fleet.size().workloads,
        node.local.prefixes.len(),
        node.fleet.size().policies,
        size.chains,
        size.rules,
        size.sets,
        size.elements,
    );
    let here: Vec<u32> = (0..node.fleet.size().workloads).filter(|number| node.is_here(&node.fleet.workload(*number))).collect();
    let there: Vec<u32> = (0..node.fleet.size().workloads).filter(|number| !here.contains(number)).collect();
    for (what, of) in [("elsewhere", &there), ("here", &here)] {
        let pick = |change: u32| of[change as usize * 7 % of.len()];
        let mut change = |node: &mut Node, what: &str, each: &mut dyn FnMut(&mut Node, u32)| {
            let mut times = Vec::new();
            for number in 0..CHANGES {
                each(node, pick(number));
                let policy = node.policy();
                let started = Instant::now();
                router.rules.set(&policy, Some(&node.local), DEVICE).expect("the kernel takes the change");
                times.push(started.elapsed());
            }
            let longest = times.iter().max().copied().unwrap_or_default();
            println!("    {what}: {:.1?} (median), {longest:.1?} (longest)", median(times));
        };
        let change = &mut change;
        change(node, &format!("a workload {what} goes"), &mut |node, number| {
            let workload = Resource::Workload(node.fleet.workload(number));
            node.tell(|state| unset(state, &workload));
        });
        change(node, &format!("a workload {what} comes"), &mut |node, number| {
            let workload = Resource::Workload(node.fleet.workload(number));
            node.tell(|state| set(state, workload.clone()));
        });
        change(node, &format!("a workload {what} has other labels"), &mut |node, number| {
            let workload = node.fleet.relabelled(number).unwrap_or_else(|| node.fleet.workload(number));
            node.tell(|state| set(state, Resource::Workload(workload.clone())));
        });
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// A node of a fleet: what it knows, and what lives there.
struct Node {
    fleet: Fleet,
    state: State,
    compiler: Compiler,
    local: Local,
}

impl Node {
    fn new(workloads: u32, policies: u32) -> Node {
        let fleet = Fleet::new(Size { workloads, identities: workloads.div_ceil(4), policies, rules_per_policy: 4 });
        let state = fleet.state();
        let mut compiler = Compiler::new();
        compiler.update(&state, &mesh_core::Change::default());
        // The cluster with most workloads on its first node: of very small fleets some have none.
        let node =
            |cluster: &&str| NodeId { cluster: cluster.parse().expect("valid"), name: ObjectName::new("node-0").expect("valid") };
        let lives_on = |node: &NodeId| -> BTreeSet<Prefix> {
            let all = (0..workloads).map(|number| fleet.workload(number));
            let here = all.filter(|workload| workload.id.cluster == node.cluster && workload.node.as_ref() == Some(&node.name));
            here.flat_map(|workload| workload.addresses).map(Prefix::host).collect()
        };
        let nodes = CLUSTERS.iter().map(node);
        let (node, prefixes) =
            nodes.map(|node| (node.clone(), lives_on(&node))).max_by_key(|(_, all)| all.len()).expect("clusters");
        let local = Local { node, prefixes, overlay: Vec::new(), scope: Scope::Node };
        Node { fleet, state, compiler, local }
    }

    fn is_here(&self, workload: &Workload) -> bool {
        workload.addresses.iter().any(|address| self.local.prefixes.iter().any(|prefix| prefix.contains(*address)))
    }

    fn tell(&mut self, what: impl FnOnce(&mut State) -> mesh_core::Change) {
        let change = what(&mut self.state);
        self.compiler.update(&self.state, &change);
    }

    fn policy(&self) -> std::sync::Arc<PolicySet> {
        self.compiler.current().clone()
    }

    /// Returns allowed connections from here to elsewhere.
    fn connections(&self) -> Vec<Vec<u8>> {
        let policy = self.policy();
        let here: Vec<IpAddr> = self.local.prefixes.iter().map(|prefix| prefix.address()).collect();
        let elsewhere = (0..self.fleet.size().workloads).map(|number| self.fleet.address(number)).filter(|a| !here.contains(a));
        // Of a very small fleet all that is allowed may be outside.
        let outside = (1..=64).map(|last| IpAddr::from([203, 0, 113, last]));
        let elsewhere: Vec<IpAddr> = elsewhere.chain(outside).collect();
        let mut found = Vec::new();
        'all: for destination in &elsewhere {
            for (at, source) in here.iter().enumerate() {
                let port = [8080, 8000, 3000, 9090, 53][at % 5];
                let source_port = 1024 + found.len() as u16;
                let ends = FiveTuple {
                    source: *source,
                    destination: *destination,
                    protocol: Protocol::Tcp,
                    source_port,
                    destination_port: port,
                };
                if policy.decide(&policy.flow(&ends), Direction::Egress).is_allow() {
                    found.push(segment(&ends));
                    if found.len() == CONNECTIONS {
                        break 'all;
                    }
                }
            }
        }
        assert!(!found.is_empty(), "some connection is allowed");
        found
    }
}

/// Returns a TCP segment that opens a connection.
fn segment(tuple: &FiveTuple) -> Vec<u8> {
    let (IpAddr::V4(source), IpAddr::V4(destination)) = (tuple.source, tuple.destination) else { unreachable!("IPv4 alone") };
    let mut packet = vec![0x45, 0, 0, 40, 0, 0, 0, 0, 64, 6, 0, 0];
    packet.extend(source.octets());
    packet.extend(destination.octets());
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&checksum.to_be_bytes());
    packet.extend(tuple.source_port.to_be_bytes());
    packet.extend(tuple.destination_port.to_be_bytes());
    packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    packet
}

/// Forwards between two devices in this program's hands.
struct Router {
    tunnel: Tun,
    pods: Tun,
    rules: PolicyRules,
}

impl Router {
    fn new() -> Router {
        let ip = |line: &str| {
            let done = Command::new("ip").args(line.split(' ')).status().expect("ip is installed");
            assert!(done.success(), "ip {line}");
        };
        let [tunnel, pods] = [DEVICE, PODS].map(|name| Tun::open_plain(name).expect("a TUN device"));
        for setting in ["ip_forward", "conf/all/rp_filter", "conf/default/rp_filter", "conf/pods0/rp_filter"] {
            let value = if setting == "ip_forward" { "1" } else { "0" };
            std::fs::write(format!("/proc/sys/net/ipv4/{setting}"), value).expect("a namespace of one's own");
        }
        for device in [DEVICE, PODS] {
            ip(&format!("link set {device} up txqueuelen 5000"));
        }
        ip(&format!("route add default dev {DEVICE}"));
        let rules = PolicyRules::open().expect("the kernel has nftables");
        Router { tunnel, pods, rules }
    }

    /// Returns the time that a packet takes, of those that come out.
    fn cost(&mut self, connections: &[Vec<u8>]) -> Duration {
        let (mut batch, mut back) = (Packets::new(), Packets::new());
        connections.iter().for_each(|packet| batch.push(packet));
        let mut arrived = 0;
        // What conntrack does not take for right is not counted twice.
        let _ = std::fs::write("/proc/sys/net/netfilter/nf_conntrack_checksum", "0");
        let started = Instant::now();
        for _ in 0..PACKETS / connections.len() {
            self.pods.send(&batch);
            back.clear();
            self.tunnel.receive(&mut back, 1000, 1500);
            arrived += back.len();
        }
        let sent = PACKETS / connections.len() * connections.len();
        assert!(arrived >= sent, "{arrived} of {sent} came through");
        started.elapsed() / u32::try_from(sent).expect("few")
    }
}
