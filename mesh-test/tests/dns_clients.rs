//! Real clients ask the real server: `dig`, `kdig`, and the resolvers of glibc and musl, from a workload's network namespace with
//! the resolv.conf that Kubernetes writes (search domains, `ndots:5`).

#![allow(clippy::unwrap_used, reason = "a test panics where it fails")]

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use mesh_core::ClusterName;
use mesh_core::manifest::Checked;
use mesh_discovery::{Server, Zone, ZoneConfig};
use mesh_lab::{DEFAULT_DNS_V4, DEFAULT_DNS_V6, Lab, LabOptions, Netns, NodeSpec, Topology, WorkloadSpec};
use tempfile::TempDir;
use tokio::net::UdpSocket;
use tokio::sync::{oneshot, watch};

const MANIFESTS: &str = r#"
{apiVersion: v1, kind: Service, metadata: {name: web, namespace: shop}, spec: {clusterIPs: [10.96.0.1, 'fd00:96::1'], ports: [{name: http, port: 80}]}}
---
{apiVersion: multicluster.x-k8s.io/v1beta1, kind: ServiceExport, metadata: {name: web, namespace: shop}}
---
{apiVersion: multicluster.x-k8s.io/v1beta1, kind: ServiceImport, metadata: {name: web, namespace: shop}, spec: {ips: [100.80.0.1, 'fd00:80::1']}}
---
{apiVersion: v1, kind: Service, metadata: {name: four, namespace: shop}, spec: {clusterIP: 10.96.0.4, ports: [{port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: outside, namespace: shop}, spec: {type: ExternalName, externalName: www.example.com}}
---
{apiVersion: v1, kind: Service, metadata: {name: db, namespace: shop}, spec: {clusterIP: None, ports: [{name: pg, port: 5432}]}}
---
{apiVersion: multicluster.x-k8s.io/v1beta1, kind: ServiceExport, metadata: {name: db, namespace: shop}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: db-4, namespace: shop, labels: {kubernetes.io/service-name: db}}, addressType: IPv4, ports: [{name: pg, port: 5433}],
 endpoints: [{addresses: [10.1.0.5], hostname: db-0}, {addresses: [10.1.0.6]}, {addresses: [10.1.0.7], conditions: {ready: false}}]}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: db-6, namespace: shop, labels: {kubernetes.io/service-name: db}}, addressType: IPv6, ports: [{name: pg, port: 5433}],
 endpoints: [{addresses: ['fd00:1::5'], hostname: db-0}]}
---
{apiVersion: v1, kind: Service, metadata: {name: many, namespace: shop}, spec: {clusterIP: None, ports: []}}
"#;

/// How many endpoints the service `many` has: more than fit into a UDP answer.
const MANY: usize = 200;
const WEB: &str = "web.shop.svc.clusterset.local";
/// The one name that the upstream knows, as bytes of a question.
const OUTSIDE: &[u8] = b"\x03www\x07example\x03com\0";

fn zone() -> Arc<Zone> {
    let many: Vec<String> = (1..=MANY).map(|host| format!("{{addresses: [10.1.1.{host}]}}")).collect();
    let slice = format!(
        "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: many, namespace: shop, \
         labels: {{kubernetes.io/service-name: many}}}}, addressType: IPv4, ports: [], endpoints: [{}]}}",
        many.join(", ")
    );
    let files = [("clusters/east/all.yaml", MANIFESTS), ("clusters/east/many.yaml", slice.as_str())];
    let checked = Checked::load(files).unwrap_or_else(|errors| panic!("{errors:#?}"));
    Arc::new(Zone::build(&checked.state, &ClusterName::new("east").unwrap(), &ZoneConfig::default()))
}

/// Answers as an upstream that knows one name and its IPv4 address.
async fn upstream() -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut query = [0; 4096];
        while let Ok((_, from)) = socket.recv_from(&mut query).await {
            let end = 12 + query[12..].iter().position(|byte| *byte == 0).unwrap() + 5;
            let (name, rtype) = (query[12..end - 4].to_ascii_lowercase(), query[end - 3]);
            let (rcode, answers) = (if name == OUTSIDE { 0 } else { 3 }, u8::from(name == OUTSIDE && rtype == 1));
            let mut reply = vec![query[0], query[1], 0x81, 0x80 | rcode, 0, 1, 0, answers, 0, 0, 0, 0];
            reply.extend(&query[12..end]);
            if answers == 1 {
                reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 203, 0, 113, 9]);
            }
            socket.send_to(&reply, from).await.unwrap();
        }
    });
    address
}

