//! The server's limits: slow and greedy clients on TCP, addresses of replies, questions without a socket.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "real sockets")]

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::time::Duration;

use domain::base::Message;
use domain::base::iana::{Rcode, Rtype};
use mesh_discovery::{QueryError, ResolverConfig, Server, ServerHandle, ServerLimits, ServerStats};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};

use crate::packets::{Says, message, query, records, response, zone};

const PATIENCE: Duration = Duration::from_secs(20);

struct Running {
    address: SocketAddr,
    stats: ServerStats,
    handle: ServerHandle,
    /// The server stops when this is dropped.
    _stop: oneshot::Sender<()>,
}

async fn start_on(listen: &str, upstreams: Vec<SocketAddr>, limits: ServerLimits) -> Running {
    let (keep, zones) = watch::channel(zone());
    let config = ResolverConfig { upstreams, timeout: Duration::from_millis(300), ..ResolverConfig::default() };
    let server = Server::bind_with(&[listen.parse().expect("an address")], config, limits, zones).await.expect("a free port");
    let (address, stats, handle) = (server.local_addresses()[0], server.stats(), server.handle());
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(async move {
        server
            .run(async {
                let _ = stopped.await;
            })
            .await;
        drop(keep);
    });
    Running { address, stats, handle, _stop: stop }
}

async fn start(limits: ServerLimits) -> Running {
    start_on("127.0.0.1:0", Vec::new(), limits).await
}

/// An upstream that answers once it gets the word.
async fn upstream(go: oneshot::Receiver<()>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let address = socket.local_addr().expect("bound");
    tokio::spawn(async move {
        let mut go = Some(go);
        let mut buffer = vec![0; 4096];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            if let Some(go) = go.take() {
                let _ = go.await;
            }
            let name = message(buffer[..len].to_vec()).sole_question().expect("one").qname().to_string();
            let packet = response(&buffer[..len], Rcode::NOERROR, &[Says::Address(&name, 9, 60)]);
            socket.send_to(&packet, from).await.expect("loopback");
        }
    });
    address
}

async fn send(stream: &mut TcpStream, packet: &[u8]) {
    let frame = [&(packet.len() as u16).to_be_bytes(), packet].concat();
    stream.write_all(&frame).await.expect("the server reads");
}

async fn receive(stream: &mut TcpStream) -> std::io::Result<Message<Vec<u8>>> {
    let len = stream.read_u16().await?;
    let mut buffer = vec![0; len.into()];
    stream.read_exact(&mut buffer).await?;
    Ok(message(buffer))
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::task::yield_now().await;
    }
}

fn own() -> Vec<u8> {
    query("web.shop.svc.cluster.local", Rtype::A)
}

#[tokio::test]
async fn a_client_that_sends_a_query_byte_by_byte_is_cut_off_while_others_are_served() {
    let server = start(ServerLimits { tcp_message: Duration::from_millis(150), ..ServerLimits::default() }).await;
    let mut slow = TcpStream::connect(server.address).await.expect("loopback");
    slow.write_all(&[0]).await.expect("the server reads");
    let mut other = TcpStream::connect(server.address).await.expect("loopback");
    send(&mut other, &own()).await;
    assert_eq!(timeout(PATIENCE, receive(&mut other)).await.expect("in time").expect("a reply").header_counts().ancount(), 1);
    let mut byte = [0];
    assert_eq!(timeout(PATIENCE, slow.read(&mut byte)).await.expect("closed in time").expect("closed"), 0);
    until("the slow client is counted", || server.stats.read().tcp_slow == 1).await;
}

#[tokio::test]
async fn a_client_that_takes_no_replies_is_cut_off() {
    let server = start(ServerLimits { tcp_message: Duration::from_millis(150), ..ServerLimits::default() }).await;
    let mut greedy = TcpStream::connect(server.address).await.expect("loopback");
    // 200 addresses each: the kernel's buffers are full after some hundred of them.
    let ask = query("many.shop.svc.cluster.local", Rtype::A);
    let frame = [&(ask.len() as u16).to_be_bytes(), ask.as_slice()].concat();
    let ended = async { while greedy.write_all(&frame).await.is_ok() {} };
    timeout(PATIENCE, ended).await.expect("the server gives up in time");
    until("the greedy client is counted", || server.stats.read().tcp_slow == 1).await;
}

#[tokio::test]
async fn one_client_cannot_take_all_connections() {
    let limits = ServerLimits { tcp_connections: 3, tcp_connections_per_client: 2, ..ServerLimits::default() };
    let server = start(limits).await;
    let connect = async |from: &str| {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind(format!("{from}:0").parse().expect("an address")).expect("loopback");
        let mut stream = socket.connect(server.address).await.expect("the kernel accepts it");
        let packet = own();
        let frame = [&(packet.len() as u16).to_be_bytes(), packet.as_slice()].concat();
        // It may be closed already.
        let _ = stream.write_all(&frame).await;
        let served = timeout(PATIENCE, receive(&mut stream)).await.expect("in time").is_ok();
        (stream, served)
    };
    let (first, second) = (connect("127.0.0.1").await, connect("127.0.0.1").await);
    assert!(first.1 && second.1);
    assert!(!connect("127.0.0.1").await.1, "the third of one client");
    let other = connect("127.0.0.2").await;
    assert!(other.1, "another client");
    assert!(!connect("127.0.0.3").await.1, "the fourth of all");
    assert_eq!(server.stats.read().tcp_refused, 2);
    drop(first);
    let deadline = Instant::now() + PATIENCE;
    while !connect("127.0.0.1").await.1 {
        assert!(Instant::now() < deadline, "a closed connection makes room");
    }
}

