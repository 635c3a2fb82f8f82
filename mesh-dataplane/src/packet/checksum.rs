//! The Internet checksum (RFC 1071): a packet has the complement of the folded sum.

/// Adds up `bytes` as words in network order; an odd last byte is the upper half of a word.
pub fn sum(bytes: &[u8]) -> u64 {
    let (chunks, rest) = bytes.as_chunks::<4>();
    // 32 bits at once: a carry between the halves comes back in when they are folded.
    let mut sum: u64 = chunks.iter().map(|chunk| u64::from(u32::from_be_bytes(*chunk))).sum();
    let (words, odd) = rest.as_chunks::<2>();
    sum += words.iter().map(|word| u64::from(u16::from_be_bytes(*word))).sum::<u64>();
    sum + odd.first().map_or(0, |byte| u64::from(*byte) << 8)
}

/// Folds a sum to 16 bits.
pub fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_the_rfc_and_odd_lengths() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
        for len in 0..40u8 {
            let bytes: Vec<u8> = (0..len).map(|at| at.wrapping_mul(97).wrapping_add(0xe0)).collect();
            let mut padded = bytes.clone();
            padded.resize(bytes.len().next_multiple_of(2), 0);
            let expected = padded.chunks(2).map(|word| u64::from(u16::from_be_bytes([word[0], word[1]]))).sum();
            assert_eq!(fold(sum(&bytes)), fold(expected), "{len}");
        }
    }
}
