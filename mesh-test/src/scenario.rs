//! A scenario: manifests as text, and probes with what is expected of them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fs, io};

use mesh_core::manifest::{self, Checked, ManifestError, ManifestSource};
use mesh_core::policy::PolicyScope;
use mesh_core::{ClusterName, Grant, Key, Resource, ServiceId, StateConfig, Trust, WallTime};
use serde::Deserialize;

/// One document of a scenario file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it tells.
    pub name: String,
    /// A file of `scenarios/base` whose manifests come first.
    pub base: Option<String>,
    /// The manifests of each cluster.
    #[serde(default)]
    pub clusters: BTreeMap<String, String>,
    /// `fleet.yaml`.
    pub fleet: Option<String>,
    /// `mesh.yaml`.
    pub mesh: Option<String>,
    /// The fleet's own policies.
    pub fleet_policies: Option<String>,
    /// More files, by their path in the directory of the offline checkers.
    #[serde(default)]
    pub files: BTreeMap<String, String>,
    /// Policy probes; see [`PolicyProbe`](crate::probe::PolicyProbe).
    #[serde(default)]
    pub policy: Vec<String>,
    /// DNS probes; see [`DnsProbe`](crate::probe::DnsProbe).
    #[serde(default)]
    pub dns: Vec<String>,
    /// Probes of derived ServiceImports; see [`ImportProbe`](crate::derived::ImportProbe).
    #[serde(default)]
    pub imports: Vec<String>,
    /// Probes of the conditions of ServiceExports; see [`ConditionProbe`](crate::derived::ConditionProbe).
    #[serde(default)]
    pub conditions: Vec<String>,
    /// What happens afterwards, one step after the other.
    #[serde(default)]
    pub then: Vec<Step>,
    /// Lines to the checkers and their whole answers.
    #[serde(default)]
    pub lines: Vec<Line>,
    /// The mistakes that loading must tell, each by its beginning; none: it loads.
    #[serde(default)]
    pub errors: Vec<String>,
    /// What loading must warn of, each by a part of the warning, in any order, and nothing else; missing: not looked at.
    pub warnings: Option<Vec<String>>,
    /// The number of ignored objects; missing: not looked at.
    pub ignored: Option<usize>,
}

/// A step: an object goes, and what is so then.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The object: `<cluster> ServiceExport <namespace>/<name>`, or another kind of the discovery of services.
    pub delete: String,
    /// Like those of the scenario.
    #[serde(default)]
    pub dns: Vec<String>,
    /// Like those of the scenario.
    #[serde(default)]
    pub imports: Vec<String>,
    /// Like those of the scenario.
    #[serde(default)]
    pub conditions: Vec<String>,
}

impl Step {
    /// Returns what is deleted.
    ///
    /// # Errors
    /// Returns what cannot be read.
    pub fn key(&self) -> Result<Key, String> {
        let words: Vec<&str> = self.delete.split_whitespace().collect();
        let [cluster, kind, id] = words.as_slice() else {
            return Err(format!("not of the form '<cluster> <kind> <namespace>/<name>': {}", self.delete));
        };
        let cluster = ClusterName::new(cluster).map_err(|error| error.to_string())?;
        let id: ServiceId = id.parse().map_err(|error| format!("{error}: {}", self.delete))?;
        Ok(match *kind {
            "Service" => Key::Service(cluster, id),
            "ServiceExport" => Key::ServiceExport(cluster, id),
            "ServiceImport" => Key::ServiceImport(cluster, id),
            "EndpointSlice" => Key::EndpointSlice(cluster, id.namespace, id.name),
            _ => return Err(format!("'{kind}' cannot be deleted here: {}", self.delete)),
        })
    }
}

/// A line to a checker.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// Which checker: `policy` or `dns`.
    pub to: String,
    /// The line.
    pub ask: String,
    /// The answer, as JSON; `"*"` for the text of an error.
    pub answer: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Base {
    clusters: BTreeMap<String, String>,
}

