//! Markers: programs that enter marked functions in a known way give exactly the known events; compilers give the phases that
//! their own reports name, and what they compile stays the same.

use std::collections::BTreeMap;
use std::path::Path;

use tests::command::start;
use tests::inputs;
use tests::live::live;
use tests::recorder::{Record, Recording, heaptape};
use tests::toolchain::{cc1plus_command, rustc, rustc_command};
use tests::workload::built;
use trace_format::{MarkerEnd, MarkerValue, Op, StackId, StackQuality, Tables, Trace};

/// A marker event.
#[derive(Debug, Clone)]
struct Hit {
    /// Number of the thread.
    thread: u32,
    /// Such as `begin phase 1`.
    what: String,
    symbol: String,
    /// Names of the stack's functions, the outermost first.
    stack: Vec<String>,
    quality: StackQuality,
    node: StackId,
}

fn hits(path: &Path) -> Vec<Hit> {
    let trace = Trace::open(path).expect("the trace can be read");
    assert!(trace.completeness.complete, "{:?}", trace.problems());
    let tables = &trace.tables;
    let mut hits = Vec::new();
    trace
        .for_each_chunk(0, |events| {
            for event in events {
                let Op::Marker { id, kind, value } = event.op else { continue };
                let marker = &tables.markers[id as usize];
                let value = match (marker.value, value) {
                    (MarkerValue::None, 0) => String::new(),
                    (MarkerValue::None, other) => panic!("a value without one: {other}"),
                    (_, u64::MAX) => " ?".to_owned(),
                    (MarkerValue::Number, number) => format!(" {number}"),
                    (MarkerValue::Text, text) => format!(" {:?}", tables.texts[text as usize]),
                };
                let verb = ["point", "begin", "end"][usize::from(kind)];
                hits.push(Hit {
                    thread: event.thread.0,
                    what: format!("{verb} {}{value}", marker.name),
                    symbol: marker.symbol.clone(),
                    stack: names(event.stack, tables),
                    quality: event.walk.quality,
                    node: event.stack,
                });
            }
        })
        .expect("the trace can be read");
    hits
}

fn names(stack: StackId, tables: &Tables) -> Vec<String> {
    let mut names = Vec::new();
    let mut node = stack;
    while node != StackId::EMPTY {
        let row = &tables.stacks[node.index()];
        names.extend(tables.symbols[row.frame.index()].functions.iter().map(|symbol| symbol.name.clone()));
        node = row.parent;
    }
    names.reverse();
    names
}

fn whats(hits: &[Hit]) -> Vec<&str> {
    hits.iter().map(|hit| hit.what.as_str()).collect()
}

/// A profile for the workloads.
const PROFILE: &str = r#"
name = "workloads"
executables = ["marked*"]
[[marker]]
name = "phase"
begin = ["phase_begin"]
end = ["phase_end"]
value = "edi"
[[marker]]
name = "named"
begin = ["named_begin"]
end = ["named_end"]
value = "text rdi rsi"
[[marker]]
name = "passed"
point = ["passed"]
value = "text rdi"
[[marker]]
name = "wide"
point = ["wide"]
value = "rdi"
[[marker]]
name = "pass"
begin = ["run_pass"]
value = "text *(rdi+16)"
[[marker]]
name = "leaves"
begin = ["leaves"]
[[marker]]
name = "plugin"
point = ["plugin_*"]
value = "text rdi"
[[marker]]
name = "inside"
point = ["grows"]
value = "rdi"
[[marker]]
name = "serves"
begin = ["serves"]
[[marker]]
name = "Pass"
begin = ["compiler::Pass::run"]
value = "text rsi"
[[marker]]
name = "visit"
point = ["compiler::Pass::visit<*>"]
"#;

