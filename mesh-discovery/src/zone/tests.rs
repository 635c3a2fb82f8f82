//! A zone is what the rules say, record by record, after every change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use domain::base::iana::Rtype;
use mesh_core::{
    Change, ClusterName, Endpoint, EndpointPort, EndpointSlice, Event, ExportTraffic, Labels, Namespace, Now, Protocol, Resource,
    Service, ServiceExport, ServiceId, ServiceImport, ServiceKind, ServicePort, Services, SessionAffinity, Settings, SourceId,
    State, StateConfig, Traffic, Trust,
};
use proptest::collection::vec;
use proptest::prelude::*;

use self::naive::Naive;
use super::*;

mod naive;

const CLUSTERS: [&str; 3] = ["east", "north", "tcp"];
const NAMESPACES: [&str; 3] = ["bank", "shop", "a-namespace-whose-name-is-nearly-as-long-as-it-can-possibly-be"];
const SERVICES: [&str; 5] = ["api", "web", "east", "a-service-whose-name-has-all-the-63-characters-that-a-label-can", "no.label"];
const HOSTS: [&str; 6] =
    ["web-0", "Web-0", "10-1-0-1", "bad_name", "a-hostname-so-long-that-with-the-rest-it-is-more-than-dns-has", "east"];
const PORTS: [&str; 5] = ["http", "HTTP", "", "a-port-name-that-no-label-could-ever-hold-since-it-is-longer-than-63", "dns"];

/// A change in a small world in which names collide.
#[derive(Clone, Copy, Debug)]
struct Step {
    what: u8,
    cluster: usize,
    namespace: usize,
    service: usize,
    variant: u64,
}

fn step() -> impl Strategy<Value = Step> {
    (0u8..16, 0usize..3, 0usize..3, 0usize..5, any::<u64>()).prop_map(|(what, cluster, namespace, service, variant)| Step {
        what,
        cluster,
        namespace,
        service,
        variant,
    })
}

fn cluster(number: usize) -> ClusterName {
    CLUSTERS[number].parse().expect("a name")
}

impl Step {
    fn event(self) -> Event {
        let source = SourceId("manifests".into());
        match self.what {
            0..10 => Event::Set(source, self.fact()),
            10..15 => Event::Unset(source, Step { what: (self.what - 10) * 2, ..self }.fact().key()),
            _ if self.variant.is_multiple_of(2) => Event::Begin(source),
            _ => Event::Synced(source),
        }
    }

    /// Returns one of `of` by some bits of the variant.
    fn pick<T: Copy>(self, shift: u32, of: &[T]) -> T {
        of[(self.variant >> shift) as usize % of.len()]
    }

    fn fact(self) -> Resource {
        let cluster = cluster(self.cluster);
        let id: ServiceId = format!("{}/{}", NAMESPACES[self.namespace], SERVICES[self.service]).parse().expect("a service");
        match self.what {
            0..3 => Resource::Service(self.service(cluster, id)),
            3..6 => Resource::EndpointSlice(EndpointSlice {
                cluster,
                name: format!("slice-{}", self.variant % 3).parse().expect("a name"),
                service: id,
                endpoints: (0..self.pick(3, &[0, 1, 1, 2, 5])).map(|more| self.endpoint(more * 5)).collect(),
            }),
            6..8 => Resource::ServiceExport(ServiceExport { cluster, id, created: None, traffic: ExportTraffic::default() }),
            8 => {
                let addresses = vec![IpAddr::from([100, 90, 0, self.pick(0, &[1, 2, 3])])];
                Resource::ServiceImport(ServiceImport { cluster, id, addresses })
            }
            _ => Resource::Namespace(Namespace { cluster, name: id.namespace, labels: Labels::default() }),
        }
    }

    fn service(self, cluster: ClusterName, id: ServiceId) -> Service {
        let port = |shift| {
            let name = self.pick(shift, &[Some(0), Some(0), Some(1), Some(2), Some(3), Some(4), None]);
            ServicePort {
                name: name.map(|name: usize| PORTS[name].into()),
                protocol: self.pick(shift + 3, &[Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Other(58)]),
                port: self.pick(shift + 5, &[80, 80, 443]),
                app_protocol: None,
            }
        };
        let kinds = [ServiceKind::Headless, ServiceKind::Headless, ServiceKind::ClusterIp, ServiceKind::ExternalName];
        let external = ["web.shop.svc.cluster.local", "example.com", "not..a.name"];
        Service {
            cluster,
            id,
            kind: self.pick(0, &kinds),
            addresses: self.addresses(2),
            ports: (0..self.pick(8, &[0, 1, 2, 3])).map(|number| port(10 + 8 * number)).collect(),
            affinity: SessionAffinity::None,
            traffic: Traffic::default(),
            publish_not_ready: self.pick(40, &[true, false, false]),
            external_name: Some(self.pick(42, &external).into()),
        }
    }

