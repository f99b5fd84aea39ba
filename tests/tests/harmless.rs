//! A recorded program is the program: same output files, same words, same status, same view of the world, whatever it
//! runs under.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use tests::command::{Finished, run, signal, start};
use tests::inputs;
use tests::live::live;
use tests::process::running;
use tests::recorder::{Record, binary, heaptape, info};
use tests::requirements::program;
use tests::scenario::{Scenario, every_command_reads};
use tests::terminal::Terminal;
use tests::toolchain::rustc;
use tests::workload::built;

/// Every file below a folder, by name.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).expect("the folder is ours").flatten();
    entries
        .filter(|entry| entry.path().is_file())
        .map(|entry| {
            let name = entry.file_name().to_string_lossy().into_owned();
            (name, std::fs::read(entry.path()).expect("the file is ours"))
        })
        .collect()
}

fn empty(dir: &Path) {
    for entry in std::fs::read_dir(dir).expect("the folder is ours").flatten() {
        std::fs::remove_file(entry.path()).expect("the file is ours");
    }
}

#[track_caller]
fn same_words(native: &Finished, recorded: &Finished, what: &str) {
    assert_eq!(recorded.shell_status(), native.shell_status(), "{what}: {}", recorded.stderr_text());
    assert_eq!(recorded.stdout_text(), native.stdout_text(), "{what}: standard output");
    assert_eq!(recorded.stderr_text(), native.stderr_text(), "{what}: diagnostics");
}

/// Runs a command line twice in one folder, natively and recorded, and compares everything it leaves.
#[track_caller]
fn same_result(command: &[&str], status: i32) {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let native = run(Command::new(command[0]).args(&command[1..]).current_dir(dir.path()));
    assert_eq!(native.shell_status(), status, "{command:?} natively: {}", native.stderr_text());
    let native_files = files(dir.path());
    empty(dir.path());
    let recording = Record::new(command).options(&["--quiet"]).current_dir(dir.path()).finish().expect_status(status);
    same_words(&native, &recording.finished, &format!("{command:?}"));
    let recorded_files = files(dir.path());
    let names = |files: &BTreeMap<String, Vec<u8>>| files.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&recorded_files), names(&native_files), "{command:?}: files written");
    for (name, bytes) in &native_files {
        assert!(recorded_files[name] == *bytes, "{command:?}: {name} differs when recorded");
    }
    assert_eq!(native_files.is_empty(), status != 0, "{command:?} wrote {:?}", names(&native_files));
    assert!(info(&recording.trace).capture.complete);
}

fn input(name: &str) -> String {
    inputs::path(name).display().to_string()
}

#[test]
fn gcc_compiles_and_fails_the_same() {
    let Some(_live) = live() else { return };
    same_result(&["gcc", "-O1", "-c", &input("medium.c"), "-o", "out.o"], 0);
    same_result(&["gcc", "-c", &input("wrong.c"), "-o", "out.o"], 1);
    same_result(&["gcc", "-c", "/nonexistent.c", "-o", "out.o"], 1);
}

#[test]
fn gxx_compiles_and_fails_the_same() {
    let Some(_live) = live() else { return };
    same_result(&["g++", "-O1", "-c", &input("medium.cpp"), "-o", "out.o"], 0);
    same_result(&["g++", "-c", &input("wrong.cpp"), "-o", "out.o"], 1);
    same_result(&["g++", &input("small.cpp"), "-o", "linked"], 0);
}

#[test]
fn clang_compiles_and_fails_the_same() {
    let Some(_live) = live() else { return };
    same_result(&["clang-19", "-O1", "-c", &input("medium.c"), "-o", "out.o"], 0);
    same_result(&["clang-19", "-c", &input("wrong.c"), "-o", "out.o"], 1);
    // The driver starts another process for the compile proper and reports its status.
    same_result(&["clang-19", "-fno-integrated-cc1", "-c", &input("small.c"), "-o", "out.o"], 0);
    same_result(&["clang-19", "-fno-integrated-cc1", "-c", &input("wrong.c"), "-o", "out.o"], 1);
}

#[test]
fn rustc_compiles_and_fails_the_same() {
    let Some(_live) = live() else { return };
    let rustc = rustc().display().to_string();
    same_result(&[&rustc, "--edition", "2021", "--emit=obj", &input("medium.rs"), "-o", "out.o"], 0);
    same_result(&[&rustc, "--edition", "2021", &input("small.rs"), "-o", "linked"], 0);
    same_result(&[&rustc, "--edition", "2021", &input("wrong.rs"), "-o", "linked"], 1);
    same_result(&[&rustc, "/nonexistent.rs"], 1);
}

