//! The expressions that rules are made of.

use std::sync::Arc;

use crate::netlink::attributes::Attributes;

/// Registers are 32 bits wide each; an IPv6 address takes four of them.
const REGISTER: u32 = 8;
/// Where verdicts go.
const VERDICT_REGISTER: u32 = 0;

/// `NFPROTO_IPV4` and `NFPROTO_IPV6`.
pub(crate) fn family_number(ipv4: bool) -> u8 {
    if ipv4 { 2 } else { 10 }
}

/// What becomes of a packet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Verdict {
    /// Goes on in another chain, for good.
    Goto(Arc<str>),
    /// Goes on in another chain, and comes back.
    Jump(Arc<str>),
    /// Goes back to the calling chain.
    Return,
    /// Is dropped.
    Drop,
    /// Is let pass by this base chain.
    Accept,
}

impl Verdict {
    pub(crate) fn write<'a>(&self, data: &'a mut Attributes) -> &'a mut Attributes {
        let (code, chain) = match self {
            Verdict::Jump(chain) => (-3i32, Some(chain)),
            Verdict::Goto(chain) => (-4, Some(chain)),
            Verdict::Return => (-5, None),
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
        };
        data.nested(2, |verdict| {
            verdict.bytes(1, &code.to_be_bytes());
            match chain {
                Some(chain) => verdict.text(2, chain),
                None => verdict,
            }
        })
    }
}

/// An end of a connection, in the direction in which it was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Source,
    /// Behind a service address the backend.
    Destination,
}

fn device_name(device: &str) -> [u8; libc::IFNAMSIZ] {
    let mut name = [0; libc::IFNAMSIZ];
    name.iter_mut().zip(device.as_bytes()).for_each(|(to, from)| *to = *from);
    name
}

/// The expressions of one rule, each of which goes on only where it holds, and its comment.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Expressions {
    list: Vec<(&'static str, Attributes)>,
    comment: Option<String>,
}

impl Expressions {
    pub(crate) fn new() -> Expressions {
        Expressions::default()
    }

