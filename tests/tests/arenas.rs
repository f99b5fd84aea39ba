//! Arena boundaries that are known: programs written with arenas are recorded in a build without them, and `heaptape arenas` must find
//! where the arenas were. Each plan is made from other inputs than the one it is judged on.

use std::path::Path;
use std::process::Command;

use serde_json::Value;
use tests::arenas::bison::Bison;
use tests::arenas::log::Log;
use tests::arenas::plan::Plan;
use tests::arenas::sources::{SHAPES, modules};
use tests::arenas::truth::Truth;
use tests::arenas::verdict::Verdict;
use tests::command::run;
use tests::live::live;
use tests::recorder::{Record, Recording, heaptape};
use tests::workload::built;

/// Part of the objects that have a true scope which a plan must place in it, or as right (see `verdict`). In bison a third of them or more
/// are cut back long before their obstack ends: a plan that keeps them as long as bison itself does is right, not strictly so.
const RIGHT: f64 = 0.9;
/// Part of the objects placed that may break the plan.
const BROKEN: f64 = 0.001;

/// These programs use some hundred kilobytes: even their own arenas, with the ends of their chunks, take more than a hundredth
/// more than that. Where arenas are is what is asked here, not what they cost.
const OPTIONS: &[&str] = &["--policy", "llvm", "--max-peak", "100"];

/// One run: recorded, and logged by the program itself.
struct Run {
    name: String,
    recording: Recording,
    log: Log,
}

impl Run {
    fn new(name: &str, record: &Record, executable: &Path) -> Self {
        let recording = record.finish().expect_status(0);
        let log = Log::of(&recording.truth, executable);
        Self { name: name.to_owned(), recording, log }
    }

    /// The log holds what the trace holds, as far as both can be compared: allocs by the function that all logged objects come from.
    #[track_caller]
    fn is_complete(&self, function: &str) {
        let mut heaptape = heaptape(&["sites", "--json", "--group", "depth:1", "--limit", "1000000"]);
        let finished = run(heaptape.arg(&self.recording.trace)).success("heaptape sites");
        let sites: Value = serde_json::from_slice(&finished.stdout).expect("`--json` prints JSON");
        let count: u64 = sites["sites"]
            .as_array()
            .expect("there are sites")
            .iter()
            .filter(|site| site["stack"][0]["function"] == function)
            .map(|site| site["alloc_count"].as_u64().expect("a count"))
            .sum();
        assert_eq!(count, self.log.objects.len() as u64, "{}: objects in the log", self.name);
        assert!(self.log.objects.len() > 500, "{}: {} objects", self.name, self.log.objects.len());
    }
}

/// The plan that heaptape makes from some runs, and how many objects of another it says break it.
fn plan(train: &[&Run], test: &Run) -> (Plan, u64) {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("plan.json");
    let mut command = heaptape(&["arenas", "--json"]);
    for run in train {
        command.arg("--train").arg(&run.recording.trace);
    }
    command.arg("--test").arg(&test.recording.trace).arg("--write-plan").arg(&file).args(OPTIONS);
    let finished = run(&mut command).success("heaptape arenas");
    let said: Value = serde_json::from_slice(&finished.stdout).expect("`--json` prints JSON");
    let count = |figure: &str| said["held_out"][0][figure].as_u64().expect("a count");
    let plan = Plan::read(&std::fs::read_to_string(&file).expect("a plan was written"));
    (plan, count("outlived") + count("handed_over"))
}

