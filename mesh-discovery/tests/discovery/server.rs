//! The server on loopback, with real sockets: its own client over UDP and TCP, `dig`, and upstreams good and bad.
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "real sockets, and dig")]

use std::net::SocketAddr;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use domain::base::iana::{Class, Rcode, Rtype};
use domain::base::{Message, MessageBuilder, Name};
use domain::rdata::A;
use mesh_core::ClusterName;
use mesh_discovery::{BindError, ResolverConfig, Server, ServerLimits, ServerStats, Zone, ZoneConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use crate::manifests::{Cluster, fleet};

const PATIENCE: Duration = Duration::from_secs(20);

fn zone(import: &str) -> Arc<Zone> {
    let many: Vec<String> = (0..200).map(|host| format!("{{addresses: [10.1.1.{host}]}}")).collect();
    let east = Cluster::new()
        .service("web", "clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]")
        .export("web")
        .import("web", import)
        .service("many", "clusterIP: None, ports: []")
        .endpoints("many", "", &many.join(", "));
    Arc::new(Zone::build(&fleet(&[("east", &east)]), &ClusterName::new("east").expect("a name"), &ZoneConfig::default()))
}

struct Running {
    address: SocketAddr,
    stats: ServerStats,
    zone: watch::Sender<Arc<Zone>>,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

fn loopback() -> SocketAddr {
    "127.0.0.1:0".parse().expect("an address")
}

async fn start(upstreams: Vec<SocketAddr>, limits: ServerLimits) -> Running {
    let (sender, receiver) = watch::channel(zone("100.80.0.1"));
    let config = ResolverConfig { upstreams, timeout: Duration::from_millis(300), ..ResolverConfig::default() };
    let server = Server::bind_with(&[loopback()], config, limits, receiver).await.expect("a free port");
    let (address, stats) = (server.local_addresses()[0], server.stats());
    let (stop, stopped) = oneshot::channel();
    let task = tokio::spawn(server.run(async move {
        let _ = stopped.await;
    }));
    Running { address, stats, zone: sender, stop, task }
}

fn query(name: &str) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(4711);
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    builder.push((Name::<Vec<u8>>::vec_from_str(name).expect("a name"), Rtype::A)).expect("room");
    builder.finish()
}

async fn ask_udp(server: SocketAddr, name: &str) -> Message<Vec<u8>> {
    let socket = UdpSocket::bind(loopback()).await.expect("a socket");
    socket.connect(server).await.expect("loopback");
    socket.send(&query(name)).await.expect("loopback");
    let mut buffer = vec![0; 65_535];
    let len = timeout(PATIENCE, socket.recv(&mut buffer)).await.expect("an answer in time").expect("loopback");
    Message::from_octets(buffer[..len].to_vec()).expect("a message")
}

async fn exchange_tcp(stream: &mut TcpStream, packet: &[u8]) -> std::io::Result<Message<Vec<u8>>> {
    stream.write_u16(packet.len() as u16).await?;
    stream.write_all(packet).await?;
    let len = stream.read_u16().await?;
    let mut buffer = vec![0; len.into()];
    stream.read_exact(&mut buffer).await?;
    Ok(Message::from_octets(buffer).expect("a message"))
}

async fn ask_tcp(server: SocketAddr, name: &str) -> Message<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await.expect("loopback");
    timeout(PATIENCE, exchange_tcp(&mut stream, &query(name))).await.expect("an answer in time").expect("loopback")
}

fn addresses(message: &Message<Vec<u8>>) -> Vec<String> {
    let records = message.answer().expect("a section").limit_to::<A>();
    records.map(|record| record.expect("correct").data().addr().to_string()).collect()
}

/// An upstream that answers `203.0.113.9` to everything, after what `lies` sends first.
async fn upstream(lies: fn(Message<Vec<u8>>) -> Vec<Vec<u8>>) -> SocketAddr {
    let socket = UdpSocket::bind(loopback()).await.expect("a socket");
    let address = socket.local_addr().expect("bound");
    tokio::spawn(async move {
        let mut buffer = vec![0; 4096];
        while let Ok((len, from)) = socket.recv_from(&mut buffer).await {
            let asked = Message::from_octets(buffer[..len].to_vec()).expect("the server sends queries");
            for packet in lies(asked) {
                socket.send_to(&packet, from).await.expect("loopback");
            }
        }
    });
    address
}

