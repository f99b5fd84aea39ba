//! Stacks of several traces by the names of their functions. Responsible for bringing what was surveyed in different traces
//! together; not for what follows from it (see `choose`).
//!
//! An *atom* is a path of functions and calls, the allocating function first and wrappers left out: the finest thing that a plan can
//! tell apart in any trace of the program.

use foldhash::{HashMap, HashMapExt};

use super::plan::{BY_PHASE, StackPaths};
use super::survey::{Facts, Sample};
use crate::phases::{IN_PHASE, View};
use crate::replay::Outcome;
use crate::wrappers::Wrappers;

/// Number of a function name.
pub(super) type NameId = u32;

/// Function names of all traces.
#[derive(Debug)]
pub(super) struct Book {
    names: Vec<String>,
    index: HashMap<String, NameId>,
}

impl Default for Book {
    fn default() -> Self {
        let mut book = Self { names: Vec::new(), index: HashMap::new() };
        assert_eq!(book.intern(IN_PHASE), BY_PHASE, "the first has number 0");
        book
    }
}

impl Book {
    pub(super) fn intern(&mut self, name: &str) -> NameId {
        if let Some(id) = self.index.get(name) {
            return *id;
        }
        self.names.push(name.to_owned());
        self.index.insert(name.to_owned(), self.names.len() as NameId - 1);
        self.names.len() as NameId - 1
    }

    pub(super) fn name(&self, id: NameId) -> &str {
        self.names.get(id as usize).map_or("[unknown]", String::as_str)
    }

    pub(super) fn len(&self) -> usize {
        self.names.len()
    }
}

/// What one trace, or several together, say of an atom.
#[derive(Debug, Clone, Default)]
pub(super) struct AtomFacts {
    /// Chains.
    pub(super) count: u64,
    /// Bytes of all their blocks.
    pub(super) bytes: u64,
    /// By frame from the root: chains that its arena could have held.
    pub(super) fitting: Vec<u64>,
    /// Chains freed by another thread, or alive at the end.
    pub(super) elsewhere_count: u64,
    /// Chains alive at the end.
    pub(super) survivor_count: u64,
    /// Reallocs.
    pub(super) realloc_count: u64,
    /// By frame: bytes × bytes allocated between death and the end of the activation.
    pub(super) drag: Vec<f64>,
    /// By frame: the most dead bytes that one activation would have held, in any trace.
    pub(super) most_dead: Vec<u64>,
    /// Dead bytes that would still be held: sample, innermost frame that they fit, bytes.
    pub(super) held: Vec<(u32, u32, u64)>,
}

impl AtomFacts {
    /// Adds what another trace says; its samples are numbered from `sample`.
    pub(super) fn add(&mut self, other: &Self, sample: u32) {
        self.count += other.count;
        self.bytes += other.bytes;
        self.elsewhere_count += other.elsewhere_count;
        self.survivor_count += other.survivor_count;
        self.realloc_count += other.realloc_count;
        add_up(&mut self.fitting, &other.fitting);
        add_up(&mut self.drag, &other.drag);
        if self.most_dead.len() < other.most_dead.len() {
            self.most_dead.resize(other.most_dead.len(), 0);
        }
        for (most, other) in self.most_dead.iter_mut().zip(&other.most_dead) {
            *most = (*most).max(*other);
        }
        self.held.extend(other.held.iter().map(|(at, frame, bytes)| (at + sample, *frame, *bytes)));
    }
}

fn add_up<T: Copy + Default + std::ops::AddAssign>(sums: &mut Vec<T>, more: &[T]) {
    if sums.len() < more.len() {
        sums.resize(more.len(), T::default());
    }
    for (sum, more) in sums.iter_mut().zip(more) {
        *sum += *more;
    }
}

/// What is known of a function's activations, by name.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ScopeFacts {
    pub(super) activation_count: u64,
    pub(super) longest_share: f64,
}

/// Atoms of several traces.
#[derive(Debug, Default)]
pub(super) struct Atoms {
    /// Functions, each followed by its call, the allocating one first.
    pub(super) paths: Vec<Box<[NameId]>>,
    index: HashMap<Box<[NameId]>, u32>,
    /// By trace: atom and facts, atoms rising.
    pub(super) traces: Vec<Vec<(u32, AtomFacts)>>,
    /// By trace and name.
    pub(super) scopes: Vec<Vec<ScopeFacts>>,
    /// By trace and cell; the largest number where a cell has no chains.
    of_cell: Vec<Vec<u32>>,
}

