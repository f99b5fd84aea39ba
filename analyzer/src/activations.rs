//! Activations: dynamic instances of functions. Responsible for which activations of a thread are open at each event and
//! since when; not for what they mean (see `phases`, `lifetimes`).
//!
//! # From stacks to activations
//!
//! Two stacks of a thread that follow each other share their outer frames. The recorder saw the frame addresses (CFAs) of
//! both, so the trace says how many of the shared ones are still the same activation (`Walk::renewed`), and whether the
//! first frame that differs is the same activation in another call (`Walk::moved`):
//!
//! ```text
//!  before   main ─ compile ─ parse+0x20 ─ expr ─ malloc         opened at event  0   0   7   9
//!  now      main ─ compile ─ parse+0x58 ─ stmt ─ malloc         opened at event  0   0   7  12
//!                            └ moved: the same parse, further on     └ new
//! ```
//!
//! # The scope of a block, without keeping activations
//!
//! The scope of a block is the innermost activation that was open from its birth to its death: the lowest common ancestor of
//! both in the tree of activations. An activation that is open at the death and was opened no later than the birth was open
//! all the while, so it is an ancestor of both; and `opened` never falls from a frame to its callee. So the scope is the last
//! frame of the dying thread's stack that was opened at or before the birth, found by bisection, and nothing needs to be
//! kept of activations that have ended. Memory: threads × depth. Time per event: the frames that changed.
//!
//! # Bounds
//!
//! A function that returned and was called again from the same place with no event in between looks like one activation;
//! nothing in a trace can tell. A frame that `moved` *backwards* in its function is either a loop or such a second call. The
//! *optimistic* reading takes it for the same activation, the *pessimistic* one for another; the truth lies between.
//!
//! # Stacks that were cut short
//!
//! Their outer frames are not known, so such an event says nothing of them: it changes nothing here. The event after it tells
//! what continues of the cut stack, which is no use; its stack is compared to the last whole one by address and function, and
//! the pessimistic reading lets nothing continue.

use trace_format::{Event, Sequence, StackId, StackQuality, Tables};

/// The open activations of one thread.
#[derive(Debug, Clone, Default)]
pub struct Open {
    /// Stack node of each frame, root first.
    nodes: Vec<StackId>,
    /// When each was opened, as the optimistic reading has it. Never falls.
    since: Vec<Sequence>,
    /// The same, as the pessimistic one has it: never earlier.
    pessimistic: Vec<Sequence>,
    /// Number of the thread's latest event with a stack, plus one.
    seen_to: u64,
    /// A stack that was cut short has come since.
    stale: bool,
}

/// What an event changed in its thread's stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// Frames that the stack had before.
    pub before: usize,
    /// Frames that continue and have not moved: 0 … kept.
    pub kept: usize,
    /// Whether frame `kept` is still the same activation, in another call.
    pub moved: bool,
    /// That frame went back in its function: it is in a loop, or it is another activation after all.
    pub fell_back: bool,
}

impl Step {
    /// The first frame whose activation, if there was one, has ended.
    pub fn ended_from(&self) -> usize {
        self.kept + usize::from(self.moved)
    }
}

/// The open activations of all threads.
#[derive(Debug)]
pub struct Activations<'t> {
    tables: &'t Tables,
    depths: Vec<u32>,
    threads: Vec<Open>,
    /// Events before this one are missing: nothing continues across.
    gap: u64,
    next: u64,
    fresh: Vec<StackId>,
    functions: Vec<u32>,
}

impl<'t> Activations<'t> {
    /// None is open. `functions` numbers the function of each frame.
    pub fn new(tables: &'t Tables, functions: Vec<u32>) -> Self {
        Self {
            functions,
            depths: depths(tables),
            threads: vec![Open::default(); tables.threads.len()],
            tables,
            gap: 0,
            next: 0,
            fresh: Vec::new(),
        }
    }

