//! An etcd of a test's own: members on the loopback, TLS with client certificates, and what may happen to them.

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use mesh_source::{EtcdConfig, EtcdStore, EtcdTls, Store};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tempfile::TempDir;

/// Nothing in these tests takes this long unless it is broken.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Tells whether etcd is installed. A skip says why; with MESH_REQUIRE_ALL=1 it is a failure.
pub(crate) fn may_run_etcd() -> bool {
    let there = |program: &str| Command::new(program).arg("--help").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if there("etcd") && there("etcdctl") {
        return true;
    }
    assert!(std::env::var("MESH_REQUIRE_ALL").is_err(), "MESH_REQUIRE_ALL is set, and etcd or etcdctl is not installed");
    // Past the harness, which hides what a passing test prints.
    let text = b"\nSKIPPED: etcd and etcdctl are not installed (Debian: etcd-server, etcd-client)\n";
    let _ = std::io::Write::write_all(&mut std::io::stderr(), text);
    false
}

/// An etcd of some members. All of them end with it.
pub(crate) struct Etcd {
    directory: TempDir,
    members: Vec<Member>,
    options: Vec<String>,
}

struct Member {
    client: String,
    peer: String,
    data: PathBuf,
    process: Option<Child>,
}

impl Etcd {
    /// Starts an etcd, and waits until it takes writes.
    pub(crate) fn start(members: usize, options: &[&str]) -> Etcd {
        let directory = tempfile::tempdir().expect("a directory");
        certificates(directory.path());
        let url = || format!("https://127.0.0.1:{}", free_port());
        let member = |number| {
            let data = directory.path().join(format!("member-{number}"));
            Member { client: url(), peer: url(), data, process: None }
        };
        let members = (0..members).map(member).collect();
        let mut etcd = Etcd { directory, members, options: options.iter().map(|&option| option.into()).collect() };
        (0..etcd.members.len()).for_each(|number| etcd.run(number));
        etcd.wait();
        etcd
    }

    /// Starts a member, or starts it again.
    pub(crate) fn run(&mut self, number: usize) {
        let cluster = self.initial_cluster();
        let at = |file: &str| self.directory.path().join(file).display().to_string();
        let log = File::options().create(true).append(true).open(at(&format!("member-{number}.log"))).expect("a log");
        let member = &self.members[number];
        let process = Command::new("etcd")
            .args(["--name", &format!("m{number}"), "--data-dir", &member.data.display().to_string()])
            .args(["--listen-client-urls", &member.client, "--advertise-client-urls", &member.client])
            .args(["--listen-peer-urls", &member.peer, "--initial-advertise-peer-urls", &member.peer])
            .args(["--initial-cluster", &cluster, "--initial-cluster-state", "new", "--logger", "zap"])
            .args(["--cert-file", &at("server.pem"), "--key-file", &at("server.key"), "--client-cert-auth"])
            .args(["--trusted-ca-file", &at("ca.pem"), "--peer-trusted-ca-file", &at("ca.pem"), "--peer-client-cert-auth"])
            .args(["--peer-cert-file", &at("server.pem"), "--peer-key-file", &at("server.key")])
            .args(&self.options)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn();
        self.members[number].process = Some(process.expect("etcd starts"));
    }

    fn initial_cluster(&self) -> String {
        let each = self.members.iter().enumerate().map(|(number, member)| format!("m{number}={}", member.peer));
        each.collect::<Vec<_>>().join(",")
    }

