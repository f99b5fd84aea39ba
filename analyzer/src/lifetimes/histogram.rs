//! Distributions of ages and sizes. Responsible for quantiles in fixed memory; not for what is measured.

/// Buckets per doubling: a quantile is at most 1/8 too high.
const PER_DOUBLING: u64 = 8;
const BUCKETS: usize = 64 * PER_DOUBLING as usize;

/// A histogram with logarithmic buckets: exact below 16, then eight buckets per doubling. Grows to what is used of 512 counters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    sum: u128,
    max: u64,
}

impl Histogram {
    /// Adds a value. O(1).
    #[inline]
    pub fn add(&mut self, value: u64) {
        let bucket = bucket(value);
        if bucket >= self.counts.len() {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.total += 1;
        self.sum += u128::from(value);
        self.max = self.max.max(value);
    }

    /// Adds another one's values.
    pub fn merge(&mut self, other: &Self) {
        if other.counts.len() > self.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.sum += other.sum;
        self.max = self.max.max(other.max);
    }

    /// Values added.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// The value that this part of all values (0 to 1) does not exceed: the upper end of its bucket, at most the maximum. 0 of
    /// nothing.
    pub fn quantile(&self, part: f64) -> u64 {
        let rank = ((self.total as f64 * part).ceil() as u64).clamp(1, self.total.max(1));
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return highest(bucket).min(self.max);
            }
        }
        0
    }

    /// Arithmetic mean, 0 of nothing.
    pub fn mean(&self) -> f64 {
        if self.total == 0 { 0.0 } else { self.sum as f64 / self.total as f64 }
    }

    /// The greatest value.
    pub fn max(&self) -> u64 {
        self.max
    }
}

/// A histogram for where there are many of them: one bucket per doubling. Grows to what is used of 65 small counters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coarse {
    counts: Vec<u32>,
    max: u64,
}

impl Coarse {
    /// Adds a value. O(1).
    #[inline]
    pub fn add(&mut self, value: u64) {
        let bucket = (64 - value.leading_zeros()) as usize;
        if bucket >= self.counts.len() {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] = self.counts[bucket].saturating_add(1);
        self.max = self.max.max(value);
    }

    /// Adds another one's values.
    pub fn merge(&mut self, other: &Self) {
        if other.counts.len() > self.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine = mine.saturating_add(*theirs);
        }
        self.max = self.max.max(other.max);
    }

    /// Values added.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(|count| u64::from(*count)).sum()
    }

    /// A bound that this part of all values (0 to 1) does not exceed: less than twice the quantile, at most the greatest value.
    /// None of nothing.
    pub fn quantile(&self, part: f64) -> Option<u64> {
        let total = self.count();
        let rank = ((total as f64 * part).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += u64::from(*count);
            if seen >= rank {
                let highest = if bucket >= 64 { u64::MAX } else { (1 << bucket) - 1 };
                return Some(highest.min(self.max));
            }
        }
        None
    }
}

/// Below 16, each value has its own; above, the three bits after the first one choose.
#[inline]
fn bucket(value: u64) -> usize {
    if value < 2 * PER_DOUBLING {
        return value as usize;
    }
    let doubling = u64::from(value.ilog2());
    let within = (value >> (doubling - 3)) & (PER_DOUBLING - 1);
    (((doubling - 2) * PER_DOUBLING + within) as usize).min(BUCKETS - 1)
}

/// The greatest value of a bucket.
fn highest(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * PER_DOUBLING {
        return bucket;
    }
    let (doubling, within) = (bucket / PER_DOUBLING + 2, bucket % PER_DOUBLING);
    let width = 1u64 << (doubling - 3);
    (1u64 << doubling).wrapping_add(within * width).wrapping_add(width - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn quantiles_are_never_too_low_and_at_most_an_eighth_too_high(
            mut values in proptest::collection::vec(prop_oneof![0..20u64, 0..5_000u64, any::<u64>()], 1..200),
            part in 0.0..=1.0f64,
        ) {
            let mut histogram = Histogram::default();
            for value in &values {
                histogram.add(*value);
            }
            values.sort_unstable();
            let rank = ((values.len() as f64 * part).ceil() as usize).clamp(1, values.len());
            let (exact, found) = (values[rank - 1], histogram.quantile(part));
            prop_assert!(found >= exact, "{found} < {exact}");
            prop_assert!(found - exact <= exact / 8, "{found} for {exact}");
        }
    }

    #[test]
    fn coarse_quantiles_are_less_than_twice_too_high() {
        let mut coarse = Coarse::default();
        for value in [0, 1, 2, 3, 100, 1000, 1000, u64::MAX] {
            coarse.add(value);
        }
        assert_eq!((coarse.quantile(0.0), coarse.quantile(0.25), coarse.quantile(0.5)), (Some(0), Some(1), Some(3)));
        assert_eq!((coarse.quantile(0.8), coarse.quantile(1.0), coarse.count()), (Some(1023), Some(u64::MAX), 8));
    }

    #[test]
    fn merged_histograms_are_those_of_all_values() {
        let (mut one, mut two, mut all) = (Histogram::default(), Histogram::default(), Histogram::default());
        for value in 0..1000 {
            let part = if value % 3 == 0 { &mut one } else { &mut two };
            part.add(value * value);
            all.add(value * value);
        }
        one.merge(&two);
        assert_eq!(one, all);
        assert_eq!((all.count(), all.max()), (1000, 999 * 999));
        assert_eq!(Histogram::default().quantile(0.5), 0);
    }
}
