//! What every subcommand prints, kept in `snapshots/`. Responsible for text, JSON, warnings, errors and exit codes of whole
//! command lines on the committed samples; does not judge whether the figures are true, and records nothing.
//!
//! To cover something new, add its command line to a table below. To renew the files after a change that is meant, run
//!
//! ```sh
//! INSTA_UPDATE=always cargo test -p heaptape --test snapshots
//! ```
//!
//! and read the diff before it is committed. A missing, differing or left-over file fails. The help of every subcommand is
//! covered without a table; a subcommand without a line of its own in [`FINE`] (or in [`UNCOVERED`]) fails.
//!
//! JSON is written with its keys sorted and its arrays cut to their first rows, text is cut after many lines.

mod support;

use std::{collections::BTreeSet, fs, panic, path::Path};

use serde_json::Value;
use support::{COLUMNS, Workshop, stdout, subcommands};

/// Command lines that end with 0. ` && ` runs several in one folder; `COLUMNS=` before one sets its width.
const FINE: &[&str] = &[
    "info samples/cc1plus-small.htape",
    "info samples/cc1plus-small.htape --json",
    "info samples/rustc-small.htape",
    "info samples/rustc-small.htape --json",
    "COLUMNS=80 info samples/rustc-small.htape",
    "COLUMNS=300 info samples/rustc-small.htape",
    "info samples/tcc-small.htape",
    "info samples/tcc-small.htape --json",
    "info damaged/cut-in-events.htape",
    "info damaged/cut-in-tail.htape",
    "info damaged/cut-in-tail.htape --json",
    "info damaged/cut-in-footer.htape",
    "info damaged/flipped-bit.htape",
    "sites samples/cc1plus-small.htape --limit 8",
    "sites samples/cc1plus-small.htape --json",
    "sites samples/cc1plus-small.htape --by count --limit 5",
    "sites samples/cc1plus-small.htape --by peak --limit 5",
    "sites samples/cc1plus-small.htape --by peak --json",
    "sites samples/cc1plus-small.htape --by live --limit 5",
    "sites samples/cc1plus-small.htape --group function --limit 5",
    "sites samples/cc1plus-small.htape --group function --json",
    "sites samples/cc1plus-small.htape --group depth:2 --limit 5",
    "sites samples/cc1plus-small.htape --group namespace --limit 5",
    "sites samples/cc1plus-small.htape --group file --limit 5",
    "sites samples/cc1plus-small.htape --wrapper _cpp_get_buff --limit 5",
    "sites samples/rustc-small.htape --limit 8",
    "COLUMNS=80 sites samples/rustc-small.htape --limit 3",
    "COLUMNS=60 sites samples/rustc-small.htape --limit 3",
    "COLUMNS=300 sites samples/rustc-small.htape --limit 5",
    "sites samples/rustc-small.htape --by peak --limit 5 --callers 0",
    "sites samples/rustc-small.htape --group namespace --limit 8",
    "sites samples/rustc-small.htape --group namespace --json",
    "sites samples/rustc-small.htape --domain libc.so.6",
    "sites samples/rustc-small.htape --process rustc --limit 1",
    "sites samples/tcc-small.htape --limit 8",
    "sites samples/tcc-small.htape --by live --limit 3",
    "sites damaged/cut-in-events.htape",
    "sites damaged/cut-in-tail.htape --limit 3",
    "sites damaged/cut-in-tail.htape --json",
    "leaks samples/cc1plus-small.htape --limit 8",
    "leaks samples/cc1plus-small.htape --json",
    "leaks samples/rustc-small.htape --limit 8 --callers 2",
    "leaks samples/rustc-small.htape --json",
    "leaks samples/tcc-small.htape",
    "leaks samples/tcc-small.htape --json",
    "leaks damaged/cut-in-events.htape",
    "leaks damaged/cut-in-tail.htape",
    "leaks samples/tcc-small.htape --check",
    "timeline samples/cc1plus-small.htape --terminal",
    "flamegraph samples/cc1plus-small.htape --by-phase --by live --json",
    "flamegraph samples/tcc-small.htape --by-phase --by peak --json",
    "timeline samples/rustc-small.htape --json",
    "leaks samples/rustc-small.htape --sites --limit 5",
    "leaks samples/rustc-small.htape --sites --json",
    "profile list",
    "profile check rustc --trace samples/rustc-small.htape --json",
    "phases samples/cc1plus-small.htape",
    "phases samples/cc1plus-small.htape --json --instances 2",
    "phases samples/rustc-small.htape",
    "COLUMNS=160 phases samples/rustc-small.htape",
    "phases samples/rustc-small.htape --source stacks --json",
    "phases samples/tcc-small.htape",
    "phases samples/cc1plus-small.htape --source segments",
    "phases damaged/cut-in-events.htape",
    "phases damaged/cut-in-tail.htape",
    "lifetimes samples/cc1plus-small.htape --limit 5",
    "lifetimes samples/cc1plus-small.htape --json",
    "lifetimes samples/rustc-small.htape --limit 5",
    "COLUMNS=160 lifetimes samples/rustc-small.htape --limit 5",
    "lifetimes samples/rustc-small.htape --json",
    "lifetimes samples/tcc-small.htape --limit 5",
    "lifetimes damaged/cut-in-events.htape",
    "lifetimes damaged/cut-in-tail.htape --limit 5",
    "patterns samples/cc1plus-small.htape --limit 5",
    "patterns samples/cc1plus-small.htape --json",
    "patterns samples/rustc-small.htape --limit 3",
    "COLUMNS=160 patterns samples/rustc-small.htape --limit 5",
    "patterns samples/rustc-small.htape --json",
    "patterns samples/tcc-small.htape --limit 5",
    "patterns samples/tcc-small.htape --wrapper tcc_realloc --limit 2 --callers 0",
    "patterns damaged/cut-in-events.htape --limit 2",
    "patterns damaged/cut-in-tail.htape --json",
    "COLUMNS=120 arenas samples/rustc-small.htape --show 2",
    "arenas samples/rustc-small.htape --json",
    "COLUMNS=120 arenas samples/cc1plus-small.htape --max-peak 50 --policy llvm --show 1",
    "arenas samples/tcc-small.htape",
    "arenas samples/tcc-small.htape --test samples/tcc-small.htape --policy zig --max-peak 400 --write-plan plan.json",
    "report samples/cc1plus-small.htape",
    "report samples/cc1plus-small.htape --json",
    "report samples/rustc-small.htape",
    "report samples/rustc-small.htape --json",
    "report samples/tcc-small.htape --max-peak 5 --policy zig",
    "report damaged/cut-in-events.htape",
    "flamegraph samples/cc1plus-small.htape --json",
    "flamegraph samples/cc1plus-small.htape --by peak --json",
    "flamegraph samples/cc1plus-small.htape -o picture.svg",
    "flamegraph samples/cc1plus-small.htape",
    "flamegraph samples/rustc-small.htape --by live --json",
    "flamegraph samples/tcc-small.htape --collapsed",
    "flamegraph samples/tcc-small.htape --by count --json",
    "flamegraph damaged/cut-in-events.htape --json",
    "flamegraph damaged/cut-in-events.htape --collapsed",
    "flamegraph damaged/cut-in-events.htape -o picture.svg",
    "flamegraph damaged/cut-in-tail.htape -o picture.svg",
    "verify samples/cc1plus-small.htape",
    "verify samples/rustc-small.htape",
    "verify samples/tcc-small.htape",
    "verify samples/tcc-small.htape --json",
    "verify damaged/cut-in-events.htape",
    "verify damaged/cut-in-tail.htape",
    "verify damaged/cut-in-tail.htape --json",
    "verify damaged/cut-in-footer.htape",
    "verify damaged/flipped-bit.htape",
    "verify damaged/flipped-bit.htape --json",
    "salvage samples/tcc-small.htape -o whole.htape && verify whole.htape",
    "salvage damaged/cut-in-events.htape && verify damaged/cut-in-events.salvaged.htape",
    "salvage damaged/cut-in-tail.htape -o whole.htape && verify whole.htape && info whole.htape",
    "salvage damaged/cut-in-tail.htape --json -o whole.htape",
    "salvage damaged/cut-in-footer.htape -o whole.htape && info whole.htape",
    "salvage damaged/flipped-bit.htape -o whole.htape && verify whole.htape && info whole.htape",
    "demo --sample --out demo",
];

