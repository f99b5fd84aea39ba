//! Phases of real compilers, against what the compilers themselves report of the same recorded run: names, order, nesting and
//! times; against the stacks of the same events: bytes of each phase; threads that work at the same time; failing compiles.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;
use tests::command::{run, start};
use tests::inputs;
use tests::live::live;
use tests::recorder::{Record, Recording, heaptape};
use tests::toolchain::{cc1plus, cc1plus_command, clang_command, rustc, rustc_command};

/// What `heaptape phases --json` says.
#[derive(Deserialize)]
#[expect(clippy::struct_field_names, reason = "the names are those of the JSON")]
struct Phases {
    phases: Vec<Phase>,
    unmatched_end_count: u64,
    unended_count: u64,
}

#[derive(Debug, Clone, Deserialize)]
struct Phase {
    id: u32,
    parent: Option<u32>,
    name: String,
    tid: u32,
    source: String,
    instances: u64,
    begin_ns: u64,
    end_ns: u64,
    time_ns: u64,
    alloc_count: u64,
    alloc_bytes: u64,
    inclusive_alloc_bytes: u64,
    #[serde(default)]
    instance_list: Vec<Instance>,
}

#[derive(Debug, Clone, Deserialize)]
struct Instance {
    end_ns: u64,
}

fn phases(trace: &Path, source: &str) -> Phases {
    let options = ["phases", "--json", "--instances", "100000", "--source", source];
    let finished = run(heaptape(&options).arg(trace)).success("heaptape phases");
    serde_json::from_slice(&finished.stdout).expect("phases --json has its documented shape")
}

impl Phases {
    /// Those that markers opened, by their first begin.
    fn marked(&self) -> Vec<&Phase> {
        let mut marked: Vec<&Phase> = self.phases.iter().filter(|phase| phase.source == "marker").collect();
        marked.sort_by_key(|phase| phase.begin_ns);
        marked
    }

    /// Phases around one, the innermost first.
    fn around<'p>(&'p self, phase: &Phase) -> Vec<&'p str> {
        let mut around = Vec::new();
        let mut parent = phase.parent;
        while let Some(phase) = parent.and_then(|id| self.phases.iter().find(|phase| phase.id == id)) {
            around.push(phase.name.as_str());
            parent = phase.parent;
        }
        around
    }

    /// Time in all places of a name.
    fn seconds(&self, name: &str) -> f64 {
        self.phases.iter().filter(|phase| phase.name == name).map(|phase| phase.time_ns as f64 / 1e9).sum()
    }

    /// Bytes allocated in all places of a name, if what opened them is this.
    #[track_caller]
    fn bytes(&self, name: &str, source: &str) -> u64 {
        let places: Vec<&Phase> = self.phases.iter().filter(|phase| phase.name == name).collect();
        assert!(!places.is_empty(), "no phase `{name}` by {source}");
        assert!(places.iter().all(|phase| phase.source == source), "`{name}` by {source}: {places:?}");
        places.iter().map(|phase| phase.inclusive_alloc_bytes).sum()
    }

    #[track_caller]
    fn all_ended(&self) {
        assert_eq!((self.unmatched_end_count, self.unended_count), (0, 0), "ends without begins, begins without ends");
    }
}

/// Most that bytes by markers and by stacks may differ.
const OFF: f64 = 0.02;
/// Most that a share of the time may be off.
const OFF_TIME: f64 = 0.05;

/// The same phases by markers and by stacks have the same bytes.
#[track_caller]
fn markers_and_stacks_agree(recording: &Recording, names: &[&str]) {
    let (live, stacks) = (phases(&recording.trace, "best"), phases(&recording.trace, "stacks"));
    for name in names {
        let (live, stacks) = (live.bytes(name, "marker"), stacks.bytes(name, "stack"));
        let off = live.abs_diff(stacks) as f64 / live.max(1) as f64;
        eprintln!("{name}: {live} bytes by markers, {stacks} by stacks, {:.3} % off", off * 100.0);
        assert!(off <= OFF, "{name}: {live} bytes by markers, {stacks} by stacks");
    }
    // No pair is left out.
    let opened = |phases: &Phases, source| {
        phases.phases.iter().filter(|phase| phase.source == source).map(|phase| phase.name.clone()).collect()
    };
    let (live, stacks): (BTreeSet<String>, BTreeSet<String>) = (opened(&live, "marker"), opened(&stacks, "stack"));
    let pairs: BTreeSet<&str> = live.intersection(&stacks).map(String::as_str).collect();
    assert_eq!(pairs, names.iter().copied().collect());
}

