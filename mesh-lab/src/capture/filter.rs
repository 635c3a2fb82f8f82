//! Which packets a capture counts apart.

use std::net::IpAddr;

use ipnetwork::IpNetwork;

use super::packet::Packet;

/// A predicate on packets; an absent part matches everything.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaptureFilter {
    /// Where it comes from.
    pub source: Option<IpNetwork>,
    /// Where it goes.
    pub destination: Option<IpNetwork>,
    /// Source or destination port.
    pub port: Option<u16>,
    /// IP protocol number: 6 for TCP, 17 for UDP.
    pub protocol: Option<u8>,
}

impl CaptureFilter {
    /// Restricts the source to one address.
    pub fn from(mut self, address: IpAddr) -> CaptureFilter {
        self.source = Some(address.into());
        self
    }

    /// Restricts the destination to one address.
    pub fn to(mut self, address: IpAddr) -> CaptureFilter {
        self.destination = Some(address.into());
        self
    }

    /// Restricts either port.
    pub fn port(mut self, port: u16) -> CaptureFilter {
        self.port = Some(port);
        self
    }

    /// Restricts the protocol.
    pub fn protocol(mut self, protocol: u8) -> CaptureFilter {
        self.protocol = Some(protocol);
        self
    }

    pub(super) fn matches(&self, packet: &Packet<'_>) -> bool {
        let within = |prefix: Option<IpNetwork>, address| prefix.is_none_or(|prefix| prefix.contains(address));
        within(self.source, packet.source)
            && within(self.destination, packet.destination)
            && self.port.is_none_or(|port| packet.ports.is_some_and(|(from, to)| from == port || to == port))
            && self.protocol.is_none_or(|protocol| protocol == packet.protocol)
    }
}
