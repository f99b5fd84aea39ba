//! Damaged files: truncated, flipped, cut apart. The rule: never a panic, never wrong events; what is missing is said.

mod sample;

use std::io::{self, Write};
use std::path::Path;

use sample::{Memory, chunks_of, events_of, file_of, one_of_each, stream, write, write_unfinished};
use trace_format::{Event, ReadError, Trace, TraceWriter, WriteError, WriterOptions, salvage, verify};

/// Where the envelopes of a file are: kind, start, end.
fn envelopes(bytes: &[u8]) -> Vec<(u8, usize, usize)> {
    let mut envelopes = Vec::new();
    let mut offset = 16;
    while bytes[offset..].starts_with(b"HTCK") {
        let length = u32::from_le_bytes(bytes[offset + 8..offset + 12].try_into().unwrap()) as usize;
        envelopes.push((bytes[offset + 4], offset, offset + 32 + length));
        offset += 32 + length;
    }
    assert_eq!(&bytes[offset..offset + 8], b"HTAPEEND");
    envelopes
}

const CHUNK: u8 = 2;
const TABLES: u8 = 3;
const TAIL: u8 = 5;

fn is_in_order(events: &[Event]) -> bool {
    events.windows(2).all(|pair| pair[0].sequence < pair[1].sequence)
}

#[test]
fn every_prefix_is_refused_or_gives_the_events_of_its_whole_chunks() {
    let events = one_of_each();
    let (bytes, _) = write(&events, chunks_of(5));
    let envelopes = envelopes(&bytes);
    let header_end = envelopes[0].2;
    let tail_end = envelopes.iter().find(|(kind, _, _)| *kind == TAIL).unwrap().2;
    let (_directory, path) = file_of(&bytes);
    for length in (0..bytes.len()).rev() {
        std::fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(length as u64).unwrap();
        let whole_chunks = envelopes.iter().filter(|(kind, _, end)| *kind == CHUNK && *end <= length).count();
        match Trace::open(&path) {
            Ok(trace) => {
                assert!(length >= header_end, "{length} bytes hold nothing");
                assert_eq!(events_of(&trace, 1), events[..events.len().min(whole_chunks * 5)], "{length} bytes");
                assert!(!trace.completeness.complete && !trace.problems().is_empty(), "{length} bytes");
                assert_eq!(trace.completeness.has_tail, length >= tail_end);
                assert_eq!(trace.header, sample::header());
            }
            Err(error) => {
                assert!(length < header_end, "{length} bytes: {error}");
                match error {
                    ReadError::Empty { .. } => assert_eq!(length, 0),
                    ReadError::CutInMark { file_bytes, .. } => assert_eq!(file_bytes, length as u64),
                    ReadError::NothingReadable { .. } => assert!(length >= 16),
                    other => panic!("{length} bytes: {other}"),
                }
            }
        }
    }
}

#[test]
fn no_flipped_byte_goes_unnoticed_or_gives_wrong_events() {
    let events = one_of_each();
    for bytes in [write(&events, chunks_of(8)).0, write_unfinished(&events, chunks_of(8))] {
        let (_directory, path) = file_of(&bytes);
        let sound = Trace::open(&path).unwrap();
        for offset in 0..bytes.len() {
            for mask in [0x01, 0x80, 0xff] {
                let mut flipped = bytes.clone();
                flipped[offset] ^= mask;
                std::fs::write(&path, &flipped).unwrap();
                let Ok(trace) = Trace::open(&path) else {
                    assert!(offset < 16, "a flip at {offset} makes the whole trace unreadable");
                    continue;
                };
                assert!(trace.problems().len() > sound.completeness.problems.len(), "offset {offset}");
                assert!(!trace.completeness.complete, "offset {offset}, mask {mask:#x}");
                let read = events_of(&trace, 1);
                assert!(is_in_order(&read) && read.iter().all(|event| events.contains(event)), "offset {offset}");
                let known = read.len() as u64 + trace.completeness.missing_event_count;
                // Without a tail, nobody knows how many events the last chunk had.
                let last = read.last().map_or(0, |event| event.sequence.0 + 1);
                let expected = if trace.completeness.has_tail { events.len() as u64 } else { last };
                assert_eq!(known, expected, "offset {offset}");
            }
        }
    }
}