    fn wait(&self) {
        let deadline = Instant::now() + DEADLINE;
        while self.try_ctl(&["put", "probe", "x"]).is_err() {
            assert!(Instant::now() < deadline, "etcd does not come up: {}", self.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn logs(&self) -> String {
        let log = |number| fs::read_to_string(self.directory.path().join(format!("member-{number}.log"))).unwrap_or_default();
        (0..self.members.len())
            .map(log)
            .flat_map(|log| log.lines().rev().take(5).map(str::to_owned).collect::<Vec<_>>())
            .collect()
    }

    /// Runs `etcdctl`; returns what it printed.
    pub(crate) fn ctl(&self, arguments: &[&str]) -> String {
        self.try_ctl(arguments).unwrap_or_else(|error| panic!("etcdctl {arguments:?}: {error}"))
    }

    pub(crate) fn try_ctl(&self, arguments: &[&str]) -> Result<String, String> {
        let at = |file: &str| self.directory.path().join(file).display().to_string();
        let endpoints: Vec<_> = self.members.iter().map(|member| member.client.as_str()).collect();
        let mut command = Command::new("etcdctl");
        command.env("ETCDCTL_API", "3");
        if arguments.first() != Some(&"snapshot") || arguments.get(1) != Some(&"restore") {
            let endpoints = if arguments.first() == Some(&"snapshot") { &endpoints[..1] } else { &endpoints[..] };
            command.args(["--endpoints", &endpoints.join(","), "--cacert", &at("ca.pem")]);
            command.args(["--cert", &at("client.pem"), "--key", &at("client.key"), "--command-timeout", "10s"]);
        }
        let output = command.args(arguments).output().map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Returns the member that leads.
    pub(crate) fn leader(&self) -> usize {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let number = |member: &Member| {
                let status = self.status(member)?;
                let number = |key: &str| {
                    let (_, rest) = status.split_once(&format!("\"{key}\":"))?;
                    Some(rest.chars().take_while(char::is_ascii_digit).collect::<String>())
                };
                (number("leader")? == number("member_id")?).then_some(())
            };
            if let Some(leader) = self.members.iter().position(|member| number(member).is_some()) {
                return leader;
            }
            assert!(Instant::now() < deadline, "no leader: {}", self.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn status(&self, member: &Member) -> Option<String> {
        let at = |file: &str| self.directory.path().join(file).display().to_string();
        let output = Command::new("etcdctl")
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &member.client, "--cacert", &at("ca.pem"), "--cert", &at("client.pem")])
            .args(["--key", &at("client.key"), "--command-timeout", "2s", "endpoint", "status", "-w", "json"])
            .output();
        let output = output.ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Kills a member as a power cut does.
    pub(crate) fn kill(&mut self, number: usize) {
        if let Some(mut process) = self.members[number].process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Stops a member in the middle of whatever it does, or lets it go on.
    pub(crate) fn pause(&self, number: usize, paused: bool) {
        let process = self.members[number].process.as_ref().expect("it runs");
        let signal = if paused { "-STOP" } else { "-CONT" };
        let done = Command::new("kill").args([signal, &process.id().to_string()]).status();
        assert!(done.expect("kill runs").success());
    }

    /// Stops all members, and starts them with what a snapshot held.
    pub(crate) fn restore(&mut self, snapshot: &Path) {
        let cluster = self.initial_cluster();
        for number in 0..self.members.len() {
            self.kill(number);
            let member = &mut self.members[number];
            member.data = member.data.with_extension("restored");
            let (data, peer) = (member.data.display().to_string(), member.peer.clone());
            let name = format!("m{number}");
            self.ctl(&[
                "snapshot",
                "restore",
                &snapshot.display().to_string(),
                "--name",
                &name,
                "--data-dir",
                &data,
                "--initial-cluster",
                &cluster,
                "--initial-advertise-peer-urls",
                &peer,
            ]);
        }
        (0..self.members.len()).for_each(|number| self.run(number));
        self.wait();
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.directory.path().join(file)
    }

    /// Returns the address of a member's client port.
    pub(crate) fn address(&self, number: usize) -> &str {
        self.members[number].client.trim_start_matches("https://")
    }

    pub(crate) fn config(&self) -> EtcdConfig {
        let read = |file: &str| fs::read(self.path(file)).expect("a certificate");
        EtcdConfig {
            endpoints: self.members.iter().map(|member| member.client.clone()).collect(),
            prefix: "/landbridge".into(),
            tls: Some(EtcdTls { ca: read("ca.pem"), certificate: read("client.pem"), key: read("client.key") }),
        }
    }

    pub(crate) fn store(&self) -> std::sync::Arc<dyn Store> {
        std::sync::Arc::new(EtcdStore::new(&self.config()).expect("a store"))
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        (0..self.members.len()).for_each(|number| self.kill(number));
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Makes an authority, a certificate for the members and one for their clients, and one of a stranger's authority.
fn certificates(directory: &Path) {
    let authority = || {
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a certificate")
    };
    let (ca, stranger) = (authority(), authority());
    fs::write(directory.join("ca.pem"), ca.pem()).expect("written");
    for (name, issuer) in [("server", &ca), ("client", &ca), ("stranger", &stranger)] {
        let mut params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("an address");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, issuer).expect("a certificate");
        fs::write(directory.join(format!("{name}.pem")), certificate.pem()).expect("written");
        fs::write(directory.join(format!("{name}.key")), key.serialize_pem()).expect("written");
    }
}
