//! What Kubernetes objects have in common: kind, metadata, labels, selectors.

use std::str::FromStr;
use std::sync::Arc;

use super::cursor::{Cursor, Object, short};
use crate::policy::PolicyScope;
use crate::resource::Protocol;
use crate::{ClusterName, Labels, NamespaceName, ObjectName, Requirement, Resource, Selector, ServiceId};

use super::{cluster_policy, network_policy, service, workload};

/// What reading one object came to.
pub(super) enum Outcome {
    Fact(Resource),
    /// A kind that the mesh does not read.
    Ignored,
    /// Not usable: the report says why.
    Broken,
    /// A List: its items, with the kind that they have where they do not say it.
    List(Vec<(Resource, super::Location)>, usize),
}

/// Reads one object, or a List of them.
pub(super) fn read(root: &Cursor<'_>, scope: &PolicyScope) -> Outcome {
    let object = root.object();
    let text = |name| object.require(name).and_then(|cursor| cursor.text());
    let (Some(version), Some(kind)) = (text("apiVersion"), text("kind")) else { return Outcome::Broken };
    if let Some(item_kind) = kind.strip_suffix("List").filter(|_| object.get("items").is_some()) {
        return list(&object, scope, version, item_kind);
    }
    read_kind(&object, scope, version, kind)
}

fn list(object: &Object<'_>, scope: &PolicyScope, version: &str, item_kind: &str) -> Outcome {
    let (mut facts, mut ignored) = (Vec::new(), 0);
    for item in object.items("items") {
        let inner = item.object();
        // The items of a PodList may leave out what the list says.
        let of = |name, fallback| inner.get(name).map_or(Some(fallback), |cursor| cursor.text());
        let outcome = match (of("apiVersion", version), of("kind", item_kind)) {
            (_, Some("")) => read(&item, scope),
            (Some(version), Some(kind)) => read_kind(&inner, scope, version, kind),
            _ => Outcome::Broken,
        };
        match outcome {
            Outcome::Fact(resource) => facts.push((resource, item.location())),
            Outcome::Ignored => ignored += 1,
            Outcome::Broken => {}
            Outcome::List(..) => item.error("a List inside a List"),
        }
    }
    Outcome::List(facts, ignored)
}

type Reader = fn(&Meta<'_>, &ClusterName) -> Option<Resource>;
type PolicyReader = fn(&Meta<'_>, &PolicyScope) -> Option<Resource>;

enum Read {
    Fact(Reader),
    Policy(PolicyReader),
}

/// The kinds that the mesh reads: group, versions, kind.
const KINDS: &[(&str, &[&str], &str, Read)] = &[
    ("", &["v1"], "Namespace", Read::Fact(workload::namespace)),
    ("", &["v1"], "Node", Read::Fact(workload::node)),
    ("", &["v1"], "Pod", Read::Fact(workload::pod)),
    ("", &["v1"], "Service", Read::Fact(service::service)),
    ("discovery.k8s.io", &["v1"], "EndpointSlice", Read::Fact(service::endpoint_slice)),
    ("multicluster.x-k8s.io", &["v1alpha1", "v1beta1"], "ServiceExport", Read::Fact(service::service_export)),
    ("multicluster.x-k8s.io", &["v1alpha1", "v1beta1"], "ServiceImport", Read::Fact(service::service_import)),
    ("networking.k8s.io", &["v1"], "NetworkPolicy", Read::Policy(network_policy::network_policy)),
    ("policy.networking.k8s.io", &["v1alpha2", "v1beta1"], "ClusterNetworkPolicy", Read::Policy(cluster_policy::cluster_policy)),
];

fn read_kind(object: &Object<'_>, scope: &PolicyScope, api_version: &str, kind: &str) -> Outcome {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let Some((_, versions, _, read)) = KINDS.iter().find(|(g, _, k, _)| (*g, *k) == (group, kind)) else {
        if kind.ends_with("NetworkPolicy") {
            object.cursor.warn(format_args!("{} of {} is not enforced by the mesh", short(kind), short(api_version)));
        }
        return Outcome::Ignored;
    };
    if !versions.contains(&version) {
        let message = format!("{kind} is read in the versions {}, not {}", versions.join(", "), short(version));
        object.missing("apiVersion", message);
        return Outcome::Broken;
    }
    let before = object.cursor.report().mistakes();
    object.only(&["apiVersion", "kind", "metadata", "spec", "status", "ips", "endpoints", "ports", "addressType", "type"]);
    let Some(metadata) = object.require("metadata") else { return Outcome::Broken };
    let meta = Meta { root: object.clone(), metadata: metadata.object() };
    let resource = match (read, scope) {
        (Read::Policy(read), scope) => read(&meta, scope),
        (Read::Fact(read), PolicyScope::Cluster(cluster)) => read(&meta, cluster),
        (Read::Fact(_), PolicyScope::Fleet) => {
            object.cursor.error(format_args!("a fleet holds policies only: a {kind} belongs into its cluster's directory"));
            None
        }
    };
    match resource {
        Some(resource) if object.cursor.report().mistakes() == before => Outcome::Fact(resource),
        _ => Outcome::Broken,
    }
}

/// An object by its metadata.
pub(super) struct Meta<'a> {
    pub(super) root: Object<'a>,
    pub(super) metadata: Object<'a>,
}

