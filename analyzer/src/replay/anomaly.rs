//! Events that cannot be. Responsible for counting them and remembering where the first of each kind was; a replay never
//! fails because of them.

use serde::Serialize;
use trace_format::Sequence;

/// What is impossible about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum AnomalyKind {
    /// A free or realloc names a block that is not alive in its heap.
    TargetNotLive,
    /// A birth number that was given before.
    DuplicateBirth,
    /// The end of a realloc whose begin is not there.
    EndWithoutBegin,
    /// An event of a thread that no table names.
    UnknownThread,
    /// An event that names a process that no table names.
    UnknownProcess,
    /// An entry point that no table names.
    UnknownEntry,
    /// A stack that no table names.
    UnknownStack,
    /// An event of a process that had not started.
    ProcessNotStarted,
    /// A process that starts a second time.
    ProcessStartedTwice,
    /// An event of a process that has ended.
    ProcessEnded,
    /// A forked process whose parent has no heap.
    ParentUnknown,
}

impl AnomalyKind {
    /// The kind in words, to follow a count.
    pub fn words(self) -> &'static str {
        match self {
            Self::TargetNotLive => "frees or reallocs of a block that is not alive in its heap",
            Self::DuplicateBirth => "births with a number given before",
            Self::EndWithoutBegin => "ends of a realloc that never began",
            Self::UnknownThread => "events of an unknown thread",
            Self::UnknownProcess => "events about an unknown process",
            Self::UnknownEntry => "calls of an unknown entry point",
            Self::UnknownStack => "events with an unknown stack",
            Self::ProcessNotStarted => "events of a process that had not started",
            Self::ProcessStartedTwice => "second starts of a process",
            Self::ProcessEnded => "events of a process that had ended",
            Self::ParentUnknown => "forks from a process without a heap",
        }
    }
}

/// All anomalies of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Anomaly {
    /// What is impossible.
    pub kind: AnomalyKind,
    /// How often.
    pub count: u64,
    /// Position of the first.
    pub first_sequence: u64,
}

/// Anomalies by kind, in order of first appearance.
#[derive(Debug, Clone, Default)]
pub(super) struct Anomalies(Vec<Anomaly>);

impl Anomalies {
    #[cold]
    pub(super) fn count(&mut self, kind: AnomalyKind, sequence: Sequence) {
        match self.0.iter_mut().find(|anomaly| anomaly.kind == kind) {
            Some(anomaly) => anomaly.count += 1,
            None => self.0.push(Anomaly { kind, count: 1, first_sequence: sequence.0 }),
        }
    }

    pub(super) fn into_vec(self) -> Vec<Anomaly> {
        self.0
    }
}
