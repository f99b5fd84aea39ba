//! Nothing lost, or every loss told: the default recording under load and with a ring far too small, and the
//! recording that may lose.

use serde_json::Value;
use trace_format::event::Op;

use tests::command::run;
use tests::inputs;
use tests::live::{live, long};
use tests::observed::{Observed, Own, observe};
use tests::recorder::{Record, Recording, heaptape, info};
use tests::scenario::{Scenario, agrees, every_command_reads, loss_free, possible};
use tests::toolchain::{cc1plus_command, clang_command};

/// The smallest ring for events without stacks, and with.
const TINY_RING: &[&str] = &["--stacks", "none", "--ring-bytes", "4096"];
const SMALL_RING: &[&str] = &["--ring-bytes", "65536"];

/// Records a command line with options and checks that nothing was lost.
#[track_caller]
fn nothing_lost(command: &[String], options: &[&str]) -> (Recording, Observed) {
    let recording = Record::new(command).options(&["--quiet"]).options(options).finish().expect_status(0);
    let observed = observe(&recording.trace, &Own::Modules);
    let info = info(&recording.trace);
    loss_free(&observed, &info);
    possible(&observed);
    agrees(&observed, &info);
    (recording, observed)
}

fn stop_count(observed: &Observed) -> u64 {
    observed.trace.stats.as_ref().map_or(0, |stats| stats.backpressure_stop_count)
}

#[test]
fn four_threads_at_full_speed() {
    let Some(_live) = live() else { return };
    Scenario { arguments: &["4", "200000"], ..Scenario::new("churn") }.check();
}

#[test]
fn a_tiny_ring_slows_the_target_and_loses_nothing() {
    let Some(_live) = live() else { return };
    for (threads, options, least) in
        [("1", TINY_RING, 100), ("4", TINY_RING, 100), ("1", SMALL_RING, 1), ("4", SMALL_RING, 1)]
    {
        let scenario = Scenario { arguments: &[threads, "50000"], options, ..Scenario::new("churn") };
        let checked = scenario.check();
        let stops = stop_count(&checked.observed);
        assert!(stops >= least, "back-pressure fired only {stops} times with {threads} threads, {options:?}");
    }
}

#[test]
fn a_tiny_ring_is_enough_for_cc1plus() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let command = cc1plus_command(&inputs::path("medium.cpp"), &dir.path().join("out.s"));
    let (_, observed) = nothing_lost(&command, SMALL_RING);
    let stops = stop_count(&observed);
    assert!(stops >= 10, "back-pressure fired only {stops} times");
}

#[test]
fn back_pressure_follows_children() {
    let Some(_live) = live() else { return };
    Scenario { options: TINY_RING, ..Scenario::new("fork") }.check();
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let output = dir.path().join("out.o").display().to_string();
    let command = ["g++", "-O1", "-c", &inputs::path("medium.cpp").display().to_string(), "-o", &output];
    let (_, observed) = nothing_lost(&command.map(str::to_owned), TINY_RING);
    assert!(stop_count(&observed) >= 100);
}

/// Back-pressure stops threads by signals; the calls that the kernel restarts after a stop must not notice.
#[test]
fn back_pressure_interrupts_no_restartable_call() {
    let Some(_live) = live() else { return };
    let checked = Scenario { options: TINY_RING, ..Scenario::new("interrupts") }.check();
    for fact in ["sleep_eintr", "short_sleep_count", "read_eintr", "poll_eintr", "condition_early", "wait_eintr"] {
        assert_eq!(checked.truth.fact(fact), 0, "{fact}: {:?}", checked.truth.facts);
    }
}

/// 27 million events: minutes.
#[test]
fn clang_optimising_sqlite_loses_nothing() {
    let Some(_live) = live() else { return };
    if !long() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let command = clang_command("-O1", &inputs::sqlite3_c(), &dir.path().join("sqlite3.o"));
    let (_, observed) = nothing_lost(&command, &[]);
    assert!(observed.replay.event_count > 20_000_000, "{} events", observed.replay.event_count);
    // Small enough to be full again and again; the tiniest ring would stop the compiler half a million times.
    let (_, observed) = nothing_lost(&command, &["--ring-bytes", "65536"]);
    let stops = stop_count(&observed);
    assert!(stops >= 100, "back-pressure fired only {stops} times");
}

#[test]
fn losses_are_counted_located_and_shown() {
    let Some(_live) = live() else { return };
    let options = ["--no-lossless", "--stacks", "none", "--ring-bytes", "4096"];
    let recording = Scenario { arguments: &["4", "400000"], options: &options, ..Scenario::new("churn") };
    // The recorder says on standard error that it lost events: that is wrong enough for --quiet.
    let command = std::iter::once(tests::workload::built("churn").display().to_string())
        .chain(recording.arguments.iter().map(|&argument| argument.to_owned()));
    let recording = Record::new(command).options(&["--quiet"]).options(&options).finish().expect_status(0);
    let said = recording.finished.stderr_text().to_lowercase();
    assert!(said.contains("lost"), "the recorder did not say that it lost events: {said:?}");
    let observed = observe(&recording.trace, &Own::Modules);
    let info = info(&recording.trace);
    let lost = observed.replay.lost_count;
    assert!(lost > 0, "so small a ring lost nothing: this test tests nothing");
    possible(&observed);

    // Counted: what was planted is what was seen and what was lost. libc adds a few calls of its own.
    let planted = tests::truth::Truth::read(&recording.truth).total();
    let (mut lost_allocs, mut lost_frees, mut located) = (0, 0, 0);
    let mut last_ns = 0;
    observed
        .trace
        .for_each_chunk(0, |events| {
            for event in events {
                if let Op::Loss { first_ns, last_ns: end_ns, alloc_count, free_count, .. } = event.op {
                    assert!(first_ns <= end_ns, "a loss ends before it begins: {event:?}");
                    located += 1;
                    lost_allocs += alloc_count;
                    lost_frees += free_count;
                    last_ns = last_ns.max(end_ns);
                }
            }
        })
        .expect("the trace is readable");
    let stats = observed.trace.stats.as_ref().expect("a recording that ended well has a tail");
    assert!(located > 1, "{lost} losses in {located} place");
    assert!(last_ns <= stats.wall_ns, "a loss after the end: {last_ns} ns of {}", stats.wall_ns);
    let seen = observed.replay.sum_where(|_, _| true);
    let sums = [
        ("allocs", planted.alloc_count, seen.counts.alloc_count + lost_allocs),
        (
            "frees",
            planted.free_count,
            seen.counts.free_count + seen.free_before_recording_count + seen.free_of_dead_count + lost_frees,
        ),
    ];
    for (what, planted, accounted) in sums {
        let extra = accounted.checked_sub(planted);
        assert!(extra.is_some_and(|extra| extra < 300), "{what}: planted {planted}, seen and lost {accounted}");
    }

    // Shown.
    assert_eq!(info.totals.lost_count, Some(lost));
    agrees(&observed, &info);
    for (command, said) in every_command_reads(&recording.trace) {
        assert!(said.to_lowercase().contains("lost"), "{command} does not speak of the {lost} lost events:\n{said}");
    }
    let value: Value = tests::recorder::json("info", &recording.trace);
    assert_eq!(value["totals"]["lost_count"], Value::from(lost));
    run(heaptape(&["verify"]).arg(&recording.trace)).success("verify of a whole but lossy trace");
}
