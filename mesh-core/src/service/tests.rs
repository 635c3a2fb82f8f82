//! One test for each rule of SEMANTICS §3 that is decided before a name is asked for.

use std::fmt::Write;

use super::*;
use crate::manifest::Checked;
use crate::{Event, Now, Resource, SessionAffinity, SourceId, State, StateConfig, Trust};

mod view;

/// The manifests of one cluster, written down in short.
#[derive(Default)]
struct Cluster(String);

impl Cluster {
    fn raw(mut self, text: &str) -> Cluster {
        write!(self.0, "---\n{text}\n").expect("a string takes it");
        self
    }

    fn namespace(self, name: &str) -> Cluster {
        self.raw(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}"))
    }

    fn service(self, name: &str, spec: &str) -> Cluster {
        self.raw(&format!("{{apiVersion: v1, kind: Service, metadata: {{namespace: shop, name: {name}}}, spec: {{{spec}}}}}"))
    }

    fn export(self, name: &str, created: &str) -> Cluster {
        let created = if created.is_empty() { String::new() } else { format!(", creationTimestamp: \"{created}\"") };
        self.raw(&format!(
            "{{apiVersion: multicluster.x-k8s.io/v1beta1, kind: ServiceExport, metadata: {{namespace: shop, name: {name}{created}}}}}"
        ))
    }

    fn slice(self, name: &str, service: &str, ports: &str, endpoints: &str) -> Cluster {
        self.raw(&format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, ports: [{ports}], endpoints: [{endpoints}],\n\
             metadata: {{namespace: shop, name: {name}, labels: {{kubernetes.io/service-name: {service}}}}}}}"
        ))
    }

    fn import(self, name: &str, ips: &str) -> Cluster {
        self.raw(&format!(
            "{{apiVersion: multicluster.x-k8s.io/v1alpha1, kind: ServiceImport, metadata: {{namespace: shop, name: {name}}},\n\
             spec: {{type: ClusterSetIP, ips: [{ips}], ports: [{{port: 80, protocol: TCP}}]}}}}"
        ))
    }
}

const WEB: &str = "clusterIP: 10.96.0.1, clusterIPs: [10.96.0.1], ports: [{name: http, port: 80}]";

fn fleet(clusters: &[(&str, &Cluster)], more: &[(&str, &str)]) -> State {
    let files: Vec<(String, &str)> =
        clusters.iter().map(|(name, cluster)| (format!("clusters/{name}/all.yaml"), cluster.0.as_str())).collect();
    let files = files.iter().map(|(path, text)| (path.as_str(), *text)).chain(more.iter().copied());
    Checked::load(files).expect("correct manifests").state
}

fn name(cluster: &str) -> ClusterName {
    ClusterName::new(cluster).expect("a cluster")
}

fn id(service: &str) -> ServiceId {
    format!("shop/{service}").parse().expect("a service")
}

fn imported(state: &State, cluster: &str, service: &str) -> ImportedService {
    state.imported_services(&name(cluster)).services.remove(&id(service)).expect("the service is imported")
}

fn ports(service: &ImportedService) -> Vec<String> {
    service.ports.iter().map(|p| format!("{}:{}/{}", p.name.as_deref().unwrap_or(""), p.port, p.protocol)).collect()
}

#[test]
fn an_export_is_consent_and_needs_a_service_with_endpoints_of_its_own() {
    let east = Cluster::default()
        .service("web", WEB)
        .service("quiet", WEB)
        .service("elsewhere", "type: ExternalName, externalName: example.com")
        .export("web", "")
        .export("elsewhere", "")
        .export("ghost", "");
    let state = fleet(&[("east", &east)], &[]);
    let exported: Vec<_> = state.exports().iter().map(|export| export.id.to_string()).collect();
    assert_eq!(exported, ["shop/web"]);
    let conditions = state.export_conditions(&name("east"));
    let validity: Vec<_> = conditions.iter().map(|(id, condition)| format!("{id} {}", condition.validity)).collect();
    assert_eq!(validity, ["shop/elsewhere InvalidServiceType", "shop/ghost NoService", "shop/web Valid"]);
    assert!(state.export_conditions(&name("west")).is_empty());
}

