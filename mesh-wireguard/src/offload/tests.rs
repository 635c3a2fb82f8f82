use proptest::prelude::*;

use super::checksum::{fold, pseudo_header, set_ipv4, sum};
use super::*;

/// A TCP segment with right checksums.
#[derive(Clone, Debug)]
struct Segment {
    is_v4: bool,
    flow: u8,
    sequence: u32,
    flags: u8,
    window: u16,
    options: usize,
    data: Vec<u8>,
}

impl Segment {
    fn packet(&self) -> Vec<u8> {
        let transport = if self.is_v4 { 20 } else { 40 };
        let header = 20 + self.options * 4;
        let mut packet = vec![0; transport + header];
        if self.is_v4 {
            packet[..12].copy_from_slice(&[0x45, 0, 0, 0, 0, 7, 0x40, 0, 64, 6, 0, 0]);
            packet[12..20].copy_from_slice(&[10, 1, 0, self.flow, 10, 2, 0, 1]);
        } else {
            packet[0] = 0x60;
            (packet[6], packet[7]) = (6, 64);
            (packet[23], packet[39]) = (self.flow, 1);
        }
        let tcp = &mut packet[transport..];
        tcp[..4].copy_from_slice(&[0x9c, 0x40, 0x1f, 0x90]);
        tcp[4..8].copy_from_slice(&self.sequence.to_be_bytes());
        tcp[8..12].copy_from_slice(&77u32.to_be_bytes());
        (tcp[12], tcp[13]) = ((header as u8 / 4) << 4, self.flags);
        tcp[14..16].copy_from_slice(&self.window.to_be_bytes());
        tcp[20..].fill(1);
        packet.extend(&self.data);
        finish(&mut packet);
        packet
    }
}

/// Sets the lengths and checksums of a TCP or UDP packet.
fn finish(packet: &mut [u8]) {
    let (len, is_v4) = (packet.len(), packet[0] >> 4 == 4);
    let (transport, protocol) = if is_v4 { (20, packet[9]) } else { (40, packet[6]) };
    if is_v4 {
        set_word(packet, 2, len as u16);
        set_ipv4(packet, 20);
    } else {
        set_word(packet, 4, (len - 40) as u16);
    }
    let field = transport + if protocol == 6 { 16 } else { 6 };
    set_word(packet, field, 0);
    let checksum = !fold(pseudo_header(packet, protocol, len - transport) + sum(&packet[transport..]));
    set_word(packet, field, if protocol == 17 && checksum == 0 { 0xffff } else { checksum });
}

fn is_right(packet: &[u8]) -> bool {
    let transport = if packet[0] >> 4 == 4 { 20 } else { 40 };
    let protocol = if packet[0] >> 4 == 4 { packet[9] } else { packet[6] };
    let header = packet[0] >> 4 != 4 || fold(sum(&packet[..20])) == 0xffff;
    header && fold(pseudo_header(packet, protocol, packet.len() - transport) + sum(&packet[transport..])) == 0xffff
}

fn batch(packets: &[Vec<u8>]) -> Packets {
    let mut batch = Packets::new();
    packets.iter().for_each(|packet| batch.push(packet));
    batch
}

/// What the device gets.
fn merged(packets: &[Vec<u8>]) -> Vec<(Header, Vec<u8>)> {
    let mut all = Vec::new();
    Merger::new().merge(&batch(packets), |slices| {
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
        let header = Header::read(bytes[..HEADER_LEN].try_into().expect("a header")).expect("one of ours");
        all.push((header, bytes[HEADER_LEN..].to_vec()));
    });
    all
}

/// What the kernel would make of that.
fn split_all(merged: &[(Header, Vec<u8>)]) -> Vec<Vec<u8>> {
    let mut packets = Packets::new();
    merged.iter().for_each(|(header, packet)| split(header, packet, &mut packets).expect("well-formed"));
    packets.iter().map(<[u8]>::to_vec).collect()
}

fn flow_of(packet: &[u8]) -> Vec<u8> {
    if packet[0] >> 4 == 4 { packet[12..24].to_vec() } else { packet[8..44].to_vec() }
}

