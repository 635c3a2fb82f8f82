//! Tests across the crates of a Landbridge mesh; never published.
