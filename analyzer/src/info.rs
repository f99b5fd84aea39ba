//! What a trace says at a glance. Responsible for gathering facts, figures and costs into one result; not for printing.

use serde::Serialize;
use trace_format::{EndReason, Origin, ProcessId, ResultProbe, Tables, Trace};

use crate::doubt::{Doubt, doubts};
use crate::replay::{Account, Amount, Anomaly, Counts, Loss, Outcome, ProcessOutcome};
use crate::stacks::Stacks;
use crate::units::utc;

/// Everything `heaptape info` shows. This is what `--json` prints; see the fields of each part.
#[derive(Debug, Clone, Serialize)]
pub struct Info {
    /// Version of this interface; rises when a field changes its meaning or goes away.
    pub schema: u32,
    /// The file.
    pub file: FileFacts,
    /// What was recorded, where and when.
    pub recording: Recording,
    /// How well it was recorded, and at what cost.
    pub capture: Capture,
    /// How well stacks were taken.
    pub stacks: Stacks,
    /// All processes, backing allocators only.
    pub totals: Totals,
    /// Each allocator, over all processes.
    pub domains: Vec<DomainInfo>,
    /// Each process image.
    pub processes: Vec<ProcessInfo>,
    /// Why figures may be wrong, in sentences.
    pub doubts: Vec<Doubt>,
}

/// The trace file.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FileFacts {
    /// Its path.
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Events that can be read.
    pub events: u64,
    /// Size by events.
    pub bytes_per_event: f64,
}

/// What was recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Recording {
    /// heaptape version that recorded.
    pub recorder: String,
    /// Kernel release.
    pub kernel: String,
    /// Machine.
    pub machine: String,
    /// Processors online.
    pub cpu_count: u32,
    /// Start, in nanoseconds since the Unix epoch.
    pub start_unix_ns: u64,
    /// The same as a date.
    pub start_utc: String,
    /// Command launched; empty for attach.
    pub command: Vec<String>,
    /// Pid attached to; null for launch.
    pub attached_pid: Option<u32>,
    /// Options, as `name=value`.
    pub options: Vec<String>,
    /// Wall time; null if the recording was cut off.
    pub wall_ns: Option<u64>,
    /// Time from the first to the last event.
    pub event_span_ns: u64,
    /// Why the recording ended; null if it was cut off.
    pub end: Option<String>,
}

/// How well it was recorded.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Capture {
    /// The recorder ended the trace itself and nothing in the file is damaged.
    pub complete: bool,
    /// Nothing was lost: complete, and ring failures, missed runs, imbalance and impossibilities are all zero.
    pub loss_free: bool,
    /// Which of these are not, one sentence each.
    pub not_loss_free_because: Vec<String>,
    /// The file has its tail.
    pub has_tail: bool,
    /// The file was written by `heaptape salvage`.
    pub salvaged: bool,
    /// Damage in the file.
    pub problems: Vec<ProblemInfo>,
    /// Events known to be missing from the file.
    pub missing_event_count: u64,
    /// Gaps in the recording, located; at most 1,000.
    pub losses: Vec<Loss>,
    /// All gaps.
    pub gap_count: u64,
    /// Births in all gaps.
    pub lost_alloc_count: u64,
    /// Deaths in all gaps.
    pub lost_free_count: u64,
    /// Other events in all gaps.
    pub lost_other_count: u64,
    /// Events that cannot be, by kind.
    pub anomalies: Vec<Anomaly>,
    /// Operations of a newer version.
    pub unknown_operation_count: u64,
    /// What the recorder counted; null if the recording was cut off.
    pub counters: Option<Counters>,
    /// What the recorder wants known.
    pub warnings: Vec<String>,
    /// Every probe.
    pub probe_plan: Vec<ProbeInfo>,
    /// What recording cost; null if the recording was cut off.
    pub overhead: Option<Overhead>,
}

