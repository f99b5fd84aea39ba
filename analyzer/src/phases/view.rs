//! Stacks with the phases they are in. Responsible for a view of a trace in which a phase that markers begin and end stands on stacks like a
//! function that is called and returns, so that whatever asks for the calls of a block finds the phases among them; not for what that is
//! good for (see `arenas`).
//!
//! A phase lies in a call (see `spans`), and that call goes on in it. So the call stands on both sides:
//!
//! ```text
//!   recorded    main ─ compile ─ parse ─ new_node
//!   woven       main ─ compile ─ phase parsing ─ compile ─ parse ─ new_node
//!                      └ as it was when the phase began     └ as it is now, in the phase
//! ```
//!
//! What an event says of the calls that go on (`Walk`) is true of woven stacks, too, counted with what was woven in; where a phase
//! has begun or ended since the thread's last event, all calls go on that lie around it, and the one that it lies in has moved.
//!
//! Memory: the tables of the trace once more, 12 bytes for each of its stacks, and about 40 for each stack in each chain of phases that it
//! is seen in, up to [`MOST_NODES`] of these; a trace with more has no phases in its view. Time for each event: a look into a table, while a
//! phase is open.

mod loom;
#[cfg(test)]
mod tests;
mod weaver;

pub(crate) use weaver::Weaver;

use std::borrow::Cow;

use foldhash::HashMap;
use trace_format::{Frame, FrameId, MarkerEnd, ReadError, StackId, Tables, Trace};

use self::loom::Loom;
use super::spans::{Finder, Span};
use crate::names::Names;
use crate::profile::Profile;
use crate::replay::{Observer, Outcome, Replay};

/// Begins the name of the function that stands for a phase. No name in C, C++, Rust or Zig does.
const PREFIX: &str = "phase ";
/// Stacks with phases at most.
const MOST_NODES: usize = 1 << 23;
/// What these functions are in.
pub(crate) const MODULE: &str = "[phases]";

/// In paths, what stands in place of the call that a phase makes.
pub(crate) const IN_PHASE: &str = "@phase";

/// The function that stands for a phase.
fn stand_in(phase: &str) -> String {
    format!("{PREFIX}{phase}")
}

/// The phase that a function stands for.
pub(crate) fn phase_of(function: &str) -> Option<&str> {
    function.strip_prefix(PREFIX)
}

/// The first frame that stands for a phase; as many as there are frames where none does.
pub(crate) fn first_phase(tables: &Tables) -> usize {
    let is_phase = |frame: &Frame| tables.modules.get(frame.module.index()).is_some_and(|module| module.path == MODULE);
    tables.frames.iter().position(is_phase).unwrap_or(tables.frames.len())
}

/// A trace, its stacks with phases or as they are.
#[derive(Debug)]
pub struct View<'a> {
    trace: &'a Trace,
    names: Cow<'a, Names>,
    woven: Option<Woven>,
    left_out_count: u64,
}

/// Stacks with phases.
#[derive(Debug)]
struct Woven {
    /// The trace's own stacks come first.
    tables: Tables,
    /// By thread.
    spans: Vec<Vec<Laid>>,
    known: Known,
    /// Frames of each stack.
    depths: Vec<u32>,
}

/// By stack, and by the phase's node that it is in: the stack with that. Most stacks are in one phase.
#[derive(Debug, Default)]
struct Known {
    /// By stack of the trace: a phase's node, and the stack with it.
    first: Vec<(StackId, StackId)>,
    more: HashMap<(StackId, StackId), StackId>,
}

impl Known {
    fn get(&self, stack: StackId, phase: StackId) -> Option<StackId> {
        match self.first.get(stack.index()) {
            Some((known, woven)) if *known == phase => Some(*woven),
            _ => self.more.get(&(stack, phase)).copied(),
        }
    }

    fn put(&mut self, stack: StackId, phase: StackId, woven: StackId) {
        match self.first.get_mut(stack.index()) {
            Some(first) if first.0 == StackId::EMPTY => *first = (phase, woven),
            _ => drop(self.more.insert((stack, phase), woven)),
        }
    }
}

