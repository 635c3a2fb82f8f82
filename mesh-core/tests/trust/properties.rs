//! What holds for all records, in all orders.

use std::net::IpAddr;
use std::sync::{Arc, LazyLock};

use mesh_core::record::{Statement, open};
use mesh_core::{
    Bytes, Endpoint, EndpointPort, Event, Export, Labels, Lease, Locality, NamedPort, Namespace, Node, NodeId, NodeLink, Prefix,
    Protocol, Record, RecordKey, Resource, RootRecord, SecretKey, ServiceImport, ServiceKind, ServicePort, SessionAffinity,
    Traffic, Version, WallTime, WireGuardKey, Workload, WorkloadId,
};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use crate::fixture::*;

fn name<T: std::str::FromStr<Err = mesh_core::NameError> + std::fmt::Debug>() -> impl Strategy<Value = T> {
    "[a-z]([a-z0-9-]{0,8}[a-z0-9])?".prop_map(|text| text.parse().expect("a name"))
}

fn address() -> impl Strategy<Value = IpAddr> {
    prop_oneof![
        any::<u32>().prop_map(|bits| IpAddr::V4(bits.into())),
        any::<u128>().prop_map(|bits| IpAddr::V6((bits | 1 << 127).into())),
    ]
}

fn some_prefix() -> impl Strategy<Value = Prefix> {
    (address(), 0u8..=32).prop_map(|(address, len)| Prefix::new(address, len).expect("short enough"))
}

fn labels() -> impl Strategy<Value = Labels> {
    prop::collection::btree_map("[a-z./]{1,20}", "[a-zA-Z0-9.-]{0,10}", 0..4).prop_map(|map| map.into_iter().collect())
}

fn protocol() -> impl Strategy<Value = Protocol> {
    any::<u8>().prop_map(Protocol::from_number)
}

fn text() -> impl Strategy<Value = Arc<str>> {
    "[a-z0-9-]{1,15}".prop_map(Into::into)
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let port = (option::of(text()), protocol(), option::of(any::<u16>())).prop_map(|(name, protocol, port)| EndpointPort {
        name,
        protocol,
        port,
    });
    let hostname = option::of("[a-z][a-z0-9]{0,9}".prop_map(Into::into));
    (vec(address(), 0..3), any::<(bool, bool)>(), hostname, option::of(name()), vec(port, 0..3)).prop_map(
        |(addresses, (ready, terminating), hostname, node, ports)| Endpoint {
            addresses,
            ready,
            terminating,
            hostname,
            node,
            ports,
        },
    )
}

fn export() -> impl Strategy<Value = Export> {
    let port = (option::of(text()), protocol(), any::<u16>(), option::of(text()))
        .prop_map(|(name, protocol, port, app_protocol)| ServicePort { name, protocol, port, app_protocol });
    let affinity = option::of(any::<u32>())
        .prop_map(|seconds| seconds.map(|timeout_seconds| SessionAffinity::ClientIp { timeout_seconds }).unwrap_or_default());
    let created = option::of(any::<u64>().prop_map(WallTime::from_unix_nanos));
    let first = vec![Locality::Node, Locality::Zone, Locality::Cluster, Locality::Region, Locality::Anywhere];
    let traffic = (proptest::sample::select(first), any::<bool>(), 0..=Traffic::MAX_WEIGHT)
        .prop_map(|(first, node_only, weight)| Traffic { first, node_only, weight });
    let kind = prop_oneof![Just(ServiceKind::ClusterIp), Just(ServiceKind::Headless)];
    let service = (name::<mesh_core::NamespaceName>(), name::<mesh_core::ObjectName>());
    (name(), service, created, kind, vec(port, 0..3), (affinity, traffic), any::<bool>(), vec(endpoint(), 0..4)).prop_map(
        |(cluster, (namespace, name), created, kind, ports, (affinity, traffic), publish_not_ready, endpoints)| Export {
            cluster,
            id: mesh_core::ServiceId { namespace, name },
            created,
            kind,
            ports,
            affinity,
            traffic,
            publish_not_ready,
            endpoints,
        },
    )
}

fn workload_resource() -> impl Strategy<Value = Resource> {
    let port = (text(), protocol(), any::<u16>()).prop_map(|(name, protocol, port)| NamedPort { name, protocol, port });
    let id = (name(), name(), name()).prop_map(|(cluster, namespace, name)| WorkloadId { cluster, namespace, name });
    (id, labels(), text(), option::of(name()), any::<bool>(), vec(address(), 0..3), vec(port, 0..3)).prop_map(
        |(id, labels, service_account, node, host_network, addresses, ports)| {
            Resource::Workload(Workload { id, labels, service_account, node, host_network, addresses, ports })
        },
    )
}

