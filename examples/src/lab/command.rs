//! `meshctl lab`: its commands.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use mesh_core::{NodeId, WorkloadId};
use mesh_lab::{Capture, Lab};

use super::fleet::{Fleet, FleetError, FleetOptions};
use super::nodes::Underlay;
use super::stores::{self, LabStore};
use super::story::{self, StoryError};
use super::{Cancel, shipped};
use crate::config::InterestConfig;

/// What to do with a lab.
#[derive(Subcommand, Clone, Debug)]
pub enum LabCommand {
    /// Show what Landbridge does: two clusters on this machine, a story with a result for each step
    Demo(UpArgs),
    /// Build the fleet of a directory of manifests and leave it running
    Up {
        /// The fleet's directory: clusters/CLUSTER/*.yaml, fleet.yaml, and optionally fleet/*.yaml and mesh.yaml
        #[arg(value_name = "DIR")]
        directory: PathBuf,
        /// The lab's name
        #[arg(long, default_value = "lab")]
        name: String,
        /// What the clusters' stores are; etcd: Debian's etcd-server
        #[arg(long, value_enum, default_value_t)]
        store: LabStore,
    },
    /// Run a command inside a workload or on a node: `meshctl lab exec east/shop/web-0 -- curl db.shop.svc.clusterset.local:5432`
    Exec {
        /// cluster/namespace/pod, or cluster/node
        place: String,
        /// The command; a shell where there is none
        #[arg(last = true)]
        command: Vec<String>,
        /// The lab's name; not needed when there is only one
        #[arg(long)]
        name: Option<String>,
    },
    /// List the labs on this machine
    List,
    /// Make a lab's workloads those of its manifests again, after they were edited
    Apply {
        /// The lab's name; not needed when there is only one
        #[arg(long)]
        name: Option<String>,
    },
    /// Take a lab down, also one that a killed process left behind
    Down {
        /// The lab's name; not needed when there is only one
        #[arg(long)]
        name: Option<String>,
    },
    /// The small server that the lab starts in workloads
    #[command(hide = true)]
    Serve {
        /// What it calls itself
        #[arg(long)]
        name: String,
        /// Its TCP port
        #[arg(long)]
        port: u16,
    },
    /// Puts the records of a directory into the store of an agent
    #[command(hide = true)]
    Seed {
        /// The agent's configuration
        #[arg(long)]
        config: PathBuf,
        /// The directory
        from: PathBuf,
    },
    /// The small client that the lab starts in workloads; prints what it saw as JSON
    #[command(hide = true)]
    Probe {
        /// What to fetch
        url: String,
        /// How long everything together may take
        #[arg(long, default_value_t = 5000)]
        timeout_ms: u64,
    },
}

/// The demo's options.
#[derive(Args, Clone, Debug)]
pub struct UpArgs {
    /// A fleet of your own in the demo's place: it is built and left to you, without the story
    #[arg(long, value_name = "DIR")]
    pub fleet: Option<PathBuf>,
    /// Leave the fleet running, and print how to look around
    #[arg(long)]
    pub keep: bool,
    /// The lab's name
    #[arg(long, default_value = "demo")]
    pub name: String,
    /// Let the nodes speak to each other over IPv6
    #[arg(long)]
    pub ipv6: bool,
    /// What the clusters' stores are; etcd: one for each cluster on its first node, from Debian's etcd-server
    #[arg(long, value_enum, default_value_t)]
    pub store: LabStore,
}

