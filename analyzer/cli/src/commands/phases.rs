//! `heaptape phases`: what each phase of a compiler does with memory.

use std::{io::Write, process::ExitCode};

use super::profiles::{PhaseArgs, Studied, studied};
use super::{Part, TableArgs, TracePath, print_json};
use crate::terminal;

/// What each phase allocates, frees, keeps as scratch, hands on and leaves behind
#[derive(Debug, clap::Args)]
#[command(
    after_help = "JSON (stable): schema, scope, span_ns, total.{bytes, count}, sources[].{pid, process, profile, \
    source (marker, stack, segment, none), unseen[]}, phases[].{id, parent, name, tid, thread, pid, source, depth, \
    instances, cut_short, begin_ns, end_ns, time_ns, alloc_count, alloc_bytes, realloc_count, inclusive_alloc_count, \
    inclusive_alloc_bytes, free_count, free_bytes, alloc_bytes_per_s, peak_bytes, peak_ns, peak_held_by[].{phase, name, \
    bytes}, own_peak_bytes, left_behind_count, left_behind_bytes, classes[].{class (scratch, handed_over, process_wide, \
    other_thread, durable), count, bytes}, ages.{median_bytes, p90_bytes, p99_bytes, median_ns, p90_ns, p99_ns}, \
    instance_list[].{number, begin_ns, end_ns, first_event, end_event, alloc_count, alloc_bytes, left_behind_count, \
    left_behind_bytes}} (one row per place and thread; allocs include reallocs), unmatched_end_count, unended_count, \
    doubts[].{kind, sentence}.\n\n\
    Clock: times are ns since the recording began; ages are in bytes allocated and in ns."
)]
pub(crate) struct Args {
    /// The trace
    trace: TracePath,
    /// List the first N instances of each phase (JSON)
    #[arg(long, default_value_t = 0, value_name = "N")]
    instances: usize,
    /// Show small phases too
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    phases: PhaseArgs,
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
        let Studied { trace, study, .. } = studied(&self.trace, &self.phases)?;
        let phases = analyzer::lifetimes::phases(&trace, &study, &self.part.wanted(), self.instances)?;
        self.tables.write("phases", &phases.phases)?;
        if self.json {
            return print_json(out, &phases);
        }
        analyzer::report::phases(out, &terminal::screen(), &phases, self.all)?;
        Ok(ExitCode::SUCCESS)
    }
}
