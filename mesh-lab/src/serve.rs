//! A small real HTTP server for workloads: it says who asked, which is what a mesh must not change.
//!
//! ```text
//! GET  /anything     {"server": NAME, "client": "IP:PORT", "path": PATH, "method": …, "host": …}
//! GET  /bytes?n=N    N bytes of the content of `transfer`, seed 0
//! POST /echo         the body, up to 64 MiB
//! POST /upload       {"server": NAME, "client": …, "bytes": …, "checksum": …}
//! ```

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::json;

use crate::transfer::{Checksum, Content};

/// The largest body that `/echo` returns, in bytes: it is held in memory.
const LARGEST_ECHO: u64 = 64 << 20;
/// How long a client may keep silent.
const PATIENCE: Duration = Duration::from_secs(30);

/// Serves HTTP on all addresses, IPv4 and IPv6, until accepting fails.
pub fn http(port: u16, name: &str) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
    accept(&listener, name, &AtomicBool::new(false))
}

/// A server in threads of this process. Dropping it stops accepting.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<io::Result<()>>>,
    /// A second descriptor of the listening socket, to wake the thread with.
    listener: TcpListener,
}

impl HttpServer {
    /// Starts a server in the calling thread's network namespace; port 0 takes a free one.
    ///
    /// ```no_run
    /// # fn f(netns: mesh_lab::Netns) -> std::io::Result<()> {
    /// let server = netns.run(|| mesh_lab::serve::HttpServer::start(80, "web"))??;
    /// # Ok(()) }
    /// ```
    pub fn start(port: u16, name: &str) -> io::Result<HttpServer> {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let (accepting, stopped, name) = (listener.try_clone()?, Arc::clone(&stop), name.to_owned());
        let thread = std::thread::Builder::new().name("http".to_owned());
        let thread = thread.spawn(move || accept(&accepting, &name, &stopped))?;
        Ok(HttpServer { address, stop, thread: Some(thread), listener })
    }

    /// Returns the address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for HttpServer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        // `accept` returns as soon as the socket does not listen any more; connecting would need its namespace.
        crate::sys::stop_listening(&self.listener);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn accept(listener: &TcpListener, name: &str, stop: &AtomicBool) -> io::Result<()> {
    loop {
        let (stream, client) = match listener.accept() {
            _ if stop.load(Ordering::Acquire) => return Ok(()),
            Ok(accepted) => accepted,
            // The client went away before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
            Err(error) => return Err(error),
        };
        let name = name.to_owned();
        let spawned = std::thread::Builder::new().name("http-client".to_owned()).spawn(move || {
            if let Err(error) = answer(&stream, client, &name) {
                tracing::debug!(%client, %error, "HTTP connection ended early");
            }
        });
        if let Err(error) = spawned {
            tracing::warn!(%client, %error, "no thread for an HTTP client");
        }
    }
}

/// One request of a client.
struct Request {
    method: String,
    path: String,
    host: String,
    length: u64,
}

fn answer(stream: &TcpStream, client: SocketAddr, name: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.set_nodelay(true)?;
    // An IPv4 client of a dual-stack socket has an IPv4-mapped address.
    let client = SocketAddr::new(client.ip().to_canonical(), client.port()).to_string();
    let mut input = BufReader::new(stream);
    let Some(request) = Request::read(&mut input)? else {
        return respond(stream, "400 Bad Request", "text/plain", b"not an HTTP/1 request\n");
    };
    let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
    match path {
        "/bytes" => {
            let n = query.split('&').find_map(|pair| pair.strip_prefix("n=")).and_then(|n| n.parse().ok());
            let Some(n) = n else {
                return respond(stream, "400 Bad Request", "text/plain", b"say how many: /bytes?n=N\n");
            };
            head(stream, "200 OK", "application/octet-stream", n)?;
            io::copy(&mut Content::new(0).take(n), &mut &*stream).map(drop)
        }
        "/echo" if request.length > LARGEST_ECHO => respond(stream, "413 Content Too Large", "text/plain", b"at most 64 MiB\n"),
        "/echo" => {
            let mut body = Vec::new();
            input.take(request.length).read_to_end(&mut body)?;
            respond(stream, "200 OK", "application/octet-stream", &body)
        }
        "/upload" => {
            let mut checksum = Checksum::default();
            let bytes = io::copy(&mut input.take(request.length), &mut checksum)?;
            let checksum = format!("{:016x}", checksum.value());
            let report = json!({ "server": name, "client": client, "bytes": bytes, "checksum": checksum });
            respond(stream, "200 OK", "application/json", report.to_string().as_bytes())
        }
        _ => {
            let Request { method, path, host, .. } = &request;
            let about = json!({ "server": name, "client": client, "path": path, "method": method, "host": host });
            respond(stream, "200 OK", "application/json", about.to_string().as_bytes())
        }
    }
}

impl Request {
    /// Reads request line and headers (RFC 9112, sections 3 and 5); `None` when they are none, or too long.
    fn read(input: &mut impl BufRead) -> io::Result<Option<Request>> {
        let mut input = input.take(16 << 10);
        let mut line = String::new();
        input.read_line(&mut line)?;
        let mut words = line.split_ascii_whitespace();
        let (Some(method), Some(path), Some(version)) = (words.next(), words.next(), words.next()) else {
            return Ok(None);
        };
        if !version.starts_with("HTTP/1.") {
            return Ok(None);
        }
        let mut request = Request { method: method.to_owned(), path: path.to_owned(), host: String::new(), length: 0 };
        loop {
            let mut header = String::new();
            if input.read_line(&mut header)? == 0 {
                return Ok(None);
            }
            let Some((key, value)) = header.trim_end().split_once(':') else {
                return Ok(header.trim_end().is_empty().then_some(request));
            };
            match key.to_ascii_lowercase().as_str() {
                "host" => value.trim().clone_into(&mut request.host),
                "content-length" => request.length = value.trim().parse().unwrap_or(0),
                _ => {}
            }
        }
    }
}

fn respond(stream: &TcpStream, status: &str, kind: &str, body: &[u8]) -> io::Result<()> {
    head(stream, status, kind, body.len() as u64)?;
    let mut stream = stream;
    stream.write_all(body)
}

fn head(mut stream: &TcpStream, status: &str, kind: &str, length: u64) -> io::Result<()> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes())
}
