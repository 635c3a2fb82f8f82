//! The resolver by its packets: malformed ones, limits, and forwarding in virtual time.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use domain::base::iana::{Class, Opcode, Rcode, Rtype};
use domain::base::opt::AllOptData;
use domain::base::{Message, MessageBuilder, Name};
use domain::rdata::{A, AllRecordData};
use mesh_core::{ClusterName, Time};
use mesh_discovery::{Reply, Resolver, ResolverConfig, Transmit, Transport, Zone, ZoneConfig};
use proptest::prelude::*;

use crate::manifests::{Cluster, fleet};

fn zone() -> Arc<Zone> {
    let many: Vec<String> = (0..200).map(|host| format!("{{addresses: [10.1.1.{host}]}}")).collect();
    let east = Cluster::new()
        .service("web", "clusterIP: 10.96.0.1, ports: [{name: http, port: 80}]")
        .service("mail", "type: ExternalName, externalName: mail.example.com")
        .service("many", "clusterIP: None, ports: []")
        .endpoints("many", "", &many.join(", "))
        .export("web")
        .import("web", "100.80.0.1");
    Arc::new(Zone::build(&fleet(&[("east", &east)]), &ClusterName::new("east").expect("a name"), &ZoneConfig::default()))
}

fn first() -> SocketAddr {
    "192.0.2.1:53".parse().expect("an address")
}

fn second() -> SocketAddr {
    "192.0.2.2:53".parse().expect("an address")
}

fn resolver(upstreams: &[SocketAddr]) -> Resolver<&'static str> {
    let mut next = 100;
    let entropy = move || {
        next += 1;
        next
    };
    let config = ResolverConfig { upstreams: upstreams.to_vec(), max_pending: 2, ..ResolverConfig::default() };
    Resolver::new(config, zone(), Box::new(entropy))
}

fn query(name: &str, rtype: Rtype, edns: Option<u16>) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(7);
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    builder.push((Name::<Vec<u8>>::vec_from_str(name).expect("a name"), rtype)).expect("room");
    let mut builder = builder.additional();
    if let Some(size) = edns {
        builder
            .opt(|opt| {
                opt.set_udp_payload_size(size);
                Ok(())
            })
            .expect("room");
    }
    builder.finish()
}

fn answer(reply: Reply) -> Message<Vec<u8>> {
    let Reply::Answer(bytes) = reply else { panic!("{reply:?} is no answer") };
    Message::from_octets(bytes).expect("a message")
}

fn at(millis: u64) -> Time {
    Time::default() + Duration::from_millis(millis)
}

/// The answer of an upstream: one address, for whatever was asked.
fn upstream_answer(asked: &[u8], id: Option<u16>) -> Vec<u8> {
    let asked = Message::from_octets(asked).expect("a query");
    let mut builder = MessageBuilder::new_vec().start_answer(&asked, Rcode::NOERROR).expect("room");
    let name = asked.sole_question().expect("one question").into_qname();
    builder.push((name, Class::IN, 60, A::from_octets(203, 0, 113, 9))).expect("room");
    if let Some(id) = id {
        builder.header_mut().set_id(id);
    }
    builder.finish()
}

fn transmit(resolver: &mut Resolver<&'static str>) -> Transmit {
    resolver.poll_transmit().expect("something for an upstream")
}

#[test]
fn the_question_is_echoed_in_its_case_and_the_answer_is_authoritative() {
    let reply = resolver(&[]).handle_message(&query("wEb.Shop.svc.ClusterSet.Local", Rtype::A, None), Transport::Udp, "a", at(0));
    let message = answer(reply);
    assert!(message.header().aa() && message.header().rd() && !message.header().ra());
    assert_eq!(message.header().id(), 7);
    assert_eq!(message.sole_question().expect("one").qname().to_string(), "wEb.Shop.svc.ClusterSet.Local");
    assert!(message.opt().is_none(), "no OPT record for a client that sent none");
    let ttl = message.answer().expect("a section").next().expect("a record").expect("correct").ttl();
    assert_eq!(ttl.as_secs(), 5);
}

#[test]
fn the_authority_of_a_negative_answer_is_the_zone() {
    let reply = resolver(&[]).handle_message(&query("ghost.shop.svc.cluster.local", Rtype::A, None), Transport::Udp, "a", at(0));
    let message = answer(reply);
    assert_eq!(message.header().rcode(), Rcode::NXDOMAIN);
    let soa = message.authority().expect("a section").next().expect("a record").expect("correct");
    assert_eq!((soa.owner().to_string().as_str(), soa.rtype(), soa.ttl().as_secs()), ("cluster.local", Rtype::SOA, 5));
}

