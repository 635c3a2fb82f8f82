//! Statements of the root, from bytes and from `fleet.yaml`, beside records of the clusters that they are about.

use std::sync::Arc;

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use mesh_core::manifest::parse_fleet;
use mesh_core::{RootRecord, record};

use crate::trust::{ROOT, Told, envelope, key, mutate, payload, root, said};

/// Runs one input: steps until the bytes are used up; what is left of them is a `fleet.yaml`.
pub fn run(data: &[u8]) {
    let mut told = Told::new();
    let mut u = Unstructured::new(data);
    if u.ratio(1, 2).unwrap_or(true) {
        told.grant_all();
    }
    let steps = u.int_in_range(0..=12).unwrap_or(0);
    for _ in 0..steps {
        if u.is_empty() || step(&mut u, &mut told).is_err() {
            break;
        }
    }
    fleet(&String::from_utf8_lossy(u.take_rest()), &mut told);
    told.backwards();
}

fn step(u: &mut Unstructured<'_>, told: &mut Told) -> Result<()> {
    match u.int_in_range(0..=9)? {
        0 => told.wait(u)?,
        1 => told.restart(),
        2 | 3 => {
            let record = said::record(u)?;
            let signer = key(said::signer(u, &record)?);
            let _ = told.tell(record.sign(&root(), &signer).expect("inputs are short"));
        }
        number => {
            let bytes = said::root_record(u)?.sign(&key(ROOT)).expect("inputs are short");
            let (kind, mut payload) = payload(&bytes);
            let signer = if u.ratio(1, 8)? { u.arbitrary()? } else { ROOT };
            if number < 6 {
                mutate(u, &mut payload)?;
            }
            let _ = told.tell(envelope(kind, &payload, &key(signer)));
        }
    }
    Ok(())
}

/// What a `fleet.yaml` grants can be signed, is read the same, and bounds what is believed.
fn fleet(text: &str, told: &mut Told) {
    let Ok(file) = parse_fleet("fleet.yaml", text) else { return };
    for grant in file.grants().into_iter().filter(|grant| grant.key.is_some()).take(8) {
        let grant = RootRecord::Grant(Arc::new(grant));
        let bytes = grant.sign(&key(ROOT)).expect("inputs are short");
        assert_eq!(record::open(&bytes).expect("just signed").statement, mesh_core::Statement::Root(grant));
        let _ = told.tell(bytes);
    }
}
