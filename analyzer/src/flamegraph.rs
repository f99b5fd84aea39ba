//! Flame graphs. Responsible for folding stacks by a metric and for drawing them with `inferno`; not for choosing what is
//! drawn (see `selection`).

use std::collections::BTreeMap;
use std::io::Write;

use inferno::flamegraph::color::{BackgroundColor, BasicPalette, Palette};
use inferno::flamegraph::{Direction, Options, TextTruncateDirection, from_lines};
use trace_format::{ProcessId, Sequence, Tables, Trace};

use crate::doubt::doubts;
use crate::error::AnalysisError;
use crate::lifetimes::{Alive, CellRow, Study};
use crate::metric::Metric;
use crate::names::Names;
use crate::phases::RowId;
use crate::replay::{Outcome, Peak};
use crate::selection::{Selection, Wanted};
use crate::site_tree::SiteTree;
use crate::units;
use crate::wrappers::Wrappers;

/// Stacks folded into `root;caller;callee` with their weight, and the words around them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folded {
    /// By stack, sorted; no weight is 0.
    pub stacks: BTreeMap<String, u64>,
    /// What is weighed.
    pub metric: Metric,
    /// Sum of the weights.
    pub total: u64,
    /// Which processes and allocators.
    pub scope: String,
    /// What to say below the title: command, weight, doubts.
    pub subtitle: String,
    /// Whether the phases of birth stand between the process and its functions.
    pub by_phase: bool,
}

/// Folds what is selected by a metric. Each line begins with its process and ends with the entry point called; a stack that
/// was cut short says so before its first frame. The sum of all weights is the figure that `info` shows.
///
/// # Errors
/// The selection names nothing, or nothing in it has a weight.
pub fn fold(
    trace: &Trace,
    outcome: &Outcome,
    names: &Names,
    wanted: &Wanted,
    metric: Metric,
    by_phase: Option<ByPhase<'_>>,
) -> Result<Folded, AnalysisError> {
    let tables = &trace.tables;
    let selection = Selection::of(wanted, tables, outcome)?;
    let tree = SiteTree::of(tables, names, &Wrappers::default());
    let mut stacks: BTreeMap<String, u64> = BTreeMap::new();
    let mut line = String::new();
    let mut total = 0_u64;
    let cells = outcome.cells.iter().enumerate().filter(|(_, cell)| selection.includes(cell));
    let parts = cells.flat_map(|(at, cell)| {
        let whole = vec![(None, metric.of(cell, selection.peak()))];
        let parts = by_phase.map_or(whole, |by_phase| by_phase.parts(at, metric));
        parts.into_iter().map(move |(phase, weight)| (cell, phase, weight))
    });
    for (cell, phase, weight) in parts.filter(|(.., weight)| *weight > 0) {
        total = total.wrapping_add(weight);
        line.clear();
        push_frame(&mut line, &process_name(tables, cell.process));
        for name in by_phase.zip(phase).map_or_else(Vec::new, |(by_phase, row)| by_phase.study.phase_path(row)) {
            push_frame(&mut line, &format!("[{name}]"));
        }
        if let Some(end) = outcome.cut_stacks.get(&cell.stack) {
            push_frame(&mut line, &format!("[truncated: {}]", end.name()));
        }
        let path: Vec<_> = tree.path(tree.full(cell.stack)).collect();
        for place in path.into_iter().rev() {
            push_frame(&mut line, &names.place(place).function);
        }
        push_frame(&mut line, &tables.entries[cell.entry.index()].symbol);
        match stacks.get_mut(&line) {
            Some(sum) => *sum = sum.wrapping_add(weight),
            None => {
                stacks.insert(line.clone(), weight);
            }
        }
    }
    if stacks.is_empty() {
        return Err(AnalysisError::NothingToDraw { metric: metric.words().to_owned(), scope: selection.scope });
    }
    let subtitle = subtitle(trace, outcome, &selection, metric, total);
    Ok(Folded { stacks, metric, total, scope: selection.scope, subtitle, by_phase: by_phase.is_some() })
}

/// The phases of a trace, for a flame graph by phase.
#[derive(Debug, Clone, Copy)]
pub struct ByPhase<'a> {
    /// Its phases.
    pub study: &'a Study,
    /// What was alive at the peak that is drawn (see [`peak_instant`]); other metrics do without.
    pub at_peak: Option<&'a Alive>,
}

