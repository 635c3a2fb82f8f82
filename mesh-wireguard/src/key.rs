//! The node's own WireGuard key.

use std::fmt;

use mesh_core::WireGuardKey;
use mesh_core::keys::{KeyError, decode_secret};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::{Zeroize, Zeroizing};

/// A node's Curve25519 secret: never leaves the node, is wiped from memory when dropped, and never prints itself.
///
/// ```
/// let key = mesh_wireguard::NodeKey::from_bytes([7; 32]);
/// let same = mesh_wireguard::NodeKey::from_base64(&key.to_base64())?;
/// assert_eq!(key.public(), same.public());
/// # Ok::<(), mesh_core::keys::KeyError>(())
/// ```
#[derive(Clone)]
pub struct NodeKey(StaticSecret);

impl NodeKey {
    /// Makes a key of the kernel's randomness.
    pub fn generate() -> Result<NodeKey, getrandom::Error> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(bytes.as_mut())?;
        Ok(NodeKey::from_bytes(*bytes))
    }

    /// Makes the key of 32 random bytes; they are clamped when used, as RFC 7748 says.
    pub fn from_bytes(mut bytes: [u8; 32]) -> NodeKey {
        let key = NodeKey(StaticSecret::from(bytes));
        bytes.zeroize();
        key
    }

    /// Reads the base64 form of `wg genkey`.
    pub fn from_base64(text: &str) -> Result<NodeKey, KeyError> {
        decode_secret(text.as_bytes()).map(|bytes| NodeKey::from_bytes(*bytes))
    }

    /// Returns the base64 form for a key file (mode 0600).
    pub fn to_base64(&self) -> Zeroizing<String> {
        let mut bytes = WireGuardKey(self.0.to_bytes());
        let text = Zeroizing::new(bytes.to_string());
        bytes.0.zeroize();
        text
    }

    /// Returns the public half.
    pub fn public(&self) -> WireGuardKey {
        WireGuardKey(PublicKey::from(&self.0).to_bytes())
    }

    pub(crate) fn secret(&self) -> &StaticSecret {
        &self.0
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey(of {})", self.public())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_half_is_that_of_rfc_7748() {
        // RFC 7748, section 6.1: Alice's key pair.
        let alice = NodeKey::from_base64("dwdtCnMYpX08FsFyUbJmRd9ML4frwJkqsXf7pR25LCo=").unwrap();
        assert_eq!(alice.public().to_string(), "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
    }

    #[test]
    fn refuses_what_is_no_key_and_hides_the_secret() {
        assert_eq!(NodeKey::from_base64("short").unwrap_err(), KeyError::Form);
        let key = NodeKey::from_bytes([9; 32]);
        assert!(!format!("{key:?}").contains(key.to_base64().as_str()));
        assert!(std::mem::needs_drop::<StaticSecret>(), "the secret is wiped when it is dropped");
    }
}
