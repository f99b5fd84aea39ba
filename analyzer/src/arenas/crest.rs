//! When most is alive. Responsible for the moments at which arenas must not hold too much; not for what is alive then.

use trace_format::{Event, ProcessId, Sequence, StackId};

use crate::replay::{Block, Observer};

/// Stretches of the run that have a moment each, at most; at least half as many.
const STRETCHES: usize = 48;

/// Moments are worth watching where this part of the peak is alive.
const WORTH: f64 = 0.5;

/// The observer.
#[derive(Debug, Default)]
pub(super) struct Crest {
    live_bytes: u64,
    events: u64,
    /// Events in a stretch.
    width: u64,
    /// By stretch: the most that was alive, and the event after which it was.
    highest: Vec<(u64, Sequence)>,
    now: Sequence,
}

impl Crest {
    /// The moments, in order: the first event after, and what is alive.
    pub(super) fn moments(&self) -> Vec<(Sequence, u64)> {
        let peak = self.highest.iter().map(|(bytes, _)| *bytes).max().unwrap_or(0);
        let worth = |bytes: u64| bytes > 0 && bytes as f64 >= WORTH * peak as f64;
        let moments = self.highest.iter().filter(|(bytes, _)| worth(*bytes));
        moments.map(|(bytes, at)| (Sequence(at.0 + 1), *bytes)).collect()
    }

    fn grow(&mut self, bytes: u64) {
        self.live_bytes += bytes;
        if let Some(highest) = self.highest.last_mut()
            && self.live_bytes > highest.0
        {
            *highest = (self.live_bytes, self.now);
        }
    }

    fn shrink(&mut self, bytes: u64) {
        self.live_bytes = self.live_bytes.saturating_sub(bytes);
    }
}

impl Observer for Crest {
    type Tag = ();

    fn event(&mut self, event: &Event) {
        self.now = event.sequence;
        let width = self.width.max(1);
        if self.events == self.highest.len() as u64 * width {
            if self.highest.len() == STRETCHES {
                self.highest = self.highest.chunks(2).map(|pair| pair[0].max(pair[1])).collect();
                self.width = 2 * width;
            }
            self.highest.push((0, event.sequence));
        }
        self.events += 1;
    }

    fn born(&mut self, block: &Block, _: StackId, _: Option<&Block>, _: &Event) {
        self.grow(block.size_bytes);
    }

    fn died(&mut self, block: &Block, _: &Event) {
        self.shrink(block.size_bytes);
    }

    fn moving(&mut self, block: &Block, _: &Event) {
        self.shrink(block.size_bytes);
    }

    fn stayed(&mut self, block: &Block, _: &Event) {
        self.grow(block.size_bytes);
    }

    fn survived(&mut self, block: &Block, _: ProcessId) {
        self.shrink(block.size_bytes);
    }
}
