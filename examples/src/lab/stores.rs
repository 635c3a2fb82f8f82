//! The stores of a lab: directories, or one etcd for each cluster on its first node, over TLS with client certificates.

use std::io;
use std::net::IpAddr;
use std::path::Path;
use std::process::Command;

use mesh_core::{ClusterName, NodeId, State};
use mesh_lab::CaptureFilter;
use mesh_source::{DirectoryStore, Store, StoreError};

use super::files::Files;
use super::fleet::FleetOptions;
use super::nodes::Underlay;
use crate::config::{AgentConfig, EtcdConfig, StoreConfig, StoreConfigError};

/// Where the agents of a lab find the first member of an etcd, and the first member finds the others; the next has the next two.
const CLIENT_PORT: u16 = 2379;
const PEER_PORT: u16 = 2380;

/// What the stores of a lab are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LabStore {
    /// A directory for each cluster.
    #[default]
    Directory,
    /// An etcd for each cluster.
    Etcd,
}

/// Why the root's records are not in a store.
#[derive(Debug, thiserror::Error)]
pub enum SeedError {
    /// The configuration does not say where the store is.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] StoreConfigError),
    /// A record cannot be read or put.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There is no runtime for it.
    #[error("runtime: {0}")]
    Runtime(#[from] io::Error),
}

/// Returns the first node of a cluster, where its etcd runs, and that node's address on the underlay.
pub(super) fn place(state: &State, cluster: &ClusterName, underlay: Underlay) -> Option<(NodeId, IpAddr)> {
    let node = state.facts().nodes.values().find(|node| node.id.cluster == *cluster)?;
    let mut addresses = node.addresses.clone();
    addresses.sort_by_key(|address| address.is_ipv4() != (underlay == Underlay::V4));
    Some((node.id.clone(), *addresses.first()?))
}

/// Returns how agents reach the store of a cluster.
pub(super) fn config(options: &FleetOptions, files: &Files, at: Option<IpAddr>, cluster: &ClusterName) -> StoreConfig {
    match (options.store, at) {
        (LabStore::Etcd, Some(address)) => StoreConfig::Etcd(EtcdConfig {
            endpoints: (0..options.etcd_members).map(|member| url(address, CLIENT_PORT + 2 * member)).collect(),
            prefix: "/landbridge".into(),
            ca: Some(files.etcd().join("ca.pem")),
            certificate: Some(files.etcd().join("client.pem")),
            key: Some(files.etcd().join("client.key")),
        }),
        _ => StoreConfig::Directory(files.store(cluster)),
    }
}

/// One member of the etcd of a cluster.
pub(super) struct Member<'a> {
    pub(super) cluster: &'a ClusterName,
    /// The address of the node that all members run on.
    pub(super) address: IpAddr,
    pub(super) number: u16,
    /// How many there are.
    pub(super) of: u16,
}

/// Returns the command that runs a member, for the first time or again.
pub(super) fn etcd(files: &Files, member: &Member<'_>) -> Command {
    let Member { cluster, address, number, of } = *member;
    let peer = |number: u16| url(address, PEER_PORT + 2 * number);
    let client = url(address, CLIENT_PORT + 2 * number);
    let all: Vec<_> = (0..of).map(|number| format!("lab-{number}={}", peer(number))).collect();
    let at = |file: &str| files.etcd().join(file);
    let mut command = Command::new("etcd");
    command.args(["--name", &format!("lab-{number}"), "--data-dir"]).arg(at(&format!("{cluster}-{number}.data")));
    command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
    command.args(["--listen-peer-urls", &peer(number), "--initial-advertise-peer-urls", &peer(number)]);
    command.args(["--initial-cluster", &all.join(","), "--logger", "zap", "--client-cert-auth", "--peer-client-cert-auth"]);
    for (prefix, name) in [("", cluster.as_str()), ("peer-", cluster.as_str())] {
        command.arg(format!("--{prefix}cert-file")).arg(at(&format!("server-{name}.pem")));
        command.arg(format!("--{prefix}key-file")).arg(at(&format!("server-{name}.key")));
        command.arg(format!("--{prefix}trusted-ca-file")).arg(at("ca.pem"));
    }
    command
}

/// Returns what is expected on the underlay beside WireGuard.
pub(super) fn expected(store: LabStore) -> Option<CaptureFilter> {
    (store == LabStore::Etcd).then(|| CaptureFilter::default().port(CLIENT_PORT).protocol(6))
}

/// Puts the records of the directory `from` into the store of an agent: what a lab's root has signed before its etcds ran.
pub fn seed(config: &Path, from: &Path) -> Result<usize, SeedError> {
    let config = AgentConfig::load(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let (from, to) = (DirectoryStore::new(from), config.store.open("store")?);
        let mut count = 0;
        for path in from.list().await? {
            if let Some(bytes) = from.get(&path).await? {
                to.put(&path, bytes, None).await?;
                count += 1;
            }
        }
        Ok(count)
    })
}

fn url(address: IpAddr, port: u16) -> String {
    format!("https://{}", std::net::SocketAddr::new(address, port))
}

/// Makes an authority, a certificate for each etcd and one for their clients: a lab's keys are throw-aways.
#[cfg(feature = "etcd")]
pub(super) fn certificates(directory: &Path, servers: &[(ClusterName, IpAddr)]) -> io::Result<()> {
    use std::fs;

    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};

    fs::create_dir_all(directory)?;
    let failed = io::Error::other::<rcgen::Error>;
    let mut params = CertificateParams::new(Vec::new()).map_err(failed)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().map_err(failed)?).map_err(failed)?;
    fs::write(directory.join("ca.pem"), ca.pem())?;
    let servers = servers.iter().map(|(cluster, address)| (format!("server-{cluster}"), vec![address.to_string()]));
    for (name, addresses) in servers.chain([("client".to_owned(), Vec::new())]) {
        let mut params = CertificateParams::new(addresses).map_err(failed)?;
        // etcd calls itself with its own certificate.
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &ca).map_err(failed)?;
        fs::write(directory.join(format!("{name}.pem")), certificate.pem())?;
        write_key(&directory.join(format!("{name}.key")), &key.serialize_pem())?;
    }
    Ok(())
}

/// Says what is missing: a program without the feature has no etcd.
#[cfg(not(feature = "etcd"))]
pub(super) fn certificates(_: &Path, _: &[(ClusterName, IpAddr)]) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "this program was built without the feature `etcd`"))
}

#[cfg(feature = "etcd")]
fn write_key(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;

    std::fs::File::options().write(true).create_new(true).mode(0o600).open(path)?.write_all(text.as_bytes())
}
