//! Services: connections to a service address are translated to a backend, on the client's node, by nftables.
//!
//! ```text
//!   table inet landbridge
//!     prerouting, output (nat)   daddr . protocol . port  -> @services4 / @services6 -> chain of the service
//!     service-N                  hash of the client -> slot -> @slots-N -> backend -> dnat
//!     refuse                     frontends without a ready backend: TCP reset, or ICMP port unreachable
//!     untracked (raw)            only where packets between local workloads pass the device, see below
//!     spoofed (raw)              else: sources in a guarded prefix, from any device but ours -> drop
//! ```
//!
//! A connection's slot is a hash of its source address and port, or with affinity of the address alone: so a client stays where
//! it is for as long as the slot does, without a time to count; `timeoutSeconds` of the affinity means nothing here. Which
//! backend has a slot is the balancer's choice (`mesh_dataplane::balancer`).
//!
//! A guarded source comes out of the tunnel or not at all: who can send packets to the node past the tunnel could otherwise
//! speak as any workload of the fleet. (The user tunnel with scope node carries everything for a workload, and sees to it. The
//! kernel tunnel does not: there the node's own workloads are excepted here, and are for its policy table to tell apart.)
//!
//! The kernel's conntrack undoes the translation on whatever path the reply takes, and keeps connections that exist on their
//! backend when the table changes, but for those that a lost backend never answered (`conntrack`). A change is one transaction
//! that replaces the table's content.
//!
//! With scope node the user tunnel has a packet between two workloads of the node cross the node twice: from the client's device
//! into the TUN, and from the TUN to the server. Conntrack must see each connection at one of the two crossings only, or the second one's
//! entry collides with the first's translated reply. Client packets are seen when they come from the client, replies when they
//! come from the TUN: what comes from a workload to a fleet address that is no service, and what comes from the TUN to a
//! backend, is not tracked.
//!
//! The table is ours by its comment. A table of this name with another comment is an error, and is left alone.

use std::collections::BTreeSet;
use std::net::IpAddr;

use mesh_core::{Prefix, SessionAffinity};
use mesh_dataplane::{Backends, Local, Scope, ServiceTable};
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::conntrack;
use crate::netlink::{Netlink, NetlinkError};
use crate::nft::{self, Element, Expressions, Field, Hook, SetKind, Transaction, Value, Verdict, address_bytes, ranges};

/// The table's name.
pub const NFT_TABLE: &str = "landbridge";

/// What the comment of our table begins with; a hash of the content follows.
const COMMENT: &str = "landbridge node agent ";

const PREROUTING: u32 = 0;
const OUTPUT: u32 = 3;
/// `NF_IP_PRI_NAT_DST` and `NF_IP_PRI_RAW`.
const PRIORITY_NAT: i32 = -100;
const PRIORITY_RAW: i32 = -300;

const FRONTEND4: &[Field] = &[Field::Ipv4, Field::Protocol, Field::Port];
const FRONTEND6: &[Field] = &[Field::Ipv6, Field::Protocol, Field::Port];

/// Why the service table could not be programmed.
#[derive(Debug, thiserror::Error)]
pub enum ServicesError {
    /// Another program has a table of this name.
    #[error("the nftables table 'inet {NFT_TABLE}' is there and is not ours (its comment says so): remove or rename it")]
    ForeignTable,
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// What the rules are made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ruleset<'a> {
    pub(crate) services: &'a ServiceTable,
    /// What is local, once it is known.
    pub(crate) local: Option<&'a Local>,
    /// Every prefix that the tunnel carries.
    pub(crate) fleet: &'a BTreeSet<Prefix>,
    /// The tunnel's device.
    pub(crate) device: &'a str,
    /// With scope node, packets between workloads of the node pass the device.
    pub(crate) hairpin: bool,
}

/// The kernel's nftables, as one network namespace has them.
#[derive(Debug)]
pub struct ServiceRules(Netlink);

impl ServiceRules {
    /// Opens the calling thread's network namespace.
    pub fn open() -> Result<ServiceRules, ServicesError> {
        Ok(ServiceRules(Netlink::open(NETLINK_NETFILTER)?))
    }

    /// Removes the table, where it is there and ours.
    pub fn remove(&mut self) -> Result<(), ServicesError> {
        if self.comment()?.is_some() { self.commit(Transaction::delete(NFT_TABLE)) } else { Ok(()) }
    }

    /// Replaces the content of the table, unless it is what is there.
    pub(crate) fn set(&mut self, ruleset: &Ruleset<'_>) -> Result<(), ServicesError> {
        if self.is(ruleset)? { Ok(()) } else { self.commit(ruleset.transaction()) }
    }

