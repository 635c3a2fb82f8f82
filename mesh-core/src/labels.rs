//! Labels, the labels that are ours to set, and the selectors that read them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The prefix of every label that only the mesh may set (SEMANTICS, "Names").
pub const RESERVED_PREFIX: &str = "cluster-mesh.io/";
/// The implicit label with the cluster's name, on every Namespace, Pod and Node.
pub const CLUSTER_LABEL: &str = "cluster-mesh.io/cluster";
/// The implicit label with the service account's name, on every Pod.
pub const SERVICE_ACCOUNT_LABEL: &str = "cluster-mesh.io/service-account";
/// The implicit label with the namespace's own name, on every Namespace.
pub const NAMESPACE_NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// A set of labels: keys in order, cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Labels(Arc<BTreeMap<Arc<str>, Arc<str>>>);

impl Labels {
    /// Returns the value of `key`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(AsRef::as_ref)
    }

    /// Returns keys and values in the order of the keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(key, value)| (key.as_ref(), value.as_ref()))
    }

    /// Tells whether somebody else has these very labels, at the same place in memory.
    pub(crate) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// Tells whether there is no label.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns these labels and `more`, which win.
    pub fn with<K: Into<Arc<str>>, V: Into<Arc<str>>>(&self, more: impl IntoIterator<Item = (K, V)>) -> Labels {
        let mut map = (*self.0).clone();
        map.extend(more.into_iter().map(|(key, value)| (key.into(), value.into())));
        Labels(Arc::new(map))
    }

    /// Splits off the labels under [`RESERVED_PREFIX`], which nobody but the mesh may set: (kept, dropped keys).
    pub fn without_reserved(self) -> (Labels, Vec<Arc<str>>) {
        let reserved: Vec<_> = self.0.keys().filter(|key| key.starts_with(RESERVED_PREFIX)).cloned().collect();
        if reserved.is_empty() {
            return (self, reserved);
        }
        let kept = self.0.iter().filter(|(key, _)| !key.starts_with(RESERVED_PREFIX));
        (Labels(Arc::new(kept.map(|(k, v)| (k.clone(), v.clone())).collect())), reserved)
    }
}

impl<K: Into<Arc<str>>, V: Into<Arc<str>>> FromIterator<(K, V)> for Labels {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(items: I) -> Labels {
        Labels(Arc::new(items.into_iter().map(|(key, value)| (key.into(), value.into())).collect()))
    }
}

impl fmt::Display for Labels {
    /// Writes `app=web,tier=front`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (key, value)) in self.iter().enumerate() {
            write!(f, "{}{key}={value}", if index > 0 { "," } else { "" })?;
        }
        Ok(())
    }
}

/// A label selector (Kubernetes API, `LabelSelector`): all requirements hold; none selects everything.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Selector {
    /// The requirements, all of which must hold.
    pub requirements: Vec<Requirement>,
}

/// One requirement of a [`Selector`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Requirement {
    /// The key is there with one of the values.
    In(Arc<str>, Vec<Arc<str>>),
    /// The key is absent, or has none of the values.
    NotIn(Arc<str>, Vec<Arc<str>>),
    /// The key is there.
    Exists(Arc<str>),
    /// The key is absent.
    DoesNotExist(Arc<str>),
}

impl Selector {
    /// The selector `{}`, which selects everything.
    pub const ALL: Selector = Selector { requirements: Vec::new() };

    /// Tells whether `labels` satisfy every requirement.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.matches_by(|key| labels.get(key))
    }

    /// Tells whether the labels that `get` finds by their keys satisfy every requirement.
    pub fn matches_by<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.requirements.iter().all(|requirement| requirement.matches_by(&get))
    }
}

impl Requirement {
    /// Tells whether `labels` satisfy this requirement; NotIn and DoesNotExist hold for absent keys.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.matches_by(|key| labels.get(key))
    }

    /// Tells whether the labels that `get` finds by their keys satisfy this requirement.
    pub fn matches_by<'a>(&self, get: impl Fn(&str) -> Option<&'a str>) -> bool {
        let has = |key: &str, values: &[Arc<str>]| get(key).is_some_and(|value| values.iter().any(|v| **v == *value));
        match self {
            Requirement::In(key, values) => has(key, values),
            Requirement::NotIn(key, values) => !has(key, values),
            Requirement::Exists(key) => get(key).is_some(),
            Requirement::DoesNotExist(key) => get(key).is_none(),
        }
    }
}

