//! Checking a trace.
use std::fmt;
use std::path::Path;

use crate::error::ReadError;
use crate::reader::Problem;

/// Facts about a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Whether nothing is wrong.
    pub complete: bool,
    /// What is wrong, in file order.
    pub problems: Vec<Problem>,
    /// Readable events.
    pub event_count: u64,
    /// Readable chunks.
    pub chunk_count: u64,
    /// Size of the file.
    pub file_bytes: u64,
}

impl fmt::Display for Report {
    fn fmt(&self, _f: &mut fmt::Formatter<'_>) -> fmt::Result {
        todo!()
    }
}

/// Decodes everything and says what is wrong.
///
/// # Errors
/// Only if nothing can be read at all.
pub fn verify(_path: impl AsRef<Path>) -> Result<Report, ReadError> {
    todo!()
}
