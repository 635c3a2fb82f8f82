use std::net::Ipv4Addr;

use super::*;

const STALL: Duration = Duration::from_secs(10);

fn options(bytes: u64) -> TransferOptions {
    TransferOptions { bytes, rate: 0, seed: 7, stall: STALL }
}

#[test]
fn content_does_not_depend_on_how_it_is_read() {
    let mut whole = [0; 100];
    Content::new(3).fill(&mut whole);
    let mut content = Content::new(3);
    let mut parts = Vec::new();
    for length in [1, 7, 0, 30, 62] {
        let mut part = vec![0; length];
        content.fill(&mut part);
        parts.extend(part);
    }
    assert_eq!(parts, whole);
    // The reference values of splitmix64 for seed 0.
    let mut first = [0; 16];
    Content::new(0).fill(&mut first);
    assert_eq!(first[..8], 0xe220_a839_7b1d_cdaf_u64.to_le_bytes());
    assert_eq!(first[8..], 0x6e78_9e6a_a1b9_65f4_u64.to_le_bytes());
    assert_eq!(Checksum::default().value(), 0xcbf2_9ce4_8422_2325);
}

#[test]
fn both_ends_agree_on_a_transfer() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let receiver = std::thread::spawn(move || receive(&listener, STALL));
    let mut heard = 0;
    let rate = 2_000_000;
    let sent = send(address, TransferOptions { rate, ..options(500_001) }, |bytes| heard = bytes).unwrap();
    let received = receiver.join().unwrap().unwrap();
    assert_eq!((heard, sent.bytes, received.bytes), (500_001, 500_001, 500_001));
    assert_eq!(sent.checksum, received.checksum);
    assert!(sent.elapsed_ms >= 240, "paced: {sent:?}");
}

#[test]
fn a_wrong_byte_is_found_where_it_is() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let mut content = vec![0; 1000];
    Content::new(7).fill(&mut content);
    content[777] ^= 1;
    stream.write_all(&[MAGIC, 1000_u64.to_be_bytes(), 7_u64.to_be_bytes()].concat()).unwrap();
    stream.write_all(&content).unwrap();
    assert!(matches!(receive(&listener, STALL), Err(TransferError::Corrupt { at: 777, .. })));
}

#[test]
fn an_end_too_early_is_not_a_success() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let mut stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    stream.write_all(&[MAGIC, 1000_u64.to_be_bytes(), 7_u64.to_be_bytes()].concat()).unwrap();
    drop(stream);
    assert!(matches!(receive(&listener, STALL), Err(TransferError::Broken { at: 0, .. })));
}
