//! One open flow: its verdicts, where its ends are, how far it has come.

use std::time::Duration;

use mesh_core::{FiveTuple, Now, Protocol, Time, Verdict, WallTime};

use crate::forwarder::PeerHandle;
use crate::packet::{Kind, Packet, Tcp};

/// Both ends say nothing only while keepalive has nothing to say: Linux probes first after 2 h and gives up 11 min later
/// (RFC 5382 asks for 2 h 4 min at least).
const ESTABLISHED: Duration = Duration::from_secs(2 * 3600 + 15 * 60);
/// A handshake under way: Linux retransmits a SYN for longer, but at least once in every 60 s.
const HANDSHAKE: Duration = Duration::from_secs(60);
/// One side has finished: the other may send on, and each of its segments begins the time anew.
const HALF_CLOSED: Duration = Duration::from_secs(120);
/// Both have finished, or one has reset: late retransmissions still belong to the flow.
const CLOSED: Duration = Duration::from_secs(10);
/// A datagram without an answer (RFC 4787 recommends more for NATs only; here a new opening costs one decision).
const UNANSWERED: Duration = Duration::from_secs(60);
/// Datagrams both ways, as conntrack has it.
const ANSWERED: Duration = Duration::from_secs(180);
/// An SCTP association probes a silent path every 30 s (RFC 9260): several missed ones.
const ASSOCIATION: Duration = Duration::from_secs(300);
/// Echo: one request, one reply.
const ICMP: Duration = Duration::from_secs(30);

/// Where an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Owner {
    Local,
    Peer(PeerHandle),
}

/// How far a flow has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Progress {
    /// A handshake, or datagrams one way.
    Opening,
    /// The other end has answered.
    Answered,
    /// TCP: the handshake is over.
    Established,
    /// TCP: the opener has finished, the other end, or both.
    Finished { opener: bool, other: bool },
    /// TCP: reset.
    Reset,
}

#[derive(Debug)]
pub(crate) struct Entry {
    /// The tuple of its opening.
    pub(crate) tuple: FiveTuple,
    /// Type and code of an ICMP opening.
    pub(crate) icmp: Option<(u8, u8)>,
    /// The opener's initial sequence number, where the SYN was seen.
    pub(crate) isn: Option<u32>,
    /// Taken up in the middle.
    pub(crate) recovered: bool,
    /// The forwarder's generation in which verdicts and owners below were found.
    pub(crate) generation: u64,
    /// The number of the policy set that the verdicts' rules are in.
    pub(crate) policy: u64,
    /// The verdicts of the sides that are decided here.
    pub(crate) egress: Option<Verdict>,
    pub(crate) ingress: Option<Verdict>,
    /// Where the two ends are.
    pub(crate) source: Option<Owner>,
    pub(crate) destination: Option<Owner>,
    pub(crate) progress: Progress,
    pub(crate) traffic: FlowTraffic,
    pub(crate) deadline: Time,
    /// The second of its live ticket in the wheel.
    pub(super) ticket: u64,
}

/// What a flow has carried.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FlowTraffic {
    pub(crate) packets_out: u64,
    pub(crate) bytes_out: u64,
    pub(crate) packets_in: u64,
    pub(crate) bytes_in: u64,
    pub(crate) first: WallTime,
    pub(crate) last: WallTime,
}

impl Entry {
    /// Makes a flow of the packet that opens it, or that it is taken up from: then `tuple` may be the packet's reverse.
    pub(crate) fn new(tuple: FiveTuple, packet: &Packet, now: Now) -> Entry {
        let isn = match packet.kind {
            Kind::Tcp(tcp) if packet.is_opening() => Some(tcp.sequence),
            _ => None,
        };
        let icmp = match packet.kind {
            Kind::Icmp(icmp) => Some((icmp.kind, icmp.code)),
            _ => None,
        };
        let recovered = matches!(packet.kind, Kind::Tcp(_)) && isn.is_none();
        Entry {
            tuple,
            icmp,
            isn,
            recovered,
            generation: 0,
            policy: 0,
            egress: None,
            ingress: None,
            source: None,
            destination: None,
            progress: if recovered { Progress::Established } else { Progress::Opening },
            traffic: FlowTraffic { first: now.wall, last: now.wall, ..FlowTraffic::default() },
            deadline: now.time,
            ticket: 0,
        }
    }

    /// Counts a packet and returns when the flow ends unless more is seen.
    pub(crate) fn note(&mut self, packet: &Packet, from_opener: bool, now: Now) -> Time {
        let traffic = &mut self.traffic;
        traffic.last = now.wall;
        if from_opener {
            traffic.packets_out += 1;
            traffic.bytes_out += u64::from(packet.len);
        } else {
            traffic.packets_in += 1;
            traffic.bytes_in += u64::from(packet.len);
        }
        let was_closed = self.is_closed();
        self.progress = match packet.kind {
            Kind::Tcp(tcp) => self.progress.after_segment(tcp, from_opener),
            _ if !from_opener && self.progress == Progress::Opening => Progress::Answered,
            _ => self.progress,
        };
        // What trickles in after the end does not keep a flow.
        if was_closed { self.deadline } else { now.time + self.idle_timeout() }
    }

    /// Tells whether the connection is over.
    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.progress, Progress::Reset | Progress::Finished { opener: true, other: true })
    }

    fn idle_timeout(&self) -> Duration {
        match (self.tuple.protocol, self.progress) {
            (Protocol::Tcp, Progress::Opening | Progress::Answered) => HANDSHAKE,
            (Protocol::Tcp, Progress::Established) => ESTABLISHED,
            (_, Progress::Reset | Progress::Finished { opener: true, other: true }) => CLOSED,
            (_, Progress::Finished { .. }) => HALF_CLOSED,
            (Protocol::Other(1 | 58), _) => ICMP,
            (_, Progress::Opening) => UNANSWERED,
            (Protocol::Sctp, _) => ASSOCIATION,
            (_, Progress::Answered | Progress::Established) => ANSWERED,
        }
    }
}

impl Progress {
    fn after_segment(self, tcp: Tcp, from_opener: bool) -> Progress {
        if tcp.rst() {
            return Progress::Reset;
        }
        match self {
            Progress::Reset => Progress::Reset,
            Progress::Finished { opener, other } => {
                Progress::Finished { opener: opener || (tcp.fin() && from_opener), other: other || (tcp.fin() && !from_opener) }
            }
            _ if tcp.fin() => Progress::Finished { opener: from_opener, other: !from_opener },
            Progress::Opening if !from_opener => Progress::Answered,
            Progress::Answered if from_opener && tcp.ack() => Progress::Established,
            other => other,
        }
    }
}
