//! `meshctl fleet init | join | grant | revoke | rotate | show | verify`.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use mesh_core::{ClusterName, Prefix, PublicKey, SecretKey};
use mesh_source::keyfiles;

use crate::cli::agent::Output;
use crate::config::StoreConfig;
use crate::fleet::{self, SignError, file_error};

mod join;
mod rotate;
mod show;
mod sign;
mod verify;

/// What to do with the fleet.
#[derive(Subcommand, Clone, Debug)]
pub enum FleetCommand {
    /// Begin a fleet: makes the root key, and the directory that goes to git
    #[command(after_help = INIT_HELP)]
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
    /// Ask for a cluster's grant: makes the cluster's key on this machine, and the one file that goes to git
    #[command(after_help = JOIN_HELP)]
    Join(JoinArgs),
    /// Make a cluster's signing key alone, for a fleet.yaml that is written by hand
    Keygen {
        /// Where the key goes, mode 0600: on the machine of the cluster's publisher
        #[arg(value_name = "FILE")]
        out: PathBuf,
    },
    /// Sign what git grants, and the policies of fleet/*.yaml, into stores; what stands is not signed again
    #[command(after_help = GRANT_HELP)]
    Grant(SignArgs),
    /// Put a cluster out of the fleet, now and whatever it does
    #[command(after_help = REVOKE_HELP)]
    Revoke {
        /// By whom, and where it goes
        #[command(flatten)]
        sign: SignArgs,
        /// The cluster
        #[arg(value_name = "CLUSTER")]
        cluster: ClusterName,
        /// The first epoch that counts again [default: one above every grant that is known]
        #[arg(long, value_name = "N")]
        epoch: Option<u64>,
    },
    /// Sign everything anew, or replace a cluster's key without a gap
    #[command(after_help = ROTATE_HELP)]
    Rotate(RotateArgs),
    /// Show the root's public key, what each cluster is granted, and what is in force
    #[command(after_help = SHOW_HELP)]
    Show(ShowArgs),
    /// Check everything that is signed, as every agent does, and what lies in git
    #[command(after_help = VERIFY_HELP)]
    Verify(VerifyArgs),
}

/// What a cluster asks for.
#[derive(Args, Clone, Debug)]
pub struct JoinArgs {
    /// The fleet's directory (a clone of its git), or a file NAME.yaml to send to whoever has it
    #[arg(value_name = "DIR|FILE")]
    pub out: PathBuf,
    /// The cluster's name
    #[arg(long, value_name = "NAME")]
    pub cluster: ClusterName,
    /// The cluster's secret key, made where there is none [default: /etc/landbridge/NAME.key]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// A prefix of its workloads' addresses; repeat for more
    #[arg(long, required = true)]
    pub prefix: Vec<Prefix>,
    /// A range from which its clusterset addresses are taken
    #[arg(long)]
    pub service_prefix: Vec<Prefix>,
    /// A namespace that it may speak for, or a beginning (team-*)
    #[arg(long)]
    pub namespace: Vec<String>,
    /// A service that it may publish to the fleet (shop/db, shop/*)
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub export: Vec<String>,
    /// An attribute: the label cluster-mesh.io/KEY on everything in it
    #[arg(long, value_name = "KEY=VALUE")]
    pub attribute: Vec<String>,
    /// When the grant shall end (2030-01-01T00:00:00Z)
    #[arg(long, value_name = "TIME")]
    pub not_after: Option<String>,
}

/// What is signed, by whom, and where it goes.
#[derive(Args, Clone, Debug)]
pub struct SignArgs {
    /// The fleet's directory
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// The root key [default: DIR/root.key]
    #[arg(long, value_name = "FILE")]
    pub root_key: Option<PathBuf>,
    /// The store of a cluster, a directory or a FILE.yaml that says `etcd: …`; repeat for several [default: DIR/signed, for
    /// copying by other means]
    #[arg(long, value_name = "STORE", value_parser = StoreConfig::named)]
    pub store: Vec<StoreConfig>,
}

impl SignArgs {
    /// Returns the stores that are meant.
    pub fn stores(&self) -> Vec<StoreConfig> {
        if self.store.is_empty() { vec![fleet::default_store(&self.directory)] } else { self.store.clone() }
    }

