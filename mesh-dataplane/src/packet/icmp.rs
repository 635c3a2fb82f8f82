//! ICMP (RFC 792) and ICMPv6 (RFC 4443).

use mesh_core::FiveTuple;

use super::{Malformed, parse_quoted, u16_at};

/// What is read of an ICMP or ICMPv6 message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Icmp {
    /// The type.
    pub kind: u8,
    /// The code.
    pub code: u8,
    /// An error: about some other packet.
    pub error: bool,
    /// The tuple of the packet that an error quotes, where enough of it is quoted.
    pub quoted: Option<FiveTuple>,
    echo: Echo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Echo {
    Request,
    Reply,
    No,
}

impl Icmp {
    /// Tells whether the message is an echo request.
    pub fn is_echo_request(&self) -> bool {
        self.echo == Echo::Request
    }

    /// Tells whether the message is an echo reply.
    pub fn is_echo_reply(&self) -> bool {
        self.echo == Echo::Reply
    }
}

/// Returns ports and message: the ports are the echo identifier, see [`Packet::tuple`](super::Packet::tuple).
pub(super) fn parse(protocol: u8, payload: &[u8]) -> Result<((u16, u16), Icmp), Malformed> {
    let (Some(&kind), Some(&code), true) = (payload.first(), payload.get(1), payload.len() >= 8) else {
        return Err(Malformed);
    };
    let error = is_error(protocol, kind);
    let quoted = error.then(|| parse_quoted(&payload[8..]).ok()).flatten();
    Ok((echo_ports(protocol, payload)?, Icmp { kind, code, error, quoted, echo: echo(protocol, kind) }))
}

pub(super) fn quoted_ports(protocol: u8, payload: &[u8]) -> Result<(u16, u16), Malformed> {
    if payload.len() < 8 { Err(Malformed) } else { echo_ports(protocol, payload) }
}

fn echo_ports(protocol: u8, payload: &[u8]) -> Result<(u16, u16), Malformed> {
    let kind = *payload.first().ok_or(Malformed)?;
    let id = u16_at(payload, 4).ok_or(Malformed)?;
    Ok(match echo(protocol, kind) {
        Echo::Request => (id, 0),
        Echo::Reply => (0, id),
        Echo::No => (0, 0),
    })
}

fn echo(protocol: u8, kind: u8) -> Echo {
    match (protocol, kind) {
        (1, 8) | (58, 128) => Echo::Request,
        (1, 0) | (58, 129) => Echo::Reply,
        _ => Echo::No,
    }
}

/// Destination unreachable, source quench, time exceeded, parameter problem (not redirect, which changes routes); in ICMPv6
/// every type below 128.
fn is_error(protocol: u8, kind: u8) -> bool {
    if protocol == 1 { matches!(kind, 3 | 4 | 11 | 12) } else { kind < 128 }
}
