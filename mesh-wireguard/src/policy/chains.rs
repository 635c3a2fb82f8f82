//! The chains that every table has: from the hooks to the two sides of a connection.

use mesh_core::Direction;
use mesh_dataplane::Scope;

use super::image::named;
use super::rows::{Outcome, Rows};
use crate::nft::table::{Table, hash};
use crate::nft::{End, Expressions, Hook, Verdict};

const INPUT: u32 = 1;
const FORWARD: u32 = 2;
const OUTPUT: u32 = 3;
/// `NF_IP_PRI_FILTER`.
const PRIORITY: i32 = 0;

/// The chain of what is policed.
const TUNNEL: &str = "tunnel";
/// The chain of what the source's side lets go, or does not concern.
const THEN_INGRESS: &str = "then-ingress";

/// A side of a connection: that of its source, or of its destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

    pub(super) fn as_str(self) -> &'static str {
        if self == Side::Egress { "egress" } else { "ingress" }
    }

    /// Returns what becomes of a packet that this side allows or denies.
    pub(super) fn verdict(self, allows: bool) -> Verdict {
        match (allows, self) {
            (false, _) => Verdict::Drop,
            (true, Side::Egress) => Verdict::Goto(THEN_INGRESS.into()),
            (true, Side::Ingress) => Verdict::Accept,
        }
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
    hooks(&mut table, device, &[]);
    table.rule(TUNNEL, drop(Expressions::new(), "no policy yet"));
    table
}

/// Writes the base chains: what is policed is decided in the chain of the tunnel, or dropped.
///
/// While the table changes, a packet may be led to a chain whose rules it does not see yet; it then comes back here.
fn hooks(table: &mut Table, device: &str, local: &[(bool, &str)]) {
    for (name, number) in [("input", INPUT), ("forward", FORWARD), ("output", OUTPUT)] {
        table.base_chain(name, Hook { kind: "filter", number, priority: PRIORITY });
        let mut policed = Vec::new();
        policed.extend((number != OUTPUT).then(|| Expressions::new().input(device, true)));
        policed.extend((number != INPUT).then(|| Expressions::new().output(device)));
        if number == FORWARD {
            // By the packet's own addresses: what has no connection has no other ones.
            policed.extend(local.iter().map(|(ipv4, local)| {
                let from_here = Expressions::new().family(*ipv4).packet_source(*ipv4, 0).within(local, 0, true);
                from_here.packet_destination(*ipv4, 0).within(local, 0, true)
            }));
        }
        for packets in policed {
            table.rule(name, packets.clone().verdict(&Verdict::Jump(TUNNEL.into())));
            table.rule(name, drop(packets, "undecided"));
        }
    }
}

fn drop(rule: Expressions, why: &str) -> Expressions {
    rule.counter().verdict(&Verdict::Drop).comment(format!("deny: {why}"))
}

/// Writes the chains that lead to the sides; `local` are the sets of what lives here, by family.
pub(super) fn write(table: &mut Table, device: &str, scope: Scope, local: &[(bool, &str)]) {
    hooks(table, device, if scope == Scope::Node { local } else { &[] });
    table.rule(TUNNEL, drop(Expressions::new().no_connection(), "no-connection"));
    for (ipv4, local) in local.iter().copied() {
        let own = || Expressions::new().family(ipv4);
        let chain = named(TUNNEL, ipv4);
        table.rule(TUNNEL, own().verdict(&Verdict::Goto(chain.as_str().into())));

        let stranger = own().output(device).packet_source(ipv4, 0).within(local, 0, false);
        table.rule(&chain, drop(stranger, "spoofed"));
        let elsewhere = own().input(device, true).packet_destination(ipv4, 0).within(local, 0, false);
        table.rule(&chain, drop(elsewhere, "not-local"));
        let rule = Expressions::new;
        let after = if ipv4 { 1 } else { 4 };
        let itself = rule().end(End::Source, ipv4, 0).end(End::Destination, ipv4, after).within(&named("self", ipv4), 0, true);
        table.rule(&chain, itself.counter().verdict(&Verdict::Accept).comment("allow: own-address"));
        let from_here = rule().end(End::Source, ipv4, 0).within(local, 0, true);
        table.rule(&chain, from_here.verdict(&Verdict::Goto(named(Side::Egress.as_str(), ipv4).into())));
        table.rule(&chain, rule().verdict(&Verdict::Goto(THEN_INGRESS.into())));
        let to_here = own().end(End::Destination, ipv4, 0).within(local, 0, true);
        table.rule(THEN_INGRESS, to_here.verdict(&Verdict::Goto(named(Side::Ingress.as_str(), ipv4).into())));
    }
    table.rule(THEN_INGRESS, Expressions::new().verdict(&Verdict::Accept));
}

