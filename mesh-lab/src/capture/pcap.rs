//! The classic pcap format, with Linux cooked headers (LINKTYPE_LINUX_SLL2, 276): frames of all interfaces in one file.

use std::io::{self, Write};
use std::time::{Duration, SystemTime};

use crate::sys::packet::FrameInfo;

/// pcap with timestamps in nanoseconds, in the byte order of the writer.
const MAGIC: u32 = 0xa1b2_3c4d;
const LINKTYPE_LINUX_SLL2: u32 = 276;
/// Longer than the longest super-packet.
const SNAPLEN: u32 = 0x0004_0000;

/// Writes a capture file.
#[derive(Debug)]
pub(super) struct PcapWriter<W: Write>(W);

impl<W: Write> PcapWriter<W> {
    pub(super) fn new(mut out: W) -> io::Result<PcapWriter<W>> {
        // Magic, version 2.4 (two 16-bit numbers), time zone, accuracy, snapshot length, link type.
        for word in [MAGIC, u32::from_ne_bytes(version()), 0, 0, SNAPLEN, LINKTYPE_LINUX_SLL2] {
            out.write_all(&word.to_ne_bytes())?;
        }
        Ok(PcapWriter(out))
    }

    /// Writes a frame, which begins with the network layer.
    pub(super) fn write(&mut self, frame: &FrameInfo, bytes: &[u8]) -> io::Result<()> {
        let time = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let length = u32::try_from(bytes.len() + 20).unwrap_or(SNAPLEN);
        // Seconds are cut to 32 bits: the format's.
        for word in [time.as_secs() as u32, time.subsec_nanos(), length, length] {
            self.0.write_all(&word.to_ne_bytes())?;
        }
        self.0.write_all(&frame.protocol.to_be_bytes())?;
        self.0.write_all(&[0, 0])?;
        self.0.write_all(&frame.interface.to_be_bytes())?;
        self.0.write_all(&frame.link_type.to_be_bytes())?;
        self.0.write_all(&[frame.packet_type, frame.address.0])?;
        self.0.write_all(&frame.address.1)?;
        self.0.write_all(bytes)
    }

    pub(super) fn finish(mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Returns the version field: major 2, then minor 4, each 16 bits.
fn version() -> [u8; 4] {
    let ([a, b], [c, d]) = (2_u16.to_ne_bytes(), 4_u16.to_ne_bytes());
    [a, b, c, d]
}
