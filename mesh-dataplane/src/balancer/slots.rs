//! Weighted rendezvous over slots: every backend has a score for every slot, and the best one has it.
//!
//! A backend's scores are the numbers of a permutation, seeded by its address and port: each quantile once, which spreads the
//! shares less than scores drawn one by one would. With weight `w` and quantile `q` a backend's time of arrival is
//! `-log(q) / w`, and who comes first has the slot, with probability `w` of all weights.

use std::net::IpAddr;

/// The permutation that says in which group's share a slot lies.
pub(super) const GATE_SEED: u64 = 0x6c61_6e64_6272_6964;

/// Fractional bits of a logarithm.
const BITS: u32 = 24;

/// A backend that takes part.
#[derive(Clone, Copy, Debug)]
pub(super) struct Entrant {
    pub(super) at: (IpAddr, u16),
    pub(super) weight: u64,
}

/// Returns how many slots a service with so many backends has, ready or not: at least 32 for each up to 128 of them. The steps
/// are wide because a table of another size sends nearly every client elsewhere; connections that exist stay anyway.
pub(super) fn slot_count(backends: usize) -> usize {
    match backends {
        0..=1 => 1,
        2..=4 => 128,
        5..=32 => 1024,
        _ => 4096,
    }
}

/// Returns the backend of each slot that is `inside`, where there is an entrant.
pub(super) fn choose(count: usize, entrants: &[Entrant], inside: impl Fn(usize) -> bool) -> Vec<Option<(IpAddr, u16)>> {
    /// The best so far: its arrival before the division by the weight, its weight, and what decides a tie.
    struct Best {
        arrival: u64,
        weight: u64,
        tie: u64,
        at: (IpAddr, u16),
    }
    let arrivals = arrivals(count);
    let mut best: Vec<Option<Best>> = Vec::new();
    best.resize_with(count, || None);
    for entrant in entrants {
        let seed = seed(entrant.at);
        let quantiles = permutation(count, seed);
        for (slot, best) in best.iter_mut().enumerate().filter(|(slot, _)| inside(*slot)) {
            let arrival = arrivals[usize::from(quantiles[slot])];
            let is_first = best.as_ref().is_none_or(|best| {
                let (own, other) = (arrival * best.weight, best.arrival * entrant.weight);
                own < other || own == other && mix(seed ^ slot as u64) < best.tie
            });
            if is_first {
                *best = Some(Best { arrival, weight: entrant.weight, tie: mix(seed ^ slot as u64), at: entrant.at });
            }
        }
    }
    best.into_iter().map(|best| best.map(|best| best.at)).collect()
}

/// Returns the numbers below `count` in an order that follows from `seed`.
pub(super) fn permutation(count: usize, seed: u64) -> Vec<u16> {
    let mut numbers: Vec<u16> = (0..count).map(|number| u16::try_from(number).expect("there are 4096 slots at most")).collect();
    let mut state = seed;
    for last in (1..count).rev() {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        // The high half of a product maps 64 bits onto the range without a division.
        let other = (u128::from(mix(state)) * (last as u128 + 1)) >> 64;
        numbers.swap(last, other as usize);
    }
    numbers
}

/// Returns `-log2` of each quantile's middle, in fixed point: integers, so that every machine has the same.
fn arrivals(count: usize) -> Vec<u64> {
    let whole = log2(2 * count as u64);
    (0..count as u64).map(|quantile| whole - log2(2 * quantile + 1)).collect()
}

/// Returns the binary logarithm of `value`, which is not zero, with [`BITS`] fractional bits.
fn log2(value: u64) -> u64 {
    let exponent = value.ilog2();
    let mut result = u64::from(exponent) << BITS;
    // The mantissa in [1, 2) with 31 fractional bits: squared, its exponent is the next bit.
    let mut mantissa = if exponent > 31 { value >> (exponent - 31) } else { value << (31 - exponent) };
    for bit in (0..BITS).rev() {
        mantissa = (mantissa * mantissa) >> 31;
        if mantissa >> 32 > 0 {
            mantissa >>= 1;
            result |= 1 << bit;
        }
    }
    result
}

fn seed((address, port): (IpAddr, u16)) -> u64 {
    let bits = match address {
        IpAddr::V4(address) => u128::from(address.to_bits()),
        IpAddr::V6(address) => u128::from(address),
    };
    mix(mix(bits as u64 ^ mix((bits >> 64) as u64)).wrapping_add(u64::from(port)))
}

/// The finalizer of SplitMix64: a small difference of the input changes half of the output.
fn mix(mut bits: u64) -> u64 {
    bits = bits.wrapping_add(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_right_to_its_last_bits() {
        for value in 1..=8192u64 {
            let exact = (value as f64).log2() * f64::from(1u32 << BITS);
            assert!((log2(value) as f64 - exact).abs() < 4.0, "{value}: {} {exact}", log2(value));
        }
    }

    #[test]
    fn a_permutation_has_every_number_once() {
        for count in [1, 128, 1024, 4096] {
            let mut numbers = permutation(count, 7);
            assert!(count == 1 || numbers != permutation(count, 8));
            numbers.sort_unstable();
            assert!(numbers.iter().enumerate().all(|(index, number)| usize::from(*number) == index));
        }
    }
}
