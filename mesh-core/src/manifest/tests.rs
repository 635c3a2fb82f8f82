//! Tests of the parser as a whole.

use std::fmt::Write;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::policy::{ClusterPeer, NetworkPolicy, NetworkPolicyPeer, PortMatch};
use crate::{ClusterName, Protocol, Selector, ServiceKind, SessionAffinity};

mod bombs;
mod files;

fn east() -> PolicyScope {
    PolicyScope::Cluster(ClusterName::new("east").expect("valid"))
}

fn read(text: &str) -> Parsed {
    parse(&ManifestSource { file: "m.yaml", scope: east() }, text)
}

fn good(text: &str) -> Resource {
    let parsed = read(text);
    assert!(parsed.errors.is_empty(), "{:#?}", parsed.errors);
    assert_eq!(parsed.resources.len(), 1, "{parsed:#?}");
    parsed.resources[0].0.clone()
}

fn errors(text: &str) -> Vec<String> {
    let parsed = read(text);
    assert!(parsed.resources.is_empty(), "{parsed:#?}");
    parsed.errors.iter().map(ToString::to_string).collect()
}

fn warnings(text: &str) -> Vec<String> {
    let parsed = read(text);
    assert!(parsed.errors.is_empty(), "{:#?}", parsed.errors);
    parsed.warnings.iter().map(ToString::to_string).collect()
}

fn policy(spec: &str) -> String {
    format!("apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {spec}\n")
}

fn network_policy(spec: &str) -> Arc<NetworkPolicy> {
    let Resource::NetworkPolicy(policy) = good(&policy(spec)) else { panic!("no NetworkPolicy") };
    policy
}

fn cluster_text(rules: &str) -> String {
    format!(
        "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {{name: c}}\n\
         spec: {{tier: Admin, priority: 5, subject: {{namespaces: {{}}}}, {rules}}}\n"
    )
}

fn cluster_policy(rules: &str) -> Arc<crate::policy::ClusterNetworkPolicy> {
    let Resource::ClusterNetworkPolicy(policy) = good(&cluster_text(rules)) else { panic!("no ClusterNetworkPolicy") };
    policy
}

#[test]
fn three_mistakes_are_three_errors_with_their_places() {
    let text = "\
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: db-in
  namespace: shop
spec:
  podSelector: {}
  ingress:
  - from:
    - podSelector: {matchLabels: {app: web}}
    - ipBlock:
        cidr: 10.0.0.0/33
    ports:
    - port: 70000
  - from:
    - namespaceSelector:
        matchExpressions:
        - {key: team, operator: Maybe}
";
    assert_eq!(
        errors(text),
        [
            "m.yaml:12:15: spec.ingress[0].from[1].ipBlock.cidr: '10.0.0.0/33' is not a prefix such as 10.1.0.0/16 or fd00:1::/48",
            "m.yaml:14:13: spec.ingress[0].ports[0].port: 70000 is out of range: 1 to 65535 are allowed",
            "m.yaml:18:33: spec.ingress[1].from[0].namespaceSelector.matchExpressions[0].operator: 'Maybe' is none of In, NotIn, \
             Exists, DoesNotExist",
        ]
    );
}

#[test]
fn other_documents_are_read_beside_a_broken_one() {
    let parsed = read(
        "kind: [\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: shop}\n---\napiVersion: v1\nkind: ConfigMap\n---\n\
         apiVersion: v1\nkind: Namespace\nmetadata: {labels: {a: b}}\n",
    );
    assert_eq!((parsed.resources.len(), parsed.ignored), (1, 1));
    assert_eq!(parsed.resources[0].1.to_string(), "m.yaml:3");
    let places: Vec<_> = parsed.errors.iter().map(|e| (e.line, e.field.as_str())).collect();
    assert_eq!(places, [(1, "kind[0]"), (12, "metadata.name")], "{:?}", parsed.errors);
}

