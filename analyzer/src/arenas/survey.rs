//! One pass over a trace: how far the blocks of each stack escape, and what it would cost to keep them longer. Responsible for facts
//! per stack and frame; not for choosing arenas (see `choose`).
//!
//! # Which arenas a block could live in
//!
//! A block fits into the arena of an activation that is open from its birth to its death. Those are the outermost `scope` frames of
//! the stack that it was born from, so one histogram of `scope` per stack says for every frame of that stack how many
//! blocks an arena there could have held:
//!
//! ```text
//!   born from     main ─ compile ─ body ─ expr ─ new_node       died while   main ─ compile ─ body   was still open
//!   frame            0         1      2      3          4       scope = 3: fits frames 0, 1 and 2, outlives 3 and 4
//! ```
//!
//! # What keeping it costs
//!
//! In the arena of frame `i` a dead block is kept until that activation ends: drag = size × (end − death), on the clock of bytes
//! allocated by the process. A dead block is put down at the innermost frame that it fits. When an activation ends, what was put
//! down there has its drag for that frame added, and moves one frame out:
//!
//! ```text
//!   drag[cell][i] += Σ size · end(i) − Σ size · death
//! ```
//!
//! So nothing is kept of ended activations. Time per event: frames that ended, times the stacks with dead blocks there.

use trace_format::{Event, Op, ProcessId, Sequence, StackId, StackQuality, Tables, ThreadId};

use super::turns::Turns;
use crate::activations::{Activations, Open, Step};
use crate::phases::first_phase;
use crate::replay::{Block, Observer};

/// The beginning of a chain of reallocs, kept with its latest block.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Chain {
    began: Sequence,
    cell: u32,
    thread: ThreadId,
    /// Blocks that reallocs left, and their bytes × clock at that time.
    left_bytes: u64,
    left_byte_clock: f64,
    /// It changed the thread, or its stack is not known whole.
    lost: bool,
}

/// What is known of the chains that began at one stack of one process.
#[derive(Debug, Clone, Default)]
pub(super) struct CellFacts {
    /// Chains by scope: outermost frames of the stack that were open until the death. Freed by their own thread.
    pub(super) scopes: Vec<u32>,
    /// Chains freed by another thread.
    pub(super) elsewhere_count: u32,
    /// Chains alive at the end.
    pub(super) survivor_count: u32,
    /// Chains whose stack is not known whole.
    pub(super) unknown_count: u32,
    /// Bytes of all blocks of the chains.
    pub(super) bytes: u64,
    /// Reallocs.
    pub(super) realloc_count: u64,
    /// Bytes that reallocs left behind.
    pub(super) left_bytes: u64,
    /// By frame: bytes × bytes allocated between death and the end of the activation.
    pub(super) drag: Vec<f64>,
    /// By frame: the most dead bytes that one activation would have held.
    pub(super) most_dead: Vec<u64>,
}

impl CellFacts {
    /// Chains.
    pub(super) fn count(&self) -> u64 {
        let scoped: u64 = self.scopes.iter().map(|count| u64::from(*count)).sum();
        scoped + u64::from(self.elsewhere_count) + u64::from(self.survivor_count) + u64::from(self.unknown_count)
    }

    /// Chains that an arena at this frame could have held.
    pub(super) fn fitting(&self, frame: usize) -> u64 {
        self.scopes.iter().skip(frame + 1).map(|count| u64::from(*count)).sum()
    }
}

/// What is known of a function's activations.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct FunctionFacts {
    /// Activations that were seen.
    pub(super) count: u64,
    /// The longest, as a part of what its process allocated: 1 is the whole process.
    pub(super) longest_share: f64,
}

/// Dead bytes that would still be held at one moment.
#[derive(Debug, Clone, Default)]
pub(super) struct Sample {
    /// Cell, innermost frame that the dead blocks fit, their bytes. A frame further out holds the sum of those inside.
    pub(super) held: Vec<(u32, u32, u64)>,
}

/// All facts of a trace.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// By cell of the outcome.
    pub(super) cells: Vec<CellFacts>,
    /// By function number of `Functions::of_frames`.
    pub(super) functions: Vec<FunctionFacts>,
    /// The moments that were asked for.
    pub(super) samples: Vec<Sample>,
}

/// Dead blocks put down at a frame.
#[derive(Debug, Clone, Copy)]
struct Dead {
    cell: u32,
    bytes: u64,
    byte_clock: f64,
}

/// An open frame.
#[derive(Debug, Clone, Default)]
struct Level {
    function: u32,
    opened_bytes: u64,
    dead: Vec<Dead>,
    /// There is one entry for each cell.
    is_merged: bool,
    /// Length at which `dead` is worth merging again.
    merge_at: usize,
}

/// Activations of one function.
#[derive(Debug, Clone, Default)]
struct Spans {
    count: u64,
    /// By process, the latest last: bytes allocated during the longest.
    longest: Vec<(usize, u64)>,
}

