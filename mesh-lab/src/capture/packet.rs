//! Reads the headers of a frame, as far as they say what kind of packet it is.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IP protocol numbers (IANA "Protocol Numbers").
pub(super) mod protocol {
    pub(crate) const HOP_BY_HOP: u8 = 0;
    pub(crate) const ICMP: u8 = 1;
    pub(crate) const IGMP: u8 = 2;
    pub(crate) const TCP: u8 = 6;
    pub(crate) const UDP: u8 = 17;
    pub(crate) const ROUTING: u8 = 43;
    pub(crate) const FRAGMENT: u8 = 44;
    pub(crate) const ICMP_V6: u8 = 58;
    pub(crate) const DESTINATION_OPTIONS: u8 = 60;
}

/// EtherTypes (IANA "IEEE 802 Numbers").
pub(super) mod ethertype {
    pub(crate) const IPV4: u16 = 0x0800;
    pub(crate) const ARP: u16 = 0x0806;
    pub(crate) const IPV6: u16 = 0x86dd;
}

/// An IP packet, as far as it could be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Packet<'a> {
    pub(super) source: IpAddr,
    pub(super) destination: IpAddr,
    pub(super) protocol: u8,
    /// Source and destination port; absent in a later fragment and in protocols that have none.
    pub(super) ports: Option<(u16, u16)>,
    /// What follows the UDP header, or else the IP headers.
    pub(super) payload: &'a [u8],
    /// A fragment of a larger packet: the payload is not whole.
    pub(super) fragment: bool,
}

impl<'a> Packet<'a> {
    /// Reads the network layer of a frame; `None` when it is not IP or is cut off within its headers.
    pub(super) fn parse(ether_type: u16, bytes: &'a [u8]) -> Option<Packet<'a>> {
        match ether_type {
            ethertype::IPV4 => Packet::parse_v4(bytes),
            ethertype::IPV6 => Packet::parse_v6(bytes),
            _ => None,
        }
    }

    fn parse_v4(bytes: &'a [u8]) -> Option<Packet<'a>> {
        let header_length = usize::from(bytes.first()? & 0x0f) * 4;
        if bytes[0] >> 4 != 4 || header_length < 20 {
            return None;
        }
        // A short frame is padded, and a super-packet of more than 64 KB has no length.
        let total = usize::from(u16_at(bytes, 2)?);
        let end = if total == 0 { bytes.len() } else { total.min(bytes.len()) };
        let fragment = u16_at(bytes, 6)?;
        let (more, offset) = (fragment & 0x2000 != 0, fragment & 0x1fff);
        let source = Ipv4Addr::from(array_at::<4>(bytes, 12)?);
        let destination = Ipv4Addr::from(array_at::<4>(bytes, 16)?);
        let body = bytes.get(header_length..end)?;
        Some(Packet::transport(source.into(), destination.into(), bytes[9], body, offset == 0, more || offset != 0))
    }

    fn parse_v6(bytes: &'a [u8]) -> Option<Packet<'a>> {
        if bytes.first()? >> 4 != 6 {
            return None;
        }
        let length = usize::from(u16_at(bytes, 4)?);
        let source = Ipv6Addr::from(array_at::<16>(bytes, 8)?);
        let destination = Ipv6Addr::from(array_at::<16>(bytes, 24)?);
        let end = if length == 0 { bytes.len() } else { (40 + length).min(bytes.len()) };
        let mut body = bytes.get(40..end)?;
        let mut next = bytes[6];
        let (mut first, mut fragment) = (true, false);
        // RFC 8200 section 4: each extension header names the next and its own length.
        loop {
            let length = match next {
                protocol::HOP_BY_HOP | protocol::ROUTING | protocol::DESTINATION_OPTIONS => (usize::from(*body.get(1)?) + 1) * 8,
                protocol::FRAGMENT => {
                    let field = u16_at(body, 2)?;
                    first = field >> 3 == 0;
                    // An "atomic" fragment is whole.
                    fragment = field & 0xfff9 != 0;
                    8
                }
                _ => break,
            };
            next = *body.first()?;
            body = body.get(length..)?;
            if !first {
                break;
            }
        }
        Some(Packet::transport(source.into(), destination.into(), next, body, first, fragment))
    }

    fn transport(source: IpAddr, destination: IpAddr, protocol: u8, body: &'a [u8], first: bool, fragment: bool) -> Packet<'a> {
        let has_ports = first && matches!(protocol, protocol::TCP | protocol::UDP);
        let ports = if has_ports { u16_at(body, 0).zip(u16_at(body, 2)) } else { None };
        let payload = if ports.is_some() && protocol == protocol::UDP { body.get(8..).unwrap_or(&[]) } else { body };
        Packet { source, destination, protocol, ports, payload, fragment }
    }
}

/// One line, as people write it: `10.1.0.5:43210 > 10.2.0.9:5432 TCP`.
impl fmt::Display for Packet<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = |f: &mut fmt::Formatter<'_>, address: IpAddr, port: Option<u16>| match port {
            Some(port) => write!(f, "{}", std::net::SocketAddr::new(address, port)),
            None => write!(f, "{address}"),
        };
        side(f, self.source, self.ports.map(|ports| ports.0))?;
        f.write_str(" > ")?;
        side(f, self.destination, self.ports.map(|ports| ports.1))?;
        match self.protocol {
            protocol::TCP => f.write_str(" TCP")?,
            protocol::UDP => f.write_str(" UDP")?,
            protocol::ICMP | protocol::ICMP_V6 => {
                let name = if self.protocol == protocol::ICMP { "ICMP" } else { "ICMPv6" };
                write!(f, " {name} type {}", self.payload.first().copied().unwrap_or(0))?;
            }
            other => write!(f, " protocol {other}")?,
        }
        if self.fragment { f.write_str(" fragment") } else { Ok(()) }
    }
}

pub(super) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    array_at::<2>(bytes, offset).map(u16::from_be_bytes)
}

fn array_at<const N: usize>(bytes: &[u8], offset: usize) -> Option<[u8; N]> {
    bytes.get(offset..offset + N)?.try_into().ok()
}
