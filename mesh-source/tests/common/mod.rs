//! What the tests of the sources share.

#![allow(dead_code, reason = "each test uses a part")]

use std::time::Duration;

use mesh_core::policy::PolicyScope;
use mesh_core::{ClusterName, Event, SourceId};
use mesh_source::{Diagnostics, Source};
use tokio::sync::watch;
use tokio::time::timeout;

pub(crate) mod conformance;
pub(crate) mod fleet;

/// Nothing in these tests takes this long unless it is broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) fn east() -> ClusterName {
    ClusterName::new("east").expect("valid")
}

pub(crate) fn scope() -> PolicyScope {
    PolicyScope::Cluster(east())
}

pub(crate) fn id() -> SourceId {
    SourceId("test".into())
}

pub(crate) async fn next(source: &mut dyn Source) -> String {
    let event = timeout(DEADLINE, source.next()).await.expect("an event in time").expect("the source lives");
    match event {
        Event::Begin(_) => "begin".into(),
        Event::Synced(_) => "synced".into(),
        Event::Set(_, resource) => format!("set {}", resource.key()),
        Event::Unset(_, key) => format!("unset {key}"),
        Event::Record(bytes) => format!("record {}", String::from_utf8_lossy(&bytes)),
        Event::Opened(opened) => format!("opened {}", opened.statement),
    }
}

/// Takes events up to and with `Synced`.
pub(crate) async fn until_synced(source: &mut dyn Source) -> Vec<String> {
    let mut events = Vec::new();
    while events.last().is_none_or(|event| event != "synced") {
        events.push(next(source).await);
    }
    events
}

/// Runs the source until its diagnostics satisfy `good`; an event is a failure.
pub(crate) async fn until(
    source: &mut dyn Source,
    diagnostics: &mut watch::Receiver<Diagnostics>,
    good: impl Fn(&Diagnostics) -> bool,
) -> Diagnostics {
    tokio::select! {
        event = source.next() => panic!("an event that was not expected: {event:?}"),
        found = timeout(DEADLINE, diagnostics.wait_for(|now| good(now))) => {
            found.expect("the diagnostics in time").expect("the source lives").clone()
        }
    }
}
