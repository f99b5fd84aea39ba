//! What becomes of blocks. Responsible for the result that `heaptape lifetimes` shows: classes, the matrix of birth and death,
//! sites; not for following blocks (see `collector`) nor for printing.

use foldhash::{HashMap, HashMapExt};
use serde::Serialize;
use trace_format::{ProcessId, Trace};

use super::class::Class;
use super::collector::{CellLife, ESCAPES};
use super::histogram::Coarse;
use super::phases::{ClassFigures, class_figures};
use super::study::{ProcessPhases, Study};
use crate::doubt::{Doubt, doubts};
use crate::error::AnalysisError;
use crate::names::Names;
use crate::phases::{PhaseSource, RowId};
use crate::replay::Amount;
use crate::selection::{Selection, Wanted};
use crate::site_tree::{SiteId, SiteTree};
use crate::sites::{StackFrame, ratio, stack_frames};
use crate::wrappers::Wrappers;

/// Lifetimes of a trace's blocks. This is what `heaptape lifetimes --json` prints.
#[derive(Debug, Clone, Serialize)]
pub struct Lifetimes {
    /// Version of this interface; rises when a field changes its meaning.
    pub schema: u32,
    /// Which processes.
    pub scope: String,
    /// All blocks: each alloc is one, and each realloc begins another.
    pub total: Amount,
    /// By class.
    pub classes: Vec<ClassFigures>,
    /// Mean live bytes over the time from the first to the last event.
    pub mean_live_bytes: f64,
    /// How far blocks escape from where they are born.
    pub escape: Escape,
    /// Where the phases come from, by process.
    pub sources: Vec<ProcessPhases>,
    /// Birth by death, the heaviest first; phases of all threads by name.
    pub matrix: Vec<Cell>,
    /// Sites there are; `sites` may hold fewer.
    pub site_count: u64,
    /// Sites, the heaviest first.
    pub sites: Vec<SiteLife>,
    /// What the figures do not know.
    pub doubts: Vec<Doubt>,
}

/// How many frames out the scope of blocks is: 0 is the allocating frame itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Escape {
    /// Blocks freed by their own thread, by escape height; the last counts all higher ones.
    pub optimistic: Vec<u64>,
    /// The same where a frame that went back in its function is taken for another call.
    pub pessimistic: Vec<u64>,
    /// Blocks whose scope depends on that.
    pub doubtful_count: u64,
}

/// Blocks that were born in one phase and died in another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cell {
    /// Path of the phase at birth, outermost first, joined by ` › `.
    pub birth: String,
    /// Path of the phase at death; none for survivors.
    pub death: Option<String>,
    /// Blocks.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What becomes of the blocks of a site.
#[derive(Debug, Clone, Serialize)]
pub struct SiteLife {
    /// From 1.
    pub rank: u64,
    /// Blocks born.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// By class.
    pub classes: Vec<ClassFigures>,
    /// Phases at birth, the most frequent first, by name.
    pub birth_phases: Vec<String>,
    /// The function whose activation is the scope of most of its blocks that are freed by their own thread; none if that is
    /// the thread as a whole.
    pub scope_function: Option<String>,
    /// The part of those blocks that have it, from 0 to 1.
    pub scope_share: f64,
    /// Frames between the two.
    pub escape: u64,
    /// Half of the freed blocks are at most this old, in bytes allocated meanwhile; less than twice too high. None if none was
    /// freed.
    pub median_age_bytes: Option<u64>,
    /// The same for nine in ten.
    pub p90_age_bytes: Option<u64>,
    /// Half of the freed blocks are at most this old; less than twice too high.
    pub median_age_ns: Option<u64>,
    /// The same for nine in ten.
    pub p90_age_ns: Option<u64>,
    /// The stack, the site's own function first.
    pub stack: Vec<StackFrame>,
}