#[test]
fn tcc_compiles_and_fails_the_same() {
    let Some(_live) = live() else { return };
    same_result(&["tcc", "-c", &input("medium.c"), "-o", "out.o"], 0);
    same_result(&["tcc", "-c", &input("wrong.c"), "-o", "out.o"], 1);
}

#[test]
fn statuses_pass_through() {
    let Some(_live) = live() else { return };
    for (script, status) in [("exit 0", 0), ("exit 42", 42), ("kill -TERM $$", 143), ("kill -SEGV $$", 139)] {
        Record::new(["sh", "-c", script]).options(&["--quiet"]).finish().expect_status(status);
    }
}

#[test]
fn a_command_that_does_not_exist_is_said_to() {
    let Some(_live) = live() else { return };
    let (running, _dir, _, _) = Record::new(["/nonexistent/program"]).start(false);
    let finished = running.finish();
    assert!(!finished.status.success());
    assert!(finished.stderr_text().contains("/nonexistent/program"), "{}", finished.stderr_text());
}

/// Descriptors, environment, signals, limits, groups, terminal, privileges: all as without a recorder.
#[test]
fn the_world_looks_the_same() {
    let Some(_live) = live() else { return };
    let path = built("environment");
    let arguments = ["one", "two words", ""];
    let talk = |mut command: Command| {
        let mut running = start(&mut command, true);
        running.say("x");
        running.finish().success("environment")
    };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let (trace, plain) = (dir.path().join("run.htape"), Command::new(&path));
    let mut native = plain;
    native.args(arguments);
    let native = talk(native);
    let mut recorded = heaptape(&["record", "--quiet", "-o"]);
    recorded.arg(&trace).arg("--").arg(&path).args(arguments);
    let recorded = talk(recorded);
    assert!(native.stdout_text().contains("stdin-first-byte 120"), "{}", native.stdout_text());
    same_words(&native, &recorded, "environment");
}

#[test]
fn standard_input_reaches_the_target() {
    let Some(_live) = live() else { return };
    let (mut running, _dir, trace, _) = Record::new(["cat"]).options(&["--quiet"]).start(true);
    running.say("through\n");
    running.wait_for_output("through\n", 1);
    running.say("and through\n");
    let finished = running.finish().success("cat");
    assert_eq!(finished.stdout_text(), "through\nand through\n");
    assert!(info(&trace).capture.complete);
}

/// What nobody but the target's own child may resume stays stopped.
#[test]
fn a_target_that_stops_itself_stays_stopped() {
    let Some(_live) = live() else { return };
    Scenario { arguments: &["stop"], ..Scenario::new("signals") }.check();
}

#[test]
fn waiting_calls_are_not_interrupted() {
    let Some(_live) = live() else { return };
    let checked = Scenario::new("interrupts").check();
    let disturbed: u64 = checked.truth.facts.values().sum();
    assert_eq!(disturbed, 0, "{:?}", checked.truth.facts);
}

#[test]
fn under_timeout() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let trace = dir.path().join("run.htape");
    let object = dir.path().join("out.o");
    // timeout around the recorder, in time
    let mut line = Command::new(program("timeout"));
    line.args(["300"]).arg(binary()).args(["record", "--quiet", "-o"]).arg(&trace).arg("--");
    line.args(["gcc", "-c", &input("small.c"), "-o"]).arg(&object);
    let finished = run(&mut line).success("gcc, recorded under timeout");
    assert_eq!(finished.stderr_text(), "");
    assert!(object.is_file());
    // timeout around the recorder, too late: it ends the recorder and, by their group, the target
    for (signal, status) in [("TERM", 124), ("INT", 124)] {
        let mut line = Command::new(program("timeout"));
        line.args(["-s", signal, "3"]).arg(binary()).args(["record", "--quiet", "-o"]).arg(&trace);
        line.args(["--", "sleep", "1000"]);
        let finished = run(&mut line);
        assert_eq!(finished.shell_status(), status, "{}", finished.stderr_text());
        every_command_reads(&trace);
    }
    // timeout inside
    let recording = Record::new(["timeout", "1", "sleep", "1000"]).options(&["--quiet"]).finish();
    recording.expect_status(124);
    let recording = Record::new(["timeout", "-s", "KILL", "1", "sleep", "1000"]).options(&["--quiet"]).finish();
    recording.expect_status(137);
}

