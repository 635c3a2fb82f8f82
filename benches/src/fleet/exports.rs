//! The services that the fleet's clusters export to each other.

use mesh_core::{Endpoint, EndpointPort, EndpointSlice, Resource, Service, ServiceExport, ServiceId, ServiceKind, ServicePort};
use mesh_core::{ObjectName, Protocol, SessionAffinity};

use super::{CLUSTERS, Fleet, environment};

/// The most popular apps of each prod namespace are exported.
const EXPORTED_APPS: u32 = 2;
/// The endpoints of an exported service in one cluster, at most.
const ENDPOINTS: usize = 16;

impl Fleet {
    /// Returns Service, EndpointSlice and ServiceExport of each exported service: two apps of every prod namespace of every
    /// cluster, each with up to 16 backends.
    pub(super) fn exports(&self) -> impl Iterator<Item = Resource> {
        let clusters = 0..CLUSTERS.len();
        let mut backends = vec![Vec::new(); CLUSTERS.len() * self.words.namespaces.len() * EXPORTED_APPS as usize];
        let place = |cluster: usize, namespace: usize, app: usize| {
            (cluster * self.words.namespaces.len() + namespace) * EXPORTED_APPS as usize + app
        };
        for number in 0..self.size.workloads {
            let rollout = self.rollout(number);
            if rollout.app < EXPORTED_APPS && environment(rollout.namespace) == "prod" {
                let of = &mut backends[place(rollout.cluster as usize, rollout.namespace as usize, rollout.app as usize)];
                if of.len() < ENDPOINTS {
                    of.push(number);
                }
            }
        }
        let each = clusters.flat_map(|cluster| (0..self.words.namespaces.len()).map(move |namespace| (cluster, namespace)));
        let each = each.flat_map(|(cluster, namespace)| (0..EXPORTED_APPS as usize).map(move |app| (cluster, namespace, app)));
        let exported = each.filter_map(move |(cluster, namespace, app)| {
            let backends = std::mem::take(&mut backends[place(cluster, namespace, app)]);
            (!backends.is_empty()).then(|| self.export(cluster, (namespace, app), &backends))
        });
        exported.flatten()
    }

    fn export(&self, cluster: usize, (namespace, app): (usize, usize), backends: &[u32]) -> [Resource; 3] {
        let cluster = self.words.clusters[cluster].clone();
        let name = ObjectName::new(&self.words.apps[app]).expect("valid");
        let id = ServiceId { namespace: self.words.namespaces[namespace].clone(), name: name.clone() };
        let http = &self.words.ports[0];
        let port = ServicePort { name: Some(http.clone()), protocol: Protocol::Tcp, port: 80, app_protocol: None };
        let endpoint = |number: &u32| Endpoint {
            addresses: vec![self.address(*number)],
            ready: true,
            terminating: false,
            hostname: None,
            node: None,
            ports: vec![EndpointPort {
                name: Some(http.clone()),
                protocol: Protocol::Tcp,
                port: Some([8080, 8000, 3000][app % 3]),
            }],
        };
        [
            Resource::Service(Service {
                cluster: cluster.clone(),
                id: id.clone(),
                kind: ServiceKind::ClusterIp,
                addresses: Vec::new(),
                ports: vec![port],
                affinity: SessionAffinity::None,
                traffic: mesh_core::Traffic::default(),
                publish_not_ready: false,
                external_name: None,
            }),
            Resource::EndpointSlice(EndpointSlice {
                cluster: cluster.clone(),
                name,
                service: id.clone(),
                endpoints: backends.iter().map(endpoint).collect(),
            }),
            Resource::ServiceExport(ServiceExport { cluster, id, created: None, traffic: Default::default() }),
        ]
    }
}
