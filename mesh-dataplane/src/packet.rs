//! What the forwarder reads of a packet: addresses, ports, flags, and what an ICMP error quotes.
//!
//! [`parse`] is total: any bytes give a [`Packet`] or [`Malformed`], never a panic.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mesh_core::{FiveTuple, Protocol};

pub mod checksum;
mod icmp;
mod ip;

pub use self::icmp::Icmp;
use self::ip::Header;

/// The bytes are no IP packet, or its headers contradict themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no well-formed IP packet")]
pub struct Malformed;

/// A packet as far as the forwarder cares. Ports are zero where a later fragment does not show them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its own tuple, from its sender to its receiver. An echo request has its identifier as the source port, an echo reply
    /// as the destination port, so that one is the other's reverse.
    pub tuple: FiveTuple,
    /// The IP packet's length in bytes, header included.
    pub len: u32,
    /// What follows the IP header.
    pub kind: Kind,
    /// Which part of a packet it is; `None`: all of it.
    pub fragment: Option<Fragment>,
}

/// What follows the IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A TCP segment.
    Tcp(Tcp),
    /// An ICMP or ICMPv6 message.
    Icmp(Icmp),
    /// Anything else, or a later fragment of anything.
    Other,
}

/// What is read of a TCP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// The sequence number.
    pub sequence: u32,
    flags: u8,
}

/// Which part of a packet a fragment is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fragment {
    /// The identification: 16 bits of it in IPv4.
    pub id: u32,
    /// Has the headers; later fragments do not.
    pub first: bool,
}

impl Tcp {
    /// Tells whether SYN is set.
    pub fn syn(self) -> bool {
        self.flags & 0x02 != 0
    }

    /// Tells whether ACK is set.
    pub fn ack(self) -> bool {
        self.flags & 0x10 != 0
    }

    /// Tells whether FIN is set.
    pub fn fin(self) -> bool {
        self.flags & 0x01 != 0
    }

    /// Tells whether RST is set.
    pub fn rst(self) -> bool {
        self.flags & 0x04 != 0
    }
}

impl Packet {
    /// Tells whether the packet asks for a new connection: a SYN without ACK, or an echo request.
    pub fn is_opening(&self) -> bool {
        match self.kind {
            Kind::Tcp(tcp) => tcp.syn() && !tcp.ack(),
            Kind::Icmp(icmp) => icmp.is_echo_request(),
            Kind::Other => false,
        }
    }
}

/// Reads an IPv4 or IPv6 packet. Bytes after the packet's own length are ignored.
pub fn parse(bytes: &[u8]) -> Result<Packet, Malformed> {
    let header = ip::parse(bytes, ip::Length::Exact)?;
    let payload = &bytes[header.payload..header.end];
    let fragment = header.fragment.map(|fragment| Fragment { id: fragment.id, first: fragment.offset == 0 });
    if let Some(later) = header.fragment.filter(|fragment| fragment.offset != 0) {
        // RFC 3128: a fragment at offset 8 could replace the flags that the first one was decided by.
        if header.protocol == 6 && later.offset == 1 {
            return Err(Malformed);
        }
        return Ok(Packet { tuple: tuple(&header, (0, 0)), len: header.end as u32, kind: Kind::Other, fragment });
    }
    let (ports, kind) = transport(&header, payload)?;
    Ok(Packet { tuple: tuple(&header, ports), len: header.end as u32, kind, fragment })
}

/// Reads the packet that an ICMP error quotes, of which the ports must be there and the rest may be cut off.
fn parse_quoted(bytes: &[u8]) -> Result<FiveTuple, Malformed> {
    let header = ip::parse(bytes, ip::Length::Quoted)?;
    if header.fragment.is_some_and(|fragment| fragment.offset != 0) {
        return Err(Malformed);
    }
    let payload = bytes.get(header.payload..).ok_or(Malformed)?;
    let ports = match header.protocol {
        6 | 17 | 132 => ports(payload)?,
        1 | 58 => icmp::quoted_ports(header.protocol, payload)?,
        _ => (0, 0),
    };
    Ok(tuple(&header, ports))
}

fn transport(header: &Header, payload: &[u8]) -> Result<((u16, u16), Kind), Malformed> {
    match header.protocol {
        6 => {
            let (Some(sequence), Some(offset), Some(flags), true) =
                (u32_at(payload, 4), payload.get(12), payload.get(13), payload.len() >= 20)
            else {
                return Err(Malformed);
            };
            let header_len = usize::from(*offset >> 4) * 4;
            if header_len < 20 || header_len > payload.len() {
                return Err(Malformed);
            }
            Ok((ports(payload)?, Kind::Tcp(Tcp { sequence, flags: *flags })))
        }
        17 if payload.len() < 8 => Err(Malformed),
        132 if payload.len() < 12 => Err(Malformed),
        17 | 132 => Ok((ports(payload)?, Kind::Other)),
        1 | 58 => {
            // Each ICMP belongs to its own IP version; the other is a protocol number like any other.
            if (header.protocol == 1) != header.source.is_ipv4() {
                return Ok(((0, 0), Kind::Other));
            }
            let (ports, icmp) = icmp::parse(header.protocol, payload)?;
            Ok((ports, Kind::Icmp(icmp)))
        }
        _ => Ok(((0, 0), Kind::Other)),
    }
}

fn tuple(header: &Header, ports: (u16, u16)) -> FiveTuple {
    FiveTuple {
        source: header.source,
        destination: header.destination,
        protocol: Protocol::from_number(header.protocol),
        source_port: ports.0,
        destination_port: ports.1,
    }
}

fn ports(payload: &[u8]) -> Result<(u16, u16), Malformed> {
    u16_at(payload, 0).zip(u16_at(payload, 2)).ok_or(Malformed)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4).map(|b| u32::from_be_bytes([b[0], b[1], b[2], b[3]]))
}

fn v4_at(bytes: &[u8], at: usize) -> Option<IpAddr> {
    u32_at(bytes, at).map(|bits| IpAddr::V4(Ipv4Addr::from(bits)))
}

fn v6_at(bytes: &[u8], at: usize) -> Option<IpAddr> {
    let octets: [u8; 16] = bytes.get(at..at + 16)?.try_into().ok()?;
    Some(IpAddr::V6(Ipv6Addr::from(octets)))
}

#[cfg(test)]
mod tests;
