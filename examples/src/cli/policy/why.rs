//! `meshctl policy why`: one connection, explained.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::Args;
use mesh_core::manifest::Checked;
use mesh_core::{Protocol, State, WorkloadId};
use mesh_policy::check::{Checker, Party, Query};
use mesh_policy::explain;

use super::super::check::load;
use super::{PageOutput, print};

pub(super) const HELP: &str = "\
Both sides of a connection must allow it: egress, by the policies of the source's cluster, and ingress, by those of the
destination's. For each side the page tells why, lists the policies that apply in the order in which they are asked, says of every
rule whether it matches and what it lacks, and names the nearest rule that would have decided otherwise: the one that lacks fewest.
`without it` is what would decide if the deciding rule were not there.

  meshctl policy why examples/demo --from east/shop/web-0 --to west/shop/db-0 --port 5432
  meshctl policy why examples/demo --from 192.0.2.7 --to west/shop/db-0 --protocol UDP --port 53 --output json

Exit status: 0 allowed, 1 denied, 2 not answered (the manifests cannot be used, or the question makes no sense).";

/// A connection to explain.
#[derive(Args, Clone, Debug)]
pub struct WhyArgs {
    /// The fleet's directory: clusters/CLUSTER/*.yaml, and optionally fleet/*.yaml, fleet.yaml and mesh.yaml
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Who opens the connection: CLUSTER/NAMESPACE/POD, or an address
    #[arg(long, value_name = "WHO", value_parser = party)]
    from: Party,
    /// To whom: CLUSTER/NAMESPACE/POD, or an address (a backend's: a Service's address is never policed)
    #[arg(long, value_name = "WHO", value_parser = party)]
    to: Party,
    /// The destination port; not for protocols without ports
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// TCP, UDP, SCTP, ICMP, ICMPv6 or a number
    #[arg(long, default_value = "TCP", value_parser = protocol)]
    protocol: Protocol,
    /// The source's address, where it is not the pod's first of the common family
    #[arg(long, value_name = "ADDRESS")]
    src_ip: Option<IpAddr>,
    /// The destination's address, likewise
    #[arg(long, value_name = "ADDRESS")]
    dst_ip: Option<IpAddr>,
    /// A page for people, or one JSON document
    #[arg(long, value_enum, default_value = "text")]
    output: PageOutput,
}

fn party(text: &str) -> Result<Party, String> {
    if let Ok(address) = text.parse() {
        return Ok(Party::Address(address));
    }
    text.parse().map(Party::Workload).map_err(|error| format!("{error}, nor an IP address"))
}

fn protocol(text: &str) -> Result<Protocol, String> {
    Protocol::try_from(text.to_owned())
}

pub(super) fn run(args: &WhyArgs) -> u8 {
    let checked = match load(&args.directory) {
        Ok(checked) => checked,
        Err(problems) => {
            problems.iter().for_each(|problem| eprintln!("error: {problem}"));
            eprintln!("{} error(s): nothing is answered", problems.len());
            return 2;
        }
    };
    match explanation(args, &checked) {
        Ok(explanation) => {
            match args.output {
                PageOutput::Text => print(&explanation.to_string()),
                PageOutput::Json => {
                    print(&(serde_json::to_string_pretty(&explanation).expect("an explanation is JSON") + "\n"));
                }
            }
            u8::from(!explanation.is_allow())
        }
        Err(error) => {
            eprintln!("error: {error}");
            2
        }
    }
}

fn explanation(args: &WhyArgs, checked: &Checked) -> Result<explain::Explanation, String> {
    let state = &checked.state;
    let port = match (args.port, args.protocol.has_ports()) {
        (Some(port), true) => port,
        (None, true) => return Err(format!("{} has ports: say which with --port", args.protocol)),
        (Some(_), false) => return Err(format!("{} has no ports: leave out --port", args.protocol)),
        (None, false) => 0,
    };
    for (option, party) in [("--from", &args.from), ("--to", &args.to)] {
        known(state, party).map_err(|error| format!("{option}: {error}"))?;
    }
    let (from, to) = (args.from.clone(), args.to.clone());
    let (protocol, src_ip, dst_ip) = (args.protocol, args.src_ip, args.dst_ip);
    let query = Query { id: serde_json::Value::Null, from, to, protocol, port, src_ip, dst_ip };
    let answer = Checker::new(state).answer(&query).map_err(|error| {
        format!("{error}\n  the pods' addresses are in status.podIPs of their manifests; --src-ip and --dst-ip give others")
    })?;
    Ok(explain::answer(state, &query, &answer))
}

/// Checks that a pod is there, and proposes others where it is not.
fn known(state: &State, party: &Party) -> Result<(), String> {
    let Party::Workload(id) = party else { return Ok(()) };
    if state.facts().workloads.contains_key(id) || state.refused_workload(id).is_some() {
        return Ok(());
    }
    let near = near(state, id);
    let way_out = match near.is_empty() {
        true => "there is no pod in this directory: a Pod needs a manifest in clusters/<cluster>/".into(),
        false => format!("did you mean {}?", near.join(", ")),
    };
    Err(format!("there is no pod {id}; {way_out}"))
}

/// Returns up to three pods whose names are nearest to `id`.
fn near(state: &State, id: &WorkloadId) -> Vec<String> {
    let wanted = id.to_string();
    let mut names: Vec<(usize, String)> = state
        .facts()
        .workloads
        .keys()
        .map(|known| {
            // The right name in the wrong place is nearer than any other.
            let apart = if known.name == id.name { 1 } else { 2 + distance(&wanted, &known.to_string()) };
            (apart, known.to_string())
        })
        .collect();
    names.sort();
    let best = names.first().map_or(0, |(apart, _)| *apart);
    names.into_iter().take(3).filter(|(apart, _)| *apart <= best.max(1) * 2).map(|(_, name)| name).collect()
}

/// Returns the Levenshtein distance: how many letters are put in, left out or changed.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let changed = diagonal + usize::from(x != *y);
            diagonal = std::mem::replace(&mut row[j + 1], 0);
            row[j + 1] = changed.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_distance_counts_letters() {
        for (a, b, expected) in [("", "", 0), ("web-0", "web-0", 0), ("web-0", "wbe-1", 3), ("db", "", 2), ("cart", "card-0", 3)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
            assert_eq!(distance(b, a), expected, "{b} {a}");
        }
    }
}
