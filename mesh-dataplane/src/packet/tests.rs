use proptest::prelude::*;

use super::*;
use crate::test_packets::*;

const V4: (&str, &str) = ("10.1.0.5", "10.2.0.9");
const V6: (&str, &str) = ("fd00:1::5", "fd00:2::9");

fn text(packet: &[u8]) -> String {
    parse(packet).map(|packet| packet.tuple.to_string()).unwrap_or_else(|error| error.to_string())
}

/// One of each kind, so that every branch has a valid packet to begin from.
fn samples() -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    for (a, b) in [V4, V6] {
        let segment = tcp((a, 1000), (b, 80), SYN, 7);
        let error = if a == V4.0 { (3, 4) } else { (2, 0) };
        packets.extend([icmp(b, a, error, [0; 4], &segment), echo(a, b, true), echo(b, a, false), segment]);
        packets.extend([udp((a, 1000), (b, 53), b"question"), ip(a, b, 47, b"anything"), ip(a, b, 132, &[0; 12])]);
    }
    let long = udp((V4.0, 1000), (V4.1, 53), &[0; 64]);
    packets.extend(fragments_v4(&long, 9, 32));
    packets.push(fragment_v6(&udp((V6.0, 1000), (V6.1, 53), &[0; 64]), 9, 0, true));
    packets.push(fragment_v6(&udp((V6.0, 1000), (V6.1, 53), &[0; 64]), 9, 9, false));
    packets
}

#[test]
fn reads_addresses_ports_flags_and_echo_identifiers() {
    assert_eq!(text(&tcp((V4.0, 1000), (V4.1, 80), SYN, 7)), "10.1.0.5:1000 > 10.2.0.9:80/TCP");
    assert_eq!(text(&udp((V6.0, 1000), (V6.1, 53), b"")), "[fd00:1::5]:1000 > [fd00:2::9]:53/UDP");
    let Kind::Tcp(tcp) = parse(&tcp((V4.0, 1), (V4.1, 2), FIN | ACK, 0xdead_beef)).expect("valid").kind else {
        panic!("a segment");
    };
    assert_eq!((tcp.sequence, tcp.fin(), tcp.ack(), tcp.syn(), tcp.rst()), (0xdead_beef, true, true, false, false));
    for (a, b) in [V4, V6] {
        let (request, reply) = (parse(&echo(a, b, true)).expect("valid"), parse(&echo(b, a, false)).expect("valid"));
        assert_eq!((request.tuple.source_port, request.is_opening()), (7, true));
        assert_eq!(reply.tuple, request.tuple.reversed(), "a reply is the reverse of its request");
    }
}

#[test]
fn walks_ipv6_extension_headers_and_no_further_than_it_must() {
    let payload = &tcp((V6.0, 1000), (V6.1, 80), SYN, 7)[40..];
    let chained = |headers: &[u8]| {
        let mut bytes = Vec::new();
        for next in headers[1..].iter().chain([&6]) {
            // In a routing header: of type 1, with no segments left.
            bytes.extend([*next, 0, 1, 0, 0, 0, 0, 0]);
        }
        bytes.extend(payload);
        ip(V6.0, V6.1, headers[0], &bytes)
    };
    assert_eq!(text(&chained(&[0, 60, 43, 60])), "[fd00:1::5]:1000 > [fd00:2::9]:80/TCP");
    assert_eq!(parse(&chained(&[60; 9])), Err(Malformed), "more than any real packet has");
    for kind in [0, 2, 3, 4] {
        let mut routed = chained(&[43]);
        (routed[42], routed[43]) = (kind, 1);
        assert_eq!(parse(&routed), Err(Malformed), "a routing header of type {kind} with segments left (RFC 5095)");
    }
}