const MAKEFILE: &str = "\
all: a.o b.o c.o d.o below
a.o b.o c.o d.o: source.c
\tgcc -O1 -c $< -o $@
below:
\t+$(BELOW) $(MAKE) --no-print-directory -C sub
.PHONY: all below
";
const SUB_MAKEFILE: &str = "\
all: e.o f.o
e.o f.o: ../source.c
\tgcc -O0 -c $< -o $@
";

/// What a run of make leaves.
struct Made {
    objects: BTreeMap<String, Vec<u8>>,
    objects_below: BTreeMap<String, Vec<u8>>,
    words: Vec<String>,
    finished: Finished,
}

/// Makes the tree in a folder and runs `line` in it; returns the objects and the sorted words.
fn make(line: &[String], below: &str) -> Made {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    std::fs::create_dir(dir.path().join("sub")).expect("the folder is ours");
    let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).expect("the folder is ours");
    write("Makefile", MAKEFILE);
    write("sub/Makefile", SUB_MAKEFILE);
    write("source.c", &std::fs::read_to_string(inputs::path("medium.c")).expect("the input was just written"));
    let finished = run(Command::new(&line[0]).args(&line[1..]).current_dir(dir.path()).env("BELOW", below));
    // Which of two jobs speaks first is chance, and so is nothing else.
    let text = finished.stdout_text() + &finished.stderr_text();
    let mut words: Vec<String> = text.lines().map(|line| line.replace(below, "")).collect();
    words.sort();
    Made { objects: files(dir.path()), objects_below: files(&dir.path().join("sub")), words, finished }
}

#[test]
fn under_make_with_two_jobs() {
    let Some(_live) = live() else { return };
    let line = |parts: &[&str]| parts.iter().map(|&part| part.to_owned()).collect::<Vec<_>>();
    let native = make(&line(&["make", "-j2"]), "");
    assert!(native.finished.status.success(), "{:?}", native.words);
    let traces = tempfile::tempdir().expect("a temporary folder can be made");
    let heaptape = binary().display().to_string();
    let outer = traces.path().join("outer.htape").display().to_string();
    let recorded = make(&line(&[&heaptape, "record", "--quiet", "-o", &outer, "--", "make", "-j2"]), "");
    assert_eq!(recorded.words, native.words);
    assert!(
        recorded.objects == native.objects && recorded.objects_below == native.objects_below,
        "objects differ when recorded"
    );
    let names: Vec<String> = info(Path::new(&outer)).processes.into_iter().map(|process| process.name).collect();
    assert_eq!(names.iter().filter(|name| *name == "cc1").count(), 6, "{names:?}");
    // The recorder inside: the job server's descriptors reach the make below it.
    let inner = traces.path().join("inner.htape").display().to_string();
    let recorded = make(&line(&["make", "-j2"]), &format!("{heaptape} record --quiet -o {inner} --"));
    assert_eq!(recorded.words.len(), native.words.len(), "{:?}", recorded.words);
    assert!(
        recorded.objects == native.objects && recorded.objects_below == native.objects_below,
        "objects differ when recorded below make"
    );
    assert!(info(Path::new(&inner)).capture.complete);
}

fn shell() -> Terminal {
    let mut command = Command::new(program("bash"));
    command.args(["--norc", "--noprofile", "-i"]).env("PS1", "prompt> ").env("TERM", "dumb");
    let mut terminal = Terminal::start(&mut command);
    terminal.wait_for("prompt> ");
    terminal
}

