//! Identity policy as one nftables table, `inet landbridge-policy`, for traffic that the kernel forwards by itself.
//!
//! ```text
//!   input, forward, output ──(by the tunnel's device; scope node: between workloads)──> tunnel ─> tunnel4, tunnel6
//!     source lives here       -> egress4    @to4[destination]  -> to4-7    @to4-7[source]         -> row ┐
//!     then, destination here  -> ingress4   @from4[source]     -> from4-7  @from4-7[destination]  -> row ┤
//!                                                               └> from4-far, -near, -own-node    -> row ┤
//!   row-N    protocol . port -> @row-N -> allow/west/NetworkPolicy/shop/db-in/ingress-0   (counts, accepts) ┘
//!                                      -> deny/ingress/isolated-by-network-policy         (counts, drops)
//! ```
//!
//! - A peer's address leads to its group (`to4-7`): what no rule tells apart. There the own end's address leads to the row of both.
//!   A group that no own end tells from others is all peers of its kind: near (own cluster and outside), far (another cluster), the
//!   node itself. So the table grows with rules and classes, and with workloads by an element or two each.
//! - Addresses that nobody has are in ranges (`@to-outside4`), those that live here and are no workloads in `@egress-own4`.
//! - Everything is decided on the connection's own tuple as conntrack has it (`ct original`, `ct reply`), packet by packet: replies
//!   and ICMP errors follow their connection, a translated destination counts as the backend that it is, and a change holds for
//!   connections that exist. What has no connection is dropped.
//! - What is in force is said by the name of an empty chain, `in-force/<policy>/<table>`; the table is ours by its comment.
//!
//! **A change is one step.** The kernel decides a packet by the rules that held when it came, but by the elements that hold when it
//! asks for them; and a packet that asks for an element while it is replaced may find neither. So what is new is there before
//! anything leads to it; everything but the maps of peers is named after what it holds and never changes, which also keeps the
//! counters; and what nothing leads to any more is removed later. A packet that finds nothing is dropped: to be let pass, it has to
//! be led to where it says so. What is left: a packet between two workloads of one node, whose sides are asked one after the other,
//! may be let go by the source's side before a change and let in by the destination's after it.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::{Duration, Instant};

use mesh_dataplane::Local;
use mesh_policy::PolicySet;
use netlink_sys::protocols::NETLINK_NETFILTER;

use self::numbers::Numbers;
use crate::netlink::{Netlink, NetlinkError};
use crate::nft::table::{Chain, Table};
use crate::nft::{self, Transaction};

mod chains;
mod image;
mod numbers;
mod rows;

/// The table's name.
pub const POLICY_TABLE: &str = "landbridge-policy";

/// What the comment of our table is.
const COMMENT: &str = "landbridge node agent, identity policy";

const IN_FORCE: &str = "in-force/";

/// Why the policy could not be programmed.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// Another program has a table of this name.
    #[error("the nftables table 'inet {POLICY_TABLE}' is there and is not ours (its comment says so): remove or rename it")]
    ForeignTable,
    /// The kernel refused.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
}

/// How large a table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PolicySize {
    /// Chains.
    pub chains: usize,
    /// Rules in them.
    pub rules: usize,
    /// Sets and maps.
    pub sets: usize,
    /// Elements of those.
    pub elements: usize,
}

/// Chains and sets to which nothing leads any more, since a time: packets that were under way then may still be in them.
#[derive(Debug, Default)]
struct Gone {
    chains: BTreeMap<String, Instant>,
    sets: BTreeMap<String, Instant>,
}

/// How long what is gone stays: much longer than the kernel has a packet in hand.
const LINGER: Duration = Duration::from_secs(1);

/// The policy table of one network namespace.
#[derive(Debug)]
pub struct PolicyRules {
    netlink: Netlink,
    numbers: Numbers,
    /// What this process has programmed, if it has, with what nothing leads to any more.
    present: Option<Table>,
    gone: Gone,
    /// The kernel's generation of all tables when ours was last found as it was left.
    seen: Option<u32>,
}

