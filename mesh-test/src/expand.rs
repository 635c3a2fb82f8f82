//! Expanders: other ways in which a source may tell the same facts. The state at the end must be the same.

use mesh_core::{Change, Event, Now, Resource, SourceId, State};

/// A way to tell facts.
pub type Expander = fn(&SourceId, &[Resource]) -> Vec<Event>;

/// Every expander, by name.
pub const EXPANDERS: &[(&str, Expander)] = &[
    ("in order", in_order),
    ("reversed", reversed),
    ("duplicated", duplicated),
    ("interleaved with empties", interleaved),
    ("removed while referenced", removed),
];

/// Applies `events`, and calls `each` after every one of them.
pub fn play(state: &mut State, events: Vec<Event>, mut each: impl FnMut(&State, &Change)) {
    for event in events {
        let change = state.apply(event, Now::default());
        each(state, &change);
    }
}

fn set(source: &SourceId, facts: &[Resource]) -> Vec<Event> {
    facts.iter().map(|fact| Event::Set(source.clone(), fact.clone())).collect()
}

fn told(source: &SourceId, facts: Vec<Event>) -> Vec<Event> {
    let mut events = vec![Event::Begin(source.clone())];
    events.extend(facts);
    events.push(Event::Synced(source.clone()));
    events
}

fn in_order(source: &SourceId, facts: &[Resource]) -> Vec<Event> {
    told(source, set(source, facts))
}

fn reversed(source: &SourceId, facts: &[Resource]) -> Vec<Event> {
    let mut events = set(source, facts);
    events.reverse();
    told(source, events)
}

fn duplicated(source: &SourceId, facts: &[Resource]) -> Vec<Event> {
    let events = set(source, facts);
    let twice: Vec<Event> = events.iter().flat_map(|event| [event.clone(), event.clone()]).collect();
    told(source, twice.into_iter().chain(events).collect())
}

/// Half of it, then nothing, then half of it again and all of it, while another source tells nothing.
fn interleaved(source: &SourceId, facts: &[Resource]) -> Vec<Event> {
    let (other, half) = (SourceId("another".into()), set(source, &facts[..facts.len() / 2]));
    let mut events = told(source, half.clone());
    events.extend(told(source, Vec::new()));
    events.push(Event::Begin(source.clone()));
    events.extend(half);
    events.extend(told(&other, Vec::new()));
    events.extend(in_order(source, facts));
    events.extend(told(&other, Vec::new()));
    events
}

/// Every fact goes while the others are there, and comes back; at last all go one by one, and come back in another order.
fn removed(source: &SourceId, facts: &[Resource]) -> Vec<Event> {
    let unset = |fact: &Resource| Event::Unset(source.clone(), fact.key());
    let mut events = in_order(source, facts);
    events.extend(facts.iter().flat_map(|fact| [unset(fact), Event::Set(source.clone(), fact.clone())]));
    events.extend(facts.iter().map(unset));
    let mut again = set(source, facts);
    again.reverse();
    events.extend(again);
    events
}
