//! A whole directory of manifests at once, as the offline checkers read it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::cursor::one_line;
use super::{FleetFile, FleetPart, Location, ManifestError, ManifestSource, MeshFile, Parsed, parse, parse_mesh};
use crate::policy::PolicyScope;
use crate::{ClusterName, Event, Grant, Key, Now, Resource, SourceId, State, StateConfig, Trust, WallTime};

/// A directory of manifests that has no mistake in it.
#[derive(Clone, Debug)]
pub struct Checked {
    /// The state that it describes: open trust without `fleet.yaml`, declared grants with it.
    pub state: State,
    /// What is odd and does not stand in the way.
    pub warnings: Vec<ManifestError>,
    /// The place of every fact.
    pub locations: BTreeMap<Key, Location>,
    /// The number of objects of kinds that the mesh does not read.
    pub ignored: usize,
    /// The clusters that have a file, also where nothing is in it.
    pub clusters: BTreeSet<ClusterName>,
}

/// A file of the directory that is read, and not yet put together with the others.
#[derive(Debug)]
pub struct ReadFile {
    path: String,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Facts(PolicyScope, Parsed),
    Fleet(Result<FleetPart, Vec<ManifestError>>),
    Mesh(Result<MeshFile, Vec<ManifestError>>),
    Misplaced(ManifestError),
    NotLookedAt,
}

/// What a file of the directory is.
enum Part {
    Facts(PolicyScope),
    Mesh,
}

impl Checked {
    /// Loads `(path, text)` pairs, paths relative to the directory with `/` between parts: `clusters/<cluster>/….yaml`,
    /// `clusters/<cluster>.yaml`, `fleet/….yaml`, `fleet.yaml`, `revoked.yaml`, `mesh.yaml` (SEMANTICS §4). Other paths are not looked at. The grants' validity is not
    /// checked: the state is what the files say, on no day in particular.
    ///
    /// # Errors
    /// Returns every mistake of every file at once, by file and place.
    pub fn load<'a>(files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Checked, Vec<ManifestError>> {
        Checked::assemble(files.into_iter().map(|(path, text)| Checked::read(path, text)))
    }

    /// Reads one file, without looking at the others: many may be read at once, for [`Checked::assemble`].
    pub fn read(path: &str, text: &str) -> ReadFile {
        if let Some(part) = FleetPart::read(path, text) {
            return ReadFile { path: path.to_owned(), content: Content::Fleet(part) };
        }
        let content = match part(path) {
            Ok(Some(Part::Facts(scope))) => {
                let parsed = parse(&ManifestSource { file: path, scope: scope.clone() }, text);
                Content::Facts(scope, parsed)
            }
            Ok(Some(Part::Mesh)) => Content::Mesh(parse_mesh(path, text)),
            Ok(None) => Content::NotLookedAt,
            Err(error) => Content::Misplaced(error),
        };
        ReadFile { path: path.to_owned(), content }
    }

    /// Puts the files of a directory together, whatever their order.
    ///
    /// # Errors
    /// Returns every mistake of every file at once, by file and place.
    pub fn assemble(files: impl IntoIterator<Item = ReadFile>) -> Result<Checked, Vec<ManifestError>> {
        let files: BTreeMap<String, Content> = files.into_iter().map(|file| (file.path, file.content)).collect();
        let mut loader = Loader::default();
        files.into_values().for_each(|content| loader.take(content));
        loader.finish()
    }
}

#[derive(Default)]
struct Loader {
    facts: BTreeMap<Key, (Resource, Location)>,
    fleet: Vec<FleetPart>,
    fleet_errors: Vec<ManifestError>,
    mesh: MeshFile,
    warnings: Vec<ManifestError>,
    errors: Vec<ManifestError>,
    ignored: usize,
    clusters: BTreeSet<ClusterName>,
}

impl Loader {
    fn take(&mut self, content: Content) {
        match content {
            Content::Facts(scope, parsed) => {
                if let PolicyScope::Cluster(cluster) = scope {
                    self.clusters.insert(cluster);
                }
                self.facts(parsed);
            }
            Content::Fleet(Ok(part)) => self.fleet.push(part),
            Content::Mesh(Ok(mesh)) => self.mesh = mesh,
            Content::Fleet(Err(errors)) => self.fleet_errors.extend(errors),
            Content::Mesh(Err(errors)) => self.errors.extend(errors),
            Content::Misplaced(error) => self.errors.push(error),
            Content::NotLookedAt => {}
        }
    }

    fn facts(&mut self, parsed: Parsed) {
        self.warnings.extend(parsed.warnings);
        self.errors.extend(parsed.errors);
        self.ignored += parsed.ignored;
        for (resource, location) in parsed.resources {
            let key = resource.key();
            match self.facts.get(&key) {
                Some((_, first)) => self.errors.push(at(&location, &format!("{key} is already at {first}"))),
                None => {
                    self.facts.insert(key, (resource, location));
                }
            }
        }
    }