#[test]
fn strings_stay_text_and_what_kubernetes_refuses_is_refused() {
    let label = |value: &str| format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: shop\n  labels: {{a: {value}}}\n");
    for (value, text) in
        [("\"yes\"", "yes"), ("yes", "yes"), ("017", "017"), ("'5432'", "5432"), ("!!str 5432", "5432"), ("\"\"", "")]
    {
        let Resource::Namespace(namespace) = good(&label(value)) else { panic!("no Namespace") };
        assert_eq!(namespace.labels.get("a"), Some(text), "{value}");
    }
    for value in ["true", "5432", "1.5", "-3", "1e3", "~", "[x]", "a/b", "-a", "x y"] {
        assert_eq!(errors(&label(value)).len(), 1, "{value}");
    }
    assert!(errors(&label("true"))[0].contains("\"true\" in quotes"));
    assert_eq!(warnings(&label("no")).len(), 1);
    assert_eq!(warnings(&label("1_000")).len(), 1);
    assert!(errors("apiVersion: v1\nkind: Namespace\nmetadata: {name: a, name: b}\n")[0].contains("twice"));
}

#[test]
fn reserved_labels_are_dropped_with_a_warning() {
    let text = "apiVersion: v1\nkind: Namespace\nmetadata: {name: shop, labels: {cluster-mesh.io/cluster: west, app: x}}\n";
    let Resource::Namespace(namespace) = good(text) else { panic!("no Namespace") };
    assert_eq!(namespace.labels.to_string(), "app=x");
    assert!(
        warnings(text)[0].starts_with("m.yaml:3:58: metadata.labels['cluster-mesh.io/cluster']: dropped"),
        "{:?}",
        warnings(text)
    );
}

#[test]
fn a_pod_has_its_addresses_and_named_ports() {
    let text = "
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {app: web}}
spec:
  nodeName: node-1
  containers:
  - {name: c, image: x, ports: [{name: http, containerPort: 8080}, {containerPort: 9}, {name: dns, containerPort: 53, protocol: UDP}]}
  initContainers:
  - {name: once, ports: [{name: setup, containerPort: 1}]}
  - {name: side, restartPolicy: Always, ports: [{name: side, containerPort: 2}]}
status: {phase: PHASE, podIP: 10.1.0.5, podIPs: [{ip: 10.1.0.5}, {ip: 'fd00::5'}]}
";
    let Resource::Workload(pod) = good(&text.replace("PHASE", "Running")) else { panic!("no Pod") };
    assert_eq!((pod.id.to_string().as_str(), &*pod.service_account), ("east/shop/web-0", "default"));
    assert_eq!(pod.addresses.len(), 2);
    let ports: Vec<_> = pod.ports.iter().map(|p| format!("{} {}/{}", p.name, p.port, p.protocol)).collect();
    assert_eq!(ports, ["http 8080/TCP", "dns 53/UDP", "side 2/TCP"]);
    let Resource::Workload(ended) = good(&text.replace("PHASE", "Succeeded")) else { panic!("no Pod") };
    assert!(ended.addresses.is_empty());
    let bare = "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {hostNetwork: true}\nstatus: {podIP: 10.1.0.9}\n";
    let Resource::Workload(bare) = good(bare) else { panic!("no Pod") };
    assert_eq!((bare.id.namespace.as_str(), bare.host_network, bare.addresses.len()), ("default", true, 1));
    assert_eq!(errors("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {}\nstatus: {podIP: 10.1.0.999}\n").len(), 1);
}