/// A node with the server on it, and a workload that asks.
struct Asked {
    workload: Netns,
    stop: Option<oneshot::Sender<()>>,
    server: Option<JoinHandle<()>>,
    _lab: Lab,
}

impl Asked {
    fn start(test: &str) -> Asked {
        let mut topology = Topology::new(format!("t{}-{test}", std::process::id()));
        topology.nodes.push(NodeSpec {
            cluster: "east".into(),
            node: "n1".into(),
            underlay: vec!["198.51.100.1".parse().unwrap()],
            pod_cidrs: vec!["10.1.0.0/16".parse().unwrap(), "fd00:1::/64".parse().unwrap()],
        });
        topology.workloads.push(WorkloadSpec {
            cluster: "east".into(),
            namespace: "shop".into(),
            pod: "client".into(),
            node: "n1".into(),
            addresses: vec!["10.1.0.9".parse().unwrap(), "fd00:1::9".parse().unwrap()],
        });
        let lab = Lab::up(&topology, LabOptions::default()).unwrap_or_else(|error| panic!("{error:#?}"));
        let ((ready, is_ready), (stop, stopped)) = (mpsc::channel(), oneshot::channel::<()>());
        let serve = async move {
            let (_keep, zones) = watch::channel(zone());
            let listen = [IpAddr::from(DEFAULT_DNS_V4), IpAddr::from(DEFAULT_DNS_V6)].map(|address| SocketAddr::new(address, 53));
            let server = Server::bind(&listen, vec![upstream().await], zones).await.unwrap();
            ready.send(()).unwrap();
            server.run(async { drop(stopped.await) }).await;
        };
        // Threads that begin in the node's namespace stay in it.
        let run = move || tokio::runtime::Runtime::new().unwrap().block_on(serve);
        let server = lab.node("east", "n1").unwrap().run(move || std::thread::spawn(run)).unwrap();
        is_ready.recv_timeout(Duration::from_secs(30)).expect("the server starts");
        let workload = lab.workload("east", "shop", "client").unwrap();
        Asked { workload, stop: Some(stop), server: Some(server), _lab: lab }
    }

    /// Runs a program in the workload; returns what it printed.
    fn run(&self, program: impl AsRef<Path>, arguments: &[&str]) -> String {
        let output = self.workload.command(program.as_ref()).unwrap().args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap() + &String::from_utf8_lossy(&output.stderr)
    }

    /// Runs a program in the workload; returns the lines that it printed, sorted, each once.
    fn lines(&self, program: impl AsRef<Path>, arguments: &[&str]) -> Vec<String> {
        let mut lines: Vec<String> = self.run(program, arguments).lines().map(str::to_owned).collect();
        lines.sort();
        lines.dedup();
        lines
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        drop(self.stop.take());
        let ended = self.server.take().map(JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))), "the server ended well");
    }
}

/// Tells whether labs and these programs (each with its Debian package) are here. A skip says why; with MESH_REQUIRE_ALL=1 it is
/// a failure.
fn may_ask(programs: &[(&str, &str)]) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let is_here = |program: &str| std::env::split_paths(&path).any(|directory| directory.join(program).is_file());
    let programs = programs.iter().filter(|(program, _)| !is_here(program));
    let mut missing: Vec<String> = programs.map(|(program, package)| format!("{program} (package {package})")).collect();
    missing.extend(Lab::check_privileges().err().into_iter().flatten().map(|missing| missing.to_string()));
    if missing.is_empty() {
        return true;
    }
    assert!(std::env::var("MESH_REQUIRE_ALL").is_err(), "MESH_REQUIRE_ALL is set, and this is missing: {missing:?}");
    // Past the harness, which hides what a passing test prints.
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("\nSKIPPED: missing {missing:?}\n").as_bytes());
    false
}

