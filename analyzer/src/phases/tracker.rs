//! Which phases are open. Responsible for opening and closing phases of each thread, by stacks and by markers, and for
//! numbering their instances; not for what is counted in them (see `lifetimes`).
//!
//! ```text
//!  by stack   a phase is open while an activation of one of its functions is on the thread's stack:
//!             from the first event that shows it to the first event that shows it gone
//!  by marker  with ends:    from the begin to the matching end (of the same value, else the innermost), per thread
//!             without ends: from the entry of the function to the first event whose stack lacks that activation;
//!                           the marker is hit before the function has a frame, so its frame is the next one deeper:
//!
//!             marker hit:   main ─ run                       depth 2
//!             next event:   main ─ run ─ pass ─ …            frame 2 is `pass`: its activation is the phase's
//!             or:           main ─ run'…                     `run` has moved on: the phase is over
//! ```
//!
//! A phase that is open on a thread is not opened by stack again inside of itself: recursion is one instance. One that is over
//! because another began stays over for as long as what kept it open goes on. Open phases are
//! kept in the order of their begins, so that those open at a birth are a prefix of those begun no later (see
//! `activations`).

use foldhash::{HashMap, HashMapExt};
use serde::Serialize;
use trace_format::{Event, Op, ProcessId, Sequence, StackId, Tables, ThreadId};

use super::markers::{Hit, Markers};
use super::rules::{PhaseId, Rules};
use crate::activations::{Activations, Step};

/// Row of the table of phases: a phase in its place, on one thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct RowId(pub u32);

/// Where a phase comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum PhaseSource {
    /// No phase is open.
    None,
    /// Markers recorded live.
    Marker,
    /// Functions on recorded stacks.
    Stack,
    /// Segmentation, without any names given.
    Segment,
}

/// A phase in its place, on one thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// The phase around it; none for the outermost.
    pub parent: Option<RowId>,
    /// Its name; [`OUTSIDE`] where no phase is open.
    pub name: String,
    /// On which thread.
    pub thread: ThreadId,
    /// What opened it.
    pub source: PhaseSource,
    /// Phases around it.
    pub depth: u32,
}

/// Name of the row of what happens outside of all phases.
pub const OUTSIDE: &str = "(outside)";

/// What keeps a phase open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Anchor {
    /// The activation of this frame.
    Frame(usize),
    /// A function that is about to have a frame, from a caller at this depth.
    Callee { depth: usize, function: Option<u32> },
    /// Its end marker.
    End { marker: u32 },
}

/// A phase that is open on a thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenPhase {
    /// Which.
    pub row: RowId,
    /// From which event on.
    pub since: Sequence,
    /// Number of this instance, over all rows.
    pub instance: u64,
    phase: PhaseId,
    anchor: Anchor,
}

/// A phase was opened or closed by the event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// It ends before the event.
    Closed(ThreadId, OpenPhase),
    /// It begins with the event.
    Opened(ThreadId, OpenPhase),
}

/// The open phases of all threads.
#[derive(Debug)]
pub struct Tracker<'t> {
    tables: &'t Tables,
    activations: Activations<'t>,
    rules: Vec<Rules>,
    markers: Markers,
    of_process: Vec<Option<usize>>,
    open: Vec<Vec<OpenPhase>>,
    /// Closed because another phase began, while what kept them open goes on.
    over: Vec<Vec<OpenPhase>>,
    rows: Vec<Row>,
    index: HashMap<(Option<RowId>, Option<PhaseId>, ThreadId), RowId>,
    changes: Vec<Change>,
    instance_count: u64,
    unmatched_end_count: u64,
    unended_count: u64,
}

impl<'t> Tracker<'t> {
    /// None is open. `rules` are those of the profiles in use, `of_process` says which of them is each process's.
    pub fn new(
        tables: &'t Tables,
        activations: Activations<'t>,
        rules: Vec<Rules>,
        markers: Markers,
        of_process: Vec<Option<usize>>,
    ) -> Self {
        Self {
            activations,
            rules,
            markers,
            of_process,
            open: vec![Vec::new(); tables.threads.len()],
            over: vec![Vec::new(); tables.threads.len()],
            rows: Vec::new(),
            index: HashMap::new(),
            changes: Vec::new(),
            instance_count: 0,
            unmatched_end_count: 0,
            unended_count: 0,
            tables,
        }
    }

