//! Who allocated: one cell per process, stack and entry point. Responsible for what is counted per cell and for knowing,
//! exactly and in a stream, how much of each cell was alive when the total was highest; not for grouping cells (see
//! `sites`).
//!
//! # Alive at the peak, without keeping history
//!
//! The peak is known only afterwards, and copying every cell at every new maximum would cost cells × maxima. But a cell
//! that does not change after the peak still shows its value of then. So a new maximum only raises an *epoch*; a cell
//! that is about to change for the first time in an epoch puts its value aside first:
//!
//! ```text
//!  total      ╱╲      ╱╲
//!          ╱╲╱  ╲    ╱  ╲___           epoch e began at the last maximum ▲
//!         ╱      ╲__╱       ╲__
//!                      ▲
//!  cell A ───────────────┐            first change after ▲: saved = 7, then 5, 3 …   ⇒ at the peak: 7
//!  cell B ─────────────────────       no change after ▲                              ⇒ at the peak: its value now
//!
//!  change(cell):  if cell.epoch ≠ e { cell.saved = cell.live; cell.epoch = e };  cell.live ±= size
//!  at_peak(cell): if cell.epoch = e { cell.saved } else { cell.live }
//! ```
//!
//! Invariant: at any time `at_peak` is the cell's value right after the event that set the maximum. The event that sets
//! it changes its cell under the old epoch and raises the epoch afterwards, so the new value counts as unchanged.
//! Cost: O(1) per event, two words per cell. Each cell does this twice, for the total and for its own process.

use std::ops::AddAssign;

use foldhash::fast::FixedState;
use hashbrown::HashMap;
use serde::Serialize;
use trace_format::{EntryId, ProcessId, StackId};

/// Index of a cell in `Outcome::cells`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct CellId(pub u32);

impl CellId {
    /// As an index.
    #[inline]
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Bytes and blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Amount {
    /// Requested bytes.
    pub bytes: u64,
    /// Blocks.
    pub count: u64,
}

impl AddAssign for Amount {
    fn add_assign(&mut self, other: Self) {
        self.bytes = self.bytes.wrapping_add(other.bytes);
        self.count = self.count.wrapping_add(other.count);
    }
}

/// A value put aside at the first change since a maximum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Saved {
    epoch: u64,
    value: Amount,
}

impl Saved {
    #[inline]
    fn before_change(&mut self, epoch: u64, value: Amount) {
        if self.epoch != epoch {
            *self = Self { epoch, value };
        }
    }

    fn at_peak(&self, epoch: u64, now: Amount) -> Amount {
        if self.epoch == epoch { self.value } else { now }
    }
}

/// What one process allocated from one stack through one entry point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cell {
    /// The process whose heap it is.
    pub process: ProcessId,
    /// The allocating stack.
    pub stack: StackId,
    /// The entry point called.
    pub entry: EntryId,
    /// Successful allocs.
    pub alloc_count: u64,
    /// Successful reallocs.
    pub realloc_count: u64,
    /// Requested bytes of both.
    pub alloc_bytes: u64,
    /// Requests that returned NULL.
    pub failed_count: u64,
    /// Alive when all backing allocators of all processes together were highest.
    pub at_peak: Amount,
    /// Alive when the backing allocators of this process were highest.
    pub at_process_peak: Amount,
    /// Alive when the process image ended, or the recording did.
    pub at_end: Amount,
    live: Amount,
    saved: Saved,
    saved_of_process: Saved,
}

/// The current maxima, as epochs: of the total and of the process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Epochs {
    pub(super) total: u64,
    pub(super) process: u64,
}

impl Cell {
    fn new(process: ProcessId, stack: StackId, entry: EntryId) -> Self {
        Self {
            process,
            stack,
            entry,
            alloc_count: 0,
            realloc_count: 0,
            alloc_bytes: 0,
            failed_count: 0,
            at_peak: Amount::default(),
            at_process_peak: Amount::default(),
            at_end: Amount::default(),
            live: Amount::default(),
            saved: Saved::default(),
            saved_of_process: Saved::default(),
        }
    }

    #[inline]
    fn before_change(&mut self, epochs: Epochs) {
        self.saved.before_change(epochs.total, self.live);
        self.saved_of_process.before_change(epochs.process, self.live);
    }

    #[inline]
    pub(super) fn add(&mut self, size_bytes: u64, epochs: Epochs) {
        self.before_change(epochs);
        self.live.bytes = self.live.bytes.wrapping_add(size_bytes);
        self.live.count += 1;
    }

    #[inline]
    pub(super) fn remove(&mut self, size_bytes: u64, epochs: Epochs) {
        self.before_change(epochs);
        self.live.bytes = self.live.bytes.wrapping_sub(size_bytes);
        self.live.count = self.live.count.wrapping_sub(1);
    }

    pub(super) fn survive(&mut self, size_bytes: u64) {
        self.at_end.bytes = self.at_end.bytes.wrapping_add(size_bytes);
        self.at_end.count += 1;
    }
}

/// All cells, found by process, stack and entry.
#[derive(Debug, Default)]
pub(super) struct Cells {
    rows: Vec<Cell>,
    /// The last cell used of each stack: nearly always the right one.
    recent: Vec<Option<CellId>>,
    index: HashMap<(ProcessId, StackId, EntryId), CellId, FixedState>,
}

impl Cells {
    pub(super) fn new(stack_count: usize) -> Self {
        Self { recent: vec![None; stack_count.max(1)], ..Self::default() }
    }

    /// The cell of a key, made on first use. `stack` is a valid stack.
    #[inline]
    pub(super) fn of(&mut self, process: ProcessId, stack: StackId, entry: EntryId) -> CellId {
        if let Some(id) = self.recent[stack.index()] {
            let cell = &self.rows[id.index()];
            if cell.process == process && cell.entry == entry {
                return id;
            }
        }
        let id = *self.index.entry((process, stack, entry)).or_insert_with(|| {
            self.rows.push(Cell::new(process, stack, entry));
            CellId(self.rows.len() as u32 - 1)
        });
        self.recent[stack.index()] = Some(id);
        id
    }

    #[inline]
    pub(super) fn get(&self, id: CellId) -> &Cell {
        &self.rows[id.index()]
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: CellId) -> &mut Cell {
        &mut self.rows[id.index()]
    }

    /// All cells with their value at both peaks filled in.
    pub(super) fn finish(mut self, total_epoch: u64, epoch_of: impl Fn(ProcessId) -> u64) -> Vec<Cell> {
        for cell in &mut self.rows {
            cell.at_peak = cell.saved.at_peak(total_epoch, cell.live);
            cell.at_process_peak = cell.saved_of_process.at_peak(epoch_of(cell.process), cell.live);
        }
        self.rows
    }
}
