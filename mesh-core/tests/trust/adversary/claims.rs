//! A cluster that says, with its own key, what its grant does not let it say.

use mesh_core::{Lease, NodeLink, RecordKey, Resource, ServiceImport, SourceId, WireGuardKey};

use super::*;

fn import(id: &str, address: &str) -> Bytes {
    let id: mesh_core::ServiceId = id.parse().expect("a service");
    let import =
        ServiceImport { cluster: cluster("east"), id: id.clone(), addresses: vec![address.parse().expect("an address")] };
    sign(&record("east", 9, RecordKey::Import(id), vec![Resource::ServiceImport(import)]))
}

fn exported(id: &str, address: &str) -> Bytes {
    sign(&record("east", 9, RecordKey::Export(id.parse().expect("a service")), vec![export(id, address)]))
}

fn node_with(prefixes: &[&str]) -> Bytes {
    let Resource::Node(mut node) = node("east", 2) else { unreachable!() };
    node.prefixes = prefixes.iter().map(|text| prefix(text)).collect();
    sign(&record("east", 9, RecordKey::Node(node.id.name.clone()), vec![Resource::Node(node)]))
}

/// A slice with one workload: of `team-a`, nothing that the victim knows already.
fn other_slice(on: u8, id: &str, address: &str) -> Bytes {
    sign(&slice("east", 9, on, vec![workload(id, on, address)]))
}

