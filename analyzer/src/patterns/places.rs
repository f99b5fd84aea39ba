//! Who allocates, as far as patterns are concerned. Responsible for numbering the *sites* of the selected cells, where a site is
//! the innermost function of a stack that is neither an allocator wrapper nor library code; not for what is found at them.
//!
//! All stacks of one function are one site: a pattern is a property of the code that allocates, and what is to be changed is
//! that function. Functions of the same name in several processes are one site too; what is alive in processes that run at the
//! same time adds up.

use foldhash::{HashMap, HashMapExt};
use serde::Serialize;
use trace_format::{DomainId, FrameId, ProcessId, StackId, Tables, ThreadId, Trace};

use crate::leaks::Functions;
use crate::lifetimes::Study;
use crate::names::{Names, PlaceId};
use crate::replay::{Amount, CellId};
use crate::selection::Selection;
use crate::site_tree::SiteTree;
use crate::sites::{StackFrame, stack_frames};

/// Phases that a site names at most.
const PHASES_SHOWN: usize = 3;

/// Index of a site in [`Places`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Site(pub(super) u32);

impl Site {
    pub(super) fn index(self) -> usize {
        self.0 as usize
    }
}

/// A function that allocates.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PatternSite {
    /// The function: the innermost one on the stack that is neither a wrapper nor library code.
    pub function: String,
    /// Blocks that it made, by allocs and reallocs.
    pub born: Amount,
    /// Phases at their birth, the one with most of them first, at most three.
    pub phases: Vec<String>,
    /// Allocating stacks in it.
    pub stack_count: u64,
    /// The stack that made most blocks, the innermost first, wrappers stripped.
    pub stack: Vec<StackFrame>,
}

/// What is known of a cell.
#[derive(Debug, Clone, Copy)]
pub(super) struct CellPlace {
    pub(super) site: Site,
    /// Frames of its stack down to the site's own; 0 where no stack was taken.
    pub(super) depth: u32,
    pub(super) process: ProcessId,
    pub(super) domain: DomainId,
}

/// What is known of a site.
#[derive(Debug, Clone, Default)]
struct SiteRow {
    function: u32,
    born: Amount,
    /// Births by allocs alone.
    alloc_count: u64,
    stack_count: u64,
    /// The stack with most births, and how many.
    stack: (StackId, u64),
    phases: HashMap<String, u64>,
}

/// The sites of all selected cells.
#[derive(Debug)]
pub(super) struct Places<'t> {
    pub(super) tables: &'t Tables,
    names: &'t Names,
    pub(super) functions: Functions<'t>,
    tree: SiteTree,
    /// By cell; none for those that are not selected.
    of_cell: Vec<Option<CellPlace>>,
    rows: Vec<SiteRow>,
    /// Selected, by process.
    processes: Vec<bool>,
}

impl<'t> Places<'t> {
    pub(super) fn of(
        trace: &'t Trace,
        study: &Study,
        names: &'t Names,
        selection: &Selection,
        wrappers: &crate::wrappers::Wrappers,
    ) -> Self {
        let tables = &trace.tables;
        let functions = Functions::of(names);
        let tree = SiteTree::of(tables, names, wrappers);
        let is_own = own_places(names, &functions, wrappers);
        let depths = crate::activations::depths(tables);
        let mut numbers: HashMap<u32, Site> = HashMap::new();
        let mut rows: Vec<SiteRow> = Vec::new();
        let mut of_cell = Vec::with_capacity(study.outcome.cells.len());
        for (at, cell) in study.outcome.cells.iter().enumerate() {
            if !selection.includes(cell) {
                of_cell.push(None);
                continue;
            }
            let function = functions.path(&tree, cell.stack).next().unwrap_or(u32::MAX);
            let site = *numbers.entry(function).or_insert_with(|| {
                rows.push(SiteRow { function, ..SiteRow::default() });
                Site(rows.len() as u32 - 1)
            });
            let row = &mut rows[site.index()];
            let births = cell.alloc_count + cell.realloc_count;
            row.born += Amount { bytes: cell.alloc_bytes, count: births };
            row.alloc_count += cell.alloc_count;
            row.stack_count += 1;
            if row.stack_count == 1 || births > row.stack.1 {
                row.stack = (cell.stack, births);
            }
            for part in study.collected.cells.get(at).map_or(&[][..], |life| &life.rows) {
                let name = &study.collected.phases[part.row.0 as usize].name;
                match row.phases.get_mut(name) {
                    Some(count) => *count += part.born.count,
                    None => _ = row.phases.insert(name.clone(), part.born.count),
                }
            }
            of_cell.push(Some(CellPlace {
                site,
                depth: own_depth(tables, names, &is_own, cell.stack, &depths),
                process: cell.process,
                domain: tables.entries.get(cell.entry.index()).map_or(DomainId(0), |entry| entry.domain),
            }));
        }
        let processes = (0..tables.processes.len()).map(|at| selection.includes_process(ProcessId::from(at))).collect();
        Self { tables, names, functions, tree, of_cell, rows, processes }
    }

