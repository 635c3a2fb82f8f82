//! State files: arbitrary, and edited by somebody who knows how to make the checksum right again.

use libfuzzer_sys::arbitrary::{Result, Unstructured};
use mesh_core::RefusalReason;
use sha2::{Digest, Sha256};

use crate::trust::{ROOT, Told, at, is_settled, key, laws, mutate, new_state, refused, root, said};

/// What is before the body: the magic, the version, the checksum.
const HEADER: usize = 40;

/// Runs one input.
pub fn run(data: &[u8]) {
    // Too few bytes are no input.
    let _ = case(&mut Unstructured::new(data));
}

fn case(u: &mut Unstructured<'_>) -> Result<()> {
    match u.int_in_range(0..=7)? {
        0 => restore(u.bytes(u.len())?),
        1 => restore(&seal(u.bytes(u.len())?)),
        _ => {
            let mut told = Told::new();
            told.grant_all();
            for _ in 0..u.int_in_range(0..=8)? {
                let bytes = if u.ratio(1, 4)? {
                    said::root_record(u)?.sign(&key(ROOT))
                } else {
                    let record = said::record(u)?;
                    record.sign(&root(), &key(said::signer(u, &record)?))
                };
                let _ = told.tell(bytes.expect("inputs are short"));
            }
            let good = told.state.snapshot();
            restore(&good);
            let mut body = good[HEADER..].to_vec();
            mutate(u, &mut body)?;
            restore(&seal(&body));
        }
    }
    Ok(())
}

/// Returns a snapshot with any body.
fn seal(body: &[u8]) -> Vec<u8> {
    [b"LBSNAP\x00\x01".as_slice(), &Sha256::digest(body), body].concat()
}

/// What is restored is inside the grants that it brings, and saved again it is the same; what is refused leaves nothing behind.
fn restore(bytes: &[u8]) {
    let mut state = new_state();
    if state.restore(bytes, at(5)).is_err() {
        assert_eq!(state.usage(), new_state().usage());
        return assert_eq!(state.facts(), new_state().facts());
    }
    laws(&state, at(5));
    let mut again = new_state();
    let _ = again.restore(&state.snapshot(), at(5)).expect("its own snapshot");
    if is_settled(&state) && !refused(&again, RefusalReason::OverLimit) {
        assert_eq!(again.facts(), state.facts());
        assert_eq!(again.snapshot(), state.snapshot());
    }
}