#[test]
fn nodes_services_slices_exports_and_imports_are_read() {
    let Resource::Node(node) = good(
        "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nspec: {podCIDR: 10.1.0.0/24, podCIDRs: [10.1.0.7/24]}\n\
         status: {addresses: [{type: InternalIP, address: 192.0.2.1}, {type: Hostname, address: n1}]}\n",
    ) else {
        panic!("no Node")
    };
    assert_eq!((node.prefixes[0].to_string().as_str(), node.prefixes.len(), node.addresses.len()), ("10.1.0.0/24", 1, 1));
    let service = |spec: &str| format!("apiVersion: v1\nkind: Service\nmetadata: {{name: db, namespace: shop}}\nspec: {spec}\n");
    let Resource::Service(db) = good(&service(
        "{clusterIP: 10.9.0.1, sessionAffinity: ClientIP, ports: [{name: sql, port: 5432, targetPort: sql}, {name: m, port: 1, protocol: UDP}]}",
    )) else {
        panic!("no Service")
    };
    assert_eq!((db.kind, db.ports.len(), db.addresses.len()), (ServiceKind::ClusterIp, 2, 1));
    assert_eq!(db.affinity, SessionAffinity::ClientIp { timeout_seconds: 10_800 });
    let Resource::Service(headless) = good(&service("{clusterIP: None, clusterIPs: [None]}")) else { panic!("no Service") };
    assert_eq!((headless.kind, headless.addresses.len()), (ServiceKind::Headless, 0));
    let Resource::Service(outside) = good(&service("{type: ExternalName, externalName: x.example.com}")) else {
        panic!("no Service")
    };
    assert_eq!((outside.kind, outside.external_name.as_deref()), (ServiceKind::ExternalName, Some("x.example.com")));
    assert_eq!(errors(&service("{ports: [{port: 1}, {port: 1}]}")).len(), 3);

    let slice = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {name: db-x, namespace: shop, labels: {kubernetes.io/service-name: db}}\naddressType: IPv4\n\
         ports: [{name: sql, port: 5432}, {name: any, port: null}]\n\
         endpoints:\n- {addresses: [10.1.0.1], conditions: {ready: null}, nodeName: n1, hostname: db-0}\n\
         - {addresses: [10.1.0.2], conditions: {ready: false}}\n- {addresses: [10.1.0.3]}\n";
    let Resource::EndpointSlice(known) = good(slice) else { panic!("no EndpointSlice") };
    let ready: Vec<_> = known.endpoints.iter().map(|e| e.ready).collect();
    assert_eq!((ready.as_slice(), known.endpoints[0].ports[1].port), ([true, false, true].as_slice(), None));
    assert_eq!(errors(&slice.replace("10.1.0.2", "'::2'")).len(), 1);
    let of_nobody = read(&slice.replace("kubernetes.io/service-name: db", ""));
    assert_eq!((of_nobody.resources.len(), of_nobody.warnings.len(), of_nobody.errors.len()), (0, 1, 0));

    let export = |version: &str| {
        format!(
            "apiVersion: multicluster.x-k8s.io/{version}\nkind: ServiceExport\nmetadata: {{name: db, namespace: shop, creationTimestamp: '2026-01-01T00:00:00Z'}}\n"
        )
    };
    assert!(matches!(good(&export("v1alpha1")), Resource::ServiceExport(e) if e.created.is_some()));
    assert!(matches!(good(&export("v1beta1")), Resource::ServiceExport(_)));
    assert!(errors(&export("v3"))[0].contains("v1alpha1, v1beta1"));
    let import = "apiVersion: multicluster.x-k8s.io/v1alpha1\nkind: ServiceImport\nmetadata: {name: db, namespace: shop}\nspec: {type: ClusterSetIP, ips: [100.80.0.1]}\n";
    assert!(matches!(good(import), Resource::ServiceImport(i) if i.addresses.len() == 1));
}

#[test]
fn a_list_is_its_items() {
    let parsed = read(
        "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n\
         - {apiVersion: v1, kind: Secret, metadata: {name: s}}\n- {apiVersion: v1, kind: Pod, metadata: {}, spec: {}}\n",
    );
    assert_eq!((parsed.resources.len(), parsed.ignored), (1, 1));
    assert_eq!(parsed.resources[0].1.line, 4);
    assert_eq!(parsed.errors[0].field, "items[2].metadata.name");
    let typed = "apiVersion: v1\nkind: NamespaceList\nitems: [{metadata: {name: a}}]\n";
    assert_eq!(good(typed).key().to_string(), "Namespace east/a");
}