/// Records a command with the workloads' profile.
fn record_with(command: &[&str], options: &[&str]) -> Recording {
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let profile = dir.path().join("profile.toml");
    std::fs::write(&profile, PROFILE).expect("a profile can be written");
    let profile = profile.display().to_string();
    Record::new(command).options(&["--quiet", "--profile", &profile]).options(options).finish()
}

#[track_caller]
fn record(program: &str, cases: &[&str]) -> (Recording, Vec<Hit>) {
    let program = built(program).display().to_string();
    let recording = record_with(&[&[program.as_str()], cases].concat(), &[]).expect_status(0);
    let found = hits(&recording.trace);
    (recording, found)
}

const NUMBERS: [&str; 8] = [
    "begin phase 1",
    "begin phase 2",
    "end phase 2",
    "begin phase 4294967293",
    "end phase 4294967293",
    "end phase 1",
    "point wide 81985529216486895",
    "point wide ?",
];

#[test]
fn numbers_nest() {
    let Some(_live) = live() else { return };
    let (_, found) = record("marked", &["numbers"]);
    assert_eq!(whats(&found), NUMBERS, "all ones in 64 bits cannot be told from what could not be read");
    for hit in &found {
        if hit.what.starts_with("end") {
            assert_eq!((hit.quality, hit.stack.len()), (StackQuality::NotTaken, 1), "{hit:?}");
        } else {
            assert_eq!(hit.quality, StackQuality::Complete, "{hit:?}");
            assert!(hit.stack.contains(&"main".to_owned()), "{hit:?}");
        }
        assert_eq!(hit.stack.last().map(String::as_str), Some("numbers"), "the caller: {hit:?}");
    }
}

#[test]
fn texts_are_read_wherever_they_are() {
    let Some(_live) = live() else { return };
    let (_, found) = record("marked", &["texts"]);
    let exact = format!("begin named {:?}", "x".repeat(96));
    let longer = format!("begin named {:?}", format!("{}…", "y".repeat(96)));
    let expected = [
        "begin named \"parsing\"",
        "end named",
        "begin named \"größe\"",
        "begin named \"\"",
        &exact,
        &longer,
        "begin named ?",
        "begin named ?",
        "point passed \"far\"",
        "point passed \"\"",
        "point passed ?",
        "point passed \"end\"",
        "begin named \"end\"",
        "point passed ?",
    ];
    assert_eq!(whats(&found), expected);
}

#[test]
fn activations_show_in_the_stacks_behind_them() {
    let Some(_live) = live() else { return };
    let (recording, found) = record("marked", &["activations"]);
    let passes = ["first", "second", "first", "second", "third"].map(|name| format!("begin pass {name:?}"));
    assert_eq!(whats(&found), passes);
    let depth = |hit: &Hit| hit.stack.iter().filter(|name| *name == "run_pass").count();
    assert_eq!(found.iter().map(depth).collect::<Vec<_>>(), [0, 0, 0, 1, 2], "recursion");
    assert_eq!(found[0].node, found[1].node, "twice from one call");
    let trace = Trace::open(&recording.trace).expect("the trace can be read");
    assert!(trace.tables.markers.iter().any(|m| m.symbol == "run_pass" && m.ends_by == MarkerEnd::Activation));
    assert!(trace.tables.markers.iter().all(|m| m.symbol != "phase_begin" || m.ends_by == MarkerEnd::Explicit));
    // The blocks of an activation are born between its marker and the next; their stacks go through it.
    let mut order = Vec::new();
    trace
        .for_each_chunk(0, |events| {
            for event in events {
                match event.op {
                    Op::Alloc { size_bytes: size @ 1000..3000, .. } => {
                        let inside = names(event.stack, &trace.tables);
                        let depth = inside.iter().filter(|name| *name == "run_pass").count();
                        order.push(format!("{size} at {depth}"));
                    }
                    Op::Marker { .. } => order.push("pass".to_owned()),
                    _ => {}
                }
            }
        })
        .expect("the trace can be read");
    let once = ["pass", "1001 at 1", "2001 at 1"];
    let thrice = ["pass", "1003 at 1", "pass", "1002 at 2", "pass", "1001 at 3", "2001 at 3", "2002 at 2", "2003 at 1"];
    assert_eq!(order, [&once[..], &once, &thrice].concat());
}