impl Scenario {
    /// Reads the scenarios of a file's text.
    ///
    /// # Errors
    /// Returns what is wrong with the text.
    pub fn read(text: &str) -> Result<Vec<Scenario>, String> {
        let mut scenarios: Vec<Scenario> = serde_saphyr::from_multiple(text).map_err(|error| error.to_string())?;
        for scenario in &mut scenarios {
            if let Some(base) = &scenario.base {
                let path = directory().join("base").join(format!("{base}.yaml"));
                let text = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
                let base: Base = serde_saphyr::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))?;
                let files = base.clusters.into_iter().map(|(name, text)| (format!("clusters/{name}/base.yaml"), text));
                scenario.files.extend(files);
            }
        }
        Ok(scenarios)
    }

    /// Returns the files of the directory that the scenario describes.
    pub fn files(&self) -> BTreeMap<String, String> {
        let mut files = self.files.clone();
        files.extend(self.clusters.iter().map(|(name, text)| (format!("clusters/{name}/all.yaml"), text.clone())));
        let single = [("fleet.yaml", &self.fleet), ("mesh.yaml", &self.mesh), ("fleet/policies.yaml", &self.fleet_policies)];
        files.extend(single.into_iter().filter_map(|(path, text)| Some((path.to_owned(), text.clone()?))));
        files
    }

    /// Loads the files as the offline checkers do.
    ///
    /// # Errors
    /// Returns every mistake in them.
    pub fn checked(&self) -> Result<Checked, Vec<ManifestError>> {
        let files = self.files();
        Checked::load(files.iter().map(|(path, text)| (path.as_str(), text.as_str())))
    }

    /// Returns the facts one by one, and the configuration of the state that they are for.
    pub fn facts(&self) -> (StateConfig, Vec<Resource>) {
        let (mut facts, mut fleet, mut mesh) = (Vec::new(), None, manifest::MeshFile::default());
        for (path, text) in self.files() {
            let scope = match path.split('/').collect::<Vec<_>>()[..] {
                ["fleet.yaml"] => {
                    fleet = manifest::parse_fleet(&path, &text).ok();
                    continue;
                }
                ["mesh.yaml"] => {
                    mesh = manifest::parse_mesh(&path, &text).unwrap_or_default();
                    continue;
                }
                ["clusters", cluster, _] => PolicyScope::Cluster(ClusterName::new(cluster).expect("a cluster's name")),
                _ => PolicyScope::Fleet,
            };
            let parsed = manifest::parse(&ManifestSource { file: &path, scope }, &text);
            facts.extend(parsed.resources.into_iter().map(|(resource, _)| resource));
        }
        let always =
            |grant| Grant { not_before: WallTime::from_unix_nanos(0), not_after: WallTime::from_unix_nanos(u64::MAX), ..grant };
        let grants = fleet.iter().flat_map(manifest::FleetFile::grants);
        facts.extend(grants.map(|grant| Resource::Grant(Arc::new(always(grant)))));
        let config = StateConfig {
            fleet: fleet.as_ref().map_or("".into(), |fleet| fleet.name.clone()),
            trust: if fleet.is_some() { Trust::Declared } else { Trust::Open },
            settings: mesh.settings,
            domains: mesh.domains,
        };
        (config, facts)
    }
}

/// Returns the directory of the scenarios.
pub fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("scenarios")
}

/// Returns every scenario file's text, with its path below [`directory`], in order; the bases are none.
///
/// # Errors
/// Returns why the directory cannot be read.
pub fn all() -> io::Result<Vec<(String, String)>> {
    let mut found = Vec::new();
    for group in fs::read_dir(directory())? {
        let group = group?;
        if group.file_name() == "base" {
            continue;
        }
        for file in fs::read_dir(group.path())? {
            let path = file?.path();
            let name = path.strip_prefix(directory()).unwrap_or(&path).display().to_string();
            found.push((name, fs::read_to_string(&path)?));
        }
    }
    found.sort();
    Ok(found)
}
