//! What if it had been another allocator, or a plan's arenas: a recorded process is replayed against real memory, and measured.
//! Responsible for the way from a trace to figures with their spread; not for finding plans (see `arenas`), nor for printing.
//!
//! ```text
//!   trace ─▶ Following ─▶ OnlyOf ─▶ Writer ─▶ script ──┐           without and with the plan
//!                              └──▶ Simulation         ├─▶ model of glibc's malloc
//!                                      │               │         │
//!                                      │               ▼         │
//!                                  predicted      a fresh process per run: check ─▶ relay ─▶ machine ─▶ time, peak, faults
//!                                      │                         │                                          │
//!                                      └─────────────────────────┴──▶ compare: medians, spreads, noise? ◀───┘
//! ```
//!
//! What is replayed is the process's allocator calls and nothing else: blocks are touched once, when they are born, and what the program
//! did between calls is left out. So times are the allocator's, with caches that are warmer than a compiler leaves them; gains
//! in locality do not show.

mod allocator;
mod bump;
mod check;
mod compare;
mod execute;
mod fragment;
mod glibc;
mod heap;
mod predict;
mod relay;
mod runs;
mod script;
mod stages;
mod table;
mod usage;
mod watch;
pub mod worker;
mod writer;

pub use allocator::Allocator;
pub use check::Script;
pub use compare::{Change, Compared, Figures, Predicted, Spread, Subject, Tried, Verdict, WhatIf};
pub use glibc::{Glibc, Place};
pub use runs::Launcher;
pub use script::{Bump, Header, NUMBER_LIMIT, Step, Steps};

use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use trace_format::{ProcessId, Trace};

use self::stages::{Both, OnlyOf};
use self::worker::{HeapKind, Measured, Order};
use self::writer::Writer;
use crate::arenas::{Following, Placement, Plan, Policy, Simulation};
use crate::doubt::{doubts, phases_missing};
use crate::error::AnalysisError;
use crate::names::Names;
use crate::phases::{View, phase_of};
use crate::profile::Profile;
use crate::replay::{Outcome, over_all_passes};
use crate::selection::{Selection, Wanted};
use crate::wrappers::Wrappers;

/// What to try.
#[derive(Debug, Clone)]
pub struct TryOptions {
    /// Each with and without the plan.
    pub allocators: Vec<Allocator>,
    /// Runs of each.
    pub runs: u32,
    /// Begin with heaps that have holes.
    pub fragment: bool,
}

/// A trace to replay.
#[derive(Debug)]
pub struct Recorded<'a> {
    /// The trace.
    pub trace: &'a Trace,
    /// Its names.
    pub names: &'a Names,
    /// What its replay found.
    pub outcome: &'a Outcome,
    /// Functions that allocate on behalf of others.
    pub wrappers: &'a Wrappers,
    /// Profiles of compilers: what its markers mean.
    pub profiles: &'a [Profile],
    /// Threads that decode.
    pub decoders: usize,
}

/// A script in a file.
#[derive(Debug, Clone)]
pub struct Written {
    /// The file.
    pub path: PathBuf,
    /// What it says of itself.
    pub header: Header,
    /// What the simulation says of the same.
    pub predicted: Predicted,
    /// Scopes of the plan that nothing in the trace stands for: phases.
    pub missing_scopes: Vec<String>,
}

