//! Looks at every packet that passes a namespace, and says which were WireGuard and which were plaintext.

use std::fs::File;
use std::io::{self, BufWriter, PipeWriter};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::netlink::{NetlinkError, Session};
use crate::netns::{Netns, NetnsError};
use crate::sys;
use crate::sys::packet::{FrameInfo, PacketSocket, VNET_HEADER};

mod classify;
mod filter;
mod packet;
mod pcap;
mod report;

use classify::{Class, classify, segments};
pub use filter::CaptureFilter;
use packet::{Packet, ethertype};
use pcap::PcapWriter;
pub use report::{CaptureReport, WireGuardCounts};

/// Room for frames that wait to be looked at: a burst of some 60,000 small ones, or 1,000 super-packets.
const RECEIVE_BUFFER: i32 = 64 << 20;
/// Holds the longest frame: a super-packet of BIG TCP, and headers.
const FRAME: usize = 256 << 10;
/// Link types whose frames begin with an Ethernet header (`linux/if_arp.h`).
const ARPHRD_ETHER: u16 = 1;
const ARPHRD_LOOPBACK: u16 = 772;
/// Length of the Ethernet header.
const ETHERNET_HEADER: usize = 14;

/// What a capture looks at, and what it keeps.
#[derive(Clone, Debug)]
pub struct CaptureOptions {
    /// UDP ports that WireGuard uses; by default 51820.
    pub wireguard_ports: Vec<u16>,
    /// One interface, or all of them (the default), also ones that come later.
    pub interface: Option<String>,
    /// Count packets on their way out, too. By default only those coming in are counted, so that a packet counts once
    /// where it is forwarded. Frames on the loopback come in as well.
    pub outgoing: bool,
    /// How many plaintext packets to keep a line of.
    pub samples: usize,
    /// Packets to count apart.
    pub filter: Option<CaptureFilter>,
    /// Packets that belong there although they are not WireGuard: counted as expected, not as plaintext.
    pub expected: Option<CaptureFilter>,
    /// A file to write all packets to, in pcap format.
    pub pcap: Option<PathBuf>,
}

impl Default for CaptureOptions {
    fn default() -> CaptureOptions {
        let (interface, filter, expected, pcap) = (None, None, None, None);
        CaptureOptions { wireguard_ports: vec![51820], interface, outgoing: false, samples: 10, filter, expected, pcap }
    }
}

