//! Replays with allocators that are loaded into the measuring process, and with plans that heaptape made. Responsible for what the machine
//! must have for it; scripts and their contents are tested with the analyzer.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tests::command::run;
use tests::recorder::heaptape;
use tests::requirements::DEBIAN_PACKAGES;

fn sample(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples").join(name)
}

fn replayed(trace: &Path, arguments: &[&str]) -> Value {
    let mut command = heaptape(&["replay"]);
    command.arg(trace).arg("--json").args(arguments);
    let finished = run(&mut command).success("heaptape replay");
    serde_json::from_slice(&finished.stdout).expect("JSON")
}

fn median(figures: &Value, name: &str) -> u64 {
    figures[name]["median"].as_u64().unwrap_or_else(|| panic!("no {name} in {figures}"))
}

#[test]
fn jemalloc_is_loaded_and_is_another_allocator() {
    let library = Path::new("/usr/lib/x86_64-linux-gnu/libjemalloc.so.2");
    assert!(
        library.exists(),
        "libjemalloc2 is not installed; on Debian: apt-get install {}",
        DEBIAN_PACKAGES.join(" ")
    );
    let path = library.display().to_string();
    let arguments = ["--runs", "3", "--allocator", "glibc", "--allocator", "jemalloc", "--allocator", &path];
    let answer = replayed(&sample("rustc-small.htape"), &arguments);
    let [glibc, jemalloc, same] = &answer["tried"].as_array().expect("a list")[..] else {
        panic!("three were asked for: {answer}")
    };
    assert_eq!((&jemalloc["allocator"], &same["allocator"]), (&"jemalloc".into(), &path.clone().into()));
    // Its thread caches and size classes take other pages than glibc's heaps; twice the same library takes about the same.
    let faults = |tried: &Value| median(&tried["plain"], "minor_faults");
    assert!(faults(jemalloc).abs_diff(faults(same)) * 20 < faults(jemalloc), "{answer:#}");
    assert_ne!(faults(glibc), faults(jemalloc), "{answer:#}");
    for tried in [glibc, jemalloc, same] {
        assert!(
            median(&tried["plain"], "peak_bytes") > answer["subject"]["peak_bytes"].as_u64().expect("a number") / 2
        );
    }
}

#[test]
fn a_plan_takes_the_memory_that_was_predicted() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let plan = folder.path().join("plan.json").display().to_string();
    // Slabs of 4 KiB leave holes among the blocks that stay with malloc: the model of glibc's must know them.
    for (name, policy) in [("rustc-small", "bumpalo"), ("cc1plus-small", "bumpalo"), ("cc1plus-small", "llvm")] {
        let trace = sample(&format!("{name}.htape"));
        let mut command = heaptape(&["arenas", "--max-peak", "10", "--policy", policy, "--write-plan", &plan]);
        run(command.arg(&trace)).success("heaptape arenas");
        let answer = replayed(&trace, &["--runs", "3", "--plan", &plan]);
        let predicted = &answer["predicted"];
        let tried = &answer["tried"][0];
        let off = tried["change"]["off_prediction"].as_f64().expect("a number");
        assert!(off.abs() < 0.05, "{name}, {policy}: the peak with the plan is off by {off}: {tried:#}");
        for (figures, model) in [("plain", "plain_resident_bytes"), ("plan", "resident_bytes")] {
            let (real, model) = (median(&tried[figures], "peak_bytes"), predicted[model].as_u64().expect("a number"));
            assert!(
                real.abs_diff(model) * 20 < real,
                "{name}, {policy}, {figures}: {real} resident, {model} predicted"
            );
        }
    }
}