#[test]
fn jumps_and_exceptions_leave_marked_functions_as_without_us() {
    let Some(_live) = live() else { return };
    let (_, found) = record("marked", &["jumps"]);
    assert_eq!(whats(&found), ["begin leaves"; 4]);
    let (_, found) = record("marked_throws", &[]);
    let expected = [
        "begin Pass \"throws\"",
        "point visit",
        "begin Pass \"runs\"",
        "begin Pass \"throws\"",
        "point visit",
        "point visit",
        "point visit",
    ];
    assert_eq!(whats(&found), expected);
    assert_eq!(found[0].symbol, "_ZN8compiler4Pass3runEPKc");
    let visits: Vec<&str> =
        found.iter().filter(|hit| hit.what == "point visit").map(|hit| hit.symbol.as_str()).collect();
    assert!(visits[0] == visits[1] && visits[1] != visits[2] && visits[2] != visits[3], "{visits:?}");
}

#[test]
fn each_thread_has_its_own() {
    let Some(_live) = live() else { return };
    let (_, found) = record("marked", &["threads"]);
    let mut by_thread: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for hit in &found {
        by_thread.entry(hit.thread).or_default().push(&hit.what);
    }
    let mut firsts = Vec::new();
    for hits in by_thread.values() {
        let mut expected = Vec::new();
        for round in 0..100 {
            expected.extend([
                hits[0].to_owned(),
                format!("begin phase {round}"),
                format!("end phase {round}"),
                "end named".into(),
            ]);
        }
        assert_eq!(*hits, expected);
        firsts.push(hits[0]);
    }
    firsts.sort_unstable();
    assert_eq!(firsts, ["four", "one", "three", "two"].map(|name| format!("begin named {name:?}")));
}

#[test]
fn libraries_that_come_later_and_children_are_marked() {
    let Some(_live) = live() else { return };
    let plugin = built("marked_plugin.so").display().to_string();
    let (recording, found) = record("marked", &[&plugin, "fork"]);
    let expected = [
        "point plugin \"from a plugin\"",
        "point plugin \"from a plugin\"",
        "point passed \"child\"",
        "point passed \"parent\"",
    ];
    assert_eq!(whats(&found), expected);
    let trace = Trace::open(&recording.trace).expect("the trace can be read");
    let process = |hit: &Hit| trace.tables.threads[hit.thread as usize].process;
    assert_ne!(process(&found[2]), process(&found[3]));
}

#[test]
fn inside_of_an_allocator_the_call_stays_whole() {
    let Some(_live) = live() else { return };
    let (recording, found) = record("marked_inside", &[]);
    let expected = ["point inside 100", "begin serves", "point inside 200", "begin serves", "begin serves"];
    let of_main: Vec<&Hit> = found.iter().filter(|hit| hit.stack.contains(&"main".to_owned())).collect();
    assert_eq!(of_main.iter().map(|hit| hit.what.as_str()).collect::<Vec<_>>(), expected);
    for hit in &of_main {
        assert_eq!(hit.quality, StackQuality::Complete, "{hit:?}");
    }
    assert!(of_main[0].stack.ends_with(&["main", "malloc"].map(str::to_owned)), "{:?}", of_main[0]);
    // `malloc` jumped to it: its caller is malloc's.
    assert_eq!(of_main[1].stack.last().map(String::as_str), Some("main"), "{:?}", of_main[1]);
    let trace = Trace::open(&recording.trace).expect("the trace can be read");
    let mut sizes = Vec::new();
    trace
        .for_each_chunk(0, |events| {
            for event in events {
                match event.op {
                    Op::Alloc { size_bytes, .. } | Op::ReallocEnd { size_bytes, .. } => sizes.push(size_bytes),
                    _ => {}
                }
            }
        })
        .expect("the trace can be read");
    assert!(sizes.ends_with(&[100, 200, 300]), "{sizes:?}");
    let stats = trace.stats.expect("the trace has a tail");
    assert_eq!((stats.imbalance(), stats.call_abandoned_count, stats.impossible_count), (0, 0, 0));
}

