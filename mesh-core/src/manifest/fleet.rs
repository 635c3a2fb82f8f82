//! `fleet.yaml` and `mesh.yaml`.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ManifestError;
use super::cluster_policy::is_domain_name;
use super::cursor::{Cursor, Object, Report, short};
use super::object::{is_label_text, label_value};
use super::service::timestamp;
use super::tree::{self, Document};
use crate::settings::DomainAddresses;
use crate::{
    ClusterName, CrossClusterDefault, Grant, NamePattern, ObjectName, Prefix, PublicKey, ServicePattern, Settings, WallTime,
    grant,
};

/// `fleet.yaml`: what the fleet's grants shall say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetFile {
    /// The fleet's name; empty where the file has none.
    pub name: Arc<str>,
    /// The root's public key, where the file names it.
    pub root: Option<PublicKey>,
    /// The clusters.
    pub clusters: BTreeMap<ClusterName, FleetCluster>,
    /// The first epoch that counts, of the clusters that were revoked (`revoked.yaml`).
    pub revoked: BTreeMap<ClusterName, u64>,
    /// What is odd and does not stand in the way: prefixes that two clusters are granted.
    pub warnings: Vec<ManifestError>,
}

/// One cluster of a [`FleetFile`]. Absent means not granted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetCluster {
    /// The key that signs its records; needed for signing a grant, not for an offline check.
    pub key: Option<PublicKey>,
    /// The key that takes its place, accepted beside it.
    pub next_key: Option<PublicKey>,
    /// The prefixes of its workloads.
    pub prefixes: Vec<Prefix>,
    /// The range of its clusterset addresses.
    pub service_prefixes: Vec<Prefix>,
    /// The namespaces it may speak for.
    pub namespaces: Vec<NamePattern>,
    /// The services it may export.
    pub exports: Vec<ServicePattern>,
    /// Its attributes.
    pub attributes: BTreeMap<Arc<str>, Arc<str>>,
    /// The first moment of the grant's validity; missing: always.
    pub not_before: Option<WallTime>,
    /// The moment at which it ends; missing: never.
    pub not_after: Option<WallTime>,
    /// The revocation epoch.
    pub epoch: u64,
}

impl FleetFile {
    /// Tells whether what the files grant to `cluster` is revoked.
    pub fn is_revoked(&self, cluster: &ClusterName) -> bool {
        let epoch = self.clusters.get(cluster).map_or(0, |cluster| cluster.epoch);
        self.revoked.get(cluster).is_some_and(|first| epoch < *first)
    }

    /// Returns the grants that the file describes and that are not revoked, in the order of the clusters' names.
    pub fn grants(&self) -> Vec<Grant> {
        let grant = |(name, cluster): (&ClusterName, &FleetCluster)| Grant {
            cluster: name.clone(),
            key: cluster.key,
            next_key: cluster.next_key,
            prefixes: cluster.prefixes.clone(),
            service_prefixes: cluster.service_prefixes.clone(),
            namespaces: cluster.namespaces.clone(),
            exports: cluster.exports.clone(),
            attributes: cluster.attributes.clone(),
            not_before: cluster.not_before.unwrap_or(WallTime::from_unix_nanos(0)),
            not_after: cluster.not_after.unwrap_or(WallTime::from_unix_nanos(u64::MAX)),
            epoch: cluster.epoch,
        };
        self.clusters.iter().filter(|(name, _)| !self.is_revoked(name)).map(grant).collect()
    }
}

/// `mesh.yaml`: settings, and the addresses that domain names are known to have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeshFile {
    /// `params`.
    pub settings: Settings,
    /// `fqdns`: lower-case names without a final dot.
    pub domains: DomainAddresses,
}

