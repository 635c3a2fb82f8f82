//! Identity policy of a Landbridge mesh: NetworkPolicy and ClusterNetworkPolicy to a verdict with its reason.

pub mod check;
mod compile;
mod compiler;
mod exports;
mod fingerprint;
pub mod naive;
mod rows;
mod rules;
mod set;

pub use self::compiler::Compiler;
pub use self::set::{End, Flow, NodeHandle, PolicySet, WorkloadHandle, WorkloadInfo};