    /// Tells whether the kernel has these rules: as far as the comment of the table tells.
    pub(crate) fn is(&mut self, ruleset: &Ruleset<'_>) -> Result<bool, ServicesError> {
        Ok(self.comment()?.is_some_and(|comment| comment == ruleset.comment()))
    }

    /// Forgets connections that `services` has no backend for any more and that nobody answers; see [`crate::conntrack`].
    pub(crate) fn forget_lost(&mut self, services: &ServiceTable) -> Result<usize, ServicesError> {
        Ok(conntrack::forget_lost(&mut self.0, services)?)
    }

    fn commit(&mut self, transaction: Transaction) -> Result<(), ServicesError> {
        transaction.commit(&mut self.0, "program nftables")?;
        Ok(())
    }

    /// Returns the comment of our table, `None` where there is no table.
    fn comment(&mut self) -> Result<Option<String>, ServicesError> {
        let comment = nft::read::comment(&mut self.0, NFT_TABLE)?;
        let ours = |comment: Option<String>| comment.filter(|comment| comment.starts_with(COMMENT));
        comment.map(|comment| ours(comment).ok_or(ServicesError::ForeignTable)).transpose()
    }
}

impl Ruleset<'_> {
    fn comment(&self) -> String {
        // Equal rules make equal bytes; the hash only tells rules of one build apart.
        let written = self.write(Transaction::delete(NFT_TABLE)).finish().0;
        format!("{COMMENT}{:016x}", nft::table::hash(&written))
    }

    fn transaction(&self) -> Transaction {
        let comment = self.comment();
        self.write(Transaction::replace(NFT_TABLE, &comment))
    }

    fn write(&self, mut to: Transaction) -> Transaction {
        to.chain("refuse", None);
        to.rule("refuse", Expressions::new().protocol(6).reset());
        to.rule("refuse", Expressions::new().unreachable());
        for (name, number) in [("prerouting", PREROUTING), ("output", OUTPUT)] {
            to.chain(name, Some(Hook { kind: "nat", number, priority: PRIORITY_NAT }));
        }
        let mut frontends = [Vec::new(), Vec::new()];
        for (index, (frontend, backends)) in self.services.0.iter().enumerate() {
            let ipv4 = frontend.address.is_ipv4();
            let chain = if backends.slots.is_empty() { "refuse".to_owned() } else { service(&mut to, index, ipv4, backends) };
            let key = endpoint(frontend.address, frontend.protocol.number(), frontend.port);
            frontends[usize::from(ipv4)].push((key, chain));
        }
        for ipv4 in [true, false] {
            let key = if ipv4 { FRONTEND4 } else { FRONTEND6 };
            let map = if ipv4 { "services4" } else { "services6" };
            let elements = frontends[usize::from(ipv4)].iter();
            let elements: Vec<_> =
                elements.map(|(key, chain)| Element::verdict(key.clone(), Verdict::Goto(chain.as_str().into()))).collect();
            to.set(map, SetKind { key, value: Value::Verdict, ranges: false, fixed: true }, &elements);
            for chain in ["prerouting", "output"] {
                to.rule(chain, Expressions::new().family(ipv4).destination_port_in(ipv4, map, true));
            }
        }
        if let Some(local) = self.local.filter(|local| !self.passes_twice(local)) {
            to.chain("spoofed", Some(Hook { kind: "filter", number: PREROUTING, priority: PRIORITY_RAW }));
            for (ipv4, set) in [(true, "guarded4"), (false, "guarded6")] {
                let key: &'static [Field] = if ipv4 { &[Field::Ipv4] } else { &[Field::Ipv6] };
                let kind = SetKind { key, value: Value::Nothing, ranges: true, fixed: true };
                if local.scope == Scope::Node {
                    let own = if ipv4 { "local4" } else { "local6" };
                    to.set(own, kind, &ranges(local.prefixes.iter().copied(), ipv4));
                    to.rule("spoofed", Expressions::new().family(ipv4).source_in(ipv4, own).verdict(&Verdict::Return));
                }
                to.set(set, kind, &ranges(self.fleet.iter().copied(), ipv4));
                let rule = Expressions::new().family(ipv4).input(self.device, false).input("lo", false);
                to.rule("spoofed", rule.source_in(ipv4, set).verdict(&Verdict::Drop));
            }
        }
        if let Some(local) = self.local.filter(|local| self.passes_twice(local)) {
            to.chain("untracked", Some(Hook { kind: "filter", number: PREROUTING, priority: PRIORITY_RAW }));
            for ipv4 in [true, false] {
                self.untracked(&mut to, local, ipv4, &frontends[usize::from(ipv4)]);
            }
        }
        to
    }

    /// Tells whether packets between two workloads of the node cross it twice.
    fn passes_twice(&self, local: &Local) -> bool {
        self.hairpin && local.scope == Scope::Node
    }

    /// Writes the rules that keep connection tracking to one of the two crossings.
    fn untracked(&self, to: &mut Transaction, local: &Local, ipv4: bool, frontends: &[(Vec<u8>, String)]) {
        let suffix = if ipv4 { "4" } else { "6" };
        let [backend_set, frontend_set, local_set, fleet_set] =
            ["local-backends", "frontends", "local", "fleet"].map(|name| format!("{name}{suffix}"));
        let is_local = |address: IpAddr| local.prefixes.iter().any(|prefix| prefix.contains(address));
        let key = if ipv4 { FRONTEND4 } else { FRONTEND6 };
        let address: &'static [Field] = if ipv4 { &[Field::Ipv4] } else { &[Field::Ipv6] };
        let backends: BTreeSet<_> = self
            .services
            .0
            .iter()
            // Those that take no new connections too: what they have goes on.
            .flat_map(|(frontend, backends)| {
                backends.ready.iter().chain(&backends.rest).map(|backend| (frontend.protocol, *backend))
            })
            .filter(|(_, (address, _))| address.is_ipv4() == ipv4 && is_local(*address))
            .map(|(protocol, (address, port))| endpoint(address, protocol.number(), port))
            .collect();
        let plain = SetKind { key, value: Value::Nothing, ranges: false, fixed: true };
        to.set(&backend_set, plain, &backends.into_iter().map(Element::key).collect::<Vec<_>>());
        to.set(&frontend_set, plain, &frontends.iter().map(|(key, _)| Element::key(key.clone())).collect::<Vec<_>>());
        let ranged = SetKind { key: address, value: Value::Nothing, ranges: true, fixed: true };
        to.set(&local_set, ranged, &ranges(local.prefixes.iter().copied(), ipv4));
        to.set(&fleet_set, ranged, &ranges(self.fleet.iter().chain(&local.prefixes).copied(), ipv4));

        let rule = || Expressions::new().family(ipv4);
        to.rule("untracked", rule().input(self.device, true).destination_port_in(ipv4, &backend_set, false).untracked());
        to.rule("untracked", rule().input(self.device, true).verdict(&Verdict::Return));
        let from_local = format!("from-local{suffix}");
        to.chain(&from_local, None);
        to.rule("untracked", rule().source_in(ipv4, &local_set).verdict(&Verdict::Jump(from_local.as_str().into())));
        // Replies to the node's own connections end here and make no second crossing.
        to.rule(&from_local, Expressions::new().for_this_machine().verdict(&Verdict::Return));
        to.rule(&from_local, Expressions::new().destination_port_in(ipv4, &frontend_set, false).verdict(&Verdict::Return));
        to.rule(&from_local, Expressions::new().destination_in(ipv4, &fleet_set).untracked());
    }
}