impl Woven {
    /// Frames that two stacks share.
    fn shared(&self, one: StackId, other: StackId) -> u32 {
        let depths = &self.depths;
        let outer = |stack: StackId| self.tables.stacks[stack.index()].parent;
        let (mut one, mut other) = (one, other);
        while one != other {
            if depths[one.index()] >= depths[other.index()] {
                one = outer(one);
            } else {
                other = outer(other);
            }
        }
        depths[one.index()]
    }
}

/// A phase on stacks.
#[derive(Debug, Clone, Copy)]
struct Laid {
    span: Span,
    /// Its node; the empty stack while it is not known.
    node: StackId,
}

impl<'a> View<'a> {
    /// The trace as it is.
    pub fn plain(trace: &'a Trace, names: &'a Names) -> Self {
        Self { trace, names: Cow::Borrowed(names), woven: None, left_out_count: 0 }
    }

    /// With the phases that markers of the trace begin and end, if there are any: that takes two passes. `progress` is told of events.
    ///
    /// # Errors
    /// The file became unreadable.
    pub fn with_phases(
        trace: &'a Trace,
        names: &'a Names,
        profiles: &[Profile],
        decoders: usize,
        mut progress: impl FnMut(u64),
    ) -> Result<Self, ReadError> {
        if trace.tables.markers.iter().all(|marker| marker.ends_by != MarkerEnd::Explicit) {
            return Ok(Self::plain(trace, names));
        }
        let mut finder = Finder::new(&trace.tables, names, profiles);
        let mut done = 0;
        trace.for_each_chunk(decoders, |events| {
            for event in events {
                finder.event(event);
            }
            done += events.len() as u64;
            progress(done);
        })?;
        let spans = finder.finish();
        let left_out_count = spans.left_out_count;
        if spans.of_thread.iter().all(Vec::is_empty) {
            return Ok(Self { left_out_count, ..Self::plain(trace, names) });
        }
        let mut loom = Loom::new(&trace.tables, &spans);
        trace.for_each_chunk(decoders, |events| {
            for event in events {
                loom.event(event);
            }
            done += events.len() as u64;
            progress(done);
        })?;
        if loom.is_full() {
            let all = spans.of_thread.iter().map(|spans| spans.len() as u64).sum::<u64>();
            return Ok(Self { left_out_count: left_out_count + all, ..Self::plain(trace, names) });
        }
        let names = Cow::Owned(names.with_functions(MODULE, spans.names.iter().map(|name| stand_in(name))));
        Ok(Self { trace, names, woven: Some(loom.finish(&trace.tables, &spans)), left_out_count })
    }

    /// The tables that events of the view refer to.
    pub fn tables(&self) -> &Tables {
        self.woven.as_ref().map_or(&self.trace.tables, |woven| &woven.tables)
    }

    /// The names of their frames.
    pub fn names(&self) -> &Names {
        &self.names
    }

    /// Instances of phases that markers end and that are not in the view: they do not nest with calls, or too little is known of them.
    pub fn left_out_count(&self) -> u64 {
        self.left_out_count
    }

    /// Whether a function of this name stands for a phase of the view.
    pub(crate) fn has(&self, function: &str) -> bool {
        let tables = self.tables();
        let mut phases = (first_phase(tables)..tables.frames.len()).map(FrameId::from);
        phases.any(|frame| self.names.places(frame).iter().any(|place| self.names.place(*place).function == function))
    }

    /// Takes the trace's events to the view, if that differs.
    pub(crate) fn weaver(&self) -> Option<Weaver<'_>> {
        self.woven.as_ref().map(Weaver::new)
    }

    /// Replays the view as `replay_with` does a trace.
    ///
    /// # Errors
    /// The file became unreadable.
    pub fn replay_with<O: Observer>(
        &self,
        observer: O,
        decoders: usize,
        mut progress: impl FnMut(u64),
    ) -> Result<(Outcome, O), ReadError> {
        let mut engine = Replay::observed(self.tables(), observer);
        let mut weaver = self.weaver();
        let mut woven = Vec::new();
        let mut done = 0;
        self.trace.for_each_chunk(decoders, |events| {
            match &mut weaver {
                None => engine.events(events),
                Some(weaver) => {
                    woven.clear();
                    woven.extend(events.iter().map(|event| weaver.event(event)));
                    engine.events(&woven);
                }
            }
            done += events.len() as u64;
            progress(done);
        })?;
        Ok(engine.finish_observed())
    }
}