    /// Whether a thread belongs to a selected process.
    pub(super) fn has_process(&self, thread: ThreadId) -> bool {
        let process = self.tables.threads.get(thread.index()).map(|thread| thread.process);
        process.is_some_and(|process| self.processes.get(process.index()) == Some(&true))
    }

    /// How many sites there are.
    pub(super) fn len(&self) -> usize {
        self.rows.len()
    }

    /// All of them.
    pub(super) fn sites(&self) -> impl Iterator<Item = Site> + use<> {
        (0..self.rows.len() as u32).map(Site)
    }

    /// What is known of a cell; none if it is not selected.
    #[inline]
    pub(super) fn cell(&self, cell: CellId) -> Option<CellPlace> {
        self.of_cell.get(cell.index()).copied().flatten()
    }

    /// Blocks that a site made.
    pub(super) fn born(&self, site: Site) -> Amount {
        self.rows[site.index()].born
    }

    /// Blocks that it made by allocs alone.
    pub(super) fn alloc_count(&self, site: Site) -> u64 {
        self.rows[site.index()].alloc_count
    }

    /// The function of a site.
    pub(super) fn function(&self, site: Site) -> String {
        self.function_name(self.rows[site.index()].function)
    }

    /// Name of a function by its number.
    pub(super) fn function_name(&self, function: u32) -> String {
        if function == u32::MAX { "[no stack]".to_owned() } else { self.functions.name(function).to_owned() }
    }

    /// A site for a report.
    pub(super) fn describe(&self, site: Site) -> PatternSite {
        let row = &self.rows[site.index()];
        let mut phases: Vec<(&String, &u64)> = row.phases.iter().collect();
        phases.sort_unstable_by(|one, other| (other.1, one.0).cmp(&(one.1, other.0)));
        PatternSite {
            function: self.function(site),
            born: row.born,
            phases: phases.into_iter().take(PHASES_SHOWN).map(|(name, _)| name.clone()).collect(),
            stack_count: row.stack_count,
            stack: self.stack(row.stack.0),
        }
    }

    /// A stack for a report: wrappers stripped, the innermost frame first.
    pub(super) fn stack(&self, stack: StackId) -> Vec<StackFrame> {
        stack_frames(&self.tree, self.tree.site(stack), self.names)
    }

    /// The sites with a figure above 0, the highest first.
    pub(super) fn ranked<K: Ord + Default>(&self, figure: impl Fn(Site) -> K) -> Vec<Site> {
        let mut ranked: Vec<(K, Site)> = self.sites().map(|site| (figure(site), site)).collect();
        ranked.retain(|(figure, _)| *figure > K::default());
        ranked.sort_by(|one, other| {
            other
                .0
                .cmp(&one.0)
                .then_with(|| self.function(one.1).cmp(&self.function(other.1)))
                .then(one.1.cmp(&other.1))
        });
        ranked.into_iter().map(|(_, site)| site).collect()
    }
}

/// Which places are somebody's own code: neither wrappers nor library.
fn own_places(names: &Names, functions: &Functions<'_>, wrappers: &crate::wrappers::Wrappers) -> Vec<bool> {
    (0..names.place_count() as u32)
        .map(PlaceId)
        .map(|place| !functions.is_library(functions.number(place)) && !wrappers.contains(&names.place(place).function))
        .collect()
}

/// Frames of a stack down to the innermost one that holds own code; all of them if none does.
fn own_depth(tables: &Tables, names: &Names, is_own: &[bool], stack: StackId, depths: &[u32]) -> u32 {
    let holds_own = |frame: FrameId| names.places(frame).iter().any(|place| is_own[place.0 as usize]);
    let whole = depths.get(stack.index()).copied().unwrap_or(0);
    let (mut at, mut depth) = (stack, whole);
    while depth > 0 {
        let node = tables.stacks[at.index()];
        if holds_own(node.frame) {
            return depth;
        }
        at = node.parent;
        depth -= 1;
    }
    whole
}