    pub(super) fn parts(&self) -> (&[(&'static str, Attributes)], Option<&str>) {
        (&self.list, self.comment.as_deref())
    }

    /// Says what the rule is for.
    pub(crate) fn comment(mut self, comment: impl Into<String>) -> Expressions {
        self.comment = Some(comment.into());
        self
    }

    fn add(mut self, name: &'static str, fill: impl FnOnce(&mut Attributes) -> &mut Attributes) -> Expressions {
        let mut attributes = Attributes::default();
        fill(&mut attributes);
        self.list.push((name, attributes));
        self
    }

    /// Loads packet meta data `key` into register `at`.
    fn meta(self, key: u32, at: u32) -> Expressions {
        self.add("meta", |meta| meta.number(1, REGISTER + at).number(2, key))
    }

    /// Loads `len` bytes of a header: of the network (1) or the transport (2).
    fn payload(self, base: u32, offset: u32, len: u32, at: u32) -> Expressions {
        self.add("payload", |load| load.number(1, REGISTER + at).number(2, base).number(3, offset).number(4, len))
    }

    fn compare(self, equal: bool, value: &[u8]) -> Expressions {
        self.add("cmp", |compare| compare.number(1, REGISTER).number(2, u32::from(!equal)).nested(3, |data| data.bytes(1, value)))
    }

    /// Holds for packets of one family.
    pub(crate) fn family(self, ipv4: bool) -> Expressions {
        self.meta(15, 0).compare(true, &[family_number(ipv4)])
    }

    /// Holds for packets of one transport protocol.
    pub(crate) fn protocol(self, number: u8) -> Expressions {
        self.meta(16, 0).compare(true, &[number])
    }

    /// Holds for packets that came in by the device, or by any other.
    pub(crate) fn input(self, device: &str, is: bool) -> Expressions {
        self.meta(6, 0).compare(is, &device_name(device))
    }

    /// Holds for packets to an address of this machine.
    pub(crate) fn for_this_machine(self) -> Expressions {
        // fib: the type of the destination address; RTN_LOCAL is 2, in the machine's byte order.
        let expression = self.add("fib", |fib| fib.number(1, REGISTER).number(2, 3).number(3, 2));
        expression.compare(true, &2u32.to_ne_bytes())
    }

    /// Holds where the source address is in `set`.
    pub(crate) fn source_in(self, ipv4: bool, set: &str) -> Expressions {
        let (offset, len) = if ipv4 { (12, 4) } else { (8, 16) };
        self.payload(1, offset, len, 0).lookup(set, None)
    }

    /// Holds where the destination address is in `set`.
    pub(crate) fn destination_in(self, ipv4: bool, set: &str) -> Expressions {
        let (offset, len) = if ipv4 { (16, 4) } else { (24, 16) };
        self.payload(1, offset, len, 0).lookup(set, None)
    }

    /// Holds where destination address, protocol and port are in `set`; in a map, its verdict is taken.
    pub(crate) fn destination_port_in(self, ipv4: bool, set: &str, is_map: bool) -> Expressions {
        let (offset, len) = if ipv4 { (16, 4) } else { (24, 16) };
        let after = len / 4;
        let loaded = self.payload(1, offset, len, 0).meta(16, after).payload(2, 2, 2, after + 1);
        loaded.lookup(set, is_map.then_some(VERDICT_REGISTER))
    }

    fn lookup(self, set: &str, into: Option<u32>) -> Expressions {
        self.add("lookup", |lookup| {
            lookup.text(1, set).number(2, REGISTER);
            match into {
                Some(register) => lookup.number(3, register),
                None => lookup,
            }
        })
    }

    /// Holds for packets that leave by the device.
    pub(crate) fn output(self, device: &str) -> Expressions {
        self.meta(7, 0).compare(true, &device_name(device))
    }

    /// Loads an end of the packet's connection into the register `at`: an address as it is on the way.
    pub(crate) fn end(self, end: End, ipv4: bool, at: u32) -> Expressions {
        // Translated is the destination alone: the reply's source is the backend.
        let (v4, v6, direction) = match end {
            End::Source => (19, 21, 0),
            End::Destination => (19, 21, 1),
        };
        self.connection(if ipv4 { v4 } else { v6 }, Some(direction), at)
    }

    /// Loads the packet's own source address into the register `at`.
    pub(crate) fn packet_source(self, ipv4: bool, at: u32) -> Expressions {
        let (offset, len) = if ipv4 { (12, 4) } else { (8, 16) };
        self.payload(1, offset, len, at)
    }

    /// Loads the packet's own destination address into the register `at`.
    pub(crate) fn packet_destination(self, ipv4: bool, at: u32) -> Expressions {
        let (offset, len) = if ipv4 { (16, 4) } else { (24, 16) };
        self.payload(1, offset, len, at)
    }

    /// Loads the connection's protocol, and into the next register the port at its destination: of an error, those of the
    /// connection that it is about.
    pub(crate) fn protocol_and_port(self, at: u32) -> Expressions {
        self.connection(10, None, at).connection(11, Some(1), at + 1)
    }

    /// Holds for packets of no connection: not tracked, or not right.
    pub(crate) fn no_connection(self) -> Expressions {
        let zero = 0u32.to_ne_bytes();
        let mask = (1u32 | 1 << 6).to_ne_bytes();
        let masked = self.connection(0, None, 0).add("bitwise", |bits| {
            bits.number(1, REGISTER).number(2, REGISTER).number(3, 4);
            bits.nested(4, |data| data.bytes(1, &mask)).nested(5, |data| data.bytes(1, &zero))
        });
        masked.compare(false, &zero)
    }

    /// Loads what is known of the packet's connection, of one of its directions where both have it.
    fn connection(self, key: u32, direction: Option<u8>, at: u32) -> Expressions {
        self.add("ct", |ct| {
            ct.number(1, REGISTER + at).number(2, key);
            match direction {
                Some(direction) => ct.bytes(3, &[direction]),
                None => ct,
            }
        })
    }

    /// Holds where what is in the registers from `from` on is in `set`, or not in it.
    pub(crate) fn within(self, set: &str, from: u32, is: bool) -> Expressions {
        self.add("lookup", |lookup| {
            lookup.text(1, set).number(2, REGISTER + from);
            if is { lookup } else { lookup.number(5, 1) }
        })
    }

    /// Takes the verdict that `map` has for what is in the registers from the first one on.
    pub(crate) fn verdict_of(self, map: &str) -> Expressions {
        self.lookup(map, Some(VERDICT_REGISTER))
    }

    /// Counts packets and bytes.
    pub(crate) fn counter(self) -> Expressions {
        self.add("counter", |counter| counter)
    }

    /// Hashes the source address to a number below `modulus`: the same for every connection of a client. With the source port
    /// each connection has its own.
    pub(crate) fn hash_of_source(self, ipv4: bool, with_port: bool, modulus: u32) -> Expressions {
        let (offset, len) = if ipv4 { (12, 4) } else { (8, 16) };
        // A fixed seed: a client keeps its backend when the rules are written anew.
        let seed = 0x6c62_7269;
        let loaded = self.payload(1, offset, len, 0);
        // The port takes a register of its own, of which the rest is zero.
        let (loaded, len) = if with_port { (loaded.payload(2, 0, 2, len / 4), len + 4) } else { (loaded, len) };
        loaded.add("hash", |hash| {
            hash.number(1, REGISTER).number(2, REGISTER).number(3, len).number(4, modulus).number(5, seed).number(7, 0)
        })
    }

    /// Replaces the number by the backend that `map` has for it, and translates the destination to that.
    pub(crate) fn translate_by(self, ipv4: bool, map: &str) -> Expressions {
        self.lookup(map, Some(REGISTER)).nat(ipv4)
    }

    /// Translates the destination to the address and port in the registers.
    fn nat(self, ipv4: bool) -> Expressions {
        let port = REGISTER + if ipv4 { 1 } else { 4 };
        self.add("nat", |nat| {
            nat.number(1, 1).number(2, u32::from(family_number(ipv4)));
            nat.number(3, REGISTER).number(4, REGISTER).number(5, port).number(6, port)
        })
    }

    /// Answers with a TCP reset.
    pub(crate) fn reset(self) -> Expressions {
        self.add("reject", |reject| reject.number(1, 1).bytes(2, &[0]))
    }

    /// Answers that the port is unreachable, by ICMP of the packet's family.
    pub(crate) fn unreachable(self) -> Expressions {
        self.add("reject", |reject| reject.number(1, 2).bytes(2, &[1]))
    }

    /// Keeps the packet out of connection tracking.
    pub(crate) fn untracked(self) -> Expressions {
        self.add("notrack", |none| none)
    }

    /// Gives a verdict.
    pub(crate) fn verdict(self, verdict: &Verdict) -> Expressions {
        self.add("immediate", |immediate| immediate.number(1, VERDICT_REGISTER).nested(2, |data| verdict.write(data)))
    }
}
