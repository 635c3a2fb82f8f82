//! The view of services is what the state says, after every change and whatever its order.

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::{
    Bytes, Change, Endpoint, EndpointPort, EndpointSlice, Export, ExportTraffic, Grant, Key, Labels, Namespace, Record,
    RecordKey, RootRecord, SecretKey, ServiceExport, ServiceImport, Settings, Traffic, Version, WorkloadId,
};

const CLUSTERS: [&str; 3] = ["east", "north", "west"];
const NAMESPACES: [&str; 2] = ["bank", "shop"];
const SERVICES: [&str; 3] = ["api", "db", "web"];

/// Something that happens, in a small world where everything refers to everything.
#[derive(Clone, Copy, Debug)]
struct Step {
    what: u8,
    cluster: usize,
    namespace: usize,
    service: usize,
    variant: u8,
}

fn step() -> impl Strategy<Value = Step> {
    (0u8..22, 0usize..3, 0usize..2, 0usize..3, any::<u8>()).prop_map(|(what, cluster, namespace, service, variant)| Step {
        what,
        cluster,
        namespace,
        service,
        variant,
    })
}

impl Step {
    fn cluster(self) -> ClusterName {
        name(CLUSTERS[self.cluster])
    }

    fn id(self) -> ServiceId {
        format!("{}/{}", NAMESPACES[self.namespace], SERVICES[self.service]).parse().expect("a service")
    }

    fn event(self, counter: u64) -> Event {
        let source = SourceId("manifests".into());
        match self.what {
            0 => Event::Begin(source),
            1 => Event::Synced(source),
            2 => grant(self),
            // Where nobody signs, exports are told as they are, also those that export nothing.
            3 if self.variant & 16 != 0 => Event::Set(source, Resource::Export(export(self))),
            3..6 => Event::Record(signed(self, counter)),
            6..15 => Event::Set(source, fact(self)),
            _ => Event::Unset(source, fact(Step { what: self.what - 9, ..self }).key()),
        }
    }
}

fn key_of(cluster: &ClusterName) -> SecretKey {
    SecretKey::from_bytes([cluster.as_str().as_bytes()[0]; 32])
}

fn root() -> SecretKey {
    SecretKey::from_bytes([7; 32])
}

/// A grant with more or less in it: a plain fact where grants are declared, signed where the root is known.
fn grant(step: Step) -> Event {
    let bit = |bit: u8| step.variant & (1 << bit) != 0;
    let grant = Grant {
        cluster: step.cluster(),
        key: Some(key_of(&step.cluster()).public()),
        next_key: None,
        prefixes: vec!["10.0.0.0/8".parse().expect("a prefix")],
        service_prefixes: if bit(0) { vec!["100.90.0.0/29".parse().expect("a prefix")] } else { Vec::new() },
        namespaces: vec![crate::NamePattern(if bit(1) { "*" } else { "shop" }.into())],
        exports: vec![if bit(2) || bit(3) { "*/*" } else { "shop/web" }.parse().expect("a pattern")],
        attributes: BTreeMap::new(),
        not_before: WallTime::from_unix_secs(0),
        not_after: WallTime::from_unix_secs(1000),
        epoch: step.variant.into(),
    };
    if bit(4) {
        return Event::Set(SourceId("manifests".into()), Resource::Grant(grant.into()));
    }
    Event::Record(RootRecord::Grant(grant.into()).sign(&root()).expect("a grant of reasonable size"))
}

/// A record of a publisher: an export, allocated addresses, a namespace; or that there is none any more.
fn signed(step: Step, counter: u64) -> Bytes {
    let (cluster, id) = (step.cluster(), step.id());
    let (key, resource) = match step.what {
        3 => {
            (RecordKey::Export(id), Resource::Export(export(Step { variant: (step.variant & !3) | (step.variant % 3), ..step })))
        }
        4 => (RecordKey::Import(id), fact(Step { what: 10, ..step })),
        _ => (RecordKey::Namespace(id.namespace), fact(Step { what: 11, ..step })),
    };
    let resources = if step.variant.is_multiple_of(5) { Vec::new() } else { vec![resource] };
    let record = Record { cluster: cluster.clone(), version: Version { incarnation: 1, counter }, key, resources };
    record.sign(&root().public(), &key_of(&cluster)).expect("a record of reasonable size")
}