/// Reads `fleet.yaml`.
///
/// # Errors
/// Returns every mistake: unknown fields, bad names, prefixes, keys and times.
pub fn parse_fleet(file: &str, text: &str) -> Result<FleetFile, Vec<ManifestError>> {
    let report = Report::new(file);
    let (documents, errors) = tree::documents(text);
    errors.into_iter().for_each(|error| report.syntax(&error));
    let mut fleet = FleetFile::default();
    if let Some(object) = only_document(&documents, &report) {
        object.exactly(&["name", "root", "clusters"]);
        fleet.name = object.get("name").and_then(|cursor| cursor.parse::<ObjectName>()).map_or("".into(), |n| n.as_str().into());
        fleet.root = object.get("root").and_then(|cursor| public_key(&cursor));
        let mut prefixes = Vec::new();
        if let Some(clusters) = object.get("clusters") {
            for (key, cursor) in clusters.object().entries() {
                let name = ClusterName::new(key).map_err(|error| cursor.error(error)).ok();
                let cluster = fleet_cluster(&cursor, key, &mut prefixes);
                fleet.clusters.extend(name.map(|name| (name, cluster)));
            }
        }
        warn_of_overlaps(&prefixes);
    }
    let (errors, warnings) = report.finish();
    fleet.warnings = warnings;
    if errors.is_empty() { Ok(fleet) } else { Err(errors) }
}

/// Warns where two clusters are granted one address: each of them could then speak for it.
fn warn_of_overlaps(prefixes: &[(String, Prefix, Cursor<'_>)]) {
    let granted = prefixes.iter().map(|(cluster, prefix, _)| (cluster.as_str(), *prefix));
    for overlap in grant::overlaps(granted) {
        let (_, prefix, cursor) = &prefixes[overlap.index];
        cursor.warn(overlap.message(*prefix));
    }
}

pub(super) fn only_document<'a>(documents: &'a [Document], report: &'a Report<'a>) -> Option<Object<'a>> {
    if let Some(more) = documents.get(1) {
        Cursor::root(&more.root, report).error("the file has one document only");
    }
    documents.first().map(|document| Cursor::root(&document.root, report).object())
}

pub(super) fn fleet_cluster<'a>(
    cursor: &Cursor<'a>,
    name: &str,
    granted: &mut Vec<(String, Prefix, Cursor<'a>)>,
) -> FleetCluster {
    let mut cluster = FleetCluster::default();
    if cursor.is_null() {
        return cluster;
    }
    let object = cursor.object();
    object.exactly(&[
        "key",
        "next_key",
        "prefixes",
        "service_prefixes",
        "namespaces",
        "exports",
        "attributes",
        "not_before",
        "not_after",
        "epoch",
    ]);
    let key = |name| object.get(name).and_then(|cursor| public_key(&cursor));
    (cluster.key, cluster.next_key) = (key("key"), key("next_key"));
    let prefixes = |name| object.items(name).into_iter().filter_map(|cursor| Some((cursor.prefix()?, cursor)));
    for (prefix, cursor) in prefixes("prefixes") {
        cluster.prefixes.push(prefix);
        granted.push((name.to_owned(), prefix, cursor));
    }
    // Clusterset addresses mean something inside their own cluster only, so these ranges may be the same everywhere.
    cluster.service_prefixes = prefixes("service_prefixes").map(|(prefix, _)| prefix).collect();
    cluster.namespaces = object.items("namespaces").iter().filter_map(name_pattern).collect();
    cluster.exports = object.items("exports").iter().filter_map(service_pattern).collect();
    if let Some(attributes) = object.get("attributes") {
        let read = attributes.object();
        cluster.attributes.extend(read.entries().filter_map(|(key, cursor)| attribute(key, &cursor)));
    }
    cluster.not_before = object.get("not_before").and_then(|cursor| timestamp(&cursor));
    cluster.not_after = object.get("not_after").and_then(|cursor| timestamp(&cursor));
    if let (Some(from), Some(to)) = (cluster.not_before, cluster.not_after)
        && to <= from
    {
        object.missing("not_after", "ends before it begins");
    }
    let epoch = object.get("epoch").and_then(|cursor| cursor.integer(0..=i64::MAX));
    cluster.epoch = epoch.and_then(|epoch| u64::try_from(epoch).ok()).unwrap_or(0);
    cluster
}

fn public_key(cursor: &Cursor<'_>) -> Option<PublicKey> {
    PublicKey::try_from(cursor.text()?.to_owned()).map_err(|error| cursor.error(error)).ok()
}

