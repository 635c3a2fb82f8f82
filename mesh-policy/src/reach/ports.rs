//! Sets of protocols and ports, as both sides of connections allow them.

use std::fmt;

use mesh_core::Protocol;
use serde::{Serialize, Serializer};

use crate::set::rows::{KEYS, key, protocol_and_port, span_of_protocol};

/// A set of protocols and ports.
///
/// ```
/// # use mesh_policy::Ports;
/// assert_eq!((Ports::all().to_string(), Ports::none().to_string()), ("all".into(), "none".into()));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ports {
    /// Places of the steps of rows: ascending, apart from each other, the second one excluded.
    spans: Vec<(u32, u32)>,
}

impl Ports {
    /// Returns the empty set.
    pub fn none() -> Ports {
        Ports::default()
    }

    /// Returns every port of every protocol.
    pub fn all() -> Ports {
        Ports { spans: vec![(0, KEYS)] }
    }

    /// Tells whether nothing is in it.
    pub fn is_none(&self) -> bool {
        self.spans.is_empty()
    }

    /// Tells whether everything is in it.
    pub fn is_all(&self) -> bool {
        *self == Ports::all()
    }

    /// Tells whether a port of a protocol is in it; the port is 0 for protocols without ports.
    pub fn contains(&self, protocol: Protocol, port: u16) -> bool {
        self.has(key(protocol, port))
    }

    /// Tells whether a place among the steps of rows is in it.
    pub(crate) fn has(&self, key: u32) -> bool {
        let after = self.spans.partition_point(|(start, _)| *start <= key);
        after.checked_sub(1).is_some_and(|at| key < self.spans[at].1)
    }

    /// Returns what is in both.
    pub fn and(&self, other: &Ports) -> Ports {
        self.combined(other, |one, other| one && other)
    }

    /// Returns what is in one of them.
    pub fn or(&self, other: &Ports) -> Ports {
        self.combined(other, |one, other| one || other)
    }

    /// Returns what is in this one and not in the other.
    pub fn without(&self, other: &Ports) -> Ports {
        self.combined(other, |one, other| one && !other)
    }

    /// Makes the set of one port.
    pub(crate) fn one(protocol: Protocol, port: u16) -> Ports {
        let place = key(protocol, port);
        let end = if protocol.has_ports() { place + 1 } else { span_of_protocol(protocol).1 };
        Ports { spans: vec![(place, end)] }
    }

    /// Makes a set of spans that ascend and do not overlap.
    pub(crate) fn from_spans(spans: impl IntoIterator<Item = (u32, u32)>) -> Ports {
        let mut merged: Vec<(u32, u32)> = Vec::new();
        for (start, end) in spans {
            match merged.last_mut() {
                Some((_, last)) if *last == start => *last = end,
                _ if start < end => merged.push((start, end)),
                _ => {}
            }
        }
        Ports { spans: merged }
    }

    pub(crate) fn spans(&self) -> &[(u32, u32)] {
        &self.spans
    }

    fn combined(&self, other: &Ports, keep: impl Fn(bool, bool) -> bool) -> Ports {
        let mut edges: Vec<u32> = [0, KEYS].into();
        edges.extend(self.spans.iter().chain(&other.spans).flat_map(|(start, end)| [*start, *end]));
        edges.sort_unstable();
        edges.dedup();
        let (mut one, mut two) = (self.spans.iter().peekable(), other.spans.iter().peekable());
        let spans = edges.windows(2).filter(|edge| {
            while one.next_if(|span| span.1 <= edge[0]).is_some() {}
            while two.next_if(|span| span.1 <= edge[0]).is_some() {}
            let inside = |span: Option<&&(u32, u32)>| span.is_some_and(|span| span.0 <= edge[0]);
            keep(inside(one.peek()), inside(two.peek()))
        });
        Ports::from_spans(spans.map(|edge| (edge[0], edge[1])).collect::<Vec<_>>())
    }

    /// Returns protocols with their ranges of ports; no range: all of the protocol.
    fn parts(&self) -> Vec<(String, Vec<String>)> {
        let mut parts = Vec::new();
        for protocol in [Protocol::Tcp, Protocol::Udp, Protocol::Sctp] {
            let span = span_of_protocol(protocol);
            let inside = self.and(&Ports { spans: vec![span] });
            let range = |(start, end): &(u32, u32)| match (protocol_and_port(*start).1, protocol_and_port(end - 1).1) {
                (first, last) if first == last => first.to_string(),
                (first, last) => format!("{first}-{last}"),
            };
            match inside.spans.as_slice() {
                [] => {}
                [whole] if *whole == span => parts.push((protocol.to_string(), Vec::new())),
                spans => parts.push((protocol.to_string(), spans.iter().map(range).collect())),
            }
        }
        let others = (span_of_protocol(Protocol::Other(0)).0, KEYS);
        for span in self.and(&Ports { spans: vec![others] }).spans {
            let (first, last) = (protocol_and_port(span.0).0, protocol_and_port(span.1 - 1).0);
            let name = match first {
                _ if span == others => "other protocols".into(),
                Protocol::Other(1 | 58) if first == last => first.to_string(),
                _ if first == last => format!("protocol {}", number(first)),
                _ => format!("protocols {}-{}", number(first), number(last)),
            };
            parts.push((name, Vec::new()));
        }
        parts
    }
}

