//! Bytes as queries of clients and answers of upstreams: what comes back is a message within its limits, the answer in place is
//! the codec's, and nothing takes more memory than it may.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use domain::base::iana::Rtype;
use domain::base::{Message, ParsedName};
use domain::rdata::AllRecordData;
use mesh_core::manifest::Checked;
use mesh_core::{ClusterName, Time};
use mesh_discovery::{Handled, Reply, Resolver, ResolverConfig, Responder, Transmit, Transport, Zone, ZoneConfig};

const MANIFESTS: &str = include_str!("dns/east.yaml");

/// Names that are worth asking for: each kind that the zone has, and what it does not have.
const NAMES: [&str; 12] = [
    "web.shop.svc.cluster.local",
    "web.shop.svc.clusterset.local",
    "mail.shop.svc.cluster.local",
    "alias.shop.svc.cluster.local",
    "db.shop.svc.cluster.local",
    "zero.db.shop.svc.cluster.local",
    "_sql._tcp.db.shop.svc.cluster.local",
    "dns-version.clusterset.local",
    "1.0.96.10.in-addr.arpa",
    "ghost.svc.cluster.local",
    "a.example.com",
    "mail.example.com",
];

const LIMITS: (usize, usize, usize) = (8, 16, 16 << 10);

/// What is left of an input, taken from the front.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    /// As many bytes as the next one says, or as there are.
    fn bytes(&mut self) -> Option<&'a [u8]> {
        let len = usize::from(self.byte()?) * 2;
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        Some(bytes)
    }
}

struct Case {
    resolver: Resolver<usize>,
    responder: Responder,
    upstreams: Vec<SocketAddr>,
    /// What the upstreams were sent and may answer.
    sent: Vec<Transmit>,
    /// The queries that wait, with how they came.
    clients: Vec<(Vec<u8>, Transport)>,
    replied: usize,
    now: Time,
}

/// Runs one input: a byte of settings, then steps.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let Some(settings) = input.byte() else { return };
    let mut case = Case::new(settings);
    while let Some(step) = input.byte() {
        let transport = if step & 0x80 == 0 { Transport::Udp } else { Transport::Tcp };
        let taken = match step % 7 {
            0 => input.bytes().map(|packet| case.ask(packet, transport)),
            1 | 2 => case.ask_for_a_name(&mut input, transport),
            3 => input.bytes().map(|packet| case.respond(packet)),
            4 | 5 => input.bytes().map(|rest| case.respond_plausibly(rest)),
            _ => input.byte().map(|time| case.wait(time)),
        };
        if taken.is_none() {
            break;
        }
        case.settle();
    }
    case.end();
}

impl Case {
    fn new(settings: u8) -> Case {
        static ZONE: OnceLock<Arc<Zone>> = OnceLock::new();
        let zone = ZONE.get_or_init(|| {
            let checked = Checked::load([("clusters/east/all.yaml", MANIFESTS)]).expect("correct manifests");
            Arc::new(Zone::build(&checked.state, &ClusterName::new("east").expect("a name"), &ZoneConfig::default()))
        });
        let upstreams: Vec<SocketAddr> = (0..settings % 3).map(|last| ([192, 0, 2, last], 53).into()).collect();
        let (max_pending, cache_entries, cache_bytes) = LIMITS;
        let config = ResolverConfig {
            upstreams: upstreams.clone(),
            max_pending,
            cache_entries,
            cache_bytes,
            randomize_case: settings & 4 == 0,
            ..ResolverConfig::default()
        };
        let mut number = u16::from(settings);
        let entropy = move || {
            number = number.wrapping_mul(25_173).wrapping_add(13_849);
            number
        };
        let mut resolver = Resolver::new(config, zone.clone(), Box::new(entropy));
        let responder = resolver.responder();
        Case { resolver, responder, upstreams, sent: Vec::new(), clients: Vec::new(), replied: 0, now: Time::ZERO }
    }

    fn ask_for_a_name(&mut self, input: &mut Input<'_>, transport: Transport) -> Option<()> {
        let (name, rtype, edits) = (input.byte()?, input.byte()?, input.bytes()?);
        let mut packet = vec![name, rtype, 1, 0, 0, 1, 0, 0, 0, 0, 0, 1];
        for label in NAMES[usize::from(name) % NAMES.len()].split('.') {
            packet.push(label.len() as u8);
            packet.extend(label.as_bytes());
        }
        packet.extend([0, 0, rtype, 0, 1, 0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0]);
        for edit in edits.chunks_exact(2) {
            let place = usize::from(edit[0]) % packet.len();
            packet[place] = edit[1];
        }
        self.ask(&packet, transport);
        Some(())
    }

