//! Which compiler profiles a command uses, and traces replayed with them. Responsible for `--profile` and `--source`.

use std::path::{Path, PathBuf};

use analyzer::Names;
use analyzer::lifetimes::{Study, Wish, study};
use analyzer::profile::{Profile, built_in};
use anyhow::Context as _;
use trace_format::Trace;

use super::named;
use crate::progress;

/// Which profile is wanted.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct ProfileArgs {
    /// Take phases, wrappers and what else the command wants to know of a compiler from this profile, whatever the executable is
    /// called [default: the built-in profile for the executable's name]
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
}

/// Which phases are wanted.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct PhaseArgs {
    #[command(flatten)]
    profile: ProfileArgs,
    /// Where phases come from: `best` takes markers where the trace has them, `stacks` only the functions on
    /// stacks, `segments` no names at all but where the call tree branches (also where no profile fits)
    #[arg(long, value_enum, default_value = "best")]
    source: Source,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Source {
    Best,
    Stacks,
    Segments,
}

impl ProfileArgs {
    /// The profiles to choose from.
    pub(crate) fn profiles(&self) -> anyhow::Result<Vec<Profile>> {
        let Some(path) = &self.profile else { return Ok(built_in()) };
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut profile = Profile::parse(&text, &path.display().to_string())?;
        profile.executables = vec!["*".to_owned()];
        Ok(vec![profile])
    }
}

impl PhaseArgs {
    /// The profiles to choose from.
    pub(crate) fn profiles(&self) -> anyhow::Result<Vec<Profile>> {
        self.profile.profiles()
    }

    pub(crate) fn wish(&self) -> Wish {
        match self.source {
            Source::Best => Wish::Best,
            Source::Stacks => Wish::Stacks,
            Source::Segments => Wish::Segments,
        }
    }
}

/// A trace, its names, and its replay with phases.
pub(crate) struct Studied {
    pub(crate) trace: Trace,
    pub(crate) names: Names,
    pub(crate) study: Study,
}

/// Reads a trace and replays it with phases.
pub(crate) fn studied(path: &Path, args: &PhaseArgs) -> anyhow::Result<Studied> {
    let profiles = args.profiles()?;
    let (trace, names) = named(Trace::open(path)?);
    let bar = progress::ReplayBar::new(trace.event_count);
    let study = study(&trace, &names, &profiles, args.wish(), super::decoders(), |events| bar.update(events))?;
    bar.finish();
    Ok(Studied { trace, names, study })
}
