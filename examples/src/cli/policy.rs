//! `meshctl policy …`: questions to the production policy engine, without a network.

use clap::Subcommand;

use super::check::{self, CheckArgs};

mod diff;
mod lint;
mod matrix;
mod why;

/// What is asked.
#[derive(Subcommand, Clone, Debug)]
pub enum PolicyCommand {
    /// Decide queries by the manifests of a directory
    #[command(after_help = CHECK_HELP)]
    Check(CheckArgs),
    /// Explain one connection: both sides, the rule that decided, and the nearest that would have decided otherwise
    #[command(after_help = why::HELP)]
    Why(why::WhyArgs),
    /// Show who can reach whom, on which ports: by namespace or by identity
    #[command(after_help = matrix::HELP)]
    Matrix(matrix::MatrixArgs),
    /// Show which connections change their verdict between two directories
    #[command(after_help = diff::HELP)]
    Diff(diff::DiffArgs),
    /// Find policies that do nothing, rules that never decide, and sameness that no grant allows
    #[command(after_help = lint::HELP)]
    Lint(lint::LintArgs),
}

const CHECK_HELP: &str = r#"A query, one JSON object a line (from and to: cluster/namespace/pod, or an address):
  {"id": 1, "from": "east/shop/web-0", "to": "west/shop/db-0", "protocol": "TCP", "port": 5432}

Exit status: 0 answered (a denial is an answer), 1 a query made no sense, 2 the manifests cannot be used."#;

/// Runs a command; returns the exit status.
pub fn run(command: &PolicyCommand) -> u8 {
    match command {
        PolicyCommand::Check(args) => check::policy(args),
        PolicyCommand::Why(args) => why::run(args),
        PolicyCommand::Matrix(args) => matrix::run(args),
        PolicyCommand::Diff(args) => diff::run(args),
        PolicyCommand::Lint(args) => lint::run(args),
    }
}

/// How a page is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PageOutput {
    /// For people.
    Text,
    /// One JSON document.
    Json,
}

/// Writes to standard output; a reader that went away is none of our errors.
fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
}
