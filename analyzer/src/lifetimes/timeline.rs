//! Live bytes over time. Responsible for sampling them in bounded memory, whatever the length of the trace; not for drawing.
//!
//! Time is cut into bins of equal length. When there are too many, each two become one and bins are twice as long from then
//! on. A bin keeps the live bytes of each row as they were at its end, and the greatest sum within it.

use crate::phases::RowId;

/// Most bins; at least half of them are in use after that many.
pub const MAX_BINS: usize = 1024;
/// Length of the first bins.
const FIRST_BIN_NS: u64 = 50_000;

/// Samples of live bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Timeline {
    /// Length of a bin.
    pub bin_ns: u64,
    /// The bins, from time 0 on.
    pub bins: Vec<Bin>,
    live: Vec<u64>,
    sum: u64,
    max: u64,
    end_ns: u64,
    dirty: bool,
}

/// One bin.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Bin {
    /// Live bytes of each row at its end.
    pub live_bytes: Vec<u64>,
    /// The greatest sum within it.
    pub max_bytes: u64,
}

impl Default for Timeline {
    fn default() -> Self {
        Self {
            bin_ns: FIRST_BIN_NS,
            bins: Vec::new(),
            live: Vec::new(),
            sum: 0,
            max: 0,
            end_ns: FIRST_BIN_NS,
            dirty: true,
        }
    }
}

impl Timeline {
    /// Time goes on to `now_ns`.
    #[inline]
    pub fn advance(&mut self, now_ns: u64) {
        while now_ns >= self.end_ns {
            self.end_bin();
        }
    }

    /// The live bytes of a row are these now.
    #[inline]
    pub fn changed(&mut self, row: RowId, live_bytes: u64) {
        let at = row.0 as usize;
        if at >= self.live.len() {
            self.live.resize(at + 1, 0);
        }
        self.sum = self.sum - self.live[at] + live_bytes;
        self.live[at] = live_bytes;
        self.max = self.max.max(self.sum);
        self.dirty = true;
    }

    /// The trace ends.
    pub fn finish(&mut self, now_ns: u64) {
        self.advance(now_ns);
        self.end_bin();
    }

    fn end_bin(&mut self) {
        let live_bytes = match self.bins.last() {
            // Nothing happened: the same as before.
            Some(last) if !self.dirty => last.live_bytes.clone(),
            _ => self.live.clone(),
        };
        self.dirty = false;
        self.bins.push(Bin { live_bytes, max_bytes: self.max });
        self.max = self.sum;
        if self.bins.len() >= MAX_BINS {
            let mut kept = Vec::with_capacity(MAX_BINS);
            for pair in self.bins.chunks_mut(2) {
                let max_bytes = pair.iter().map(|bin| bin.max_bytes).max().unwrap_or(0);
                let last = pair.last_mut().map(std::mem::take).unwrap_or_default();
                kept.push(Bin { max_bytes, ..last });
            }
            self.bins = kept;
            self.bin_ns *= 2;
        }
        self.end_ns = self.bin_ns * (self.bins.len() as u64 + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_hold_the_state_at_their_end_and_the_maximum_within() {
        let mut timeline = Timeline::default();
        timeline.changed(RowId(0), 10);
        timeline.changed(RowId(0), 4);
        timeline.advance(60_000);
        timeline.changed(RowId(1), 3);
        timeline.finish(130_000);
        assert_eq!(timeline.bins.len(), 3);
        assert_eq!((timeline.bins[0].max_bytes, &timeline.bins[0].live_bytes), (10, &vec![4]));
        assert_eq!((timeline.bins[1].max_bytes, &timeline.bins[1].live_bytes), (7, &vec![4, 3]));
        assert_eq!(timeline.bins[2].max_bytes, 7);
    }

    #[test]
    fn long_traces_take_no_more_bins() {
        let mut timeline = Timeline::default();
        for step in 0..10_000u64 {
            timeline.advance(step * 20_000);
            timeline.changed(RowId(0), step);
        }
        timeline.finish(200_000_000);
        assert!((MAX_BINS / 2..=MAX_BINS).contains(&timeline.bins.len()), "{}", timeline.bins.len());
        assert_eq!(timeline.bins.iter().map(|bin| bin.max_bytes).max(), Some(9_999));
        let covered = timeline.bin_ns * timeline.bins.len() as u64;
        assert!((200_000_000..=200_000_000 + 2 * timeline.bin_ns).contains(&covered), "{covered}");
    }
}