/// Damage in the file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProblemInfo {
    /// Where.
    pub offset: u64,
    /// What.
    pub what: String,
    /// Events missing because of it; null where unknown.
    pub missing_event_count: Option<u64>,
}

/// What the recorder counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Ring reservations that failed.
    pub ring_failure_count: u64,
    /// Program runs the kernel skipped.
    pub missed_run_count: u64,
    /// Begins and ends of calls that do not balance.
    pub imbalance: u64,
    /// Births at a live address.
    pub impossible_count: u64,
    /// Probed calls begun.
    pub call_begin_count: u64,
    /// Returns seen for them.
    pub call_return_count: u64,
    /// Calls whose frame was gone.
    pub call_abandoned_count: u64,
    /// Calls pending at the end.
    pub call_pending_count: u64,
    /// Returns of calls in flight at attach.
    pub return_without_begin_count: u64,
    /// Calls inside a call of the same allocator: no events.
    pub nested_call_count: u64,
}

/// What recording cost.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Overhead {
    /// CPU time of the recorder.
    pub recorder_cpu_ns: u64,
    /// CPU time of what was recorded.
    pub target_cpu_ns: u64,
    /// Recorder by target; null without a target time.
    pub recorder_share: Option<f64>,
    /// Time in our eBPF programs, part of the target's; null where the kernel does not keep it.
    pub program_ns: Option<u64>,
    /// Runs of our eBPF programs; null likewise.
    pub program_run_count: Option<u64>,
    /// Times a thread was stopped because the ring was nearly full.
    pub backpressure_stop_count: u64,
    /// Time threads were stopped.
    pub backpressure_ns: u64,
    /// Wall time of the recording.
    pub wall_ns: u64,
}

/// One probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProbeInfo {
    /// Pid of the process.
    pub pid: u32,
    /// File it stands in.
    pub module: String,
    /// Function it serves.
    pub symbol: String,
    /// File offset of the function.
    pub function_offset: u64,
    /// Bytes from the function's start to the probed instruction.
    pub instruction_offset: u32,
    /// The probed instruction.
    pub instruction: String,
    /// Whether the kernel emulates it (cheap) or single-steps it (dear).
    pub emulated: bool,
    /// How the result is read: `none`, `return`, `ret_instructions`.
    pub result: &'static str,
    /// Whether it was placed.
    pub placed: bool,
    /// Why here, or why not.
    pub reason: String,
}

/// Figures of one scope.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Figures {
    /// What happened.
    #[serde(flatten)]
    pub counts: Counts,
    /// Events lost in this scope; null where losses cannot be told apart by scope.
    pub lost_count: Option<u64>,
    /// Most requested bytes alive at once.
    pub peak_live_bytes: u64,
    /// Blocks alive then.
    pub peak_live_count: u64,
    /// Position of the event that made the peak.
    pub peak_sequence: u64,
    /// Its time.
    pub peak_time_ns: u64,
    /// Requested bytes alive when their process, or the recording, ended.
    pub live_at_end_bytes: u64,
    /// Blocks alive then.
    pub live_at_end_count: u64,
}

/// Figures over everything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Totals {
    /// The figures.
    #[serde(flatten)]
    pub figures: Figures,
    /// Allocators that are counted.
    pub counted_domains: Vec<String>,
    /// Allocators on top of those: counting them too would count memory twice.
    pub on_top_domains: Vec<String>,
}

/// One allocator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DomainInfo {
    /// Its name.
    pub name: String,
    /// File it is in.
    pub module: String,
    /// 0 takes memory from the kernel, above stands on another allocator.
    pub layer: u32,
    /// Whether totals count it.
    pub in_totals: bool,
    /// Its figures.
    #[serde(flatten)]
    pub figures: Figures,
}

