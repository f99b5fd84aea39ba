//! How often each size occurred. Responsible for quantiles and for counts up to a size, exact as long as there are few sizes; not
//! for what the sizes are of.

use foldhash::{HashMap, HashMapExt};

/// Sizes that are told apart. Beyond, they are rounded up to [`SIGNIFICANT_BITS`].
const EXACT_SIZES: usize = 1024;
/// Then a size is at most a thirty-second too high.
const SIGNIFICANT_BITS: u32 = 6;

/// A multiset of sizes in bounded memory.
#[derive(Debug, Clone, Default)]
pub(super) struct Sizes {
    counts: HashMap<u64, u64>,
    rounded: bool,
    max: u64,
}

impl Sizes {
    /// Adds one. O(1).
    pub(super) fn add(&mut self, size_bytes: u64) {
        self.max = self.max.max(size_bytes);
        let key = if self.rounded { round_up(size_bytes) } else { size_bytes };
        *self.counts.entry(key).or_default() += 1;
        if !self.rounded && self.counts.len() > EXACT_SIZES {
            self.rounded = true;
            let mut counts: HashMap<u64, u64> = HashMap::new();
            for (size, count) in self.counts.drain() {
                *counts.entry(round_up(size)).or_default() += count;
            }
            self.counts = counts;
        }
    }

    /// How many were added.
    pub(super) fn count(&self) -> u64 {
        self.counts.values().sum()
    }

    /// How many different ones are told apart.
    pub(super) fn distinct(&self) -> u64 {
        self.counts.len() as u64
    }

    /// The greatest; 0 of none.
    pub(super) fn max(&self) -> u64 {
        self.max
    }

    /// The size that this part of all (0 to 1) does not exceed; 0 of none. O(sizes log sizes).
    pub(super) fn quantile(&self, part: f64) -> u64 {
        let total = self.count();
        let rank = ((total as f64 * part).ceil() as u64).clamp(1, total.max(1));
        let mut seen = 0;
        for (size, count) in self.sorted() {
            seen += count;
            if seen >= rank {
                return size.min(self.max);
            }
        }
        0
    }

    /// How many are at most this size. Exact for what `quantile` returns.
    pub(super) fn count_up_to(&self, size_bytes: u64) -> u64 {
        let limit = if self.rounded { round_up(size_bytes) } else { size_bytes };
        self.counts.iter().filter(|(size, _)| **size <= limit).map(|(_, count)| count).sum()
    }

    /// What is missing of this size, summed over all smaller ones.
    pub(super) fn missing_to(&self, size_bytes: u64) -> u64 {
        self.counts.iter().map(|(size, count)| size_bytes.saturating_sub(*size).saturating_mul(*count)).sum()
    }

    /// The most frequent size with its count; the greater of equally frequent ones.
    pub(super) fn commonest(&self) -> Option<(u64, u64)> {
        let most = self.counts.iter().max_by_key(|(size, count)| (**count, **size));
        most.map(|(size, count)| (*size, *count))
    }

    fn sorted(&self) -> Vec<(u64, u64)> {
        let mut sorted: Vec<(u64, u64)> = self.counts.iter().map(|(size, count)| (*size, *count)).collect();
        sorted.sort_unstable();
        sorted
    }
}

fn round_up(size: u64) -> u64 {
    let bits = u64::BITS - size.leading_zeros();
    let low = bits.saturating_sub(SIGNIFICANT_BITS);
    size.checked_add((1 << low) - 1).map_or(u64::MAX, |size| size >> low << low)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_sizes_are_exact() {
        let mut sizes = Sizes::default();
        for size in [8, 8, 8, 24, 1_000_000] {
            sizes.add(size);
        }
        assert_eq!((sizes.count(), sizes.max(), sizes.commonest()), (5, 1_000_000, Some((8, 3))));
        assert_eq!((sizes.quantile(0.5), sizes.quantile(0.8), sizes.quantile(1.0)), (8, 24, 1_000_000));
        assert_eq!((sizes.count_up_to(23), sizes.count_up_to(24), sizes.missing_to(24)), (3, 4, 48));
        assert_eq!((Sizes::default().quantile(0.5), Sizes::default().commonest()), (0, None));
    }

    #[test]
    fn many_sizes_are_rounded_up_by_little() {
        let mut sizes = Sizes::default();
        for size in 1..=100_000 {
            sizes.add(size);
        }
        assert!(sizes.counts.len() < EXACT_SIZES);
        let median = sizes.quantile(0.5);
        assert!((50_000..=50_000 + 50_000 / 32).contains(&median), "{median}");
        assert_eq!(sizes.count_up_to(sizes.max()), 100_000);
        assert_eq!(round_up(u64::MAX), u64::MAX);
    }
}
