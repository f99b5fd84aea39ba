//! Records a workload and checks what must hold of every loss-free recording: the planted truth exactly, a possible
//! order of events, nothing lost by any of the recorder's own counts, and `info` in agreement with a naive replay.
//! Responsible for these common claims; each test adds what is special to it.

use std::path::Path;

use trace_format::id::DomainId;

use crate::expected::differences;
use crate::observed::{Observed, Own, observe};
use crate::oracle::replay::Sums;
use crate::recorder::{Info, Record, Recording, Totals, info};
use crate::truth::Truth;
use crate::workload::built;

/// A recorded run of a workload, checked.
pub struct Checked {
    /// The recording.
    pub recording: Recording,
    /// What the workload planted.
    pub truth: Truth,
    /// What the trace shows.
    pub observed: Observed,
    /// What `info` says.
    pub info: Info,
}

/// A workload run to be recorded and checked.
pub struct Scenario<'a> {
    /// Workload.
    pub name: &'a str,
    /// Its arguments.
    pub arguments: &'a [&'a str],
    /// Shell status it must end with.
    pub status: i32,
    /// Variables for it.
    pub variables: &'a [(&'a str, &'a str)],
    /// Recorder options.
    pub options: &'a [&'a str],
    /// Which calls are its own; `None`: by modules, or in a static program by its section.
    pub own: Option<Own>,
}

impl<'a> Scenario<'a> {
    /// A workload without anything special.
    pub fn new(name: &'a str) -> Self {
        Self { name, arguments: &[], status: 0, variables: &[], options: &[], own: None }
    }

    /// Records it; checks nothing but its status and that the recorder had nothing to say.
    #[track_caller]
    pub fn record(&self) -> Recording {
        let command = std::iter::once(built(self.name).display().to_string())
            .chain(self.arguments.iter().map(|&argument| argument.to_owned()));
        let mut record = Record::new(command).options(&["--quiet"]).options(self.options);
        for (name, value) in self.variables {
            record = record.variable(name, value);
        }
        let recording = record.finish().expect_status(self.status);
        assert_eq!(recording.finished.stderr_text(), "", "with --quiet the recorder says only what is wrong");
        recording
    }

    /// Records it and checks everything.
    #[track_caller]
    pub fn check(&self) -> Checked {
        let checked = self.check_all_but_truth();
        let found = differences(&checked.truth, &checked.observed);
        assert!(found.is_empty(), "{} is not recorded exactly:\n  {}", self.name, found.join("\n  "));
        checked
    }

    /// Records it and checks everything but the planted truth.
    #[track_caller]
    pub fn check_all_but_truth(&self) -> Checked {
        let recording = self.record();
        let truth = Truth::read(&recording.truth);
        let own = self.own.clone().unwrap_or_else(|| {
            let process = &truth.processes[0];
            if self.name.contains("static") {
                Own::Range { path: built(self.name), start: process.own_start, stop: process.own_stop }
            } else {
                Own::Modules
            }
        });
        let observed = observe(&recording.trace, &own);
        let info = info(&recording.trace);
        loss_free(&observed, &info);
        possible(&observed);
        agrees(&observed, &info);
        Checked { recording, truth, observed, info }
    }
}

/// Nothing was lost, by every count that the recorder keeps.
#[track_caller]
pub fn loss_free(observed: &Observed, info: &Info) {
    let stats = observed.trace.stats.as_ref().expect("a recording that ended well has a tail");
    assert_eq!(stats.ring_failure_count, 0, "ring reservations failed");
    assert_eq!(stats.missed_run_count, 0, "the kernel skipped program runs");
    assert_eq!(stats.imbalance(), 0, "calls begun and ended do not balance: {stats:?}");
    assert_eq!(stats.impossible_count, 0, "births at live addresses");
    assert_eq!(observed.replay.lost_count, 0, "events were lost");
    assert_eq!(observed.replay.missed_free_count, 0, "frees were missed");
    assert_eq!(info.totals.lost_count, Some(0), "`info` knows of lost events");
    assert!(info.capture.complete, "`info` says that the capture is incomplete");
    assert!(observed.trace.completeness.complete, "the trace is not whole: {:?}", observed.trace.problems());
}

