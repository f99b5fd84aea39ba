//! Phases without names: segments of the call tree must find the heavy phases that a profile names, where they are in time.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;
use tests::command::run;
use tests::inputs;
use tests::live::live;
use tests::recorder::{Record, heaptape};
use tests::toolchain::{cc1plus_command, clang_command, rustc, rustc_command};

/// What `heaptape phases --json` says.
#[derive(Deserialize)]
struct Phases {
    span_ns: u64,
    total: Total,
    #[serde(rename = "phases")]
    rows: Vec<Phase>,
}

#[derive(Deserialize)]
struct Total {
    bytes: u64,
}

#[derive(Deserialize)]
struct Phase {
    name: String,
    tid: u32,
    source: String,
    begin_ns: u64,
    end_ns: u64,
    inclusive_alloc_bytes: u64,
}

/// A phase that allocates less of all bytes is not looked for.
const HEAVY: f64 = 0.03;
/// Most that a boundary may be off, of the run.
const OFF: f64 = 0.02;
/// Part of the heavy phases that must be found.
const FOUND: f64 = 0.8;

fn phases(trace: &Path, source: &str) -> Phases {
    let finished = run(heaptape(&["phases", "--json", "--source", source]).arg(trace)).success("heaptape phases");
    serde_json::from_slice(&finished.stdout).expect("phases --json has its documented shape")
}

#[track_caller]
fn segments_find_the_phases_of_the_profile(command: Vec<String>, least: usize) {
    let recording = Record::new(command).finish().expect_status(0);
    // Profiles by the stacks of the same events: a marker's phase may begin long before its first allocation.
    let named = phases(&recording.trace, "stacks");
    let segments = phases(&recording.trace, "segments");
    assert!(segments.rows.iter().all(|phase| ["segment", "none"].contains(&phase.source.as_str())));
    // A phase in several places is one: from its first begin to its last end on a thread.
    let mut heavy: BTreeMap<(&str, u32), (u64, u64, u64)> = BTreeMap::new();
    for phase in named.rows.iter().filter(|phase| phase.source == "stack") {
        let whole = heavy.entry((&phase.name, phase.tid)).or_insert((u64::MAX, 0, 0));
        *whole = (whole.0.min(phase.begin_ns), whole.1.max(phase.end_ns), whole.2 + phase.inclusive_alloc_bytes);
    }
    heavy.retain(|_, (_, _, bytes)| *bytes as f64 >= HEAVY * named.total.bytes as f64);
    let off = |tid: u32, begin: u64, end: u64| {
        let on_thread = segments.rows.iter().filter(|phase| phase.source == "segment" && phase.tid == tid);
        on_thread.map(|phase| phase.begin_ns.abs_diff(begin).max(phase.end_ns.abs_diff(end))).min()
    };
    let found = heavy.iter().filter(|((name, tid), (begin, end, _))| {
        let off = off(*tid, *begin, *end).map_or(f64::INFINITY, |ns| ns as f64 / named.span_ns as f64);
        eprintln!("{name}: boundaries {:.2} % of the run off", off * 100.0);
        off <= OFF
    });
    let found = found.count();
    assert!(heavy.len() >= least, "the profile finds {} heavy phases", heavy.len());
    assert!(found as f64 >= FOUND * heavy.len() as f64, "{found} of {} are found", heavy.len());
}

#[test]
fn segments_find_the_phases_of_gcc() {
    let Some(_live) = live() else { return };
    let out = tempfile::tempdir().expect("a temporary folder can be made");
    let command = cc1plus_command(&inputs::path("medium.cpp"), &out.path().join("out.s"));
    segments_find_the_phases_of_the_profile(command, 4);
}

#[test]
fn segments_find_the_phases_of_clang() {
    let Some(_live) = live() else { return };
    let out = tempfile::tempdir().expect("a temporary folder can be made");
    let command = clang_command("-O1", &inputs::path("medium.c"), &out.path().join("out.o"));
    segments_find_the_phases_of_the_profile(command, 4);
}

#[test]
fn segments_find_the_phases_of_rustc() {
    let Some(_live) = live() else { return };
    let out = tempfile::tempdir().expect("a temporary folder can be made");
    let command = rustc_command(&rustc(), &inputs::path("medium.rs"), &out.path().join("out.o"));
    segments_find_the_phases_of_the_profile(command, 8);
}