/// Command lines that end with 2: heaptape is used wrongly.
const USAGE: &[&str] = &[
    "nosuch",
    "info",
    "info --unknown",
    "arenas samples/tcc-small.htape --policy 64:50:32",
    "sites samples/tcc-small.htape --by speed",
    "sites samples/tcc-small.htape --group depth:0",
    "sites samples/tcc-small.htape --limit many",
    "phases samples/tcc-small.htape --source nosuch",
    "report samples/tcc-small.htape --format html",
    "report samples/tcc-small.htape --format json --json",
    "replay samples/tcc-small.htape --allocator tcmalloc",
    "replay samples/tcc-small.htape --runs 0",
    "flamegraph samples/tcc-small.htape --json --collapsed",
    "flamegraph samples/tcc-small.htape --json -o picture.svg",
];

/// Command lines that end with 3: the input cannot be read, or something else stands in the way.
const UNREADABLE: &[&str] = &[
    "info nosuch.htape",
    "info samples",
    "info damaged/empty.htape",
    "info damaged/five-bytes.htape",
    "info damaged/not-a-trace.txt",
    "sites nosuch.htape --json",
    "sites samples/tcc-small.htape --process nosuch",
    "sites samples/tcc-small.htape --domain nosuch",
    "leaks damaged/not-a-trace.txt",
    "phases nosuch.htape",
    "phases samples/tcc-small.htape --profile nosuch.toml",
    "phases samples/tcc-small.htape --profile damaged/not-a-trace.txt",
    "lifetimes samples --json",
    "patterns samples/tcc-small.htape --process nosuch",
    "leaks samples/tcc-small.htape --process 1",
    "report nosuch.htape",
    "report samples/tcc-small.htape -o samples/tcc-small.htape",
    "replay nosuch.htape",
    "replay samples/tcc-small.htape --process nosuch",
    "replay samples/tcc-small.htape --allocator ./nosuch.so",
    "replay samples/tcc-small.htape --plan damaged/not-a-trace.txt",
    "flamegraph nosuch.htape -o picture.svg",
    "flamegraph samples/tcc-small.htape -o nosuch/picture.svg",
    "flamegraph samples/tcc-small.htape -o samples/tcc-small.htape",
    "verify nosuch.htape",
    "verify samples",
    "verify damaged/empty.htape",
    "verify damaged/not-a-trace.txt",
    "salvage nosuch.htape",
    "salvage damaged/empty.htape",
    "salvage samples/tcc-small.htape -o samples/tcc-small.htape",
];