    /// Addresses of which endpoints and services have the same now and then.
    fn addresses(self, shift: u32) -> Vec<IpAddr> {
        let v4 = IpAddr::from([10, 1, 0, self.pick(shift, &[1, 2, 3])]);
        let v6 = IpAddr::from(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, self.pick(shift + 2, &[1, 2])));
        self.pick(shift + 4, &[[v4, v4], [v4, v4], [v6, v4], [v4, v6]]).to_vec()
    }

    fn endpoint(self, shift: u32) -> Endpoint {
        let host = self.pick(shift + 11, &[None, None, Some(0), Some(0), Some(1), Some(2), Some(3), Some(4), Some(5)]);
        let port = |name: usize, number| EndpointPort {
            name: Some(PORTS[name].into()),
            protocol: self.pick(shift + 7, &[Protocol::Tcp, Protocol::Tcp, Protocol::Udp, Protocol::Other(58)]),
            port: Some(self.pick(shift + number, &[8080, 8080, 9000])),
        };
        Endpoint {
            addresses: self.addresses(shift + 5),
            ready: self.pick(shift + 17, &[true, true, false]),
            terminating: false,
            hostname: host.map(|host: usize| HOSTS[host].into()),
            node: None,
            ports: (0..PORTS.len()).map(|name| port(name, 19 + name as u32)).collect(),
        }
    }
}

/// Names that may exist and may not: those of `known`, what is above them, beside them and below them.
fn around(known: &BTreeSet<DnsName>) -> BTreeSet<DnsName> {
    let mut names = known.clone();
    for name in known {
        let above: Vec<DnsName> = name.iter_suffixes().skip(1).collect();
        for other in ["x", "_tcp", "_http", "tcp", "web-0", "10-1-0-1", "svc"] {
            names.extend(name::join(&[other], name));
            names.extend(above.first().and_then(|parent| name::join(&[other], parent)));
            names.extend(name::join(&["web-0", other], name));
        }
        names.extend(above);
    }
    names
}

fn text(data: Data<'_>) -> String {
    let dotted = |target: records::Target<'_>| target.to_name().to_string();
    match data {
        Data::A(address) => format!("A {address}"),
        Data::Aaaa(address) => format!("AAAA {address}"),
        Data::Srv { port, target } => format!("SRV {port} {}", dotted(target)),
        Data::Cname(target) => format!("CNAME {target}"),
        Data::Ptr(target) => format!("PTR {}", dotted(target)),
        Data::Txt(text) => format!("TXT {text}"),
        Data::Soa(soa) => format!("SOA {}", soa.mname()),
    }
}

const TYPES: [Rtype; 8] = [Rtype::A, Rtype::AAAA, Rtype::SRV, Rtype::CNAME, Rtype::PTR, Rtype::TXT, Rtype::SOA, Rtype::MX];

/// Returns the records at a name, by type and in their order; `None` where it does not exist.
fn answers(zone: &Zone, name: &DnsName) -> (Area, Option<Vec<String>>) {
    let found = zone.find(name.for_slice());
    let all = found.records.map(|records| {
        let all: Vec<String> = records.of(Rtype::ANY).map(text).collect();
        let by_type = TYPES.iter().flat_map(|rtype| {
            let of: Vec<String> = records.of(*rtype).map(text).collect();
            assert_eq!(of.len(), records.count(*rtype), "{name} {rtype}");
            of
        });
        let (mut by_type, mut sorted): (Vec<_>, Vec<_>) = (by_type.collect(), all.clone());
        by_type.sort();
        sorted.sort();
        assert_eq!(by_type, sorted, "{name}: the types together are ANY");
        all
    });
    (found.area, all)
}

fn check(zone: &Zone, naive: &Naive, names: &BTreeSet<DnsName>) -> Result<(), TestCaseError> {
    for name in names {
        let (area, records) = answers(zone, name);
        let sorted = records.clone().map(|mut records| {
            records.sort();
            records
        });
        prop_assert_eq!((area, sorted), naive.answers(name), "{}", name);
        let own = |record: &String| record.ends_with(&naive.own_zone());
        let pointers = records.iter().flatten().filter(|record| record.starts_with("PTR"));
        prop_assert!(pointers.is_sorted_by_key(|record| !own(record)), "{}: own names first: {:?}", name, records);
    }
    Ok(())
}