    fn finish(mut self) -> Result<Checked, Vec<ManifestError>> {
        // Without `fleet.yaml` there is no fleet, and what lies beside the clusters' directories is none of ours.
        let broken = self.fleet_errors.iter().any(|error| error.file.starts_with("fleet."));
        let is_fleet = broken || self.fleet.iter().any(FleetPart::is_fleet);
        self.errors.extend(std::mem::take(&mut self.fleet_errors).into_iter().filter(|_| is_fleet));
        let fleet = match FleetFile::assemble(std::mem::take(&mut self.fleet)) {
            Ok(fleet) => Some(fleet).filter(|_| is_fleet),
            Err(errors) => {
                self.errors.extend(errors);
                None
            }
        };
        if !self.errors.is_empty() {
            self.errors.sort();
            return Err(self.errors);
        }
        self.warnings.extend(fleet.iter().flat_map(|fleet| fleet.warnings.iter().cloned()));
        let mut state = State::new(StateConfig {
            fleet: fleet.as_ref().map_or("".into(), |fleet| fleet.name.clone()),
            trust: if is_fleet { Trust::Declared } else { Trust::Open },
            settings: self.mesh.settings.clone(),
            domains: std::mem::take(&mut self.mesh.domains),
        });
        let source = SourceId("manifests".into());
        let mut apply = |event| drop(state.apply(event, Now::default()));
        apply(Event::Begin(source.clone()));
        for grant in fleet.iter().flat_map(FleetFile::grants) {
            let grant =
                Grant { not_before: WallTime::from_unix_nanos(0), not_after: WallTime::from_unix_nanos(u64::MAX), ..grant };
            apply(Event::Set(source.clone(), Resource::Grant(Arc::new(grant))));
        }
        for (resource, _) in self.facts.values() {
            apply(Event::Set(source.clone(), resource.clone()));
        }
        apply(Event::Synced(source));
        for (key, refusal) in state.refused() {
            if let Some((_, location)) = self.facts.get(key) {
                self.warnings.push(at(location, &format!("{key} is refused: {}: {}", refusal.reason.as_str(), refusal.detail)));
            }
        }
        self.warn_of_equal_priorities();
        self.warnings.sort();
        let locations = self.facts.into_iter().map(|(key, (_, location))| (key, location)).collect();
        Ok(Checked { state, warnings: self.warnings, locations, ignored: self.ignored, clusters: self.clusters })
    }

    /// Two policies of one tier and priority are ordered by name, which is the mesh's choice and nobody else's.
    fn warn_of_equal_priorities(&mut self) {
        let mut seen: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for (resource, location) in self.facts.values() {
            if let Resource::ClusterNetworkPolicy(policy) = resource {
                seen.entry((policy.tier, policy.priority)).or_default().push((policy, location));
            }
        }
        for ((tier, priority), policies) in seen {
            for (index, (policy, location)) in policies.iter().enumerate() {
                let meets = |other: &PolicyScope| {
                    *other == policy.scope || *other == PolicyScope::Fleet || policy.scope == PolicyScope::Fleet
                };
                let earlier = policies[..index].iter().find(|(other, _)| meets(&other.scope));
                if let Some((other, place)) = earlier {
                    let message = format!(
                        "{tier:?} policies {} and {} ({place}) have the same priority {priority}: they go by name",
                        policy.name, other.name
                    );
                    self.warnings.push(ManifestError { field: "spec.priority".into(), ..at(location, &message) });
                }
            }
        }
    }
}

fn at(location: &Location, message: &str) -> ManifestError {
    let message = one_line(message);
    ManifestError { file: location.file.clone(), line: location.line, column: 1, field: String::new(), message }
}

/// Tells what the file at `path` is; `None` for files that are not looked at.
fn part(path: &str) -> Result<Option<Part>, ManifestError> {
    let is_manifest = [".yaml", ".yml", ".json"].iter().any(|ending| path.ends_with(ending));
    let hidden = path.split('/').any(|part| part.starts_with('.'));
    if !is_manifest || hidden {
        return Ok(None);
    }
    match path.split_once('/') {
        None if matches!(path, "mesh.yaml" | "mesh.yml" | "mesh.json") => Ok(Some(Part::Mesh)),
        Some(("fleet", _)) => Ok(Some(Part::Facts(PolicyScope::Fleet))),
        Some(("clusters", rest)) => {
            let Some((cluster, _)) = rest.split_once('/') else { return Ok(None) };
            let location = Location { file: path.to_owned(), line: 1 };
            let cluster = ClusterName::new(cluster);
            let cluster = cluster.map_err(|error| at(&location, &format!("the directory is no cluster's: {error}")))?;
            Ok(Some(Part::Facts(PolicyScope::Cluster(cluster))))
        }
        _ => Ok(None),
    }
}
