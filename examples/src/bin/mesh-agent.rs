//! `mesh-agent`: the node agent of a Landbridge mesh.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand, ValueEnum};
use landbridge::agent::start;
use landbridge::config::AgentConfig;
use mesh_wireguard::Guard;
use tracing_subscriber::EnvFilter;

/// Joins this node to a Landbridge mesh: encrypted links to every node, policy by identity, native DNS.
#[derive(Parser)]
#[command(name = "mesh-agent", version, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run until SIGTERM or SIGINT. What is established goes on over a restart; the guard stays up after the end
    ///
    /// The configuration's `tunnel` says what carries and polices packets: `user` (this process), `kernel` (WireGuard and
    /// nftables, which go on while no agent runs), or `auto`, the default: the kernel where it has both and the agent follows the
    /// whole fleet (`interest: wide`). `meshctl status` says which it is, and why.
    Run {
        #[command(flatten)]
        config: ConfigArgs,
        /// Only check the configuration and what it names
        #[arg(long)]
        check: bool,
        /// How log lines are written
        #[arg(long, value_enum, default_value = "text")]
        log_format: LogFormat,
        /// What is logged: a level, or per-module directives
        #[arg(long, env = "LANDBRIDGE_LOG", default_value = "info,boringtun=off", value_name = "FILTER")]
        log: String,
    },
    /// The routes that fail closed: they stand before the agent starts and after it ends, until `down`
    Guard {
        /// What to do
        verb: GuardVerb,
        #[command(flatten)]
        config: ConfigArgs,
    },
}

#[derive(Args)]
struct ConfigArgs {
    /// The agent's configuration
    #[arg(long, value_name = "FILE", default_value = "/etc/landbridge/agent.yaml")]
    config: PathBuf,
}

#[derive(Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Clone, Copy, ValueEnum)]
enum GuardVerb {
    /// Install the routes; a second time changes nothing
    Up,
    /// Remove them, and what a kernel tunnel has left: from now on fleet traffic may leave this node unencrypted
    Down,
    /// Say whether they stand
    Status,
}

fn main() -> ExitCode {
    match execute(Arguments::parse().command) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn execute(command: Command) -> Result<ExitCode, Box<dyn std::error::Error>> {
    match command {
        Command::Run { config, check, log_format, log } => {
            let filter = EnvFilter::try_new(&log).map_err(|error| format!("--log {log}: {error}"))?;
            let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
            match log_format {
                LogFormat::Text => builder.with_ansi(false).init(),
                LogFormat::Json => builder.json().init(),
            }
            let config = AgentConfig::load(&config.config)?;
            if check {
                start::check(&config)?;
                println!("{}: fine", config.node);
                return Ok(ExitCode::SUCCESS);
            }
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            runtime.block_on(start::run(config))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Guard { verb, config } => guard(verb, &start::guard(&AgentConfig::load(&config.config)?)),
    }
}

fn guard(verb: GuardVerb, guard: &Guard) -> Result<ExitCode, Box<dyn std::error::Error>> {
    match verb {
        GuardVerb::Up => guard.up().map_err(start::AgentError::from)?,
        GuardVerb::Down => guard.down().map_err(start::AgentError::from)?,
        GuardVerb::Status => {
            let status = guard.status()?;
            let missing: Vec<_> =
                guard.prefixes.difference(&guard.except).filter(|prefix| !status.guarded.contains(prefix)).collect();
            if status.rules && missing.is_empty() {
                println!("up: {} prefix(es) never leave this node unencrypted", status.guarded.len());
                return Ok(ExitCode::SUCCESS);
            }
            println!("NOT up: {}, not guarded: {missing:?}", if status.rules { "rules in place" } else { "no rules" });
            return Ok(ExitCode::FAILURE);
        }
    }
    Ok(ExitCode::SUCCESS)
}