impl Atoms {
    /// Adds a trace. `wanted` says of each cell whether it counts.
    pub(super) fn add(
        &mut self,
        view: &View<'_>,
        wrappers: &Wrappers,
        outcome: &Outcome,
        facts: &Facts,
        book: &mut Book,
    ) {
        let paths = StackPaths::new(view.tables(), view.names(), wrappers, |name| book.intern(name));
        let mut found: HashMap<u32, AtomFacts> = HashMap::new();
        let mut path = Vec::new();
        let mut atom_of: Vec<u32> = Vec::with_capacity(facts.cells.len());
        for (cell, facts) in outcome.cells.iter().zip(&facts.cells) {
            let count = facts.count();
            if count == 0 {
                atom_of.push(u32::MAX);
                continue;
            }
            paths.path(cell.stack, &mut path);
            let atom = match self.index.get(path.as_slice()) {
                Some(atom) => *atom,
                None => {
                    let kept: Box<[NameId]> = path.as_slice().into();
                    self.paths.push(kept.clone());
                    self.index.insert(kept, self.paths.len() as u32 - 1);
                    self.paths.len() as u32 - 1
                }
            };
            atom_of.push(atom);
            let sums = found.entry(atom).or_default();
            let frames = path.len() / 2;
            sums.count += count;
            sums.bytes += facts.bytes;
            sums.elsewhere_count += u64::from(facts.elsewhere_count);
            sums.survivor_count += u64::from(facts.survivor_count);
            sums.realloc_count += facts.realloc_count;
            let fitting: Vec<u64> = (0..frames).map(|frame| facts.fitting(frame)).collect();
            add_up(&mut sums.fitting, &fitting);
            add_up(&mut sums.drag, &facts.drag[..facts.drag.len().min(frames)]);
            // Of several stacks with one path, their most may have been held at a time.
            add_up(&mut sums.most_dead, &facts.most_dead[..facts.most_dead.len().min(frames)]);
        }
        for (sample, at) in facts.samples.iter().zip(0..) {
            for (cell, frame, bytes) in &sample.held {
                if let Some(sums) = atom_of.get(*cell as usize).and_then(|atom| found.get_mut(atom)) {
                    sums.held.push((at, *frame, *bytes));
                }
            }
        }
        let mut found: Vec<(u32, AtomFacts)> = found.into_iter().collect();
        found.sort_unstable_by_key(|(atom, _)| *atom);
        self.traces.push(found);
        self.of_cell.push(atom_of);
        let mut scopes = vec![ScopeFacts::default(); book.len()];
        for (function, facts) in facts.functions.iter().enumerate() {
            if let Some(scope) = paths.name(function as u32).and_then(|name| scopes.get_mut(name as usize)) {
                scope.activation_count += facts.count;
                scope.longest_share = scope.longest_share.max(facts.longest_share);
            }
        }
        self.scopes.push(scopes);
    }

    /// What a moment of a trace says of atoms: atom, innermost frame that its dead blocks fit, their bytes.
    pub(super) fn held(&self, trace: usize, sample: &Sample) -> Vec<(u32, u32, u64)> {
        let of_cell = |cell: u32| self.of_cell[trace].get(cell as usize).filter(|atom| **atom != u32::MAX);
        let held = sample.held.iter();
        held.filter_map(|(cell, frame, bytes)| Some((*of_cell(*cell)?, *frame, *bytes))).collect()
    }

    /// Facts of some traces together, by atom; an atom that they do not have has none.
    pub(super) fn together(&self, traces: &[usize], sample_counts: &[usize]) -> Vec<AtomFacts> {
        let mut sums = vec![AtomFacts::default(); self.paths.len()];
        let mut first = 0;
        for trace in traces {
            for (atom, facts) in &self.traces[*trace] {
                sums[*atom as usize].add(facts, first);
            }
            first += sample_counts[*trace] as u32;
        }
        sums
    }

    /// By atom: which of some traces have it, a bit for each; those from the 64th on share one.
    pub(super) fn seen_in(&self, traces: &[usize]) -> Vec<u64> {
        let mut seen = vec![0_u64; self.paths.len()];
        for (trace, at) in traces.iter().zip(0_u32..) {
            for (atom, _) in &self.traces[*trace] {
                seen[*atom as usize] |= 1 << at.min(63);
            }
        }
        seen
    }

    /// What some traces say of a function.
    pub(super) fn scope(&self, traces: &[usize], name: NameId) -> ScopeFacts {
        let mut sum = ScopeFacts::default();
        for trace in traces {
            if let Some(scope) = self.scopes[*trace].get(name as usize) {
                sum.activation_count += scope.activation_count;
                sum.longest_share = sum.longest_share.max(scope.longest_share);
            }
        }
        sum
    }
}
