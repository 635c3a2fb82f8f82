//! What a packet with ports means: of a flow, an opening, or a segment from before a restart.

use mesh_core::{Direction, FiveTuple, FlowEvent, Now, Reason, Verdict};
use mesh_policy::End;

use super::records::{Subject, record};
use super::review::Review;
use super::{Forwarder, check_owners};
use crate::counters::DropReason;
use crate::flow_table::{Entry, Owner};
use crate::packet::{self, Kind, Packet};

/// The verdicts of the sides that live here.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Decision {
    pub(super) egress: Option<Verdict>,
    pub(super) ingress: Option<Verdict>,
}

impl Decision {
    /// Returns the side that denies, egress first.
    pub(super) fn denial(&self) -> Option<(Direction, Verdict)> {
        self.sides().find(|(_, verdict)| !verdict.is_allow())
    }

    /// Tells whether no side lives here.
    pub(super) fn is_empty(&self) -> bool {
        self.egress.is_none() && self.ingress.is_none()
    }

    fn sides(&self) -> impl Iterator<Item = (Direction, Verdict)> {
        let egress = self.egress.map(|verdict| (Direction::Egress, verdict));
        egress.into_iter().chain(self.ingress.map(|verdict| (Direction::Ingress, verdict)))
    }
}

impl Forwarder {
    /// A packet whose tuple, or its reverse, has a flow.
    pub(super) fn of_flow(&mut self, slot: u32, from: Owner, packet: &Packet, now: Now) -> Result<Owner, DropReason> {
        match self.review(slot) {
            Review::Kept => {}
            Review::Cut => return Err(DropReason::Policy),
            Review::Gone => return self.of_no_flow(from, packet, now),
        }
        let entry = self.flows.get(slot).expect("the flow was found, and its review kept it");
        let from_opener = entry.tuple == packet.tuple;
        let (source, destination) =
            if from_opener { (entry.source, entry.destination) } else { (entry.destination, entry.source) };
        let to = check_owners(from, source, destination)?;
        if packet.is_opening() {
            let again = match packet.kind {
                // A retransmission, or a new connection between the same ports.
                Kind::Tcp(tcp) => entry.is_closed() || entry.isn != Some(tcp.sequence),
                _ => false,
            };
            if !from_opener {
                return self.reverse_opening(slot, (source, destination), packet, now).map(|()| to);
            }
            if again {
                self.replace(slot, packet, now);
                return Ok(to);
            }
        }
        self.note(slot, packet, now);
        Ok(to)
    }

    /// An opening by the end that so far only replied: it is that end's own connection, and decided as such. A flow that is
    /// still open stays (TCP's simultaneous open, or two hosts that ping each other with one identifier).
    fn reverse_opening(
        &mut self,
        slot: u32,
        (source, destination): (Option<Owner>, Option<Owner>),
        packet: &Packet,
        now: Now,
    ) -> Result<(), DropReason> {
        let decision = self.decide(&packet.tuple, source, destination)?;
        if decision.denial().is_some() {
            return Err(self.deny(packet.tuple, &decision, packet, now));
        }
        let closed = self.flows.get(slot).is_some_and(Entry::is_closed);
        if closed {
            self.replace(slot, packet, now);
        } else {
            self.note(slot, packet, now);
        }
        Ok(())
    }

    /// A packet whose tuple has no flow: it opens one, is taken up from before a restart, or is nothing.
    pub(super) fn of_no_flow(&mut self, from: Owner, packet: &Packet, now: Now) -> Result<Owner, DropReason> {
        let (source, destination) = (self.routes.owner(packet.tuple.source), self.routes.owner(packet.tuple.destination));
        let to = check_owners(from, source, destination)?;
        match packet.kind {
            Kind::Tcp(tcp) if tcp.syn() && tcp.ack() => return Err(DropReason::NoFlow),
            Kind::Icmp(icmp) if icmp.is_echo_reply() => return Err(DropReason::NoFlow),
            _ => {}
        }
        let (tuple, decision) = self.opening_of(packet, (source, destination))?;
        if decision.denial().is_some() {
            return Err(self.deny(tuple, &decision, packet, now));
        }
        // A reset ends what is not there: nothing to keep.
        if !matches!(packet.kind, Kind::Tcp(tcp) if tcp.rst()) {
            let owners = if tuple == packet.tuple { (source, destination) } else { (destination, source) };
            self.open(tuple, decision, owners, (packet, now));
        }
        Ok(to)
    }

