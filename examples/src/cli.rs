//! The commands of `meshctl`, apart from the lab.

pub mod agent;
pub mod check;
pub mod dns;
pub mod fleet;
pub mod policy;
