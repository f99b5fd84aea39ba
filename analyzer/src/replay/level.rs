//! Live bytes over time. Responsible for one running level and its peak; not for whose bytes they are (see `cells`).

use serde::Serialize;
use trace_format::Sequence;

use super::cells::Amount;

/// The first instant at which a level was highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Peak {
    /// Requested bytes live right after the event.
    pub bytes: u64,
    /// Blocks live right after the event.
    pub count: u64,
    /// The event's position in the order.
    #[serde(serialize_with = "sequence_number")]
    pub sequence: Sequence,
    /// The event's time.
    pub time_ns: u64,
}

fn sequence_number<S: serde::Serializer>(sequence: &Sequence, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(sequence.0)
}

/// A running level. Sums wrap instead of failing: only a damaged trace holds sizes beyond 2^64 in sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Level {
    /// Requested bytes live.
    pub live_bytes: u64,
    /// Blocks live.
    pub live_count: u64,
    /// The highest so far.
    pub peak: Peak,
}

impl Level {
    /// A block comes to life. Returns whether the level is now higher than ever.
    #[inline]
    pub fn add(&mut self, size_bytes: u64, sequence: Sequence, time_ns: u64) -> bool {
        self.live_bytes = self.live_bytes.wrapping_add(size_bytes);
        self.live_count += 1;
        let higher = self.live_bytes > self.peak.bytes;
        if higher {
            self.peak = Peak { bytes: self.live_bytes, count: self.live_count, sequence, time_ns };
        }
        higher
    }

    /// Blocks that were added die.
    #[inline]
    pub fn remove(&mut self, dead: Amount) {
        self.live_bytes = self.live_bytes.wrapping_sub(dead.bytes);
        self.live_count = self.live_count.wrapping_sub(dead.count);
    }
}
