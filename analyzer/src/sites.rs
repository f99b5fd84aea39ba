//! Where memory is allocated. Responsible for grouping cells by site and ranking them; not for printing.

use foldhash::{HashMap, HashMapExt, HashSet};
use serde::Serialize;
use trace_format::{Tables, Trace};

use crate::doubt::{Doubt, doubts};
use crate::error::AnalysisError;
use crate::grouping::{GroupKey, Grouping};
use crate::metric::Metric;
use crate::names::{Names, PlaceId, base_name};
use crate::replay::{Amount, Outcome};
use crate::selection::{Selection, Wanted};
use crate::site_tree::{SiteId, SiteTree};
use crate::wrappers::Wrappers;

/// The sites of a trace, heaviest first. This is what `heaptape sites --json` prints.
#[derive(Debug, Clone, Serialize)]
pub struct Sites {
    /// Version of this interface; rises when a field changes its meaning.
    pub schema: u32,
    /// Which processes and allocators.
    pub scope: String,
    /// What `sites` is ordered by.
    pub metric: Metric,
    /// What is one row of `sites`.
    pub grouping: Grouping,
    /// Sites there are; `sites` may hold fewer.
    pub site_count: u64,
    /// Sums over all sites, shown or not.
    pub totals: SiteFigures,
    /// The heaviest sites.
    pub sites: Vec<Site>,
    /// What the figures do not know.
    pub doubts: Vec<Doubt>,
}

/// What is counted of a site.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct SiteFigures {
    /// Successful allocs.
    pub alloc_count: u64,
    /// Successful reallocs.
    pub realloc_count: u64,
    /// Requested bytes of both.
    pub alloc_bytes: u64,
    /// Requests that returned NULL.
    pub failed_count: u64,
    /// Bytes alive at the instant of the peak: of the process if one is selected, else of all together.
    pub peak_bytes: u64,
    /// Blocks alive then.
    pub peak_count: u64,
    /// Bytes alive when the process, or the recording, ended.
    pub live_at_end_bytes: u64,
    /// Blocks alive then.
    pub live_at_end_count: u64,
}

/// One site.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Site {
    /// From 1.
    pub rank: u64,
    /// Its figures.
    #[serde(flatten)]
    pub figures: SiteFigures,
    /// Its part of the peak, from 0 to 1.
    pub peak_share: f64,
    /// What its stacks have in common, if `grouping` is by name: a function, a file, a crate or namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Distinct allocating stacks in it, wrappers stripped.
    pub stack_count: u64,
    /// Entry points it called, such as `malloc`.
    pub entries: Vec<String>,
    /// The stack, the site's own function first; the part that its stacks share if `grouping` is by depth. Empty where no
    /// stack was taken or `grouping` is by name.
    pub stack: Vec<StackFrame>,
}

/// One function of a stack.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StackFrame {
    /// Demangled, or module and offset.
    pub function: String,
    /// File name of the module.
    pub module: String,
    /// Source file, empty where unknown.
    pub file: String,
    /// Line, 0 where unknown.
    pub line: u32,
}

impl SiteFigures {
    /// Adds what one cell counted.
    pub fn add(&mut self, cell: &crate::replay::Cell, at_peak: Amount) {
        self.alloc_count += cell.alloc_count;
        self.realloc_count += cell.realloc_count;
        self.alloc_bytes = self.alloc_bytes.wrapping_add(cell.alloc_bytes);
        self.failed_count += cell.failed_count;
        self.peak_bytes = self.peak_bytes.wrapping_add(at_peak.bytes);
        self.peak_count += at_peak.count;
        self.live_at_end_bytes = self.live_at_end_bytes.wrapping_add(cell.at_end.bytes);
        self.live_at_end_count += cell.at_end.count;
    }

