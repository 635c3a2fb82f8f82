//! Nodes with pods, and the plans for them.
#![allow(dead_code, clippy::unwrap_used, reason = "each test uses its part, and may fail anywhere")]

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use mesh_core::{Change, Prefix, Protocol, SessionAffinity, Settings, State, StateConfig, Trust, WireGuardKey};
use mesh_dataplane::{Backends, Frontend, Local, Op, Peer, PeerKeys, Scope, ServiceTable, Tunnel};
use mesh_policy::{Compiler, PolicySet};
use mesh_wireguard::{KernelTunnel, KernelTunnelConfig, NodeKey, UserTunnel, UserTunnelConfig};

use crate::netns::{Netns, eventually};

/// The policy of a fleet without policies: everything is allowed.
pub(crate) fn allow_all() -> Arc<PolicySet> {
    let config = StateConfig { fleet: "".into(), trust: Trust::Open, settings: Settings::default(), domains: Default::default() };
    Compiler::new().update(&State::new(config), &Change::default()).clone()
}

/// Node `n` has the underlay addresses 192.0.2.n and 2001:db8::n, the prefixes 10.n.1.0/24 and fd00:n:1::/64, and the overlay
/// addresses that end in 1 there.
pub(crate) struct Node {
    pub(crate) number: u8,
    pub(crate) netns: Netns,
    pub(crate) key: NodeKey,
    pub(crate) scope: Scope,
    /// The device takes and gives super-packets.
    pub(crate) offload: bool,
}

impl Node {
    pub(crate) fn new(number: u8) -> Node {
        let netns = Netns::new();
        for setting in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
            netns.sysctl(setting, "1");
        }
        Node { number, netns, key: NodeKey::from_bytes([number; 32]), scope: Scope::Cluster, offload: true }
    }

    /// Connects the underlays of two nodes.
    pub(crate) fn connect(&self, other: &Node) {
        self.netns.connect("underlay", &other.netns, "underlay");
        for node in [self, other] {
            node.netns.ip(&format!("addr add 192.0.2.{}/24 dev underlay", node.number));
            node.netns.ip(&format!("addr add 2001:db8::{}/64 dev underlay nodad", node.number));
        }
    }

    pub(crate) fn id(&self) -> mesh_core::NodeId {
        format!("c{0}/node-{0}", self.number).parse().unwrap()
    }

    pub(crate) fn prefixes(&self) -> [Prefix; 2] {
        [format!("10.{}.1.0/24", self.number), format!("fd00:{}:1::/64", self.number)].map(|text| text.parse().unwrap())
    }

    pub(crate) fn overlay(&self) -> Vec<IpAddr> {
        [format!("10.{}.1.1", self.number), format!("fd00:{}:1::1", self.number)].map(|text| text.parse().unwrap()).into()
    }

    pub(crate) fn start(&self) -> UserTunnel {
        self.start_at(51820)
    }

    pub(crate) fn start_at(&self, port: u16) -> UserTunnel {
        let config = UserTunnelConfig { port, offload: self.offload, ..UserTunnelConfig::new(self.key.clone()) };
        let mut tunnel = self.netns.run(move || UserTunnel::start(config)).expect("the tunnel starts");
        self.settle(&mut tunnel);
        tunnel
    }

    /// The same in the kernel.
    pub(crate) fn start_kernel(&self) -> KernelTunnel {
        let config = KernelTunnelConfig::new(self.key.clone());
        let mut tunnel = self.netns.run(move || KernelTunnel::start(config)).expect("the tunnel starts");
        self.settle(&mut tunnel);
        tunnel
    }

    /// Tells a tunnel of the node itself.
    pub(crate) fn settle(&self, tunnel: &mut dyn Tunnel) {
        apply(tunnel, &[Op::SetPolicy(allow_all()), Op::SetGuarded(self.guarded()), Op::SetLocal(self.local())]);
    }

    pub(crate) fn local(&self) -> Local {
        Local { node: self.id(), prefixes: self.prefixes().into(), overlay: self.overlay(), scope: self.scope }
    }

    /// The whole fleet, without what the node leaves to others.
    pub(crate) fn guarded(&self) -> BTreeSet<Prefix> {
        let fleet = (1..=3).flat_map(|n| [format!("10.{n}.0.0/16"), format!("fd00:{n}::/32")]);
        let fleet = fleet.map(|text| text.parse::<Prefix>().unwrap());
        let own = self.prefixes();
        fleet.filter(|prefix| self.scope == Scope::Node || !own.iter().any(|own| prefix.covers(*own))).collect()
    }

    /// Adds a pod with the addresses that end in `host`.
    pub(crate) fn pod(&self, host: u8) -> Pod {
        let netns = Netns::new();
        let veth = format!("pod{host}");
        self.netns.connect(&veth, &netns, "eth0");
        let [v4, v6] = [format!("10.{}.1.{host}", self.number), format!("fd00:{}:1::{host}", self.number)];
        self.netns.ip(&format!("addr add 169.254.1.1/32 dev {veth}"));
        self.netns.ip(&format!("addr add fe80::1/128 dev {veth} nodad"));
        self.netns.ip(&format!("route add {v4}/32 dev {veth}"));
        self.netns.ip(&format!("route add {v6}/128 dev {veth}"));
        netns.ip(&format!("addr add {v4}/32 dev eth0"));
        netns.ip(&format!("addr add {v6}/128 dev eth0 nodad"));
        netns.ip("route add 169.254.1.1/32 dev eth0");
        netns.ip("route add default via 169.254.1.1 dev eth0");
        netns.ip("route add default via fe80::1 dev eth0");
        Pod { netns, addresses: [v4, v6].map(|text| text.parse().unwrap()) }
    }
}

