//! The subcommands, one file each. Responsible for the list of them, for what they share, and for what their errors mean
//! as exit codes.

mod arenas;
#[cfg(feature = "recording")]
mod attach;
mod demo;
#[cfg(feature = "recording")]
mod doctor;
mod flamegraph;
mod info;
mod leaks;
mod lifetimes;
mod patterns;
mod phases;
mod profile;
mod profiles;
#[cfg(feature = "recording")]
mod record;
mod replay;
mod report;
mod salvage;
mod sites;
mod timeline;
mod verify;

use std::{
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use analyzer::{Names, Outcome, Symboliser, profile::Profile, selection::Wanted, wrappers::Wrappers};
use anyhow::Context as _;
use clap::Parser;
use serde::Serialize;
use trace_format::{Symbolise as _, Trace};

use crate::{output, progress};

/// A file that cannot be read, or something else that stands in the way.
const UNREADABLE: u8 = 3;

/// Record every allocation and free of a running compiler, and ask the recording.
#[derive(Debug, Parser)]
#[command(
    name = "heaptape",
    version,
    after_help = "Exit codes: 0 fine · 1 a gate failed · 2 usage · 3 unreadable input · 4 no permission or kernel \
                  support to record. `record` ends as the recorded command ends.\n\
                  Data goes to stdout, progress and warnings to stderr. Every data command takes --json."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    Demo(demo::Args),
    #[cfg(feature = "recording")]
    Record(record::Args),
    #[cfg(feature = "recording")]
    Attach(attach::Args),
    Info(info::Args),
    Sites(sites::Args),
    Phases(phases::Args),
    Lifetimes(lifetimes::Args),
    Timeline(timeline::Args),
    Leaks(leaks::Args),
    Arenas(arenas::Args),
    Patterns(patterns::Args),
    Report(report::Args),
    Flamegraph(flamegraph::Args),
    Replay(replay::Args),
    #[command(hide = true)]
    ReplayWorker(replay::WorkerArgs),
    Profile(profile::Args),
    Verify(verify::Args),
    Salvage(salvage::Args),
    #[cfg(feature = "recording")]
    Doctor(doctor::Args),
}

pub(crate) fn run() -> ExitCode {
    let command = Cli::parse().command;
    let mut out = BufWriter::new(io::stdout().lock());
    let result = match command {
        Command::Demo(args) => args.run(&mut out),
        #[cfg(feature = "recording")]
        Command::Record(args) => args.run(&mut out),
        #[cfg(feature = "recording")]
        Command::Attach(args) => args.run(&mut out),
        Command::Info(args) => args.run(&mut out),
        Command::Sites(args) => args.run(&mut out),
        Command::Phases(args) => args.run(&mut out),
        Command::Lifetimes(args) => args.run(&mut out),
        Command::Timeline(args) => args.run(&mut out),
        Command::Leaks(args) => args.run(&mut out),
        Command::Arenas(args) => args.run(&mut out),
        Command::Patterns(args) => args.run(&mut out),
        Command::Report(args) => args.run(&mut out),
        Command::Flamegraph(args) => args.run(&mut out),
        Command::Replay(args) => args.run(&mut out),
        Command::ReplayWorker(args) => args.run(&mut out),
        Command::Profile(args) => args.run(&mut out),
        Command::Verify(args) => args.run(&mut out),
        Command::Salvage(args) => args.run(&mut out),
        #[cfg(feature = "recording")]
        Command::Doctor(args) => args.run(&mut out),
    };
    let result = result.and_then(|code| {
        out.flush().context("cannot write to stdout")?;
        Ok(code)
    });
    result.unwrap_or_else(|error| {
        let is_closed_pipe = |cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe;
        if error.chain().any(|cause| {
            cause.downcast_ref::<io::Error>().is_some_and(is_closed_pipe)
                || cause.downcast_ref::<serde_json::Error>().and_then(serde_json::Error::io_error_kind)
                    == Some(io::ErrorKind::BrokenPipe)
        }) {
            // Whoever reads has read enough.
            return ExitCode::SUCCESS;
        }
        eprintln!("heaptape: error: {}", sentence(&error));
        ExitCode::from(UNREADABLE)
    })
}

