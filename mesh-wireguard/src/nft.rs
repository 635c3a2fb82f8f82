//! nftables over netlink: one transaction of tables, chains, sets and rules.
//!
//! The crate `netlink-packet-netfilter` knows six kinds of expressions; the ones that translate (nat, hash, reject,
//! notrack, fib) are not among them, so that messages are written here, as `linux/netfilter/nf_tables.h` has them.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::net::IpAddr;

use mesh_core::Prefix;

use crate::netlink::attributes::{Attributes, find, next_message, push_message};
use crate::netlink::{Netlink, NetlinkError};

pub(crate) mod expression;
pub(crate) mod read;
pub(crate) mod table;

pub(crate) use self::expression::{End, Expressions, Verdict};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const DELETE_TABLE: u16 = SUBSYSTEM << 8 | 2;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const DELETE_CHAIN: u16 = SUBSYSTEM << 8 | 5;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
const DELETE_RULE: u16 = SUBSYSTEM << 8 | 8;
const NEW_SET: u16 = SUBSYSTEM << 8 | 9;
const DELETE_SET: u16 = SUBSYSTEM << 8 | 11;
const NEW_ELEMENTS: u16 = SUBSYSTEM << 8 | 12;
const DELETE_ELEMENTS: u16 = SUBSYSTEM << 8 | 14;

const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const CREATE: u16 = libc::NLM_F_CREATE as u16;
const APPEND: u16 = libc::NLM_F_APPEND as u16;
const ACK: u16 = libc::NLM_F_ACK as u16;

/// A table's name is attribute 1 of a table, chain, rule, set and element list alike.
const TABLE_NAME: u16 = 1;
const TABLE_USERDATA: u16 = 6;

/// `NFTA_LIST_ELEM`.
const LIST_ELEMENT: u16 = 1;

/// An attribute has 16 bits of length; a list of elements is cut before.
const MAX_ELEMENTS_LEN: usize = 32 * 1024;

/// Families: the table is for both.
const FAMILY_INET: u8 = 1;

/// When a base chain sees packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Hook {
    pub(crate) kind: &'static str,
    pub(crate) number: u32,
    pub(crate) priority: i32,
}

/// What a set is made of. Keys and values are fields in 32-bit registers, each padded to whole ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct SetKind {
    /// The fields of the key.
    pub(crate) key: &'static [Field],
    /// What a key leads to.
    pub(crate) value: Value,
    /// The keys are ranges: of one field by a start and an end of their own, of several by a key and the last key.
    pub(crate) ranges: bool,
    /// It stays as large as it is made.
    pub(crate) fixed: bool,
}

/// What a key of a set leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Value {
    /// To nothing: a set.
    Nothing,
    /// To a verdict.
    Verdict,
    /// To fields.
    Fields(&'static [Field]),
}

/// A field of a key or value, as nft's own types number them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Field {
    Number,
    Ipv4,
    Ipv6,
    Protocol,
    Port,
}

impl Field {
    /// nft's number of the type, and its length in bytes.
    fn datatype(self) -> (u32, u32) {
        match self {
            Field::Number => (19, 4),
            Field::Ipv4 => (7, 4),
            Field::Ipv6 => (8, 16),
            Field::Protocol => (12, 1),
            Field::Port => (13, 2),
        }
    }
}

/// An element of a set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Element {
    pub(crate) key: Vec<u8>,
    pub(crate) extent: Extent,
    pub(crate) target: Target,
}

/// What an element's key stands for, in the order in which the kernel wants to be told: an end before the next start.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Extent {
    /// The key and what follows are in the range before no more.
    End,
    /// The key alone; where keys are ranges of one field, everything from it on.
    Start,
    /// Everything up to a last key: each field between the two.
    Until(Vec<u8>),
}

/// What an element leads to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Target {
    Nothing,
    Verdict(Verdict),
    Data(Vec<u8>),
}

/// A transaction on one table: all of it happens, or nothing.
#[derive(Debug)]
pub(crate) struct Transaction {
    table: &'static str,
    bytes: Vec<u8>,
    /// Where the last message begins.
    last: usize,
    sequence: u32,
    sets: u32,
}

