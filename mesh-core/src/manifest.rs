//! Manifests: Kubernetes objects, `fleet.yaml` and `mesh.yaml` as text in, facts and every mistake at once out.

use std::fmt;

use crate::Resource;
use crate::policy::PolicyScope;

mod cluster_policy;
mod cursor;
mod desired;
mod fleet;
mod load;
mod network_policy;
mod object;
mod service;
#[cfg(test)]
mod tests;
mod tree;
mod workload;

use self::cursor::{Cursor, Report};
pub use self::desired::FleetPart;
pub use self::fleet::{FleetCluster, FleetFile, MeshFile, parse_fleet, parse_mesh};
pub use self::load::{Checked, ReadFile};
use self::object::Outcome;

/// Where a text comes from.
#[derive(Clone, Debug)]
pub struct ManifestSource<'a> {
    /// The file's name, for messages.
    pub file: &'a str,
    /// Whose facts it tells: a cluster's, or (policies only) the fleet's.
    pub scope: PolicyScope,
}

/// What a text says.
#[derive(Clone, Debug, Default)]
pub struct Parsed {
    /// The facts of the objects without a mistake, with the place of each object.
    pub resources: Vec<(Resource, Location)>,
    /// What is odd and does not stand in the way: unknown fields, reserved labels.
    pub warnings: Vec<ManifestError>,
    /// Every mistake.
    pub errors: Vec<ManifestError>,
    /// The number of objects of kinds that the mesh does not read.
    pub ignored: usize,
}

/// A place in a file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location {
    /// The file's name.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
}

/// A mistake in a manifest (or an oddity, in [`Parsed::warnings`]), with its exact place.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub struct ManifestError {
    /// The file's name.
    pub file: String,
    /// The line, from 1.
    pub line: u32,
    /// The column, from 1.
    pub column: u32,
    /// The path of the field, such as `spec.ingress[0].from[1].ipBlock.cidr`; empty for the whole document.
    pub field: String,
    /// What is wrong, and what is allowed.
    pub message: String,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

impl fmt::Display for ManifestError {
    /// Writes `file:line:column: field: message`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: ", self.file, self.line, self.column)?;
        if !self.field.is_empty() {
            write!(f, "{}: ", self.field)?;
        }
        f.write_str(&self.message)
    }
}

/// Reads the Kubernetes objects of a text, YAML or JSON, any number of documents.
///
/// An object with a mistake in it is left out, and every mistake of it is told; the other objects are read all the same.
///
/// ```
/// use mesh_core::manifest::{self, ManifestSource};
/// use mesh_core::{ClusterName, policy::PolicyScope};
///
/// let source = ManifestSource { file: "db.yaml", scope: PolicyScope::Cluster(ClusterName::new("east")?) };
/// let parsed = manifest::parse(&source, "
/// apiVersion: v1
/// kind: Pod
/// metadata: {name: db-0, namespace: Shop, labels: {app: 5432}}
/// spec: {hostNetwork: maybe}
/// ");
/// let errors: Vec<_> = parsed.errors.iter().map(ToString::to_string).collect();
/// assert_eq!(errors.len(), 3);
/// assert_eq!(errors[1], "db.yaml:4:55: metadata.labels.app: 5432 is not a string here: write \"5432\" in quotes");
/// # Ok::<(), mesh_core::NameError>(())
/// ```
pub fn parse(source: &ManifestSource<'_>, text: &str) -> Parsed {
    let report = Report::new(source.file);
    let mut parsed = Parsed::default();
    let take = |document: tree::Document| {
        let root = Cursor::root(&document.root, &report);
        match object::read(&root, &source.scope) {
            Outcome::Fact(_) | Outcome::List(..) if document.broken => {}
            Outcome::Fact(resource) => parsed.resources.push((resource, root.location())),
            Outcome::List(facts, ignored) => {
                parsed.resources.extend(facts);
                parsed.ignored += ignored;
            }
            Outcome::Ignored => parsed.ignored += 1,
            Outcome::Broken => {}
        }
    };
    tree::each_document(text, take, |error| report.syntax(&error));
    (parsed.errors, parsed.warnings) = report.finish();
    parsed
}
