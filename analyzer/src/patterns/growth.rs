//! How a table grows, step by step. Responsible for telling growth by the same few bytes again and again from growth that is
//! amortised; not for which blocks are one table (see `appends`, `reallocs`).
//!
//! ```text
//!  bytes    8  16  24  32  40  48           each step 8: a run of five, quadratic copying
//!           8  16  32  64 128 256           each step doubles: runs of one
//!          32  64 128 192 256 320 416 512   amortised by an eighth: steps repeat for a while, but rise over and over
//! ```
//!
//! So a *run* is a sequence of steps of the same size. It counts from [`LEAST_STEPS`] on; where the table's step rose before or
//! after it, only from [`LEAST_STEPS_IF_RISING`] on, which no growth by a part of the size reaches at small sizes.

/// Steps in a row that make growth linear.
pub(super) const LEAST_STEPS: u64 = 4;
/// The same where the step has risen before or rises afterwards.
const LEAST_STEPS_IF_RISING: u64 = 16;

/// A table that is growing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Growth {
    run: Run,
}

/// Steps of the same size in a row.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Run {
    /// What each step adds.
    pub(super) step_bytes: u64,
    /// How many.
    pub(super) step_count: u64,
    /// The size before the first.
    pub(super) first_bytes: u64,
    /// The size after the last.
    pub(super) last_bytes: u64,
    /// Sizes before each step, summed: what had to be copied.
    pub(super) copied_bytes: u64,
    /// Another step of the table, before or after, was greater the later it came.
    rising: bool,
}

impl Growth {
    /// A table whose step has risen before, or not.
    pub(super) fn after(rising: bool) -> Self {
        Self { run: Run { rising, ..Run::default() } }
    }

    /// The table grows from one size to a greater one. Returns the run that this ends.
    pub(super) fn step(&mut self, old_bytes: u64, new_bytes: u64) -> Option<Run> {
        let step_bytes = new_bytes.saturating_sub(old_bytes);
        let mut ended = None;
        if self.run.step_count == 0 || self.run.step_bytes != step_bytes {
            let rises = self.run.step_count > 0 && step_bytes > self.run.step_bytes;
            let rising = rises || (self.run.step_count == 0 && self.run.rising);
            self.run.rising |= rises;
            ended = Some(self.run).filter(|run| run.step_count > 0);
            self.run = Run { step_bytes, first_bytes: old_bytes, rising, ..Run::default() };
        }
        self.run.step_count += 1;
        self.run.copied_bytes = self.run.copied_bytes.saturating_add(old_bytes);
        self.run.last_bytes = new_bytes;
        ended
    }

    /// What the latest step added.
    pub(super) fn step_bytes(&self) -> u64 {
        self.run.step_bytes
    }

    /// Steps of the same size so far.
    pub(super) fn step_count(&self) -> u64 {
        self.run.step_count
    }

    /// The table grows no more.
    pub(super) fn end(self) -> Option<Run> {
        Some(self.run).filter(|run| run.step_count > 0)
    }
}

impl Run {
    /// Whether this is growth by the same step again and again.
    pub(super) fn is_linear(&self) -> bool {
        self.step_count >= if self.rising { LEAST_STEPS_IF_RISING } else { LEAST_STEPS }
    }

    /// What doubling the capacity would have copied from the same first to the same last size: the capacity each time it is
    /// full.
    pub(super) fn doubling_copied_bytes(&self) -> u64 {
        let mut capacity = self.first_bytes.max(1);
        let mut copied: u64 = 0;
        while capacity < self.last_bytes {
            copied = copied.saturating_add(capacity);
            capacity = capacity.saturating_mul(2);
        }
        copied
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs of a table with these sizes one after the other that are linear.
    fn linear(sizes: &[u64]) -> Vec<Run> {
        let mut growth = Growth::default();
        let mut runs: Vec<Run> = sizes.windows(2).filter_map(|pair| growth.step(pair[0], pair[1])).collect();
        runs.extend(growth.end());
        runs.into_iter().filter(Run::is_linear).collect()
    }

    #[test]
    fn one_more_each_time_is_a_run_with_exact_copies() {
        let sizes: Vec<u64> = (1..=100).map(|count| 24 * count).collect();
        let [run] = linear(&sizes)[..] else { panic!("one run") };
        assert_eq!((run.step_bytes, run.step_count, run.copied_bytes), (24, 99, 24 * 99 * 100 / 2));
        assert_eq!(run.doubling_copied_bytes(), 24 * (1 + 2 + 4 + 8 + 16 + 32 + 64));
    }

    #[test]
    fn amortised_growth_is_none() {
        let by = |grow: fn(u64) -> u64| -> Vec<u64> {
            std::iter::successors(Some(1), |count| Some(grow(*count))).take_while(|count| *count < 100_000).collect()
        };
        // Python's lists: an eighth and a little more, in fours.
        let eighth = |count: u64| ((count + 1) + ((count + 1) >> 3) + 6) & !3;
        for grow in [
            |count| count * 2,
            |count: u64| (count + count / 2).max(count + 1),
            |count: u64| (count + count / 4).max(count + 1).next_multiple_of(2),
            |count: u64| (count * 2).max(4),
            eighth,
        ] {
            let sizes: Vec<u64> = by(grow).into_iter().map(|count| count * 8).collect();
            for end in 2..sizes.len() {
                assert_eq!(linear(&sizes[..end]), [], "{:?}", &sizes[..end]);
            }
        }
    }

    #[test]
    fn three_steps_are_no_run_and_a_break_ends_one() {
        assert_eq!(linear(&[8, 16, 24, 32]), []);
        let runs = linear(&[80, 88, 96, 104, 112, 116, 117, 118, 119, 120]);
        assert_eq!(runs.iter().map(|run| (run.step_bytes, run.step_count)).collect::<Vec<_>>(), [(8, 4), (1, 4)]);
    }
}
