//! Queries and answers of upstreams, step by step.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| mesh_fuzz::dns::run(data));