/// The same where recording is part of the binary; without arguments it lists its subcommands.
const RECORDING_USAGE: &[&str] = &[
    "",
    "record",
    "record true",
    "record --ring-bytes 1000 -- true",
    "record --duration never -- true",
    "record --stacks some -- true",
    "attach",
    "attach gcc",
];

/// Subcommands whose answer depends on the machine.
const UNCOVERED: &[&str] = &["record", "attach", "doctor", "replay"];
/// Subcommands that answer no question, and so have no `--json`.
const WITHOUT_JSON: &[&str] = &["demo"];

/// Rows of a JSON array that are kept.
const KEPT_ROWS: usize = 5;
/// Lines of a text that are kept.
const KEPT_LINES: usize = 80;
/// Lines of an audit that are kept: all of it is meant to be read.
const KEPT_LINES_OF_AUDIT: usize = 1000;

#[test]
fn help_of_every_subcommand() {
    check(&help_lines(), 0);
}

#[test]
fn answers() {
    check(FINE, 0);
}

#[test]
fn wrong_usage_ends_with_2() {
    check(USAGE, 2);
    if cfg!(feature = "recording") {
        check(RECORDING_USAGE, 2);
    }
}

#[test]
fn unreadable_input_ends_with_3() {
    check(UNREADABLE, 3);
}

#[test]
fn every_subcommand_has_a_line() {
    for subcommand in subcommands(&Workshop::new()) {
        if UNCOVERED.contains(&subcommand.as_str()) {
            continue;
        }
        let mut lines = FINE.iter().filter(|line| line.split(' ').next() == Some(&subcommand));
        assert!(lines.clone().next().is_some(), "add a line for `{subcommand}` to FINE");
        assert!(
            WITHOUT_JSON.contains(&subcommand.as_str()) || lines.any(|line| line.contains("--json")),
            "add a line for `{subcommand} --json` to FINE"
        );
    }
}