/// A share of the whole compile as reported and as found.
#[track_caller]
fn same_time(name: &str, reported: f64, found: f64) {
    let off = found - reported;
    eprintln!("{name}: {:.2} % reported, {:.2} % found: {:+.2} points", reported * 100.0, found * 100.0, off * 100.0);
    assert!(off.abs() <= OFF_TIME, "{name}: {reported} reported, {found} found");
}

/// gcc's timers of phases in the order in which a C++ compile starts them. Its report is in another.
const GCC_PHASES: [&str; 7] =
    ["setup", "parsing", "lang. deferred", "opt and generate", "late parsing cleanups", "last asm", "finalize"];
/// Phases of the profile that are no timers of phases.
const GCC_OTHERS: [&str; 1] = ["function"];
/// Timers with less time are not reported.
const GCC_TINY_NS: u64 = 5_000_000;

/// `NAME : USR ( %) SYS ( %) WALL ( %) …` of a `-ftime-report`: names of phases and their seconds and parts of the wall time.
fn time_report(text: &str) -> Vec<(String, f64, f64)> {
    let number = |field: &str| field.trim().trim_end_matches('%').trim().parse::<f64>().expect("a number");
    text.lines()
        .filter_map(|line| {
            let (name, rest) = line.strip_prefix(" phase ")?.split_once(':')?;
            let fields: Vec<&str> = rest.split(['(', ')']).collect();
            Some((name.trim().to_owned(), number(fields[4]), number(fields[5]) / 100.0))
        })
        .collect()
}

fn gcc_recording(dir: &Path) -> Recording {
    let mut command = cc1plus_command(&inputs::path("medium.cpp"), &dir.join("out.s"));
    command.push("-ftime-report".to_owned());
    Record::new(command).options(&["--quiet"]).finish().expect_status(0)
}

#[test]
fn gcc_reports_the_same_phases() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let recording = gcc_recording(dir.path());
    let report = time_report(&recording.finished.stderr_text());
    assert!(report.len() >= 3, "{}", recording.finished.stderr_text());
    let found = phases(&recording.trace, "best");
    found.all_ended();
    let marked: Vec<&Phase> =
        found.marked().into_iter().filter(|phase| !GCC_OTHERS.contains(&phase.name.as_str())).collect();
    let names: Vec<&str> = marked.iter().map(|phase| phase.name.as_str()).collect();
    let expected: Vec<&str> = GCC_PHASES.into_iter().filter(|name| names.contains(name)).collect();
    assert_eq!(names, expected, "each once, in the order of the compile");
    assert!(marked.iter().all(|phase| found.around(phase).is_empty()), "none is inside of another: {marked:?}");
    let whole = marked.iter().map(|phase| phase.end_ns).max().unwrap_or(0) - marked[0].begin_ns;
    for (name, seconds, share) in &report {
        assert!(names.contains(&name.as_str()), "{name} is reported only; found {names:?}");
        eprintln!("{name}: {seconds:.2} s reported, {:.3} s found", found.seconds(name));
        same_time(name, *share, found.seconds(name) * 1e9 / whole as f64);
    }
    // What is not reported took next to no time, and is called as gcc calls it.
    let executable = std::fs::read(cc1plus()).expect("cc1plus can be read");
    for phase in marked {
        let called = format!("phase {}\0", phase.name);
        assert!(executable.windows(called.len()).any(|bytes| bytes == called.as_bytes()), "{} is invented", phase.name);
        let reported = report.iter().any(|(name, ..)| *name == phase.name);
        assert!(reported || phase.time_ns < GCC_TINY_NS * 2, "not reported: {phase:?}");
    }
}

#[test]
fn markers_and_stacks_agree_on_gcc() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let recording = gcc_recording(dir.path());
    markers_and_stacks_agree(&recording, &["parsing", "lang. deferred", "opt and generate", "function"]);
}

