//! What the upstreams said is kept as long as it holds, for those who ask the same, and nothing else of it.

use domain::base::iana::{Rcode, Rtype};
use mesh_discovery::{Reply, ResolverConfig, Transport};

use crate::packets::{Says, answer, at, config, forwarded, message, query, query_with, records, resolver, response, upstream};

#[test]
fn an_answer_is_kept_and_its_ttl_counts_down_to_its_end() {
    let mut resolver = resolver(config());
    let ask = query("example.com", Rtype::A);
    let (reply, _) = forwarded(&mut resolver, &ask, at(0), Rcode::NOERROR, &[Says::Address("example.com", 9, 60)]);
    assert_eq!(records(&reply), ["example.com 60 A 203.0.113.9"]);
    // Another client, another case, over TCP.
    let other = query("ExAmple.COM", Rtype::A);
    let reply = answer(resolver.handle_message(&other, Transport::Tcp, 2, at(42_500)));
    assert_eq!(records(&reply), ["ExAmple.COM 18 A 203.0.113.9"]);
    assert!(reply.header().qr() && reply.header().ra() && !reply.header().aa());
    assert_eq!(records(&answer(resolver.handle_message(&ask, Transport::Udp, 2, at(59_999)))), ["example.com 1 A 203.0.113.9"]);
    assert_eq!(resolver.handle_message(&ask, Transport::Udp, 2, at(60_000)), Reply::Forward, "nothing stale");
    let counters = resolver.counters();
    assert_eq!((counters.cache_hits, counters.cache_misses, counters.forwarded), (2, 2, 2));
}

#[test]
fn a_negative_answer_holds_for_the_smaller_of_ttl_and_minimum() {
    for (rcode, ttl, minimum, holds) in [(Rcode::NXDOMAIN, 600, 30, 30), (Rcode::NOERROR, 20, 600, 20)] {
        let mut resolver = resolver(config());
        let ask = query("ghost.example.com", Rtype::A);
        let (reply, _) = forwarded(&mut resolver, &ask, at(0), rcode, &[Says::Soa("example.com", ttl, minimum)]);
        let soa = |message: &domain::base::Message<Vec<u8>>| {
            message.authority().expect("a section").next().expect("an SOA record").expect("correct").ttl().as_secs()
        };
        assert_eq!((reply.header().rcode(), soa(&reply)), (rcode, holds));
        let reply = answer(resolver.handle_message(&ask, Transport::Udp, 2, at(u64::from(holds) * 1000 - 1)));
        assert_eq!((reply.header().rcode(), soa(&reply)), (rcode, 1));
        assert_eq!(resolver.handle_message(&ask, Transport::Udp, 2, at(u64::from(holds) * 1000)), Reply::Forward);
    }
}

