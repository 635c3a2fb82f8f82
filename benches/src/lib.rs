//! Criterion benchmarks of the Landbridge crates.
