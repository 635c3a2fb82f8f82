use proptest::prelude::*;

use super::*;

proptest! {
    /// What is behind a right signature may be anything, too.
    #[test]
    fn any_payload_is_answered(kind in 1u32..=4, payload in prop::collection::vec(any::<u8>(), 0..300)) {
        let kind = wire::Kind::from_number(kind).expect("a kind");
        let _ = parse(kind, &payload);
        let key = SecretKey::from_bytes([1; 32]);
        let _ = open(&seal(kind, payload, &key).expect("fits"));
    }

    /// A payload that is nearly right reaches deeper into the reader.
    #[test]
    fn a_payload_with_a_wrong_byte_is_answered(at in any::<prop::sample::Index>(), byte in any::<u8>()) {
        let lease = crate::Lease { cluster: "east".parse().expect("a name"), issued: Default::default(), ttl_seconds: 30, policies: None };
        let root = SecretKey::from_bytes([2; 32]).public();
        let record = Record {
            cluster: lease.cluster.clone(),
            version: Version { incarnation: 1, counter: 2 },
            key: RecordKey::Lease,
            resources: vec![Resource::Lease(lease)],
        };
        let mut payload = encode::record(&record, &root).expect("a lease is carried").encode_to_vec();
        let at = at.index(payload.len());
        payload[at] = byte;
        let _ = parse(wire::Kind::Record, &payload);
    }
}

#[test]
fn facts_that_records_do_not_carry_and_giants_are_not_signed() {
    let key = SecretKey::from_bytes([1; 32]);
    let cluster: ClusterName = "east".parse().expect("a name");
    let mut record =
        Record { cluster: cluster.clone(), version: Version::default(), key: RecordKey::Lease, resources: Vec::new() };
    let export = crate::ServiceExport {
        cluster: cluster.clone(),
        id: "shop/db".parse().expect("an id"),
        created: None,
        traffic: Default::default(),
    };
    record.resources = vec![Resource::ServiceExport(export)];
    assert!(matches!(record.sign(&key.public(), &key), Err(SignError::Kind { .. })));
    let lease = crate::Lease { cluster, issued: Default::default(), ttl_seconds: u32::MAX, policies: None };
    record.resources = vec![Resource::Lease(lease); MAX_RECORD_BYTES / 8];
    assert!(matches!(record.sign(&key.public(), &key), Err(SignError::TooLarge { .. })));
}

#[test]
fn who_signed_reads_what_everybody_reads_and_nobody_elses() {
    let (root, key) = (SecretKey::from_bytes([2; 32]).public(), SecretKey::from_bytes([1; 32]));
    let cluster = "east".parse().expect("a name");
    let record = Record { cluster, version: Version::default(), key: RecordKey::Lease, resources: Vec::new() };
    let bytes = record.sign(&root, &key).expect("a tombstone fits");
    assert_eq!(open_own(&bytes, &key), open(&bytes));
    let other = SecretKey::from_bytes([3; 32]);
    assert!(matches!(open_own(&bytes, &other), Err(RecordError::Signature { .. })));
    // A signature that is not looked at is not the only thing that can be wrong.
    let mut cut = bytes.to_vec();
    cut.truncate(bytes.len() - 1);
    assert!(open_own(&cut.into(), &key).is_err());
}

#[test]
fn record_keys_read_back_what_they_write() {
    for text in ["node/n1", "namespace/shop", "slice/shop/n1", "export/shop/db", "import/shop/db", "lease"] {
        assert_eq!(text.parse::<RecordKey>().map(|key| key.to_string()), Ok(text.to_owned()));
    }
    for text in ["slice/n1", "slice/shop", "slice/shop/n1/x", "slice//n1"] {
        assert!(text.parse::<RecordKey>().is_err(), "{text}");
    }
    assert!("export/db".parse::<RecordKey>().is_err() && "x/y".parse::<RecordKey>().is_err());
}
