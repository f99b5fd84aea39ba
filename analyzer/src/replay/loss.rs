//! What the recorder lost. Responsible for summing losses and locating them; not for what they change (see `doubt`).

use serde::Serialize;

/// Losses that are located one by one; later ones are only summed, so that a very lossy trace stays within bounds.
const LOCATED_LIMIT: usize = 1_000;

/// One gap of one CPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Loss {
    /// Position of the loss in the order of events.
    pub sequence: u64,
    /// The CPU.
    pub cpu: u32,
    /// Time of the first event lost.
    pub first_ns: u64,
    /// Time of the last event lost.
    pub last_ns: u64,
    /// Births lost.
    pub alloc_count: u64,
    /// Deaths lost.
    pub free_count: u64,
    /// Other events lost.
    pub other_count: u64,
}

impl Loss {
    /// All events lost here.
    pub fn lost_count(&self) -> u64 {
        self.alloc_count.saturating_add(self.free_count).saturating_add(self.other_count)
    }
}

/// All gaps.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Losses {
    /// Gaps.
    pub gap_count: u64,
    /// Births lost (allocs and ends of reallocs).
    pub alloc_count: u64,
    /// Deaths lost (frees and begins of reallocs).
    pub free_count: u64,
    /// Other events lost.
    pub other_count: u64,
    /// The first thousand gaps, in order.
    pub located: Vec<Loss>,
    /// The last gap.
    pub last: Option<Loss>,
}

impl Losses {
    /// All events lost.
    pub fn lost_count(&self) -> u64 {
        self.alloc_count.saturating_add(self.free_count).saturating_add(self.other_count)
    }

    pub(super) fn add(&mut self, loss: Loss) {
        self.gap_count += 1;
        self.alloc_count = self.alloc_count.saturating_add(loss.alloc_count);
        self.free_count = self.free_count.saturating_add(loss.free_count);
        self.other_count = self.other_count.saturating_add(loss.other_count);
        if self.located.len() < LOCATED_LIMIT {
            self.located.push(loss);
        }
        self.last = Some(loss);
    }
}
