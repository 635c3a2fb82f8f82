//! Writes a fleet as a directory of manifests, and questions about it, for `meshctl policy check`.
//!
//!     cargo run --release -p mesh-benches --example check_fleet -- DIR [PODS [POLICIES [QUERIES [FOREIGN]]]]
//!
//! 10,000 pods of 2,000 rollouts in eight clusters, 650 policies of ten rules and 20,000 queries in `DIR/queries.jsonl`, unless
//! told otherwise. FOREIGN of 100 queries come from an address that is none of their pod's (2 unless told otherwise).

use std::path::Path;
use std::{env, fs, io, process};

use mesh_benches::fleet::{Fleet, Size};
use mesh_benches::manifests;

fn main() {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let number = |at: usize, usual: u32| arguments.get(at).map_or(Ok(usual), |text| text.parse());
    let numbers = (number(1, 10_000), number(2, 650), number(3, 20_000), number(4, 2));
    let (Some(directory), (Ok(pods), Ok(policies), Ok(queries), Ok(foreign))) = (arguments.first(), numbers) else {
        eprintln!("usage: check_fleet DIR [PODS [POLICIES [QUERIES [FOREIGN]]]]");
        process::exit(2);
    };
    let size = Size { workloads: pods, identities: pods.div_ceil(5), policies, rules_per_policy: 10 };
    if let Err(error) = write(Path::new(directory), &Fleet::new(size), (queries, foreign)) {
        eprintln!("error: {directory}: {error}");
        process::exit(1);
    }
}

fn write(directory: &Path, fleet: &Fleet, (queries, foreign): (u32, u32)) -> io::Result<()> {
    let mut files = manifests::directory(fleet);
    let manifests: usize = files.values().map(String::len).sum();
    files.insert("queries.jsonl".into(), manifests::questions(fleet, queries, foreign));
    for (path, text) in &files {
        let path = directory.join(path);
        fs::create_dir_all(path.parent().unwrap_or(directory))?;
        fs::write(path, text)?;
    }
    let Size { workloads, policies, rules_per_policy, .. } = fleet.size();
    println!(
        "{workloads} pods, {policies} policies of {rules_per_policy} rules, {queries} queries ({foreign} % from foreign addresses)"
    );
    println!("{:.1} MB of manifests in {} files", manifests as f64 / 1e6, files.len() - 1);
    Ok(())
}