#[test]
fn the_policy_types_follow_rule_8() {
    let has = |spec: &str| {
        let policy = network_policy(spec);
        (policy.ingress.is_some(), policy.egress.is_some())
    };
    assert_eq!(has("{}"), (true, false));
    assert_eq!(has("{egress: []}"), (true, false));
    assert_eq!(has("{policyTypes: [], egress: [{}]}"), (true, true));
    assert_eq!(has("{policyTypes: [Egress], ingress: [{}]}"), (false, true));
    assert_eq!(errors(&policy("{policyTypes: [Both]}")).len(), 1);
}

#[test]
fn a_missing_selector_of_a_peer_is_not_the_empty_one() {
    let peers = |from: &str| {
        network_policy(&format!("{{ingress: [{{from: {from}}}]}}")).ingress.clone().expect("ingress")[0].peers.clone()
    };
    let workloads = |namespaces, pods| vec![NetworkPolicyPeer::Workloads { namespaces, pods }];
    assert_eq!(peers("[{podSelector: {}}]"), workloads(None, Some(Selector::ALL)));
    assert_eq!(peers("[{podSelector: null, namespaceSelector: {}}]"), workloads(Some(Selector::ALL), None));
    for nothing in [
        "[{podSelector: null}]",
        "[{}]",
        "[null]",
        "[{serviceAccounts: {}}]",
        "[{podSelector: {}, more: 1}]",
        "[{podSelector: {matchLables: {}}}]",
    ] {
        assert_eq!(peers(nothing), [NetworkPolicyPeer::Nothing], "{nothing}");
    }
    assert!(peers("[]").is_empty() && peers("null").is_empty());
}

#[test]
fn an_unknown_field_never_widens_a_rule() {
    for rule in ["{form: [{podSelector: {}}]}", "{ports: [{port: 1, portt: 2}]}"] {
        let policy = network_policy(&format!("{{ingress: [{rule}]}}"));
        assert_eq!(policy.ingress.as_ref().expect("ingress")[0].peers, [NetworkPolicyPeer::Nothing], "{rule}");
    }
    assert_eq!(warnings(&policy("{podSelector: {}, tier: x}")).len(), 1);
}

#[test]
fn ports_follow_rule_9() {
    let ports = |ports: &str| {
        network_policy(&format!("{{ingress: [{{ports: {ports}}}]}}")).ingress.clone().expect("ingress")[0].ports.clone()
    };
    assert_eq!(ports("[{}]"), [PortMatch::Protocol(Protocol::Tcp)]);
    assert_eq!(ports("[{protocol: UDP, port: 53}]"), [PortMatch::Range(Protocol::Udp, 53, 53)]);
    assert_eq!(ports("[{port: 80, endPort: 90}]"), [PortMatch::Range(Protocol::Tcp, 80, 90)]);
    assert_eq!(ports("[{port: http}]"), [PortMatch::Named(Some(Protocol::Tcp), "http".into())]);
    for bad in [
        "{port: 80, endPort: 79}",
        "{endPort: 79}",
        "{port: http, endPort: 80}",
        "{port: '80'}",
        "{port: 0}",
        "{protocol: ICMP}",
        "{protocol: tcp}",
        "{port: 08}",
    ] {
        assert_eq!(errors(&policy(&format!("{{ingress: [{{ports: [{bad}]}}]}}"))).len(), 1, "{bad}");
    }
}

#[test]
fn ip_blocks_follow_rule_5() {
    let block = |block: &str| format!("{{egress: [{{to: [{{ipBlock: {block}}}]}}]}}");
    let policy_of = network_policy(&block("{cidr: 10.1.2.3/16, except: [10.1.4.0/24]}"));
    let NetworkPolicyPeer::IpBlock { cidr, except } = &policy_of.egress.as_ref().expect("egress")[0].peers[0] else {
        panic!("no block")
    };
    assert_eq!((cidr.to_string().as_str(), except.len()), ("10.1.0.0/16", 1));
    for bad in ["{cidr: 10.0.0.0/8, except: [11.0.0.0/8]}", "{cidr: 10.0.0.0/8, except: ['fd00::/8']}", "{}", "{cidr: 10.0.0.1}"]
    {
        assert_eq!(errors(&policy(&block(bad))).len(), 1, "{bad}");
    }
    assert_eq!(errors(&policy("{egress: [{to: [{ipBlock: {cidr: 10.0.0.0/8}, podSelector: {}}]}]}")).len(), 1);
}

