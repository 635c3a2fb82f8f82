//! What the forwarder counts.

/// Why a packet was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum DropReason {
    /// No IP packet, or its headers contradict themselves.
    Malformed,
    /// To a multicast or broadcast address.
    Multicast,
    /// From the TUN, with a source that is not this node's.
    Spoofed,
    /// From a peer, with a source that this peer does not speak for.
    ForeignSource,
    /// From a peer, to an address that is not here.
    NotLocal,
    /// From the TUN, to an address that no peer has.
    NoRoute,
    /// No policy was programmed yet.
    NoPolicy,
    /// Policy denies the connection.
    Policy,
    /// An end lies in a fleet prefix and its identity is not known (yet).
    IdentityPending,
    /// A reply to nothing: SYN+ACK or echo reply of a connection that nobody opened.
    NoFlow,
    /// An ICMP error about a connection that is not known.
    UnrelatedError,
    /// A later fragment whose first one was not seen, or was refused.
    FragmentWithoutFirst,
}

impl DropReason {
    /// Every reason, in the order of their declaration.
    pub const ALL: [DropReason; 12] = [
        DropReason::Malformed,
        DropReason::Multicast,
        DropReason::Spoofed,
        DropReason::ForeignSource,
        DropReason::NotLocal,
        DropReason::NoRoute,
        DropReason::NoPolicy,
        DropReason::Policy,
        DropReason::IdentityPending,
        DropReason::NoFlow,
        DropReason::UnrelatedError,
        DropReason::FragmentWithoutFirst,
    ];

    /// Returns the reason in kebab case, as metrics name it.
    pub fn as_str(self) -> &'static str {
        match self {
            DropReason::Malformed => "malformed",
            DropReason::Multicast => "multicast",
            DropReason::Spoofed => "spoofed",
            DropReason::ForeignSource => "foreign-source",
            DropReason::NotLocal => "not-local",
            DropReason::NoRoute => "no-route",
            DropReason::NoPolicy => "no-policy",
            DropReason::Policy => "policy",
            DropReason::IdentityPending => "identity-pending",
            DropReason::NoFlow => "no-flow",
            DropReason::UnrelatedError => "unrelated-error",
            DropReason::FragmentWithoutFirst => "fragment-without-first",
        }
    }
}

/// What a forwarder did since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sent to peers.
    pub sent: Traffic,
    /// Received from peers and delivered.
    pub delivered: Traffic,
    /// Between addresses of this node, through the TUN and back.
    pub local: Traffic,
    /// Dropped, by reason.
    pub drops: Drops,
    /// Flows that were opened, taken-up ones included.
    pub opened: u64,
    /// Flows taken up in the middle, from a segment that is no opening.
    pub recovered: u64,
    /// Established flows that a change ended.
    pub cut: u64,
    /// Flows that gave way to others because the table was full.
    pub evicted: u64,
    /// Flows in the table now.
    pub flows: u64,
    /// Flow records that were lost because nobody fetched them.
    pub records_lost: u64,
    /// Packets that waited for an identity.
    pub hold: HoldCounters,
}

/// Packets that waited for an identity: all that were held are released, denied, expired or waiting.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HoldCounters {
    /// Held, for a while.
    pub held: u64,
    /// Sent or delivered, once the identity was there.
    pub released: u64,
    /// Dropped for what was decided once the identity was there; they are among the drops.
    pub denied: u64,
    /// Dropped because the identity did not come in time; they are among the drops, as identity-pending.
    pub expired: u64,
    /// Not held, because there was no room; they are among the drops, as identity-pending.
    pub no_room: u64,
    /// Waiting now.
    pub waiting: u64,
}

/// Packets and their bytes, IP header included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

impl Traffic {
    pub(crate) fn add(&mut self, bytes: u64) {
        self.packets += 1;
        self.bytes += bytes;
    }
}

/// Dropped packets by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Drops([u64; DropReason::ALL.len()]);

impl Drops {
    /// Returns how many packets were dropped for `reason`.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize]
    }

    /// Returns every reason with its number, zeros included.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u64)> {
        DropReason::ALL.into_iter().zip(self.0)
    }

    /// Returns how many packets were dropped in all.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    pub(crate) fn count(&mut self, reason: DropReason) {
        self.0[reason as usize] += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_place_and_name() {
        let mut drops = Drops::default();
        for (index, reason) in DropReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index);
            (0..=index).for_each(|_| drops.count(reason));
        }
        assert!(drops.iter().enumerate().all(|(index, (_, count))| count == index as u64 + 1));
        let names: std::collections::BTreeSet<_> = DropReason::ALL.map(DropReason::as_str).into();
        assert_eq!(names.len(), DropReason::ALL.len());
    }
}
