//! What is written is what is read. The oracle is the list of events and the tables that were handed to the writer.

mod sample;

use std::path::Path;

use proptest::prelude::*;
use sample::{
    Memory, chunks_of, events_of, file_of, one_of_each, push_all, register, stream, summaries, write, write_unfinished,
};
use trace_format::{
    BlockId, CaptureStats, Domain, DomainId, EndReason, EntryId, Event, FrameSymbols, Module, Nesting, Op, ProcessId,
    Sequence, StackId, StackQuality, Target, ThreadId, Trace, TraceWriter, Walk, WriteError, WriterOptions,
};

#[test]
fn every_kind_of_event_and_every_table_survives() {
    let events = one_of_each();
    let (bytes, written) = write(&events, WriterOptions::default());
    let (_directory, path) = file_of(&bytes);
    let trace = Trace::open(&path).unwrap();
    assert_eq!(events_of(&trace, 0), events);
    assert_eq!(trace.header, sample::header());
    let (alloc_stacks, free_stacks) = summaries(&trace.tables, &events);
    assert_eq!(trace.stats, Some(trace_format::CaptureStats { alloc_stacks, free_stacks, ..sample::stats() }));
    assert!(trace.completeness.complete, "{:?}", trace.problems());
    assert_eq!((trace.event_count, trace.file_bytes), (events.len() as u64, bytes.len() as u64));
    assert_eq!(written.chunk_count, 1);

    let mut writer =
        TraceWriter::create(std::io::sink(), Path::new("nowhere"), &sample::header(), WriterOptions::default())
            .unwrap();
    register(&mut writer);
    let mut tables = writer.tables().clone();
    tables.symbols = sample::symbols();
    tables.symbols.resize(tables.frames.len(), FrameSymbols::default());
    assert_eq!(trace.tables, tables);
}

/// More nestings than fit one message, each set twice: a look at all of them for each would take hours.
#[test]
fn nestings_of_very_many_domains_survive() {
    const DOMAIN_COUNT: u32 = 1300;
    let memory = Memory::default();
    let mut writer =
        TraceWriter::create(memory.clone(), Path::new("memory"), &sample::header(), WriterOptions::default()).unwrap();
    let module = writer.module(Module::default());
    let domains: Vec<_> =
        (0..DOMAIN_COUNT).map(|number| writer.domain(Domain { name: number.to_string(), module, layer: 0 })).collect();
    for count in [1, 2] {
        for (outer, inner) in domains.iter().flat_map(|outer| domains.iter().map(move |inner| (*outer, *inner))) {
            writer.nesting(Nesting { outer, inner, count, bytes: 8, outer_count: 3, outer_bytes: 24 });
        }
    }
    let expected = writer.tables().nestings.clone();
    assert_eq!(expected.len(), domains.len() * domains.len());
    writer.finish(CaptureStats::default(), Vec::new()).unwrap();
    let (_directory, path) = file_of(&memory.bytes());
    let trace = Trace::open(&path).unwrap();
    assert!(trace.completeness.complete, "{:?}", trace.problems());
    assert!(trace.tables.nestings == expected && expected.iter().all(|nesting| nesting.count == 2));
}

#[test]
fn without_a_tail_the_chunks_give_the_same_tables() {
    let events = one_of_each();
    let (_directory, path) = file_of(&write_unfinished(&events, chunks_of(4)));
    let unfinished = Trace::open(&path).unwrap();
    let (_directory, path) = file_of(&write(&events, chunks_of(4)).0);
    let mut whole = Trace::open(&path).unwrap();
    whole.tables.symbols.clear();
    assert_eq!(unfinished.tables, whole.tables);
    assert_eq!(unfinished.header, whole.header);
    assert_eq!(events_of(&unfinished, 1), events);
    assert_eq!(unfinished.stats, None);
    assert!(!unfinished.completeness.complete && !unfinished.completeness.has_tail);
    assert!(whole.completeness.complete && whole.completeness.has_tail);
}

