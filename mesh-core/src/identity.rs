//! Identity: a canonical attribute set, its 256-bit name, and a process's dense handle for it.

use std::fmt;
use std::sync::Arc;

use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::{ClusterName, Labels, NamespaceName};

/// Who a workload is, apart from where it runs: what policy is written against.
///
/// Namespace labels and cluster attributes are facts beside the identity: changing one renames nobody.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Identity {
    /// The fleet's name; empty where no fleet is configured.
    pub fleet: Arc<str>,
    /// The cluster that speaks for the workload.
    pub cluster: ClusterName,
    /// The workload's namespace.
    pub namespace: NamespaceName,
    /// The workload's service account.
    pub service_account: Arc<str>,
    /// The workload's own labels, without the implicit ones.
    pub labels: Labels,
}

impl Identity {
    /// Returns the identity's name: SHA-256 over its attributes, each with its length before it.
    pub fn name(&self) -> IdentityName {
        let mut hash = Sha256::new();
        hash.update(b"landbridge identity v1");
        let mut put = |text: &str| {
            hash.update((text.len() as u64).to_be_bytes());
            hash.update(text);
        };
        for text in [&self.fleet, self.cluster.as_str(), self.namespace.as_str(), &self.service_account] {
            put(text);
        }
        for (key, value) in self.labels.iter() {
            put(key);
            put(value);
        }
        IdentityName(hash.finalize().into())
    }
}

/// The name of an identity: the same in every cluster, without anyone handing out numbers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct IdentityName([u8; 32]);

impl IdentityName {
    /// Returns the 256 bits.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for IdentityName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for IdentityName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for IdentityName {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl TryFrom<String> for IdentityName {
    type Error = &'static str;

    /// Reads what [`Display`](fmt::Display) writes.
    fn try_from(text: String) -> Result<IdentityName, &'static str> {
        let mut bytes = [0; 32];
        let digits = |at: usize| text.get(2 * at..2 * at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = digits(at).ok_or("not the name of an identity")?;
        }
        if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            Ok(IdentityName(bytes))
        } else {
            Err("not the name of an identity")
        }
    }
}

/// A process's own dense number for an identity; it means nothing to another process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IdentityHandle(pub u32);

/// The identities that a process knows, each with its handle.
#[derive(Clone, Debug, Default)]
pub struct Identities {
    handles: HashMap<Identity, IdentityHandle, foldhash::fast::RandomState>,
    identities: Vec<Identity>,
}

impl Identities {
    /// Returns the handle of `identity`, a new one where it is not known yet.
    pub fn intern(&mut self, identity: &Identity) -> IdentityHandle {
        if let Some(handle) = self.handles.get(identity) {
            return *handle;
        }
        let handle = IdentityHandle(u32::try_from(self.identities.len()).expect("fewer identities than a u32 counts"));
        self.identities.push(identity.clone());
        self.handles.insert(identity.clone(), handle);
        handle
    }

    /// Returns the identity behind `handle`.
    pub fn get(&self, handle: IdentityHandle) -> Option<&Identity> {
        self.identities.get(handle.0 as usize)
    }

    /// Returns the number of identities.
    pub fn len(&self) -> usize {
        self.identities.len()
    }

    /// Tells whether none is known.
    pub fn is_empty(&self) -> bool {
        self.identities.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(namespace: &str, service_account: &str, labels: &[(&str, &str)]) -> Identity {
        Identity {
            fleet: "demo".into(),
            cluster: ClusterName::new("east").expect("valid"),
            namespace: NamespaceName::new(namespace).expect("valid"),
            service_account: service_account.into(),
            labels: labels.iter().copied().collect(),
        }
    }

    #[test]
    fn a_name_depends_on_every_attribute_and_on_nothing_else() {
        let base = identity("shop", "web", &[("app", "web"), ("tier", "front")]);
        assert_eq!(base.name(), identity("shop", "web", &[("tier", "front"), ("app", "web")]).name());
        assert_eq!(IdentityName::try_from(base.name().to_string()), Ok(base.name()));
        assert!(IdentityName::try_from(format!("{}0", base.name())).is_err() && IdentityName::try_from("é".repeat(32)).is_err());
        for other in [
            identity("shop2", "web", &[("app", "web"), ("tier", "front")]),
            identity("shop", "we", &[("bapp", "web"), ("tier", "front")]),
            identity("shop", "web", &[("app", "webtier"), ("", "front")]),
        ] {
            assert_ne!(base.name(), other.name());
        }
    }

    #[test]
    fn handles_are_dense_and_stable() {
        let mut identities = Identities::default();
        let (web, db) = (identity("shop", "web", &[]), identity("shop", "db", &[]));
        assert_eq!((identities.intern(&web).0, identities.intern(&db).0, identities.intern(&web).0), (0, 1, 0));
        assert_eq!(identities.get(IdentityHandle(1)), Some(&db));
    }
}
