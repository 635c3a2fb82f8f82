//! Flows: the tuple that is policed, and the record of what happened to it.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{Direction, NodeId, Protocol, Tier, WallTime, WorkloadId};

/// A connection by its opening packet, after service translation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FiveTuple {
    /// Who opened it.
    pub source: IpAddr,
    /// To whom.
    pub destination: IpAddr,
    /// The transport protocol.
    pub protocol: Protocol,
    /// The opener's port; 0 for protocols without ports (ICMP echo has its identifier here).
    pub source_port: u16,
    /// The port asked for; 0 for protocols without ports.
    pub destination_port: u16,
}

impl FiveTuple {
    /// Returns the tuple of packets in the other direction.
    pub fn reversed(self) -> FiveTuple {
        FiveTuple {
            source: self.destination,
            destination: self.source,
            protocol: self.protocol,
            source_port: self.destination_port,
            destination_port: self.source_port,
        }
    }
}

impl fmt::Display for FiveTuple {
    /// Writes `10.1.0.5:43210 > 10.2.0.9:5432/TCP`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.protocol.has_ports() {
            let source = std::net::SocketAddr::new(self.source, self.source_port);
            let destination = std::net::SocketAddr::new(self.destination, self.destination_port);
            write!(f, "{source} > {destination}/{}", self.protocol)
        } else {
            write!(f, "{} > {}/{}", self.source, self.destination, self.protocol)
        }
    }
}

/// What one node saw of one flow on one side, so far or to its end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowRecord {
    /// The same at both ends without their talking: Community ID v1, and `-` with the client's initial sequence number in
    /// hex where the SYN was seen.
    pub id: String,
    /// Where the flow stands.
    pub event: FlowEvent,
    /// The node that saw it.
    pub node: NodeId,
    /// The side that the verdict is about.
    pub direction: Direction,
    /// Who opened it.
    pub source: FlowEnd,
    /// To whom.
    pub destination: FlowEnd,
    /// The transport protocol.
    pub protocol: Protocol,
    /// `true` for an allowed flow.
    pub allowed: bool,
    /// The tier that decided.
    pub tier: Tier,
    /// Why, in kebab case.
    pub reason: String,
    /// The rule that decided, where one did.
    pub rule: Option<String>,
    /// Taken up in the middle, after a restart, from a segment that is no opening.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub recovered: bool,
    /// Packets of the opener (for a denied flow: dropped).
    pub packets_out: u64,
    /// Their bytes, IP header included.
    pub bytes_out: u64,
    /// Packets of the other end.
    pub packets_in: u64,
    /// Their bytes, IP header included.
    pub bytes_in: u64,
    /// When the first packet was seen, nanoseconds since the Unix epoch.
    pub first: WallTime,
    /// When the latest packet was seen.
    pub last: WallTime,
}

/// Where a flow stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FlowEvent {
    /// Its first packet was allowed.
    Opened,
    /// It ended, by itself or by time.
    Closed,
    /// It was refused: repeats of the same refusal within a while are counted into one record.
    Denied,
    /// It was established, and a change of policy or identity ended it.
    Cut,
}

/// One end of a flow.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowEnd {
    /// The address.
    pub address: IpAddr,
    /// The port; 0 for protocols without.
    pub port: u16,
    /// The workload behind it, where one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workload: Option<WorkloadId>,
    /// The identity's name in hex, where one is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// The node behind it, where it is a node's own address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
}