#[test]
fn chunk_size_and_number_of_decoders_change_nothing() {
    let events = stream(1000, 1);
    for chunk_events in [1, 7, 999, 1000, 1001, 65_536] {
        let (bytes, written) = write(&events, chunks_of(chunk_events));
        assert_eq!(written.chunk_count, events.len().div_ceil(chunk_events) as u64);
        let (_directory, path) = file_of(&bytes);
        let trace = Trace::open(&path).unwrap();
        for decoders in [0, 1, 2, 5] {
            assert_eq!(events_of(&trace, decoders), events, "{chunk_events} events per chunk, {decoders} decoders");
        }
    }
}

#[test]
fn rows_registered_between_events_are_there_when_the_chunk_is_read() {
    let memory = sample::Memory::default();
    let mut writer =
        TraceWriter::create(memory.clone(), Path::new("memory"), &sample::header(), chunks_of(10)).unwrap();
    register(&mut writer);
    let mut stacks = Vec::new();
    for index in 0..100u64 {
        let frame = writer.frame(trace_format::Frame { module: trace_format::ModuleId(0), address: index / 2 });
        let stack = writer.stack(StackId::EMPTY, frame);
        stacks.push(stack);
        writer.push(index, ThreadId(0), stack, Walk::NONE, &Op::ThreadEnd).unwrap();
        if index % 30 == 29 {
            writer.flush().unwrap();
        }
    }
    assert_eq!(stacks[0], stacks[1], "equal stacks have one id");
    assert_ne!(stacks[1], stacks[2]);
    let tables = writer.tables().clone();
    drop(writer);
    let (_directory, path) = file_of(&memory.bytes());
    let trace = Trace::open(path).unwrap();
    assert_eq!(trace.tables, tables);
    let read: Vec<StackId> = events_of(&trace, 1).iter().map(|event| event.stack).collect();
    assert_eq!(read, stacks);
}

#[test]
fn without_addresses_blocks_lie_at_0_and_the_header_says_so() {
    let events = one_of_each();
    let (bytes, _) = write(&events, WriterOptions { addresses: false, ..chunks_of(5) });
    let (_directory, path) = file_of(&bytes);
    let trace = Trace::open(path).unwrap();
    assert!(trace.header.options.contains(&"addresses=false".to_owned()));
    let mut expected = events;
    for event in &mut expected {
        if let Op::Alloc { address, .. } | Op::ReallocEnd { address, .. } = &mut event.op {
            *address = 0;
        }
    }
    assert_eq!(events_of(&trace, 1), expected);
}

#[test]
fn flush_writes_what_is_there_and_nothing_twice() {
    let memory = sample::Memory::default();
    let mut writer =
        TraceWriter::create(memory.clone(), Path::new("memory"), &sample::header(), WriterOptions::default()).unwrap();
    register(&mut writer);
    let events = stream(50, 2);
    push_all(&mut writer, &events[..20]);
    writer.flush().unwrap();
    writer.flush().unwrap();
    push_all(&mut writer, &events[20..]);
    assert_eq!(writer.event_count(), 50);
    let written = writer.finish(sample::stats(), Vec::new()).unwrap();
    assert_eq!(written.chunk_count, 2);
    let (_directory, path) = file_of(&memory.bytes());
    assert_eq!(events_of(&Trace::open(path).unwrap(), 1), events);
}

