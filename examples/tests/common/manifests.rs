//! Manifests of a test's own, as text.

use std::fs;
use std::path::Path;

pub fn namespace(name: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{team: {name}}}}}\n---\n")
}

/// Node `node-<n>` of the cluster with this number.
pub fn node(cluster: u8, n: u8) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: node-{n}}}\nspec: {{podCIDRs: [10.{cluster}.{n}.0/24]}}\n\
         status: {{addresses: [{{type: InternalIP, address: 172.31.{cluster}{n}.2}}]}}\n---\n"
    )
}

/// Pod `<app>-<last>`, on the node and with the label that its address and name say.
pub fn pod(namespace: &str, app: &str, address: &str, port: u16) -> String {
    let parts: Vec<&str> = address.split('.').collect();
    let (node, last) = (parts[2], parts[3]);
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {app}-{last}, namespace: {namespace}, labels: {{app: {app}}}}}\n\
         spec: {{nodeName: node-{node}, containers: [{{name: main, ports: [{{name: main, containerPort: {port}}}]}}]}}\n\
         status: {{podIPs: [{{ip: {address}}}]}}\n---\n"
    )
}

/// A service with one endpoint, which is exported.
pub fn exported_service(namespace: &str, name: &str, address: &str, port: u16) -> String {
    let node = address.split('.').nth(2).unwrap();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{ports: [{{port: {port}}}]}}\n\
         ---\napiVersion: multicluster.x-k8s.io/v1alpha1\nkind: ServiceExport\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         ---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nports: [{{port: {port}}}]\n\
         metadata: {{name: {name}-1, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         endpoints: [{{addresses: [{address}], nodeName: node-{node}}}]\n---\n"
    )
}

/// A policy for the pods of an app: whom it lets in, or whom it lets them call, as peers of a rule.
pub fn network_policy(namespace: &str, name: &str, app: &str, (direction, peers): (&str, &str)) -> String {
    let (kind, whom) = if direction == "ingress" { ("Ingress", "from") } else { ("Egress", "to") };
    format!(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{podSelector: {{matchLabels: {{app: {app}}}}}, policyTypes: [{kind}], {direction}: [{{{whom}: {peers}}}]}}\n---\n"
    )
}

/// Writes a fleet's directory: for each cluster its grant and its manifests.
pub fn write_fleet(directory: &Path, name: &str, clusters: &[(&str, &str, String)]) {
    let mut fleet = format!("name: {name}\nclusters:\n");
    for (cluster, grant, manifests) in clusters {
        fleet += &format!("  {cluster}: {grant}\n");
        let place = directory.join("clusters").join(cluster);
        fs::create_dir_all(&place).unwrap();
        fs::write(place.join("all.yaml"), manifests).unwrap();
    }
    fs::write(directory.join("fleet.yaml"), fleet).unwrap();
}