/// An error with its causes, each said once.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause.trim_end().to_owned();
        } else if !text.contains(cause.trim_end()) {
            text = format!("{text}: {}", cause.trim_end());
        }
    }
    text
}

/// Which part of a trace a command is about.
#[derive(Debug, Clone, clap::Args)]
struct Part {
    /// Only processes with this name or pid
    #[arg(long, value_name = "NAME|PID")]
    process: Option<String>,
    /// Only this allocator, such as `libc.so.6` [default: all that stand on no other]
    #[arg(long, value_name = "NAME")]
    domain: Option<String>,
}

impl Part {
    fn wanted(self) -> Wanted {
        Wanted { process: self.process, domain: self.domain }
    }
}

/// Functions that allocate on behalf of others, beside those that heaptape knows.
#[derive(Debug, Clone, clap::Args)]
struct MoreWrappers {
    /// Take this function for an allocator wrapper too: its caller is the site. A demangled name without parameters, or the
    /// beginning of one and `*`; may be given several times
    #[arg(long = "wrapper", value_name = "NAME")]
    names: Vec<String>,
}

impl MoreWrappers {
    fn wrappers(self) -> Wrappers {
        Wrappers::with(self.names)
    }

    /// With those of profiles.
    fn with_profiles(self, profiles: &[Profile]) -> Wrappers {
        Wrappers::with(profiles.iter().flat_map(|profile| profile.wrappers.iter().cloned()).chain(self.names))
    }
}

/// Tables for other tools.
#[derive(Debug, Clone, clap::Args)]
struct TableArgs {
    /// Also write the rows as Parquet tables into this folder
    #[arg(long, value_name = "FOLDER")]
    parquet: Option<PathBuf>,
}

impl TableArgs {
    fn write(&self, name: &str, rows: &[impl Serialize]) -> anyhow::Result<()> {
        if let Some(folder) = &self.parquet {
            output::create_folder(folder)?;
            let path = folder.join(format!("{name}.parquet"));
            let mut table = analyzer::tables::table(rows)?;
            output::write(&path, |file| Ok(analyzer::tables::write_parquet(&mut table, file)?))?;
            eprintln!("heaptape: wrote {} ({} rows)", path.display(), rows.len());
        }
        Ok(())
    }
}

/// A trace, read and replayed.
struct Replayed {
    trace: Trace,
    outcome: Outcome,
    names: Names,
}

/// Reads and replays a trace; names what it does not name itself from the binaries at hand.
fn replayed(path: &Path) -> anyhow::Result<Replayed> {
    let (trace, outcome) = replayed_unnamed(path)?;
    let (trace, names) = named(trace);
    Ok(Replayed { trace, outcome, names })
}

/// As [`replayed`], for what shows no frames.
fn replayed_unnamed(path: &Path) -> anyhow::Result<(Trace, Outcome)> {
    let trace = Trace::open(path)?;
    let bar = progress::ReplayBar::new(trace.event_count);
    let outcome = analyzer::replay(&trace, decoders(), |events| bar.update(events))?;
    bar.finish();
    Ok((trace, outcome))
}

/// Threads that decode ahead of the replay.
fn decoders() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from).min(4) - 1
}

/// Names the frames of a trace, those it does not name itself from the binaries at hand.
fn named(mut trace: Trace) -> (Trace, Names) {
    if trace.tables.symbols.iter().all(|symbols| symbols.functions.is_empty()) {
        trace.tables.symbols = Symboliser::new().symbolise(&trace.tables);
    }
    let names = Names::of(&trace.tables);
    (trace, names)
}

/// Refuses to write over the trace that was read.
fn is_not_the_trace(output: &Path, trace: &Path) -> anyhow::Result<()> {
    if trace_format::salvage::is_same_file(output, trace) {
        anyhow::bail!("{} is the trace itself; name another output file", output.display());
    }
    Ok(())
}

fn print_json(out: &mut impl Write, value: &impl Serialize) -> anyhow::Result<ExitCode> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)?;
    Ok(ExitCode::SUCCESS)
}

/// The trace a command reads.
type TracePath = PathBuf;