impl PolicyRules {
    /// Opens the calling thread's network namespace.
    pub fn open() -> Result<PolicyRules, PolicyError> {
        Ok(PolicyRules {
            netlink: Netlink::open(NETLINK_NETFILTER)?,
            numbers: Numbers::default(),
            present: None,
            gone: Gone::default(),
            seen: None,
        })
    }

    /// Programs `policy` for what is local, in one transaction with what is different from before. With no `local` nothing passes
    /// the device.
    pub fn set(&mut self, policy: &PolicySet, local: Option<&Local>, device: &str) -> Result<(), PolicyError> {
        self.numbers.begin();
        let mut table = match local {
            Some(local) => image::table(policy, local, device, &mut self.numbers),
            None => chains::closed(device),
        };
        self.numbers.end();
        let name = format!("{IN_FORCE}{:016x}/{:016x}", policy.fingerprint(), hash(&table));
        table.chains.insert(name, Chain::default());
        self.program(table)
    }

    /// Returns the fingerprint of the policy in force, as the kernel has it; `None` where there is no table of ours.
    pub fn fingerprint(&mut self) -> Result<Option<u64>, PolicyError> {
        let Some(name) = self.in_force()? else { return Ok(None) };
        let text = name.strip_prefix(IN_FORCE).and_then(|rest| rest.split('/').next());
        Ok(text.and_then(|text| u64::from_str_radix(text, 16).ok()))
    }

    /// Tells whether the kernel has what this process has programmed last: where any table has changed since, every chain with as
    /// many rules, and every set with as many elements.
    pub fn is_in_force(&mut self) -> Result<bool, PolicyError> {
        let Some(present) = &self.present else { return Ok(false) };
        let generation = nft::read::generation(&mut self.netlink)?;
        if generation.is_some() && self.seen == generation {
            return Ok(true);
        }
        let expected = present.census();
        if !self.is_there()? || nft::read::census(&mut self.netlink, POLICY_TABLE)? != expected {
            return Ok(false);
        }
        self.seen = generation;
        Ok(true)
    }

    /// Removes the table, where it is there and ours.
    pub fn remove(&mut self) -> Result<(), PolicyError> {
        self.present = None;
        if self.is_there()? { self.commit(Transaction::delete(POLICY_TABLE)) } else { Ok(()) }
    }

    /// Returns how large the table is that this process has programmed, with what nothing leads to any more.
    pub fn size(&self) -> PolicySize {
        let Some(table) = &self.present else { return PolicySize::default() };
        PolicySize {
            chains: table.chains.len(),
            rules: table.chains.values().map(|chain| chain.rules.len()).sum(),
            sets: table.sets.len(),
            elements: table.sets.values().map(|set| set.elements.len()).sum(),
        }
    }

    /// Programs a table: what is new of it first, to which nothing leads yet; then in one step what leads there.
    ///
    /// The kernel decides a packet by the rules that held when it came, but by the elements that hold when it asks for them. So
    /// what elements lead to is there before, and is removed after everybody has left.
    fn program(&mut self, table: Table) -> Result<(), PolicyError> {
        if !self.is_in_force()? {
            self.is_there()?;
            self.present = None;
            self.gone = Gone::default();
            let mut whole = Transaction::replace(POLICY_TABLE, COMMENT);
            table.prepare(&Table::default(), &mut whole);
            self.commit(whole)?;
            self.present = Some(table);
            return Ok(());
        }
        self.sweep(&table)?;
        let mut present = self.present.take().expect("it is in force");
        let result = self.go(&table, &mut present);
        self.present = Some(present);
        result
    }

