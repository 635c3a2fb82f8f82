//! The guard: fleet prefixes go into the tunnel or nowhere, also while no agent runs.

use std::collections::BTreeSet;

use mesh_core::Prefix;

use crate::netlink::NetlinkError;
use crate::netlink::route::{Destination, Route, Routing, Rule};
use crate::{KernelTunnel, PRIORITY_DELIVER, PRIORITY_END, PRIORITY_OVERLAY, TABLE_MAIN};

/// The metric of the guard's routes: the worst there is, so that any other route to the same prefix wins.
pub(crate) const METRIC_GUARD: u32 = u32::MAX;

/// Blackhole routes for the fleet's prefixes in a routing table of their own, which is asked before the main one.
///
/// ```text
///   priority    0  lookup local
///   priority 7300  iif landbridge0 lookup main     what comes out of the tunnel is delivered, never by a default route
///   priority 7300  iif lo to <local> lookup main   the node's own packets to its own workloads, likewise
///   priority 7301  lookup 7300                     throw <except>, dev landbridge0 <routes>, blackhole <prefixes>
///   priority 7302  iif landbridge0 blackhole       what comes out of the tunnel and nobody here takes: not by a default route
///   priority 32766 lookup main
/// ```
///
/// Only [`down`](Guard::down) removes them: they stand before the agent starts and after it dies. The agent's overlay routes
/// are in the same table with a better metric, and vanish with its device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The routing table: [`TABLE`](crate::TABLE) unless another program has that number.
    pub table: u32,
    /// The tunnel's device, by name: it need not exist.
    pub device: String,
    /// What must never leave in the clear.
    pub prefixes: BTreeSet<Prefix>,
    /// The node's own prefixes: its own packets to them (answers of its DNS server, probes of its kubelet) take the main table.
    pub local: BTreeSet<Prefix>,
    /// What is left to the other routes: with scope fleet the own cluster's prefixes, with scope cluster the node's own.
    pub except: BTreeSet<Prefix>,
}

/// What of the guard is in place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GuardStatus {
    /// The rules are there, for both families.
    pub rules: bool,
    /// Prefixes that are guarded now, by [`Guard::up`] or by a tunnel.
    pub guarded: BTreeSet<Prefix>,
    /// Prefixes that are excepted now.
    pub excepted: BTreeSet<Prefix>,
}

impl Guard {
    /// Puts the guard in place, in the calling thread's network namespace. What is there already stays; prefixes that an
    /// earlier guard had and this one has not are no longer guarded.
    pub fn up(&self) -> Result<(), NetlinkError> {
        let mut routing = Routing::open()?;
        let wanted: BTreeSet<Route> = self.routes().collect();
        for route in &wanted {
            routing.set_route(*route)?;
        }
        install_rules(&mut routing, &self.rules())?;
        let stale = routing.routes(self.table)?.into_iter().filter(|route| route.metric == METRIC_GUARD);
        for route in stale.filter(|route| !wanted.contains(route)) {
            routing.delete_route(route)?;
        }
        Ok(())
    }

    /// Removes the guard with everything else of ours in its table, the rules, and the device where it is a kernel tunnel's.
    /// Traffic to the fleet's prefixes takes the other routes again, in the clear.
    pub fn down(&self) -> Result<(), NetlinkError> {
        // First of all: what comes in by it would no longer be kept from going on.
        KernelTunnel::remove(&self.device)?;
        let mut routing = Routing::open()?;
        for rule in routing.rules()? {
            routing.delete_rule(&rule)?;
        }
        for route in routing.routes(self.table)? {
            routing.delete_route(route)?;
        }
        Ok(())
    }

    /// Reads back what is in place.
    pub fn status(&self) -> Result<GuardStatus, NetlinkError> {
        let mut routing = Routing::open()?;
        let present: BTreeSet<Rule> = routing.rules()?.into_iter().collect();
        let routes = routing.routes(self.table)?;
        let of = |to: Destination| routes.iter().filter(move |route| route.to == to).map(|route| route.prefix).collect();
        Ok(GuardStatus {
            rules: self.rules().is_subset(&present),
            guarded: of(Destination::Blackhole),
            excepted: of(Destination::Throw),
        })
    }

    fn rules(&self) -> BTreeSet<Rule> {
        rules(&self.device, self.table, self.local.iter().copied())
    }

    fn routes(&self) -> impl Iterator<Item = Route> {
        let route =
            |to: Destination| move |prefix: &Prefix| Route { table: self.table, prefix: *prefix, metric: METRIC_GUARD, to };
        // A prefix in both sets is excepted: two routes of one prefix and metric would replace each other.
        let guarded = self.prefixes.difference(&self.except).map(route(Destination::Blackhole));
        guarded.chain(self.except.iter().map(route(Destination::Throw)))
    }
}

/// Returns the rules, for both families. `local` are the node's own prefixes, which its own packets reach without the tunnel.
///
/// A default route is never taken for a fleet address: what no workload's route takes goes on to the table of ours.
pub(crate) fn rules(device: &str, table: u32, local: impl IntoIterator<Item = Prefix>) -> BTreeSet<Rule> {
    let own = |prefix| Rule { input: Some("lo".to_owned()), ..rule_to_local(prefix) };
    let mut rules: BTreeSet<Rule> = local.into_iter().map(own).collect();
    for ipv4 in [true, false] {
        rules.insert(to_main(ipv4, Some(device.to_owned()), None));
        let overlay =
            Rule { ipv4, priority: PRIORITY_OVERLAY, table, input: None, to: None, no_default: false, blackhole: false };
        let end = Rule { priority: PRIORITY_END, table: 0, input: Some(device.to_owned()), blackhole: true, ..overlay.clone() };
        rules.extend([overlay, end]);
    }
    rules
}

/// Returns the rule by which everybody's packets to a local prefix find its workloads.
pub(crate) fn rule_to_local(prefix: Prefix) -> Rule {
    to_main(prefix.is_ipv4(), None, Some(prefix))
}

fn to_main(ipv4: bool, input: Option<String>, to: Option<Prefix>) -> Rule {
    Rule { ipv4, priority: PRIORITY_DELIVER, table: TABLE_MAIN, input, to, no_default: true, blackhole: false }
}

/// Adds the rules of `wanted` that are not there, and removes those for prefixes that are not local any more.
pub(crate) fn update_rules(routing: &mut Routing, wanted: &BTreeSet<Rule>) -> Result<(), NetlinkError> {
    install_rules(routing, wanted)?;
    let stale = routing.rules()?.into_iter().filter(|rule| rule.to.is_some() && !wanted.contains(rule));
    stale.collect::<Vec<_>>().iter().try_for_each(|rule| routing.delete_rule(rule))
}

/// Adds the rules of `wanted` that are not there.
pub(crate) fn install_rules(routing: &mut Routing, wanted: &BTreeSet<Rule>) -> Result<(), NetlinkError> {
    let present: BTreeSet<Rule> = routing.rules()?.into_iter().collect();
    wanted.difference(&present).try_for_each(|rule| routing.add_rule(rule))
}