/// Why a capture could not start or go on.
#[derive(Debug, thiserror::Error)]
pub enum CaptureError {
    /// The interface to look at could not be found.
    #[error("could not find interface {interface} in network namespace {netns}")]
    Interface {
        /// The interface.
        interface: String,
        /// The namespace.
        netns: String,
        /// The cause.
        #[source]
        source: NetnsError,
    },
    /// The packet socket could not be opened, or failed.
    #[error("packet socket in network namespace {netns}: root (CAP_NET_RAW and CAP_NET_ADMIN) is needed")]
    Socket {
        /// The namespace.
        netns: String,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The pcap file could not be written.
    #[error("could not write {path}: is there room on the disk?")]
    Pcap {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

/// A running capture. Dropping it ends it.
#[derive(Debug)]
pub struct Capture {
    report: Arc<Mutex<CaptureReport>>,
    /// Closing it tells the thread to finish.
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<Result<(), CaptureError>>>,
}

impl Capture {
    /// Starts to look at all interfaces of a namespace; every packet from the return on is seen or counted as lost.
    pub fn start(netns: &Netns) -> Result<Capture, CaptureError> {
        Capture::start_with(netns, CaptureOptions::default())
    }

    /// Starts to look at what `options` say.
    pub fn start_with(netns: &Netns, options: CaptureOptions) -> Result<Capture, CaptureError> {
        let name = netns.name().to_owned();
        let failed = |source| CaptureError::Socket { netns: name.clone(), source };
        let interface = match &options.interface {
            Some(interface) => index(netns, interface)?,
            None => 0,
        };
        let opened = netns.run(|| PacketSocket::open(interface, !options.outgoing, RECEIVE_BUFFER));
        let socket = opened.and_then(|opened| opened).map_err(failed)?;
        let pcap = options.pcap.as_ref().map(|path| {
            let created = File::create(path).and_then(|file| PcapWriter::new(BufWriter::new(file)));
            created.map_err(|source| CaptureError::Pcap { path: path.clone(), source })
        });
        let report = Arc::new(Mutex::new(CaptureReport::default()));
        let (stopped, stop) = io::pipe().map_err(failed)?;
        let worker = Worker { netns: name.clone(), socket, options, pcap: pcap.transpose()?, report: Arc::clone(&report) };
        let thread = std::thread::Builder::new().name("capture".to_owned());
        let thread = thread.spawn(move || worker.run(&stopped)).map_err(failed)?;
        Ok(Capture { report, stop: Some(stop), thread: Some(thread) })
    }

    /// Returns what was seen so far.
    pub fn report(&self) -> CaptureReport {
        lock(&self.report).clone()
    }

    /// Waits until `done` holds for what was seen; `None` when the time is over first.
    pub fn wait_for(&self, timeout: Duration, done: impl Fn(&CaptureReport) -> bool) -> Option<CaptureReport> {
        let deadline = Instant::now() + timeout;
        loop {
            let report = self.report();
            if done(&report) {
                return Some(report);
            }
            if Instant::now() >= deadline {
                return None;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Looks at what has already arrived, ends the capture, and returns what it saw.
    pub fn stop(mut self) -> Result<CaptureReport, CaptureError> {
        self.finish()?;
        Ok(self.report())
    }

    fn finish(&mut self) -> Result<(), CaptureError> {
        drop(self.stop.take());
        let Some(thread) = self.thread.take() else { return Ok(()) };
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic in there must not become a second one here.
            let _ = thread.join();
        }
    }
}

/// The thread of a capture.
struct Worker {
    netns: String,
    socket: PacketSocket,
    options: CaptureOptions,
    pcap: Option<PcapWriter<BufWriter<File>>>,
    report: Arc<Mutex<CaptureReport>>,
}

impl Worker {
    fn run(mut self, stopped: &io::PipeReader) -> Result<(), CaptureError> {
        let mut buffer = vec![0; FRAME];
        let mut last = false;
        loop {
            self.drain(&mut buffer)?;
            let drops = self.socket.take_drops().map_err(|source| self.failed(source))?;
            lock(&self.report).drops += drops;
            if last {
                let finished = self.pcap.take().map_or(Ok(()), PcapWriter::finish);
                return finished.map_err(|source| self.pcap_failed(source));
            }
            let ready = sys::poll(&[self.socket.as_fd(), stopped.as_fd()], None);
            // The second bit: once more, for what arrived before the order to stop.
            last = ready.map_err(|source| self.failed(source))? & 2 != 0;
        }
    }

    /// Looks at all that waits.
    fn drain(&mut self, buffer: &mut [u8]) -> Result<(), CaptureError> {
        loop {
            match self.socket.receive(buffer) {
                Ok(frame) => self.count(&frame, &buffer[..frame.length])?,
                Err(error) => match error.raw_os_error() {
                    Some(libc::EAGAIN) => return Ok(()),
                    // A network device went down, or was removed: the others go on.
                    Some(libc::EINTR | libc::ENETDOWN) => {}
                    // An older kernel cannot describe this super-packet: one frame that was not looked at.
                    Some(libc::EINVAL) => lock(&self.report).drops += 1,
                    _ => return Err(self.failed(error)),
                },
            }
        }
    }

    fn count(&mut self, frame: &FrameInfo, bytes: &[u8]) -> Result<(), CaptureError> {
        let (vnet_header, bytes) = bytes.split_at(VNET_HEADER.min(bytes.len()));
        let (segment, packets) = segments(vnet_header, bytes.len());
        let link_header = if matches!(frame.link_type, ARPHRD_ETHER | ARPHRD_LOOPBACK) { ETHERNET_HEADER } else { 0 };
        let network = bytes.get(link_header..).unwrap_or(&[]);
        let packet = Packet::parse(frame.protocol, network);
        let class = classify(frame.protocol, packet.as_ref(), segment, &self.options.wireguard_ports);
        let expects = |packet: &Packet<'_>| self.options.expected.as_ref().is_some_and(|filter| filter.matches(packet));
        let expected = packet.as_ref().is_some_and(expects);
        let mut report = lock(&self.report);
        match class {
            Class::WireGuard(counts) => {
                report.wireguard += counts.total();
                report.by_type.merge(counts);
            }
            Class::Neighbour => report.neighbour += packets,
            Class::Control => report.control += packets,
            Class::Other if expected => report.expected += packets,
            Class::Other => {
                report.other += packets;
                if report.samples.len() < self.options.samples {
                    report.samples.push(summary(frame, packet.as_ref(), network.len()));
                }
            }
        }
        if let (Some(filter), Some(packet)) = (&self.options.filter, &packet)
            && filter.matches(packet)
        {
            report.matched += packets;
        }
        drop(report);
        let written = self.pcap.as_mut().map_or(Ok(()), |pcap| pcap.write(frame, network));
        written.map_err(|source| self.pcap_failed(source))
    }

    fn failed(&self, source: io::Error) -> CaptureError {
        CaptureError::Socket { netns: self.netns.clone(), source }
    }

    fn pcap_failed(&self, source: io::Error) -> CaptureError {
        CaptureError::Pcap { path: self.options.pcap.clone().unwrap_or_default(), source }
    }
}

fn summary(frame: &FrameInfo, packet: Option<&Packet<'_>>, length: usize) -> String {
    match packet {
        Some(packet) => packet.to_string(),
        None if matches!(frame.protocol, ethertype::IPV4 | ethertype::IPV6) => format!("broken IP packet, {length} B"),
        None => format!("EtherType {:#06x}, {length} B", frame.protocol),
    }
}

fn index(netns: &Netns, interface: &str) -> Result<u32, CaptureError> {
    let found: Result<u32, NetnsError> =
        netns.netlink(async |session: &Session| -> Result<u32, NetlinkError> { session.index(interface).await });
    let netns = netns.name().to_owned();
    found.map_err(|source| CaptureError::Interface { interface: interface.to_owned(), netns, source })
}

fn lock(report: &Mutex<CaptureReport>) -> MutexGuard<'_, CaptureReport> {
    report.lock().unwrap_or_else(PoisonError::into_inner)
}
