//! Whole compilers, exact: what heaptape recorded against what an independent oracle counted over the same run.

use tests::inputs;
use tests::live::live;
use tests::observed::{Observed, Own, observe};
use tests::oracle::preload::Counter;
use tests::oracle::probe_log::{ProbeLog, counts};
use tests::oracle::replay::Sums;
use tests::recorder::{Record, info};
use tests::scenario::{agrees, loss_free, possible};
use tests::toolchain::{cc1plus_command, clang_command, private_rustc, rustc_command};
use tests::truth::Counts;

/// What the image of this name did in the domains that `keep` names.
fn sums_of(observed: &Observed, name: &str, keep: impl Fn(&str) -> bool) -> Sums {
    observed.replay.sum_where(|process, domain| {
        observed.tables.processes[process.index()].name == name && keep(&observed.tables.domains[domain.index()].name)
    })
}

#[track_caller]
fn same(seen: &Sums, counted: &Counts, what: &str) {
    let list = |counts: &Counts| {
        [
            ("allocs", counts.alloc_count),
            ("frees", counts.free_count),
            ("reallocs", counts.realloc_count),
            ("failures", counts.failed_count),
            ("bytes", counts.alloc_bytes),
        ]
    };
    assert_eq!(list(&seen.counts), list(counted), "{what}: recorded, counted");
}

/// Records a command line with the counter preloaded into it and compares process `name`.
#[track_caller]
fn recorded_and_counted(command: &[String], name: &str, least_events: u64) {
    let preload = Counter::default();
    let line = preload.prefix().into_iter().chain(command.iter().cloned());
    let recording = Record::new(line).options(&["--quiet"]).finish().expect_status(0);
    let observed = observe(&recording.trace, &Own::Modules);
    let info = info(&recording.trace);
    loss_free(&observed, &info);
    possible(&observed);
    agrees(&observed, &info);
    let counted = preload.image(name).all;
    assert!(counted.alloc_count + counted.free_count >= least_events, "{name} made only {counted:?}");
    // The counter interposes: it may be a domain of its own around libc's. Each that saw anything saw everything.
    let (libc, interposed) = (
        sums_of(&observed, name, |domain| domain.starts_with("libc")),
        sums_of(&observed, name, |domain| domain.starts_with("count.so")),
    );
    assert!(libc != Sums::default() || interposed != Sums::default(), "nothing of {name} was recorded");
    for (sums, what) in [(libc, "libc"), (interposed, "the interposed counter")] {
        if sums != Sums::default() {
            same(&sums, &counted, &format!("{name} through {what}"));
        }
    }
}

#[test]
fn cc1plus_is_exact() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let command = cc1plus_command(&inputs::path("medium.cpp"), &dir.path().join("medium.s"));
    recorded_and_counted(&command, "cc1plus", 900_000);
}

#[test]
fn clang_is_exact() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let command = clang_command("-O0", &inputs::sqlite3_c(), &dir.path().join("sqlite3.o"));
    // /usr/bin/clang-19 is a link to a file called clang.
    let name = std::fs::canonicalize(&command[0]).expect("clang-19 is installed");
    recorded_and_counted(&command, &name.file_name().expect("a file has a name").to_string_lossy(), 1_000_000);
}

/// rustc brings its own allocator in its executable, which no preloaded library sees.
#[track_caller]
fn rustc_recorded_and_logged(input: &str, least_events: usize) {
    let rustc = private_rustc();
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let command = rustc_command(&rustc, &inputs::path(input), &dir.path().join("out.o"));
    let log = ProbeLog::start(&rustc, false);
    let recording = Record::new(&command).options(&["--quiet"]).finish().expect_status(0);
    let hits = log.finish();
    assert!(hits.len() >= least_events, "rustc made only {} calls", hits.len());
    let observed = observe(&recording.trace, &Own::Modules);
    let info = info(&recording.trace);
    loss_free(&observed, &info);
    possible(&observed);
    agrees(&observed, &info);
    let sums = sums_of(&observed, "rustc", |domain| domain.starts_with("rustc"));
    same(&sums, &counts(&hits), input);
}

#[test]
fn rustc_is_exact() {
    let Some(_live) = live() else { return };
    rustc_recorded_and_logged("small.rs", 20_000);
    rustc_recorded_and_logged("medium.rs", 1_000_000);
}
