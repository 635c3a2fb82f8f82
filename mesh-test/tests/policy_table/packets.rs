//! Packets that open a connection.

use std::net::IpAddr;

use mesh_core::{FiveTuple, Protocol};

/// Returns the first packet of a connection. Checksums of transports are left open: the test's namespace does not look at them.
pub(crate) fn opening(tuple: &FiveTuple, id: u16) -> Vec<u8> {
    let [from, to] = [tuple.source_port, tuple.destination_port].map(u16::to_be_bytes);
    let mut transport = [from, to].concat();
    match tuple.protocol {
        Protocol::Tcp => transport.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]),
        Protocol::Udp => transport.extend([0, 8, 0, 0]),
        // A verification tag of zero, then an INIT chunk.
        Protocol::Sctp => {
            transport.extend([0; 8]);
            transport.extend([1, 0, 0, 20, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1, 0, 1, 0, 0, 0, 1]);
        }
        Protocol::Other(1) => transport = vec![8, 0, 0, 0, (id >> 8) as u8, id as u8, 0, 1],
        Protocol::Other(58) => transport = vec![128, 0, 0, 0, (id >> 8) as u8, id as u8, 0, 1],
        Protocol::Other(_) => transport.extend([0; 8]),
    }
    packet(tuple, transport)
}

/// Returns a TCP segment without data.
pub(crate) fn tcp(tuple: &FiveTuple, flags: u8, sequence: u8, acknowledged: u8) -> Vec<u8> {
    let [from, to] = [tuple.source_port, tuple.destination_port].map(u16::to_be_bytes);
    let mut segment = [from, to].concat();
    segment.extend([0, 0, 0, sequence, 0, 0, 0, acknowledged, 0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
    packet(tuple, segment)
}

/// Returns an ICMP error of `from` about a packet.
pub(crate) fn icmp_error(about: &[u8], from: IpAddr) -> Vec<u8> {
    let quoted = read(about).expect("a packet of a connection");
    let mut message = vec![3, 1, 0, 0, 0, 0, 0, 0];
    message.extend(&about[..28]);
    let ends =
        FiveTuple { source: from, destination: quoted.source, protocol: Protocol::Other(1), source_port: 0, destination_port: 0 };
    packet(&ends, message)
}

/// Cuts an IPv4 packet into fragments of `len` bytes of payload, a multiple of eight.
pub(crate) fn fragments(whole: &[u8], len: usize) -> Vec<Vec<u8>> {
    let (header, payload) = whole.split_at(20);
    let count = payload.len().div_ceil(len);
    let cut = |(at, part): (usize, &[u8])| {
        let mut header = header.to_vec();
        header[2..4].copy_from_slice(&((20 + part.len()) as u16).to_be_bytes());
        header[4..6].copy_from_slice(&7u16.to_be_bytes());
        let more = if at + 1 < count { 0x2000 } else { 0 };
        header[6..8].copy_from_slice(&(more | (at * len / 8) as u16).to_be_bytes());
        header[10..12].copy_from_slice(&[0, 0]);
        let sum = checksum(&header);
        header[10..12].copy_from_slice(&sum);
        header.extend(part);
        header
    };
    payload.chunks(len).enumerate().map(cut).collect()
}

/// Returns the checksum of an IPv4 header, which is zero there.
fn checksum(header: &[u8]) -> [u8; 2] {
    let sum: u32 = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    (!(((folded & 0xffff) + (folded >> 16)) as u16)).to_be_bytes()
}

/// Puts a header before what a transport says.
fn packet(tuple: &FiveTuple, transport: Vec<u8>) -> Vec<u8> {
    let len = transport.len() as u16;
    let mut packet = match (tuple.source, tuple.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            let [high, low] = (20 + len).to_be_bytes();
            let mut header = vec![0x45, 0, high, low, 0, 0, 0, 0, 64, tuple.protocol.number(), 0, 0];
            header.extend(source.octets());
            header.extend(destination.octets());
            let sum = checksum(&header);
            header[10..12].copy_from_slice(&sum);
            header
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            let [high, low] = len.to_be_bytes();
            let mut header = vec![0x60, 0, 0, 0, high, low, tuple.protocol.number(), 64];
            header.extend(source.octets());
            header.extend(destination.octets());
            header
        }
        _ => unreachable!("both of one family"),
    };
    packet.extend(transport);
    packet
}

/// Returns the connection that a packet opens, as [`opening`] writes it.
pub(crate) fn read(packet: &[u8]) -> Option<FiveTuple> {
    let (source, destination, protocol, transport): (IpAddr, IpAddr, u8, &[u8]) = match packet.first()? >> 4 {
        4 => {
            let [source, destination] = [12, 16].map(|at| <[u8; 4]>::try_from(&packet[at..at + 4]).unwrap());
            (source.into(), destination.into(), packet[9], packet.get(20..)?)
        }
        _ => {
            let [source, destination] = [8, 24].map(|at| <[u8; 16]>::try_from(&packet[at..at + 16]).unwrap());
            (source.into(), destination.into(), packet[6], packet.get(40..)?)
        }
    };
    let protocol = Protocol::from_number(protocol);
    if matches!(protocol, Protocol::Other(1 | 58)) && !matches!(transport.first()?, 8 | 128) {
        return None;
    }
    let port = |at: usize| Some(u16::from_be_bytes([*transport.get(at)?, *transport.get(at + 1)?]));
    let (source_port, destination_port) = if protocol.has_ports() { (port(0)?, port(2)?) } else { (0, 0) };
    Some(FiveTuple { source, destination, protocol, source_port, destination_port })
}

/// Tells whether a packet is what the kernel says of itself on a device: IPv6's solicitations and reports.
pub(crate) fn is_of_the_kernel(packet: &[u8]) -> bool {
    // Its first reports of the groups that a router is in come from no address.
    packet[0] >> 4 == 6 && (packet[8..10] == [0xfe, 0x80] || packet[8..24] == [0; 16])
}
