//! Answers a DNS name: manifests in, a query's bytes in, a reply's bytes out. No socket.
//!
//!     cargo run -p landbridge --example dns

use std::sync::Arc;

use mesh_core::manifest::Checked;
use mesh_core::{ClusterName, Time};
use mesh_discovery::{Reply, Resolver, ResolverConfig, Transport, Zone, ZoneConfig};

const WEST: &str = "
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec: {clusterIP: 10.96.0.7, ports: [{port: 5432}]}
---
apiVersion: multicluster.x-k8s.io/v1alpha1
kind: ServiceExport
metadata: {name: db, namespace: shop}
";

const EAST: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop}
";

fn main() {
    let files = [("clusters/east/shop.yaml", EAST), ("clusters/west/db.yaml", WEST)];
    let checked = Checked::load(files).unwrap_or_else(|errors| panic!("{errors:#?}"));
    let east = ClusterName::new("east").expect("a cluster's name");
    let zone = Arc::new(Zone::build(&checked.state, &east, &ZoneConfig::default()));
    let mut resolver = Resolver::new(ResolverConfig::default(), zone, Box::new(|| 0));
    let query = query("db.shop.svc.clusterset.local");
    let Reply::Answer(reply) = resolver.handle_message(&query, Transport::Udp, (), Time::ZERO) else {
        panic!("the resolver is authoritative for clusterset.local");
    };
    // An A record's address is the last four bytes of a message with one answer and nothing after it.
    let [.., a, b, c, d] = reply.as_slice() else { panic!("a reply is longer than its address") };
    println!("{} answer(s): db.shop.svc.clusterset.local is {a}.{b}.{c}.{d}", u16::from_be_bytes([reply[6], reply[7]]));
}

/// Writes a query for the A records of a name (RFC 1035 §4.1).
fn query(name: &str) -> Vec<u8> {
    let mut message = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        message.push(label.len() as u8);
        message.extend(label.bytes());
    }
    message.extend([0, 0, 1, 0, 1]);
    message
}
