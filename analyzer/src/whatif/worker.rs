//! The process that measures. Responsible for doing one script, once, with one allocator, and for saying what that took; not for how often
//! and in which process (see `runs`).
//!
//! ```text
//!   script in memory, tables in memory, threads there, (holes in the heap)
//!       │
//!       ├─ resident memory, page faults            before
//!       ├─ the steps, timed
//!       └─ highest resident memory, page faults    after
//! ```
//!
//! Meanwhile nothing else is allocated. Huge pages are off, so that what is resident is what was touched, and all code is in memory
//! already, so that it counts neither as peak nor as faults.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::check::Script;
use super::execute::{Failure, Machine, Turn};
use super::fragment::fragment;
use super::heap::{Heap, Mimalloc, System};
use super::relay::{TakesTurns, relay};
use super::table::{map, words};
use super::usage::{Resident, available_bytes, forget_peak, minor_fault_count, thread_ns};
use super::watch::{Unwatched, Watch, Watched};

/// Readings of the clock that tell what a reading costs.
const CLOCK_READINGS: usize = 1001;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// The script.
    pub script: PathBuf,
    /// What does it.
    pub heap: HeapKind,
    /// Begin with a heap that has holes, as this script would leave them.
    pub holes_like: Option<PathBuf>,
    /// Look at the contents of every block instead of measuring.
    pub verify: bool,
}

/// An allocator as the measuring process knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum HeapKind {
    /// The process's malloc.
    System,
    /// The process's malloc, which must be that of this library.
    Library(PathBuf),
    /// mimalloc, built in.
    Mimalloc,
}

/// What a script took, once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Measured {
    /// Processor time of all steps, less what reading the clock takes.
    pub work_ns: u64,
    /// Most resident memory beyond what was resident before the first step.
    pub peak_bytes: u64,
    /// Page faults, none of which read from a disk.
    pub minor_fault_count: u64,
    /// Blocks whose contents were looked at (`Order::verify`).
    pub checked_count: u64,
}

/// Why a script was not done.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The script.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The script cannot be done.
    #[error("{path} cannot be done: {what}")]
    Script {
        /// The script.
        path: PathBuf,
        /// What is wrong with it.
        what: String,
    },
    /// `malloc` is not that of the library.
    #[error(
        "{wanted} was to be loaded first, but malloc is that of {found}: it is no allocator, or not one for this machine"
    )]
    OtherMalloc {
        /// The library.
        wanted: PathBuf,
        /// Where malloc is.
        found: PathBuf,
    },
    /// The trace had more alive than this machine has.
    #[error("the replay needs {needed_bytes} bytes of memory, this machine has {available_bytes} to give")]
    TooLarge {
        /// What it needs.
        needed_bytes: u64,
        /// What there is.
        available_bytes: u64,
    },
    /// The kernel does not tell what it must.
    #[error("cannot measure: {0}")]
    Kernel(#[from] io::Error),
    /// It did not come to its end.
    #[error("the replay did not come to its end: {what}")]
    Stopped {
        /// Why.
        what: String,
    },
    /// Blocks are not what they should be.
    #[error("blocks are not what was written to them: {what}")]
    Broken {
        /// The first one.
        what: String,
    },
}

impl From<Failure> for WorkerError {
    fn from(failure: Failure) -> Self {
        Self::Stopped { what: failure.to_string() }
    }
}

/// Does a script in this process. For figures that mean something, the process is fresh and does nothing else.
///
/// # Errors
/// The script cannot be done, or what it took cannot be measured.
pub fn perform(order: &Order) -> Result<Measured, WorkerError> {
    #[cfg(target_os = "linux")]
    {
        super::usage::without_huge_pages();
        super::usage::load_code();
    }
    let read = |path: &PathBuf| map(path).map_err(|source| WorkerError::Read { path: path.clone(), source });
    let file = read(&order.script)?;
    let script = checked(words(&file), &order.script)?;
    let history = order.holes_like.as_ref().map(read).transpose()?;
    let history = match (&history, &order.holes_like) {
        (Some(file), Some(path)) => Some(checked(words(file), path)?),
        _ => None,
    };
    let needed_bytes = script.header().peak_bytes + history.map_or(0, |history| history.header().peak_bytes);
    if let Some(available_bytes) = available_bytes().filter(|available| *available < needed_bytes) {
        return Err(WorkerError::TooLarge { needed_bytes, available_bytes });
    }
    match &order.heap {
        HeapKind::Mimalloc => watched(&script, history.as_ref(), Mimalloc, order.verify),
        HeapKind::System => watched(&script, history.as_ref(), System, order.verify),
        HeapKind::Library(wanted) => {
            is_malloc(wanted)?;
            watched(&script, history.as_ref(), System, order.verify)
        }
    }
}

fn checked<'w>(words: &'w [u64], path: &Path) -> Result<Script<'w>, WorkerError> {
    Script::of(words).map_err(|what| WorkerError::Script { path: path.to_owned(), what })
}

/// The dynamic linker goes on without a library that it cannot load first.
fn is_malloc(wanted: &Path) -> Result<(), WorkerError> {
    #[cfg(target_os = "linux")]
    let found = super::heap::home_of_malloc().unwrap_or_default();
    #[cfg(not(target_os = "linux"))]
    let found = PathBuf::new();
    let same = || Some(wanted.canonicalize().ok()? == found.canonicalize().ok()?);
    if same() == Some(true) { Ok(()) } else { Err(WorkerError::OtherMalloc { wanted: wanted.to_owned(), found }) }
}

fn watched(
    script: &Script<'_>,
    history: Option<&Script<'_>>,
    heap: impl Heap,
    verify: bool,
) -> Result<Measured, WorkerError> {
    if !verify {
        return done(script, history, heap, Unwatched).map(|(measured, _)| measured);
    }
    let (measured, watched) = done(script, history, heap, Watched::default())?;
    match watched.broken {
        None => Ok(Measured { checked_count: watched.checked_count, ..measured }),
        Some(what) => Err(WorkerError::Broken { what }),
    }
}

impl<H: Heap, W: Watch> TakesTurns for Machine<'_, H, W> {
    fn turn(&mut self) -> Result<Turn, Failure> {
        Machine::turn(self)
    }
}

fn done<H: Heap, W: Watch>(
    script: &Script<'_>,
    history: Option<&Script<'_>>,
    heap: H,
    watch: W,
) -> Result<(Measured, W), WorkerError> {
    let mut machine = Machine::new(script, heap, watch)?;
    let clock_ns = clock_ns();
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    super::usage::give_back_reserves();
    if let Some(history) = history {
        fragment(history, heap)??;
    }
    let (ended, before) = relay(&mut machine, script.header().thread_count, || -> io::Result<_> {
        forget_peak()?;
        Ok((Resident::read()?, minor_fault_count()))
    })?;
    let (after, faults_after) = (Resident::read()?, minor_fault_count());
    let (before, faults_before) = before?;
    ended?;
    let measured = Measured {
        work_ns: machine.work_ns.saturating_sub(machine.reading_count * clock_ns),
        peak_bytes: after.peak_bytes.max(machine.resident_bytes).saturating_sub(before.now_bytes),
        minor_fault_count: faults_after.saturating_sub(faults_before),
        checked_count: 0,
    };
    Ok((measured, machine.into_watch()))
}

/// What it takes to read the clock: the median of many times.
fn clock_ns() -> u64 {
    let mut readings = [0; CLOCK_READINGS];
    for reading in &mut readings {
        let began_ns = thread_ns();
        *reading = thread_ns() - began_ns;
    }
    readings.sort_unstable();
    readings[CLOCK_READINGS / 2]
}