    fn go(&mut self, table: &Table, present: &mut Table) -> Result<(), PolicyError> {
        let (mut new, mut step) = (Transaction::change(POLICY_TABLE), Transaction::change(POLICY_TABLE));
        // What says what is in force comes and goes with the step itself.
        let (mut said, mut then) = (table.clone(), Table::default());
        said.chains.retain(|name, _| !name.starts_with(IN_FORCE) || present.chains.contains_key(name));
        then.chains
            .extend(table.chains.iter().filter(|(name, _)| name.starts_with(IN_FORCE)).map(|(n, c)| (n.clone(), c.clone())));
        said.prepare(present, &mut new);
        if !new.is_empty() {
            self.commit(new)?;
            for (name, chain) in &said.chains {
                present.chains.entry(name.clone()).or_insert_with(|| chain.clone());
            }
            for (name, set) in &said.sets {
                present.sets.entry(name.clone()).or_insert_with(|| set.clone());
            }
        }
        said.switch(present, &mut step);
        then.prepare(present, &mut step);
        let over = |name: &&String| name.starts_with(IN_FORCE) && !table.chains.contains_key(*name);
        let over: Vec<String> = present.chains.keys().filter(over).cloned().collect();
        let mut after = present.clone();
        after.remove(&over, &[], &mut step);
        if step.is_empty() {
            return Ok(());
        }
        self.commit(step)?;
        after.chains.extend(table.chains.clone());
        after.sets.extend(table.sets.clone());
        let now = Instant::now();
        let gone = after.chains.keys().filter(|name| !table.chains.contains_key(*name));
        self.gone.chains = gone.map(|name| (name.clone(), *self.gone.chains.get(name).unwrap_or(&now))).collect();
        let gone = after.sets.keys().filter(|name| !table.sets.contains_key(*name));
        self.gone.sets = gone.map(|name| (name.clone(), *self.gone.sets.get(name).unwrap_or(&now))).collect();
        *present = after;
        Ok(())
    }

    /// Removes what nothing has led to for a while, and `wanted` has not.
    fn sweep(&mut self, wanted: &Table) -> Result<(), PolicyError> {
        let now = Instant::now();
        let is_old = |since: &Instant| now.duration_since(*since) > LINGER;
        let chains = self.gone.chains.iter().filter(|(name, since)| is_old(since) && !wanted.chains.contains_key(*name));
        let chains: Vec<String> = chains.map(|(name, _)| name.clone()).collect();
        let sets = self.gone.sets.iter().filter(|(name, since)| is_old(since) && !wanted.sets.contains_key(*name));
        let sets: Vec<String> = sets.map(|(name, _)| name.clone()).collect();
        let Some(present) = self.present.as_ref().filter(|_| !chains.is_empty() || !sets.is_empty()) else { return Ok(()) };
        let (mut swept, mut away) = (present.clone(), Transaction::change(POLICY_TABLE));
        swept.remove(&chains, &sets, &mut away);
        self.commit(away)?;
        self.present = Some(swept);
        chains.iter().for_each(|name| _ = self.gone.chains.remove(name));
        sets.iter().for_each(|name| _ = self.gone.sets.remove(name));
        Ok(())
    }

    fn commit(&mut self, transaction: Transaction) -> Result<(), PolicyError> {
        transaction.commit(&mut self.netlink, "program the policy")?;
        Ok(())
    }

    /// Tells whether our table is there.
    fn is_there(&mut self) -> Result<bool, PolicyError> {
        match nft::read::comment(&mut self.netlink, POLICY_TABLE)? {
            None => Ok(false),
            Some(Some(comment)) if comment == COMMENT => Ok(true),
            Some(_) => Err(PolicyError::ForeignTable),
        }
    }

    /// Returns the name of the chain that says what is in force.
    fn in_force(&mut self) -> Result<Option<String>, PolicyError> {
        if !self.is_there()? {
            return Ok(None);
        }
        let chains = nft::read::chains(&mut self.netlink, POLICY_TABLE)?;
        Ok(chains.into_iter().find(|name| name.starts_with(IN_FORCE)))
    }
}

fn hash(table: &Table) -> u64 {
    // Equal tables say the same in the words of one build.
    struct Hashed(DefaultHasher);
    impl Write for Hashed {
        fn write_str(&mut self, text: &str) -> std::fmt::Result {
            text.hash(&mut self.0);
            Ok(())
        }
    }
    let mut hashed = Hashed(DefaultHasher::new());
    write!(hashed, "{table:?}").expect("hashing does not fail");
    hashed.0.finish()
}