#[test]
fn refuses_ipv4_source_routes() {
    let plain = tcp((V4.0, 1000), (V4.1, 80), SYN, 7);
    let with = |options: &[u8; 8]| {
        let mut bytes = [&plain[..20], options, &plain[20..]].concat();
        bytes[0] = 0x47;
        bytes[3] += 8;
        parse(&bytes)
    };
    assert!(with(&[1, 1, 148, 4, 0, 0, 0, 0]).is_ok(), "a router alert harms nobody");
    for kind in [131, 137] {
        assert_eq!(with(&[1, kind, 7, 4, 10, 2, 0, 77]), Err(Malformed));
        assert_eq!(with(&[148, 0, kind, 6, 4, 10, 2, 0]), Err(Malformed), "also behind an option without a length");
    }
}

#[test]
fn reads_what_an_icmp_error_quotes() {
    for (a, b) in [V4, V6] {
        let segment = tcp((a, 1000), (b, 80), ACK, 7);
        let kind = if a == V4.0 { (3, 4) } else { (2, 0) };
        // A router quotes the header and eight bytes at least (RFC 792).
        let cut = segment.len() - 12;
        let Kind::Icmp(icmp) = parse(&icmp(b, a, kind, [0; 4], &segment[..cut])).expect("valid").kind else { panic!("ICMP") };
        assert!(icmp.error);
        assert_eq!(icmp.quoted, parse(&segment).ok().map(|packet| packet.tuple));
    }
}

#[test]
fn tells_first_from_later_fragments() {
    let long = udp((V4.0, 1000), (V4.1, 53), &[0; 64]);
    let [first, later] = fragments_v4(&long, 9, 32).map(|bytes| parse(&bytes).expect("valid"));
    assert_eq!((first.fragment, first.tuple.destination_port), (Some(Fragment { id: 9, first: true }), 53));
    assert_eq!((later.fragment, later.tuple.destination_port), (Some(Fragment { id: 9, first: false }), 0));
    let atomic = fragment_v6(&udp((V6.0, 1000), (V6.1, 53), b""), 9, 0, false);
    assert_eq!(parse(&atomic).expect("valid").fragment, None, "an atomic fragment is a whole packet (RFC 6946)");
}

#[test]
fn refuses_fragments_that_could_hide_or_replace_tcp_flags() {
    let segment = tcp((V4.0, 1000), (V4.1, 80), SYN, 7);
    let [tiny, overlapping] = fragments_v4(&segment, 9, 8);
    assert_eq!((parse(&tiny), parse(&overlapping)), (Err(Malformed), Err(Malformed)));
}

#[test]
fn refuses_lengths_that_contradict_each_other() {
    let good = tcp((V4.0, 1000), (V4.1, 80), SYN, 7);
    let changed = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        parse(&bytes)
    };
    assert_eq!(changed(0, 0x44), Err(Malformed), "a header shorter than any");
    assert_eq!(changed(0, 0x4f), Err(Malformed), "a header longer than the packet");
    assert_eq!(changed(3, 41), Err(Malformed), "longer than the bytes");
    assert_eq!(changed(3, 19), Err(Malformed), "shorter than its header");
    assert_eq!(changed(0, 0x55), Err(Malformed), "no IP version");
    assert_eq!(changed(32, 0x40), Err(Malformed), "a TCP header shorter than any");
    assert_eq!(changed(32, 0xf0), Err(Malformed), "a TCP header longer than the packet");
    let mut padded = good.clone();
    padded.extend([0; 9]);
    assert_eq!(parse(&padded), parse(&good), "padding after the packet is nobody's");
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..120), version in prop_oneof![Just(0x45u8), Just(0x60), any::<u8>()]) {
        if let Some(first) = bytes.first_mut() {
            *first = version;
        }
        let _ = parse(&bytes);
    }

    #[test]
    fn no_damage_to_a_valid_packet_makes_it_panic(which in any::<prop::sample::Index>(), keep in any::<prop::sample::Index>(), flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6)) {
        let samples = samples();
        let mut bytes = which.get(&samples).clone();
        prop_assert!(parse(&bytes).is_ok());
        prop_assert_eq!(parse(&bytes[..keep.index(bytes.len())]), Err(Malformed));
        for (at, value) in flips {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(packet) = parse(&bytes) {
            prop_assert!(packet.len as usize <= bytes.len());
        }
    }
}