/// A workload.
pub(crate) struct Pod {
    pub(crate) netns: Netns,
    pub(crate) addresses: [IpAddr; 2],
}

pub(crate) fn apply(tunnel: &mut dyn Tunnel, ops: &[Op]) {
    let failed = tunnel.apply(ops);
    assert!(failed.is_empty(), "{failed:?} of {ops:?}");
}

/// Tells `tunnel` of a node that is reached at `endpoint`.
pub(crate) fn introduce(tunnel: &mut dyn Tunnel, node: &Node, endpoint: Option<SocketAddr>) {
    introduce_key(tunnel, node, endpoint, node.key.public());
}

pub(crate) fn introduce_key(tunnel: &mut dyn Tunnel, node: &Node, endpoint: Option<SocketAddr>, current: WireGuardKey) {
    let peer = Peer { keys: PeerKeys { current, next: None }, endpoints: endpoint.into_iter().collect() };
    let [v4, v6] = node.prefixes().map(|prefix| Op::SetRoute(prefix, node.id()));
    apply(tunnel, &[Op::SetPeer(node.id(), peer), v4, v6]);
}

/// A service with TCP and UDP on `port`.
pub(crate) fn service(address: &str, port: u16, ready: &[(IpAddr, u16)]) -> [(Frontend, Backends); 2] {
    [Protocol::Tcp, Protocol::Udp].map(|protocol| {
        let backends = Backends::alike(SessionAffinity::None, ready);
        (Frontend { address: address.parse().unwrap(), protocol, port }, backends)
    })
}

pub(crate) fn services(all: impl IntoIterator<Item = (Frontend, Backends)>) -> Op {
    Op::SetServices(Arc::new(ServiceTable(all.into_iter().collect())))
}

