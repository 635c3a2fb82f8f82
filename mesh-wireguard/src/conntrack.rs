//! Connections that a backend never answered, forgotten when it loses its place.
//!
//! The kernel remembers where it translated a connection's first packet to, answered or not, for two minutes. While it does, a
//! retransmission goes to the same backend, and so does a new connection from the same port: long after the service has moved
//! away from a backend that died, a client would still be sent there now and then. So once a table with fewer backends is in
//! place, what points at the lost ones goes, and the next packet is translated anew:
//!
//! - an entry that nobody ever answered;
//! - an entry of UDP to a backend that is no more: no reset would ever end it.
//!
//! What was answered stays, dead backend or not: the path may come back, and its connections with it.

use std::collections::HashMap;
use std::net::IpAddr;

use mesh_core::Protocol;
use mesh_dataplane::{Backends, Frontend, ServiceTable};

use crate::netlink::attributes::{Attributes, NESTED, find, push_message};
use crate::netlink::{Netlink, NetlinkError, tolerate};

/// `NFNL_SUBSYS_CTNETLINK` with its messages to get and to delete.
const GET: u16 = 0x101;
const DELETE: u16 = 0x102;

/// Attributes of an entry (`CTA_*`).
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const STATUS: u16 = 3;
const ID: u16 = 12;
const ZONE: u16 = 18;

/// Bits of its status (`IPS_*`).
const SEEN_REPLY: u32 = 1 << 1;
const TRANSLATED: u32 = 1 << 5;

/// Forgets the connections to `services` that are to go, see the module; returns how many. The socket is one of netfilter's.
pub(crate) fn forget_lost(netlink: &mut Netlink, services: &ServiceTable) -> Result<usize, NetlinkError> {
    let services: HashMap<_, _> = services.0.iter().collect();
    let mut forgotten = 0;
    for family in [libc::AF_INET, libc::AF_INET6] {
        let header = [family as u8, 0, 0, 0];
        let mut bytes = Vec::new();
        push_message(&mut bytes, GET, (libc::NLM_F_REQUEST | libc::NLM_F_DUMP) as u16, 1, [&header, &[]]);
        for answer in netlink.transact("read the connections", &bytes, 1)? {
            let Some(entry) = answer.get(4..).filter(|entry| is_lost(entry, &services)) else { continue };
            let mut name = Attributes::default();
            // The identifier makes sure that it is this one, and no later one with the same ends.
            for (kind, flags) in [(TUPLE_ORIG, NESTED), (ID, 0), (ZONE, 0)] {
                find(entry, kind).into_iter().for_each(|value| _ = name.bytes(kind | flags, value));
            }
            bytes.clear();
            push_message(&mut bytes, DELETE, (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16, 1, [&header, name.as_bytes()]);
            tolerate(netlink.transact("forget a connection", &bytes, 1).map(drop), &[libc::ENOENT])?;
            forgotten += 1;
        }
    }
    Ok(forgotten)
}

/// Tells whether `after` has taken a backend of `before` off a service that both have, or off its new connections.
pub(crate) fn has_lost_backends(before: &ServiceTable, after: &ServiceTable) -> bool {
    let lost = |(frontend, now): (&Frontend, &Backends)| {
        before.0.get(frontend).is_some_and(|then| {
            let is_ready = |backend| now.ready.binary_search(backend).is_ok();
            let is_there = |backend| is_ready(backend) || now.rest.contains(backend);
            !then.ready.iter().all(is_ready) || !then.rest.iter().all(is_there)
        })
    };
    after.0.iter().any(lost)
}

fn is_lost(entry: &[u8], services: &HashMap<&Frontend, &Backends>) -> bool {
    let known = || {
        let status = u32::from_be_bytes(find(entry, STATUS)?.try_into().ok()?);
        let (protocol, _, to) = ends(find(entry, TUPLE_ORIG)?)?;
        let (_, backend, _) = ends(find(entry, TUPLE_REPLY)?)?;
        let backends = services.get(&Frontend { address: to.0, protocol, port: to.1 })?;
        Some((status, protocol, backend, *backends))
    };
    known().is_some_and(|(status, protocol, backend, backends)| {
        let answered = status & SEEN_REPLY != 0;
        let keeps = backends.ready.contains(&backend) || answered && backends.rest.contains(&backend);
        status & TRANSLATED != 0 && !keeps && (!answered || protocol == Protocol::Udp)
    })
}

type End = (IpAddr, u16);

/// Returns the protocol, the source and the destination of a tuple.
fn ends(tuple: &[u8]) -> Option<(Protocol, End, End)> {
    let (ip, transport) = (find(tuple, 1)?, find(tuple, 2)?);
    let address = |v4: u16, v6: u16| {
        let v4 = find(ip, v4).and_then(|bytes| <[u8; 4]>::try_from(bytes).ok()).map(IpAddr::from);
        v4.or_else(|| Some(<[u8; 16]>::try_from(find(ip, v6)?).ok()?.into()))
    };
    let port = |kind| Some(u16::from_be_bytes(find(transport, kind)?.try_into().ok()?));
    let protocol = Protocol::from_number(*find(transport, 1)?.first()?);
    Some((protocol, (address(1, 3)?, port(2)?), (address(2, 4)?, port(3)?)))
}
