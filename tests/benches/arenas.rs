//! How well arena suggestions carry over: rustc and g++ are recorded on real projects that have nothing to do with each other, each
//! project is left out once, and the plan made from the others is tried on it.
//!
//! `cargo bench -p tests --bench arenas -- [--smoke] [--only rustc|g++] [--keep FOLDER]`
//! Prints for each project the part of its objects that the plan places, what breaks it, and the peak, beside the bars; then how far
//! a replay on real memory with that plan is off its predicted peak. Needs root.
//! rustc compiles the metadata of crates out of cargo's registry; g++ compiles libraries that Debian packages as headers.
//! `--smoke`: two small projects, to see that everything works; its figures mean nothing.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tests::bench::{Arguments, say, say_missed};
use tests::command::run;
use tests::inputs::{self, crate_source};
use tests::live::live;
use tests::recorder::heaptape;
use tests::toolchain::{cc1plus_command, rustc};

/// Least part of the objects placed, most part of those that break, most rise of the peak, most kinds of arenas.
const PLACED_BAR: f64 = 0.75;
const BROKEN_BAR: f64 = 0.001;
const PEAK_BAR: f64 = 0.01;
const ARENAS_BAR: u64 = 20;
/// Most that a replayed peak may be off the predicted one, as part of it.
const REPLAY_BAR: f64 = 0.05;
/// Runs of each replay; fewer have no spread.
const REPLAY_RUNS: &str = "3";

/// Crates without dependencies: name and features.
const CRATES: [(&str, &[&str]); 5] = [
    ("hashbrown", &["inline-more"]),
    ("regex-syntax", &["std", "unicode"]),
    ("memchr", &["std"]),
    ("smallvec", &[]),
    ("bitflags", &[]),
];

/// Header libraries of Debian: name, a header to be sure that it is there, package, and a program that uses it.
const LIBRARIES: [(&str, &str, &str, &str); 3] = [
    (
        "fmt",
        "fmt/format.h",
        "libfmt-dev",
        "#define FMT_HEADER_ONLY\n#include <fmt/format.h>\n#include <fmt/chrono.h>\n#include <fmt/ranges.h>\n#include <vector>\n\
         int main() { std::vector<int> v{1, 2, 3}; fmt::print(\"{} {:.3f} {}\", 1, 2.5, v); fmt::print(\"{:%Y}\", fmt::localtime(0)); }\n",
    ),
    (
        "json",
        "nlohmann/json.hpp",
        "nlohmann-json3-dev",
        "#include <nlohmann/json.hpp>\n#include <iostream>\nint main(int, char **v) { auto j = nlohmann::json::parse(v[0]); \
         j[\"a\"] = {1, 2.5, \"x\"}; std::cout << j.dump(2) << j.value(\"b\", 3); }\n",
    ),
    (
        "doctest",
        "doctest/doctest.h",
        "doctest-dev",
        "#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN\n#include <doctest/doctest.h>\nTEST_CASE(\"a\") { CHECK(1 + 1 == 2); }\n",
    ),
];

fn main() {
    let arguments = Arguments::of_command_line(1);
    let Some(_live) = live() else { return };
    let temporary = tempfile::tempdir().expect("a temporary folder can be made");
    let folder = arguments.keep.map_or_else(|| temporary.path().to_owned(), PathBuf::from);
    std::fs::create_dir_all(&folder).expect("the folder can be made");
    let mut missed = Vec::new();
    for (compiler, record) in [("rustc", rustc_traces as fn(&Path, bool) -> Vec<PathBuf>), ("g++", cxx_traces)] {
        if arguments.only.as_ref().is_some_and(|only| only != compiler) || arguments.smoke && compiler == "g++" {
            continue;
        }
        let traces = record(&folder, arguments.smoke);
        if traces.len() < 2 {
            say(&format!("{compiler}: skipped, there are not two projects to compile"));
            continue;
        }
        missed.extend(measure(compiler, &traces));
    }
    if !arguments.smoke {
        say_missed(&missed);
    }
}

fn rustc_traces(folder: &Path, smoke: bool) -> Vec<PathBuf> {
    if smoke {
        return ["small.rs", "wrong.rs"]
            .map(|input| {
                let command = tests::toolchain::rustc_command(&rustc(), &inputs::path(input), &folder.join("out.o"));
                recorded(folder, input, &command)
            })
            .to_vec();
    }
    let found = CRATES.iter().filter_map(|(name, features)| Some((name, features, crate_source(name)?)));
    found
        .map(|(name, features, source)| {
            let mut command: Vec<String> = vec![rustc().display().to_string()];
            command.extend(["--edition", "2021", "--crate-type", "lib", "--emit=metadata"].map(str::to_owned));
            command.extend(["--cap-lints", "allow", "-o"].map(str::to_owned));
            command.push(folder.join(format!("{name}.rmeta")).display().to_string());
            command.push(source.display().to_string());
            for feature in *features {
                command.extend(["--cfg".to_owned(), format!("feature=\"{feature}\"")]);
            }
            recorded(folder, name, &command)
        })
        .collect()
}

fn cxx_traces(folder: &Path, _: bool) -> Vec<PathBuf> {
    let mut traces = Vec::new();
    for (name, header, package, program) in LIBRARIES {
        if !Path::new("/usr/include").join(header).is_file() {
            say(&format!("g++: no {header}; install {package}"));
            continue;
        }
        let source = folder.join(format!("{name}.cpp"));
        std::fs::write(&source, program).expect("a source can be written");
        traces.push(recorded(folder, name, &cc1plus_command(&source, &folder.join("out.s"))));
    }
    traces
}