#[test]
fn a_service_is_importable_where_its_namespace_exists() {
    let east = Cluster::default().service("web", WEB).export("web", "");
    let state = fleet(
        &[("east", &east), ("west", &Cluster::default().namespace("shop")), ("north", &Cluster::default().namespace("other"))],
        &[],
    );
    assert!(state.imported_services(&name("east")).services.contains_key(&id("web")));
    assert!(state.imported_services(&name("west")).services.contains_key(&id("web")));
    assert!(state.imported_services(&name("north")).services.is_empty());
    assert!(state.imported_services(&name("nowhere")).services.is_empty());
}

#[test]
fn the_oldest_export_decides_type_and_affinity_and_both_sides_are_told() {
    let old = Cluster::default()
        .service("web", "clusterIP: None, ports: [{name: http, port: 80}]")
        .export("web", "2026-01-01T00:00:00Z");
    let new =
        Cluster::default().service("web", &format!("{WEB}, sessionAffinity: ClientIP")).export("web", "2026-01-02T00:00:00Z");
    // The older export is in the cluster whose name comes last.
    let state = fleet(&[("west", &old), ("east", &new)], &[]);
    let web = imported(&state, "east", "web");
    assert_eq!((web.kind, web.affinity), (ServiceKind::Headless, SessionAffinity::None));
    assert!(web.addresses.is_empty(), "a headless service has no clusterset address");
    assert_eq!(web.exporters.iter().map(|e| e.cluster.as_str()).collect::<Vec<_>>(), ["west", "east"]);
    for exporter in &web.exporters {
        let conflict = exporter.conflict.as_deref().expect("both exports disagree");
        assert!(conflict.contains("type: Headless in west") && conflict.contains("session affinity: None in west"), "{conflict}");
    }
    for cluster in ["east", "west"] {
        assert!(state.export_conditions(&name(cluster))[&id("web")].conflict.is_some(), "{cluster}");
    }
}

#[test]
fn a_missing_timestamp_is_newest_and_equal_ones_go_by_cluster() {
    let headless = |created| Cluster::default().service("web", "clusterIP: None").export("web", created);
    let with_ip = |created| Cluster::default().service("web", WEB).export("web", created);
    let kind = |east: &Cluster, west: &Cluster| imported(&fleet(&[("east", east), ("west", west)], &[]), "east", "web").kind;
    assert_eq!(kind(&headless(""), &with_ip("2026-01-01T00:00:00Z")), ServiceKind::ClusterIp);
    assert_eq!(kind(&headless(""), &with_ip("")), ServiceKind::Headless);
    assert_eq!(kind(&headless("2026-01-01T00:00:00Z"), &with_ip("2026-01-01T00:00:00Z")), ServiceKind::Headless);
}

#[test]
fn ports_are_merged_by_name_then_by_protocol_and_number() {
    let old = Cluster::default()
        .service("web", "ports: [{name: http, port: 80}, {name: admin, port: 9000}]")
        .export("web", "2026-01-01T00:00:00Z")
        .slice("web-1", "web", "{name: http, port: 8080}, {name: admin, port: 9000}", "{addresses: [10.1.0.1]}");
    let new = Cluster::default()
        // The same name with another number; the same number with another name; and a port of its own.
        .service("web", "ports: [{name: http, port: 81}, {name: ops, port: 9000}, {name: dns, port: 53, protocol: UDP}]")
        .export("web", "2026-01-02T00:00:00Z")
        .slice(
            "web-1",
            "web",
            "{name: http, port: 8181}, {name: ops, port: 9100}, {name: dns, port: 5353, protocol: UDP}",
            "{addresses: [10.2.0.1]}",
        );
    let web = imported(&fleet(&[("east", &old), ("west", &new)], &[]), "east", "web");
    assert_eq!(ports(&web), ["http:80/TCP", "admin:9000/TCP", "dns:53/UDP"]);
    let conflict = web.exporters[1].conflict.as_deref().expect("two ports disagree");
    assert!(conflict.contains("http 80/TCP in east") && conflict.contains("ops 9000/TCP in west"), "{conflict}");
    assert_eq!(web.exporters[0].conflict.as_deref(), Some(conflict));
    assert!(conflict.contains("port: dns 53/UDP in west, none in east"), "{conflict}");
    let ready = |index| web.ready_backends(index).map(|(a, p)| format!("{a}:{p}")).collect::<Vec<_>>();
    assert_eq!(ready(0), ["10.1.0.1:8080"], "west's Service has no port 80");
    assert_eq!(ready(1), ["10.1.0.1:9000", "10.2.0.1:9100"], "the number is the same, whatever its name");
    assert_eq!(ready(2), ["10.2.0.1:5353"]);
    let west = "10.2.0.1".parse().expect("an address");
    assert!(web.has_backend(west, Protocol::Udp, 5353) && !web.has_backend(west, Protocol::Tcp, 5353));
}