fn name_pattern(cursor: &Cursor<'_>) -> Option<NamePattern> {
    let text = cursor.text()?;
    if !is_pattern(text) {
        cursor.error(format_args!("'{}' is not a name, a name's beginning with * after it, or *", short(text)));
        return None;
    }
    Some(NamePattern(text.into()))
}

fn service_pattern(cursor: &Cursor<'_>) -> Option<ServicePattern> {
    let pattern: ServicePattern = cursor.parse()?;
    if !is_pattern(&pattern.namespace.0) || !is_pattern(&pattern.name.0) {
        cursor.error(format_args!("'{}' is not of the form namespace/name, namespace/* or *", short(&pattern.to_string())));
        return None;
    }
    Some(pattern)
}

fn is_pattern(text: &str) -> bool {
    let beginning = text.strip_suffix('*').unwrap_or(text);
    let inner = beginning.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.'));
    inner && !text.is_empty() && text.len() <= 63 && !beginning.starts_with(['-', '.'])
}

fn attribute(key: &str, cursor: &Cursor<'_>) -> Option<(Arc<str>, Arc<str>)> {
    let label = format!("{}{key}", crate::labels::RESERVED_PREFIX);
    if key.is_empty() || !is_label_text(key) {
        cursor.error(format_args!("'{}' is not the name of an attribute: it becomes the label {}", short(key), short(&label)));
        return None;
    }
    if label == crate::labels::CLUSTER_LABEL || label == crate::labels::SERVICE_ACCOUNT_LABEL {
        cursor.error(format_args!("the label {label} has a meaning of its own"));
        return None;
    }
    Some((key.into(), label_value(cursor)?))
}

/// Reads `mesh.yaml`.
///
/// # Errors
/// Returns every mistake: unknown settings, bad names and addresses.
pub fn parse_mesh(file: &str, text: &str) -> Result<MeshFile, Vec<ManifestError>> {
    let report = Report::new(file);
    let (documents, errors) = tree::documents(text);
    errors.into_iter().for_each(|error| report.syntax(&error));
    let mut mesh = MeshFile::default();
    if let Some(object) = only_document(&documents, &report) {
        object.exactly(&["params", "fqdns"]);
        if let Some(params) = object.get("params") {
            mesh.settings = settings(&params.object());
        }
        if let Some(names) = object.get("fqdns") {
            for (key, cursor) in names.object().entries() {
                let lower = key.to_ascii_lowercase();
                let name = lower.strip_suffix('.').unwrap_or(&lower);
                if !is_domain_name(name) {
                    cursor.error(format_args!("'{}' is not a domain name", short(key)));
                }
                let addresses = if cursor.is_null() { Vec::new() } else { cursor.items() };
                let entry: &mut Vec<_> = mesh.domains.entry(name.into()).or_default();
                entry.extend(addresses.iter().filter_map(Cursor::address));
            }
        }
    }
    let (errors, _) = report.finish();
    if errors.is_empty() { Ok(mesh) } else { Err(errors) }
}

fn settings(object: &Object<'_>) -> Settings {
    object.exactly(&["ipblock_matches_pods", "own_node_ingress_allowed", "own_node_egress_allowed", "cross_cluster_default"]);
    let flag = |name: &str, default: bool| object.get(name).and_then(|cursor| cursor.boolean()).unwrap_or(default);
    let defaults = Settings::default();
    let words =
        [("exports", CrossClusterDefault::Exports), ("deny", CrossClusterDefault::Deny), ("allow", CrossClusterDefault::Allow)];
    Settings {
        ipblock_matches_pods: flag("ipblock_matches_pods", defaults.ipblock_matches_pods),
        own_node_ingress_allowed: flag("own_node_ingress_allowed", defaults.own_node_ingress_allowed),
        own_node_egress_allowed: flag("own_node_egress_allowed", defaults.own_node_egress_allowed),
        cross_cluster_default: object.get("cross_cluster_default").and_then(|cursor| cursor.one_of(&words)),
    }
}
