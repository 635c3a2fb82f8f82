//! A cluster of a fleet with many services: the input of the benchmarks of discovery.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use mesh_core::{
    Change, ClusterName, Endpoint, EndpointPort, EndpointSlice, Event, ExportTraffic, Grant, NamePattern, Now, Protocol,
    Resource, RootRecord, SecretKey, Service, ServiceExport, ServiceId, ServiceImport, ServiceKind, ServicePort, SessionAffinity,
    Settings, SourceId, State, StateConfig, Traffic, Trust, WallTime,
};

/// How many namespaces the services are spread over.
const NAMESPACES: u32 = 500;

/// How many services there are, each with how many endpoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Catalog {
    /// The services; every second one is headless, the others have addresses.
    pub services: u32,
    /// The endpoints of each; those of a headless service have hostnames.
    pub endpoints: u32,
    /// All services are exported to the fleet, too.
    pub exported: bool,
}

impl Catalog {
    /// Returns the cluster whose services they are.
    pub fn cluster() -> ClusterName {
        ClusterName::new("east").expect("a name")
    }

    /// Returns the moment of all events.
    pub fn now() -> Now {
        Now { wall: WallTime::from_unix_secs(10), ..Now::default() }
    }

    /// Returns the state of an agent of a fleet that knows all of them.
    pub fn state(&self) -> State {
        let root = SecretKey::from_bytes([1; 32]);
        let trust = Trust::Signed { root: root.public(), cluster: Catalog::cluster() };
        let config = StateConfig { fleet: "bench".into(), trust, settings: Settings::default(), domains: BTreeMap::new() };
        let mut state = State::new(config);
        let grant = Grant {
            cluster: Catalog::cluster(),
            key: Some(SecretKey::from_bytes([2; 32]).public()),
            next_key: None,
            prefixes: vec!["10.0.0.0/8".parse().expect("a prefix")],
            service_prefixes: vec!["100.64.0.0/10".parse().expect("a prefix")],
            namespaces: vec![NamePattern("*".into())],
            exports: vec!["*".parse().expect("a pattern")],
            attributes: BTreeMap::new(),
            not_before: WallTime::from_unix_secs(0),
            not_after: WallTime::from_unix_secs(1000),
            epoch: 1,
        };
        let grant = RootRecord::Grant(Arc::new(grant)).sign(&root).expect("a grant of reasonable size");
        assert!(state.apply(Event::Record(grant), Catalog::now()).refusals.is_empty());
        for number in 0..self.services {
            for resource in self.facts(number) {
                let _ = Catalog::tell(&mut state, resource);
            }
        }
        state
    }

    /// Tells the state a fact, as the cluster's manifests would.
    pub fn tell(state: &mut State, fact: Resource) -> Change {
        let change = state.apply(Event::Set(SourceId("manifests".into()), fact), Catalog::now());
        assert!(change.refusals.is_empty(), "{:?}", change.refusals);
        change
    }

    /// Returns the service of a number.
    pub fn id(number: u32) -> ServiceId {
        format!("team-{}/service-{number}", number % NAMESPACES).parse().expect("a service")
    }

    /// Tells whether a service is headless.
    pub fn is_headless(number: u32) -> bool {
        number.is_multiple_of(2)
    }

    /// Returns the endpoints of a service; the last one has another address for each `version`.
    pub fn slice(&self, number: u32, version: u32) -> Resource {
        let first = 0x0a00_0000 + number * (self.endpoints + 2);
        let endpoint = |index: u32| Endpoint {
            addresses: vec![address(first + index + if index + 1 == self.endpoints { version % 2 } else { 0 })],
            ready: true,
            terminating: false,
            hostname: Catalog::is_headless(number).then(|| format!("service-{number}-{index}").into()),
            node: None,
            ports: vec![EndpointPort { name: Some("http".into()), protocol: Protocol::Tcp, port: Some(8080) }],
        };
        Resource::EndpointSlice(EndpointSlice {
            cluster: Catalog::cluster(),
            name: format!("service-{number}-1").parse().expect("a name"),
            service: Catalog::id(number),
            endpoints: (0..self.endpoints).map(endpoint).collect(),
        })
    }

    fn facts(&self, number: u32) -> Vec<Resource> {
        let (cluster, id, headless) = (Catalog::cluster(), Catalog::id(number), Catalog::is_headless(number));
        let port = ServicePort { name: Some("http".into()), protocol: Protocol::Tcp, port: 80, app_protocol: None };
        let service = Service {
            cluster: cluster.clone(),
            id: id.clone(),
            kind: if headless { ServiceKind::Headless } else { ServiceKind::ClusterIp },
            addresses: if headless { Vec::new() } else { vec![address(0xac10_0000 + number)] },
            ports: vec![port],
            affinity: SessionAffinity::None,
            traffic: Traffic::default(),
            publish_not_ready: false,
            external_name: None,
        };
        let mut facts = vec![Resource::Service(service), self.slice(number, 0)];
        if self.exported {
            let import =
                ServiceImport { cluster: cluster.clone(), id: id.clone(), addresses: vec![address(0x6440_0001 + number)] };
            let export = ServiceExport { cluster, id, created: None, traffic: ExportTraffic::default() };
            facts.push(Resource::ServiceExport(export));
            facts.extend((!headless).then_some(Resource::ServiceImport(import)));
        }
        facts
    }
}

fn address(bits: u32) -> IpAddr {
    Ipv4Addr::from_bits(bits).into()
}
