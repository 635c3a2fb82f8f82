//! Labels and selectors, built from bytes.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_fuzz::selectors::run(data));