/// Leaves each run out once, judges the plan made of the others on it, and prints the tables.
#[track_caller]
fn recovered(runs: &[Run]) {
    let mut faults = Vec::new();
    for test in runs {
        let train: Vec<&Run> = runs.iter().filter(|run| run.name != test.name).collect();
        let (plan, said_broken) = plan(&train, test);
        let truth = Truth::of(&test.log);
        let verdict = Verdict::of(&test.log, &truth, &plan);
        eprintln!("{}", verdict.table(&format!("{}, planned from the others", test.name)));
        if verdict.total.right_share() < RIGHT {
            faults.push(format!("{}: {:.2} % right", test.name, 100.0 * verdict.total.right_share()));
        }
        if verdict.broken_share() > BROKEN {
            faults.push(format!("{}: {:.4} % broken", test.name, 100.0 * verdict.broken_share()));
        }
        // The trace has objects that the log has not: those of the C library, and what is no arena's.
        if said_broken < verdict.broken as u64 {
            faults.push(format!(
                "{}: {} break the plan, of which heaptape sees {said_broken}",
                test.name, verdict.broken
            ));
        }
        for run in &train {
            let verdict = Verdict::of(&run.log, &Truth::of(&run.log), &plan);
            if verdict.broken > 0 {
                let (broken, name) = (verdict.broken, &run.name);
                faults.push(format!("{}: {broken} of {name}, which the plan was made from, break it", test.name));
            }
        }
        let shuffled = Verdict::of(&test.log, &truth.shuffled(&test.log), &plan);
        assert!(shuffled.total.right_share() < 0.5, "{}: a false truth is not noticed", test.name);
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

/// Writes a program's modules into a folder; their paths.
fn written(folder: &Path, modules: &[String]) -> Vec<String> {
    let write = |(text, number): (&String, u32)| {
        let path = folder.join(format!("module{number}.toy"));
        std::fs::write(&path, text).expect("a module can be written");
        path.display().to_string()
    };
    modules.iter().zip(0..).map(write).collect()
}

#[test]
fn planted_arenas_do_what_the_program_without_them_does() {
    for shape in SHAPES {
        let folder = tempfile::tempdir().expect("a temporary folder can be made");
        let files = written(folder.path(), &modules(shape));
        let output = |name: &str| run(Command::new(built(name)).args(&files)).success(name).stdout_text();
        let without = output("arenas");
        assert_eq!(without, output("arenas-real"), "{}", shape.name);
        assert_eq!(without.lines().count() as u64, shape.modules + 1);
    }
}

#[test]
fn planted_arenas_are_found_again() {
    let Some(_live) = live() else { return };
    let program = built("arenas");
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let runs: Vec<Run> = SHAPES
        .iter()
        .map(|shape| {
            let folder = folder.path().join(shape.name);
            std::fs::create_dir(&folder).expect("a folder can be made");
            let command = std::iter::once(program.display().to_string()).chain(written(&folder, &modules(shape)));
            Run::new(shape.name, &Record::new(command).options(&["--quiet"]), &program)
        })
        .collect();
    for run in &runs {
        run.is_complete("allocate");
        let arenas = Truth::of(&run.log).names.len();
        assert!(arenas >= 10, "{}: {arenas} arenas", run.name);
    }
    recovered(&runs);
}

/// Blocks that end with phases, which only markers tell: `workloads/arenas/phases.c` says why nothing else can hold them.
#[test]
fn phases_that_only_markers_tell_are_scopes() {
    let Some(_live) = live() else { return };
    let shapes = [(7_u64, 400_u64), (5, 900), (11, 260)];
    let program = built("arenas-phases").display().to_string();
    let record = |(modules, nodes): &(u64, u64)| {
        let command = [program.clone(), modules.to_string(), nodes.to_string()];
        Record::new(command).options(&["--quiet"]).finish().expect_status(0)
    };
    let recordings: Vec<Recording> = shapes.iter().map(record).collect();
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let file = folder.path().join("plan.json");
    let mut command = heaptape(&["arenas", "--json"]);
    command.args(recordings.iter().map(|recording| &recording.trace)).arg("--write-plan").arg(&file).args(OPTIONS);
    let finished = run(&mut command).success("heaptape arenas");
    let said: Value = serde_json::from_slice(&finished.stdout).expect("`--json` prints JSON");

    let modules: u64 = shapes.iter().map(|(modules, _)| modules).sum();
    let of_each_module =
        |objects: fn(u64) -> u64| shapes.iter().map(|(modules, nodes)| modules * objects(*nodes)).sum::<u64>();
    let expected = [
        ("phase parse", of_each_module(|nodes| nodes)),
        ("phase check", of_each_module(|nodes| nodes + nodes / 2)),
        ("phase emit", of_each_module(|nodes| nodes + nodes / 2)),
        ("phase module", of_each_module(|nodes| nodes / 2 + nodes)),
    ];
    let suggestions = said["suggestions"].as_array().expect("there are suggestions");
    assert_eq!(suggestions.len(), expected.len(), "{suggestions:#?}");
    for (scope, objects) in expected {
        let found = suggestions.iter().find(|suggestion| suggestion["scope"] == scope);
        let found = found.unwrap_or_else(|| panic!("no arena of {scope}"));
        assert_eq!(found["scope_kind"], "phase", "{scope}");
        assert_eq!(found["instances"].as_u64(), Some(modules), "{scope}");
        assert_eq!(found["objects"].as_u64(), Some(objects), "{scope}");
        let phase = scope.strip_prefix("phase ").expect("it is one");
        assert_eq!(found["phases"][0]["phase"], phase, "{scope}");
        for test in found["tests"].as_array().expect("each was left out once") {
            assert!(test["found"] == true && test["outlived"] == 0 && test["handed_over"] == 0, "{scope}: {test}");
        }
    }
    for trial in said["held_out"].as_array().expect("each was left out once") {
        let share = trial["placed_share"].as_f64().expect("a share");
        assert!(share > 0.99, "all but what the C library makes: {trial}");
    }

    // In the audit of the first, all blocks of each phase go to an arena.
    let mut command = heaptape(&["report"]);
    let finished = run(command.args(recordings.iter().map(|recording| &recording.trace)).args(OPTIONS));
    let audit = finished.success("heaptape report").stdout_text();
    for phase in ["module, ", "module › parse, ", "module › check, ", "module › emit, "] {
        let row = audit.lines().find(|line| line.starts_with(&format!("| {phase}7 instances")));
        let row = row.unwrap_or_else(|| panic!("{phase} is no row of {audit}"));
        assert!(row.contains("| 100.0 % of the blocks ("), "{row}");
    }

    // On real memory, by the plan's file.
    let mut command = heaptape(&["replay", "--json", "--runs", "3"]);
    let finished = run(command.arg(&recordings[1].trace).arg("--plan").arg(&file)).success("heaptape replay");
    let said: Value = serde_json::from_slice(&finished.stdout).expect("`--json` prints JSON");
    let predicted = &said["predicted"];
    assert!(predicted["outlived"] == 0 && predicted["handed_over"] == 0, "{predicted}");
    assert_ne!(predicted["peak_bytes"], predicted["plain_peak_bytes"], "the plan does something: {predicted}");
}

#[test]
fn the_obstacks_of_bison_are_found_again() {
    let Some(_live) = live() else { return };
    let bison = match Bison::built() {
        Ok(bison) => bison,
        Err(obstacle) => {
            eprintln!("SKIPPED the obstacks of bison: {obstacle}");
            return;
        }
    };
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let runs: Vec<Run> = bison.grammars().iter().map(|grammar| bison_run(&bison, grammar, folder.path())).collect();
    for run in &runs {
        run.is_complete("finish_object");
    }
    recovered(&runs);
}

/// Bison at everything that it can do with a grammar.
fn bison_run(bison: &Bison, grammar: &Path, folder: &Path) -> Run {
    let name = grammar.strip_prefix(&bison.source).expect("it is one of bison's").display().to_string();
    let folder = folder.join(name.replace('/', "-"));
    std::fs::create_dir(&folder).expect("a folder can be made");
    let out = |file: &str| folder.join(file).display().to_string();
    let command = [
        bison.program.display().to_string(),
        "-Wno-error".to_owned(),
        "-Flr.type=ielr".to_owned(),
        "-Wcounterexamples".to_owned(),
        "--report=all".to_owned(),
        format!("--graph={}", out("out.gv")),
        format!("--xml={}", out("out.xml")),
        format!("--header={}", out("out.h")),
        "-o".to_owned(),
        out("out.c"),
        grammar.display().to_string(),
    ];
    let record = Record::new(command).options(&["--quiet", "--only", "bison"]);
    let record = record.variable("BISON_PKGDATADIR", &bison.data.display().to_string());
    Run::new(&name, &record, &bison.program)
}
