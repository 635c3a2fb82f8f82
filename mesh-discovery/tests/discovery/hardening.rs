//! Hostile clients and upstreams: what they send is counted, bounded, and crashes nothing.

use domain::base::Message;
use domain::base::iana::{Rcode, Rtype};
use mesh_discovery::{Reply, Resolver, ResolverConfig, Transport};

use crate::packets::{Says, answer, at, config, forwarded, message, query, query_with, records, resolver, response, upstream};

/// A query's header, and then whatever.
fn raw(question: &[u8]) -> Vec<u8> {
    [&[0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0], question].concat()
}

fn code(resolver: &mut Resolver<u32>, packet: &[u8]) -> Option<Rcode> {
    match resolver.handle_message(packet, Transport::Udp, 1, at(0)) {
        Reply::Answer(bytes) => Some(message(bytes).header().rcode()),
        Reply::Forward => panic!("nothing is forwarded"),
        Reply::Drop => None,
    }
}

/// Forwards a question and hands in what `spoil` makes of the correct response; returns the client's reply, if there is one.
fn spoiled(resolver: &mut Resolver<u32>, spoil: impl FnOnce(Vec<u8>) -> Vec<u8>) -> Option<Message<Vec<u8>>> {
    assert_eq!(resolver.handle_message(&query("a.example.com", Rtype::A), Transport::Udp, 1, at(0)), Reply::Forward);
    let sent = resolver.poll_transmit().expect("something for the upstream");
    let correct = response(&sent.packet, Rcode::NOERROR, &[Says::Address("a.example.com", 9, 60)]);
    resolver.handle_response(sent.id, upstream(), &spoil(correct), at(1));
    resolver.poll_reply().map(|(_, bytes)| message(bytes))
}

#[test]
fn compression_loops_in_a_query_are_a_format_error() {
    let mut resolver = resolver(config());
    let loops: [&[u8]; 5] = [
        // To itself, forward, in a circle, far behind the end, and cut short.
        &[0xc0, 12, 0, 1, 0, 1],
        &[0xc0, 14, 0xc0, 12, 0, 1, 0, 1],
        &[1, b'a', 0xc0, 12, 0, 1, 0, 1],
        &[0xff, 0xff, 0, 1, 0, 1],
        &[0xc0],
    ];
    for question in loops {
        assert_eq!(code(&mut resolver, &raw(question)), Some(Rcode::FORMERR), "{question:?}");
    }
    assert_eq!(resolver.counters().malformed, 5);
}

#[test]
fn compression_loops_in_an_answer_are_as_good_as_no_answer() {
    for pointer in [[0xc0, 0x00], [0xc0, 0x1f], [0xff, 0xff]] {
        let mut resolver = resolver(ResolverConfig { rounds: 1, ..config() });
        let reply = spoiled(&mut resolver, |mut bytes| {
            // The owner of the first record, right behind the question.
            let place = 12 + "a.example.com".len() + 2 + 4;
            bytes[place..place + 2].copy_from_slice(&pointer);
            bytes
        });
        let reply = reply.expect("the upstream has failed");
        // What is in front of the name may read as one; it is not the one that was asked for.
        let harmless = reply.header().rcode() == Rcode::SERVFAIL || reply.header_counts().ancount() == 0;
        assert!(harmless, "{pointer:?}: {:?}", records(&reply));
        assert_eq!(resolver.counters().cache_entries, 0);
    }
}

