//! Signed records, arbitrary and nearly right, told to a state of another cluster: nothing outside a grant is believed, what is
//! kept is bounded, and the order says nothing.

use libfuzzer_sys::arbitrary::{Result, Unstructured};

use crate::trust::{Told, envelope, key, mutate, payload, root, said};

/// Runs one input: steps until the bytes are used up.
pub fn run(data: &[u8]) {
    let mut told = Told::new();
    told.grant_all();
    let mut u = Unstructured::new(data);
    for _ in 0..24 {
        if u.is_empty() || step(&mut u, &mut told).is_err() {
            break;
        }
    }
    told.backwards();
}

fn step(u: &mut Unstructured<'_>, told: &mut Told) -> Result<()> {
    match u.int_in_range(0..=11)? {
        0 => {
            let bytes: Vec<u8> = u.arbitrary()?;
            let _ = told.tell(bytes);
        }
        1 => {
            let (kind, signer): (u8, u8) = (u.int_in_range(0..=5)?, u.arbitrary()?);
            let bytes: Vec<u8> = u.arbitrary()?;
            let _ = told.tell(envelope(kind, &bytes, &key(signer)));
        }
        2 => told.wait(u)?,
        3 => told.restart(),
        number => {
            let record = said::record(u)?;
            let signer = key(said::signer(u, &record)?);
            let bytes = record.sign(&root(), &signer).expect("inputs are short");
            let bytes = if number < 7 {
                let (kind, mut payload) = payload(&bytes);
                mutate(u, &mut payload)?;
                envelope(kind, &payload, &signer)
            } else {
                bytes
            };
            let _ = told.tell(bytes);
        }
    }
    Ok(())
}
