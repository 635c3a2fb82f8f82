use super::*;

fn udp4(port: u16, payload: &[u8]) -> Vec<u8> {
    ipv4(17, &udp(port, payload))
}

fn udp(port: u16, payload: &[u8]) -> Vec<u8> {
    let length = (payload.len() + 8) as u16;
    let header = [40000_u16.to_be_bytes(), port.to_be_bytes(), length.to_be_bytes(), [0, 0]];
    [&header.concat(), payload].concat()
}

fn ipv4(protocol: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 0, 0, 0, 0x40, 0, 64, protocol, 0, 0, 10, 1, 0, 5, 10, 2, 0, 9];
    packet.extend(body);
    let length = packet.len() as u16;
    packet[2..4].copy_from_slice(&length.to_be_bytes());
    packet
}

fn ipv6(next: u8, body: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, next, 64];
    packet[4..6].copy_from_slice(&(body.len() as u16).to_be_bytes());
    packet.extend([0xfd; 16]);
    packet.extend([0xfc; 16]);
    packet.extend(body);
    packet
}

fn class(ether_type: u16, bytes: &[u8]) -> Class {
    classify(ether_type, Packet::parse(ether_type, bytes).as_ref(), None, &[51820])
}

fn message(kind: u8, length: usize) -> Vec<u8> {
    let mut message = vec![0xaa; length];
    message[..4].copy_from_slice(&[kind, 0, 0, 0]);
    message
}

#[test]
fn wireguard_is_known_by_port_type_reserved_bytes_and_length() {
    for (kind, length) in [(1, 148), (2, 92), (3, 64), (4, 32), (4, 33), (4, 1452)] {
        let found = class(0x0800, &udp4(51820, &message(kind, length)));
        assert!(matches!(found, Class::WireGuard(counts) if counts.total() == 1), "{kind} {length}: {found:?}");
    }
    for (kind, length) in [(0, 148), (1, 147), (2, 64), (4, 31), (4, 16), (5, 148)] {
        assert_eq!(class(0x0800, &udp4(51820, &message(kind, length))), Class::Other, "{kind} {length}");
    }
    let mut reserved = message(4, 64);
    reserved[2] = 1;
    assert_eq!(class(0x0800, &udp4(51820, &reserved)), Class::Other);
    assert_eq!(class(0x0800, &udp4(53, &message(4, 64))), Class::Other);
    assert_eq!(class(0x0800, &udp4(51820, b"")), Class::Other);
}

#[test]
fn every_segment_of_a_super_packet_must_be_wireguard() {
    let good = udp4(51820, &[message(4, 1440), message(4, 1440), message(4, 48)].concat());
    let packet = Packet::parse(0x0800, &good);
    let found = classify(0x0800, packet.as_ref(), Some(1440), &[51820]);
    assert!(matches!(found, Class::WireGuard(counts) if counts.data == 3), "{found:?}");
    let bad = udp4(51820, &[message(4, 1440), vec![b'p'; 1440]].concat());
    assert_eq!(classify(0x0800, Packet::parse(0x0800, &bad).as_ref(), Some(1440), &[51820]), Class::Other);
}

#[test]
fn neighbours_are_not_plaintext() {
    assert_eq!(class(ethertype::ARP, &[0; 28]), Class::Neighbour);
    assert_eq!(class(0x86dd, &ipv6(58, &[135, 0, 0, 0])), Class::Neighbour);
    assert_eq!(class(0x0800, &ipv4(2, &[0x16, 0, 0, 0])), Class::Neighbour);
    // A multicast listener report comes behind a hop-by-hop header with the router alert option.
    let report = [&[58, 0, 5, 2, 0, 0, 1, 0][..], &[143, 0, 0, 0]].concat();
    assert_eq!(class(0x86dd, &ipv6(0, &report)), Class::Neighbour);
    assert_eq!(class(0x86dd, &ipv6(58, &[128, 0, 0, 0])), Class::Other);
}

#[test]
fn an_icmp_error_is_as_secret_as_what_it_quotes() {
    let error = |quote: &[u8]| ipv4(1, &[&[3, 3, 0, 0, 0, 0, 0, 0], quote].concat());
    assert_eq!(class(0x0800, &error(&udp4(51820, &message(4, 64)))), Class::Control);
    assert_eq!(class(0x0800, &error(&udp4(53, b"secret"))), Class::Other);
    assert_eq!(class(0x0800, &error(&udp4(51820, b"secret"))), Class::Other);
    let error = |quote: &[u8]| ipv6(58, &[&[2, 0, 0, 0, 0, 0, 5, 0], quote].concat());
    assert_eq!(class(0x86dd, &error(&ipv6(17, &udp(51820, &message(4, 64))))), Class::Control);
}

#[test]
fn fragments_and_cut_packets_are_plaintext() {
    let mut fragment = udp4(51820, &message(4, 64));
    fragment[6] = 0x20;
    assert_eq!(class(0x0800, &fragment), Class::Other);
    for length in 0..28 {
        let whole = udp4(51820, &message(4, 64));
        assert_eq!(class(0x0800, &whole[..length]), Class::Other, "{length}");
    }
}

#[test]
fn summaries_read_as_people_write_them() {
    let text = |ether_type, bytes: &[u8]| Packet::parse(ether_type, bytes).unwrap().to_string();
    assert_eq!(text(0x0800, &ipv4(6, &udp(5432, b""))), "10.1.0.5:40000 > 10.2.0.9:5432 TCP");
    assert_eq!(text(0x0800, &ipv4(1, &[8, 0])), "10.1.0.5 > 10.2.0.9 ICMP type 8");
    assert!(text(0x86dd, &ipv6(17, &udp(53, b""))).ends_with("]:53 UDP"));
}
