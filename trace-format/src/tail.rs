//! Header and tail as messages. Responsible for their Cap'n Proto forms; not for tables and symbols, which travel in
//! messages of their own.

use crate::damage::Damage;
use crate::generated::trace_capnp as schema;
use crate::rows::write_texts;
use crate::table::{CaptureStats, Header, StackSummary};

/// Where a chunk is and what it holds, as the tail's index says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChunkEntry {
    pub(crate) offset: u64,
    pub(crate) first_sequence: u64,
    pub(crate) event_count: u32,
    pub(crate) first_time_ns: u64,
    pub(crate) first_block: u64,
}

/// The tail.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Tail {
    pub(crate) header: Header,
    pub(crate) stats: CaptureStats,
    pub(crate) chunks: Vec<ChunkEntry>,
    pub(crate) event_count: u64,
    pub(crate) block_count: u64,
    pub(crate) table_offsets: Vec<u64>,
    pub(crate) symbol_offsets: Vec<u64>,
    pub(crate) salvaged: bool,
    pub(crate) sequence_end: u64,
}

pub(crate) fn write_header(header: &Header, mut to: schema::header::Builder<'_>) {
    to.set_recorder(&header.recorder);
    to.set_kernel(&header.kernel);
    to.set_machine(&header.machine);
    to.set_cpu_count(header.cpu_count);
    to.set_start_unix_ns(header.start_unix_ns);
    to.set_start_monotonic_ns(header.start_monotonic_ns);
    to.set_tick_ns(header.tick_ns);
    write_texts(to.reborrow().init_command(header.command.len() as u32), &header.command);
    to.set_attached_pid(header.attached_pid);
    write_texts(to.init_options(header.options.len() as u32), &header.options);
}

pub(crate) fn read_header(from: schema::header::Reader<'_>) -> Result<Header, Damage> {
    Ok(Header {
        recorder: from.get_recorder()?.to_str()?.to_owned(),
        kernel: from.get_kernel()?.to_str()?.to_owned(),
        machine: from.get_machine()?.to_str()?.to_owned(),
        cpu_count: from.get_cpu_count(),
        start_unix_ns: from.get_start_unix_ns(),
        start_monotonic_ns: from.get_start_monotonic_ns(),
        tick_ns: from.get_tick_ns(),
        command: read_texts(from.get_command()?)?,
        attached_pid: from.get_attached_pid(),
        options: read_texts(from.get_options()?)?,
    })
}

pub(crate) fn write_tail(tail: &Tail, mut to: schema::tail::Builder<'_>) {
    write_header(&tail.header, to.reborrow().init_header());
    write_stats(&tail.stats, to.reborrow().init_stats());
    let mut chunks = to.reborrow().init_chunks(tail.chunks.len() as u32);
    for (index, chunk) in tail.chunks.iter().enumerate() {
        let mut row = chunks.reborrow().get(index as u32);
        row.set_offset(chunk.offset);
        row.set_first_sequence(chunk.first_sequence);
        row.set_event_count(chunk.event_count);
        row.set_first_time_ns(chunk.first_time_ns);
        row.set_first_block(chunk.first_block);
    }
    to.set_event_count(tail.event_count);
    to.set_block_count(tail.block_count);
    to.reborrow().set_table_offsets(tail.table_offsets.as_slice()).expect("a list of numbers can be set");
    to.reborrow().set_symbol_offsets(tail.symbol_offsets.as_slice()).expect("a list of numbers can be set");
    to.set_salvaged(tail.salvaged);
    to.set_sequence_end(tail.sequence_end);
}

/// `chunk_limit`: how many chunks the file has room for.
pub(crate) fn read_tail(from: schema::tail::Reader<'_>, chunk_limit: u64) -> Result<Tail, Damage> {
    let mut chunks = Vec::new();
    let rows = from.get_chunks()?;
    if u64::from(rows.len()) > chunk_limit {
        return Err(Damage::new(format!("it names {} chunks, more than fit the file", rows.len())));
    }
    for row in rows {
        chunks.push(ChunkEntry {
            offset: row.get_offset(),
            first_sequence: row.get_first_sequence(),
            event_count: row.get_event_count(),
            first_time_ns: row.get_first_time_ns(),
            first_block: row.get_first_block(),
        });
    }
    Ok(Tail {
        header: read_header(from.get_header()?)?,
        stats: read_stats(from.get_stats()?)?,
        chunks,
        event_count: from.get_event_count(),
        block_count: from.get_block_count(),
        table_offsets: from.get_table_offsets()?.iter().collect(),
        symbol_offsets: from.get_symbol_offsets()?.iter().collect(),
        salvaged: from.get_salvaged(),
        sequence_end: from.get_sequence_end(),
    })
}

