//! `meshctl policy check` and `meshctl dns check`: questions to the production code, without a network (SEMANTICS §4).

use std::fs;
use std::io::{self, BufRead, BufWriter, IsTerminal, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::{iter, thread};

use clap::{Args, ValueEnum};
use mesh_core::manifest::{Checked, ReadFile};
use mesh_discovery::{DnsAnswer, DnsChecker, DnsOutcome, ZoneConfig};
use mesh_policy::check::{Checker, Word};

/// What is checked.
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// The fleet's directory: clusters/CLUSTER/*.yaml, and optionally fleet/*.yaml, fleet.yaml and mesh.yaml
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Questions, one JSON object a line; `-` is standard input (the default, unless it is a terminal)
    #[arg(long, value_name = "FILE")]
    pub queries: Option<PathBuf>,
    /// Lines for people, or JSON lines; by default text on a terminal and jsonl elsewhere
    #[arg(long, value_enum)]
    pub output: Option<CheckOutput>,
}

/// How answers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckOutput {
    /// For people.
    Text,
    /// One JSON object a line.
    Jsonl,
}

/// An answer in both forms; `understood` is false for a question that made no sense.
pub struct Answer {
    /// One JSON object.
    pub json: String,
    /// One line for a person.
    pub text: String,
    /// Whether the question made sense.
    pub understood: bool,
}

/// Reads the directory and answers every query by `answer`; returns the exit status.
///
/// 0: all answered. 1: some queries made no sense. 2: the manifests or the files cannot be used, nothing is answered.
pub fn run<A: FnMut(&str) -> Answer>(args: &CheckArgs, make: impl FnOnce(Checked) -> A) -> u8 {
    let checked = match load(&args.directory) {
        Ok(checked) => checked,
        Err(problems) => {
            problems.iter().for_each(|problem| eprintln!("error: {problem}"));
            eprintln!("{} error(s): nothing is answered", problems.len());
            return 2;
        }
    };
    checked.warnings.iter().for_each(|warning| eprintln!("warning: {warning}"));
    if checked.ignored > 0 {
        eprintln!("note: {} object(s) of kinds that the mesh does not read were ignored", checked.ignored);
    }
    let jsonl = args.output.map_or(!io::stdout().is_terminal(), |output| output == CheckOutput::Jsonl);
    let queries: Box<dyn BufRead> = match &args.queries {
        Some(path) if path.as_os_str() != "-" => match fs::File::open(path) {
            Ok(file) => Box::new(io::BufReader::new(file)),
            Err(error) => {
                eprintln!("error: {}: {error}", path.display());
                return 2;
            }
        },
        None if io::stdin().is_terminal() => {
            eprintln!("the manifests are fine: ask with --queries FILE, or pipe questions in");
            return 0;
        }
        _ => Box::new(io::stdin().lock()),
    };
    match answer_all(queries, jsonl, make(checked)) {
        Ok(status) => status,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => 0,
        Err(error) => {
            eprintln!("error: {error}");
            2
        }
    }
}

fn answer_all(mut queries: Box<dyn BufRead>, jsonl: bool, mut answer: impl FnMut(&str) -> Answer) -> io::Result<u8> {
    let mut out = BufWriter::new(io::stdout().lock());
    let (mut status, mut line) = (0, Vec::new());
    while queries.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        if !text.trim().is_empty() {
            let answer = answer(text.trim());
            writeln!(out, "{}", if jsonl { &answer.json } else { &answer.text })?;
            if !answer.understood {
                status = 1;
            }
        }
        line.clear();
    }
    out.flush()?;
    Ok(status)
}

/// `meshctl policy check`.
pub fn policy(args: &CheckArgs) -> u8 {
    run(args, |checked| {
        let state = Box::leak(Box::new(checked.state));
        let mut checker = Checker::new(state);
        move |line| match checker.answer_line(line) {
            Ok(answer) => Answer { json: to_json(&answer), text: policy_text(&answer), understood: true },
            Err(error) => Answer { json: to_json(&error), text: format!("{}: error: {error}", error.id), understood: false },
        }
    })
}

