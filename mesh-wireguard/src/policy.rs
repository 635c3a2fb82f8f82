//! Identity policy as one nftables table, `inet landbridge-policy`, for traffic that the kernel forwards by itself.
//! (`inet landbridge-policy-2` after the next whole one, and so on by turns.)
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
//! - What is in force is said by the name of an empty chain, `in-force/<policy>/<what is local>`; the table is ours by its
//!   comment.
//!
//! **A change is one step.** The kernel decides a packet by the rules that held when it came, but by the elements that hold when it
//! asks for them; and a packet that asks for an element while it is replaced may find neither. So what is new is there before
//! anything leads to it; everything but the maps of peers is named after what it holds and never changes, which also keeps the
//! counters; and what nothing leads to any more is removed later. A packet that finds nothing is dropped: to be let pass, it has to
//! be led to where it says so. What is left: a packet between two workloads of one node, whose sides are asked one after the other,
//! may be let go by the source's side before a change and let in by the destination's after it.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_dataplane::Local;
use mesh_policy::PolicySet;
use netlink_sys::protocols::NETLINK_NETFILTER;

use self::numbers::Numbers;
use self::sides::Sides;
use crate::netlink::{Netlink, NetlinkError};
use crate::nft::table::{Table, hash};
use crate::nft::{self, Transaction};

mod chains;
mod image;
mod numbers;
mod rows;
mod sides;

/// The table's name, or what it begins with.
pub const POLICY_TABLE: &str = "landbridge-policy";

/// The names that the table has by turns: a whole new one stands beside the old one before that goes.
const TABLES: [&str; 2] = [POLICY_TABLE, "landbridge-policy-2"];

/// What the comment of our table is.
const COMMENT: &str = "landbridge node agent, identity policy";

const IN_FORCE: &str = "in-force/";

/// Why the policy could not be programmed.
#[derive(Debug, thiserror::Error)]
pub enum PolicyError {
    /// Another program has a table of this name.
    #[error("the nftables table 'inet {0}' is there and is not ours (its comment says so): remove or rename it")]
    ForeignTable(&'static str),
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
    chains: BTreeMap<Arc<str>, Instant>,
    sets: BTreeMap<Arc<str>, Instant>,
}

/// How long what is gone stays: much longer than the kernel has a packet in hand.
const LINGER: Duration = Duration::from_secs(1);

/// How long a count of the elements is good for while other programs change their tables.
const COUNTED: Duration = Duration::from_secs(10);

/// The policy table of one network namespace.
#[derive(Debug)]
pub struct PolicyRules {
    netlink: Netlink,
    /// The table's name now.
    table: &'static str,
    numbers: Numbers,
    /// What this process has programmed, if it has, with what nothing leads to any more.
    present: Option<Table>,
    /// The parts that were programmed last.
    sides: Option<Arc<Sides>>,
    rest: Table,
    gone: Gone,
    /// The kernel's generation of all tables when ours was last found as it was left.
    seen: Option<u32>,
    /// When its elements were last counted.
    counted: Option<Instant>,
}

impl PolicyRules {
    /// Opens the calling thread's network namespace.
    pub fn open() -> Result<PolicyRules, PolicyError> {
        Ok(PolicyRules {
            netlink: Netlink::open(NETLINK_NETFILTER)?,
            table: TABLES[0],
            numbers: Numbers::default(),
            present: None,
            sides: None,
            rest: Table::default(),
            gone: Gone::default(),
            seen: None,
            counted: None,
        })
    }

    /// Programs `policy` for what is local, in one step and by what is different from before; what another process has left is
    /// replaced whole. With no `local` nothing passes the device.
    pub fn set(&mut self, policy: &PolicySet, local: Option<&Local>, device: &str) -> Result<(), PolicyError> {
        let in_force = self.is_in_force()?;
        if !in_force {
            self.sides = None;
        }
        let (sides, rest) = match local {
            Some(local) => {
                let (sides, rest) = image::table((policy, local), device, &mut self.numbers, self.sides.clone());
                (Some(sides), rest)
            }
            None => (None, chains::closed(device)),
        };
        let of = hash(&(local.map(|local| (&local.node, &local.prefixes, local.scope)), device));
        let says = format!("{IN_FORCE}{:016x}/{of:016x}", policy.fingerprint());
        if in_force { self.change(sides, rest, &says) } else { self.replace(sides, rest, &says) }
    }