fn resource() -> impl Strategy<Value = Resource> {
    let id = || (name(), name()).prop_map(|(cluster, name)| NodeId { cluster, name });
    let key = || any::<[u8; 32]>().prop_map(WireGuardKey);
    let at = (address(), any::<u16>()).prop_map(Into::into);
    prop_oneof![
        (id(), labels(), vec(address(), 0..3), vec(some_prefix(), 0..3))
            .prop_map(|(id, labels, addresses, prefixes)| { Resource::Node(Node { id, labels, addresses, prefixes }) }),
        (id(), key(), option::of(key()), vec(at, 0..3), vec(address(), 0..2)).prop_map(
            |(id, key, next_key, endpoints, overlay)| Resource::NodeLink(NodeLink { id, key, next_key, endpoints, overlay })
        ),
        (name(), name(), labels()).prop_map(|(cluster, name, labels)| Resource::Namespace(Namespace { cluster, name, labels })),
        workload_resource(),
        export().prop_map(Resource::Export),
        (export(), vec(address(), 0..3)).prop_map(|(export, addresses)| {
            Resource::ServiceImport(ServiceImport { cluster: export.cluster, id: export.id, addresses })
        }),
        (name(), any::<u64>(), any::<u32>(), option::of(any::<u64>())).prop_map(|(cluster, issued, ttl_seconds, policies)| {
            Resource::Lease(Lease { cluster, issued: WallTime::from_unix_nanos(issued), ttl_seconds, policies })
        }),
    ]
}

fn any_record() -> impl Strategy<Value = Record> {
    let key = prop_oneof![
        name().prop_map(RecordKey::Node),
        name().prop_map(RecordKey::Namespace),
        (name(), name()).prop_map(|(namespace, node)| RecordKey::Slice(namespace, node)),
        export().prop_map(|export| RecordKey::Export(export.id)),
        export().prop_map(|export| RecordKey::Import(export.id)),
        Just(RecordKey::Lease),
    ];
    (name(), any::<u64>(), any::<u64>(), key, vec(resource(), 0..5)).prop_map(
        |(cluster, incarnation, counter, key, resources)| Record {
            cluster,
            version: Version { incarnation, counter },
            key,
            resources,
        },
    )
}

/// Everything that the permutations are made of: honest, superseded, gone, forged, misplaced, early and late.
fn repertoire() -> Vec<Bytes> {
    let mut rotated = grant("east");
    (rotated.epoch, rotated.key) = (2, Some(SecretKey::from_bytes([77; 32]).public()));
    let mut narrow = grant("west");
    (narrow.not_before, narrow.namespaces) = (now(10).wall, Vec::new());
    let with = |record: &Record, seed: u8| record.sign(&root().public(), &SecretKey::from_bytes([seed; 32])).expect("fits");
    let mut all = vec![
        signed_grant(grant("east")),
        signed_grant(grant("west")),
        signed_grant(narrow),
        signed_grant(rotated),
        revocation("west", 2),
    ];
    for name in ["east", "west"] {
        let id = |pod: &str| format!("{name}/shop/{pod}");
        let at = |rest: &str| format!("10.{}.{rest}", net(name));
        all.extend(
            [
                node_record(name, 1, 1),
                node_record(name, 2, 2),
                record(name, 9, RecordKey::Node("n2".parse().expect("a name")), Vec::new()),
                slice(name, 3, 1, vec![workload(&id("a"), 1, &at("1.5")), workload(&id("b"), 1, &at("1.6"))]),
                slice(name, 4, 1, vec![workload(&id("b"), 1, &at("1.6"))]),
                slice(name, 5, 2, vec![workload(&id("a"), 2, &at("2.5"))]),
                slice(name, 6, 2, vec![workload(&id("c"), 2, "10.9.9.9"), workload(&id("d"), 2, &at("1.9"))]),
                namespace(name, 7, "shop", "one"),
                namespace(name, 8, "shop", "two"),
                namespace(name, 8, "bank", "x"),
                lease(name, 11, 0),
                lease(name, 12, 400),
            ]
            .iter()
            .map(sign),
        );
    }
    all.push(with(&namespace("east", 1, "shop", "rotated"), 77));
    all.push(with(&namespace("east", 50, "shop", "stranger"), 99));
    all.push(with(&namespace("west", 50, "shop", "by east"), b'e'));
    all
}