/// Events of `-ftime-trace` that are phases of the profile.
const CLANG_PHASES: [&str; 4] = ["Frontend", "Backend", "Optimizer", "CodeGenPasses"];
/// Marked phases of the profile for which clang has no event.
const CLANG_OTHERS: [&str; 2] = ["Sema end of file", "IR generation"];

/// An event of `-ftime-trace`.
#[derive(Debug, Clone)]
struct Traced {
    name: String,
    begin_us: u64,
    end_us: u64,
}

fn time_trace(path: &Path) -> Vec<Traced> {
    let text = std::fs::read_to_string(path).expect("clang wrote its time trace");
    let value: Value = serde_json::from_str(&text).expect("a time trace is JSON");
    let events = value["traceEvents"].as_array().expect("it has events");
    let mut events: Vec<Traced> = events
        .iter()
        .filter(|event| event["ph"] == "X")
        .filter_map(|event| {
            let (begin_us, us) = (event["ts"].as_u64()?, event["dur"].as_u64()?);
            Some(Traced { name: event["name"].as_str()?.to_owned(), begin_us, end_us: begin_us + us })
        })
        .collect();
    events.sort_by_key(|event| (event.begin_us, std::cmp::Reverse(event.end_us)));
    events
}

#[track_caller]
fn clang_reports_the_same_phases(level: &str, input: &Path) {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let mut command = clang_command(level, input, &dir.path().join("out.o"));
    command.push("-ftime-trace".to_owned());
    let recording = Record::new(command).options(&["--quiet"]).finish().expect_status(0);
    let events = time_trace(&dir.path().join("out.json"));
    let whole = events.iter().find(|event| event.name == "ExecuteCompiler").expect("the whole compile is an event");
    let whole_us = whole.end_us - whole.begin_us;
    let events: Vec<&Traced> = events.iter().filter(|event| CLANG_PHASES.contains(&event.name.as_str())).collect();
    let mut expected: Vec<(usize, &str)> = Vec::new();
    for (at, event) in events.iter().enumerate() {
        let depth = events[..at].iter().filter(|outer| outer.end_us >= event.end_us).count();
        // clang times its front end twice in a row: parsing, then the rest of the translation to IR. For us that is one.
        if expected.last() != Some(&(depth, &event.name)) {
            expected.push((depth, &event.name));
        }
    }
    let found = phases(&recording.trace, "best");
    found.all_ended();
    let marked = found.marked();
    let is_traced = |name: &str| CLANG_PHASES.contains(&name);
    let nesting: Vec<(usize, &str)> = marked
        .iter()
        .filter(|phase| is_traced(&phase.name))
        .map(|phase| (found.around(phase).into_iter().filter(|name| is_traced(name)).count(), phase.name.as_str()))
        .collect();
    eprintln!("{level} {}: {nesting:?}", input.display());
    assert_eq!(nesting, expected);
    assert!(marked.iter().all(|phase| phase.instances == 1), "{marked:?}");
    let invented = marked.iter().find(|phase| !is_traced(&phase.name) && !CLANG_OTHERS.contains(&phase.name.as_str()));
    assert!(invented.is_none(), "{invented:?}");
    for phase in marked.iter().filter(|phase| CLANG_OTHERS.contains(&phase.name.as_str())) {
        assert_eq!(found.around(phase), ["Frontend"], "{phase:?}");
    }
    for name in CLANG_PHASES {
        let reported: u64 =
            events.iter().filter(|event| event.name == name).map(|event| event.end_us - event.begin_us).sum();
        same_time(name, reported as f64 / whole_us as f64, found.seconds(name) * 1e6 / whole_us as f64);
    }
    markers_and_stacks_agree(&recording, &[&CLANG_PHASES[..], &CLANG_OTHERS].concat());
}

#[test]
fn clang_reports_the_same_phases_of_c_plus_plus() {
    let Some(_live) = live() else { return };
    clang_reports_the_same_phases("-O1", &inputs::path("medium.cpp"));
}

#[test]
fn clang_reports_the_same_phases_of_a_large_c_file() {
    let Some(_live) = live() else { return };
    clang_reports_the_same_phases("-O0", &inputs::sqlite3_c());
}

