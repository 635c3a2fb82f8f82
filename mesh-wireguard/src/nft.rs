//! nftables over netlink: one transaction of tables, chains, sets and rules.
//!
//! The crate `netlink-packet-netfilter` knows six kinds of expressions; the ones that translate (nat, hash, reject,
//! notrack, fib) are not among them, so that messages are written here, as `linux/netfilter/nf_tables.h` has them.

use std::net::IpAddr;

use crate::netlink::attributes::{Attributes, push_message};

pub(crate) mod expression;

pub(crate) use self::expression::{Expressions, Verdict};

const SUBSYSTEM: u16 = 10;
const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
pub(crate) const GET_TABLE: u16 = SUBSYSTEM << 8 | 1;
const DELETE_TABLE: u16 = SUBSYSTEM << 8 | 2;
const NEW_CHAIN: u16 = SUBSYSTEM << 8 | 3;
const NEW_RULE: u16 = SUBSYSTEM << 8 | 6;
const NEW_SET: u16 = SUBSYSTEM << 8 | 9;
const NEW_ELEMENTS: u16 = SUBSYSTEM << 8 | 12;

const REQUEST: u16 = libc::NLM_F_REQUEST as u16;
const CREATE: u16 = libc::NLM_F_CREATE as u16;
const APPEND: u16 = libc::NLM_F_APPEND as u16;
const ACK: u16 = libc::NLM_F_ACK as u16;

/// A table's name is attribute 1 of a table, chain, rule, set and element list alike.
pub(crate) const TABLE_NAME: u16 = 1;
pub(crate) const TABLE_USERDATA: u16 = 6;

/// `NFTA_LIST_ELEM`.
const LIST_ELEMENT: u16 = 1;

/// An attribute has 16 bits of length; a list of elements is cut before.
const MAX_ELEMENTS_LEN: usize = 32 * 1024;

/// Families: the table is for both.
pub(crate) const FAMILY_INET: u8 = 1;

/// When a base chain sees packets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Hook {
    pub(crate) kind: &'static str,
    pub(crate) number: u32,
    pub(crate) priority: i32,
}

/// What a set is made of. Keys and values are fields in 32-bit registers, each padded to whole ones.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SetKind {
    /// The fields of the key.
    pub(crate) key: &'static [Field],
    /// What a key leads to.
    pub(crate) value: Value,
    /// The keys are ranges.
    pub(crate) ranges: bool,
}

/// What a key of a set leads to.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value {
    /// To nothing: a set.
    Nothing,
    /// To a verdict.
    Verdict,
    /// To fields.
    Fields(&'static [Field]),
}

/// A field of a key or value, as nft's own types number them.
#[derive(Clone, Copy, Debug)]
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
#[derive(Clone, Debug)]
pub(crate) enum Element {
    Key(Vec<u8>),
    RangeEnd(Vec<u8>),
    Verdict(Vec<u8>, Verdict),
    Data(Vec<u8>, Vec<u8>),
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
    /// Begins a transaction that replaces the whole of `table`; `userdata` is its comment.
    pub(crate) fn replace(table: &'static str, userdata: &[u8]) -> Transaction {
        let mut transaction = Transaction::delete(table);
        transaction.message(NEW_TABLE, CREATE, |table| table.bytes(TABLE_USERDATA, userdata));
        transaction
    }

    /// Begins a transaction that removes `table`, whether it is there or not.
    pub(crate) fn delete(table: &'static str) -> Transaction {
        let mut transaction = Transaction { table, bytes: Vec::new(), last: 0, sequence: 0, sets: 0 };
        transaction.batch(BATCH_BEGIN);
        transaction.message(NEW_TABLE, CREATE, |table| table);
        transaction.message(DELETE_TABLE, 0, |table| table);
        transaction
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

    /// Adds a rule to the end of `chain`.
    pub(crate) fn rule(&mut self, chain: &str, expressions: Expressions) {
        let expressions = expressions.finish();
        self.message(NEW_RULE, CREATE | APPEND, |rule| {
            rule.text(2, chain).nested(4, |list| {
                for (name, data) in &expressions {
                    list.nested(LIST_ELEMENT, |element| element.text(1, name).bytes(2 | 0x8000, data.as_bytes()));
                }
                list
            })
        });
    }

    /// Adds a set with its elements.
    pub(crate) fn set(&mut self, name: &str, kind: SetKind, elements: &[Element]) {
        self.sets += 1;
        let id = self.sets;
        let types = |fields: &[Field]| fields.iter().fold(0, |all, field| all << 6 | field.datatype().0);
        let len = |fields: &[Field]| fields.iter().map(|field| field.datatype().1.next_multiple_of(4)).sum::<u32>();
        let flags = if kind.ranges { 4 } else { 0 } | if matches!(kind.value, Value::Nothing) { 0 } else { 8 };
        self.message(NEW_SET, CREATE, |set| {
            set.text(2, name).number(3, flags).number(4, types(kind.key)).number(5, len(kind.key)).number(10, id);
            let set = match kind.value {
                Value::Nothing => &mut *set,
                Value::Verdict => set.number(6, 0xffff_ff00).number(7, 16),
                Value::Fields(fields) => set.number(6, types(fields)).number(7, len(fields)),
            };
            // The size lets the kernel choose its table; a set of ranges counts in its own way.
            if kind.ranges { set } else { set.nested(9, |description| description.number(1, elements.len().max(1) as u32)) }
        });
        let mut rest = elements;
        while !rest.is_empty() {
            let mut list = Attributes::default();
            while let [element, after @ ..] = rest
                && list.len() < MAX_ELEMENTS_LEN
            {
                list.nested(LIST_ELEMENT, |to| element.write(to));
                rest = after;
            }
            self.message(NEW_ELEMENTS, CREATE, |to| to.text(2, name).number(4, id).bytes(3 | 0x8000, list.as_bytes()));
        }
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
    fn write<'a>(&self, to: &'a mut Attributes) -> &'a mut Attributes {
        let (Element::Key(key) | Element::RangeEnd(key) | Element::Verdict(key, _) | Element::Data(key, _)) = self;
        to.nested(1, |data| data.bytes(1, key));
        match self {
            Element::Key(_) => to,
            Element::RangeEnd(_) => to.number(3, 1),
            Element::Verdict(_, verdict) => to.nested(2, |data| verdict.write(data)),
            Element::Data(_, value) => to.nested(2, |data| data.bytes(1, value)),
        }
    }
}

/// Returns an address as a register has it.
pub(crate) fn address_bytes(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}