#[derive(Default)]
struct SiteRow {
    classes: [Amount; Class::COUNT],
    /// Freed blocks by depth of their scope, wrappers not counted.
    scopes: HashMap<u32, u64>,
    ages_bytes: Coarse,
    ages_ns: Coarse,
    rows: HashMap<RowId, u64>,
}

/// Lifetimes of the selected processes' blocks; at most `limit` sites and pairs of phases are listed.
///
/// # Errors
/// The selection names nothing.
pub fn lifetimes(
    trace: &Trace,
    study: &Study,
    names: &Names,
    wanted: &Wanted,
    wrappers: &Wrappers,
    limit: usize,
) -> Result<Lifetimes, AnalysisError> {
    let tables = &trace.tables;
    let selection = Selection::of(wanted, tables, &study.outcome)?;
    let found = &study.collected;
    let tree = SiteTree::of(tables, names, wrappers);
    let depths = crate::activations::depths(tables);
    let mut classes = [Amount::default(); Class::COUNT];
    let mut byte_ns = 0;
    let mut escape = Escape { optimistic: vec![0; ESCAPES], pessimistic: vec![0; ESCAPES], doubtful_count: 0 };
    let mut sites: HashMap<SiteId, SiteRow> = HashMap::new();
    for (cell, life) in study.outcome.cells.iter().zip(&found.cells).filter(|(cell, _)| selection.includes(cell)) {
        let row = sites.entry(tree.site(cell.stack)).or_default();
        for (at, amount) in life.classes.iter().enumerate() {
            classes[at] += *amount;
            row.classes[at] += *amount;
        }
        byte_ns += life.byte_ns;
        for at in 0..ESCAPES {
            escape.optimistic[at] += u64::from(life.escapes[at]);
            escape.pessimistic[at] += u64::from(life.pessimistic_escapes[at]);
        }
        escape.doubtful_count += u64::from(life.doubtful_scope_count);
        add_scopes(&mut row.scopes, life, depths.get(cell.stack.index()).copied().unwrap_or(0));
        row.ages_bytes.merge(&life.ages_bytes);
        row.ages_ns.merge(&life.ages_ns);
        for part in &life.rows {
            *row.rows.entry(part.row).or_default() += part.born.count;
        }
    }
    let mut total = Amount::default();
    for amount in &classes {
        total += *amount;
    }
    // Where nothing but failures happened, no block was born.
    let sites = sites.into_iter().map(|(site, row)| (sum(&row.classes), site, row));
    let mut sites: Vec<_> = sites.filter(|(sum, ..)| sum.count > 0).collect();
    let site_count = sites.len() as u64;
    sites.sort_unstable_by_key(|(sum, site, _)| (std::cmp::Reverse((sum.bytes, sum.count)), *site));
    sites.truncate(limit);
    let sites = sites
        .into_iter()
        .zip(1..)
        .map(|((sum, site, row), rank)| site_life(study, &tree, names, rank, sum, site, &row));
    let span_ns = study.outcome.last_ns.saturating_sub(study.outcome.first_ns);
    Ok(Lifetimes {
        schema: 1,
        total,
        classes: class_figures(&classes),
        mean_live_bytes: if span_ns == 0 { 0.0 } else { byte_ns as f64 / span_ns as f64 },
        escape,
        sources: study
            .sources
            .iter()
            .enumerate()
            .filter(|(at, _)| selection.includes_process(ProcessId::from(*at)))
            .map(|(_, source)| source.clone())
            .collect(),
        matrix: matrix(trace, study, &selection),
        site_count,
        sites: sites.collect(),
        doubts: doubts(trace, &study.outcome),
        scope: selection.scope,
    })
}

fn sum(classes: &[Amount]) -> Amount {
    classes.iter().fold(Amount::default(), |mut sum, amount| {
        sum += *amount;
        sum
    })
}

