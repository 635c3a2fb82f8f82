//! `meshctl policy lint`: mistakes in policies that are valid manifests.

use std::path::PathBuf;

use clap::Args;
use mesh_core::manifest::Checked;
use mesh_policy::lint::{self, Finding, Severity};
use serde::Serialize;

use super::super::check::load;
use super::{PageOutput, print};

pub(super) const HELP: &str = "\
error    namespace-not-granted  something is in a namespace that its cluster's grant does not hold
error    cluster-not-granted    a cluster has manifests and no grant
error    not-understood         a rule holds something unknown, so it fails closed
warning  selects-nothing        no pod is the policy's subject
warning  matches-nobody         a peer matches no pod, node or address
warning  peer-not-granted       a peer names a namespace of a cluster whose grant does not hold it
warning  shadowed-rule          rules before it match all that it matches: it can never decide
warning  equal-priorities       two policies of one tier and priority decide a connection differently: the name wins
warning  unknown-port           no pod that the rule is about has a port of that name
hint     redundant-rule         another NetworkPolicy rule allows all that it allows
hint     block-hits-pods        an ipBlock or network holds pods of the fleet
hint     unknown-domain         no address of a domain name is known

Shadowed and redundant rules are so whoever is there; the other findings are about the pods and nodes in the directory.

  meshctl policy lint examples/demo
  meshctl policy lint examples/demo --strict --output json

Exit status: 0 nothing that fails, 1 errors (with --strict: or warnings), 2 the manifests cannot be used. Hints never fail.";

/// A directory to look through.
#[derive(Args, Clone, Debug)]
pub struct LintArgs {
    /// The fleet's directory: clusters/CLUSTER/*.yaml, and optionally fleet/*.yaml, fleet.yaml and mesh.yaml
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Lines for people, or one JSON document
    #[arg(long, value_enum, default_value = "text")]
    output: PageOutput,
    /// Warnings fail too
    #[arg(long)]
    strict: bool,
}

/// The findings, as JSON has them.
#[derive(Serialize)]
struct Document<'a> {
    errors: usize,
    warnings: usize,
    hints: usize,
    findings: &'a [Finding],
}

pub(super) fn run(args: &LintArgs) -> u8 {
    let checked: Checked = match load(&args.directory) {
        Ok(checked) => checked,
        Err(problems) => {
            problems.iter().for_each(|problem| eprintln!("error: {problem}"));
            eprintln!("{} error(s): nothing is looked at", problems.len());
            return 2;
        }
    };
    checked.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    let findings = lint::lint(&checked.state, &checked.locations);
    let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
    let [errors, warnings, hints] = [Severity::Error, Severity::Warning, Severity::Hint].map(count);
    match args.output {
        PageOutput::Json => {
            let document = Document { errors, warnings, hints, findings: &findings };
            print(&(serde_json::to_string_pretty(&document).expect("findings are JSON") + "\n"));
        }
        PageOutput::Text => {
            for finding in &findings {
                print(&format!("{finding}\n\n"));
            }
            let policies = checked.state.facts().network_policies.len() + checked.state.facts().cluster_policies.len();
            print(&format!("{policies} policies: {errors} error(s), {warnings} warning(s), {hints} hint(s)\n"));
        }
    }
    u8::from(errors > 0 || (args.strict && warnings > 0))
}