/// Leaves out what a super-packet cannot keep: each segment's own identification.
fn without_id(mut packet: Vec<u8>) -> Vec<u8> {
    if packet[0] >> 4 == 4 {
        set_word(&mut packet, 4, 0);
        set_ipv4(&mut packet, 20);
    }
    packet
}

/// Streams of several flows, mixed, with now and then a flag, a gap, a changed window, an option more.
fn any_mix() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let one = (0u8..4, any::<bool>(), 0u8..100, prop_oneof![8 => Just(100usize), 1 => 1usize..100, 1 => Just(0)], any::<u8>());
    proptest::collection::vec(one, 1..120).prop_map(|all| {
        let mut next = std::collections::BTreeMap::new();
        let packet = |(flow, is_v4, odd, len, fill): (u8, bool, u8, usize, u8)| {
            let sequence = next.entry((flow, is_v4)).or_insert(u32::MAX - 5_000);
            let mut segment =
                Segment { is_v4, flow, sequence: *sequence, flags: 0x10, window: 500, options: 3, data: vec![fill; len] };
            *sequence = sequence.wrapping_add(len as u32);
            match odd {
                0 => segment.flags |= 0x08,
                1 => segment.flags |= 0x01,
                2 => segment.flags = 0x02,
                3 => segment.flags |= 0x80,
                4 => segment.window = 501,
                5 => segment.sequence = segment.sequence.wrapping_sub(50),
                6 => segment.options = 0,
                7 => segment.flags |= 0x20,
                _ => {}
            }
            let mut packet = segment.packet();
            match odd {
                8 => packet[1] |= 3,
                9 if is_v4 => (packet[6], packet[7]) = (0x20, 0),
                10 => packet.push(0),
                _ => {}
            }
            match odd {
                8 | 9 => finish(&mut packet),
                // A wrong checksum has to arrive as wrong as it was.
                11 => *packet.last_mut().expect("it is not empty") ^= 0x55,
                _ => {}
            }
            packet
        };
        all.into_iter().map(packet).collect()
    })
}

proptest! {
    #[test]
    fn what_is_merged_and_split_again_is_what_it_was_in_the_order_of_its_flow(packets in any_mix()) {
        let merged = merged(&packets);
        let back = split_all(&merged);
        let mut flows: Vec<Vec<u8>> = packets.iter().map(|packet| flow_of(packet)).collect();
        flows.sort_unstable();
        flows.dedup();
        for flow in flows {
            let of = |all: &[Vec<u8>]| -> Vec<Vec<u8>> {
                all.iter().filter(|packet| flow_of(packet) == flow).map(|packet| without_id(packet.clone())).collect()
            };
            prop_assert_eq!(of(&back), of(&packets));
        }
        prop_assert_eq!(back.len(), packets.len());
        prop_assert!(merged.iter().all(|(header, packet)| header.segments == Segments::None || packet.len() <= 65_535));
    }

    #[test]
    fn a_super_packet_becomes_packets_with_right_checksums_and_its_data(
        (is_v4, protocol) in (any::<bool>(), prop_oneof![Just(6u8), Just(17)]),
        (segment, len) in (1usize..1500, 1usize..60_000),
        flags in prop_oneof![Just(0x10u8), Just(0x18), Just(0x19), Just(0x98)],
        sequence in any::<u32>(),
    ) {
        let data: Vec<u8> = (0..len).map(|at| (at * 7 + at / 251) as u8).collect();
        let mut packet = Segment { is_v4, flow: 1, sequence, flags, window: 9, options: 3, data: data.clone() }.packet();
        let transport = if is_v4 { 20 } else { 40 };
        if protocol == 17 {
            packet.splice(transport..transport + 32, [0x9c, 0x40, 0x1f, 0x90, 0, 0, 0, 0]);
            packet[if is_v4 { 9 } else { 6 }] = 17;
        }
        let kind = match (protocol, is_v4) { (17, _) => Segments::Udp, (_, true) => Segments::TcpV4, (_, false) => Segments::TcpV6 };
        let header = Header { checksum: Some((transport as u16, if protocol == 6 { 16 } else { 6 })), segments: kind, segment_len: segment as u16, ..Header::default() };
        prop_assert_eq!(Header::read(&header.write()), Ok(header));
        let mut packets = Packets::new();
        prop_assert_eq!(split(&header, &packet, &mut packets), Ok(()));
        let headers = transport + if protocol == 6 { 32 } else { 8 };
        let mut back = Vec::new();
        let count = packets.len();
        for (number, piece) in packets.iter().enumerate() {
            prop_assert!(is_right(piece), "piece {}", number);
            if protocol == 6 {
                prop_assert_eq!(long(piece, transport + 4), sequence.wrapping_add((number * segment) as u32));
                let own = piece[transport + 13];
                prop_assert_eq!(own & 0x80 != 0, flags & 0x80 != 0 && number == 0);
                prop_assert_eq!(own & 0x09, if number + 1 == count { flags & 0x09 } else { 0 });
            }
            back.extend_from_slice(&piece[headers..]);
        }
        prop_assert!(back == data);
    }

    #[test]
    fn any_bytes_are_split_or_refused(
        head in proptest::collection::vec(any::<u8>(), HEADER_LEN),
        packet in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        let mut packets = Packets::new();
        if let Ok(header) = Header::read(head[..].try_into().expect("ten bytes")) {
            let _ = split(&header, &packet, &mut packets);
        }
        Merger::new().merge(&batch(&[packet.clone(), packet]), |slices| assert!(slices.len() >= 2));
    }
}