/// Writes the chain of a side for a family: the peer leads on, `outside` has those that nobody has.
pub(super) fn side(table: &mut Table, side: Side, ipv4: bool, outside: &str) {
    let name = named(side.as_str(), ipv4);
    let peers = side.peers(ipv4);
    // Twice: where a peer is given another group, a packet may find it in neither the first time.
    for map in [&peers, &peers, outside] {
        table.rule(&name, Expressions::new().end(side.peer(), ipv4, 0).verdict_of(map));
    }
}

/// Writes the chain of a kind of peers: the own end is in one of `maps`.
pub(super) fn kind(table: &mut Table, name: &str, own: (Side, bool), maps: [&str; 3]) {
    for map in maps {
        table.rule(name, Expressions::new().end(own.0.own(), own.1, 0).verdict_of(map));
    }
}

/// Writes the chain of a group of peers: some own ends tell them from others, by `map`; to the others they are of their kind.
pub(super) fn group(table: &mut Table, name: &str, own: (Side, bool), map: Option<&str>, kind: &str) {
    if let Some(map) = map {
        table.rule(name, Expressions::new().end(own.0.own(), own.1, 0).verdict_of(map));
    }
    table.rule(name, Expressions::new().verdict(&Verdict::Goto(kind.into())));
}

/// Writes the chains that ask whether a port is exported.
pub(super) fn exports(table: &mut Table, rows: &mut Rows) {
    for ipv4 in [true, false] {
        let port = || {
            let after = if ipv4 { 1 } else { 4 };
            Expressions::new().family(ipv4).end(End::Destination, ipv4, 0).protocol_and_port(after)
        };
        table.rule(Side::Ingress.exports(), port().verdict_of(&named("exported", ipv4)));
        let imported = port().within(&named("imported", ipv4), 0, true);
        let allowed = rows.of(Side::Egress, Outcome::FleetDefault);
        table.rule(Side::Egress.exports(), imported.verdict(&Verdict::Goto(allowed)));
    }
    for side in Side::BOTH {
        let not_exported = rows.of(side, Outcome::NotExported);
        table.rule(side.exports(), Expressions::new().verdict(&Verdict::Goto(not_exported)));
    }
}

/// Returns the name of the chain that asks whether a client is of one of these clusters.
pub(super) fn importers_name(clusters: &[&str]) -> String {
    let name = format!("importers/{}/", clusters.join("/"));
    if name.len() < 100 { name } else { format!("importers/{:016x}/", hash(&name)) }
}

/// Writes that chain, which asks the set of the same name for the client.
pub(super) fn importers(table: &mut Table, rows: &mut Rows, name: &str, ipv4: bool) {
    let client = Expressions::new().end(End::Source, ipv4, 0).within(name, 0, true);
    table.rule(name, client.verdict(&Verdict::Goto(rows.of(Side::Ingress, Outcome::FleetDefault))));
    table.rule(name, Expressions::new().verdict(&Verdict::Goto(rows.of(Side::Ingress, Outcome::NotExported))));
}
