//! What can go wrong with a trace file. Responsible for saying what, where and what to do; not for damage that reading
//! survives (see `reader::Problem`).

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::version::VersionRefusal;

/// A trace that cannot be read at all.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The operating system refused.
    #[error("cannot read {path}: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A directory, pipe or device.
    #[error("{path} is not a regular file: a trace must be a file that can be read twice; save it to disk first")]
    NotAFile {
        /// The path given.
        path: PathBuf,
    },
    /// Nothing in it.
    #[error("{path} is empty: the recording wrote nothing; record again")]
    Empty {
        /// The file.
        path: PathBuf,
    },
    /// Another kind of file.
    #[error("{path} is not a heaptape trace: it does not start with the mark of one (offset 0: found {found})")]
    NotATrace {
        /// The file.
        path: PathBuf,
        /// Its first bytes, printable.
        found: String,
    },
    /// The file ends inside its first 16 bytes.
    #[error("{path} is cut off at offset {file_bytes}, inside the file mark: nothing was recorded; record again")]
    CutInMark {
        /// The file.
        path: PathBuf,
        /// Its size.
        file_bytes: u64,
    },
    /// Made by a newer version.
    #[error("{path}: {source}")]
    Version {
        /// The file.
        path: PathBuf,
        /// Which version.
        source: VersionRefusal,
    },
    /// Neither header, chunk nor tail is readable.
    #[error(
        "{path}: nothing in it is readable; first damage at offset {offset}: {what}; record again or restore the file"
    )]
    NothingReadable {
        /// The file.
        path: PathBuf,
        /// Where the first damage is.
        offset: u64,
        /// What it is.
        what: String,
    },
}

/// A trace that cannot be written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WriteError {
    /// The operating system refused; everything before stays readable.
    #[error(
        "cannot write the trace {path} after {written_bytes} bytes: {source}; what was written so far stays readable"
    )]
    Io {
        /// The file.
        path: PathBuf,
        /// Bytes written before.
        written_bytes: u64,
        /// Why.
        source: Arc<io::Error>,
    },
    /// The caller broke a rule of the format.
    #[error("cannot write the trace {path}: event {sequence} breaks a rule of the format: {rule}")]
    Rule {
        /// The file.
        path: PathBuf,
        /// Position of the event refused.
        sequence: u64,
        /// The rule.
        rule: String,
    },
    /// The tables outgrew the format.
    #[error("cannot write the trace {path}: {what} would need {bytes} bytes, the format allows {limit_bytes}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Which part.
        what: &'static str,
        /// What it needs.
        bytes: u64,
        /// What is allowed.
        limit_bytes: u64,
    },
}

/// A trace that cannot be salvaged.
#[derive(Debug, thiserror::Error)]
pub enum SalvageError {
    /// The input cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The output cannot be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// Input and output are the same file.
    #[error("{path}: a trace cannot be salvaged onto itself; name another output file")]
    SameFile {
        /// The file.
        path: PathBuf,
    },
}