impl Transaction {
    /// Begins a transaction that replaces the whole of `table`.
    pub(crate) fn replace(table: &'static str, comment: &str) -> Transaction {
        let mut transaction = Transaction::delete(table);
        transaction.message(NEW_TABLE, CREATE, |table| table.bytes(TABLE_USERDATA, &userdata(comment)));
        transaction
    }

    /// Begins a transaction that removes `table`, whether it is there or not.
    pub(crate) fn delete(table: &'static str) -> Transaction {
        let mut transaction = Transaction::change(table);
        transaction.message(NEW_TABLE, CREATE, |table| table);
        transaction.message(DELETE_TABLE, 0, |table| table);
        transaction
    }

    /// Begins a transaction that changes `table`, which is there.
    pub(crate) fn change(table: &'static str) -> Transaction {
        let mut transaction = Transaction { table, bytes: Vec::new(), last: 0, sequence: 0, sets: 0 };
        transaction.batch(BATCH_BEGIN);
        transaction
    }

    /// Tells whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.sequence <= 1
    }

    /// Adds a chain: a base chain where it has a hook.
    pub(crate) fn chain(&mut self, name: &str, hook: Option<Hook>) {
        self.message(NEW_CHAIN, CREATE, |chain| {
            chain.text(3, name);
            if let Some(hook) = hook {
                chain.nested(4, |at| at.number(1, hook.number).bytes(2, &hook.priority.to_be_bytes()));
                chain.text(7, hook.kind);
            }
            chain
        });
    }

    /// Removes a chain, which nothing leads to any more.
    pub(crate) fn delete_chain(&mut self, name: &str) {
        self.message(DELETE_CHAIN, 0, |chain| chain.text(3, name));
    }

    /// Removes the rules of a chain.
    pub(crate) fn flush(&mut self, chain: &str) {
        self.message(DELETE_RULE, 0, |rule| rule.text(2, chain));
    }

    /// Adds a rule to the end of `chain`.
    pub(crate) fn rule(&mut self, chain: &str, rule: impl Borrow<Expressions>) {
        let (expressions, comment) = rule.borrow().parts();
        self.message(NEW_RULE, CREATE | APPEND, |rule| {
            rule.text(2, chain).nested(4, |list| {
                for (name, data) in expressions {
                    list.nested(LIST_ELEMENT, |element| element.text(1, name).bytes(2 | 0x8000, data.as_bytes()));
                }
                list
            });
            match comment {
                Some(comment) => rule.bytes(7, &userdata(comment)),
                None => rule,
            }
        });
    }

    /// Adds a set with its elements.
    pub(crate) fn set(&mut self, name: &str, kind: SetKind, elements: &[Element]) {
        self.sets += 1;
        let id = self.sets;
        let types = |fields: &[Field]| fields.iter().fold(0, |all, field| all << 6 | field.datatype().0);
        let len = |fields: &[Field]| fields.iter().map(|field| field.datatype().1.next_multiple_of(4)).sum::<u32>();
        let is_wide = kind.key.len() > 1 && kind.ranges;
        let is_map = !matches!(kind.value, Value::Nothing);
        let flags = if kind.ranges { 4 } else { 0 } | if is_map { 8 } else { 0 } | if is_wide { 0x80 } else { 0 };
        self.message(NEW_SET, CREATE, |set| {
            set.text(2, name).number(3, flags).number(4, types(kind.key)).number(5, len(kind.key)).number(10, id);
            let set = match kind.value {
                Value::Nothing => &mut *set,
                Value::Verdict => set.number(6, 0xffff_ff00).number(7, 16),
                Value::Fields(fields) => set.number(6, types(fields)).number(7, len(fields)),
            };
            if is_wide {
                return set.nested(9, |description| {
                    description.nested(2, |fields| {
                        let lens = kind.key.iter().map(|field| field.datatype().1);
                        lens.for_each(|len| _ = fields.nested(LIST_ELEMENT, |field| field.number(1, len)));
                        fields
                    })
                });
            }
            // The size lets the kernel choose its table; a set of ranges counts in its own way.
            if kind.ranges || !kind.fixed {
                return set;
            }
            set.nested(9, |description| description.number(1, elements.len().max(1) as u32))
        });
        self.elements(NEW_ELEMENTS, CREATE, name, elements);
    }

    /// Removes a set, which no rule looks into any more, and which is empty or leads nowhere.
    pub(crate) fn delete_set(&mut self, name: &str) {
        self.message(DELETE_SET, 0, |set| set.text(2, name));
    }

    /// Adds elements to a set.
    pub(crate) fn add_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(NEW_ELEMENTS, CREATE, set, elements);
    }

    /// Removes elements from a set.
    pub(crate) fn delete_elements(&mut self, set: &str, elements: &[Element]) {
        self.elements(DELETE_ELEMENTS, 0, set, elements);
    }

    fn elements(&mut self, kind: u16, flags: u16, set: &str, mut elements: &[Element]) {
        while !elements.is_empty() {
            let mut list = Attributes::default();
            while let [element, after @ ..] = elements
                && list.len() < MAX_ELEMENTS_LEN
            {
                list.nested(LIST_ELEMENT, |to| element.write(to));
                elements = after;
            }
            self.message(kind, flags, |to| to.text(2, set).bytes(3 | 0x8000, list.as_bytes()));
        }
    }

    /// Carries the transaction out; `what` it does is for the error, which adds what exactly was refused.
    pub(crate) fn commit(self, netlink: &mut Netlink, what: &str) -> Result<(), NetlinkError> {
        let (bytes, last) = self.finish();
        netlink.reserve(bytes.len());
        netlink.transact(what, &bytes, last).map(drop).map_err(|error| match (error, netlink.refused()) {
            (NetlinkError::Refused { what, source }, Some(number)) => {
                NetlinkError::Refused { what: format!("{what}: {}", describe(&bytes, number)), source }
            }
            (error, _) => error,
        })
    }

    /// Ends the transaction; returns the datagram, and the number of the message that is acknowledged for all.
    pub(crate) fn finish(mut self) -> (Vec<u8>, u32) {
        let flags = self.last + 6;
        let acknowledged = u16::from_ne_bytes([self.bytes[flags], self.bytes[flags + 1]]) | ACK;
        self.bytes[flags..flags + 2].copy_from_slice(&acknowledged.to_ne_bytes());
        let last = self.sequence - 1;
        self.batch(BATCH_END);
        (self.bytes, last)
    }

    fn message(&mut self, kind: u16, flags: u16, fill: impl FnOnce(&mut Attributes) -> &mut Attributes) {
        let mut attributes = Attributes::default();
        attributes.text(TABLE_NAME, self.table);
        fill(&mut attributes);
        let header = [FAMILY_INET, 0, 0, 0];
        self.last = self.bytes.len();
        push_message(&mut self.bytes, kind, REQUEST | flags, self.sequence, [&header, attributes.as_bytes()]);
        self.sequence += 1;
    }

    fn batch(&mut self, kind: u16) {
        let [high, low] = SUBSYSTEM.to_be_bytes();
        push_message(&mut self.bytes, kind, REQUEST, self.sequence, [&[0, 0, high, low], &[]]);
        self.sequence += 1;
    }
}