fn honest(asked: &Message<Vec<u8>>, last: u8, id: u16) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec().start_answer(asked, Rcode::NOERROR).expect("room");
    builder.header_mut().set_id(id);
    let name = asked.sole_question().expect("one question").into_qname();
    builder.push((name, Class::IN, 60, A::from_octets(203, 0, 113, last))).expect("room");
    builder.finish()
}

#[tokio::test]
async fn udp_and_tcp_answer_and_truncation_leads_to_tcp() {
    let server = start(Vec::new(), ServerLimits::default()).await;
    assert_eq!(addresses(&ask_udp(server.address, "web.shop.svc.clusterset.local").await), ["100.80.0.1"]);
    assert_eq!(addresses(&ask_tcp(server.address, "web.shop.svc.cluster.local").await), ["10.96.0.1"]);
    let cut = ask_udp(server.address, "many.shop.svc.cluster.local").await;
    assert!(cut.header().tc() && cut.as_slice().len() <= 512);
    assert_eq!(addresses(&ask_tcp(server.address, "many.shop.svc.cluster.local").await).len(), 200);
    let counters = server.stats.read();
    assert_eq!((counters.resolver.truncated, counters.tcp_accepted), (1, 2));
    assert_eq!(counters.resolver.queries.values().sum::<u64>(), 4);
}

#[tokio::test]
async fn a_new_zone_counts_at_once_and_shutdown_frees_the_port() {
    let server = start(Vec::new(), ServerLimits::default()).await;
    server.zone.send(zone("100.80.0.2")).expect("the server follows");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while addresses(&ask_udp(server.address, "web.shop.svc.clusterset.local").await) != ["100.80.0.2"] {
        assert!(tokio::time::Instant::now() < deadline, "the new zone never counted");
    }
    server.stop.send(()).expect("it runs");
    timeout(PATIENCE, server.task).await.expect("it stops").expect("without a panic");
    UdpSocket::bind(server.address).await.expect("the port is free again");
}

#[tokio::test]
async fn an_outside_name_survives_a_silent_upstream_and_one_that_lies_about_the_id() {
    let silent = upstream(|_| Vec::new()).await;
    let liar = upstream(|asked| {
        let id = asked.header().id();
        vec![honest(&asked, 66, id.wrapping_add(1)), b"\0".to_vec(), honest(&asked, 9, id)]
    })
    .await;
    let server = start(vec![silent, liar], ServerLimits::default()).await;
    assert_eq!(addresses(&ask_udp(server.address, "example.com").await), ["203.0.113.9"]);
    assert_eq!(addresses(&ask_tcp(server.address, "example.org").await), ["203.0.113.9"]);
    assert_eq!(server.stats.read().resolver.mismatched, 4);
    // The own names do not wait for anybody.
    assert_eq!(addresses(&ask_udp(server.address, "web.shop.svc.cluster.local").await), ["10.96.0.1"]);
}

#[tokio::test]
async fn an_upstream_that_never_answers_is_a_failure_in_time() {
    let silent = upstream(|_| Vec::new()).await;
    let server = start(vec![silent], ServerLimits::default()).await;
    let message = ask_udp(server.address, "example.com").await;
    assert_eq!(message.header().rcode(), Rcode::SERVFAIL);
}