/// Echoes TCP and UDP on `port` of a namespace, each with `name` first, until the namespace goes.
pub(crate) fn echo(netns: &Netns, port: u16, name: &'static str) {
    netns.run(move || {
        for any in ["0.0.0.0", "::"] {
            let address = SocketAddr::new(any.parse().unwrap(), port);
            let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None).unwrap();
            socket.set_reuse_address(true).unwrap();
            if address.is_ipv6() {
                socket.set_only_v6(true).unwrap();
            }
            socket.bind(&address.into()).unwrap();
            socket.listen(16).unwrap();
            let listener: TcpListener = socket.into();
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    std::thread::spawn(move || serve(stream, name));
                }
            });
            let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::DGRAM, None).unwrap();
            if address.is_ipv6() {
                socket.set_only_v6(true).unwrap();
            }
            socket.bind(&address.into()).unwrap();
            let socket: UdpSocket = socket.into();
            std::thread::spawn(move || {
                let mut buffer = [0; 2000];
                while let Ok((len, from)) = socket.recv_from(&mut buffer) {
                    let _ = socket.send_to(&[name.as_bytes(), &buffer[..len]].concat(), from);
                }
            });
        }
    });
}

fn serve(mut stream: TcpStream, name: &str) {
    let _ = stream.write_all(name.as_bytes());
    let mut buffer = [0; 65536];
    while let Ok(len @ 1..) = stream.read(&mut buffer) {
        if stream.write_all(&buffer[..len]).is_err() {
            return;
        }
    }
}

/// Sends `len` bytes over TCP and reads them back; returns the server's name.
pub(crate) fn tcp(netns: &Netns, address: IpAddr, port: u16, len: usize) -> std::io::Result<String> {
    netns.run(move || {
        let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), Duration::from_secs(2))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut name = [0; 1];
        stream.read_exact(&mut name)?;
        let data: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
        let mut sender = stream.try_clone()?;
        let sent = data.clone();
        let sending = std::thread::spawn(move || sender.write_all(&sent));
        let mut back = vec![0; len];
        stream.read_exact(&mut back)?;
        sending.join().expect("the sender does not panic")?;
        assert_eq!(back, data, "what came back is what was sent");
        Ok(String::from_utf8_lossy(&name).into_owned())
    })
}

pub(crate) fn udp(netns: &Netns, address: IpAddr, port: u16) -> std::io::Result<String> {
    netns.run(move || {
        let any: IpAddr = if address.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.connect(SocketAddr::new(address, port))?;
        socket.send(b"hello")?;
        let mut buffer = [0; 64];
        let len = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..len]).into_owned())
    })
}

/// Sends a datagram of each length to an echo and compares what comes back; those longer than the MTU travel in fragments.
pub(crate) fn udp_of(netns: &Netns, address: IpAddr, port: u16, lengths: &'static [usize]) -> std::io::Result<()> {
    netns.run(move || {
        let any: IpAddr = if address.is_ipv4() { [0, 0, 0, 0].into() } else { [0u16; 8].into() };
        let socket = UdpSocket::bind(SocketAddr::new(any, 0))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        socket.connect(SocketAddr::new(address, port))?;
        for len in lengths {
            let data: Vec<u8> = (0..*len).map(|at| (at % 239) as u8).collect();
            socket.send(&data)?;
            let mut back = vec![0; len + 1];
            let got = socket.recv(&mut back)?;
            assert_eq!((got, &back[1..]), (len + 1, &data[..]), "a datagram of {len} bytes");
        }
        Ok(())
    })
}

/// Waits until `from` reaches `port` of every address over TCP and UDP.
pub(crate) fn reaches(from: &Netns, addresses: &[IpAddr], port: u16) {
    for address in addresses {
        let mut last = String::new();
        eventually(&format!("TCP to {address}"), || match tcp(from, *address, port, 100_000) {
            Ok(_) => true,
            Err(error) => {
                if error.to_string() != last {
                    last = error.to_string();
                    eprintln!("tcp to {address}: {last}");
                }
                false
            }
        });
        eventually(&format!("UDP to {address}"), || udp(from, *address, port).is_ok());
    }
}
