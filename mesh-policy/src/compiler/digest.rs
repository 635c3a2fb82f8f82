//! The hash of what a set is made from, kept up by what changes.

use std::hash::{Hash, Hasher};

use sha2::{Digest as _, Sha256};

/// Feeds everything that is hashed into SHA-256: a set's content comes from other clusters too, and none of them shall be able
/// to make up a change with the fingerprint of what was there before.
struct Sha(Sha256);

impl Hasher for Sha {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let (head, _) = self
            .digest()
            .split_first_chunk()
            .map(|(head, rest)| (*head, rest.len()))
            .expect("a digest is longer than eight bytes");
        u64::from_be_bytes(head)
    }
}

impl Sha {
    fn digest(&self) -> [u8; 32] {
        self.0.clone().finalize().into()
    }
}

/// The sum, modulo 2^256, of the hashes of everything that is in: the same whatever the order in which it came and went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Digest {
    high: u128,
    low: u128,
}

impl Digest {
    pub(super) fn add(&mut self, atom: &impl Hash) {
        let (high, low) = halves(atom);
        let (sum, carry) = self.low.overflowing_add(low);
        self.low = sum;
        self.high = self.high.wrapping_add(high).wrapping_add(u128::from(carry));
    }

    pub(super) fn sub(&mut self, atom: &impl Hash) {
        let (high, low) = halves(atom);
        let (rest, borrow) = self.low.overflowing_sub(low);
        self.low = rest;
        self.high = self.high.wrapping_sub(high).wrapping_sub(u128::from(borrow));
    }

    /// Returns the fingerprint of all that is in, and of `rest`.
    pub(super) fn fingerprint(&self, rest: &impl Hash) -> u64 {
        let mut sha = Sha(Sha256::new());
        (self.high, self.low).hash(&mut sha);
        rest.hash(&mut sha);
        sha.finish()
    }
}

fn halves(atom: &impl Hash) -> (u128, u128) {
    let mut sha = Sha(Sha256::new());
    atom.hash(&mut sha);
    let digest = sha.digest();
    let (high, low) = digest.split_at(16);
    let half = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u128::from(*byte));
    (half(high), half(low))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_and_goes_leaves_nothing_in_any_order() {
        let (mut a, mut b) = (Digest::default(), Digest::default());
        for word in ["web", "db", "job", "cart"] {
            a.add(&word);
        }
        a.sub(&"db");
        for word in ["cart", "web", "job"] {
            b.add(&word);
        }
        assert_eq!((a, a.fingerprint(&1)), (b, b.fingerprint(&1)));
        assert_ne!(a.fingerprint(&1), b.fingerprint(&2));
        b.sub(&"job");
        assert_ne!(a, b);
    }
}
