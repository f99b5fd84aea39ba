//! Programs with planted truth, recorded as on kernels before 6.6, where each probe has a link of its own (`--links perf`): the
//! same exactness. Removing them takes seconds for each process, hence one program with many. Stacks over such links are in `stacks.rs`, together with all others.

use std::collections::BTreeMap;
use std::process::Command;

use tests::command::{run, signal, start};
use tests::live::live;
use tests::observed::Own;
use tests::process::breakpoints;
use tests::recorder::{heaptape, info};
use tests::scenario::{Checked, Scenario};
use tests::workload::built;

const PERF: &[&str] = &["--links", "perf"];

#[track_caller]
fn exact(name: &str, arguments: &[&str]) -> Checked {
    Scenario { arguments, options: PERF, ..Scenario::new(name) }.check()
}

/// The links that a process holds, by kind as the kernel calls it.
fn links(pid: u32) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for entry in std::fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
        if let Some(kind) = text.lines().find_map(|line| line.strip_prefix("link_type:")) {
            *kinds.entry(kind.trim().to_owned()).or_default() += 1;
        }
    }
    kinds
}

/// What the machine has, by what `doctor` says.
fn best_kind() -> String {
    let finished = run(&mut heaptape(&["doctor", "--json"])).success("heaptape doctor");
    let value: serde_json::Value = serde_json::from_slice(&finished.stdout).expect("it is JSON");
    value["link_kind"].as_str().expect("the machine can record").to_owned()
}

/// That the option does what the other tests here rely on.
#[test]
fn the_option_decides_the_kind() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let held = |options: &[&str]| {
        let mut command = heaptape(&["record", "--quiet", "-o"]);
        command.arg(dir.path().join("run.htape")).args(options).arg("--").arg(built("commanded")).arg("1");
        let mut recorder = start(&mut command, true);
        recorder.wait_for_output("ready\n", 1);
        let held = links(recorder.pid());
        recorder.say("q");
        recorder.finish().success("the recorded program");
        held
    };
    let forced = held(PERF);
    assert!(forced.keys().eq(["perf"]) && forced["perf"] > 10, "one link for each probe: {forced:?}");
    let auto = held(&["--links", "auto"]);
    assert_eq!(auto, held(&[]), "auto is the default");
    assert_eq!(auto.contains_key("perf"), best_kind() == "perf event", "{auto:?}");
}

#[test]
fn every_entry_point_in_every_outcome() {
    let Some(_live) = live() else { return };
    exact("basic", &[]);
    let bare = ["--links", "perf", "--stacks", "none"];
    Scenario { options: &bare, ..Scenario::new("basic") }.check();
}

#[test]
fn static_programs() {
    let Some(_live) = live() else { return };
    exact("basic-static", &[]);
    exact("basic-static-pie", &[]);
}

/// Its work is recorded to the last call, and no probe is left.
#[test]
fn attached_to() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let trace = dir.path().join("run.htape");
    let mut target = start(Command::new(built("commanded")).arg("2"), true);
    target.wait_for_output("ready\n", 1);
    let pid = target.pid();
    let mut recorder =
        start(heaptape(&["attach", "--lossless", "-o"]).arg(&trace).args(PERF).arg(pid.to_string()), false);
    recorder.wait_until("the recorder", |recorder| recorder.stderr_so_far().contains("recording"));
    assert!(links(recorder.pid()).contains_key("perf"));
    target.say("w");
    target.wait_for_output("done\n", 1);
    signal(recorder.pid(), libc::SIGTERM);
    recorder.finish().success("the recorder");
    assert_eq!(breakpoints(pid), Some(Vec::new()), "probes are left");
    let info = info(&trace);
    assert_eq!((info.totals.realloc_count, info.totals.lost_count), (1000, Some(0)));
    target.say("q");
    target.finish().success("the program");
}

#[test]
fn threads() {
    let Some(_live) = live() else { return };
    exact("threads", &[]);
    exact("crossfree", &[]);
    exact("thread_storm", &[]);
}

#[test]
fn forks_and_new_images() {
    let Some(_live) = live() else { return };
    let checked = exact("fork", &[]);
    assert_eq!(checked.observed.tables.processes.len(), 28);
    let leaf = built("leaf").display().to_string();
    // A perf link runs for whoever shares the memory, as a child of vfork does.
    for mode in ["fork-exec", "vfork-malloc", "posix_spawn", "thread-exec"] {
        exact("spawn", &[mode, &leaf]);
    }
}

#[test]
fn libraries_opened_and_closed_at_run_time() {
    let Some(_live) = live() else { return };
    let plugins = [built("plugin.so"), built("plugin_je.so")].map(|path| path.display().to_string());
    exact("dlopen", &[&plugins[0], &plugins[1]]);
}

#[test]
fn one_domain_inside_another() {
    let Some(_live) = live() else { return };
    exact("prefixed-je", &[]);
}

#[test]
fn an_interposed_malloc_left_by_longjmp() {
    let Some(_live) = live() else { return };
    exact("own_malloc", &[]);
}

#[test]
fn exceptions_through_operator_new() {
    let Some(_live) = live() else { return };
    // libstdc++'s pool for exceptions in want of memory: 72,704 bytes.
    let own = Own::SizesFrom { least_bytes: 30_011, except: vec![72_704] };
    Scenario { own: Some(own), options: PERF, ..Scenario::new("bad_alloc") }.check();
    exact("own_new", &["new"]);
    exact("own_new", &["malloc"]);
}

#[test]
fn signal_handlers() {
    let Some(_live) = live() else { return };
    exact("signals", &["handler"]);
}