#[test]
fn a_job_is_stopped_and_continued_from_the_shell() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let trace = dir.path().join("run.htape");
    let mut terminal = shell();
    let line =
        format!("{} record --quiet -o {} -- {} 2\n", binary().display(), trace.display(), built("commanded").display());
    terminal.say(&line);
    terminal.wait_for("ready");
    terminal.say("w\n");
    terminal.wait_for("done");
    terminal.say("\x1a"); // Ctrl-Z
    terminal.wait_for("Stopped");
    terminal.wait_for("prompt> ");
    let target = tests::process::running(&built("commanded"));
    let [target] = target[..] else { panic!("targets: {target:?}") };
    // The shell speaks when the recorder has stopped; the target may take a moment longer.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
    let stopped = || matches!(tests::process::state(target), Some('T' | 't'));
    while !stopped() && std::time::Instant::now() < deadline {
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    assert!(stopped(), "the target of a stopped job is in state {:?}", tests::process::state(target));
    terminal.say("fg\n");
    terminal.say("w\n");
    terminal.wait_for("done");
    terminal.say("q\n");
    terminal.wait_for("bye");
    terminal.say("echo status=$?\n");
    terminal.wait_for("status=0");
    assert!(info(&trace).capture.complete);
}

#[test]
fn a_background_job_that_reads_the_terminal_stops() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let trace = dir.path().join("run.htape");
    let mut terminal = shell();
    let line = format!(
        "{} record --quiet -o {} -- {} 1 &\n",
        binary().display(),
        trace.display(),
        built("commanded").display()
    );
    terminal.say(&line);
    terminal.wait_for("ready");
    // It reads commands from a terminal that is not its own: SIGTTIN stops it. The shell tells of stopped jobs.
    loop {
        terminal.say("jobs; echo listed\n");
        terminal.wait_for("echo listed");
        if terminal.wait_for("listed\r\n").contains("Stopped") {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    terminal.say("fg\n");
    terminal.say("w\n");
    terminal.wait_for("done");
    terminal.say("q\n");
    terminal.wait_for("bye");
    terminal.say("echo status=$?\n");
    terminal.wait_for("status=0");
    assert!(info(&trace).capture.complete);
}

#[test]
fn ctrl_c_ends_target_and_recording() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let trace = dir.path().join("run.htape");
    let mut terminal = shell();
    let line =
        format!("{} record --quiet -o {} -- {} 2\n", binary().display(), trace.display(), built("commanded").display());
    terminal.say(&line);
    terminal.wait_for("ready");
    terminal.say("w\n");
    terminal.wait_for("done");
    terminal.say("\x03"); // Ctrl-C
    terminal.wait_for("prompt> ");
    terminal.say("echo status=$?\n");
    let status = loop {
        terminal.wait_for("status=");
        let rest = terminal.wait_for("\n");
        // What was typed comes back first.
        if !rest.starts_with('$') {
            break rest;
        }
    };
    assert_eq!(status.trim(), "130");
    let info = info(&trace);
    assert!(info.capture.complete);
    assert!(info.totals.alloc_count >= 1000);
}

/// What a program was started to ignore neither ends it nor its recording: `nohup`, and what a script runs in the background.
#[test]
fn what_is_ignored_ends_nothing() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let (trace, truth) = (dir.path().join("run.htape"), dir.path().join("truth"));
    let mut line = Command::new(program("bash"));
    line.args(["-c", "trap '' INT HUP; exec \"$@\"", "bash"]).arg(binary());
    line.args(["record", "--quiet", "-o"]).arg(&trace).arg("--").arg(built("commanded")).arg("1").env("TRUTH", &truth);
    let mut recorder = start(&mut line, true);
    recorder.wait_for_output("ready\n", 1);
    let targets = running(&built("commanded"));
    let [target] = targets[..] else { panic!("targets: {targets:?}") };
    for number in [libc::SIGINT, libc::SIGHUP] {
        for pid in [recorder.pid(), target] {
            signal(pid, number);
        }
    }
    // Longer than a recorder that was asked would wait.
    std::thread::sleep(std::time::Duration::from_millis(1500));
    recorder.say("w\n");
    recorder.wait_for_output("done\n", 1);
    recorder.say("q\n");
    recorder.finish().success("commanded, with signals that it ignores");
    let info = info(&trace);
    assert!(info.capture.complete);
    // Its 1000 blocks came after the signals.
    assert!(info.totals.alloc_count >= 1000, "{:?}", info.totals);
}

/// The truth of a recorded compile's children is in `children`; here: an ordinary shell pipeline keeps working.
#[test]
fn pipelines_and_closed_pipes() {
    let Some(_live) = live() else { return };
    same_result(&["bash", "-c", "set -o pipefail; seq 100000 | sort -rn | head -1 > out; cat out; exit 0"], 0);
    // The writer dies by SIGPIPE.
    same_result(&["bash", "-c", "yes | head -1 > out; echo ${PIPESTATUS[0]}"], 0);
}
