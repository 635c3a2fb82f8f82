//! Network namespaces, each with a thread that lives in it.
#![allow(unsafe_code, reason = "the kernel is called here")]
#![allow(dead_code, reason = "each test uses its part")]

use std::process::Command;
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

type Job = Box<dyn FnOnce() + Send>;

/// A network namespace: it goes when this is dropped and nothing else lives in it.
pub(crate) struct Netns {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
    tid: i32,
}

impl Netns {
    pub(crate) fn new() -> Netns {
        let (jobs, inbox) = channel::<Job>();
        let (ready, started) = sync_channel(1);
        let thread = std::thread::spawn(move || {
            // SAFETY: the calls take no pointers; only this thread changes its namespace.
            let (result, tid) = unsafe { (libc::unshare(libc::CLONE_NEWNET), libc::gettid()) };
            assert_eq!(result, 0, "unshare: {}", std::io::Error::last_os_error());
            ready.send(tid).expect("the test waits");
            inbox.iter().for_each(|job| job());
        });
        let tid = started.recv().expect("the namespace's thread runs");
        let netns = Netns { jobs: Some(jobs), thread: Some(thread), tid };
        netns.ip("link set lo up");
        netns
    }

    /// Runs `job` in the namespace.
    pub(crate) fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (reply, answer) = sync_channel(1);
        let job = Box::new(move || drop(reply.send(job())));
        self.jobs.as_ref().expect("alive").send(job).expect("the namespace's thread runs");
        answer.recv().expect("the job did not panic")
    }

    /// Runs a program in the namespace; returns whether it succeeded, and what it wrote.
    pub(crate) fn command(&self, line: &str) -> (bool, String) {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        self.run(move || {
            let output = Command::new(&words[0]).args(&words[1..]).output().expect("the program is installed");
            let text = [&output.stdout[..], &output.stderr].concat();
            (output.status.success(), String::from_utf8_lossy(&text).into_owned())
        })
    }

    pub(crate) fn ip(&self, line: &str) -> String {
        let (ok, text) = self.command(&format!("ip {line}"));
        assert!(ok, "ip {line}: {text}");
        text
    }

    pub(crate) fn sysctl(&self, name: &str, value: &str) {
        let (path, value) = (format!("/proc/sys/net/{name}"), value.to_owned());
        self.run(move || std::fs::write(path, value).expect("the setting is there"));
    }

    /// Connects this namespace with `other` by a veth pair; both ends are up.
    pub(crate) fn connect(&self, name: &str, other: &Netns, other_name: &str) {
        self.ip(&format!("link add {name} type veth peer name {other_name} netns {}", other.tid));
        self.ip(&format!("link set {name} up"));
        other.ip(&format!("link set {other_name} up"));
    }

    pub(crate) fn tid(&self) -> i32 {
        self.tid
    }

    pub(crate) fn ping(&self, address: &str) -> bool {
        self.command(&format!("ping -c 1 -W 1 {address}")).0
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Polls until `done` holds, for 20 s or what MESH_TEST_PATIENCE says.
pub(crate) fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let patience = std::env::var("MESH_TEST_PATIENCE").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(20);
    let deadline = Instant::now() + Duration::from_secs(patience);
    while !done() {
        assert!(Instant::now() < deadline, "not within {patience} s: {what}");
        std::thread::park_timeout(Duration::from_millis(20));
    }
}

/// Tells whether the test can run: root and /dev/net/tun, and `programs`. Says why not, loudly.
pub(crate) fn possible(programs: &[&str]) -> bool {
    // SAFETY: the call has no arguments.
    let root = unsafe { libc::geteuid() } == 0;
    let has = |program: &&&str| {
        let paths = ["/usr/bin", "/usr/sbin", "/bin", "/sbin"];
        !paths.iter().any(|path| std::path::Path::new(path).join(program).exists())
    };
    let missing = match programs.iter().find(has) {
        _ if !root => "root".to_owned(),
        _ if !std::path::Path::new("/dev/net/tun").exists() => "/dev/net/tun".to_owned(),
        Some(program) => (*program).to_owned(),
        None => return true,
    };
    skip(&format!("{missing} is missing"));
    false
}

/// Tells whether the test can run on kernel WireGuard: as [`possible`], and the kernel has it. With MESH_KERNEL_TESTS=guest, a
/// kernel without it is no failure: whoever sets that runs the test in the guest of mesh-test/guest, too.
pub(crate) fn possible_in_kernel(programs: &[&str]) -> bool {
    let deferred = std::env::var_os("MESH_KERNEL_TESTS").is_some_and(|value| value == "guest");
    // SAFETY: the call has no arguments.
    let root = unsafe { libc::geteuid() } == 0;
    if root && Netns::new().command("ip link add probe type wireguard").0 {
        return possible(programs);
    }
    if deferred {
        say("DEFERRED: no kernel WireGuard here, the guest runs this");
    } else {
        skip("kernel WireGuard (as root) is missing; mesh-test/guest/run.sh runs this on a kernel that has it");
    }
    false
}

fn skip(reason: &str) {
    let required = std::env::var_os("MESH_REQUIRE_ALL").is_some_and(|value| value == "1");
    assert!(!required, "MESH_REQUIRE_ALL=1, and {reason}");
    say(&format!("SKIPPED: {reason}"));
}

/// Writes past the harness, which hides what a passing test prints.
fn say(text: &str) {
    let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("\n{text}\n").as_bytes());
}