#[test]
fn programs_can_mark_themselves() {
    let Some(_live) = live() else { return };
    let work = |outer: &str, here: &[&str]| {
        let mut events = vec![format!("begin heaptape {outer:?}")];
        events.extend(here.iter().map(|&what| what.to_owned()));
        events.extend(["point heaptape \"local\"".to_owned(), format!("end heaptape {outer:?}")]);
        events
    };
    let inner = ["begin heaptape \"inner\"", "point heaptape \"local\"", "end heaptape \"inner\""];
    let mut expected = [work("parsing", &[]), work("printing", &inner)].concat();
    expected.push("point heaptape \"given\"".to_owned());
    for program in ["marked_static_probes", "marked_static_probes-static"] {
        let recording =
            Record::new([built(program).display().to_string(), "given".to_owned()]).options(&["--quiet"]).finish();
        let found = hits(&recording.expect_status(0).trace);
        assert_eq!(whats(&found), expected, "{program}");
        for hit in found.iter().filter(|hit| !hit.what.starts_with("end")) {
            // The function that the probe is in is its innermost frame.
            let function = if hit.what.contains("given") { "main" } else { "work" };
            assert_eq!(hit.stack.last().map(String::as_str), Some(function), "{program}: {hit:?}");
            assert_eq!(hit.quality, StackQuality::Complete, "{program}: {hit:?}");
        }
    }
    let recording = Record::new([built("marked_static_probes_rs")]).options(&["--quiet"]).finish().expect_status(0);
    let expected = [
        "begin heaptape \"outer\"",
        "begin heaptape \"one\"",
        "end heaptape \"one\"",
        "begin heaptape \"two\"",
        "end heaptape \"two\"",
        "end heaptape \"outer\"",
        "point heaptape \"done\"",
    ];
    assert_eq!(whats(&hits(&recording.trace)), expected);
}

#[test]
fn a_running_program_is_marked_from_the_attach_on() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let (profile, trace) = (dir.path().join("profile.toml"), dir.path().join("run.htape"));
    std::fs::write(&profile, PROFILE).expect("a profile can be written");
    let mut command = std::process::Command::new(built("marked"));
    let mut target = start(command.arg("commanded"), true);
    target.wait_for_output("ready\n", 1);
    target.say("before\n");
    target.wait_for_output("done\n", 1);
    let mut command = heaptape(&["attach", "-o"]);
    command.arg(&trace).arg("--profile").arg(&profile).arg(target.pid().to_string());
    let mut recorder = start(&mut command, false);
    recorder.wait_until("the recorder to record", |recorder| recorder.stderr_so_far().contains("recording process"));
    for count in 2..4 {
        target.say("mark\n");
        target.wait_for_output("done\n", count);
    }
    target.finish().success("the program attached to");
    recorder.finish().success("the recorder");
    let once: Vec<&str> = NUMBERS.into_iter().chain(["point passed \"commanded\""]).collect();
    assert_eq!(whats(&hits(&trace)), [once.clone(), once].concat());
}

