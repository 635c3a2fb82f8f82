//! The programs of a Landbridge mesh: the node agent `mesh-agent` and the command line `meshctl`.
//!
//! Both are assembled here from the mesh's crates; what is in this crate is configuration, the local API, the order of
//! starting and stopping, and what people see.

pub mod agent;
pub mod api;
pub mod cli;
pub mod client;
pub mod config;
pub mod fleet;
pub mod lab;
