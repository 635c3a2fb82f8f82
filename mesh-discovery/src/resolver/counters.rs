//! What a resolver counts.

use std::collections::BTreeMap;

use domain::base::iana::Rcode;

use crate::zone::Area;

/// Counts since the resolver was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Answered queries, by where the name belongs and the code of the reply (`NOERROR`, `NXDOMAIN`, …).
    pub queries: BTreeMap<(Area, String), u64>,
    /// Queries that went to an upstream.
    pub forwarded: u64,
    /// Packets that were no query, or not a correct one.
    pub malformed: u64,
    /// Replies that were too long for their client.
    pub truncated: u64,
    /// Packets from upstreams that answered no question of ours.
    pub mismatched: u64,
}

impl Counters {
    pub(super) fn count(&mut self, area: Area, rcode: Rcode) {
        // The key is only made for a code that was not seen before.
        let known = self.queries.iter_mut().find(|((of, code), _)| *of == area && rcode.to_mnemonic_str() == Some(code));
        match known {
            Some((_, count)) => *count += 1,
            None => *self.queries.entry((area, rcode.to_string())).or_default() += 1,
        }
    }
}
