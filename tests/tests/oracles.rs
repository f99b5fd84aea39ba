//! The oracles against each other: every workload's planted truth against the preloaded counter, the counter against the
//! kernel's probe log. No recorder takes part: what these tests say is whether the measures themselves are right.

use std::process::Command;

use tests::command::{run, start};
use tests::inputs;
use tests::live::live;
use tests::oracle::preload::Counter;
use tests::oracle::probe_log::{ProbeLog, counts};
use tests::requirements::find_program;
use tests::toolchain::{private_rustc, rustc_command};
use tests::truth::{Counts, Truth};
use tests::workload::built;

/// The counts that both sides know.
fn shared(counts: &Counts) -> [u64; 5] {
    [counts.alloc_count, counts.free_count, counts.realloc_count, counts.failed_count, counts.alloc_bytes]
}

/// Runs a workload under the counter and compares process by process: what the program says it did with what passed
/// through libc's symbols from its code.
#[track_caller]
fn agree(name: &str, arguments: &[&str], status: i32, variables: &[(&str, &str)], library_calls: bool) {
    let counter = Counter::default();
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let truth = dir.path().join("truth");
    let mut command = Command::new(built(name));
    command.args(arguments).env("TRUTH", &truth).envs(counter.variables());
    command.envs(variables.iter().copied());
    let finished = run(&mut command);
    assert_eq!(finished.shell_status(), status, "{name}: {}", finished.stderr_text());
    let truth = Truth::read(&truth);
    let mut images = counter.images();
    // Images of one pid stand in the order of their files on both sides.
    images.sort_by_key(|image| image.pid);
    for process in &truth.processes {
        let place = images.iter().position(|image| {
            image.pid == process.pid
                && (image.own != Counts::default() || process.counts == Counts::default())
                && !image.executable.as_os_str().is_empty()
        });
        let Some(place) = place else { panic!("{name}: the counter saw nothing of process {}", process.pid) };
        let same_pid: Vec<usize> = (0..images.len()).filter(|index| images[*index].pid == process.pid).collect();
        let matching = same_pid
            .iter()
            .copied()
            .find(|index| shared(&images[*index].own) == shared(&process.counts))
            .unwrap_or(place);
        let image = images.remove(matching);
        if library_calls {
            // C++ and Rust: the calls come from a library; all that can be said is that they are among all.
            assert!(image.all.alloc_count >= process.counts.alloc_count, "{name}: {image:?}");
            continue;
        }
        let (seen, planted) = (shared(&image.own), shared(&process.counts));
        if process.slack == 0 {
            assert_eq!(seen, planted, "{name}, process {} ({})", process.pid, process.image);
        } else {
            for (seen, planted) in seen.iter().zip(planted).take(4) {
                assert!((planted..=planted + process.slack).contains(seen), "{name}: {image:?} against {process:?}");
            }
        }
    }
}

#[test]
fn every_entry_point() {
    agree("basic", &[], 0, &[], false);
    agree("rlimit", &[], 0, &[], false);
}

#[test]
fn threads() {
    agree("threads", &[], 0, &[], false);
    agree("thread_exit", &[], 0, &[], false);
    agree("crossfree", &[], 0, &[], false);
    agree("reuse_race", &[], 0, RACE, false);
}

const RACE: &[(&str, &str)] = &[("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0:glibc.malloc.arena_max=1")];

#[test]
fn the_race_is_one() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let path = dir.path().join("truth");
    run(Command::new(built("reuse_race")).env("TRUTH", &path).envs(RACE.iter().copied())).success("reuse_race");
    let reuses = Truth::read(&path).fact("cross_reuse_count");
    assert!(reuses > 100, "threads got each other's addresses only {reuses} times: the workload tests nothing");
}

#[test]
fn processes() {
    let leaf = built("leaf").display().to_string();
    agree("fork", &[], 0, &[], false);
    for mode in ["fork-exec", "vfork-exec", "vfork-malloc", "posix_spawn", "exec", "thread-exec", "failed-exec"] {
        agree("spawn", &[mode, &leaf], 0, &[], false);
    }
}

#[test]
fn libraries_opened_at_run_time() {
    let plugins = [built("plugin.so"), built("plugin_je.so")].map(|path| path.display().to_string());
    let counter = Counter::default();
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let path = dir.path().join("truth");
    let mut command = Command::new(built("dlopen"));
    command.args(&plugins).env("TRUTH", &path).envs(counter.variables());
    run(&mut command).success("dlopen");
    // The je_ allocator is none of libc's: its 120 allocs, 60 reallocs, 90 frees and 2 failures are not counted.
    let planted = Truth::read(&path).total();
    let seen = counter.image("dlopen").own;
    assert_eq!(seen.alloc_count, planted.alloc_count - 120);
    assert_eq!(seen.realloc_count, planted.realloc_count - 60);
    assert_eq!(seen.free_count, planted.free_count - 90);
    assert_eq!((seen.failed_count, planted.failed_count), (0, 2));
}

