//! The stateful decision about every packet: policy, flow table and routes. It owns no crypto and touches no device.
//!
//! | packet | what decides |
//! | --- | --- |
//! | any | its source must be this node's (from the TUN) or the peer's (from a peer), by the longest prefix |
//! | opening: SYN, first datagram, echo request | the sides that live here, by policy; allowed, it makes a flow |
//! | of a flow, either direction | the flow; after a change the flow is decided again on its original tuple |
//! | TCP with ACK, without SYN, of no flow | as an opening, or as the reply to the opposite one: a `recovered` flow |
//! | SYN+ACK or echo reply of no flow | dropped |
//! | ICMP error | the flow that it quotes |
//! | later fragment | what was decided for the first |
//! | any of these with an end whose identity is not known yet | waits a little for the identity, then as above |

use std::collections::VecDeque;
use std::net::IpAddr;
use std::sync::Arc;

use mesh_core::{FiveTuple, FlowRecord, NodeId, Now, Time};
use mesh_policy::PolicySet;

use self::denials::Denials;
use self::fragments::Fragments;
use self::hold::Hold;
pub use self::hold::{Released, Want};
pub use self::openings::Opening;
use self::openings::Openings;
use self::records::Records;
use self::review::Review;
use self::routes::Routes;
use crate::counters::{Counters, DropReason};
use crate::flow_table::{FlowTable, Owner};
use crate::op::Op;
use crate::packet::{self, Icmp, Kind, Packet};

mod decide;
mod denials;
mod fragments;
mod hold;
mod openings;
mod records;
mod review;
mod routes;

/// How many flows a forwarder keeps where nothing else is said: about 100 MB when full.
pub const DEFAULT_FLOWS: usize = 1 << 18;

/// A peer by a dense number that is stable while the process lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PeerHandle(pub u32);

/// What to do with a packet that was read from the TUN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Outbound {
    /// Encrypt it to this peer.
    Send(PeerHandle),
    /// Write it back to the TUN: both ends live here.
    Local,
    /// Nothing: it waits for an identity, and may come back by [`poll_released`](Forwarder::poll_released).
    Held,
    /// Drop it. It is counted.
    Drop(DropReason),
}

/// What to do with a packet that was decrypted from a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Inbound {
    /// Write it to the TUN.
    Deliver,
    /// Nothing: it waits for an identity, and may come back by [`poll_released`](Forwarder::poll_released).
    Held,
    /// Drop it. It is counted.
    Drop(DropReason),
}

/// Decides packets: each is sent, delivered, or dropped for a reason. It begins by dropping everything.
pub struct Forwarder {
    routes: Routes,
    node: Option<NodeId>,
    policy: Option<Arc<PolicySet>>,
    /// Sets of which flows still hold verdicts, with their numbers.
    retired: VecDeque<(u64, Arc<PolicySet>)>,
    policies: u64,
    /// Grows with everything that may change a verdict or an owner; flows of an earlier one are decided again.
    generation: u64,
    /// Slots that may hold flows of an earlier generation: from here down.
    unreviewed: usize,
    flows: FlowTable,
    fragments: Fragments,
    denials: Denials,
    records: Records,
    openings: Openings,
    hold: Hold,
    counters: Counters,
    latest: Now,
}

impl Forwarder {
    /// Makes a forwarder for [`DEFAULT_FLOWS`] flows.
    pub fn new() -> Forwarder {
        Forwarder::with_flows(DEFAULT_FLOWS)
    }

    /// Makes a forwarder that keeps at most `flows` flows: beyond them, those that would end first give way.
    pub fn with_flows(flows: usize) -> Forwarder {
        Forwarder {
            routes: Routes::default(),
            node: None,
            policy: None,
            retired: VecDeque::new(),
            policies: 0,
            generation: 0,
            unreviewed: 0,
            flows: FlowTable::new(flows),
            fragments: Fragments::default(),
            denials: Denials::default(),
            records: Records::default(),
            openings: Openings::default(),
            hold: Hold::default(),
            counters: Counters::default(),
            latest: Now::default(),
        }
    }

