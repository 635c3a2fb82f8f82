//! `meshctl`: the command line of a Landbridge mesh.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use landbridge::cli::agent::{self, Target};
use landbridge::cli::check::{self, CheckArgs};
use landbridge::cli::dns::{self, QueryArgs};
use landbridge::cli::fleet::{self, FleetCommand};
use landbridge::cli::policy::{self, PolicyCommand};
use landbridge::client::ClientError;
use landbridge::lab::command::{self as lab, LabCommand};
use mesh_core::ServiceId;

/// Looks into a Landbridge mesh, checks policy and names offline, signs grants, and builds a fleet on one machine to try it.
#[derive(Parser)]
#[command(name = "meshctl", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show how this node's agent is: health, clusters, drops
    Status(Target),
    /// Show the other nodes: endpoints, handshakes, prefixes
    Peers(Target),
    /// Show what the agent believes, and what it refuses and why
    State(Target),
    /// Show flows with both identities and the rule that decided
    Flows {
        /// Go on with flows as they come
        #[arg(long, short)]
        follow: bool,
        /// How many of the latest
        #[arg(long, default_value_t = 100, value_name = "N")]
        limit: usize,
        #[command(flatten)]
        target: Target,
    },
    /// Show who takes the connections to a service, and why
    #[command(subcommand)]
    Service(ServiceCommand),
    /// Print the agent's metrics (OpenMetrics)
    Metrics(Target),
    /// Ask what policy decides and why, and look for mistakes in it, without a network
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Ask what the agent's DNS answers, or what it would by manifests
    #[command(subcommand)]
    Dns(DnsCommand),
    /// A fleet in git: begin it, join, grant, revoke, rotate, show, verify
    #[command(subcommand)]
    Fleet(FleetCommand),
    /// Build a real fleet in network namespaces on this machine
    #[command(subcommand)]
    Lab(LabCommand),
}

#[derive(Subcommand)]
enum ServiceCommand {
    /// Show the groups, the backends and their health, as this node sees them
    Show {
        /// The service
        #[arg(value_name = "NAMESPACE/NAME")]
        service: ServiceId,
        #[command(flatten)]
        target: Target,
    },
}

#[derive(Subcommand)]
enum DnsCommand {
    /// Answer a query as the running agent does: by its zones, its cache, its upstreams
    #[command(after_help = dns::QUERY_HELP)]
    Query(QueryArgs),
    /// Answer queries by the manifests of a directory, without a network
    #[command(after_help = DNS_HELP)]
    Check(CheckArgs),
}

const DNS_HELP: &str = r#"A query, one JSON object a line:
  {"id": 1, "cluster": "east", "name": "web.prod.svc.clusterset.local", "type": "A"}

Exit status: 0 answered, 1 a query made no sense, 2 the manifests cannot be used."#;

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Status(target) => ask(async { agent::status(&target).await }),
        Command::Peers(target) => ask(async { agent::peers(&target).await.map(|()| true) }),
        Command::State(target) => ask(async { agent::state(&target).await.map(|()| true) }),
        Command::Flows { follow, limit, target } => ask(async { agent::flows(&target, follow, limit).await.map(|()| true) }),
        Command::Service(ServiceCommand::Show { service, target }) => {
            ask(async { agent::service(&target, &service).await.map(|()| true) })
        }
        Command::Metrics(target) => ask(async { agent::metrics(&target).await.map(|()| true) }),
        Command::Policy(command) => ExitCode::from(policy::run(&command)),
        Command::Dns(DnsCommand::Query(args)) => ask(async { dns::query(&args).await }),
        Command::Dns(DnsCommand::Check(args)) => ExitCode::from(check::dns(&args)),
        Command::Fleet(command) => match fleet::run(&command) {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                eprintln!("error: {error}");
                ExitCode::FAILURE
            }
        },
        Command::Lab(command) => lab::run(&command),
    }
}

fn ask(question: impl Future<Output = Result<bool, ClientError>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    match runtime
        .map_err(|error| error.to_string())
        .and_then(|runtime| runtime.block_on(question).map_err(|error| error.to_string()))
    {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