/// What `dig +short` and `kdig +short` are asked alike, and the lines of the answer, sorted.
const SHORT: &[(&[&str], &[&str])] = &[
    (&[WEB, "A"], &["100.80.0.1"]),
    (&[WEB, "AAAA"], &["fd00:80::1"]),
    (&["web.shop.svc.cluster.local", "A"], &["10.96.0.1"]),
    (&["_http._tcp.web.shop.svc.clusterset.local", "SRV"], &["0 100 80 web.shop.svc.clusterset.local."]),
    (&["db.shop.svc.clusterset.local", "A"], &["10.1.0.5", "10.1.0.6"]),
    (&["db-0.east.db.shop.svc.clusterset.local", "AAAA"], &["fd00:1::5"]),
    (&["10-1-0-6.db.shop.svc.cluster.local", "A"], &["10.1.0.6"]),
    (&["dns-version.clusterset.local", "TXT"], &["\"1.0.0\""]),
    (&["dns-version.cluster.local", "TXT"], &["\"1.1.0\""]),
    (&["outside.shop.svc.cluster.local", "A"], &["203.0.113.9", "www.example.com."]),
    (&["www.example.com", "A"], &["203.0.113.9"]),
    (&["-x", "10.1.0.5"], &["db-0.db.shop.svc.cluster.local.", "db-0.east.db.shop.svc.clusterset.local."]),
    (&["-x", "fd00:80::1"], &["web.shop.svc.clusterset.local."]),
    (&["four.shop.svc.cluster.local", "AAAA"], &[]),
    (&["ghost.shop.svc.cluster.local", "A"], &[]),
];

/// Asks everything in `SHORT`, by UDP and TCP, with and without EDNS, at both addresses of the server.
fn ask_short(asked: &Asked, program: &str) {
    let (v4, v6): (&str, &str) = (&format!("@{DEFAULT_DNS_V4}"), &format!("@{DEFAULT_DNS_V6}"));
    for how in [[v4, "+notcp"], [v6, "+notcp"], [v4, "+tcp"], [v6, "+tcp"], [v4, "+noedns"], [v4, "+bufsize=1232"]] {
        for (question, expected) in SHORT {
            let arguments = [&how[..], &["+short"][..], *question].concat();
            assert_eq!(asked.lines(program, &arguments), *expected, "{program} {arguments:?}");
        }
    }
}

#[test]
fn dig() {
    if !may_ask(&[("dig", "bind9-dnsutils")]) {
        return;
    }
    let asked = Asked::start("dig");
    ask_short(&asked, "dig");
    // By the workload's own resolv.conf: its server, and its search list where that is wanted.
    assert_eq!(asked.run("dig", &["+short", WEB]), "100.80.0.1\n");
    assert_eq!(asked.run("dig", &["+short", "+search", "web"]), "10.96.0.1\n");

    let name = "wEb.ShOp.SvC.cLuStErSeT.lOcAl";
    for how in ["+notcp", "+tcp"] {
        let text = asked.run("dig", &[how, name]);
        assert!(text.contains(&format!(";{name}.")) && text.contains("100.80.0.1"), "the case is not echoed: {text}");
        assert!(text.contains("status: NOERROR") && text.contains(" aa ") && !text.contains("WARNING: Message"), "{text}");
    }
    let negative = |name: &str, rtype: &str| asked.run("dig", &[name, rtype]);
    let text = negative("ghost.shop.svc.cluster.local", "A");
    assert!(text.contains("status: NXDOMAIN") && text.contains("\tSOA\t"), "{text}");
    let text = negative("four.shop.svc.cluster.local", "AAAA");
    assert!(text.contains("status: NOERROR") && text.contains("ANSWER: 0") && text.contains("\tSOA\t"), "{text}");
    let text = negative("ghost.example.com", "A");
    assert!(text.contains("status: NXDOMAIN"), "{text}");

    assert!(asked.run("dig", &["+edns=0", WEB]).contains("OPT PSEUDOSECTION"));
    assert!(!asked.run("dig", &["+noedns", WEB]).contains("OPT PSEUDOSECTION"));
    assert!(asked.run("dig", &["+edns=1", "+noednsnegotiation", WEB]).contains("status: BADVERS"));

    for how in ["+noedns", "+bufsize=1232"] {
        let many = "many.shop.svc.cluster.local";
        let text = asked.run("dig", &["+ignore", how, many]);
        let flags = text.lines().find(|line| line.starts_with(";; flags:")).unwrap();
        assert!(flags.contains(" tc"), "{text}");
        // dig comes back over TCP by itself.
        assert_eq!(asked.lines("dig", &["+short", how, many]).iter().filter(|line| !line.starts_with(';')).count(), MANY);
    }
}