lies! {
    workload_at_a_foreign_address: "names a workload at another cluster's address" => [OutsidePrefixes], |v| {
        v.lie(&other_slice(1, "east/team-a/spy", "10.2.1.6"), RefusalReason::OutsidePrefixes);
    };
    workload_outside_of_the_fleet: "names a workload at an address that nobody is granted" => [OutsidePrefixes], |v| {
        v.lie(&other_slice(1, "east/team-a/spy", "10.9.9.9"), RefusalReason::OutsidePrefixes);
    };
    node_with_a_foreign_prefix: "names a node that speaks for another cluster's prefix" => [OutsidePrefixes], |v| {
        v.lie(&node_with(&["10.1.2.0/24", "10.2.1.0/24"]), RefusalReason::OutsidePrefixes);
    };
    node_with_a_wide_prefix: "names a node whose prefix holds its own grant and more" => [OutsidePrefixes], |v| {
        v.lie(&node_with(&["10.0.0.0/8"]), RefusalReason::OutsidePrefixes);
        v.lie(&sign(&record("east", 10, RecordKey::Node("n2".parse().expect("a name")), match node("east", 2) {
            Resource::Node(mut node) => { node.prefixes = vec![prefix("0.0.0.0/0")]; vec![Resource::Node(node)] }
            _ => unreachable!(),
        })), RefusalReason::OutsidePrefixes);
    };
    foreign_namespace: "declares a namespace that it may not speak for" => [OutsideNamespaces], |v| {
        v.lie(&sign(&namespace("east", 9, "bank", "x")), RefusalReason::OutsideNamespaces);
    };
    workload_in_a_foreign_namespace: "puts a workload into a namespace that it may not speak for" => [OutsideNamespaces], |v| {
        v.lie(&other_slice(1, "east/bank/spy", "10.1.1.6"), RefusalReason::OutsideNamespaces);
    };
    ungranted_export: "exports a service that it may not export" => [OutsideExports], |v| {
        v.lie(&exported("shop/web", "10.1.1.5"), RefusalReason::OutsideExports);
    };
    export_with_foreign_backends: "exports a granted service with a backend of another cluster" => [OutsidePrefixes], |v| {
        v.lie(&exported("shop/db", "10.2.1.5"), RefusalReason::OutsidePrefixes);
    };
    clusterset_address_outside_its_range: "allocates a clusterset address outside its range" => [OutsidePrefixes], |v| {
        v.lie(&import("shop/db", "10.2.1.5"), RefusalReason::OutsidePrefixes);
    };
    import_in_a_foreign_namespace: "allocates an address for a namespace that it may not speak for" => [OutsideNamespaces], |v| {
        v.lie(&import("bank/db", "100.80.1.9"), RefusalReason::OutsideNamespaces);
    };
    workload_outside_its_node: "puts a workload on a node whose prefix does not hold it" => [OutsideNode], |v| {
        let spy = workload("east/shop/spy", 1, "10.1.2.5");
        v.lie(&sign(&slice("east", 9, 1, vec![workload("east/shop/web-0", 1, "10.1.1.5"), spy])), RefusalReason::OutsideNode);
    };
    workload_on_an_unknown_node: "puts a workload on a node that it never named" => [UnknownNode], |v| {
        v.lie(&other_slice(9, "east/shop/spy", "10.1.1.6"), RefusalReason::UnknownNode);
    };
    workload_without_a_namespace: "keeps a namespace's labels to itself, or takes them back, for who selects by what is absent" => [UnknownNamespace], |v| {
        v.lie(&other_slice(1, "east/team-a/spy", "10.1.1.6"), RefusalReason::UnknownNamespace);
        let gone = record("east", 9, RecordKey::Namespace("shop".parse().expect("a name")), Vec::new());
        v.lie(&sign(&gone), RefusalReason::UnknownNamespace);
        assert!(!v.knows("east/shop/web-0") && v.knows("west/shop/web-0"));
        assert_eq!(located(&v.state, "10.1.1.5"), mesh_core::Located::Pending, "its own workloads are nobody, which is denied");
        v.believe();
    };
    workload_on_a_foreign_node: "puts a workload on another cluster's node" => [ForeignCluster], |v| {
        let lie = record("east", 9, RecordKey::Slice("shop".parse().expect("a name"), "n1".parse().expect("a name")),
            vec![workload("west/shop/spy", 1, "10.2.1.6")]);
        v.lie(&sign(&lie), RefusalReason::ForeignCluster);
    };
    host_network_workload: "says that a workload uses its node's address, which no prefix bounds" => [NotAllowedHere], |v| {
        let Resource::Workload(mut spy) = workload("east/team-a/spy", 1, "10.2.1.6") else { unreachable!() };
        spy.host_network = true;
        v.lie(&sign(&slice("east", 9, 1, vec![Resource::Workload(spy)])), RefusalReason::NotAllowedHere);
    };
    slice_of_another_namespace: "hides a workload in the slice of another namespace" => [NotAllowedHere], |v| {
        let lie = record("east", 9, RecordKey::Slice("team-a".parse().expect("a name"), "n1".parse().expect("a name")),
            vec![workload("east/shop/spy", 1, "10.1.1.6")]);
        v.lie(&sign(&lie), RefusalReason::NotAllowedHere);
    };
    link_with_a_foreign_overlay_address: "gives its node an address inside the mesh that is another's" => [OutsidePrefixes, OutsideNode], |v| {
        for (counter, overlay, reason) in
            [(9, "10.2.1.5", RefusalReason::OutsidePrefixes), (10, "10.1.2.5", RefusalReason::OutsideNode)]
        {
            let Resource::Node(node) = node("east", 1) else { unreachable!() };
            let link = NodeLink {
                id: node.id.clone(), key: WireGuardKey([3; 32]), next_key: None,
                endpoints: Vec::new(), overlay: vec![overlay.parse().expect("an address")],
            };
            let resources = vec![Resource::Node(node.clone()), Resource::NodeLink(link)];
            v.lie(&sign(&record("east", counter, RecordKey::Node(node.id.name), resources)), reason);
        }
    };
    node_address_of_another_cluster: "says that another cluster's workload address is its node's own" => [], |v| {
        let Resource::Node(mut liar) = node("east", 1) else { unreachable!() };
        liar.addresses = vec!["10.2.1.6".parse().expect("an address")];
        let _ = v.told(Event::Record(sign(&record("east", 9, RecordKey::Node(liar.id.name.clone()), vec![Resource::Node(liar)]))));
        assert_eq!(located(&v.state, "10.2.1.6"), mesh_core::Located::Pending, "nobody");
        v.believe();
    };
    contents_under_another_key: "puts a node into the record of a lease, and a namespace into another's" => [NotAllowedHere], |v| {
        v.lie(&sign(&record("east", 9, RecordKey::Lease, vec![node("east", 2)])), RefusalReason::NotAllowedHere);
        let mut lie = namespace("east", 9, "team-a", "x");
        lie.key = RecordKey::Namespace("shop".parse().expect("a name"));
        v.lie(&sign(&lie), RefusalReason::NotAllowedHere);
    };
    reserved_labels: "labels its own with another cluster's name and region" => [NotAllowedHere], |v| {
        let Resource::Namespace(mut lie) = namespace("east", 9, "shop", "blue").resources.remove(0) else { unreachable!() };
        lie.labels = lie.labels.with([("cluster-mesh.io/cluster", "west"), ("cluster-mesh.io/region", "us")]);
        v.lie(&sign(&record("east", 9, RecordKey::Namespace(lie.name.clone()), vec![Resource::Namespace(lie)])),
            RefusalReason::NotAllowedHere);
        let labels = v.state.namespace_labels(&cluster("east"), &"shop".parse().expect("a name"));
        assert_eq!((labels.get("cluster-mesh.io/cluster"), labels.get("cluster-mesh.io/region")), (Some("east"), Some("eu")));
    };
    lease_for_ever: "gives itself a lease of a hundred years" => [], |v| {
        let lease = Lease { cluster: cluster("east"), issued: now(0).wall, ttl_seconds: u32::MAX, policies: None };
        let _ = v.told(Event::Record(sign(&record("east", 9, RecordKey::Lease, vec![Resource::Lease(lease)]))));
        v.at(300);
        assert_eq!(v.freshness("east"), Freshness::Suspect, "five minutes are the most that it is worth");
    };
    future_lease: "dates a lease ahead, to seem alive when it is dead" => [Future], |v| {
        v.lie(&sign(&lease("east", 9, 5000)), RefusalReason::Future);
        v.believe();
        assert_eq!(v.freshness("east"), Freshness::Expired, "a cluster whose last word is not of this time has no lease");
    };
    plain_source_for_another_cluster: "tells another cluster's facts from a directory of its own" => [ForeignCluster, NotAllowedHere], |v| {
        let source = SourceId("manifests".into());
        let _ = v.told(Event::Set(source.clone(), workload("west/shop/spy", 1, "10.2.1.6")));
        let mut wide = grant("north");
        wide.prefixes = vec![prefix("0.0.0.0/0")];
        let _ = v.told(Event::Set(source, Resource::Grant(wide.into())));
        assert!(!v.knows("west/shop/spy") && !v.state.facts().grants.contains_key(&cluster("north")));
        assert_eq!(located(&v.state, "10.2.1.6"), mesh_core::Located::Pending, "not external either");
        v.believe();
    };
    own_records_from_a_store: "puts facts of the victim's own cluster into its store, signed by its own key" => [], |v| {
        v.hear(&signed_grant(grant("north")));
        let _ = v.told(Event::Record(sign(&node_record("north", 1, 1))));
        let _ = v.told(Event::Record(sign(&slice("north", 2, 1, vec![workload("north/shop/spy", 1, "10.3.1.5")]))));
        assert!(!v.knows("north/shop/spy"), "the own cluster's facts come from its own sources");
    };
}