    /// Takes over a step of the plan. Steps that are not about packets (services, guarded prefixes) change nothing.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::SetPolicy(policy) => self.set_policy(policy),
            Op::SetLocal(local) => {
                let moved = self.node.as_ref() != Some(&local.node);
                if moved {
                    self.node = Some(local.node.clone());
                }
                if self.routes.set_local(&local.prefixes) || moved {
                    self.invalidate();
                }
            }
            Op::SetPeer(node, _) => {
                self.routes.peer(node);
            }
            Op::SetRoute(prefix, node) => {
                let peer = self.routes.peer(node);
                if self.routes.set_route(*prefix, Some(peer)) {
                    self.invalidate();
                }
            }
            Op::DelRoute(prefix) => {
                if self.routes.set_route(*prefix, None) {
                    self.invalidate();
                }
            }
            Op::DelPeer(node) => {
                let peer = self.routes.peer(node);
                if self.routes.remove_routes_of(peer) {
                    self.invalidate();
                }
            }
            Op::SetServices(_) | Op::SetGuarded(_) => {}
        }
    }

    /// Returns the handle of `node`, a new one where it has none yet.
    pub fn peer(&mut self, node: &NodeId) -> PeerHandle {
        self.routes.peer(node)
    }

    /// Returns the node behind `handle`.
    pub fn node(&self, handle: PeerHandle) -> Option<&NodeId> {
        self.routes.node(handle)
    }

    /// Returns the peer that `address` is behind.
    pub fn peer_of(&self, address: IpAddr) -> Option<PeerHandle> {
        match self.routes.owner(address) {
            Some(Owner::Peer(peer)) => Some(peer),
            Some(Owner::Local) | None => None,
        }
    }

    /// Decides a packet that was read from the TUN.
    pub fn handle_outbound(&mut self, packet: &[u8], now: Now) -> Outbound {
        match self.handle(Owner::Local, packet, now) {
            Ok((Owner::Peer(peer), len)) => {
                self.counters.sent.add(len.into());
                Outbound::Send(peer)
            }
            Ok((Owner::Local, len)) => {
                self.counters.local.add(len.into());
                Outbound::Local
            }
            Err(reason) => match self.drop_or_hold(reason, Owner::Local, packet, now) {
                Some(reason) => Outbound::Drop(reason),
                None => Outbound::Held,
            },
        }
    }

    /// Decides a packet that was decrypted from a peer.
    pub fn handle_inbound(&mut self, from: PeerHandle, packet: &[u8], now: Now) -> Inbound {
        match self.handle(Owner::Peer(from), packet, now) {
            Ok((_, len)) => {
                self.counters.delivered.add(len.into());
                Inbound::Deliver
            }
            Err(reason) => match self.drop_or_hold(reason, Owner::Peer(from), packet, now) {
                Some(reason) => Inbound::Drop(reason),
                None => Inbound::Held,
            },
        }
    }

    /// Ends flows that were idle for too long, drops what has waited too long for an identity, tells gathered refusals, and
    /// decides flows again after a change, a batch at a time: while [`poll_timeout`](Forwarder::poll_timeout) is in the past there is more to do.
    pub fn handle_timeout(&mut self, now: Now) {
        self.latest = now;
        self.review_batch(review::BATCH);
        while let Some(entry) = self.flows.expire(now.time) {
            self.close(&entry);
        }
        self.fragments.expire(now.time);
        self.expire_held(now);
        self.denials.expire(now.time, &mut self.records);
    }

    /// Returns when [`handle_timeout`](Forwarder::handle_timeout) is due; a time in the past means now.
    pub fn poll_timeout(&self) -> Option<Time> {
        if self.unreviewed > 0 {
            return Some(self.latest.time);
        }
        let deadlines =
            [self.flows.next_deadline(), self.fragments.next_deadline(), self.hold.next_deadline(), self.denials.next_deadline()];
        deadlines.into_iter().flatten().min()
    }

    /// Returns the next flow record, in the order in which things happened.
    pub fn poll_flow(&mut self) -> Option<FlowRecord> {
        self.records.pop()
    }

    /// Returns what was counted so far.
    pub fn counters(&self) -> Counters {
        let (flows, records_lost) = (self.flows.len() as u64, self.records.lost());
        Counters { flows, records_lost, hold: self.hold.counters(), ..self.counters.clone() }
    }

    /// Counts a packet that is dropped, and returns why; or holds it where an identity is all that is missing.
    fn drop_or_hold(&mut self, reason: DropReason, from: Owner, packet: &[u8], now: Now) -> Option<DropReason> {
        let reason = match reason {
            DropReason::IdentityPending => self.wait(from, packet, now).err()?,
            reason => reason,
        };
        self.counters.drops.count(reason);
        Some(reason)
    }

    /// Decides a packet whose source must be `from`'s; returns where it goes, and its length.
    fn handle(&mut self, from: Owner, bytes: &[u8], now: Now) -> Result<(Owner, u32), DropReason> {
        self.latest = now;
        let packet = packet::parse(bytes).map_err(|_| DropReason::Malformed)?;
        if is_multicast(packet.tuple.destination) {
            return Err(DropReason::Multicast);
        }
        let to = match (packet.fragment, packet.kind) {
            (Some(fragment), _) if !fragment.first => self.later_fragment(from, &packet, fragment.id, now),
            (None, Kind::Icmp(icmp)) if icmp.error => self.error(from, &packet, icmp),
            (Some(fragment), _) => {
                let decided = self.connection(from, &packet, now);
                match decided {
                    Ok(_) => self.fragments.insert(packet.tuple, fragment.id, now.time),
                    // A flow that overlaps an allowed one in name must not lend it its fragments.
                    Err(DropReason::Policy | DropReason::IdentityPending | DropReason::NoFlow) => {
                        self.fragments.remove(&packet.tuple, fragment.id);
                    }
                    Err(_) => {}
                }
                decided
            }
            (None, _) => self.connection(from, &packet, now),
        }?;
        Ok((to, packet.len))
    }

    /// A packet that shows its ports: of a flow, or of a new one.
    fn connection(&mut self, from: Owner, packet: &Packet, now: Now) -> Result<Owner, DropReason> {
        match self.flows.find(&packet.tuple) {
            Some(slot) => self.of_flow(slot, from, packet, now),
            None => self.of_no_flow(from, packet, now),
        }
    }

    fn later_fragment(&mut self, from: Owner, packet: &Packet, id: u32, now: Now) -> Result<Owner, DropReason> {
        let to = self.check_path(from, &packet.tuple)?;
        let Some(tuple) = self.fragments.find(&packet.tuple, id, now.time) else {
            // The first one waits, perhaps.
            let is_pending = self.has_pending_end(&packet.tuple);
            return Err(if is_pending { DropReason::IdentityPending } else { DropReason::FragmentWithoutFirst });
        };
        let slot = self.flows.find(&tuple).ok_or(DropReason::FragmentWithoutFirst)?;
        if self.review(slot) != Review::Kept {
            return Err(DropReason::FragmentWithoutFirst);
        }
        self.note(slot, &Packet { tuple, ..*packet }, now);
        Ok(to)
    }

    /// An ICMP error goes to the sender of the packet that it quotes, if that packet's flow is open. It comes from here, or
    /// from the peer that has the packet's receiver: no other one sees the packet.
    fn error(&mut self, from: Owner, packet: &Packet, icmp: Icmp) -> Result<Owner, DropReason> {
        let to = self.check_path(from, &packet.tuple)?;
        let quoted = icmp.quoted.filter(|quoted| quoted.source == packet.tuple.destination).ok_or(DropReason::UnrelatedError)?;
        if from != Owner::Local && self.routes.owner(quoted.destination) != Some(from) {
            return Err(DropReason::UnrelatedError);
        }
        let slot = self.flows.find(&quoted).ok_or(DropReason::UnrelatedError)?;
        if self.review(slot) != Review::Kept {
            return Err(DropReason::UnrelatedError);
        }
        self.errored(slot, icmp);
        Ok(to)
    }

    /// Returns where a packet goes whose source must be `from`'s.
    fn check_path(&self, from: Owner, tuple: &FiveTuple) -> Result<Owner, DropReason> {
        check_owners(from, self.routes.owner(tuple.source), self.routes.owner(tuple.destination))
    }
}

impl Default for Forwarder {
    fn default() -> Forwarder {
        Forwarder::new()
    }
}

impl std::fmt::Debug for Forwarder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let policy = self.policy.as_ref().map(|policy| policy.fingerprint());
        f.debug_struct("Forwarder").field("node", &self.node).field("policy", &policy).finish_non_exhaustive()
    }
}

/// Returns where a packet goes: from here to a peer or back here, from a peer only to here.
fn check_owners(from: Owner, source: Option<Owner>, destination: Option<Owner>) -> Result<Owner, DropReason> {
    match from {
        Owner::Local if source != Some(Owner::Local) => Err(DropReason::Spoofed),
        Owner::Local => destination.ok_or(DropReason::NoRoute),
        Owner::Peer(_) if source != Some(from) => Err(DropReason::ForeignSource),
        Owner::Peer(_) if destination != Some(Owner::Local) => Err(DropReason::NotLocal),
        Owner::Peer(_) => Ok(Owner::Local),
    }
}

fn is_multicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_multicast() || address.is_broadcast(),
        IpAddr::V6(address) => address.is_multicast(),
    }
}

#[cfg(test)]
mod tests;