/// Fewer dead blocks are not worth merging.
const MERGE_AT: usize = 64;

/// The observer.
#[derive(Debug)]
pub(super) struct Survey<'t> {
    tables: &'t Tables,
    /// The first frame that is a phase.
    first_phase: usize,
    activations: Activations<'t>,
    turns: Turns,
    threads: Vec<Vec<Level>>,
    cells: Vec<CellFacts>,
    functions: Vec<Spans>,
    /// Bytes allocated, by process.
    clocks: Vec<u64>,
    wanted: Vec<Sequence>,
    samples: Vec<Sample>,
}

impl<'t> Survey<'t> {
    /// `functions` numbers the function of each frame; `moments` are to be sampled, in order.
    pub(super) fn new(tables: &'t Tables, functions: Vec<u32>, moments: Vec<Sequence>) -> Self {
        Self {
            tables,
            first_phase: first_phase(tables),
            activations: Activations::new(tables, functions),
            turns: Turns::new(tables.threads.len()),
            threads: vec![Vec::new(); tables.threads.len()],
            cells: Vec::new(),
            functions: Vec::new(),
            clocks: vec![0; tables.processes.len().max(1)],
            wanted: moments,
            samples: Vec::new(),
        }
    }

    /// Facts of the trace.
    pub(super) fn finish(mut self) -> Facts {
        for thread in 0..self.threads.len() {
            self.close(ThreadId::from(thread), 0);
        }
        let share = |(process, span): &(usize, u64)| *span as f64 / self.clocks[*process].max(1) as f64;
        let facts = |spans: &Spans| FunctionFacts {
            count: spans.count,
            longest_share: spans.longest.iter().map(share).fold(0.0, f64::max),
        };
        let functions = self.functions.iter().map(facts).collect();
        Facts { cells: self.cells, functions, samples: self.samples }
    }

    fn process_of(&self, thread: ThreadId) -> usize {
        self.tables.threads.get(thread.index()).map_or(0, |thread| thread.process.index()).min(self.clocks.len() - 1)
    }

    fn cell_mut(&mut self, cell: u32) -> &mut CellFacts {
        let at = cell as usize;
        if at >= self.cells.len() {
            self.cells.resize_with(at + 1, CellFacts::default);
        }
        &mut self.cells[at]
    }

    /// Frames from this one on have ended.
    fn close(&mut self, thread: ThreadId, from: usize) {
        let process = self.process_of(thread);
        let clock = self.clocks[process];
        while self.threads[thread.index()].len() > from {
            let levels = &mut self.threads[thread.index()];
            let Some(mut level) = levels.pop() else { return };
            let frame = levels.len();
            merge(&mut level);
            for dead in &level.dead {
                let facts = &mut self.cells[dead.cell as usize];
                if facts.drag.len() <= frame {
                    facts.drag.resize(frame + 1, 0.0);
                    facts.most_dead.resize(frame + 1, 0);
                }
                facts.most_dead[frame] = facts.most_dead[frame].max(dead.bytes);
                facts.drag[frame] += (dead.bytes as f64).mul_add(clock as f64, -dead.byte_clock);
            }
            if let Some(outer) = levels.last_mut() {
                if outer.dead.len() < level.dead.len() {
                    std::mem::swap(&mut outer.dead, &mut level.dead);
                    outer.merge_at = level.merge_at;
                    outer.is_merged = true;
                }
                outer.is_merged &= level.dead.is_empty();
                outer.dead.append(&mut level.dead);
                merge_if_worth(outer);
            }
            self.ended(level.function, process, clock - level.opened_bytes);
        }
    }

    fn ended(&mut self, function: u32, process: usize, span: u64) {
        if function == u32::MAX {
            return;
        }
        let at = function as usize;
        if at >= self.functions.len() {
            self.functions.resize_with(at + 1, Spans::default);
        }
        let spans = &mut self.functions[at];
        spans.count += 1;
        match spans.longest.iter_mut().rev().find(|(known, _)| *known == process) {
            Some((_, longest)) => *longest = span.max(*longest),
            None => spans.longest.push((process, span)),
        }
    }

    fn follow(&mut self, thread: ThreadId, step: Step) {
        let depth = self.activations.of(thread).map_or(0, Open::depth);
        let ended_from = self.turns.step(thread, step, depth);
        self.close(thread, ended_from);
        let process = self.process_of(thread);
        let clock = self.clocks[process];
        let Some(open) = self.activations.of(thread) else { return };
        let levels = &mut self.threads[thread.index()];
        for node in &open.nodes()[levels.len().min(open.depth())..] {
            let outer = self.tables.stacks[node.index()].parent;
            // The call that a phase lies in goes on in it: that is no other activation.
            let in_phase =
                self.tables.stacks[outer.index()].frame.index() >= self.first_phase && outer != StackId::EMPTY;
            let function = self.activations.function(*node).filter(|_| !in_phase).unwrap_or(u32::MAX);
            levels.push(Level { function, opened_bytes: clock, dead: Vec::new(), is_merged: true, merge_at: MERGE_AT });
        }
    }

