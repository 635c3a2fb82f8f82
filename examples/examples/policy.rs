//! Evaluates a policy: two clusters' manifests in, a verdict with its reason out. No network, no files, no clock.
//!
//!     cargo run -p landbridge --example policy

use mesh_core::manifest::Checked;
use mesh_core::{Change, Direction, FiveTuple, Protocol};
use mesh_policy::Compiler;

const EAST: &str = "
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {app: web}}
status: {podIPs: [{ip: 10.1.0.5}]}
";

const WEST: &str = "
apiVersion: v1
kind: Pod
metadata: {name: db-0, namespace: shop, labels: {app: db}}
status: {podIPs: [{ip: 10.2.0.9}]}
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: db-in, namespace: shop}
spec:
  podSelector: {matchLabels: {app: db}}
  ingress:
    - from: [{podSelector: {matchLabels: {app: web}}}]
      ports: [{port: 5432}]
";

fn main() {
    let files = [("clusters/east/web.yaml", EAST), ("clusters/west/db.yaml", WEST)];
    let checked = Checked::load(files).unwrap_or_else(|errors| panic!("{errors:#?}"));
    let policy = Compiler::new().update(&checked.state, &Change::default()).clone();
    for port in [5432, 22] {
        let tuple = FiveTuple {
            source: [10, 1, 0, 5].into(),
            destination: [10, 2, 0, 9].into(),
            protocol: Protocol::Tcp,
            source_port: 40_000,
            destination_port: port,
        };
        let flow = policy.flow(&tuple);
        for direction in [Direction::Egress, Direction::Ingress] {
            println!("{tuple} {direction}: {}", policy.named(policy.decide(&flow, direction)));
        }
    }
}