#[test]
fn a_missing_chunk_shifts_nothing_and_is_counted() {
    let events = stream(1000, 4);
    for (has_tail, bytes) in
        [(true, write(&events, chunks_of(100)).0), (false, write_unfinished(&events, chunks_of(100)))]
    {
        let with_tail = write(&events, chunks_of(100)).0;
        let (_, start, end) = envelopes(&with_tail).into_iter().filter(|(kind, _, _)| *kind == CHUNK).nth(4).unwrap();
        let expected: Vec<Event> = [&events[..400], &events[500..]].concat();

        let mut cut_out = bytes.clone();
        cut_out.drain(start..end);
        let mut overwritten = bytes.clone();
        overwritten[start..end].fill(0x48);
        let mut cut_within = bytes.clone();
        cut_within.drain(start + 40..start + 50);
        let mut added = bytes.clone();
        added.splice(start + 40..start + 40, [0; 77]);
        for (what, damaged) in
            [("cut out", cut_out), ("overwritten", overwritten), ("cut within", cut_within), ("added", added)]
        {
            let (_directory, path) = file_of(&damaged);
            let trace = Trace::open(&path).unwrap();
            assert_eq!(events_of(&trace, 2), expected, "{what}, tail: {has_tail}");
            assert_eq!(trace.completeness.missing_event_count, 100, "{what}, tail: {has_tail}");
            let counted: u64 = trace.problems().iter().filter_map(|problem| problem.missing_event_count).sum();
            assert_eq!(counted, 100, "{what}: {:?}", trace.problems());
            let report = verify(&path).unwrap();
            assert_eq!((report.event_count, report.missing_event_count, report.complete), (900, 100, false));
            assert!(report.to_string().contains("100 events are missing"), "{report}");
        }
    }
}

/// Each of two gaps in a row has its own count.
#[test]
fn chunks_missing_around_one_that_is_there_are_counted_apart() {
    let events = stream(1000, 4);
    let mut bytes = write(&events, chunks_of(100)).0;
    let chunks: Vec<_> = envelopes(&bytes).into_iter().filter(|(kind, ..)| *kind == CHUNK).collect();
    for index in [6, 4, 3] {
        let (_, start, end) = chunks[index];
        bytes.drain(start..end);
    }
    let (_directory, path) = file_of(&bytes);
    let trace = Trace::open(&path).unwrap();
    assert_eq!(trace.completeness.missing_event_count, 300);
    let counted: Vec<_> = trace.problems().iter().filter_map(|problem| problem.missing_event_count).collect();
    assert_eq!(counted, [200, 100], "{:?}", trace.problems());
}

#[test]
fn lost_rows_become_placeholders_and_no_id_is_out_of_range() {
    let with_tail = write(&one_of_each(), chunks_of(4)).0;
    let (_, start, end) = envelopes(&with_tail).into_iter().find(|(kind, _, _)| *kind == TABLES).unwrap();
    for mut damaged in [with_tail.clone(), write_unfinished(&one_of_each(), chunks_of(4))] {
        damaged[end - 1] ^= 1;
        let (_directory, path) = file_of(&damaged);
        let trace = Trace::open(&path).unwrap();
        assert_eq!(events_of(&trace, 1), one_of_each());
        assert_eq!(trace.completeness.problems[0].offset, start as u64);
        let tables = &trace.tables;
        assert_eq!((tables.threads.len(), tables.stacks.len(), tables.entries.len()), (3, 11, 5));
        assert!(tables.stacks.iter().all(|node| node.frame.index() < tables.frames.len()));
        assert!(tables.frames.iter().all(|frame| frame.module.index() < tables.modules.len()));
        assert!(tables.threads.iter().all(|thread| thread.process.index() < tables.processes.len()));
        assert!(tables.entries.iter().all(|entry| entry.domain.index() < tables.domains.len()));
        assert!(tables.domains.iter().all(|domain| domain.module.index() < tables.modules.len()));
        assert_eq!(tables.threads[0].name, trace_format::LOST);
        assert_eq!((tables.markers.len(), tables.texts.len()), (3, 2));
        assert_eq!(
            (tables.markers[2].name.as_str(), tables.texts[1].as_str()),
            (trace_format::LOST, trace_format::LOST)
        );
        assert_eq!(tables.modules.last().unwrap().path, trace_format::LOST);
    }
}

#[test]
fn salvage_keeps_events_numbers_and_tables() {
    let events = stream(1000, 5);
    let unfinished = write_unfinished(&events, chunks_of(100));
    let mut gap = unfinished.clone();
    let with_tail = write(&events, chunks_of(100)).0;
    let chunks: Vec<_> = envelopes(&with_tail).into_iter().filter(|(kind, _, _)| *kind == CHUNK).collect();
    gap.drain(chunks[3].1..chunks[5].2);
    let mut first_lost = unfinished.clone();
    first_lost.drain(chunks[0].1..chunks[0].2);
    let mut last_lost = with_tail.clone();
    last_lost.drain(chunks[9].1..chunks[9].2);
    let mut header_lost = unfinished.clone();
    header_lost[20] ^= 1;
    for (what, bytes) in [
        ("unfinished", &unfinished),
        ("cut", &unfinished[..unfinished.len() - 7].to_vec()),
        ("gap", &gap),
        ("first chunk lost", &first_lost),
        ("last chunk lost", &last_lost),
        ("header lost", &header_lost),
        ("whole", &with_tail),
    ] {
        let (_directory, path) = file_of(bytes);
        let output = path.with_extension("saved");
        let before = Trace::open(&path).unwrap();
        let salvaged = salvage(&path, &output).unwrap();
        let after = Trace::open(&output).unwrap();
        assert_eq!(events_of(&after, 1), events_of(&before, 1), "{what}");
        assert_eq!(after.tables, before.tables, "{what}");
        assert_eq!(after.header, before.header, "{what}");
        // A whole trace stays one.
        let whole = what == "whole";
        assert!(after.completeness.has_tail, "{what}");
        assert_eq!((after.completeness.salvaged, after.completeness.complete), (!whole, whole), "{what}");
        assert_eq!(after.completeness.missing_event_count, before.completeness.missing_event_count, "{what}");
        assert_eq!(salvaged.missing_event_count, before.completeness.missing_event_count, "{what}");
        assert_eq!((salvaged.event_count, salvaged.file_bytes), (after.event_count, after.file_bytes), "{what}");
        let stats = after.stats.clone().unwrap();
        assert_eq!(stats.end == "salvaged", !whole, "{what}");
        let counted = (stats.alloc_stacks, stats.free_stacks);
        assert_eq!(counted, sample::summaries(&after.tables, &events_of(&after, 1)), "{what}");
        assert!(stats.warnings.iter().any(|w| w.contains("no readable tail")) || before.stats.is_some(), "{what}");
    }
}