#[test]
fn bad_packets_get_the_right_code_or_nothing() {
    let mut resolver = resolver(&[]);
    let mut code = |packet: &[u8]| match resolver.handle_message(packet, Transport::Udp, "a", at(0)) {
        Reply::Answer(bytes) => Some(Message::from_octets(bytes).expect("a message").header().rcode()),
        Reply::Forward => panic!("nothing is forwarded"),
        Reply::Drop => None,
    };
    let good = query("web.shop.svc.cluster.local", Rtype::A, None);
    let with = |edit: &dyn Fn(&mut Vec<u8>)| {
        let mut packet = good.clone();
        edit(&mut packet);
        packet
    };
    assert_eq!(code(&good), Some(Rcode::NOERROR));
    assert_eq!(code(&good[..11]), None, "too short for a header");
    assert_eq!(code(&with(&|p| p[2] |= 0x80)), None, "an answer is not answered");
    assert_eq!(code(&good[..20]), Some(Rcode::FORMERR));
    assert_eq!(code(&with(&|p| p[5] = 0)), Some(Rcode::FORMERR), "no question");
    assert_eq!(code(&with(&|p| p[5] = 2)), Some(Rcode::FORMERR), "two questions");
    assert_eq!(code(&with(&|p| p[2] |= Opcode::NOTIFY.to_int() << 3)), Some(Rcode::NOTIMP));
    assert_eq!(code(&with(&|p| *p.last_mut().expect("class") = 3)), Some(Rcode::REFUSED), "class CH");
    assert_eq!(code(&query("cluster.local", Rtype::AXFR, None)), Some(Rcode::REFUSED));
    assert_eq!(code(&query("example.com", Rtype::A, None)), Some(Rcode::REFUSED), "no upstream");
    assert_eq!(resolver.counters().malformed, 6);
}

#[test]
fn edns_of_a_newer_version_and_two_opt_records_are_refused() {
    let mut resolver = resolver(&[]);
    let mut packet = query("web.shop.svc.cluster.local", Rtype::A, Some(1232));
    let version = packet.len() - 5;
    packet[version] = 1;
    let message = answer(resolver.handle_message(&packet, Transport::Udp, "a", at(0)));
    let opt = message.opt().expect("an OPT record");
    assert_eq!(opt.rcode(message.header()).to_int(), 16, "BADVERS");
    assert_eq!(opt.opt().iter::<AllOptData<_, _>>().count(), 0);
    packet[version] = 0;
    let opt = packet[packet.len() - 11..].to_vec();
    packet.extend(opt);
    packet[11] = 2;
    assert_eq!(answer(resolver.handle_message(&packet, Transport::Udp, "a", at(0))).header().rcode(), Rcode::FORMERR);
}

#[test]
fn what_does_not_fit_is_truncated_and_comes_whole_over_tcp() {
    let mut resolver = resolver(&[]);
    let name = "many.shop.svc.cluster.local";
    for (edns, limit) in [(None, 512), (Some(100), 512), (Some(1000), 1000), (Some(65_000), 1232)] {
        let message = answer(resolver.handle_message(&query(name, Rtype::A, edns), Transport::Udp, "a", at(0)));
        assert!(message.header().tc() && message.as_slice().len() <= limit, "{edns:?}: {}", message.as_slice().len());
        // As many as fit are there: old clients never ask again over TCP.
        let room = limit - 12 - (name.len() + 2 + 4) - if edns.is_some() { 11 } else { 0 };
        assert_eq!((usize::from(message.header_counts().ancount()), message.opt().is_some()), (room / 16, edns.is_some()));
    }
    assert_eq!(resolver.counters().truncated, 4);
    let message = answer(resolver.handle_message(&query(name, Rtype::A, None), Transport::Tcp, "a", at(0)));
    assert!(!message.header().tc());
    assert_eq!(message.header_counts().ancount(), 200);
}

