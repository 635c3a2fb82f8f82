//! What the targets `records`, `grants` and `state` share: a small fleet, things to say in it, signatures, and laws.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use mesh_core::state::{Limits, MAX_CLOCK_SKEW};
use mesh_core::{
    Bytes, Change, ClusterName, Event, Grant, Now, Prefix, PublicKey, RefusalReason, RootRecord, SecretKey, Settings, State,
    StateConfig, Statement, Time, Trust, WallTime, record,
};

pub mod said;

/// The moment at which everything begins, in seconds since the Unix epoch.
pub const START: u64 = 1_000_000;
/// Little enough that inputs of a few kilobytes reach it.
const LIMITS: Limits = Limits { strangers: 64 << 10, cluster: 256 << 10 };

/// The clusters; `north` is the own one.
pub const CLUSTERS: [&str; 4] = ["east", "west", "north", "evil"];

/// Who signs: the root, each cluster with its key and the next one, and a stranger.
pub fn key(number: u8) -> SecretKey {
    SecretKey::from_bytes([number % 8 + 1; 32])
}

/// The root's number.
pub const ROOT: u8 = 0;

/// Returns the fleet's root key.
pub fn root() -> PublicKey {
    key(ROOT).public()
}

/// Returns a cluster by number.
pub fn cluster(number: u8) -> ClusterName {
    CLUSTERS[usize::from(number) % CLUSTERS.len()].parse().expect("a name")
}

/// Returns the moment so many seconds after the start.
pub fn at(seconds: u64) -> Now {
    Now { time: Time::from_nanos(seconds * 1_000_000_000), wall: WallTime::from_unix_secs(START + seconds) }
}

/// Returns the grant that a cluster has at first.
pub fn first_grant(number: u8) -> Grant {
    let net = number % 4 + 1;
    Grant {
        cluster: cluster(number),
        key: Some(key(number % 4 + 1).public()),
        next_key: None,
        prefixes: vec![format!("10.{net}.0.0/16").parse().expect("a prefix")],
        service_prefixes: vec![format!("100.80.{net}.0/24").parse().expect("a prefix")],
        namespaces: vec![mesh_core::NamePattern("shop".into()), mesh_core::NamePattern("team-*".into())],
        exports: vec!["shop/db".parse().expect("a pattern")],
        attributes: BTreeMap::from([("region".into(), "eu".into())]),
        not_before: WallTime::from_unix_secs(START - 100),
        not_after: WallTime::from_unix_secs(START + 10_000),
        epoch: 1,
    }
}

/// Returns a state of `north` that knows nothing.
pub fn new_state() -> State {
    let trust = Trust::Signed { root: root(), cluster: "north".parse().expect("a name") };
    let config = StateConfig { fleet: "fuzz".into(), trust, settings: Settings::default(), domains: BTreeMap::new() };
    State::new(config).with_limits(LIMITS)
}

/// A state, all that it was told, and the time.
pub struct Told {
    /// The state.
    pub state: State,
    bytes: Vec<Bytes>,
    seconds: u64,
}

impl Told {
    /// Makes a state that was told nothing.
    pub fn new() -> Told {
        Told { state: new_state(), bytes: Vec::new(), seconds: 0 }
    }

    /// Tells it something, and holds it to the laws.
    pub fn tell(&mut self, bytes: impl Into<Bytes>) -> Change {
        let bytes = bytes.into();
        if let Ok(opened) = record::open(&bytes) {
            round_trip(&opened.statement, &opened.fleet, opened.signer);
        }
        self.bytes.push(bytes.clone());
        let change = self.state.apply(Event::Record(bytes), at(self.seconds));
        self.check();
        change
    }

    /// Tells it what its root says at first.
    pub fn grant_all(&mut self) {
        for number in 0..2 {
            let grant = RootRecord::Grant(Arc::new(first_grant(number))).sign(&key(ROOT)).expect("fits");
            let _ = self.tell(grant);
        }
    }