fn export(step: Step) -> Export {
    let mut endpoints = vec![endpoint(step.variant), endpoint(step.variant.wrapping_add(1))];
    endpoints.truncate(usize::from(step.variant % 3));
    let Service { cluster, id, kind, ports, affinity, traffic, publish_not_ready, .. } = service(step);
    let created = Some(WallTime::from_unix_secs(u64::from(step.variant % 4)));
    Export { cluster, id, created, kind, ports, affinity, traffic, publish_not_ready, endpoints }
}

fn endpoint(variant: u8) -> Endpoint {
    Endpoint {
        addresses: vec![IpAddr::from([10, 1, 0, variant % 8])],
        ready: variant & 1 == 0,
        terminating: false,
        hostname: (variant & 2 == 0).then(|| "host".into()),
        node: None,
        ports: vec![EndpointPort { name: Some("http".into()), protocol: Protocol::Tcp, port: Some(8080) }],
    }
}

fn service(step: Step) -> Service {
    let kinds = [ServiceKind::ClusterIp, ServiceKind::ClusterIp, ServiceKind::Headless, ServiceKind::ExternalName];
    let kind = kinds[usize::from(step.variant % 4)];
    let port = |name: &str, port| ServicePort { name: Some(name.into()), protocol: Protocol::Tcp, port, app_protocol: None };
    let mut ports = vec![port("http", 80), port("admin", 9000)];
    ports.truncate(usize::from(step.variant / 64));
    Service {
        cluster: step.cluster(),
        id: step.id(),
        kind,
        addresses: Vec::new(),
        ports,
        affinity: SessionAffinity::None,
        traffic: Traffic::default(),
        publish_not_ready: step.variant & 4 != 0,
        external_name: None,
    }
}

fn fact(step: Step) -> Resource {
    let (cluster, id) = (step.cluster(), step.id());
    let created = (step.variant & 1 == 0).then(|| WallTime::from_unix_secs(u64::from(step.variant % 3)));
    match step.what {
        6 | 14 => Resource::Service(service(step)),
        7 | 8 => Resource::EndpointSlice(EndpointSlice {
            cluster,
            // One name in two namespaces, and slices that become another service's.
            name: format!("slice-{}", step.variant % 3).parse().expect("a name"),
            service: id,
            endpoints: (0..step.variant % 4).map(|more| endpoint(step.variant.wrapping_add(more))).collect(),
        }),
        9 | 13 => Resource::ServiceExport(ServiceExport { cluster, id, created, traffic: ExportTraffic::default() }),
        10 => {
            let addresses = (0..step.variant % 3).map(|more| IpAddr::from([100, 90, 0, 1 + more + (step.variant & 3)])).collect();
            Resource::ServiceImport(ServiceImport { cluster, id, addresses })
        }
        11 => Resource::Namespace(Namespace { cluster, name: id.namespace, labels: Labels::default() }),
        _ => Resource::Workload(crate::Workload {
            id: WorkloadId { cluster, namespace: id.namespace, name: id.name },
            labels: Labels::default(),
            service_account: "default".into(),
            node: None,
            host_network: false,
            addresses: Vec::new(),
            ports: Vec::new(),
        }),
    }
}

/// What a view and the state say of all services.
type Said = (BTreeMap<ServiceId, LocalService>, BTreeMap<ServiceId, ImportedService>);

fn said(state: &State, cluster: &ClusterName) -> Said {
    (state.local_services(cluster), state.imported_services(cluster).services)
}

