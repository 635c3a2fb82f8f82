//! The engine of the user tunnel: packets and datagrams in, datagrams and packets out. It knows no device, socket or clock.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use mesh_core::{FlowRecord, NodeId, Now, Time, WireGuardKey};
use mesh_dataplane::{Forwarder, Inbound, Op, Outbound, PeerHandle};

use self::peer::{Link, PeerState};
use crate::batch::{Datagrams, Output, Packets};
use crate::message::Message;
use crate::session::{Initiator, LocalKey, MAX_SESSIONS, ROOM, Refusal, Session, Step};
use crate::stats::{EngineCounters, PeerStats, TunnelStats};

mod control;
mod peer;

pub use self::control::UnknownPeer;

/// How often sessions are asked what time asks of them; boringtun's timers have this grain.
const TICK: Duration = Duration::from_millis(250);

/// Policy and routes by a [`Forwarder`], encryption by a [`Session`] for each key of each peer.
///
/// Methods append to the [`Output`] that they are given; the caller carries it out and clears it.
pub struct Engine<S: Session> {
    local: S::Local,
    forwarder: Forwarder,
    /// By peer handle; a removed peer leaves its place, because handles are stable.
    peers: Vec<Option<PeerState>>,
    /// By session index.
    links: Vec<Option<Link<S>>>,
    /// The session of each key that is accepted.
    by_key: BTreeMap<WireGuardKey, u32>,
    next_tick: Option<Time>,
    counters: EngineCounters,
}

impl<S: Session> Engine<S> {
    /// Makes an engine without peers, which drops everything until it is told otherwise.
    pub fn new(local: S::Local) -> Engine<S> {
        Engine {
            local,
            forwarder: Forwarder::new(),
            peers: Vec::new(),
            links: Vec::new(),
            by_key: BTreeMap::new(),
            next_tick: None,
            counters: EngineCounters::default(),
        }
    }

    /// Takes packets that were read from the TUN.
    pub fn handle_tun(&mut self, packets: &Packets, now: Now, out: &mut Output) {
        for packet in packets.iter() {
            match self.forwarder.handle_outbound(packet, now) {
                Outbound::Send(handle) => self.send(handle, packet, now, out),
                Outbound::Local => out.packets.push(packet),
                Outbound::Drop(_) => {}
            }
        }
    }

    /// Takes datagrams that were received.
    pub fn handle_udp(&mut self, datagrams: &Datagrams, now: Now, out: &mut Output) {
        for (source, datagram) in datagrams.iter() {
            if let Err(refusal) = self.handle_datagram(source, datagram, now, out) {
                self.counters.refused.count(refusal);
            }
        }
    }

    /// Does what time asks for.
    pub fn handle_timeout(&mut self, now: Now, out: &mut Output) {
        if self.forwarder.poll_timeout().is_some_and(|due| due <= now.time) {
            self.forwarder.handle_timeout(now);
        }
        if self.next_tick.is_some_and(|due| now.time < due) {
            return;
        }
        self.next_tick = Some(now.time + TICK);
        self.local.handle_timeout(now.time);
        for index in 0..self.links.len() {
            self.tick(index as u32, now, out);
        }
    }

    /// Returns when [`handle_timeout`](Engine::handle_timeout) is due: always some time, as sessions want to be asked.
    pub fn poll_timeout(&self) -> Option<Time> {
        let tick = self.next_tick.unwrap_or(Time::ZERO);
        Some(self.forwarder.poll_timeout().map_or(tick, |due| due.min(tick)))
    }

    /// Returns the next flow record.
    pub fn poll_flow(&mut self) -> Option<FlowRecord> {
        self.forwarder.poll_flow()
    }

    /// Returns what was counted so far.
    pub fn stats(&self) -> TunnelStats {
        let links = |handle: usize| self.links.iter().flatten().filter(move |link| link.peer.0 as usize == handle);
        let peers = self.peers.iter().enumerate().filter_map(|(handle, peer)| {
            let peer = peer.as_ref()?;
            Some(PeerStats {
                node: peer.node.clone(),
                key: self.links[peer.active as usize].as_ref()?.key,
                endpoint: peer.endpoint,
                last_handshake: links(handle).filter_map(|link| link.last_handshake).max(),
                rx_bytes: peer.rx_bytes,
                tx_bytes: peer.tx_bytes,
            })
        });
        let mut peers: Vec<_> = peers.collect();
        peers.sort_by(|a, b| a.node.cmp(&b.node));
        TunnelStats { peers, engine: self.counters, forwarder: self.forwarder.counters(), ..TunnelStats::default() }
    }