/// One process image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProcessInfo {
    /// Its number in this trace; a pid names several images across exec.
    pub id: u32,
    /// Process id.
    pub pid: u32,
    /// Number of the image it came from; null for the first.
    pub parent_id: Option<u32>,
    /// `launch`, `attach`, `fork` or `exec`.
    pub origin: &'static str,
    /// File name of the executable.
    pub name: String,
    /// Argument list.
    pub command: Vec<String>,
    /// Whether it used its parent's heap (vfork): then everything it did is in the figures of `heap_of_id`.
    pub shares_heap: bool,
    /// Whose heap it used, if not its own.
    pub heap_of_id: Option<u32>,
    /// Threads seen.
    pub thread_count: u64,
    /// When it started; null if the trace does not say.
    pub start_ns: Option<u64>,
    /// When it ended; null if the trace does not say.
    pub end_ns: Option<u64>,
    /// `exited`, `signalled`, `exec`, `still_running`, or null if the trace does not say.
    pub end: Option<&'static str>,
    /// Exit status; null unless exited.
    pub exit_status: Option<i32>,
    /// Signal; null unless signalled.
    pub signal: Option<i32>,
    /// Blocks it got from its parent by fork. They are in no other figure.
    pub inherited: InheritedInfo,
    /// Its figures, backing allocators only.
    #[serde(flatten)]
    pub figures: Figures,
    /// Its counts by allocator, all of them.
    pub domains: Vec<ProcessDomain>,
}

/// Blocks inherited by fork.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct InheritedInfo {
    /// Bytes at the fork.
    pub start_bytes: u64,
    /// Blocks at the fork.
    pub start_count: u64,
    /// Bytes still alive at the end.
    pub live_at_end_bytes: u64,
    /// Blocks still alive at the end.
    pub live_at_end_count: u64,
}

/// Counts of one process and allocator.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProcessDomain {
    /// The allocator.
    pub name: String,
    /// Its counts.
    #[serde(flatten)]
    pub counts: Counts,
}

/// Gathers what there is to say of a trace.
pub fn info(trace: &Trace, outcome: &Outcome, stacks: Stacks) -> Info {
    let tables = &trace.tables;
    let lost_count = lost_count(trace, outcome);
    // With one process or one allocator there is no doubt whose events were lost.
    let lost_of = |scopes: usize| (lost_count == 0 || scopes == 1).then_some(lost_count);
    let backing = |layer_0: bool| -> Vec<String> {
        let chosen =
            tables.domains.iter().enumerate().filter(|(at, _)| outcome.layers.is_backing((*at).into()) == layer_0);
        chosen.map(|(_, domain)| domain.name.clone()).collect()
    };
    let mut thread_counts = vec![0; tables.processes.len()];
    for thread in &tables.threads {
        thread_counts[thread.process.index()] += 1;
    }
    let domains = tables.domains.iter().enumerate().map(|(at, domain)| DomainInfo {
        name: domain.name.clone(),
        module: tables.modules.get(domain.module.index()).map(|module| module.path.clone()).unwrap_or_default(),
        layer: outcome.layers.layer(at.into()),
        in_totals: outcome.layers.is_backing(at.into()),
        figures: figures(&outcome.domains[at], lost_of(tables.domains.len())),
    });
    let processes = outcome.processes.iter().enumerate().map(|(at, process)| {
        let lost_count = lost_of(tables.processes.len());
        process_info(tables, ProcessId::from(at), process, thread_counts[at], lost_count)
    });
    Info {
        schema: 1,
        file: FileFacts {
            path: trace.path.display().to_string(),
            bytes: trace.file_bytes,
            events: trace.event_count,
            bytes_per_event: crate::sites::ratio(trace.file_bytes, trace.event_count),
        },
        recording: recording(trace, outcome),
        capture: capture(trace, outcome),
        stacks,
        totals: Totals {
            figures: figures(&outcome.total, Some(lost_count)),
            counted_domains: backing(true),
            on_top_domains: backing(false),
        },
        domains: domains.collect(),
        processes: processes.collect(),
        doubts: doubts(trace, outcome),
    }
}