#[test]
fn a_name_outside_goes_to_the_upstream_and_its_answer_back_in_the_clients_case() {
    let mut resolver = resolver(&[first()]);
    let reply = resolver.handle_message(&query("ExAmple.com", Rtype::A, None), Transport::Udp, "alice", at(0));
    assert_eq!(reply, Reply::Forward);
    let sent = transmit(&mut resolver);
    assert_eq!((sent.upstream, sent.transport), (first(), Transport::Udp));
    let asked = Message::from_octets(sent.packet.clone()).expect("a query");
    assert_eq!(asked.header().id(), 101, "an id of the resolver's own, not the client's");
    let response = upstream_answer(&sent.packet, None);
    assert!(resolver.handle_response(sent.id, first(), &response, at(5)));
    let (client, bytes) = resolver.poll_reply().expect("a reply");
    let message = Message::from_octets(bytes).expect("a message");
    assert_eq!((client, message.header().id()), ("alice", 7));
    assert_eq!(message.sole_question().expect("one").qname().to_string(), "ExAmple.com");
    assert_eq!(message.header_counts().ancount(), 1);
    assert_eq!((resolver.poll_timeout(), resolver.counters().forwarded), (None, 1));
}

#[test]
fn a_lie_about_id_question_or_sender_is_not_believed() {
    let mut resolver = resolver(&[first()]);
    assert_eq!(resolver.handle_message(&query("example.com", Rtype::A, None), Transport::Udp, "a", at(0)), Reply::Forward);
    let sent = transmit(&mut resolver);
    let other = query("example.org", Rtype::A, None);
    assert!(!resolver.handle_response(sent.id, first(), &upstream_answer(&sent.packet, Some(9)), at(1)));
    assert!(!resolver.handle_response(sent.id, second(), &upstream_answer(&sent.packet, None), at(1)));
    assert!(!resolver.handle_response(sent.id, first(), &upstream_answer(&other, Some(101)), at(1)));
    assert!(!resolver.handle_response(sent.id, first(), &sent.packet, at(1)), "a question is no answer");
    assert!(!resolver.handle_response(sent.id, first(), b"x", at(1)));
    assert!(resolver.poll_reply().is_none());
    assert_eq!(resolver.counters().mismatched, 5);
    assert!(resolver.handle_response(sent.id, first(), &upstream_answer(&sent.packet, None), at(2)));
    assert!(resolver.poll_reply().is_some());
}

#[test]
fn a_silent_upstream_gives_way_to_the_next_and_the_query_fails_in_the_end() {
    let mut resolver = resolver(&[first(), second()]);
    assert_eq!(resolver.handle_message(&query("example.com", Rtype::A, None), Transport::Udp, "a", at(0)), Reply::Forward);
    let mut asked = Vec::new();
    while let Some(deadline) = resolver.poll_timeout() {
        asked.push(transmit(&mut resolver));
        resolver.handle_timeout(deadline);
    }
    assert_eq!(asked.iter().map(|sent| sent.upstream).collect::<Vec<_>>(), [first(), second(), first(), second()]);
    let (_, bytes) = resolver.poll_reply().expect("a reply");
    assert_eq!(Message::from_octets(bytes).expect("a message").header().rcode(), Rcode::SERVFAIL);
    // The first one answers after all, too late and for an attempt that is over.
    assert!(!resolver.handle_response(asked[0].id, first(), &upstream_answer(&asked[0].packet, None), at(60_000)));
}

#[test]
fn a_refusing_or_unreachable_upstream_gives_way_at_once() {
    let mut resolver = resolver(&[first(), second()]);
    assert_eq!(resolver.handle_message(&query("example.com", Rtype::A, None), Transport::Udp, "a", at(0)), Reply::Forward);
    let sent = transmit(&mut resolver);
    let mut refusal = upstream_answer(&sent.packet, None);
    refusal[3] = Rcode::REFUSED.to_int();
    assert!(resolver.handle_response(sent.id, first(), &refusal, at(1)));
    let sent = transmit(&mut resolver);
    assert_eq!(sent.upstream, second());
    resolver.handle_failure(sent.id, at(2));
    assert_eq!(transmit(&mut resolver).upstream, first());
}

#[test]
fn a_truncated_upstream_is_asked_again_over_tcp_for_a_client_on_tcp() {
    let mut resolver = resolver(&[first()]);
    let ask = query("example.com", Rtype::A, None);
    assert_eq!(resolver.handle_message(&ask, Transport::Tcp, "tcp", at(0)), Reply::Forward);
    let sent = transmit(&mut resolver);
    let mut cut = upstream_answer(&sent.packet, None);
    cut[2] |= 0x02;
    assert!(resolver.handle_response(sent.id, first(), &cut, at(1)));
    let again = transmit(&mut resolver);
    assert_eq!((again.transport, again.upstream), (Transport::Tcp, first()));
    assert!(resolver.handle_response(again.id, first(), &upstream_answer(&again.packet, None), at(2)));
    assert!(!Message::from_octets(resolver.poll_reply().expect("a reply").1).expect("a message").header().tc());
}