#[test]
fn segments_in_order_become_one_and_the_last_may_be_shorter() {
    let at = |number: u32, len: usize, flags: u8| {
        Segment {
            is_v4: true,
            flow: 1,
            sequence: 1000 + number * 100,
            flags,
            window: 5,
            options: 3,
            data: vec![number as u8; len],
        }
        .packet()
    };
    let all = merged(&[at(0, 100, 0x10), at(1, 100, 0x10), at(2, 60, 0x18), at(3, 100, 0x10)]);
    assert_eq!(
        all.iter().map(|(header, packet)| (header.segment_len, packet.len())).collect::<Vec<_>>(),
        [(100, 52 + 260), (0, 152)]
    );
    assert_eq!(all[0].1[33] & 0x08, 0x08, "PSH is kept");
    // More than one packet can be is several.
    let many: Vec<_> = (0..200).map(|number| at(number, 1_300, 0x10)).collect();
    assert_eq!(merged(&many[..3]).len(), 3, "they overlap");
    let many: Vec<_> = (0..200u32)
        .map(|n| {
            Segment { is_v4: false, flow: 1, sequence: n * 1300, flags: 0x10, window: 5, options: 0, data: vec![7; 1300] }
                .packet()
        })
        .collect();
    assert_eq!(merged(&many).len(), 4);
}

#[test]
fn a_checksum_that_was_left_to_do_is_done() {
    for (is_v4, protocol) in [(true, 6), (true, 17), (false, 6), (false, 17)] {
        let mut whole =
            Segment { is_v4, flow: 3, sequence: 1, flags: 0x18, window: 5, options: 0, data: b"some data".to_vec() }.packet();
        let transport = if is_v4 { 20 } else { 40 };
        if protocol == 17 {
            whole[if is_v4 { 9 } else { 6 }] = 17;
            finish(&mut whole);
        }
        let offset = if protocol == 6 { 16 } else { 6 };
        let mut left = whole.clone();
        let partial = fold(pseudo_header(&left, protocol, left.len() - transport));
        set_word(&mut left, transport + offset, partial);
        let header = Header { checksum: Some((transport as u16, offset as u16)), ..Header::default() };
        let mut packets = Packets::new();
        split(&header, &left, &mut packets).expect("well-formed");
        assert_eq!(packets.get(0), whole);
        assert!(split(&header, &left[..transport + 3], &mut packets).is_err());
    }
}