    /// Takes the next event. `None` if it has no whole stack: then nothing is known to have changed.
    pub fn step(&mut self, event: &Event) -> Option<Step> {
        let sequence = event.sequence.0;
        if sequence != self.next {
            self.gap = sequence;
        }
        self.next = sequence + 1;
        if event.walk.quality == StackQuality::NotTaken {
            return None;
        }
        let thread = self.threads.get_mut(event.thread.index())?;
        if event.walk.quality.is_truncated() {
            thread.stale = true;
            return None;
        }
        let stale = std::mem::take(&mut thread.stale);
        let leaf = if event.stack.index() < self.depths.len() { event.stack } else { StackId::EMPTY };
        let depth = self.depths[leaf.index()] as usize;
        let before = thread.nodes.len();
        // From the leaf outwards until both stacks meet.
        let (mut node, mut shared) = (leaf, depth);
        self.fresh.clear();
        while shared > 0 && thread.nodes.get(shared - 1) != Some(&node) {
            self.fresh.push(node);
            node = self.tables.stacks[node.index()].parent;
            shared -= 1;
        }
        let unknown = thread.seen_to <= self.gap && self.gap > 0;
        let kept = match (unknown, stale) {
            (true, _) => 0,
            (false, true) => shared,
            (false, false) => shared.saturating_sub(event.walk.renewed as usize),
        };
        let moved = !unknown
            && kept < before
            && kept < depth
            && if stale { self.same_function(event, kept) } else { event.walk.moved };
        let backwards = moved && (stale || self.fell_back(event, kept, shared));
        let thread = &mut self.threads[event.thread.index()];
        let renewed_nodes = kept..shared;
        let kept_nodes: Vec<StackId> =
            if renewed_nodes.is_empty() { Vec::new() } else { thread.nodes[renewed_nodes].to_vec() };
        thread.nodes.truncate(kept);
        thread.since.truncate(kept + usize::from(moved));
        thread.pessimistic.truncate(if stale { 0 } else { kept + usize::from(moved && !backwards) });
        thread.nodes.extend(kept_nodes);
        thread.nodes.extend(self.fresh.iter().rev());
        thread.since.resize(depth, event.sequence);
        thread.pessimistic.resize(depth, event.sequence);
        thread.seen_to = self.next;
        Some(Step { before, kept, moved, fell_back: backwards })
    }

    /// Whether the frame that moved went back in its function.
    fn fell_back(&self, event: &Event, at: usize, shared: usize) -> bool {
        let old = self.threads[event.thread.index()].nodes[at];
        let new = if at < shared { old } else { self.fresh[self.fresh.len() - 1 - (at - shared)] };
        let frame = |node: StackId| self.tables.frames[self.tables.stacks[node.index()].frame.index()];
        let (old, new) = (frame(old), frame(new));
        old.module == new.module && new.address < old.address
    }

    /// Whether the first frame that differs from the stack before has the same function. Nothing is renewed.
    fn same_function(&self, event: &Event, at: usize) -> bool {
        let old = self.threads[event.thread.index()].nodes[at];
        let new = self.fresh[self.fresh.len() - 1];
        let function = |node: StackId| self.functions.get(self.tables.stacks[node.index()].frame.index());
        function(old).is_some() && function(old) == function(new)
    }

    /// Number of the function of a stack's innermost frame.
    pub fn function(&self, node: StackId) -> Option<u32> {
        self.functions.get(self.tables.stacks[node.index()].frame.index()).copied()
    }

    /// The open activations of a thread.
    pub fn of(&self, thread: trace_format::ThreadId) -> Option<&Open> {
        self.threads.get(thread.index())
    }

    /// Frames of a stack.
    pub fn depth(&self, stack: StackId) -> u32 {
        self.depths.get(stack.index()).copied().unwrap_or(0)
    }
}

impl Open {
    /// Frames on the stack.
    pub fn depth(&self) -> usize {
        self.nodes.len()
    }

    /// Stack nodes, root first.
    pub fn nodes(&self) -> &[StackId] {
        &self.nodes
    }

