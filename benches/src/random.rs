//! The generator's random numbers: the same on every machine and in every version, or figures could not be compared.

/// SplitMix64 (Steele, Lea, Flood 2014): small, well mixed, and good enough to draw fleets with.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// Makes the numbers that belong to the `number`th thing of a `kind`, whatever else is drawn before it.
    pub fn of(kind: &str, number: u64) -> Random {
        let kind = kind.bytes().fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| {
            (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3) // FNV-1a
        });
        let mut random = Random(kind ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Draws 32 bits.
    pub fn bits(&mut self) -> u32 {
        (self.next() >> 32) as u32
    }

    /// Draws a number less than `end`, which is not 0.
    pub fn below(&mut self, end: u32) -> u32 {
        // The bias of the multiplication is less than 2^-32 for each value, which no benchmark can see.
        ((u64::from(self.bits()) * u64::from(end)) >> 32) as u32
    }

    /// Draws `true` in `percent` of 100 cases.
    pub fn percent(&mut self, percent: u32) -> bool {
        self.below(100) < percent
    }

    /// Draws one of `items`, each as likely as any other.
    pub fn one<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(u32::try_from(items.len()).expect("fewer items than a u32 counts")) as usize]
    }
}

/// Ranks by popularity: a rank is as likely as its weight says.
#[derive(Clone, Debug)]
pub struct Ranks(Vec<f64>);

impl Ranks {
    /// Zipf's law with exponent 1: rank `k`, from 1, has the weight 1/k.
    pub fn zipf(count: u32) -> Ranks {
        Ranks::weighted(count, |rank| 1.0 / rank)
    }

    /// Zipf's law with exponent 1/2, whose first ranks take less of everything.
    pub fn gentle(count: u32) -> Ranks {
        // Not `powf`, which differs in the last bit from machine to machine: `sqrt` is exact.
        Ranks::weighted(count, |rank| 1.0 / rank.sqrt())
    }

    fn weighted(count: u32, weight: impl Fn(f64) -> f64) -> Ranks {
        let mut sum = 0.0;
        let sums = (1..=count).map(|rank| {
            sum += weight(f64::from(rank));
            sum
        });
        Ranks(sums.collect())
    }

    /// Draws a rank, from 0.
    pub fn draw(&self, random: &mut Random) -> u32 {
        let total = self.0.last().copied().expect("there is a rank");
        let at = f64::from(random.bits()) / f64::from(u32::MAX) * total;
        let rank = self.0.partition_point(|sum| *sum <= at).min(self.0.len() - 1);
        u32::try_from(rank).expect("as many ranks as a u32 counts")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_are_the_same_for_ever() {
        let mut random = Random::of("test", 7);
        assert_eq!([random.bits(), random.bits(), random.below(1000)], [2_345_928_736, 132_055_444, 754]);
    }

    #[test]
    fn ranks_follow_their_weights() {
        let (ranks, mut random) = (Ranks::zipf(4), Random::of("ranks", 0));
        let mut counts = [0_u32; 4];
        (0..100_000).for_each(|_| counts[ranks.draw(&mut random) as usize] += 1);
        // 1 + 1/2 + 1/3 + 1/4 = 25/12: 48 %, 24 %, 16 % and 12 % of the draws.
        for (count, percent) in counts.into_iter().zip([48, 24, 16, 12]) {
            assert!((count / 100).abs_diff(percent * 10) < 10, "{counts:?}");
        }
    }
}
