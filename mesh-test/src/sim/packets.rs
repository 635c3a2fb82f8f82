//! Packets of workloads: sent, delivered, and judged by the model.

use mesh_core::{Direction, FiveTuple, Located, Protocol, RuleName, State, Verdict};
use mesh_policy::naive;

use super::fleet::{PORTS, Placed};
use super::happen::REVOKED;
use super::packet::{self, Note};
use super::world::{MS, Promise, Sent, World};

impl World<'_> {
    /// Sends a packet from a workload to another, on a new flow; returns its number where it left the workload.
    pub(super) fn send(&mut self, from: &(usize, usize, Placed), to: &(usize, usize, Placed), port: u32, padding: usize) -> u64 {
        let id = self.next_packet;
        self.next_packet += 1;
        let tuple = FiveTuple {
            source: from.2.address,
            destination: to.2.address,
            protocol: Protocol::Udp,
            source_port: 10_000 + (id % 50_000) as u16,
            destination_port: PORTS[port as usize % PORTS.len()],
        };
        self.sent.insert(id, Sent { tuple, delivered: false, answered: false });
        self.counts.packets += 1;
        let n = self.fleet.node_of(from.0, &from.2);
        self.say(|| format!("packet {id}: {tuple} leaves node {n}"));
        self.emit(n, &tuple, Note { id, answer: false }, padding);
        id
    }

    /// Hands a packet of a workload to its node, and judges what the node does with it.
    fn emit(&mut self, n: usize, tuple: &FiveTuple, note: Note, padding: usize) {
        let now = self.nodes[n].tick(self.now);
        let Some(live) = self.nodes[n].live.as_mut() else { return };
        let mut packets = mesh_wireguard::batch::Packets::new();
        packets.push(&packet::udp(tuple, note, padding));
        let before = live.out.datagrams.len();
        live.engine.handle_tun(&packets, now, &mut live.out);
        let passed = live.out.datagrams.len() > before || !live.out.packets.is_empty();
        if passed && live.state.poll_timeout().is_none_or(|due| due > now.time) {
            let verdict = judge(&live.state, tuple, note, Direction::Egress);
            if !verdict.is_allow() {
                self.fail(Promise::Verdict, format!("node {n} sent {tuple}, and the model says {verdict}"));
            }
        }
        self.flush(n);
    }

    /// Judges a packet that came out of the engine of node `n`, in a datagram that `origin` sent (`None`: it was held), and has it
    /// answered.
    pub(super) fn deliver(&mut self, origin: Option<usize>, n: usize, bytes: &[u8]) {
        let Some((tuple, note)) = packet::read(bytes) else {
            return self.fail(Promise::Authentic, format!("node {n} delivered a packet that nobody sent"));
        };
        let Some(sent) = self.sent.get(&note.id).copied() else {
            return self.fail(Promise::Authentic, format!("node {n} delivered packet {}, which nobody sent", note.id));
        };
        let opened = if note.answer { tuple.reversed() } else { tuple };
        if opened != sent.tuple {
            return self.fail(Promise::Authentic, format!("node {n} delivered {tuple}, sent as {}", sent.tuple));
        }
        if let Some(origin) = origin.filter(|origin| self.fleet.owner(tuple.source) != Some(*origin)) {
            return self.fail(Promise::Authentic, format!("node {n} believed node {origin} for {tuple}"));
        }
        self.counts.delivered += 1;
        self.say(|| format!("packet {}: {tuple} is delivered by node {n}", note.id));
        let now = self.nodes[n].now(self.now);
        let Some(live) = self.nodes[n].live.as_ref() else { return };
        if live.state.poll_timeout().is_none_or(|due| due > now.time) {
            let verdict = judge(&live.state, &tuple, note, Direction::Ingress);
            if !verdict.is_allow() {
                return self.fail(Promise::Verdict, format!("node {n} delivered {tuple}, and the model says {verdict}"));
            }
            let favoured = [tuple.source, tuple.destination].into_iter().find_map(|address| match live.state.locate(address) {
                Located::Workload(workload) if live.known.is_revoked(&workload.id.cluster, now.wall) => Some(workload.id.clone()),
                _ => None,
            });
            if let Some(workload) = favoured {
                return self.fail(Promise::Revoked, format!("node {n} knows that {workload} is revoked and delivered {tuple}"));
            }
        }
        self.judge_revocation(n, &tuple);
        if let Some(sent) = self.sent.get_mut(&note.id) {
            if note.answer { sent.answered = true } else { sent.delivered = true }
        }
        if !note.answer {
            self.emit(n, &tuple.reversed(), Note { answer: true, ..note }, 0);
        }
    }

    /// Five seconds after a revocation, or after the end of the faults that hid it, nothing of its cluster is delivered.
    fn judge_revocation(&mut self, n: usize, tuple: &FiveTuple) {
        let Some(healthy) = self.healthy_since else { return };
        let owner = |address| self.fleet.owner(address).map(|node| self.fleet.nodes[node].cluster);
        for cluster in [owner(tuple.source), owner(tuple.destination)].into_iter().flatten() {
            if let Some(at) = self.revoked_at.get(&cluster).copied()
                && self.now > at.max(healthy) + REVOKED
            {
                let since = (self.now - at) / MS;
                self.fail(
                    Promise::Revoked,
                    format!("node {n} delivered {tuple}, {since} ms after cluster c{cluster} was revoked"),
                );
            }
        }
    }
}

/// Returns the model's verdict on a packet at the end where it goes out or comes in. An answer belongs to the flow that it
/// answers; where that is not allowed (any more), a datagram may still be the first of a flow in its own direction.
fn judge(state: &State, tuple: &FiveTuple, note: Note, direction: Direction) -> Verdict<RuleName> {
    let opposite = if direction == Direction::Egress { Direction::Ingress } else { Direction::Egress };
    if note.answer {
        let verdict = naive::decide(state, &tuple.reversed(), opposite);
        if verdict.is_allow() {
            return verdict;
        }
    }
    naive::decide(state, tuple, direction)
}