#[tokio::test]
async fn queries_of_one_connection_wait_for_each_other_up_to_a_limit_and_all_are_answered() {
    let (go, word) = oneshot::channel();
    let limits = ServerLimits { tcp_pipelined: 4, ..ServerLimits::default() };
    let server = start_on("127.0.0.1:0", vec![upstream(word).await], limits).await;
    let mut stream = TcpStream::connect(server.address).await.expect("loopback");
    for index in 0..10 {
        send(&mut stream, &query(&format!("host-{index}.example.com"), Rtype::A)).await;
    }
    until("as many as may wait", || server.stats.read().resolver.cache_misses == 4).await;
    go.send(()).expect("the upstream waits");
    for _ in 0..10 {
        let reply = timeout(PATIENCE, receive(&mut stream)).await.expect("in time").expect("a reply");
        assert_eq!(reply.header().rcode(), Rcode::NOERROR);
    }
    assert_eq!(server.stats.read().resolver.cache_misses, 10);
}

#[tokio::test]
async fn a_query_that_is_too_long_is_counted_and_not_answered() {
    let server = start(ServerLimits::default()).await;
    let long = vec![0; 5000];
    let mut stream = TcpStream::connect(server.address).await.expect("loopback");
    send(&mut stream, &long).await;
    assert!(timeout(PATIENCE, receive(&mut stream)).await.expect("in time").is_err());
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    socket.send_to(&long, server.address).await.expect("loopback");
    until("both are counted", || server.stats.read().oversized == 2).await;
}

#[tokio::test]
async fn a_server_on_all_addresses_replies_from_the_one_that_was_asked() {
    let (_go, word) = oneshot::channel();
    drop(_go);
    let server = start_on("0.0.0.0:0", vec![upstream(word).await], ServerLimits::default()).await;
    for (host, name) in
        [("127.0.0.1", "web.shop.svc.cluster.local"), ("127.0.0.2", "web.shop.svc.cluster.local"), ("127.0.0.3", "example.com")]
    {
        let to: SocketAddr = format!("{host}:{}", server.address.port()).parse().expect("an address");
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        // Not connected: the kernel would hide a reply from another address.
        socket.send_to(&query(name, Rtype::A), to).await.expect("loopback");
        let mut buffer = [0; 1500];
        let (len, from) = timeout(PATIENCE, socket.recv_from(&mut buffer)).await.expect("in time").expect("loopback");
        assert_eq!(from, to, "{name}");
        assert_eq!(message(buffer[..len].to_vec()).header_counts().ancount(), 1);
    }
}

#[tokio::test]
async fn every_worker_answers_and_all_are_counted() {
    let limits = ServerLimits { udp_workers: NonZeroUsize::new(4).expect("four"), ..ServerLimits::default() };
    let server = start(limits).await;
    // The kernel divides clients among the workers by their port.
    for _ in 0..64 {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        socket.send_to(&own(), server.address).await.expect("loopback");
        let mut buffer = [0; 512];
        let len = timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("in time").expect("loopback");
        assert_eq!(message(buffer[..len].to_vec()).header_counts().ancount(), 1);
    }
    assert_eq!(server.stats.read().resolver.queries.values().sum::<u64>(), 64);
}

#[tokio::test]
async fn the_handle_answers_from_the_zone_the_upstreams_and_the_cache() {
    let (go, word) = oneshot::channel();
    go.send(()).expect("the receiver is kept");
    let server = start_on("127.0.0.1:0", vec![upstream(word).await], ServerLimits::default()).await;
    let ask = async |name: &str, rtype: &str| server.handle.ask(name, rtype).await.map(|bytes| records(&message(bytes)));
    assert_eq!(ask("Web.shop.svc.clusterset.local.", "a").await, Ok(vec!["web.shop.svc.clusterset.local 5 A 100.80.0.1".into()]));
    for hits in 0..2 {
        assert_eq!(ask("example.com", "A").await, Ok(vec!["example.com 60 A 203.0.113.9".into()]));
        assert_eq!(server.stats.read().resolver.cache_hits, hits);
    }
    assert_eq!(ask("many.shop.svc.cluster.local", "A").await.expect("an answer").len(), 200);
    assert_eq!(ask("a..b", "A").await, Err(QueryError::Name("a..b".into())));
    assert_eq!(ask("a.b", "NONSENSE").await, Err(QueryError::Type("NONSENSE".into())));
    assert_eq!(server.handle.query(b"nonsense").await, Err(QueryError::NoQuery));
}
