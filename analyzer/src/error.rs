//! What can go wrong in an analysis. Responsible for saying it in a sentence with a way out; odd events are no errors
//! (see `replay::Anomaly`).

use std::io;
use std::path::PathBuf;

use trace_format::ReadError;

/// An analysis that has no answer.
#[derive(Debug, thiserror::Error)]
pub enum AnalysisError {
    /// The trace cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// `--process` matches nothing.
    #[error("no recorded process is called {wanted} or has that pid; the trace has: {known}")]
    NoSuchProcess {
        /// What was asked for.
        wanted: String,
        /// What there is.
        known: String,
    },
    /// `--domain` matches nothing.
    #[error("no recorded allocator is called {wanted}; the trace has: {known}")]
    NoSuchDomain {
        /// What was asked for.
        wanted: String,
        /// What there is.
        known: String,
    },
    /// A flame graph without flames.
    #[error("nothing to draw: no {metric} in {scope}")]
    NothingToDraw {
        /// The metric asked for.
        metric: String,
        /// Which processes.
        scope: String,
    },
    /// The SVG could not be rendered or written.
    #[error("cannot write the flame graph: {0}")]
    Draw(#[source] io::Error),
    /// A compiler profile is no profile.
    #[error("{path} is no compiler profile: {what}")]
    Profile {
        /// The file.
        path: String,
        /// What is wrong with it, and where.
        what: String,
    },
    /// A line of a list of suppressions is none.
    #[error("{path}, line {line}: a suppression is `leak:PATTERN`, this is `{found}`")]
    Suppressions {
        /// The file.
        path: String,
        /// From 1.
        line: usize,
        /// What stands there.
        found: String,
    },
    /// A plan of arenas is none.
    #[error("{origin} is no plan of arenas: {what}; `heaptape arenas TRACE --write-plan FILE` writes one")]
    BadPlan {
        /// The file.
        origin: String,
        /// What is wrong with it, and where.
        what: String,
    },
    /// No process did anything.
    #[error("nothing to replay: {scope} allocated nothing")]
    NothingToReplay {
        /// Which processes.
        scope: String,
    },
    /// `--allocator jemalloc` where there is none.
    #[error(
        "jemalloc is not on this machine: on Debian, `apt-get install libjemalloc2` brings it; elsewhere give the path of its \
             library, `--allocator /path/to/libjemalloc.so.2`"
    )]
    NoJemalloc,
    /// A library that is not there.
    #[error("no allocator at {path}: {source}")]
    NoLibrary {
        /// Where it should be.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A script for a replay cannot be written, or not be read again.
    #[error("cannot write and read the script of the replay, {path}: {source}")]
    Script {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A process that measures did not.
    #[error("cannot replay with {allocator}: {what}")]
    Replay {
        /// Its name, or path.
        allocator: String,
        /// Why.
        what: String,
    },
    /// Rows that make no table, or a table that cannot be written.
    #[error("{what}")]
    Table {
        /// What is wrong.
        what: String,
    },
}