    /// When the activation of a frame was opened.
    pub fn since(&self, frame: usize) -> Option<Sequence> {
        self.since.get(frame).copied()
    }

    /// Depth of the scope of a block that dies now and was born on this thread: how many of the open activations were open
    /// at its birth. 0: none, its scope is the process. O(log depth).
    pub fn scope(&self, birth: Sequence) -> usize {
        self.since.partition_point(|since| *since <= birth)
    }

    /// The same, as the pessimistic reading has it: never deeper.
    pub fn pessimistic_scope(&self, birth: Sequence) -> usize {
        self.pessimistic.partition_point(|since| *since <= birth)
    }
}

/// Frames of each stack. A node of a sound trace comes after the one further out.
pub fn depths(tables: &Tables) -> Vec<u32> {
    let mut depths: Vec<u32> = Vec::with_capacity(tables.stacks.len().max(1));
    for (index, node) in tables.stacks.iter().enumerate() {
        let depth = if index == 0 || node.parent.index() >= index { 0 } else { depths[node.parent.index()] + 1 };
        depths.push(depth);
    }
    if depths.is_empty() {
        depths.push(0);
    }
    depths
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use trace_format::{EntryId, Frame, FrameId, ModuleId, Op, ProcessId, StackNode, Target, Thread, ThreadId, Walk};

    /// A frame as the oracle knows it: address and a number that is the activation's own.
    type Frames = Vec<(u64, u64)>;

    /// Stack table filled on demand.
    struct Stacks {
        tables: Tables,
    }

    impl Stacks {
        fn new() -> Self {
            let mut tables =
                Tables { stacks: vec![StackNode { parent: StackId(0), frame: FrameId(0) }], ..Tables::default() };
            tables.threads.push(Thread { tid: 1, process: ProcessId(0), name: String::new() });
            for address in 0..64 {
                tables.frames.push(Frame { module: ModuleId(0), address });
            }
            Self { tables }
        }

        fn node(&mut self, frames: &Frames) -> StackId {
            let mut at = StackId(0);
            for (address, _) in frames {
                let wanted = StackNode { parent: at, frame: FrameId(*address as u32) };
                let found = self.tables.stacks.iter().skip(1).position(|node| *node == wanted);
                at = found.map_or_else(
                    || {
                        self.tables.stacks.push(wanted);
                        StackId::from(self.tables.stacks.len() - 1)
                    },
                    |at| StackId::from(at + 1),
                );
            }
            at
        }
    }

    proptest! {
        /// A random program calls, returns, moves on in its functions, and allocates now and then; each activation has a
        /// number of its own. What the trace says of two stacks is made from what can be seen (addresses and frame depths);
        /// scopes must be those of the activations' own numbers.
        #[test]
        fn scopes_are_the_lowest_common_ancestors(steps in proptest::collection::vec((0..4u8, 0..4u64), 1..300)) {
            let mut stacks = Stacks::new();
            let mut now: Frames = vec![(0, 0)];
            let mut fresh = 1;
            let mut seen: Vec<Frames> = Vec::new();
            for (what, function) in steps {
                match what {
                    // A call to a function that is not on the way already looks like itself only.
                    0 if now.len() < 8 => { now.push((function * 8, fresh)); fresh += 1; }
                    1 if now.len() > 1 => { now.pop(); let top = now.last_mut().unwrap(); top.0 = top.0 / 8 * 8 + (top.0 + 1) % 8; }
                    2 => { let top = now.last_mut().unwrap(); top.0 = top.0 / 8 * 8 + (top.0 + 1) % 8; }
                    _ => seen.push(now.clone()),
                }
            }
            let nodes: Vec<StackId> = seen.iter().map(|frames| stacks.node(frames)).collect();
            let mut activations = Activations::new(&stacks.tables, (0..64).map(|address| address / 8).collect());
            for (at, frames) in seen.iter().enumerate() {
                let walk = match at.checked_sub(1).map(|before| &seen[before]) {
                    None => Walk { quality: StackQuality::Complete, renewed: 0, moved: false },
                    Some(before) => {
                        // By identity: in this program equal depth means equal frame address, and the recorder would see
                        // no more; identity says which of these are renewed.
                        let shared = before.iter().zip(frames).take_while(|(a, b)| a.0 == b.0).count();
                        let same = before.iter().zip(frames).take_while(|(a, b)| a == b).count();
                        let moved = before.get(same).zip(frames.get(same)).is_some_and(|(a, b)| a.1 == b.1);
                        Walk { quality: StackQuality::Complete, renewed: (shared - same) as u32, moved }
                    }
                };
                let event = Event {
                    sequence: Sequence(at as u64),
                    time_ns: 0,
                    thread: ThreadId(0),
                    stack: nodes[at],
                    walk,
                    op: Op::Free { entry: EntryId(0), target: Target::Unknown { address: 0 } },
                };
                activations.step(&event);
                let open = activations.of(ThreadId(0)).unwrap();
                prop_assert_eq!(open.depth(), frames.len());
                prop_assert!(open.nodes().iter().zip(frames).all(|(node, frame)|
                    u64::from(stacks.tables.stacks[node.index()].frame.0) == frame.0));
                for (birth, born) in seen.iter().enumerate().take(at + 1) {
                    let expected = born.iter().zip(frames).take_while(|(a, b)| a.1 == b.1).count();
                    prop_assert_eq!(open.scope(Sequence(birth as u64)), expected, "{} to {}", birth, at);
                    prop_assert!(open.pessimistic_scope(Sequence(birth as u64)) <= expected);
                }
            }
        }
    }

    #[test]
    fn nothing_continues_across_missing_events() {
        let mut stacks = Stacks::new();
        let node = stacks.node(&vec![(0, 0), (8, 1)]);
        let mut activations = Activations::new(&stacks.tables, (0..64).map(|address| address / 8).collect());
        let mut event = Event {
            sequence: Sequence(0),
            time_ns: 0,
            thread: ThreadId(0),
            stack: node,
            walk: Walk { quality: StackQuality::Complete, renewed: 0, moved: false },
            op: Op::ThreadEnd,
        };
        activations.step(&event);
        event.sequence = Sequence(1);
        assert_eq!(activations.step(&event), Some(Step { before: 2, kept: 2, moved: false, fell_back: false }));
        event.sequence = Sequence(5);
        assert_eq!(activations.step(&event), Some(Step { before: 2, kept: 0, moved: false, fell_back: false }));
        assert_eq!(activations.of(ThreadId(0)).unwrap().scope(Sequence(1)), 0);
        event.walk = Walk::NONE;
        event.sequence = Sequence(6);
        assert_eq!(activations.step(&event), None);
    }

    #[test]
    fn a_stack_that_was_cut_short_changes_nothing() {
        let mut stacks = Stacks::new();
        let (whole, cut, later) = (
            stacks.node(&vec![(0, 0), (8, 1)]),
            stacks.node(&vec![(16, 2)]),
            stacks.node(&vec![(0, 0), (9, 1), (24, 3)]),
        );
        let mut activations = Activations::new(&stacks.tables, (0..64).map(|address| address / 8).collect());
        let mut step = |sequence, stack, quality| {
            activations.step(&Event {
                sequence: Sequence(sequence),
                time_ns: 0,
                thread: ThreadId(0),
                stack,
                walk: Walk { quality, renewed: 0, moved: false },
                op: Op::ThreadEnd,
            })
        };
        step(0, whole, StackQuality::Complete);
        assert_eq!(step(1, cut, StackQuality::NoRule), None);
        assert_eq!(
            step(2, later, StackQuality::Complete),
            Some(Step { before: 2, kept: 1, moved: true, fell_back: true })
        );
        let open = activations.of(ThreadId(0)).unwrap();
        assert_eq!((open.scope(Sequence(0)), open.pessimistic_scope(Sequence(0))), (2, 0));
    }
}
