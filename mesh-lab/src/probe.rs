//! Asks as an ordinary program asks: a name from the system's resolver, then HTTP over TCP.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::transfer::{Checksum, Content};

mod url;

use url::Url;

/// How much of a body is kept as text; all of it is counted.
const KEPT_BODY: u64 = 64 << 10;

/// What a probe found. It is JSON in a workload's output, and a value in a test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeResult {
    /// What was asked for.
    pub url: String,
    /// What the name means, in the resolver's order.
    pub resolved: Vec<SocketAddr>,
    /// Which of them answered.
    pub connected: Option<SocketAddr>,
    /// The own address of that connection.
    pub local: Option<SocketAddr>,
    /// The status of the response, if there was one.
    pub status: Option<u16>,
    /// Why there was none, or why its body is not whole.
    pub failure: Option<ProbeFailure>,
    /// The operating system's words for the failure.
    pub error: Option<String>,
    /// The first 64 KiB of the body.
    pub body: String,
    /// Length of the whole body.
    pub body_bytes: u64,
    /// Checksum of the whole body, see [`Checksum`].
    pub checksum: u64,
    /// From the start to the end, in milliseconds.
    pub elapsed_ms: u64,
}

/// Why a probe failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub enum ProbeFailure {
    /// The URL is not plain `http://host[:port][/path]`.
    BadUrl,
    /// The name does not exist, or has no address.
    NameNotFound,
    /// The resolver could not be asked, or could not answer.
    ResolverFailed,
    /// The resolver did not answer in time.
    ResolverTimeout,
    /// Nobody answered in time: the usual face of a policy that drops.
    Timeout,
    /// The port is closed, or somebody says so.
    Refused,
    /// The connection was reset.
    Reset,
    /// There is no way there, by a route here or an ICMP message from there.
    Unreachable,
    /// The way is forbidden, by a route here or an ICMP message from there.
    Prohibited,
    /// The answer was not HTTP, or ended early.
    BadResponse,
    /// Anything else; see the error text.
    Other,
}

impl ProbeResult {
    /// Says whether there was a whole response with a status of success.
    pub fn is_ok(&self) -> bool {
        self.failure.is_none() && self.status.is_some_and(|status| (200..300).contains(&status))
    }

    /// Returns a field of a JSON body, as text; the servers of [`serve`](crate::serve) answer with such bodies.
    pub fn field(&self, name: &str) -> Option<String> {
        let body: serde_json::Value = serde_json::from_str(&self.body).ok()?;
        let value = body.get(name)?;
        Some(value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }

    fn fail(&mut self, failure: ProbeFailure, error: impl Into<String>) {
        self.failure = Some(failure);
        self.error = Some(error.into());
    }
}

/// Fetches a URL. Everything together may take `timeout`; several addresses share what is left of it.
pub fn fetch(url: &str, timeout: Duration) -> ProbeResult {
    run(url, timeout, None)
}

/// Posts `bytes` bytes of [`Content`] with seed 0 to a URL, for example a server's `/upload`.
pub fn upload(url: &str, bytes: u64, timeout: Duration) -> ProbeResult {
    run(url, timeout, Some(bytes))
}

fn run(url: &str, timeout: Duration, upload: Option<u64>) -> ProbeResult {
    let started = Instant::now();
    let deadline = started + timeout;
    let mut result = ProbeResult {
        url: url.to_owned(),
        resolved: Vec::new(),
        connected: None,
        local: None,
        status: None,
        failure: None,
        error: None,
        body: String::new(),
        body_bytes: 0,
        checksum: Checksum::default().value(),
        elapsed_ms: 0,
    };
    match Url::parse(url) {
        None => result.fail(ProbeFailure::BadUrl, "not a plain http:// URL"),
        Some(url) => {
            if let Err((failure, error)) = attempt(&url, deadline, upload, &mut result) {
                result.fail(failure, error);
            }
        }
    }
    result.elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    result
}

type Failed = (ProbeFailure, String);

fn attempt(url: &Url<'_>, deadline: Instant, upload: Option<u64>, result: &mut ProbeResult) -> Result<(), Failed> {
    result.resolved = resolve(url, deadline)?;
    let stream = connect(&result.resolved, deadline)?;
    result.connected = stream.peer_addr().ok();
    result.local = stream.local_addr().ok();
    request(&stream, url, upload, deadline).map_err(|error| classify(&error))?;
    response(stream, deadline, result)
}

/// Asks the system's resolver, which cannot be told how long it may take: a thread waits for it, if need be in vain.
fn resolve(url: &Url<'_>, deadline: Instant) -> Result<Vec<SocketAddr>, Failed> {
    let (answer, answered) = mpsc::channel();
    let (host, port) = (url.host.to_owned(), url.port);
    let asked = std::thread::Builder::new().name("resolver".to_owned()).spawn(move || {
        let resolved = (host.as_str(), port).to_socket_addrs().map(Iterator::collect::<Vec<_>>);
        // Nobody waits any more when the time is over.
        let _ = answer.send(resolved);
    });
    asked.map_err(|error| (ProbeFailure::Other, error.to_string()))?;
    match answered.recv_timeout(left(deadline)) {
        Ok(Ok(addresses)) if addresses.is_empty() => Err((ProbeFailure::NameNotFound, "no address".to_owned())),
        Ok(Ok(addresses)) => Ok(addresses),
        Ok(Err(error)) => Err((resolver_failure(&error), error.to_string())),
        Err(_) => Err((ProbeFailure::ResolverTimeout, "no answer from the resolver in time".to_owned())),
    }
}

/// std gives the resolver's verdict as text only: that of glibc or of musl, always in English.
fn resolver_failure(error: &io::Error) -> ProbeFailure {
    let text = error.to_string();
    let not_found = ["not known", "No address associated", "does not resolve", "has no usable address"];
    if not_found.iter().any(|words| text.contains(words)) { ProbeFailure::NameNotFound } else { ProbeFailure::ResolverFailed }
}

/// Tries one address after the other; the error is that of the last.
fn connect(addresses: &[SocketAddr], deadline: Instant) -> Result<TcpStream, Failed> {
    let mut last = (ProbeFailure::NameNotFound, "no address".to_owned());
    for (tried, address) in addresses.iter().enumerate() {
        let share = left(deadline) / u32::try_from(addresses.len() - tried).unwrap_or(1);
        match TcpStream::connect_timeout(address, share.max(Duration::from_millis(1))) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = classify(&error),
        }
    }
    Err(last)
}

