//! `meshctl policy matrix`: who can reach whom.

use std::path::PathBuf;

use clap::Args;
use mesh_core::{ClusterName, NamespaceName};
use mesh_policy::PolicySet;
use mesh_policy::matrix::{self, By, Group};

use super::super::check::load;
use super::{PageOutput, print};

pub(super) const HELP: &str = "\
A cell has the protocols and ports that both sides allow, for every pair of a source and a destination: exact, not sampled.
  all            every protocol and port
  TCP 80 443     these
  some: TCP 80   these, but not for all pairs
  -              there is no pair, or nobody polices it: nodes and the outside among themselves
Rows are sources. A pod and itself is no pair. Where the table would be too wide, every source has a list instead.
Pods without an identity (not granted) may nothing and are not shown.

  meshctl policy matrix examples/demo
  meshctl policy matrix examples/demo --by identity --cluster west
  meshctl policy matrix examples/demo --namespace shop --output json

Exit status: 0 shown, 2 the manifests cannot be used, or nothing is of that cluster and namespace.";

/// A directory to show.
#[derive(Args, Clone, Debug)]
pub struct MatrixArgs {
    /// The fleet's directory: clusters/CLUSTER/*.yaml, and optionally fleet/*.yaml, fleet.yaml and mesh.yaml
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// What is one row: a namespace of a cluster, or pods that no policy tells apart
    #[arg(long, value_enum, default_value = "namespace")]
    by: Grouping,
    /// Only cells with this cluster's pods on one of their sides
    #[arg(long, value_name = "CLUSTER")]
    cluster: Option<ClusterName>,
    /// Only cells with pods of this namespace on one of their sides
    #[arg(long, value_name = "NAMESPACE")]
    namespace: Option<NamespaceName>,
    /// A page for people, or one JSON document
    #[arg(long, value_enum, default_value = "text")]
    output: PageOutput,
}

/// What is one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Grouping {
    Namespace,
    Identity,
}

pub(super) fn run(args: &MatrixArgs) -> u8 {
    let checked = match load(&args.directory) {
        Ok(checked) => checked,
        Err(problems) => {
            problems.iter().for_each(|problem| eprintln!("error: {problem}"));
            eprintln!("{} error(s): nothing is shown", problems.len());
            return 2;
        }
    };
    checked.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    let by = match args.by {
        Grouping::Namespace => By::Namespace,
        Grouping::Identity => By::Identity,
    };
    let matrix = matrix::matrix(&checked.state, &PolicySet::compile(&checked.state), by);
    let is_filtered = args.cluster.is_some() || args.namespace.is_some();
    let is_meant = |group: &Group| {
        !is_filtered
            || group.members.workloads.iter().any(|id| {
                args.cluster.as_ref().is_none_or(|cluster| *cluster == id.cluster)
                    && args.namespace.as_ref().is_none_or(|namespace| *namespace == id.namespace)
            })
    };
    if is_filtered && !matrix.groups.iter().any(is_meant) {
        eprintln!("error: no pod with an identity is of that cluster and namespace");
        return 2;
    }
    let page = matrix.page(is_meant);
    print(&match args.output {
        PageOutput::Text => page.to_string(),
        PageOutput::Json => serde_json::to_string_pretty(&page).expect("a matrix is JSON") + "\n",
    });
    0
}
