//! The agent ends and another one begins: what is established goes on.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use mesh_core::WireGuardKey;
use mesh_dataplane::conformance::plans::Plans;
use mesh_dataplane::{Op, Peer, PeerKeys, Tunnel};
use mesh_wireguard::{KernelTunnel, KernelTunnelConfig, NodeKey};

use crate::netns::{Netns, eventually, possible_in_kernel};
use crate::node::{Node, apply, echo, introduce, reaches};
use crate::tunnel::{endpoint, pair};

/// A connection that goes on and on.
struct Talk {
    rounds: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Talk {
    fn start(netns: &Netns, address: IpAddr, port: u16) -> Talk {
        let (rounds, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
        let (count, stopped) = (rounds.clone(), stop.clone());
        let thread = netns.run(move || {
            let mut stream = TcpStream::connect(SocketAddr::new(address, port)).unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            stream.read_exact(&mut [0]).unwrap();
            std::thread::spawn(move || {
                let (sent, mut back) = ([7; 4000], [0; 4000]);
                while !stopped.load(Ordering::Relaxed) {
                    stream.write_all(&sent).unwrap();
                    stream.read_exact(&mut back).unwrap();
                    assert_eq!(back, sent);
                    count.fetch_add(1, Ordering::Relaxed);
                }
            })
        });
        Talk { rounds, stop, thread: Some(thread) }
    }

    /// Waits until more has gone to and fro.
    fn goes_on(&self, when: &str) {
        let before = self.rounds.load(Ordering::Relaxed);
        eventually(when, || self.rounds.load(Ordering::Relaxed) > before + 50);
    }

    fn end(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().expect("the connection lived to its end");
    }
}

fn handshakes(node: &Node) -> String {
    node.netns.command("wg show landbridge0 latest-handshakes").1
}

#[test]
fn transfers_and_sessions_outlive_the_agent() {
    if !possible_in_kernel(&["ip", "wg"]) {
        return;
    }
    let (a, b) = pair();
    let (client, server) = (a.pod(5), b.pod(6));
    echo(&server.netns, 7000, "s");
    let (mut tunnel_a, mut tunnel_b) = (a.start_kernel(), b.start_kernel());
    introduce(&mut tunnel_a, &b, endpoint(&b));
    introduce(&mut tunnel_b, &a, endpoint(&a));
    // A node that is gone when the next agent comes, with its prefix.
    let stranger = NodeKey::from_bytes([77; 32]).public();
    let keys = PeerKeys { current: stranger, next: None };
    let (gone, prefix) = ("c3/node-3".parse::<mesh_core::NodeId>().unwrap(), "10.3.1.0/24".parse::<mesh_core::Prefix>().unwrap());
    apply(&mut tunnel_a, &[Op::SetPeer(gone.clone(), Peer { keys, endpoints: Vec::new() }), Op::SetRoute(prefix, gone)]);
    reaches(&client.netns, &server.addresses, 7000);
    let talks = server.addresses.map(|address| Talk::start(&client.netns, address, 7000));
    talks.iter().for_each(|talk| talk.goes_on("with the first agent"));
    let plan = tunnel_a.observe().unwrap();
    let before = handshakes(&a);
    assert!(before.contains(&b.key.public().to_string()), "{before}");

    for _ in 0..3 {
        drop(tunnel_a);
        talks.iter().for_each(|talk| talk.goes_on("without an agent"));
        let config = KernelTunnelConfig::new(a.key.clone());
        tunnel_a = a.netns.run(move || KernelTunnel::start(config)).unwrap();
        let found = tunnel_a.observe().unwrap();
        assert_eq!((found.policy, &found.local, &found.guarded), (None, &None, &plan.guarded));
        assert!(found.peers.keys().all(|node| node.cluster.as_str() == "unnamed"), "names are not in the kernel: {found:?}");
        talks.iter().for_each(|talk| talk.goes_on("with an agent that knows nothing yet"));
        // As the reconciler does it: what is new, then what is too much.
        a.settle(&mut tunnel_a);
        introduce(&mut tunnel_a, &b, endpoint(&b));
        let found = tunnel_a.observe().unwrap();
        let stale = found.routes.iter().filter(|(_, node)| **node != b.id()).map(|(prefix, _)| Op::DelRoute(*prefix));
        let nobody = found.peers.keys().filter(|node| **node != b.id()).cloned().map(Op::DelPeer);
        apply(&mut tunnel_a, &stale.chain(nobody).collect::<Vec<_>>());
        talks.iter().for_each(|talk| talk.goes_on("with the next agent"));
        let actual = tunnel_a.observe().unwrap();
        assert_eq!((actual.peers.keys().collect::<Vec<_>>(), actual.routes.len()), (vec![&b.id()], 2));
        assert_eq!((&actual.local, &actual.guarded), (&plan.local, &plan.guarded));
    }
    let after = handshakes(&a);
    assert_eq!(before.lines().find(|line| !line.contains(&stranger.to_string())), Some(after.trim()), "no key was reset");
    let way = a.netns.command("ip route get 10.3.1.5").1;
    assert!(!a.netns.ip("route show table 7300").contains("10.3.1.0/24"), "{way}");
    talks.into_iter().for_each(Talk::end);
}

/// The node at the other end goes over to its next key before anybody has said so.
#[test]
fn a_node_may_use_its_next_key_before_the_plan_says_so() {
    if !possible_in_kernel(&["ip", "wg"]) {
        return;
    }
    let (a, mut b) = pair();
    echo(&a.netns, 7000, "a");
    let next = NodeKey::from_bytes([42; 32]);
    let keys = |next: Option<WireGuardKey>| PeerKeys { current: b.key.public(), next };
    let peer = Peer { keys: keys(Some(next.public())), endpoints: endpoint(&b).into_iter().collect() };
    let mut tunnel_a = a.start_kernel();
    let [v4, v6] = b.prefixes().map(|prefix| Op::SetRoute(prefix, b.id()));
    apply(&mut tunnel_a, &[Op::SetPeer(b.id(), peer.clone()), v4, v6]);
    let mut tunnel_b = b.start_kernel();
    introduce(&mut tunnel_b, &a, endpoint(&a));
    reaches(&b.netns, &a.overlay(), 7000);
    drop(tunnel_b);

    b.key = next.clone();
    let mut tunnel_b = b.start_kernel();
    introduce(&mut tunnel_b, &a, endpoint(&a));
    eventually("the next key is the one that is used", || {
        tunnel_a.stats().unwrap().peers.iter().any(|peer| peer.key == next.public())
    });
    reaches(&b.netns, &a.overlay(), 7000);
    let actual = tunnel_a.observe().unwrap();
    assert_eq!((&actual.peers[&b.id()], actual.routes.len()), (&peer, 2), "it is as it was planned");
    let allowed = a.netns.command("wg show landbridge0 allowed-ips").1;
    assert!(
        allowed.lines().any(|line| line.starts_with(&next.public().to_string()) && line.contains("10.2.1.0/24")),
        "{allowed}"
    );
    // The plan follows; the session stays.
    let before = handshakes(&a);
    let renewed = Peer { keys: PeerKeys { current: next.public(), next: None }, ..peer };
    apply(&mut tunnel_a, &[Op::SetPeer(b.id(), renewed)]);
    let after = handshakes(&a);
    assert_eq!(before.lines().find(|line| line.starts_with(&next.public().to_string())), Some(after.trim()));
    reaches(&b.netns, &a.overlay(), 7000);
}

/// The agent ends between any two steps of a plan, again and again, and the next one has another plan.
#[test]
fn whatever_was_done_when_an_agent_ended_the_next_one_reaches_its_plan() {
    if !possible_in_kernel(&["ip", "wg"]) {
        return;
    }
    let netns = Netns::new();
    netns.ip("link add wg-foreign type wireguard");
    netns.ip("route add 10.99.0.0/16 dev lo table 7300 protocol 99");
    let foreign = || netns.command("wg showconf wg-foreign").1 + &netns.ip("route show table 7300 protocol 99");
    let before = foreign();
    let start = || {
        let config = KernelTunnelConfig { port: 0, ..KernelTunnelConfig::new(NodeKey::from_bytes([9; 32])) };
        netns.run(move || KernelTunnel::start(config)).unwrap()
    };
    let mut plans = Plans::new(77);
    let mut at = 0;
    for round in 0..60 {
        let (plan, mut tunnel) = (plans.any(), start());
        let ops = plan.diff(&tunnel.observe().unwrap());
        at = (at * 31 + 7) % 101;
        let done = &ops[..at % (ops.len() + 1)];
        apply(&mut tunnel, done);
        drop(tunnel);
        if round % 3 != 0 {
            continue;
        }
        let mut tunnel = start();
        let ops = plan.diff(&tunnel.observe().unwrap());
        apply(&mut tunnel, &ops);
        assert_eq!(tunnel.observe().unwrap(), plan.programmed(), "round {round}, after {} steps", done.len());
        let keys = plan.peers.values().flat_map(|peer| [Some(peer.keys.current), peer.keys.next]).flatten();
        let shown = netns.command("wg show landbridge0 peers").1;
        assert_eq!(
            shown.lines().collect::<BTreeSet<_>>(),
            keys.map(|key| key.to_string()).collect::<Vec<_>>().iter().map(String::as_str).collect()
        );
    }
    assert_eq!(foreign(), before);
}
