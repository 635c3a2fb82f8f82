//! The chains that every table has: from the hooks to the two sides of a connection.

use std::hash::{DefaultHasher, Hash, Hasher};

use mesh_core::Direction;
use mesh_dataplane::Scope;

use super::image::named;
use super::numbers::Kind;
use super::rows::{Outcome, Rows};
use crate::nft::table::Table;
use crate::nft::{End, Expressions, Hook, Verdict};

const INPUT: u32 = 1;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
/// `NF_IP_PRI_FILTER`.
const PRIORITY: i32 = 0;

/// The chain of what is policed.
const TUNNEL: &str = "tunnel";

/// Where an address is loaded: an IPv6 one takes four registers.
const ADDRESS: u32 = 0;

/// A side of a connection: that of its source, or of its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Egress,
    Ingress,
}

impl Side {
    pub(super) const BOTH: [Side; 2] = [Side::Egress, Side::Ingress];

    pub(super) fn of(direction: Direction) -> Side {
        if direction == Direction::Egress { Side::Egress } else { Side::Ingress }
    }

    pub(super) fn direction(self) -> Direction {
        if self == Side::Egress { Direction::Egress } else { Direction::Ingress }
    }

    fn as_str(self) -> &'static str {
        if self == Side::Egress { "egress" } else { "ingress" }
    }

    /// Returns the end that lives here.
    fn own(self) -> End {
        if self == Side::Egress { End::Source } else { End::Destination }
    }

    fn peer(self) -> End {
        if self == Side::Egress { End::Destination } else { End::Source }
    }

    /// Returns the name of the map of peers, with which the names of their groups begin.
    pub(super) fn peers(self, ipv4: bool) -> String {
        named(if self == Side::Egress { "to" } else { "from" }, ipv4)
    }

    /// Returns the name of the map of addresses that nobody has.
    pub(super) fn outside(self) -> &'static str {
        if self == Side::Egress { "to-outside" } else { "from-outside" }
    }

    /// Returns the chain that asks whether a port is exported.
    pub(super) fn exports(self) -> &'static str {
        if self == Side::Egress { "exported-to-here" } else { "exported-from-here" }
    }
}

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
            let from_here = own().packet_source(ipv4, ADDRESS).within(&set("local"), ADDRESS, true);
            let both = from_here.packet_destination(ipv4, ADDRESS).within(&set("local"), ADDRESS, true);
            table.rule("forward", both.verdict(&Verdict::Goto(TUNNEL.into())));
        }
        table.rule(TUNNEL, own().verdict(&Verdict::Goto(set(TUNNEL))));

        let chain = set(TUNNEL);
        let rule = Expressions::new;
        let stranger = own().output(device).packet_source(ipv4, ADDRESS).within(&set("local"), ADDRESS, false);
        table.rule(&chain, drop(stranger, "spoofed"));
        let elsewhere = own().input(device, true).packet_destination(ipv4, ADDRESS).within(&set("local"), ADDRESS, false);
        table.rule(&chain, drop(elsewhere, "not-local"));
        let after = if ipv4 { 1 } else { 4 };
        let itself = rule().end(End::Source, ipv4, ADDRESS).end(End::Destination, ipv4, ADDRESS + after);
        let itself = itself.within(&set("self"), ADDRESS, true).counter().verdict(&Verdict::Accept);
        table.rule(&chain, itself.comment("allow: own-address"));
        for side in Side::BOTH {
            let lives_here = rule().end(side.own(), ipv4, ADDRESS).within(&set("local"), ADDRESS, true);
            table.rule(&chain, lives_here.verdict(&Verdict::Jump(set(side.as_str()))));
            for map in [side.peers(ipv4), named(side.outside(), ipv4)] {
                table.rule(&set(side.as_str()), rule().end(side.peer(), ipv4, 0).verdict_of(&map));
            }
            table.rule(&set(side.as_str()), drop(rule(), "nothing known"));
        }
        table.rule(&chain, rule().verdict(&Verdict::Accept));
    }
}

/// Writes the chain of all peers of a kind, with a map of the same name: where the own end is decided.
pub(super) fn kind(table: &mut Table, name: &str, side: Side, ipv4: bool) {
    for map in [name, &named("own", ipv4), &named("own-outside", ipv4)] {
        table.rule(name, Expressions::new().end(side.own(), ipv4, 0).verdict_of(map));
    }
    let nothing = Expressions::new().counter().verdict(&Verdict::Drop);
    table.rule(name, nothing.comment("deny: nothing known"));
}

/// Writes the chain of a group of peers that some own ends tell from others, with a map of the same name.
pub(super) fn group(table: &mut Table, name: &str, (side, ipv4): (Side, bool), kind: Kind) {
    table.rule(name, Expressions::new().end(side.own(), ipv4, 0).verdict_of(name));
    no_group(table, name, (side, ipv4), kind);
}

/// Writes the chain of a group of peers that no own end tells from others of its kind.
pub(super) fn no_group(table: &mut Table, name: &str, (side, ipv4): (Side, bool), kind: Kind) {
    let kind = format!("{}-{}", side.peers(ipv4), kind.as_str());
    table.rule(name, Expressions::new().verdict(&Verdict::Goto(kind)));
}

/// Writes the chains that ask whether a port is exported.
pub(super) fn exports(table: &mut Table, rows: &mut Rows) {
    let not_exported = rows.of(Outcome::NotExported);
    let allowed = rows.of(Outcome::FleetDefault);
    for ipv4 in [true, false] {
        let port = || {
            let after = if ipv4 { 1 } else { 4 };
            Expressions::new().family(ipv4).end(End::Destination, ipv4, 0).protocol_and_port(after)
        };
        table.rule(Side::Ingress.exports(), port().verdict_of(&named("exported", ipv4)));
        let imported = port().within(&named("imported", ipv4), 0, true);
        table.rule(Side::Egress.exports(), imported.verdict(&Verdict::Goto(allowed.clone())));
    }
    for side in Side::BOTH {
        table.rule(side.exports(), Expressions::new().verdict(&Verdict::Goto(not_exported.clone())));
    }
}

/// Returns the name of the chain that asks whether a client is of one of these clusters.
pub(super) fn importers_name(clusters: &[&str]) -> String {
    let name = format!("importers/{}/", clusters.join("/"));
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    if name.len() < 100 { name } else { format!("importers/{:016x}/", hasher.finish()) }
}

/// Writes that chain, which asks the set of the same name.
pub(super) fn importers(table: &mut Table, rows: &mut Rows, name: &str, ipv4: bool) {
    let client = Expressions::new().end(End::Source, ipv4, 0).within(name, 0, true);
    table.rule(name, client.verdict(&Verdict::Goto(rows.of(Outcome::FleetDefault))));
    table.rule(name, Expressions::new().verdict(&Verdict::Goto(rows.of(Outcome::NotExported))));
}
