//! Text to the manifest reader and the loader of directories, and what loads to both evaluators of policy.
//!
//! An input is one or more files; a line `-- clusters/east/shop.yaml --` begins the next one.

use std::collections::BTreeSet;
use std::net::IpAddr;

use mesh_core::manifest::{Checked, Location, ManifestError};
use mesh_core::policy::{ClusterPeer, NetworkPolicyPeer, PortMatch};
use mesh_core::{Direction, FiveTuple, Prefix, Protocol, State};
use mesh_policy::{PolicySet, naive};

/// What is before the first line that names a file.
const FIRST: &str = "clusters/east/all.yaml";
/// How long a mistake's text may be: it quotes bounded parts of the file only.
const LONGEST_MESSAGE: usize = 4800;
/// How many addresses and ports of each kind are asked about, and how many connections between them.
const ENDS: usize = 7;
const CONNECTIONS: usize = 60;

/// Runs one input.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let files = split(&text);
    match Checked::load(files.iter().map(|(path, text)| (*path, text.as_str()))) {
        Ok(checked) => {
            checked.warnings.iter().for_each(|warning| told(warning, &files));
            for (key, Location { file, line }) in &checked.locations {
                assert!((1..=lines(file, &files)).contains(line), "{key} is at {file}:{line}");
            }
            agree(&checked.state);
        }
        Err(errors) => {
            assert!(!errors.is_empty() && errors.is_sorted());
            errors.iter().for_each(|error| told(error, &files));
        }
    }
}

/// Splits an input into files.
fn split(text: &str) -> Vec<(&str, String)> {
    let mut files = vec![(FIRST, String::new())];
    for line in text.split_inclusive('\n') {
        match line.trim_end().strip_prefix("-- ").and_then(|rest| rest.strip_suffix(" --")) {
            Some(path) => files.push((path, String::new())),
            None => files.last_mut().expect("there is a first one").1.push_str(line),
        }
    }
    files
}

/// A mistake is one line of bounded length, and has a place in its file.
fn told(error: &ManifestError, files: &[(&str, String)]) {
    let ManifestError { file, line, column, field, message } = error;
    assert!((1..=lines(file, files)).contains(line) && *column > 0, "{error} is not in the file");
    assert!(!field.chars().chain(message.chars()).any(char::is_control), "{error:?}");
    assert!(!message.is_empty() && field.len() + message.len() <= LONGEST_MESSAGE, "{error:.300}");
}

/// Returns the last line that a file can have; YAML breaks a line after a carriage return, too.
fn lines(file: &str, files: &[(&str, String)]) -> u32 {
    let text = files.iter().rev().find(|(path, _)| *path == file).map_or("", |(_, text)| text);
    u32::try_from(text.matches(['\n', '\r']).count()).expect("inputs are short") + 2
}

/// The compiled policy decides as the yardstick does, for connections that the directory itself suggests.
fn agree(state: &State) {
    let set = PolicySet::compile(state);
    assert_eq!(set.fingerprint(), PolicySet::compile(state).fingerprint());
    let (ends, services) = (ends(state), services(state));
    let pairs = ends.iter().flat_map(|source| ends.iter().map(move |destination| (*source, *destination)));
    let pairs = pairs.filter(|(source, destination)| source.is_ipv4() == destination.is_ipv4());
    let all: Vec<_> = pairs.flat_map(|pair| services.iter().map(move |service| (pair, *service))).collect();
    // A step without a common factor with the numbers of ends and services meets all of them.
    for ((source, destination), (protocol, destination_port)) in all.iter().step_by(all.len() / CONNECTIONS | 1) {
        let (source, destination, protocol, destination_port) = (*source, *destination, *protocol, *destination_port);
        let tuple = FiveTuple { source, destination, protocol, source_port: 40_000, destination_port };
        for direction in [Direction::Ingress, Direction::Egress] {
            let decided = set.named(set.decide(&set.flow(&tuple), direction));
            assert_eq!(decided, naive::decide(state, &tuple, direction), "{tuple} {direction}");
        }
    }
}

/// Returns some of each kind of address that the facts name.
fn ends(state: &State) -> BTreeSet<IpAddr> {
    let facts = state.facts();
    let workloads = facts.workloads.values().flat_map(|workload| workload.addresses.iter().copied());
    let nodes = facts.nodes.values().flat_map(|node| node.addresses.iter().copied());
    let domains = state.config().domains.values().flatten().copied();
    let blocks = facts.network_policies.values().flat_map(|policy| policy.ingress.iter().chain(&policy.egress)).flatten();
    let blocks = blocks.flat_map(|rule| &rule.peers).filter_map(|peer| match peer {
        NetworkPolicyPeer::IpBlock { cidr, except } => Some(except.first().copied().unwrap_or(*cidr)),
        _ => None,
    });
    let networks = facts.cluster_policies.values().flat_map(|policy| &policy.egress).flat_map(|rule| &rule.peers);
    let networks = networks.filter_map(|peer| match peer {
        ClusterPeer::Networks(networks) => networks.first().copied(),
        _ => None,
    });
    let inside = blocks.chain(networks).take(ENDS).flat_map(|prefix: Prefix| [prefix.address(), prefix.last_address()]);
    workloads.take(ENDS).chain(nodes.take(ENDS / 2)).chain(domains.take(ENDS / 2)).chain(inside.take(ENDS)).collect()
}

/// Returns some of the ports that rules and workloads name, and the ones beside them.
fn services(state: &State) -> BTreeSet<(Protocol, u16)> {
    let facts = state.facts();
    let rules = facts.network_policies.values().flat_map(|policy| policy.ingress.iter().chain(&policy.egress)).flatten();
    let cluster_rules = facts.cluster_policies.values().flat_map(|policy| policy.ingress.iter().chain(&policy.egress));
    let matches = rules.flat_map(|rule| &rule.ports).chain(cluster_rules.flat_map(|rule| &rule.protocols));
    let of_rules = matches.flat_map(|port| match port {
        PortMatch::Range(protocol, first, last) => vec![(*protocol, *first), (*protocol, last.saturating_add(1))],
        PortMatch::Protocol(protocol) => vec![(*protocol, 0)],
        PortMatch::Named(..) => Vec::new(),
    });
    let named = facts.workloads.values().flat_map(|workload| workload.ports.iter().map(|port| (port.protocol, port.port)));
    of_rules.take(ENDS).chain(named.take(ENDS / 2)).chain([(Protocol::Tcp, 80), (Protocol::Other(1), 0)]).collect()
}