/// Runs a command of the lab.
pub fn run(command: &LabCommand) -> ExitCode {
    match execute(command) {
        Ok(code) => code,
        Err(StoryError::Cancelled(_) | StoryError::Fleet(FleetError::Cancelled(_))) => {
            eprintln!("\ninterrupted: everything was taken down");
            ExitCode::from(130)
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: &LabCommand) -> Result<ExitCode, StoryError> {
    match command {
        LabCommand::Demo(args) => demo(args),
        LabCommand::Up { directory, name, store } => {
            check_privileges()?;
            let cancel = cancel_on_signals();
            let (fleet, _) = bring_up(directory, options(name, true, Underlay::V4, *store)?, &cancel)?;
            print_hints(&fleet);
            Ok(ExitCode::SUCCESS)
        }
        LabCommand::Exec { place, command, name } => exec(place, command, name.as_deref()),
        LabCommand::List => {
            let labs = mesh_lab::labs().map_err(|source| FleetError::File { path: "/run/netns".into(), source })?;
            labs.iter().for_each(|lab| println!("{lab}"));
            Ok(ExitCode::SUCCESS)
        }
        LabCommand::Apply { name } => {
            let mut fleet = find(name.as_deref())?;
            fleet.sync_workloads()?;
            Ok(ExitCode::SUCCESS)
        }
        LabCommand::Down { name } => {
            let report = Lab::clean(&lab_name(name.as_deref())?).map_err(FleetError::from)?;
            println!("ended {} process(es), removed {} namespace(s)", report.processes.len(), report.namespaces.len());
            for stranger in &report.strangers {
                println!("left alone, because the lab did not start it: {stranger:?}");
            }
            Ok(ExitCode::SUCCESS)
        }
        LabCommand::Serve { name, port } => {
            mesh_lab::serve::http(*port, name)
                .map_err(|source| FleetError::File { path: format!("port {port}").into(), source })?;
            Ok(ExitCode::SUCCESS)
        }
        LabCommand::Seed { config, from } => {
            let count = stores::seed(config, from).map_err(|error| StoryError::Manifest(error.to_string()))?;
            println!("{count} record(s)");
            Ok(ExitCode::SUCCESS)
        }
        LabCommand::Probe { url, timeout_ms } => {
            let result = mesh_lab::probe::fetch(url, Duration::from_millis(*timeout_ms));
            println!("{}", serde_json::to_string(&result).expect("a probe's result is JSON"));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn check_privileges() -> Result<(), StoryError> {
    let Err(missing) = Lab::check_privileges() else { return Ok(()) };
    let lines: Vec<_> = missing.iter().map(|missing| format!("  - {missing}")).collect();
    Err(StoryError::Manifest(format!("a lab needs privileges that this process does not have:\n{}", lines.join("\n"))))
}

fn options(name: &str, keep: bool, underlay: Underlay, store: LabStore) -> Result<FleetOptions, FleetError> {
    let meshctl = std::env::current_exe().map_err(|source| FleetError::File { path: "/proc/self/exe".into(), source })?;
    let agent = meshctl.with_file_name("mesh-agent");
    if !agent.exists() {
        let source = io::Error::new(
            io::ErrorKind::NotFound,
            "the lab runs the mesh-agent beside meshctl: `cargo build --bins` makes both",
        );
        return Err(FleetError::File { path: agent, source });
    }
    // Nobody knows what of a directory matters to whom, and a lab is ready when every node has a tunnel to every other.
    let interest = InterestConfig::Wide;
    Ok(FleetOptions { name: name.into(), keep, underlay, store, etcd_members: 1, interest, agent, meshctl })
}

/// Ctrl-C and the other polite signals end the work at its next step, so that everything is taken down.
fn cancel_on_signals() -> Cancel {
    let cancel = Cancel::default();
    let handle = cancel.clone();
    std::thread::spawn(move || {
        let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else { return };
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut interrupt), Ok(mut terminate), Ok(mut hangup)) =
                (signal(SignalKind::interrupt()), signal(SignalKind::terminate()), signal(SignalKind::hangup()))
            else {
                return;
            };
            loop {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hangup.recv() => {}
                }
                handle.cancel();
            }
        });
    });
    cancel
}

/// Builds and starts a fleet, with progress on the terminal; the capture has seen the underlay from before the first packet.
fn bring_up(directory: &Path, options: FleetOptions, cancel: &Cancel) -> Result<(Fleet, Capture), StoryError> {
    let start = Instant::now();
    let bar = ProgressBar::new_spinner()
        .with_style(ProgressStyle::with_template("{spinner} {msg} {elapsed}").expect("a valid template"));
    bar.enable_steady_tick(Duration::from_millis(100));
    let say = |text: &str| bar.set_message(text.to_owned());
    say("network namespaces, keys and grants");
    let mut fleet = Fleet::build(directory, options)?;
    let capture = fleet.capture_underlay()?;
    cancel.check()?;
    say("routes that fail closed (mesh-agent guard up)");
    fleet.guard("up")?;
    cancel.check()?;
    say("stores");
    fleet.start_stores()?;
    cancel.check()?;
    say("agents and servers");
    fleet.start_agents()?;
    fleet.start_servers()?;
    cancel.check()?;
    say("records, tunnels and handshakes");
    fleet.wait_ready(cancel)?;
    bar.finish_and_clear();
    let topology = fleet.lab().topology();
    println!(
        "{} nodes and {} workloads are up after {:.1} s: real namespaces, TUN devices, WireGuard, nftables and DNS on this machine",
        topology.nodes.len(),
        topology.workloads.len(),
        start.elapsed().as_secs_f64()
    );
    Ok((fleet, capture))
}

