//! A trace at a glance, as text: what ran, how well it was recorded, what it did, where the probes stood, what it cost.

use std::io::{self, Write};

use super::screen::{Screen, Style};
use super::table::Table;
use super::width::shorten;
use crate::info::{Capture, Figures, Info, Overhead, ProbeInfo, ProcessInfo};
use crate::names::base_name;
use crate::stacks::{StackFigures, Stacks};
use crate::units::{at_time, bytes, count, duration, plural, share};

/// Processes listed; `--json` lists all.
const PROCESSES_SHOWN: usize = 40;
/// Names of losses listed.
const LOSSES_SHOWN: usize = 10;

/// Prints everything.
///
/// # Errors
/// I/O.
pub fn info(out: &mut impl Write, screen: &Screen, info: &Info) -> io::Result<()> {
    summary(out, screen, info)?;
    domains(out, screen, info)?;
    processes(out, screen, info)?;
    stacks(out, screen, &info.stacks)?;
    probes(out, screen, &info.capture.probe_plan)?;
    cost(out, screen, &info.capture)
}

/// Prints what ran, how well it was recorded, and the totals.
///
/// # Errors
/// I/O.
pub fn summary(out: &mut impl Write, screen: &Screen, info: &Info) -> io::Result<()> {
    let recording = &info.recording;
    let title = match recording.attached_pid {
        Some(pid) => format!("attached to pid {pid}"),
        None => shell_words(&recording.command),
    };
    writeln!(out, "{}", screen.paint(Style::Strong, &shorten(&title, screen.columns)))?;
    let mut facts = Facts { out, screen };
    facts.line(
        "trace",
        &format!(
            "{} · {} · {} · {:.2} B/event",
            info.file.path,
            bytes(info.file.bytes),
            plural(info.file.events, "event", "events"),
            info.file.bytes_per_event
        ),
    )?;
    let length = match (recording.wall_ns, &recording.end) {
        (Some(wall_ns), Some(end)) if wall_ns > 0 => format!("for {}, until {end}", duration(wall_ns)),
        _ => format!("for at least {}, cut off", duration(recording.event_span_ns)),
    };
    facts.line("recorded", &format!("{} {length}", recording.start_utc))?;
    facts.line(
        "by",
        &format!(
            "heaptape {} on Linux {} {}, {}",
            recording.recorder,
            recording.kernel,
            recording.machine,
            plural(u64::from(recording.cpu_count), "CPU", "CPUs")
        ),
    )?;
    if !recording.options.is_empty() {
        facts.line("options", &recording.options.join(" "))?;
    }
    capture(out, screen, &info.capture)?;
    screen.doubts(out, &info.doubts)?;
    for warning in &info.capture.warnings {
        screen.paragraph(out, "  ! ", Style::Warning, warning)?;
    }
    totals(out, screen, info)
}

struct Facts<'a, W> {
    out: &'a mut W,
    screen: &'a Screen,
}

impl<W: Write> Facts<'_, W> {
    fn line(&mut self, name: &str, text: &str) -> io::Result<()> {
        let text = shorten(text, self.screen.columns.saturating_sub(13));
        let padding = " ".repeat(11_usize.saturating_sub(name.len()));
        writeln!(
            self.out,
            "  {}{padding}{}",
            self.screen.paint(Style::Faint, name),
            self.screen.paint(Style::Plain, &text)
        )
    }
}

fn capture(out: &mut impl Write, screen: &Screen, capture: &Capture) -> io::Result<()> {
    if capture.loss_free {
        let text = "complete and loss-free (ring failures, missed runs, imbalance, impossibilities: 0)";
        return writeln!(out, "  {}    {}", screen.paint(Style::Faint, "capture"), screen.paint(Style::Good, text));
    }
    let text = format!("not loss-free: {}", capture.not_loss_free_because.join("; "));
    writeln!(out, "  {}    {}", screen.paint(Style::Faint, "capture"), screen.paint(Style::Warning, &text))?;
    if capture.losses.is_empty() {
        return Ok(());
    }
    let mut table = Table::new(&[">lost at", ">sequence", ">CPU", ">births", ">deaths", ">others"]);
    for loss in capture.losses.iter().take(LOSSES_SHOWN) {
        table.row([
            at_time(loss.first_ns),
            count(loss.sequence),
            loss.cpu.to_string(),
            count(loss.alloc_count),
            count(loss.free_count),
            count(loss.other_count),
        ]);
    }
    writeln!(out)?;
    table.write(out, screen)?;
    if capture.gap_count > LOSSES_SHOWN as u64 {
        let more = format!("and {} more gaps", count(capture.gap_count - LOSSES_SHOWN as u64));
        writeln!(out, "  {}", screen.paint(Style::Faint, &more))?;
    }
    Ok(())
}

