//! `heaptape leaks`: what was never freed, and why.

use std::{io::Write, path::PathBuf, process::ExitCode};

use analyzer::leaks::{LeakOptions, Suppressions, leak_study};
use anyhow::Context as _;
use trace_format::Trace;

use super::profiles::PhaseArgs;
use super::{MoreWrappers, Part, TableArgs, TracePath, print_json, replayed};
use crate::{progress, terminal};

/// A gate that failed.
const FAILED: u8 = 1;

/// What was never freed and why: forgotten by a teardown, lost on rare or failing paths, growing with every iteration, or kept
/// on purpose
#[derive(Debug, clap::Args)]
#[command(after_help = "Leaks are: forgotten-by-teardown (its owner and the owner's other parts die, this does not), \
    minority-survivor (most siblings are freed), leaked-on-success and leaked-on-error (only the other path frees), growth \
    (each iteration leaves the same). No leaks are: process-constant, retained-whole (nothing of its kind is freed), \
    bounded-cache (older ones make room), intentional, live-at-detach, unclear. A request that failed is no block. A chain of \
    reallocs is one allocation.\n\
    Suppressions are LeakSanitizer's: a line `leak:PATTERN` covers stacks with a function, file or module that fits.\n\
    Exit code with --check: 1 if there is a leak that is neither suppressed nor expected.\n\
    JSON (stable): schema, scope, total.{bytes, count}, leaked.{bytes, count}, findings[].{rank, class, leak, expected, \
    suppressed_by, count, bytes, allocated_count, function, grown_in, process, pid, siblings_die_in[].{function, count}, \
    repeats.{function, iterations, count_each, bytes_each}, confidence, why, settle, site_count, stack[].{function, module, \
    file, line}, death_stack[]}, failed_count, doubts[].{kind, sentence}. With --sites: schema, scope, total, \
    groups[].{ending, total, site_count, sites[].{rank, live_at_end_bytes, live_at_end_count, birth_count, share, \
    processes[], stack[]}}, doubts[].")]
pub(crate) struct Args {
    /// The trace
    trace: TracePath,
    /// Only list what was live at the end, by site
    #[arg(long, conflicts_with_all = ["check", "suppressions"])]
    sites: bool,
    /// Exit with 1 if there is a leak that is neither suppressed nor expected
    #[arg(long)]
    check: bool,
    /// Accept the leaks in this file, in the syntax of `LeakSanitizer`
    #[arg(long, value_name = "FILE")]
    suppressions: Option<PathBuf>,
    /// Show at most this many leaks in full (with --sites: sites of each kind)
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: usize,
    /// Show at most this many callers
    #[arg(long, default_value_t = 5, value_name = "N")]
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
        let profiles = self.phases.profiles()?;
        let wrappers = self.wrappers.with_profiles(&profiles);
        let wanted = self.part.wanted();
        if self.sites {
            let it = replayed(&self.trace)?;
            let found =
                analyzer::survivors::survivors(&it.trace, &it.outcome, &it.names, &wanted, &wrappers, self.limit)?;
            if self.json {
                return print_json(out, &found);
            }
            analyzer::report::survivors(out, &terminal::screen(), &found, self.callers)?;
            return Ok(ExitCode::SUCCESS);
        }
        let suppressions = match &self.suppressions {
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
                Suppressions::parse(&text, &path.display().to_string())?
            }
            None => Suppressions::default(),
        };
        let options = LeakOptions { profiles, wrappers, suppressions, decoders: super::decoders() };
        let (trace, names) = super::named(Trace::open(&self.trace)?);
        let bar = progress::ReplayBar::new(2 * trace.event_count);
        let study = leak_study(&trace, &names, &options, |events| bar.update(events))?;
        bar.finish();
        let leaks = analyzer::leaks::leaks(&trace, &study, &names, &wanted, &options)?;
        self.tables.write("findings", &leaks.findings)?;
        if self.json {
            print_json(out, &leaks)?;
        } else {
            analyzer::report::leaks(out, &terminal::screen(), &leaks, self.limit, self.callers)?;
        }
        let failed = self.check && leaks.leaked.count > 0;
        Ok(if failed { ExitCode::from(FAILED) } else { ExitCode::SUCCESS })
    }
}
