//! What was never freed. Responsible for sorting survivors by how their process ended and by site; not for telling leaks
//! from intended retention (see `leaks`).
//!
//! Only blocks that were born and did not die are here. A request that returned NULL was never a block, and a block that
//! a child inherited by fork is its parent's matter.

use foldhash::{HashMap, HashMapExt};
use serde::Serialize;
use trace_format::{EndReason, Trace};

use crate::doubt::{Doubt, doubts};
use crate::error::AnalysisError;
use crate::metric::Metric;
use crate::names::Names;
use crate::replay::{Amount, Outcome, ProcessOutcome};
use crate::selection::{Selection, Wanted};
use crate::site_tree::{SiteId, SiteTree};
use crate::sites::{SiteFigures, StackFrame, ratio, stack_frames};
use crate::wrappers::Wrappers;

/// Survivors of a trace. This is what `heaptape leaks --sites --json` prints.
#[derive(Debug, Clone, Serialize)]
pub struct Survivors {
    /// Version of this interface.
    pub schema: u32,
    /// Which processes and allocators.
    pub scope: String,
    /// All survivors.
    pub total: Amount,
    /// Survivors by the way their process ended, in the order of `Ending`; empty ones are left out.
    pub groups: Vec<SurvivorGroup>,
    /// What the figures do not know.
    pub doubts: Vec<Doubt>,
}

/// How a process image ended, as far as its survivors are concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// The process exited: the block was never freed.
    NeverFreedBeforeExit,
    /// The process called exec: the block was never freed before.
    NeverFreedBeforeExec,
    /// The process went on after the recording: the block may be freed yet.
    LiveAtEndOfRecording,
}

impl Ending {
    /// Of a process.
    pub fn of(process: &ProcessOutcome) -> Self {
        match process.end {
            Some((_, EndReason::Exit(_))) => Self::NeverFreedBeforeExit,
            Some((_, EndReason::Exec)) => Self::NeverFreedBeforeExec,
            Some((_, EndReason::Detached)) | None => Self::LiveAtEndOfRecording,
        }
    }

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::NeverFreedBeforeExit => "never freed before exit",
            Self::NeverFreedBeforeExec => "never freed before exec",
            Self::LiveAtEndOfRecording => "live at end of recording (the process went on: not leaks by themselves)",
        }
    }
}

/// Survivors of processes that ended alike.
#[derive(Debug, Clone, Serialize)]
pub struct SurvivorGroup {
    /// How they ended.
    pub ending: Ending,
    /// Survivors of the group.
    pub total: Amount,
    /// Sites that survivors were born at; `sites` may hold fewer.
    pub site_count: u64,
    /// By bytes, heaviest first.
    pub sites: Vec<SurvivorSite>,
}

/// Survivors of one site.
#[derive(Debug, Clone, Serialize)]
pub struct SurvivorSite {
    /// From 1, within its group.
    pub rank: u64,
    /// Bytes that survived.
    pub live_at_end_bytes: u64,
    /// Blocks that survived.
    pub live_at_end_count: u64,
    /// Blocks ever born here, by allocs and reallocs.
    pub birth_count: u64,
    /// Bytes that survived of the group's, from 0 to 1.
    pub share: f64,
    /// Names of the processes it survived in, at most eight.
    pub processes: Vec<String>,
    /// The stack, the site's own function first.
    pub stack: Vec<StackFrame>,
}

#[derive(Default)]
struct Row {
    figures: SiteFigures,
    processes: Vec<String>,
}

/// Sorts what survived; at most `limit` sites per group are listed.
///
/// # Errors
/// The selection names nothing.
pub fn survivors(
    trace: &Trace,
    outcome: &Outcome,
    names: &Names,
    wanted: &Wanted,
    wrappers: &Wrappers,
    limit: usize,
) -> Result<Survivors, AnalysisError> {
    const PROCESSES_SHOWN: usize = 8;
    let selection = Selection::of(wanted, &trace.tables, outcome)?;
    let tree = SiteTree::of(&trace.tables, names, wrappers);
    let mut rows: HashMap<(Ending, SiteId), Row> = HashMap::new();
    for cell in outcome.cells.iter().filter(|cell| selection.includes(cell)) {
        let process = &outcome.processes[cell.process.index()];
        let row = rows.entry((Ending::of(process), tree.site(cell.stack))).or_default();
        row.figures.add(cell, cell.at_peak);
        let name = &trace.tables.processes[cell.process.index()].name;
        if cell.at_end.count > 0 && row.processes.len() < PROCESSES_SHOWN && !row.processes.contains(name) {
            row.processes.push(name.clone());
        }
    }
    let mut rows: Vec<_> = rows.into_iter().filter(|(_, row)| row.figures.live_at_end_count > 0).collect();
    rows.sort_unstable_by(|((ending, site), row), ((other_ending, other_site), other)| {
        let heavier = other.figures.weight(Metric::LiveAtEnd).cmp(&row.figures.weight(Metric::LiveAtEnd));
        ending.cmp(other_ending).then(heavier).then(site.cmp(other_site))
    });
    let mut total = Amount::default();
    let mut groups = Vec::new();
    for group in rows.chunk_by(|((ending, _), _), ((next, _), _)| ending == next) {
        let mut group_total = Amount::default();
        for (_, row) in group {
            group_total += Amount { bytes: row.figures.live_at_end_bytes, count: row.figures.live_at_end_count };
        }
        total += group_total;
        let sites = group.iter().take(limit).zip(1..).map(|(((_, site), row), rank)| SurvivorSite {
            rank,
            live_at_end_bytes: row.figures.live_at_end_bytes,
            live_at_end_count: row.figures.live_at_end_count,
            birth_count: row.figures.alloc_count + row.figures.realloc_count,
            share: ratio(row.figures.live_at_end_bytes, group_total.bytes),
            processes: row.processes.clone(),
            stack: stack_frames(&tree, *site, names),
        });
        groups.push(SurvivorGroup {
            ending: group[0].0.0,
            total: group_total,
            site_count: group.len() as u64,
            sites: sites.collect(),
        });
    }
    Ok(Survivors { schema: 1, scope: selection.scope, total, groups, doubts: doubts(trace, outcome) })
}
