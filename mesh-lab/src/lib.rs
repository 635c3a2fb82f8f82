//! A fleet of Kubernetes clusters in network namespaces on one machine, with real packets, real processes and real DNS
//! resolution, for the command line and the tests of a Landbridge mesh.
//!
//! ```text
//!   workload            node               underlay              node            workload
//! ┌───────────┐   ┌──────────────┐   ┌──────────────────┐   ┌──────────────┐   ┌───────────┐
//! │ web       │   │ east/n1      │   │ routes pod CIDRs │   │ west/n1      │   │ db        │
//! │ eth0 ─────┼───┼ lb1a2b3c4d   │   │ in plaintext, as │   │   lb5e6f7a8b ┼───┼───── eth0 │
//! │ 10.1.0.5  │   │        eth0 ─┼───┼ u0            u1 ┼───┼ eth0         │   │  10.2.0.9 │
//! │ resolv.conf──>│ lo: DNS      │   │     Capture      │   │ (agent)      │   │           │
//! └───────────┘   └──────────────┘   └──────────────────┘   └──────────────┘   └───────────┘
//! ```
//!
//! The crate knows nothing of meshes: a [`Topology`] goes in, namespaces and processes come out. Without agents in the
//! nodes the workloads reach each other in plaintext through the underlay. That is on purpose: a [`Capture`] that can
//! see plaintext when there is some proves something when it sees none.
//!
//! ```no_run
//! use std::time::Duration;
//! use mesh_lab::{Capture, Lab, LabOptions, NodeSpec, Topology, WorkloadSpec, probe, serve::HttpServer};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut topology = Topology::new("demo");
//! for (cluster, index) in [("east", 1), ("west", 2)] {
//!     topology.nodes.push(NodeSpec {
//!         cluster: cluster.into(),
//!         node: "n1".into(),
//!         underlay: vec![format!("198.51.100.{index}").parse()?],
//!         pod_cidrs: vec![format!("10.{index}.0.0/16").parse()?],
//!     });
//!     topology.workloads.push(WorkloadSpec {
//!         cluster: cluster.into(),
//!         namespace: "shop".into(),
//!         pod: "web".into(),
//!         node: "n1".into(),
//!         addresses: vec![format!("10.{index}.0.5").parse()?],
//!     });
//! }
//! let lab = Lab::up(&topology, LabOptions::default())?; // dropping it takes it down
//! let capture = Capture::start(&lab.underlay()?)?;
//! let _server = lab.workload("west", "shop", "web")?.run(|| HttpServer::start(80, "west"))??;
//! let client = lab.workload("east", "shop", "web")?;
//! let result = client.run(|| probe::fetch("http://10.2.0.5/", Duration::from_secs(5)))?;
//! assert_eq!(result.field("server").as_deref(), Some("west"));
//! assert!(!capture.stop()?.is_clean()); // no agents: plaintext
//! # Ok(())
//! # }
//! ```
//!
//! **What belongs to a lab, and how a later process knows.** Each namespace bears a mark (the alias of its loopback)
//! with the lab's name and the directory of its records, set before the namespace has a name. Processes are recorded
//! with number, start time and boot. So [`Lab::clean`] and the next [`Lab::up`] of the name find all that a killed
//! process left, and touch nothing else. Interfaces exist inside the lab's namespaces only, and addresses too: labs
//! disturb neither each other nor the host.
//!
//! **Threads.** A network namespace belongs to a thread. [`Netns::run`] uses a fresh one each time, and children are
//! spawned by one thread that lives as long as the [`Lab`], so that they die with it even when it is killed.

#![cfg(target_os = "linux")]

mod capture;
mod lab;
mod netlink;
mod netns;
mod privileges;
pub mod probe;
mod process;
pub mod serve;
mod sys;
mod topology;
pub mod transfer;
mod wiring;

pub use capture::{Capture, CaptureError, CaptureFilter, CaptureOptions, CaptureReport, WireGuardCounts};
pub use lab::{DownError, DownReport, Lab, LabOptions, OpenError, SpawnError, Stranger, UpError, WorkloadError, labs};
pub use netlink::NetlinkError;
pub use netns::{NETNS_DIR, Netns, NetnsError};
pub use privileges::{MissingPrivilege, Privilege};
pub use process::{Process, ProcessId, ProcessRecord, describe_exit};
pub use topology::{DEFAULT_DNS_V4, DEFAULT_DNS_V6, DEFAULT_MTU, NodeSpec, Topology, TopologyError, WorkloadSpec};
