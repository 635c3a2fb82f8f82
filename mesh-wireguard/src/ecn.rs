//! Congestion marks through the tunnel (RFC 6040, normal mode): a datagram has the mark of the packet inside, and a packet that
//! comes out has what its datagram met on the way.
//!
//! | inside \ outside | Not-ECT | ECT(0) | ECT(1) | CE |
//! | --- | --- | --- | --- | --- |
//! | Not-ECT | Not-ECT | Not-ECT | Not-ECT | dropped |
//! | ECT(0) | ECT(0) | ECT(0) | ECT(1) | CE |
//! | ECT(1) | ECT(1) | ECT(1) | ECT(1) | CE |
//! | CE | CE | CE | CE | CE |

/// The two bits.
pub(crate) const MASK: u8 = 0b11;
const NOT_ECT: u8 = 0b00;
const ECT_1: u8 = 0b01;
const ECT_0: u8 = 0b10;
const CE: u8 = 0b11;

/// Returns the mark of an IP packet; Not-ECT for anything else.
pub(crate) fn of(packet: &[u8]) -> u8 {
    match packet {
        [first, second, ..] if first >> 4 == 4 => second & MASK,
        [first, second, ..] if first >> 4 == 6 => (second >> 4) & MASK,
        _ => NOT_ECT,
    }
}

/// Gives an IP packet the mark that it has after a way with the mark `outer`; `false` where it is to be dropped: it met
/// congestion, and its sender would not hear of that in another way.
#[must_use]
pub(crate) fn arrive(packet: &mut [u8], outer: u8) -> bool {
    match (of(packet), outer & MASK) {
        (NOT_ECT, CE) => return false,
        (ECT_0 | ECT_1, CE) => set(packet, CE),
        (ECT_0, ECT_1) => set(packet, ECT_1),
        _ => {}
    }
    true
}

fn set(packet: &mut [u8], mark: u8) {
    let [first, second, ..] = packet else { return };
    if *first >> 4 == 6 {
        *second = (*second & !(MASK << 4)) | mark << 4;
        return;
    }
    let before = *second;
    *second = (before & !MASK) | mark;
    // RFC 1624, equation 3: the sum without the old word and with the new one. They differ in their lower byte.
    let after = *second;
    if let Some([high, low]) = packet.get_mut(10..12) {
        let sum = u32::from(!u16::from_be_bytes([*high, *low])) + u32::from(!u16::from(before)) + u32::from(after);
        let sum = (sum & 0xffff) + (sum >> 16);
        [*high, *low] = (!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(mark: u8, id: u16) -> Vec<u8> {
        let mut packet = vec![0; 28];
        (packet[0], packet[1], packet[3], packet[8], packet[9]) = (0x45, 0xb8 | mark, 28, 64, 17);
        packet[4..6].copy_from_slice(&id.to_be_bytes());
        packet[12..20].copy_from_slice(&[10, 0, 0, 9, 10, 1, 0, 9]);
        let sum = checksum(&packet);
        packet[10..12].copy_from_slice(&sum.to_be_bytes());
        packet
    }

    fn checksum(header: &[u8]) -> u16 {
        let sum: u32 = header[..20].chunks(2).map(|word| u32::from(u16::from_be_bytes([word[0], word[1]]))).sum();
        let sum = (sum & 0xffff) + (sum >> 16);
        !((sum & 0xffff) + (sum >> 16)) as u16
    }

    #[test]
    fn every_pair_of_marks_is_as_rfc_6040_says() {
        let table = [
            (NOT_ECT, [Some(NOT_ECT), Some(NOT_ECT), Some(NOT_ECT), None]),
            (ECT_0, [Some(ECT_0), Some(ECT_0), Some(ECT_1), Some(CE)]),
            (ECT_1, [Some(ECT_1), Some(ECT_1), Some(ECT_1), Some(CE)]),
            (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
        ];
        for (inner, row) in table {
            for (outer, expected) in [NOT_ECT, ECT_0, ECT_1, CE].into_iter().zip(row) {
                let mut v6 = vec![0x6b, 0x80 | inner << 4 | 0x05, 1, 2];
                assert_eq!(of(&v6), inner);
                assert_eq!(arrive(&mut v6, outer).then(|| of(&v6)), expected, "IPv6 {inner} {outer}");
                assert_eq!((v6[0], v6[1] & 0xcf), (0x6b, 0x85), "nothing else is touched");
                // Sums that carry once, twice and not at all.
                for id in (0..=u16::MAX).step_by(7) {
                    let mut packet = v4(inner, id);
                    assert_eq!(arrive(&mut packet, outer).then(|| of(&packet)), expected, "IPv4 {inner} {outer}");
                    assert_eq!((packet[1] & 0xfc, checksum(&packet)), (0xb8, 0), "the checksum is right");
                }
            }
        }
    }

    #[test]
    fn what_is_no_packet_has_no_mark() {
        for bytes in [&[][..], &[0x45], &[0x15, 0xff], &[0xf5, 0xff]] {
            assert_eq!(of(bytes), NOT_ECT);
            let mut bytes = bytes.to_vec();
            assert!(arrive(&mut bytes, ECT_1) && !arrive(&mut bytes, CE));
        }
    }
}
