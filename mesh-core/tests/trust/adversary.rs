//! Ways to lie to a state, each told to the same victim: nothing of it is believed, it is audited with its reason, and what it
//! costs the victim is bounded. `docs/adversaries.md` is the table of them.

use std::collections::BTreeSet;

use mesh_core::state::{Freshness, Limits, Usage};
use mesh_core::{Bytes, ClusterName, Event, RefusalReason, SecretKey, State};
use sha2::{Digest, Sha256};

use crate::fixture::*;

/// Makes a named test of each lie, and a table of all.
macro_rules! lies {
    ($($name:ident: $did:literal => [$($reason:ident),*], $act:expr;)+) => {
        pub(super) const LIES: &[$crate::adversary::Lie] = &[$($crate::adversary::Lie {
            name: stringify!($name),
            did: $did,
            reasons: &[$(mesh_core::RefusalReason::$reason),*],
            act: $act,
        }),+];
        $(#[test]
        fn $name() {
            $crate::adversary::run(LIES, stringify!($name));
        })+
    };
}

mod authority;
mod claims;
mod docs;
mod floods;
mod history;
mod restarts;

/// One way to lie.
pub(crate) struct Lie {
    name: &'static str,
    /// What the liar does.
    did: &'static str,
    /// Why it is refused, each of them at least once; none: it says nothing that could be refused.
    reasons: &'static [RefusalReason],
    act: fn(&mut Victim),
}

/// What the victim keeps of strangers, and of each cluster, in bytes of memory.
const LIMITS: Limits = Limits { strangers: 64 << 10, cluster: 256 << 10 };

/// A state of `north` that knows honest facts of `east` and `west`.
pub(crate) struct Victim {
    state: State,
    seconds: u64,
    /// What was believed before the lies.
    believed: Vec<String>,
    usage: Usage,
    refused: Vec<RefusalReason>,
    /// How many lies were told, how many facts they named, and how many facts are different or were refused for them.
    lies: usize,
    facts: usize,
    dirty: usize,
}

fn run(lies: &[Lie], name: &str) {
    let lie = lies.iter().find(|lie| lie.name == name).expect("each test is in its table");
    let mut victim = Victim::new();
    (lie.act)(&mut victim);
    assert_eq!(victim.picture(), victim.believed, "something of it was believed: {}", lie.did);
    for reason in lie.reasons {
        assert!(victim.refused.contains(reason), "{} is not among {:?}", reason.as_str(), victim.refused);
    }
    victim.assert_bounded();
    assert!(victim.lies > 0);
}

impl Victim {
    fn new() -> Victim {
        let mut state = granted().with_limits(LIMITS);
        for name in ["east", "west"] {
            let at = format!("10.{}.1.5", net(name));
            accept(&mut state, &node_record(name, 1, 1));
            accept(&mut state, &namespace(name, 3, "shop", "blue"));
            accept(&mut state, &slice(name, 2, 1, vec![workload(&format!("{name}/shop/web-0"), 1, &at)]));
            accept(&mut state, &lease(name, 4, 0));
        }
        let (believed, usage) = (Vec::new(), state.usage());
        let mut victim = Victim { state, seconds: 0, believed, usage, refused: Vec::new(), lies: 0, facts: 0, dirty: 0 };
        victim.believe();
        victim
    }

    /// Takes what is believed now for the truth: what came before was honest, or is looked at by the lie itself.
    fn believe(&mut self) {
        self.believed = self.picture();
    }

    /// Hears something honest.
    fn hear(&mut self, bytes: &Bytes) {
        assert_eq!(tell_at(&mut self.state, bytes, self.seconds), [], "honest");
        self.believe();
    }

    /// Hears a lie, which is refused for `reason`.
    fn lie(&mut self, bytes: &Bytes, reason: RefusalReason) {
        let refused = self.told(Event::Record(bytes.clone()));
        assert!(refused.contains(&reason), "{} is not among {refused:?}", reason.as_str());
    }

    /// Hears something; returns why it refused.
    fn told(&mut self, event: Event) -> Vec<RefusalReason> {
        self.facts += match &event {
            Event::Record(bytes) => facts_in(bytes),
            _ => 1,
        };
        let counted = |state: &State| state.refusal_counts().values().sum::<u64>();
        let before = counted(&self.state);
        let change = self.state.apply(event, now(self.seconds));
        let refused = reasons(&change);
        assert_eq!(counted(&self.state) - before, refused.len() as u64, "each refusal is counted");
        assert!(change.refusals.iter().all(|refusal| !refusal.subject.is_empty() && !refusal.detail.is_empty()));
        self.refused.extend(&refused);
        self.lies += 1;
        self.dirty += change.dirty.len();
        refused
    }