    /// Takes the next event; returns what it changed, in order.
    pub fn step(&mut self, event: &Event) -> &[Change] {
        self.changes.clear();
        // Every event: one that is left out would look like one that is missing, across which nothing continues.
        let step = self.activations.step(event);
        match event.op {
            Op::ThreadEnd => self.close_all(event.thread),
            Op::ProcessEnd { process, .. } => self.close_process(process),
            Op::ProcessStart { .. } | Op::Loss { .. } | Op::Unknown { .. } => {}
            _ => {
                if let Some(step) = step {
                    self.follow_stack(event, step);
                }
                if let Op::Marker { id, kind, value } = event.op {
                    self.marker(event, id, kind, value);
                }
            }
        }
        &self.changes
    }

    fn follow_stack(&mut self, event: &Event, step: Step) {
        let thread = event.thread;
        let Some(open) = self.open.get_mut(thread.index()) else { return };
        let Some(stack) = self.activations.of(thread) else { return };
        let rules = self.tables.threads.get(thread.index()).and_then(|thread| self.of_process[thread.process.index()]);
        let tables = self.tables;
        let phases_of = |node: StackId| match rules {
            Some(rules) => self.rules[rules].opened_by(tables, node),
            None => &[],
        };
        let changes = &mut self.changes;
        let activations = &self.activations;
        let goes_on = |phase: &mut OpenPhase| match phase.anchor {
            Anchor::End { .. } => true,
            Anchor::Frame(frame) if frame < step.kept => true,
            // The same function, further on: what was inlined there may be over.
            Anchor::Frame(frame) if frame == step.kept && step.moved => {
                phase.source_is_marker(&self.rows)
                    || phases_of(stack.nodes()[frame]).contains(&phase.phase)
                        && !(step.fell_back
                            && rules.is_some_and(|rules| self.rules[rules].definition(phase.phase).repeats))
            }
            Anchor::Frame(_) => false,
            Anchor::Callee { depth, function } => {
                let is_there = step.kept >= depth
                    && stack
                        .nodes()
                        .get(depth)
                        .is_some_and(|node| function.is_none() || activations.function(*node) == function);
                if is_there {
                    phase.anchor = Anchor::Frame(depth);
                }
                is_there
            }
        };
        open.retain_mut(|phase| {
            let stays = goes_on(phase);
            if !stays {
                changes.push(Change::Closed(thread, *phase));
            }
            stays
        });
        self.over[thread.index()].retain_mut(goes_on);
        let Some(rules) = rules else { return };
        for frame in step.kept..stack.depth() {
            let Some(node) = self.activations.of(thread).map(|stack| stack.nodes()[frame]) else { return };
            let mut at = 0;
            // What a phase opens cannot change what the frame stands for.
            while let Some(phase) = self.rules[rules].opened_by(tables, node).get(at).copied() {
                at += 1;
                let definition = self.rules[rules].definition(phase);
                let open = &self.open[thread.index()];
                if !definition.by_stack
                    || open.iter().chain(&self.over[thread.index()]).any(|open| open.phase == phase)
                    || definition.within.is_some_and(|within| open.iter().all(|open| open.phase != within))
                {
                    continue;
                }
                let source = if self.rules[rules].are_segments() { PhaseSource::Segment } else { PhaseSource::Stack };
                let opened = self.opened(thread, rules, phase, source, event.sequence, Anchor::Frame(frame));
                self.changes.push(Change::Opened(thread, opened));
            }
        }
    }

    fn marker(&mut self, event: &Event, id: u32, kind: u8, value: u64) {
        let thread = event.thread;
        let Some(rules) =
            self.tables.threads.get(thread.index()).and_then(|thread| self.of_process[thread.process.index()])
        else {
            return;
        };
        match self.markers.hit(id, kind, value, rules, &mut self.rules[rules]) {
            Hit::Nothing => {}
            Hit::Begin { phase, function, ends } => {
                let definition = self.rules[rules].definition(phase);
                let open = &self.open[thread.index()];
                let inside_itself = !ends && open.iter().any(|open| open.phase == phase && open.is_alive_at(event));
                if inside_itself || definition.within.is_some_and(|within| open.iter().all(|open| open.phase != within))
                {
                    return;
                }
                let anchor = if ends {
                    Anchor::End { marker: id }
                } else {
                    Anchor::Callee { depth: self.activations.depth(event.stack) as usize, function }
                };
                let opened = self.opened(thread, rules, phase, PhaseSource::Marker, event.sequence, anchor);
                self.changes.push(Change::Opened(thread, opened));
            }
            Hit::End { phase } => {
                let fits = |open: &OpenPhase| {
                    matches!(open.anchor, Anchor::End { marker } if self.markers.ends(id, marker))
                        && phase.is_none_or(|phase| phase == open.phase)
                };
                let (open, over) = (&mut self.open[thread.index()], &mut self.over[thread.index()]);
                if let Some(at) = open.iter().rposition(fits) {
                    self.changes.push(Change::Closed(thread, open.remove(at)));
                } else if let Some(at) = over.iter().rposition(fits) {
                    over.remove(at);
                } else {
                    self.unmatched_end_count += 1;
                }
            }
        }
    }