impl<'a> Meta<'a> {
    pub(super) fn name<T: FromStr<Err: std::fmt::Display>>(&self) -> Option<T> {
        self.metadata.require("name")?.parse()
    }

    /// Returns the namespace; `default` where the manifest has none, as `kubectl apply` takes it.
    pub(super) fn namespace(&self) -> Option<NamespaceName> {
        match self.metadata.get("namespace") {
            Some(namespace) => namespace.parse(),
            None => NamespaceName::new("default").ok(),
        }
    }

    /// Returns the namespace and the name of a Service or of what is called like one: a DNS label, for it becomes one.
    pub(super) fn service_id(&self) -> Option<ServiceId> {
        let namespace = self.namespace();
        let name = service_name(&self.metadata.require("name")?);
        Some(ServiceId { namespace: namespace?, name: name? })
    }

    /// Returns the labels; those that only the mesh may set are dropped with a warning.
    pub(super) fn labels(&self) -> Labels {
        let Some(labels) = self.metadata.get("labels") else { return Labels::default() };
        let entries = labels.object();
        let kept = entries.entries().filter(|(key, cursor)| {
            let reserved = key.starts_with(crate::labels::RESERVED_PREFIX);
            if reserved {
                cursor.warn("dropped: only the mesh sets labels of cluster-mesh.io");
            }
            !reserved
        });
        kept.filter_map(|(key, cursor)| label(key, &cursor)).collect()
    }

    /// Returns `spec`, which must be there.
    pub(super) fn spec(&self) -> Option<Object<'a>> {
        self.root.require("spec").map(|spec| spec.object())
    }
}

/// Reads the name of a Service.
pub(super) fn service_name(cursor: &Cursor<'_>) -> Option<ObjectName> {
    let name: ObjectName = cursor.parse()?;
    if name.as_str().len() > 63 || name.as_str().contains('.') {
        cursor.error(format_args!("'{name}' is not a DNS label: at most 63 characters, no dots"));
        return None;
    }
    Some(name)
}

fn label(key: &str, cursor: &Cursor<'_>) -> Option<(Arc<str>, Arc<str>)> {
    label_key(key, cursor)?;
    Some((key.into(), label_value(cursor)?))
}

fn label_key(key: &str, cursor: &Cursor<'_>) -> Option<()> {
    let (prefix, name) = key.rsplit_once('/').map_or((None, key), |(prefix, name)| (Some(prefix), name));
    let good = prefix.is_none_or(|prefix| ObjectName::new(prefix).is_ok()) && !name.is_empty() && is_label_text(name);
    if !good {
        cursor.error(format_args!("'{}' is not a label key", short(key)));
    }
    good.then_some(())
}