fn config(number: usize) -> ZoneConfig {
    let (cluster, clusterset) = [
        ("cluster.local", "clusterset.local"),
        ("a.b.example.org", "example.org"),
        ("local", "a.clusterset.local"),
        ("x", "y.z.x"),
    ][number];
    ZoneConfig::new(cluster, clusterset).expect("two names")
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn it_is_what_the_rules_say_after_every_change(steps in vec(step(), 1..50), squash in 1usize..4, config_number in 0usize..4) {
        let config = config(config_number);
        let trust = StateConfig { fleet: "f".into(), trust: Trust::Open, settings: Settings::default(), domains: BTreeMap::new() };
        let mut state = State::new(trust);
        let own = cluster(0);
        let (mut services, mut builder) = (Services::new(own.clone()), ZoneBuilder::new(&config));
        let mut pending = Change::default();
        let mut before = (Arc::clone(builder.zone()), Naive::new(&Services::new(own.clone()), &config));
        let mut names = BTreeSet::new();
        for (number, step) in steps.iter().enumerate() {
            pending.merge(state.apply(step.event(), Now::default()));
            if number % squash != 0 && number + 1 != steps.len() {
                continue;
            }
            let changed = services.update(&state, &std::mem::take(&mut pending));
            let zone = Arc::clone(builder.update(&services, &changed));
            let naive = Naive::new(&services, &config);
            names.extend(naive.names());
            check(&zone, &naive, &names)?;
            // The older snapshot is as it was.
            check(&before.0, &before.1, &names)?;
            prop_assert_eq!(zone.len(), naive.services());
            let told: Vec<ZoneChange> = zone.changes_since(&before.0).collect();
            prop_assert_eq!(told, naive.changes_since(&before.1));
            before = (zone, naive);
        }
        let fresh = Zone::build(&state, &own, &config);
        prop_assert_eq!(fresh.changes_since(&before.0).count(), 0, "zones of two builders are compared as well");
        let names = around(&names);
        check(&before.0, &before.1, &names)?;
        for name in &names {
            prop_assert_eq!(answers(&fresh, name), answers(&before.0, name), "in the same order, too");
        }
    }
}

#[test]
fn programs_look_names_up() {
    let web = "{apiVersion: v1, kind: Service, metadata: {name: web, namespace: prod}, spec: {clusterIP: None, ports: [{name: http, port: 80}]}}\n---\n\
        {apiVersion: v1, kind: Service, metadata: {name: mail, namespace: prod}, spec: {type: ExternalName, externalName: Mail.example.com}}\n---\n\
        apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\n\
        metadata: {name: web-1, namespace: prod, labels: {kubernetes.io/service-name: web}}\n\
        ports: [{name: http, port: 8080}]\n\
        endpoints: [{addresses: [10.1.0.5], hostname: web-0}]\n";
    let state = mesh_core::manifest::Checked::load([("clusters/east/web.yaml", web)]).expect("correct manifests").state;
    let zone = Zone::build(&state, &cluster(0), &ZoneConfig::default());
    let address = Record::Address("10.1.0.5".parse().expect("an address"));
    let service = "Web.prod.svc.cluster.local";
    assert_eq!(zone.lookup(service, RecordType::A), Lookup::Records(vec![address.clone()]));
    assert_eq!(zone.lookup(service, RecordType::Aaaa), Lookup::NoData);
    assert_eq!(zone.lookup("web-0.web.prod.svc.cluster.local.", RecordType::Any), Lookup::Records(vec![address]));
    let srv = Record::Srv { port: 8080, target: "web-0.web.prod.svc.cluster.local.".into() };
    assert_eq!(zone.lookup("_http._tcp.web.prod.svc.cluster.local", RecordType::Srv), Lookup::Records(vec![srv]));
    let name = Record::Name("web-0.web.prod.svc.cluster.local.".into());
    assert_eq!(zone.lookup("5.0.1.10.in-addr.arpa", RecordType::Ptr), Lookup::Records(vec![name]));
    let alias = Lookup::Records(vec![Record::Alias("mail.example.com.".into())]);
    assert_eq!(zone.lookup("mail.prod.svc.cluster.local", RecordType::A), alias);
    assert_eq!(zone.lookup("dns-version.cluster.local", RecordType::Txt), Lookup::Records(vec![Record::Text("1.1.0")]));
    assert_eq!(zone.lookup("ghost.prod.svc.cluster.local", RecordType::A), Lookup::NoName);
    assert_eq!(zone.lookup("prod.svc.cluster.local", RecordType::A), Lookup::NoData);
    for outside in ["example.com", "5.0.1.10.in-addr.arpa.example", "not..a.name"] {
        assert_eq!(zone.lookup(outside, RecordType::A), Lookup::Outside, "{outside}");
    }
}
