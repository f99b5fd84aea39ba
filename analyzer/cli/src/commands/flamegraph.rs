//! `heaptape flamegraph`: stacks by weight, as a picture or as folded lines.

use std::{io::Write, path::PathBuf, process::ExitCode};

use analyzer::flamegraph::{ByPhase, peak_instant};
use analyzer::lifetimes::alive_after;
use analyzer::{AnalysisError, metric::Metric};
use serde::Serialize;

use super::profiles::{PhaseArgs, Studied, studied};
use super::{Part, Replayed, TracePath, print_json, replayed};
use crate::{output, progress};

/// Draw a flame graph of where memory comes from.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "JSON (stable): metric, scope, total, stacks[].{stack, weight}; frames are separated by `;`, the \
    process first, the entry point called last."
)]
pub(crate) struct Args {
    /// The trace
    trace: TracePath,
    /// The SVG to write, `-` for stdout [default: the trace's name with .svg]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Width of a frame
    #[arg(long, value_enum, default_value = "bytes")]
    by: By,
    /// Put the phases that memory was born in between the process and its functions, in brackets
    #[arg(long)]
    by_phase: bool,
    #[command(flatten)]
    phases: PhaseArgs,
    /// Print folded lines (`frame;frame;frame weight`) instead of drawing
    #[arg(long, conflicts_with_all = ["output", "json"])]
    collapsed: bool,
    #[command(flatten)]
    part: Part,
    /// Print the folded stacks as JSON instead of drawing
    #[arg(long, conflicts_with = "output")]
    json: bool,
}

/// The picture of a trace in which nothing was allocated.
const EMPTY_PICTURE: &str = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"600\" height=\"60\">\
    <text x=\"20\" y=\"35\" font-family=\"sans-serif\">nothing to draw: the trace holds no allocation</text></svg>\n";

/// What sites are ranked and flames are measured by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum By {
    /// Bytes requested
    Bytes,
    /// Allocations and reallocs
    Count,
    /// Bytes live at the instant of the peak
    Peak,
    /// Bytes live at the end
    #[value(alias = "live-at-end", alias = "end")]
    Live,
}

impl By {
    pub(crate) fn metric(self) -> Metric {
        match self {
            Self::Bytes => Metric::Bytes,
            Self::Count => Metric::Count,
            Self::Peak => Metric::Peak,
            Self::Live => Metric::LiveAtEnd,
        }
    }
}

#[derive(Serialize)]
struct Folded<'a> {
    metric: Metric,
    scope: &'a str,
    total: u64,
    stacks: Vec<Line<'a>>,
}

#[derive(Serialize)]
struct Line<'a> {
    stack: &'a str,
    weight: u64,
}

impl Args {
    pub(crate) fn run(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let (replayed, study) = if self.by_phase {
            let Studied { trace, names, study } = studied(&self.trace, &self.phases)?;
            (Replayed { trace, names, outcome: study.outcome.clone() }, Some(study))
        } else {
            (replayed(&self.trace)?, None)
        };
        let wanted = self.part.wanted();
        let metric = self.by.metric();
        let at_peak = match (&study, metric) {
            (Some(study), Metric::Peak) => {
                let instant = peak_instant(&replayed.trace, &study.outcome, &wanted)?;
                let Replayed { trace, names, .. } = &replayed;
                let profiles = self.phases.profiles()?;
                let wish = self.phases.wish();
                let bar = progress::ReplayBar::new(trace.event_count);
                let update = |events| bar.update(events);
                let alive = alive_after(trace, names, &profiles, wish, super::decoders(), instant, update)?;
                bar.finish();
                Some(alive)
            }
            _ => None,
        };
        let by_phase = study.as_ref().map(|study| ByPhase { study, at_peak: at_peak.as_ref() });
        let folded =
            analyzer::flamegraph::fold(&replayed.trace, &replayed.outcome, &replayed.names, &wanted, metric, by_phase);
        let folded = match folded {
            // Nothing was allocated, or all of it was freed: that is an answer.
            Err(AnalysisError::NothingToDraw { metric, scope }) => {
                eprintln!("heaptape: warning: nothing to draw: no {metric} in {scope}");
                if self.json {
                    let value = Folded { metric: self.by.metric(), scope: &scope, total: 0, stacks: Vec::new() };
                    return print_json(out, &value);
                }
                if let Some(path) = self.output.filter(|path| path.as_os_str() != "-") {
                    super::is_not_the_trace(&path, &self.trace)?;
                    output::write(&path, |file| Ok(file.write_all(EMPTY_PICTURE.as_bytes())?))?;
                }
                return Ok(ExitCode::SUCCESS);
            }
            other => other?,
        };
        if self.json {
            let stacks = folded.stacks.iter().map(|(stack, weight)| Line { stack, weight: *weight }).collect();
            let value = Folded { metric: folded.metric, scope: &folded.scope, total: folded.total, stacks };
            return print_json(out, &value);
        }
        if self.collapsed {
            folded.write_lines(out)?;
            return Ok(ExitCode::SUCCESS);
        }
        let path = self.output.unwrap_or_else(|| self.trace.with_extension("svg"));
        if path.as_os_str() == "-" {
            folded.draw(out)?;
            return Ok(ExitCode::SUCCESS);
        }
        super::is_not_the_trace(&path, &self.trace)?;
        output::write(&path, |file| Ok(folded.draw(file)?))?;
        for doubt in analyzer::doubt::doubts(&replayed.trace, &replayed.outcome) {
            eprintln!("heaptape: warning: {}", doubt.sentence);
        }
        eprintln!("heaptape: wrote {} ({})", path.display(), folded.title());
        Ok(ExitCode::SUCCESS)
    }
}
