//! `heaptape replay` from its command line to its figures: processes are started, allocators loaded, and what comes back is sound.
//! Responsible for the shape of the answer; what it took is this machine's alone.

mod support;

use serde_json::Value;
use support::{Workshop, stdout, subcommands};

fn json(workshop: &Workshop, arguments: &[&str]) -> Value {
    let output = workshop.run(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn is_sound(spread: &Value) -> bool {
    let [min, median, max] = ["min", "median", "max"].map(|name| spread[name].as_u64());
    min.is_some() && min <= median && median <= max
}

#[test]
fn allocators_are_tried_and_measured() {
    let workshop = Workshop::new();
    let line = "replay samples/cc1plus-small.htape --runs 3 --allocator glibc --allocator mimalloc --json";
    for fragment in [false, true] {
        let mut arguments: Vec<&str> = line.split(' ').collect();
        arguments.extend(fragment.then_some("--fragment"));
        let answer = json(&workshop, &arguments);
        assert_eq!((&answer["schema"], &answer["runs"]), (&1.into(), &3.into()));
        assert_eq!((&answer["fragmented"], &answer["predicted"]), (&fragment.into(), &Value::Null));
        let tried = answer["tried"].as_array().expect("a list");
        assert_eq!(tried.iter().map(|tried| &tried["allocator"]).collect::<Vec<_>>(), ["glibc", "mimalloc"]);
        let alive = answer["subject"]["peak_bytes"].as_u64().expect("a number");
        for tried in tried {
            let plain = &tried["plain"];
            assert!(["time_ns", "peak_bytes", "minor_faults"].iter().all(|name| is_sound(&plain[*name])), "{tried}");
            let peak = plain["peak_bytes"]["median"].as_u64().expect("a number");
            // What is alive at a time is resident; where there are holes, some of it was so before.
            assert!(peak > alive / if fragment { 8 } else { 1 } && peak < alive * 4, "{alive} alive: {tried}");
            assert_eq!((&tried["plan"], &tried["change"]), (&Value::Null, &Value::Null));
        }
    }
}

#[test]
fn the_process_that_measures_is_no_command_for_people() {
    let workshop = Workshop::new();
    assert!(subcommands(&workshop).iter().all(|name| !name.contains("worker")));
    let output = workshop.run(&["replay-worker", "{}"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(3) && said.contains("not an order of `heaptape replay`"), "{said}");
}

#[test]
fn the_answer_is_readable() {
    let workshop = Workshop::new();
    let output = workshop.run(&["replay", "samples/tcc-small.htape", "--runs", "3"]);
    let text = stdout(&output);
    for part in ["Replay", "tcc (pid ", "3 runs each", "glibc", "peak RSS"] {
        assert!(text.contains(part), "{part}:\n{text}");
    }
}

#[test]
fn a_plan_is_held_against_its_prediction() {
    let workshop = Workshop::new();
    let plan = r#"{"schema":1,"policy":"zig","arenas":[{"scope":"main","nesting":"innermost","at_end":"destroy","keys":[["tcc_malloc"],["tal_new"]]}]}"#;
    std::fs::write(workshop.path("plan.json"), plan).expect("a file");
    let answer = json(
        &workshop,
        &"replay samples/tcc-small.htape --plan plan.json --runs 3 --json".split(' ').collect::<Vec<_>>(),
    );
    let predicted = &answer["predicted"];
    assert!(predicted["peak_bytes"].as_u64() > Some(0) && predicted["peak_change"].is_f64(), "{predicted}");
    let tried = &answer["tried"][0];
    assert!(is_sound(&tried["plan"]["time_ns"]) && is_sound(&tried["plan"]["peak_bytes"]), "{tried}");
    let change = &tried["change"];
    assert!(change["off_prediction"].is_f64(), "{change}");
    for what in ["time", "peak"] {
        let verdict = change[what]["verdict"].as_str().expect("a word");
        let (low, high) = (change[what]["low"].as_f64().expect("low"), change[what]["high"].as_f64().expect("high"));
        let expected = if high < 0.0 {
            "gain"
        } else if low > 0.0 {
            "cost"
        } else {
            "below_noise"
        };
        assert_eq!(verdict, expected, "{change}");
    }
}
