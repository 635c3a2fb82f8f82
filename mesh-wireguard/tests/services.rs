//! Which backend gets a connection, and which keeps the one that it has.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

#[path = "common/netns.rs"]
mod netns;
#[path = "common/node.rs"]
mod node;

use std::net::SocketAddr;

use mesh_core::{Protocol, SessionAffinity};
use mesh_dataplane::{Backends, Frontend, Scope};
use netns::{eventually, possible};
use node::{Node, apply, echo, services, tcp};

#[test]
fn a_client_with_affinity_keeps_its_backend_and_a_draining_backend_its_connections() {
    if !possible(&["ip"]) {
        return;
    }
    use std::io::{Read, Write};
    let mut a = Node::new(1);
    a.scope = Scope::Node;
    let (client, one, two) = (a.pod(5), a.pod(6), a.pod(7));
    echo(&one.netns, 7001, "1");
    echo(&two.netns, 7001, "2");
    let mut tunnel = a.start();
    for (family, address) in ["10.3.9.9", "fd00:3:9::9"].into_iter().enumerate() {
        let all = [(one.addresses[family], 7001), (two.addresses[family], 7001)];
        let frontend = Frontend { address: address.parse().unwrap(), protocol: Protocol::Tcp, port: 80 };
        let backends = Backends::alike(SessionAffinity::ClientIp { timeout_seconds: 1 }, &all);
        apply(&mut tunnel, &[services([(frontend, backends.clone())])]);
        eventually("the service answers", || tcp(&client.netns, frontend.address, 80, 10).is_ok());
        let name = tcp(&client.netns, frontend.address, 80, 10).unwrap();
        assert!((0..10).all(|_| tcp(&client.netns, frontend.address, 80, 10).unwrap() == name), "it has affinity");

        let to = SocketAddr::new(frontend.address, 80);
        let mut stream = client.netns.run(move || std::net::TcpStream::connect(to)).unwrap();
        stream.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
        let mut answer = [0; 1];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, name.as_bytes());
        // The backend takes no new connections: those that it has go on, and others go to the other one.
        let (kept, draining) = if name == "1" { (all[1], all[0]) } else { (all[0], all[1]) };
        let drained = Backends { rest: vec![draining], ..Backends::alike(backends.affinity, &[kept]) };
        apply(&mut tunnel, &[services([(frontend, drained)])]);
        for _ in 0..5 {
            stream.write_all(b"x").unwrap();
            stream.read_exact(&mut answer).unwrap();
            assert_eq!(&answer, b"x");
            assert_ne!(tcp(&client.netns, frontend.address, 80, 10).unwrap(), name);
        }
    }
}
