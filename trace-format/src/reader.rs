//! Reading a trace.
use std::path::{Path, PathBuf};

use crate::error::ReadError;
use crate::event::Event;
use crate::table::{CaptureStats, Header, Tables};

/// Something wrong with a trace that reading survived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where in the file.
    pub offset: u64,
    /// One sentence.
    pub what: String,
    /// Events missing because of it, where known.
    pub missing_event_count: Option<u64>,
}

/// Whether a trace is whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Completeness {
    /// It has a tail and nothing is damaged.
    pub complete: bool,
    /// Whether the tail is there and readable: false when the recorder was killed.
    pub has_tail: bool,
    /// What is wrong, in file order.
    pub problems: Vec<Problem>,
    /// Events known to be missing (sequence numbers without an event).
    pub missing_event_count: u64,
}

/// An opened trace.
#[derive(Debug)]
pub struct Trace {
    /// The file.
    pub path: PathBuf,
    /// What it says of itself.
    pub header: Header,
    /// All tables.
    pub tables: Tables,
    /// What the recorder counted; none without a tail.
    pub stats: Option<CaptureStats>,
    /// Whether it is whole.
    pub completeness: Completeness,
    /// Size of the file.
    pub file_bytes: u64,
    /// Readable events.
    pub event_count: u64,
}

impl Trace {
    /// Opens a trace.
    ///
    /// # Errors
    /// See `ReadError`.
    pub fn open(_path: impl AsRef<Path>) -> Result<Self, ReadError> {
        todo!()
    }

    /// Hands all readable events to `f`, chunk by chunk, in order.
    ///
    /// # Errors
    /// I/O.
    pub fn for_each_chunk(&self, _decoders: usize, _f: impl FnMut(&[Event])) -> Result<(), ReadError> {
        todo!()
    }

    /// All problems known by now: those of `completeness` and those that decoding found since.
    pub fn problems(&self) -> Vec<Problem> {
        todo!()
    }
}