fn request(mut stream: &TcpStream, url: &Url<'_>, upload: Option<u64>, deadline: Instant) -> io::Result<()> {
    stream.set_write_timeout(Some(left(deadline)))?;
    stream.set_nodelay(true)?;
    let (method, body) = if upload.is_some() { ("POST", upload.unwrap_or(0)) } else { ("GET", 0) };
    let Url { authority, path, .. } = url;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n");
    if upload.is_some() {
        head += &format!("Content-Length: {body}\r\n");
    }
    stream.write_all((head + "\r\n").as_bytes())?;
    io::copy(&mut Content::new(0).take(body), &mut stream).map(drop)
}

/// Reads the response (RFC 9112) of a server that closes the connection after it.
fn response(stream: TcpStream, deadline: Instant, result: &mut ProbeResult) -> Result<(), Failed> {
    let bad = |what: &str| (ProbeFailure::BadResponse, what.to_owned());
    let mut input = BufReader::new(Timed { stream, deadline });
    let line = |input: &mut BufReader<Timed>| {
        let mut line = String::new();
        let read = input.by_ref().take(16 << 10).read_line(&mut line);
        read.map_err(|error| classify(&error)).map(|_| line.trim_end().to_owned())
    };
    let first = line(&mut input)?;
    let status = first.strip_prefix("HTTP/1.").and_then(|rest| rest.split(' ').nth(1)).and_then(|code| code.parse().ok());
    result.status = Some(status.ok_or_else(|| bad("no HTTP status line"))?);
    let mut length = None;
    loop {
        let header = line(&mut input)?;
        match header.split_once(':') {
            Some((key, value)) if key.eq_ignore_ascii_case("content-length") => length = value.trim().parse().ok(),
            Some((key, _)) if key.eq_ignore_ascii_case("transfer-encoding") => return Err(bad("encoded body")),
            Some(_) => {}
            None => break,
        }
    }
    let mut checksum = Checksum::default();
    let mut buffer = [0; 16 << 10];
    let mut kept = Vec::new();
    let mut body = input.take(length.unwrap_or(u64::MAX));
    let outcome = loop {
        match body.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(read) => {
                result.body_bytes += read as u64;
                checksum.update(&buffer[..read]);
                let room = usize::try_from(KEPT_BODY).unwrap_or(usize::MAX) - kept.len();
                kept.extend_from_slice(&buffer[..read.min(room)]);
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => break Err(classify(&error)),
        }
    };
    result.body = String::from_utf8_lossy(&kept).into_owned();
    result.checksum = checksum.value();
    let whole = length.is_none_or(|length| length == result.body_bytes);
    outcome.and(if whole { Ok(()) } else { Err(bad("the body ended early")) })
}

/// A stream of which every read ends at one deadline.
struct Timed {
    stream: TcpStream,
    deadline: Instant,
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(Some(left(self.deadline)))?;
        self.stream.read(buffer)
    }
}

fn classify(error: &io::Error) -> Failed {
    use io::ErrorKind as Kind;
    let failure = match error.kind() {
        Kind::TimedOut | Kind::WouldBlock => ProbeFailure::Timeout,
        Kind::ConnectionRefused => ProbeFailure::Refused,
        Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe => ProbeFailure::Reset,
        Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown => ProbeFailure::Unreachable,
        Kind::PermissionDenied => ProbeFailure::Prohibited,
        // A blackhole route.
        Kind::InvalidInput if error.raw_os_error().is_some() => ProbeFailure::Unreachable,
        _ => ProbeFailure::Other,
    };
    (failure, error.to_string())
}

/// Returns the time that is left; at least a millisecond, for zero would mean no limit.
fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}

#[cfg(test)]
mod tests;
