//! `heaptape doctor` beside recordings: what it says a recording would do is what a recording did, file by file.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;
use tests::command::run;
use tests::live::live;
use tests::recorder::{Record, heaptape};
use tests::requirements::DEBIAN_PACKAGES;
use tests::workload::built;
use trace_format::{ResultProbe, Trace};

const JEMALLOC: &str = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2";
const LIBSTDCXX: &str = "/usr/lib/x86_64-linux-gnu/libstdc++.so.6";

fn doctor(file: &str) -> Value {
    let finished = run(&mut heaptape(&["doctor", "--json", file]));
    serde_json::from_str(&finished.stdout_text()).unwrap_or_else(|error| panic!("{file}: {error}"))
}

fn rows<'a>(report: &'a Value, list: &str) -> impl Iterator<Item = (String, &'a Value)> {
    let rows = report[list].as_array().unwrap_or_else(|| panic!("no {list} in {report:#}"));
    rows.iter().map(|row| (row["symbol"].as_str().expect("a name").to_owned(), row))
}

/// A file's placed probes (offset, instruction, how the result is taken) and functions left out, by name.
type Plan = (BTreeMap<String, (u64, String, String)>, BTreeMap<String, String>);

#[test]
fn the_plan_is_what_the_recorder_does() {
    assert!(Path::new(JEMALLOC).exists(), "on Debian: apt-get install {}", DEBIAN_PACKAGES.join(" "));
    let Some(_live) = live() else { return };
    let command = ["env".to_owned(), format!("LD_PRELOAD={JEMALLOC}"), built("bad_alloc").display().to_string()];
    let recording = Record::new(command).options(&["--quiet"]).finish();
    let trace = Trace::open(&recording.trace).expect("a trace");
    let mut recorded: BTreeMap<&str, Plan> = BTreeMap::new();
    for probe in &trace.tables.probes {
        let (placed, left_out) = recorded.entry(&trace.tables.modules[probe.module.index()].path).or_default();
        let result = match probe.result {
            ResultProbe::None => "none",
            ResultProbe::Return => "return",
            ResultProbe::RetInstructions => "ret_instructions",
        };
        if probe.placed {
            let at = (u64::from(probe.instruction_offset), probe.instruction.clone(), result.to_owned());
            placed.insert(probe.symbol.clone(), at);
        } else {
            left_out.insert(probe.symbol.clone(), probe.reason.clone());
        }
    }
    assert!(recorded.keys().any(|path| path.contains("libjemalloc")), "{:?}", recorded.keys());
    assert!(recorded.keys().any(|path| path.contains("libc.so")), "{:?}", recorded.keys());
    for (path, plan) in recorded {
        let report = doctor(path);
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let placed = rows(&report, "probe_plan").map(|(name, row)| {
            let offset = row["instruction_offset"].as_u64().expect("a number");
            (name, (offset, text(&row["instruction"]), text(&row["result"])))
        });
        let left_out = rows(&report, "left_out").map(|(name, row)| (name, text(&row["reason"])));
        assert_eq!((placed.collect(), left_out.collect()), plan, "{path}");
    }
}

/// Operators that call another file's `malloc` are no allocator: the recorder looks at `malloc`.
#[test]
fn operators_without_an_allocator_are_left_out() {
    assert!(Path::new(LIBSTDCXX).exists(), "on Debian: apt-get install {}", DEBIAN_PACKAGES.join(" "));
    let report = doctor(LIBSTDCXX);
    assert_eq!(rows(&report, "probe_plan").count(), 0, "{report:#}");
    let reasons: BTreeMap<_, _> = rows(&report, "left_out").map(|(name, row)| (name, &row["reason"])).collect();
    for name in ["_Znwm", "_ZdlPv", "_ZnamRKSt9nothrow_t"] {
        assert_eq!(reasons[name], "an operator on another file's allocator", "{report:#}");
    }
    let shown = run(&mut heaptape(&["doctor", LIBSTDCXX])).stdout_text();
    assert!(shown.contains("  none: it has no allocator of its own\n\nLeft out:\n"), "{shown}");
}
