//! Whether one selector, port list or network lies inside another, whoever is there.

use std::collections::BTreeSet;

use mesh_core::policy::PortMatch;
use mesh_core::{Prefix, Protocol, Requirement, Selector};

/// Tells whether all that `narrow` selects, `wide` selects.
pub(super) fn selector(wide: &Selector, narrow: &Selector) -> bool {
    wide.requirements.iter().all(|requirement| implies(narrow, requirement))
}

fn implies(narrow: &Selector, wanted: &Requirement) -> bool {
    let has = |is: &dyn Fn(&Requirement) -> bool| narrow.requirements.iter().any(is);
    match wanted {
        Requirement::In(key, values) => {
            allowed(narrow, key).is_some_and(|own| own.iter().all(|v| values.iter().any(|w| **w == **v)))
        }
        Requirement::NotIn(key, values) => {
            let none_of = |own: &BTreeSet<&str>| !values.iter().any(|value| own.contains(value.as_ref()));
            allowed(narrow, key).is_some_and(|own| none_of(&own))
                || has(&|own| matches!(own, Requirement::DoesNotExist(k) if k == key))
                || has(&|own| matches!(own, Requirement::NotIn(k, more) if k == key && values.iter().all(|v| more.contains(v))))
        }
        Requirement::Exists(key) => {
            allowed(narrow, key).is_some() || has(&|own| matches!(own, Requirement::Exists(k) if k == key))
        }
        Requirement::DoesNotExist(key) => has(&|own| matches!(own, Requirement::DoesNotExist(k) if k == key)),
    }
}

/// Returns the values that `selector` allows for `key`; `None` where it does not ask for one of a list.
fn allowed<'a>(selector: &'a Selector, key: &str) -> Option<BTreeSet<&'a str>> {
    let mut allowed: Option<BTreeSet<&str>> = None;
    for requirement in &selector.requirements {
        if let Requirement::In(k, values) = requirement
            && **k == *key
        {
            let values: BTreeSet<&str> = values.iter().map(AsRef::as_ref).collect();
            allowed = Some(allowed.map_or(values.clone(), |own| own.intersection(&values).copied().collect()));
        }
    }
    let mut allowed = allowed?;
    for requirement in &selector.requirements {
        if let Requirement::NotIn(k, values) = requirement
            && **k == *key
        {
            allowed.retain(|own| !values.iter().any(|value| **value == **own));
        }
    }
    Some(allowed)
}

/// Tells whether all ports of `narrow` are in `wide`; an empty list is every port.
pub(super) fn ports(wide: &[PortMatch], narrow: &[PortMatch]) -> bool {
    wide.is_empty() || (!narrow.is_empty() && narrow.iter().all(|port| is_port_in(wide, port)))
}

fn is_port_in(wide: &[PortMatch], port: &PortMatch) -> bool {
    let whole = |protocol: Protocol| wide.contains(&PortMatch::Protocol(protocol)) || is_range_in(wide, protocol, 0, u16::MAX);
    match port {
        PortMatch::Protocol(protocol) if protocol.has_ports() => whole(*protocol),
        PortMatch::Protocol(_) => wide.contains(port),
        PortMatch::Range(protocol, first, last) => whole(*protocol) || is_range_in(wide, *protocol, *first, *last),
        PortMatch::Named(protocol, name) => {
            let with_ports = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
            wide.contains(port)
                || wide.contains(&PortMatch::Named(None, name.clone()))
                || protocol.map_or_else(|| with_ports.into_iter().all(whole), whole)
        }
    }
}

/// Tells whether the ranges of `wide` together hold every port from `first` to `last`.
fn is_range_in(wide: &[PortMatch], protocol: Protocol, first: u16, last: u16) -> bool {
    let mut ranges: Vec<(u16, u16)> = wide
        .iter()
        .filter_map(|port| match port {
            PortMatch::Range(own, first, last) if *own == protocol => Some((*first, *last)),
            _ => None,
        })
        .collect();
    ranges.sort_unstable();
    let mut next = u32::from(first);
    for (from, to) in ranges {
        if u32::from(from) <= next {
            next = next.max(u32::from(to) + 1);
        }
    }
    next > u32::from(last)
}

/// Tells whether every address of `narrow` without its exceptions is in `wide` without its own.
pub(super) fn networks(wide: (&[Prefix], &[Prefix]), narrow: (&[Prefix], &[Prefix])) -> bool {
    let excepted = |prefix: &Prefix| narrow.1.iter().any(|except| except.covers(*prefix));
    let mut rest = narrow.0.iter().filter(|network| !excepted(network));
    rest.all(|network| {
        let inside = wide.0.iter().any(|other| other.covers(*network));
        inside && wide.1.iter().all(|except| !except.overlaps(*network) || excepted(except))
    })
}

