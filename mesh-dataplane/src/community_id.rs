//! Community ID version 1: the name of a flow that every observer computes alike
//! (<https://github.com/corelight/community-id-spec>).

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use mesh_core::FiveTuple;
use sha1::{Digest, Sha1};

/// The specification's seed where none is agreed upon.
const SEED: [u8; 2] = [0, 0];

/// Returns the Community ID of `tuple`, for ICMP by the `(type, code)` of the opening message.
pub fn community_id(tuple: &FiveTuple, icmp: Option<(u8, u8)>) -> String {
    let number = tuple.protocol.number();
    let (ports, one_way) = match icmp {
        Some((kind, code)) => match counterpart(number, kind) {
            Some(other) => (Some((u16::from(kind), u16::from(other))), false),
            None => (Some((u16::from(kind), u16::from(code))), true),
        },
        None if tuple.protocol.has_ports() => (Some((tuple.source_port, tuple.destination_port)), false),
        None => (None, false),
    };
    let mut ends = (tuple.source, tuple.destination, ports);
    let (low, high) = ports.unwrap_or_default();
    if !one_way && (tuple.destination, high) < (tuple.source, low) {
        ends = (tuple.destination, tuple.source, ports.map(|(a, b)| (b, a)));
    }
    let mut hash = Sha1::new();
    hash.update(SEED);
    for address in [ends.0, ends.1] {
        match address {
            IpAddr::V4(address) => hash.update(address.octets()),
            IpAddr::V6(address) => hash.update(address.octets()),
        }
    }
    hash.update([number, 0]);
    if let Some((low, high)) = ends.2 {
        hash.update(low.to_be_bytes());
        hash.update(high.to_be_bytes());
    }
    format!("1:{}", STANDARD.encode(hash.finalize()))
}

/// The ICMP type that answers `kind`, or that `kind` answers: together they are one flow.
fn counterpart(protocol: u8, kind: u8) -> Option<u8> {
    Some(match (protocol, kind) {
        (1, 0) => 8,
        (1, 8) => 0,
        (1, 9) => 10,
        (1, 10) => 9,
        (1, 13) => 14,
        (1, 14) => 13,
        (1, 15) => 16,
        (1, 16) => 15,
        (1, 17) => 18,
        (1, 18) => 17,
        (58, 128) => 129,
        (58, 129) => 128,
        (58, 130) => 131,
        (58, 131) => 130,
        (58, 133) => 134,
        (58, 134) => 133,
        (58, 135) => 136,
        (58, 136) => 135,
        (58, 139) => 140,
        (58, 140) => 139,
        (58, 144) => 145,
        (58, 145) => 144,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::Protocol;

    fn tuple(source: &str, destination: &str, protocol: u8, ports: (u16, u16)) -> FiveTuple {
        FiveTuple {
            source: source.parse().expect("an address"),
            destination: destination.parse().expect("an address"),
            protocol: Protocol::from_number(protocol),
            source_port: ports.0,
            destination_port: ports.1,
        }
    }

    #[test]
    fn vectors_of_the_specification() {
        let (tcp6, mail) = ("2001:470:e5bf:dead:4957:2174:e82c:4887", "2607:f8b0:400c:c03::1a");
        for (tuple, icmp, expected) in [
            (tuple("128.232.110.120", "66.35.250.204", 6, (34855, 80)), None, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
            (tuple("66.35.250.204", "128.232.110.120", 6, (80, 34855)), None, "1:LQU9qZlK+B5F3KDmev6m5PMibrg="),
            (tuple(tcp6, mail, 6, (63943, 25)), None, "1:/qFaeAR+gFe1KYjMzVDsMv+wgU4="),
            (tuple("192.168.1.52", "8.8.8.8", 17, (54585, 53)), None, "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
            (tuple("8.8.8.8", "192.168.1.52", 17, (53, 54585)), None, "1:d/FP5EW3wiY1vCndhwleRRKHowQ="),
            (tuple("192.168.0.89", "192.168.0.1", 1, (9, 0)), Some((8, 0)), "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
            (tuple("192.168.0.1", "192.168.0.89", 1, (0, 9)), Some((0, 0)), "1:X0snYXpgwiv9TZtqg64sgzUn6Dk="),
            (
                tuple("fe80::200:86ff:fe05:80da", "fe80::260:97ff:fe07:69ea", 58, (0, 0)),
                Some((135, 0)),
                "1:dGHyGvjMfljg6Bppwm3bg0LO8TY=",
            ),
        ] {
            assert_eq!(community_id(&tuple, icmp), expected, "{tuple}");
        }
    }
}
