//! What the fuzz targets do with their bytes: feed them to a reader of foreign text, and hold the result to laws.
//!
//! ```text
//!   bytes ─┬─ manifests: files of a directory ──> parse, Checked::load ──> PolicySet = naive::decide
//!          ├─ selectors: labels, requirements ──> matches = the same in other words; text and back; both evaluators
//!          └─ dns: queries, answers of upstreams ──> replies can be read and fit; in place = codec; memory is bounded
//! ```
//!
//! `./run.sh [seconds] [target…]` builds and runs them.

pub mod dns;
pub mod manifests;
pub mod selectors;
