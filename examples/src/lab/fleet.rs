//! A running fleet in a lab: what the demo and the tests drive.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use mesh_core::{ClusterName, FlowRecord, NodeId, SecretKey, State, Trust, WorkloadId};
use mesh_lab::{
    Capture, CaptureError, CaptureOptions, DownError, DownReport, Lab, LabOptions, NetnsError, OpenError, Process, SpawnError,
    UpError, WorkloadError,
};

use mesh_lab::probe::ProbeResult;
use mesh_source::keyfiles;

use super::files::{Files, copy_tree, write_atomic};
use super::nodes::{self, Common, Underlay};
use super::stores::{self, LabStore};
use super::{Cancel, Cancelled};
use crate::api::Peer;
use crate::cli::check;
use crate::client::{Client, ClientError};
use crate::config::{InterestConfig, StoreConfig};
use crate::fleet::{SignError, sign_fleet};

mod etcd;

/// How long all agents together may take until they are ready.
const READY: Duration = Duration::from_secs(60);

/// Why a lab's fleet does not do as it is told.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "each variant is the step of its name, with its source")]
pub enum FleetError {
    #[error("the fleet's directory has {} mistake(s):\n  {}", .0.len(), .0.join("\n  "))]
    Manifests(Vec<String>),
    #[error("{}: there is no fleet.yaml in it; a lab needs one, because its grants say which prefixes are whose", .0.display())]
    NoFleet(PathBuf),
    #[error("{}: {source}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Up(#[from] UpError),
    #[error(transparent)]
    Open(#[from] OpenError),
    #[error(transparent)]
    Down(#[from] DownError),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Spawn(#[from] SpawnError),
    #[error(transparent)]
    Workload(#[from] WorkloadError),
    #[error(transparent)]
    Capture(#[from] CaptureError),
    #[error(transparent)]
    Sign(#[from] SignError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Cancelled(#[from] Cancelled),
    #[error("'{0}' failed in {1}: {2}")]
    Program(String, String, String),
    #[error("the agent of {node} is not ready after {} s: {why}\n{log}", READY.as_secs())]
    NotReady { node: NodeId, why: String, log: String },
    #[error("{0} is no workload of this lab")]
    NoWorkload(WorkloadId),
    #[error("{0} is no node of this lab")]
    NoNode(NodeId),
}

/// How a fleet is set up.
#[derive(Clone, Debug)]
pub struct FleetOptions {
    /// The lab's name.
    pub name: String,
    /// Whether it outlives this process.
    pub keep: bool,
    /// The family of the underlay.
    pub underlay: Underlay,
    /// What the clusters' stores are.
    pub store: LabStore,
    /// How many members each cluster's etcd has, where the stores are etcds: all on the first node.
    pub etcd_members: u16,
    /// Which records of other clusters the agents follow. All of them, where every node shall have a tunnel to every other.
    pub interest: InterestConfig,
    /// The `mesh-agent` program.
    pub agent: PathBuf,
    /// The `meshctl` program, which serves and probes inside workloads.
    pub meshctl: PathBuf,
}

/// A fleet in a lab.
pub struct Fleet {
    lab: Lab,
    files: Files,
    options: FleetOptions,
    state: State,
    agents: BTreeMap<NodeId, Process>,
    /// The members of the clusters' etcds.
    etcds: BTreeMap<(ClusterName, u16), Process>,
    runtime: tokio::runtime::Runtime,
}

impl Fleet {
    /// Builds the namespaces, keys, grants and configurations for the fleet of `directory`. Nothing runs yet.
    pub fn build(directory: &Path, options: FleetOptions) -> Result<Fleet, FleetError> {
        let checked = check::load(directory).map_err(FleetError::Manifests)?;
        if !matches!(checked.state.config().trust, Trust::Declared) {
            return Err(FleetError::NoFleet(directory.into()));
        }
        let topology = nodes::topology(&options.name, &checked.state);
        let dns = topology.dns.clone();
        let lab = Lab::up(&topology, LabOptions { keep: options.keep, ..LabOptions::default() })?;
        let files = Files::new(lab.run_dir());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| FleetError::File { path: "tokio runtime".into(), source })?;
        let (agents, etcds) = (BTreeMap::new(), BTreeMap::new());
        let fleet = Fleet { lab, files, options, state: checked.state, agents, etcds, runtime };
        fleet.write_files(directory, &dns)?;
        Ok(fleet)
    }

    fn write_files(&self, directory: &Path, dns: &[IpAddr]) -> Result<(), FleetError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| FleetError::File { path, source }
        };
        let desired = self.files.desired();
        copy_tree(directory, &desired).map_err(io(&desired))?;
        let root = new_key(&self.files.root_key())?;
        let clusters: Vec<ClusterName> = self.state.facts().grants.keys().cloned().collect();
        let mut keys = BTreeMap::new();
        for cluster in &clusters {
            keys.insert(cluster.clone(), new_key(&self.files.cluster_key(cluster))?.public());
            for path in [self.files.manifests(cluster), self.files.inbox(cluster), self.files.store(cluster)] {
                fs::create_dir_all(&path).map_err(io(&path))?;
            }
        }
        let stores: Vec<_> = clusters.iter().map(|cluster| StoreConfig::Directory(self.files.store(cluster))).collect();
        sign_fleet(&desired, &keys, &root, &stores)?;
        let common = Common { files: &self.files, root: root.public(), dns, options: &self.options };
        for node in self.state.facts().nodes.values() {
            let config = nodes::config(&common, &self.state, node);
            let path = self.files.config(&node.id);
            fs::create_dir_all(self.files.node(&node.id)).map_err(io(&path))?;
            let text = serde_saphyr::to_string(&config).map_err(|error| io(&path)(io::Error::other(error)))?;
            write_atomic(&path, &text).map_err(io(&path))?;
        }
        Ok(())
    }

    /// Returns the fleet of a lab that was kept.
    pub fn find(name: &str, agent: PathBuf, meshctl: PathBuf) -> Result<Fleet, FleetError> {
        let lab = Lab::find(name)?;
        let files = Files::new(lab.run_dir());
        let checked = check::load(&files.desired()).map_err(FleetError::Manifests)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|source| FleetError::File { path: "tokio runtime".into(), source })?;
        let (underlay, store, interest) = (Underlay::V4, LabStore::Directory, InterestConfig::Wide);
        let options = FleetOptions { name: name.into(), keep: true, underlay, store, etcd_members: 1, interest, agent, meshctl };
        let (agents, etcds) = (BTreeMap::new(), BTreeMap::new());
        Ok(Fleet { lab, files, options, state: checked.state, agents, etcds, runtime })
    }

    /// Returns the nodes, in order.
    pub fn nodes(&self) -> Vec<NodeId> {
        nodes::node_ids(&self.state)
    }

    /// Returns the lab underneath.
    pub fn lab(&self) -> &Lab {
        &self.lab
    }

    /// Runs `mesh-agent guard up` (or `down`) on every node.
    pub fn guard(&self, verb: &str) -> Result<(), FleetError> {
        for node in self.nodes() {
            let mut command = self.command_on(&node, &self.options.agent)?;
            command.args(["guard", verb, "--config"]).arg(self.files.config(&node));
            run(command, &format!("mesh-agent guard {verb}"), &node.to_string())?;
        }
        Ok(())
    }

    /// Returns a command on a node: in its network.
    pub fn command_on(&self, node: &NodeId, program: &Path) -> Result<Command, FleetError> {
        let netns = self.lab.node(node.cluster.as_str(), node.name.as_str())?;
        netns.command(program).map_err(|source| FleetError::File { path: program.into(), source })
    }

    /// Starts the agent of every node.
    pub fn start_agents(&mut self) -> Result<(), FleetError> {
        self.nodes().iter().try_for_each(|node| self.start_agent(node))
    }

    /// Starts the agent of one node.
    pub fn start_agent(&mut self, node: &NodeId) -> Result<(), FleetError> {
        let netns = self.lab.node(node.cluster.as_str(), node.name.as_str())?;
        let mut command = Command::new(&self.options.agent);
        command.args(["run", "--config"]).arg(self.files.config(node));
        let process = self.lab.spawn(&netns, command, &format!("agent-{}-{}", node.cluster, node.name))?;
        self.agents.insert(node.clone(), process);
        Ok(())
    }

    /// Returns the agent process of a node, as this handle started it.
    pub fn agent(&self, node: &NodeId) -> Option<&Process> {
        self.agents.get(node)
    }

    /// Starts a server on every TCP container port of every workload.
    pub fn start_servers(&self) -> Result<(), FleetError> {
        self.state.facts().workloads.keys().try_for_each(|id| self.start_servers_of(id))
    }

    fn start_servers_of(&self, id: &WorkloadId) -> Result<(), FleetError> {
        let Some(workload) = self.state.facts().workloads.get(id) else { return Ok(()) };
        let topology = self.lab.topology();
        if topology.workload(id.cluster.as_str(), id.namespace.as_str(), id.name.as_str()).is_none() {
            return Ok(());
        }
        let netns = self.lab.workload(id.cluster.as_str(), id.namespace.as_str(), id.name.as_str())?;
        for port in workload.ports.iter().filter(|port| port.protocol == mesh_core::Protocol::Tcp) {
            let mut command = Command::new(&self.options.meshctl);
            command.args(["lab", "serve", "--name", &id.to_string(), "--port", &port.port.to_string()]);
            self.lab.spawn(&netns, command, &format!("server-{}-{}-{}-{}", id.cluster, id.namespace, id.name, port.port))?;
        }
        Ok(())
    }

    /// Returns a command inside a workload: its network, its name servers.
    pub fn command_in(&self, id: &WorkloadId, program: &Path) -> Result<Command, FleetError> {
        let netns = self.lab.workload(id.cluster.as_str(), id.namespace.as_str(), id.name.as_str())?;
        netns.command(program).map_err(|source| FleetError::File { path: program.into(), source })
    }

    /// Waits until every agent is ready and has a handshake with every peer.
    pub fn wait_ready(&self, cancel: &Cancel) -> Result<(), FleetError> {
        self.nodes().iter().try_for_each(|node| self.wait_node_ready(node, cancel))
    }

    /// Waits until one agent is ready and has a handshake with every peer.
    pub fn wait_node_ready(&self, node: &NodeId, cancel: &Cancel) -> Result<(), FleetError> {
        let deadline = Instant::now() + READY;
        let expected = self.nodes().len() - 1;
        loop {
            let why = match self.status(node) {
                Ok(status) if status.health.ready && status.peers.0 == expected && status.peers.1 == expected => return Ok(()),
                Ok(status) if status.health.ready => format!("handshakes with {} of {expected} peers", status.peers.1),
                Ok(status) => status.health.problems.join("; "),
                Err(error) => error.to_string(),
            };
            let ended = self.agents.get(node).is_some_and(|agent| !agent.is_running());
            if ended || Instant::now() > deadline {
                let log = self.agents.get(node).and_then(|agent| agent.log().ok()).unwrap_or_default();
                let tail: Vec<_> = log.lines().rev().take(20).collect();
                let log = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
                return Err(FleetError::NotReady { node: node.clone(), why, log });
            }
            cancel.pause(Duration::from_millis(30))?;
        }
    }

    /// Asks a node's agent for its status.
    pub fn status(&self, node: &NodeId) -> Result<crate::api::Status, ClientError> {
        self.runtime.block_on(self.client(node).json("/status"))
    }

    /// Asks a node's agent for its peers.
    pub fn peers(&self, node: &NodeId) -> Result<Vec<Peer>, ClientError> {
        self.runtime.block_on(self.client(node).json("/peers"))
    }

    /// Asks a node's agent for any other document of its API.
    pub fn ask<T: serde::de::DeserializeOwned>(&self, node: &NodeId, path: &str) -> Result<T, ClientError> {
        self.runtime.block_on(self.client(node).json(path))
    }

    /// Asks a node's agent for its metrics.
    pub fn metrics(&self, node: &NodeId) -> Result<String, ClientError> {
        self.runtime.block_on(self.client(node).text("/metrics"))
    }

    /// Returns a client of a node's agent.
    pub fn client(&self, node: &NodeId) -> Client {
        Client::new(&self.files.socket(node))
    }

    /// Returns the socket of a node's agent.
    pub fn socket(&self, node: &NodeId) -> PathBuf {
        self.files.socket(node)
    }

    /// Returns the latest flow records of all nodes whose agents answer.
    pub fn flows(&self) -> Result<Vec<FlowRecord>, FleetError> {
        let mut records = Vec::new();
        for node in self.nodes() {
            let read = self.client(&node);
            let lines = read.lines("/flows?limit=10000", |line| {
                records.extend(serde_json::from_str::<FlowRecord>(line));
                true
            });
            match self.runtime.block_on(lines) {
                Err(ClientError::Connect { .. }) | Ok(()) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(records)
    }

    /// Fetches a URL from inside a workload, by its own resolver, as any program there would.
    pub fn probe(&self, from: &WorkloadId, url: &str, timeout: Duration) -> Result<ProbeResult, FleetError> {
        let mut command = self.command_in(from, &self.options.meshctl)?;
        command.args(["lab", "probe", "--timeout-ms", &timeout.as_millis().to_string(), url]);
        let output = run(command, "meshctl lab probe", &from.to_string())?;
        serde_json::from_str(&output)
            .map_err(|error| FleetError::Program("meshctl lab probe".into(), from.to_string(), error.to_string()))
    }

    /// Returns a workload's addresses.
    pub fn addresses(&self, id: &WorkloadId) -> Vec<IpAddr> {
        self.state.facts().workloads.get(id).map(|workload| workload.addresses.clone()).unwrap_or_default()
    }

    /// Returns the directory of a cluster's manifests, which its agents watch.
    pub fn manifests(&self, cluster: &ClusterName) -> PathBuf {
        self.files.manifests(cluster)
    }

    /// Returns a cluster's store of signed records.
    pub fn store(&self, cluster: &ClusterName) -> PathBuf {
        self.files.store(cluster)
    }

    /// Returns the file with the fleet's root key: a lab's fleet is a throw-away.
    pub fn root_key(&self) -> PathBuf {
        self.files.root_key()
    }

    /// Returns the file with a cluster's key.
    pub fn cluster_key(&self, cluster: &ClusterName) -> PathBuf {
        self.files.cluster_key(cluster)
    }

    fn manifest(&self, cluster: &str, file: &str) -> PathBuf {
        self.files.desired().join("clusters").join(cluster).join(file)
    }

    /// Reads a manifest of a cluster.
    pub fn read_manifest(&self, cluster: &str, file: &str) -> Result<String, FleetError> {
        let path = self.manifest(cluster, file);
        fs::read_to_string(&path).map_err(|source| FleetError::File { path, source })
    }

    /// Writes a manifest of a cluster.
    pub fn write_manifest(&self, cluster: &str, file: &str, text: &str) -> Result<(), FleetError> {
        let path = self.manifest(cluster, file);
        write_atomic(&path, text).map_err(|source| FleetError::File { path, source })
    }

    /// Removes a manifest of a cluster.
    pub fn remove_manifest(&self, cluster: &str, file: &str) -> Result<(), FleetError> {
        let path = self.manifest(cluster, file);
        fs::remove_file(&path).map_err(|source| FleetError::File { path, source })
    }

    /// Makes the lab's workloads those of the manifests: removes, adds, starts servers.
    pub fn sync_workloads(&mut self) -> Result<(), FleetError> {
        self.state = check::load(&self.files.desired()).map_err(FleetError::Manifests)?.state;
        let (is, wanted) = (self.lab.topology(), nodes::topology(&self.options.name, &self.state));
        for old in is.workloads.iter().filter(|old| !wanted.workloads.contains(old)) {
            self.lab.remove_workload(&old.cluster, &old.namespace, &old.pod)?;
        }
        for new in wanted.workloads.iter().filter(|new| !is.workloads.contains(new)) {
            self.lab.add_workload(new)?;
            let id = format!("{}/{}/{}", new.cluster, new.namespace, new.pod);
            self.start_servers_of(&id.parse().expect("the topology's names are a state's"))?;
        }
        Ok(())
    }

    /// Begins to look at every packet on the underlay.
    pub fn capture_underlay(&self) -> Result<Capture, FleetError> {
        let options = CaptureOptions { expected: stores::expected(self.options.store), ..CaptureOptions::default() };
        Ok(Capture::start_with(&self.lab.underlay()?, options)?)
    }

    /// Takes everything down.
    pub fn down(self) -> Result<DownReport, FleetError> {
        Ok(self.lab.down()?)
    }
}

fn new_key(path: &Path) -> Result<SecretKey, FleetError> {
    if let Some(directory) = path.parent() {
        fs::create_dir_all(directory).map_err(|source| FleetError::File { path: directory.into(), source })?;
    }
    Ok(keyfiles::create_signing_key(path).map_err(SignError::from)?)
}

/// Runs a program to its end; returns what it printed.
fn run(mut command: Command, what: &str, place: &str) -> Result<String, FleetError> {
    let failed = |why: String| FleetError::Program(what.into(), place.into(), why);
    let output = command.stdin(Stdio::null()).output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        return Err(failed(format!("{}\n{}", output.status, String::from_utf8_lossy(&output.stderr).trim_end())));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