/// Reads the value of a label.
pub(super) fn label_value(cursor: &Cursor<'_>) -> Option<Arc<str>> {
    if cursor.is_null() {
        cursor.error("a label has a value: write \"\" for the empty one");
        return None;
    }
    let text = cursor.text()?;
    if !is_label_text(text) {
        cursor.error(format_args!(
            "'{}' is not a label value: at most 63 letters, digits, '-', '_', '.', with a letter or digit at both ends",
            short(text)
        ));
        return None;
    }
    Some(text.into())
}

/// Tells whether `text` is empty or has the form of a label's name or value.
pub(super) fn is_label_text(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let edge = |byte: Option<u8>| byte.is_none_or(|byte| byte.is_ascii_alphanumeric());
    text.len() <= 63 && text.bytes().all(inner) && edge(text.bytes().next()) && edge(text.bytes().next_back())
}

/// Reads a LabelSelector.
pub(super) fn selector(cursor: &Cursor<'_>) -> Selector {
    let object = cursor.object();
    object.only(&["matchLabels", "matchExpressions"]);
    let mut requirements = Vec::new();
    if let Some(labels) = object.get("matchLabels") {
        let labels = labels.object();
        let equal = labels.entries().filter_map(|(key, cursor)| label(key, &cursor));
        requirements.extend(equal.map(|(key, value)| Requirement::In(key, vec![value])));
    }
    requirements.extend(object.items("matchExpressions").iter().filter_map(expression));
    Selector { requirements }
}

#[derive(Clone, Copy)]
enum Operator {
    In,
    NotIn,
    Exists,
    DoesNotExist,
}

fn expression(cursor: &Cursor<'_>) -> Option<Requirement> {
    let object = cursor.object();
    object.only(&["key", "operator", "values"]);
    let key = object.require("key").and_then(|cursor| {
        let key = cursor.text()?;
        label_key(key, &cursor).map(|()| Arc::<str>::from(key))
    });
    let operators = [
        ("In", Operator::In),
        ("NotIn", Operator::NotIn),
        ("Exists", Operator::Exists),
        ("DoesNotExist", Operator::DoesNotExist),
    ];
    let operator = object.require("operator").and_then(|cursor| cursor.one_of(&operators));
    let items = object.items("values");
    let values: Vec<_> = items.iter().filter_map(label_value).collect();
    let operator = operator?;
    match operator {
        Operator::In | Operator::NotIn if items.is_empty() => object.missing("values", "In and NotIn need at least one value"),
        Operator::Exists | Operator::DoesNotExist if !items.is_empty() => {
            object.missing("values", "Exists and DoesNotExist take no values");
        }
        _ => {}
    }
    let key = key?;
    Some(match operator {
        Operator::In => Requirement::In(key, values),
        Operator::NotIn => Requirement::NotIn(key, values),
        Operator::Exists => Requirement::Exists(key),
        Operator::DoesNotExist => Requirement::DoesNotExist(key),
    })
}

/// Reads a protocol of Kubernetes; TCP where it is missing.
pub(super) fn protocol(object: &Object<'_>) -> Option<Protocol> {
    let words = [("TCP", Protocol::Tcp), ("UDP", Protocol::Udp), ("SCTP", Protocol::Sctp)];
    object.get("protocol").map_or(Some(Protocol::Tcp), |cursor| cursor.one_of(&words))
}

/// Reads the name of a port: at most 15 lower-case letters, digits and dashes (RFC 6335), or a DNS label where `long`.
pub(super) fn port_name(cursor: &Cursor<'_>, long: bool) -> Option<Arc<str>> {
    let text = cursor.text()?;
    let max = if long { 63 } else { 15 };
    let letter = long || text.bytes().any(|byte| byte.is_ascii_lowercase());
    if text.len() > max || !letter || NamespaceName::new(text).is_err() || (!long && text.contains("--")) {
        cursor.error(format_args!("'{}' is not a port name: lower-case letters, digits, '-', at most {max}", short(text)));
        return None;
    }
    Some(text.into())
}