#[test]
fn a_compression_bomb_of_an_upstream_costs_little() {
    // A name of 255 bytes once, and two bytes each to point to it, as often as fits: unpacked it would be a megabyte.
    let mut resolver = resolver(ResolverConfig { rounds: 1, ..config() });
    assert_eq!(resolver.handle_message(&query("a.example.com", Rtype::CNAME), Transport::Tcp, 1, at(0)), Reply::Forward);
    let sent = resolver.poll_transmit().expect("something for the upstream");
    let mut bomb = sent.packet[..sent.packet.len() - 11].to_vec();
    bomb[2] |= 0x80;
    let long: Vec<u8> = (0..126).flat_map(|_| [1, b'x']).chain([0]).collect();
    let mut count: u16 = 0;
    let mut record = |bytes: &mut Vec<u8>, target: &[u8]| {
        bytes.extend([0xc0, 12, 0, 5, 0, 1, 0, 0, 0, 60]);
        bytes.extend((target.len() as u16).to_be_bytes());
        bytes.extend(target);
        count += 1;
    };
    let place = bomb.len() as u16 + 12;
    record(&mut bomb, &long);
    while bomb.len() < 65_000 {
        record(&mut bomb, &(0xc000 | place).to_be_bytes());
    }
    bomb[6..8].copy_from_slice(&count.to_be_bytes());
    bomb[10..12].copy_from_slice(&[0, 0]);
    assert!(resolver.handle_response(sent.id, upstream(), &bomb, at(1)));
    let (_, reply) = resolver.poll_reply().expect("the upstream has failed");
    assert_eq!(message(reply).header().rcode(), Rcode::SERVFAIL, "what would not fit into a message is refused");
    assert_eq!(resolver.counters().cache_bytes, 0);
}

#[test]
fn a_label_flood_is_answered_up_to_255_bytes_and_refused_beyond() {
    let mut resolver = resolver(ResolverConfig::default());
    let name = |labels: usize| -> Vec<u8> {
        let zone = b"\x03svc\x07cluster\x05local\x00";
        let flood = std::iter::repeat_n([1, b'x'], labels).flatten();
        flood.chain(zone.iter().copied()).chain([0, 1, 0, 1]).collect()
    };
    // 117 labels and the zone are 253 bytes.
    assert_eq!(code(&mut resolver, &raw(&name(117))), Some(Rcode::NXDOMAIN));
    assert_eq!(code(&mut resolver, &raw(&name(118))), Some(Rcode::NXDOMAIN));
    for labels in [119, 127, 128, 1000] {
        assert_eq!(code(&mut resolver, &raw(&name(labels))), Some(Rcode::FORMERR), "{labels}");
    }
    // A label of 64 bytes is none.
    let long: Vec<u8> = [64].into_iter().chain([b'x'; 64]).chain([0, 0, 1, 0, 1]).collect();
    assert_eq!(code(&mut resolver, &raw(&long)), Some(Rcode::FORMERR));
}

#[test]
fn every_beginning_of_a_query_and_of_an_answer_is_survived() {
    let mut queries = resolver(ResolverConfig::default());
    for name in ["web.shop.svc.cluster.local", "_sql._tcp.few.shop.svc.cluster.local"] {
        let whole = query_with(name, Rtype::SRV, Some((1232, true)));
        for len in 0..whole.len() {
            let code = code(&mut queries, &whole[..len]);
            assert_eq!(code, (len >= 12).then_some(Rcode::FORMERR), "{len}");
        }
    }
    // Of the OPT record at the end nothing is needed.
    let length = {
        let mut resolver = resolver(config());
        let mut length = 0;
        spoiled(&mut resolver, |bytes| {
            length = bytes.len() - 11;
            bytes
        });
        length
    };
    for len in 0..length {
        let mut resolver = resolver(ResolverConfig { rounds: 1, ..config() });
        let reply = spoiled(&mut resolver, |bytes| bytes[..len].to_vec());
        if let Some(reply) = reply {
            assert_eq!(reply.header().rcode(), Rcode::SERVFAIL, "{len}");
        }
        assert_eq!(resolver.counters().cache_entries, 0, "{len}");
    }
}

#[test]
fn a_flood_of_distinct_names_is_bounded_and_others_are_served() {
    let mut resolver = resolver(ResolverConfig { max_pending: 100, cache_entries: 50, ..config() });
    let mut forwarded = 0;
    for index in 0..5000 {
        let reply = resolver.handle_message(&query(&format!("x{index}.example.com"), Rtype::A), Transport::Udp, index, at(0));
        forwarded += u32::from(reply == Reply::Forward);
    }
    assert_eq!((forwarded, resolver.counters().overloaded), (100, 4900));
    let own = answer(resolver.handle_message(&query("web.shop.svc.cluster.local", Rtype::A), Transport::Udp, 1, at(0)));
    assert_eq!(own.header_counts().ancount(), 1);
    while let Some(sent) = resolver.poll_transmit() {
        let name = message(sent.packet.clone()).sole_question().expect("one").qname().to_string();
        let says = [Says::Address(&name, 9, 60)];
        assert!(resolver.handle_response(sent.id, upstream(), &response(&sent.packet, Rcode::NOERROR, &says), at(1)));
    }
    assert_eq!(std::iter::from_fn(|| resolver.poll_reply()).count(), 100);
    assert_eq!((resolver.counters().cache_entries, resolver.poll_timeout()), (50, None));
}

