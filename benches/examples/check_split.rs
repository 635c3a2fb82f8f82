//! Says where `meshctl policy check` spends its time on a directory, step by step and on one processor.
//!
//!     cargo run --release -p mesh-benches --example check_split -- DIR

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::Instant;
use std::{env, fs, io};

use mesh_core::manifest::{Checked, ReadFile};
use mesh_policy::PolicySet;

fn main() -> Result<(), Box<dyn Error>> {
    let directory = PathBuf::from(env::args().nth(1).ok_or("usage: check_split DIR")?);
    let mut files = Vec::new();
    timed("read", || walk(&directory, &directory, &mut files))?;
    let bytes: usize = files.iter().map(|(_, text)| text.len()).sum();
    let read: Vec<ReadFile> = timed("parse", || files.iter().map(|(path, text)| Checked::read(path, text)).collect());
    let checked = timed("state", || Checked::assemble(read));
    let checked = checked.map_err(|errors| errors.iter().map(|error| format!("{error}\n")).collect::<String>())?;
    let set = timed("compile", || PolicySet::compile(&checked.state));
    println!("{:.1} MB, {} facts, fingerprint {:016x}", bytes as f64 / 1e6, checked.locations.len(), set.fingerprint());
    Ok(())
}

fn timed<T>(step: &str, work: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = work();
    println!("{step:8} {:>8.1} ms", start.elapsed().as_secs_f64() * 1e3);
    result
}

fn walk(root: &Path, directory: &Path, files: &mut Vec<(String, String)>) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            walk(root, &path, files)?;
        } else if path.extension().is_some_and(|ending| ending == "yaml") {
            let name = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
            files.push((name, fs::read_to_string(&path)?));
        }
    }
    Ok(())
}
