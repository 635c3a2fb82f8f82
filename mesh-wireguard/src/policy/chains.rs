//! The chains that every table has: from the hooks to the two sides of a connection.

use mesh_dataplane::Scope;

use super::image::named;
use super::rows::{EXPORTS, Outcome, Rows};
use crate::nft::table::Table;
use crate::nft::{End, Expressions, Hook, Verdict};

const INPUT: u32 = 1;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
/// `NF_IP_PRI_FILTER`.
const PRIORITY: i32 = 0;

/// The chain of what is policed.
const TUNNEL: &str = "tunnel";

/// Where an address is loaded, behind subject and peer.
const ADDRESS: u32 = 4;

/// Returns the table of a node of which nothing is known: what would pass the device is dropped.
pub(super) fn closed(device: &str) -> Table {
    let mut table = Table::default();
    hooks(&mut table, device);
    table.rule(TUNNEL, Expressions::new().counter().verdict(&Verdict::Drop).comment("deny: no policy yet"));
    table
}

fn hooks(table: &mut Table, device: &str) {
    for (name, number) in [("input", INPUT), ("forward", FORWARD), ("output", OUTPUT)] {
        table.base_chain(name, Hook { kind: "filter", number, priority: PRIORITY });
        if number != OUTPUT {
            table.rule(name, Expressions::new().input(device, true).verdict(&Verdict::Goto(TUNNEL.into())));
        }
        if number != INPUT {
            table.rule(name, Expressions::new().output(device).verdict(&Verdict::Goto(TUNNEL.into())));
        }
    }
}

/// Writes the chains; the sets and rows that they ask are there.
pub(super) fn write(table: &mut Table, device: &str, scope: Scope) {
    hooks(table, device);
    let drop = |rule: Expressions, why: &str| rule.counter().verdict(&Verdict::Drop).comment(format!("deny: {why}"));
    table.rule(TUNNEL, drop(Expressions::new().no_connection(), "no-connection"));
    for ipv4 in [true, false] {
        let own = || Expressions::new().family(ipv4);
        let set = |name| named(name, ipv4);
        if scope == Scope::Node {
            // By the packet's own addresses: what has no connection has no other ones.
            let from_here = own().packet_source(ipv4, ADDRESS).is_in(&set("local"), ADDRESS, true);
            let both = from_here.packet_destination(ipv4, ADDRESS).is_in(&set("local"), ADDRESS, true);
            table.rule("forward", both.verdict(&Verdict::Goto(TUNNEL.into())));
        }
        table.rule(TUNNEL, own().verdict(&Verdict::Goto(set(TUNNEL))));

        let chain = set(TUNNEL);
        let rule = Expressions::new;
        let stranger = rule().output(device).packet_source(ipv4, ADDRESS).is_in(&set("local"), ADDRESS, false);
        table.rule(&chain, drop(stranger, "spoofed"));
        let elsewhere = rule().input(device, true).packet_destination(ipv4, ADDRESS).is_in(&set("local"), ADDRESS, false);
        table.rule(&chain, drop(elsewhere, "not-local"));
        let after = if ipv4 { 1 } else { 4 };
        let itself = rule().end(End::Source, ipv4, ADDRESS).end(End::Destination, ipv4, ADDRESS + after);
        let itself = itself.is_in(&set("self"), ADDRESS, true).counter().verdict(&Verdict::Accept);
        table.rule(&chain, itself.comment("allow: own-address"));
        for (side, end) in [("egress", End::Source), ("ingress", End::Destination)] {
            let lives_here = rule().end(end, ipv4, ADDRESS).is_in(&set("local"), ADDRESS, true);
            table.rule(&chain, lives_here.verdict(&Verdict::Jump(set(side))));
        }
        table.rule(&chain, rule().verdict(&Verdict::Accept));
        write_side(table, "egress", (End::Source, End::Destination), ipv4);
        write_side(table, "ingress", (End::Destination, End::Source), ipv4);
    }
}

/// Writes the chain of one side: subject and peer by their addresses, then the cell of both, or that of the peer's kind.
fn write_side(table: &mut Table, side: &str, (own, peer): (End, End), ipv4: bool) {
    let (chain, peers, outside) = (named(side, ipv4), named("peers", ipv4), named("outside", ipv4));
    let subject = |map: &str| Expressions::new().end(own, ipv4, ADDRESS).map(map, ADDRESS, 0);
    let against = |rule: Expressions, map: &str| rule.end(peer, ipv4, ADDRESS).map(map, ADDRESS, 1);
    for known in [&peers, &outside] {
        table.rule(&chain, against(subject(&chain), known).verdict_of("cells"));
        table.rule(&chain, against(subject(&chain), known).map("kinds", 1, 1).verdict_of("cells"));
    }
    // Own ends that are no workloads: nodes, pending ones, and those outside the fleet.
    for (own, known) in [(&peers, &peers), (&peers, &outside), (&outside, &peers), (&outside, &outside)] {
        let kinds = against(subject(own).map("kinds", 0, 0), known).map("kinds", 1, 1);
        table.rule(&chain, kinds.verdict_of("cells"));
    }
    table.rule(&chain, Expressions::new().counter().verdict(&Verdict::Drop).comment("deny: nothing known"));
}

/// Writes the chains that ask whether a port is exported.
pub(super) fn exports(table: &mut Table, rows: &mut Rows) {
    let not_exported = rows.of(Outcome::NotExported);
    let allowed = rows.of(Outcome::FleetDefault);
    let [into, out] = EXPORTS;
    for ipv4 in [true, false] {
        let port = || {
            let after = if ipv4 { 1 } else { 4 };
            Expressions::new().family(ipv4).end(End::Destination, ipv4, 0).protocol_and_port(after)
        };
        table.rule(into, port().verdict_of(&named("exported", ipv4)));
        table.rule(out, port().is_in(&named("imported", ipv4), 0, true).verdict(&Verdict::Goto(allowed.clone())));
    }
    for chain in EXPORTS {
        table.rule(chain, Expressions::new().verdict(&Verdict::Goto(not_exported.clone())));
    }
}

/// Writes the chain that asks whether the client's cluster imports a port, by the set of the same name.
pub(super) fn importers(table: &mut Table, rows: &mut Rows, name: &str) {
    let allowed = rows.of(Outcome::FleetDefault);
    for ipv4 in [true, false] {
        let group = Expressions::new().family(ipv4).end(End::Source, ipv4, ADDRESS).map(&named("peers", ipv4), ADDRESS, 0);
        table.rule(name, group.is_in(name, 0, true).verdict(&Verdict::Goto(allowed.clone())));
    }
    table.rule(name, Expressions::new().verdict(&Verdict::Goto(rows.of(Outcome::NotExported))));
}