#[tokio::test]
async fn random_bytes_crash_nothing() {
    let server = start(Vec::new(), ServerLimits::default()).await;
    let socket = UdpSocket::bind(loopback()).await.expect("a socket");
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut noise = |len: usize| -> Vec<u8> {
        let step = |_| {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed as u8
        };
        (0..len).map(step).collect()
    };
    for round in 0..500 {
        socket.send_to(&noise(round % 90), server.address).await.expect("loopback");
        if round % 25 == 0 {
            let mut stream = TcpStream::connect(server.address).await.expect("loopback");
            // The server may close the connection in the middle of it.
            let _ = stream.write_all(&noise(300)).await;
        }
    }
    assert_eq!(addresses(&ask_udp(server.address, "web.shop.svc.cluster.local").await), ["10.96.0.1"]);
    assert_eq!(addresses(&ask_tcp(server.address, "web.shop.svc.cluster.local").await), ["10.96.0.1"]);
    assert!(server.stats.read().resolver.malformed > 0);
}

#[tokio::test]
async fn connections_are_limited_in_number_and_in_silence() {
    let limits = ServerLimits { tcp_idle: Duration::from_millis(200), tcp_connections: 1, ..ServerLimits::default() };
    let server = start(Vec::new(), limits).await;
    let mut first = TcpStream::connect(server.address).await.expect("loopback");
    let ask = query("web.shop.svc.cluster.local");
    // Several queries on one connection.
    for _ in 0..3 {
        let reply = timeout(PATIENCE, exchange_tcp(&mut first, &ask)).await.expect("in time").expect("an answer");
        assert_eq!(addresses(&reply), ["10.96.0.1"]);
    }
    let mut second = TcpStream::connect(server.address).await.expect("the kernel accepts it");
    assert!(timeout(PATIENCE, exchange_tcp(&mut second, &ask)).await.expect("in time").is_err(), "one too many");
    let mut byte = [0];
    assert_eq!(timeout(PATIENCE, first.read(&mut byte)).await.expect("closed in time").expect("closed"), 0, "closed for silence");
    assert_eq!(server.stats.read().tcp_refused, 1);
}

#[tokio::test]
async fn a_failure_to_listen_names_the_address_and_the_way_out() {
    let taken = UdpSocket::bind(loopback()).await.expect("a socket");
    let address = taken.local_addr().expect("bound");
    let (_keep, receiver) = watch::channel(zone("100.80.0.1"));
    let Err(error) = Server::bind(&[address], Vec::new(), receiver.clone()).await else { panic!("the port is taken") };
    let text = error.to_string();
    assert!(text.contains(&address.to_string()) && text.contains("UDP") && text.contains("listen on another"), "{text}");
    drop(taken);
    let Err(error) = Server::bind(&[address], vec![address], receiver).await else { panic!("it would ask itself") };
    assert!(matches!(error, BindError::OwnUpstream { .. }), "{error}");
}

#[tokio::test]
async fn dig_understands_the_answers() {
    let server = start(Vec::new(), ServerLimits::default()).await;
    let port = server.address.port().to_string();
    let dig = move |args: &'static [&'static str]| {
        let port = port.clone();
        tokio::task::spawn_blocking(move || Command::new("dig").args(["@127.0.0.1", "-p", &port, "+tries=1"]).args(args).output())
    };
    let Ok(output) = dig(&["+short", "_http._tcp.web.shop.svc.clusterset.local", "SRV"]).await.expect("no panic") else {
        assert!(
            std::env::var_os("MESH_REQUIRE_ALL").is_none_or(|all| all != "1"),
            "dig is not installed (package bind9-dnsutils)"
        );
        // Past the harness, which hides what a passing test prints.
        let why = b"\nSKIPPED dig_understands_the_answers: dig is not installed (package bind9-dnsutils)\n";
        let _ = std::io::Write::write_all(&mut std::io::stderr(), why);
        return;
    };
    assert_eq!(String::from_utf8_lossy(&output.stdout), "0 100 80 web.shop.svc.clusterset.local.\n");
    // dig comes back over TCP by itself.
    let output = dig(&["+short", "many.shop.svc.cluster.local", "A"]).await.expect("no panic").expect("dig runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout).lines().count(), 200);
    let output = dig(&["ghost.shop.svc.cluster.local", "AAAA"]).await.expect("no panic").expect("dig runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(text.contains("status: NXDOMAIN") && text.contains("SOA") && !text.contains("WARNING: Message"), "{text}");
}