static REPERTOIRE: LazyLock<Vec<Bytes>> = LazyLock::new(repertoire);

fn twin() -> Bytes {
    sign(&namespace("west", 8, "shop", "twin"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_signed_is_what_is_opened(record in any_record(), seed in any::<[u8; 32]>()) {
        let key = SecretKey::from_bytes(seed);
        let opened = open(&record.sign(&root().public(), &key).expect("fits")).expect("opens");
        prop_assert_eq!((opened.signer, opened.fleet), (key.public(), root().public()));
        prop_assert_eq!(&opened.statement, &Statement::Record(record));
    }

    #[test]
    fn a_signed_grant_is_the_grant(prefixes in vec(some_prefix(), 0..4), epoch in any::<u64>(), text in "[ -~\n]{0,80}") {
        let grant = mesh_core::Grant { prefixes, epoch, ..grant("east") };
        for said in [RootRecord::Grant(Arc::new(grant)), RootRecord::Policies { serial: epoch, manifests: vec![("a".into(), text)] }] {
            prop_assert_eq!(open(&said.sign(&root()).expect("fits")).expect("opens").into_contents().statement, Statement::Root(said));
        }
    }

    #[test]
    fn random_bytes_are_answered(bytes in vec(any::<u8>(), 0..400)) {
        prop_assert!(open(&bytes.into()).is_err());
    }

    #[test]
    fn a_changed_byte_changes_nothing_unnoticed(record in any_record(), at in any::<prop::sample::Index>(), flip in 1u8..) {
        let bytes = sign_as_east(&record);
        let mut changed = bytes.to_vec();
        let at = at.index(changed.len());
        changed[at] ^= flip;
        let opened = open(&bytes).expect("opens");
        let said = mesh_core::Opened::into_contents;
        prop_assert!(open(&changed.into()).map_or(true, |changed| said(changed) == said(opened)));
    }

    #[test]
    fn facts_do_not_depend_on_the_order(
        order in Just((0..REPERTOIRE.len()).collect::<Vec<_>>()).prop_shuffle(),
        take in 5usize..40,
        with_twin in any::<bool>(),
        later in prop_oneof![Just(0u64), Just(10), Just(200), Just(100_000)],
    ) {
        let mut told: Vec<Bytes> = order.iter().take(take).map(|index| REPERTOIRE[*index].clone()).collect();
        if with_twin {
            told.insert(told.len() / 2, twin());
        }
        let mut sorted = told.clone();
        sorted.sort();
        let mut states = [state_of("north"), state_of("north"), state_of("north")];
        for bytes in &told {
            let _ = states[0].apply(Event::Record(bytes.clone()), now(0));
        }
        // Told in another order, some of it twice.
        for bytes in sorted.iter().chain(&told[..told.len() / 3]) {
            let _ = states[1].apply(Event::Record(bytes.clone()), now(0));
        }
        // Told when time has passed already.
        for bytes in told.iter().rev() {
            let _ = states[2].apply(Event::Record(bytes.clone()), now(later));
        }
        for state in &mut states {
            let _ = state.handle_timeout(now(later));
        }
        let [a, b, c] = &states;
        prop_assert_eq!(a.facts(), b.facts());
        prop_assert_eq!(a.facts(), c.facts());
        for state in [b, c] {
            prop_assert!(a.refused().map(|(key, refusal)| (key, refusal.reason)).eq(state.refused().map(|(key, refusal)| (key, refusal.reason))));
            prop_assert_eq!(a.is_quarantined(&cluster("west")), state.is_quarantined(&cluster("west")));
            for text in ["10.1.1.5", "10.1.2.5", "10.2.1.5", "10.2.2.5", "10.9.9.9", "192.0.2.1"] {
                let address: IpAddr = text.parse().expect("an address");
                prop_assert_eq!(a.locate(address), state.locate(address));
            }
            prop_assert!(a.pending_prefixes().eq(state.pending_prefixes()));
            prop_assert_eq!(a.freshness(&cluster("east"), now(later).wall), state.freshness(&cluster("east"), now(later).wall));
        }
    }
}

fn sign_as_east(record: &Record) -> Bytes {
    record.sign(&root().public(), &key_of("east")).expect("fits")
}
