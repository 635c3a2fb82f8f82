//! Tells WireGuard from what has to be in the clear, and both from plaintext. When in doubt, it is plaintext.

use super::packet::{Packet, ethertype, protocol, u16_at};
use super::report::WireGuardCounts;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    /// WireGuard messages: one, or several that travel as one super-packet.
    WireGuard(WireGuardCounts),
    /// Finding neighbours and routers, joining multicast groups.
    Neighbour,
    /// An ICMP error that quotes a WireGuard message.
    Control,
    /// Anything else.
    Other,
}

/// Classifies a frame. `segment` is the size of the UDP payloads that a super-packet will be cut into.
pub(super) fn classify(ether_type: u16, packet: Option<&Packet<'_>>, segment: Option<usize>, ports: &[u16]) -> Class {
    let Some(packet) = packet else {
        return if ether_type == ethertype::ARP { Class::Neighbour } else { Class::Other };
    };
    match packet.protocol {
        protocol::UDP if !packet.fragment && on_port(packet, ports) => {
            let mut counts = WireGuardCounts::default();
            let segment = segment.filter(|segment| *segment > 0).unwrap_or(packet.payload.len().max(1));
            let all = packet.payload.chunks(segment).all(|message| counts.add(message));
            if all && counts.total() > 0 { Class::WireGuard(counts) } else { Class::Other }
        }
        protocol::IGMP => Class::Neighbour,
        // Multicast listener 130–132 and 143 (RFC 9777), routers and neighbours 133–137 (RFC 4861).
        protocol::ICMP_V6 if matches!(packet.payload.first(), Some(130..=137 | 143)) => Class::Neighbour,
        protocol::ICMP if matches!(packet.payload.first(), Some(3 | 11 | 12)) => quoted(ethertype::IPV4, packet, ports),
        protocol::ICMP_V6 if matches!(packet.payload.first(), Some(1..=4)) => quoted(ethertype::IPV6, packet, ports),
        _ => Class::Other,
    }
}

/// Classifies an ICMP error by what it quotes: a quoted ciphertext gives nothing away, a quoted plaintext does.
fn quoted(ether_type: u16, error: &Packet<'_>, ports: &[u16]) -> Class {
    let inner = error.payload.get(8..).and_then(|inner| Packet::parse(ether_type, inner));
    let is_wireguard = inner
        .is_some_and(|inner| inner.protocol == protocol::UDP && on_port(&inner, ports) && starts_as_wireguard(inner.payload));
    if is_wireguard { Class::Control } else { Class::Other }
}

fn on_port(packet: &Packet<'_>, ports: &[u16]) -> bool {
    packet.ports.is_some_and(|(source, destination)| ports.contains(&source) || ports.contains(&destination))
}

/// Says whether these first bytes of a message, possibly none, can be WireGuard's: a type and three zero bytes.
fn starts_as_wireguard(bytes: &[u8]) -> bool {
    bytes.len() < 4 || matches!(bytes[..4], [1..=4, 0, 0, 0])
}

impl WireGuardCounts {
    /// Counts a datagram if it has the form of a WireGuard message (the WireGuard paper, section 5.4).
    fn add(&mut self, message: &[u8]) -> bool {
        let Some([kind, 0, 0, 0]) = message.first_chunk::<4>() else { return false };
        let counter = match (kind, message.len()) {
            (1, 148) => &mut self.initiation,
            (2, 92) => &mut self.response,
            (3, 64) => &mut self.cookie,
            (4, 32) => &mut self.keepalive,
            // Header 16, packet, authentication tag 16. Padding tells nothing: a packet as long as the tunnel's MTU has none, and
            // not every implementation pads.
            (4, length) if length > 32 => &mut self.data,
            _ => return false,
        };
        *counter += 1;
        true
    }
}

/// What a virtio header says of the frame behind it: the payload size of the segments of a super-packet, and how many
/// packets that will make on a wire.
pub(super) fn segments(vnet_header: &[u8], frame_length: usize) -> (Option<usize>, u64) {
    // struct virtio_net_hdr: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset; in host order.
    let gso = vnet_header.get(1).is_some_and(|kind| kind & 0x7f != 0);
    let size = usize::from(u16_at(vnet_header, 4).map_or(0, |size| u16::from_ne_bytes(size.to_be_bytes())));
    let header = usize::from(u16_at(vnet_header, 2).map_or(0, |size| u16::from_ne_bytes(size.to_be_bytes())));
    if !gso || size == 0 {
        return (None, 1);
    }
    let payload = frame_length.saturating_sub(header).max(1);
    (Some(size), payload.div_ceil(size) as u64)
}

#[cfg(test)]
mod tests;
