//! Leaks and their causes: the planted cases, whose truth is known from how they are written, must be classified as their truth
//! says; real compilers are the controls. The truth is checked by other tools in `workloads/leaks/check`.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use tests::command::run;
use tests::inputs;
use tests::live::live;
use tests::recorder::{Record, heaptape};
use tests::requirements::program;
use tests::toolchain::{clang_command, rustc, rustc_command};

#[derive(Deserialize)]
struct Truth {
    program: Vec<Program>,
    case: Vec<Case>,
}

#[derive(Deserialize)]
struct Program {
    name: String,
    source: String,
    compiler: String,
    flags: Vec<String>,
    #[serde(default)]
    wrappers: Vec<String>,
}

#[derive(Deserialize)]
struct Case {
    name: String,
    program: String,
    args: Vec<String>,
    #[serde(default)]
    detach: bool,
    #[serde(default)]
    findings: Vec<Expected>,
}

#[derive(Deserialize)]
struct Expected {
    class: String,
    #[serde(default)]
    accept: Vec<String>,
    allocator: String,
    blocks: u64,
    bytes: u64,
    #[serde(default)]
    siblings_die_in: Vec<String>,
}

/// What `heaptape leaks --json` says.
#[derive(Deserialize)]
struct Leaks {
    total: Amount,
    leaked: Amount,
    findings: Vec<Finding>,
}

#[derive(Deserialize)]
struct Amount {
    count: u64,
    bytes: u64,
}

#[derive(Deserialize, Clone, Debug)]
struct Finding {
    class: String,
    leak: bool,
    expected: Option<String>,
    count: u64,
    bytes: u64,
    function: String,
    grown_in: Option<String>,
    siblings_die_in: Vec<DiesIn>,
    why: String,
}

#[derive(Deserialize, Clone, Debug)]
struct DiesIn {
    function: String,
}

fn leaks(trace: &Path, options: &[String]) -> Leaks {
    let finished = run(heaptape(&["leaks", "--json"]).args(options).arg(trace)).success("heaptape leaks");
    serde_json::from_slice(&finished.stdout).expect("leaks --json has its documented shape")
}

fn build(program: &Program, folder: &Path, out: &Path) -> PathBuf {
    let path = out.join(&program.name);
    let compiler = if program.compiler == "rustc" { rustc() } else { tests::requirements::program(&program.compiler) };
    let mut command = Command::new(compiler);
    command.args(&program.flags).arg(&program.source).arg("-o").arg(&path).current_dir(folder);
    run(&mut command).success(&program.name);
    path
}

/// Faults of a case: what is wrong, missed or invented. Findings of a case that are right are counted.
fn check(case: &Case, mut found: Vec<Finding>) -> (u64, Vec<String>) {
    let (mut right, mut faults) = (0, Vec::new());
    for expected in &case.findings {
        let is_it = |finding: &Finding| {
            finding.function == expected.allocator || finding.grown_in.as_ref() == Some(&expected.allocator)
        };
        let (these, others): (Vec<_>, Vec<_>) = found.into_iter().partition(is_it);
        found = others;
        let sum = |figure: fn(&Finding) -> u64| these.iter().map(figure).sum::<u64>();
        let classes_fit =
            these.iter().all(|finding| finding.class == expected.class || expected.accept.contains(&finding.class));
        let place_fits = expected.siblings_die_in.is_empty()
            || expected.class == "bounded-cache"
            || these
                .iter()
                .flat_map(|finding| &finding.siblings_die_in)
                .any(|place| expected.siblings_die_in.contains(&place.function));
        let amounts = (sum(|finding| finding.count), sum(|finding| finding.bytes));
        if !these.is_empty() && classes_fit && place_fits && amounts == (expected.blocks, expected.bytes) {
            right += 1;
        } else {
            faults.push(format!(
                "{}: {} from {}, {} blocks of {} bytes, siblings die in {:?}; found {these:?}",
                case.name,
                expected.class,
                expected.allocator,
                expected.blocks,
                expected.bytes,
                expected.siblings_die_in
            ));
        }
    }
    for invented in found.iter().filter(|finding| finding.leak) {
        faults.push(format!("{}: invented {}: {} in {}", case.name, invented.class, invented.why, invented.function));
    }
    (right, faults)
}

