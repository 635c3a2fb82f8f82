//! The answer in place is the codec's.

use domain::base::Message;
use domain::base::iana::Rtype;
use domain::rdata::AllRecordData;
use mesh_discovery::{Handled, ResolverConfig, Responder, Transport};
use proptest::prelude::*;

use crate::packets::{query_with, resolver};

const NAMES: [&str; 24] = [
    "web.shop.svc.cluster.local",
    "WEB.Shop.svc.clusterset.local",
    "mail.shop.svc.cluster.local",
    "alias.shop.svc.cluster.local",
    "many.shop.svc.cluster.local",
    "few.shop.svc.cluster.local",
    "zero.few.shop.svc.cluster.local",
    "_sql._tcp.few.shop.svc.cluster.local",
    "_sql._tcp.many.shop.svc.cluster.local",
    "_tcp.few.shop.svc.cluster.local",
    "ghost.shop.svc.cluster.local",
    "east.few.shop.svc.clusterset.local",
    "shop.svc.cluster.local",
    "svc.cluster.local",
    "cluster.local",
    "clusterset.local",
    "dns-version.cluster.local",
    "dns-version.clusterset.local",
    "local",
    "1.0.96.10.in-addr.arpa",
    "3.2.1.10.in-addr.arpa",
    "7.7.7.7.in-addr.arpa",
    "1.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.0.d.f.ip6.arpa",
    "example.com",
];

const TYPES: [Rtype; 12] = [
    Rtype::A,
    Rtype::AAAA,
    Rtype::SRV,
    Rtype::PTR,
    Rtype::TXT,
    Rtype::CNAME,
    Rtype::SOA,
    Rtype::NS,
    Rtype::HTTPS,
    Rtype::ANY,
    Rtype::AXFR,
    Rtype::OPT,
];

fn responder(with_upstream: bool) -> Responder {
    let upstreams = if with_upstream { vec![crate::packets::upstream()] } else { Vec::new() };
    resolver(ResolverConfig { upstreams, ..ResolverConfig::default() }).responder()
}

/// All that a message says, whatever its bytes.
fn meaning(bytes: &[u8]) -> String {
    let message = Message::from_octets(bytes.to_vec()).expect("a message");
    let mut text = format!("{:?} {:?}", message.header(), message.header_counts());
    for question in message.question() {
        text += &format!("\n? {}", question.expect("correct"));
    }
    for item in &message {
        let (record, section) = item.expect("correct");
        let record = record.to_any_record::<AllRecordData<_, _>>().expect("correct");
        text += &format!("\n{section:?} {record}");
    }
    text
}

fn both_agree(responder: &Responder, packet: &[u8], transport: Transport) -> Result<(), TestCaseError> {
    let (mut quick, mut codec) = (vec![1, 2, 3], Vec::new());
    let handled = responder.answer(packet, transport, &mut quick);
    prop_assert_eq!(handled, responder.answer_by_codec(packet, transport, &mut codec));
    if handled == Handled::Answer && quick != codec {
        prop_assert_eq!(meaning(&quick), meaning(&codec));
    }
    Ok(())
}

#[test]
fn every_name_and_type_has_one_answer() {
    for with_upstream in [false, true] {
        let responder = responder(with_upstream);
        for (name, rtype) in NAMES.iter().flat_map(|name| TYPES.map(|rtype| (name, rtype))) {
            for edns in [None, Some((0, false)), Some((512, true)), Some((800, false)), Some((4096, true))] {
                let packet = query_with(name, rtype, edns);
                for transport in [Transport::Udp, Transport::Tcp] {
                    both_agree(&responder, &packet, transport).unwrap_or_else(|error| panic!("{name} {rtype}: {error}"));
                }
            }
        }
    }
}

#[test]
fn the_answer_in_place_is_taken_for_what_is_common() {
    // A panic of the codec would not be seen by a test that only compares: these are counted as answers of the zone.
    let mut resolver = resolver(ResolverConfig::default());
    let responder = resolver.responder();
    let mut reply = Vec::new();
    let packet = query_with("web.shop.svc.cluster.local", Rtype::A, Some((1232, false)));
    assert_eq!(responder.answer(&packet, Transport::Udp, &mut reply), Handled::Answer);
    assert_eq!(resolver.counters().queries.values().sum::<u64>(), 1);
    assert!(reply.ends_with(&[0, 0, 41, 4, 208, 0, 0, 0, 0, 0, 0]), "the OPT record is last");
}

proptest! {
    #[test]
    fn they_agree_whatever_the_limit_id_and_flags(
        name in 0..NAMES.len(),
        rtype in 0..TYPES.len(),
        size in 400..1300_u16,
        edns in any::<bool>(),
        id in any::<[u8; 2]>(),
        flags in any::<[u8; 2]>(),
        tcp in any::<bool>(),
    ) {
        let mut packet = query_with(NAMES[name], TYPES[rtype], edns.then_some((size, false)));
        packet[..2].copy_from_slice(&id);
        packet[2..4].copy_from_slice(&flags);
        both_agree(&responder(false), &packet, if tcp { Transport::Tcp } else { Transport::Udp })?;
    }

    #[test]
    fn they_agree_on_damaged_queries(
        name in 0..NAMES.len(),
        rtype in 0..TYPES.len(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..5),
        more in prop::collection::vec(any::<u8>(), 0..12),
        upstream in any::<bool>(),
    ) {
        let mut packet = query_with(NAMES[name], TYPES[rtype], Some((1232, true)));
        for (index, byte) in edits {
            let place = index.index(packet.len());
            packet[place] = byte;
        }
        packet.extend(more);
        both_agree(&responder(upstream), &packet, Transport::Udp)?;
    }
}
