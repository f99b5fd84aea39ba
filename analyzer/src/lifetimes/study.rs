//! From a trace to what `phases`, `lifetimes` and `timeline` show. Responsible for choosing the phases' source for each process
//! and for running the replay with the collector; not for what is made of the result.

use trace_format::{Process, ReadError, Sequence, Trace};

use super::alive::{Alive, AliveAfter};
use super::collector::{Collected, Collector};
use super::timeline::Timeline;
use crate::activations::Activations;
use crate::leaks::Functions;
use crate::names::Names;
use crate::phases::{Markers, Paths, PhaseSource, RowId, Rules, Tracker, row_path, segments};
use crate::profile::{Profile, in_use};
use crate::replay::{Outcome, replay, replay_with};
use crate::wrappers::Wrappers;

/// Where a process's phases come from.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ProcessPhases {
    /// Process id.
    pub pid: u32,
    /// Its executable.
    pub process: String,
    /// The profile in use, if any.
    pub profile: Option<String>,
    /// What opens its phases, as far as the profile goes.
    pub source: PhaseSource,
    /// Phases of the profile that stacks are to show and that no recorded function is part of.
    pub unseen: Vec<String>,
}

/// A trace, replayed with its phases.
#[derive(Debug)]
pub struct Study {
    /// What the replay found.
    pub outcome: Outcome,
    /// What the collector found.
    pub collected: Collected,
    /// By process.
    pub sources: Vec<ProcessPhases>,
}

impl Study {
    /// Names of a phase and of those around it, outermost first.
    pub fn phase_path(&self, row: RowId) -> Vec<&str> {
        row_path(&self.collected.phases, row)
    }
}

/// Which source of phases to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wish {
    /// Markers for the phases that have any in the trace, stacks for the others.
    #[default]
    Best,
    /// Stacks only.
    Stacks,
    /// Segments of the call tree, for every process.
    Segments,
}

/// Replays a trace and follows every block through the phases of each process: those of the first profile that fits it, and
/// segments where no profile does or where none of its phases was seen. Segments take a replay of their own before.
///
/// # Errors
/// The file became unreadable.
pub fn study(
    trace: &Trace,
    names: &Names,
    profiles: &[Profile],
    wish: Wish,
    decoders: usize,
    mut progress: impl FnMut(u64),
) -> Result<Study, ReadError> {
    let (tracker, sources) = phases_of(trace, names, profiles, wish, decoders, &mut progress)?;
    let collector = Collector::new(&trace.tables, tracker, Timeline::default());
    let (outcome, collector) = replay_with(trace, collector, decoders, progress)?;
    Ok(Study { outcome, collected: collector.finish(), sources })
}

/// What of each cell was alive right after an event, by the phase it was born in: a replay of its own, with the same phases (and
/// numbers of rows) as [`study`] has of the same arguments.
///
/// # Errors
/// The file became unreadable.
pub fn alive_after(
    trace: &Trace,
    names: &Names,
    profiles: &[Profile],
    wish: Wish,
    decoders: usize,
    instant: Sequence,
    mut progress: impl FnMut(u64),
) -> Result<Alive, ReadError> {
    let (tracker, _) = phases_of(trace, names, profiles, wish, decoders, &mut progress)?;
    let (_, watch) = replay_with(trace, AliveAfter::new(tracker, instant), decoders, progress)?;
    Ok(watch.finish())
}

/// What opens and closes phases in each process, and where it comes from.
pub(crate) fn phases_of<'t>(
    trace: &'t Trace,
    names: &Names,
    profiles: &[Profile],
    wish: Wish,
    decoders: usize,
    mut progress: impl FnMut(u64),
) -> Result<(Tracker<'t>, Vec<ProcessPhases>), ReadError> {
    let tables = &trace.tables;
    let (used, mut of_process) = match wish {
        Wish::Segments => (Vec::new(), vec![None; tables.processes.len()]),
        Wish::Best | Wish::Stacks => in_use(profiles, tables),
    };
    let mut rules: Vec<Rules> = used.iter().map(|profile| Rules::of(profile, tables, names)).collect();
    let markers = if wish == Wish::Best { Markers::of(tables, names, &used, &mut rules) } else { Markers::default() };
    let blind = |rules_at: &Option<usize>| markers.is_empty() && rules_at.is_none_or(|at| rules[at].is_blind());
    if of_process.iter().any(blind) {
        let blind: Vec<bool> = of_process.iter().map(blind).collect();
        let outcome = replay(trace, decoders, &mut progress)?;
        add_segments(trace, names, &outcome, &blind, &mut rules, &mut of_process);
    }
    if !markers.is_empty() {
        // Markers of a program's own need no profile.
        rules.push(Rules::default());
        of_process = of_process.into_iter().map(|at| at.or(Some(rules.len() - 1))).collect();
    }
    let sources = tables
        .processes
        .iter()
        .zip(&of_process)
        .map(|(process, rules_at)| source_of(process, rules_at.map(|at| &rules[at]), &markers))
        .collect();
    let activations = Activations::new(tables, names.functions());
    Ok((Tracker::new(tables, activations, rules, markers, of_process), sources))
}

/// Segments the processes that no rule says anything of and that allocate at all.
fn add_segments(
    trace: &Trace,
    names: &Names,
    outcome: &Outcome,
    blind: &[bool],
    rules: &mut Vec<Rules>,
    of_process: &mut [Option<usize>],
) {
    let functions = Functions::of(names);
    let numbers = functions.of_frames(trace.tables.frames.len());
    let paths = Paths::of(&trace.tables, &numbers);
    let wrappers = Wrappers::default();
    for (process, _) in blind.iter().enumerate().filter(|(_, blind)| **blind) {
        let cells = outcome
            .cells
            .iter()
            .filter(|cell| cell.process.index() == process && outcome.in_totals(cell, &trace.tables.entries));
        let found = segments(
            &paths,
            cells.map(|cell| (cell.stack, cell.alloc_bytes)),
            |function| functions.name(function).to_owned(),
            |function| {
                function == u32::MAX || functions.is_library(function) || wrappers.contains(functions.name(function))
            },
            |function| functions.is_named(function),
        );
        if !found.definitions().is_empty() {
            rules.push(found);
            of_process[process] = Some(rules.len() - 1);
        }
    }
}

fn source_of(process: &Process, rules: Option<&Rules>, markers: &Markers) -> ProcessPhases {
    let source = match rules {
        None => PhaseSource::None,
        Some(rules) if rules.are_segments() => PhaseSource::Segment,
        Some(_) if !markers.is_empty() => PhaseSource::Marker,
        Some(_) => PhaseSource::Stack,
    };
    ProcessPhases {
        pid: process.pid,
        process: process.name.clone(),
        profile: rules.map(|rules| rules.profile.clone()).filter(|profile| !profile.is_empty()),
        source,
        unseen: rules.map_or_else(Vec::new, Rules::unseen),
    }
}
