use std::net::{Ipv4Addr, TcpListener};

use super::*;
use crate::serve::HttpServer;

const TIMEOUT: Duration = Duration::from_secs(10);

#[test]
fn a_server_says_who_asked() {
    let server = HttpServer::start(0, "web").unwrap();
    let port = server.address().port();
    for host in ["127.0.0.1", "[::1]", "localhost"] {
        let result = fetch(&format!("http://{host}:{port}/hello?x=1"), TIMEOUT);
        assert!(result.is_ok(), "{result:?}");
        assert_eq!(result.field("server").as_deref(), Some("web"));
        assert_eq!(result.field("path").as_deref(), Some("/hello?x=1"));
        assert_eq!(result.field("client"), result.local.map(|local| local.to_string()));
        assert_eq!(result.field("host"), Some(format!("{host}:{port}")));
    }
}

#[test]
fn large_bodies_go_both_ways_unchanged() {
    let server = HttpServer::start(0, "web").unwrap();
    let port = server.address().port();
    let down = fetch(&format!("http://127.0.0.1:{port}/bytes?n=3000001"), TIMEOUT);
    let mut content = vec![0; 3_000_001];
    Content::new(0).fill(&mut content);
    let mut checksum = Checksum::default();
    checksum.update(&content);
    assert_eq!((down.body_bytes, down.checksum), (3_000_001, checksum.value()));
    let up = upload(&format!("http://127.0.0.1:{port}/upload"), 3_000_001, TIMEOUT);
    assert_eq!(up.field("bytes").as_deref(), Some("3000001"), "{up:?}");
    assert_eq!(up.field("checksum"), Some(format!("{:016x}", checksum.value())));
    let echo = upload(&format!("http://127.0.0.1:{port}/echo"), 3_000_001, TIMEOUT);
    assert_eq!((echo.body_bytes, echo.checksum), (3_000_001, checksum.value()));
    assert_eq!(fetch(&format!("http://127.0.0.1:{port}/bytes"), TIMEOUT).status, Some(400));
}

#[test]
fn each_failure_has_its_name() {
    let failure = |url: &str, timeout| fetch(url, timeout).failure;
    assert_eq!(failure("https://x/", TIMEOUT), Some(ProbeFailure::BadUrl));
    let closed = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
    assert_eq!(failure(&format!("http://{closed}/"), TIMEOUT), Some(ProbeFailure::Refused));
    // Nobody accepts and answers there: the kernel completes the handshake alone.
    let silent = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let silent = silent.local_addr().map(|address| (silent, address)).unwrap();
    assert_eq!(failure(&format!("http://{}/", silent.1), Duration::from_millis(50)), Some(ProbeFailure::Timeout));
    let not_http = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = not_http.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = not_http.accept().unwrap();
        let mut request = [0; 1024];
        let _ = stream.read(&mut request).unwrap();
        stream.write_all(b"220 mail.example ESMTP\r\n").unwrap();
    });
    assert_eq!(failure(&format!("http://{address}/"), TIMEOUT), Some(ProbeFailure::BadResponse));
    thread.join().unwrap();
}
