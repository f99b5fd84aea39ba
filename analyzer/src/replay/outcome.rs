//! What a replay found. Responsible for the shape of its result; the analyses are functions of it.

use foldhash::HashMap;
use trace_format::{DomainId, EndReason, ProcessId, StackId, StackQuality};

use super::anomaly::Anomaly;
use super::cells::{Amount, Cell};
use super::counts::Counts;
use super::level::Peak;
use super::loss::Losses;
use crate::layers::Layers;

/// The result of a replay.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Events replayed.
    pub event_count: u64,
    /// Time of the first event.
    pub first_ns: u64,
    /// Time of the last event.
    pub last_ns: u64,
    /// Which domains the totals count.
    pub layers: Layers,
    /// Backing domains of all processes.
    pub total: Account,
    /// By `DomainId`, over all processes.
    pub domains: Vec<Account>,
    /// By `ProcessId`.
    pub processes: Vec<ProcessOutcome>,
    /// One per process, stack and entry point; in order of first use.
    pub cells: Vec<Cell>,
    /// Stacks whose walk was cut short, and how.
    pub cut_stacks: HashMap<StackId, StackQuality>,
    /// What was lost.
    pub losses: Losses,
    /// What cannot be, by kind.
    pub anomalies: Vec<Anomaly>,
    /// Operations that this version does not know.
    pub unknown_operation_count: u64,
}

/// Counts, peak and survivors of one scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Account {
    /// What happened.
    pub counts: Counts,
    /// When most was alive.
    pub peak: Peak,
    /// Born here and alive when their process image, or the recording, ended.
    pub at_end: Amount,
}

/// Blocks that a forked process got from its parent. They are in no other figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Inherited {
    /// At the fork.
    pub at_start: Amount,
    /// Still alive when the process image, or the recording, ended.
    pub at_end: Amount,
}

/// One process image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProcessOutcome {
    /// Backing domains only. Of a process that shares its parent's heap (vfork) everything is in its parent's account.
    pub account: Account,
    /// All domains that did anything, on-top ones included.
    pub domains: Vec<(DomainId, Counts)>,
    /// Whose heap it used, if not its own.
    pub heap_of: Option<ProcessId>,
    /// What it got by fork.
    pub inherited: Inherited,
    /// Whether it started at all.
    pub started: bool,
    /// When it started.
    pub start_ns: u64,
    /// When and how it ended; none if the trace does not say.
    pub end: Option<(u64, EndReason)>,
}

impl Outcome {
    /// Whether the totals count what this cell counts.
    pub fn in_totals(&self, cell: &Cell, entries: &[trace_format::Entry]) -> bool {
        entries.get(cell.entry.index()).is_some_and(|entry| self.layers.is_backing(entry.domain))
    }
}
