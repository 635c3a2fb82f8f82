//! What the kernel leaves undone for a device with offload, and takes undone from it: checksums, and TCP and UDP data in pieces
//! larger than a packet may be (virtio 1.2 §5.1.6, `linux/virtio_net.h`).
//!
//! ```text
//!   TUN ── header, super-packet ──> split ──> packets ──> engine ──> packets ──> merge ──> header, super-packet ──> TUN
//! ```

use crate::batch::Packets;

mod checksum;
mod merge;
mod split;
#[cfg(test)]
mod tests;

pub use self::merge::Merger;
pub use self::split::split;

/// The bytes of a header in front of a packet.
pub const HEADER_LEN: usize = 10;

/// `VIRTIO_NET_HDR_F_NEEDS_CSUM`: the checksum field has the sum of the pseudo-header, and the rest is left to do.
const NEEDS_CHECKSUM: u8 = 1;

/// The bytes are no packet that their header fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the packet and its offload header contradict each other")]
pub struct Malformed;

/// In what pieces a super-packet is to be sent on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Segments {
    /// It is a packet as any other.
    #[default]
    None,
    /// TCP over IPv4.
    TcpV4,
    /// TCP over IPv6.
    TcpV6,
    /// UDP over either, each piece a datagram.
    Udp,
}

/// The header in front of a packet (`struct virtio_net_hdr`, in the machine's own byte order).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// A checksum is left to do: from this byte on; it stands so many bytes behind that.
    pub checksum: Option<(u16, u16)>,
    /// How it is to be cut up.
    pub segments: Segments,
    /// Of TCP: it has CWR, which is its first segment's alone.
    pub ecn: bool,
    /// The bytes of all headers together.
    pub header_len: u16,
    /// The bytes of data in each piece but the last.
    pub segment_len: u16,
}

impl Header {
    /// Reads a header.
    pub fn read(bytes: &[u8; HEADER_LEN]) -> Result<Header, Malformed> {
        let [flags, kind, rest @ ..] = bytes;
        let word = |at: usize| u16::from_ne_bytes([rest[at], rest[at + 1]]);
        let segments = match kind & 0x7f {
            0 => Segments::None,
            1 => Segments::TcpV4,
            4 => Segments::TcpV6,
            5 => Segments::Udp,
            _ => return Err(Malformed),
        };
        Ok(Header {
            checksum: (flags & NEEDS_CHECKSUM != 0).then(|| (word(4), word(6))),
            segments,
            ecn: kind & 0x80 != 0,
            header_len: word(0),
            segment_len: word(2),
        })
    }

    /// Writes the header.
    pub fn write(&self) -> [u8; HEADER_LEN] {
        let kind = match self.segments {
            Segments::None => 0,
            Segments::TcpV4 => 1,
            Segments::TcpV6 => 4,
            Segments::Udp => 5,
        };
        let (flags, (start, offset)) = self.checksum.map_or((0, (0, 0)), |checksum| (NEEDS_CHECKSUM, checksum));
        let mut bytes = [0; HEADER_LEN];
        (bytes[0], bytes[1]) = (flags, kind | u8::from(self.ecn) << 7);
        for (at, word) in [self.header_len, self.segment_len, start, offset].into_iter().enumerate() {
            bytes[2 + 2 * at..][..2].copy_from_slice(&word.to_ne_bytes());
        }
        bytes
    }
}

/// Reads a word in network order.
fn word(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn set_word(bytes: &mut [u8], at: usize, value: u16) {
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

fn long(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}
