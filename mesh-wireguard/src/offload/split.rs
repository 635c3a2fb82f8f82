//! From a packet as the kernel left it to packets as they travel.

use super::checksum::{fold, pseudo_header, set_ipv4, sum};
use super::{Header, Malformed, Packets, Segments, long, set_word, word};

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// Finishes what the kernel left undone: appends the packets that `packet` stands for to `into`, with their checksums.
pub fn split(header: &Header, packet: &[u8], into: &mut Packets) -> Result<(), Malformed> {
    let protocol = match header.segments {
        Segments::None => return whole(header, packet, into),
        Segments::TcpV4 | Segments::TcpV6 => 6,
        Segments::Udp => 17,
    };
    let is_v4 = match packet.first().ok_or(Malformed)? >> 4 {
        4 => true,
        6 => false,
        _ => return Err(Malformed),
    };
    let contradicts = match header.segments {
        Segments::TcpV4 => !is_v4,
        Segments::TcpV6 => is_v4,
        Segments::None | Segments::Udp => false,
    };
    let transport = usize::from(header.checksum.ok_or(Malformed)?.0);
    let ip_len = if is_v4 { usize::from(packet[0] & 15) * 4 } else { 40 };
    if contradicts || transport < ip_len || transport < if is_v4 { 20 } else { 40 } {
        return Err(Malformed);
    }
    let transport_len = match protocol {
        6 => usize::from(packet.get(transport + 12).ok_or(Malformed)? >> 4) * 4,
        _ => 8,
    };
    let data = transport + transport_len;
    let segment = usize::from(header.segment_len);
    if packet.len() < data || segment == 0 || protocol == 6 && transport_len < 20 {
        return Err(Malformed);
    }
    let (id, sequence) = (word(packet, 4), if protocol == 6 { long(packet, transport + 4) } else { 0 });
    let count = (packet.len() - data).div_ceil(segment).max(1);
    for (number, piece) in packet[data..].chunks(segment).enumerate() {
        let len = data + piece.len();
        let out = &mut into.spare(len)[..len];
        out[..data].copy_from_slice(&packet[..data]);
        out[data..].copy_from_slice(piece);
        if is_v4 {
            set_word(out, 2, u16::try_from(len).map_err(|_| Malformed)?);
            set_word(out, 4, id.wrapping_add(number as u16));
            set_ipv4(out, ip_len);
        } else {
            set_word(out, 4, u16::try_from(len - 40).map_err(|_| Malformed)?);
        }
        let field = if protocol == 6 {
            let sequence = sequence.wrapping_add((number * segment) as u32);
            out[transport + 4..transport + 8].copy_from_slice(&sequence.to_be_bytes());
            let (is_first, is_last) = (number == 0, number + 1 == count);
            out[transport + 13] &= !(if is_first { 0 } else { CWR } | if is_last { 0 } else { FIN | PSH });
            transport + 16
        } else {
            set_word(out, transport + 4, (len - transport) as u16);
            transport + 6
        };
        set_word(out, field, 0);
        let sum = pseudo_header(out, protocol, len - transport) + sum(&out[transport..]);
        set_word(out, field, finish(sum, protocol == 17));
        into.commit(len);
    }
    Ok(())
}

/// A packet as any other, whose checksum may be left to do.
fn whole(header: &Header, packet: &[u8], into: &mut Packets) -> Result<(), Malformed> {
    let Some((start, offset)) = header.checksum else {
        into.push(packet);
        return Ok(());
    };
    let (start, field) = (usize::from(start), usize::from(start) + usize::from(offset));
    if packet.len() < field + 2 {
        return Err(Malformed);
    }
    // The field has the sum of the pseudo-header already.
    let checksum = finish(sum(&packet[start..]), offset == 6);
    let out = &mut into.spare(packet.len())[..packet.len()];
    out.copy_from_slice(packet);
    set_word(out, field, checksum);
    into.commit(packet.len());
    Ok(())
}

/// Returns the checksum of a sum; UDP says "none" by zero, and has the other zero for it (RFC 768).
fn finish(sum: u64, is_udp: bool) -> u16 {
    match !fold(sum) {
        0 if is_udp => 0xffff,
        checksum => checksum,
    }
}