fn totals(out: &mut impl Write, screen: &Screen, info: &Info) -> io::Result<()> {
    let totals = &info.totals;
    let mut remark = format!("of {}", joined(&totals.counted_domains));
    if !totals.on_top_domains.is_empty() {
        remark = format!("{remark}; on top of these and not counted again: {}", joined(&totals.on_top_domains));
    }
    screen.heading(out, "Totals", &remark)?;
    let Figures { counts, .. } = totals.figures;
    let mut line = |name: &str, value: String, remark: String, style| -> io::Result<()> {
        let padding = " ".repeat(30_usize.saturating_sub(name.chars().count() + value.chars().count()));
        let remark = shorten(&remark, screen.columns.saturating_sub(34));
        let text = format!("  {name}{padding}{}  {}", screen.paint(style, &value), screen.paint(Style::Faint, &remark));
        writeln!(out, "{}", text.trim_end())
    };
    let average = counts.alloc_bytes.checked_div(counts.alloc_count + counts.realloc_count).unwrap_or(0);
    line("allocs", count(counts.alloc_count), String::new(), Style::Strong)?;
    line("reallocs", count(counts.realloc_count), String::new(), Style::Strong)?;
    line("frees", count(counts.free_count), String::new(), Style::Strong)?;
    line(
        "requested",
        bytes(counts.alloc_bytes),
        format!("{} by allocs and reallocs, {average} on average", plural(counts.alloc_bytes, "byte", "bytes")),
        Style::Strong,
    )?;
    let figures = &totals.figures;
    line(
        "peak",
        bytes(figures.peak_live_bytes),
        format!(
            "in {} at {} (sequence {})",
            plural(figures.peak_live_count, "block", "blocks"),
            at_time(figures.peak_time_ns),
            count(figures.peak_sequence)
        ),
        Style::Strong,
    )?;
    let survivors = format!("in {}", plural(figures.live_at_end_count, "block", "blocks"));
    line("live at end", bytes(figures.live_at_end_bytes), survivors, Style::Strong)?;
    let rare = [
        ("failed requests", counts.failed_count, "returned NULL; nothing was allocated", Style::Plain),
        (
            "frees before recording",
            counts.free_before_recording_count,
            "of blocks that were never seen born",
            Style::Plain,
        ),
        (
            "frees of dead blocks",
            counts.free_of_dead_count,
            "counted apart, as glibc does at thread exit",
            Style::Plain,
        ),
        ("unfinished reallocs", counts.unfinished_realloc_count, "began and never returned", Style::Warning),
        ("missed frees", counts.missed_free_count, "inferred from an address given out again", Style::Warning),
        ("lost events", figures.lost_count.unwrap_or(0), "see above", Style::Warning),
    ];
    for (name, value, remark, style) in rare.into_iter().filter(|(_, value, ..)| *value > 0) {
        line(name, count(value), remark.to_owned(), style)?;
    }
    Ok(())
}

fn figure_cells(figures: &Figures) -> [String; 6] {
    let counts = &figures.counts;
    [
        count(counts.alloc_count),
        count(counts.realloc_count),
        count(counts.free_count),
        bytes(counts.alloc_bytes),
        bytes(figures.peak_live_bytes),
        bytes(figures.live_at_end_bytes),
    ]
}

fn domains(out: &mut impl Write, screen: &Screen, info: &Info) -> io::Result<()> {
    screen.heading(out, "Allocators", "")?;
    let mut table = Table::new(&[
        "name",
        ">layer",
        ">allocs",
        ">reallocs",
        ">frees",
        ">requested",
        ">peak",
        ">live at end",
        "module",
    ]);
    for domain in &info.domains {
        let [allocs, reallocs, frees, requested, peak, live] = figure_cells(&domain.figures);
        let layer = if domain.in_totals { "0".to_owned() } else { format!("{} (on top)", domain.layer) };
        table.row([domain.name.clone(), layer, allocs, reallocs, frees, requested, peak, live, domain.module.clone()]);
    }
    table.write(out, screen)
}