    fn sample(&mut self) {
        let mut sample = Sample::default();
        for levels in &mut self.threads {
            for (level, frame) in levels.iter_mut().zip(0..) {
                merge(level);
                sample.held.extend(level.dead.iter().map(|dead| (dead.cell, frame, dead.bytes)));
            }
        }
        self.samples.push(sample);
    }

    fn over(&mut self, block: &Block<Chain>, event: &Event) {
        let chain = block.tag;
        let scope = self.activations.of(chain.thread).map_or(0, |open| open.scope(chain.began));
        self.turns.died(chain.thread, scope);
        if chain.lost || event.thread != chain.thread {
            let facts = self.cell_mut(chain.cell);
            facts.left_bytes += chain.left_bytes;
            if chain.lost {
                facts.unknown_count += 1;
            } else {
                facts.elsewhere_count += 1;
            }
            return;
        }
        let clock = self.clocks[self.process_of(event.thread)];
        let facts = self.cell_mut(chain.cell);
        if facts.scopes.len() <= scope {
            facts.scopes.resize(scope + 1, 0);
        }
        facts.scopes[scope] += 1;
        facts.left_bytes += chain.left_bytes;
        let levels = &mut self.threads[event.thread.index()];
        if let Some(level) = scope.checked_sub(1).and_then(|frame| levels.get_mut(frame)) {
            level.is_merged = false;
            level.dead.push(Dead {
                cell: chain.cell,
                bytes: block.size_bytes + chain.left_bytes,
                byte_clock: (block.size_bytes as f64).mul_add(clock as f64, chain.left_byte_clock),
            });
            merge_if_worth(level);
        }
    }
}

fn merge_if_worth(level: &mut Level) {
    if level.dead.len() >= level.merge_at.max(MERGE_AT) {
        merge(level);
        level.merge_at = 2 * level.dead.len();
    }
}

/// One entry for each cell.
fn merge(level: &mut Level) {
    if std::mem::replace(&mut level.is_merged, true) {
        return;
    }
    level.dead.sort_unstable_by_key(|dead| dead.cell);
    level.dead.dedup_by(|next, kept| {
        let same = next.cell == kept.cell;
        if same {
            kept.bytes += next.bytes;
            kept.byte_clock += next.byte_clock;
        }
        same
    });
}

impl Observer for Survey<'_> {
    type Tag = Chain;

    fn event(&mut self, event: &Event) {
        while self.wanted.get(self.samples.len()).is_some_and(|wanted| *wanted <= event.sequence) {
            self.sample();
        }
        if event.op == Op::ThreadEnd && event.thread.index() < self.threads.len() {
            self.close(event.thread, 0);
        }
        // Every event: one that is left out would look like one that is missing, across which nothing continues.
        if let Some(step) = self.activations.step(event) {
            self.follow(event.thread, step);
        }
    }

    fn born(&mut self, block: &Block<Chain>, _: StackId, replaced: Option<&Block<Chain>>, event: &Event) -> Chain {
        let process = self.process_of(event.thread);
        let clock = self.clocks[process];
        self.clocks[process] = clock.saturating_add(block.size_bytes);
        let Some(old) = replaced else {
            let facts = self.cell_mut(block.cell.0);
            facts.bytes += block.size_bytes;
            self.turns.born(event.thread);
            return Chain {
                began: event.sequence,
                cell: block.cell.0,
                thread: event.thread,
                lost: event.walk.quality != StackQuality::Complete,
                ..Chain::default()
            };
        };
        let facts = self.cell_mut(old.tag.cell);
        facts.bytes += block.size_bytes;
        facts.realloc_count += 1;
        Chain {
            left_bytes: old.tag.left_bytes + old.size_bytes,
            left_byte_clock: (old.size_bytes as f64).mul_add(clock as f64, old.tag.left_byte_clock),
            lost: old.tag.lost || event.thread != old.tag.thread,
            ..old.tag
        }
    }

    fn died(&mut self, block: &Block<Chain>, event: &Event) {
        self.over(block, event);
    }

    fn died_moving(&mut self, block: &Block<Chain>, event: &Event) {
        self.over(block, event);
    }

    fn never_moved(&mut self, block: &Block<Chain>) {
        self.cell_mut(block.tag.cell).unknown_count += 1;
    }

    fn survived(&mut self, block: &Block<Chain>, _: ProcessId) {
        let facts = self.cell_mut(block.tag.cell);
        facts.survivor_count += 1;
        facts.left_bytes += block.tag.left_bytes;
    }
}
