//! Statements of the root, step by step.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_fuzz::grants::run(data));
