//! Patterns of planted programs (`workloads/patterns/`) are found with the figures that follow from how these are written: what
//! growth by one more element copies in C, C++ and Rust, to the byte, and nothing where growth is amortised.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;
use tests::command::run;
use tests::live::live;
use tests::recorder::{Record, heaptape};
use tests::requirements::program;
use tests::toolchain::rustc;

/// Sum of 1 … count.
const fn triangle(count: u64) -> u64 {
    count * (count + 1) / 2
}

/// A built and recorded program's patterns.
fn patterns(source: &str) -> Value {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("workloads/patterns");
    let out = tempfile::tempdir().expect("a temporary folder can be made");
    let path = build(&folder.join(source), out.path());
    let recording = Record::new([&path]).options(&["--quiet"]).finish().expect_status(0);
    let finished = run(heaptape(&["patterns", "--json", "--limit", "1000"]).arg(&recording.trace)).success("patterns");
    serde_json::from_slice(&finished.stdout).expect("`--json` prints JSON")
}

fn build(source: &Path, out: &Path) -> PathBuf {
    let path = out.join("planted");
    let c = ["-O1", "-g", "-fno-builtin", "-fno-optimize-sibling-calls", "-Wall", "-Wextra", "-Werror", "-pthread"];
    let mut command = match source.extension().and_then(|extension| extension.to_str()) {
        Some("rs") => {
            let mut command = Command::new(rustc());
            command.args(["--edition", "2024", "-C", "opt-level=1", "-g", "--crate-name", "planted"]);
            command
        }
        Some("cpp") => {
            let mut command = Command::new(program("g++"));
            command.args(c).arg("-std=c++17");
            command
        }
        _ => {
            let mut command = Command::new(program("gcc"));
            command.args(c).args(["-std=gnu11", "-D_GNU_SOURCE"]);
            command
        }
    };
    run(command.arg(source).arg("-o").arg(&path)).success("the planted program compiles");
    path
}

/// The row of a function; C++ names have their parameters, Rust names their crate.
fn row<'v>(rows: &'v Value, function: &str) -> Option<&'v Value> {
    let is_it = |row: &&Value| {
        let name = row["function"].as_str().expect("rows have a function");
        name.split('(').next().is_some_and(|name| name.rsplit("::").next() == Some(function))
    };
    let mut rows = rows.as_array().expect("rows are a list").iter().filter(is_it);
    let row = rows.next();
    assert!(rows.next().is_none(), "{function} has one row");
    row
}

fn number(row: &Value, name: &str) -> u64 {
    row[name].as_u64().unwrap_or_else(|| panic!("{name} of {row}"))
}