    /// Returns the fingerprint of the policy in force, as the kernel has it; `None` where there is no table of ours.
    pub fn fingerprint(&mut self) -> Result<Option<u64>, PolicyError> {
        let Some(name) = self.in_force()? else { return Ok(None) };
        let text = name.strip_prefix(IN_FORCE).and_then(|rest| rest.split('/').next());
        Ok(text.and_then(|text| u64::from_str_radix(text, 16).ok()))
    }

    /// Tells whether the kernel has what this process has programmed last. Where any table has changed since, the rules of each chain
    /// are counted; the elements of each set, which takes longer, every ten seconds at most.
    pub fn is_in_force(&mut self) -> Result<bool, PolicyError> {
        let Some(present) = &self.present else { return Ok(false) };
        let generation = nft::read::generation(&mut self.netlink)?;
        if generation.is_some() && self.seen == generation {
            return Ok(true);
        }
        let (rules, elements) = (present.rules(), present.elements());
        if !self.is_there(self.table)? || nft::read::rules(&mut self.netlink, self.table)? != rules {
            return Ok(false);
        }
        if self.counted.is_some_and(|counted| counted.elapsed() < COUNTED) {
            return Ok(true);
        }
        if nft::read::elements(&mut self.netlink, self.table)? != elements {
            return Ok(false);
        }
        (self.seen, self.counted) = (generation, Some(Instant::now()));
        Ok(true)
    }

    /// Removes the table, where it is there and ours.
    pub fn remove(&mut self) -> Result<(), PolicyError> {
        self.present = None;
        for table in TABLES {
            if self.is_there(table)? {
                self.commit(Transaction::delete(table))?;
            }
        }
        Ok(())
    }

    /// Returns the table's name now.
    pub fn table(&self) -> &'static str {
        self.table
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

    /// Programs a whole table in the place of what is there: beside it, and then that goes.
    ///
    /// In one transaction, a packet could come to the new hook before the change, which has no rules then, and to the old one
    /// after it, which has none any more. Of two tables each drops what it denies.
    fn replace(&mut self, sides: Option<Arc<Sides>>, rest: Table, says: &str) -> Result<(), PolicyError> {
        (self.present, self.sides, self.gone) = (None, None, Gone::default());
        let there = [self.is_there(TABLES[0])?, self.is_there(TABLES[1])?];
        self.seen = nft::read::generation(&mut self.netlink)?;
        if there == [true, true] {
            self.commit(Transaction::delete(TABLES[1]))?;
        }
        let (new, old) = if there[0] { (TABLES[1], TABLES[0]) } else { (TABLES[0], TABLES[1]) };
        let mut table = Table::default();
        sides.iter().for_each(|sides| table.extend(&sides.table));
        table.extend(&rest);
        let mut whole = Transaction::replace(new, COMMENT);
        table.prepare_chains(&Table::default(), &mut whole);
        table.prepare(&mut Table::default(), &mut whole);
        whole.chain(says, None);
        table.chains.insert(says.into(), Arc::default());
        self.commit(whole)?;
        (self.table, self.present, self.sides, self.rest) = (new, Some(table), sides, rest);
        if there != [false, false] {
            self.commit(Transaction::delete(old))?;
        }
        Ok(())
    }

    /// Programs what is different: what is new first, to which nothing leads yet; then in one step what leads there.
    ///
    /// The kernel decides a packet by the rules that held when it came, but by the elements that hold when it asks for them. So
    /// what elements lead to is there before, and is removed after everybody has left.
    fn change(&mut self, sides: Option<Arc<Sides>>, rest: Table, says: &str) -> Result<(), PolicyError> {
        self.sweep()?;
        let mut present = self.present.take().expect("it is in force");
        let result = self.go(sides, rest, says, &mut present);
        self.present = Some(present);
        result
    }

