//! A publisher that signs namespaces, and an agent elsewhere that believes them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use mesh_core::{
    Bytes, ClusterName, Event, Grant, Labels, NamePattern, Namespace, Now, Record, RecordKey, Resource, RootRecord, SecretKey,
    Settings, State, StateConfig, Statement, Time, Trust, Version, WallTime, record,
};
use mesh_source::{Outbox, OutboxConfig, OutboxEvent, RecordPath, Source, Store, StoreSource};
use tokio::time::timeout;

use super::{DEADLINE, east, id};

pub(crate) fn root() -> SecretKey {
    SecretKey::from_bytes([7; 32])
}

pub(crate) fn key() -> SecretKey {
    SecretKey::from_bytes([1; 32])
}

pub(crate) fn wall() -> WallTime {
    WallTime::from_unix_secs(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs())
}

pub(crate) fn grant() -> Bytes {
    let grant = Grant {
        cluster: east(),
        key: Some(key().public()),
        next_key: None,
        prefixes: Vec::new(),
        service_prefixes: Vec::new(),
        namespaces: vec![NamePattern("*".into())],
        exports: Vec::new(),
        attributes: BTreeMap::new(),
        not_before: WallTime::from_unix_secs(1),
        not_after: WallTime::from_unix_secs(u64::MAX / 2_000_000_000),
        epoch: 1,
    };
    RootRecord::Grant(Arc::new(grant)).sign(&root()).expect("fits")
}

/// Signs that a namespace is there with a label, or, without one, that it is not.
pub(crate) fn namespace(version: (u64, u64), name: &str, label: Option<&str>) -> (RecordPath, Bytes) {
    let key_of = RecordKey::Namespace(name.parse().expect("a name"));
    let labels = |label: &str| [("label", label)].into_iter().collect::<Labels>();
    let resource = label.map(|label| {
        Resource::Namespace(Namespace { cluster: east(), name: name.parse().expect("a name"), labels: labels(label) })
    });
    let version = Version { incarnation: version.0, counter: version.1 };
    let record = Record { cluster: east(), version, key: key_of.clone(), resources: resource.into_iter().collect() };
    (RecordPath::record(&east(), &key_of), record.sign(&root().public(), &key()).expect("fits"))
}

/// A publisher of namespaces, by its facts: as the real one, it signs all of them in each life, and tombstones for what it finds.
pub(crate) struct Publishing {
    pub(crate) outbox: Outbox,
    pub(crate) incarnation: Option<u64>,
    facts: BTreeMap<String, String>,
    counter: u64,
}

impl Publishing {
    pub(crate) fn start(store: &Arc<dyn Store>, holder: &str, floor: u64) -> Publishing {
        let config = OutboxConfig { cluster: east(), signers: vec![key().public()], holder: holder.into(), floor };
        let outbox = Outbox::start(store.clone(), config);
        Publishing { outbox, incarnation: None, facts: BTreeMap::new(), counter: 0 }
    }

    pub(crate) fn set(&mut self, name: &str, label: Option<&str>) {
        match label {
            Some(label) => self.facts.insert(name.into(), label.into()),
            None => self.facts.remove(name),
        };
        self.sign(name);
    }

    fn sign(&mut self, name: &str) {
        let Some(incarnation) = self.incarnation else { return };
        self.counter += 1;
        let label = self.facts.get(name).map(String::as_str);
        self.outbox.put(incarnation, [namespace((incarnation, self.counter), name, label)]);
    }

    fn find(&mut self, bytes: &Bytes) {
        let Ok(Statement::Record(record)) = record::open(bytes).map(|opened| opened.into_contents().statement) else { return };
        let RecordKey::Namespace(name) = record.key else { return };
        if !record.resources.is_empty() {
            self.sign(name.as_str());
        }
    }

    pub(crate) fn take(&mut self, event: OutboxEvent) {
        match event {
            OutboxEvent::Won { incarnation, found } => {
                assert!(self.incarnation.is_none_or(|before| before < incarnation), "an incarnation is never used twice");
                self.incarnation = Some(incarnation);
                let names: Vec<_> = self.facts.keys().cloned().collect();
                names.iter().for_each(|name| self.sign(name));
                found.iter().for_each(|bytes| self.find(bytes));
            }
            OutboxEvent::Lost => self.incarnation = None,
            OutboxEvent::Found(bytes) => self.find(&bytes),
        }
    }

    /// Publishes until it is so.
    pub(crate) async fn until(&mut self, what: &str, is_so: impl Fn(&Publishing) -> bool) {
        let work = async {
            while !is_so(self) {
                let event = self.outbox.next().await.expect("it goes on");
                self.take(event);
            }
        };
        timeout(DEADLINE, work).await.unwrap_or_else(|_| panic!("not in time: {what}"));
    }
}

/// An agent of another cluster.
pub(crate) struct Agent {
    source: StoreSource,
    pub(crate) state: State,
}

impl Agent {
    pub(crate) fn start(store: &dyn Store) -> Agent {
        let config = StateConfig {
            fleet: "test".into(),
            trust: Trust::Signed { root: root().public(), cluster: ClusterName::new("north").expect("valid") },
            settings: Settings::default(),
            domains: BTreeMap::new(),
        };
        let mut state = State::new(config);
        let now = Now { time: Time::from_nanos(1), wall: wall() };
        let change = state.apply(Event::Record(grant()), now);
        assert!(change.refusals.is_empty(), "{change:?}");
        let everything = mesh_source::Interest::everything().fixed();
        Agent { source: StoreSource::new(id(), store, everything), state }
    }

    /// Returns the namespaces that are believed to be there, as `name=label`.
    pub(crate) fn namespaces(&self) -> BTreeSet<String> {
        let label = |namespace: &Namespace| namespace.labels.get("label").map(ToString::to_string).unwrap_or_default();
        self.state.facts().namespaces.values().map(|each| format!("{}={}", each.name, label(each))).collect()
    }

    pub(crate) async fn take(&mut self) {
        let event = self.source.next().await.expect("it goes on");
        let _ = self.state.apply(event, Now { time: Time::from_nanos(1), wall: wall() });
    }

    /// Believes what the store tells, while `publishing` publishes, until exactly these namespaces are there.
    pub(crate) async fn until(&mut self, publishing: &mut Publishing, namespaces: &[&str]) {
        let wanted: BTreeSet<String> = namespaces.iter().map(ToString::to_string).collect();
        let work = async {
            while !self.state.is_synced(&id()) || self.namespaces() != wanted {
                tokio::select! {
                    () = self.take() => {}
                    event = publishing.outbox.next() => publishing.take(event.expect("it goes on")),
                }
            }
        };
        let done = timeout(DEADLINE, work).await;
        done.unwrap_or_else(|_| panic!("not in time: {wanted:?}, known: {:?}", self.namespaces()));
    }
}

/// Waits until the store holds of the cluster exactly what says this: what is there for somebody who comes new.
pub(crate) async fn store_says(store: &dyn Store, publishing: &mut Publishing, namespaces: &[&str]) {
    Agent::start(store).until(publishing, namespaces).await;
}
