//! Packets for tests, built by hand.

use std::net::IpAddr;

pub(crate) const SYN: u8 = 0x02;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const FIN: u8 = 0x01;
pub(crate) const RST: u8 = 0x04;

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// An IP packet with `payload`.
pub(crate) fn ip(source: &str, destination: &str, protocol: u8, payload: &[u8]) -> Vec<u8> {
    match (address(source), address(destination)) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let total = (20 + payload.len() as u16).to_be_bytes();
            let mut bytes = vec![0x45, 0, total[0], total[1], 0, 0, 0, 0, 64, protocol, 0, 0];
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
            bytes.extend(payload);
            bytes
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let len = (payload.len() as u16).to_be_bytes();
            let mut bytes = vec![0x60, 0, 0, 0, len[0], len[1], protocol, 64];
            bytes.extend(source.octets());
            bytes.extend(destination.octets());
            bytes.extend(payload);
            bytes
        }
        _ => panic!("one family"),
    }
}

/// A TCP segment, `from` and `to` as address and port.
pub(crate) fn tcp(from: (&str, u16), to: (&str, u16), flags: u8, sequence: u32) -> Vec<u8> {
    let mut segment = Vec::new();
    segment.extend(from.1.to_be_bytes());
    segment.extend(to.1.to_be_bytes());
    segment.extend(sequence.to_be_bytes());
    segment.extend([0, 0, 0, 0, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    ip(from.0, to.0, 6, &segment)
}

pub(crate) fn udp(from: (&str, u16), to: (&str, u16), data: &[u8]) -> Vec<u8> {
    let mut datagram = Vec::new();
    datagram.extend(from.1.to_be_bytes());
    datagram.extend(to.1.to_be_bytes());
    datagram.extend((8 + data.len() as u16).to_be_bytes());
    datagram.extend([0, 0]);
    datagram.extend(data);
    ip(from.0, to.0, 17, &datagram)
}

/// An ICMP or ICMPv6 message, by the family of its addresses.
pub(crate) fn icmp(from: &str, to: &str, (kind, code): (u8, u8), rest: [u8; 4], data: &[u8]) -> Vec<u8> {
    let message = [&[kind, code, 0, 0][..], &rest, data].concat();
    ip(from, to, if address(from).is_ipv4() { 1 } else { 58 }, &message)
}

/// An echo request or reply with identifier 7.
pub(crate) fn echo(from: &str, to: &str, request: bool) -> Vec<u8> {
    let kind = match (address(from).is_ipv4(), request) {
        (true, true) => 8,
        (true, false) => 0,
        (false, true) => 128,
        (false, false) => 129,
    };
    icmp(from, to, (kind, 0), [0, 7, 0, 1], b"ping")
}

/// Cuts an IPv4 packet into fragments of which the first carries `first` bytes of payload.
pub(crate) fn fragments_v4(packet: &[u8], id: u16, first: usize) -> [Vec<u8>; 2] {
    let (header, payload) = packet.split_at(20);
    let part = |data: &[u8], word: u16| {
        let mut bytes = header.to_vec();
        bytes[2..4].copy_from_slice(&(20 + data.len() as u16).to_be_bytes());
        bytes[4..6].copy_from_slice(&id.to_be_bytes());
        bytes[6..8].copy_from_slice(&word.to_be_bytes());
        bytes.extend(data);
        bytes
    };
    [part(&payload[..first], 0x2000), part(&payload[first..], (first / 8) as u16)]
}

/// Puts an IPv6 fragment header before the payload.
pub(crate) fn fragment_v6(packet: &[u8], id: u32, offset: u16, more: bool) -> Vec<u8> {
    let (header, payload) = packet.split_at(40);
    let mut bytes = header.to_vec();
    let next = std::mem::replace(&mut bytes[6], 44);
    bytes[4..6].copy_from_slice(&(8 + payload.len() as u16).to_be_bytes());
    bytes.extend([next, 0]);
    bytes.extend((offset << 3 | u16::from(more)).to_be_bytes());
    bytes.extend(id.to_be_bytes());
    bytes.extend(payload);
    bytes
}
