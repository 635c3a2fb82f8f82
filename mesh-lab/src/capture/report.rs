//! What a capture saw.

use std::fmt;

use serde::Serialize;

/// WireGuard messages by type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct WireGuardCounts {
    /// Handshake initiations (type 1).
    pub initiation: u64,
    /// Handshake responses (type 2).
    pub response: u64,
    /// Cookie replies (type 3).
    pub cookie: u64,
    /// Transport data with something inside (type 4).
    pub data: u64,
    /// Transport data with nothing inside.
    pub keepalive: u64,
}

/// What a capture saw, in packets as a wire would carry them: a super-packet of offload counts as its segments.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct CaptureReport {
    /// Packets with the form of WireGuard messages on a configured port.
    pub wireguard: u64,
    /// Those by type.
    pub by_type: WireGuardCounts,
    /// ARP, IPv6 neighbour and router discovery, multicast membership.
    pub neighbour: u64,
    /// ICMP errors that quote a WireGuard message.
    pub control: u64,
    /// What the options expect beside all that.
    pub expected: u64,
    /// Everything else: plaintext.
    pub other: u64,
    /// The first plaintext packets, one line each.
    pub samples: Vec<String>,
    /// Packets that matched the filter; 0 without one.
    pub matched: u64,
    /// Frames that were lost before they could be looked at. A capture with losses proves no absence.
    pub drops: u64,
}

impl WireGuardCounts {
    /// Returns the sum over all types.
    pub fn total(&self) -> u64 {
        self.initiation + self.response + self.cookie + self.data + self.keepalive
    }

    pub(super) fn merge(&mut self, other: WireGuardCounts) {
        self.initiation += other.initiation;
        self.response += other.response;
        self.cookie += other.cookie;
        self.data += other.data;
        self.keepalive += other.keepalive;
    }
}

impl CaptureReport {
    /// Says whether the capture proves that no plaintext passed: it saw none, and lost nothing.
    pub fn is_clean(&self) -> bool {
        self.other == 0 && self.drops == 0
    }
}

impl fmt::Display for CaptureReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} WireGuard, {} neighbour, {} control, ", self.wireguard, self.neighbour, self.control)?;
        write!(f, "{} plaintext, {} lost", self.other, self.drops)?;
        self.samples.iter().try_for_each(|sample| write!(f, "\n  {sample}"))
    }
}