    /// Lets time pass, or go back.
    pub fn wait(&mut self, u: &mut Unstructured<'_>) -> Result<()> {
        self.seconds = *u.choose(&[0, 10, 29, 31, 100, 400, 9_999, 10_001, 90_000])?;
        let _ = self.state.handle_timeout(at(self.seconds));
        self.check();
        Ok(())
    }

    /// Restarts from what is on the disk: the same is believed as before.
    pub fn restart(&mut self) {
        let mut again = new_state();
        let _ = again.restore(&self.state.snapshot(), at(self.seconds)).expect("its own snapshot");
        if self.is_settled() && !refused(&again, RefusalReason::OverLimit) {
            assert_eq!(again.facts(), self.state.facts(), "after a restart");
        }
    }

    fn check(&self) {
        laws(&self.state, at(self.seconds));
    }

    /// Tells whether what is believed has to be the same in every order: what has no room, and how old a proof is, depends on it.
    fn is_settled(&self) -> bool {
        is_settled(&self.state)
    }

    /// Tells everything backwards to another state: it believes the same.
    pub fn backwards(&self) {
        let mut other = new_state();
        for bytes in self.bytes.iter().rev() {
            let _ = other.apply(Event::Record(bytes.clone()), at(self.seconds));
        }
        if self.is_settled() && is_settled(&other) {
            assert_eq!(other.facts(), self.state.facts(), "backwards");
        }
    }
}

impl Default for Told {
    fn default() -> Told {
        Told::new()
    }
}

/// Tells whether a state has refused something for a reason.
pub fn refused(state: &State, reason: RefusalReason) -> bool {
    state.refusal_counts().contains_key(&reason)
}

/// Tells whether nothing was said two ways or too much.
pub fn is_settled(state: &State) -> bool {
    !refused(state, RefusalReason::OverLimit) && !refused(state, RefusalReason::Equivocation)
}

/// What is read can be signed again, and is then read the same.
fn round_trip(statement: &Statement, fleet: &PublicKey, signer: PublicKey) {
    let again = match statement {
        Statement::Record(record) => {
            let key = (0..8).map(key).find(|key| key.public() == signer).unwrap_or_else(|| key(7));
            record.sign(fleet, &key)
        }
        Statement::Root(root) if *fleet == self::root() => root.sign(&key(ROOT)),
        Statement::Root(_) => return,
    };
    // What was a byte below the limit may be a byte above it in our own spelling.
    let Ok(again) = again else { return };
    assert_eq!(record::open(&again).expect("just signed").statement, *statement);
}

