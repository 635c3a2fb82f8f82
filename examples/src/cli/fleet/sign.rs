//! `meshctl fleet grant` and `revoke`: what needs the root key.

use std::fs;
use std::path::Path;

use mesh_core::{ClusterName, RootRecord};
use mesh_source::RecordPath;

use super::SignArgs;
use crate::fleet::plan::{self, Desired, Held, Plan, Wanted};
use crate::fleet::{self, Put, SignError, edit, file_error};

/// Signs what the directory wants; with `renew` also what stands.
pub(super) fn grant(args: &SignArgs, renew: bool) -> Result<(), SignError> {
    // Everything that agents will read must be readable, not the grants alone.
    let checked = crate::cli::check::load(&args.directory).map_err(SignError::Desired)?;
    checked.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    let (root, stores) = (args.root()?, args.stores());
    let desired = Desired { fleet: fleet::read_fleet(&args.directory)?, policies: fleet::read_policies(&args.directory)? };
    let held = fleet::read_held(&stores, &root.public())?;
    let plan = plan::plan(&desired, &held, fleet::now().wall, renew).map_err(SignError::Desired)?;
    plan.notes.iter().for_each(|note| eprintln!("note: {note}"));
    print(&fleet::carry_out(&plan, &root, &stores)?, stores.len());
    Ok(())
}

fn print(puts: &[Put], stores: usize) {
    for put in puts.iter().filter(|put| put.signed || put.stores > 0) {
        let what = if put.signed { "signed" } else { "copied, as signed before:" };
        println!("{what} {} into {} of {stores} store(s)", put.path, put.stores);
    }
    let stands = puts.iter().filter(|put| !put.signed && put.stores == 0).count();
    if stands > 0 {
        println!("{stands} stand(s) as signed before");
    }
}

/// Revokes every grant of `cluster` below an epoch.
///
/// What is signed goes first, and git after it: neither a broken manifest nor a broken file of git stands before a revocation.
pub(super) fn revoke(args: &SignArgs, cluster: &ClusterName, epoch: Option<u64>) -> Result<(), SignError> {
    let (root, stores) = (args.root()?, args.stores());
    let fleet = fleet::read_fleet(&args.directory);
    if let Err(error) = &fleet {
        eprintln!("warning: {error}\nwarning: going on by what is signed in the stores");
    }
    let fleet = fleet.unwrap_or_default();
    let mut sources = stores.clone();
    sources.push(fleet::default_store(&args.directory));
    let held = fleet::read_held(&sources, &root.public())?;
    held.unread.iter().for_each(|unread| eprintln!("warning: {unread}"));
    let before = fleet.revoked.get(cluster).copied().unwrap_or(0).max(held.revoked(cluster));
    let granted = highest_epoch(&fleet, &held, cluster).ok_or_else(|| {
        let known: Vec<_> = fleet.clusters.keys().chain(held.grants.keys()).map(ToString::to_string).collect();
        SignError::Refused(format!("no cluster {cluster} was ever granted anything; known: {}", known.join(", ")))
    })?;
    // Revoked already, and nothing granted since: the same revocation again, for the stores that have not heard of it.
    let first = epoch.unwrap_or(if before > granted { before } else { granted + 1 });
    if first < before {
        return Err(SignError::Refused(format!(
            "--epoch {first}: epochs below {before} are revoked already: give {before} or more"
        )));
    }
    if first <= granted {
        return Err(SignError::Refused(format!(
            "--epoch {first}: the grant of cluster {cluster} has epoch {granted} and would stay in force: give {} or more",
            granted + 1
        )));
    }
    let statement = RootRecord::Revocation { cluster: cluster.clone(), epoch: first };
    let known = held.revocations.get(cluster).filter(|(known, _)| *known == first).map(|(_, bytes)| bytes.clone());
    let wanted = Wanted { path: RecordPath::revocation(cluster), statement, held: known };
    let put = fleet::carry_out(&Plan { wanted: vec![wanted], notes: Vec::new() }, &root, &stores);
    let noted = note(&args.directory, cluster, first);
    print(&put?, stores.len());
    noted?;
    println!("cluster {cluster} is revoked: no grant of it below epoch {first} counts anywhere this reaches");
    println!("{} says so for git: commit it", args.directory.join("revoked.yaml").display());
    println!(
        "to let it back in: `epoch: {first}` in clusters/{cluster}.yaml (and a new key, if the old one was stolen), then `meshctl fleet grant {}`",
        args.directory.display()
    );
    Ok(())
}

/// Returns the highest epoch of a cluster's grants, in git or signed; `None` for a cluster without any.
fn highest_epoch(fleet: &mesh_core::manifest::FleetFile, held: &Held, cluster: &ClusterName) -> Option<u64> {
    let in_git = fleet.clusters.get(cluster).map(|cluster| cluster.epoch);
    in_git.max(held.newest(cluster).map(|(grant, _)| grant.epoch))
}

/// Writes the revocation into the file that git keeps.
fn note(directory: &Path, cluster: &ClusterName, epoch: u64) -> Result<(), SignError> {
    let path = directory.join("revoked.yaml");
    let text = if path.exists() { fs::read_to_string(&path).map_err(file_error(&path))? } else { HEAD.to_owned() };
    fs::write(&path, edit::set_field(&text, cluster.as_str(), &epoch.to_string(), "")).map_err(file_error(&path))
}

const HEAD: &str = "\
# Grants of a cluster below its epoch here are void, wherever they are. `meshctl fleet revoke` writes this file.
";