/// Events lost: as located in the trace, or as counted by the recorder where it counted more.
fn lost_count(trace: &Trace, outcome: &Outcome) -> u64 {
    let counted = trace.stats.as_ref().map_or(0, |stats| stats.ring_failure_count);
    outcome.losses.lost_count().max(counted)
}

fn figures(account: &Account, lost_count: Option<u64>) -> Figures {
    Figures {
        counts: account.counts,
        lost_count,
        peak_live_bytes: account.peak.bytes,
        peak_live_count: account.peak.count,
        peak_sequence: account.peak.sequence.0,
        peak_time_ns: account.peak.time_ns,
        live_at_end_bytes: account.at_end.bytes,
        live_at_end_count: account.at_end.count,
    }
}

fn recording(trace: &Trace, outcome: &Outcome) -> Recording {
    let header = &trace.header;
    Recording {
        recorder: header.recorder.clone(),
        kernel: header.kernel.clone(),
        machine: header.machine.clone(),
        cpu_count: header.cpu_count,
        start_unix_ns: header.start_unix_ns,
        start_utc: utc(header.start_unix_ns),
        command: header.command.clone(),
        attached_pid: (header.attached_pid != 0).then_some(header.attached_pid),
        options: header.options.clone(),
        wall_ns: trace.stats.as_ref().map(|stats| stats.wall_ns),
        event_span_ns: outcome.last_ns.saturating_sub(outcome.first_ns),
        end: trace.stats.as_ref().map(|stats| stats.end.clone()),
    }
}

fn capture(trace: &Trace, outcome: &Outcome) -> Capture {
    let stats = trace.stats.as_ref();
    let problems = trace.problems();
    let complete = trace.completeness.complete && problems.is_empty();
    let not_loss_free_because = not_loss_free_because(trace, outcome, complete);
    let program_stats = stats.filter(|stats| stats.program_run_count > 0);
    Capture {
        complete,
        loss_free: not_loss_free_because.is_empty(),
        not_loss_free_because,
        has_tail: trace.completeness.has_tail,
        salvaged: trace.completeness.salvaged,
        problems: problems
            .into_iter()
            .map(|problem| ProblemInfo {
                offset: problem.offset,
                what: problem.what,
                missing_event_count: problem.missing_event_count,
            })
            .collect(),
        missing_event_count: trace.completeness.missing_event_count,
        losses: outcome.losses.located.clone(),
        gap_count: outcome.losses.gap_count,
        lost_alloc_count: outcome.losses.alloc_count,
        lost_free_count: outcome.losses.free_count,
        lost_other_count: outcome.losses.other_count,
        anomalies: outcome.anomalies.clone(),
        unknown_operation_count: outcome.unknown_operation_count,
        counters: stats.map(|stats| Counters {
            ring_failure_count: stats.ring_failure_count,
            missed_run_count: stats.missed_run_count,
            imbalance: stats.imbalance(),
            impossible_count: stats.impossible_count,
            call_begin_count: stats.call_begin_count,
            call_return_count: stats.call_return_count,
            call_abandoned_count: stats.call_abandoned_count,
            call_pending_count: stats.call_pending_count,
            return_without_begin_count: stats.return_without_begin_count,
            nested_call_count: stats.nested_call_count,
        }),
        warnings: stats.map(|stats| stats.warnings.clone()).unwrap_or_default(),
        probe_plan: probe_plan(&trace.tables),
        overhead: stats.map(|stats| Overhead {
            recorder_cpu_ns: stats.recorder_cpu_ns,
            target_cpu_ns: stats.target_cpu_ns,
            recorder_share: (stats.target_cpu_ns > 0)
                .then(|| stats.recorder_cpu_ns as f64 / stats.target_cpu_ns as f64),
            program_ns: program_stats.map(|stats| stats.program_ns),
            program_run_count: program_stats.map(|stats| stats.program_run_count),
            backpressure_stop_count: stats.backpressure_stop_count,
            backpressure_ns: stats.backpressure_ns,
            wall_ns: stats.wall_ns,
        }),
    }
}

