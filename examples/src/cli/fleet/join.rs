//! `meshctl fleet join`: a cluster's key, and the file by which it asks for its grant.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use mesh_core::manifest::{FleetCluster, FleetFile, FleetPart};
use mesh_core::{PublicKey, SecretKey};
use mesh_source::keyfiles;

use super::{JoinArgs, cluster_key};
use crate::fleet::{self, SignError, file_error};

/// Makes the key where there is none, and the request.
pub(super) fn join(args: &JoinArgs) -> Result<(), SignError> {
    let (file, directory) = target(args)?;
    let key_file = cluster_key(args.key.as_deref(), &args.cluster);
    if let Some(directory) = directory {
        refuse_inside(&key_file, directory)?;
    }
    // Everything is checked before a key is made: the answer to a mistake is a message, not a file.
    let placeholder = SecretKey::from_bytes([0; 32]).public();
    let name = format!("clusters/{}.yaml", args.cluster);
    let wanted = read(&name, &request(args, &placeholder)?)?;
    let existing = match fs::read_to_string(&file) {
        Ok(text) => Some(read(&name, &text)?),
        Err(_) if !file.exists() => None,
        Err(source) => return Err(file_error(&file)(source)),
    };
    if let Some(existing) = &existing
        && (FleetCluster { key: None, ..existing.clone() } != FleetCluster { key: None, ..wanted.clone() })
    {
        return Err(SignError::Refused(format!(
            "{}: cluster {} has a file already, and it says something else: edit it, it is what the grant will say",
            file.display(),
            args.cluster
        )));
    }
    if let (Some(directory), None) = (directory, &existing) {
        warn_of(directory, args, &name, &wanted)?;
    }
    let key = public_half(&key_file)?;
    match existing {
        Some(existing) if existing.key == Some(key) => println!("{} is as asked already", file.display()),
        Some(_) => {
            return Err(SignError::Refused(format!(
                "{}: it names another key than {}: `meshctl fleet rotate --next` replaces a key",
                file.display(),
                key_file.display()
            )));
        }
        None => {
            if let Some(parent) = file.parent() {
                fs::create_dir_all(parent).map_err(file_error(parent))?;
            }
            fs::write(&file, request(args, &key)?).map_err(file_error(&file))?;
            println!("wrote {} (public): commit it, and ask the root's owner to review it", file.display());
        }
    }
    let root = directory.and_then(|directory| fleet::read_fleet(directory).ok()).and_then(|fleet| fleet.root);
    println!("on the node that publishes, in agent.yaml:\n    publisher: {{key: {}}}", key_file.display());
    match root {
        Some(root) => println!("on every node:\n    fleet: {{root: {root}, …}}"),
        None => println!("on every node: fleet.root, the public key that the root's owner has"),
    }
    println!("the root's owner then runs: meshctl fleet grant DIR");
    Ok(())
}

/// Returns the file to write, and the fleet's directory where one was given.
fn target(args: &JoinArgs) -> Result<(PathBuf, Option<&Path>), SignError> {
    if args.out.is_dir() {
        if !args.out.join("fleet.yaml").is_file() {
            return Err(SignError::Refused(format!(
                "{}: there is no fleet.yaml in it: give a clone of the fleet's git, or a file {}.yaml to send to its owner",
                args.out.display(),
                args.cluster
            )));
        }
        return Ok((args.out.join("clusters").join(format!("{}.yaml", args.cluster)), Some(&args.out)));
    }
    if args.out.extension().is_none_or(|ending| ending != "yaml") {
        return Err(SignError::Refused(format!(
            "{}: neither a directory nor a file {}.yaml: git clone the fleet first, or name the file",
            args.out.display(),
            args.cluster
        )));
    }
    Ok((args.out.clone(), None))
}

fn refuse_inside(key: &Path, directory: &Path) -> Result<(), SignError> {
    let real = |path: &Path| path.ancestors().find_map(|at| at.canonicalize().ok());
    let parent = key.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match (real(parent), directory.canonicalize()) {
        (Some(parent), Ok(directory)) if parent.starts_with(&directory) => Err(SignError::Refused(format!(
            "{}: a secret key does not belong in the directory that goes to git: give another --key",
            key.display()
        ))),
        _ => Ok(()),
    }
}