    fn go(&mut self, sides: Option<Arc<Sides>>, rest: Table, says: &str, present: &mut Table) -> Result<(), PolicyError> {
        let same = matches!((&sides, &self.sides), (Some(now), Some(before)) if Arc::ptr_eq(now, before));
        let mut parts = vec![&rest];
        parts.extend(sides.as_ref().filter(|_| !same).map(|sides| &sides.table));
        let (mut new, mut step) = (Transaction::change(self.table), Transaction::change(self.table));
        let mut prepared = present.clone();
        parts.iter().for_each(|part| part.prepare_chains(present, &mut new));
        parts.iter().for_each(|part| part.prepare(&mut prepared, &mut new));
        if !new.is_empty() {
            self.commit(new)?;
            *present = prepared;
        }
        parts.iter().for_each(|part| part.switch(present, &mut step));
        // What says what is in force comes and goes with the step itself.
        let over: Vec<Arc<str>> = present.chains.range::<str, _>(in_force_names()).map(|(name, _)| name.clone()).collect();
        if over.iter().all(|name| **name != *says) {
            step.chain(says, None);
            over.iter().for_each(|name| step.delete_chain(name));
        }
        if step.is_empty() {
            return Ok(());
        }
        self.commit(step)?;
        over.iter().for_each(|name| _ = present.chains.remove(name));
        let mut before = vec![&self.rest];
        before.extend(self.sides.as_ref().filter(|_| !same).map(|sides| &sides.table));
        let now = Instant::now();
        let wanted = |part: &Table, name: &str| part.chains.contains_key(name);
        let is_wanted = |name: &str| wanted(&rest, name) || sides.as_ref().is_some_and(|sides| wanted(&sides.table, name));
        for name in before.iter().flat_map(|part| part.chains.keys()).filter(|name| !is_wanted(name)) {
            self.gone.chains.entry(name.clone()).or_insert(now);
        }
        let wanted = |part: &Table, name: &str| part.sets.contains_key(name);
        let is_wanted = |name: &str| wanted(&rest, name) || sides.as_ref().is_some_and(|sides| wanted(&sides.table, name));
        for name in before.iter().flat_map(|part| part.sets.keys()).filter(|name| !is_wanted(name)) {
            self.gone.sets.entry(name.clone()).or_insert(now);
        }
        for part in &parts {
            present.extend(part);
            part.chains.keys().for_each(|name| _ = self.gone.chains.remove(name));
            part.sets.keys().for_each(|name| _ = self.gone.sets.remove(name));
        }
        present.chains.insert(says.into(), Arc::default());
        (self.sides, self.rest) = (sides, rest);
        Ok(())
    }

    /// Removes what nothing has led to for a while.
    fn sweep(&mut self) -> Result<(), PolicyError> {
        let now = Instant::now();
        let is_old = |(_, since): &(&Arc<str>, &Instant)| now.duration_since(**since) > LINGER;
        let chains: Vec<Arc<str>> = self.gone.chains.iter().filter(is_old).map(|(name, _)| name.clone()).collect();
        let sets: Vec<Arc<str>> = self.gone.sets.iter().filter(is_old).map(|(name, _)| name.clone()).collect();
        let Some(present) = self.present.as_mut().filter(|_| !chains.is_empty() || !sets.is_empty()) else { return Ok(()) };
        let mut away = Transaction::change(self.table);
        present.remove(&chains, &sets, &mut away);
        if let Err(error) = self.commit(away) {
            // What is there is not known any more: the next try writes all anew.
            self.present = None;
            return Err(error);
        }
        chains.iter().for_each(|name| _ = self.gone.chains.remove(name));
        sets.iter().for_each(|name| _ = self.gone.sets.remove(name));
        Ok(())
    }

    fn commit(&mut self, transaction: Transaction) -> Result<(), PolicyError> {
        transaction.commit(&mut self.netlink, "program the policy")?;
        // Another program's change in between is one more than ours.
        let now = nft::read::generation(&mut self.netlink)?;
        self.seen = now.filter(|now| self.seen.is_some_and(|seen| seen.wrapping_add(1) == *now));
        Ok(())
    }

    /// Tells whether a table of ours is there.
    fn is_there(&mut self, table: &'static str) -> Result<bool, PolicyError> {
        match nft::read::comment(&mut self.netlink, table)? {
            None => Ok(false),
            Some(Some(comment)) if comment == COMMENT => Ok(true),
            Some(_) => Err(PolicyError::ForeignTable(table)),
        }
    }

    /// Returns the name of the chain that says what is in force.
    fn in_force(&mut self) -> Result<Option<String>, PolicyError> {
        for table in TABLES {
            if self.is_there(table)? {
                let chains = nft::read::chains(&mut self.netlink, table)?;
                return Ok(chains.into_iter().find(|name| name.starts_with(IN_FORCE)));
            }
        }
        Ok(None)
    }
}

/// The names of the chains that say what is in force: there is one.
fn in_force_names() -> (Bound<&'static str>, Bound<&'static str>) {
    // The character after the slash.
    (Bound::Included(IN_FORCE), Bound::Excluded("in-force0"))
}
