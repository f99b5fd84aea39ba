//! `heaptape sites`: where memory comes from.

use std::{io::Write, process::ExitCode};

use analyzer::{grouping::Grouping, sites::SiteOptions};

use super::{MoreWrappers, Part, TracePath, print_json, replayed};
use crate::terminal;

/// Where memory comes from: call sites by bytes, count, share of the peak or what is live at the end.
#[derive(Debug, clap::Args)]
#[command(after_help = "A site is an allocating stack without the allocator wrappers at its leaf (`malloc`, \
    `operator new`, `RawVec::grow_one`, …).\n\
    JSON (stable): schema, scope, metric, grouping, site_count, totals, sites[].{rank, alloc_count, realloc_count, \
    alloc_bytes, failed_count, peak_bytes, peak_count, peak_share, live_at_end_bytes, live_at_end_count, name (of a \
    function, file or namespace), stack_count, entries[], stack[].{function, module, file, line} (innermost first)}, \
    doubts[].{kind, sentence}.")]
pub(crate) struct Args {
    /// The trace
    trace: TracePath,
    /// Rank by this
    #[arg(long, value_enum, default_value = "bytes")]
    by: super::flamegraph::By,
    /// What is one row: a whole `stack`, its innermost frames (`depth:3`), a `function`, a source `file`, or a `namespace`
    /// (Rust: crate; C: program or library)
    #[arg(long, value_name = "WHAT", default_value = "stack", value_parser = grouping)]
    group: Grouping,
    /// List at most this many
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: usize,
    /// Show at most this many callers of each site
    #[arg(long, default_value_t = 3, value_name = "N")]
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
        let options = SiteOptions {
            metric: self.by.metric(),
            grouping: self.group,
            limit: self.limit,
            wrappers: self.wrappers.wrappers(),
        };
        let sites = analyzer::sites::sites(&replayed.trace, &replayed.outcome, &replayed.names, &wanted, &options)?;
        if self.json {
            return print_json(out, &sites);
        }
        analyzer::report::sites(out, &terminal::screen(), &sites, self.callers)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn grouping(word: &str) -> Result<Grouping, String> {
    match word {
        "stack" => Ok(Grouping::Stack),
        "function" => Ok(Grouping::Function),
        "file" => Ok(Grouping::File),
        "namespace" | "crate" => Ok(Grouping::Namespace),
        _ => match word.strip_prefix("depth:").and_then(|depth| depth.parse().ok()) {
            Some(depth) if depth > 0 => Ok(Grouping::Depth(depth)),
            _ => Err("it is one of stack, depth:N with N from 1, function, file, namespace".to_owned()),
        },
    }
}