/// Tells whether every name that `narrow` means, `wide` means.
pub(super) fn domain(wide: &str, narrow: &str) -> bool {
    match (wide.strip_prefix("*."), narrow.strip_prefix("*.")) {
        (None, _) => wide == narrow,
        (Some(_), None) => crate::rules::domain_matches(wide, narrow),
        (Some(rest), Some(own)) => rest == own || crate::rules::domain_matches(wide, own),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mesh_core::Labels;
    use proptest::prelude::*;

    fn values() -> impl Strategy<Value = Vec<std::sync::Arc<str>>> {
        proptest::collection::vec(proptest::sample::select(vec!["a", "b", "c"]).prop_map(Into::into), 1..3)
    }

    fn some_selector() -> impl Strategy<Value = Selector> {
        let requirement =
            (proptest::sample::select(vec!["x", "y"]), values(), 0..4u8).prop_map(|(key, values, kind)| match kind {
                0 => Requirement::In(key.into(), values),
                1 => Requirement::NotIn(key.into(), values),
                2 => Requirement::Exists(key.into()),
                _ => Requirement::DoesNotExist(key.into()),
            });
        proptest::collection::vec(requirement, 0..3).prop_map(|requirements| Selector { requirements })
    }

    fn every_labels() -> Vec<Labels> {
        let value = ["", "a", "b", "c", "d"];
        let label = |key: &'static str, value: &'static str| (!value.is_empty()).then_some((key, value));
        value.iter().flat_map(|x| value.iter().map(move |y| label("x", x).into_iter().chain(label("y", y)).collect())).collect()
    }

    fn some_ports() -> impl Strategy<Value = Vec<PortMatch>> {
        let protocol = || proptest::sample::select(vec![Protocol::Tcp, Protocol::Udp]);
        let port = prop_oneof![
            1 => protocol().prop_map(PortMatch::Protocol),
            4 => (protocol(), 0..6u16, 0..6u16).prop_map(|(p, a, b)| PortMatch::Range(p, a.min(b), a.max(b))),
        ];
        proptest::collection::vec(port, 0..4)
    }

    proptest! {
        #[test]
        fn a_selector_inside_another_selects_no_more(wide in some_selector(), narrow in some_selector()) {
            if selector(&wide, &narrow) {
                for labels in every_labels() {
                    prop_assert!(!narrow.matches(&labels) || wide.matches(&labels), "{wide} {narrow} {labels}");
                }
            }
        }

        #[test]
        fn ports_inside_others_are_all_there(wide in some_ports(), narrow in some_ports()) {
            let has = |ports: &[PortMatch], protocol: Protocol, number: u16| ports.is_empty() || ports.iter().any(|port| match port {
                PortMatch::Protocol(p) => *p == protocol,
                PortMatch::Range(p, a, b) => *p == protocol && (*a..=*b).contains(&number),
                PortMatch::Named(..) => false,
            });
            let inside = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp]
                .into_iter()
                .all(|protocol| (0..9).all(|number| !has(&narrow, protocol, number) || has(&wide, protocol, number)));
            // Both ways: the small numbers are all that the ranges name, and beyond them only a whole protocol reaches.
            prop_assert_eq!(ports(&wide, &narrow), inside);
        }
    }

    #[test]
    fn networks_lie_inside_each_other_without_their_exceptions() {
        let prefixes = |text: &str| text.split_terminator(' ').map(|p| p.parse().expect("a prefix")).collect::<Vec<Prefix>>();
        for (wide, out, narrow, except, expected) in [
            ("10.0.0.0/8", "", "10.1.0.0/16", "", true),
            ("10.1.0.0/16", "", "10.0.0.0/8", "", false),
            ("10.0.0.0/8", "10.1.0.0/16", "10.1.2.0/24", "", false),
            ("10.0.0.0/8", "10.1.0.0/16", "10.2.0.0/16", "", true),
            ("10.0.0.0/8", "10.1.2.0/24", "10.1.0.0/16", "10.1.2.0/24", true),
            ("::/0", "", "10.0.0.0/8", "", false),
            ("0.0.0.0/0", "", "10.0.0.0/8 192.0.2.0/24", "", true),
        ] {
            let (wide, out, narrow, except) = (prefixes(wide), prefixes(out), prefixes(narrow), prefixes(except));
            assert_eq!(networks((&wide, &out), (&narrow, &except)), expected, "{wide:?} {out:?} {narrow:?} {except:?}");
        }
        assert!(domain("*.example.com", "a.example.com") && domain("*.example.com", "*.a.example.com"));
        assert!(!domain("a.example.com", "*.example.com") && !domain("*.example.com", "example.com"));
    }
}
