//! `heaptape doctor`: can this machine record, where would probes stand, and at what cost.

use std::{io::Write, process::ExitCode};

use probe_collector::survey::{self, Survey};
use serde::Serialize;

/// Say whether this machine can record, and where probes would stand in a program.
///
/// Exit code 0 when it can, 4 when it cannot.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show the probe plan for this program's file (its own allocator functions, if it has some) [default: the C library]
    #[arg(value_name = "PROGRAM")]
    program: Option<std::path::PathBuf>,
    /// Print JSON: `{can_record, reason, kernel, link_kind, probe_plan[]}`
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'a> {
    can_record: bool,
    reason: Option<&'a str>,
    kernel: &'a str,
    link_kind: Option<&'a str>,
    file: String,
    probe_plan: Vec<Row<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    symbol: &'a str,
    instruction_offset: Option<u32>,
    instruction: &'a str,
    emulated: bool,
    reason: &'a str,
}

impl Args {
    pub(crate) fn run(self, out: &mut impl Write) -> anyhow::Result<ExitCode> {
        let Survey { kernel, refusal, link_kind } = survey::machine();
        let file = match self.program {
            Some(program) => program,
            None => survey::c_library()?,
        };
        let plan = survey::plan(&file)?;
        let rows: Vec<Row<'_>> = plan
            .iter()
            .map(|probe| Row {
                symbol: &probe.symbol,
                instruction_offset: probe.instruction_offset,
                instruction: &probe.instruction,
                emulated: probe.emulated,
                reason: &probe.reason,
            })
            .collect();
        let code = if refusal.is_none() { ExitCode::SUCCESS } else { ExitCode::from(4) };
        if self.json {
            let report = Report {
                can_record: refusal.is_none(),
                reason: refusal.as_deref(),
                kernel: &kernel,
                link_kind: link_kind.as_deref(),
                file: file.display().to_string(),
                probe_plan: rows,
            };
            serde_json::to_writer_pretty(&mut *out, &report)?;
            writeln!(out)?;
            return Ok(code);
        }
        match (&refusal, &link_kind) {
            (None, Some(kind)) => writeln!(out, "This machine can record (Linux {kernel}, {kind} probes).")?,
            (None, None) => writeln!(out, "This machine can record (Linux {kernel}).")?,
            (Some(reason), _) => writeln!(out, "This machine cannot record: {reason}")?,
        }
        writeln!(out, "\nProbes in {}:", file.display())?;
        if rows.is_empty() {
            writeln!(
                out,
                "  no allocator functions (they are in its libraries, or its allocator is static and stripped)"
            )?;
        }
        let width = rows.iter().map(|row| row.symbol.len()).max().unwrap_or(0);
        for row in &rows {
            let offset = row.instruction_offset.map_or_else(|| "–".to_owned(), |offset| format!("+{offset}"));
            let cost = if row.instruction_offset.is_none() {
                "not placed"
            } else if row.emulated {
                "emulated"
            } else {
                "single-stepped: dear"
            };
            writeln!(out, "  {:width$}  {offset:>5}  {:<28}  {cost:<20}  {}", row.symbol, row.instruction, row.reason)?;
        }
        Ok(code)
    }
}