#[test]
fn an_event_that_breaks_a_rule_is_refused_and_leaves_no_trace() {
    let memory = sample::Memory::default();
    let mut writer =
        TraceWriter::create(memory.clone(), Path::new("memory"), &sample::header(), WriterOptions::default()).unwrap();
    register(&mut writer);
    let alloc = |block| Op::Alloc {
        entry: EntryId(0),
        block: BlockId(block),
        size_bytes: 1,
        alignment_bytes: 0,
        address: 16,
        inside: None,
    };
    let free = |block| Op::Free { entry: EntryId(3), target: Target::Block(BlockId(block)) };
    writer.push(0, ThreadId(0), StackId(0), Walk::NONE, &alloc(0)).unwrap();
    let refused = [
        (ThreadId(3), StackId(0), Op::ThreadEnd),
        (ThreadId(0), StackId(11), Op::ThreadEnd),
        (ThreadId(0), StackId(0), alloc(0)),
        (ThreadId(0), StackId(0), alloc(2)),
        (ThreadId(0), StackId(0), free(1)),
        (ThreadId(0), StackId(0), Op::MissedFree { block: BlockId(1) }),
        (ThreadId(0), StackId(0), Op::ReallocFailed { entry: EntryId(5) }),
        (ThreadId(0), StackId(0), Op::ProcessStart { process: ProcessId(2) }),
        (ThreadId(0), StackId(0), Op::Unknown { code: 1 }),
        (ThreadId(0), StackId(0), Op::Marker { id: 3, kind: 0, value: 0 }),
        (ThreadId(0), StackId(0), Op::Marker { id: 2, kind: 0, value: 2 }),
    ];
    for (thread, stack, op) in refused {
        let error = writer.push(0, thread, stack, Walk::NONE, &op).unwrap_err();
        assert!(matches!(error, WriteError::Rule { sequence: 1, .. }), "{op:?}: {error}");
    }
    writer.push(0, ThreadId(0), StackId(0), Walk::NONE, &free(0)).unwrap();
    writer.finish(sample::stats(), Vec::new()).unwrap();
    let (_directory, path) = file_of(&memory.bytes());
    let ops: Vec<Op> = events_of(&Trace::open(path).unwrap(), 1).iter().map(|event| event.op).collect();
    assert_eq!(ops, [alloc(0), free(0)]);
}

#[test]
fn times_are_rounded_down_to_the_tick() {
    let mut events = stream(10, 3);
    for (index, event) in events.iter_mut().enumerate() {
        event.time_ns = index as u64 * 1001;
    }
    let (_directory, path) = file_of(&write(&events, chunks_of(4)).0);
    let times: Vec<u64> = events_of(&Trace::open(path).unwrap(), 1).iter().map(|event| event.time_ns).collect();
    assert_eq!(times, (0..10).map(|index| index * 1001 / 64 * 64).collect::<Vec<_>>());
}

#[test]
fn depths_are_those_of_the_tree() {
    let (_directory, path) = file_of(&write(&one_of_each(), WriterOptions::default()).0);
    let tables = Trace::open(path).unwrap().tables;
    let root_first = |stack: StackId| {
        let mut nodes = vec![stack];
        while *nodes.last().unwrap() != StackId::EMPTY {
            nodes.push(tables.stacks[nodes.last().unwrap().index()].parent);
        }
        nodes.reverse();
        nodes
    };
    for one in 0..tables.stacks.len() as u32 {
        let path = root_first(StackId(one));
        assert_eq!(tables.stack_depth(StackId(one)) as usize, path.len() - 1);
        for other in 0..tables.stacks.len() as u32 {
            let common = path.iter().zip(root_first(StackId(other))).take_while(|(one, other)| **one == *other).count();
            assert_eq!(tables.shared_depth(StackId(one), StackId(other)) as usize, common - 1, "{one} and {other}");
        }
    }
}

#[test]
fn codes_and_names_of_qualities_are_stable() {
    let names = [
        "complete",
        "too-deep",
        "unreadable",
        "not-taken",
        "no-rule",
        "unknown-code",
        "unsupported",
        "foreign-probe",
        "no-room",
    ];
    for code in 0..=u8::MAX {
        let quality = StackQuality::from_code(code);
        assert_eq!(quality.code(), code);
        assert_eq!(quality.name(), names.get(usize::from(code)).copied().unwrap_or("unknown"));
        assert_eq!(quality.is_truncated(), code != 0 && code != 3);
    }
    assert_eq!(StackQuality::from_code(8), StackQuality::NoRoom);
    assert_eq!(StackQuality::from_code(9), StackQuality::Unknown(9));
}

