//! Files of the future and files made to harm: unknown kinds, columns, operations and encodings, bombs and ids out of
//! range. The messages are built by hand from the schema, checksums and all.

mod sample;

use capnp::message::Builder;
use sample::{chunks_of, events_of, file_of, one_of_each, stream, write, write_unfinished};
use trace_format::{Event, Op, StackQuality, Trace, Walk, WriterOptions, verify};
use xxhash_rust::xxh3::xxh3_64;

#[path = "../src/generated/trace_capnp.rs"]
#[rustfmt::skip]
#[allow(unreachable_pub, dead_code, unused_qualifications, clippy::all, clippy::pedantic, clippy::allow_attributes_without_reason, reason = "generated")]
mod trace_capnp;
use trace_capnp as schema;

/// An envelope around a payload, with checksums that hold.
fn envelope(kind: u8, flags: u8, payload: &[u8], message_bytes: u32) -> Vec<u8> {
    let mut bytes = b"HTCK".to_vec();
    bytes.extend([kind, flags, 0, 0]);
    bytes.extend((payload.len() as u32).to_le_bytes());
    bytes.extend(message_bytes.to_le_bytes());
    bytes.extend(xxh3_64(payload).to_le_bytes());
    bytes.extend(xxh3_64(&bytes).to_le_bytes());
    bytes.extend(payload);
    bytes
}

fn pack(kind: u8, message: &Builder<capnp::message::HeapAllocator>) -> Vec<u8> {
    let message = capnp::serialize::write_message_to_words(message);
    envelope(kind, 0, &zstd::bulk::compress(&message, 3).unwrap(), message.len() as u32)
}

