//! Identity policy as one nftables table, `inet landbridge-policy`, for traffic that the kernel forwards by itself.
//!
//! ```text
//!   input, forward, output ──(by the tunnel's device; scope node: between workloads)──> tunnel ─> tunnel4, tunnel6
//!     source lives here       -> egress4     @to4[destination]   -> to4-7    @to4-7[source]          -> row
//!     destination lives here  -> ingress4    @from4[source]      -> from4-7  @from4-7[destination]   -> row
//!                                                                └> from4-far, -near, -own-node      -> row
//!   row-N    protocol . port -> @row-N -> allow/west/NetworkPolicy/shop/db-in/ingress-0 (counts, returns)
//!                                      -> deny/isolated-by-network-policy               (counts, drops)
//! ```
//!
//! - A peer's address leads to its group (`to4-7`): what no rule tells apart. There the own end's address leads to the row of both.
//!   A group that no own end tells from others is all peers of its kind: near (own cluster and outside), far (another cluster), the
//!   node itself. So the table grows with rules and classes, and with workloads by an element or two each.
//! - Addresses that nobody has are in ranges (`@to-outside4`), those that live here and are no workloads in `@own4`.
//! - Everything is decided on the connection's own tuple as conntrack has it (`ct original`, `ct reply`), packet by packet: replies
//!   and ICMP errors follow their connection, a translated destination counts as the backend that it is, and a change holds for
//!   connections that exist. What has no connection is dropped.
//! - A change is one transaction with what is different. Rows and verdicts are named after what they say, so counters stay.
//! - What is in force is said by the name of an empty chain, `in-force/<policy>/<table>`; the table is ours by its comment.

use std::collections::hash_map::DefaultHasher;
use std::fmt::Write;
use std::hash::{Hash, Hasher};

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

/// The policy table of one network namespace.
#[derive(Debug)]
pub struct PolicyRules {
    netlink: Netlink,
    numbers: Numbers,
    /// What this process has programmed, if it has.
    programmed: Option<Table>,
}

impl PolicyRules {
    /// Opens the calling thread's network namespace.
    pub fn open() -> Result<PolicyRules, PolicyError> {
        Ok(PolicyRules { netlink: Netlink::open(NETLINK_NETFILTER)?, numbers: Numbers::default(), programmed: None })
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

    /// Tells whether the kernel has what this process has programmed last, as far as the chain that says so is there.
    pub fn is_in_force(&mut self) -> Result<bool, PolicyError> {
        let Some(programmed) = &self.programmed else { return Ok(false) };
        let expected = programmed.chains.keys().find(|name| name.starts_with(IN_FORCE)).cloned();
        Ok(self.in_force()? == expected)
    }

    /// Removes the table, where it is there and ours.
    pub fn remove(&mut self) -> Result<(), PolicyError> {
        self.programmed = None;
        if self.is_there()? { self.commit(Transaction::delete(POLICY_TABLE)) } else { Ok(()) }
    }

    /// Returns how large the table is that this process has programmed.
    pub fn size(&self) -> PolicySize {
        let Some(table) = &self.programmed else { return PolicySize::default() };
        PolicySize {
            chains: table.chains.len(),
            rules: table.chains.values().map(|chain| chain.rules.len()).sum(),
            sets: table.sets.len(),
            elements: table.sets.values().map(|set| set.elements.len()).sum(),
        }
    }

    fn program(&mut self, table: Table) -> Result<(), PolicyError> {
        let before = if self.is_in_force()? { self.programmed.take() } else { None };
        if let Some(before) = before {
            let mut change = Transaction::change(POLICY_TABLE);
            table.write(&before, &mut change);
            if change.is_empty() {
                self.programmed = Some(before);
                return Ok(());
            }
            // What was refused changed nothing; the next try begins with what is in force.
            if let Err(error) = self.commit(change) {
                self.programmed = Some(before);
                return Err(error);
            }
        } else {
            self.is_there()?;
            let mut whole = Transaction::replace(POLICY_TABLE, COMMENT);
            table.write(&Table::default(), &mut whole);
            self.commit(whole)?;
        }
        self.programmed = Some(table);
        Ok(())
    }

    fn commit(&mut self, transaction: Transaction) -> Result<(), PolicyError> {
        transaction.commit(&mut self.netlink, "program the policy")?;
        Ok(())
    }

    /// Tells whether our table is there.
    fn is_there(&mut self) -> Result<bool, PolicyError> {
        match nft::comment(&mut self.netlink, POLICY_TABLE)? {
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
        let chains = nft::chains(&mut self.netlink, POLICY_TABLE)?;
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