/// Records a compile, unless the folder has its trace. A compile that fails is recorded too.
fn recorded(folder: &Path, name: &str, command: &[String]) -> PathBuf {
    let trace = folder.join(format!("{name}.htape"));
    if !trace.is_file() {
        run(heaptape(&["record", "--quiet", "-o"]).arg(&trace).arg("--").args(command));
        assert!(trace.is_file(), "{name} was not recorded");
    }
    trace
}

fn measure(compiler: &str, traces: &[PathBuf]) -> Vec<String> {
    // gcc's own obstacks grow by slabs of 4 KiB.
    let policy = if compiler == "g++" { "llvm" } else { "bumpalo" };
    let mut command: Command = heaptape(&["arenas", "--json", "--policy", policy]);
    command.args(traces);
    let printed = run(&mut command).success("heaptape arenas").stdout_text();
    let found: Value = serde_json::from_str(&printed).expect("arenas prints JSON");
    let mut missed = Vec::new();
    say(&format!(
        "\n{compiler}, chunks as in {policy}: each project left out once (bars: placed ≥ {PLACED_BAR}, broken ≤ {BROKEN_BAR}, peak ≤ +{PEAK_BAR})"
    ));
    say("    objects  placed   broken    peak    drag  arenas  project");
    for trial in found["held_out"].as_array().into_iter().flatten() {
        let number = |field: &str| trial[field].as_f64().unwrap_or(f64::NAN);
        let name = trial["trace"].as_str().map_or("", |path| path.rsplit('/').next().unwrap_or(path));
        say(&format!(
            "  {:>9}  {:>6.3}  {:>7.5}  {:>+6.4}  {:>6.3}  {:>6}  {name}",
            number("objects"),
            number("placed_share"),
            number("violation_share"),
            number("peak_change"),
            number("drag"),
            number("arena_count"),
        ));
        let bars = [
            (number("placed_share") < PLACED_BAR, format!("{:.3} placed", number("placed_share"))),
            (number("violation_share") > BROKEN_BAR, format!("{:.5} broken", number("violation_share"))),
            (number("peak_change") > PEAK_BAR, format!("peak {:+.4}", number("peak_change"))),
            (number("arena_count") > ARENAS_BAR as f64, format!("{} arenas", number("arena_count"))),
        ];
        missed.extend(bars.into_iter().filter(|(is, _)| *is).map(|(_, what)| format!("{compiler} {name}: {what}")));
    }
    say(&format!("  {}", found["verdict"]["sentence"].as_str().unwrap_or("")));
    missed.extend(replay(compiler, policy, traces, &found));
    missed
}

/// Replays each project with the plan made from the others, which is the one that was tried on it.
fn replay(compiler: &str, policy: &str, traces: &[PathBuf], found: &Value) -> Vec<String> {
    say(&format!(
        "  replayed with that plan (glibc, {REPLAY_RUNS} runs; bar: peak within {REPLAY_BAR} of the predicted)"
    ));
    say("       peak: predicted  replayed      off    time   (low to high)      verdict      project");
    let mut missed = Vec::new();
    for (index, trace) in traces.iter().enumerate() {
        let others = traces.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, trace)| trace);
        let plan = trace.with_extension("plan.json");
        let mut planning: Command = heaptape(&["arenas", "--json", "--policy", policy, "--write-plan"]);
        planning.arg(&plan).arg("--train").args(others).arg("--test").arg(trace);
        let printed = run(&mut planning).success("heaptape arenas --train").stdout_text();
        let planned: Value = serde_json::from_str(&printed).expect("arenas prints JSON");
        let placed = |answer: &Value, at: usize| answer["held_out"][at]["placed_share"].clone();
        assert!(placed(&planned, 0).is_number(), "each trial says what it places");
        assert_eq!(placed(&planned, 0), placed(found, index), "this is the plan that was tried");
        let mut replaying: Command = heaptape(&["replay", "--json", "--runs", REPLAY_RUNS, "--plan"]);
        let printed = run(replaying.arg(&plan).arg(trace)).success("heaptape replay").stdout_text();
        let replayed: Value = serde_json::from_str(&printed).expect("replay prints JSON");
        let number = |pointer: &str| replayed.pointer(pointer).and_then(Value::as_f64).unwrap_or(f64::NAN);
        let off = number("/tried/0/change/off_prediction");
        let name = trace.file_name().unwrap_or_default().to_string_lossy();
        say(&format!(
            "             {:>+9.4}  {:>+8.4}  {off:>+7.4}  {:>+6.3} ({:>+6.3} to {:>+6.3})  {:<11}  {name}",
            number("/predicted/peak_change"),
            number("/tried/0/change/peak/median"),
            number("/tried/0/change/time/median"),
            number("/tried/0/change/time/low"),
            number("/tried/0/change/time/high"),
            replayed.pointer("/tried/0/change/time/verdict").and_then(Value::as_str).unwrap_or("?"),
        ));
        if off.is_nan() || off.abs() > REPLAY_BAR {
            missed.push(format!("{compiler} {name}: replayed peak {off:+.4} off"));
        }
    }
    missed
}
