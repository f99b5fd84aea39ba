//! Saving what is readable of a damaged or unfinished trace. Responsible for a whole file with the same events, ids and
//! tables; not for finding what is readable (see `reader`).

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use crate::error::{SalvageError, WriteError};
use crate::event::Event;
use crate::id::BlockId;
use crate::reader::{Problem, Trace};
use crate::table::CaptureStats;
use crate::writer::{TraceWriter, WITHOUT_ADDRESSES, WriterOptions};

/// What was saved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Salvaged {
    /// Events carried over.
    pub event_count: u64,
    /// Events known to be missing.
    pub missing_event_count: u64,
    /// What was wrong with the input.
    pub problems: Vec<Problem>,
    /// Size of the output.
    pub file_bytes: u64,
}

/// Writes a whole file with a tail from what is readable of `input`. Events keep their sequence and birth numbers, tables
/// their ids. Unless the input is whole,
/// `CaptureStats::end` of the output is `salvaged` and its warnings say what is missing. Columns, operands and
/// tables that this version does not know are left behind.
///
/// # Errors
/// The input cannot be read, the output cannot be written, or they are the same file.
pub fn salvage(input: impl AsRef<Path>, output: impl AsRef<Path>) -> Result<Salvaged, SalvageError> {
    salvage_into(input.as_ref(), output.as_ref(), |path| File::create(path))
}

/// As [`salvage`], with a file of the caller's making: `create` makes or truncates it.
///
/// # Errors
/// As [`salvage`].
pub fn salvage_into(
    input: &Path,
    output: &Path,
    create: impl FnOnce(&Path) -> io::Result<File>,
) -> Result<Salvaged, SalvageError> {
    let mut trace = Trace::open(input)?;
    if is_same_file(input, output) {
        return Err(SalvageError::SameFile { path: output.to_owned() });
    }
    let file = create(output).map_err(|source| write_error(output, source))?;
    let synced = file.try_clone().map_err(|source| write_error(output, source))?;
    let addresses = !trace.header.options.iter().any(|option| option == WITHOUT_ADDRESSES);
    let options = WriterOptions { addresses, ..WriterOptions::default() };
    let mut writer = TraceWriter::create(file, output, &trace.header, options)?;
    let symbols = std::mem::take(&mut trace.tables.symbols);
    writer.take_over(trace.tables.clone());
    let event_count = copy_events(&trace, &mut writer)?;
    let problems = trace.problems();
    // Decoding may find what opening did not.
    if trace.completeness.complete && problems.is_empty() {
        writer.is_whole();
    }
    let missing_event_count = trace.completeness.missing_event_count + (trace.event_count - event_count);
    let stats = stats(&trace, &problems, missing_event_count);
    let written = writer.finish(stats, symbols)?;
    synced.sync_all().map_err(|source| write_error(output, source))?;
    Ok(Salvaged { event_count, missing_event_count, problems, file_bytes: written.file_bytes })
}

/// Whether two paths lead to one file, by links of either kind.
pub fn is_same_file(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| path.metadata().map(|metadata| (metadata.dev(), metadata.ino()));
    matches!((identity(one), identity(other)), (Ok(one), Ok(other)) if one == other)
}

/// Most problems repeated as warnings.
const MAX_WARNINGS: usize = 100;

fn copy_events(trace: &Trace, writer: &mut TraceWriter) -> Result<u64, SalvageError> {
    let (mut event_count, mut chunks) = (0, trace.chunks().iter());
    let mut result = Ok(());
    trace.for_each_chunk(2, |events| {
        if result.is_err() {
            return;
        }
        let first = events[0].sequence;
        let place = chunks.find(|chunk| chunk.event_count > 0 && chunk.first_sequence == first.0);
        let first_block = place.map_or(writer.next_block(), |chunk| BlockId(chunk.first_block));
        event_count += events.len() as u64;
        result = copy_chunk(events, first_block, writer);
    })?;
    result?;
    if let Some((sequence, block)) = trace.ends()
        && (sequence, block) > (writer.next_sequence(), writer.next_block())
        && block >= writer.next_block()
    {
        writer.skip_to(sequence, block)?;
    }
    Ok(event_count)
}

fn copy_chunk(events: &[Event], first_block: BlockId, writer: &mut TraceWriter) -> Result<(), WriteError> {
    let first = events[0].sequence;
    if (first, first_block) != (writer.next_sequence(), writer.next_block()) {
        writer.skip_to(first, first_block)?;
    }
    // Chunks of a sound trace tick as its header says; no time is rounded if these do not.
    let tick_ns = u64::from(writer.header().tick_ns);
    let on_tick = events.iter().all(|event| event.time_ns.is_multiple_of(tick_ns));
    writer.set_tick_ns(if on_tick { writer.header().tick_ns } else { 1 })?;
    for event in events {
        writer.push(event.time_ns, event.thread, event.stack, event.walk, &event.op)?;
    }
    Ok(())
}

fn stats(trace: &Trace, problems: &[Problem], missing_event_count: u64) -> CaptureStats {
    let mut stats = trace.stats.clone().unwrap_or_default();
    if trace.completeness.complete && problems.is_empty() {
        return stats;
    }
    "salvaged".clone_into(&mut stats.end);
    if trace.stats.is_none() {
        stats.warnings.push(
            "the recorder was ended before it wrote the tail: what came after the last event is not known, and the \
             recorder's own counts are missing and read as 0"
                .to_owned(),
        );
    }
    if missing_event_count > 0 {
        stats.warnings.push(format!("{missing_event_count} events are missing"));
    }
    for problem in problems.iter().take(MAX_WARNINGS) {
        let missing = problem.missing_event_count.map_or(String::new(), |count| format!(" ({count} events missing)"));
        stats.warnings.push(format!("salvaged: offset {}: {}{missing}", problem.offset, problem.what));
    }
    if problems.len() > MAX_WARNINGS {
        stats.warnings.push(format!("salvaged: {} more problems", problems.len() - MAX_WARNINGS));
    }
    stats
}

fn write_error(path: &Path, source: std::io::Error) -> WriteError {
    WriteError::Io { path: path.to_owned(), written_bytes: 0, source: Arc::new(source) }
}
