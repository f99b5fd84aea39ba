//! Flame graphs. Responsible for folding stacks by a metric and for drawing them with `inferno`; not for choosing what is
//! drawn (see `selection`).

use std::collections::BTreeMap;
use std::io::Write;

use inferno::flamegraph::color::{BackgroundColor, BasicPalette, Palette};
use inferno::flamegraph::{Direction, Options, TextTruncateDirection, from_lines};
use trace_format::{ProcessId, Tables, Trace};

use crate::doubt::doubts;
use crate::error::AnalysisError;
use crate::metric::Metric;
use crate::names::Names;
use crate::replay::Outcome;
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
) -> Result<Folded, AnalysisError> {
    let tables = &trace.tables;
    let selection = Selection::of(wanted, tables, outcome)?;
    let tree = SiteTree::of(tables, names, &Wrappers::default());
    let mut stacks: BTreeMap<String, u64> = BTreeMap::new();
    let mut line = String::new();
    let mut total = 0_u64;
    for cell in outcome.cells.iter().filter(|cell| selection.includes(cell)) {
        let weight = metric.of(cell, selection.peak());
        if weight == 0 {
            continue;
        }
        total = total.wrapping_add(weight);
        line.clear();
        push_frame(&mut line, &process_name(tables, cell.process));
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
    Ok(Folded { stacks, metric, total, scope: selection.scope, subtitle })
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
        let peak = match selection.single {
            Some(process) => outcome.processes[process.index()].account.peak,
            None => outcome.total.peak,
        };
        parts.push(format!("the peak is at {}", units::at_time(peak.time_ns)));
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
        format!("{words}, by allocating stack")
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
