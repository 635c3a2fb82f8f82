//! The fleet as a directory of manifests, as `kubectl get -o yaml` writes them, with questions for `meshctl policy check`.

use std::collections::BTreeMap;
use std::fmt::Write;

use mesh_core::policy::PolicyScope;
use mesh_core::{FiveTuple, Resource, Workload};

use crate::fleet::{CLUSTERS, Fleet};
use crate::random::Random;
use crate::yaml::Yaml;

mod policies;

/// Returns the files of the directory, path to text: `fleet.yaml` with a grant for each cluster, `mesh.yaml`, and one file for
/// each kind of object of each cluster.
pub fn directory(fleet: &Fleet) -> BTreeMap<String, String> {
    let mut files = BTreeMap::new();
    let mut grants = String::from("name: bench\nclusters:\n");
    for (cluster, name) in (0..).zip(CLUSTERS) {
        // The eighth of 10.0.0.0/8 in which `Fleet::address` puts the cluster's workloads.
        let _ = writeln!(grants, "  {name}:\n    prefixes: [10.{}.0.0/11]\n    namespaces: ['team-*']", cluster * 32);
        let region = &name[..2];
        let _ = writeln!(grants, "    exports: ['*']\n    attributes: {{region: {region}}}");
    }
    files.insert("fleet.yaml".into(), grants);
    files.insert("mesh.yaml".into(), "params: {cross_cluster_default: exports}\n".into());
    for resource in fleet.resources() {
        let (directory, kind) = place(&resource);
        let file: &mut String = files.entry(format!("{directory}/{kind}.yaml")).or_default();
        file.push_str("---\n");
        write(&mut Yaml::new(file), &resource);
    }
    files
}

