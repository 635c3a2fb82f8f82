//! Names as Kubernetes has them: checked once, cheap to clone, one type per kind of thing.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// Why a string is not a name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Longer than DNS allows, or empty.
    #[error("'{name}' has {len} characters, 1 to {max} are allowed")]
    Length {
        /// The refused text.
        name: String,
        /// Its length in bytes.
        len: usize,
        /// The limit that applies.
        max: usize,
    },
    /// A character that RFC 1123 names do not have, or a dash or dot at an edge of a label.
    #[error("'{name}' is not a DNS name: lower-case letters, digits and '-', beginning and ending with a letter or digit")]
    Form {
        /// The refused text.
        name: String,
    },
    /// An identifier with too few or too many parts.
    #[error("'{text}' is not of the form {form}")]
    Parts {
        /// The refused text.
        text: String,
        /// What was expected.
        form: &'static str,
    },
}

fn check_label(whole: &str, label: &str) -> Result<(), NameError> {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = label.as_bytes();
    let inner = bytes.iter().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-');
    if edge(bytes.first()) && edge(bytes.last()) && inner { Ok(()) } else { Err(NameError::Form { name: whole.into() }) }
}

fn check_len(name: &str, max: usize) -> Result<(), NameError> {
    let len = name.len();
    if (1..=max).contains(&len) { Ok(()) } else { Err(NameError::Length { name: name.chars().take(80).collect(), len, max }) }
}

fn check_dns_label(name: &str) -> Result<(), NameError> {
    check_len(name, 63)?;
    check_label(name, name)
}

fn check_dns_subdomain(name: &str) -> Result<(), NameError> {
    check_len(name, 253)?;
    name.split('.').try_for_each(|label| check_label(name, label))
}

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Checks `name` and takes it.
            pub fn new(name: &str) -> Result<$name, NameError> {
                $check(name)?;
                Ok($name(name.into()))
            }

            /// Returns the name's text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = NameError;
            fn from_str(text: &str) -> Result<$name, NameError> {
                $name::new(text)
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<$name, NameError> {
                $name::new(&text)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0.as_ref().to_owned()
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type!(
    /// The name of a cluster: one DNS label (RFC 1123), unique in its fleet.
    ClusterName, check_dns_label
);
name_type!(
    /// The name of a namespace: one DNS label (RFC 1123). The same name in two clusters is the same namespace where granted.
    NamespaceName, check_dns_label
);
name_type!(
    /// The name of any other object: a DNS subdomain (RFC 1123), at most 253 characters.
    ObjectName, check_dns_subdomain
);

impl ObjectName {
    /// Returns the first of all names, for ranges over ordered tables.
    pub(crate) fn first() -> ObjectName {
        ObjectName("0".into())
    }
}

/// A node of a cluster of the fleet, written `east/node-1`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NodeId {
    /// The node's cluster.
    pub cluster: ClusterName,
    /// The Node object's name.
    pub name: ObjectName,
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.cluster, self.name)
    }
}

impl FromStr for NodeId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<NodeId, NameError> {
        let parts = || NameError::Parts { text: text.into(), form: "cluster/node" };
        let (cluster, name) = text.split_once('/').ok_or_else(parts)?;
        Ok(NodeId { cluster: cluster.parse()?, name: name.parse()? })
    }
}

/// A workload (a pod, or a process on a plain host), written `east/shop/web-0`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WorkloadId {
    /// The workload's cluster.
    pub cluster: ClusterName,
    /// Its namespace there.
    pub namespace: NamespaceName,
    /// The Pod object's name.
    pub name: ObjectName,
}

impl fmt::Display for WorkloadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.cluster, self.namespace, self.name)
    }
}

impl FromStr for WorkloadId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<WorkloadId, NameError> {
        let mut parts = text.split('/');
        let (Some(cluster), Some(namespace), Some(name), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return Err(NameError::Parts { text: text.into(), form: "cluster/namespace/pod" });
        };
        Ok(WorkloadId { cluster: cluster.parse()?, namespace: namespace.parse()?, name: name.parse()? })
    }
}

/// A service by namespace and name: the same in every cluster that is granted the namespace, written `shop/db`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceId {
    /// The service's namespace.
    pub namespace: NamespaceName,
    /// The Service object's name.
    pub name: ObjectName,
}

impl fmt::Display for ServiceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

impl FromStr for ServiceId {
    type Err = NameError;
    fn from_str(text: &str) -> Result<ServiceId, NameError> {
        let parts = || NameError::Parts { text: text.into(), form: "namespace/name" };
        let (namespace, name) = text.split_once('/').ok_or_else(parts)?;
        Ok(ServiceId { namespace: namespace.parse()?, name: name.parse()? })
    }
}

macro_rules! string_id {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = NameError;
            fn try_from(text: String) -> Result<$name, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.to_string()
            }
        }
    )*};
}
string_id!(NodeId, WorkloadId, ServiceId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_rfc_1123() {
        for good in ["a", "web-0", "0a"] {
            assert!(ClusterName::new(good).is_ok(), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a_b", "a.b", "é", &"a".repeat(64)] {
            assert!(ClusterName::new(bad).is_err(), "{bad}");
        }
        assert!(ObjectName::new("a.b-c.d").is_ok());
        assert!(ObjectName::new("a..b").is_err());
    }

    #[test]
    fn identifiers_read_back_what_they_write() {
        let id: WorkloadId = "east/shop/web-0".parse().expect("valid");
        assert_eq!(id.to_string().parse::<WorkloadId>(), Ok(id));
        assert!("east/shop".parse::<WorkloadId>().is_err());
        assert!("east/shop/web-0/x".parse::<WorkloadId>().is_err());
    }
}
