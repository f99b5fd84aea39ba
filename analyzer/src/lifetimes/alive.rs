//! What is alive at one instant, by the phase of birth. Responsible for a replay that stands still there; not for choosing the
//! instant.

use foldhash::{HashMap, HashMapExt};
use trace_format::{Event, ProcessId, Sequence, StackId};

use crate::phases::{RowId, Tracker};
use crate::replay::{Block, CellId, Observer};

/// Bytes alive at an instant, by cell and by phase of birth; no entry is 0.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Alive {
    by_cell: HashMap<CellId, Vec<(RowId, u64)>>,
}

impl Alive {
    /// Of one cell, by index in `Outcome::cells`.
    pub fn of_cell(&self, cell: usize) -> &[(RowId, u64)] {
        self.by_cell.get(&CellId(cell as u32)).map_or(&[], Vec::as_slice)
    }
}

/// The observer. Memory: live blocks (a tag each) and what is alive by cell and phase.
#[derive(Debug)]
pub(super) struct AliveAfter<'t> {
    tracker: Tracker<'t>,
    /// The last event that counts.
    instant: Sequence,
    now: Sequence,
    alive: HashMap<(CellId, RowId), u64>,
}

impl<'t> AliveAfter<'t> {
    pub(super) fn new(tracker: Tracker<'t>, instant: Sequence) -> Self {
        Self { tracker, instant, now: Sequence(0), alive: HashMap::new() }
    }

    pub(super) fn finish(self) -> Alive {
        let mut alive = Alive::default();
        for ((cell, row), bytes) in self.alive {
            if bytes > 0 {
                alive.by_cell.entry(cell).or_default().push((row, bytes));
            }
        }
        for rows in alive.by_cell.values_mut() {
            rows.sort_unstable();
        }
        alive
    }

    fn grow(&mut self, block: &Block<RowId>, row: RowId) {
        if self.now <= self.instant {
            *self.alive.entry((block.cell, row)).or_default() += block.size_bytes;
        }
    }

    fn shrink(&mut self, block: &Block<RowId>) {
        if self.now <= self.instant
            && let Some(bytes) = self.alive.get_mut(&(block.cell, block.tag))
        {
            *bytes = bytes.saturating_sub(block.size_bytes);
        }
    }
}

impl Observer for AliveAfter<'_> {
    type Tag = RowId;

    fn event(&mut self, event: &Event) {
        self.now = event.sequence;
        if self.now <= self.instant {
            self.tracker.step(event);
        }
    }

    fn born(&mut self, block: &Block<RowId>, _: StackId, _: Option<&Block<RowId>>, event: &Event) -> RowId {
        let row = self.tracker.current(event.thread);
        self.grow(block, row);
        row
    }

    fn died(&mut self, block: &Block<RowId>, _: &Event) {
        self.shrink(block);
    }

    fn moving(&mut self, block: &Block<RowId>, _: &Event) {
        self.shrink(block);
    }

    fn stayed(&mut self, block: &Block<RowId>, _: &Event) {
        self.grow(block, block.tag);
    }

    fn survived(&mut self, block: &Block<RowId>, _: ProcessId) {
        // With its process, before the instant; what is alive when all is over stays.
        if self.now < self.instant {
            self.shrink(block);
        }
    }
}
