//! What a state keeps of a remote cluster of 100,000 workloads on 2,000 nodes, in bytes for each workload, and how much of it
//! the limits of `mesh_core::state` count.

use mesh_benches::allocations::LiveBytes;
use mesh_benches::records::{Remote, SLICE, tell};

#[global_allocator]
static ALLOCATOR: LiveBytes = LiveBytes;

fn main() {
    if !mesh_benches::is_wanted("record_memory") {
        return;
    }
    let remote = Remote { nodes: if mesh_benches::is_measured() { 2000 } else { 20 } };
    let records = remote.records();
    let mut state = Remote::state();
    let before = LiveBytes::now();
    let signed: usize = records.iter().map(mesh_core::Bytes::len).sum();
    records.iter().for_each(|bytes| tell(&mut state, mesh_core::Bytes::copy_from_slice(bytes)));
    let kept = LiveBytes::now() - before;
    let workloads = remote.nodes * SLICE;
    assert_eq!(state.facts().workloads.len(), workloads as usize);
    let per = |bytes: usize| bytes as f64 / f64::from(workloads);
    println!("{workloads} workloads in {} records", records.len());
    println!("signed  {:>8.1} bytes per workload", per(signed));
    println!("state   {:>8.1} bytes per workload, the signed bytes with it", per(kept));
    println!("counted {:>8.1} bytes per workload, by the limits", per(state.usage().bytes));
    println!(
        r#"{{"workloads":{workloads},"signed_bytes":{signed},"state_bytes":{kept},"state_bytes_per_workload":{:.1}}}"#,
        per(kept)
    );
}
