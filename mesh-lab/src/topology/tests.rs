use super::*;

fn topology() -> Topology {
    let mut topology = Topology::new("demo");
    for (index, cluster) in ["east", "west"].into_iter().enumerate() {
        topology.nodes.push(NodeSpec {
            cluster: cluster.to_owned(),
            node: "n1".to_owned(),
            underlay: vec![IpAddr::from([198, 51, 100, index as u8])],
            pod_cidrs: vec![IpNetwork::new(IpAddr::from([10, index as u8, 0, 0]), 16).unwrap()],
        });
        topology.workloads.push(WorkloadSpec {
            cluster: cluster.to_owned(),
            namespace: "shop".to_owned(),
            pod: "web".to_owned(),
            node: "n1".to_owned(),
            addresses: vec![IpAddr::from([10, index as u8, 0, 5])],
        });
    }
    topology
}

#[test]
fn a_topology_survives_json_and_keeps_its_defaults() {
    let topology = topology();
    topology.validate().unwrap();
    let json = serde_json::to_string(&topology).unwrap();
    assert_eq!(serde_json::from_str::<Topology>(&json).unwrap(), topology);
    let small: Topology = serde_json::from_str(r#"{"name":"x","nodes":[]}"#).unwrap();
    assert_eq!(small, Topology::new("x"));
}

#[test]
fn names_are_derived_from_lab_cluster_and_object() {
    let topology = topology();
    let names = ["demo-underlay", "demo-east-n1", "demo-west-n1", "demo-east-shop-web", "demo-west-shop-web"];
    assert_eq!(topology.netns_names(), names);
    let interface = topology.workloads[0].node_interface();
    assert!(interface.len() <= 15 && interface.starts_with("lb"), "{interface}");
    assert_ne!(interface, topology.workloads[1].node_interface());
}

#[test]
fn every_mistake_has_its_own_error() {
    let refused = |change: fn(&mut Topology)| {
        let mut topology = topology();
        change(&mut topology);
        topology.validate().unwrap_err()
    };
    assert!(matches!(refused(|t| t.name = "../etc".into()), TopologyError::Name { what: "lab", .. }));
    assert!(matches!(refused(|t| t.nodes[0].node = String::new()), TopologyError::Name { what: "node", .. }));
    assert!(matches!(refused(|t| t.workloads[0].pod = "a/b".into()), TopologyError::Name { what: "pod", .. }));
    assert!(matches!(refused(|t| t.workloads[0].pod = "p".repeat(250)), TopologyError::TooLong { .. }));
    assert!(matches!(refused(|t| t.workloads[0].node = "n9".into()), TopologyError::NoSuchNode { .. }));
    assert!(matches!(refused(|t| t.workloads[0].addresses.clear()), TopologyError::NoAddress { .. }));
    assert!(matches!(refused(|t| t.nodes[1].underlay = t.nodes[0].underlay.clone()), TopologyError::AddressTwice { .. }));
    assert!(matches!(refused(|t| t.mtu = 500), TopologyError::Mtu { mtu: 500 }));
    let twice = refused(|t| {
        let mut copy = t.workloads[0].clone();
        copy.addresses = vec![IpAddr::from([10, 0, 0, 9])];
        t.workloads.push(copy);
    });
    assert!(matches!(twice, TopologyError::Duplicate { .. }));
    let node_and_workload = refused(|t| t.nodes[0].node = "shop-web".into());
    assert!(matches!(node_and_workload, TopologyError::NoSuchNode { .. }));
}

#[test]
fn the_underlay_routes_no_prefix_that_two_nodes_claim() {
    let mut topology = topology();
    assert_eq!(topology.underlay_prefixes(&topology.nodes[0]), topology.nodes[0].pod_cidrs);
    topology.nodes[1].pod_cidrs = topology.nodes[0].pod_cidrs.clone();
    assert_eq!(topology.underlay_prefixes(&topology.nodes[0]), []);
    topology.nodes[1].pod_cidrs.clear();
    assert_eq!(topology.underlay_prefixes(&topology.nodes[1]), ["10.1.0.5/32".parse::<IpNetwork>().unwrap()]);
}
