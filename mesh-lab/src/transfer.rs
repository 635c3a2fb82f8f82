//! A long, paced TCP transfer whose every byte is checked: what must survive the restart of an agent.
//!
//! The sender announces length and seed; the content is a function of the seed, so the receiver knows every byte
//! before it comes and can say where the first wrong one is. In the end it returns its checksum to the sender.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// The first bytes of a transfer.
const MAGIC: [u8; 8] = *b"LBXFER1\n";
/// How much is written or read at once. Small, so that a paced transfer has no long pauses of its own.
const CHUNK: usize = 16 << 10;

/// What is to be sent.
#[derive(Clone, Copy, Debug)]
pub struct TransferOptions {
    /// How many bytes.
    pub bytes: u64,
    /// Bytes per second; 0 for as fast as it goes.
    pub rate: u64,
    /// What content.
    pub seed: u64,
    /// How long the connection may stand still before the transfer counts as failed.
    pub stall: Duration,
}

/// How a transfer went, from one end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TransferReport {
    /// The other end.
    pub peer: SocketAddr,
    /// Bytes of content, all of them right.
    pub bytes: u64,
    /// Checksum of the content: the same at both ends.
    pub checksum: u64,
    /// From the first byte to the last, in milliseconds.
    pub elapsed_ms: u64,
    /// The longest time without progress, in milliseconds.
    pub longest_stall_ms: u64,
}

/// Why a transfer failed.
#[derive(Debug, thiserror::Error)]
pub enum TransferError {
    /// There was no connection to begin with.
    #[error("no connection to {peer}")]
    Connect {
        /// The other end.
        peer: SocketAddr,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The connection stood still for too long.
    #[error("transfer with {peer} stood still after {at} bytes")]
    Stalled {
        /// The other end.
        peer: SocketAddr,
        /// How far it had come.
        at: u64,
    },
    /// The connection broke.
    #[error("transfer with {peer} broke after {at} bytes")]
    Broken {
        /// The other end.
        peer: SocketAddr,
        /// How far it had come.
        at: u64,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A byte was not the one that was sent.
    #[error("transfer with {peer}: wrong content at byte {at}")]
    Corrupt {
        /// The other end.
        peer: SocketAddr,
        /// The first wrong byte.
        at: u64,
    },
}

/// Sends content to a [`receive`] at `peer`; `progress` hears how many bytes were sent so far.
pub fn send(peer: SocketAddr, options: TransferOptions, mut progress: impl FnMut(u64)) -> Result<TransferReport, TransferError> {
    let connected = TcpStream::connect_timeout(&peer, options.stall).and_then(|stream| {
        stream.set_read_timeout(Some(options.stall))?;
        stream.set_write_timeout(Some(options.stall))?;
        Ok(stream)
    });
    let mut stream = connected.map_err(|source| TransferError::Connect { peer, source })?;
    let mut watch = Watch::start(peer);
    let header = [MAGIC, options.bytes.to_be_bytes(), options.seed.to_be_bytes()].concat();
    stream.write_all(&header).map_err(|error| watch.failed(error))?;
    let mut content = Content::new(options.seed);
    let mut checksum = Checksum::default();
    let mut buffer = [0; CHUNK];
    while watch.bytes < options.bytes {
        let chunk = &mut buffer[..CHUNK.min(usize::try_from(options.bytes - watch.bytes).unwrap_or(CHUNK))];
        content.fill(chunk);
        checksum.update(chunk);
        let before = Instant::now();
        stream.write_all(chunk).map_err(|error| watch.failed(error))?;
        watch.progress(chunk.len(), before);
        progress(watch.bytes);
        if options.rate > 0 {
            let due = Duration::from_secs_f64(watch.bytes as f64 / options.rate as f64);
            std::thread::sleep(due.saturating_sub(watch.started.elapsed()));
        }
    }
    let mut verdict = [0; 8];
    stream.read_exact(&mut verdict).map_err(|error| watch.failed(error))?;
    if u64::from_be_bytes(verdict) != checksum.value() {
        return Err(TransferError::Corrupt { peer, at: watch.bytes });
    }
    Ok(watch.report(&checksum))
}

/// Accepts one connection and receives a transfer; `stall` limits how long it may stand still.
pub fn receive(listener: &TcpListener, stall: Duration) -> Result<TransferReport, TransferError> {
    let local = listener.local_addr().unwrap_or_else(|_| SocketAddr::from(([0; 4], 0)));
    let accepted = listener.accept().and_then(|(stream, peer)| {
        stream.set_read_timeout(Some(stall))?;
        stream.set_write_timeout(Some(stall))?;
        Ok((stream, SocketAddr::new(peer.ip().to_canonical(), peer.port())))
    });
    let (mut stream, peer) = accepted.map_err(|source| TransferError::Connect { peer: local, source })?;
    let mut watch = Watch::start(peer);
    let mut header = [[0; 8]; 3];
    stream.read_exact(header.as_flattened_mut()).map_err(|error| watch.failed(error))?;
    let [magic, length, seed] = header;
    if magic != MAGIC {
        return Err(TransferError::Corrupt { peer, at: 0 });
    }
    let length = u64::from_be_bytes(length);
    let mut content = Content::new(u64::from_be_bytes(seed));
    let mut checksum = Checksum::default();
    let (mut buffer, mut expected) = ([0; CHUNK], [0; CHUNK]);
    while watch.bytes < length {
        let room = CHUNK.min(usize::try_from(length - watch.bytes).unwrap_or(CHUNK));
        let before = Instant::now();
        let read = match stream.read(&mut buffer[..room]) {
            Ok(0) => return Err(watch.failed(io::ErrorKind::UnexpectedEof.into())),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            read => read.map_err(|error| watch.failed(error))?,
        };
        content.fill(&mut expected[..read]);
        if buffer[..read] != expected[..read] {
            let wrong = buffer.iter().zip(&expected).position(|(got, want)| got != want).unwrap_or(0);
            return Err(TransferError::Corrupt { peer, at: watch.bytes + wrong as u64 });
        }
        checksum.update(&buffer[..read]);
        watch.progress(read, before);
    }
    stream.write_all(&checksum.value().to_be_bytes()).map_err(|error| watch.failed(error))?;
    Ok(watch.report(&checksum))
}

/// Keeps time and count of one end.
struct Watch {
    peer: SocketAddr,
    started: Instant,
    bytes: u64,
    longest_stall: Duration,
}

impl Watch {
    fn start(peer: SocketAddr) -> Watch {
        Watch { peer, started: Instant::now(), bytes: 0, longest_stall: Duration::ZERO }
    }

    fn progress(&mut self, bytes: usize, since: Instant) {
        self.bytes += bytes as u64;
        self.longest_stall = self.longest_stall.max(since.elapsed());
    }

    fn failed(&self, source: io::Error) -> TransferError {
        let (peer, at) = (self.peer, self.bytes);
        match source.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => TransferError::Stalled { peer, at },
            _ => TransferError::Broken { peer, at, source },
        }
    }

    fn report(&self, checksum: &Checksum) -> TransferReport {
        TransferReport {
            peer: self.peer,
            bytes: self.bytes,
            checksum: checksum.value(),
            elapsed_ms: u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX),
            longest_stall_ms: u64::try_from(self.longest_stall.as_millis()).unwrap_or(u64::MAX),
        }
    }
}