#[test]
fn no_file_is_left_over() {
    let help = help_lines();
    let lines = help.iter().map(String::as_str);
    let lines = lines.chain([FINE, USAGE, RECORDING_USAGE, UNREADABLE].concat());
    let mut names = BTreeSet::new();
    for line in lines {
        assert!(names.insert(name(line)), "two lines have the name {}", name(line));
    }
    // Files of a binary with recording stay where it is built without.
    names.insert(name("--help"));
    names.extend(UNCOVERED.iter().map(|subcommand| name(&format!("{subcommand} --help"))));
    for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/snapshots")).expect("snapshots") {
        let file = file.expect("a snapshot").file_name().into_string().expect("its name");
        let is_known = file.strip_suffix(".snap").is_none_or(|name| names.contains(name));
        assert!(is_known, "no line makes {file}: remove it");
    }
}

/// The top level lists what is built in: without recording, that is another text.
fn help_lines() -> Vec<String> {
    let subcommands = subcommands(&Workshop::new());
    let top = cfg!(feature = "recording").then(|| "--help".to_owned());
    top.into_iter().chain(subcommands.iter().map(|subcommand| format!("{subcommand} --help"))).collect()
}

/// Runs each line in a folder of its own and compares with its file; tells all that differ, not the first alone.
fn check<Line: AsRef<str>>(lines: &[Line], code: i32) {
    let mut settings = insta::Settings::clone_current();
    settings.set_snapshot_path("snapshots");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_omit_expression(true);
    let mut differing = Vec::new();
    for line in lines {
        let line = line.as_ref();
        let transcript = transcript(line, code);
        let comparison = || settings.bind(|| insta::assert_snapshot!(name(line), transcript));
        if panic::catch_unwind(panic::AssertUnwindSafe(comparison)).is_err() {
            differing.push(line);
        }
    }
    assert!(differing.is_empty(), "not what the snapshots say: {differing:#?}");
}

/// Everything that a line's commands say.
fn transcript(line: &str, code: i32) -> String {
    let workshop = Workshop::new();
    fs::write(workshop.path("damaged/not-a-trace.txt"), "Dear diary,\n").expect("a file");
    let mut transcript = String::new();
    for command in line.split(" && ") {
        let mut arguments: Vec<&str> = command.split_whitespace().collect();
        let columns = arguments.first().and_then(|first| first.strip_prefix("COLUMNS="));
        if columns.is_some() {
            arguments.remove(0);
        }
        let output = workshop.run_at(columns.unwrap_or(COLUMNS), &arguments);
        let text = stdout(&output);
        let text = if arguments.contains(&"--json") && code == 0 {
            let mut value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{command}: {error}:\n{text}"));
            cut_rows(&mut value);
            format!("{value:#}\n")
        } else {
            cut_lines(&text, if arguments.first() == Some(&"report") { KEPT_LINES_OF_AUDIT } else { KEPT_LINES })
        };
        assert_eq!(output.status.code(), Some(code), "{command}: {}", String::from_utf8_lossy(&output.stderr));
        let width = columns.map(|columns| format!("COLUMNS={columns} ")).unwrap_or_default();
        transcript += &format!("$ {width}heaptape {}\n{text}", arguments.join(" "));
        if !output.stderr.is_empty() {
            transcript += &format!("--- stderr\n{}", String::from_utf8_lossy(&output.stderr));
        }
        transcript += &format!("--- ends with {code}\n");
    }
    assert!(!transcript.contains('\x1b'), "{line}: colours where there is no terminal");
    transcript
}

/// A file name for a line: its words without what all have in common.
fn name(line: &str) -> String {
    let short = line.replace("samples/", "").replace("-small.htape", "").replace("damaged/", "");
    let short = short.replace(".htape", "").replace("--", "");
    let words: Vec<&str> =
        short.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    if words.is_empty() { "no-arguments".to_owned() } else { words.join("-") }
}

fn cut_rows(value: &mut Value) {
    match value {
        Value::Array(rows) => {
            let more = rows.len().saturating_sub(KEPT_ROWS);
            rows.truncate(KEPT_ROWS);
            rows.iter_mut().for_each(cut_rows);
            if more > 0 {
                rows.push(format!("… and {more} more").into());
            }
        }
        Value::Object(fields) => fields.values_mut().for_each(cut_rows),
        _ => {}
    }
}

fn cut_lines(text: &str, limit: usize) -> String {
    let more = text.lines().count().saturating_sub(limit);
    let mut kept: String = text.split_inclusive('\n').take(limit).collect();
    if more > 0 {
        kept += &format!("… and {more} more lines\n");
    }
    kept
}
