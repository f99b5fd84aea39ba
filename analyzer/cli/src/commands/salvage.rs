//! `heaptape salvage`: a whole trace from a damaged one.

use std::{io::Write, path::PathBuf, process::ExitCode};

use serde::Serialize;

use super::{TracePath, print_json};

/// Write a whole trace from what is readable of a damaged or unfinished one.
#[derive(Debug, clap::Args)]
#[command(after_help = "JSON (stable): schema, output, events, missing_events, bytes, problems[].")]
pub(crate) struct Args {
    /// The damaged trace
    trace: TracePath,
    /// The trace to write [default: NAME.salvaged.htape]
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Salvaged {
    schema: u32,
    output: String,
    events: u64,
    missing_events: u64,
    bytes: u64,
    problems: Vec<String>,
}

impl Args {
    pub(crate) fn run(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let output = self.output.unwrap_or_else(|| self.trace.with_extension("salvaged.htape"));
        let salvaged = trace_format::salvage::salvage_into(&self.trace, &output, crate::output::open)?;
        let report = Salvaged {
            schema: 1,
            output: output.display().to_string(),
            events: salvaged.event_count,
            missing_events: salvaged.missing_event_count,
            bytes: salvaged.file_bytes,
            problems: salvaged
                .problems
                .iter()
                .map(|problem| format!("offset {}: {}", problem.offset, problem.what))
                .collect(),
        };
        if self.json {
            return print_json(out, &report);
        }
        for problem in &report.problems {
            writeln!(out, "{problem}")?;
        }
        writeln!(out, "{} events saved in {} ({} bytes)", report.events, report.output, report.bytes)?;
        if report.missing_events > 0 {
            writeln!(out, "{} events are known to be missing", report.missing_events)?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