impl Element {
    /// Makes a key of a set; where keys are ranges, the start of one.
    pub(crate) fn key(key: Vec<u8>) -> Element {
        Element { key, extent: Extent::Start, target: Target::Nothing }
    }

    /// Makes the end of a range: the first key that is not in it.
    pub(crate) fn end(key: Vec<u8>) -> Element {
        Element { key, extent: Extent::End, target: Target::Nothing }
    }

    /// Makes a key that leads to a verdict.
    pub(crate) fn verdict(key: Vec<u8>, verdict: Verdict) -> Element {
        Element { key, extent: Extent::Start, target: Target::Verdict(verdict) }
    }

    /// Makes a key that leads to fields.
    pub(crate) fn data(key: Vec<u8>, data: Vec<u8>) -> Element {
        Element { key, extent: Extent::Start, target: Target::Data(data) }
    }

    fn write<'a>(&self, to: &'a mut Attributes) -> &'a mut Attributes {
        to.nested(1, |data| data.bytes(1, &self.key));
        match &self.extent {
            Extent::Start => {}
            Extent::Until(last) => _ = to.nested(10, |data| data.bytes(1, last)),
            Extent::End => _ = to.number(3, 1),
        }
        match &self.target {
            Target::Nothing => to,
            Target::Verdict(verdict) => to.nested(2, |data| verdict.write(data)),
            Target::Data(value) => to.nested(2, |data| data.bytes(1, value)),
        }
    }
}

