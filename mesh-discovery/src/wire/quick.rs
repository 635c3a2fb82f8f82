//! The common query, read in place: one question of class IN, nothing else but perhaps an OPT record.
//!
//! Whatever does not look exactly like that is for [`super::parse`], which knows all of the format. Both say the same of what
//! both can read.

use domain::base::Name;
use domain::base::iana::Rtype;

use super::{Edns, Transport, limit};

/// The length of a message's header, where the question's name begins.
pub(crate) const HEADER: usize = 12;

/// A query that was read in place.
pub(crate) struct QuickQuery<'a> {
    /// The message.
    packet: &'a [u8],
    /// The question's name in lower case.
    name: [u8; 255],
    name_len: usize,
    pub(crate) qtype: Rtype,
    pub(crate) edns: Option<Edns>,
    /// The most bytes that the reply may have.
    pub(crate) limit: usize,
}

impl<'a> QuickQuery<'a> {
    /// Reads `packet`; `None` where it has anything uncommon.
    pub(crate) fn read(packet: &'a [u8], transport: Transport) -> Option<QuickQuery<'a>> {
        // Flags: RD, AD and CD at most. One question, no answer, no authority, at most one additional record.
        let [_, _, flags, more, 0, 1, 0, 0, 0, 0, 0, additional @ (0 | 1)] = *packet.first_chunk::<HEADER>()? else {
            return None;
        };
        if flags & !0x01 != 0 || more & !0x30 != 0 {
            return None;
        }
        let mut end = HEADER;
        loop {
            match *packet.get(end)? {
                0 => break,
                // No compression: nothing lies before the name that it could point to.
                len @ 1..=63 => end += 1 + usize::from(len),
                _ => return None,
            }
        }
        let wire = packet.get(HEADER..=end)?;
        let mut name = [0; 255];
        let lower = name.get_mut(..wire.len())?;
        lower.copy_from_slice(wire);
        // The length bytes are below 64 and no letters.
        lower.make_ascii_lowercase();
        let [high, low, 0, 1] = *packet.get(end + 1..)?.first_chunk::<4>()? else { return None };
        let qtype = Rtype::from_int(u16::from_be_bytes([high, low]));
        let rest = &packet[end + 5..];
        let opt = match additional {
            0 if rest.is_empty() => None,
            0 => return None,
            _ => Some(Opt::read(rest)?),
        };
        let (edns, size) = opt.map_or((None, None), |opt| (Some(Edns { dnssec_ok: opt.dnssec_ok }), Some(opt.size)));
        Some(QuickQuery { packet, name, name_len: wire.len(), qtype, edns, limit: limit(transport, size) })
    }

    /// Returns the question's name in lower case.
    pub(crate) fn name(&self) -> &Name<[u8]> {
        Name::from_slice(self.wire_name()).expect("labels of 1 to 63 bytes that end in the root were read")
    }

    /// Returns the question's name in lower case, as it is written.
    pub(crate) fn wire_name(&self) -> &[u8] {
        &self.name[..self.name_len]
    }

    /// Returns the message's id.
    pub(crate) fn id(&self) -> u16 {
        u16::from_be_bytes([self.packet[0], self.packet[1]])
    }

    /// Returns header and question as they came.
    pub(crate) fn header_and_question(&self) -> &'a [u8] {
        &self.packet[..HEADER + self.name_len + 4]
    }
}

struct Opt {
    size: u16,
    dnssec_ok: bool,
}

impl Opt {
    /// Reads an OPT record of version 0 that is all of `rest`. Options say nothing that changes an answer.
    fn read(rest: &[u8]) -> Option<Opt> {
        let (head, options) = rest.split_first_chunk::<11>()?;
        let [0, 0, 41, size_high, size_low, _, 0, flags, _, len_high, len_low] = *head else { return None };
        let len = usize::from(u16::from_be_bytes([len_high, len_low]));
        let opt = Opt { size: u16::from_be_bytes([size_high, size_low]), dnssec_ok: flags & 0x80 != 0 };
        (options.len() == len).then_some(opt)
    }
}
