//! Flow records: made of a flow, its verdict and the policy that knows both ends; queued, and their loss counted.

use std::collections::VecDeque;
use std::net::IpAddr;

use mesh_core::{Direction, FiveTuple, FlowEnd, FlowEvent, FlowRecord, NodeId, Verdict};
use mesh_policy::PolicySet;

use crate::community_id::community_id;
use crate::flow_table::{Entry, FlowTraffic};

/// How many records wait at most: some seconds of a busy node, a few megabytes.
const CAPACITY: usize = 16_384;

/// The records that wait to be fetched.
#[derive(Debug, Default)]
pub(super) struct Records {
    queue: VecDeque<FlowRecord>,
    lost: u64,
}

/// What a record is about.
pub(super) struct Subject {
    tuple: FiveTuple,
    icmp: Option<(u8, u8)>,
    isn: Option<u32>,
    recovered: bool,
    traffic: FlowTraffic,
}

impl Records {
    /// Queues the record that `make` makes, or counts it as lost without making it.
    pub(super) fn push(&mut self, make: impl FnOnce() -> FlowRecord) {
        if self.queue.len() < CAPACITY {
            self.queue.push_back(make());
        } else {
            self.lost += 1;
        }
    }

    pub(super) fn pop(&mut self) -> Option<FlowRecord> {
        self.queue.pop_front()
    }

    pub(super) fn lost(&self) -> u64 {
        self.lost
    }
}

impl From<&Entry> for Subject {
    fn from(entry: &Entry) -> Subject {
        Subject { tuple: entry.tuple, icmp: entry.icmp, isn: entry.isn, recovered: entry.recovered, traffic: entry.traffic }
    }
}

/// One side's record. Rules and workloads are named by `policy`; a workload that it does not know (any more), by `before`.
pub(super) fn record(
    node: &NodeId,
    policies: (&PolicySet, Option<&PolicySet>),
    event: FlowEvent,
    (direction, verdict): (Direction, Verdict),
    subject: &Subject,
) -> FlowRecord {
    let (policy, before) = policies;
    let verdict = policy.named(verdict);
    let reason = verdict.reason();
    let tuple = &subject.tuple;
    let mut id = community_id(tuple, subject.icmp);
    if let Some(isn) = subject.isn {
        id.push_str(&format!("-{isn:08x}"));
    }
    let end = |address, port| {
        let end = flow_end(policy, address, port);
        match before {
            Some(before) if end.workload.is_none() && end.node.is_none() => flow_end(before, address, port),
            _ => end,
        }
    };
    FlowRecord {
        id,
        event,
        node: node.clone(),
        direction,
        source: end(tuple.source, tuple.source_port),
        destination: end(tuple.destination, tuple.destination_port),
        protocol: tuple.protocol,
        allowed: verdict.is_allow(),
        tier: reason.tier(),
        reason: reason.as_str().into(),
        rule: reason.rule().map(ToString::to_string),
        recovered: subject.recovered,
        packets_out: subject.traffic.packets_out,
        bytes_out: subject.traffic.bytes_out,
        packets_in: subject.traffic.packets_in,
        bytes_in: subject.traffic.bytes_in,
        first: subject.traffic.first,
        last: subject.traffic.last,
    }
}

fn flow_end(policy: &PolicySet, address: IpAddr, port: u16) -> FlowEnd {
    let end = policy.end(address);
    let workload = policy.workload(end);
    FlowEnd {
        address,
        port,
        workload: workload.as_ref().map(|workload| workload.id.clone()),
        identity: workload.as_ref().map(|workload| workload.identity.to_string()),
        node: policy.node(end).cloned(),
    }
}