/// Returns questions, one JSON object a line: connections of [`queries`](crate::queries::connections), by the names of both pods
/// (in one of ten also by their addresses) or the external address. In `foreign` of 100 the source address is none of the pod's, as behind
/// a translation.
pub fn questions(fleet: &Fleet, count: u32, foreign: u32) -> String {
    let mut lines = String::new();
    for (id, tuple) in (1_u32..).zip(crate::queries::connections(fleet, count)) {
        let random = &mut Random::of("question", id.into());
        let party = |address| match fleet.workload_at(address) {
            Some(number) => fleet.workload(number).id.to_string(),
            None => address.to_string(),
        };
        let FiveTuple { source, destination, protocol, destination_port: port, .. } = tuple;
        let _ = write!(lines, r#"{{"id": {id}, "from": "{}", "to": "{}""#, party(source), party(destination));
        let _ = write!(lines, r#", "protocol": "{protocol}", "port": {port}"#);
        if random.percent(foreign) && fleet.workload_at(source).is_some() {
            let _ = write!(lines, r#", "src_ip": "100.64.{}.{}""#, random.below(256), random.below(256));
        } else if random.percent(10) {
            let _ = write!(lines, r#", "src_ip": "{source}", "dst_ip": "{destination}""#);
        }
        lines.push_str("}\n");
    }
    lines
}

/// Returns the directory that a fact belongs into, and the file there.
fn place(resource: &Resource) -> (String, &'static str) {
    let of_scope = |scope: &PolicyScope| match scope {
        PolicyScope::Cluster(cluster) => format!("clusters/{cluster}"),
        PolicyScope::Fleet => "fleet".into(),
    };
    match resource {
        Resource::NetworkPolicy(policy) => (of_scope(&policy.scope), "networkpolicies"),
        Resource::ClusterNetworkPolicy(policy) => (of_scope(&policy.scope), "clusternetworkpolicies"),
        other => {
            let key = other.key();
            let cluster = key.cluster().expect("only policies are the fleet's");
            let kind = match other {
                Resource::Namespace(_) => "namespaces",
                Resource::Node(_) => "nodes",
                Resource::Workload(_) => "pods",
                Resource::Service(_) => "services",
                Resource::EndpointSlice(_) => "endpointslices",
                Resource::ServiceExport(_) => "serviceexports",
                _ => unreachable!("a fleet has no {key}"),
            };
            (format!("clusters/{cluster}"), kind)
        }
    }
}

fn write(yaml: &mut Yaml<'_>, resource: &Resource) {
    match resource {
        Resource::Namespace(namespace) => {
            yaml.object("v1", "Namespace", (None, namespace.name.as_str()), Some(&namespace.labels));
            yaml.line(0, "status: {phase: Active}");
        }
        Resource::Node(node) => {
            yaml.object("v1", "Node", (None, node.id.name.as_str()), Some(&node.labels));
            yaml.line(0, "status:");
            yaml.line(2, "addresses:");
            for address in &node.addresses {
                yaml.line(2, format_args!("- address: {address}"));
                yaml.line(4, "type: InternalIP");
            }
            yaml.line(2, "nodeInfo: {architecture: amd64, kubeletVersion: v1.33.1, operatingSystem: linux}");
        }
        Resource::Workload(workload) => pod(yaml, workload),
        Resource::Service(service) => {
            yaml.object("v1", "Service", (Some(service.id.namespace.as_str()), service.id.name.as_str()), None);
            yaml.line(0, "spec:");
            yaml.line(2, "clusterIP: None\n  ports:");
            for port in &service.ports {
                yaml.line(2, format_args!("- name: {}", port.name.as_deref().unwrap_or_default()));
                yaml.line(4, format_args!("port: {}\n    protocol: {}", port.port, port.protocol));
            }
        }
        Resource::EndpointSlice(slice) => {
            let labels = [("kubernetes.io/service-name", slice.service.name.as_str())].into_iter().collect();
            let name = (Some(slice.service.namespace.as_str()), slice.name.as_str());
            yaml.object("discovery.k8s.io/v1", "EndpointSlice", name, Some(&labels));
            yaml.line(0, "addressType: IPv4\nendpoints:");
            for endpoint in &slice.endpoints {
                yaml.line(0, format_args!("- addresses: [{}]", endpoint.addresses[0]));
                yaml.line(2, "conditions: {ready: true, serving: true, terminating: false}");
            }
            yaml.line(0, "ports:");
            for port in slice.endpoints.first().into_iter().flat_map(|endpoint| &endpoint.ports) {
                let number = port.port.expect("every port has a number");
                yaml.line(0, format_args!("- name: {}", port.name.as_deref().unwrap_or_default()));
                yaml.line(2, format_args!("port: {number}\n  protocol: {}", port.protocol));
            }
        }
        Resource::ServiceExport(export) => {
            let name = (Some(export.id.namespace.as_str()), export.id.name.as_str());
            yaml.object("multicluster.x-k8s.io/v1alpha1", "ServiceExport", name, None);
        }
        Resource::NetworkPolicy(policy) => policies::network_policy(yaml, policy),
        Resource::ClusterNetworkPolicy(policy) => policies::cluster_policy(yaml, policy),
        other => unreachable!("a fleet has no {}", other.key()),
    }
}

/// Writes a Pod with the fields that any Pod has, read or not.
fn pod(yaml: &mut Yaml<'_>, workload: &Workload) {
    yaml.object("v1", "Pod", (Some(workload.id.namespace.as_str()), workload.id.name.as_str()), Some(&workload.labels));
    yaml.line(0, "spec:\n  containers:\n  - env:\n    - {name: GOMAXPROCS, value: \"2\"}");
    yaml.line(4, format_args!("image: registry.example.com/{0}:1.4.2\n    name: {0}", workload.service_account));
    if !workload.ports.is_empty() {
        yaml.line(4, "ports:");
    }
    for port in &workload.ports {
        yaml.line(4, format_args!("- containerPort: {}", port.port));
        yaml.line(6, format_args!("name: {}\n      protocol: {}", port.name, port.protocol));
    }
    yaml.line(4, "resources:\n      limits: {memory: 256Mi}\n      requests: {cpu: 100m, memory: 256Mi}");
    yaml.line(4, "volumeMounts:\n    - mountPath: /var/run/secrets/kubernetes.io/serviceaccount");
    yaml.line(6, "name: kube-api-access\n      readOnly: true");
    yaml.line(2, "dnsPolicy: ClusterFirst");
    if let Some(node) = &workload.node {
        yaml.line(2, format_args!("nodeName: {node}"));
    }
    yaml.line(2, "restartPolicy: Always\n  schedulerName: default-scheduler");
    yaml.line(2, format_args!("serviceAccountName: {}", workload.service_account));
    yaml.line(2, "terminationGracePeriodSeconds: 30\n  tolerations:\n  - effect: NoExecute");
    yaml.line(4, "key: node.kubernetes.io/not-ready\n    operator: Exists\n    tolerationSeconds: 300");
    yaml.line(0, "status:\n  conditions:");
    for condition in ["Initialized", "Ready", "ContainersReady", "PodScheduled"] {
        yaml.line(2, "- lastTransitionTime: \"2026-03-01T08:00:05Z\"\n    status: \"True\"");
        yaml.line(4, format_args!("type: {condition}"));
    }
    yaml.line(2, "phase: Running");
    yaml.line(2, format_args!("podIP: {}\n  podIPs:", workload.addresses[0]));
    for address in &workload.addresses {
        yaml.line(2, format_args!("- ip: {address}"));
    }
    yaml.line(2, "qosClass: Burstable\n  startTime: \"2026-03-01T08:00:00Z\"");
}
