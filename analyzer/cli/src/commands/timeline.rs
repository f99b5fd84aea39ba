//! `heaptape timeline`: live bytes over time.

use std::io::{IsTerminal as _, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use super::profiles::{PhaseArgs, Studied, studied};
use super::{TracePath, print_json};
use crate::{output, terminal};

/// Live bytes over time, stacked by the phase they were born in, with the phases below
#[derive(Debug, clap::Args)]
#[command(after_help = "Draws into the terminal, or an SVG next to the trace if the output is no terminal.\n\
    JSON (stable): schema, span_ns, bin_ns, layers[] (paths of birth phases, the last one: (outside)), bins[][] (live bytes of \
    each layer at the end of the bin), max_bytes[], peak_bytes, peak_ns, bands[].{tid, thread, depth, name, begin_ns, end_ns, \
    instances}, sources[], doubts[].{kind, sentence}. Times are ns since the recording began.")]
pub(crate) struct Args {
    /// The trace
    trace: TracePath,
    /// Write an SVG here; `-` is standard output
    #[arg(short, long, value_name = "FILE", conflicts_with = "terminal")]
    output: Option<PathBuf>,
    /// Draw into the terminal
    #[arg(long)]
    terminal: bool,
    #[command(flatten)]
    phases: PhaseArgs,
    /// Print JSON
    #[arg(long, conflicts_with_all = ["output", "terminal"])]
    json: bool,
}

impl Args {
    pub(crate) fn run(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let Studied { trace, study, .. } = studied(&self.trace, &self.phases)?;
        let chart = analyzer::lifetimes::chart(&trace, &study);
        if self.json {
            return print_json(out, &chart);
        }
        if self.terminal || self.output.is_none() && std::io::stdout().is_terminal() {
            analyzer::report::timeline(out, &terminal::screen(), &chart)?;
            return Ok(ExitCode::SUCCESS);
        }
        let title = trace.header.command.join(" ");
        let path = self.output.unwrap_or_else(|| self.trace.with_extension("timeline.svg"));
        if path.as_os_str() == "-" {
            analyzer::report::timeline_svg(out, &chart, &title)?;
            return Ok(ExitCode::SUCCESS);
        }
        super::is_not_the_trace(&path, &self.trace)?;
        output::write(&path, |file| Ok(analyzer::report::timeline_svg(file, &chart, &title)?))?;
        for doubt in &chart.doubts {
            eprintln!("heaptape: warning: {}", doubt.sentence);
        }
        eprintln!("heaptape: wrote {}", path.display());
        Ok(ExitCode::SUCCESS)
    }
}
