//! `heaptape verify`: is a trace whole.

use std::{io::Write, process::ExitCode};

use serde::Serialize;

use super::{TracePath, print_json};

/// Check a trace to its last byte and say what is missing.
///
/// Exit code 0 where the trace can be read, whole or not; 3 where it cannot.
#[derive(Debug, clap::Args)]
#[command(after_help = "JSON (stable): schema, complete, has_tail, salvaged, events, missing_events, chunks, bytes, \
    problems[].{offset, what, missing_events}.")]
pub(crate) struct Args {
    /// The trace
    trace: TracePath,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report {
    schema: u32,
    complete: bool,
    has_tail: bool,
    salvaged: bool,
    events: u64,
    missing_events: u64,
    chunks: usize,
    bytes: u64,
    problems: Vec<Problem>,
}

#[derive(Serialize)]
struct Problem {
    offset: u64,
    what: String,
    missing_events: Option<u64>,
}

impl Args {
    pub(crate) fn run(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let report = trace_format::verify::verify(&self.trace)?;
        if !self.json {
            writeln!(out, "{}", report.to_string().trim_end())?;
            return Ok(ExitCode::SUCCESS);
        }
        let problem = |problem: trace_format::Problem| Problem {
            offset: problem.offset,
            what: problem.what,
            missing_events: problem.missing_event_count,
        };
        let report = Report {
            schema: 1,
            complete: report.complete,
            has_tail: report.has_tail,
            salvaged: report.salvaged,
            events: report.event_count,
            missing_events: report.missing_event_count,
            chunks: report.chunk_count,
            bytes: report.file_bytes,
            problems: report.problems.into_iter().map(problem).collect(),
        };
        print_json(out, &report)
    }
}
