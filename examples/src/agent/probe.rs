//! Echo requests to other nodes, through the tunnel: the socket of [`mesh_dataplane::Health`].
//!
//! An echo is answered by the kernel of the other node, whatever its tunnel is made of, and whether or not its agent runs: what
//! is probed is the path that packets to its workloads take.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use mesh_core::Now;
use mesh_dataplane::Health;
use mesh_dataplane::packet::checksum::{fold, sum};
use socket2::{Domain, Protocol, Socket, Type};
use tracing::{debug, warn};

const ECHO_REQUEST: [u8; 2] = [8, 128];
const ECHO_REPLY: [u8; 2] = [0, 129];
/// Type, code, checksum, identifier, sequence number, and a token that only this process knows.
const LEN: usize = 16;
/// How many packets one turn reads from a socket: whoever floods it does not keep the agent from its work.
const BURST: usize = 1024;

/// Sends probes and takes the replies.
#[derive(Debug)]
pub struct Prober {
    /// For IPv4 and IPv6: raw ones, in the type of the standard library that sends and receives with addresses. Without a
    /// socket the paths of its family have no say.
    sockets: [Option<UdpSocket>; 2],
    identifier: u16,
    token: [u8; 8],
}

impl Prober {
    /// Opens the sockets; a family that the kernel or the process's privileges do not allow is left out, and logged.
    pub fn open() -> Prober {
        let open = |domain, protocol, family: &str| {
            raw(domain, protocol).inspect_err(|error| warn!(%error, "paths over {family} are not probed")).ok()
        };
        let random = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
        Prober {
            sockets: [open(Domain::IPV4, Protocol::ICMPV4, "IPv4"), open(Domain::IPV6, Protocol::ICMPV6, "IPv6")],
            identifier: random as u16,
            token: random.rotate_left(17).to_be_bytes(),
        }
    }

    /// Tells whether addresses of this family can be probed.
    pub fn speaks(&self, address: IpAddr) -> bool {
        self.sockets[family(address)].is_some()
    }

    /// Takes the replies that came, then sends what is due: a reply that waited while the agent was busy is no loss.
    pub fn turn(&self, health: &mut Health, now: Now) {
        for (family, socket) in self.sockets.iter().enumerate() {
            let Some(socket) = socket else { continue };
            let mut buffer = [0; 256];
            for _ in 0..BURST {
                let Ok((len, from)) = socket.recv_from(&mut buffer) else { break };
                if let Some(sequence) = self.read(family, &buffer[..len]) {
                    health.handle_reply(from.ip(), sequence, now.time);
                }
            }
        }
        while let Some(probe) = health.poll_probe(now.time) {
            let Some(socket) = &self.sockets[family(probe.address)] else { continue };
            let request = self.request(family(probe.address), probe.sequence);
            // What cannot be sent is as lost as what is lost on the way.
            if let Err(error) = socket.send_to(&request, SocketAddr::new(probe.address, 0)) {
                debug!(%error, address = %probe.address, "a probe was not sent");
            }
        }
    }

    fn request(&self, family: usize, sequence: u16) -> [u8; LEN] {
        let mut packet = [0; LEN];
        packet[0] = ECHO_REQUEST[family];
        packet[4..6].copy_from_slice(&self.identifier.to_be_bytes());
        packet[6..8].copy_from_slice(&sequence.to_be_bytes());
        packet[8..].copy_from_slice(&self.token);
        // The checksum of ICMPv6 covers addresses that the kernel chooses, and the kernel writes it.
        if family == 0 {
            let checksum = !fold(sum(&packet));
            packet[2..4].copy_from_slice(&checksum.to_be_bytes());
        }
        packet
    }

    /// Returns the number of a probe of ours that a packet replies to. Over IPv4 the packet comes with its IP header.
    fn read(&self, family: usize, packet: &[u8]) -> Option<u16> {
        let header = if family == 0 { usize::from(packet.first()? & 15) * 4 } else { 0 };
        let reply = packet.get(header..header + LEN)?;
        let is_ours = reply[..2] == [ECHO_REPLY[family], 0] && reply[4..6] == self.identifier.to_be_bytes();
        (is_ours && reply[8..] == self.token).then(|| u16::from_be_bytes([reply[6], reply[7]]))
    }
}

fn raw(domain: Domain, protocol: Protocol) -> io::Result<UdpSocket> {
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

fn family(address: IpAddr) -> usize {
    usize::from(address.is_ipv6())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prober() -> Prober {
        Prober { sockets: [None, None], identifier: 0x1234, token: [7; 8] }
    }

    #[test]
    fn a_reply_is_known_by_identifier_and_token() {
        let prober = prober();
        let mut reply = prober.request(1, 77);
        assert_eq!(prober.read(1, &reply), None, "a request is no reply");
        reply[0] = ECHO_REPLY[1];
        assert_eq!(prober.read(1, &reply), Some(77));
        let with_header = [&[0x45; 20][..], &[0, 0], &reply[2..]].concat();
        assert_eq!(prober.read(0, &with_header), Some(77));
        for len in 0..LEN {
            assert_eq!(prober.read(1, &reply[..len]), None);
        }
        reply[15] ^= 1;
        assert_eq!(prober.read(1, &reply), None, "another's token");
    }

    #[test]
    fn a_request_has_the_right_checksum() {
        assert_eq!(fold(sum(&prober().request(0, 1))), 0xffff, "with the checksum in it");
    }
}
