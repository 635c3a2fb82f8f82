//! How often something may happen: token buckets, under the caller's clock.

use std::time::Duration;

use crate::Time;

/// How often something may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// In a second, over time; at least one.
    pub per_second: u32,
    /// At once, after a pause.
    pub burst: u32,
}

/// What is left of a rate. A new one is full.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bucket {
    tokens: u32,
    /// The moment up to which tokens were given; `None` before the first use.
    filled: Option<Time>,
}

impl Bucket {
    /// Tells whether it may happen now; the caller says with [`Bucket::take`] that it does.
    pub fn has(&mut self, rate: Rate, now: Time) -> bool {
        let period = Duration::from_secs(1) / rate.per_second.max(1);
        let gained = match self.filled {
            None => u128::MAX,
            Some(filled) => now.since(filled).as_nanos() / period.as_nanos(),
        };
        let missing = rate.burst.saturating_sub(self.tokens);
        self.filled = match self.filled {
            Some(filled) if gained < missing.into() => Some(filled + period * gained as u32),
            _ => Some(now),
        };
        self.tokens += u128::from(missing).min(gained) as u32;
        self.tokens > 0
    }

    /// Takes a token, if one is left.
    pub fn take(&mut self) {
        self.tokens = self.tokens.saturating_sub(1);
    }

    /// Tells whether the bucket is as good as a new one.
    pub fn is_full(mut self, rate: Rate, now: Time) -> bool {
        self.has(rate, now);
        self.tokens >= rate.burst
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const RATE: Rate = Rate { per_second: 10, burst: 3 };

    proptest! {
        /// In any span of time no more happens than the burst and what the rate gives for the span; and that much can.
        #[test]
        fn no_span_has_more_than_its_share(steps in prop::collection::vec((0u64..400, 1u32..6), 1..60)) {
            let (mut bucket, mut now, mut taken) = (Bucket::default(), Time::ZERO, Vec::new());
            for (millis, tries) in steps {
                now = now + Duration::from_millis(millis);
                for _ in 0..tries {
                    if bucket.has(RATE, now) {
                        bucket.take();
                        taken.push(now);
                    }
                }
                for (at, first) in taken.iter().enumerate() {
                    let allowed = 3 + now.since(*first).as_nanos() / 100_000_000 + 1;
                    prop_assert!((taken.len() - at) as u128 <= allowed);
                }
            }
            let late = now + Duration::from_secs(1);
            prop_assert!(bucket.is_full(RATE, late));
            let burst = (0..5).filter(|_| { let has = bucket.has(RATE, late); bucket.take(); has }).count();
            prop_assert_eq!(burst, 3);
        }
    }
}
