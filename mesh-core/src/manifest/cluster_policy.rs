//! ClusterNetworkPolicy (policy.networking.k8s.io v1alpha2, v1beta1).

use std::sync::Arc;

use super::cursor::{Cursor, Object, short};
use super::network_policy::named_port;
use super::object::{Meta, selector};
use crate::policy::{
    ClusterNetworkPolicy, ClusterPeer, ClusterRule, PolicyScope, PolicyTier, PortMatch, RuleAction, WorkloadMatch,
};
use crate::{Protocol, Resource, Selector};

pub(super) fn cluster_policy(meta: &Meta<'_>, scope: &PolicyScope) -> Option<Resource> {
    let name = meta.name();
    let spec = meta.spec()?;
    spec.only(&["tier", "priority", "subject", "ingress", "egress"]);
    let tiers = [("Admin", PolicyTier::Admin), ("Baseline", PolicyTier::Baseline)];
    let tier = spec.require("tier").and_then(|cursor| cursor.one_of(&tiers));
    let priority = spec.require("priority").and_then(|cursor| cursor.integer(0..=1000));
    let subject = spec.require("subject").and_then(|cursor| subject(&cursor));
    let ingress = spec.items("ingress").iter().filter_map(|cursor| rule(cursor, &INGRESS)).collect();
    let egress = spec.items("egress").iter().filter_map(|cursor| rule(cursor, &EGRESS)).collect();
    Some(Resource::ClusterNetworkPolicy(Arc::new(ClusterNetworkPolicy {
        scope: scope.clone(),
        name: name?,
        tier: tier?,
        priority: i32::try_from(priority?).ok()?,
        subject: subject?,
        ingress,
        egress,
    })))
}

fn subject(cursor: &Cursor<'_>) -> Option<WorkloadMatch> {
    let object = cursor.object();
    object.only(&["namespaces", "pods"]);
    match (object.get("namespaces"), object.get("pods")) {
        (Some(namespaces), None) => Some(WorkloadMatch { namespaces: selector(&namespaces), pods: None }),
        (None, Some(pods)) => Some(namespaced_pods(&pods)),
        _ => {
            cursor.error("exactly one of namespaces and pods must be there");
            None
        }
    }
}

fn namespaced_pods(cursor: &Cursor<'_>) -> WorkloadMatch {
    let object = cursor.object();
    object.only(&["namespaceSelector", "podSelector"]);
    let namespaces = object.get("namespaceSelector").map_or(Selector::ALL, |cursor| selector(&cursor));
    WorkloadMatch { namespaces, pods: object.require("podSelector").map(|cursor| selector(&cursor)) }
}

/// What differs between the two rule lists.
struct Side {
    peers: &'static str,
    kinds: &'static [&'static str],
}

const INGRESS: Side = Side { peers: "from", kinds: &["namespaces", "pods"] };
const EGRESS: Side = Side { peers: "to", kinds: &["namespaces", "pods", "nodes", "networks", "domainNames"] };

fn rule(cursor: &Cursor<'_>, side: &Side) -> Option<ClusterRule> {
    let before = cursor.report().unknown();
    let object = cursor.object();
    object.only(&["name", "action", side.peers, "protocols"]);
    let actions = [("Accept", RuleAction::Accept), ("Deny", RuleAction::Deny), ("Pass", RuleAction::Pass)];
    let action = object.require("action").and_then(|cursor| cursor.one_of(&actions));
    let mut unknown = false;
    let mut peers = Vec::new();
    if let Some(list) = object.require(side.peers) {
        let items = list.items();
        if items.is_empty() {
            list.error("must have at least one peer");
        }
        for item in &items {
            match peer(item, side, action) {
                Some(peer) => peers.push(peer),
                None => unknown = true,
            }
        }
    }
    let mut protocols = Vec::new();
    if let Some(list) = object.get("protocols") {
        let items = list.items();
        if items.is_empty() {
            list.error("must have at least one protocol; leave it out for all of them");
        }
        for item in &items {
            match protocol(item) {
                Some(protocol) => protocols.push(protocol),
                None => unknown = true,
            }
        }
    }
    let not_pods = |peer: &ClusterPeer| !matches!(peer, ClusterPeer::Workloads(_));
    if protocols.iter().any(|protocol| matches!(protocol, PortMatch::Named(..))) && peers.iter().any(not_pods) {
        cursor.warn("destinationNamedPort matches nothing on nodes, networks and domainNames, which have no named ports");
    }
    let unknown = unknown || cursor.report().unknown() > before;
    if unknown {
        let effect = if action == Some(RuleAction::Accept) { "matches nothing" } else { "denies everything" };
        cursor.warn(format_args!("the rule {effect}, because of something unknown in it"));
    }
    Some(ClusterRule { action: action?, peers, protocols, unknown })
}

