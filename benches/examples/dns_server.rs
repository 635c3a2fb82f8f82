//! What `benches/dns.sh` compares: the same names as a zone of ours and as the files of three other servers.
//!
//!     dns_server files DIRECTORY            # writes queries.txt, knot.zone, dnsmasq.hosts and unbound.conf
//!     dns_server serve 127.0.0.1:5301 1     # answers for them, with so many UDP workers
#![allow(clippy::disallowed_methods, reason = "a program")]

use std::error::Error;
use std::fmt::Write;
use std::net::Ipv4Addr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::Arc;
use std::{env, fs};

use mesh_benches::random::Random;
use mesh_core::{
    ClusterName, Event, Now, Protocol, Resource, Service, ServiceId, ServiceKind, ServicePort, SessionAffinity, Settings,
    SourceId, State, StateConfig, Trust,
};
use mesh_discovery::{ResolverConfig, Server, ServerLimits, Zone, ZoneConfig};

const SERVICES: u32 = 10_000;
const QUERIES: usize = 100_000;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["files", directory] => files(Path::new(directory)),
        ["serve", address, workers] => serve(address, workers.parse()?),
        _ => Err("usage: dns_server files DIRECTORY | serve ADDRESS WORKERS".into()),
    }
}

/// Returns a service's name below the zone, and its address.
fn service(index: u32) -> (String, Ipv4Addr) {
    (format!("svc-{index}.ns-{}.svc", index % 50), Ipv4Addr::from_bits(0x0a60_0000 + index))
}

/// Writes the names as each server wants them, and what is asked: of ten queries eight for an address that exists, one for an
/// IPv6 address of a name that has none, one for a name that does not exist.
fn files(directory: &Path) -> Result<(), Box<dyn Error>> {
    let (mut knot, mut hosts, mut unbound) = (String::new(), String::new(), String::new());
    writeln!(
        knot,
        "$ORIGIN cluster.local.\n$TTL 5\n@ SOA ns.dns hostmaster 1 7200 1800 86400 5\n@ NS ns.dns\nns.dns A 127.0.0.1"
    )?;
    writeln!(unbound, "server:\n    local-zone: \"cluster.local.\" static")?;
    writeln!(
        unbound,
        "    local-data: \"cluster.local. 5 IN SOA ns.dns.cluster.local. hostmaster.cluster.local. 1 7200 1800 86400 5\""
    )?;
    for index in 0..SERVICES {
        let (name, address) = service(index);
        writeln!(knot, "{name} A {address}")?;
        writeln!(hosts, "{address} {name}.cluster.local")?;
        writeln!(unbound, "    local-data: \"{name}.cluster.local. 5 IN A {address}\"")?;
    }
    let (mut random, mut queries) = (Random::of("dns queries", 0), String::new());
    for index in 0..QUERIES {
        let (name, _) = service(random.below(SERVICES));
        match index % 10 {
            0 => writeln!(queries, "{name}.cluster.local AAAA")?,
            1 => writeln!(queries, "ghost-{name}.cluster.local A")?,
            _ => writeln!(queries, "{name}.cluster.local A")?,
        }
    }
    for (file, text) in [("knot.zone", knot), ("dnsmasq.hosts", hosts), ("unbound.conf", unbound), ("queries.txt", queries)] {
        fs::write(directory.join(file), text)?;
    }
    Ok(())
}

fn serve(address: &str, udp_workers: NonZeroUsize) -> Result<(), Box<dyn Error>> {
    let config =
        StateConfig { fleet: "bench".into(), trust: Trust::Open, settings: Settings::default(), domains: Default::default() };
    let (mut state, cluster) = (State::new(config), ClusterName::new("east")?);
    for index in 0..SERVICES {
        let (name, address) = service(index);
        let (service, namespace) = name.split_once('.').ok_or("a service has a namespace")?;
        let id: ServiceId = format!("{}/{service}", namespace.trim_end_matches(".svc")).parse()?;
        let port = ServicePort { name: Some("http".into()), protocol: Protocol::Tcp, port: 80, app_protocol: None };
        let service = Service {
            cluster: cluster.clone(),
            id,
            kind: ServiceKind::ClusterIp,
            addresses: vec![address.into()],
            ports: vec![port],
            affinity: SessionAffinity::None,
            publish_not_ready: false,
            external_name: None,
            traffic: Default::default(),
        };
        let _ = state.apply(Event::Set(SourceId("bench".into()), Resource::Service(service)), Now::default());
    }
    let zone = Arc::new(Zone::build(&state, &cluster, &ZoneConfig::default()));
    let (_keep, zones) = tokio::sync::watch::channel(zone);
    let limits = ServerLimits { udp_workers, ..ServerLimits::default() };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(async {
        let server = Server::bind_with(&[address.parse()?], ResolverConfig::default(), limits, zones).await?;
        println!("serving on {}", server.local_addresses()[0]);
        server.run(std::future::pending()).await;
        Ok(())
    })
}