fn number(protocol: Protocol) -> u8 {
    protocol.number()
}

/// Writes `all`, `none`, `TCP 80 8000-8100, UDP 53, ICMP`, or `all but TCP 22` where that is shorter.
impl fmt::Display for Ports {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = |ports: &Ports| {
            let parts = ports.parts().into_iter().map(|(name, ranges)| [vec![name], ranges].concat().join(" "));
            parts.collect::<Vec<_>>().join(", ")
        };
        if self.is_none() || self.is_all() {
            return f.pad(if self.is_none() { "none" } else { "all" });
        }
        let (plain, rest) = (text(self), format!("all but {}", text(&Ports::all().without(self))));
        f.pad(if rest.len() < plain.len() { &rest } else { &plain })
    }
}

/// Writes a list: `TCP 80`, `TCP 8000-8100`, `UDP`, `ICMP`, `protocols 2-57`, `other protocols`; `all` alone for everything.
impl Serialize for Ports {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.is_all() {
            return serializer.collect_seq(["all"]);
        }
        serializer.collect_seq(self.parts().into_iter().flat_map(|(name, ranges)| match ranges.is_empty() {
            true => vec![name],
            false => ranges.iter().map(|range| format!("{name} {range}")).collect(),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_told_in_few_words() {
        let tcp = |port| Ports::one(Protocol::Tcp, port);
        let some = tcp(80).or(&tcp(443)).or(&tcp(81)).or(&Ports::one(Protocol::Udp, 53)).or(&Ports::one(Protocol::Other(1), 0));
        assert_eq!(some.to_string(), "TCP 80-81 443, UDP 53, ICMP");
        assert_eq!(serde_json::to_string(&some).expect("JSON"), r#"["TCP 80-81","TCP 443","UDP 53","ICMP"]"#);
        assert_eq!(Ports::all().without(&some).to_string(), "all but TCP 80-81 443, UDP 53, ICMP");
        let whole = |protocol| Ports { spans: vec![span_of_protocol(protocol)] };
        assert_eq!(whole(Protocol::Udp).or(&whole(Protocol::Other(47))).to_string(), "UDP, protocol 47");
        assert_eq!(Ports::all().without(&whole(Protocol::Tcp)).to_string(), "all but TCP");
        assert_eq!(serde_json::to_string(&Ports::all()).expect("JSON"), r#"["all"]"#);
    }

    #[test]
    fn sets_are_combined_port_by_port() {
        let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Other(0), Protocol::Other(47), Protocol::Other(255)];
        let places: Vec<(Protocol, u16)> = protocols
            .into_iter()
            .flat_map(|p| if p.has_ports() { vec![(p, 0), (p, 1), (p, 65535)] } else { vec![(p, 0)] })
            .collect();
        let of = |bits: u32| {
            let chosen = places.iter().enumerate().filter(|(at, _)| bits >> at & 1 == 1);
            chosen.fold(Ports::none(), |ports, (_, (protocol, port))| ports.or(&Ports::one(*protocol, *port)))
        };
        for (one, two) in [(0b1_0110_0111, 0b0_1111_0001), (0, 0b1_1111_1111), (0b1_0101_0101, 0b0_1010_1010)] {
            for (at, (protocol, port)) in places.iter().enumerate() {
                let has = |bits: u32| bits >> at & 1 == 1;
                let found = |ports: Ports| ports.contains(*protocol, *port);
                assert_eq!(found(of(one).and(&of(two))), has(one) && has(two), "{protocol} {port}");
                assert_eq!(found(of(one).or(&of(two))), has(one) || has(two), "{protocol} {port}");
                assert_eq!(found(of(one).without(&of(two))), has(one) && !has(two), "{protocol} {port}");
                assert_eq!(found(Ports::all().without(&of(one))), !has(one), "{protocol} {port}");
            }
            assert_eq!(of(one).or(&Ports::all().without(&of(one))), Ports::all());
        }
    }
}
