//! Manifests in short, for the stories.

use std::fmt::Write;

use mesh_core::State;
use mesh_core::manifest::Checked;

/// The manifests of one cluster.
#[derive(Default)]
pub(crate) struct Cluster(String);

impl Cluster {
    pub(crate) fn new() -> Cluster {
        Cluster::default()
    }

    fn raw(mut self, text: &str) -> Cluster {
        write!(self.0, "---\n{text}\n").expect("a string takes it");
        self
    }

    pub(crate) fn namespace(self, name: &str) -> Cluster {
        self.raw(&format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}"))
    }

    pub(crate) fn service(self, name: &str, spec: &str) -> Cluster {
        self.raw(&format!("{{apiVersion: v1, kind: Service, metadata: {{namespace: shop, name: {name}}}, spec: {{{spec}}}}}"))
    }

    pub(crate) fn export(self, name: &str) -> Cluster {
        self.raw(&format!(
            "{{apiVersion: multicluster.x-k8s.io/v1beta1, kind: ServiceExport, metadata: {{namespace: shop, name: {name}}}}}"
        ))
    }

    pub(crate) fn endpoints(self, service: &str, ports: &str, endpoints: &str) -> Cluster {
        self.raw(&format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, addressType: IPv4, ports: [{ports}], endpoints: [{endpoints}],\n\
             metadata: {{namespace: shop, name: {service}-1, labels: {{kubernetes.io/service-name: {service}}}}}}}"
        ))
    }

    pub(crate) fn import(self, name: &str, ips: &str) -> Cluster {
        self.raw(&format!(
            "{{apiVersion: multicluster.x-k8s.io/v1alpha1, kind: ServiceImport, metadata: {{namespace: shop, name: {name}}},\n\
             spec: {{type: ClusterSetIP, ips: [{ips}], ports: [{{port: 80, protocol: TCP}}]}}}}"
        ))
    }
}

pub(crate) fn fleet(clusters: &[(&str, &Cluster)]) -> State {
    let files: Vec<(String, &str)> =
        clusters.iter().map(|(name, cluster)| (format!("clusters/{name}/all.yaml"), cluster.0.as_str())).collect();
    Checked::load(files.iter().map(|(path, text)| (path.as_str(), *text))).expect("correct manifests").state
}
