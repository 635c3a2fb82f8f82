//! The expressions that rules are made of.

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
#[derive(Clone, Debug)]
pub(crate) enum Verdict {
    /// Goes on in another chain, for good.
    Goto(String),
    /// Goes on in another chain, and comes back.
    Jump(String),
    /// Goes back to the calling chain.
    Return,
    /// Is dropped.
    Drop,
}

impl Verdict {
    pub(crate) fn write<'a>(&self, data: &'a mut Attributes) -> &'a mut Attributes {
        let (code, chain) = match self {
            Verdict::Jump(chain) => (-3i32, Some(chain)),
            Verdict::Goto(chain) => (-4, Some(chain)),
            Verdict::Return => (-5, None),
            Verdict::Drop => (0, None),
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

/// The expressions of one rule: each goes on only where it holds.
#[derive(Debug, Default)]
pub(crate) struct Expressions(Vec<(&'static str, Attributes)>);

impl Expressions {
    pub(crate) fn new() -> Expressions {
        Expressions::default()
    }

    pub(super) fn finish(self) -> Vec<(&'static str, Attributes)> {
        self.0
    }

    fn add(mut self, name: &'static str, fill: impl FnOnce(&mut Attributes) -> &mut Attributes) -> Expressions {
        let mut attributes = Attributes::default();
        fill(&mut attributes);
        self.0.push((name, attributes));
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
        let mut name = [0; libc::IFNAMSIZ];
        name.iter_mut().zip(device.as_bytes()).for_each(|(to, from)| *to = *from);
        self.meta(6, 0).compare(is, &name)
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