/// What becomes an event once it is known which blocks were born before it.
#[derive(Debug, Clone)]
struct Seed {
    kind: u8,
    time_ticks: u64,
    thread: u32,
    stack: u32,
    entry: u32,
    numbers: [u64; 4],
}

/// Numbers of all magnitudes.
fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0..64u32).prop_map(|(number, shift)| number >> shift)
}

fn seed() -> impl Strategy<Value = Seed> {
    let numbers = [number(), number(), number(), number()];
    (0..24u8, number(), 0..3u32, 0..11u32, 0..5u32, numbers).prop_map(|(kind, time, thread, stack, entry, numbers)| {
        Seed { kind, time_ticks: time >> 6, thread, stack, entry, numbers }
    })
}

fn grow(seeds: &[Seed]) -> Vec<Event> {
    let mut births = 0;
    let mut events = Vec::new();
    for (index, seed) in seeds.iter().enumerate() {
        let [a, b, c, d] = seed.numbers;
        let entry = EntryId(seed.entry);
        let target = match a % 8 {
            0 => Target::Unknown { address: b },
            1 => Target::Dead { address: b },
            _ if births > 0 => Target::Block(BlockId(b % births)),
            _ => Target::Unknown { address: b },
        };
        let block = BlockId(births);
        let op = match seed.kind {
            0..=5 => Op::Alloc {
                entry,
                block,
                size_bytes: a,
                alignment_bytes: if c % 4 == 0 { c } else { 0 },
                address: b,
                inside: (d % 3 > 0).then_some(DomainId((d % 2) as u32)),
            },
            6..=10 => Op::Free { entry, target },
            11 | 12 => Op::ReallocBegin { entry, target, size_bytes: c % 3 },
            13 | 14 => Op::ReallocEnd { entry, block, size_bytes: c % 3, address: d },
            15 => Op::ReallocFailed { entry },
            16 => Op::ReallocFreed { entry },
            17 if births > 0 => Op::MissedFree { block: BlockId(a % births) },
            18 => Op::ProcessStart { process: ProcessId((a % 2) as u32) },
            19 => Op::ProcessEnd {
                process: ProcessId((a % 2) as u32),
                reason: match b % 3 {
                    0 => EndReason::Exit(c as i32),
                    1 => EndReason::Exec,
                    _ => EndReason::Detached,
                },
            },
            20 => Op::ThreadEnd,
            21 => Op::Loss { cpu: a as u32, first_ns: b, last_ns: c, alloc_count: d, free_count: a, other_count: b },
            22 => {
                let id = [0, 1, 2, u32::MAX][a as usize % 4];
                let value = if id == 2 { [0, 1, u64::MAX][c as usize % 3] } else { c };
                Op::Marker { id, kind: b as u8, value }
            }
            _ => Op::Unknown { code: (a % 240) as u8 + 16 },
        };
        if matches!(op, Op::Alloc { .. } | Op::ReallocEnd { .. }) {
            births += 1;
        }
        events.push(Event {
            sequence: Sequence(index as u64),
            time_ns: seed.time_ticks * 64,
            thread: ThreadId(seed.thread),
            stack: StackId(seed.stack),
            walk: Walk {
                quality: StackQuality::from_code((d >> 8) as u8 % 12),
                renewed: if d % 7 == 0 { (d >> 16) as u32 } else { 0 },
                moved: d % 2 == 0,
            },
            op,
        });
    }
    events
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn arbitrary_streams_survive(seeds in prop::collection::vec(seed(), 0..200), chunk_events in 1..60usize) {
        let events = grow(&seeds);
        let (_directory, path) = file_of(&write(&events, chunks_of(chunk_events)).0);
        let trace = Trace::open(&path).unwrap();
        prop_assert!(trace.completeness.complete);
        prop_assert_eq!(events_of(&trace, 2), events.clone());
        let (_directory, path) = file_of(&write_unfinished(&events, chunks_of(chunk_events)));
        prop_assert_eq!(events_of(&Trace::open(&path).unwrap(), 1), events);
    }
}
