//! `heaptape sites`: where memory comes from.

use std::{io::Write, process::ExitCode};

use super::{Part, TracePath, print_json, replayed};
use crate::terminal;

/// Where memory comes from: call sites by bytes, count, share of the peak or what is live at the end.
#[derive(Debug, clap::Args)]
#[command(after_help = "JSON (stable): schema, scope, metric, site_count, totals, sites[].{rank, alloc_count, \
    realloc_count, alloc_bytes, failed_count, peak_bytes, peak_count, peak_share, live_at_end_bytes, live_at_end_count, \
    entries[], stack[].{function, module, file, line}} (innermost first), doubts[].")]
pub(crate) struct Args {
    /// The trace
    trace: TracePath,
    /// Rank by this
    #[arg(long, value_enum, default_value = "bytes")]
    by: super::flamegraph::By,
    /// List at most this many
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: usize,
    /// Show at most this many callers of each site
    #[arg(long, default_value_t = 3, value_name = "N")]
    callers: usize,
    #[command(flatten)]
    part: Part,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub(crate) fn run(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let replayed = replayed(&self.trace)?;
        let wanted = self.part.wanted();
        let sites = analyzer::sites::sites(
            &replayed.trace,
            &replayed.outcome,
            &replayed.names,
            &wanted,
            self.by.metric(),
            self.limit,
        )?;
        if self.json {
            return print_json(out, &sites);
        }
        analyzer::report::sites(out, &terminal::screen(), &sites, self.callers)?;
        Ok(ExitCode::SUCCESS)
    }
}