#[test]
fn cluster_policies_are_read_in_all_their_shapes() {
    let policy = cluster_policy(
        "ingress: [{name: a, action: Pass, from: [{namespaces: {}}, {pods: {podSelector: {matchLabels: {app: x}}}}]}], \
         egress: [{action: Accept, to: [{nodes: {}}, {networks: [10.0.0.1/8]}, {domainNames: ['*.Example.com.', a.b]}], \
         protocols: [{tcp: {destinationPort: {number: 80}}}, {udp: {destinationPort: {range: {start: 1, end: 9}}}}, {sctp: {destinationPort: {number: 7}}}]}, \
         {action: Deny, to: [{namespaces: {}}], protocols: [{destinationNamedPort: http}]}]",
    );
    assert_eq!((policy.ingress[0].peers.len(), policy.ingress[0].unknown), (2, false));
    let ClusterPeer::Workloads(pods) = &policy.ingress[0].peers[1] else { panic!("no workloads") };
    assert_eq!(pods.namespaces, Selector::ALL);
    let ClusterPeer::DomainNames(names) = &policy.egress[0].peers[2] else { panic!("no names") };
    assert_eq!(names.iter().map(|name| &**name).collect::<Vec<_>>(), ["*.example.com", "a.b"]);
    let ports =
        [(Protocol::Tcp, 80, 80), (Protocol::Udp, 1, 9), (Protocol::Sctp, 7, 7)].map(|(p, a, b)| PortMatch::Range(p, a, b));
    assert_eq!(policy.egress[0].protocols, ports);
    assert_eq!(policy.egress[1].protocols, [PortMatch::Named(None, "http".into())]);
    assert!(matches!(good(&cluster_text("ingress: []").replace("v1alpha2", "v1beta1")), Resource::ClusterNetworkPolicy(_)));
}

#[test]
fn what_is_unknown_in_a_cluster_rule_is_marked_and_what_is_missing_is_an_error() {
    for unknown in [
        "ingress: [{action: Deny, from: [{}]}]",
        "ingress: [{action: Deny, from: [{namespaces: {}}, {namespaces: null}]}]",
        "ingress: [{action: Deny, from: [{networks: [10.0.0.0/8]}]}]",
        "ingress: [{action: Deny, from: [{pods: {podSelector: {}, sameLabels: [x]}}]}]",
        "ingress: [{action: Deny, from: [{namespaces: {matchFoo: 1}}]}]",
        "ingress: [{action: Deny, from: [{namespaces: {}}], ports: []}]",
        "ingress: [{action: Deny, from: [{namespaces: {}}], protocols: [{icmp: {}}]}]",
        "egress: [{action: Accept, to: [{namespaces: {}}], protocols: [{tcp: {sourcePort: 1}}]}]",
    ] {
        let policy = cluster_policy(unknown);
        assert!(policy.ingress.iter().chain(&policy.egress).all(|rule| rule.unknown), "{unknown}");
        assert!(!warnings(&cluster_text(unknown)).is_empty());
    }
    for bad in [
        "ingress: [{from: [{namespaces: {}}]}]",
        "ingress: [{action: Log, from: [{namespaces: {}}]}]",
        "ingress: [{action: Deny}]",
        "ingress: [{action: Deny, from: []}]",
        "ingress: [{action: Deny, from: null}]",
        "ingress: [{action: Deny, from: [{namespaces: {}, pods: {podSelector: {}}}]}]",
        "ingress: [{action: Deny, from: [{pods: {}}]}]",
        "ingress: [{action: Deny, from: [{namespaces: {}}], protocols: []}]",
        "egress: [{action: Deny, to: [{domainNames: [a.example]}]}]",
        "egress: [{action: Accept, to: [{domainNames: ['*']}]}]",
        "egress: [{action: Accept, to: [{networks: []}]}]",
        "egress: [{action: Accept, to: [{nodes: {}}], protocols: [{tcp: {destinationPort: {range: {start: 9, end: 1}}}}]}]",
        "priority: 1001",
    ] {
        let text = cluster_text(bad).replace("priority: 5, ", if bad.starts_with("priority") { "" } else { "priority: 5, " });
        assert_eq!(errors(&text).len(), 1, "{bad}");
    }
    assert_eq!(
        errors("apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: c}\nspec: {}\n")
            .len(),
        3
    );
    let legacy = "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: c}\n";
    assert!(warnings(legacy)[0].contains("not enforced"));
}

