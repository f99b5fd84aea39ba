//! What any bytes must survive. Responsible for the rules that the fuzz target and the smoke test check: no panic, ids in
//! range, events in order, a salvaged file that holds the same; not for making the bytes.

use std::fs;
use std::path::Path;

use trace_format::{Event, Op, ReadError, StackId, Tables, Target, Trace, salvage, verify};

/// Reads `bytes` as a trace, from a file in `directory`. Whether they could be opened.
pub(crate) fn exercise(bytes: &[u8], directory: &Path) -> bool {
    let (input, output) = (directory.join("in.htape"), directory.join("out.htape"));
    fs::write(&input, bytes).expect("the directory is writable");
    let trace = match Trace::open(&input) {
        Ok(trace) => trace,
        Err(ReadError::Io { source, .. }) => panic!("damage is no I/O error: {source}"),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            return false;
        }
    };
    check_tables(&trace.tables);
    let events = events_of(&trace, 1);
    assert_eq!(events, events_of(&trace, 3), "decoders change nothing");
    check_events(&events, &trace.tables);
    if trace.completeness.complete && trace.problems().is_empty() {
        assert_eq!(events.len() as u64, trace.event_count);
    }
    let report = verify(&input).expect("what opens can be verified");
    assert_eq!(report.event_count, events.len() as u64);
    assert!(!report.to_string().is_empty());
    salvage(&input, &output).expect("what opens can be salvaged");
    let salvaged = Trace::open(&output).expect("a salvaged trace opens");
    let whole = trace.completeness.complete && trace.problems().is_empty();
    assert!(salvaged.completeness.has_tail);
    assert_eq!(salvaged.completeness.salvaged, !whole, "a whole trace stays one, no other becomes one");
    assert_eq!(events_of(&salvaged, 1), events, "salvage keeps events");
    assert_eq!(salvaged.tables, trace.tables, "salvage keeps tables");
    true
}

fn events_of(trace: &Trace, decoders: usize) -> Vec<Event> {
    let mut events = Vec::new();
    trace.for_each_chunk(decoders, |chunk| events.extend_from_slice(chunk)).expect("the file is still there");
    events
}

fn check_tables(tables: &Tables) {
    let modules = tables.modules.len();
    assert!(tables.frames.iter().all(|frame| frame.module.index() < modules));
    assert_eq!(tables.stacks[0].parent, StackId::EMPTY);
    for (id, node) in tables.stacks.iter().enumerate().skip(1) {
        assert!(node.parent.index() < id && node.frame.index() < tables.frames.len());
    }
    let processes = tables.processes.len();
    assert!(tables.processes.iter().all(|row| row.parent.is_none_or(|parent| parent.index() < processes)));
    assert!(tables.threads.iter().all(|row| row.process.index() < processes));
    assert!(tables.domains.iter().all(|row| row.module.index() < modules));
    assert!(tables.entries.iter().all(|row| row.domain.index() < tables.domains.len()));
    assert!(tables.probes.iter().all(|row| row.process.index() < processes && row.module.index() < modules));
    assert!(tables.nestings.iter().all(|row| row.outer.max(row.inner).index() < tables.domains.len()));
    assert!(tables.symbols.is_empty() || tables.symbols.len() == tables.frames.len());
}

fn check_events(events: &[Event], tables: &Tables) {
    assert!(events.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));
    let mut next_block = 0;
    for event in events {
        assert!(event.thread.index() < tables.threads.len() && event.stack.index() < tables.stacks.len());
        let entries = tables.entries.len();
        match event.op {
            Op::Alloc { entry, block, inside, .. } => {
                assert!(entry.index() < entries && block.0 >= next_block);
                assert!(inside.is_none_or(|domain| domain.index() < tables.domains.len()));
                next_block = block.0 + 1;
            }
            Op::ReallocEnd { entry, block, .. } => {
                assert!(entry.index() < entries && block.0 >= next_block);
                next_block = block.0 + 1;
            }
            Op::Free { entry, target } | Op::ReallocBegin { entry, target, .. } => {
                assert!(entry.index() < entries);
                // Births may be lost, so a block above the last birth seen is possible, but no block of the future is.
                assert!(!matches!(target, Target::Block(block) if block.0 == u64::MAX));
            }
            Op::AllocFailed { entry, .. } | Op::ReallocFailed { entry } | Op::ReallocFreed { entry } => {
                assert!(entry.index() < entries);
            }
            Op::ProcessStart { process } | Op::ProcessEnd { process, .. } => {
                assert!(process.index() < tables.processes.len());
            }
            Op::Marker { id, value, .. } => {
                let marker = tables.markers.get(id as usize);
                assert!(marker.is_some() || id == u32::MAX);
                let is_text = marker.is_some_and(|marker| marker.value == trace_format::MarkerValue::Text);
                assert!(!is_text || value == u64::MAX || value < tables.texts.len() as u64);
            }
            Op::MissedFree { .. } | Op::ThreadEnd | Op::Loss { .. } | Op::Unknown { .. } => {}
        }
    }
}
