//! A workload's address is not given out again for a minute: who reads late must not take one workload for another.

use mesh_core::{
    Endpoint, EndpointSlice, Event, Publisher, RecordKey, Resource, Service, ServiceExport, ServiceKind, SessionAffinity,
    SourceId, State, Statement, record,
};

use crate::fixture::*;

const A: &str = "10.1.1.5";
const B: &str = "10.1.1.6";

/// East, with its publisher and what it has published at each second.
struct East {
    state: State,
    publisher: Publisher,
}

impl East {
    fn new() -> East {
        let mut east = East { state: state_of("east"), publisher: publisher(1) };
        assert_eq!(tell(&mut east.state, &signed_grant(grant("east"))), []);
        east.set(0, node("east", 1));
        let _ = east.state.apply(Event::Synced(source()), now(0));
        east
    }

    fn set(&mut self, at: u64, resource: Resource) {
        self.publisher.note(&self.state.apply(Event::Set(source(), resource), now(at)));
    }

    fn unset(&mut self, at: u64, id: &str) {
        self.publisher.note(&self.state.apply(Event::Unset(source(), workload_key(id)), now(at)));
    }

    /// Publishes; returns the slice of `shop` where it was signed: each workload with its addresses.
    fn publish(&mut self, at: u64) -> Option<Vec<String>> {
        let records = self.publisher.update(&self.state, now(at));
        let (_, bytes) = records.into_iter().find(|(key, _)| key.to_string() == "slice/shop/n1")?;
        let _ = self.state.apply(Event::Record(bytes.clone()), now(at));
        let Statement::Record(record) = record::open(&bytes).expect("just signed").into_contents().statement else {
            unreachable!()
        };
        let of = |resource: &Resource| match resource {
            Resource::Workload(workload) => format!("{} {:?}", workload.id.name, workload.addresses),
            _ => unreachable!("a slice holds workloads"),
        };
        Some(record.resources.iter().map(of).collect())
    }
}

fn source() -> SourceId {
    SourceId("manifests".into())
}

fn publisher(incarnation: u64) -> Publisher {
    Publisher::new(cluster("east"), key_of("east"), root().public(), incarnation)
}

fn pod(name: &str, app: &str, address: &str) -> Resource {
    let Resource::Workload(mut workload) = workload(&format!("east/shop/{name}"), 1, address) else { unreachable!() };
    workload.labels = [("app", app)].into_iter().collect();
    Resource::Workload(workload)
}

fn says(name: &str, address: &str) -> Option<Vec<String>> {
    Some(vec![format!("{name} [{address}]")])
}

#[test]
fn another_identity_waits_a_minute_for_the_address() {
    let mut east = East::new();
    east.set(0, pod("web", "web", A));
    assert_eq!(east.publish(0), says("web", A));
    east.unset(10, "east/shop/web");
    east.set(10, pod("db", "db", A));
    assert_eq!(east.publish(10), Some(vec![]), "the tombstone, and nobody else");
    assert_eq!(east.publish(69), None);
    assert!(east.publisher.poll_timeout() <= now(70).time, "it says itself when to come back");
    assert_eq!(east.publish(70), says("db", A));
    assert_eq!(east.publish(200), None, "once");
}

#[test]
fn a_workload_that_moves_gives_its_address_up() {
    let mut east = East::new();
    east.set(0, pod("web", "web", A));
    assert_eq!(east.publish(0), says("web", A));
    east.set(10, pod("web", "web", B));
    assert_eq!(east.publish(10), says("web", B));
    east.set(20, pod("db", "db", A));
    assert_eq!(east.publish(20), None);
    assert_eq!(east.publish(70), Some(vec![format!("db [{A}]"), format!("web [{B}]")]));
}

