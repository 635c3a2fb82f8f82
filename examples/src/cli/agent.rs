//! What `meshctl` asks a running agent: status, peers, flows, metrics.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use comfy_table::{Table, presets};
use mesh_core::{FlowEnd, FlowEvent, FlowRecord, ServiceId};

use crate::api::{Health, Peer, ServiceTraffic, StateSummary, Status};
use crate::client::{Client, ClientError};

/// Which agent is asked.
#[derive(Args, Clone, Debug)]
pub struct Target {
    /// The agent's socket
    #[arg(long, env = "LANDBRIDGE_SOCKET", default_value = "/run/landbridge/agent.sock", value_name = "FILE")]
    pub socket: PathBuf,
    /// Text for people, or JSON for programs
    #[arg(long, value_enum, default_value = "text")]
    pub output: Output,
}

/// How answers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Prints the status; returns whether the agent is ready.
pub async fn status(target: &Target) -> Result<bool, ClientError> {
    let status: Status = Client::new(&target.socket).json("/status").await?;
    let ready = status.health.ready;
    if target.output == Output::Json {
        print_json(&status);
        return Ok(ready);
    }
    println!("node       {} (fleet {}, scope {})", status.node, status.fleet, status.scope);
    println!("tunnel     {}: {}", status.tunnel, status.tunnel_reason);
    println!("agent      {} up {}", status.version, duration(status.uptime_seconds));
    println!("key        {}", status.key);
    if !status.roles.is_empty() {
        println!("roles      {}", status.roles.join(", "));
    }
    println!("peers      {} of {} with a handshake in the last three minutes", status.peers.1, status.peers.0);
    print_health(&status.health);
    if let Some(policies) = status.policies {
        println!("policies   serial {}: active in {} of {} clusters", policies.serial, policies.active, policies.clusters);
    }
    let mut table = table(&["CLUSTER", "FACTS", "NODES", "WORKLOADS", "EXPORTS", "PREFIXES", "ATTRIBUTES"]);
    for cluster in &status.clusters {
        let attributes: Vec<_> = cluster.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
        table.add_row([
            cluster.name.to_string(),
            cluster.freshness.clone(),
            cluster.nodes.to_string(),
            cluster.workloads.to_string(),
            cluster.exports.to_string(),
            cluster.prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            attributes.join(" "),
        ]);
    }
    println!("{table}");
    let counts = [
        ("dropped packets", &status.drops),
        ("packets before their identity", &status.holds),
        ("identities asked for", &status.pulls),
        ("refused", &status.refusals),
    ];
    for (title, counts) in counts {
        if !counts.is_empty() {
            let counts: Vec<_> = counts.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
            println!("{title}: {}", counts.join(", "));
        }
    }
    Ok(ready)
}

fn print_health(health: &Health) {
    println!("health     {}", if health.ready { "ready" } else { "NOT READY" });
    for problem in &health.problems {
        println!("           - {problem}");
    }
}

/// Prints the peers.
pub async fn peers(target: &Target) -> Result<(), ClientError> {
    let peers: Vec<Peer> = Client::new(&target.socket).json("/peers").await?;
    if target.output == Output::Json {
        print_json(&peers);
        return Ok(());
    }
    let mut table = table(&["PEER", "ENDPOINT", "HANDSHAKE", "RECEIVED", "SENT", "PREFIXES", "KEY"]);
    for peer in &peers {
        table.add_row([
            peer.node.to_string(),
            peer.endpoint.map_or("-".into(), |endpoint| endpoint.to_string()),
            peer.handshake_age_seconds.map_or("never".into(), |age| format!("{} ago", duration(age))),
            peer.rx_bytes.to_string(),
            peer.tx_bytes.to_string(),
            peer.prefixes.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            peer.key.to_string(),
        ]);
    }
    println!("{table}");
    Ok(())
}

