//! Random histories of several processes. Responsible for turning arbitrary numbers into events that mostly could have
//! been and sometimes could not, and for writing them as a trace; not for what they mean (see `model`).

use std::path::Path;

use proptest::prelude::*;
use trace_format::{
    BlockId, CaptureStats, Domain, DomainId, EndReason, Entry, EntryId, EntryKind, Event, Frame, Header, Module, Op,
    Origin, Process, ProcessId, Sequence, StackId, Target, Thread, ThreadId, TraceWriter, Walk, WriterOptions,
};

use crate::model::{ENTRIES_PER_DOMAIN, ENTRY_COUNT, LAYERS, Model, ProcessRow, Rows};

const STACK_COUNT: u32 = 7;
const TICK_NS: u64 = 64;
const MOST_PROCESSES: usize = 10;
/// The replay gives up calls that lie deeper than any program's.
const MOST_OPEN_CALLS: usize = 60;

/// A choice among things that are not known yet; the highest are for what should not be.
type Pick = u16;
const ODD: Pick = 0xf800;

/// What a free, a realloc or a missed free names.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Which {
    Live(Pick),
    /// Any block ever born, in whatever heap.
    Any(Pick),
    Unknown,
    Dead,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Returned {
    End,
    Failed,
    Freed,
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Action {
    Alloc {
        size_bytes: u64,
    },
    AllocFailed,
    Free(Which),
    ReallocBegin(Which),
    /// An open call of this depth, from the innermost, returns.
    Return {
        how: Returned,
        depth: Pick,
        size_bytes: u64,
    },
    MissedFree(Which),
    Launch {
        origin: Origin,
    },
    Fork {
        shares_heap: bool,
    },
    Exec,
    End(EndReason),
    /// A row that says that the process starts, again.
    StartAgain,
    NewThread,
    ThreadEnd,
    Loss {
        counts: [u64; 3],
    },
    Marker,
    Unknown,
}

/// One step of a history: an action by some thread.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    thread: Pick,
    entry: u32,
    stack: u32,
    ticks: u64,
    action: Action,
}

pub(crate) fn step() -> impl Strategy<Value = Step> {
    let parts = (any::<Pick>(), 0..ENTRY_COUNT, 0..STACK_COUNT, 0..4u64, action());
    parts.prop_map(|(thread, entry, stack, ticks, action)| Step { thread, entry, stack, ticks, action })
}

fn size() -> impl Strategy<Value = u64> {
    prop_oneof![1 => Just(0), 8 => 1..300u64, 2 => 1..100_000u64]
}