#[test]
fn kdig() {
    if !may_ask(&[("kdig", "knot-dnsutils")]) {
        return;
    }
    let asked = Asked::start("kdig");
    ask_short(&asked, "kdig");
    // kdig asks in lower case, whatever it is told.
    let text = asked.run("kdig", &["wEb.ShOp.SvC.cLuStErSeT.lOcAl"]);
    assert!(text.contains(&format!(";; {WEB}.")) && text.contains("status: NOERROR") && text.contains(" aa "), "{text}");
    let text = asked.run("kdig", &["ghost.shop.svc.cluster.local"]);
    assert!(text.contains("status: NXDOMAIN") && text.contains("\tSOA\t"), "{text}");
    // Several questions on one connection.
    let text = asked.run("kdig", &["+tcp", "+keepopen", "+short", WEB, "A", "+keepopen", WEB, "AAAA"]);
    assert!(text.contains("100.80.0.1"), "{text}");
    let many = asked.lines("kdig", &["+short", "+noedns", "many.shop.svc.cluster.local"]);
    assert_eq!(many.iter().filter(|line| line.starts_with("10.1.1.")).count(), MANY, "over TCP, by itself");
}

/// Builds the ten-line program with a compiler.
fn build(compiler: &str, arguments: &[&str]) -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let program = directory.path().join("resolve");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/resolve.c");
    let output = Command::new(compiler).args(arguments).arg("-o").arg(&program).arg(source).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (directory, program)
}

/// What any libc makes of names, by search list and `ndots:5`.
fn ask_libc(asked: &Asked, program: &Path) {
    let expected: &[(&[&str], &[&str])] = &[
        (&["web"], &["10.96.0.1", "fd00:96::1"]),
        (&["web.shop"], &["10.96.0.1", "fd00:96::1"]),
        (&["web.shop.svc"], &["10.96.0.1", "fd00:96::1"]),
        (&[WEB], &["100.80.0.1", "fd00:80::1"]),
        (&["web.shop.svc.clusterset.local."], &["100.80.0.1", "fd00:80::1"]),
        (&["db"], &["10.1.0.5", "10.1.0.6", "fd00:1::5"]),
        (&["db-0.db"], &["10.1.0.5", "fd00:1::5"]),
        (&["-6", "db"], &["fd00:1::5"]),
        (&["db-0.east.db.shop.svc.clusterset.local"], &["10.1.0.5", "fd00:1::5"]),
        (&["outside"], &["203.0.113.9"]),
        (&["www.example.com"], &["203.0.113.9"]),
        (&["ghost"], &["no name"]),
        (&["ghost.shop.svc.clusterset.local"], &["no name"]),
        (&["-x", "10.96.0.1"], &["web.shop.svc.cluster.local"]),
        (&["-x", "fd00:80::1"], &["web.shop.svc.clusterset.local"]),
    ];
    for (arguments, expected) in expected {
        assert_eq!(asked.lines(program, arguments), *expected, "{arguments:?}");
    }
}

#[test]
fn glibc() {
    if !may_ask(&[("cc", "gcc"), ("getent", "libc-bin")]) {
        return;
    }
    let (asked, (_directory, program)) = (Asked::start("glibc"), build("cc", &[]));
    ask_libc(&asked, &program);
    assert_eq!(asked.run(&program, &["-6", "four"]), "no data\n");
    // Of two names of an address the first is the own cluster's.
    assert_eq!(asked.run(&program, &["-x", "10.1.0.5"]), "db-0.db.shop.svc.cluster.local\n");
    assert_eq!(asked.lines(&program, &["many"]).len(), MANY, "truncated, and whole over TCP");
    let text = asked.run("getent", &["ahosts", "web"]);
    assert!(text.contains("10.96.0.1") && text.contains("fd00:96::1"), "{text}");
    assert_eq!(asked.run("getent", &["hosts", "ghost"]), "");
}

#[test]
fn musl() {
    if !may_ask(&[("musl-gcc", "musl-tools")]) {
        return;
    }
    let (asked, (_directory, program)) = (Asked::start("musl"), build("musl-gcc", &["-static"]));
    ask_libc(&asked, &program);
    // musl tells the two negative answers apart since 1.2.4, and takes the last of several names.
    let text = asked.run(&program, &["-6", "four"]);
    assert!(matches!(&text[..], "no name\n" | "no data\n"), "{text}");
    let text = asked.run(&program, &["-x", "10.1.0.5"]);
    assert!(text.starts_with("db-0.") && text.contains(".shop.svc.cluster"), "{text}");
}
