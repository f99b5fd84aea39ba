//! The most that was alive while a phase was open, and whose blocks those were. Responsible for one row of phases; not for which
//! phases are open nor for what is alive (see `collector`).
//!
//! As for cells (see `replay::cells`), a value that does not change after the maximum still shows what it was then: each new
//! maximum raises the epoch, and a row of the same process whose live bytes are about to change for the first time in that
//! epoch is put aside. That goes on until the instance ends that saw the maximum; then the rows that did not change are put
//! aside too, and nothing changes until there is a higher maximum.

use crate::phases::RowId;

/// The peak of a row of phases.
#[derive(Debug, Clone, Default)]
pub struct Peak {
    /// Most bytes that were alive in the process while an instance was open.
    pub bytes: u64,
    /// When.
    pub ns: u64,
    /// Number of maxima so far.
    epoch: u64,
    /// All holders of the latest maximum are known.
    settled: bool,
    /// By row: epoch, and live bytes put aside in it.
    aside: Vec<(u64, u64)>,
    holders: Vec<(RowId, u64)>,
}

impl Peak {
    /// So much is alive now, while an instance is open.
    #[inline]
    pub fn raise(&mut self, live_bytes: u64, now_ns: u64) {
        if live_bytes > self.bytes {
            (self.bytes, self.ns) = (live_bytes, now_ns);
            self.epoch += 1;
            self.settled = false;
        }
    }

    /// While an instance is open, the live bytes of this row of its process are about to change.
    #[inline]
    pub fn put_aside(&mut self, row: RowId, live_bytes: u64) {
        if self.settled {
            return;
        }
        let place = row.0 as usize;
        if place >= self.aside.len() {
            self.aside.resize(place + 1, (0, 0));
        }
        let aside = &mut self.aside[place];
        if aside.0 != self.epoch {
            *aside = (self.epoch, live_bytes);
        }
    }

    /// An instance ends: `live` are all rows of its process with what they have alive. O(rows) if it saw a new maximum.
    pub fn settle(&mut self, live: impl Iterator<Item = (RowId, u64)>) {
        if self.settled {
            return;
        }
        self.settled = true;
        let at_peak = |(row, live): (RowId, u64)| match self.aside.get(row.0 as usize) {
            Some((epoch, bytes)) if *epoch == self.epoch => (row, *bytes),
            _ => (row, live),
        };
        self.holders.clear();
        self.holders.extend(live.map(at_peak).filter(|(_, bytes)| *bytes > 0));
        self.holders.sort_unstable_by_key(|(row, bytes)| (std::cmp::Reverse(*bytes), row.0));
    }

    /// Live bytes of each row at the peak, the most first; of the last instance that has ended.
    pub fn holders(&self) -> &[(RowId, u64)] {
        &self.holders
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_are_those_of_the_peak_whatever_happens_after() {
        let mut peak = Peak::default();
        let (one, other, late) = (RowId(0), RowId(1), RowId(2));
        peak.raise(10, 1);
        peak.put_aside(one, 7);
        peak.raise(12, 2);
        peak.put_aside(one, 9);
        peak.put_aside(one, 1);
        peak.settle([(one, 2), (other, 3)].into_iter());
        assert_eq!((peak.bytes, peak.ns, peak.holders()), (12, 2, &[(one, 9), (other, 3)][..]));
        // The next instance stays below.
        peak.raise(11, 3);
        peak.put_aside(other, 3);
        peak.settle([(one, 1), (other, 0), (late, 5)].into_iter());
        assert_eq!(peak.holders(), [(one, 9), (other, 3)]);
        peak.raise(13, 4);
        peak.settle([(one, 0), (other, 8), (late, 5)].into_iter());
        assert_eq!((peak.bytes, peak.holders()), (13, &[(other, 8), (late, 5)][..]));
    }
}
