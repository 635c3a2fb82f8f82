//! What the fuzz targets do with their bytes: feed them to a reader of foreign text, and hold the result to laws.
//!
//! ```text
//!   bytes ─┬─ manifests: files of a directory ──> parse, Checked::load ──> PolicySet = naive::decide
//!          ├─ selectors: labels, requirements ──> matches = the same in other words; text and back; both evaluators
//!          ├─ dns: queries, answers of upstreams ──> replies can be read and fit; in place = codec; memory is bounded
//!          ├─ records: signed, resigned, edited ──> State: inside the grants, bounded, the same backwards and after a restart
//!          ├─ grants: the root's statements, fleet.yaml ──> the same
//!          └─ state: state files, edited and sealed ──> restore: inside the grants, or nothing
//! ```
//!
//! `./run.sh [seconds] [target…]` builds and runs them.

pub mod dns;
pub mod grants;
pub mod manifests;
pub mod records;
pub mod selectors;
pub mod state;
pub mod trust;
