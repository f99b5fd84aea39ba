//! What each phase does with memory. Responsible for the result that `heaptape phases` shows; not for following blocks (see
//! `collector`) nor for printing.

use serde::Serialize;
use trace_format::{ThreadId, Trace};

use super::class::Class;
use super::collector::{Instance, RowLife};
use super::study::{ProcessPhases, Study};
use crate::doubt::{Doubt, doubts};
use crate::error::AnalysisError;
use crate::phases::{PhaseSource, RowId};
use crate::replay::Amount;
use crate::selection::{Selection, Wanted};
use crate::sites::ratio;

/// The phases of a trace. This is what `heaptape phases --json` prints.
#[derive(Debug, Clone, Serialize)]
pub struct Phases {
    /// Version of this interface; rises when a field changes its meaning.
    pub schema: u32,
    /// Which processes.
    pub scope: String,
    /// Time from the first to the last event.
    pub span_ns: u64,
    /// All births in it.
    pub total: Amount,
    /// Where the phases come from, by process.
    pub sources: Vec<ProcessPhases>,
    /// Each phase in its place, on each thread; a parent comes before its children, `(outside)` of each thread last.
    pub phases: Vec<Phase>,
    /// End markers without a begin: 0 if every phase's begins equal its ends.
    pub unmatched_end_count: u64,
    /// Begin markers whose end never came.
    pub unended_count: u64,
    /// What the figures do not know.
    pub doubts: Vec<Doubt>,
}

/// A phase in its place, on one thread.
#[derive(Debug, Clone, Serialize)]
pub struct Phase {
    /// Number of the row.
    pub id: u32,
    /// Row of the phase around it.
    pub parent: Option<u32>,
    /// Its name.
    pub name: String,
    /// Thread id.
    pub tid: u32,
    /// The thread's name.
    pub thread: String,
    /// Its process.
    pub pid: u32,
    /// What opened it.
    pub source: PhaseSource,
    /// Phases around it.
    pub depth: u32,
    /// Instances begun.
    pub instances: u64,
    /// Instances that the end of their thread, process or the recording cut short.
    pub cut_short: u64,
    /// First begin.
    pub begin_ns: u64,
    /// Last end.
    pub end_ns: u64,
    /// Time of all instances.
    pub time_ns: u64,
    /// Allocs here and not in a phase inside, reallocs included.
    pub alloc_count: u64,
    /// Their requested bytes.
    pub alloc_bytes: u64,
    /// Of them, reallocs.
    pub realloc_count: u64,
    /// The same with the phases inside.
    pub inclusive_alloc_count: u64,
    /// The same with the phases inside.
    pub inclusive_alloc_bytes: u64,
    /// Blocks that died here and not in a phase inside, wherever they were born.
    pub free_count: u64,
    /// Their bytes.
    pub free_bytes: u64,
    /// Requested bytes per second of its own time, phases inside included.
    pub alloc_bytes_per_s: f64,
    /// Most bytes that the process had alive while it was open.
    pub peak_bytes: u64,
    /// When.
    pub peak_ns: u64,
    /// Whose blocks those were, the most first; at most five.
    pub peak_held_by: Vec<Held>,
    /// Most bytes born here alive at a time.
    pub own_peak_bytes: u64,
    /// What its instances left alive at their end, of blocks born in them, phases inside included.
    pub left_behind_count: u64,
    /// The same in bytes.
    pub left_behind_bytes: u64,
    /// Blocks born here by what became of them.
    pub classes: Vec<ClassFigures>,
    /// Ages of blocks born here and freed.
    pub ages: Ages,
    /// Its first instances, if they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub instance_list: Vec<InstanceFigures>,
}

/// Live bytes of a phase.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Row of the phase that the blocks were born in.
    pub phase: u32,
    /// Its name.
    pub name: String,
    /// Live bytes.
    pub bytes: u64,
}

/// Blocks of one class.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct ClassFigures {
    /// Which.
    pub class: Class,
    /// Blocks.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Ages of freed blocks: half of them are at most as old as the median says, nine in ten as the 90 %.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Ages {
    /// In bytes allocated meanwhile.
    pub median_bytes: u64,
    /// In bytes allocated meanwhile.
    pub p90_bytes: u64,
    /// In bytes allocated meanwhile.
    pub p99_bytes: u64,
    /// In time.
    pub median_ns: u64,
    /// In time.
    pub p90_ns: u64,
    /// In time.
    pub p99_ns: u64,
}

/// One instance of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct InstanceFigures {
    /// From 1.
    pub number: u64,
    /// Begin.
    pub begin_ns: u64,
    /// End.
    pub end_ns: u64,
    /// First event in it.
    pub first_event: u64,
    /// First event after it.
    pub end_event: u64,
    /// Blocks born in it, phases inside included.
    pub alloc_count: u64,
    /// Their bytes.
    pub alloc_bytes: u64,
    /// Of them, alive at its end.
    pub left_behind_count: u64,
    /// The same in bytes.
    pub left_behind_bytes: u64,
}

/// Makes figures of classes.
pub(super) fn class_figures(classes: &[Amount; Class::COUNT]) -> Vec<ClassFigures> {
    let of = |class: &Class| (*class, classes[class.index()]);
    Class::ALL.iter().map(of).map(|(class, Amount { bytes, count })| ClassFigures { class, count, bytes }).collect()
}

