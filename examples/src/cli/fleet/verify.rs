//! `meshctl fleet verify`: everything that is signed, judged as agents judge it.

use std::collections::BTreeMap;
use std::path::Path;

use mesh_core::PublicKey;
use mesh_source::keyfiles;
use serde::Serialize;

use super::{VerifyArgs, public_key};
use crate::cli::agent::Output;
use crate::config::StoreConfig;
use crate::fleet::audit::{self, Finding};
use crate::fleet::plan::{self, Desired};
use crate::fleet::{self, SignError, secrets};

#[derive(Default, Serialize)]
struct Report {
    root: String,
    /// Statements of the root and records of clusters, by store.
    stores: BTreeMap<String, (usize, usize)>,
    findings: Vec<Finding>,
}

/// Prints what is wrong; returns whether nothing is.
pub(super) fn verify(args: &VerifyArgs) -> Result<bool, SignError> {
    let is_fleet = args.path.join("fleet.yaml").is_file();
    let root = root(args, is_fleet)?;
    let mut report = Report { root: root.to_string(), ..Report::default() };
    let stores = if !is_fleet {
        let name = args.path.to_str().unwrap_or_default();
        vec![StoreConfig::named(name).map_err(SignError::Refused)?]
    } else if args.store.is_empty() {
        vec![fleet::default_store(&args.path)]
    } else {
        args.store.clone()
    };
    for store in &stores {
        if is_missing(store) {
            let way_out = "`meshctl fleet grant` makes it, or name the stores with --store";
            report.findings.push(Finding::error(store.to_string(), "there is no such store", way_out));
            continue;
        }
        let audit = audit::audit(&audit::read_store(store)?, root, fleet::now());
        report.stores.insert(store.to_string(), audit.read);
        let place = |finding: Finding| Finding { place: format!("{}: {}", store, finding.place), ..finding };
        report.findings.extend(audit.findings.into_iter().map(place));
    }
    if is_fleet {
        look_at_git(&args.path, &stores, &root, &mut report.findings)?;
    }
    let is_clean = report.findings.iter().all(|finding| !finding.wrong);
    if args.output == Output::Json {
        println!("{}", serde_json::to_string_pretty(&report).expect("texts and numbers are JSON"));
        return Ok(is_clean);
    }
    for finding in &report.findings {
        let kind = if finding.wrong { "ERROR" } else { "warning" };
        println!("{kind}: {}: {}\n    {}", finding.place, finding.what, finding.way_out);
    }
    for (store, (of_root, of_clusters)) in &report.stores {
        println!("{store}: {of_root} statement(s) of the root, {of_clusters} record(s) of clusters");
    }
    let wrong = report.findings.iter().filter(|finding| finding.wrong).count();
    println!("{wrong} error(s), {} warning(s); root {root}", report.findings.len() - wrong);
    Ok(is_clean)
}

/// Tells whether a store is a directory that is not there.
fn is_missing(store: &StoreConfig) -> bool {
    matches!(store, StoreConfig::Directory(path) if !path.is_dir())
}

/// Returns the root's public key: the one that is given, else what the fleet's files say, else that of the secret beside them.
fn root(args: &VerifyArgs, is_fleet: bool) -> Result<PublicKey, SignError> {
    if let Some(text) = &args.root {
        return public_key(text);
    }
    let named = if is_fleet { fleet::read_fleet(&args.path)?.root } else { None };
    let secret = args.path.join("root.key");
    match named {
        Some(root) => Ok(root),
        None if is_fleet && secret.exists() => Ok(keyfiles::read_signing_key(&secret)?.public()),
        None => Err(SignError::Refused(format!(
            "{}: it does not name the root's public key: give --root KEY{}",
            args.path.display(),
            if is_fleet { ", or write `root: KEY` into fleet.yaml" } else { ", as `meshctl fleet show` prints it" }
        ))),
    }
}

/// Checks what git has: that all of it is signed, that it makes sense, and that no secret is in it.
fn look_at_git(directory: &Path, stores: &[StoreConfig], root: &PublicKey, findings: &mut Vec<Finding>) -> Result<(), SignError> {
    findings.extend(secrets::look(directory));
    if let Err(mistakes) = crate::cli::check::load(directory) {
        findings.extend(
            mistakes.into_iter().map(|mistake| Finding::error(directory.display().to_string(), mistake, "correct the file")),
        );
        return Ok(());
    }
    let desired = Desired { fleet: fleet::read_fleet(directory)?, policies: fleet::read_policies(directory)? };
    let there: Vec<_> = stores.iter().filter(|store| !is_missing(store)).cloned().collect();
    let held = fleet::read_held(&there, root)?;
    let place = || directory.display().to_string();
    match plan::plan(&desired, &held, fleet::now().wall, false) {
        Err(problems) => {
            findings.extend(problems.into_iter().map(|problem| Finding::error(place(), problem, "correct the file")));
        }
        Ok(plan) => {
            let unsigned = plan.wanted.iter().filter(|wanted| wanted.held.is_none());
            findings.extend(unsigned.map(|wanted| {
                let what = format!("{} is not signed as git has it", wanted.path);
                Finding::warning(place(), what, "review git, then `meshctl fleet grant`")
            }));
            findings.extend(plan.notes.into_iter().map(|note| Finding::warning(place(), note, "as it says")));
        }
    }
    Ok(())
}