    fn ask(&mut self, packet: &[u8], transport: Transport) {
        let (mut quick, mut codec) = (Vec::new(), Vec::new());
        let responder = &self.responder;
        let handled = responder.answer(packet, transport, &mut quick);
        assert_eq!(handled, responder.answer_by_codec(packet, transport, &mut codec));
        if handled == Handled::Answer && quick != codec {
            assert_eq!(said(&quick), said(&codec));
        }
        let number = self.clients.len();
        self.clients.push((packet.to_vec(), transport));
        match self.resolver.handle_message(packet, transport, number, self.now) {
            Reply::Answer(reply) => {
                self.replied += 1;
                if handled == Handled::Answer {
                    assert_eq!(reply, codec);
                }
                check(packet, transport, &reply);
            }
            Reply::Forward => assert_eq!(handled, Handled::Forward),
            Reply::Drop => {
                self.replied += 1;
                assert_eq!(handled, Handled::Drop);
            }
        }
    }

    /// An upstream's packet that is the input's alone.
    fn respond(&mut self, packet: &[u8]) {
        if let Some(sent) = self.sent.last() {
            self.resolver.handle_response(sent.id, sent.upstream, packet, self.now);
        }
    }

    /// A packet with the id and the question that the upstream was sent, and whatever behind: flags, counts, records.
    fn respond_plausibly(&mut self, rest: &[u8]) {
        let Some(sent) = self.sent.pop() else { return };
        let end = 12 + sent.packet[12..].iter().position(|byte| *byte == 0).expect("the name's end") + 5;
        let mut packet = sent.packet[..end].to_vec();
        packet[2] |= 0x80;
        if let [flags, code, answers, authorities, additional, records @ ..] = rest {
            packet[2] ^= flags & 0x7f;
            packet[3] ^= code;
            (packet[7], packet[9], packet[11]) = (*answers % 8, *authorities % 4, *additional % 4);
            packet.extend(records);
        }
        self.resolver.handle_response(sent.id, sent.upstream, &packet, self.now);
    }

    fn wait(&mut self, time: u8) {
        self.now = self.now + Duration::from_millis(u64::from(time) * 100);
        match self.sent.pop().filter(|_| time == 0) {
            Some(sent) => self.resolver.handle_failure(sent.id, self.now),
            None => self.resolver.handle_timeout(self.now),
        }
    }

    fn settle(&mut self) {
        while let Some(sent) = self.resolver.poll_transmit() {
            assert!(self.upstreams.contains(&sent.upstream));
            assert!(said(&sent.packet).is_some(), "upstreams are sent what can be read");
            self.sent.push(sent);
        }
        while let Some((client, reply)) = self.resolver.poll_reply() {
            self.replied += 1;
            let (packet, transport) = &self.clients[client];
            check(packet, *transport, &reply);
        }
        let counters = self.resolver.counters();
        assert!(self.clients.len() - self.replied <= LIMITS.0, "clients that wait");
        assert!(counters.cache_entries <= LIMITS.1 as u64 && counters.cache_bytes <= LIMITS.2 as u64, "the cache");
    }

    /// In the end everybody has an answer.
    fn end(mut self) {
        while let Some(deadline) = self.resolver.poll_timeout() {
            self.now = self.now.max(deadline);
            self.resolver.handle_timeout(self.now);
            self.settle();
        }
        self.settle();
        assert_eq!(self.replied, self.clients.len());
    }
}

/// Holds a reply to what every reply has to be.
fn check(packet: &[u8], transport: Transport, reply: &[u8]) {
    assert_eq!(reply[..2], packet[..2], "the id");
    assert!(reply[2] & 0x80 != 0, "an answer");
    let limit = if transport == Transport::Udp { 1232 } else { 65_535 };
    assert!(reply.len() <= limit, "{} bytes", reply.len());
    assert!(said(reply).is_some(), "a reply that cannot be read: {reply:02x?}");
}

/// All that a message says; `None` where it cannot be read.
fn said(bytes: &[u8]) -> Option<String> {
    let message = Message::from_slice(bytes).ok()?;
    let mut text = format!("{:?} {:?}", message.header(), message.header_counts());
    for question in message.question() {
        text += &format!("\n? {}", question.ok()?);
    }
    for item in message {
        let (record, _) = item.ok()?;
        if record.rtype() != Rtype::OPT {
            let record = record.into_record::<AllRecordData<_, ParsedName<_>>>().ok()??;
            text += &format!("\n{} {} {}", record.owner(), record.ttl().as_secs(), record.rtype());
        }
    }
    Some(text)
}
