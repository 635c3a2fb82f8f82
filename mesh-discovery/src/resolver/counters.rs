//! What a resolver counts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

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
    /// Answers of upstreams that had everything right but the case of the name; they were asked again over TCP.
    pub wrong_case: u64,
    /// Queries that waited for the answer to the same question of another client.
    pub coalesced: u64,
    /// Queries that were refused (SERVFAIL) because as many waited as may.
    pub overloaded: u64,
    /// Queries that were answered from the cache.
    pub cache_hits: u64,
    /// Queries that found nothing in the cache.
    pub cache_misses: u64,
    /// Answers that had to leave the cache before their time, for others.
    pub cache_evicted: u64,
    /// Answers that the cache has now.
    pub cache_entries: u64,
    /// What they take, in bytes.
    pub cache_bytes: u64,
}

/// All areas, in the order of [`Tally::queries`].
const AREAS: [Area; 4] = [Area::Cluster, Area::Clusterset, Area::Reverse, Area::Outside];

/// The counters of one worker: only added to, and read at any time.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// By area and code.
    queries: [[AtomicU64; 16]; 4],
    malformed: AtomicU64,
    truncated: AtomicU64,
}

impl Tally {
    pub(super) fn query(&self, area: Area, rcode: Rcode) {
        let area = match area {
            Area::Cluster => 0,
            Area::Clusterset => 1,
            Area::Reverse => 2,
            Area::Outside => 3,
        };
        self.queries[area][usize::from(rcode.to_int() & 15)].fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn malformed(&self) {
        self.malformed.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn truncated(&self, truncated: bool) {
        if truncated {
            self.truncated.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Adds what was counted to `counters`.
    pub(super) fn add_to(&self, counters: &mut Counters) {
        for (area, codes) in AREAS.iter().zip(&self.queries) {
            for (code, count) in (0u8..).zip(codes) {
                let count = count.load(Ordering::Relaxed);
                if count > 0 {
                    *counters.queries.entry((*area, Rcode::masked_from_int(code).to_string())).or_default() += count;
                }
            }
        }
        counters.malformed += self.malformed.load(Ordering::Relaxed);
        counters.truncated += self.truncated.load(Ordering::Relaxed);
    }
}