/// Phases whose births and deaths are those of the selected processes; with `instances`, up to that many of each are listed.
///
/// # Errors
/// The selection names nothing.
pub fn phases(trace: &Trace, study: &Study, wanted: &Wanted, instances: usize) -> Result<Phases, AnalysisError> {
    let selection = Selection::of(wanted, &trace.tables, &study.outcome)?;
    let found = &study.collected;
    let selected = |thread: ThreadId| {
        trace.tables.threads.get(thread.index()).is_some_and(|thread| selection.includes_process(thread.process))
    };
    let mut inclusive: Vec<Amount> = found.rows.iter().map(|row| row.born).collect();
    for at in (0..found.phases.len()).rev() {
        if let Some(parent) = found.phases[at].parent {
            let born = inclusive[at];
            inclusive[parent.0 as usize] += born;
        }
    }
    let order = in_order(study);
    let mut total = Amount::default();
    let mut rows = Vec::new();
    for at in order.into_iter().filter(|at| selected(found.phases[*at].thread)) {
        total += found.rows[at].born;
        rows.push(phase(trace, study, at, inclusive[at], instances));
    }
    let sources = study
        .sources
        .iter()
        .zip(&trace.tables.processes)
        .enumerate()
        .filter(|(at, _)| selection.includes_process(trace_format::ProcessId::from(*at)))
        .map(|(_, (source, _))| source.clone())
        .collect();
    Ok(Phases {
        schema: 1,
        scope: selection.scope,
        span_ns: study.outcome.last_ns.saturating_sub(study.outcome.first_ns),
        total,
        sources,
        phases: rows,
        unmatched_end_count: found.unmatched_end_count,
        unended_count: found.unended_count,
        doubts: doubts(trace, &study.outcome),
    })
}

/// Rows with each parent before its children, siblings by their first begin, what is outside last.
fn in_order(study: &Study) -> Vec<usize> {
    let found = &study.collected;
    let mut children: Vec<Vec<usize>> = vec![Vec::new(); found.phases.len() + 1];
    for (at, phase) in found.phases.iter().enumerate() {
        children[phase.parent.map_or(found.phases.len(), |parent| parent.0 as usize)].push(at);
    }
    let key = |at: &usize| {
        let phase = &found.phases[*at];
        let outer = phase.parent.is_none();
        (if outer { phase.thread.0 } else { 0 }, phase.source == PhaseSource::None, found.rows[*at].begin_ns, *at)
    };
    for list in &mut children {
        list.sort_by_key(key);
    }
    let mut order = Vec::with_capacity(found.phases.len());
    let mut waiting: Vec<usize> = children[found.phases.len()].iter().rev().copied().collect();
    while let Some(at) = waiting.pop() {
        order.push(at);
        waiting.extend(children[at].iter().rev());
    }
    order
}

fn phase(trace: &Trace, study: &Study, at: usize, inclusive: Amount, instances: usize) -> Phase {
    let found = &study.collected;
    let (row, life) = (&found.phases[at], &found.rows[at]);
    let thread = &trace.tables.threads[row.thread.index()];
    let held = |(row, bytes): &(RowId, u64)| Held {
        phase: row.0,
        name: found.phases[row.0 as usize].name.clone(),
        bytes: *bytes,
    };
    Phase {
        id: at as u32,
        parent: row.parent.map(|parent| parent.0),
        name: row.name.clone(),
        tid: thread.tid,
        thread: thread.name.clone(),
        pid: trace.tables.processes[thread.process.index()].pid,
        source: row.source,
        depth: row.depth,
        instances: life.instance_count,
        cut_short: life.cut_short_count,
        begin_ns: life.begin_ns,
        end_ns: life.end_ns,
        time_ns: life.time_ns,
        alloc_count: life.born.count,
        alloc_bytes: life.born.bytes,
        realloc_count: life.realloc_count,
        inclusive_alloc_count: inclusive.count,
        inclusive_alloc_bytes: inclusive.bytes,
        free_count: life.died.count,
        free_bytes: life.died.bytes,
        alloc_bytes_per_s: ratio(inclusive.bytes, life.time_ns) * 1e9,
        peak_bytes: life.peak.bytes,
        peak_ns: life.peak.ns,
        peak_held_by: life.peak.holders().iter().take(5).map(held).collect(),
        own_peak_bytes: life.own_peak_bytes,
        left_behind_count: life.left_behind.count,
        left_behind_bytes: life.left_behind.bytes,
        classes: class_figures(&life.classes),
        ages: ages(life),
        instance_list: life.instances.iter().take(instances).zip(1..).map(instance).collect(),
    }
}

fn ages(life: &RowLife) -> Ages {
    Ages {
        median_bytes: life.ages_bytes.quantile(0.5),
        p90_bytes: life.ages_bytes.quantile(0.9),
        p99_bytes: life.ages_bytes.quantile(0.99),
        median_ns: life.ages_ns.quantile(0.5),
        p90_ns: life.ages_ns.quantile(0.9),
        p99_ns: life.ages_ns.quantile(0.99),
    }
}

fn instance((instance, number): (&Instance, u64)) -> InstanceFigures {
    InstanceFigures {
        number,
        begin_ns: instance.begin_ns,
        end_ns: instance.end_ns,
        first_event: instance.first.0,
        end_event: instance.end.0,
        alloc_count: instance.born.count,
        alloc_bytes: instance.born.bytes,
        left_behind_count: instance.left_behind.count,
        left_behind_bytes: instance.left_behind.bytes,
    }
}
