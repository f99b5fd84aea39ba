//! When most is alive. Responsible for the moments at which arenas must not hold too much; not for what is alive then.

use trace_format::{Event, ProcessId, Sequence, StackId};

use crate::replay::{Block, Observer};

/// Stretches of the run that have a moment each, at most; at least half as many.
const STRETCHES: usize = 48;

/// Moments are worth watching where this part of the peak is alive.
const WORTH: f64 = 0.5;

/// The highest moment of each stretch of a run whose length is not known before.
#[derive(Debug, Clone)]
pub(super) struct Stretches<M> {
    steps: u64,
    /// Steps in a stretch.
    width: u64,
    /// By stretch: the height, and what is known of its moment.
    highest: Vec<(u64, M)>,
}

impl<M> Default for Stretches<M> {
    fn default() -> Self {
        Self { steps: 0, width: 0, highest: Vec::new() }
    }
}

impl<M: Copy + Default> Stretches<M> {
    /// One more step.
    pub(super) fn step(&mut self) {
        let width = self.width.max(1);
        if self.steps == self.highest.len() as u64 * width {
            if self.highest.len() == STRETCHES {
                let higher = |pair: &[(u64, M)]| if pair[1].0 > pair[0].0 { pair[1] } else { pair[0] };
                self.highest = self.highest.chunks(2).map(higher).collect();
                self.width = 2 * width;
            }
            self.highest.push((0, M::default()));
        }
        self.steps += 1;
    }

    /// How high it is now.
    pub(super) fn reach(&mut self, height: u64, moment: impl FnOnce() -> M) {
        if let Some(highest) = self.highest.last_mut()
            && height > highest.0
        {
            *highest = (height, moment());
        }
    }

    /// Height and moment of each stretch, in order.
    pub(super) fn highest(&self) -> &[(u64, M)] {
        &self.highest
    }
}

/// The observer.
#[derive(Debug, Default)]
pub(super) struct Crest {
    live_bytes: u64,
    /// The event after which it was highest.
    stretches: Stretches<Sequence>,
    now: Sequence,
}

impl Crest {
    /// The moments, in order: the first event after, and what is alive.
    pub(super) fn moments(&self) -> Vec<(Sequence, u64)> {
        let highest = self.stretches.highest();
        let peak = highest.iter().map(|(bytes, _)| *bytes).max().unwrap_or(0);
        let worth = |bytes: u64| bytes > 0 && bytes as f64 >= WORTH * peak as f64;
        let moments = highest.iter().filter(|(bytes, _)| worth(*bytes));
        moments.map(|(bytes, at)| (Sequence(at.0 + 1), *bytes)).collect()
    }

    fn grow(&mut self, bytes: u64) {
        self.live_bytes += bytes;
        let now = self.now;
        self.stretches.reach(self.live_bytes, || now);
    }

    fn shrink(&mut self, bytes: u64) {
        self.live_bytes = self.live_bytes.saturating_sub(bytes);
    }
}

impl Observer for Crest {
    type Tag = ();

    fn event(&mut self, event: &Event) {
        self.now = event.sequence;
        self.stretches.step();
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
