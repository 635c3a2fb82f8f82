//! Arbitrary text as a directory of manifests.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_fuzz::manifests::run(data));