/// Marked phases of the profile that `-Z time-passes` does not know: queries that run many times.
const RUSTC_OTHERS: [&str; 3] = ["mir_borrowck", "mir_built", "typeck"];
/// What `-Z time-passes` prints without an activity that begins and ends: the time of rustc's `main` from its first line, and
/// the sum over the modules of code generation, which are the stacks' phase `codegen_unit`.
const RUSTC_SUMS: [&str; 2] = ["codegen_to_LLVM_IR", "total"];

/// `time: {"pass": …, "time": …}` of `-Z time-passes`, in the order of their ends.
fn time_passes(text: &str) -> Vec<(String, f64)> {
    text.lines()
        .filter_map(|line| {
            let value: Value = serde_json::from_str(line.strip_prefix("time: ")?).expect("a pass is JSON");
            Some((value["pass"].as_str()?.to_owned(), value["time"].as_f64()?))
        })
        .collect()
}

/// rustc on `medium.rs`, with four modules of code that are compiled at once.
fn rustc_recording(dir: &Path) -> Recording {
    let mut command = rustc_command(&rustc(), &inputs::path("medium.rs"), Path::new("unused"));
    command.truncate(command.len() - 2);
    let options = ["-C", "codegen-units=4", "-Z", "time-passes", "-Z", "time-passes-format=json", "--out-dir"];
    command.extend(options.map(str::to_owned));
    command.push(dir.display().to_string());
    Record::new(command).options(&["--quiet"]).variable("RUSTC_BOOTSTRAP", "1").finish().expect_status(0)
}

#[test]
fn rustc_reports_the_same_phases() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let recording = rustc_recording(dir.path());
    let reported = time_passes(&recording.finished.stderr_text());
    assert!(reported.len() > 40, "{}", recording.finished.stderr_text());
    let found = phases(&recording.trace, "best");
    found.all_ended();
    let marked: Vec<&Phase> =
        found.marked().into_iter().filter(|phase| !RUSTC_OTHERS.contains(&phase.name.as_str())).collect();
    let mut counts: BTreeMap<&str, i64> = BTreeMap::new();
    for (name, _) in reported.iter().filter(|(name, _)| !RUSTC_SUMS.contains(&name.as_str())) {
        *counts.entry(name).or_default() += 1;
    }
    for phase in &marked {
        *counts.entry(&phase.name).or_default() -= i64::try_from(phase.instances).expect("few instances");
    }
    counts.retain(|_, count| *count != 0);
    assert_eq!(counts, BTreeMap::new(), "reported more often than found, or less often");
    // On each thread they end in the order of the report.
    let mut ends: BTreeMap<u32, Vec<(u64, &str)>> = BTreeMap::new();
    for phase in &marked {
        assert_eq!(phase.instance_list.len() as u64, phase.instances);
        ends.entry(phase.tid).or_default().extend(phase.instance_list.iter().map(|one| (one.end_ns, &*phase.name)));
    }
    assert!(ends.len() >= 2, "activities of more than one thread: {ends:?}");
    for (tid, ends) in &mut ends {
        ends.sort_unstable();
        let mut rest = reported.iter();
        for (_, name) in ends.iter() {
            assert!(rest.any(|(reported, _)| reported == name), "thread {tid}: `{name}` is out of order: {ends:?}");
        }
    }
    let total = reported.iter().find(|(name, _)| name == "total").expect("the total is reported").1;
    let mut seconds: BTreeMap<&str, f64> = BTreeMap::new();
    for (name, time) in &reported {
        *seconds.entry(name).or_default() += time;
    }
    for (name, seconds) in seconds.into_iter().filter(|(name, _)| !RUSTC_SUMS.contains(name)) {
        same_time(name, seconds / total, found.seconds(name) / total);
    }
}

#[test]
fn markers_and_stacks_agree_on_rustc() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let recording = rustc_recording(dir.path());
    let passes = ["parse_crate", "expand_crate", "resolve_crate", "type_check_crate", "codegen_crate"];
    markers_and_stacks_agree(&recording, &[&passes[..], &RUSTC_OTHERS].concat());
    // Stack phases have no name of a pass that they are not: `codegen_unit` is inside of `codegen_crate`, LLVM's on threads.
    let stacks = phases(&recording.trace, "stacks");
    for name in
        ["AST_lowering", "analysis", "monomorphization_collector", "codegen_unit", "LLVM_optimize", "LLVM_codegen"]
    {
        assert!(stacks.bytes(name, "stack") > 0, "{name}");
    }
}

