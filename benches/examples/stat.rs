//! throwaway
use std::collections::{HashSet,HashMap};
use mesh_benches::fleet::{Fleet, Size};
use mesh_core::*;
use mesh_policy::*;
fn main() {
    let a: Vec<u32> = std::env::args().skip(1).map(|x| x.parse().unwrap()).collect();
    let fleet = Fleet::new(Size { workloads: a[0], identities: a[1], policies: a[2], rules_per_policy: a[3] });
    let t = std::time::Instant::now();
    let state = fleet.state();
    println!("state {:?}", t.elapsed());
    let t = std::time::Instant::now();
    let mut compiler = Compiler::new();
    let set = compiler.update(&state, &Change::default()).clone();
    println!("compile {:?}", t.elapsed());
    let mut classes = HashSet::new(); let mut profiles = HashSet::new(); let mut rs = [HashMap::new(), HashMap::new()];
    for (_, known) in set.addresses() {
        if !profiles.insert(known.profile) { continue }
        let p = set.profile(known.profile);
        classes.insert(p.class);
        for i in 0..2 { *rs[i].entry(p.rulesets[i]).or_insert(0) += 1; }
    }
    println!("profiles {} classes {} rulesets {} {}", profiles.len(), classes.len(), rs[0].len(), rs[1].len());
    println!("{}", set.debug_sizes());
}
