//! `heaptape report`: the audit of a program's memory.

use std::{io::Write, path::PathBuf, process::ExitCode};

use analyzer::arenas::{ArenaOptions, Input, Policy, arenas};
use analyzer::audit::{Audit, Material, audit, homes};
use analyzer::leaks::{LeakOptions, Suppressions, leak_study, leaks};
use analyzer::patterns::{MootFrees, PatternOptions, patterns};
use analyzer::selection::Wanted;
use analyzer::wrappers::Wrappers;
use analyzer::{Names, lifetimes};
use anyhow::Context as _;
use trace_format::Trace;

use super::profiles::{PhaseArgs, Studied, studied};
use super::{MoreWrappers, TracePath, named, print_json};
use crate::{output, progress};

/// Functions of each pattern that the audit may speak of.
const PATTERN_ROWS: usize = 1000;
/// Sites of lifetimes: the audit has lists of functions of its own.
const LIFETIME_SITES: usize = 0;

/// The audit: who owns memory for how long, what is scratch and what is durable, what costs more than it must, and what to change
/// first, with every figure from the trace
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Of several traces of one program the first is described; arenas are looked for in all, and proven by leaving \
    each out once. Markdown shortens names of functions, JSON has them whole.\n\
    JSON (stable): schema, program, trace, traces[], recorded[], summary[], map[].{level (process, phase, call, thread), scope, \
    owner, contents, pattern, suitability}, model, phases[].{path, title, process, findings[], sites, strategy[]}, other_phases, \
    growth, transfers, leaks, facts, strategy[].{number, title, points[]}, priorities[].{rank, kind (arena, append, reserve, \
    fixed_buffer, scratch_buffer, leak), change, target, benefit, share, whole, cost}, method, bottom_line[], moot_frees.{count, \
    bytes, sentence}, doubts[].{kind, sentence}. A sentence is {kind, sentence, figures.{…}}, its figures by name: bytes, counts and \
    nanoseconds whole, shares and changes as parts of 1. model, growth, transfers, leaks, facts and method are sections: \
    {findings[] (sentences), tables[]}; a table is {name, caption, row_count, rows[].{…}}."
)]
pub(crate) struct Args {
    /// The traces: of one program on different inputs, the first is described
    #[arg(value_name = "TRACE", required = true)]
    traces: Vec<TracePath>,
    /// The form of the report
    #[arg(long, value_enum, default_value = "markdown", conflicts_with = "json")]
    format: Format,
    /// Write it to this file [default: stdout]
    #[arg(long, short, value_name = "FILE")]
    output: Option<PathBuf>,
    /// How arenas take memory: `llvm`, `rustc`, `zig`, `bumpalo`, or FIRST:PERCENT:MAX[:in-place] with sizes in bytes
    #[arg(long, default_value = "bumpalo", value_parser = super::arenas::policy)]
    policy: Policy,
    /// How much higher arenas may make the peak, in percent
    #[arg(long, default_value_t = 1.0, value_name = "PERCENT")]
    max_peak: f64,
    /// Suggest at most this many kinds of arenas
    #[arg(long, default_value_t = 20, value_name = "N")]
    arenas: usize,
    #[command(flatten)]
    phases: PhaseArgs,
    #[command(flatten)]
    wrappers: MoreWrappers,
    /// Print JSON: the same as `--format json`
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    Markdown,
    Json,
}

impl Args {
    pub(crate) fn run(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        if let Some(output) = &self.output {
            for trace in &self.traces {
                super::is_not_the_trace(output, trace)?;
            }
        }
        let found = self.audit()?;
        match &self.output {
            Some(path) => {
                output::write(path, |file| self.write(file, &found))?;
                eprintln!("heaptape: wrote {}", path.display());
            }
            None => self.write(out, &found)?,
        }
        Ok(ExitCode::SUCCESS)
    }

    fn write(&self, out: &mut impl Write, found: &Audit) -> anyhow::Result<()> {
        if self.json || self.format == Format::Json {
            print_json(out, found)?;
        } else {
            analyzer::report::audit(out, found)?;
        }
        Ok(())
    }

    /// Runs all passes.
    fn audit(&self) -> anyhow::Result<Audit> {
        let profiles = self.phases.profiles()?;
        let wrappers = self.wrappers.clone().with_profiles(&profiles);
        let described = self.traces.first().context("no trace is given")?;
        let others = self.traces[1..]
            .iter()
            .map(|path| Ok((path.display().to_string(), named(Trace::open(path)?))))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let Studied { trace, names, study } = studied(described, &self.phases)?;
        let (wanted, decoders) = (Wanted::default(), super::decoders());

        let info = analyzer::info::info(&trace, &study.outcome, analyzer::stacks::stacks(&trace)?);
        let phases = lifetimes::phases(&trace, &study, &wanted, 0)?;
        let lives = lifetimes::lifetimes(&trace, &study, &names, &wanted, &wrappers, LIFETIME_SITES)?;

        let bar = progress::ReplayBar::new(2 * trace.event_count);
        let options =
            LeakOptions { profiles, wrappers: wrappers.clone(), suppressions: Suppressions::default(), decoders };
        let leak_study = leak_study(&trace, &names, &options, |events| bar.update(events))?;
        let leaks = leaks(&trace, &leak_study, &names, &wanted, &options)?;
        bar.finish();

        let bar = progress::ReplayBar::new(trace.event_count);
        let options = PatternOptions { wrappers: wrappers.clone(), limit: PATTERN_ROWS, decoders };
        let mut patterns = patterns(&trace, &study, &names, &wanted, &options, |events| bar.update(events))?;
        bar.finish();

        let label = described.display().to_string();
        let arenas = self.arenas((label, &trace, &names), &others, &wrappers)?;
        patterns.moot_frees = MootFrees::of(&arenas);
        let bar = progress::ReplayBar::new(trace.event_count);
        let (plan, profiles) = (&arenas.plan, self.phases.profiles()?);
        let phases_from = (&profiles[..], self.phases.wish());
        let homes = homes(&trace, &names, phases_from, (plan, &wrappers), decoders, |events| bar.update(events))?;
        bar.finish();
        Ok(audit(&Material {
            trace: &trace,
            names: &names,
            wrappers: &wrappers,
            study: &study,
            info: &info,
            phases: &phases,
            lifetimes: &lives,
            leaks: &leaks,
            patterns: &patterns,
            arenas: &arenas,
            homes: &homes,
        })?)
    }

    fn arenas(
        &self,
        (label, trace, names): (String, &Trace, &Names),
        others: &[(String, (Trace, Names))],
        wrappers: &Wrappers,
    ) -> anyhow::Result<analyzer::arenas::Arenas> {
        let others =
            others.iter().map(|(label, (trace, names))| Input { label: label.clone(), trace, names, held_out: false });
        let inputs: Vec<Input<'_>> =
            std::iter::once(Input { label, trace, names, held_out: false }).chain(others).collect();
        let options = ArenaOptions {
            policy: self.policy,
            limit: self.arenas,
            max_peak: self.max_peak / 100.0,
            wrappers: wrappers.clone(),
            profiles: self.phases.profiles()?,
            decoders: super::decoders(),
        };
        let bar = progress::SearchBar::new(inputs.iter().map(|input| input.trace.event_count).sum());
        let found = arenas(&inputs, &options, |events| bar.advance(events))?;
        bar.finish();
        Ok(found)
    }
}
