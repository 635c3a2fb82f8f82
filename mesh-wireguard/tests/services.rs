//! Which backend gets a connection, and which keeps the one that it has.
#![allow(clippy::unwrap_used, reason = "a test may fail anywhere")]

#[path = "common/netns.rs"]
mod netns;
#[path = "common/node.rs"]
mod node;

use std::net::SocketAddr;
use std::time::Duration;

use mesh_core::{Protocol, SessionAffinity};
use mesh_dataplane::{Backends, Frontend, Scope};
use netns::{eventually, possible};
use node::{Node, apply, echo, service, services, tcp};

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
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
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

#[test]
fn who_waits_for_a_lost_backend_is_sent_to_another() {
    if !possible(&["ip"]) {
        return;
    }
    let mut a = Node::new(1);
    a.scope = Scope::Node;
    let (client, one, two, silent) = (a.pod(5), a.pod(6), a.pod(7), a.pod(8));
    echo(&one.netns, 7001, "1");
    echo(&two.netns, 7001, "2");
    // Whatever comes there is lost: no way leads back.
    silent.netns.ip("-4 route flush default");
    silent.netns.ip("-6 route flush default");
    let mut tunnel = a.start();
    for (family, address) in ["10.3.9.9", "fd00:3:9::9"].into_iter().enumerate() {
        let [one, two, silent] = [&one, &two, &silent].map(|pod| (pod.addresses[family], 7001));
        let (from, to) = (client.addresses[family], SocketAddr::new(address.parse().unwrap(), 80));
        let serve = |backend| services(service(address, 80, &[backend]));

        // A connection, and the next one from the same port.
        apply(&mut tunnel, &[serve(silent)]);
        let connect = |patience| client.netns.run(move || connect_from(SocketAddr::new(from, 40_001), to, patience));
        assert!(connect(Duration::from_millis(300)).is_err());
        apply(&mut tunnel, &[serve(two)]);
        connect(Duration::from_secs(5)).expect("the port is not bound to the lost backend");

        // A connection that is being opened: it goes on with its next retransmission.
        apply(&mut tunnel, &[serve(silent)]);
        let client_netns = &client.netns;
        std::thread::scope(|scope| {
            let opening = scope.spawn(move || {
                client_netns.run(move || connect_from(SocketAddr::new(from, 40_002), to, Duration::from_secs(10)))
            });
            std::thread::sleep(Duration::from_millis(500));
            assert!(!opening.is_finished());
            apply(&mut tunnel, &[serve(two)]);
            opening.join().unwrap().expect("it is sent to the other one");
        });

        // Datagrams without a pause: to a backend that takes no new ones, and to one that is no more.
        apply(&mut tunnel, &[serve(one)]);
        let socket = client.netns.run(move || std::net::UdpSocket::bind(SocketAddr::new(from, 0))).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
        socket.connect(to).unwrap();
        let ask = || {
            let mut answer = [0; 16];
            socket.send(b"x").unwrap();
            let len = socket.recv(&mut answer).unwrap_or(0);
            String::from_utf8_lossy(&answer[..len]).into_owned()
        };
        eventually("datagrams are answered", || ask().starts_with('1'));
        let draining =
            service(address, 80, &[two]).map(|(frontend, backends)| (frontend, Backends { rest: vec![one], ..backends }));
        apply(&mut tunnel, &[services(draining)]);
        assert_eq!(ask().get(..1), Some("1"));
        apply(&mut tunnel, &[serve(two)]);
        assert_eq!(ask().get(..1), Some("2"));
    }
}

fn connect_from(from: SocketAddr, to: SocketAddr, patience: Duration) -> std::io::Result<()> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(from), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&from.into())?;
    socket.connect_timeout(&to.into(), patience)?;
    // The answer of the server, and an end without a state that would keep the port.
    socket.set_read_timeout(Some(patience))?;
    std::io::Read::read_exact(&mut &socket, &mut [0])?;
    socket.set_linger(Some(Duration::ZERO))
}
