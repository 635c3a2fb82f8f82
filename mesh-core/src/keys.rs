//! Signing keys: the fleet's root and the clusters' own (ed25519, RFC 8032).

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Why a text is not a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// Not base64, or not 32 bytes of it.
    #[error("a key is 32 bytes in base64 (44 characters)")]
    Form,
    /// 32 bytes that are no point of the curve.
    #[error("the bytes are no ed25519 public key")]
    Point,
}

pub(crate) fn encode_base64(bytes: &[u8]) -> String {
    STANDARD.encode(bytes)
}

/// Reads the 32 bytes of a secret in base64. Nothing of them stays behind: the buffer is wiped and never grows, and the text is
/// the caller's to wipe.
///
/// # Errors
/// Returns an error where it is not base64, or not 32 bytes of it.
pub fn decode_secret(text: &[u8]) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    // Three bytes for each four characters, as the decoder counts, are one more than a key has.
    let mut bytes = Zeroizing::new([0; 33]);
    let len = STANDARD.decode_slice(text.trim_ascii(), &mut *bytes).map_err(|_| KeyError::Form)?;
    let mut key = Zeroizing::new([0; 32]);
    key.copy_from_slice(&bytes[..32]);
    if len == 32 { Ok(key) } else { Err(KeyError::Form) }
}

pub(crate) fn decode_base64(text: &str) -> Result<[u8; 32], KeyError> {
    STANDARD.decode(text.trim()).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(KeyError::Form)
}

/// The public half of a root or cluster key, written in base64.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Checks that `bytes` are a point of the curve.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<PublicKey, KeyError> {
        VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError::Point)?;
        Ok(PublicKey(bytes))
    }

    /// Returns the 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Tells whether `signature` is this key's over `message` (strict: no malleable or small-order forms).
    pub fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        Verifier::read(&self.0).is_ok_and(|key| key.verifies(message, signature))
    }
}

/// A public key whose point was computed: reading it costs a quarter of verifying a signature.
pub(crate) struct Verifier(VerifyingKey);

impl Verifier {
    pub(crate) fn read(bytes: &[u8; 32]) -> Result<Verifier, KeyError> {
        VerifyingKey::from_bytes(bytes).map(Verifier).map_err(|_| KeyError::Point)
    }

    pub(crate) fn key(&self) -> PublicKey {
        PublicKey(self.0.to_bytes())
    }

    pub(crate) fn verifies(&self, message: &[u8], signature: &[u8; 64]) -> bool {
        self.0.verify_strict(message, &Signature::from_bytes(signature)).is_ok()
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&encode_base64(&self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for PublicKey {
    type Error = KeyError;
    fn try_from(text: String) -> Result<PublicKey, KeyError> {
        PublicKey::from_bytes(decode_base64(&text)?)
    }
}

impl From<PublicKey> for String {
    fn from(key: PublicKey) -> String {
        key.to_string()
    }
}

/// The secret half: signs, is wiped from memory when dropped, and never prints itself.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl ZeroizeOnDrop for SecretKey {}

impl SecretKey {
    /// Makes the key of 32 random bytes; the caller has the randomness, and its own copy to wipe.
    pub fn from_bytes(mut seed: [u8; 32]) -> SecretKey {
        let key = SecretKey(SigningKey::from_bytes(&seed));
        seed.zeroize();
        key
    }

    /// Reads the base64 form that key files hold.
    pub fn from_base64(text: &str) -> Result<SecretKey, KeyError> {
        decode_secret(text.as_bytes()).map(|seed| SecretKey(SigningKey::from_bytes(&seed)))
    }

    /// Returns the base64 form for a key file (mode 0600).
    pub fn to_base64(&self) -> Zeroizing<String> {
        Zeroizing::new(encode_base64(self.0.as_bytes()))
    }

    /// Returns the public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs `message`.
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0.sign(message).to_bytes()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey(of {})", self.public())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_wiped_when_dropped_and_read_back_only_whole() {
        fn is_wiped<T: ZeroizeOnDrop>() -> bool {
            std::mem::needs_drop::<T>()
        }
        // What the promise of `SecretKey` rests on: a dependency built without it does not compile here.
        assert!(is_wiped::<SigningKey>() && is_wiped::<SecretKey>());
        let key = SecretKey::from_bytes([7; 32]);
        let text = key.to_base64();
        assert_eq!(SecretKey::from_base64(&format!(" {}\n", *text)).expect("its own form").public(), key.public());
        assert!(!format!("{key:?}").contains(text.as_str()));
        let long = STANDARD.encode([7; 33]);
        for bad in ["", "AAAA", &text[..43], &long, "!!!!"] {
            assert_eq!(decode_secret(bad.as_bytes()).expect_err(bad), KeyError::Form);
        }
    }
}