fn public_half(path: &Path) -> Result<PublicKey, SignError> {
    if path.exists() {
        return Ok(keyfiles::read_signing_key(path)?.public());
    }
    if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        fs::create_dir_all(parent).map_err(file_error(parent))?;
    }
    let key = keyfiles::create_signing_key(path)?;
    println!("wrote {} (secret, mode 0600: it stays on this machine)", path.display());
    Ok(key.public())
}

fn read(name: &str, text: &str) -> Result<FleetCluster, SignError> {
    let part = FleetPart::read(name, text).expect("the name of a cluster's file");
    let fleet = part.and_then(|part| FleetFile::assemble([part]));
    let fleet = fleet.map_err(|errors| SignError::Desired(errors.iter().map(ToString::to_string).collect()))?;
    Ok(fleet.clusters.into_values().next().unwrap_or_default())
}

/// Tells what the fleet's own files have against the request.
fn warn_of(directory: &Path, args: &JoinArgs, name: &str, wanted: &FleetCluster) -> Result<(), SignError> {
    let mut fleet = fleet::read_fleet(directory)?;
    if fleet.clusters.contains_key(&args.cluster) {
        return Err(SignError::Refused(format!("cluster {} is in fleet.yaml already: edit it there", args.cluster)));
    }
    fleet.clusters.insert(args.cluster.clone(), wanted.clone());
    let others = fleet.clusters.iter().filter(|(other, _)| **other != args.cluster);
    let own = wanted.prefixes.iter().map(|prefix| (args.cluster.as_str(), *prefix));
    let granted = others.flat_map(|(other, cluster)| cluster.prefixes.iter().map(|prefix| (other.as_str(), *prefix))).chain(own);
    let granted: Vec<_> = granted.collect();
    for overlap in mesh_core::grant::overlaps(granted.iter().copied()) {
        if granted[overlap.index].0 == args.cluster.as_str() {
            return Err(SignError::Refused(format!(
                "{name}: --prefix: {}: ask for a prefix that nobody has",
                overlap.message(granted[overlap.index].1)
            )));
        }
    }
    Ok(())
}

/// Returns the text of the request.
fn request(args: &JoinArgs, key: &PublicKey) -> Result<String, SignError> {
    let list = |items: Vec<String>| serde_json::to_string(&items).expect("strings are JSON").replace("\",\"", "\", \"");
    let texts = |prefixes: &[mesh_core::Prefix]| list(prefixes.iter().map(ToString::to_string).collect());
    let mut attributes = BTreeMap::new();
    for attribute in &args.attribute {
        let Some((key, value)) = attribute.split_once('=') else {
            return Err(SignError::Refused(format!("--attribute {attribute}: expected KEY=VALUE, as in region=eu")));
        };
        attributes.insert(key, value);
    }
    let mut text = format!(
        "# What cluster {} asks the fleet's root for. Merged, it is what `meshctl fleet grant` signs; absent means not granted.\n\
         key: {key}\nprefixes: {}\n",
        args.cluster,
        texts(&args.prefix)
    );
    let mut field = |name: &str, value: String, is_there: bool| {
        if is_there {
            text.push_str(&format!("{name}: {value}\n"));
        }
    };
    field("service_prefixes", texts(&args.service_prefix), !args.service_prefix.is_empty());
    field("namespaces", list(args.namespace.clone()), !args.namespace.is_empty());
    field("exports", list(args.export.clone()), !args.export.is_empty());
    field("attributes", serde_json::to_string(&attributes).expect("strings are JSON"), !attributes.is_empty());
    let quoted = |text: &String| serde_json::to_string(text).expect("a string is JSON");
    field("not_after", args.not_after.as_ref().map(quoted).unwrap_or_default(), args.not_after.is_some());
    Ok(text)
}