#[test]
fn thousands_of_guesses_at_id_and_case_are_refused_and_counted() {
    let mut resolver = resolver(config());
    assert_eq!(resolver.handle_message(&query("example.com", Rtype::A), Transport::Udp, 1, at(0)), Reply::Forward);
    let sent = resolver.poll_transmit().expect("something for the upstream");
    let right = response(&sent.packet, Rcode::NOERROR, &[Says::Address("example.com", 66, 86_400)]);
    let mut refused = 0;
    for id in 0..=u16::MAX {
        let mut guess = right.clone();
        if guess[..2] != id.to_be_bytes() {
            guess[..2].copy_from_slice(&id.to_be_bytes());
            refused += u64::from(!resolver.handle_response(sent.id, upstream(), &guess, at(1)));
        }
    }
    assert_eq!((refused, resolver.counters().mismatched), (65_535, 65_535));
    assert!(resolver.poll_reply().is_none());
}

#[test]
fn the_case_of_the_question_is_random_and_a_wrong_one_leads_to_tcp() {
    let mut resolver = resolver(config());
    let name = "abcdefghijklmnopqrstuvwxyz.example.com";
    let mut seen = std::collections::BTreeSet::new();
    for round in 0..8 {
        // Nothing is kept of a failure.
        assert_eq!(resolver.handle_message(&query(name, Rtype::A), Transport::Udp, 1, at(round * 60_000)), Reply::Forward);
        let sent = resolver.poll_transmit().expect("something for the upstream");
        seen.insert(message(sent.packet).sole_question().expect("one").qname().to_string());
        while let Some(deadline) = resolver.poll_timeout() {
            resolver.handle_timeout(deadline);
            while resolver.poll_transmit().is_some() {}
        }
        while resolver.poll_reply().is_some() {}
    }
    assert_eq!(seen.len(), 8, "a case of its own each time: {seen:?}");
    assert!(seen.iter().all(|spelled| spelled.eq_ignore_ascii_case(name)));

    assert_eq!(resolver.handle_message(&query(name, Rtype::A), Transport::Udp, 1, at(900_000)), Reply::Forward);
    let sent = resolver.poll_transmit().expect("something for the upstream");
    let says = [Says::Address(name, 66, 60)];
    let small_letters = |mut packet: Vec<u8>| {
        packet[12..12 + name.len()].make_ascii_lowercase();
        packet
    };
    let forged = small_letters(response(&sent.packet, Rcode::NOERROR, &says));
    resolver.handle_response(sent.id, upstream(), &forged, at(900_001));
    assert!(resolver.poll_reply().is_none(), "it is not believed");
    assert_eq!(resolver.counters().wrong_case, 1);
    let again = resolver.poll_transmit().expect("the same upstream again");
    assert_eq!((again.upstream, again.transport), (upstream(), Transport::Tcp));
    // An upstream that always writes small letters is believed there.
    let honest = small_letters(response(&again.packet, Rcode::NOERROR, &[Says::Address(name, 9, 60)]));
    assert!(resolver.handle_response(again.id, upstream(), &honest, at(900_002)));
    let (_, reply) = resolver.poll_reply().expect("a reply");
    assert_eq!(records(&message(reply)), [format!("{name} 60 A 203.0.113.9")]);
}

#[test]
fn an_upstream_that_answers_with_an_endless_chain_of_aliases_is_cut_off() {
    let mut resolver = resolver(config());
    let ring = [Says::Alias("a.example.com", "b.example.com", 60), Says::Alias("b.example.com", "a.example.com", 60)];
    let (reply, _) = forwarded(&mut resolver, &query("a.example.com", Rtype::A), at(0), Rcode::NOERROR, &ring);
    assert!(reply.header_counts().ancount() <= 16);
}
