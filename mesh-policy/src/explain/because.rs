//! The reason of a verdict as a sentence.

use mesh_core::{CrossClusterDefault, Direction, Located, NamespaceName, Reason, RuleName, ServiceId, Verdict};

use super::trace::Trace;
use super::{End, Who, export};
use crate::naive::Side;

pub(super) fn sentence(
    view: Option<&Side<'_>>,
    trace: Option<&Trace<'_>>,
    [from, to]: [&End; 2],
    direction: Direction,
    decided: &Verdict<RuleName>,
) -> String {
    let own = if direction == Direction::Egress { from } else { to };
    match decided.reason() {
        Reason::NotPoliced => match &own.who {
            Who::Node { node, .. } => format!("{} is node {node}, which no policy has as its subject", own.address),
            _ => format!("{} is outside the fleet, so no policy is asked", own.address),
        },
        Reason::OwnAddress => "a workload always reaches itself by its own addresses".into(),
        Reason::Admin(_) => "it is the first rule of the Admin tier that matches".into(),
        Reason::NetworkPolicy(_) => "NetworkPolicy applies, and this rule's peer and port match".into(),
        Reason::Baseline(_) => "no rule before Baseline decided, and it is the first rule of Baseline that matches".into(),
        Reason::Isolated => {
            let policies = trace.map(Trace::network_policies).unwrap_or_default();
            let verb = if policies.len() == 1 {
                "applies, and none of its rules matches"
            } else {
                "apply, and none of their rules matches"
            };
            format!("{} {verb}", policies.join(", "))
        }
        Reason::OwnNode => format!(
            "NetworkPolicy applies and no rule matches, but the workload's own node may {}",
            match direction {
                Direction::Ingress => "reach it (own_node_ingress_allowed)",
                Direction::Egress => "be reached (own_node_egress_allowed)",
            }
        ),
        Reason::FleetDefault => view.map(fleet_default).unwrap_or_default(),
        Reason::NotExported => match view.map(|view| view.state.cross_cluster_default()) {
            Some(CrossClusterDefault::Deny) => "no tier decided, and between clusters cross_cluster_default is deny".into(),
            _ => "no tier decided, and between clusters only exported services are open (cross_cluster_default: exports)".into(),
        },
        Reason::IdentityPending => {
            let pending: Vec<String> =
                [from, to].into_iter().filter(|end| end.pending().is_some()).map(|end| end.address.to_string()).collect();
            format!(
                "{} inside the fleet's prefixes without an identity: both sides deny, and no policy is asked",
                match &pending[..] {
                    [one] => format!("{one} is"),
                    both => format!("{} are", both.join(" and ")),
                }
            )
        }
        Reason::Default => {
            let end = match view.map(|view| view.peer) {
                Some(Located::Workload(_)) => "and both ends are in one cluster",
                Some(Located::Node(_)) => "and the other end is a node",
                _ => "and the other end is outside the fleet",
            };
            format!("no tier decided, {end}: that is allowed")
        }
    }
}

fn fleet_default(view: &Side<'_>) -> String {
    if view.state.cross_cluster_default() == CrossClusterDefault::Allow {
        return "no tier decided, and between clusters cross_cluster_default is allow".into();
    }
    let Some((client, server)) = view.clusters() else { return String::new() };
    let exists = |namespace: &NamespaceName| view.state.namespace_exists(client, namespace);
    let services: Vec<String> =
        export::behind(view).iter().filter(|id: &&ServiceId| exists(&id.namespace)).map(ToString::to_string).collect();
    format!("no tier decided, and {server} exports {} to {client}", services.join(", "))
}