/// Prints what the agent believes, in numbers, and what it refuses.
pub async fn state(target: &Target) -> Result<(), ClientError> {
    let state: StateSummary = Client::new(&target.socket).json("/state").await?;
    if target.output == Output::Json {
        print_json(&state);
        return Ok(());
    }
    for (kind, count) in &state.facts {
        println!("{kind:<22} {count}");
    }
    let mut table = table(&["SERVICE", "CLUSTERSET ADDRESSES", "READY BACKENDS", "EXPORTED BY"]);
    for service in &state.services {
        table.add_row([
            service.id.clone(),
            service.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
            service.ready.to_string(),
            service.clusters.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "),
        ]);
    }
    println!("{table}");
    for refused in &state.refused {
        println!("refused: {refused}");
    }
    for problem in &state.source_problems {
        println!("problem: {problem}");
    }
    Ok(())
}

/// Prints who takes the connections to a service.
pub async fn service(target: &Target, id: &ServiceId) -> Result<(), ClientError> {
    let service: ServiceTraffic = Client::new(&target.socket).json(&format!("/services/{}/{}", id.namespace, id.name)).await?;
    if target.output == Output::Json {
        print_json(&service);
        return Ok(());
    }
    for port in &service.ports {
        let only = if port.node_only { ", this node only" } else { "" };
        println!("{} {}: first {}{only}, {} slots", port.scope, port.frontends.join(" "), port.first, port.slots);
        for group in &port.groups {
            println!("  {:<9} {:>5.1} %  {} of {} healthy", group.group, group.percent, group.healthy, group.total);
        }
        if port.last_resort {
            println!("  nothing is healthy: what is demoted is used");
        } else if port.backends.iter().all(|backend| backend.percent == 0.0) {
            println!("  nobody takes connections: they are refused");
        }
        let mut table = table(&["  BACKEND", "NODE", "NEAR", "WEIGHT", "SHARE", "STANDING", "WHY"]);
        for backend in &port.backends {
            table.add_row([
                format!("  {}", backend.address),
                backend.node.as_ref().map_or_else(|| backend.cluster.to_string(), ToString::to_string),
                backend.locality.clone(),
                backend.weight.to_string(),
                format!("{:.1} %", backend.percent),
                backend.standing.clone(),
                backend.reach.clone(),
            ]);
        }
        println!("{table}");
    }
    Ok(())
}

/// Prints the latest flows, and with `follow` those that come.
pub async fn flows(target: &Target, follow: bool, limit: usize) -> Result<(), ClientError> {
    let json = target.output == Output::Json;
    let path = format!("/flows?limit={limit}&follow={follow}");
    let mut out = io::stdout();
    Client::new(&target.socket)
        .lines(&path, |line| {
            let text = if json { line.to_owned() } else { flow_line(line) };
            writeln!(out, "{text}").and_then(|()| out.flush()).is_ok()
        })
        .await
}

fn flow_line(line: &str) -> String {
    match serde_json::from_str::<FlowRecord>(line) {
        Ok(record) => describe_flow(&record),
        Err(_) => line.to_owned(),
    }
}

/// Writes a flow record on one line for a person.
pub fn describe_flow(record: &FlowRecord) -> String {
    let event = match record.event {
        FlowEvent::Opened => "opened",
        FlowEvent::Closed => "closed",
        FlowEvent::Denied => "DENIED",
        FlowEvent::Cut => "CUT",
    };
    let by = record.rule.as_deref().unwrap_or(&record.reason);
    let verdict = if record.allowed { "allow" } else { "deny" };
    format!(
        "{} {event:<6} {} > {} {} {}: {verdict} by {by} ({})",
        record.last,
        flow_end(&record.source),
        flow_end(&record.destination),
        record.protocol,
        record.direction,
        record.tier,
    )
}

fn flow_end(end: &FlowEnd) -> String {
    let who = match (&end.workload, &end.node) {
        (Some(workload), _) => workload.to_string(),
        (None, Some(node)) => format!("node {node}"),
        (None, None) => "?".into(),
    };
    if end.port == 0 {
        format!("{who} ({})", end.address)
    } else {
        format!("{who} ({})", std::net::SocketAddr::new(end.address, end.port))
    }
}

/// Prints the metrics as they are.
pub async fn metrics(target: &Target) -> Result<(), ClientError> {
    print!("{}", Client::new(&target.socket).text("/metrics").await?);
    Ok(())
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    table
}

fn print_json(value: &impl serde::Serialize) {
    println!("{}", serde_json::to_string_pretty(value).expect("the API's types are JSON"));
}

fn duration(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}