fn not_loss_free_because(trace: &Trace, outcome: &Outcome, complete: bool) -> Vec<String> {
    let mut reasons = Vec::new();
    if !complete {
        reasons.push("the trace is incomplete".to_owned());
    }
    let mut zero = |value: u64, what: &str| {
        if value != 0 {
            reasons.push(format!("{what}: {}", crate::units::count(value)));
        }
    };
    zero(outcome.losses.lost_count(), "events lost");
    zero(outcome.anomalies.iter().map(|anomaly| anomaly.count).sum(), "events that cannot be");
    zero(outcome.total.counts.missed_free_count, "missed frees");
    if let Some(stats) = &trace.stats {
        zero(stats.ring_failure_count, "ring failures");
        zero(stats.missed_run_count, "missed program runs");
        zero(stats.imbalance(), "calls that do not balance");
        zero(stats.impossible_count, "births at a live address");
    }
    reasons
}

fn probe_plan(tables: &Tables) -> Vec<ProbeInfo> {
    let plan = tables.probes.iter().map(|probe| ProbeInfo {
        pid: tables.processes.get(probe.process.index()).map_or(0, |process| process.pid),
        module: tables.modules.get(probe.module.index()).map(|module| module.path.clone()).unwrap_or_default(),
        symbol: probe.symbol.clone(),
        function_offset: probe.function_offset,
        instruction_offset: probe.instruction_offset,
        instruction: probe.instruction.clone(),
        emulated: probe.emulated,
        result: match probe.result {
            ResultProbe::None => "none",
            ResultProbe::Return => "return",
            ResultProbe::RetInstructions => "ret_instructions",
        },
        placed: probe.placed,
        reason: probe.reason.clone(),
    });
    plan.collect()
}

fn process_info(
    tables: &Tables,
    id: ProcessId,
    outcome: &ProcessOutcome,
    thread_count: u64,
    lost_count: Option<u64>,
) -> ProcessInfo {
    let process = &tables.processes[id.index()];
    let (end, exit_status, signal) = match outcome.end.map(|(_, reason)| reason) {
        // As `waitpid` encodes it: the low seven bits are the signal.
        Some(EndReason::Exit(status)) if status & 0x7f == 0 => (Some("exited"), Some(status >> 8 & 0xff), None),
        Some(EndReason::Exit(status)) => (Some("signalled"), None, Some(status & 0x7f)),
        Some(EndReason::Exec) => (Some("exec"), None, None),
        Some(EndReason::Detached) => (Some("still_running"), None, None),
        None => (None, None, None),
    };
    let Amount { bytes: start_bytes, count: start_count } = outcome.inherited.at_start;
    let Amount { bytes: live_at_end_bytes, count: live_at_end_count } = outcome.inherited.at_end;
    ProcessInfo {
        id: id.0,
        pid: process.pid,
        parent_id: process.parent.map(|parent| parent.0),
        origin: match process.origin {
            Origin::Launch => "launch",
            Origin::Attach => "attach",
            Origin::Fork => "fork",
            Origin::Exec => "exec",
        },
        name: process.name.clone(),
        command: process.command.clone(),
        shares_heap: process.shares_heap,
        heap_of_id: outcome.heap_of.map(|owner| owner.0),
        thread_count,
        start_ns: outcome.started.then_some(outcome.start_ns),
        end_ns: outcome.end.map(|(time_ns, _)| time_ns),
        end,
        exit_status,
        signal,
        inherited: InheritedInfo { start_bytes, start_count, live_at_end_bytes, live_at_end_count },
        figures: figures(&outcome.account, lost_count),
        domains: outcome
            .domains
            .iter()
            .map(|(domain, counts)| ProcessDomain {
                name: tables.domains.get(domain.index()).map(|domain| domain.name.clone()).unwrap_or_default(),
                counts: *counts,
            })
            .collect(),
    }
}
