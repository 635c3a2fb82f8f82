//! The engine's slower side: the steps of the plan, and time.

use std::time::Duration;

use super::*;
use mesh_core::Prefix;
use mesh_dataplane::Peer;

/// How soon a handshake is tried again while a peer does not answer, and how much later for each peer that there is: a
/// partition that heals is over for the tunnel within a second or two, and a thousand dead peers cost 300 initiations a second.
const RETRY: Duration = Duration::from_secs(1);
const RETRY_FOR_EACH: Duration = Duration::from_millis(2);

/// How long a silent sender lets pass: keeps the mappings of NATs and the session itself alive (as `PersistentKeepalive = 25`).
const KEEPALIVE: Duration = Duration::from_secs(25);

/// A peer that was not heard for so long, a keepalive and a little more, is called: its keys, its place or the path to it may be
/// others now, and the session itself would notice only when it has something to send, and then call every five seconds.
const SILENCE: Duration = Duration::from_secs(30);

impl<S: Session> Engine<S> {
    /// Takes over a step of the plan; a new peer or key begins a handshake at once.
    pub fn apply(&mut self, op: &Op, now: Now, out: &mut Output) -> Result<(), UnknownPeer> {
        match op {
            Op::SetPeer(node, peer) => self.set_peer(node, peer, now, out),
            Op::SetRoute(_, node) if self.peer(node).is_none() => return Err(UnknownPeer(node.clone())),
            Op::DelPeer(node) => self.remove_peer(node),
            _ => {}
        }
        self.forwarder.apply(op);
        self.let_go(now, out);
        if let Op::SetRoute(prefix, _) = op {
            self.leave(*prefix);
        }
        Ok(())
    }

    /// Forgets the endpoints inside a prefix of the overlay: the tunnel does not carry its own datagrams.
    fn leave(&mut self, prefix: Prefix) {
        let inside = |endpoint: &mut SocketAddr| prefix.contains(endpoint.ip());
        for link in self.links.iter_mut().flatten() {
            link.endpoint.take_if(inside);
        }
        for peer in self.peers.iter_mut().flatten() {
            peer.endpoint.take_if(inside);
        }
    }

    /// Returns the peers as they were set.
    pub fn peers(&self) -> BTreeMap<NodeId, Peer> {
        self.peers.iter().flatten().map(|peer| (peer.node.clone(), peer.spec.clone())).collect()
    }

    fn peer(&self, node: &NodeId) -> Option<&PeerState> {
        self.peers.iter().flatten().find(|peer| peer.node == *node)
    }

    fn set_peer(&mut self, node: &NodeId, spec: &Peer, now: Now, out: &mut Output) {
        let handle = self.forwarder.peer(node);
        let place = handle.0 as usize;
        if self.peers.len() <= place {
            self.peers.resize_with(place + 1, || None);
        }
        let wanted = |key: &WireGuardKey| *key == spec.keys.current || Some(*key) == spec.keys.next;
        for index in 0..self.links.len() {
            if self.links[index].as_ref().is_some_and(|link| !wanted(&link.key)) {
                self.release(index, handle);
            }
        }
        let current = self.link(handle, spec.keys.current, now);
        if let Some(next) = spec.keys.next {
            self.link(handle, next, now);
        }
        let peer = self.peers[place].get_or_insert_with(|| PeerState {
            node: node.clone(),
            spec: Peer { keys: spec.keys, endpoints: Vec::new() },
            endpoint: None,
            active: current,
            attempts: 0,
            retry: now.time,
            last_sent: now.time,
            rx_bytes: 0,
            tx_bytes: 0,
        });
        if peer.spec.endpoints != spec.endpoints {
            let first = spec.endpoints.iter().find(|endpoint| self.forwarder.peer_of(endpoint.ip()).is_none());
            peer.endpoint = first.copied().or(peer.endpoint);
            for link in self.links.iter_mut().flatten().filter(|link| link.claimants == [handle]) {
                link.endpoint = peer.endpoint;
            }
        }
        peer.spec = spec.clone();
        let active = self.links.get(peer.active as usize).and_then(Option::as_ref);
        if active.is_none_or(|link| !link.claimants.contains(&handle)) {
            peer.active = current;
        }
        if self.links[current as usize].as_ref().is_some_and(|link| link.confirmed.is_none()) {
            peer.attempts = 0;
            self.handshake(current, handle, now, out);
        }
    }

    fn remove_peer(&mut self, node: &NodeId) {
        let handle = self.forwarder.peer(node);
        (0..self.links.len()).for_each(|index| self.release(index, handle));
        if let Some(peer) = self.peers.get_mut(handle.0 as usize) {
            *peer = None;
        }
    }