    /// Lets time pass, or go back.
    fn at(&mut self, seconds: u64) {
        self.seconds = seconds;
        let _ = self.state.handle_timeout(now(seconds));
        self.believe();
    }

    /// Dies and comes back with what is on the disk.
    fn restart(&mut self) {
        let snapshot = self.state.snapshot();
        self.state = state_of("north").with_limits(LIMITS);
        let _ = self.state.restore(&snapshot, now(self.seconds)).expect("its own snapshot");
        assert_eq!(self.picture(), self.believed, "a restart changes nothing");
    }

    /// All that is believed, and who is behind which address.
    fn picture(&self) -> Vec<String> {
        let facts = self.state.facts();
        let mut all = vec![format!("{facts:?}")];
        for text in ["10.1.1.5", "10.1.1.6", "10.1.2.5", "10.1.200.5", "10.2.1.5", "10.2.1.6", "10.9.9.9", "192.0.2.1"] {
            all.push(format!("{text}: {:?}", located(&self.state, text)));
        }
        all.push(format!("{:?}", self.state.pending_prefixes().collect::<BTreeSet<_>>()));
        for name in ["east", "west"] {
            all.push(format!("{name}: {:?}", self.state.freshness(&cluster(name), now(self.seconds).wall)));
        }
        all
    }

    /// What the lies cost: memory under the limits whatever was said, and no look at facts that they did not touch.
    fn assert_bounded(&self) {
        let usage = self.state.usage();
        assert!(usage.stranger_bytes <= LIMITS.strangers, "{usage:?}");
        // North's own records count as well.
        assert!(usage.bytes <= 3 * LIMITS.cluster, "{usage:?}");
        assert!(usage.clusters <= 3 + LIMITS.strangers / 512, "{usage:?}");
        assert!(self.state.refused().count() <= usage.bytes / 512, "{usage:?}");
        // What a quarantine or a grant ends is the liar's own.
        let most = 2 * self.facts + 8 * self.usage.records;
        assert!(self.dirty <= most, "{} facts were touched by {} lies about {}", self.dirty, self.lies, self.facts);
    }

    fn freshness(&self, name: &str) -> Freshness {
        self.state.freshness(&cluster(name), now(self.seconds).wall)
    }

    fn knows(&self, id: &str) -> bool {
        knows(&self.state, id)
    }
}

/// Returns how many facts a record names, with the record itself.
fn facts_in(bytes: &Bytes) -> usize {
    match mesh_core::record::open(bytes).map(|opened| opened.into_contents().statement) {
        Ok(mesh_core::Statement::Record(record)) => 1 + record.resources.len(),
        _ => 1,
    }
}

fn stranger() -> SecretKey {
    SecretKey::from_bytes([99; 32])
}

fn sign_by(record: &mesh_core::Record, key: &SecretKey) -> Bytes {
    record.sign(&root().public(), key).expect("fits")
}

fn clusters() -> [ClusterName; 2] {
    [cluster("east"), cluster("west")]
}

/// An envelope with a right signature around any payload.
fn envelope(kind: u8, payload: &[u8], key: &SecretKey) -> Bytes {
    let signed = [b"landbridge signed record v1\0".as_slice(), &u32::from(kind).to_be_bytes(), payload].concat();
    let mut bytes = vec![0x08, kind];
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

/// Puts another key's signature on what somebody signed.
fn resign(bytes: &Bytes, key: &SecretKey) -> Bytes {
    let (kind, mut at) = (bytes[1], 3);
    let (mut len, mut shift) = (0usize, 0);
    loop {
        len |= usize::from(bytes[at] & 0x7f) << shift;
        (at, shift) = (at + 1, shift + 7);
        if bytes[at - 1] < 0x80 {
            return envelope(kind, &bytes[at..at + len], key);
        }
    }
}

/// Makes the checksum of an edited snapshot right again.
fn reseal(snapshot: &mut [u8]) {
    let digest = Sha256::digest(&snapshot[40..]);
    snapshot[8..40].copy_from_slice(&digest);
}