#[test]
fn an_alias_to_outside_is_completed_by_the_upstream() {
    let mut resolver = resolver(&[first()]);
    let reply = resolver.handle_message(&query("mail.shop.svc.cluster.local", Rtype::A, None), Transport::Udp, "a", at(0));
    assert_eq!(reply, Reply::Forward);
    let sent = transmit(&mut resolver);
    let asked = Message::from_octets(sent.packet.clone()).expect("a query").sole_question().expect("one").qname().to_string();
    assert_eq!(asked.to_ascii_lowercase(), "mail.example.com");
    assert!(resolver.handle_response(sent.id, first(), &upstream_answer(&sent.packet, None), at(1)));
    let message = Message::from_octets(resolver.poll_reply().expect("a reply").1).expect("a message");
    let records: Vec<_> =
        message.answer().expect("a section").limit_to::<AllRecordData<_, _>>().map(|r| r.expect("correct")).collect();
    let texts: Vec<_> = records.iter().map(|r| format!("{} {}", r.owner(), r.rtype())).collect();
    assert_eq!(texts, ["mail.shop.svc.cluster.local CNAME", "mail.example.com A"]);
}

#[test]
fn too_many_waiting_queries_fail_at_once() {
    let mut resolver = resolver(&[first()]);
    let ask = query("example.com", Rtype::A, None);
    for _ in 0..2 {
        assert_eq!(resolver.handle_message(&ask, Transport::Udp, "a", at(0)), Reply::Forward);
    }
    assert_eq!(answer(resolver.handle_message(&ask, Transport::Udp, "a", at(0))).header().rcode(), Rcode::SERVFAIL);
}

#[test]
fn addresses_begin_at_another_one_for_another_id() {
    let mut resolver = resolver(&[]);
    let mut first_of = |id: u8| {
        let mut packet = query("many.shop.svc.cluster.local", Rtype::A, None);
        packet[1] = id;
        let message = answer(resolver.handle_message(&packet, Transport::Tcp, "a", at(0)));
        message.answer().expect("a section").limit_to::<A>().next().expect("a record").expect("correct").data().addr()
    };
    assert_ne!(first_of(1), first_of(2));
}

proptest! {
    #[test]
    fn no_bytes_panic_and_no_answer_is_answered(mut packet in prop::collection::vec(any::<u8>(), 0..120), plausible in any::<bool>(), tcp in any::<bool>()) {
        if plausible && packet.len() > 12 {
            // One question of a query, the rest as it comes.
            packet[2..12].copy_from_slice(&[1, 0, 0, 1, 0, 0, 0, 0, 0, 1]);
        }
        let mut resolver = resolver(&[first()]);
        let transport = if tcp { Transport::Tcp } else { Transport::Udp };
        let reply = resolver.handle_message(&packet, transport, "a", at(0));
        if packet.len() < 12 || packet[2] & 0x80 != 0 {
            prop_assert_eq!(&reply, &Reply::Drop);
        }
        if let Reply::Answer(bytes) = &reply {
            prop_assert_eq!(&bytes[..2], &packet[..2]);
            let limit = if tcp { 65_535 } else { 1232 };
            prop_assert!(bytes[2] & 0x80 != 0 && bytes.len() <= limit);
        }
    }

    #[test]
    fn no_edit_of_a_query_or_of_an_answer_panics(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6), cut in any::<prop::sample::Index>()) {
        let damage = |packet: &mut Vec<u8>, from: usize| {
            for (index, byte) in &edits {
                let place = from + index.index(packet.len() - from);
                packet[place] = *byte;
            }
            let len = from + cut.index(packet.len() - from) + 1;
            if edits.len() > 3 { packet.truncate(len); }
        };
        for name in ["web.shop.svc.cluster.local", "mail.shop.svc.cluster.local", "example.com"] {
            let mut resolver = resolver(&[first()]);
            let mut packet = query(name, Rtype::A, Some(1232));
            let whole = packet.clone();
            damage(&mut packet, 0);
            let _ = resolver.handle_message(&packet, Transport::Udp, "a", at(0));
            if let Reply::Forward = resolver.handle_message(&whole, Transport::Udp, "b", at(0)) {
                while let Some(sent) = resolver.poll_transmit() {
                    let mut response = upstream_answer(&sent.packet, None);
                    // The id stays right, so that the rest is looked at.
                    damage(&mut response, 2);
                    let _ = resolver.handle_response(sent.id, first(), &response, at(1));
                    if sent.transport == Transport::Tcp { break; }
                    while resolver.poll_reply().is_some() {}
                }
            }
        }
    }
}