    /// Returns the session of `key`, a new one where there is none.
    fn link(&mut self, peer: PeerHandle, key: WireGuardKey, now: Now) -> u32 {
        if let Some(index) = self.by_key.get(&key).copied()
            && let Some(Some(link)) = self.links.get_mut(index as usize)
        {
            if !link.claimants.contains(&peer) {
                link.claimants.push(peer);
            }
            return index;
        }
        let free = self.links.iter().position(Option::is_none).unwrap_or_else(|| {
            self.links.push(None);
            self.links.len() - 1
        });
        let index = u32::try_from(free).ok().filter(|index| *index < MAX_SESSIONS).expect("fewer keys than 2^24");
        let session = self.local.open(&key, index);
        self.links[free] = Some(Link {
            claimants: vec![peer],
            key,
            session,
            endpoint: None,
            heard: now.time,
            confirmed: None,
            answered: None,
            crossed: None,
            last_handshake: None,
            calls: [None; 2],
            overtaken: [None; 2],
        });
        self.by_key.insert(key, index);
        index
    }

    /// Takes a session from a peer; it ends with its last one.
    fn release(&mut self, index: usize, peer: PeerHandle) {
        let Some(link) = &mut self.links[index] else { return };
        link.claimants.retain(|claimant| *claimant != peer);
        if link.claimants.is_empty() {
            self.by_key.remove(&link.key);
            self.links[index] = None;
        }
    }

    /// Begins a handshake with `handle`; endpoints take turns while the peer does not answer.
    fn handshake(&mut self, index: u32, handle: PeerHandle, now: Now, out: &mut Output) {
        let Some(Some(link)) = self.links.get_mut(index as usize) else { return };
        let Some(Some(peer)) = self.peers.get_mut(handle.0 as usize) else { return };
        if peer.attempts > 0 {
            let usable = |endpoint: &&SocketAddr| self.forwarder.peer_of(endpoint.ip()).is_none();
            let endpoints: Vec<SocketAddr> = peer.spec.endpoints.iter().filter(usable).copied().collect();
            if !endpoints.is_empty() {
                peer.endpoint = Some(endpoints[peer.attempts as usize % endpoints.len()]);
            }
        }
        peer.attempts = peer.attempts.saturating_add(1);
        peer.retry = now.time + RETRY + RETRY_FOR_EACH * u32::try_from(self.by_key.len()).expect("fewer keys than 2^24");
        if peer.endpoint.is_none() {
            return;
        }
        let step = link.session.handshake(out.datagrams.spare(ROOM));
        link.note_call(&step, out.datagrams.spare(0));
        let sent = emit(peer.endpoint, step, out, &mut self.counters);
        peer.sent(sent, now);
    }

    /// Notes that two calls crossed: an answer came after a call of the peer's was answered.
    ///
    /// Most often both sides have the keys of both handshakes. But where the peer lost its sessions between its answer and its
    /// call, this side has just gone over to keys that the peer does not have, and would not notice: it hears the peer by the
    /// keys of the other handshake. So there is a third one. The side with the lower key begins it at once and the other one
    /// later, if need be, lest these calls cross as well.
    pub(super) fn cross(&mut self, index: u32, now: Now, out: &mut Output) {
        let Some(Some(link)) = self.links.get_mut(index as usize) else { return };
        link.crossed = Some(now.time);
        let peer = |handle: &PeerHandle| self.peers.get(handle.0 as usize).and_then(Option::as_ref);
        let caller = link.claimants.iter().copied().find(|it| peer(it).is_some_and(|peer| peer.spec.keys.current == link.key));
        if let Some(handle) = caller.filter(|_| self.local.public() < link.key) {
            self.handshake(index, handle, now, out);
        }
    }

    /// Asks one session what time asks of it.
    pub(super) fn tick(&mut self, index: u32, now: Now, out: &mut Output) {
        let Some(Some(link)) = self.links.get_mut(index as usize) else { return };
        let step = link.session.handle_timeout(out.datagrams.spare(ROOM));
        if step == Step::Refused(Refusal::Expired) {
            (link.confirmed, link.endpoint) = (None, None);
        } else {
            self.emit_by(index, step, now, out);
        }
        let Some(Some(link)) = self.links.get(index as usize) else { return };
        // An answer that leads to nothing (it was lost, or what confirms it, or its initiation was an old one sent again) ends the
        // waiting. The keys before it are no comfort then: who calls may have lost them. Nor are those of calls that crossed.
        let unsettled = link.answered.or(link.crossed);
        let waits = unsettled.is_some_and(|at| now.time.since(at) < RETRY);
        let is_heard = link.confirmed.is_some() && unsettled.is_none() && now.time.since(link.heard) < SILENCE;
        let (key, is_confirmed, count) = (link.key, link.confirmed.is_some(), link.claimants.len());
        for at in 0..count {
            let Some(handle) = self.links[index as usize].as_ref().and_then(|link| link.claimants.get(at).copied()) else {
                break;
            };
            let Some(Some(peer)) = self.peers.get(handle.0 as usize) else { continue };
            if key == peer.spec.keys.current && !is_heard && !waits && peer.retry <= now.time {
                self.handshake(index, handle, now, out);
            } else if index == peer.active && is_confirmed && now.time.since(peer.last_sent) >= KEEPALIVE {
                self.send(handle, &[], now, out);
            }
        }
    }
}

/// A route names a peer that was not set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no peer {0} to route to")]
pub struct UnknownPeer(pub NodeId);