fn write_stats(stats: &CaptureStats, mut to: schema::stats::Builder<'_>) {
    to.set_ring_failure_count(stats.ring_failure_count);
    to.set_missed_run_count(stats.missed_run_count);
    to.set_call_begin_count(stats.call_begin_count);
    to.set_call_return_count(stats.call_return_count);
    to.set_call_abandoned_count(stats.call_abandoned_count);
    to.set_call_pending_count(stats.call_pending_count);
    to.set_return_without_begin_count(stats.return_without_begin_count);
    to.set_nested_call_count(stats.nested_call_count);
    to.set_backpressure_stop_count(stats.backpressure_stop_count);
    to.set_backpressure_ns(stats.backpressure_ns);
    to.set_impossible_count(stats.impossible_count);
    to.set_recorder_cpu_ns(stats.recorder_cpu_ns);
    to.set_target_cpu_ns(stats.target_cpu_ns);
    to.set_program_ns(stats.program_ns);
    to.set_program_run_count(stats.program_run_count);
    to.set_wall_ns(stats.wall_ns);
    to.set_end(&stats.end);
    write_texts(to.reborrow().init_warnings(stats.warnings.len() as u32), &stats.warnings);
    write_summary(&stats.alloc_stacks, to.reborrow().init_alloc_stacks());
    write_summary(&stats.free_stacks, to.reborrow().init_free_stacks());
    to.set_unwind_sample_count(stats.unwind_sample_count);
    to.set_unwind_sample_ns(stats.unwind_sample_ns);
    to.set_unwind_table_count(stats.unwind_table_count);
    to.set_unwind_row_count(stats.unwind_row_count);
    to.set_unwind_kernel_bytes(stats.unwind_kernel_bytes);
    to.set_unwind_build_ns(stats.unwind_build_ns);
}

fn write_summary(summary: &StackSummary, mut to: schema::stack_summary::Builder<'_>) {
    to.set_event_count(summary.event_count);
    to.set_depth_sum(summary.depth_sum);
    let mut counts = to.init_end_counts(summary.end_counts.len() as u32);
    for (index, count) in summary.end_counts.iter().enumerate() {
        counts.set(index as u32, *count);
    }
}

fn read_summary(from: schema::stack_summary::Reader<'_>) -> Result<StackSummary, Damage> {
    // One entry per code, and a code is a byte.
    let end_counts = from.get_end_counts()?.iter().take(256).collect();
    Ok(StackSummary { event_count: from.get_event_count(), depth_sum: from.get_depth_sum(), end_counts })
}

fn read_stats(from: schema::stats::Reader<'_>) -> Result<CaptureStats, Damage> {
    Ok(CaptureStats {
        ring_failure_count: from.get_ring_failure_count(),
        missed_run_count: from.get_missed_run_count(),
        call_begin_count: from.get_call_begin_count(),
        call_return_count: from.get_call_return_count(),
        call_abandoned_count: from.get_call_abandoned_count(),
        call_pending_count: from.get_call_pending_count(),
        return_without_begin_count: from.get_return_without_begin_count(),
        nested_call_count: from.get_nested_call_count(),
        backpressure_stop_count: from.get_backpressure_stop_count(),
        backpressure_ns: from.get_backpressure_ns(),
        impossible_count: from.get_impossible_count(),
        recorder_cpu_ns: from.get_recorder_cpu_ns(),
        target_cpu_ns: from.get_target_cpu_ns(),
        program_ns: from.get_program_ns(),
        program_run_count: from.get_program_run_count(),
        wall_ns: from.get_wall_ns(),
        end: from.get_end()?.to_str()?.to_owned(),
        warnings: read_texts(from.get_warnings()?)?,
        alloc_stacks: read_summary(from.get_alloc_stacks()?)?,
        free_stacks: read_summary(from.get_free_stacks()?)?,
        unwind_sample_count: from.get_unwind_sample_count(),
        unwind_sample_ns: from.get_unwind_sample_ns(),
        unwind_table_count: from.get_unwind_table_count(),
        unwind_row_count: from.get_unwind_row_count(),
        unwind_kernel_bytes: from.get_unwind_kernel_bytes(),
        unwind_build_ns: from.get_unwind_build_ns(),
    })
}

fn read_texts(list: capnp::text_list::Reader<'_>) -> Result<Vec<String>, Damage> {
    let mut texts = Vec::new();
    for text in list {
        texts.push(text?.to_str()?.to_owned());
    }
    Ok(texts)
}
