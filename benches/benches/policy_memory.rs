//! What a compiled policy weighs: 1,000,000 workloads, 100,000 identities, 1,000 policies of 10 rules.
//!
//! Bytes are those that were asked for and not given back, by difference: the compiled set with the compiler that keeps it in
//! step, without the state that they are compiled from. The peak is the highest point while compiling, also by difference.
//! `resident` is what the kernel says of the process, with all that the allocator keeps in hand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use mesh_benches::allocations::{LiveBytes, resident};
use mesh_benches::fleet::{Fleet, Size};
use mesh_core::{Change, State};
use mesh_policy::Compiler;

#[global_allocator]
static ALLOCATOR: LiveBytes = LiveBytes;

fn main() {
    if !mesh_benches::is_wanted("policy_memory") {
        return;
    }
    let size = Size { workloads: 1_000_000, identities: 100_000, policies: 1000, rules_per_policy: 10 }.to_measure();
    let start = Instant::now();
    let state = Fleet::new(size).state();
    report(size, &state, start.elapsed());
}

fn report(size: Size, state: &State, set_up: Duration) {
    let (before, resident_before) = (LiveBytes::now(), resident());
    LiveBytes::reset_peak();
    let start = Instant::now();
    let mut compiler = Compiler::new();
    let set = Arc::clone(compiler.update(state, &Change::default()));
    let elapsed = start.elapsed();
    let (peak, live, resident) = (LiveBytes::peak() - before, LiveBytes::now() - before, resident() - resident_before);
    // The set without the compiler's own tables.
    drop(compiler);
    let set_alone = LiveBytes::now() - before;
    drop(set);
    let per = |bytes: usize| bytes as f64 / f64::from(size.workloads);
    let Size { workloads, identities, policies, rules_per_policy } = size;
    println!("{workloads} workloads, {identities} identities, {policies} policies of {rules_per_policy} rules");
    println!("state            {:>8.1} bytes per workload, told in {set_up:.1?}", per(before));
    println!("set              {:>8.1} bytes per workload", per(set_alone));
    println!("set and compiler {:>8.1} bytes per workload", per(live));
    println!("peak             {:>8.1} bytes per workload, while compiling for {elapsed:.1?}", per(peak));
    println!("resident         {:>8.1} bytes per workload more than before, after compiling", per(resident));
    println!(
        r#"{{"workloads":{workloads},"identities":{identities},"policies":{policies},"rules_per_policy":{rules_per_policy},"state_bytes":{before},"set_bytes":{set_alone},"set_and_compiler_bytes":{live},"peak_bytes":{peak},"resident_bytes":{resident},"set_up_ms":{},"compile_ms":{},"set_bytes_per_workload":{:.1},"set_and_compiler_bytes_per_workload":{:.1},"peak_bytes_per_workload":{:.1}}}"#,
        set_up.as_millis(),
        elapsed.as_millis(),
        per(set_alone),
        per(live),
        per(peak),
    );
}