    /// Encrypts `packet` (a keepalive where it is empty) to a peer by the session that it used last.
    fn send(&mut self, handle: PeerHandle, packet: &[u8], now: Now, out: &mut Output) {
        let Some(Some(peer)) = self.peers.get_mut(handle.0 as usize) else {
            self.counters.no_session += 1;
            return;
        };
        let Some(Some(link)) = self.links.get_mut(peer.active as usize) else {
            self.counters.no_session += 1;
            return;
        };
        let step = link.session.encapsulate(packet, out.datagrams.spare(packet.len() + ROOM));
        emit(peer, step, now, out, &mut self.counters);
    }

    fn handle_datagram(&mut self, source: SocketAddr, datagram: &[u8], now: Now, out: &mut Output) -> Result<(), Refusal> {
        let message = Message::parse(datagram).ok_or(Refusal::Malformed)?;
        let index = match message {
            Message::Initiation => match self.local.identify(source.ip(), datagram, out.datagrams.spare(ROOM)) {
                Initiator::Peer(key) => *self.by_key.get(&key).ok_or(Refusal::NoSession)?,
                Initiator::Reply(len) => {
                    out.datagrams.commit(source, len);
                    return Ok(());
                }
                Initiator::Refused(refusal) => return Err(refusal),
            },
            Message::Response { receiver } | Message::Cookie { receiver } | Message::Data { receiver } => receiver >> 8,
        };
        let Some(Some(link)) = self.links.get_mut(index as usize) else { return Err(Refusal::NoSession) };
        let handle = link.peer;
        let Some(Some(peer)) = self.peers.get_mut(handle.0 as usize) else { return Err(Refusal::NoSession) };
        let Message::Data { receiver } = message else {
            let step = link.session.decapsulate(source.ip(), datagram, out.datagrams.spare(datagram.len() + ROOM));
            match step {
                Step::Refused(refusal) => return Err(refusal),
                // A busy session answers an initiation with a demand for proof; that is no handshake yet.
                Step::Send(len) if matches!(Message::parse(&out.datagrams.spare(0)[..len]), Some(Message::Cookie { .. })) => {
                    out.datagrams.commit(source, len);
                    return Ok(());
                }
                _ => {}
            }
            if !matches!(message, Message::Cookie { .. }) {
                peer.heard(source, datagram.len());
            }
            emit(peer, step, now, out, &mut self.counters);
            match message {
                Message::Initiation => link.answered = true,
                Message::Response { receiver } => self.confirm(index, receiver, now, out),
                _ => {}
            }
            return Ok(());
        };
        let room = out.packets.spare(datagram.len() + ROOM);
        let len = match link.session.decapsulate(source.ip(), datagram, room) {
            Step::Deliver(len) => len,
            Step::Idle => 0,
            Step::Send(len) => {
                out.datagrams.push(source, &room[..len]);
                0
            }
            Step::Refused(refusal) => return Err(refusal),
        };
        peer.heard(source, datagram.len());
        if len > 0 && self.forwarder.handle_inbound(handle, &room[..len], now) == Inbound::Deliver {
            out.packets.commit(len);
        }
        if link.confirmed != Some(receiver) && (link.answered || link.confirmed.is_none()) {
            self.confirm(index, receiver, now, out);
        }
        Ok(())
    }

    /// Notes that the peer has the keys of a new handshake: they are used from now on, and what was kept back goes out.
    fn confirm(&mut self, index: u32, receiver: u32, now: Now, out: &mut Output) {
        let Some(Some(link)) = self.links.get_mut(index as usize) else { return };
        let Some(Some(peer)) = self.peers.get_mut(link.peer.0 as usize) else { return };
        (link.confirmed, link.answered, link.last_handshake) = (Some(receiver), false, Some(now.wall));
        peer.active = index;
        peer.attempts = 0;
        self.counters.handshakes += 1;
        let Some(endpoint) = peer.endpoint else { return };
        loop {
            match link.session.decapsulate(endpoint.ip(), &[], out.datagrams.spare(usize::from(u16::MAX) + ROOM)) {
                step @ Step::Send(_) => emit(peer, step, now, out, &mut self.counters),
                _ => return,
            }
        }
    }
}

/// Sends what a session wrote into the spare room of the datagrams.
fn emit(peer: &mut PeerState, step: Step, now: Now, out: &mut Output, counters: &mut EngineCounters) {
    match step {
        Step::Send(len) => match peer.endpoint {
            Some(endpoint) => {
                peer.last_sent = now.time;
                peer.tx_bytes += len as u64;
                out.datagrams.commit(endpoint, len);
            }
            None => counters.no_endpoint += 1,
        },
        Step::Refused(refusal) => counters.refused.count(refusal),
        Step::Idle | Step::Deliver(_) => {}
    }
}