#[test]
fn phases_of_worker_threads_are_their_own() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let recording = rustc_recording(dir.path());
    let found = phases(&recording.trace, "best");
    let called = |names: &[&str]| -> Vec<&Phase> {
        found.phases.iter().filter(|phase| names.contains(&phase.name.as_str())).collect()
    };
    let main = called(&["codegen_crate", "finish_ongoing_codegen"]);
    assert_eq!(main.len(), 2, "{main:?}");
    assert_eq!(main[0].tid, main[1].tid, "one thread waits for the others");
    let generating = called(&["LLVM_codegen"]);
    let threads: BTreeSet<u32> = generating.iter().map(|phase| phase.tid).collect();
    assert!(threads.len() >= 3, "four modules and the allocator's shim: {generating:?}");
    assert_eq!(called(&["LLVM_passes"]).len(), 1);
    for phase in called(&["LLVM_passes", "LLVM_optimize", "LLVM_codegen"]) {
        assert_ne!(phase.tid, main[0].tid, "{phase:?}");
        assert!(found.around(phase).iter().all(|outer| outer.starts_with("LLVM")), "{phase:?}");
    }
    let overlaps = |one: &Phase, other: &Phase| one.begin_ns < other.end_ns && other.begin_ns < one.end_ns;
    // They begin between the time that the main thread hands out modules and the time that it has waited for all, where it may do
    // something else; their end is known from the thread's next event only, or from its end.
    let begin_ns = main.iter().map(|phase| phase.begin_ns).min();
    let end_ns = main.iter().map(|phase| phase.end_ns).max();
    for phase in called(&["LLVM_passes", "LLVM_codegen"]) {
        assert!(Some(phase.begin_ns) > begin_ns && Some(phase.begin_ns) < end_ns, "{phase:?} {main:?}");
    }
    let at_once =
        generating.iter().any(|one| generating.iter().any(|other| one.tid < other.tid && overlaps(one, other)));
    assert!(at_once, "no two threads generate code at the same time: {generating:?}");
    let info = recording.info();
    assert_eq!(info.processes.len(), 1, "rustc alone");
    let totals = info.processes[0].totals;
    let counts: u64 = found.phases.iter().map(|phase| phase.alloc_count).sum();
    let bytes: u64 = found.phases.iter().map(|phase| phase.alloc_bytes).sum();
    eprintln!("{counts} allocations of {bytes} bytes in {} rows", found.phases.len());
    assert_eq!((counts, bytes), (totals.alloc_count + totals.realloc_count, totals.alloc_bytes));
}

#[test]
fn failing_compiles_fail_as_they_would() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let out = |name: &str| -> PathBuf { dir.path().join(name) };
    for (command, first) in [
        (cc1plus_command(&inputs::path("wrong.cpp"), &out("gcc.s")), "setup"),
        (clang_command("-O1", &inputs::path("wrong.c"), &out("c.o")), "Frontend"),
        (clang_command("-O1", &inputs::path("wrong.cpp"), &out("cpp.o")), "Frontend"),
        (rustc_command(&rustc(), &inputs::path("wrong.rs"), &out("rs.o")), "parse_crate"),
    ] {
        let plain = start(Command::new(&command[0]).args(&command[1..]), false).finish();
        assert_ne!(plain.shell_status(), 0, "{command:?}");
        let recording = Record::new(&command).options(&["--quiet"]).finish().expect_status(plain.shell_status());
        assert_eq!(recording.finished.stderr_text(), plain.stderr_text(), "{command:?}");
        assert_eq!(recording.finished.stdout_text(), plain.stdout_text(), "{command:?}");
        let found = phases(&recording.trace, "best");
        assert_eq!(found.marked().first().map(|phase| phase.name.as_str()), Some(first), "{command:?}");
        eprintln!(
            "{}: {} phases, {} ends without begins, {} begins without ends",
            command[0],
            found.marked().len(),
            found.unmatched_end_count,
            found.unended_count
        );
    }
}