/// Endless content: the output of splitmix64 from a seed.
#[derive(Clone, Debug)]
pub struct Content {
    state: u64,
    word: [u8; 8],
    used: usize,
}

impl Content {
    /// Returns the content of this seed, from its beginning.
    pub fn new(seed: u64) -> Content {
        Content { state: seed, word: [0; 8], used: 8 }
    }

    /// Fills a buffer with what comes next.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        // The rest of a word that was begun, then whole words, then a part of one.
        let rest = buffer.len().min(8 - self.used);
        let (begun, buffer) = buffer.split_at_mut(rest);
        begun.copy_from_slice(&self.word[self.used..self.used + rest]);
        self.used += rest;
        let mut words = buffer.chunks_exact_mut(8);
        for word in &mut words {
            word.copy_from_slice(&self.next_word());
        }
        let part = words.into_remainder();
        if !part.is_empty() {
            self.word = self.next_word();
            self.used = part.len();
            part.copy_from_slice(&self.word[..self.used]);
        }
    }

    fn next_word(&mut self) -> [u8; 8] {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)).to_le_bytes()
    }
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.fill(buffer);
        Ok(buffer.len())
    }
}

/// FNV-1a with 64 bits: finds accidents, not attacks.
#[derive(Clone, Copy, Debug)]
pub struct Checksum(u64);

impl Default for Checksum {
    fn default() -> Checksum {
        Checksum(0xcbf2_9ce4_8422_2325)
    }
}

impl Checksum {
    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        self.0 = bytes.iter().fold(self.0, step);
    }

    /// Returns the checksum of all bytes so far.
    pub fn value(&self) -> u64 {
        self.0
    }
}

impl Write for Checksum {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