/// What a function that appends did: tables, steps, bytes copied, the commonest step.
type Truth = (&'static str, u64, u64, u64, u64);

#[track_caller]
fn assert_appends(found: &Value, truth: &[Truth]) {
    let appends = &found["appends"];
    for (function, tables, steps, copied, step) in truth {
        let row = row(&appends["rows"], function).unwrap_or_else(|| panic!("{function} is not in {appends:#}"));
        let figures = ["chain_count", "append_count", "copied_bytes", "step_bytes"].map(|name| number(row, name));
        assert_eq!(figures, [*tables, *steps, *copied, *step], "{function}: {row:#}");
    }
    let names: Vec<&Value> = appends["rows"].as_array().unwrap().iter().map(|row| &row["function"]).collect();
    assert_eq!(number(appends, "site_count"), truth.len() as u64, "nothing else grows by copying: {names:?}");
    assert_eq!(number(appends, "bytes"), truth.iter().map(|(_, _, _, copied, _)| copied).sum::<u64>());
}

/// What a function that reallocs one more each time did: steps, bytes before them.
#[track_caller]
fn assert_linear(found: &Value, truth: (&str, u64, u64, u64)) {
    let (function, steps, old, step) = truth;
    let rows = &found["reallocs"]["rows"];
    let row = row(rows, function).unwrap_or_else(|| panic!("{function} is not in {rows:#}"));
    assert_eq!(row["kind"], "linear", "{row:#}");
    assert_eq!((number(row, "grow_count"), number(row, "old_bytes")), (steps, old), "{row:#}");
    let linear = &row["linear"];
    let figures = ["step_count", "copied_bytes", "step_bytes"].map(|name| number(linear, name));
    assert_eq!(figures, [steps, old, step], "{row:#}");
    assert_eq!(number(row, "reserve_saves_count"), steps, "{row:#}");
    let others = rows.as_array().unwrap().iter().filter(|row| number(&row["linear"], "step_count") > 0);
    assert_eq!(others.count(), 1, "no other growth is linear: {rows:#}");
}

#[test]
fn one_more_each_time_in_c() {
    let Some(_live) = live() else { return };
    let found = patterns("appends.c");
    let truth = [
        ("append_one", 1, 199, 24 * triangle(199), 24),
        ("append_by_turns", 3, 3 * 119, (8 + 72 + 16) * triangle(119), 72),
        ("append_two", 2, 100, (8 + 56) * triangle(50), 56),
        ("append_deep", 1, 59, 8 * triangle(59), 8),
    ];
    assert_appends(&found, &truth);
    assert_linear(&found, ("realloc_one", 99, 40 * triangle(99), 40));
    let doubling = row(&found["reallocs"]["rows"], "realloc_doubling").expect("it grows by realloc");
    assert_eq!(doubling["kind"], "geometric", "{doubling:#}");
    // 20,000 elements of 16 bytes: capacities 4 … 32,768.
    assert_eq!((number(doubling, "grow_count"), number(doubling, "max_final_bytes")), (13, 32_768 * 16));
    // From 24 bytes on: 1, 2, … 128 elements are copied on the way to 200.
    let one = row(&found["appends"]["rows"], "append_one").unwrap();
    assert_eq!((number(one, "doubling_copied_bytes"), number(one, "max_final_bytes")), (24 * 255, 24 * 200));
}

#[test]
fn one_more_each_time_in_cpp() {
    let Some(_live) = live() else { return };
    let found = patterns("appends.cpp");
    let truth = [
        ("append_array", 1, 149, 24 * triangle(149), 24),
        ("append_reserved", 1, 99, 24 * triangle(99), 24),
        ("append_rebuilt", 1, 99, 8 * triangle(99), 8),
    ];
    assert_appends(&found, &truth);
}

#[test]
fn one_more_each_time_in_rust() {
    let Some(_live) = live() else { return };
    let found = patterns("appends.rs");
    let truth = [("append_boxed", 1, 179, 8 * triangle(179), 8), ("append_moved", 1, 69, 8 * triangle(69), 8)];
    assert_appends(&found, &truth);
    assert_linear(&found, ("reserve_exact_one", 89, 24 * triangle(89), 24));
}

#[test]
fn habits_are_found_with_their_figures_and_the_advice_that_fits() {
    let Some(_live) = live() else { return };
    let found = patterns("habits.c");
    let figures = |row: &Value, names: &[&str]| names.iter().map(|name| number(row, name)).collect::<Vec<u64>>();
    let rows = |pattern: &str| &found[pattern]["rows"];

    let storm = row(rows("storms"), "tear_down").unwrap_or_else(|| panic!("{:#}", found["storms"]));
    assert_eq!(figures(storm, &["storm_count", "free_count", "saves_count"]), [1, 4094, 4093], "{storm:#}");
    assert_eq!(storm["free_bytes"], 2047 * (24 + 11), "{storm:#}");
    assert_eq!((&storm["born_in"][0]["function"], &storm["born_in"][0]["count"]), (&"build".into(), &4094.into()));
    assert_eq!(found["storms"]["site_count"], 1, "{:#}", found["storms"]);

    let names = ["count", "bytes", "max_bytes"];
    let small = row(rows("temporaries"), "temporary").expect("temporaries");
    assert_eq!(figures(small, &names), [500, 500 * 100 + 4 * triangle(100) + triangle(95), 200], "{small:#}");
    assert_eq!(small["instead"], "stack_buffer");
    let great = row(rows("temporaries"), "great_temporary").expect("temporaries");
    assert_eq!(figures(great, &names), [300, 30_000_000, 100_000], "{great:#}");
    assert_eq!(great["instead"], "scratch_buffer");

    let pool = row(rows("pools"), "take").expect("a pool");
    assert_eq!(figures(pool, &["size_bytes", "count", "slot_count"]), [48, 3000, 3], "{pool:#}");
    assert!(pool["lifo_share"].as_f64().unwrap() > 0.9, "{pool:#}");

    let pages = row(&found["page_requests"]["requests"]["rows"], "page_buffer").expect("page requests");
    let names = ["count", "bytes", "aligned_count", "freed_count", "freed_at_once_count"];
    assert_eq!(figures(pages, &names), [40, 40 * 8192, 40, 40, 40], "{pages:#}");
    assert_eq!(found["page_requests"]["maps_recorded"], false);

    let handed = row(&found["transfers"]["thread_sites"]["rows"], "produce").expect("transfers");
    assert_eq!(figures(handed, &["count", "bytes"]), [250, 16_000], "{handed:#}");
    assert_eq!(handed["share"], 1.0);
    let pairs = found["transfers"]["threads"].as_array().unwrap();
    assert!(pairs.iter().any(|pair| number(pair, "count") >= 250), "{pairs:#?}");

    for (function, allocator) in
        [("temporary", "fixed_buffer"), ("great_temporary", "scratch_buffer"), ("take", "pool"), ("produce", "general")]
    {
        let advice = row(&found["advice"], function).unwrap_or_else(|| panic!("{:#}", found["advice"]));
        assert_eq!(advice["allocator"], allocator, "{advice:#}");
    }
    assert!(found["chunks"]["domains"].as_array().unwrap().is_empty(), "{:#}", found["chunks"]);
}
