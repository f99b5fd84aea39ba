//! `heaptape doctor`: can this machine record, where would probes stand, and at what cost.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use probe_collector::survey::{self, FilePlan, LeftOut, PlannedProbe, ResultProbes, Survey};
use serde::Serialize;

/// Say whether this machine can record, and where probes would stand in a program.
///
/// Exit code 0 when it can, 4 when it cannot.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show the probe plan for this program's file (its own allocator functions, if it has some) [default: the C library]
    #[arg(value_name = "PROGRAM")]
    program: Option<std::path::PathBuf>,
    /// Print JSON: `{can_record, reason, kernel, link_kind, file, probe_plan[], left_out[]}`
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
    left_out: Vec<LeftOutRow<'a>>,
}

#[derive(Serialize)]
struct Row<'a> {
    symbol: &'a str,
    allocator: &'a str,
    chosen_at_run_time: bool,
    instruction_offset: u32,
    instruction: &'a str,
    emulated: bool,
    result: &'static str,
    ret_instructions: usize,
    reason: &'a str,
}

impl<'a> Row<'a> {
    fn of(probe: &'a PlannedProbe) -> Self {
        let (result, ret_instructions) = match probe.result {
            ResultProbes::None => ("none", 0),
            ResultProbes::Return => ("return", 0),
            ResultProbes::RetInstructions(count) => ("ret_instructions", count),
        };
        Self {
            symbol: &probe.symbol,
            allocator: probe.allocator,
            chosen_at_run_time: probe.is_chosen_at_run_time,
            instruction_offset: probe.instruction_offset,
            instruction: &probe.instruction,
            emulated: probe.emulated,
            result,
            ret_instructions,
            reason: &probe.reason,
        }
    }
}

#[derive(Serialize)]
struct LeftOutRow<'a> {
    symbol: &'a str,
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
        let code = if refusal.is_none() { ExitCode::SUCCESS } else { ExitCode::from(4) };
        if self.json {
            let report = Report {
                can_record: refusal.is_none(),
                reason: refusal.as_deref(),
                kernel: &kernel,
                link_kind: link_kind.as_deref(),
                file: file.display().to_string(),
                probe_plan: plan.probes.iter().map(Row::of).collect(),
                left_out: plan
                    .left_out
                    .iter()
                    .map(|left| LeftOutRow { symbol: &left.name, reason: &left.reason })
                    .collect(),
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
        show(out, &plan)?;
        Ok(code)
    }
}

fn show(out: &mut impl Write, FilePlan { probes, left_out }: &FilePlan) -> io::Result<()> {
    if probes.is_empty() && left_out.is_empty() {
        writeln!(out, "  no allocator functions (they are in its libraries, or its allocator is static and stripped)")?;
    } else if probes.is_empty() {
        writeln!(out, "  none: it has no allocator of its own")?;
    }
    let names = probes.iter().map(|probe| &probe.symbol).chain(left_out.iter().map(|left| &left.name));
    let width = names.map(String::len).max().unwrap_or(0);
    for probe in probes {
        let offset = format!("+{}", probe.instruction_offset);
        let cost = if probe.emulated { "emulated" } else { "single-stepped: dear" };
        let result = match probe.result {
            ResultProbes::None => "no result".to_owned(),
            ResultProbes::Return => "return probe".to_owned(),
            ResultProbes::RetInstructions(1) => "1 ret".to_owned(),
            ResultProbes::RetInstructions(count) => format!("{count} rets"),
        };
        let instruction = &probe.instruction;
        write!(out, "  {:width$}  {offset:>5}  {instruction:<28}  {cost:<20}  {result:<12}  ", probe.symbol)?;
        let choice = if probe.is_chosen_at_run_time { "if a program chooses it (IFUNC): " } else { "" };
        writeln!(out, "{choice}{}", probe.reason)?;
    }
    if !left_out.is_empty() {
        writeln!(out, "\nLeft out:")?;
    }
    for LeftOut { name, reason } in left_out {
        writeln!(out, "  {name:width$}  {reason}")?;
    }
    Ok(())
}