#[test]
fn what_has_no_ttl_or_no_soa_or_is_a_failure_is_not_kept() {
    let (failed, fine) = (Rcode::SERVFAIL, Rcode::NOERROR);
    let cases: [(Rcode, &[Says<'_>]); 5] = [
        (fine, &[Says::Address("example.com", 9, 0)]),
        // The highest bit of a TTL means zero (RFC 2181 §8).
        (fine, &[Says::Address("example.com", 9, 0x8000_0000)]),
        (Rcode::NXDOMAIN, &[]),
        // The SOA record of another zone says nothing.
        (Rcode::NXDOMAIN, &[Says::Soa("example.org", 60, 60)]),
        (failed, &[Says::Address("example.com", 9, 60)]),
    ];
    for (rcode, says) in cases {
        let mut resolver = resolver(ResolverConfig { rounds: 1, ..config() });
        let ask = query("example.com", Rtype::A);
        let (reply, _) = forwarded(&mut resolver, &ask, at(0), rcode, says);
        assert_eq!(reply.header().rcode(), rcode);
        assert_eq!(resolver.handle_message(&ask, Transport::Udp, 2, at(1)), Reply::Forward, "{rcode}");
        assert_eq!(resolver.counters().cache_entries, 0);
    }
}

#[test]
fn only_records_that_answer_the_question_are_kept_and_passed_on() {
    let mut resolver = resolver(config());
    let says = [
        Says::Alias("www.example.com", "cdn.example.net", 300),
        Says::Address("bank.example.org", 66, 86_400),
        Says::Address("cdn.example.net", 9, 60),
        Says::Address("web.shop.svc.cluster.local", 66, 86_400),
        Says::Soa("example.org", 60, 60),
    ];
    let (reply, _) = forwarded(&mut resolver, &query("www.example.com", Rtype::A), at(0), Rcode::NOERROR, &says);
    let expected = ["www.example.com 300 CNAME cdn.example.net", "cdn.example.net 60 A 203.0.113.9"];
    assert_eq!(records(&reply), expected);
    assert_eq!(reply.header_counts().nscount(), 0);
    let again = answer(resolver.handle_message(&query("www.example.com", Rtype::A), Transport::Udp, 2, at(59_000)));
    assert_eq!(records(&again), ["www.example.com 241 CNAME cdn.example.net", "cdn.example.net 1 A 203.0.113.9"]);
    // The others are asked for as if nothing had been said.
    for name in ["bank.example.org", "cdn.example.net"] {
        assert_eq!(resolver.handle_message(&query(name, Rtype::A), Transport::Udp, 2, at(1)), Reply::Forward, "{name}");
    }
    let own = answer(resolver.handle_message(&query("web.shop.svc.cluster.local", Rtype::A), Transport::Udp, 2, at(1)));
    assert_eq!(records(&own), ["web.shop.svc.cluster.local 5 A 10.96.0.1"]);
}

#[test]
fn the_same_question_is_asked_once_for_all_who_wait() {
    let mut resolver = resolver(config());
    let ask = query("example.com", Rtype::A);
    for client in 0..10_u8 {
        let mut packet = query(if client % 2 == 0 { "example.com" } else { "EXAMPLE.com" }, Rtype::A);
        packet[1] = client;
        assert_eq!(resolver.handle_message(&packet, Transport::Udp, client.into(), at(0)), Reply::Forward);
    }
    // Another type, and another wish for proofs, are other questions.
    assert_eq!(resolver.handle_message(&query("example.com", Rtype::AAAA), Transport::Udp, 90, at(0)), Reply::Forward);
    let dnssec = query_with("example.com", Rtype::A, Some((1232, true)));
    assert_eq!(resolver.handle_message(&dnssec, Transport::Udp, 91, at(0)), Reply::Forward);
    let sent: Vec<_> = std::iter::from_fn(|| resolver.poll_transmit()).collect();
    assert_eq!((sent.len(), resolver.counters().coalesced), (3, 9));
    let says = [Says::Address("example.com", 9, 60)];
    assert!(resolver.handle_response(sent[0].id, upstream(), &response(&sent[0].packet, Rcode::NOERROR, &says), at(1)));
    for client in 0..10_u8 {
        let (to, bytes) = resolver.poll_reply().expect("a reply for each");
        let reply = message(bytes);
        assert_eq!((to, reply.header().id()), (client.into(), client.into()));
        let case = if client % 2 == 0 { "example.com" } else { "EXAMPLE.com" };
        assert_eq!(reply.sole_question().expect("one").qname().to_string(), case);
    }
    assert!(resolver.poll_reply().is_none());
    assert!(matches!(resolver.handle_message(&ask, Transport::Udp, 3, at(2)), Reply::Answer(_)));
}

#[test]
fn a_reply_has_an_opt_record_when_the_client_sent_one_and_fits_its_limit() {
    let mut resolver = resolver(config());
    let many: Vec<Says<'_>> = (0..60).map(|last| Says::Address("example.com", last, 60)).collect();
    let plain = query("example.com", Rtype::A);
    let (reply, sent) = forwarded(&mut resolver, &plain, at(0), Rcode::NOERROR, &many);
    assert!(message(sent.packet).opt().is_some(), "the upstream may say more than 512 bytes");
    assert!(reply.header().tc() && reply.as_slice().len() <= 512 && reply.opt().is_none());
    let edns = query_with("example.com", Rtype::A, Some((1232, false)));
    let reply = answer(resolver.handle_message(&edns, Transport::Udp, 1, at(0)));
    assert_eq!((reply.header_counts().ancount(), reply.header().tc(), reply.opt().is_some()), (60, false, true));
    let reply = answer(resolver.handle_message(&plain, Transport::Tcp, 1, at(0)));
    assert_eq!((reply.header_counts().ancount(), reply.opt().is_some()), (60, false));
}

#[test]
fn a_wish_for_proofs_has_an_entry_of_its_own() {
    let mut resolver = resolver(config());
    forwarded(&mut resolver, &query("example.com", Rtype::A), at(0), Rcode::NOERROR, &[Says::Address("example.com", 9, 60)]);
    let dnssec = query_with("example.com", Rtype::A, Some((1232, true)));
    assert_eq!(resolver.handle_message(&dnssec, Transport::Udp, 1, at(0)), Reply::Forward);
    let sent = resolver.poll_transmit().expect("something for the upstream");
    assert!(message(sent.packet).opt().expect("an OPT record").dnssec_ok());
}

#[test]
fn an_old_upstream_is_asked_again_without_edns() {
    let mut resolver = resolver(config());
    assert_eq!(resolver.handle_message(&query("example.com", Rtype::A), Transport::Udp, 1, at(0)), Reply::Forward);
    let sent = resolver.poll_transmit().expect("something for the upstream");
    assert!(resolver.handle_response(sent.id, upstream(), &response(&sent.packet, Rcode::FORMERR, &[]), at(1)));
    let again = resolver.poll_transmit().expect("the same upstream again");
    assert_eq!(again.upstream, upstream());
    assert!(message(again.packet.clone()).opt().is_none());
    let says = [Says::Address("example.com", 9, 60)];
    assert!(resolver.handle_response(again.id, upstream(), &response(&again.packet, Rcode::NOERROR, &says), at(2)));
    assert_eq!(records(&message(resolver.poll_reply().expect("a reply").1)).len(), 1);
}

#[test]
fn the_cache_is_bounded_in_entries_and_bytes_and_the_unused_leave_first() {
    let mut small = resolver(ResolverConfig { cache_entries: 3, ..config() });
    let name = |index: u32| format!("host-{index}.example.com");
    for index in 0..5 {
        let own = name(index);
        forwarded(&mut small, &query(&own, Rtype::A), at(0), Rcode::NOERROR, &[Says::Address(&own, 9, 60)]);
        // The first one stays of use.
        assert!(matches!(small.handle_message(&query(&name(0), Rtype::A), Transport::Udp, 1, at(1)), Reply::Answer(_)));
    }
    let counters = small.counters();
    assert_eq!((counters.cache_entries, counters.cache_evicted), (3, 2));
    assert_eq!(small.handle_message(&query(&name(1), Rtype::A), Transport::Udp, 1, at(1)), Reply::Forward);

    let limit = 4096;
    let mut small = resolver(ResolverConfig { cache_bytes: limit, ..config() });
    for index in 0..100 {
        let own = name(index);
        forwarded(&mut small, &query(&own, Rtype::A), at(0), Rcode::NOERROR, &[Says::Address(&own, 9, 60)]);
        assert!(small.counters().cache_bytes <= limit as u64);
    }
    assert!(small.counters().cache_entries > 3);

    let mut off = resolver(ResolverConfig { cache_entries: 0, ..config() });
    forwarded(&mut off, &query("example.com", Rtype::A), at(0), Rcode::NOERROR, &[Says::Address("example.com", 9, 60)]);
    assert_eq!(off.handle_message(&query("example.com", Rtype::A), Transport::Udp, 1, at(1)), Reply::Forward);
}
