//! `heaptape arenas`: which sites should move into which arena, and whether that holds on other inputs.

use std::{io::Write, path::PathBuf, process::ExitCode};

use analyzer::Names;
use analyzer::arenas::{ArenaOptions, Input, Policy, arenas};
use trace_format::Trace;

use super::profiles::ProfileArgs;
use super::{MoreWrappers, TableArgs, TracePath, named, print_json};
use crate::{output, progress, terminal};

/// Which sites should move into which arena, opened and closed where, what that saves and costs, and whether it holds on other inputs
#[derive(Debug, clap::Args)]
#[command(
    after_help = "An arena lives with the activations of one function, its scope: opened with the first object, closed when \
    the function returns. A phase that markers begin and end is a scope, too, `phase NAME`, where it nests with calls. What belongs to it is said by paths of functions, the allocating one first. Each plan is simulated \
    object by object: an object that is freed after its arena is gone, or by another thread, breaks it. A plan never breaks \
    on the traces it was made from; with two traces or more each is left out once and a plan made from the others tried on \
    it. A scope that lasts as long as the process is none.\n\
    The peak is of requested bytes alive, with the arenas' chunks, whole, in place of what is in them.\n\
    JSON (stable): schema, policy, trained_on[] and held_out[].{trace, made_from[], events, objects, placed, placed_share, outlived, \
    handed_over, violation_share, frees, frees_saved, plain_peak_bytes, peak_bytes, peak_change, plain_footprint_peak_bytes, \
    footprint_peak_bytes, drag, arena_count}, verdict.{kind, sentence}, suggestions[].{rank, name, scope, scope_kind (function, phase), nesting, \
    phases[].{phase, objects}, at_end, instances, objects, object_share, bytes, frees_saved, chunks, held_peak_bytes, peak_change, drag, tail_bytes, left_bytes, \
    key_count, site_count, sites[].{function, callers[], objects, bytes}, pass_on_count, pass_on[].{function, objects}, \
    escapee_count, escapees[].{function, callers[], objects, escaping, handed_over, survive}, builders[].{function, callers[], \
    objects, reallocs}, tests[].{trace, found, objects, outlived, handed_over}}, doubts[], plan.{schema, policy, \
    arenas[].{scope, nesting, at_end, keys[][]}}."
)]
pub(crate) struct Args {
    /// The traces: of one program on different inputs
    #[arg(value_name = "TRACE", required_unless_present = "train")]
    traces: Vec<TracePath>,
    /// More traces to make the plan from
    #[arg(long, value_name = "TRACE", num_args = 1..)]
    train: Vec<TracePath>,
    /// Try the plan on these, and do not make it from them [default: each trace is left out once]
    #[arg(long, value_name = "TRACE", num_args = 1..)]
    test: Vec<TracePath>,
    /// How arenas take memory: `llvm`, `rustc`, `zig`, `bumpalo`, or FIRST:PERCENT:MAX[:in-place] with sizes in bytes
    #[arg(long, default_value = "bumpalo", value_parser = policy)]
    policy: Policy,
    /// How much higher the peak may be, in percent
    #[arg(long, default_value_t = 1.0, value_name = "PERCENT")]
    max_peak: f64,
    /// Suggest at most this many kinds of arenas
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: usize,
    /// Show at most this many in full
    #[arg(long, default_value_t = 8, value_name = "N")]
    show: usize,
    /// Write the plan, for `heaptape replay --plan`
    #[arg(long, value_name = "FILE")]
    write_plan: Option<PathBuf>,
    #[command(flatten)]
    profile: ProfileArgs,
    #[command(flatten)]
    wrappers: MoreWrappers,
    #[command(flatten)]
    tables: TableArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub(super) fn policy(text: &str) -> Result<Policy, String> {
    Policy::parse(text).ok_or_else(|| "llvm, rustc, zig, bumpalo, or FIRST:PERCENT:MAX[:in-place]".to_owned())
}

impl Args {
    pub(crate) fn run(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let mut read: Vec<(String, Trace, Names, bool)> = Vec::new();
        let paths = self.traces.iter().chain(&self.train).map(|path| (path, false));
        for (path, held_out) in paths.chain(self.test.iter().map(|path| (path, true))) {
            let (trace, names) = named(Trace::open(path)?);
            read.push((path.display().to_string(), trace, names, held_out));
        }
        if let Some(plan) = &self.write_plan {
            for (path, ..) in &read {
                super::is_not_the_trace(plan, path.as_ref())?;
            }
        }
        let inputs: Vec<Input<'_>> = read
            .iter()
            .map(|(label, trace, names, held_out)| Input { label: label.clone(), trace, names, held_out: *held_out })
            .collect();
        let profiles = self.profile.profiles()?;
        let options = ArenaOptions {
            policy: self.policy,
            limit: self.limit,
            max_peak: self.max_peak / 100.0,
            wrappers: self.wrappers.with_profiles(&profiles),
            profiles,
            decoders: super::decoders(),
        };
        let bar = progress::SearchBar::new(inputs.iter().map(|input| input.trace.event_count).sum());
        let found = arenas(&inputs, &options, |events| bar.advance(events))?;
        bar.finish();
        if let Some(path) = &self.write_plan {
            let text = serde_json::to_string_pretty(&found.plan)?;
            output::write(path, |file| Ok(writeln!(file, "{text}")?))?;
        }
        self.tables.write("suggestions", &found.suggestions)?;
        if self.json {
            return print_json(out, &found);
        }
        analyzer::report::arenas(out, &terminal::screen(), &found, self.show)?;
        Ok(ExitCode::SUCCESS)
    }
}
