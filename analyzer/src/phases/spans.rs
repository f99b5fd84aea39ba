//! Phases that end by a marker, and the calls around them. Responsible for which of them nest with the calls of their thread, and in which
//! call they lie; not for what is made of that (see `view`).
//!
//! ```text
//!   main ─ compile ─ Timer::new ─ timer_start      begin   ┐
//!   main ─ compile ─ parse ─ …                             │  the phase lies in `compile`: of the calls that were open at
//!   main ─ compile ─ parse ─ …                             │  its begin, these two still are at its end
//!   main ─ compile ─ Timer::drop ─ timer_stop      end     ┘
//! ```
//!
//! A phase nests if all calls and phases that began in it have ended when it ends, but for what the end itself is part of (here the call of
//! `Timer::drop`): so none of them goes on at the thread's next event. Only then is there a place for it on a stack. What began where
//! no stack is known, or does not end by a marker, has none. Memory: 40 bytes for each.

use foldhash::{HashMap, HashMapExt};
use trace_format::{Event, Op, Sequence, StackId, StackQuality, Tables, ThreadId};

use super::markers::Markers;
use super::rules::Rules;
use super::tracker::{Change, OpenPhase, RowId, Tracker};
use crate::activations::Activations;
use crate::names::Names;
use crate::profile::{Profile, in_use};

/// One instance of a phase that nests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// The marker event that begins it, the last one before it.
    pub(super) begin: Sequence,
    /// The marker event that ends it, the first one after it.
    pub(super) end: Sequence,
    /// The frames that it lies in, the last of them as far on in its function as it was seen at the begin or before the end: so a
    /// thread that is back before that at its next event has gone back.
    pub(super) stack: StackId,
    /// How many they are; one at least.
    pub(super) depth: u32,
    /// Index of its name.
    pub(super) name: u32,
}

/// All of a trace.
#[derive(Debug, Default)]
pub(super) struct Spans {
    /// By thread, in the order of their begins.
    pub(super) of_thread: Vec<Vec<Span>>,
    /// Names of phases.
    pub(super) names: Vec<String>,
    /// Instances that end by a marker and do not nest, or of whose begin or end too little is known.
    pub(super) left_out_count: u64,
}

/// A phase that has begun.
#[derive(Debug, Clone, Copy)]
struct Begun {
    phase: OpenPhase,
    stack: StackId,
    /// Others have begun in it that nest.
    at: usize,
}

/// Finds them, event by event.
#[derive(Debug)]
pub(super) struct Finder<'t> {
    tracker: Tracker<'t>,
    /// By thread, the innermost last.
    begun: Vec<Vec<Begun>>,
    /// By thread, with a gap for each that is open.
    found: Vec<Vec<Option<Span>>>,
    /// By thread, those that have ended since the last event with a whole stack.
    ended: Vec<Vec<usize>>,
    names: Vec<String>,
    /// By row of the tracker.
    name_of: HashMap<RowId, u32>,
    ended_count: u64,
    tables: &'t Tables,
}

impl<'t> Finder<'t> {
    /// Nothing has begun. Markers mean what the profiles of the processes say.
    pub(super) fn new(tables: &'t Tables, names: &Names, profiles: &[Profile]) -> Self {
        let (used, of_process) = in_use(profiles, tables);
        let mut rules: Vec<Rules> = used.iter().map(|profile| Rules::of(profile, tables, names)).collect();
        let markers = Markers::of(tables, names, &used, &mut rules);
        // Markers of a program's own need no profile.
        rules.push(Rules::default());
        let of_process = of_process.into_iter().map(|at| at.or(Some(rules.len() - 1))).collect();
        let activations = Activations::new(tables, names.functions());
        Self {
            tracker: Tracker::new(tables, activations, rules, markers, of_process),
            begun: vec![Vec::new(); tables.threads.len()],
            found: vec![Vec::new(); tables.threads.len()],
            ended: vec![Vec::new(); tables.threads.len()],
            names: Vec::new(),
            name_of: HashMap::new(),
            ended_count: 0,
            tables,
        }
    }