#[test]
fn the_plan_says_what_was_found_and_a_failing_program_fails_as_it_would() {
    let Some(_live) = live() else { return };
    let program = built("marked").display().to_string();
    let recording = record_with(&[&program, "numbers", "fail"], &["--stacks", "none"]).expect_status(7);
    let found = hits(&recording.trace);
    assert_eq!(whats(&found), NUMBERS);
    assert!(found.iter().all(|hit| hit.quality == StackQuality::NotTaken && hit.stack == ["numbers"]), "{found:?}");
    let trace = Trace::open(&recording.trace).expect("the trace can be read");
    let of = |symbol: &str| trace.tables.probes.iter().find(|probe| probe.symbol == symbol).expect("it is in the plan");
    let begin = of("phase_begin");
    assert!(begin.placed && begin.reason.starts_with("marker `phase` (begin)"), "{begin:?}");
    let absent = of("compiler::Pass::run");
    assert!(
        !absent.placed && absent.reason.contains("no such function") || absent.reason.contains("none of"),
        "{absent:?}"
    );
    // No profile, no markers.
    let recording = Record::new([&program, "numbers"]).options(&["--quiet"]).finish().expect_status(0);
    assert!(hits(&recording.trace).is_empty());
    // A profile that cannot be understood is refused before anything starts.
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let wrong = dir.path().join("wrong.toml");
    std::fs::write(&wrong, PROFILE.replace("\"edi\"", "\"xmm0\"")).expect("a profile can be written");
    let wrong = wrong.display().to_string();
    let refused = Record::new([&program, "numbers"]).options(&["--profile", &wrong]).finish();
    assert_ne!(refused.finished.shell_status(), 0);
    let said = refused.finished.stderr_text();
    assert!(said.contains("`xmm0` is no register") && said.contains("phase"), "{said}");
}

#[test]
fn a_flood_of_markers_loses_nothing() {
    let Some(_live) = live() else { return };
    let program = built("marked").display().to_string();
    let recording = record_with(&[&program, "many"], &["--ring-bytes", "65536"]).expect_status(0);
    let found = hits(&recording.trace);
    assert_eq!(found.len(), 200_000);
    assert!(found.iter().enumerate().all(|(round, hit)| hit.what == format!("begin phase {round}")));
}

/// Lost events that are neither births nor deaths, as the trace tells.
fn lost_others(path: &Path) -> u64 {
    let trace = Trace::open(path).expect("the trace can be read");
    let mut lost = 0;
    trace
        .for_each_chunk(0, |events| {
            for event in events {
                if let Op::Loss { other_count, .. } = event.op {
                    lost += other_count;
                }
            }
        })
        .expect("the trace can be read");
    lost
}

#[test]
fn lost_markers_are_counted_and_no_text_is_taken_for_another() {
    let Some(_live) = live() else { return };
    let program = built("marked").display().to_string();
    let tiny = ["--no-lossless", "--stacks", "none", "--ring-bytes", "4096"];
    let recording = record_with(&[&program, "many"], &tiny).expect_status(0);
    let found = hits(&recording.trace).len() as u64;
    let lost = lost_others(&recording.trace);
    assert!(lost > 0, "a ring of 4096 bytes lost nothing");
    assert_eq!(found + lost, 200_000);

    let recording = record_with(&[&program, "many_texts"], &tiny).expect_status(0);
    let found = hits(&recording.trace);
    let lost_markers = 100_000 - found.len() as u64;
    let without_text = found.iter().filter(|hit| hit.what == "begin named ?").count() as u64;
    let known = ["begin named \"odd\"", "begin named \"even\"", "begin named ?"];
    assert!(found.iter().all(|hit| known.contains(&hit.what.as_str())));
    let lost = lost_others(&recording.trace);
    // A marker that was lost may have lost its text as well.
    assert!((lost_markers + without_text..=lost_markers * 2 + without_text).contains(&lost), "{lost} {lost_markers}");
}