    /// Reads the root key, which must be the one that the fleet's directory names.
    pub fn root(&self) -> Result<SecretKey, SignError> {
        let path = self.root_key.clone().unwrap_or_else(|| self.directory.join("root.key"));
        let root = keyfiles::read_signing_key(&path)?;
        match fleet::read_fleet(&self.directory).ok().and_then(|fleet| fleet.root) {
            Some(named) if named != root.public() => Err(SignError::Refused(format!(
                "{}: this is the key of root {}, and {} says that the fleet's root is {named}: give the right --root-key",
                path.display(),
                root.public(),
                self.directory.join("fleet.yaml").display()
            ))),
            _ => Ok(root),
        }
    }
}

/// What is replaced.
#[derive(Args, Clone, Debug)]
pub struct RotateArgs {
    /// By whom, and where it goes
    #[command(flatten)]
    pub sign: SignArgs,
    /// Sign every grant and the policies anew, with a new beginning and a higher serial
    #[arg(long, conflicts_with_all = ["cluster", "next", "promote"])]
    pub serials: bool,
    /// The cluster whose key is replaced
    #[arg(long, value_name = "NAME", required_unless_present = "serials")]
    pub cluster: Option<ClusterName>,
    /// Its key file [default: /etc/landbridge/NAME.key]
    #[arg(long, value_name = "FILE")]
    pub key: Option<PathBuf>,
    /// First step, on the cluster's machine: make FILE.next, and name its public half in clusters/NAME.yaml
    #[arg(long, conflicts_with = "promote", required_unless_present_any = ["promote", "serials"])]
    pub next: bool,
    /// Second step, once the publisher signs with it: FILE.next becomes FILE, here and in clusters/NAME.yaml
    #[arg(long)]
    pub promote: bool,
}

/// What is shown.
#[derive(Args, Clone, Debug)]
pub struct ShowArgs {
    /// The fleet's directory
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Also what is signed and live in this store; repeat for several
    #[arg(long, value_name = "STORE", value_parser = StoreConfig::named)]
    pub store: Vec<StoreConfig>,
    /// Text for people, or JSON for programs
    #[arg(long, value_enum, default_value = "text")]
    pub output: Output,
}

/// What is checked.
#[derive(Args, Clone, Debug)]
pub struct VerifyArgs {
    /// The fleet's directory, or a store
    #[arg(value_name = "DIR|STORE")]
    pub path: PathBuf,
    /// The root's public key [default: what fleet.yaml names]
    #[arg(long, value_name = "KEY")]
    pub root: Option<String>,
    /// A store to check with a fleet's directory; repeat for several [default: DIR/signed]
    #[arg(long, value_name = "STORE", value_parser = StoreConfig::named)]
    pub store: Vec<StoreConfig>,
    /// Text for people, or JSON for programs
    #[arg(long, value_enum, default_value = "text")]
    pub output: Output,
}

/// Does it and prints what was done; returns whether all is well.
pub fn run(command: &FleetCommand) -> Result<bool, SignError> {
    match command {
        FleetCommand::Init { directory, name, root_key } => init(directory, name, root_key.as_deref())?,
        FleetCommand::Join(args) => join::join(args)?,
        FleetCommand::Keygen { out } => {
            let key = keyfiles::create_signing_key(out)?;
            println!("wrote {} (secret, mode 0600)", out.display());
            println!("in fleet.yaml, below the cluster:\n    key: {}", key.public());
        }
        FleetCommand::Grant(args) => sign::grant(args, false)?,
        FleetCommand::Revoke { sign, cluster, epoch } => sign::revoke(sign, cluster, *epoch)?,
        FleetCommand::Rotate(args) => rotate::rotate(args)?,
        FleetCommand::Show(args) => show::show(args)?,
        FleetCommand::Verify(args) => return verify::verify(args),
    }
    Ok(true)
}

/// Returns a cluster's key file where none is named.
fn cluster_key(key: Option<&Path>, cluster: &ClusterName) -> PathBuf {
    key.map_or_else(|| Path::new("/etc/landbridge").join(format!("{cluster}.key")), Path::to_owned)
}

fn public_key(text: &str) -> Result<PublicKey, SignError> {
    PublicKey::try_from(text.to_owned()).map_err(|error| SignError::Refused(format!("--root {text}: {error}")))
}