impl fmt::Display for Selector {
    /// Writes `kubectl`'s selector syntax, `app in (web,cart),!legacy`; `{}` for everything.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.requirements.is_empty() {
            return f.write_str("{}");
        }
        for (index, requirement) in self.requirements.iter().enumerate() {
            f.write_str(if index > 0 { "," } else { "" })?;
            match requirement {
                Requirement::In(key, values) if values.len() == 1 => write!(f, "{key}={}", values[0])?,
                Requirement::In(key, values) => write!(f, "{key} in ({})", values.join(","))?,
                Requirement::NotIn(key, values) => write!(f, "{key} notin ({})", values.join(","))?,
                Requirement::Exists(key) => f.write_str(key)?,
                Requirement::DoesNotExist(key) => write!(f, "!{key}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_keys_satisfy_the_negative_requirements_only() {
        let labels: Labels = [("app", "web")].into_iter().collect();
        let one = |requirement| Selector { requirements: vec![requirement] }.matches(&labels);
        assert!(one(Requirement::In("app".into(), vec!["db".into(), "web".into()])));
        assert!(!one(Requirement::In("tier".into(), vec!["web".into()])));
        assert!(one(Requirement::NotIn("tier".into(), vec!["web".into()])));
        assert!(!one(Requirement::NotIn("app".into(), vec!["web".into()])));
        assert!(one(Requirement::Exists("app".into())) && !one(Requirement::Exists("tier".into())));
        assert!(one(Requirement::DoesNotExist("tier".into())) && !one(Requirement::DoesNotExist("app".into())));
        assert!(Selector::ALL.matches(&Labels::default()));
    }

    #[test]
    fn every_requirement_must_hold() {
        let labels: Labels = [("app", "web"), ("tier", "a")].into_iter().collect();
        let equal = |key: &str, value: &str| Requirement::In(key.into(), vec![value.into()]);
        let both = |one, other| Selector { requirements: vec![one, other] }.matches(&labels);
        assert!(both(equal("app", "web"), equal("tier", "a")));
        assert!(!both(equal("app", "web"), equal("tier", "b")) && !both(equal("app", "db"), equal("tier", "a")));
        assert!(
            !Requirement::In("app".into(), vec![]).matches(&labels) && Requirement::NotIn("app".into(), vec![]).matches(&labels)
        );
    }

    #[test]
    fn labels_and_selectors_are_told_as_kubectl_takes_them() {
        let labels: Labels = [("tier", "a"), ("app", "web")].into_iter().collect();
        assert_eq!((labels.to_string(), Labels::default().to_string()), ("app=web,tier=a".into(), String::new()));
        assert_eq!(labels.iter().collect::<Vec<_>>(), [("app", "web"), ("tier", "a")]);
        assert_eq!((labels.is_empty(), Labels::default().is_empty()), (false, true));
        let values = || vec!["a".into(), "b".into()];
        let requirements = vec![
            Requirement::In("one".into(), vec!["a".into()]),
            Requirement::In("two".into(), values()),
            Requirement::NotIn("three".into(), values()),
            Requirement::Exists("four".into()),
            Requirement::DoesNotExist("five".into()),
        ];
        let selector = Selector { requirements };
        assert_eq!(selector.to_string(), "one=a,two in (a,b),three notin (a,b),four,!five");
        assert_eq!(Selector::ALL.to_string(), "{}");
    }

    #[test]
    fn labels_that_come_later_win() {
        let labels: Labels = [("app", "web"), ("tier", "a")].into_iter().collect();
        assert_eq!(labels.with([("tier", "b"), ("env", "x"), ("env", "y")]).to_string(), "app=web,env=y,tier=b");
        assert_eq!((labels.get("tier"), labels.get("env")), (Some("a"), None));
    }

    #[test]
    fn reserved_labels_are_split_off() {
        let plain: Labels = [("app", "web"), ("cluster-mesh.iox/y", "not ours")].into_iter().collect();
        assert_eq!(plain.clone().without_reserved(), (plain, Vec::new()));
        let labels: Labels = [("app", "web"), (CLUSTER_LABEL, "forged")].into_iter().collect();
        let (kept, dropped) = labels.without_reserved();
        assert_eq!((kept.to_string(), dropped.len()), ("app=web".into(), 1));
    }
}