fn processes(out: &mut impl Write, screen: &Screen, info: &Info) -> io::Result<()> {
    let all = &info.processes;
    let title = if all.len() == 1 { "Process".to_owned() } else { format!("Processes ({})", count(all.len() as u64)) };
    screen.heading(out, &title, "")?;
    let mut table = Table::new(&[
        ">pid",
        "how",
        ">allocs",
        ">reallocs",
        ">frees",
        ">requested",
        ">peak",
        ">live at end",
        "command",
    ]);
    for process in all.iter().take(PROCESSES_SHOWN) {
        let [allocs, reallocs, frees, requested, peak, live] = figure_cells(&process.figures);
        let pid = process.pid.to_string();
        table.row([pid, life(process), allocs, reallocs, frees, requested, peak, live, shell_words(&process.command)]);
        table.note(heap_note(process, all));
    }
    table.write(out, screen)?;
    if all.len() > PROCESSES_SHOWN {
        let more = format!("and {} more: see --json", count((all.len() - PROCESSES_SHOWN) as u64));
        writeln!(out, "  {}", screen.paint(Style::Faint, &more))?;
    }
    Ok(())
}

/// `launch → exit 0`.
fn life(process: &ProcessInfo) -> String {
    let end = match (process.end, process.exit_status, process.signal) {
        (_, Some(status), _) => format!("exit {status}"),
        (_, _, Some(signal)) => format!("signal {signal}"),
        (Some("still_running"), ..) => "still running".to_owned(),
        (Some(end), ..) => end.to_owned(),
        (None, ..) => "?".to_owned(),
    };
    format!("{} → {end}", process.origin)
}

fn heap_note(process: &ProcessInfo, all: &[ProcessInfo]) -> String {
    if let Some(owner) = process.heap_of_id.and_then(|owner| all.get(owner as usize)) {
        return format!("shares the heap of pid {}, where all of it is counted", owner.pid);
    }
    let inherited = &process.inherited;
    if inherited.start_count == 0 {
        return String::new();
    }
    format!(
        "inherited {} in {} by fork, {} of them live at the end; not counted above",
        bytes(inherited.start_bytes),
        plural(inherited.start_count, "block", "blocks"),
        count(inherited.live_at_end_count)
    )
}

/// Probes of the same place in several processes are one line.
fn probes(out: &mut impl Write, screen: &Screen, plan: &[ProbeInfo]) -> io::Result<()> {
    if plan.is_empty() {
        return Ok(());
    }
    let mut lines: Vec<(&ProbeInfo, u64)> = Vec::new();
    for probe in plan {
        let same = |other: &ProbeInfo| ProbeInfo { pid: other.pid, ..probe.clone() } == *other;
        match lines.iter_mut().find(|(other, _)| same(other)) {
            Some((_, times)) => *times += 1,
            None => lines.push((probe, 1)),
        }
    }
    let placed = plan.iter().filter(|probe| probe.placed).count() as u64;
    let stepped = plan.iter().filter(|probe| probe.placed && !probe.emulated).count() as u64;
    let mut remark = format!("{} placed, {} not", count(placed), count(plan.len() as u64 - placed));
    if stepped > 0 {
        remark = format!("{remark}; {} single-stepped", count(stepped));
    }
    screen.heading(out, "Probe plan", &remark)?;
    let mut table = Table::new(&["function", "in", ">offset", "instruction", "how", "result", ">×", "reason"]);
    for (probe, times) in lines {
        let how = match (probe.placed, probe.emulated) {
            (false, _) => ("not placed", Style::Warning),
            (true, true) => ("emulated", Style::Plain),
            (true, false) => ("single-stepped", Style::Warning),
        };
        let result = match probe.result {
            "return" => "return probe",
            "ret_instructions" => "probes on ret",
            _ => "–",
        };
        table.styled_row([
            (probe.symbol.clone(), Style::Plain),
            (base_name(&probe.module).to_owned(), Style::Plain),
            (format!("{:#x}+{}", probe.function_offset, probe.instruction_offset), Style::Plain),
            (probe.instruction.clone(), Style::Plain),
            (how.0.to_owned(), how.1),
            (result.to_owned(), Style::Plain),
            (count(times), Style::Faint),
            (probe.reason.clone(), Style::Faint),
        ]);
    }
    table.write(out, screen)
}