fn demo(args: &UpArgs) -> Result<ExitCode, StoryError> {
    check_privileges()?;
    let cancel = cancel_on_signals();
    let start = Instant::now();
    println!("Landbridge demo: two clusters, one mesh");
    let shipped = shipped::unpack().map_err(|source| FleetError::File { path: std::env::temp_dir(), source })?;
    let directory = args.fleet.as_deref().unwrap_or(shipped.path());
    let underlay = if args.ipv6 { Underlay::V6 } else { Underlay::V4 };
    let keep = args.keep || args.fleet.is_some();
    let mut options = options(&args.name, keep, underlay, args.store)?;
    if args.fleet.is_none() {
        options.interest = InterestConfig::default();
    }
    let (mut fleet, capture) = bring_up(directory, options, &cancel)?;
    let failures = if args.fleet.is_some() { 0 } else { story::tell(&mut fleet, capture, &cancel)? };
    if keep {
        print_hints(&fleet);
    } else {
        fleet.down()?;
    }
    match failures {
        0 => println!(
            "\nall of it as it should be, after {:.1} s{}",
            start.elapsed().as_secs_f64(),
            if keep { "" } else { "; everything was taken down" }
        ),
        count => println!("\n{count} thing(s) are not as they should be"),
    }
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_hints(fleet: &Fleet) {
    let name = fleet.lab().name();
    let nodes = fleet.nodes();
    println!("\nThe fleet stays up. Look around:");
    if let Some(workload) = fleet.lab().topology().workloads.first() {
        let place = format!("{}/{}/{}", workload.cluster, workload.namespace, workload.pod);
        println!("  meshctl lab exec --name {name} {place} -- bash");
    }
    if let Some(node) = nodes.first() {
        println!("  meshctl status --socket {}", fleet.socket(node).display());
        println!("  meshctl flows --follow --socket {}", fleet.socket(node).display());
        println!(
            "  edit {}/*.yaml, then `meshctl lab apply --name {name}` where workloads changed",
            fleet.manifests(&node.cluster).display()
        );
    }
    println!("  meshctl lab down --name {name}");
}

fn lab_name(name: Option<&str>) -> Result<String, StoryError> {
    if let Some(name) = name {
        return Ok(name.into());
    }
    let mut labs = mesh_lab::labs().map_err(|source| FleetError::File { path: "/run/netns".into(), source })?;
    match (labs.pop(), labs.len()) {
        (Some(only), 0) => Ok(only),
        (None, _) => Err(StoryError::Manifest(
            "there is no lab on this machine: `meshctl lab up DIR` or `meshctl lab demo --keep` makes one".into(),
        )),
        (Some(last), _) => {
            Err(StoryError::Manifest(format!("there are several labs ({}, {last}): say which with --name", labs.join(", "))))
        }
    }
}

fn find(name: Option<&str>) -> Result<Fleet, StoryError> {
    let name = lab_name(name)?;
    let options = options(&name, true, Underlay::V4, LabStore::Directory)?;
    Ok(Fleet::find(&name, options.agent, options.meshctl)?)
}

fn exec(place: &str, command: &[String], name: Option<&str>) -> Result<ExitCode, StoryError> {
    let fleet = find(name)?;
    let shell = std::env::var_os("SHELL").unwrap_or_else(|| "/bin/sh".into());
    let program = command.first().map_or_else(|| PathBuf::from(shell), PathBuf::from);
    let mut process = match (place.parse::<WorkloadId>(), place.parse::<NodeId>()) {
        (Ok(workload), _) => fleet.command_in(&workload, &program)?,
        (_, Ok(node)) => fleet.command_on(&node, &program)?,
        (Err(error), _) => return Err(StoryError::Manifest(format!("{error}, nor of the form cluster/node"))),
    };
    process.args(command.iter().skip(1));
    let status = process.status().map_err(|source| FleetError::File { path: program, source })?;
    Ok(ExitCode::from(u8::try_from(status.code().unwrap_or(1)).unwrap_or(1)))
}
