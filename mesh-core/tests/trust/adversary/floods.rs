//! Too much of it: what is kept and what is done for it stay bounded, and who is honest is still heard.

use mesh_core::{Endpoint, Export, RecordKey, Resource, ServiceKind, SessionAffinity};

use super::*;

fn key(number: u64) -> SecretKey {
    let mut seed = [42; 32];
    seed[..8].copy_from_slice(&number.to_be_bytes());
    SecretKey::from_bytes(seed)
}

fn node_key(number: u64) -> RecordKey {
    RecordKey::Node(format!("n{number}").parse().expect("a name"))
}

/// After a flood an honest cluster is heard as before.
fn is_heard(v: &mut Victim, name: &str) {
    v.hear(&sign(&namespace(name, 1 << 40, "shop", "green")));
}

fn endpoint() -> Endpoint {
    Endpoint { addresses: Vec::new(), ready: true, terminating: false, hostname: None, node: None, ports: Vec::new() }
}

lies! {
    flood_of_signers: "makes a thousand keys and signs with each" => [BadSignature, OverLimit], |v| {
        for number in 0..1000 {
            let _ = v.told(Event::Record(sign_by(&namespace("east", number, "shop", "x"), &key(number))));
        }
        let usage = v.state.usage();
        assert!(usage.stranger_records < 120, "{usage:?}");
        is_heard(v, "east");
    };
    flood_of_clusters: "speaks in the names of a thousand clusters" => [NoGrant, OverLimit], |v| {
        for number in 0..1000 {
            let _ = v.told(Event::Record(sign_by(&record(&format!("c{number}"), 1, RecordKey::Lease, Vec::new()), &stranger())));
        }
        assert!(v.state.usage().clusters < 120, "{:?}", v.state.usage());
        is_heard(v, "east");
    };
    flood_of_records: "is granted, and names more and more nodes" => [OverLimit], |v| {
        let mut kept = 0;
        for number in 0..1000 {
            let mut lie = node("east", 1);
            if let Resource::Node(node) = &mut lie {
                (node.id.name, node.prefixes) = (format!("n{}", number + 10).parse().expect("a name"), Vec::new());
            }
            let refused = v.told(Event::Record(sign(&record("east", 100 + number, node_key(number + 10), vec![lie]))));
            kept += usize::from(refused.is_empty());
        }
        assert!((50..LIMITS.cluster / 512).contains(&kept), "{kept}");
        v.believe();
        is_heard(v, "west");
        // Nothing that is new has room, but what is there can be taken back, and then there is room again.
        v.lie(&sign(&node_record("east", 5000, 2)), RefusalReason::OverLimit);
        for number in 0..50 {
            v.hear(&sign(&record("east", 6000 + number, node_key(number + 10), Vec::new())));
        }
        v.hear(&sign(&node_record("east", 7000, 2)));
    };
    flood_of_tombstones: "is granted, and takes back what it never said, a thousand times" => [OverLimit], |v| {
        for number in 0..1000 {
            let _ = v.told(Event::Record(sign(&record("east", 100 + number, node_key(number + 10), Vec::new()))));
        }
        is_heard(v, "west");
    };
    flood_in_one_record: "is granted, and puts many things of few bytes into one record" => [OverLimit], |v| {
        let export = Resource::Export(Export {
            cluster: cluster("east"),
            id: "shop/db".parse().expect("a service"),
            created: None,
            kind: ServiceKind::ClusterIp,
            ports: Vec::new(),
            affinity: SessionAffinity::None,
            traffic: mesh_core::Traffic::default(),
            publish_not_ready: false,
            endpoints: vec![endpoint(); 10_000],
        });
        let bytes = sign(&record("east", 9, RecordKey::Export("shop/db".parse().expect("a service")), vec![export]));
        assert!(bytes.len() < LIMITS.cluster, "it is not its bytes that are too many: {}", bytes.len());
        v.lie(&bytes, RefusalReason::OverLimit);
        let workloads = (0..900).map(|number| workload(&format!("east/team-a/w{number}"), 1, "10.1.1.6")).collect();
        v.lie(&sign(&slice("east", 9, 1, workloads)), RefusalReason::OverLimit);
        is_heard(v, "east");
    };
    flood_of_replays: "tells one old record a thousand times" => [Replayed], |v| {
        v.hear(&sign(&namespace("east", 9, "shop", "green")));
        let before = v.state.usage();
        for _ in 0..1000 {
            v.lie(&sign(&namespace("east", 3, "shop", "blue")), RefusalReason::Replayed);
        }
        assert_eq!(v.state.usage(), before);
    };
    flood_of_old_versions: "signs a thousand versions backwards" => [Replayed], |v| {
        v.hear(&sign(&namespace("east", 2000, "shop", "green")));
        let before = v.state.usage();
        for number in 0..1000 {
            v.lie(&sign(&namespace("east", 1999 - number, "shop", "blue")), RefusalReason::Replayed);
        }
        assert_eq!(v.state.usage(), before);
    };
    flood_of_twins: "signs a thousand records with one version" => [Equivocation], |v| {
        for number in 0..1000 {
            let _ = v.told(Event::Record(sign(&namespace("east", 3, "shop", &format!("x{number}")))));
        }
        v.believe();
        assert!(v.state.usage().bytes - v.usage.bytes < 1024, "one proof is enough: {:?}", v.state.usage());
        assert!(v.state.snapshot().len() < 16 << 10);
        is_heard(v, "west");
    };
    flood_of_nonsense: "sends bytes that are no records" => [Malformed], |v| {
        let before = v.state.usage();
        for number in 0..1000_u32 {
            let nonsense = Sha256::digest(number.to_be_bytes());
            v.lie(&Bytes::copy_from_slice(&nonsense), RefusalReason::Malformed);
        }
        assert_eq!(v.state.usage(), before);
    };
    oversize_record: "sends a record of more than a megabyte, well formed and signed" => [Malformed], |v| {
        let big = envelope(1, &vec![0; mesh_core::record::MAX_RECORD_BYTES], &key_of("east"));
        v.lie(&big, RefusalReason::Malformed);
        let bigger = envelope(3, &vec![0; mesh_core::record::MAX_ROOT_RECORD_BYTES], &key_of("east"));
        v.lie(&bigger, RefusalReason::Malformed);
    };
    nonsense_in_an_envelope: "signs what is no statement, of every kind there is and is not" => [Malformed], |v| {
        for kind in 0..=9 {
            for payload in [&b"\xff"[..], b"", b"\x0a\x20", &[0x0a; 64]] {
                assert_ne!(v.told(Event::Record(envelope(kind, payload, &key_of("east")))), [], "{kind} {payload:?}");
            }
        }
    };
}