fn cost(out: &mut impl Write, screen: &Screen, capture: &Capture) -> io::Result<()> {
    let Some(cost) = &capture.overhead else { return Ok(()) };
    screen.heading(out, "Cost of recording", "")?;
    let mut facts = Facts { out, screen };
    let Overhead { recorder_cpu_ns, target_cpu_ns, backpressure_stop_count, backpressure_ns, .. } = *cost;
    facts.line("target", &format!("{} CPU, probes included", duration(target_cpu_ns)))?;
    facts.line(
        "recorder",
        &format!("{} CPU, start-up included, {}", duration(recorder_cpu_ns), relation(recorder_cpu_ns, target_cpu_ns)),
    )?;
    match (cost.program_ns, cost.program_run_count) {
        (Some(program_ns), Some(runs)) => {
            let average = program_ns.checked_div(runs).unwrap_or(0);
            facts.line("programs", &format!("{} in {} runs, {average} ns each", duration(program_ns), count(runs)))?;
        }
        _ => facts.line("programs", "not measured (sysctl kernel.bpf_stats_enabled=1 measures them)")?,
    }
    let stops = match backpressure_stop_count {
        0 => "never stopped the target".to_owned(),
        stops => format!("stopped threads {} for {}", plural(stops, "time", "times"), duration(backpressure_ns)),
    };
    facts.line("pressure", &stops)
}

/// How well stacks were taken, and what that cost.
fn stacks(out: &mut impl Write, screen: &Screen, stacks: &Stacks) -> io::Result<()> {
    let taken = |figures: &StackFigures| figures.complete + figures.truncated;
    if taken(&stacks.alloc) + taken(&stacks.free) == 0 {
        return Ok(());
    }
    screen.heading(out, "Stacks", "")?;
    let mut facts = Facts { out, screen };
    for (name, figures) in [("allocs", &stacks.alloc), ("frees", &stacks.free)] {
        facts.line(name, &stack_line(figures))?;
    }
    if let Some(unwinding) = &stacks.unwinding {
        let walk = unwinding
            .walk_ns
            .map_or(String::new(), |ns| format!("{} a walk (timed now and then); ", duration(ns as u64)));
        facts.line(
            "unwinding",
            &format!(
                "{walk}{} with {} in {} of kernel memory, ready in {}",
                plural(unwinding.table_count, "table", "tables"),
                plural(unwinding.row_count, "row", "rows"),
                bytes(unwinding.kernel_bytes),
                duration(unwinding.build_ns)
            ),
        )?;
    }
    Ok(())
}

fn stack_line(figures: &StackFigures) -> String {
    let taken = figures.complete + figures.truncated;
    if taken == 0 {
        return format!("none taken of {}", count(figures.events));
    }
    let mut line = format!("{} of {} reach their root", share(figures.complete, taken), count(taken));
    if let Some(depth) = figures.mean_depth {
        line.push_str(&format!(", {depth:.1} frames each"));
    }
    let reasons: Vec<String> = figures
        .truncated_by_reason
        .iter()
        .map(|(reason, events)| format!("{} at {}", count(*events), reason_in_words(reason)))
        .collect();
    if !reasons.is_empty() {
        line.push_str(&format!("; cut short: {}", reasons.join(", ")));
    }
    if figures.not_taken > 0 {
        line.push_str(&format!("; {} without a stack", count(figures.not_taken)));
    }
    line
}

/// Where a stack was cut short.
fn reason_in_words(reason: &str) -> &str {
    match reason {
        "too-deep" => "the depth limit",
        "unreadable" => "memory that could not be read",
        "no-rule" => "code without unwind information",
        "unknown-code" => "code of no file",
        "unsupported" => "unusual unwind information",
        "foreign-probe" => "another tool's return probe",
        "no-room" => "too many threads at once",
        other => other,
    }
}

fn joined(names: &[String]) -> String {
    if names.is_empty() { "no allocator".to_owned() } else { names.join(", ") }
}

/// A command as a shell would read it.
fn shell_words(command: &[String]) -> String {
    let plain = |letter: char| letter.is_alphanumeric() || "-_=+./:,@%^".contains(letter);
    let quoted = command.iter().map(|word| match word.chars().all(plain) && !word.is_empty() {
        true => word.clone(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    });
    quoted.collect::<Vec<_>>().join(" ")
}

/// One CPU time beside another.
fn relation(recorder_ns: u64, target_ns: u64) -> String {
    if recorder_ns > 2 * target_ns && target_ns > 0 {
        format!("{:.0} times the target's", recorder_ns as f64 / target_ns as f64)
    } else {
        format!("{} of the target's", share(recorder_ns, target_ns).trim())
    }
}
