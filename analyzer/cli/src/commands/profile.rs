//! `heaptape profile`: which profiles there are, and whether one fits a compiler.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{io::Write, process::ExitCode};

use analyzer::profile::{Check, Profile, built_in, check_binaries, check_trace};
use anyhow::Context as _;
use trace_format::Trace;

use super::print_json;
use crate::terminal;

/// List the profiles of compilers, or check which names of one are found in a compiler, a process or a trace
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// List the built-in profiles
    List,
    /// Say which names of a profile are found, and in a trace how often each fired
    ///
    /// Exit code 1 if a phase or marker of it is not found at all in an executable or a process.
    Check(CheckArgs),
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "JSON (stable): schema, profile, looked_in[], names[].{rule, part (stack, begin, end, point), pattern, \
    function_count, example, fired_count (in a trace: events of the marker, or distinct stacks with the function)}."
)]
struct CheckArgs {
    /// A profile of your own, or the name of a built-in one
    profile: String,
    #[command(flatten)]
    place: Place,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Place {
    /// Look in this executable and the libraries it is linked with
    #[arg(long, value_name = "FILE")]
    exe: Option<PathBuf>,
    /// Look in the files that this process has mapped
    #[arg(long, value_name = "PID")]
    pid: Option<u32>,
    /// Look in a trace
    #[arg(long, value_name = "TRACE")]
    trace: Option<PathBuf>,
}

impl Args {
    pub(crate) fn run(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        match self.what {
            What::List => {
                for profile in built_in() {
                    let (phases, markers) = (profile.phases.len(), profile.markers.len());
                    writeln!(
                        out,
                        "{:<8}  {phases} phases by stacks, {markers} markers, for {}",
                        profile.name,
                        profile.executables.join(", ")
                    )?;
                }
                Ok(ExitCode::SUCCESS)
            }
            What::Check(args) => args.run(out),
        }
    }
}

impl CheckArgs {
    fn run(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let profile = named_or_read(&self.profile)?;
        let check = if let Some(path) = &self.place.trace {
            let (trace, names) = super::named(Trace::open(path)?);
            check_trace(&profile, &trace, &names)?
        } else {
            let binaries = match (&self.place.exe, self.place.pid) {
                (Some(exe), _) => linked(exe)?,
                (None, Some(pid)) => mapped(pid)?,
                (None, None) => Vec::new(),
            };
            check_binaries(&profile, &binaries)
        };
        // What a trace does not show may well be there.
        let missing = self.place.trace.is_none() && missing(&check);
        if self.json {
            print_json(out, &check)?;
        } else {
            analyzer::report::profile_check(out, &terminal::screen(), &check)?;
        }
        Ok(if missing { ExitCode::from(1) } else { ExitCode::SUCCESS })
    }
}

/// Whether all names of a part of some rule are missing.
fn missing(check: &Check) -> bool {
    check.names.iter().any(|named| {
        let same = |other: &&analyzer::profile::Named| (&other.rule, other.part) == (&named.rule, named.part);
        check.names.iter().filter(same).all(|other| other.function_count == 0)
    })
}

fn named_or_read(profile: &str) -> anyhow::Result<Profile> {
    if let Some(built_in) = built_in().into_iter().find(|known| known.name == profile) {
        return Ok(built_in);
    }
    let text = std::fs::read_to_string(profile)
        .with_context(|| format!("{profile} is no built-in profile and cannot be read as one"))?;
    Ok(Profile::parse(&text, profile)?)
}

/// An executable and the libraries that the dynamic linker would load for it.
fn linked(exe: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let exe = exe.canonicalize().with_context(|| format!("cannot read {}", exe.display()))?;
    let mut files = vec![exe.clone()];
    // The linker lists what it would load and runs nothing.
    if let Ok(listed) = Command::new("/lib64/ld-linux-x86-64.so.2").arg("--list").arg(&exe).output() {
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        files.extend(text.lines().filter_map(|line| {
            let path = line.split("=> ").nth(1).unwrap_or(line.trim()).split(" (").next()?.trim();
            path.starts_with('/').then(|| PathBuf::from(path))
        }));
    }
    Ok(files)
}

/// Files that a process has mapped as code.
fn mapped(pid: u32) -> anyhow::Result<Vec<PathBuf>> {
    let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))
        .with_context(|| format!("cannot read the mappings of process {pid}"))?;
    let mut files: Vec<PathBuf> = Vec::new();
    for line in maps.lines() {
        let mut fields = line.split_whitespace();
        let executable = fields.nth(1).is_some_and(|rights| rights.contains('x'));
        if let (true, Some(path)) = (executable, fields.nth(3).filter(|path| path.starts_with('/')))
            && !files.contains(&PathBuf::from(path))
        {
            files.push(PathBuf::from(path));
        }
    }
    Ok(files)
}
