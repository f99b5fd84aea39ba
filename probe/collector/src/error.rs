//! What can go wrong while recording, in words for the person at the keyboard. Responsible for the errors alone.

use std::{io, path::PathBuf};

/// A recording could not be made, or not be finished.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// This machine, kernel or user cannot record (exit code 4).
    #[error("{reason}")]
    Unsupported {
        /// What is missing and how to get it.
        reason: String,
    },
    /// The program could not be started.
    #[error("cannot start `{program}`: {source}")]
    Launch {
        /// The program.
        program: String,
        /// The system's reason.
        source: io::Error,
    },
    /// The process to attach to is not there or not ours to look at.
    #[error("cannot attach to process {pid}: {reason}")]
    Attach {
        /// Its pid.
        pid: u32,
        /// Why.
        reason: String,
    },
    /// The trace file could not be made.
    #[error("cannot write the trace {}: {source}", path.display())]
    Output {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        source: io::Error,
    },
    /// Writing the trace failed half-way; what was written stays readable.
    #[error(transparent)]
    Write(#[from] trace_format::WriteError),
    /// A profile of markers cannot be understood.
    #[error("profile `{name}`: {reason}")]
    Profile {
        /// Its name.
        name: String,
        /// Why.
        reason: String,
    },
    /// A table is full.
    #[error("more than {limit} {what} at once: record fewer processes (--only NAME)")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there can be.
        limit: u64,
    },
    /// A system call failed that should not.
    #[error("{doing}: {source}")]
    System {
        /// What we were doing.
        doing: String,
        /// The system's reason.
        source: io::Error,
    },
}
