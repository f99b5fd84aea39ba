//! Made-up traces for tests. Responsible for building tables and event streams of every kind and for writing them; the
//! events they were made from are the oracle.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use trace_format::{
    BlockId, CaptureStats, Domain, DomainId, EndReason, Entry, EntryId, EntryKind, Event, Frame, FrameSymbols, Header,
    Marker, MarkerEnd, MarkerValue, Module, ModuleId, Nesting, Op, Origin, Probe, Process, ProcessId, ResultProbe,
    Sequence, StackId, StackQuality, StackSummary, Symbol, Tables, Target, Thread, ThreadId, Trace, TraceWriter, Walk,
    WriterOptions, Written,
};

/// A file in memory that outlives its writer.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory(Arc<Mutex<Vec<u8>>>);

impl Memory {
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Bytes as a file; it goes when the directory is dropped.
pub(crate) fn file_of(bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("trace.htape");
    std::fs::write(&path, bytes).unwrap();
    (directory, path)
}

pub(crate) fn header() -> Header {
    Header {
        recorder: "0.1.0".into(),
        kernel: "6.1.0-test".into(),
        machine: "x86_64".into(),
        cpu_count: 8,
        start_unix_ns: 1_700_000_000_000_000_000,
        start_monotonic_ns: 77,
        tick_ns: 64,
        command: vec!["cc1plus".into(), "größe.cpp".into()],
        attached_pid: 0,
        options: vec!["lossless=true".into()],
    }
}

pub(crate) fn stats() -> CaptureStats {
    CaptureStats {
        ring_failure_count: 1,
        missed_run_count: 2,
        call_begin_count: 3,
        call_return_count: 4,
        call_abandoned_count: 5,
        call_pending_count: 6,
        return_without_begin_count: 7,
        nested_call_count: 8,
        backpressure_stop_count: 9,
        backpressure_ns: 10,
        impossible_count: 11,
        recorder_cpu_ns: 12,
        target_cpu_ns: 13,
        program_ns: 14,
        program_run_count: 15,
        wall_ns: 16,
        end: "exited".into(),
        warnings: vec!["a warning".into(), String::new()],
        unwind_sample_count: 17,
        unwind_sample_ns: 18,
        unwind_table_count: 19,
        unwind_row_count: 20,
        unwind_kernel_bytes: 21,
        unwind_build_ns: u64::MAX,
        // The writer counts stacks itself: whatever stands here, it replaces.
        alloc_stacks: StackSummary { event_count: 1, depth_sum: 2, end_counts: vec![3] },
        free_stacks: StackSummary::default(),
    }
}

/// Registers two processes, three threads, two domains, five entry points, a probe, three markers, two texts, a nesting, ten
/// frames and ten stacks.
pub(crate) fn register(writer: &mut TraceWriter) {
    let program = writer.module(Module { path: "/usr/lib/cc1plus".into(), build_id: vec![1, 2, 3], size_bytes: 99 });
    let libc = writer.module(Module { path: "/lib/libc.so.6".into(), ..Module::default() });
    let parent = writer.process(Process {
        pid: 100,
        name: "g++".into(),
        command: vec!["g++".into(), "-c".into(), "a b.cpp".into()],
        ..Process::default()
    });
    let child = writer.process(Process {
        pid: 101,
        parent: Some(parent),
        origin: Origin::Fork,
        name: "cc1plus".into(),
        command: vec![],
        shares_heap: true,
    });
    writer.thread(Thread { tid: 100, process: parent, name: "main".into() });
    writer.thread(Thread { tid: 101, process: child, name: String::new() });
    writer.thread(Thread { tid: 102, process: child, name: "worker".into() });
    let outer = writer.domain(Domain { name: "libc.so.6".into(), module: libc, layer: 0 });
    let inner = writer.domain(Domain { name: "obstack".into(), module: program, layer: 1 });
    for (symbol, kind) in [
        ("malloc", EntryKind::Alloc),
        ("calloc", EntryKind::AllocZeroed),
        ("realloc", EntryKind::Realloc),
        ("free", EntryKind::Free),
    ] {
        writer.entry(Entry { domain: outer, symbol: symbol.into(), kind });
    }
    writer.entry(Entry { domain: inner, symbol: "obstack_alloc".into(), kind: EntryKind::Other(9) });
    writer.probe(Probe {
        process: parent,
        module: libc,
        symbol: "malloc".into(),
        function_offset: 0x1234,
        instruction_offset: 4,
        instruction: "push rbp".into(),
        emulated: true,
        result: ResultProbe::Return,
        reason: "first instruction that can be emulated".into(),
        placed: true,
    });
    writer.marker(Marker { name: "opt".into(), symbol: "_Z5beginv".into(), ..Marker::default() });
    writer.marker(Marker { value: MarkerValue::Number, ends_by: MarkerEnd::Activation, ..Marker::default() });
    writer.marker(Marker { name: "größe".into(), value: MarkerValue::Text, ..Marker::default() });
    assert_eq!(["parsing", "", "parsing"].map(|text| writer.text(text)), [0, 1, 0], "each text has one row");
    writer.nesting(Nesting { outer, inner, count: 3, bytes: 4, outer_count: 5, outer_bytes: 6 });
    let mut stack = StackId::EMPTY;
    for index in 0..10 {
        let frame = writer.frame(Frame { module: ModuleId(index % 2), address: 0x40_0000 - u64::from(index) * 77 });
        stack = writer.stack(if index == 5 { StackId::EMPTY } else { stack }, frame);
    }
}

pub(crate) fn symbols() -> Vec<FrameSymbols> {
    let symbol = |name: &str, file: &str, line| Symbol {
        name: name.into(),
        linkage_name: format!("_Z{name}"),
        file: file.into(),
        line,
    };
    vec![
        FrameSymbols { functions: vec![symbol("inlined", "a.h", 3), symbol("f", "a.cpp", 70_000)] },
        FrameSymbols::default(),
        FrameSymbols { functions: vec![symbol("f", "", 0)] },
    ]
}

/// A walk of some quality, also of one that is not known yet; most begin no activation anew.
fn walk(number: u64) -> Walk {
    Walk {
        quality: StackQuality::from_code([0, 3, 0, 8, 255, 1, 9, 0, 2, 4, 5, 6, 7][number as usize % 13]),
        renewed: if number % 17 == 5 { u32::MAX >> (number % 32) } else { 0 },
        moved: number.is_multiple_of(3),
    }
}

/// One event of every kind, and of every kind of target and reason; ends with 3 births.
pub(crate) fn one_of_each() -> Vec<Event> {
    let (malloc, calloc, realloc, free) = (EntryId(0), EntryId(1), EntryId(2), EntryId(3));
    let alloc = |block, alignment_bytes, inside| Op::Alloc {
        entry: if block == 0 { malloc } else { calloc },
        block: BlockId(block),
        size_bytes: 1 << (block * 20),
        alignment_bytes,
        address: 0x7fff_0000_1230 + block * 4096,
        inside,
    };
    let ops = [
        Op::ProcessStart { process: ProcessId(0) },
        alloc(0, 0, None),
        alloc(1, 4096, Some(DomainId(1))),
        Op::AllocFailed { entry: malloc, size_bytes: u64::MAX },
        Op::Free { entry: free, target: Target::Block(BlockId(0)) },
        Op::Free { entry: free, target: Target::Unknown { address: 0xdead_beef } },
        Op::Free { entry: free, target: Target::Dead { address: u64::MAX } },
        Op::ReallocBegin { entry: realloc, target: Target::Block(BlockId(1)), size_bytes: 500 },
        Op::ReallocEnd { entry: realloc, block: BlockId(2), size_bytes: 500, address: 16 },
        Op::ReallocBegin { entry: realloc, target: Target::Unknown { address: 3 }, size_bytes: 0 },
        Op::ReallocFreed { entry: realloc },
        Op::ReallocBegin { entry: realloc, target: Target::Dead { address: 0 }, size_bytes: 7 },
        Op::ReallocFailed { entry: realloc },
        Op::ReallocEnd { entry: realloc, block: BlockId(3), size_bytes: 8, address: 0 },
        Op::MissedFree { block: BlockId(2) },
        Op::ThreadEnd,
        Op::Loss { cpu: 7, first_ns: 5, last_ns: u64::MAX, alloc_count: 1, free_count: 2, other_count: 3 },
        Op::Marker { id: u32::MAX, kind: 2, value: 9 },
        Op::Unknown { code: 200 },
        Op::Unknown { code: 0 },
        Op::ProcessEnd { process: ProcessId(0), reason: EndReason::Exec },
        Op::ProcessEnd { process: ProcessId(1), reason: EndReason::Exit(-139) },
        Op::ProcessEnd { process: ProcessId(1), reason: EndReason::Detached },
    ];
    let event = |(index, op)| Event {
        sequence: Sequence(index as u64),
        time_ns: [640, 0, 64, 1 << 40][index % 4],
        thread: ThreadId(index as u32 % 3),
        stack: StackId(index as u32 % 11),
        walk: walk(index as u64),
        op,
    };
    ops.into_iter().enumerate().map(event).collect()
}

/// Pushes events and checks the numbers they are given.
pub(crate) fn push_all(writer: &mut TraceWriter, events: &[Event]) {
    for event in events {
        let sequence = writer.push(event.time_ns, event.thread, event.stack, event.walk, &event.op).unwrap();
        assert_eq!(sequence, event.sequence);
    }
}

/// A whole file of `events` over the tables of `register`.
pub(crate) fn write(events: &[Event], options: WriterOptions) -> (Vec<u8>, Written) {
    let memory = Memory::default();
    let mut writer = TraceWriter::create(memory.clone(), Path::new("memory"), &header(), options).unwrap();
    register(&mut writer);
    push_all(&mut writer, events);
    let written = writer.finish(stats(), symbols()).unwrap();
    let bytes = memory.bytes();
    assert_eq!(written.file_bytes, bytes.len() as u64);
    assert_eq!(written.event_count, events.len() as u64);
    (bytes, written)
}

/// A file without a tail, as a killed recorder leaves it.
pub(crate) fn write_unfinished(events: &[Event], options: WriterOptions) -> Vec<u8> {
    let memory = Memory::default();
    let mut writer = TraceWriter::create(memory.clone(), Path::new("memory"), &header(), options).unwrap();
    register(&mut writer);
    push_all(&mut writer, events);
    drop(writer);
    memory.bytes()
}

pub(crate) fn chunks_of(chunk_events: usize) -> WriterOptions {
    WriterOptions { chunk_events, ..WriterOptions::default() }
}

/// All readable events.
pub(crate) fn events_of(trace: &Trace, decoders: usize) -> Vec<Event> {
    let mut events = Vec::new();
    trace.for_each_chunk(decoders, |chunk| events.extend_from_slice(chunk)).unwrap();
    events
}

/// Counts stacks as the writer should: allocs and frees, by walking the tree.
pub(crate) fn summaries(tables: &Tables, events: &[Event]) -> (StackSummary, StackSummary) {
    let mut both = (StackSummary::default(), StackSummary::default());
    for event in events {
        let summary = match event.op {
            Op::Alloc { .. } | Op::AllocFailed { .. } | Op::ReallocEnd { .. } => &mut both.0,
            Op::Free { .. } | Op::ReallocBegin { .. } => &mut both.1,
            _ => continue,
        };
        summary.event_count += 1;
        summary.depth_sum += u64::from(tables.stack_depth(event.stack));
        let code = usize::from(event.walk.quality.code());
        summary.end_counts.resize(summary.end_counts.len().max(code + 1), 0);
        summary.end_counts[code] += 1;
    }
    both
}

/// `count` events like those of a compiler: mostly births and deaths of known blocks, new stacks all along.
pub(crate) fn stream(count: usize, seed: u64) -> Vec<Event> {
    let mut random = Random(seed);
    let (mut live, mut births, mut time_ns) = (Vec::new(), 0, 0);
    let mut events = Vec::new();
    for index in 0..count {
        time_ns += random.below(20) * 64;
        let op = if live.is_empty() || random.below(2) == 0 {
            live.push(BlockId(births));
            births += 1;
            Op::Alloc {
                entry: EntryId(random.below(2) as u32),
                block: BlockId(births - 1),
                size_bytes: 8 << random.below(8),
                alignment_bytes: 0,
                address: 0x5555_0000_0000 + random.below(1 << 20) * 16,
                inside: None,
            }
        } else {
            let block = live.swap_remove(random.below(live.len() as u64) as usize);
            Op::Free { entry: EntryId(3), target: Target::Block(block) }
        };
        let (thread, stack) = (ThreadId(random.below(3) as u32), StackId(random.below(11) as u32));
        events.push(Event {
            sequence: Sequence(index as u64),
            time_ns,
            thread,
            stack,
            walk: walk(index as u64 + seed),
            op,
        });
    }
    events
}

/// Numbers that are the same in every run (splitmix64).
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}