/// `meshctl dns check`.
pub fn dns(args: &CheckArgs) -> u8 {
    run(args, |checked| {
        let state = Box::leak(Box::new(checked.state));
        let mut checker = DnsChecker::new(state, ZoneConfig::default()).with_clusters(checked.clusters);
        move |line| {
            let answer = checker.answer_line(line);
            Answer { json: to_json(&answer), text: dns_text(&answer), understood: answer.is_understood() }
        }
    })
}

fn policy_text(answer: &mesh_policy::check::Answer) -> String {
    let word = |word| if word == Word::Allow { "allow" } else { "deny" };
    let side =
        |side: &mesh_policy::check::Side| format!("{} {} {}", word(side.verdict), side.tier, side.rule.as_deref().unwrap_or("-"));
    format!(
        "{}: {} {}; egress {}; ingress {}",
        answer.id,
        word(answer.verdict),
        answer.tuple,
        side(&answer.egress),
        side(&answer.ingress)
    )
}

fn dns_text(answer: &DnsAnswer) -> String {
    match &answer.outcome {
        DnsOutcome::Reply { rcode, answer: records, soa } => {
            let soa = if *soa { " (SOA)" } else { "" };
            format!("{}: {rcode}{soa} {}", answer.id, records.join(", "))
        }
        DnsOutcome::Error { error } => format!("{}: error: {error}", answer.id),
    }
}

fn to_json(answer: &impl serde::Serialize) -> String {
    serde_json::to_string(answer).expect("answers are JSON")
}

/// Reads and checks a fleet's directory; every problem is a line for a person.
pub fn load(directory: &Path) -> Result<Checked, Vec<String>> {
    let mut files = Vec::new();
    let mut problems = Vec::new();
    for part in ["fleet.yaml", "revoked.yaml", "mesh.yaml"] {
        let path = directory.join(part);
        if path.exists() {
            read(directory, &path, &mut files, &mut problems);
        }
    }
    if !directory.join("clusters").is_dir() {
        problems
            .push(format!("{}: there is no directory 'clusters' in it: expected clusters/<cluster>/*.yaml", directory.display()));
    }
    for part in ["clusters", "fleet"] {
        walk(directory, &directory.join(part), &mut files, &mut problems);
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Checked::assemble(parse(&files)).map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

/// Parses the files on all processors, which is most of the work where there are many pods.
fn parse(files: &[(String, String)]) -> Vec<ReadFile> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mine = iter::from_fn(|| files.get(next.fetch_add(1, Ordering::Relaxed)));
        mine.map(|(path, text)| Checked::read(path, text)).collect::<Vec<_>>()
    };
    let helpers = thread::available_parallelism().map_or(1, NonZero::get).min(files.len()).saturating_sub(1);
    thread::scope(|scope| {
        let helpers: Vec<_> = (0..helpers).map(|_| scope.spawn(work)).collect();
        let mut parsed = work();
        for helper in helpers {
            parsed.extend(helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        parsed
    })
}

fn walk(root: &Path, directory: &Path, files: &mut Vec<(String, String)>, problems: &mut Vec<String>) {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return,
        Err(error) => return problems.push(format!("{}: {error}", directory.display())),
    };
    let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        if path.is_dir() {
            walk(root, &path, files, problems);
        } else if path.extension().is_some_and(|ending| ["yaml", "yml", "json"].iter().any(|known| ending == *known)) {
            read(root, &path, files, problems);
        }
    }
}

fn read(root: &Path, path: &Path, files: &mut Vec<(String, String)>, problems: &mut Vec<String>) {
    let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy().into_owned();
    match fs::read(path).map(String::from_utf8) {
        Ok(Ok(text)) => files.push((name, text)),
        Ok(Err(error)) => problems.push(format!("{name}: not UTF-8 after byte {}", error.utf8_error().valid_up_to())),
        Err(error) => problems.push(format!("{name}: {error}")),
    }
}
