//! Makes stacks with phases: the nodes that a trace's events need, found in a pass over them.

use foldhash::{HashMap, HashMapExt};
use trace_format::{Event, Frame, FrameId, Module, ModuleId, StackId, StackNode, Tables};

use super::weaver::{Place, places};
use super::{Known, Laid, MODULE, MOST_NODES, Woven};
use crate::activations::depths;
use crate::phases::spans::{Span, Spans, is_whole};

/// Makes the stacks.
#[derive(Debug)]
pub(super) struct Loom {
    stacks: Vec<StackNode>,
    depths: Vec<u32>,
    index: HashMap<(StackId, FrameId), StackId>,
    known: Known,
    spans: Vec<Vec<Laid>>,
    places: Vec<Place>,
    /// The frame of the first phase.
    first: u32,
    path: Vec<FrameId>,
    /// Nodes of the trace.
    plain_count: usize,
}

impl Loom {
    pub(super) fn new(tables: &Tables, spans: &Spans) -> Self {
        let laid = |span: &Span| Laid { span: *span, node: StackId::EMPTY };
        Self {
            stacks: tables.stacks.clone(),
            depths: depths(tables),
            index: HashMap::new(),
            known: Known { first: vec![(StackId::EMPTY, StackId::EMPTY); tables.stacks.len()], more: HashMap::new() },
            spans: spans.of_thread.iter().map(|spans| spans.iter().map(laid).collect()).collect(),
            places: places(tables.threads.len()),
            first: tables.frames.len() as u32,
            path: Vec::new(),
            plain_count: tables.stacks.len(),
        }
    }

    /// Whether there are more than may be: nothing more is made.
    pub(super) fn is_full(&self) -> bool {
        self.stacks.len() - self.plain_count >= MOST_NODES
    }

    /// Makes the stack that an event needs.
    pub(super) fn event(&mut self, event: &Event) {
        let thread = event.thread.index();
        let is_full = self.is_full();
        let Some(place) = self.places.get_mut(thread) else { return };
        place.step(&self.spans[thread], event.sequence);
        if place.open.is_empty() || !is_whole(event) || is_full {
            return;
        }
        let open = std::mem::take(&mut place.open);
        let mut around = StackId::EMPTY;
        for (outer, at) in open.iter().enumerate() {
            let Laid { span, node } = self.spans[thread][*at];
            if node == StackId::EMPTY {
                let stack = self.cut(span.stack, span.depth);
                let from = outer.checked_sub(1).map_or(0, |outer| self.spans[thread][open[outer]].span.depth);
                let inside = if outer == 0 { stack } else { self.weave(stack, around, from) };
                self.spans[thread][*at].node = self.node(inside, FrameId(self.first + span.name));
            }
            around = self.spans[thread][*at].node;
        }
        let innermost = self.spans[thread][open[open.len() - 1]];
        self.weave(event.stack, innermost.node, innermost.span.depth);
        self.places[thread].open = open;
    }

    /// So many outer frames of a stack.
    fn cut(&self, mut stack: StackId, depth: u32) -> StackId {
        while self.depths[stack.index()] > depth {
            stack = self.stacks[stack.index()].parent;
        }
        stack
    }

    /// A stack with a phase's node in place of all frames around it, `depth` of them; the last of these is in it, too.
    fn weave(&mut self, stack: StackId, phase: StackId, depth: u32) -> StackId {
        if let Some(known) = self.known.get(stack, phase) {
            return known;
        }
        let mut path = std::mem::take(&mut self.path);
        path.clear();
        let mut at = stack;
        while self.depths[at.index()] >= depth.max(1) {
            path.push(self.stacks[at.index()].frame);
            at = self.stacks[at.index()].parent;
        }
        let woven = path.iter().rev().fold(phase, |node, frame| self.node(node, *frame));
        self.path = path;
        self.known.put(stack, phase, woven);
        woven
    }

    fn node(&mut self, parent: StackId, frame: FrameId) -> StackId {
        let next = StackId::from(self.stacks.len());
        let node = *self.index.entry((parent, frame)).or_insert(next);
        if node == next {
            self.stacks.push(StackNode { parent, frame });
            self.depths.push(self.depths[parent.index()] + 1);
        }
        node
    }

    pub(super) fn finish(self, tables: &Tables, spans: &Spans) -> Woven {
        let mut modules = tables.modules.clone();
        modules.push(Module { path: MODULE.to_owned(), ..Module::default() });
        let module = ModuleId::from(modules.len() - 1);
        let phases = (0..spans.names.len() as u64).map(|address| Frame { module, address });
        let tables = Tables {
            modules,
            frames: tables.frames.iter().copied().chain(phases).collect(),
            stacks: self.stacks,
            processes: tables.processes.clone(),
            threads: tables.threads.clone(),
            domains: tables.domains.clone(),
            entries: tables.entries.clone(),
            nestings: tables.nestings.clone(),
            ..Tables::default()
        };
        Woven { tables, spans: self.spans, known: self.known, depths: self.depths }
    }
}
