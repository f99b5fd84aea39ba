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
//! Cost: O(1) per event, three words per cell. Each cell does this twice, for the total and for its own process.

use std::num::NonZeroU32;
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

/// What one process allocated from one stack through one entry point.
///
/// 128 bytes, of which a death touches the first 80.
#[derive(Debug, Clone, PartialEq, Eq)]
#[repr(C)]
pub struct Cell {
    /// The process whose heap it is.
    pub process: ProcessId,
    /// The allocating stack.
    pub stack: StackId,
    /// The entry point called.
    pub entry: EntryId,
    /// The cell that the process had before it.
    before: Option<NonZeroU32>,
    live: Amount,
    peak_epoch: u64,
    process_peak_epoch: u64,
    /// Alive when all backing allocators of all processes together were highest. During the replay: the value put aside
    /// at the first change in `peak_epoch`.
    pub at_peak: Amount,
    /// Alive when the backing allocators of this process were highest. During the replay as `at_peak`.
    pub at_process_peak: Amount,
    /// Successful allocs.
    pub alloc_count: u64,
    /// Requested bytes of allocs and reallocs.
    pub alloc_bytes: u64,
    /// Successful reallocs.
    pub realloc_count: u64,
    /// Requests that returned NULL.
    pub failed_count: u64,
    /// Alive when the process image ended, or the recording did.
    pub at_end: Amount,
}

/// The current maxima, as epochs: of the total and of the process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Epochs {
    pub(super) total: u64,
    pub(super) process: u64,
}

impl Cell {
    fn new(process: ProcessId, stack: StackId, entry: EntryId, before: Option<NonZeroU32>) -> Self {
        Self {
            process,
            stack,
            entry,
            before,
            live: Amount::default(),
            peak_epoch: 0,
            process_peak_epoch: 0,
            at_peak: Amount::default(),
            at_process_peak: Amount::default(),
            alloc_count: 0,
            alloc_bytes: 0,
            realloc_count: 0,
            failed_count: 0,
            at_end: Amount::default(),
        }
    }

    #[inline]
    fn before_change(&mut self, epochs: Epochs) {
        if self.peak_epoch != epochs.total {
            (self.peak_epoch, self.at_peak) = (epochs.total, self.live);
        }
        if self.process_peak_epoch != epochs.process {
            (self.process_peak_epoch, self.at_process_peak) = (epochs.process, self.live);
        }
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

    /// The process is gone; what is alive survived it. Returns that.
    fn end(&mut self, epochs: Epochs) -> Amount {
        self.before_change(epochs);
        self.at_end = std::mem::take(&mut self.live);
        self.at_end
    }
}

/// All cells, found by process, stack and entry.
#[derive(Debug, Default)]
pub(super) struct Cells {
    rows: Vec<Cell>,
    /// The last cell used of each stack, by its number and one: nearly always the right one.
    recent: Vec<Option<NonZeroU32>>,
    /// The last cell made of each process, likewise.
    newest: Vec<Option<NonZeroU32>>,
    index: HashMap<(ProcessId, StackId, EntryId), CellId, FixedState>,
}

impl Cells {
    pub(super) fn new(stack_count: usize, process_count: usize) -> Self {
        Self { recent: vec![None; stack_count.max(1)], newest: vec![None; process_count], ..Self::default() }
    }

    /// The cell of a key, made on first use. `process` and `stack` are valid.
    #[inline]
    pub(super) fn of(&mut self, process: ProcessId, stack: StackId, entry: EntryId) -> CellId {
        if let Some(next) = self.recent[stack.index()] {
            let id = CellId(next.get() - 1);
            let cell = &self.rows[id.index()];
            if cell.process == process && cell.entry == entry {
                return id;
            }
        }
        let id = *self.index.entry((process, stack, entry)).or_insert_with(|| {
            let newest = &mut self.newest[process.index()];
            self.rows.push(Cell::new(process, stack, entry, *newest));
            *newest = NonZeroU32::new(self.rows.len() as u32);
            CellId(self.rows.len() as u32 - 1)
        });
        self.recent[stack.index()] = NonZeroU32::new(id.0 + 1);
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

    /// A process is gone: what is alive in its cells survived it, and is told by entry point.
    pub(super) fn end(&mut self, process: ProcessId, epochs: Epochs, mut survived: impl FnMut(EntryId, Amount)) {
        let mut next = self.newest[process.index()];
        while let Some(number) = next {
            let cell = &mut self.rows[number.get() as usize - 1];
            if cell.live != Amount::default() {
                survived(cell.entry, cell.end(epochs));
            }
            next = cell.before;
        }
    }

    /// All cells with their value at both peaks filled in.
    pub(super) fn finish(mut self, total_epoch: u64, epoch_of: impl Fn(ProcessId) -> u64) -> Vec<Cell> {
        for cell in &mut self.rows {
            if cell.peak_epoch != total_epoch {
                cell.at_peak = cell.live;
            }
            if cell.process_peak_epoch != epoch_of(cell.process) {
                cell.at_process_peak = cell.live;
            }
        }
        self.rows
    }
}
