//! The engine of the user tunnel: packets and datagrams in, datagrams and packets out. It knows no device, socket or clock.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use mesh_core::{FlowRecord, NodeId, Now, Time, WireGuardKey};
use mesh_dataplane::{Forwarder, Inbound, Op, Opening, Outbound, PeerHandle, Released, Want};

use self::peer::{Link, PeerState};
use crate::batch::{Datagrams, Output, Packets};
use crate::ecn;
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
                Outbound::Held | Outbound::Drop(_) => {}
            }
        }
    }

    /// Takes datagrams that were received.
    pub fn handle_udp(&mut self, datagrams: &Datagrams, now: Now, out: &mut Output) {
        for (source, mark, datagram) in datagrams.iter_marked() {
            if let Err(refusal) = self.handle_datagram((source, mark), datagram, now, out) {
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

    /// Returns what became of the next opening of a connection; see [`mesh_dataplane::Tunnel::poll_opening`].
    pub fn poll_opening(&mut self) -> Option<Opening> {
        self.forwarder.poll_opening()
    }

    /// Returns the next address whose identity packets wait for; see [`mesh_dataplane::Tunnel::poll_want`].
    pub fn poll_want(&mut self) -> Option<Want> {
        self.forwarder.poll_want()
    }

    /// Returns what was counted so far.
    pub fn stats(&self) -> TunnelStats {
        let has = |link: &&Link<S>, handle: usize| link.claimants.iter().any(|claimant| claimant.0 as usize == handle);
        let links = |handle: usize| self.links.iter().flatten().filter(move |link| has(link, handle));
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

    /// Lets go of the packets that have waited for an identity and are allowed.
    fn let_go(&mut self, now: Now, out: &mut Output) {
        while let Some(released) = self.forwarder.poll_released() {
            match released {
                Released::Send(handle, packet) => self.send(handle, &packet, now, out),
                Released::Deliver(packet) => out.packets.push(&packet),
            }
        }
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
        link.note_call(&step, out.datagrams.spare(0));
        // A handshake that goes out in the packet's place has no mark.
        let is_data = |len: usize, room: &[u8]| matches!(Message::parse(&room[..len]), Some(Message::Data { .. }));
        let marked = matches!(step, Step::Send(len) if is_data(len, out.datagrams.spare(0)));
        let sent = emit(peer.endpoint, step, out, &mut self.counters);
        if marked && sent > 0 {
            out.datagrams.mark(ecn::of(packet));
        }
        peer.sent(sent, now);
    }

    fn handle_datagram(
        &mut self,
        (source, mark): (SocketAddr, u8),
        datagram: &[u8],
        now: Now,
        out: &mut Output,
    ) -> Result<(), Refusal> {
        let message = Message::parse(datagram).ok_or(Refusal::Malformed)?;
        let index = match message {
            Message::Initiation { .. } => match self.local.identify(source.ip(), datagram, out.datagrams.spare(ROOM)) {
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
        let Message::Data { receiver } = message else {
            if let Message::Response { receiver } = message {
                // The answer to a call that a later handshake has overtaken leads to keys that the peer may have lost since. It is
                // nobody's fault: both may have called at once.
                if !link.calls.contains(&Some(receiver)) {
                    let is_overtaken = link.overtaken.contains(&Some(receiver));
                    return if is_overtaken { Ok(()) } else { Err(Refusal::NoSession) };
                }
            }
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
            let crosses = link.answered.is_some();
            if matches!(message, Message::Initiation { .. }) {
                link.answered = Some(now.time);
            }
            if !matches!(message, Message::Cookie { .. }) {
                self.heard(index, source, datagram.len());
            }
            self.emit_by(index, step, now, out);
            if let Message::Response { receiver } = message {
                self.confirm(index, receiver, now, out);
                if crosses {
                    self.cross(index, now, out);
                }
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
        link.heard = now.time;
        let from = match link.claimants[..] {
            [only] => Some(only),
            _ => source_of(&room[..len]).and_then(|source| self.forwarder.peer_of(source)),
        };
        let from = from.filter(|from| link.claimants.contains(from)).or_else(|| link.claimants.first().copied());
        let confirms = link.confirmed != Some(receiver) && (link.answered.is_some() || link.confirmed.is_none());
        let is_whole = len == 0 || ecn::arrive(&mut room[..len], mark);
        self.counters.congested += u64::from(!is_whole);
        if len > 0
            && is_whole
            && let Some(from) = from
            && self.forwarder.handle_inbound(from, &room[..len], now) == Inbound::Deliver
        {
            out.packets.commit(len);
        }
        self.heard(index, source, datagram.len());
        if confirms {
            self.confirm(index, receiver, now, out);
        }
        Ok(())
    }

    /// Notes an authentic datagram of a session: the holder of its key is where it came from.
    ///
    /// Not inside a prefix of the overlay, though: the tunnel would carry its own datagrams, each in another one without end.
    fn heard(&mut self, index: u32, source: SocketAddr, len: usize) {
        let Some(Some(link)) = self.links.get_mut(index as usize) else { return };
        let moves = link.endpoint == Some(source) || self.forwarder.peer_of(source.ip()).is_none();
        if moves {
            link.endpoint = Some(source);
        }
        for claimant in &link.claimants {
            let Some(Some(peer)) = self.peers.get_mut(claimant.0 as usize) else { continue };
            peer.rx_bytes += len as u64;
            if moves {
                peer.endpoint = Some(source);
            }
        }
    }

    /// Sends what a session has to say by itself to where the holder of its key is.
    fn emit_by(&mut self, index: u32, step: Step, now: Now, out: &mut Output) {
        let Some(Some(link)) = self.links.get_mut(index as usize) else { return };
        link.note_call(&step, out.datagrams.spare(0));
        let Some(Some(peer)) = link.claimants.first().and_then(|first| self.peers.get_mut(first.0 as usize)) else { return };
        let sent = emit(link.endpoint.or(peer.endpoint), step, out, &mut self.counters);
        peer.sent(sent, now);
    }

    /// Notes that the peer has the keys of a new handshake: they are used from now on, and what was kept back goes out.
    fn confirm(&mut self, index: u32, receiver: u32, now: Now, out: &mut Output) {
        let Some(Some(link)) = self.links.get_mut(index as usize) else { return };
        (link.confirmed, link.answered, link.crossed, link.last_handshake) = (Some(receiver), None, None, Some(now.wall));
        link.overtaken = std::mem::take(&mut link.calls);
        link.heard = now.time;
        for claimant in &link.claimants {
            let Some(Some(peer)) = self.peers.get_mut(claimant.0 as usize) else { continue };
            (peer.active, peer.attempts) = (index, 0);
        }
        self.counters.handshakes += 1;
        let Some(endpoint) = link.endpoint else { return };
        while let Some(Some(link)) = self.links.get_mut(index as usize) {
            match link.session.decapsulate(endpoint.ip(), &[], out.datagrams.spare(usize::from(u16::MAX) + ROOM)) {
                step @ Step::Send(_) => self.emit_by(index, step, now, out),
                _ => return,
            }
        }
    }
}

/// Sends what a session wrote into the spare room of the datagrams; returns how many bytes that were.
fn emit(to: Option<SocketAddr>, step: Step, out: &mut Output, counters: &mut EngineCounters) -> usize {
    match (step, to) {
        (Step::Send(len), Some(endpoint)) => {
            out.datagrams.commit(endpoint, len);
            return len;
        }
        (Step::Send(_), None) => counters.no_endpoint += 1,
        (Step::Refused(refusal), _) => counters.refused.count(refusal),
        (Step::Idle | Step::Deliver(_), _) => {}
    }
    0
}

/// Returns the source address of an IP packet.
fn source_of(packet: &[u8]) -> Option<IpAddr> {
    match packet.first()? >> 4 {
        4 => <[u8; 4]>::try_from(packet.get(12..16)?).ok().map(IpAddr::from),
        6 => <[u8; 16]>::try_from(packet.get(8..24)?).ok().map(IpAddr::from),
        _ => None,
    }
}