/// Scopes by depth: the birth stack's depth less the escape height. The highest escapes are not told apart: they are left out.
fn add_scopes(scopes: &mut HashMap<u32, u64>, life: &CellLife, depth: u32) {
    for (escape, count) in life.escapes.iter().enumerate().take(ESCAPES - 1).filter(|(_, count)| **count > 0) {
        *scopes.entry(depth.saturating_sub(escape as u32)).or_default() += u64::from(*count);
    }
    let high = u64::from(life.escapes[ESCAPES - 1]);
    if high > 0 {
        *scopes.entry(u32::MAX).or_default() += high;
    }
}

fn site_life(
    study: &Study,
    tree: &SiteTree,
    names: &Names,
    rank: u64,
    sum: Amount,
    site: SiteId,
    row: &SiteRow,
) -> SiteLife {
    let stack = stack_frames(tree, site, names);
    let freed: u64 = row.scopes.values().sum();
    let commonest = row.scopes.iter().max_by_key(|(depth, count)| (**count, std::cmp::Reverse(**depth)));
    let (depth, count) = commonest.map_or((0, 0), |(depth, count)| (*depth, *count));
    // Frames of a stack and of a site differ by wrappers and inlined functions: counted from the root.
    let frames = tree.physical_frames(site);
    let scope_function = (depth > 0 && depth != u32::MAX)
        .then(|| frames.get(depth as usize - 1).map(|place| names.place(*place).function.clone()))
        .flatten()
        .or_else(|| {
            (depth != u32::MAX && depth as usize > frames.len())
                .then(|| stack.first().map(|frame| frame.function.clone()))
                .flatten()
        });
    let mut phases: Vec<(RowId, u64)> = row.rows.iter().map(|(row, count)| (*row, *count)).collect();
    phases.sort_unstable_by_key(|(row, count)| (std::cmp::Reverse(*count), *row));
    let mut birth_phases: Vec<String> = Vec::new();
    for (row, _) in phases {
        let name = &study.collected.phases[row.0 as usize].name;
        if !birth_phases.contains(name) {
            birth_phases.push(name.clone());
        }
    }
    SiteLife {
        rank,
        count: sum.count,
        bytes: sum.bytes,
        classes: class_figures(&row.classes),
        birth_phases,
        scope_function,
        scope_share: ratio(count, freed),
        escape: if depth == u32::MAX {
            ESCAPES as u64 - 1
        } else {
            (frames.len() as u64).saturating_sub(u64::from(depth))
        },
        median_age_bytes: row.ages_bytes.quantile(0.5),
        p90_age_bytes: row.ages_bytes.quantile(0.9),
        median_age_ns: row.ages_ns.quantile(0.5),
        p90_age_ns: row.ages_ns.quantile(0.9),
        stack,
    }
}

/// The path of a row, outermost phase first.
pub(crate) fn path(study: &Study, row: RowId) -> String {
    study.phase_path(row).join(" › ")
}

fn matrix(trace: &Trace, study: &Study, selection: &Selection) -> Vec<Cell> {
    let rows = &study.collected.phases;
    let selected = |row: RowId| {
        let thread = &trace.tables.threads[rows[row.0 as usize].thread.index()];
        selection.includes_process(thread.process)
    };
    let mut cells: HashMap<(String, Option<String>), Amount> = HashMap::new();
    for ((birth, death), amount) in study.collected.matrix.iter().filter(|((birth, _), _)| selected(*birth)) {
        *cells.entry((path(study, *birth), death.map(|death| path(study, death)))).or_default() += *amount;
    }
    let mut cells: Vec<Cell> = cells
        .into_iter()
        .map(|((birth, death), Amount { bytes, count })| Cell { birth, death, count, bytes })
        .collect();
    cells.sort_by(|one, other| {
        (other.bytes, other.count)
            .cmp(&(one.bytes, one.count))
            .then_with(|| (&one.birth, &one.death).cmp(&(&other.birth, &other.death)))
    });
    cells
}

/// Whether any phase was found at all.
pub fn has_phases(study: &Study) -> bool {
    study.collected.phases.iter().any(|row| row.source != PhaseSource::None)
}
