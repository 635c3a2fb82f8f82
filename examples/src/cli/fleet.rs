//! `meshctl fleet init | keygen | grant | show`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use mesh_source::keyfiles;

use crate::fleet::{self, SignError};

/// What to do with the fleet.
#[derive(Subcommand, Clone, Debug)]
pub enum FleetCommand {
    /// Begin a fleet: makes the root key and a fleet.yaml to fill in
    #[command(
        after_help = "The root key signs what clusters may say. Keep it offline; --root-key may name a place outside of DIR."
    )]
    Init {
        /// The fleet's directory, kept in git
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// The fleet's name
        #[arg(long, default_value = "fleet")]
        name: String,
        /// Where the root key goes, mode 0600 [default: DIR/root.key, which DIR/.gitignore keeps out of git]
        #[arg(long, value_name = "FILE")]
        root_key: Option<PathBuf>,
    },
    /// Make a cluster's signing key; its public half goes into fleet.yaml as `key`
    Keygen {
        /// Where the key goes, mode 0600: on the machine of the cluster's publisher
        #[arg(value_name = "FILE")]
        out: PathBuf,
    },
    /// Sign the grants of fleet.yaml and the policies of fleet/*.yaml into stores
    Grant {
        /// The fleet's directory
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// The root key [default: DIR/root.key]
        #[arg(long, value_name = "FILE")]
        root_key: Option<PathBuf>,
        /// The store of a cluster; repeat for several [default: DIR/signed, for copying by other means]
        #[arg(long, value_name = "DIR")]
        store: Vec<PathBuf>,
    },
    /// Show the root's public key, what each cluster is granted, and the fleet policies
    Show {
        /// The fleet's directory
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// The root key, to print its public half [default: DIR/root.key where it is there]
        #[arg(long, value_name = "FILE")]
        root_key: Option<PathBuf>,
    },
}

/// Does it; prints what was done.
pub fn run(command: &FleetCommand) -> Result<(), SignError> {
    match command {
        FleetCommand::Init { directory, name, root_key } => init(directory, name, root_key.as_deref()),
        FleetCommand::Keygen { out } => {
            let key = keyfiles::create_signing_key(out)?;
            println!("wrote {} (secret, mode 0600)", out.display());
            println!("in fleet.yaml, below the cluster:\n    key: {}", key.public());
            Ok(())
        }
        FleetCommand::Grant { directory, root_key, store } => grant(directory, root_key.as_deref(), store),
        FleetCommand::Show { directory, root_key } => show(directory, root_key.as_deref()),
    }
}

fn default_root_key(directory: &Path, root_key: Option<&Path>) -> PathBuf {
    root_key.map_or_else(|| directory.join("root.key"), Path::to_owned)
}

fn init(directory: &Path, name: &str, root_key: Option<&Path>) -> Result<(), SignError> {
    let file = |path: &Path, text: &str| -> Result<(), SignError> {
        let error = |source| SignError::File { path: path.into(), source };
        let mut options = fs::OpenOptions::new();
        let mut handle = options.write(true).create_new(true).open(path).map_err(error)?;
        io::Write::write_all(&mut handle, text.as_bytes()).map_err(error)
    };
    for part in ["clusters", "fleet"] {
        let path = directory.join(part);
        fs::create_dir_all(&path).map_err(|source| SignError::File { path, source })?;
    }
    file(&directory.join("fleet.yaml"), &TEMPLATE.replace("NAME", name))?;
    if root_key.is_none() {
        file(&directory.join(".gitignore"), "/root.key\n")?;
    }
    let path = default_root_key(directory, root_key);
    let key = keyfiles::create_signing_key(&path)?;
    println!("wrote {} (secret, mode 0600: keep it offline)", path.display());
    println!("wrote {}", directory.join("fleet.yaml").display());
    println!("root public key, for every agent's fleet.root:\n    {}", key.public());
    println!(
        "next: `meshctl fleet keygen FILE` for each cluster, fill in fleet.yaml, `meshctl fleet grant {}`",
        directory.display()
    );
    Ok(())
}

fn grant(directory: &Path, root_key: Option<&Path>, stores: &[PathBuf]) -> Result<(), SignError> {
    crate::cli::check::load(directory).map_err(SignError::Desired)?;
    let root = keyfiles::read_signing_key(&default_root_key(directory, root_key))?;
    let default = [directory.join("signed")];
    let stores = if stores.is_empty() { &default[..] } else { stores };
    for path in fleet::sign_fleet(directory, &BTreeMap::new(), &root, stores)? {
        stores.iter().for_each(|store| println!("signed {path} into {}", store.display()));
    }
    Ok(())
}

fn show(directory: &Path, root_key: Option<&Path>) -> Result<(), SignError> {
    let path = default_root_key(directory, root_key);
    if root_key.is_some() || path.exists() {
        println!("root key   {}", keyfiles::read_signing_key(&path)?.public());
    }
    let file = fleet::read_fleet(directory)?;
    println!("fleet      {}", if file.name.is_empty() { "(no name)" } else { &file.name });
    fn join<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
        let items: Vec<_> = items.into_iter().map(|item| item.to_string()).collect();
        if items.is_empty() { "none".into() } else { items.join(" ") }
    }
    for (name, cluster) in &file.clusters {
        println!("\ncluster    {name}");
        println!(
            "  key        {}",
            cluster.key.map_or("MISSING: make one with `meshctl fleet keygen`".into(), |key| key.to_string())
        );
        println!("  prefixes   {}", join(&cluster.prefixes));
        println!("  services   {}", join(&cluster.service_prefixes));
        println!("  namespaces {}", join(cluster.namespaces.iter().map(|pattern| &pattern.0)));
        println!("  exports    {}", join(&cluster.exports));
        println!("  attributes {}", join(cluster.attributes.iter().map(|(key, value)| format!("{key}={value}"))));
        let from = cluster.not_before.map_or("always".into(), |time| time.to_string());
        println!(
            "  valid      from {from} to {}, epoch {}",
            cluster.not_after.map_or("ever".into(), |time| time.to_string()),
            cluster.epoch
        );
    }
    println!("\npolicies   {}", join(fleet::read_policies(directory)?.into_iter().map(|(name, _)| name)));
    Ok(())
}

const TEMPLATE: &str = "\
# What the fleet's root grants to each cluster. Absent means not granted.
# `meshctl fleet grant` signs it; agents believe the signature, not this file.
name: NAME
clusters: {}
#  east:
#    key: …                               # the line that `meshctl fleet keygen` printed in that cluster
#    prefixes: [10.1.0.0/16]              # its workloads' addresses
#    service_prefixes: [100.80.0.0/20]    # from which its clusterset addresses are taken
#    namespaces: [shop, team-*]           # the namespaces that it may speak for
#    exports: [shop/*]                    # the services that it may publish to the fleet
#    attributes: {region: eu}             # labels cluster-mesh.io/region: eu on everything in it
";