#[test]
fn stacks_and_signals() {
    agree("contexts", &[], 0, &[], false);
    agree("signals", &["handler"], 0, &[], false);
    agree("signals", &["exit"], 7, &[], false);
    agree("signals", &["kill"], 128 + libc::SIGKILL, &[], false);
    agree("signals", &["abort"], 128 + libc::SIGABRT, &[], false);
    agree("signals", &["stop"], 0, &[], false);
    agree("churn", &["3", "2000"], 0, &[], false);
}

#[test]
fn other_languages() {
    agree("bad_alloc", &[], 0, &[], true);
    agree("system_alloc", &[], 0, &[], true);
}

/// Programs whose allocator is not libc's keep their plan by themselves: `must` in them ends with status 99 otherwise.
#[test]
fn allocators_of_their_own() {
    for (name, arguments) in [
        ("own_malloc", &[][..]),
        ("own_malloc", &["realloc"]),
        ("own_new", &["new"]),
        ("own_new", &["malloc"]),
        ("prefixed-je", &[]),
        ("prefixed-mi", &[]),
        ("prefixed-tc", &[]),
        ("prefixed-je-static", &[]),
        ("basic-static", &[]),
        ("basic-static-pie", &[]),
        ("fork-static", &[]),
    ] {
        run(Command::new(built(name)).args(arguments)).success(name);
    }
}

#[test]
fn undisturbed_waits_are_not_interrupted() {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let path = dir.path().join("truth");
    run(Command::new(built("interrupts")).env("TRUTH", &path)).success("interrupts");
    let truth = Truth::read(&path);
    assert_eq!(truth.facts.values().sum::<u64>(), 0, "{:?}", truth.facts);
}

#[test]
fn a_commanded_program_obeys() {
    let mut running = start(&mut Command::new(built("commanded")), true);
    running.wait_for_output("ready\n", 1);
    for (count, command) in ["w", "o", "r", "f"].into_iter().enumerate() {
        running.say(command);
        running.wait_for_output("done\n", count + 1);
    }
    running.say("q");
    let finished = running.finish().success("commanded");
    assert!(finished.stdout_text().ends_with("bye\n"));
}

/// The probe log counts what the program says, for a static program, to which no library can be preloaded.
#[test]
fn the_probe_log_agrees_with_planted_truth() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let path = dir.path().join("truth");
    let program = built("churn-static");
    let log = ProbeLog::start(&program, true);
    run(Command::new(&program).args(["2", "3000"]).env("TRUTH", &path)).success("churn-static");
    let seen = counts(&log.finish());
    let planted = Truth::read(&path).total();
    // libc allocates for itself as well when it starts and when threads come and go: a little more, never less.
    let extra = seen.alloc_count.checked_sub(planted.alloc_count).expect("every planted call is seen");
    assert!(extra < 30, "{seen:?} against {planted:?}");
}

/// The cheap places of probes in rustc's jemalloc see exactly the calls that probes on the first bytes see.
#[test]
fn cheap_probe_places_see_every_call() {
    let Some(_live) = live() else { return };
    let rustc = private_rustc();
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let command = rustc_command(&rustc, &inputs::path("small.rs"), &dir.path().join("small.o"));
    let logs = [ProbeLog::start(&rustc, true), ProbeLog::start(&rustc, false)];
    run(Command::new(&command[0]).args(&command[1..])).success("rustc");
    let [dear, cheap] = logs.map(ProbeLog::finish);
    assert!(dear.len() > 10_000, "rustc made only {} calls", dear.len());
    assert_eq!(counts(&dear), counts(&cheap));
    assert_eq!(dear.len(), cheap.len());
}

/// A third opinion: memcheck's totals. It counts a realloc as an alloc and a free.
#[test]
fn valgrind_agrees_with_planted_truth() {
    let Some(valgrind) = find_program("valgrind") else {
        eprintln!("SKIPPED: valgrind is not installed");
        return;
    };
    // Threads cost libc a table each.
    for (name, arguments, library_allocs) in [("leaf", &[][..], 0), ("contexts", &[], 0), ("churn", &["3", "500"], 2)] {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let path = dir.path().join("truth");
        let finished = run(Command::new(&valgrind).arg(built(name)).args(arguments).env("TRUTH", &path)).success(name);
        let said = finished.stderr_text();
        let line = said.lines().find(|line| line.contains("total heap usage")).expect("memcheck says its totals");
        let numbers: Vec<u64> = line
            .split_once("usage:")
            .expect("just found")
            .1
            .split_whitespace()
            .filter_map(|word| word.replace(',', "").parse().ok())
            .collect();
        let planted = Truth::read(&path).total();
        assert_eq!(numbers[0], planted.alloc_count + planted.realloc_count + library_allocs, "{name}: {line}");
        assert_eq!(numbers[1], planted.free_count + planted.realloc_count + library_allocs, "{name}: {line}");
        if library_allocs == 0 {
            assert_eq!(numbers[2], planted.alloc_bytes, "{name}: {line}");
        }
    }
}
