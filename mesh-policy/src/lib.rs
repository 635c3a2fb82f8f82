//! Identity policy of a Landbridge mesh: NetworkPolicy and ClusterNetworkPolicy to a verdict with its reason.

mod compiler;
mod exports;
pub mod naive;
mod rules;
mod set;

pub use self::compiler::Compiler;
pub use self::set::{End, Flow, NodeHandle, PolicySet, WorkloadHandle, WorkloadInfo};