/// What holds of every state: the law of grants in other words than the state's own.
pub fn laws(state: &State, now: Now) {
    let facts = state.facts();
    let usage = state.usage();
    assert!(usage.stranger_bytes <= LIMITS.strangers && usage.bytes <= CLUSTERS.len() * LIMITS.cluster + (1 << 20), "{usage:?}");
    let grant = |cluster: &ClusterName| {
        let grant = facts.grants.get(cluster).unwrap_or_else(|| panic!("{cluster} has no grant and is believed"));
        assert!(grant.not_before <= now.wall && now.wall < grant.not_after, "the grant of {cluster} is over");
        assert!(!state.is_quarantined(cluster), "{cluster} is quarantined and believed");
        grant
    };
    let longest =
        |grant: &Grant, prefix: Prefix| grant.prefixes.iter().filter(|own| own.covers(prefix)).map(|own| own.len()).max();
    let is_own = |cluster: &ClusterName, prefix: Prefix| {
        let own = longest(grant(cluster), prefix);
        assert!(own.is_some(), "{prefix} is not {cluster}'s");
        for other in facts.grants.values().filter(|other| other.cluster != *cluster) {
            assert!(longest(other, prefix) < own, "{prefix} is {cluster}'s and {}'s", other.cluster);
        }
    };
    let own_host = |cluster: &ClusterName, address: IpAddr| is_own(cluster, Prefix::host(address));
    for node in facts.nodes.values() {
        node.prefixes.iter().for_each(|prefix| is_own(&node.id.cluster, *prefix));
        grant(&node.id.cluster);
    }
    for workload in facts.workloads.values() {
        let id = &workload.id;
        assert!(grant(&id.cluster).namespaces.iter().any(|pattern| pattern.matches(id.namespace.as_str())), "{id}");
        assert!(facts.namespaces.contains_key(&(id.cluster.clone(), id.namespace.clone())), "{id} is of an unknown namespace");
        let node = mesh_core::NodeId { cluster: id.cluster.clone(), name: workload.node.clone().expect("signed") };
        let node = facts.nodes.get(&node).expect("a known node");
        for address in &workload.addresses {
            own_host(&id.cluster, *address);
            assert!(node.prefixes.is_empty() || node.prefixes.iter().any(|prefix| prefix.contains(*address)), "{id}");
            assert!(state.workload_at(*address).is_some());
        }
    }
    for link in facts.links.values() {
        link.overlay.iter().for_each(|address| own_host(&link.id.cluster, *address));
    }
    for export in facts.exports.values() {
        assert!(grant(&export.cluster).may_export(&export.id), "{}", export.id);
        export.endpoints.iter().flat_map(|endpoint| &endpoint.addresses).for_each(|address| own_host(&export.cluster, *address));
    }
    for namespace in facts.namespaces.values() {
        assert!(grant(&namespace.cluster).speaks_for(&namespace.name));
        assert!(namespace.labels.iter().all(|(key, _)| !key.starts_with("cluster-mesh.io/")), "a reserved label");
    }
    for lease in facts.leases.values() {
        grant(&lease.cluster);
        assert!(lease.issued <= now.wall + MAX_CLOCK_SKEW);
    }
}

/// Puts a right signature of a key around any payload.
pub fn envelope(kind: u8, payload: &[u8], key: &SecretKey) -> Bytes {
    let signed = [b"landbridge signed record v1\0".as_slice(), &u32::from(kind).to_be_bytes(), payload].concat();
    let mut bytes = vec![0x08, kind & 0x7f];
    for (tag, part) in [(0x12, payload), (0x1a, key.public().as_bytes()), (0x22, &key.sign(&signed))] {
        bytes.push(tag);
        let mut len = part.len();
        while len > 0x7f {
            bytes.push((len & 0x7f) as u8 | 0x80);
            len >>= 7;
        }
        bytes.push(len as u8);
        bytes.extend_from_slice(part);
    }
    bytes.into()
}

/// Returns the kind and the payload of an envelope of our own writing.
pub fn payload(bytes: &Bytes) -> (u8, Vec<u8>) {
    let (mut at, mut len, mut shift) = (3, 0usize, 0);
    loop {
        len |= usize::from(bytes[at] & 0x7f) << shift;
        (at, shift) = (at + 1, shift + 7);
        if bytes[at - 1] < 0x80 {
            return (bytes[1], bytes[at..at + len].to_vec());
        }
    }
}

/// Changes some bytes: flips, cuts, doubles.
pub fn mutate(u: &mut Unstructured<'_>, bytes: &mut Vec<u8>) -> Result<()> {
    for _ in 0..u.int_in_range(1..=4)? {
        if bytes.is_empty() {
            return Ok(());
        }
        let at = usize::from(u.arbitrary::<u16>()?) % bytes.len();
        match u.int_in_range(0..=4)? {
            0 => bytes[at] ^= u.arbitrary::<u8>()?,
            1 => bytes.truncate(at),
            2 => bytes.insert(at, u.arbitrary()?),
            3 => {
                bytes.remove(at);
            }
            _ => {
                let end = bytes.len().min(at + 40);
                let again = bytes[at..end].to_vec();
                bytes.extend_from_slice(&again);
            }
        }
    }
    Ok(())
}