/// Reads the one field of a union; `None` where no field is known.
fn one<'a>(cursor: &Cursor<'a>, known: &[&'static str]) -> Option<(&'static str, Cursor<'a>)> {
    if cursor.is_null() {
        return None;
    }
    let object: Object<'a> = cursor.object();
    object.only(known);
    let mut there = known.iter().filter_map(|name| Some((*name, object.get(name)?)));
    let first = there.next();
    if there.next().is_some() {
        cursor.error(format_args!("exactly one of {} must be there", known.join(", ")));
    }
    first
}

/// Reads a peer; `None` where no field of it is known.
fn peer(cursor: &Cursor<'_>, side: &Side, action: Option<RuleAction>) -> Option<ClusterPeer> {
    let (name, value) = one(cursor, side.kinds)?;
    Some(match name {
        "namespaces" => ClusterPeer::Workloads(WorkloadMatch { namespaces: selector(&value), pods: None }),
        "pods" => ClusterPeer::Workloads(namespaced_pods(&value)),
        "nodes" => ClusterPeer::Nodes(selector(&value)),
        "networks" => ClusterPeer::Networks(non_empty(&value).iter().filter_map(Cursor::prefix).collect()),
        _ => {
            if action.is_some_and(|action| action != RuleAction::Accept) {
                value.error("domainNames are for Accept rules only");
            }
            ClusterPeer::DomainNames(non_empty(&value).iter().filter_map(domain_name).collect())
        }
    })
}

fn non_empty<'a>(cursor: &Cursor<'a>) -> Vec<Cursor<'a>> {
    let items = cursor.items();
    if items.is_empty() {
        cursor.error("must have at least one item");
    }
    items
}

/// Reads a domain name, or `*.` and one: at least two labels, lower-cased, without the final dot.
fn domain_name(cursor: &Cursor<'_>) -> Option<Arc<str>> {
    let text = cursor.text()?;
    let lower = text.to_ascii_lowercase();
    let name = lower.strip_suffix('.').unwrap_or(&lower);
    let labels = name.strip_prefix("*.").unwrap_or(name);
    if !labels.contains('.') || !is_domain_name(labels) {
        cursor.error(format_args!("'{}' is not a domain name such as example.com or *.example.com", short(text)));
        return None;
    }
    Some(name.into())
}

/// Tells whether `name`, in lower case and without a final dot, is a domain name; underscores are allowed inside labels.
pub(super) fn is_domain_name(name: &str) -> bool {
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    let label = |label: &str| {
        label.len() <= 63 && label.bytes().all(inner) && edge(label.bytes().next()) && edge(label.bytes().next_back())
    };
    name.len() <= 253 && name.split('.').all(label)
}

/// Reads a protocol; `None` where no field of it is known.
fn protocol(cursor: &Cursor<'_>) -> Option<PortMatch> {
    let (name, value) = one(cursor, &["tcp", "udp", "sctp", "destinationNamedPort"])?;
    let protocol = match name {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        "sctp" => Protocol::Sctp,
        _ => return named_port(&value).map(|name| PortMatch::Named(None, name)),
    };
    let (_, port) = one(&value, &["destinationPort"])?;
    let (kind, value) = one(&port, &["number", "range"])?;
    if kind == "number" {
        let number = value.port()?;
        return Some(PortMatch::Range(protocol, number, number));
    }
    let range = value.object();
    range.only(&["start", "end"]);
    let start = range.require("start").and_then(|cursor| cursor.port());
    let end = range.require("end").and_then(|cursor| cursor.port());
    let (start, end) = (start?, end?);
    if end < start {
        range.missing("end", format_args!("{end} is less than start {start}"));
    }
    Some(PortMatch::Range(protocol, start, end))
}
