//! NetworkPolicy (networking.k8s.io/v1).

use std::sync::Arc;

use super::cursor::{Cursor, Object, short};
use super::object::{Meta, port_name, protocol, selector};
use crate::policy::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyRule, PolicyScope, PortMatch};
use crate::{Prefix, Resource, Selector};

pub(super) fn network_policy(meta: &Meta<'_>, scope: &PolicyScope) -> Option<Resource> {
    let (name, namespace) = (meta.name(), meta.namespace());
    let scope = scope.clone();
    // The API has a spec at all times: one that is not written down is the empty one.
    let Some(spec) = meta.root.get("spec").map(|spec| spec.object()) else {
        let (subject, ingress) = (Selector::ALL, Some(Vec::new()));
        let policy = NetworkPolicy { scope, namespace: namespace?, name: name?, subject, ingress, egress: None };
        return Some(Resource::NetworkPolicy(Arc::new(policy)));
    };
    spec.only(&["podSelector", "policyTypes", "ingress", "egress"]);
    let subject = spec.get("podSelector").map_or(Selector::ALL, |cursor| selector(&cursor));
    let ingress: Vec<_> = spec.items("ingress").iter().map(|cursor| rule(cursor, "from")).collect();
    let egress: Vec<_> = spec.items("egress").iter().map(|cursor| rule(cursor, "to")).collect();
    let (has_ingress, has_egress) = directions(&spec, !egress.is_empty());
    for (name, rules, has) in [("ingress", &ingress, has_ingress), ("egress", &egress, has_egress)] {
        if let Some(cursor) = spec.get(name).filter(|_| !rules.is_empty() && !has) {
            cursor.warn("without effect: policyTypes does not have this direction");
        }
    }
    Some(Resource::NetworkPolicy(Arc::new(NetworkPolicy {
        scope,
        namespace: namespace?,
        name: name?,
        subject,
        ingress: has_ingress.then_some(ingress),
        egress: has_egress.then_some(egress),
    })))
}

/// Reads `policyTypes`; missing or empty is Ingress, and Egress where there is an egress rule.
fn directions(spec: &Object<'_>, egress_rules: bool) -> (bool, bool) {
    let items = spec.items("policyTypes");
    if items.is_empty() {
        return (true, egress_rules);
    }
    let types: Vec<_> = items.iter().filter_map(|item| item.one_of(&[("Ingress", true), ("Egress", false)])).collect();
    (types.contains(&true), types.contains(&false))
}

fn rule(cursor: &Cursor<'_>, peers_name: &str) -> NetworkPolicyRule {
    let before = cursor.report().unknown();
    let object = cursor.object();
    object.only(&[peers_name, "ports"]);
    let ports: Vec<_> = object.items("ports").iter().filter_map(port).collect();
    // What is not known here could only narrow the rule, so a rule that lost it must not become wider.
    if cursor.report().unknown() > before {
        cursor.warn("the rule matches nothing, because of an unknown field in it");
        return NetworkPolicyRule { peers: vec![NetworkPolicyPeer::Nothing], ports };
    }
    NetworkPolicyRule { peers: object.items(peers_name).iter().map(peer).collect(), ports }
}

fn peer(cursor: &Cursor<'_>) -> NetworkPolicyPeer {
    if cursor.is_null() {
        cursor.warn("the peer matches nothing: it has no field");
        return NetworkPolicyPeer::Nothing;
    }
    let before = cursor.report().unknown();
    let object = cursor.object();
    object.only(&["podSelector", "namespaceSelector", "ipBlock"]);
    let pods = object.get("podSelector").map(|cursor| selector(&cursor));
    let namespaces = object.get("namespaceSelector").map(|cursor| selector(&cursor));
    let block = object.get("ipBlock").map(|cursor| ip_block(&cursor));
    if block.is_some() && (pods.is_some() || namespaces.is_some()) {
        cursor.error("ipBlock stands alone: a peer has either it or selectors");
    }
    if cursor.report().unknown() > before {
        cursor.warn("the peer matches nothing, because of an unknown field in it");
        return NetworkPolicyPeer::Nothing;
    }
    match block {
        Some(block) => block.unwrap_or(NetworkPolicyPeer::Nothing),
        None if pods.is_none() && namespaces.is_none() => {
            cursor.warn("the peer matches nothing: it has none of podSelector, namespaceSelector, ipBlock");
            NetworkPolicyPeer::Nothing
        }
        None => NetworkPolicyPeer::Workloads { namespaces, pods },
    }
}

fn ip_block(cursor: &Cursor<'_>) -> Option<NetworkPolicyPeer> {
    let object = cursor.object();
    object.only(&["cidr", "except"]);
    let cidr = object.require("cidr").and_then(|cursor| cursor.prefix());
    let inside = |item: &Cursor<'_>| -> Option<Prefix> {
        let except = item.prefix()?;
        if let Some(cidr) = cidr.filter(|cidr| !cidr.covers(except)) {
            item.error(format_args!("{except} is not inside the block's cidr {cidr}"));
        }
        Some(except)
    };
    let except = object.items("except").iter().filter_map(inside).collect();
    Some(NetworkPolicyPeer::IpBlock { cidr: cidr?, except })
}

fn port(cursor: &Cursor<'_>) -> Option<PortMatch> {
    let object = cursor.object();
    object.only(&["protocol", "port", "endPort"]);
    let protocol = protocol(&object);
    let end = object.get("endPort");
    let Some(port) = object.get("port") else {
        if let Some(end) = end {
            end.error("endPort needs a port to begin with");
        }
        return Some(PortMatch::Protocol(protocol?));
    };
    if !port.is_integer() {
        if let Some(end) = end {
            end.error("endPort needs a port that is a number");
        }
        let name = named_port(&port);
        return Some(PortMatch::Named(Some(protocol?), name?));
    }
    let first = port.port();
    let last = match &end {
        Some(cursor) => cursor.port(),
        None => first,
    };
    let (first, last) = (first?, last?);
    if let Some(cursor) = end.filter(|_| last < first) {
        cursor.error(format_args!("endPort {last} is less than port {first}"));
    }
    Some(PortMatch::Range(protocol?, first, last))
}

/// Reads a port's name; a number in quotes is a mistake.
pub(super) fn named_port(cursor: &Cursor<'_>) -> Option<Arc<str>> {
    if let Some(text) = cursor.text().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit())) {
        cursor.error(format_args!("a number must not be in quotes: write {}", short(text)));
        return None;
    }
    port_name(cursor, false)
}
