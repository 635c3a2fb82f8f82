//! A fleet's desired state from its files: `fleet.yaml`, a file for each cluster, and what was revoked.
//!
//! ```text
//!   fleet.yaml             name, root, and clusters that are written by hand
//!   clusters/east.yaml     what cluster east shall be granted: one file, one review      (clusters/east/ has its manifests)
//!   revoked.yaml           the first epoch that counts, for each cluster that was revoked
//! ```

use std::collections::BTreeMap;

use super::cursor::{Cursor, Object, Report, one_line};
use super::fleet::{fleet_cluster, only_document, parse_fleet};
use super::{FleetCluster, FleetFile, ManifestError, tree};
use crate::{ClusterName, grant};

/// One file of a fleet's desired state, read and not yet put together with the others.
#[derive(Clone, Debug)]
pub struct FleetPart(Part);

#[derive(Clone, Debug)]
enum Part {
    Fleet(FleetFile),
    Cluster { file: String, name: ClusterName, cluster: Box<FleetCluster>, warnings: Vec<ManifestError> },
    Revoked(BTreeMap<ClusterName, u64>),
}

impl FleetPart {
    /// Reads the file at `path`, relative to the fleet's directory; `None` for a path that is no part of the desired state.
    ///
    /// # Errors
    /// Returns every mistake in the file.
    pub fn read(path: &str, text: &str) -> Option<Result<FleetPart, Vec<ManifestError>>> {
        let (stem, ending) = path.rsplit_once('.')?;
        if !["yaml", "yml", "json"].contains(&ending) {
            return None;
        }
        Some(match stem.split_once('/') {
            None if stem == "fleet" => parse_fleet(path, text).map(Part::Fleet).map(FleetPart),
            None if stem == "revoked" => parse_revoked(path, text).map(Part::Revoked).map(FleetPart),
            Some(("clusters", name)) if !name.contains('/') && !name.starts_with('.') => parse_cluster(path, name, text),
            _ => return None,
        })
    }

    /// Tells whether this is `fleet.yaml`.
    pub fn is_fleet(&self) -> bool {
        matches!(self.0, Part::Fleet(_))
    }
}

impl FleetFile {
    /// Puts the parts together; without a `fleet.yaml` among them the fleet has no name and no root.
    ///
    /// # Errors
    /// Returns a mistake for every cluster that two files name.
    pub fn assemble(parts: impl IntoIterator<Item = FleetPart>) -> Result<FleetFile, Vec<ManifestError>> {
        let mut parts: Vec<_> = parts.into_iter().map(|part| part.0).collect();
        parts.sort_by_key(|part| !matches!(part, Part::Fleet(_)));
        let (mut fleet, mut files, mut errors) = (FleetFile::default(), BTreeMap::new(), Vec::new());
        for part in parts {
            match part {
                Part::Fleet(file) => fleet = file,
                Part::Revoked(revoked) => fleet.revoked.extend(revoked),
                Part::Cluster { file, name, cluster, warnings } => {
                    fleet.warnings.extend(warnings);
                    if fleet.clusters.contains_key(&name) {
                        let other = files.get(&name).map_or("fleet.yaml", String::as_str);
                        errors.push(whole_file(&file, &format!("cluster {name} is in {other} too: keep it in one of the two")));
                        continue;
                    }
                    fleet.clusters.insert(name.clone(), *cluster);
                    files.insert(name, file);
                }
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        fleet.warn_of_overlaps_with(&files);
        Ok(fleet)
    }

    /// Warns where a cluster of `files` is granted an address that another cluster is granted. Inside of `fleet.yaml` this was
    /// said already, with the place.
    fn warn_of_overlaps_with(&mut self, files: &BTreeMap<ClusterName, String>) {
        let (own, others): (Vec<_>, Vec<_>) = self.clusters.iter().partition(|(name, _)| files.contains_key(*name));
        let granted = others.into_iter().chain(own).flat_map(|(name, cluster)| cluster.prefixes.iter().map(move |p| (name, *p)));
        let granted: Vec<_> = granted.collect();
        for overlap in grant::overlaps(granted.iter().map(|(name, prefix)| (name.as_str(), *prefix))) {
            let (name, prefix) = granted[overlap.index];
            if let Some(file) = files.get(name) {
                self.warnings.push(whole_file(file, &overlap.message(prefix)));
            }
        }
    }
}

fn parse_cluster(file: &str, name: &str, text: &str) -> Result<FleetPart, Vec<ManifestError>> {
    let report = Report::new(file);
    let (documents, errors) = tree::documents(text);
    errors.into_iter().for_each(|error| report.syntax(&error));
    let mut cluster = FleetCluster::default();
    let parsed = ClusterName::new(name);
    if let Some(document) = documents.first() {
        let cursor = Cursor::root(&document.root, &report);
        if let Err(error) = &parsed {
            cursor.error(format_args!("the file is no cluster's: {error}"));
        }
        let object = only_document(&documents, &report);
        if object.is_some_and(|object| object.get("apiVersion").is_some() || object.get("kind").is_some()) {
            cursor.error(format_args!(
                "this file says what cluster {name} is granted; its manifests are files in the directory clusters/{name}/"
            ));
        } else {
            cluster = fleet_cluster(&cursor, name, &mut Vec::new());
        }
    }
    let (errors, warnings) = report.finish();
    match parsed {
        Ok(name) if errors.is_empty() => {
            Ok(FleetPart(Part::Cluster { file: file.to_owned(), name, cluster: Box::new(cluster), warnings }))
        }
        Err(error) if errors.is_empty() => Err(vec![whole_file(file, &format!("the file is no cluster's: {error}"))]),
        _ => Err(errors),
    }
}

/// Reads `revoked.yaml`: the first epoch that counts, by cluster.
fn parse_revoked(file: &str, text: &str) -> Result<BTreeMap<ClusterName, u64>, Vec<ManifestError>> {
    let report = Report::new(file);
    let (documents, errors) = tree::documents(text);
    errors.into_iter().for_each(|error| report.syntax(&error));
    let mut revoked = BTreeMap::new();
    for (key, cursor) in only_document(&documents, &report).iter().flat_map(Object::entries) {
        let name = ClusterName::new(key).map_err(|error| cursor.error(error)).ok();
        let epoch = cursor.integer(1..=i64::MAX).and_then(|epoch| u64::try_from(epoch).ok());
        revoked.extend(name.zip(epoch));
    }
    let (errors, _) = report.finish();
    if errors.is_empty() { Ok(revoked) } else { Err(errors) }
}

fn whole_file(file: &str, message: &str) -> ManifestError {
    ManifestError { file: file.to_owned(), line: 1, column: 1, field: String::new(), message: one_line(message) }
}
