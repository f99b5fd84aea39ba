//! `heaptape replay`: a recorded process against real allocators, in fresh processes that measure.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use analyzer::arenas::Plan;
use analyzer::whatif::{Allocator, Launcher, Recorded, TryOptions, worker};
use anyhow::Context as _;

use super::profiles::ProfileArgs;
use super::{MoreWrappers, TracePath, print_json, replayed};
use crate::{progress, terminal};

/// What if it had been another allocator, or a plan's arenas: replay a process's calls on real memory and measure
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Each run is a fresh process that does the recorded calls, by as many threads, in recorded order, and touches every page of \
    every block. A plan comes from `heaptape arenas --write-plan`. Gains smaller than the spread of the runs are said to \
    be below noise.\n\
    JSON (stable): schema, subject.{process, pid, threads, switches, allocs, steps, peak_bytes (requested)}, runs, fragmented, \
    predicted (null without a plan).{peak_bytes, plain_peak_bytes (requested bytes and chunks), footprint_bytes, \
    plain_footprint_bytes (the same in glibc's sizes), footprint_change, resident_bytes, plain_resident_bytes (in a model of glibc \
    2.36's malloc, holes between blocks included; null without the memory for it), peak_change (of these), outlived, handed_over (blocks that break the plan)}, tried[].{allocator, plain, plan (null without one), change \
    (null without a plan)}, doubts[].{kind, sentence}; plain and plan: {time_ns (the processor's), peak_bytes (resident, over what was before), \
    minor_faults}, each {median, min, max}; change: {time, peak, predicted (of the peak: peak_change for glibc, footprint_change for others), off_prediction (replayed over predicted peak, less 1)}, time \
    and peak {median, low, high (parts: -0.1 is a tenth less), verdict (gain, cost, below_noise)}."
)]
pub(crate) struct Args {
    /// The trace
    trace: TracePath,
    /// Replay with this: `glibc` (the machine's C library), `mimalloc` (built in), `jemalloc` (as the distribution has it), or the
    /// path of a library that has malloc; may be given several times
    #[arg(long = "allocator", value_name = "NAME|PATH", default_value = "glibc", value_parser = allocator)]
    allocators: Vec<Allocator>,
    /// Also replay with the arenas of this plan, and compare with what was predicted
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Runs of each; fewer than three have no spread to speak of
    #[arg(long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(3..=1000))]
    runs: u32,
    /// Begin with heaps that have holes, as those of programs that have run for a while
    #[arg(long)]
    fragment: bool,
    /// The process with this name or pid [default: the one with the most allocations]
    #[arg(long, value_name = "NAME|PID")]
    process: Option<String>,
    #[command(flatten)]
    profile: ProfileArgs,
    #[command(flatten)]
    wrappers: MoreWrappers,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

fn allocator(text: &str) -> Result<Allocator, String> {
    Allocator::parse(text)
        .ok_or_else(|| "it is one of glibc, mimalloc, jemalloc, or a path such as ./libhoard.so".to_owned())
}

impl Args {
    pub(crate) fn run(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let plan = self.plan.map(|path| {
            let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok::<Plan, anyhow::Error>(Plan::parse(&text, &path.display().to_string())?)
        });
        let plan = plan.transpose()?;
        let replayed = replayed(&self.trace)?;
        // Those that `heaptape arenas` makes its keys with.
        let profiles = self.profile.profiles()?;
        let wrappers = self.wrappers.with_profiles(&profiles);
        let recorded = Recorded {
            trace: &replayed.trace,
            names: &replayed.names,
            outcome: &replayed.outcome,
            wrappers: &wrappers,
            profiles: &profiles,
            decoders: super::decoders(),
        };
        let process = recorded.process(self.process)?;
        let folder = tempfile::Builder::new().prefix("heaptape-replay-").tempdir()?;
        let write = |plan: Option<&Plan>, name: &str| {
            let bar = progress::ReplayBar::new(replayed.trace.event_count);
            let written = recorded.write(process, plan, &folder.path().join(name), |events| bar.update(events));
            bar.finish();
            written
        };
        let plain = write(None, "plain")?;
        let planned = plan.as_ref().map(|plan| write(Some(plan), "plan")).transpose()?;
        let options = TryOptions { allocators: self.allocators, runs: self.runs, fragment: self.fragment };
        let launcher = Launcher {
            program: std::env::current_exe().context("cannot find heaptape's own binary, which does the runs")?,
            arguments: vec![WORKER.into()],
        };
        let each = if planned.is_some() { 2 } else { 1 };
        let bar = progress::RunsBar::new(u64::from(self.runs) * options.allocators.len() as u64 * each);
        let whatif =
            recorded.measure(process, &plain, planned.as_ref(), &options, &launcher, |runs| bar.update(runs))?;
        bar.finish();
        if cfg!(debug_assertions) {
            eprintln!("heaptape: warning: built without optimisation: most of the time measured is the replay's own");
        }
        if self.json {
            return print_json(out, &whatif);
        }
        analyzer::report::replay(out, &terminal::screen(), &whatif)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The subcommand that a fresh process is started with.
const WORKER: &str = "replay-worker";

/// Do one run (started by `heaptape replay`)
#[derive(Debug, clap::Args)]
pub(crate) struct WorkerArgs {
    /// What to do, in JSON
    order: String,
}

impl WorkerArgs {
    pub(crate) fn run(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let order = serde_json::from_str(&self.order).context("not an order of `heaptape replay`")?;
        print_json(out, &worker::perform(&order)?)
    }
}