#[test]
fn a_fleet_holds_policies_only() {
    let fleet = |text: &str| parse(&ManifestSource { file: "f.yaml", scope: PolicyScope::Fleet }, text);
    assert_eq!(fleet(&cluster_text("ingress: []")).resources.len(), 1);
    assert_eq!(fleet(&policy("{}")).resources.len(), 1);
    assert_eq!(fleet("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {}\n").errors.len(), 1);
}

/// A text with one of everything, to be mutated.
fn everything() -> String {
    let mut text = policy("{ingress: [{from: [{podSelector: {matchLabels: {a: b}}}], ports: [{port: 80, endPort: 90}]}]}");
    for more in [
        cluster_text(
            "egress: [{action: Accept, to: [{networks: [10.0.0.0/8]}], protocols: [{tcp: {destinationPort: {number: 1}}}]}]",
        ),
        "apiVersion: v1\nkind: List\nitems:\n- &a {apiVersion: v1, kind: Namespace, metadata: {name: a}}\n- *a\n".into(),
        "{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"x\"}, \"spec\": {\"<<\": {\"a\": 1}}}\n".into(),
    ] {
        write!(text, "---\n{more}").expect("a string takes all");
    }
    text
}

fn survives(text: &str) {
    for scope in [east(), PolicyScope::Fleet] {
        let parsed = parse(&ManifestSource { file: "m", scope }, text);
        for error in parsed.errors.iter().chain(&parsed.warnings) {
            assert!(error.line >= 1 && error.column >= 1 && !error.to_string().contains('\n'), "{error:?}");
        }
    }
    let _ = parse_fleet("f", text);
    let _ = parse_mesh("m", text);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn any_text_is_answered(text in "\\PC{0,200}", yaml in "[-:{}\\[\\]&*!<|>'\" \n\t#,?a-c0-2]{0,120}") {
        survives(&text);
        survives(&yaml);
    }

    #[test]
    fn a_mutated_manifest_is_answered(edits in prop::collection::vec((any::<prop::sample::Index>(), 0usize..6, any::<u8>()), 1..6)) {
        let mut bytes = everything().into_bytes();
        for (index, len, byte) in edits {
            let at = index.index(bytes.len());
            let end = (at + len).min(bytes.len());
            bytes.splice(at..end, [byte % 128]);
        }
        survives(&String::from_utf8_lossy(&bytes));
    }
}

#[test]
fn deep_nesting_and_large_files_are_answered_in_time() {
    for deep in [
        "[".repeat(100_000),
        "- ".repeat(100_000),
        "{a: ".repeat(100_000),
        (0..400).map(|n| format!("{}a:\n", " ".repeat(n))).collect(),
    ] {
        survives(&deep);
    }
    let mut many = String::new();
    for number in 0..2000 {
        write!(many, "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p{number}}}\nspec: {{nodeName: n}}\nstatus: {{podIP: 10.0.{}.{}}}\n", number / 250, number % 250)
            .expect("a string takes all");
    }
    assert_eq!(read(&many).resources.len(), 2000);
}