    /// The figure that a metric orders by, and what breaks ties.
    pub fn weight(&self, metric: Metric) -> (u64, u64, u64) {
        let calls = self.alloc_count + self.realloc_count;
        match metric {
            Metric::Bytes => (self.alloc_bytes, calls, self.peak_bytes),
            Metric::Count => (calls, self.alloc_bytes, self.peak_bytes),
            Metric::Peak => (self.peak_bytes, self.peak_count, self.alloc_bytes),
            Metric::LiveAtEnd => (self.live_at_end_bytes, self.live_at_end_count, self.alloc_bytes),
        }
    }
}

/// The stack of a site as frames.
pub(crate) fn stack_frames(tree: &SiteTree, site: SiteId, names: &Names) -> Vec<StackFrame> {
    tree.path(site).map(|place| stack_frame(names, place)).collect()
}

fn stack_frame(names: &Names, place: PlaceId) -> StackFrame {
    let place = names.place(place);
    StackFrame {
        function: place.function.clone(),
        module: base_name(&place.module).to_owned(),
        file: place.file.clone(),
        line: place.line,
    }
}

/// How to make sites.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SiteOptions {
    /// Order.
    pub metric: Metric,
    /// What is one row.
    pub grouping: Grouping,
    /// Most rows listed.
    pub limit: usize,
    /// Functions that allocate on behalf of others.
    pub wrappers: Wrappers,
}

#[derive(Default)]
struct Row {
    figures: SiteFigures,
    entries: Vec<u32>,
    stacks: HashSet<SiteId>,
}

/// Groups what is selected by site and ranks it.
///
/// # Errors
/// The selection names nothing.
pub fn sites(
    trace: &Trace,
    outcome: &Outcome,
    names: &Names,
    wanted: &Wanted,
    options: &SiteOptions,
) -> Result<Sites, AnalysisError> {
    let tables: &Tables = &trace.tables;
    let (metric, grouping) = (options.metric, options.grouping);
    let selection = Selection::of(wanted, tables, outcome)?;
    let tree = SiteTree::of(tables, names, &options.wrappers);
    let mut totals = SiteFigures::default();
    let mut rows: HashMap<GroupKey, Row> = HashMap::new();
    for cell in outcome.cells.iter().filter(|cell| selection.includes(cell)) {
        let at_peak = selection.peak().amount(cell);
        let site = tree.site(cell.stack);
        let row = rows.entry(grouping.key(&tree, names, site)).or_default();
        row.figures.add(cell, at_peak);
        row.stacks.insert(site);
        totals.add(cell, at_peak);
        if !row.entries.contains(&cell.entry.0) {
            row.entries.push(cell.entry.0);
        }
    }
    let mut rows: Vec<_> = rows.into_iter().collect();
    rows.sort_unstable_by(|(key, row), (other_key, other)| {
        other.figures.weight(metric).cmp(&row.figures.weight(metric)).then_with(|| key.cmp(other_key))
    });
    let site_count = rows.len() as u64;
    let sites = rows
        .into_iter()
        .take(options.limit)
        .zip(1..)
        .map(|((key, mut row), rank)| {
            row.entries.sort_unstable();
            let (name, stack) = match key {
                GroupKey::Path(site) => (None, stack_frames(&tree, site, names)),
                GroupKey::Frames(places) => (None, places.iter().map(|place| stack_frame(names, *place)).collect()),
                GroupKey::Name(name) => (Some(name), Vec::new()),
            };
            Site {
                rank,
                figures: row.figures,
                peak_share: ratio(row.figures.peak_bytes, totals.peak_bytes),
                name,
                stack_count: row.stacks.len() as u64,
                entries: row.entries.iter().map(|entry| tables.entries[*entry as usize].symbol.clone()).collect(),
                stack,
            }
        })
        .collect();
    let doubts = doubts(trace, outcome);
    Ok(Sites { schema: 1, scope: selection.scope, metric, grouping, site_count, totals, sites, doubts })
}

/// A part of a whole, 0 of nothing.
pub(crate) fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}
