//! `heaptape lifetimes`: what becomes of blocks.

use std::{io::Write, process::ExitCode};

use super::profiles::{PhaseArgs, Studied, studied};
use super::{MoreWrappers, Part, TableArgs, TracePath, print_json};
use crate::terminal;

/// How long blocks live and where they die: classes, birth by death, scope and age of each site
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A block is one live allocation: each alloc begins one, each realloc ends one and begins another.\n\
    JSON (stable): schema, scope, total.{bytes, count}, classes[].{class, count, bytes}, mean_live_bytes, \
    escape.{optimistic[], pessimistic[] (blocks by frames between birth and scope, the last: that or more), \
    doubtful_count}, sources[], matrix[].{birth, death (null: never freed), count, bytes}, site_count, sites[].{rank, \
    count, bytes, classes[], birth_phases[], scope_function, scope_share, escape, median_age_bytes, p90_age_bytes, \
    median_age_ns, p90_age_ns, stack[].{function, module, file, line}}, doubts[].{kind, sentence}."
)]
pub(crate) struct Args {
    /// The trace
    trace: TracePath,
    /// List at most this many sites and pairs of phases
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: usize,
    /// Show at most this many callers of each site
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
        let lives = analyzer::lifetimes::lifetimes(&trace, &study, &names, &wanted, &wrappers, self.limit)?;
        self.tables.write("sites", &lives.sites)?;
        self.tables.write("matrix", &lives.matrix)?;
        self.tables.write("classes", &lives.classes)?;
        if self.json {
            return print_json(out, &lives);
        }
        analyzer::report::lifetimes(out, &terminal::screen(), &lives, self.limit, self.callers)?;
        Ok(ExitCode::SUCCESS)
    }
}