/// A file without a tail whose one chunk, after the tables of `sample::register`, is made by `build`.
fn with_chunk(build: impl FnOnce(schema::chunk::Builder<'_>)) -> Vec<u8> {
    let mut bytes = write_unfinished(&[], WriterOptions::default());
    let mut message = Builder::new_default();
    let mut chunk = message.init_root::<schema::chunk::Builder<'_>>();
    chunk.set_tick_ns(64);
    let mut rows = chunk.reborrow().init_dictionary();
    rows.set_first_module(2);
    rows.set_first_frame(10);
    rows.set_first_stack(11);
    rows.set_first_process(2);
    rows.set_first_thread(3);
    rows.set_first_domain(2);
    rows.set_first_entry(5);
    rows.set_first_probe(1);
    rows.set_first_marker(3);
    rows.set_first_text(2);
    build(chunk);
    bytes.extend(pack(2, &message));
    bytes
}

/// Columns by kind, encoding, bytes.
fn set_columns(chunk: &mut schema::chunk::Builder<'_>, columns: &[(u16, u16, &[u8])]) {
    let mut list = chunk.reborrow().init_columns(columns.len() as u32);
    for (index, &(kind, encoding, data)) in columns.iter().enumerate() {
        let mut column = list.reborrow().get(index as u32);
        column.set_kind(kind);
        column.set_encoding(encoding);
        column.set_data(data);
    }
}

fn open(bytes: &[u8]) -> (Trace, Vec<Event>, Vec<String>) {
    let (_directory, path) = file_of(bytes);
    let trace = Trace::open(&path).unwrap();
    let events = events_of(&trace, 1);
    let problems = trace.problems().into_iter().map(|problem| problem.what).collect();
    (trace, events, problems)
}

/// Two events: an operation of the future with operands of its own, then a free of an unknown address.
const FUTURE: [(u16, u16, &[u8]); 9] = [
    (schema::COLUMN_SHAPES, schema::ENCODING_VARINT, &[99, 0, 0, schema::OP_FREE, 3, 0]),
    (schema::COLUMN_SHAPE, schema::ENCODING_VARINT, &[0, 1]),
    (schema::COLUMN_THREAD, schema::ENCODING_RUNS, &[2, 2]),
    (schema::COLUMN_TIME, schema::ENCODING_VARINT, &[0, 2]),
    (schema::COLUMN_STACK, schema::ENCODING_VARINT, &[0, 20]),
    (schema::COLUMN_LINK, schema::ENCODING_VARINT, &[0]),
    (schema::COLUMN_ADDRESS, schema::ENCODING_VARINT, &[4]),
    (999, 77, &[1, 2, 3]),
    (1000, 1, &[200; 50]),
];

#[test]
fn unknown_columns_are_skipped_and_unknown_operations_hold_their_place() {
    let (_, events, problems) = open(&with_chunk(|mut chunk| {
        chunk.set_event_count(2);
        set_columns(&mut chunk, &FUTURE);
    }));
    assert_eq!(problems.len(), 1, "only the tail is missing: {problems:?}");
    assert_eq!(events[0].op, Op::Unknown { code: 99 });
    let address = 32;
    assert!(
        matches!(events[1].op, Op::Free { target: trace_format::Target::Unknown { address: a }, .. } if a == address)
    );
    assert_eq!((events[1].sequence.0, events[1].time_ns, events[1].thread.0, events[1].stack.0), (1, 64, 2, 10));
    assert!(events.iter().all(|event| event.walk == Walk::NONE), "without columns of walks there are none");
}

/// Both columns of walks by hand: quality 200 of the future twice; 3 renewed and moved, then 300 renewed.
#[test]
fn walks_read_as_the_schema_says_and_unknown_qualities_survive() {
    let changes = (schema::COLUMN_CHANGE, schema::ENCODING_VARINT, &[3 * 2 + 1, 0x80 | (600 % 128) as u8, 4][..]);
    let qualities = (schema::COLUMN_STACK_QUALITY, schema::ENCODING_RUNS, &[0x80 | (200 % 128) as u8, 1, 2][..]);
    let read = |columns: &[(u16, u16, &[u8])]| {
        let (_, events, problems) = open(&with_chunk(|mut chunk| {
            chunk.set_event_count(2);
            set_columns(&mut chunk, &[&FUTURE[..], columns].concat());
        }));
        assert_eq!(problems.len(), 1, "only the tail is missing: {problems:?}");
        [events[0].walk, events[1].walk]
    };
    let walks = |quality, renewed: [u32; 2], moved: [bool; 2]| {
        [0, 1].map(|index| Walk { quality, renewed: renewed[index], moved: moved[index] })
    };
    let future = StackQuality::Unknown(200);
    assert_eq!(read(&[changes, qualities]), walks(future, [3, 300], [true, false]));
    assert_eq!(read(&[qualities]), walks(future, [0, 0], [false, false]));
    assert_eq!(read(&[changes]), walks(StackQuality::NotTaken, [3, 300], [true, false]));
}

#[test]
fn columns_of_walks_are_there_only_where_they_say_something() {
    let kinds = |walk: Walk| {
        let mut events = stream(10, 11);
        for event in &mut events {
            event.walk = Walk::NONE;
        }
        events[7].walk = walk;
        let bytes = write_unfinished(&events, WriterOptions::default());
        let length = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
        let mut at = 16;
        while bytes[at + 4] != 2 {
            at += 32 + length(at + 8);
        }
        let message = zstd::bulk::decompress(&bytes[at + 32..at + 32 + length(at + 8)], length(at + 12)).unwrap();
        let message = capnp::serialize::read_message(&message[..], capnp::message::ReaderOptions::new()).unwrap();
        let columns = message.get_root::<schema::chunk::Reader<'_>>().unwrap().get_columns().unwrap();
        [schema::COLUMN_CHANGE, schema::COLUMN_STACK_QUALITY].map(|kind| columns.iter().any(|c| c.get_kind() == kind))
    };
    assert_eq!(kinds(Walk::NONE), [false, false]);
    assert_eq!(kinds(Walk { quality: StackQuality::Complete, ..Walk::NONE }), [false, true]);
    assert_eq!(kinds(Walk { moved: true, ..Walk::NONE }), [true, false]);
    assert_eq!(kinds(Walk { renewed: 1, ..Walk::NONE }), [true, false]);
}

#[test]
fn unknown_kinds_of_envelopes_are_skipped_wherever_they_stand() {
    let events = stream(100, 8);
    let (bytes, _) = write(&events, chunks_of(50));
    let unfinished = write_unfinished(&events, chunks_of(50));
    let future = envelope(77, 9, b"not even compressed", 5);
    let length = |at: usize| 32 + u32::from_le_bytes(bytes[at + 8..at + 12].try_into().unwrap()) as usize;
    let first_chunk = 16 + length(16);
    for at in [16, first_chunk, first_chunk + length(first_chunk)] {
        let mut with = unfinished.clone();
        with.splice(at..at, future.iter().copied());
        let (_, read, problems) = open(&with);
        assert_eq!((read, problems.len()), (events.clone(), 1));
    }
}

#[test]
fn a_known_envelope_packed_in_an_unknown_way_is_a_problem_with_its_offset() {
    let events = stream(10, 9);
    let mut bytes = write_unfinished(&events, WriterOptions::default());
    let offset = bytes.len() as u64;
    bytes.extend(envelope(2, 1, b"?", 8));
    let (trace, read, problems) = open(&bytes);
    assert_eq!(read, events);
    assert!(problems.iter().any(|what| what.contains("newer heaptape")), "{problems:?}");
    assert!(trace.completeness.problems.iter().any(|problem| problem.offset == offset));
}

#[test]
fn bombs_are_refused_before_they_are_uncompressed() {
    let events = stream(10, 10);
    let sound = write_unfinished(&events, WriterOptions::default());
    let zeros = zstd::bulk::compress(&vec![0; 100 << 20], 3).unwrap();
    for (message_bytes, expected) in [
        (u32::MAX, "the format allows"),
        (100 << 20, "the format allows"),
        ((64 << 20) + 8, "the format allows"),
        (64 << 20, "cannot be uncompressed"),
        (80, "cannot be uncompressed"),
        (0, "cannot be uncompressed"),
        (7, "multiples of 8"),
    ] {
        for kind in [2, 4, 5] {
            let mut bytes = sound.clone();
            bytes.extend(envelope(kind, 0, &zeros, message_bytes));
            let (_, read, problems) = open(&bytes);
            assert_eq!(read, events);
            assert!(problems.iter().any(|what| what.contains(expected)), "{message_bytes}: {problems:?}");
        }
    }
}

#[test]
fn a_payload_shorter_than_it_says_is_a_problem() {
    let mut bytes = write_unfinished(&[], WriterOptions::default());
    bytes.extend(envelope(2, 0, &zstd::bulk::compress(&[0; 64], 3).unwrap(), 128));
    let (_, _, problems) = open(&bytes);
    assert!(problems.iter().any(|what| what.contains("uncompresses to 64 bytes")), "{problems:?}");
}

/// Each breaks one rule of a chunk; the sound chunk before stays readable.
#[test]
fn chunks_that_break_a_rule_are_left_out_and_explained() {
    type Build = fn(&mut schema::chunk::Builder<'_>);
    fn with_column(chunk: &mut schema::chunk::Builder<'_>, kind: u16, data: &[u8]) {
        let mut columns = FUTURE.to_vec();
        columns.iter_mut().find(|(k, _, _)| *k == kind).unwrap().2 = data;
        set_columns(chunk, &columns);
    }
    fn with_more(chunk: &mut schema::chunk::Builder<'_>, kind: u16, encoding: u16, data: &[u8]) {
        set_columns(chunk, &[&FUTURE[..], &[(kind, encoding, data)]].concat());
    }
    /// A marker event with these operands instead of the first event.
    fn with_marker(chunk: &mut schema::chunk::Builder<'_>, operands: &[u8]) {
        let mut columns = FUTURE.to_vec();
        columns[0].2 = &[schema::OP_MARKER, 0, 0, schema::OP_FREE, 3, 0];
        columns.push((schema::COLUMN_EXTRA, schema::ENCODING_VARINT, operands));
        set_columns(chunk, &columns);
    }
    let cases: [(&str, Build); 28] = [
        ("thread 3 of 3", |chunk| with_column(chunk, schema::COLUMN_THREAD, &[3, 2])),
        ("stack 11 of 11", |chunk| with_column(chunk, schema::COLUMN_STACK, &[0, 22])),
        ("entry point 5 of 5", |chunk| with_column(chunk, schema::COLUMN_SHAPES, &[99, 0, 0, schema::OP_FREE, 5, 0])),
        ("domain 2 of 2", |chunk| with_column(chunk, schema::COLUMN_SHAPES, &[schema::OP_ALLOC, 0, 3, 4, 0, 0])),
        ("shape 7 of 2", |chunk| with_column(chunk, schema::COLUMN_SHAPE, &[7, 0])),
        ("above 255", |chunk| with_column(chunk, schema::COLUMN_SHAPES, &[0x80, 2, 0, 0])),
        ("column of shapes ends too early", |chunk| with_column(chunk, schema::COLUMN_SHAPES, &[99, 0])),
        ("column of times ends too early", |chunk| with_column(chunk, schema::COLUMN_TIME, &[0])),
        ("column of links ends too early", |chunk| with_column(chunk, schema::COLUMN_LINK, &[])),
        ("born 1 births ago", |chunk| with_column(chunk, schema::COLUMN_LINK, &[2])),
        ("above 64 bits", |chunk| with_column(chunk, schema::COLUMN_ADDRESS, &[0xff; 11])),
        ("a run in it has length 0", |chunk| with_column(chunk, schema::COLUMN_THREAD, &[2, 0])),
        ("process 2 of 2", |chunk| {
            let mut columns = FUTURE.to_vec();
            columns[0].2 = &[99, 0, 0, schema::OP_PROCESS_START, 0, 0];
            columns.push((schema::COLUMN_EXTRA, schema::ENCODING_VARINT, &[2]));
            set_columns(chunk, &columns);
        }),
        ("marker 3 of 3", |chunk| with_marker(chunk, &[3, 1, 0])),
        ("text 2 of 2", |chunk| with_marker(chunk, &[2, 1, 2])),
        ("kind is above 255", |chunk| with_marker(chunk, &[0, 0x80, 2, 0])),
        ("column of changes ends too early", |chunk| {
            with_more(chunk, schema::COLUMN_CHANGE, schema::ENCODING_VARINT, &[1]);
        }),
        ("4294967296 frames of a stack are renewed", |chunk| {
            with_more(chunk, schema::COLUMN_CHANGE, schema::ENCODING_VARINT, &[0, 0x80, 0x80, 0x80, 0x80, 0x20]);
        }),
        ("column of stack qualities ends too early", |chunk| {
            with_more(chunk, schema::COLUMN_STACK_QUALITY, schema::ENCODING_RUNS, &[0, 1]);
        }),
        ("quality 256, above 255", |chunk| {
            with_more(chunk, schema::COLUMN_STACK_QUALITY, schema::ENCODING_RUNS, &[0x80, 2, 2]);
        }),
        ("has encoding 1", |chunk| {
            with_more(chunk, schema::COLUMN_STACK_QUALITY, schema::ENCODING_VARINT, &[0, 0]);
        }),
        ("has encoding 55", |chunk| {
            let mut columns = FUTURE.to_vec();
            columns[3].1 = 55;
            set_columns(chunk, &columns);
        }),
        ("0 births where it says 1", |chunk| chunk.set_block_count(1)),
        ("column of events ends too early", |chunk| chunk.set_event_count(3)),
        ("holds 4000000000 events", |chunk| chunk.set_event_count(4_000_000_000)),
        ("more births than events", |chunk| chunk.set_block_count(3)),
        ("every 0 ns", |chunk| chunk.set_tick_ns(0)),
        ("beyond 64 bits", |chunk| chunk.set_first_sequence(u64::MAX)),
    ];
    for (expected, build) in cases {
        let bytes = with_chunk(|mut chunk| {
            chunk.set_event_count(2);
            set_columns(&mut chunk, &FUTURE);
            build(&mut chunk);
        });
        let (trace, events, problems) = open(&bytes);
        assert_eq!(events, [], "{expected}");
        assert!(problems.iter().any(|what| what.contains(expected)), "{expected}: {problems:?}");
        let (_directory, path) = file_of(&bytes);
        let report = verify(path).unwrap();
        assert_eq!((report.event_count, report.complete), (0, false));
        assert_eq!(report.missing_event_count, trace.event_count);
    }
}

#[test]
fn rows_that_break_a_rule_are_refused_whole() {
    type Build = fn(&mut schema::dictionary::Builder<'_>);
    let cases: [(&str, Build); 15] = [
        ("begin at 0, where there are 2", |rows| rows.set_first_module(0)),
        ("at most 4194304 lost rows", |rows| rows.set_first_stack(u32::MAX - 9)),
        ("at most 4194304 lost rows", |rows| rows.set_first_thread(5_000_000)),
        ("stack parents ends too early", |rows| rows.set_stack_count(u32::MAX)),
        ("beyond 32 bits", |rows| {
            rows.set_first_frame(u32::MAX);
        }),
        ("no earlier stack", |rows| {
            rows.set_stack_count(1);
            rows.set_stack_parents(&[12]);
        }),
        ("frame 10 of 10", |rows| {
            rows.set_stack_count(1);
            rows.set_stack_parents(&[1]);
            rows.set_stack_frames(&[0]);
        }),
        ("module 2 of 2", |rows| {
            rows.set_frame_count(1);
            rows.set_frame_modules(&[2, 1]);
            rows.set_frame_addresses(&[0]);
        }),
        ("process 2 of 2", |rows| rows.reborrow().init_threads(1).get(0).set_process(2)),
        ("process 3 of 3", |rows| rows.reborrow().init_processes(1).get(0).set_parent(4)),
        ("domain 2 of 2", |rows| rows.reborrow().init_nestings(1).get(0).set_outer(2)),
        ("begin at 1, where there are 3", |rows| rows.set_first_marker(1)),
        ("begin at 1, where there are 2", |rows| rows.set_first_text(1)),
        ("UTF-8", |rows| rows.reborrow().init_texts(1).set(0, capnp::text::Reader(&[0xff]))),
        ("UTF-8", |rows| {
            let mut modules = rows.reborrow().init_modules(1);
            modules.reborrow().get(0).set_path(capnp::text::Reader(&[0xff]));
        }),
    ];
    let sound = open(&write_unfinished(&[], WriterOptions::default())).0.tables;
    for (expected, build) in cases {
        let (trace, events, problems) = open(&with_chunk(|chunk| build(&mut chunk.get_dictionary().unwrap())));
        assert!(problems.iter().any(|what| what.contains(expected)), "{expected}: {problems:?}");
        assert_eq!((trace.tables, events), (sound.clone(), vec![]), "{expected}");
    }
}

#[test]
fn a_tail_that_lies_falls_back_to_the_chunks() {
    let events = one_of_each();
    let unfinished = write_unfinished(&events, chunks_of(5));
    let sound = open(&unfinished).0.tables;
    // A tail that names no tables and no chunks.
    let mut message = Builder::new_default();
    message.init_root::<schema::tail::Builder<'_>>().set_sequence_end(events.len() as u64);
    let mut bytes = unfinished.clone();
    bytes.extend(pack(5, &message));
    let (trace, read, problems) = open(&bytes);
    assert_eq!((read, trace.tables), (events.clone(), sound.clone()), "{problems:?}");
    assert!(!trace.completeness.complete);
    // A tail with an index full of nonsense and tables that are damaged.
    let mut message = Builder::new_default();
    let mut tail = message.init_root::<schema::tail::Builder<'_>>();
    let mut chunks = tail.reborrow().init_chunks(3);
    for index in 0..3 {
        let mut chunk = chunks.reborrow().get(index);
        chunk.set_offset(u64::MAX - u64::from(index));
        chunk.set_event_count(u32::MAX);
    }
    tail.set_sequence_end(u64::MAX);
    let mut bytes = unfinished;
    bytes.extend(envelope(3, 0, b"no tables", 80));
    bytes.extend(pack(5, &message));
    let (trace, read, _) = open(&bytes);
    assert_eq!((read, trace.tables), (events, sound));
}

#[test]
fn a_tail_may_not_name_more_chunks_than_fit_the_file() {
    let mut bytes = write_unfinished(&[], WriterOptions::default());
    let mut message = Builder::new_default();
    message.init_root::<schema::tail::Builder<'_>>().init_chunks(100_000);
    bytes.extend(pack(5, &message));
    let (_, _, problems) = open(&bytes);
    assert!(problems.iter().any(|what| what.contains("100000 chunks")), "{problems:?}");
}

#[test]
fn symbols_may_not_multiply() {
    // One string of a million bytes, named by two million functions.
    let (text, functions) = (vec![b'x'; 1 << 20], 2 << 20);
    let mut bytes = write_unfinished(&[], WriterOptions::default());
    let mut message = Builder::new_default();
    let mut symbols = message.init_root::<schema::symbols::Builder<'_>>();
    symbols.set_frame_count(1);
    symbols.set_string_lengths(&[0x80, 0x80, 0x40]);
    symbols.set_string_bytes(&text);
    symbols.set_function_counts(&[0x80, 0x80, 0x80, 1]);
    let ones = vec![1; functions];
    symbols.set_names(&ones);
    symbols.set_linkage_names(&ones);
    symbols.set_files(&ones);
    symbols.set_lines(&ones);
    bytes.extend(pack(4, &message));
    let (_, _, problems) = open(&bytes);
    assert!(problems.iter().any(|what| what.contains("more memory")), "{problems:?}");
}
