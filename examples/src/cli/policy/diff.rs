//! `meshctl policy diff`: which connections change their verdict between two directories.

use std::path::PathBuf;

use clap::Args;
use mesh_policy::PolicySet;
use mesh_policy::diff::{self, Options};

use super::super::check::load;
use super::{PageOutput, print};

pub(super) const HELP: &str = "\
Every connection that A allows and B denies, or the other way round: exact for every pair of ends, protocol and port, not sampled.
Pods and nodes are the same when their names are, whatever their addresses. Who is there in one directory only is listed as added
or removed, and is in no group. A group says what decides before and after; of a denied connection, on the side that denies.

  meshctl policy diff main/ branch/
  meshctl policy diff main/ branch/ --reasons --output json

Exit status, as of diff(1): 0 no verdict changes, 1 some do, 2 not compared (the manifests cannot be used).";

/// Two directories to compare.
#[derive(Args, Clone, Debug)]
pub struct DiffArgs {
    /// The fleet's directory before: clusters/CLUSTER/*.yaml, and optionally fleet/*.yaml, fleet.yaml and mesh.yaml
    #[arg(value_name = "A")]
    before: PathBuf,
    /// The fleet's directory after
    #[arg(value_name = "B")]
    after: PathBuf,
    /// Also connections whose verdict stays and for which another rule or default decides; they do not count for the exit status
    #[arg(long)]
    reasons: bool,
    /// A page for people, or one JSON document
    #[arg(long, value_enum, default_value = "text")]
    output: PageOutput,
}

pub(super) fn run(args: &DiffArgs) -> u8 {
    let (before, after) = match (load(&args.before), load(&args.after)) {
        (Ok(before), Ok(after)) => (before, after),
        (before, after) => {
            let directories = [(&args.before, before.err()), (&args.after, after.err())];
            for (directory, problems) in directories {
                problems.into_iter().flatten().for_each(|problem| eprintln!("error: {}: {problem}", directory.display()));
            }
            eprintln!("nothing is compared");
            return 2;
        }
    };
    for (directory, checked) in [(&args.before, &before), (&args.after, &after)] {
        checked.warnings.iter().for_each(|warning| eprintln!("warning: {}: {warning}", directory.display()));
    }
    let states = [&before.state, &after.state];
    let sets = states.map(PolicySet::compile);
    let diff = diff::diff(states, [&sets[0], &sets[1]], Options { reasons: args.reasons });
    print(&match args.output {
        PageOutput::Text => diff.to_string(),
        PageOutput::Json => serde_json::to_string_pretty(&diff).expect("a difference is JSON") + "\n",
    });
    u8::from(diff.changes_verdicts())
}