fn check(state: &State, view: &mut Services, change: &Change, before: &mut Said) -> Result<(), TestCaseError> {
    let changed = view.update(state, change);
    let now = said(state, view.cluster());
    let local: Vec<_> = view.local().iter().map(|(id, service)| (id, &**service)).collect();
    prop_assert_eq!(local, now.0.iter().collect::<Vec<_>>());
    let imported: Vec<_> = view.imported().iter().map(|(id, service)| (id, &**service)).collect();
    prop_assert_eq!(imported, now.1.iter().collect::<Vec<_>>());
    let ids = now.0.keys().chain(now.1.keys()).chain(before.0.keys()).chain(before.1.keys()).cloned();
    let differs = |id: &ServiceId| now.0.get(id) != before.0.get(id) || now.1.get(id) != before.1.get(id);
    prop_assert_eq!(changed, ids.filter(differs).collect::<std::collections::BTreeSet<_>>());
    *before = now;
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_is_what_the_state_says_after_every_change(
        steps in vec(step(), 1..120),
        trust in 0..3,
        squash in 1usize..5,
    ) {
        let trust = match trust {
            0 => Trust::Open,
            1 => Trust::Declared,
            _ => Trust::Signed { root: root().public(), cluster: name("east") },
        };
        let config = StateConfig { fleet: "f".into(), trust, settings: Settings::default(), domains: BTreeMap::new() };
        let mut state = State::new(config);
        let now = Now { wall: WallTime::from_unix_secs(10), ..Now::default() };
        for (epoch, cluster) in CLUSTERS.iter().enumerate() {
            let all = Step { what: 2, cluster: epoch, namespace: 0, service: 0, variant: 0b1111 };
            let _ = state.apply(grant(Step { variant: 0b1_1111, ..all }), now);
            prop_assert_eq!(&all.cluster(), &name(cluster));
            let _ = state.apply(grant(all), now);
        }
        let mut views = ["east", "north"].map(|cluster| (Services::new(name(cluster)), Said::default()));
        let mut pending = Change::default();
        for (number, step) in steps.iter().enumerate() {
            pending.merge(state.apply(step.event(number as u64 + 1), now));
            if number % squash == 0 {
                for (view, before) in &mut views {
                    check(&state, view, &pending, before)?;
                }
                pending = Change::default();
            }
        }
        for (view, before) in &mut views {
            check(&state, view, &pending, before)?;
            let mut fresh = Services::new(view.cluster().clone());
            prop_assert!(fresh.update(&state, &Change::default()).iter().eq(&said_ids(before)));
            for id in said_ids(before) {
                let mut exports: Vec<_> = state.exports();
                exports.retain(|export| export.id == id);
                prop_assert!(state.exports_of(&id).iter().map(AsRef::as_ref).eq(&exports));
            }
        }
    }
}

fn said_ids(said: &Said) -> std::collections::BTreeSet<ServiceId> {
    said.0.keys().chain(said.1.keys()).cloned().collect()
}

#[test]
fn a_slice_that_becomes_another_services_changes_both() {
    let east = Cluster::default().service("web", WEB).service("api", WEB).export("web", "").export("api", "");
    let port = "{name: http, port: 8080}";
    let of = |service: &str| Cluster::default().slice("s", service, port, "{addresses: [10.1.0.1]}");
    let mut state = fleet(&[("east", &east)], &[]);
    let mut view = Services::new(name("east"));
    assert_eq!(view.update(&state, &Change::default()).len(), 2);
    let slice = |service: &str| {
        let state = fleet(&[("east", &of(service))], &[]);
        state.facts().slices.values().next().expect("one slice").clone()
    };
    let set = |resource| Event::Set(SourceId("late".into()), Resource::EndpointSlice(resource));
    let change = state.apply(set(slice("web")), Now::default());
    assert_eq!(view.update(&state, &change).into_iter().collect::<Vec<_>>(), [id("web")]);
    assert_eq!(view.imported()[&id("web")].backends.len(), 1);
    let change = state.apply(set(slice("api")), Now::default());
    assert_eq!(view.update(&state, &change).into_iter().collect::<Vec<_>>(), [id("api"), id("web")]);
    assert_eq!((view.imported()[&id("web")].backends.len(), view.local()[&id("api")].backends.len()), (0, 1));
    let gone = Event::Unset(
        SourceId("late".into()),
        Key::EndpointSlice(name("east"), "shop".parse().expect("a name"), "s".parse().expect("a name")),
    );
    let change = state.apply(gone, Now::default());
    assert_eq!(view.update(&state, &change).into_iter().collect::<Vec<_>>(), [id("api")]);
    assert!(view.update(&state, &change).is_empty(), "told twice, it changes nothing");
}
