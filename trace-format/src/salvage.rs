//! Salvaging a trace.
use std::path::Path;

use crate::error::SalvageError;
use crate::reader::Problem;

/// What was salvaged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Salvaged {
    /// Events carried over.
    pub event_count: u64,
    /// Events known to be missing.
    pub missing_event_count: u64,
    /// What was wrong with the input.
    pub problems: Vec<Problem>,
    /// Size of the output.
    pub file_bytes: u64,
}

/// Writes a whole file with a tail from what is readable of `input`.
///
/// # Errors
/// The input cannot be read or the output not written.
pub fn salvage(_input: impl AsRef<Path>, _output: impl AsRef<Path>) -> Result<Salvaged, SalvageError> {
    todo!()
}