    /// Opens a phase, and closes before those that last until it begins.
    fn opened(
        &mut self,
        thread: ThreadId,
        rules: usize,
        phase: PhaseId,
        source: PhaseSource,
        since: Sequence,
        anchor: Anchor,
    ) -> OpenPhase {
        let (rules, open) = (&self.rules[rules], &mut self.open[thread.index()]);
        while let Some(at) = open.iter().rposition(|open| rules.definition(open.phase).until == Some(phase)) {
            let closed = open.remove(at);
            self.over[thread.index()].push(closed);
            self.changes.push(Change::Closed(thread, closed));
        }
        let name = rules.definition(phase).name.clone();
        let parent = open.last().map(|open| open.row);
        let row = self.row(parent, Some(phase), thread, &name, source);
        let opened = OpenPhase { row, since, instance: self.instance_count, phase, anchor };
        self.instance_count += 1;
        self.open[thread.index()].push(opened);
        opened
    }

    fn row(
        &mut self,
        parent: Option<RowId>,
        phase: Option<PhaseId>,
        thread: ThreadId,
        name: &str,
        source: PhaseSource,
    ) -> RowId {
        if let Some(row) = self.index.get(&(parent, phase, thread)) {
            return *row;
        }
        let depth = parent.map_or(0, |parent| self.rows[parent.0 as usize].depth + 1);
        self.rows.push(Row { parent, name: name.to_owned(), thread, source, depth });
        let row = RowId(self.rows.len() as u32 - 1);
        self.index.insert((parent, phase, thread), row);
        row
    }

    fn close_all(&mut self, thread: ThreadId) {
        let Some(open) = self.open.get_mut(thread.index()) else { return };
        for phase in open.drain(..).rev() {
            self.unended_count += u64::from(matches!(phase.anchor, Anchor::End { .. }));
            self.changes.push(Change::Closed(thread, phase));
        }
        self.over[thread.index()].clear();
    }

    fn close_process(&mut self, process: ProcessId) {
        for at in 0..self.tables.threads.len() {
            if self.tables.threads[at].process == process {
                self.close_all(ThreadId::from(at));
            }
        }
    }

    /// Closes what is open at the end of the trace; returns it.
    pub fn finish(&mut self) -> Vec<Change> {
        self.changes.clear();
        for at in 0..self.open.len() {
            self.close_all(ThreadId::from(at));
        }
        std::mem::take(&mut self.changes)
    }

    /// The phases that are open on a thread, in the order of their begins.
    #[inline]
    pub fn open(&self, thread: ThreadId) -> &[OpenPhase] {
        self.open.get(thread.index()).map_or(&[], Vec::as_slice)
    }

    /// The row that what a thread does now belongs to.
    pub fn current(&mut self, thread: ThreadId) -> RowId {
        match self.open(thread).last() {
            Some(open) => open.row,
            None => self.row(None, None, thread, OUTSIDE, PhaseSource::None),
        }
    }

    /// All rows so far.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The activations.
    pub fn activations(&self) -> &Activations<'t> {
        &self.activations
    }

    /// End markers without a begin.
    pub fn unmatched_end_count(&self) -> u64 {
        self.unmatched_end_count
    }

    /// Begin markers whose end never came.
    pub fn unended_count(&self) -> u64 {
        self.unended_count
    }

    /// The rules in use.
    pub fn rules(&self) -> &[Rules] {
        &self.rules
    }
}

impl OpenPhase {
    /// Whether it lasts until a marker says that it ends.
    pub fn ends_by_marker(&self) -> bool {
        matches!(self.anchor, Anchor::End { .. })
    }

    fn source_is_marker(&self, rows: &[Row]) -> bool {
        rows[self.row.0 as usize].source == PhaseSource::Marker
    }

    /// A begin right after a begin, with no frame in between, is another call.
    fn is_alive_at(&self, _event: &Event) -> bool {
        matches!(self.anchor, Anchor::Frame(_))
    }
}

/// Names of a row's phase and of those around it, outermost first.
pub(crate) fn row_path(rows: &[Row], row: RowId) -> Vec<&str> {
    let mut names = vec![rows[row.0 as usize].name.as_str()];
    let mut at = rows[row.0 as usize].parent;
    while let Some(parent) = at {
        names.push(rows[parent.0 as usize].name.as_str());
        at = rows[parent.0 as usize].parent;
    }
    names.reverse();
    names
}

/// Phases open at a birth that are still open: those begun no later.
pub fn open_since(open: &[OpenPhase], birth: Sequence) -> usize {
    open.partition_point(|phase| phase.since <= birth)
}