    /// Returns the opening that a packet of no flow stands for, and what the policy says of it. A segment from the middle of a
    /// connection stands for that one's opening, by whichever end.
    fn opening_of(
        &self,
        packet: &Packet,
        (source, destination): (Option<Owner>, Option<Owner>),
    ) -> Result<(FiveTuple, Decision), DropReason> {
        let tuple = packet.tuple;
        let forward = self.decide(&tuple, source, destination)?;
        if !matches!(packet.kind, Kind::Tcp(tcp) if tcp.ack() && !tcp.syn()) {
            return Ok((tuple, forward));
        }
        // The end with the higher port is taken for the opener where both directions are alike.
        let backward = self.decide(&tuple.reversed(), destination, source)?;
        let looks_like_reply = tuple.source_port < tuple.destination_port;
        let reply = match (forward.denial().is_none(), backward.denial().is_none()) {
            (true, false) => false,
            (false, true) => true,
            _ => looks_like_reply,
        };
        Ok(if reply { (tuple.reversed(), backward) } else { (tuple, forward) })
    }

    /// Asks the policy about the sides of `tuple` that live here.
    pub(super) fn decide(
        &self,
        tuple: &FiveTuple,
        source: Option<Owner>,
        destination: Option<Owner>,
    ) -> Result<Decision, DropReason> {
        let policy = self.policy.as_deref().ok_or(DropReason::NoPolicy)?;
        let mut policed = *tuple;
        if !tuple.protocol.has_ports() {
            (policed.source_port, policed.destination_port) = (0, 0);
        }
        let flow = policy.flow(&policed);
        let side = |owner, direction| (owner == Some(Owner::Local)).then(|| policy.decide(&flow, direction));
        Ok(Decision { egress: side(source, Direction::Egress), ingress: side(destination, Direction::Ingress) })
    }

    fn open(
        &mut self,
        tuple: FiveTuple,
        decision: Decision,
        owners: (Option<Owner>, Option<Owner>),
        (packet, now): (&Packet, Now),
    ) {
        let mut entry = Entry::new(tuple, packet, now);
        (entry.egress, entry.ingress) = (decision.egress, decision.ingress);
        (entry.source, entry.destination) = owners;
        (entry.generation, entry.policy) = (self.generation, self.policies);
        entry.deadline = entry.note(packet, tuple == packet.tuple, now);
        self.counters.opened += 1;
        self.counters.recovered += u64::from(entry.recovered);
        self.tell(FlowEvent::Opened, &entry);
        if let Some(evicted) = self.flows.insert(entry) {
            self.counters.evicted += 1;
            self.close(&evicted);
        }
    }

    /// Ends a flow and opens another by a packet between the same ports, which the caller found allowed.
    fn replace(&mut self, slot: u32, packet: &Packet, now: Now) {
        let Some(old) = self.flows.remove(slot) else { return };
        let same = old.tuple == packet.tuple;
        let owners = if same { (old.source, old.destination) } else { (old.destination, old.source) };
        self.close(&old);
        let decision = match self.decide(&packet.tuple, owners.0, owners.1) {
            Ok(decision) if decision.denial().is_none() => decision,
            _ => return,
        };
        self.open(packet.tuple, decision, owners, (packet, now));
    }