/// Runs all cases of a folder; returns how many findings are right, how many there are, and what is wrong.
fn run_cases(folder: &Path) -> (u64, u64, Vec<String>) {
    let truth = std::fs::read_to_string(folder.join("truth.toml")).expect("the truth can be read");
    let truth: Truth = toml::from_str(&truth).expect("the truth is well formed");
    let out = tempfile::tempdir().expect("a temporary folder can be made");
    let (mut right, mut all, mut faults) = (0, 0, Vec::new());
    for program in &truth.program {
        let path = build(program, folder, out.path());
        let wrappers: Vec<String> =
            program.wrappers.iter().flat_map(|name| ["--wrapper".to_owned(), name.clone()]).collect();
        for case in truth.case.iter().filter(|case| case.program == program.name) {
            let words = [path.to_str().expect("test paths are UTF-8").to_owned()];
            let record = Record::new(words.iter().chain(&case.args)).options(&["--quiet"]);
            let record = if case.detach { record.options(&["--duration", "1.5"]) } else { record };
            let recording = record.finish();
            if case.detach {
                // The program sleeps on; nobody waits for it.
                run(Command::new(tests::requirements::program("pkill")).args(["-f", &case.name]));
            } else {
                assert_eq!(recording.finished.shell_status(), 0, "{}: {}", case.name, recording.finished.stderr_text());
            }
            let (fit, wrong) = check(case, leaks(&recording.trace, &wrappers).findings);
            right += fit;
            all += case.findings.len() as u64;
            faults.extend(wrong);
        }
    }
    (right, all, faults)
}

fn cases() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/leaks")
}

#[test]
fn planted_leaks_are_found_with_their_cause_and_none_is_invented() {
    let Some(_live) = live() else { return };
    let (right, all, faults) = run_cases(&cases());
    assert!(all >= 80, "the truth lists {all} findings");
    assert!(faults.is_empty(), "{right} of {all} are right:\n{}", faults.join("\n"));
}

#[test]
fn a_compiler_that_frees_everything_leaks_nothing() {
    let Some(_live) = live() else { return };
    let out = tempfile::tempdir().expect("a temporary folder can be made");
    let command = [program("tcc"), "-c".into(), inputs::path("medium.c"), "-o".into(), out.path().join("out.o")];
    let recording = Record::new(command).finish().expect_status(0);
    let leaks = leaks(&recording.trace, &[]);
    assert_eq!((leaks.total.count, leaks.findings.len()), (0, 0));
}

#[test]
fn what_rustc_keeps_to_its_end_is_no_leak() {
    let Some(_live) = live() else { return };
    let out = tempfile::tempdir().expect("a temporary folder can be made");
    let command = rustc_command(&rustc(), &inputs::path("medium.rs"), &out.path().join("out.o"));
    let recording = Record::new(command).finish().expect_status(0);
    let leaks = leaks(&recording.trace, &[]);
    let leaked: Vec<&Finding> = leaks.findings.iter().filter(|finding| finding.leak).collect();
    assert!(leaked.is_empty(), "{leaked:#?}");
    assert!(leaks.total.count > 0 && leaks.leaked.bytes == 0, "constants there are");
}

#[test]
fn what_clang_leaves_to_the_system_is_said_once() {
    let Some(_live) = live() else { return };
    let out = tempfile::tempdir().expect("a temporary folder can be made");
    let command = clang_command("-O0", &inputs::path("medium.c"), &out.path().join("out.o"));
    let recording = Record::new(command).finish().expect_status(0);
    let leaks = leaks(&recording.trace, &[]);
    assert_eq!(leaks.findings.len(), 1, "{:#?}", leaks.findings);
    let only = &leaks.findings[0];
    assert_eq!((only.count, only.bytes, only.leak), (leaks.total.count, leaks.total.bytes, false));
    assert!(only.expected.as_ref().is_some_and(|why| why.contains("-disable-free")), "{only:?}");
}

#[test]
fn the_gate_fails_on_leaks_that_are_not_suppressed() {
    let Some(_live) = live() else { return };
    let folder = cases();
    let truth = std::fs::read_to_string(folder.join("truth.toml")).expect("the truth can be read");
    let truth: Truth = toml::from_str(&truth).expect("the truth is well formed");
    let out = tempfile::tempdir().expect("a temporary folder can be made");
    let codegen = truth.program.iter().find(|program| program.name == "codegen").expect("there is one");
    let path = build(codegen, &folder, out.path());
    let trace_of = |case: &str| Record::new([path.to_str().expect("UTF-8"), case]).finish().expect_status(0);
    let (leaky, clean) = (trace_of("relocations_pile_up"), trace_of("buffer_freed_always"));
    let suppressions = out.path().join("known.supp");
    std::fs::write(&suppressions, "# the list of relocations is never taken apart\nleak:^record_relocation$\n")
        .expect("a file can be written");
    let gate =
        |trace: &Path, options: &[&str]| run(heaptape(&["leaks", "--check"]).args(options).arg(trace)).shell_status();
    assert_eq!(gate(&leaky.trace, &[]), 1);
    assert_eq!(gate(&leaky.trace, &["--suppressions", suppressions.to_str().expect("UTF-8")]), 0);
    assert_eq!(gate(&clean.trace, &[]), 0);
}