/// Returns a comment as nft keeps it in user data: type 0, then its length with the terminating zero. What is too long is cut.
pub(crate) fn userdata(comment: &str) -> Vec<u8> {
    let end = (0..=comment.len().min(250)).rev().find(|end| comment.is_char_boundary(*end)).unwrap_or(0);
    let comment = &comment.as_bytes()[..end];
    [&[0, comment.len() as u8 + 1], comment, &[0]].concat()
}

/// Returns an address as a register has it.
pub(crate) fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

/// Returns what the message of that number is about: `add elements of cells`.
fn describe(mut bytes: &[u8], number: u32) -> String {
    while let Some((kind, sequence, message)) = next_message(&mut bytes) {
        if sequence == number {
            let word = match kind {
                NEW_CHAIN => "chain",
                DELETE_CHAIN => "remove chain",
                NEW_RULE => "rule of",
                DELETE_RULE => "flush",
                NEW_SET => "set",
                DELETE_SET => "remove set",
                NEW_ELEMENTS => "elements of",
                DELETE_ELEMENTS => "remove elements of",
                _ => "table",
            };
            let at = if matches!(kind, NEW_CHAIN | DELETE_CHAIN) { 3 } else { 2 };
            let name = message.get(4..).and_then(|attributes| find(attributes, at)).unwrap_or_default();
            return format!("{word} {}", String::from_utf8_lossy(name).trim_end_matches('\0'));
        }
    }
    format!("message {number}")
}

/// Returns the prefixes of one family as disjoint ranges: each start, and the address after each end.
pub(crate) fn ranges(prefixes: impl Iterator<Item = Prefix>, ipv4: bool) -> Vec<Element> {
    let number = |address: IpAddr| match address {
        IpAddr::V4(address) => u128::from(u32::from(address)),
        IpAddr::V6(address) => u128::from(address),
    };
    let bytes = |number: u128| if ipv4 { (number as u32).to_be_bytes().to_vec() } else { number.to_be_bytes().to_vec() };
    let last_of_family = if ipv4 { u128::from(u32::MAX) } else { u128::MAX };
    let sorted: BTreeSet<_> =
        prefixes.filter(|prefix| prefix.is_ipv4() == ipv4).map(|p| (number(p.address()), number(p.last_address()))).collect();
    let mut merged: Vec<(u128, u128)> = Vec::new();
    for (first, last) in sorted {
        match merged.last_mut() {
            Some(before) if first <= before.1.saturating_add(1) => before.1 = before.1.max(last),
            _ => merged.push((first, last)),
        }
    }
    let mut elements = Vec::new();
    for (first, last) in merged {
        elements.push(Element::key(bytes(first)));
        // The end of the address space ends its range by itself.
        elements.extend((last < last_of_family).then(|| Element::end(bytes(last + 1))));
    }
    elements
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_disjoint_and_end_after_their_last_address() {
        let prefixes = ["10.1.0.0/24", "10.1.1.0/24", "10.1.0.0/25", "10.9.0.0/16", "255.0.0.0/8", "fd00::/8"];
        let prefixes: Vec<Prefix> = prefixes.iter().map(|text| text.parse().unwrap()).collect();
        let shown = |ipv4| {
            let elements = ranges(prefixes.iter().copied(), ipv4);
            elements
                .into_iter()
                .map(|element| format!("{}{:?}", if element.extent == Extent::End { "!" } else { "" }, element.key))
                .collect::<Vec<_>>()
        };
        assert_eq!(shown(true), ["[10, 1, 0, 0]", "![10, 1, 2, 0]", "[10, 9, 0, 0]", "![10, 10, 0, 0]", "[255, 0, 0, 0]"]);
        assert_eq!(shown(false).len(), 2);
    }
}