    /// Counts a packet of a flow and puts its end off.
    pub(super) fn note(&mut self, slot: u32, packet: &Packet, now: Now) {
        let Some(entry) = self.flows.get_mut(slot) else { return };
        let (from_opener, before) = (entry.tuple == packet.tuple, entry.progress);
        let deadline = entry.note(packet, from_opener, now);
        self.flows.set_deadline(slot, deadline);
        self.answered(slot, before, packet);
    }

    /// Tells a refusal; returns the reason to drop for. That an identity is not known is told by
    /// [`give_up`](Forwarder::give_up), once nobody waits for it any more.
    fn deny(&mut self, tuple: FiveTuple, decision: &Decision, packet: &Packet, now: Now) -> DropReason {
        match decision.denial() {
            Some((_, verdict)) if *verdict.reason() == Reason::IdentityPending => DropReason::IdentityPending,
            _ => {
                self.tell_denial(tuple, decision, packet, now);
                DropReason::Policy
            }
        }
    }

    /// Tells that a packet is dropped because an identity is not known; returns the reason.
    pub(super) fn give_up(&mut self, from: Owner, bytes: &[u8], now: Now) -> DropReason {
        if let Ok(packet) = packet::parse(bytes)
            && packet.fragment.is_none_or(|fragment| fragment.first)
        {
            let owners = (self.routes.owner(packet.tuple.source), self.routes.owner(packet.tuple.destination));
            // A packet whose path is gone has no side any more that could refuse it.
            if check_owners(from, owners.0, owners.1).is_ok()
                && let Ok((tuple, decision)) = self.opening_of(&packet, owners)
            {
                self.tell_denial(tuple, &decision, &packet, now);
            }
        }
        DropReason::IdentityPending
    }

    /// Tells whether an identity is missing at an end.
    pub(super) fn has_pending_end(&self, tuple: &FiveTuple) -> bool {
        let is_pending = |address| self.policy.as_ref().is_some_and(|policy| policy.end(address) == End::Pending);
        is_pending(tuple.source) || is_pending(tuple.destination)
    }

    fn tell_denial(&mut self, tuple: FiveTuple, decision: &Decision, packet: &Packet, now: Now) {
        let Some((direction, verdict)) = decision.denial() else { return };
        if let (Some(policy), Some(node)) = (&self.policy, &self.node) {
            let make = || {
                let mut entry = Entry::new(tuple, packet, now);
                entry.note(packet, true, now);
                entry.recovered = false;
                record(node, (policy, None), FlowEvent::Denied, (direction, verdict), &Subject::from(&entry))
            };
            self.denials.note((tuple, direction), packet.len, now, &mut self.records, make);
        }
    }

    pub(super) fn close(&mut self, entry: &Entry) {
        self.tell(FlowEvent::Closed, entry);
    }

    /// Queues an event of a flow, one record for each side that lives here.
    fn tell(&mut self, event: FlowEvent, entry: &Entry) {
        let Some(node) = &self.node else { return };
        let named_by = if entry.policy == self.policies { self.policy.as_ref() } else { self.retired_policy(entry.policy) };
        let Some(policy) = named_by else { return };
        let policy = policy.clone();
        let subject = Subject::from(entry);
        for side in (Decision { egress: entry.egress, ingress: entry.ingress }).sides() {
            self.records.push(|| record(node, (&policy, None), event, side, &subject));
        }
    }

    /// Ends a flow that `decision` does not allow any more.
    pub(super) fn cut(&mut self, entry: &Entry, decision: &Decision) {
        self.counters.cut += 1;
        let (Some(node), Some(policy)) = (&self.node, &self.policy) else { return };
        let before = self.retired_policy(entry.policy).cloned();
        let subject = Subject::from(entry);
        for side in decision.sides().filter(|(_, verdict)| !verdict.is_allow()) {
            self.records.push(|| record(node, (policy, before.as_deref()), FlowEvent::Cut, side, &subject));
        }
    }
}
