//! Messages and upstreams in short, for the stories.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use domain::base::iana::{Class, Rcode, Rtype};
use domain::base::{Message, MessageBuilder, Name, ParsedName, Ttl};
use domain::rdata::{A, AllRecordData, Cname, Soa};
use mesh_core::{ClusterName, Time};
use mesh_discovery::{Reply, Resolver, ResolverConfig, Transmit, Transport, Zone, ZoneConfig};

use crate::manifests::{Cluster, fleet};

pub(crate) type Named = Name<Vec<u8>>;

/// A zone with a service of every kind, made once: it takes longer than asking it.
pub(crate) fn zone() -> Arc<Zone> {
    static ZONE: OnceLock<Arc<Zone>> = OnceLock::new();
    ZONE.get_or_init(build_zone).clone()
}

fn build_zone() -> Arc<Zone> {
    let many: Vec<String> = (0..200).map(|host| format!("{{addresses: [10.1.1.{host}]}}")).collect();
    let few = "{addresses: [10.1.2.1], hostname: zero}, {addresses: [10.1.2.2]}, {addresses: [10.1.2.3]}";
    let east = Cluster::new()
        .service("web", "clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1, 'fd00::1'], ports: [{name: http, port: 80}]")
        .service("mail", "type: ExternalName, externalName: mail.example.com")
        .service("alias", "type: ExternalName, externalName: web.shop.svc.cluster.local")
        .service("many", "clusterIP: None, ports: [{name: sql, port: 5432}]")
        .endpoints("many", "{name: sql, port: 5432}", &many.join(", "))
        .service("few", "clusterIP: None, ports: [{name: sql, port: 5432}]")
        .endpoints("few", "{name: sql, port: 5432}", few)
        .export("web")
        .import("web", "100.80.0.1");
    Arc::new(Zone::build(&fleet(&[("east", &east)]), &ClusterName::new("east").expect("a name"), &ZoneConfig::default()))
}

pub(crate) fn upstream() -> SocketAddr {
    "192.0.2.1:53".parse().expect("an address")
}

pub(crate) fn resolver(config: ResolverConfig) -> Resolver<u32> {
    let mut seed = 100_u64;
    let entropy = move || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 48) as u16
    };
    Resolver::new(config, zone(), Box::new(entropy))
}

pub(crate) fn config() -> ResolverConfig {
    ResolverConfig { upstreams: vec![upstream()], ..ResolverConfig::default() }
}

pub(crate) fn named(name: &str) -> Named {
    Name::vec_from_str(name).expect("a name")
}

pub(crate) fn query(name: &str, rtype: Rtype) -> Vec<u8> {
    query_with(name, rtype, None)
}

/// A query with an OPT record: its size, and whether it has DO.
pub(crate) fn query_with(name: &str, rtype: Rtype, edns: Option<(u16, bool)>) -> Vec<u8> {
    let mut builder = MessageBuilder::new_vec();
    builder.header_mut().set_id(7);
    builder.header_mut().set_rd(true);
    let mut builder = builder.question();
    builder.push((named(name), rtype)).expect("room");
    let mut builder = builder.additional();
    if let Some((size, dnssec_ok)) = edns {
        builder
            .opt(|opt| {
                opt.set_udp_payload_size(size);
                opt.set_dnssec_ok(dnssec_ok);
                Ok(())
            })
            .expect("room");
    }
    builder.finish()
}

pub(crate) fn at(millis: u64) -> Time {
    Time::default() + Duration::from_millis(millis)
}

pub(crate) fn message(bytes: Vec<u8>) -> Message<Vec<u8>> {
    Message::from_octets(bytes).expect("a message")
}

pub(crate) fn answer(reply: Reply) -> Message<Vec<u8>> {
    let Reply::Answer(bytes) = reply else { panic!("{reply:?} is no answer") };
    message(bytes)
}

/// What an upstream says.
pub(crate) enum Says<'a> {
    Address(&'a str, u8, u32),
    Alias(&'a str, &'a str, u32),
    /// In the authority section: owner, TTL, minimum.
    Soa(&'a str, u32, u32),
}

/// The response to what was asked, with an OPT record as most servers add one.
pub(crate) fn response(asked: &[u8], rcode: Rcode, says: &[Says<'_>]) -> Vec<u8> {
    let asked = message(asked.to_vec());
    let mut builder = MessageBuilder::new_vec().start_answer(&asked, rcode).expect("room");
    for record in says {
        match record {
            Says::Address(owner, last, ttl) => {
                builder.push((named(owner), Class::IN, *ttl, A::from_octets(203, 0, 113, *last))).expect("room");
            }
            Says::Alias(owner, target, ttl) => {
                builder.push((named(owner), Class::IN, *ttl, Cname::new(named(target)))).expect("room");
            }
            Says::Soa(..) => {}
        }
    }
    let mut builder = builder.authority();
    for record in says {
        if let Says::Soa(owner, ttl, minimum) = record {
            let (owner, times) = (named(owner), Ttl::from_secs(60));
            let soa = Soa::new(owner.clone(), owner.clone(), 1.into(), times, times, times, Ttl::from_secs(*minimum));
            builder.push((owner, Class::IN, *ttl, soa)).expect("room");
        }
    }
    let mut builder = builder.additional();
    builder
        .opt(|opt| {
            opt.set_udp_payload_size(1400);
            Ok(())
        })
        .expect("room");
    builder.finish()
}

/// Asks, lets the upstream say something at once, and returns the reply and what was sent to the upstream.
pub(crate) fn forwarded(
    resolver: &mut Resolver<u32>,
    packet: &[u8],
    now: Time,
    rcode: Rcode,
    says: &[Says<'_>],
) -> (Message<Vec<u8>>, Transmit) {
    assert_eq!(resolver.handle_message(packet, Transport::Udp, 1, now), Reply::Forward);
    let sent = resolver.poll_transmit().expect("something for the upstream");
    assert!(resolver.handle_response(sent.id, upstream(), &response(&sent.packet, rcode, says), now));
    (message(resolver.poll_reply().expect("a reply").1), sent)
}

/// The records of the answer section as text: owner, TTL, type and data.
pub(crate) fn records(message: &Message<Vec<u8>>) -> Vec<String> {
    let records = message.answer().expect("a section").limit_to::<AllRecordData<_, ParsedName<_>>>();
    let texts = records.map(|record| {
        let record = record.expect("correct");
        let text = format!("{} {} {} {}", record.owner(), record.ttl().as_secs(), record.rtype(), record.data());
        text.trim_end_matches('.').to_owned()
    });
    texts.collect()
}
