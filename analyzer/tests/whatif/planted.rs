//! Traces written by hand, and plans for any trace. Responsible for histories whose scripts can be told beforehand.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use analyzer::Names;
use analyzer::arenas::{Arena, AtEnd, Nesting, Plan, Policy};
use tempfile::TempDir;
use trace_format::{
    BlockId, CaptureStats, Domain, EndReason, Entry, EntryId, EntryKind, Frame, FrameSymbols, Header, Marker,
    MarkerEnd, MarkerValue, Module, Op, Process, ProcessId, StackId, StackQuality, Symbol, Target, Thread, ThreadId,
    Trace, TraceWriter, Walk, WriterOptions,
};

const MALLOC: EntryId = EntryId(0);
const CALLOC: EntryId = EntryId(1);
const MEMALIGN: EntryId = EntryId(2);
const REALLOC: EntryId = EntryId(3);
const FREE: EntryId = EntryId(4);

/// A trace in a file.
pub(crate) struct Planted {
    pub(crate) path: PathBuf,
    _folder: TempDir,
}

/// A trace being written: a process with two threads, and another process.
struct Pen {
    writer: TraceWriter,
    thread: ThreadId,
    stack: StackId,
    walk: Walk,
    time_ns: u64,
}

impl Pen {
    fn push(&mut self, op: Op) {
        self.time_ns += 64;
        self.writer.push(self.time_ns, self.thread, self.stack, self.walk, &op).unwrap();
        // What comes next continues this stack, unless it says otherwise.
        self.walk.renewed = 0;
    }

    fn alloc_by(&mut self, entry: EntryId, size_bytes: u64, alignment_bytes: u64) -> BlockId {
        let block = self.writer.next_block();
        self.push(Op::Alloc {
            entry,
            block,
            size_bytes,
            alignment_bytes,
            address: 0x1000 * (block.0 + 1),
            inside: None,
        });
        block
    }

    fn alloc(&mut self, size_bytes: u64) -> BlockId {
        self.alloc_by(MALLOC, size_bytes, 0)
    }

    fn free(&mut self, block: BlockId) {
        self.push(Op::Free { entry: FREE, target: Target::Block(block) });
    }

    fn begin_realloc(&mut self, block: BlockId, size_bytes: u64) {
        self.push(Op::ReallocBegin { entry: REALLOC, target: Target::Block(block), size_bytes });
    }
}

