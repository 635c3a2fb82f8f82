//! Runs the simulator: many seeds, or one of them with everything told.
//!
//! ```text
//! sim --seeds 0..1000000 [--threads 2] [--matrix FILE]    many; each failure is told at once, the first are shortened
//! sim --seed N [--trace]                                  one
//! sim --script FILE [--trace]                             one that was kept
//! sim --seed N --print                                    its script
//! ```

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use mesh_test::sim::report::Report;
use mesh_test::sim::script::Script;
use mesh_test::sim::shrink::shrink;
use mesh_test::sim::store::Verified;
use mesh_test::sim::world::Violation;
use mesh_test::sim::{generate, run};

/// A simulation makes and drops many small things: this is the faster for it by a fifth.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How many failures are shortened; finding the shortest script of thousands helps nobody.
const SHRUNK: usize = 3;
/// How often the program says how far it is.
const PROGRESS: Duration = Duration::from_secs(30);
/// The seeds that a thread takes at a time.
const BATCH: u64 = 64;

#[derive(Default)]
struct Options {
    seeds: Option<(u64, u64)>,
    threads: usize,
    script: Option<Script>,
    trace: bool,
    print: bool,
    matrix: Option<String>,
}

fn options() -> Result<Options, String> {
    let mut options = Options { threads: 2, ..Options::default() };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value"));
        let number = |text: String| text.parse().map_err(|_| format!("'{text}' is no number"));
        match word.as_str() {
            "--seeds" => {
                let range = value()?;
                let (first, end) = range.split_once("..").ok_or("--seeds is FIRST..END")?;
                options.seeds = Some((number(first.into())?, number(end.into())?));
            }
            "--threads" => options.threads = number(value()?)?.clamp(1, 256) as usize,
            "--seed" => options.script = Some(generate::script(number(value()?)?)),
            "--script" => {
                let file = value()?;
                let text = std::fs::read_to_string(&file).map_err(|error| format!("{file}: {error}"))?;
                options.script = Some(text.parse().map_err(|error| format!("{file}: {error}"))?);
            }
            "--trace" => options.trace = true,
            "--print" => options.print = true,
            "--matrix" => options.matrix = Some(value()?),
            _ => return Err(format!("{word}: not an option; see the head of mesh-test/src/bin/sim.rs")),
        }
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::from(2);
        }
    };
    match (&options.script, options.seeds) {
        (Some(script), _) => one(script, &options),
        (None, Some(seeds)) => many(seeds, &options),
        (None, None) => {
            eprintln!("one of --seeds, --seed, --script is needed");
            ExitCode::from(2)
        }
    }
}

fn one(script: &Script, options: &Options) -> ExitCode {
    if options.print {
        print!("{script}");
        return ExitCode::SUCCESS;
    }
    let mut verified = Verified::default();
    let outcome = run(script, &mut verified, options.trace);
    println!("{:?}", outcome.counts);
    let Some(violation) = outcome.violation else { return ExitCode::SUCCESS };
    tell(script.seed, &violation);
    shorten(script.seed, script, &violation, &mut verified);
    ExitCode::FAILURE
}

fn tell(seed: u64, violation: &Violation) {
    println!("seed {seed} breaks '{}' after {} ms: {}", violation.promise.title(), violation.at, violation.what);
}

fn shorten(seed: u64, script: &Script, violation: &Violation, verified: &mut Verified) {
    let (short, why) = shrink(script, violation, verified);
    println!("seed {seed} shortened to {} of {} steps, where {}:\n{short}", short.steps.len(), script.steps.len(), why.what);
}

fn many((first, end): (u64, u64), options: &Options) -> ExitCode {
    let (next, begun) = (AtomicU64::new(first), Instant::now());
    let (total, shrunk) = (Mutex::new((Report::default(), begun)), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for _ in 0..options.threads {
            scope.spawn(|| {
                let mut verified = Verified::default();
                loop {
                    let from = next.fetch_add(BATCH, Ordering::Relaxed);
                    if from >= end {
                        return;
                    }
                    let mut report = Report::default();
                    for seed in from..(from + BATCH).min(end) {
                        let script = generate::script(seed);
                        let outcome = run(&script, &mut verified, false);
                        report.add(seed, &outcome);
                        if let Some(violation) = &outcome.violation {
                            tell(seed, violation);
                            if shrunk.fetch_add(1, Ordering::Relaxed) < SHRUNK {
                                shorten(seed, &script, violation, &mut verified);
                            }
                        }
                    }
                    let mut total = total.lock().expect("nobody panics here");
                    let (total, told) = &mut *total;
                    total.merge(report);
                    if told.elapsed() >= PROGRESS {
                        *told = Instant::now();
                        let rate = total.runs as f64 / begun.elapsed().as_secs_f64();
                        eprintln!("{} runs, {} failed, {rate:.0} a second", total.runs, total.failed.len());
                    }
                }
            });
        }
    });
    let (mut total, _) = total.into_inner().expect("nobody panicked");
    total.failed.sort_unstable();
    let seconds = begun.elapsed().as_secs_f64();
    let mut json = total.json();
    json["seconds"] = seconds.into();
    json["runs_per_second"] = (total.runs as f64 / seconds).into();
    println!("{json}");
    if let Some(file) = &options.matrix
        && let Err(error) = std::fs::write(file, total.matrix(&format!("{first}..{end}")))
    {
        eprintln!("{file}: {error}");
        return ExitCode::from(2);
    }
    if total.failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