/// Writes the chain of a service; returns its name.
fn service(to: &mut Transaction, index: usize, ipv4: bool, backends: &Backends) -> String {
    let (chain, map) = (format!("service-{index}"), format!("slots-{index}"));
    let elements: Vec<_> = (0u32..)
        .zip(backends.slots.iter().filter_map(|slot| backends.ready.get(usize::from(*slot))))
        .map(|(number, (address, port))| {
            let value = [&address_bytes(*address)[..], &port.to_be_bytes(), &[0, 0]].concat();
            Element::data(number.to_ne_bytes().to_vec(), value)
        })
        .collect();
    let value: &'static [Field] = if ipv4 { &[Field::Ipv4, Field::Port] } else { &[Field::Ipv6, Field::Port] };
    to.set(&map, SetKind { key: &[Field::Number], value: Value::Fields(value), ranges: false, fixed: true }, &elements);
    to.chain(&chain, None);
    let with_port = backends.affinity == SessionAffinity::None;
    let chosen = Expressions::new().hash_of_source(ipv4, with_port, backends.slots.len() as u32);
    to.rule(&chain, chosen.translate_by(ipv4, &map));
    chain
}

/// Returns address, protocol and port as a set's key has them.
fn endpoint(address: IpAddr, protocol: u8, port: u16) -> Vec<u8> {
    [&address_bytes(address)[..], &[protocol, 0, 0, 0], &port.to_be_bytes(), &[0, 0]].concat()
}