impl ByPhase<'_> {
    /// Phases that a cell's blocks were born in, with their weight.
    fn parts(&self, cell: usize, metric: Metric) -> Vec<(Option<RowId>, u64)> {
        let rows = self.study.collected.cells.get(cell).map_or(&[][..], |life| &life.rows);
        let of_rows = |weight: fn(&CellRow) -> u64| rows.iter().map(|part| (Some(part.row), weight(part))).collect();
        match metric {
            Metric::Bytes => of_rows(|part| part.born.bytes),
            Metric::Count => of_rows(|part| part.born.count),
            Metric::LiveAtEnd => of_rows(|part| part.survived.bytes),
            Metric::Peak => {
                let alive = self.at_peak.map_or(&[][..], |alive| alive.of_cell(cell));
                alive.iter().map(|(row, bytes)| (Some(*row), *bytes)).collect()
            }
        }
    }
}

/// The event that sets the peak of what is selected: of the one process, or of all together.
///
/// # Errors
/// The selection names nothing.
pub fn peak_instant(trace: &Trace, outcome: &Outcome, wanted: &Wanted) -> Result<Sequence, AnalysisError> {
    let selection = Selection::of(wanted, &trace.tables, outcome)?;
    Ok(peak_of(outcome, &selection).sequence)
}

fn peak_of(outcome: &Outcome, selection: &Selection) -> Peak {
    selection.single.map_or(outcome.total.peak, |process| outcome.processes[process.index()].account.peak)
}

fn process_name(tables: &Tables, process: ProcessId) -> String {
    let process = &tables.processes[process.index()];
    format!("{} ({})", process.name, process.pid)
}

/// Appends a frame. `;` separates frames and a line is one stack, so neither may stand in a name.
fn push_frame(line: &mut String, name: &str) {
    if !line.is_empty() {
        line.push(';');
    }
    line.extend(name.chars().map(|letter| match letter {
        ';' => ',',
        letter if letter.is_control() => '\u{fffd}',
        letter => letter,
    }));
}

fn subtitle(trace: &Trace, outcome: &Outcome, selection: &Selection, metric: Metric, total: u64) -> String {
    let mut parts = vec![selection.scope.clone(), metric.show(total)];
    if metric == Metric::Peak {
        parts.push(format!("the peak is at {}", units::at_time(peak_of(outcome, selection).time_ns)));
    }
    let doubt_count = doubts(trace, outcome).len();
    if doubt_count > 0 {
        parts.push(format!(
            "{}: see `heaptape info`",
            units::plural(doubt_count as u64, "reason for doubt", "reasons for doubt")
        ));
    }
    parts.join(" · ")
}

impl Folded {
    /// The title of the picture.
    pub fn title(&self) -> String {
        let mut words = self.metric.words().to_owned();
        words[..1].make_ascii_uppercase();
        format!("{words}, by {}allocating stack", if self.by_phase { "phase and " } else { "" })
    }

    /// Writes the folded lines, as other flame graph tools read them.
    ///
    /// # Errors
    /// I/O.
    pub fn write_lines(&self, out: &mut impl Write) -> std::io::Result<()> {
        for (stack, weight) in &self.stacks {
            writeln!(out, "{stack} {weight}")?;
        }
        Ok(())
    }

    /// Draws the flame graph as SVG: callers on top, callees below, the same picture for the same trace.
    ///
    /// # Errors
    /// Rendering or writing failed.
    pub fn draw(&self, out: impl Write) -> Result<(), AnalysisError> {
        let lines: Vec<String> = self.stacks.iter().map(|(stack, weight)| format!("{stack} {weight}")).collect();
        let mut options = Options::default();
        options.title = self.title();
        options.subtitle = Some(self.subtitle.clone());
        options.count_name = self.metric.unit().to_owned();
        options.name_type = "Function:".to_owned();
        options.colors = Palette::Basic(BasicPalette::Mem);
        options.bgcolors = Some(BackgroundColor::Grey);
        options.deterministic = true;
        // Stacks of compilers are deep: roots on top, where the page opens.
        options.direction = Direction::Inverted;
        options.font_type = "system-ui, sans-serif".to_owned();
        options.text_truncate_direction = TextTruncateDirection::Right;
        options.notes = format!("heaptape: {}", self.subtitle);
        from_lines(&mut options, lines.iter().map(String::as_str), out).map_err(AnalysisError::Draw)
    }
}