fn which() -> impl Strategy<Value = Which> {
    prop_oneof![
        14 => any::<Pick>().prop_map(Which::Live),
        1 => any::<Pick>().prop_map(Which::Any),
        1 => Just(Which::Unknown),
        1 => Just(Which::Dead),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    let how = prop_oneof![3 => Just(Returned::End), 2 => Just(Returned::Failed), 1 => Just(Returned::Freed)];
    let back = (how, any::<Pick>(), size());
    let origin = prop_oneof![Just(Origin::Launch), Just(Origin::Attach)];
    let reason = prop_oneof![3 => any::<i32>().prop_map(EndReason::Exit), 1 => Just(EndReason::Detached)];
    prop_oneof![
        24 => size().prop_map(|size_bytes| Action::Alloc { size_bytes }),
        2 => Just(Action::AllocFailed),
        14 => which().prop_map(Action::Free),
        12 => which().prop_map(Action::ReallocBegin),
        12 => back.prop_map(|(how, depth, size_bytes)| Action::Return { how, depth, size_bytes }),
        2 => which().prop_map(Action::MissedFree),
        1 => origin.prop_map(|origin| Action::Launch { origin }),
        3 => any::<bool>().prop_map(|shares_heap| Action::Fork { shares_heap }),
        1 => Just(Action::Exec),
        1 => reason.prop_map(Action::End),
        1 => Just(Action::StartAgain),
        2 => Just(Action::NewThread),
        1 => Just(Action::ThreadEnd),
        1 => prop::array::uniform3(0..1000u64).prop_map(|counts| Action::Loss { counts }),
        1 => Just(Action::Marker),
        1 => Just(Action::Unknown),
    ]
}

/// Events, the rows they refer to, and what they mean.
#[derive(Debug, Default)]
pub(crate) struct History {
    pub(crate) rows: Rows,
    pub(crate) events: Vec<Event>,
    pub(crate) model: Model,
    births: u64,
    time_ns: u64,
}

impl History {
    pub(crate) fn of(steps: &[Step]) -> Self {
        let mut history = Self::default();
        for step in steps {
            history.time_ns += step.ticks * TICK_NS;
            history.step(step);
        }
        history.model.finish(&history.rows);
        history
    }

    fn step(&mut self, step: &Step) {
        let thread = self.thread(step);
        let process = self.rows.threads[thread.index()];
        let entry = EntryId(step.entry);
        let block = BlockId(self.births);
        let op = match step.action {
            Action::Alloc { size_bytes } => {
                self.births += 1;
                Op::Alloc { entry, block, size_bytes, alignment_bytes: 0, address: block.0 * 16, inside: None }
            }
            Action::AllocFailed => Op::AllocFailed { entry, size_bytes: u64::MAX },
            Action::Free(which) => Op::Free { entry, target: self.target(process, which) },
            Action::ReallocBegin(which) => {
                if self.model.calls.get(&thread).is_some_and(|calls| calls.len() >= MOST_OPEN_CALLS) {
                    return;
                }
                Op::ReallocBegin { entry, target: self.target(process, which), size_bytes: 1 }
            }
            Action::Return { how, depth, size_bytes } => return self.call_returns(step, how, depth, size_bytes),
            Action::MissedFree(which) => match self.target(process, which) {
                Target::Block(block) => Op::MissedFree { block },
                Target::Unknown { .. } | Target::Dead { .. } => return,
            },
            Action::Launch { origin } => {
                self.appear(ProcessRow { origin, parent: None, shares_heap: false }, step);
                return;
            }
            Action::Fork { shares_heap } => {
                self.appear(ProcessRow { origin: Origin::Fork, parent: Some(process), shares_heap }, step);
                return;
            }
            Action::Exec => {
                self.push(thread, StackId::EMPTY, Op::ProcessEnd { process, reason: EndReason::Exec });
                self.appear(ProcessRow { origin: Origin::Exec, parent: Some(process), shares_heap: false }, step);
                return;
            }
            Action::End(reason) => Op::ProcessEnd { process, reason },
            Action::StartAgain => Op::ProcessStart { process },
            Action::NewThread => {
                self.rows.threads.push(process);
                return;
            }
            Action::ThreadEnd => Op::ThreadEnd,
            Action::Loss { counts: [alloc_count, free_count, other_count] } => {
                Op::Loss { cpu: 1, first_ns: 0, last_ns: self.time_ns, alloc_count, free_count, other_count }
            }
            Action::Marker => Op::Marker { id: u32::MAX, kind: 0, value: 3 },
            Action::Unknown => Op::Unknown { code: 200 },
        };
        self.push(thread, StackId(step.stack), op);
    }

    /// A thread with an open call, or if it is an odd step any, returns from a realloc.
    fn call_returns(&mut self, step: &Step, how: Returned, depth: Pick, size_bytes: u64) {
        let open: Vec<_> = self.model.calls.iter().filter(|(_, calls)| !calls.is_empty()).collect();
        let (thread, entry) = if step.thread >= ODD {
            (self.thread(step), EntryId(step.entry))
        } else if open.is_empty() {
            return;
        } else {
            let (thread, calls) = open[usize::from(step.thread) % open.len()];
            // Nearly always the innermost.
            let depth = if depth.is_multiple_of(4) { usize::from(depth / 4) % calls.len() } else { 0 };
            (*thread, calls[calls.len() - 1 - depth].entry)
        };
        let op = match how {
            Returned::End => {
                self.births += 1;
                Op::ReallocEnd { entry, block: BlockId(self.births - 1), size_bytes, address: 16 }
            }
            Returned::Failed => Op::ReallocFailed { entry },
            Returned::Freed => Op::ReallocFreed { entry },
        };
        self.push(thread, StackId(step.stack), op);
    }

    fn push(&mut self, thread: ThreadId, stack: StackId, op: Op) {
        let sequence = Sequence(self.events.len() as u64);
        let event = Event { sequence, time_ns: self.time_ns, thread, stack, walk: Walk::NONE, op };
        self.model.event(&self.rows, &event);
        self.events.push(event);
    }

    /// A thread of a process that has not ended, or if the step is odd of any process.
    fn thread(&mut self, step: &Step) -> ThreadId {
        let alive = |process| step.thread >= ODD || !self.model.ended.contains(process);
        let threads: Vec<_> = (0..self.rows.threads.len()).filter(|at| alive(&self.rows.threads[*at])).collect();
        match threads.len() {
            0 => self.begin(ProcessRow { origin: Origin::Launch, parent: None, shares_heap: false }, true),
            count => ThreadId::from(threads[usize::from(step.thread) % count]),
        }
    }

    /// A process image and its first thread appear, unless there are enough. The start of some is lost.
    fn appear(&mut self, row: ProcessRow, step: &Step) {
        if self.rows.processes.len() < MOST_PROCESSES {
            self.begin(row, step.stack > 0);
        }
    }

    fn begin(&mut self, row: ProcessRow, announced: bool) -> ThreadId {
        let process = ProcessId::from(self.rows.processes.len());
        self.rows.processes.push(row);
        self.rows.threads.push(process);
        let thread = ThreadId::from(self.rows.threads.len() - 1);
        if announced {
            self.push(thread, StackId::EMPTY, Op::ProcessStart { process });
        }
        thread
    }

    fn target(&self, process: ProcessId, which: Which) -> Target {
        match which {
            Which::Live(pick) => {
                let heap = self.model.heap_of.get(&process).map(|heap| &self.model.heaps[*heap].live);
                let live: Vec<_> = heap.into_iter().flat_map(|live| live.keys()).collect();
                match live.len() {
                    0 => Target::Unknown { address: 32 },
                    count => Target::Block(*live[usize::from(pick) % count]),
                }
            }
            Which::Any(pick) if self.births > 0 => Target::Block(BlockId(u64::from(pick) % self.births)),
            Which::Any(_) | Which::Unknown => Target::Unknown { address: 48 },
            Which::Dead => Target::Dead { address: 64 },
        }
    }

    /// Writes the history as a trace of chunks this long.
    pub(crate) fn write(&self, path: &Path, chunk_events: usize) {
        let file = std::fs::File::create(path).unwrap();
        let options = WriterOptions { chunk_events, ..WriterOptions::default() };
        let header = Header { tick_ns: TICK_NS as u32, ..Header::default() };
        let mut writer = TraceWriter::create(file, path, &header, options).unwrap();
        let module = writer.module(Module::default());
        for row in &self.rows.processes {
            let ProcessRow { origin, parent, shares_heap } = *row;
            writer.process(Process { origin, parent, shares_heap, ..Process::default() });
        }
        for process in &self.rows.threads {
            writer.thread(Thread { process: *process, ..Thread::default() });
        }
        for layer in LAYERS {
            writer.domain(Domain { module, layer, ..Domain::default() });
        }
        for entry in 0..ENTRY_COUNT {
            let domain = DomainId(entry / ENTRIES_PER_DOMAIN);
            writer.entry(Entry { domain, symbol: format!("entry_{entry}"), kind: EntryKind::Realloc });
        }
        for address in 1..u64::from(STACK_COUNT) {
            let frame = writer.frame(Frame { module, address });
            writer.stack(StackId::EMPTY, frame);
        }
        for event in &self.events {
            writer.push(event.time_ns, event.thread, event.stack, event.walk, &event.op).unwrap();
        }
        writer.finish(CaptureStats::default(), Vec::new()).unwrap();
    }
}