#[test]
fn its_like_and_itself_have_it_at_once() {
    let mut east = East::new();
    east.set(0, pod("web-0", "web", A));
    assert_eq!(east.publish(0), says("web-0", A));
    east.unset(10, "east/shop/web-0");
    east.set(10, pod("web-1", "web", A));
    assert_eq!(east.publish(10), says("web-1", A), "a replica of the same deployment");
    east.unset(20, "east/shop/web-1");
    assert_eq!(east.publish(20), Some(vec![]));
    east.set(30, pod("web-1", "web", A));
    assert_eq!(east.publish(30), says("web-1", A), "a pod of a StatefulSet that comes back");
    east.set(40, pod("web-1", "canary", A));
    assert_eq!(east.publish(40), says("web-1", A), "a pod whose labels change was never gone");
    east.unset(50, "east/shop/web-1");
    assert_eq!(east.publish(50), Some(vec![]));
    east.set(60, pod("web-1", "web", A));
    assert_eq!(east.publish(60), None, "by then it was a canary's");
    assert_eq!(east.publish(110), says("web-1", A));
}

#[test]
fn a_restart_forgets_neither_who_has_an_address_nor_which_ones_rest() {
    let mut east = East::new();
    east.set(0, pod("web", "web", A));
    east.set(0, pod("old", "old", B));
    east.publish(0);
    east.unset(10, "east/shop/old");
    east.publish(10);
    let saved = east.publisher.save();
    // While nobody publishes, both addresses get new owners.
    east.unset(20, "east/shop/web");
    east.set(20, pod("db", "db", A));
    east.set(20, pod("new", "new", B));
    let root = root().public();
    east.publisher = Publisher::restore(cluster("east"), key_of("east"), root, 2, &saved).expect("its own");
    assert_eq!(east.publish(30), Some(vec![]));
    assert_eq!(east.publish(70), says("new", B), "which rests since before");
    assert_eq!(east.publish(90), Some(vec![format!("db [{A}]"), format!("new [{B}]")]), "which rests since it was noticed");
    // A publisher that remembers nothing knows what the store has of the last one.
    east.unset(95, "east/shop/db");
    east.set(95, pod("web", "web", A));
    east.publisher = publisher(3);
    assert_eq!(east.publish(100), says("new", B));
    assert_eq!(east.publish(160), Some(vec![format!("new [{B}]"), format!("web [{A}]")]));
}

#[test]
fn an_address_that_rests_is_no_backend_either() {
    let mut east = East::new();
    let id: mesh_core::ServiceId = "shop/db".parse().expect("an id");
    let endpoint = Endpoint {
        addresses: vec![A.parse().expect("an address")],
        ready: true,
        terminating: false,
        hostname: None,
        node: None,
        ports: Vec::new(),
    };
    east.set(
        0,
        Resource::Service(Service {
            cluster: cluster("east"),
            id: id.clone(),
            kind: ServiceKind::ClusterIp,
            addresses: Vec::new(),
            ports: Vec::new(),
            affinity: SessionAffinity::None,
            traffic: mesh_core::Traffic::default(),
            publish_not_ready: false,
            external_name: None,
        }),
    );
    let export = ServiceExport { cluster: cluster("east"), id: id.clone(), created: None, traffic: Default::default() };
    east.set(0, Resource::ServiceExport(export));
    let (name, service) = ("db-1".parse().expect("a name"), id.clone());
    east.set(0, Resource::EndpointSlice(EndpointSlice { cluster: cluster("east"), name, service, endpoints: vec![endpoint] }));
    east.set(0, pod("web", "web", A));
    let backends = |east: &mut East, at| {
        let records = east.publisher.update(&east.state, now(at));
        let (_, bytes) = records.into_iter().find(|(key, _)| *key == RecordKey::Export(id.clone()))?;
        let Statement::Record(record) = record::open(&bytes).expect("just signed").into_contents().statement else {
            unreachable!()
        };
        match &record.resources[..] {
            [Resource::Export(export)] => Some(export.endpoints.len()),
            _ => unreachable!("one export"),
        }
    };
    assert_eq!(backends(&mut east, 0), Some(1));
    east.unset(10, "east/shop/web");
    east.set(10, pod("db", "db", A));
    assert_eq!(backends(&mut east, 10), Some(0));
    assert_eq!(backends(&mut east, 70), Some(1));
}