fn init(directory: &Path, name: &str, root_key: Option<&Path>) -> Result<(), SignError> {
    let file = |path: &Path, text: &str| -> Result<(), SignError> {
        let mut options = fs::OpenOptions::new();
        let mut handle = options.write(true).create_new(true).open(path).map_err(file_error(path))?;
        io::Write::write_all(&mut handle, text.as_bytes()).map_err(file_error(path))
    };
    for part in ["clusters", "fleet"] {
        let path = directory.join(part);
        fs::create_dir_all(&path).map_err(file_error(&path))?;
    }
    let fleet_file = directory.join("fleet.yaml");
    if fleet_file.exists() {
        return Err(SignError::Refused(format!(
            "{}: there is a fleet already: `meshctl fleet show {}` shows it",
            fleet_file.display(),
            directory.display()
        )));
    }
    let path = root_key.map_or_else(|| directory.join("root.key"), Path::to_owned);
    let key = keyfiles::create_signing_key(&path)?;
    file(&fleet_file, &TEMPLATE.replace("NAME", name).replace("ROOT", &key.public().to_string()))?;
    let ignore = directory.join(".gitignore");
    if !ignore.exists() {
        // Whatever secret comes to lie here: it must not reach git.
        file(&ignore, "*.key\n*.key.next\n")?;
    }
    println!("wrote {} (secret, mode 0600: keep it offline)", path.display());
    println!("wrote {}", fleet_file.display());
    println!("root public key, for every agent's fleet.root:\n    {}", key.public());
    println!("next: commit, `meshctl fleet join` in each cluster, `meshctl fleet grant {}`", directory.display());
    Ok(())
}

const INIT_HELP: &str = "\
DIR in git is the fleet: fleet.yaml (name, root's public key), clusters/NAME.yaml (what each cluster is granted), revoked.yaml,
fleet/*.yaml (policies of the whole fleet). The root key signs what is in it. Keep the key offline: --root-key may name a place
outside of DIR, and everything but grant, revoke and rotate --serials works without it.";

const JOIN_HELP: &str = "\
Joining is one command on each side and one file in git, however many clusters there are:
  in the cluster   meshctl fleet join DIR --cluster east --prefix 10.1.0.0/16 --namespace shop --export 'shop/*'
                   makes the key (it never leaves this machine) and DIR/clusters/east.yaml: commit it, open a pull request
  the root's owner reviews and merges it, then: meshctl fleet grant DIR
Running it again changes nothing; to ask for something else, edit clusters/east.yaml.";

const GRANT_HELP: &str = "\
Signs what clusters/*.yaml and fleet.yaml grant, what revoked.yaml revokes, and the policies of fleet/*.yaml, and puts it into
every store. What says the same as before keeps its signature, so a second run changes no file. A store is a directory, or an etcd:
  --store etcd.yaml   a file like `store` in an agent's configuration: etcd: {endpoints, prefix, ca, certificate, key}";

const REVOKE_HELP: &str = "\
Signs that every grant of the cluster below an epoch is void, puts that into every store, and notes it in DIR/revoked.yaml for git.
Agents that hear of it drop what the cluster says and end its connections, within seconds. It needs no manifest to be in order.
To let the cluster back in: set `epoch: N` in clusters/NAME.yaml (with a new key, if the old one was stolen), and run grant.";

const ROTATE_HELP: &str = "\
A cluster's key, without a gap:
  in the cluster   meshctl fleet rotate DIR --cluster east --next      makes the next key; commit clusters/east.yaml
  the root         meshctl fleet grant DIR                             agents accept both keys, the publisher signs with the next
  in the cluster   meshctl fleet rotate DIR --cluster east --promote   once `show` with every --store says that it signs with the next key
  the root         meshctl fleet grant DIR                             the old key is worth nothing from now on
Everything the root signs, anew (after a store or DIR/signed was lost): meshctl fleet rotate DIR --serials";

const SHOW_HELP: &str = "\
Without --store: what git says. With it: which grants are in force and for how long, leases, which clusters have the fleet's
policies in force on all their nodes, and who is quarantined, as an agent that reads this store sees it.";

const VERIFY_HELP: &str = "\
Opens every record with the root's public key and gives it to the same code that agents have; each refusal is told with its
path, its reason and a way out. Of a fleet's directory it also checks that everything in git is signed, and that no secret key
lies where git could take it. Exit status: 0 nothing is wrong (warnings may be told), 1 something is, or it cannot be read.";

const TEMPLATE: &str = "\
# A fleet: its name, and the public key of the root that signs for it.
# What each cluster is granted is in clusters/CLUSTER.yaml, which `meshctl fleet join` writes; absent means not granted.
# `meshctl fleet grant` signs it; agents believe the signature, not these files.
name: NAME
root: ROOT
";