#[test]
fn ports_that_agree_are_no_conflict() {
    let east = Cluster::default().service("web", WEB).export("web", "");
    let west = Cluster::default().service("web", WEB).export("web", "");
    let web = imported(&fleet(&[("east", &east), ("west", &west)], &[]), "east", "web");
    assert_eq!(ports(&web), ["http:80/TCP"]);
    assert!(web.exporters.iter().all(|exporter| exporter.conflict.is_none()), "{:?}", web.exporters);
}

#[test]
fn behind_a_headless_service_the_name_of_a_port_counts_and_not_its_number() {
    let headless = |number: u16, address: &str| {
        Cluster::default()
            .service("web", &format!("clusterIP: None, ports: [{{name: http, port: {number}}}]"))
            .export("web", "")
            .slice("web-1", "web", &format!("{{name: http, port: {}}}", 8000 + number), &format!("{{addresses: [{address}]}}"))
    };
    let state = fleet(&[("east", &headless(80, "10.1.0.1")), ("west", &headless(81, "10.2.0.1"))], &[]);
    let web = imported(&state, "east", "web");
    let ready: Vec<_> = web.ready_backends(0).map(|(address, port)| format!("{address}:{port}")).collect();
    assert_eq!(ready, ["10.1.0.1:8080", "10.2.0.1:8081"]);
}

#[test]
fn ports_that_one_cluster_lacks_or_that_speak_another_protocol_are_a_conflict() {
    let export = |ports: &str| Cluster::default().service("web", &format!("ports: [{ports}]")).export("web", "");
    let conflict = |east: &str, west: &str| {
        let web = imported(&fleet(&[("east", &export(east)), ("west", &export(west))], &[]), "east", "web");
        assert_eq!(web.exporters[0].conflict, web.exporters[1].conflict, "both are told");
        web.exporters[0].conflict.clone().expect("they disagree")
    };
    assert_eq!(conflict("{name: a, port: 1}, {name: b, port: 2}", "{name: a, port: 1}"), "port: b 2/TCP in east, none in west");
    assert_eq!(conflict("{name: a, port: 1}", "{name: a, port: 1}, {name: b, port: 2}"), "port: b 2/TCP in west, none in east");
    let text = conflict("{name: a, port: 1, appProtocol: http}", "{name: a, port: 1}");
    assert_eq!(text, "port: a 1/TCP (http) in east, which is older and used, a 1/TCP in west");
}

#[test]
fn backends_are_the_union_with_their_readiness() {
    let port = "{name: http, port: 8080}";
    let east = Cluster::default().service("web", WEB).export("web", "").slice(
        "web-1",
        "web",
        port,
        "{addresses: [10.1.0.1], nodeName: n1}, {addresses: [10.1.0.2], conditions: {ready: false}}, {addresses: [10.1.0.3], conditions: {}}",
    );
    let west = Cluster::default()
        .service("web", "publishNotReadyAddresses: true, ports: [{name: http, port: 80}]")
        .export("web", "")
        .slice("web-1", "web", port, "{addresses: [10.2.0.1], conditions: {ready: false}}")
        // The same endpoint again, as the API allows for a time.
        .slice("web-2", "web", port, "{addresses: [10.2.0.1], conditions: {ready: false}}");
    let web = imported(&fleet(&[("east", &east), ("west", &west)], &[]), "west", "web");
    let seen: Vec<_> = web.backends.iter().map(|b| format!("{}/{}/{}", b.cluster, b.addresses[0], b.ready)).collect();
    assert_eq!(seen, ["east/10.1.0.1/true", "east/10.1.0.2/false", "east/10.1.0.3/true", "west/10.2.0.1/true"]);
    assert_eq!(web.backends[0].node.as_ref().map(ToString::to_string), Some("east/n1".into()));
    assert!(web.has_backend("10.1.0.2".parse().expect("an address"), Protocol::Tcp, 8080), "not ready, and a backend");
}