#[test]
fn salvage_refuses_to_write_onto_its_input() {
    let bytes = write_unfinished(&stream(10, 6), WriterOptions::default());
    let (_directory, path) = file_of(&bytes);
    let [hard, soft] = ["hard.htape", "soft.htape"].map(|name| path.with_file_name(name));
    std::fs::hard_link(&path, &hard).unwrap();
    std::os::unix::fs::symlink(&path, &soft).unwrap();
    for output in [&path, &hard, &soft] {
        let error = salvage(&path, output).unwrap_err().to_string();
        assert!(error.contains("name another output file"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), bytes);
    }
}

#[test]
fn files_that_are_no_traces_are_refused_in_words() {
    let refusal = |bytes: &[u8]| {
        let (_directory, path) = file_of(bytes);
        Trace::open(&path).unwrap_err().to_string()
    };
    assert!(refusal(b"").contains("is empty"));
    assert!(refusal(b"\x7fELF and more than sixteen bytes").contains("is not a heaptape trace"));
    assert!(refusal(b"x").contains("is not a heaptape trace"));
    assert!(refusal(b"\x89HTAPE\r\n").contains("cut off at offset 8"));
    assert!(refusal(&vec![0; 1 << 20]).contains("is not a heaptape trace"));
    let mut newer = write(&[], WriterOptions::default()).0;
    newer[8] = 2;
    let checksum = xxhash_rust::xxh3::xxh3_64(&newer[..12]) as u32;
    newer[12..16].copy_from_slice(&checksum.to_le_bytes());
    let refusal = refusal(&newer);
    assert!(refusal.contains("version 2") && refusal.contains("install a newer heaptape"), "{refusal}");
    let directory = tempfile::tempdir().unwrap();
    assert!(matches!(Trace::open(directory.path()), Err(ReadError::NotAFile { .. })));
    assert!(matches!(Trace::open(directory.path().join("none")), Err(ReadError::Io { .. })));
}

#[test]
fn a_trace_without_events_is_whole() {
    let (_directory, path) = file_of(&write(&[], WriterOptions::default()).0);
    let trace = Trace::open(&path).unwrap();
    assert!(trace.completeness.complete && trace.event_count == 0);
    assert_eq!(events_of(&trace, 3), []);
    assert!(verify(&path).unwrap().to_string().contains("the trace is complete"));
}

/// A disk that is full after some bytes.
#[derive(Debug)]
struct Disk {
    file: Memory,
    left: usize,
}

impl Write for Disk {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.left == 0 {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        let written = self.file.write(&bytes[..bytes.len().min(self.left)])?;
        self.left -= written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_an_error_and_what_was_written_stays_readable() {
    let events = stream(1000, 7);
    let whole = write(&events, chunks_of(50)).0;
    let envelopes = envelopes(&whole);
    for left in (0..whole.len()).step_by(97) {
        let file = Memory::default();
        let disk = Disk { file: file.clone(), left };
        let is_full = |error: &WriteError| matches!(error, WriteError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull);
        let mut writer = match TraceWriter::create(disk, Path::new("disk"), &sample::header(), chunks_of(50)) {
            Ok(writer) => writer,
            Err(error) => {
                assert!(is_full(&error) && left < envelopes[0].2, "{error}");
                continue;
            }
        };
        sample::register(&mut writer);
        let mut failed = false;
        for event in &events {
            match writer.push(event.time_ns, event.thread, event.stack, event.walk, &event.op) {
                Ok(_) => assert!(!failed, "an error stays"),
                Err(error) => {
                    assert!(is_full(&error), "{error}");
                    failed = true;
                }
            }
        }
        let error = writer.finish(sample::stats(), sample::symbols()).unwrap_err();
        assert!(is_full(&error), "{error}");
        let WriteError::Io { written_bytes, .. } = error else { unreachable!() };
        assert!(written_bytes <= left as u64);
        let (_directory, path) = file_of(&file.bytes());
        let trace = Trace::open(&path).unwrap();
        let whole_chunks = envelopes.iter().filter(|(kind, _, end)| *kind == CHUNK && *end <= left).count();
        assert_eq!(events_of(&trace, 1), events[..whole_chunks * 50], "{left} bytes");
    }
}
