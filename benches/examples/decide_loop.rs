//! Decisions in a loop and nothing else, for tools that count where time is noisy:
//!
//!     decide_loop WORKLOADS POLICIES RULES_PER_POLICY ROUNDS CONNECTIONS
//!
//!     valgrind --tool=cachegrind --cache-sim=no --branch-sim=yes decide_loop 2000 10 100 10 8192
//!
//! Two runs with different ROUNDS give the instructions, branches and mispredictions of a decision by their difference. Alone it
//! prints the best and the median time of a decision among the rounds.

use std::hint::black_box;
use std::time::Instant;

use mesh_benches::fleet::{Fleet, Size};
use mesh_benches::queries;
use mesh_core::Direction;
use mesh_policy::PolicySet;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<u32> = std::env::args().skip(1).map(|argument| argument.parse()).collect::<Result<_, _>>()?;
    let [workloads, policies, rules_per_policy, rounds, connections] = arguments[..] else {
        return Err("usage: decide_loop WORKLOADS POLICIES RULES_PER_POLICY ROUNDS CONNECTIONS".into());
    };
    let fleet = Fleet::new(Size { workloads, identities: workloads, policies, rules_per_policy });
    let set = PolicySet::compile(&fleet.state());
    let flows: Vec<_> = queries::connections(&fleet, connections).iter().map(|tuple| set.flow(tuple)).collect();
    let mut times: Vec<f64> = Vec::with_capacity(rounds as usize);
    for _ in 0..rounds {
        let start = Instant::now();
        for (at, flow) in flows.iter().enumerate() {
            let side = if at % 2 == 0 { Direction::Egress } else { Direction::Ingress };
            let _ = black_box(set.decide(black_box(flow), side));
        }
        times.push(start.elapsed().as_nanos() as f64 / flows.len() as f64);
    }
    times.sort_by(f64::total_cmp);
    if let (Some(best), Some(median)) = (times.first(), times.get(times.len() / 2)) {
        println!("best {best:.1} ns, median {median:.1} ns");
    }
    Ok(())
}
