//! The packets of a simulation: IPv4 and UDP, with a number inside by which each is known again.

use std::net::{IpAddr, Ipv4Addr};

use mesh_core::{FiveTuple, Protocol};

/// The length of a packet without padding: IP and UDP headers, number, and whether it is an answer.
const LEN: usize = 20 + 8 + 9;

/// What a packet says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Note {
    /// Its number.
    pub id: u64,
    /// It answers the packet of that number.
    pub answer: bool,
}

/// Returns a UDP packet with `padding` bytes after its note.
pub fn udp(tuple: &FiveTuple, note: Note, padding: usize) -> Vec<u8> {
    let len = LEN + padding;
    let mut bytes = vec![0; len];
    let word = |value: usize| u16::try_from(value).expect("a packet is shorter than 64 KiB").to_be_bytes();
    bytes[0] = 0x45;
    bytes[2..4].copy_from_slice(&word(len));
    bytes[8] = 64;
    bytes[9] = 17;
    for (at, address) in [(12, tuple.source), (16, tuple.destination)] {
        let IpAddr::V4(address) = address else { continue };
        bytes[at..at + 4].copy_from_slice(&address.octets());
    }
    bytes[20..22].copy_from_slice(&tuple.source_port.to_be_bytes());
    bytes[22..24].copy_from_slice(&tuple.destination_port.to_be_bytes());
    bytes[24..26].copy_from_slice(&word(len - 20));
    bytes[28..36].copy_from_slice(&note.id.to_be_bytes());
    bytes[36] = u8::from(note.answer);
    bytes
}

/// Returns what a packet of [`udp`] says; `None` for any other.
pub fn read(bytes: &[u8]) -> Option<(FiveTuple, Note)> {
    if bytes.len() < LEN || bytes[0] != 0x45 || bytes[9] != 17 {
        return None;
    }
    let address = |at: usize| IpAddr::V4(Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]));
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    let tuple = FiveTuple {
        source: address(12),
        destination: address(16),
        protocol: Protocol::Udp,
        source_port: port(20),
        destination_port: port(22),
    };
    let id = bytes[28..36].iter().fold(0, |id, byte| id << 8 | u64::from(*byte));
    Some((tuple, Note { id, answer: bytes[36] != 0 }))
}
