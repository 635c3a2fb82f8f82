//! The engine's slower side: the steps of the plan, and time.

use std::time::Duration;

use super::*;
use mesh_dataplane::Peer;

/// How soon a handshake is tried again while a peer has not answered: quickly at first, since both ends often start together,
/// then as WireGuard itself does (REKEY_TIMEOUT).
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_LATER: Duration = Duration::from_secs(5);
const QUICK_ATTEMPTS: u32 = 5;

/// How long a silent sender lets pass: keeps the mappings of NATs and the session itself alive (as `PersistentKeepalive = 25`).
const KEEPALIVE: Duration = Duration::from_secs(25);

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
        Ok(())
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
            if self.links[index].as_ref().is_some_and(|link| link.peer == handle && !wanted(&link.key)) {
                self.remove_link(index);
            }
        }
        let current = self.link(handle, spec.keys.current);
        if let Some(next) = spec.keys.next {
            self.link(handle, next);
        }
        let peer = self.peers[place].get_or_insert_with(|| PeerState {
            node: node.clone(),
            spec: spec.clone(),
            endpoint: spec.endpoints.first().copied(),
            active: current,
            attempts: 0,
            retry: now.time,
            last_sent: now.time,
            rx_bytes: 0,
            tx_bytes: 0,
        });
        if peer.spec.endpoints != spec.endpoints {
            peer.endpoint = spec.endpoints.first().copied().or(peer.endpoint);
        }
        peer.spec = spec.clone();
        let active = self.links.get(peer.active as usize).and_then(Option::as_ref);
        if active.is_none_or(|link| link.peer != handle) {
            peer.active = current;
        }
        if self.links[current as usize].as_ref().is_some_and(|link| link.confirmed.is_none()) {
            peer.attempts = 0;
            self.handshake(current, now, out);
        }
    }

    fn remove_peer(&mut self, node: &NodeId) {
        let handle = self.forwarder.peer(node);
        for index in 0..self.links.len() {
            if self.links[index].as_ref().is_some_and(|link| link.peer == handle) {
                self.remove_link(index);
            }
        }
        if let Some(peer) = self.peers.get_mut(handle.0 as usize) {
            *peer = None;
        }
    }

    /// Returns the session of `key`, a new one where there is none. A key that another peer has goes over to this one.
    fn link(&mut self, peer: PeerHandle, key: WireGuardKey) -> u32 {
        if let Some(index) = self.by_key.get(&key).copied() {
            if self.links[index as usize].as_ref().is_some_and(|link| link.peer == peer) {
                return index;
            }
            self.remove_link(index as usize);
        }
        let free = self.links.iter().position(Option::is_none).unwrap_or_else(|| {
            self.links.push(None);
            self.links.len() - 1
        });
        let index = u32::try_from(free).ok().filter(|index| *index < MAX_SESSIONS).expect("fewer keys than 2^24");
        let session = self.local.open(&key, index);
        self.links[free] = Some(Link { peer, key, session, confirmed: None, answered: false, last_handshake: None });
        self.by_key.insert(key, index);
        index
    }

    fn remove_link(&mut self, index: usize) {
        if let Some(link) = self.links[index].take() {
            self.by_key.remove(&link.key);
        }
    }

    /// Begins a handshake; endpoints take turns while the peer does not answer.
    fn handshake(&mut self, index: u32, now: Now, out: &mut Output) {
        let Some(Some(link)) = self.links.get_mut(index as usize) else { return };
        let Some(Some(peer)) = self.peers.get_mut(link.peer.0 as usize) else { return };
        if peer.attempts > 0 && !peer.spec.endpoints.is_empty() {
            peer.endpoint = Some(peer.spec.endpoints[peer.attempts as usize % peer.spec.endpoints.len()]);
        }
        peer.attempts = peer.attempts.saturating_add(1);
        peer.retry = now.time + if peer.attempts <= QUICK_ATTEMPTS { RETRY_FIRST } else { RETRY_LATER };
        if peer.endpoint.is_none() {
            return;
        }
        let step = link.session.handshake(out.datagrams.spare(ROOM));
        emit(peer, step, now, out, &mut self.counters);
    }

    /// Asks one session what time asks of it.
    pub(super) fn tick(&mut self, index: u32, now: Now, out: &mut Output) {
        let Some(Some(link)) = self.links.get_mut(index as usize) else { return };
        let Some(Some(peer)) = self.peers.get_mut(link.peer.0 as usize) else { return };
        let (is_current, is_active) = (link.key == peer.spec.keys.current, index == peer.active);
        let step = link.session.handle_timeout(out.datagrams.spare(ROOM));
        let expired = step == Step::Refused(Refusal::Expired);
        if !expired {
            emit(peer, step, now, out, &mut self.counters);
        }
        if expired {
            link.confirmed = None;
        }
        let unanswered = link.confirmed.is_none() && !link.answered;
        if is_current && unanswered && peer.retry <= now.time {
            self.handshake(index, now, out);
        } else if is_active && link.confirmed.is_some() && now.time.since(peer.last_sent) >= KEEPALIVE {
            let handle = link.peer;
            self.send(handle, &[], now, out);
        }
    }
}

/// A route names a peer that was not set.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no peer {0} to route to")]
pub struct UnknownPeer(pub NodeId);