impl Recorded<'_> {
    /// The process to replay: the one that is wanted, or, of several and if none is, the one with the most allocations.
    ///
    /// # Errors
    /// There is no such process, or none that allocated.
    pub fn process(&self, wanted: Option<String>) -> Result<ProcessId, AnalysisError> {
        let wanted = Wanted { process: wanted, domain: None };
        let selection = Selection::of(&wanted, &self.trace.tables, self.outcome)?;
        let calls = |process: &ProcessId| {
            let counts = self.outcome.processes[process.index()].account.counts;
            counts.alloc_count + counts.realloc_count
        };
        let all = (0..self.outcome.processes.len()).rev().map(ProcessId::from);
        all.filter(|process| selection.includes_process(*process))
            .max_by_key(calls)
            .filter(|process| calls(process) > 0)
            .ok_or(AnalysisError::NothingToReplay { scope: selection.scope })
    }

    /// Writes what a process did as a script, with a plan's arenas or without. `progress` is told of events, over all passes: a plan with
    /// marked phases takes up to three.
    ///
    /// # Errors
    /// The trace became unreadable, or the script cannot be written.
    pub fn write(
        &self,
        process: ProcessId,
        plan: Option<&Plan>,
        path: &Path,
        progress: impl FnMut(u64),
    ) -> Result<Written, AnalysisError> {
        let unwritten = |source| AnalysisError::Script { path: path.to_owned(), source };
        let nothing = Plan::new(Policy::Llvm, Vec::new());
        let plan = plan.unwrap_or(&nothing);
        let mut told = over_all_passes(progress);
        let view = if plan.has_phases() {
            View::with_phases(self.trace, self.names, self.profiles, self.decoders, &mut told)?
        } else {
            View::plain(self.trace, self.names)
        };
        let scopes = plan.arenas.iter().map(|arena| &arena.scope).filter(|scope| phase_of(scope).is_some());
        let missing_scopes = scopes.filter(|scope| !view.has(scope)).cloned().collect();
        let tables = view.tables();
        let placement = Placement::of(plan, tables, view.names(), self.wrappers);
        let file = BufWriter::new(File::create(path).map_err(unwritten)?);
        let both = Both(Writer::new(file, &tables.entries, plan), Simulation::new(plan));
        let following = Following::new(placement, tables, OnlyOf::new(tables, process, both));
        let (outcome, following) = view.replay_with(following, self.decoders, told)?;
        let (only, broken, _) = following.finish();
        let Both(writer, simulation) = only.into_inner();
        let header = writer.finish().map_err(unwritten)?;
        let figures = simulation.into_figures();
        let mut predicted = Predicted::new(
            figures.peak_bytes,
            figures.plain_peak_bytes,
            figures.footprint_peak_bytes,
            figures.plain_footprint_peak_bytes,
        );
        for ((_, cell), broken) in broken {
            if outcome.cells.get(cell.index()).is_some_and(|cell| cell.process == process) {
                predicted.outlived += broken.outlived.count;
                predicted.handed_over += broken.handed_over.count;
            }
        }
        Ok(Written { path: path.to_owned(), header, predicted, missing_scopes })
    }

    /// Replays scripts, and says what came of it. `progress` is told of runs done.
    ///
    /// # Errors
    /// An allocator is not there, or a run failed.
    pub fn measure(
        &self,
        process: ProcessId,
        plain: &Written,
        plan: Option<&Written>,
        options: &TryOptions,
        launcher: &Launcher,
        mut progress: impl FnMut(u64),
    ) -> Result<WhatIf, AnalysisError> {
        let mut setups: Vec<Setup<'_>> = Vec::new();
        for allocator in &options.allocators {
            setups.push(Setup { allocator, heap: allocator.heap()?, plain: Vec::new(), plan: Vec::new() });
        }
        let mut done = 0;
        for _ in 0..options.runs {
            for setup in &mut setups {
                let mut run = |written: &Written| {
                    let order = Order {
                        script: written.path.clone(),
                        heap: setup.heap.clone(),
                        holes_like: options.fragment.then(|| plain.path.clone()),
                        verify: false,
                    };
                    let measured = launcher.perform(&setup.allocator.to_string(), &order)?;
                    done += 1;
                    progress(done);
                    Ok::<Measured, AnalysisError>(measured)
                };
                let without = run(plain)?;
                let with = plan.map(run).transpose()?;
                setup.plain.push(without);
                setup.plan.extend(with);
            }
        }
        let predicted = plan.map(|plan| predict(plain, plan)).transpose()?;
        let tried = setups.iter().map(|setup| {
            let change = predicted.as_ref().map(|predicted| predicted.change_with(&setup.heap));
            let with = change.map(|change| (&setup.plan[..], change));
            Tried::new(setup.allocator.to_string(), &setup.plain, with)
        });
        let row = &self.trace.tables.processes[process.index()];
        let missing = plan.map_or(&[][..], |plan| &plan.missing_scopes);
        let mut all_doubts = doubts(self.trace, self.outcome);
        if !missing.is_empty() {
            all_doubts.push(phases_missing(missing));
        }
        Ok(WhatIf {
            schema: 1,
            subject: Subject {
                process: row.name.clone(),
                pid: row.pid,
                threads: plain.header.thread_count,
                switches: plain.header.switch_count,
                allocs: plain.header.alloc_count,
                steps: plain.header.step_count,
                peak_bytes: plain.header.peak_bytes,
            },
            runs: options.runs,
            fragmented: options.fragment,
            predicted,
            tried: tried.collect(),
            doubts: all_doubts,
        })
    }
}

/// What the simulation says, with what glibc's malloc would have resident. The model needs as much memory as it says that there would be.
fn predict(plain: &Written, plan: &Written) -> Result<Predicted, AnalysisError> {
    let needed_bytes = 2 * plain.header.peak_bytes.max(plan.header.peak_bytes);
    if usage::available_bytes().is_some_and(|available| available < needed_bytes) {
        return Ok(plan.predicted);
    }
    Ok(plan.predicted.resident(resident_peak(&plain.path)?, resident_peak(&plan.path)?))
}

fn resident_peak(path: &Path) -> Result<u64, AnalysisError> {
    let unread = |source| AnalysisError::Script { path: path.to_owned(), source };
    let file = table::map(path).map_err(unread)?;
    let script = Script::of(table::words(&file)).map_err(|what| unread(std::io::Error::other(what)))?;
    let processor_count = std::thread::available_parallelism().map_or(1, |count| count.get() as u32);
    Ok(predict::resident_peak(&script, processor_count))
}

/// An allocator with its runs.
struct Setup<'o> {
    allocator: &'o Allocator,
    heap: HeapKind,
    plain: Vec<Measured>,
    plan: Vec<Measured>,
}
