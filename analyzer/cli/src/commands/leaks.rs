//! `heaptape leaks`: what was live at the end, by site.

use std::{io::Write, process::ExitCode};

use super::{MoreWrappers, Part, TracePath, print_json, replayed};
use crate::terminal;

/// What was live at the end, by call site: never freed before exit, or still live when the recording ended.
#[derive(Debug, clap::Args)]
#[command(after_help = "JSON (stable): schema, scope, total.{bytes, count}, groups[].{ending, total, site_count, \
    sites[].{rank, live_at_end_bytes, live_at_end_count, birth_count, share, processes[], stack[]}}, doubts[].")]
pub(crate) struct Args {
    /// The trace
    trace: TracePath,
    /// List at most this many sites of each kind
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: usize,
    /// Show at most this many callers of each site
    #[arg(long, default_value_t = 5, value_name = "N")]
    callers: usize,
    #[command(flatten)]
    wrappers: MoreWrappers,
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
        let wrappers = self.wrappers.wrappers();
        let leaks = analyzer::leaks::leaks(
            &replayed.trace,
            &replayed.outcome,
            &replayed.names,
            &wanted,
            &wrappers,
            self.limit,
        )?;
        if self.json {
            return print_json(out, &leaks);
        }
        analyzer::report::leaks(out, &terminal::screen(), &leaks, self.callers)?;
        Ok(ExitCode::SUCCESS)
    }
}
