//! The limits of a resolver.

use std::net::SocketAddr;
use std::time::Duration;

/// How a resolver forwards, and what it may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolverConfig {
    /// The servers that are asked for names outside the zones, in order of preference.
    pub upstreams: Vec<SocketAddr>,
    /// How long one of them has for its answer.
    pub timeout: Duration,
    /// How many times the list is gone through before a query fails.
    pub rounds: u32,
    /// How many queries may wait for an upstream at the same time; more are answered with SERVFAIL.
    pub max_pending: usize,
    /// Ask upstreams in a random mix of capital and small letters (draft-vixie-dnsext-dns0x20), which a forger has to guess.
    /// An upstream that does not give the case back is asked again over TCP; turn this off for one that has neither.
    pub randomize_case: bool,
    /// How many answers of upstreams the cache has at most; 0 turns it off.
    pub cache_entries: usize,
    /// How many bytes they take at most, names and bookkeeping included.
    pub cache_bytes: usize,
    /// For how many seconds an answer is kept at most, whatever its TTL says.
    pub cache_max_ttl: u32,
    /// For how many seconds it is kept that there is no such name, or nothing of the type (RFC 2308 §5).
    pub cache_max_negative_ttl: u32,
}

impl Default for ResolverConfig {
    /// Returns a configuration without upstreams. With two of them a query fails before the 5 seconds after which most
    /// clients ask again. 512 waiting queries have a socket each and fit into the usual 1024 open files. The cache keeps
    /// 10,000 answers in 16 MiB, for an hour, negative ones for a quarter of it.
    fn default() -> ResolverConfig {
        ResolverConfig {
            upstreams: Vec::new(),
            timeout: Duration::from_millis(1200),
            rounds: 2,
            max_pending: 512,
            randomize_case: true,
            cache_entries: 10_000,
            cache_bytes: 16 << 20,
            cache_max_ttl: 3600,
            cache_max_negative_ttl: 900,
        }
    }
}
