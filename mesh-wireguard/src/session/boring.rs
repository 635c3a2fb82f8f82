//! WireGuard by boringtun's `noise`.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use boringtun::noise::errors::WireGuardError;
use boringtun::noise::handshake::parse_handshake_anon;
use boringtun::noise::rate_limiter::RateLimiter;
use boringtun::noise::{Packet, Tunn, TunnResult};
use mesh_core::{Time, WireGuardKey};
use x25519_dalek::PublicKey;

use super::{Initiator, LocalKey, Refusal, Session, Step};
use crate::NodeKey;

/// Handshake messages a second before senders must prove their addresses. An answered initiation costs about 0.25 ms, so that
/// this is an eighth of a core; it lets a node with hundreds of peers restart and shake hands with all of them at once.
const HANDSHAKES_PER_SECOND: u64 = 500;

/// How often boringtun counts one initiation: once when its sender is identified, once when the session takes it.
const COUNTS_PER_HANDSHAKE: u64 = 2;

/// A WireGuard session.
pub struct BoringSession(Tunn);

impl Session for BoringSession {
    type Local = BoringKey;

    fn encapsulate(&mut self, packet: &[u8], out: &mut [u8]) -> Step {
        step(self.0.encapsulate(packet, out))
    }

    fn decapsulate(&mut self, source: IpAddr, datagram: &[u8], out: &mut [u8]) -> Step {
        step(self.0.decapsulate(Some(source), datagram, out))
    }

    fn handle_timeout(&mut self, out: &mut [u8]) -> Step {
        step(self.0.update_timers(out))
    }

    fn handshake(&mut self, out: &mut [u8]) -> Step {
        step(self.0.format_handshake_initiation(out, true))
    }
}

/// The node's own WireGuard key, and its budget of handshakes.
pub struct BoringKey {
    key: NodeKey,
    public: PublicKey,
    limiter: Arc<RateLimiter>,
    renewed: Option<Time>,
}

impl BoringKey {
    /// Takes the node's key.
    pub fn new(key: NodeKey) -> BoringKey {
        let public = PublicKey::from(key.secret());
        let limiter = Arc::new(RateLimiter::new(&public, HANDSHAKES_PER_SECOND * COUNTS_PER_HANDSHAKE));
        BoringKey { key, public, limiter, renewed: None }
    }
}

impl LocalKey for BoringKey {
    type Session = BoringSession;

    fn public(&self) -> WireGuardKey {
        WireGuardKey(self.public.to_bytes())
    }

    fn open(&self, peer: &WireGuardKey, index: u32) -> BoringSession {
        let limiter = Some(self.limiter.clone());
        BoringSession(Tunn::new(self.key.secret().clone(), PublicKey::from(peer.0), None, None, index, limiter))
    }

    fn identify(&mut self, source: IpAddr, initiation: &[u8], out: &mut [u8]) -> Initiator {
        let packet = match self.limiter.verify_packet(Some(source), initiation, out) {
            Ok(packet) => packet,
            Err(TunnResult::WriteToNetwork(cookie)) => return Initiator::Reply(cookie.len()),
            Err(TunnResult::Err(error)) => return Initiator::Refused(refusal(&error)),
            Err(_) => return Initiator::Refused(Refusal::Malformed),
        };
        let Packet::HandshakeInit(packet) = packet else { return Initiator::Refused(Refusal::Malformed) };
        match parse_handshake_anon(self.key.secret(), &self.public, &packet) {
            Ok(half) => Initiator::Peer(WireGuardKey(half.peer_static_public)),
            Err(error) => Initiator::Refused(refusal(&error)),
        }
    }

    fn handle_timeout(&mut self, now: Time) {
        if self.renewed.is_none_or(|renewed| now.since(renewed) >= Duration::from_secs(1)) {
            self.renewed = Some(now);
            self.limiter.reset_count();
        }
    }
}

/// Takes over boringtun's result: its slices always begin where the output buffer begins.
fn step(result: TunnResult<'_>) -> Step {
    match result {
        TunnResult::Done => Step::Idle,
        TunnResult::WriteToNetwork(datagram) => Step::Send(datagram.len()),
        TunnResult::WriteToTunnelV4(packet, _) | TunnResult::WriteToTunnelV6(packet, _) => Step::Deliver(packet.len()),
        TunnResult::Err(error) => Step::Refused(refusal(&error)),
    }
}

fn refusal(error: &WireGuardError) -> Refusal {
    match error {
        WireGuardError::DestinationBufferTooSmall
        | WireGuardError::IncorrectPacketLength
        | WireGuardError::WrongPacketType
        | WireGuardError::InvalidPacket => Refusal::Malformed,
        WireGuardError::WrongKey | WireGuardError::InvalidMac | WireGuardError::InvalidAeadTag => Refusal::Unauthentic,
        WireGuardError::InvalidTai64nTimestamp
        | WireGuardError::WrongTai64nTimestamp
        | WireGuardError::InvalidCounter
        | WireGuardError::DuplicateCounter => Refusal::Replayed,
        // An answer to a call that was given up is unexpected: both sides may call at once, and more than once.
        WireGuardError::UnexpectedPacket
        | WireGuardError::WrongIndex
        | WireGuardError::NoCurrentSession
        | WireGuardError::LockFailed => Refusal::NoSession,
        WireGuardError::UnderLoad => Refusal::UnderLoad,
        WireGuardError::ConnectionExpired => Refusal::Expired,
    }
}