impl Planted {
    /// Frames are called main, body, node.
    fn write(history: impl FnOnce(&mut Pen, [StackId; 3])) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("planted.htape");
        let file = std::fs::File::create(&path).unwrap();
        let header = Header { tick_ns: 64, ..Header::default() };
        let mut writer = TraceWriter::create(file, &path, &header, WriterOptions::default()).unwrap();
        let module = writer.module(Module::default());
        for pid in [10, 11] {
            writer.process(Process { pid, name: format!("process-{pid}"), ..Process::default() });
        }
        for (tid, process) in [(10, 0), (12, 0), (11, 1)] {
            writer.thread(Thread { tid, process: ProcessId(process), ..Thread::default() });
        }
        let domain = writer.domain(Domain { name: "libc.so.6".into(), module, layer: 0 });
        for (symbol, kind) in [
            ("malloc", EntryKind::Alloc),
            ("calloc", EntryKind::AllocZeroed),
            ("memalign", EntryKind::Alloc),
            ("realloc", EntryKind::Realloc),
            ("free", EntryKind::Free),
        ] {
            writer.entry(Entry { domain, symbol: symbol.into(), kind });
        }
        let frames = ["main", "body", "node"];
        let mut stacks = [StackId::EMPTY; 3];
        let mut symbols = Vec::new();
        for (at, name) in frames.iter().enumerate() {
            let frame = writer.frame(Frame { module, address: 0x100 * (at as u64 + 1) });
            stacks[at] = writer.stack(if at == 0 { StackId::EMPTY } else { stacks[at - 1] }, frame);
            let symbol = Symbol { name: (*name).into(), ..Symbol::default() };
            symbols.push(FrameSymbols { functions: vec![symbol] });
        }
        let walk = Walk { quality: StackQuality::Complete, renewed: 0, moved: false };
        let mut pen = Pen { writer, thread: ThreadId(0), stack: stacks[0], walk, time_ns: 0 };
        pen.push(Op::ProcessStart { process: ProcessId(0) });
        history(&mut pen, stacks);
        pen.push(Op::ProcessEnd { process: ProcessId(0), reason: EndReason::Exit(0) });
        pen.writer.finish(CaptureStats::default(), symbols).unwrap();
        Self { path, _folder: folder }
    }

    /// Every call there is, by two threads, with another process in between.
    pub(crate) fn calls() -> Self {
        Self::write(|pen, _| {
            let moved = pen.alloc(100);
            let zeroed = pen.alloc_by(CALLOC, 50, 0);
            let aligned = pen.alloc_by(MEMALIGN, 70, 64);
            pen.push(Op::AllocFailed { entry: MALLOC, size_bytes: 1 << 40 });
            pen.thread = ThreadId(2);
            pen.push(Op::ProcessStart { process: ProcessId(1) });
            let foreign = pen.alloc(999);
            pen.thread = ThreadId(0);
            pen.begin_realloc(moved, 200);
            let block = pen.writer.next_block();
            pen.push(Op::ReallocEnd { entry: REALLOC, block, size_bytes: 200, address: 0x50 });
            pen.thread = ThreadId(1);
            let large = pen.alloc(5_000_000_000);
            pen.free(zeroed);
            pen.alloc(1);
            pen.push(Op::Free { entry: FREE, target: Target::Unknown { address: 7 } });
            pen.push(Op::ThreadEnd);
            pen.thread = ThreadId(2);
            pen.free(foreign);
            pen.thread = ThreadId(0);
            pen.begin_realloc(block, 1 << 40);
            pen.push(Op::ReallocFailed { entry: REALLOC });
            pen.free(large);
            pen.begin_realloc(aligned, 0);
            pen.push(Op::ReallocFreed { entry: REALLOC });
        })
    }

    /// A phase of main's that two markers enclose, with a node in it.
    pub(crate) fn phase(name: &str) -> Self {
        Self::write(|pen, [main, _, node]| {
            let marker = pen.writer.marker(Marker {
                name: "own".into(),
                symbol: "heaptape:begin".into(),
                value: MarkerValue::Text,
                ends_by: MarkerEnd::Explicit,
            });
            let text = u64::from(pen.writer.text(name));
            pen.stack = main;
            pen.push(Op::Marker { id: marker, kind: 1, value: text });
            pen.stack = node;
            let inside = pen.alloc(100);
            pen.free(inside);
            (pen.stack, pen.walk) = (StackId::EMPTY, Walk::NONE);
            pen.push(Op::Marker { id: marker, kind: 2, value: text });
            (pen.stack, pen.walk) = (main, Walk { quality: StackQuality::Complete, renewed: 0, moved: false });
            pen.push(Op::AllocFailed { entry: MALLOC, size_bytes: 1 << 40 });
        })
    }

    /// A block of main's that lives all the while, and so many bodies that allocate nodes of these sizes and free them.
    pub(crate) fn bodies(count: usize, sizes: &[u64]) -> Self {
        Self::write(|pen, [main, _, node]| {
            pen.stack = main;
            let all_the_while = pen.alloc(10);
            for _ in 0..count {
                pen.stack = node;
                let nodes: Vec<BlockId> = sizes.iter().map(|size| pen.alloc(*size)).collect();
                for node in nodes {
                    pen.free(node);
                }
                // Back in main: that body has returned.
                pen.stack = main;
                pen.push(Op::AllocFailed { entry: MALLOC, size_bytes: 1 << 40 });
            }
            pen.free(all_the_while);
        })
    }
}

/// A plan that puts much of any trace into arenas, sound or not: for the most frequent allocating functions, the callers
/// three frames out are the scope.
pub(crate) fn anything(trace: &Trace, names: &Names, policy: Policy, at_end: AtEnd) -> Plan {
    const CALLERS: usize = 3;
    let tables = &trace.tables;
    let name = |stack: StackId| {
        let places = names.places(tables.stacks[stack.index()].frame);
        places.last().map(|place| names.place(*place).function.clone()).unwrap_or_default()
    };
    let mut keys: BTreeMap<String, BTreeSet<Vec<String>>> = BTreeMap::new();
    trace
        .for_each_chunk(1, |events| {
            for event in events.iter().filter(|event| matches!(event.op, Op::Alloc { .. })) {
                let mut path = Vec::new();
                let mut at = event.stack;
                while at != StackId::EMPTY {
                    path.push(name(at));
                    at = tables.stacks[at.index()].parent;
                }
                let wrappers = analyzer::wrappers::Wrappers::default();
                let leaf = path.iter().position(|name| !wrappers.contains(name)).unwrap_or(0);
                if let Some(scope) = path.get(leaf + CALLERS) {
                    keys.entry(scope.clone()).or_default().insert(path[leaf..=leaf + CALLERS].to_vec());
                }
            }
        })
        .unwrap();
    let arenas = keys.into_iter().map(|(scope, keys)| Arena {
        scope,
        nesting: Nesting::Innermost,
        at_end,
        keys: keys.into_iter().collect(),
    });
    Plan::new(policy, arenas.collect())
}