#[test]
fn a_port_without_a_number_is_the_service_port() {
    let east = Cluster::default().service("web", "ports: [{port: 80}]").export("web", "").slice(
        "web-1",
        "web",
        "{protocol: TCP}",
        "{addresses: [10.1.0.1]}",
    );
    let web = imported(&fleet(&[("east", &east)], &[]), "east", "web");
    assert_eq!(*web.backends[0].ports, [Some(80)]);
}

#[test]
fn the_clusterset_address_is_the_service_imports_else_allocated_from_the_grant() {
    let east = Cluster::default().service("web", WEB).service("api", WEB).export("web", "").export("api", "");
    let east = east.import("web", "100.80.0.1");
    let west = Cluster::default().namespace("shop");
    let open = fleet(&[("east", &east), ("west", &west)], &[]);
    assert_eq!(imported(&open, "east", "web").addresses, ["100.80.0.1".parse::<IpAddr>().expect("an address")]);
    let allocated = imported(&open, "west", "web").addresses;
    let inside = |prefix: &str, address: IpAddr| prefix.parse::<crate::Prefix>().expect("a prefix").contains(address);
    assert_eq!(allocated.len(), 2, "{allocated:?}");
    assert!(inside("100.80.0.0/16", allocated[0]) && inside("fd00:80::/112", allocated[1]), "{allocated:?}");
    assert_eq!(allocated, imported(&open, "west", "web").addresses, "the same every time");
    assert_ne!(allocated, imported(&open, "west", "api").addresses);
    let grant = "{namespaces: [\"*\"], exports: [\"*\"], service_prefixes: [100.90.0.0/24]}";
    let granted = format!("clusters: {{east: {grant}, west: {grant}}}");
    let files = |text| fleet(&[("east", &east), ("west", &west)], &[("fleet.yaml", text)]);
    let declared = imported(&files(&granted), "west", "web").addresses;
    assert!(declared.len() == 1 && inside("100.90.0.0/24", declared[0]), "{declared:?}");
}

#[test]
fn in_a_fleet_addresses_come_from_the_publisher_only_and_age_from_its_signature() {
    let root = crate::SecretKey::from_bytes([1; 32]);
    let publisher = crate::SecretKey::from_bytes([2; 32]);
    let trust = Trust::Signed { root: root.public(), cluster: name("east") };
    let config = StateConfig { fleet: "f".into(), trust, settings: crate::Settings::default(), domains: BTreeMap::new() };
    let mut state = State::new(config);
    let grant = crate::Grant {
        cluster: name("east"),
        key: Some(publisher.public()),
        next_key: None,
        prefixes: vec!["10.1.0.0/16".parse().expect("a prefix")],
        service_prefixes: vec!["100.90.0.0/24".parse().expect("a prefix")],
        namespaces: vec![crate::NamePattern("shop".into())],
        exports: vec!["shop/*".parse().expect("a pattern")],
        attributes: BTreeMap::new(),
        not_before: WallTime::from_unix_secs(0),
        not_after: WallTime::from_unix_secs(1000),
        epoch: 0,
    };
    let now = Now { wall: WallTime::from_unix_secs(10), ..Now::default() };
    let signed = crate::RootRecord::Grant(grant.into()).sign(&root).expect("a grant of reasonable size");
    assert!(state.apply(Event::Record(signed), now).refusals.is_empty());
    let east = Cluster::default().service("web", WEB).export("web", "2026-01-01T00:00:00Z");
    let plain = fleet(&[("east", &east)], &[]);
    let source = SourceId("manifests".into());
    let facts = plain.facts();
    let services = facts.services.values().cloned().map(Resource::Service);
    for resource in services.chain(facts.service_exports.values().cloned().map(Resource::ServiceExport)) {
        assert!(state.apply(Event::Set(source.clone(), resource), now).refusals.is_empty());
    }
    let web = imported(&state, "east", "web");
    assert!(web.addresses.is_empty(), "nobody but the publisher allocates: {:?}", web.addresses);
    assert_eq!(web.exporters[0].created, None, "the manifest's word on its age does not count");
}
