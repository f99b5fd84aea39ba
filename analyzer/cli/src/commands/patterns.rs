//! `heaptape patterns`: what allocates in ways that cost more than they must, and which allocator would fit.

use std::{io::Write, process::ExitCode};

use analyzer::patterns::PatternOptions;

use super::profiles::{PhaseArgs, Studied, studied};
use super::{MoreWrappers, Part, TableArgs, TracePath, print_json};
use crate::{progress, terminal};

/// Patterns that cost more than they must: tables that grow by copying, teardown storms, temporaries, pools, blocks that change
/// hands, pages held for little; and which allocator would fit each function
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A site is here the innermost function of a stack that is neither an allocator wrapper nor library code. Every \
    row of a pattern begins with it: function, born.{bytes, count}, phases[], stack_count, stack[].{function, module, file, \
    line}; below, … stands for these. A listing is {site_count, count, bytes, rows[]}, its sums over all sites, listed or not.\n\
    JSON (stable): schema, scope, total.{bytes, count}, site_count,\n\
    appends (listing; count: steps, bytes: copied).rows[].{…, step_bytes, step_size_count, chain_count, append_count, \
    copied_bytes, doubling_copied_bytes, median_final_bytes, max_final_bytes},\n\
    reallocs (count: reallocs that grow, bytes: old sizes).rows[].{…, kind (linear, geometric, uneven), chain_count, \
    ungrown_count, grow_count, shrink_count, moved_count, moved_bytes, old_bytes, median_final_bytes, reserve_bytes, \
    max_final_bytes, reserve_saves_count, reserve_wastes_bytes, linear.{run_count, step_count, step_bytes, copied_bytes, \
    doubling_copied_bytes}},\n\
    storms (blocks freed in them).rows[].{function, storm_count, free_count, free_bytes, largest_count, saves_count, \
    born_in[].{function, count, bytes, phases[]}, stack[]},\n\
    temporaries.rows[].{…, count, bytes, share, median_bytes, p90_bytes, max_bytes, instead (stack_buffer, small_vec, \
    scratch_buffer)},\n\
    pools.rows[].{…, size_bytes, count, bytes, share, slot_count, slot_bytes, lifo_share},\n\
    transfers.{freed, to_threads, threads[].{pid, birth_tid, birth_thread, death_tid, death_thread, count, bytes}, \
    thread_sites, to_phases, phases[].{birth, death, count, bytes}, phase_sites}, both sites listings of {…, count, bytes, \
    share, birth_phases[]},\n\
    page_requests.{maps_recorded, requests.rows[].{…, count, bytes, aligned_count, freed_count, freed_at_once_count, \
    max_bytes}},\n\
    chunks.{domains[].{domain, layer, chunk_count, chunk_bytes, peak_chunk_bytes, served_count, served_bytes, \
    peak_served_bytes, unused_share, near_empty}, sentence},\n\
    fragmentation.{heaps[].{process, pid, domain, at_ns, live_count, live_bytes, page_count, page_bytes, used_share, \
    span_bytes, region_count, nearly_empty_page_count, nearly_empty_live_bytes, pages_by_eighths[]}, pins (pages).rows[].{…, \
    page_count, sole_page_count, live_bytes}},\n\
    moot_frees (null, or {count, bytes, sentence}),\n\
    advice[].{rank, …, allocator (arena, fixed_buffer, scratch_buffer, pool, general, pages), scope, confidence (low, medium, \
    high), why, would_change, saves_free_count, evidence.{scope_share, temporary_share, durable_share, elsewhere_share, \
    one_size_share, one_size_bytes, max_live_count, max_bytes, grow_count}}, advice_count, doubts[].{kind, sentence}."
)]
pub(crate) struct Args {
    /// The trace
    trace: TracePath,
    /// List at most this many functions of each pattern
    #[arg(long, default_value_t = 10, value_name = "N")]
    limit: usize,
    /// Show at most this many callers of each function
    #[arg(long, default_value_t = 2, value_name = "N")]
    callers: usize,
    #[command(flatten)]
    phases: PhaseArgs,
    #[command(flatten)]
    wrappers: MoreWrappers,
    #[command(flatten)]
    tables: TableArgs,
    #[command(flatten)]
    part: Part,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let wrappers = self.wrappers.with_profiles(&self.phases.profiles()?);
        let Studied { trace, names, study } = studied(&self.trace, &self.phases)?;
        let wanted = self.part.wanted();
        let options = PatternOptions { wrappers, limit: self.limit, decoders: super::decoders() };
        let bar = progress::ReplayBar::new(trace.event_count);
        let found = analyzer::patterns::patterns(&trace, &study, &names, &wanted, &options, |done| bar.update(done))?;
        bar.finish();
        self.tables.write("appends", &found.appends.rows)?;
        self.tables.write("reallocs", &found.reallocs.rows)?;
        self.tables.write("storms", &found.storms.rows)?;
        self.tables.write("temporaries", &found.temporaries.rows)?;
        self.tables.write("pools", &found.pools.rows)?;
        self.tables.write("thread_transfers", &found.transfers.threads)?;
        self.tables.write("thread_transfer_sites", &found.transfers.thread_sites.rows)?;
        self.tables.write("phase_transfers", &found.transfers.phases)?;
        self.tables.write("phase_transfer_sites", &found.transfers.phase_sites.rows)?;
        self.tables.write("page_requests", &found.page_requests.requests.rows)?;
        self.tables.write("chunks", &found.chunks.domains)?;
        self.tables.write("heaps", &found.fragmentation.heaps)?;
        self.tables.write("pins", &found.fragmentation.pins.rows)?;
        self.tables.write("advice", &found.advice)?;
        if self.json {
            return print_json(out, &found);
        }
        analyzer::report::patterns(out, &terminal::screen(), &found, self.callers)?;
        Ok(ExitCode::SUCCESS)
    }
}
