//! The etcds of a lab: started, looked at, and started again.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use mesh_core::{ClusterName, NodeId};
use mesh_lab::Process;

use super::{Fleet, FleetError, READY, run};
use crate::lab::stores::{self, LabStore, Member};

impl Fleet {
    /// Starts the clusters' etcds, where the stores are etcds, and puts into them what the root has signed.
    pub fn start_stores(&mut self) -> Result<(), FleetError> {
        if self.options.store != LabStore::Etcd {
            return Ok(());
        }
        let clusters: Vec<ClusterName> = self.state.facts().grants.keys().cloned().collect();
        let places: Vec<_> = clusters.iter().filter_map(|cluster| Some((cluster.clone(), self.place(cluster)?))).collect();
        let servers: Vec<_> = places.iter().map(|(cluster, (_, address))| (cluster.clone(), *address)).collect();
        let directory = self.files.etcd();
        stores::certificates(&directory, &servers).map_err(|source| FleetError::File { path: directory, source })?;
        for (cluster, _) in &places {
            (0..self.options.etcd_members).try_for_each(|member| self.start_etcd(cluster, member))?;
        }
        for (cluster, (node, _)) in &places {
            let deadline = Instant::now() + READY;
            loop {
                let mut seed = self.command_on(node, &self.options.meshctl)?;
                seed.args(["lab", "seed", "--config"]).arg(self.files.config(node)).arg(self.files.store(cluster));
                match run(seed, "meshctl lab seed", &node.to_string()) {
                    Err(_) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(100)),
                    seeded => break seeded.map(drop)?,
                }
            }
        }
        Ok(())
    }

    /// Starts one member of a cluster's etcd, for the first time or again.
    pub fn start_etcd(&mut self, cluster: &ClusterName, member: u16) -> Result<(), FleetError> {
        let Some((node, address)) = self.place(cluster) else { return Ok(()) };
        let netns = self.lab.node(cluster.as_str(), node.name.as_str())?;
        let command = stores::etcd(&self.files, &Member { cluster, address, number: member, of: self.options.etcd_members });
        let process = self.lab.spawn(&netns, command, &format!("etcd-{cluster}-{member}"))?;
        self.etcds.insert((cluster.clone(), member), process);
        Ok(())
    }

    /// Returns a member of a cluster's etcd, as this handle started it last.
    pub fn etcd(&self, cluster: &ClusterName, member: u16) -> Option<&Process> {
        self.etcds.get(&(cluster.clone(), member))
    }

    fn place(&self, cluster: &ClusterName) -> Option<(NodeId, IpAddr)> {
        stores::place(&self.state, cluster, self.options.underlay)
    }
}
