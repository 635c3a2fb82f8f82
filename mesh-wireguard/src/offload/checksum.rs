//! The checksums of IP headers and of transport protocols.

pub(super) use mesh_dataplane::packet::checksum::{fold, sum};

/// Returns the sum of the pseudo-header of a transport protocol, of the packet with this IP header, for `len` bytes of transport
/// header and data. The header is a whole one.
pub(super) fn pseudo_header(packet: &[u8], protocol: u8, len: usize) -> u64 {
    let addresses = if packet[0] >> 4 == 4 { &packet[12..20] } else { &packet[8..40] };
    sum(addresses) + u64::from(protocol) + len as u64
}

/// Makes the checksum of an IPv4 header of `len` bytes anew.
pub(super) fn set_ipv4(packet: &mut [u8], len: usize) {
    packet[10..12].fill(0);
    let checksum = !fold(sum(&packet[..len]));
    super::set_word(packet, 10, checksum);
}
