//! By what allocations are weighed. Responsible for the four metrics and their words; not for who is weighed (see
//! `selection`).

use serde::Serialize;

use crate::replay::{Amount, Cell};

/// What a report orders by and a flame graph is wide by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Default)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Bytes requested over the whole recording, reallocs with their new size.
    #[default]
    Bytes,
    /// Allocs and reallocs.
    Count,
    /// Bytes alive at the instant of the peak.
    Peak,
    /// Bytes alive when the process, or the recording, ended.
    LiveAtEnd,
}

/// Which peak a peak is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PeakOf {
    /// All processes together.
    #[default]
    Total,
    /// One process alone.
    Process,
}

impl PeakOf {
    /// What of a cell was alive then.
    pub fn amount(self, cell: &Cell) -> Amount {
        match self {
            Self::Total => cell.at_peak,
            Self::Process => cell.at_process_peak,
        }
    }
}

impl Metric {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Bytes, Self::Count, Self::Peak, Self::LiveAtEnd];

    /// The weight of a cell.
    pub fn of(self, cell: &Cell, peak: PeakOf) -> u64 {
        match self {
            Self::Bytes => cell.alloc_bytes,
            Self::Count => cell.alloc_count + cell.realloc_count,
            Self::Peak => peak.amount(cell).bytes,
            Self::LiveAtEnd => cell.at_end.bytes,
        }
    }

    /// What is weighed, in words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Bytes => "bytes requested",
            Self::Count => "allocations",
            Self::Peak => "bytes live at the peak",
            Self::LiveAtEnd => "bytes live at the end",
        }
    }

    /// The unit of a weight.
    pub fn unit(self) -> &'static str {
        if self == Self::Count { "allocations" } else { "bytes" }
    }

    /// A weight for people.
    pub fn show(self, value: u64) -> String {
        if self == Self::Count { crate::units::count(value) } else { crate::units::bytes(value) }
    }
}
