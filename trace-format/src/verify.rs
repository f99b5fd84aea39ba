//! Checking a trace. Responsible for decoding all of it and for saying what is wrong in words; not for repairing (see
//! `salvage`).

use std::fmt;
use std::path::{Path, PathBuf};

use crate::error::ReadError;
use crate::reader::{Problem, Trace};

/// What a check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The file.
    pub path: PathBuf,
    /// Whether the recorder ended the trace itself and nothing is wrong.
    pub complete: bool,
    /// Whether the tail is there and readable.
    pub has_tail: bool,
    /// Whether `heaptape salvage` wrote the file.
    pub salvaged: bool,
    /// What is wrong, in file order.
    pub problems: Vec<Problem>,
    /// Events decoded.
    pub event_count: u64,
    /// Events known to be missing.
    pub missing_event_count: u64,
    /// Readable chunks.
    pub chunk_count: usize,
    /// Size of the file.
    pub file_bytes: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{}: {} events in {} chunks, {} bytes",
            self.path.display(),
            self.event_count,
            self.chunk_count,
            self.file_bytes
        )?;
        for problem in &self.problems {
            write!(f, "offset {}: {}", problem.offset, problem.what)?;
            if let Some(count) = problem.missing_event_count {
                write!(f, " ({count} events missing)")?;
            }
            writeln!(f)?;
        }
        if self.complete {
            writeln!(f, "the trace is complete")
        } else if self.problems.is_empty() {
            writeln!(f, "the file is whole; it was salvaged from a trace that was not")
        } else {
            let missing = match self.missing_event_count {
                0 if self.has_tail => "no event is known to be missing".to_owned(),
                0 => "how many events are missing is not known".to_owned(),
                1 => "at least 1 event is missing".to_owned(),
                count => format!("at least {count} events are missing"),
            };
            writeln!(
                f,
                "the trace is incomplete: {missing}; everything else is readable, and `heaptape salvage` writes it into a \
                 whole file"
            )
        }
    }
}

/// Decodes all of a trace and says what is wrong with it.
///
/// # Errors
/// Only if nothing can be read at all.
pub fn verify(path: impl AsRef<Path>) -> Result<Report, ReadError> {
    let trace = Trace::open(path)?;
    let mut event_count = 0;
    trace.for_each_chunk(0, |events| event_count += events.len() as u64)?;
    let problems = trace.problems();
    Ok(Report {
        complete: trace.completeness.complete && problems.is_empty(),
        has_tail: trace.completeness.has_tail,
        salvaged: trace.completeness.salvaged,
        event_count,
        missing_event_count: trace.completeness.missing_event_count + (trace.event_count - event_count),
        chunk_count: trace.chunk_count(),
        file_bytes: trace.file_bytes,
        path: trace.path,
        problems,
    })
}