/// Begins and ends of a thread match, the last begun first; returns how many there are.
#[track_caller]
fn paired(found: &[Hit]) -> usize {
    let mut open: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    let mut count = 0;
    for hit in found {
        let of_thread = open.entry(hit.thread).or_default();
        if hit.what.starts_with("begin") {
            of_thread.push(&hit.what);
            count += 1;
        } else if hit.what.starts_with("end") {
            assert!(of_thread.pop().is_some(), "an end without a begin: {hit:?}");
        }
    }
    let left: Vec<_> = open.into_values().flatten().collect();
    assert!(left.is_empty(), "without an end: {left:?}");
    count
}

#[test]
fn gcc_tells_its_phases() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let (plain, recorded) = (dir.path().join("plain.s"), dir.path().join("recorded.s"));
    let input = inputs::path("medium.cpp");
    let plain_command = cc1plus_command(&input, &plain);
    let status = std::process::Command::new(&plain_command[0]).args(&plain_command[1..]).status();
    assert!(status.expect("the compiler starts").success());
    let recording = Record::new(cc1plus_command(&input, &recorded)).options(&["--quiet"]).finish().expect_status(0);
    assert_eq!(std::fs::read(&plain).unwrap(), std::fs::read(&recorded).unwrap(), "what is compiled stays the same");
    let found = hits(&recording.trace);
    let timers: Vec<Hit> =
        found.iter().filter(|hit| hit.what.contains("timevar") && hit.what != "begin timevar 1").cloned().collect();
    assert!(paired(&timers) > 6);
    // Timer 1 is the whole compile's and never stopped; those of its parts follow one another.
    let parts = [2, 3, 4, 5, 6, 7, 10];
    let of_parts: Vec<&str> = timers
        .iter()
        .map(|hit| hit.what.as_str())
        .filter(|what| parts.iter().any(|id| what.ends_with(&format!(" timevar {id}"))))
        .collect();
    for pair in of_parts.chunks(2) {
        assert_eq!(pair[0].strip_prefix("begin"), pair[1].strip_prefix("end"), "{of_parts:?}");
    }
    let first_of = |id: u32| of_parts.iter().position(|what| *what == format!("begin timevar {id}"));
    let order = [2, 3, 6, 10].map(first_of);
    assert!(order.is_sorted() && order[0] == Some(0), "{of_parts:?}");
    // Each function of the assembly was expanded once. Cold fragments are no functions of their own.
    let assembly = std::fs::read_to_string(&plain).expect("assembly is text");
    let types = assembly.lines().filter(|line| line.contains(".type") && line.ends_with("@function"));
    let expanded = types.filter(|line| !line.contains(".cold")).count();
    assert_eq!(found.iter().filter(|hit| hit.what == "begin function").count(), expanded);
    assert!(expanded >= 5, "{expanded}");
}

#[test]
fn rustc_tells_its_activities() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let (plain, recorded) = (dir.path().join("plain.o"), dir.path().join("recorded.o"));
    let input = inputs::path("small.rs");
    let plain_command = rustc_command(&rustc(), &input, &plain);
    let status = std::process::Command::new(&plain_command[0]).args(&plain_command[1..]).status();
    assert!(status.expect("rustc starts").success());
    let recording =
        Record::new(rustc_command(&rustc(), &input, &recorded)).options(&["--quiet"]).finish().expect_status(0);
    assert_eq!(std::fs::read(&plain).unwrap(), std::fs::read(&recorded).unwrap(), "what is compiled stays the same");
    let found = hits(&recording.trace);
    let found: Vec<Hit> = found.into_iter().filter(|hit| hit.what.contains(" activity")).collect();
    let count = paired(&found);
    assert!(count >= 20, "only {count} activities: {:?}", whats(&found));
    assert_eq!(found.len(), count * 2);
    for expected in ["type_check_crate", "codegen_crate", "LLVM_passes"] {
        assert!(
            found.iter().any(|hit| hit.what == format!("begin activity {expected:?}")),
            "{expected}: {:?}",
            whats(&found)
        );
    }
    assert!(found.iter().all(|hit| !hit.what.contains('?')), "every name could be read: {:?}", whats(&found));
}
