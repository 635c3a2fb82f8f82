//! `meshctl fleet rotate`: a cluster's next key, and everything of the root anew.

use std::fs;
use std::path::{Path, PathBuf};

use mesh_core::ClusterName;
use mesh_core::manifest::{FleetFile, FleetPart};
use mesh_source::keyfiles;

use super::{RotateArgs, cluster_key, sign};
use crate::fleet::{SignError, edit, file_error};

/// Replaces what the arguments say.
pub(super) fn rotate(args: &RotateArgs) -> Result<(), SignError> {
    let Some(cluster) = args.cluster.as_ref().filter(|_| !args.serials) else { return sign::grant(&args.sign, true) };
    let file = args.sign.directory.join("clusters").join(format!("{cluster}.yaml"));
    if !file.is_file() {
        return Err(SignError::Refused(format!(
            "{}: it is not there: a key is rotated in the cluster's own file; `meshctl fleet join` writes one (move the cluster there \
             from fleet.yaml)",
            file.display()
        )));
    }
    let key = cluster_key(args.key.as_deref(), cluster);
    if args.promote { promote(cluster, &key, &file) } else { next(cluster, &key, &file) }
}

/// Returns where the key that follows `key` is kept.
fn next_of(key: &Path) -> PathBuf {
    let mut name = key.as_os_str().to_owned();
    name.push(".next");
    name.into()
}

/// Makes the next key where there is none, and names its public half.
fn next(cluster: &ClusterName, key: &Path, file: &Path) -> Result<(), SignError> {
    let current = keyfiles::read_signing_key(key)?.public();
    let text = fs::read_to_string(file).map_err(file_error(file))?;
    if field(&text, "key").as_deref() != Some(&current.to_string()) {
        return Err(SignError::Refused(format!(
            "{}: its key is not the one in {}: is this the machine of cluster {cluster}'s publisher?",
            file.display(),
            key.display()
        )));
    }
    let path = next_of(key);
    let made = !path.exists();
    let next = if made { keyfiles::create_signing_key(&path)? } else { keyfiles::read_signing_key(&path)? };
    if made {
        println!("wrote {} (secret, mode 0600: it stays on this machine)", path.display());
    }
    write_checked(file, cluster, &text, &edit::set_field(&text, "next_key", &next.public().to_string(), "key"))?;
    println!("commit {}; after `meshctl fleet grant DIR` the publisher signs with the next key", file.display());
    println!("then: meshctl fleet rotate DIR --cluster {cluster} --promote");
    Ok(())
}

/// Makes the next key the key. A run that was interrupted is taken up where it ended.
fn promote(cluster: &ClusterName, key: &Path, file: &Path) -> Result<(), SignError> {
    let text = fs::read_to_string(file).map_err(file_error(file))?;
    let (next, old) = (next_of(key), key.with_extension("key.old"));
    let Some(named) = field(&text, "next_key") else {
        return Err(SignError::Refused(format!(
            "{}: it names no next_key: begin with `meshctl fleet rotate DIR --cluster {cluster} --next`",
            file.display()
        )));
    };
    let holds = |path: &Path| keyfiles::read_signing_key(path).is_ok_and(|key| key.public().to_string() == named);
    if next.exists() {
        if !holds(&next) {
            return Err(SignError::Refused(format!("{}: it is not the next_key that {} names", next.display(), file.display())));
        }
        fs::rename(key, &old).map_err(file_error(key))?;
        fs::rename(&next, key).map_err(file_error(&next))?;
    } else if !holds(key) {
        return Err(SignError::Refused(format!("{}: there is no next key on this machine", next.display())));
    }
    write_checked(file, cluster, &text, &edit::remove_field(&edit::set_field(&text, "key", &named, ""), "next_key"))?;
    println!("{} is the next key now; the old one is {}", key.display(), old.display());
    println!("commit {}; after `meshctl fleet grant DIR` the old key is worth nothing: remove it", file.display());
    Ok(())
}

/// Returns the value of a top-level field that is written plainly on one line, as `join` and `rotate` write keys.
fn field(text: &str, name: &str) -> Option<String> {
    let rest = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    let value = rest.split(" #").next().unwrap_or(rest).trim().trim_matches(['"', '\'']);
    (!value.is_empty()).then(|| value.to_owned())
}

/// Writes a cluster's file, where what it says then can be read.
fn write_checked(file: &Path, cluster: &ClusterName, before: &str, after: &str) -> Result<(), SignError> {
    let part = FleetPart::read(&format!("clusters/{cluster}.yaml"), after).expect("the name of a cluster's file");
    let read = part.and_then(|part| FleetFile::assemble([part]));
    read.map_err(|errors| SignError::Desired(errors.iter().map(ToString::to_string).collect()))?;
    if before != after {
        fs::write(file, after).map_err(file_error(file))?;
        println!("wrote {}", file.display());
    }
    Ok(())
}