    /// Takes the next event.
    pub(super) fn event(&mut self, event: &Event) {
        let changes = self.tracker.step(event).to_vec();
        for change in changes {
            match change {
                Change::Opened(thread, phase) if phase.ends_by_marker() => self.begins(thread, phase, event),
                Change::Closed(thread, phase) if phase.ends_by_marker() => self.ends(thread, phase, event),
                Change::Opened(..) | Change::Closed(..) => {}
            }
        }
        self.check(event);
    }

    /// What was found.
    pub(super) fn finish(self) -> Spans {
        let of_thread: Vec<Vec<Span>> =
            self.found.into_iter().map(|spans| spans.into_iter().flatten().collect()).collect();
        let count: usize = of_thread.iter().map(Vec::len).sum();
        Spans { of_thread, names: self.names, left_out_count: self.ended_count - count as u64 }
    }

    fn begins(&mut self, thread: ThreadId, phase: OpenPhase, event: &Event) {
        if is_whole(event) {
            let found = &mut self.found[thread.index()];
            self.begun[thread.index()].push(Begun { phase, stack: event.stack, at: found.len() });
            found.push(None);
        }
    }

    fn ends(&mut self, thread: ThreadId, phase: OpenPhase, event: &Event) {
        self.ended_count += 1;
        let begun = &mut self.begun[thread.index()];
        let Some(at) = begun.iter().rposition(|begun| begun.phase.instance == phase.instance) else { return };
        let is_innermost = at + 1 == begun.len();
        let Begun { stack, at, .. } = begun.remove(at);
        let is_marker = matches!(event.op, Op::Marker { .. }) && event.thread == thread;
        let Some(open) = self.tracker.activations().of(thread).filter(|_| is_marker && is_innermost) else { return };
        let depth = open.scope(phase.since);
        let Some(last) = depth.checked_sub(1).map(|at| open.nodes()[at]) else { return };
        let first = cut(self.tables, stack, self.tracker.activations().depth(stack), depth as u32);
        let stack = further_on(self.tables, first, last);
        let name = match self.name_of.get(&phase.row) {
            Some(name) => *name,
            None => {
                let name = self.tracker.rows()[phase.row.0 as usize].name.clone();
                // Several rows may be of one name.
                let known = self.names.iter().position(|known| *known == name).unwrap_or_else(|| {
                    self.names.push(name);
                    self.names.len() - 1
                });
                self.name_of.insert(phase.row, known as u32);
                known as u32
            }
        };
        let (begin, end) = (phase.since, event.sequence);
        self.found[thread.index()][at] = Some(Span { begin, end, stack, depth: depth as u32, name });
        self.ended[thread.index()].push(at);
    }

    /// Drops those that have just ended of which a call goes on.
    fn check(&mut self, event: &Event) {
        let thread = event.thread.index();
        let Some(ended) = self.ended.get_mut(thread).filter(|ended| !ended.is_empty() && is_whole(event)) else {
            return;
        };
        let Some(open) = self.tracker.activations().of(event.thread) else { return };
        for at in ended.drain(..) {
            let goes_on = |span: &Span| open.since(span.depth as usize).is_some_and(|since| since < event.sequence);
            if self.found[thread][at].as_ref().is_some_and(goes_on) {
                self.found[thread][at] = None;
            }
        }
    }
}

/// The outer `to` of a stack's `from` frames.
fn cut(tables: &Tables, mut stack: StackId, from: u32, to: u32) -> StackId {
    for _ in to..from {
        stack = tables.stacks[stack.index()].parent;
    }
    stack
}

/// Of two stacks that differ in their last call only, the one whose call is further on in its function.
fn further_on(tables: &Tables, one: StackId, other: StackId) -> StackId {
    let frame = |stack: StackId| tables.frames[tables.stacks[stack.index()].frame.index()];
    let (first, second) = (frame(one), frame(other));
    if first.module == second.module && second.address > first.address { other } else { one }
}

/// Whether all frames of an event's stack are known.
pub(super) fn is_whole(event: &Event) -> bool {
    event.walk.quality == StackQuality::Complete
}
