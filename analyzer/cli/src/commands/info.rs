//! `heaptape info`: what a trace holds.

use std::{io::Write, process::ExitCode};

use super::{TracePath, print_json, replayed_unnamed};
use crate::terminal;

/// What was recorded, how much, its peak, what was lost, where probes stood and what they cost.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "JSON (stable): schema, file.{path, bytes, events, bytes_per_event}, recording.{recorder, kernel, \
    machine, command, attached_pid, options, wall_ns, …}, capture.{complete, loss_free, not_loss_free_because, problems[], \
    losses[], anomalies[], counters, warnings[], probe_plan[], overhead}, stacks.{alloc, free}.{events, \
    complete, truncated, not_taken (events), reaches_root_share (of the stacks taken, 0 to 1), mean_depth (frames), \
    truncated_by_reason.{too-deep, unreadable, no-rule, unknown-code, unsupported, foreign-probe, no-room} (events)}, \
    stacks.unwinding.{timed_walk_count, walk_ns, table_count, row_count, kernel_bytes, build_ns}, totals.{alloc_count, free_count, realloc_count, \
    alloc_bytes, failed_count, lost_count, free_before_recording_count, free_of_dead_count, peak_live_bytes, \
    live_at_end_bytes, live_at_end_count, counted_domains[], on_top_domains[]}, the same figures per domains[] (name, \
    module, layer, in_totals) and processes[] (pid, name, command, …), doubts[].\n\n\
    Counting: malloc, calloc, memalign…, realloc(NULL, n) that return a block are one alloc; a successful realloc of a \
    block is one realloc, neither alloc nor free; alloc_bytes is the requested bytes of allocs and the new size of \
    reallocs; live and peak are requested bytes. Totals count allocators that stand on no other."
)]
pub(crate) struct Args {
    /// The trace
    trace: TracePath,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let (trace, outcome) = replayed_unnamed(&self.trace)?;
        let info = analyzer::info::info(&trace, &outcome, analyzer::stacks::stacks(&trace)?);
        if self.json {
            return print_json(out, &info);
        }
        analyzer::report::info(out, &terminal::screen(), &info)?;
        Ok(ExitCode::SUCCESS)
    }
}