/// What the events say can have happened.
#[track_caller]
pub fn possible(observed: &Observed) {
    let violations = &observed.replay.violations;
    assert!(violations.is_empty(), "the trace tells the impossible:\n  {}", violations.join("\n  "));
}

/// `info --json` says what a naive replay of the same events says: in total, by domain, by process. Totals and processes
/// leave out allocators on top of others; which those are is `info`'s own decision, checked where a test knows better.
#[track_caller]
pub fn agrees(observed: &Observed, info: &Info) {
    let (replay, tables) = (&observed.replay, &observed.tables);
    assert_eq!(info.file.events, replay.event_count, "file.events");
    assert_eq!(info.totals.lost_count, Some(replay.lost_count), "totals.lost_count");
    assert_eq!(info.domains.len(), tables.domains.len(), "one row per domain");
    for (index, row) in info.domains.iter().enumerate() {
        assert_eq!(row.name, tables.domains[index].name, "row {index} of domains");
        let sums = replay.sum_where(|_, domain| domain.index() == index);
        same(&row.totals, &sums, &format!("domain {}", row.name));
    }
    let counted = |domain: DomainId| info.domains.get(domain.index()).is_some_and(|row| row.in_totals);
    same(&info.totals, &replay.sum_where(|_, domain| counted(domain)), "totals");
    if info.domains.iter().all(|row| row.in_totals) {
        assert_eq!(info.totals.peak_live_bytes, replay.peak_live_bytes(), "totals.peak_live_bytes");
    }
    assert_eq!(info.processes.len(), tables.processes.len(), "one row per process image");
    for (index, row) in tables.processes.iter().enumerate() {
        let shown = &info.processes[index];
        assert_eq!((shown.pid, &shown.name, &shown.command), (row.pid, &row.name, &row.command), "row {index}");
        let sums = replay.sum_where(|process, domain| process.index() == index && counted(domain));
        same(&shown.totals, &sums, &format!("process {} ({})", row.pid, row.name));
    }
}

#[track_caller]
fn same(shown: &Totals, sums: &Sums, what: &str) {
    let counts = &sums.counts;
    let rows = [
        ("alloc_count", shown.alloc_count, counts.alloc_count),
        ("free_count", shown.free_count, counts.free_count),
        ("realloc_count", shown.realloc_count, counts.realloc_count),
        ("alloc_bytes", shown.alloc_bytes, counts.alloc_bytes),
        ("failed_count", shown.failed_count, counts.failed_count),
        ("free_before_recording_count", shown.free_before_recording_count, sums.free_before_recording_count),
        ("free_of_dead_count", shown.free_of_dead_count, sums.free_of_dead_count),
    ];
    for (name, shown, counted) in rows {
        assert_eq!(shown, counted, "{what}: `info` says {name} {shown}, the events say {counted}");
    }
    let counted = (counts.live_count as u64, counts.live_bytes as u64);
    let shown = (shown.live_at_end_count, shown.live_at_end_bytes);
    assert_eq!(shown, counted, "{what}: live at end (count, bytes)");
}

/// Every data command, which all must read any trace that is readable at all; `flamegraph` writes beside the trace.
#[track_caller]
pub fn every_command_reads(trace: &Path) -> Vec<(&'static str, String)> {
    use crate::command::run;
    use crate::recorder::heaptape;
    let graph = trace.with_extension("svg");
    let mut said = Vec::new();
    for command in ["info", "sites", "leaks"] {
        for json in [false, true] {
            let mut line = heaptape(&[command]);
            line.arg(trace).args(json.then_some("--json"));
            let finished = run(&mut line).success(&format!("heaptape {command}"));
            said.push((command, finished.stdout_text() + &finished.stderr_text()));
        }
    }
    let finished = run(heaptape(&["flamegraph"]).arg(trace).arg("-o").arg(&graph)).success("heaptape flamegraph");
    let svg = std::fs::read_to_string(&graph).expect("flamegraph writes the file it was asked for");
    said.push(("flamegraph", finished.stdout_text() + &finished.stderr_text() + &svg));
    said
}
