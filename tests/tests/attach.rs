//! Attaching to programs that run already, and letting go of them.

use std::time::{Duration, Instant};

use tests::command::{Running, signal, start};
use tests::live::live;
use tests::observed::{Observed, Own, observe};
use tests::process::{breakpoints, tracer};
use tests::recorder::{heaptape, info};
use tests::scenario::{agrees, possible};
use tests::truth::Truth;
use tests::workload::built;

/// A `commanded` program with its blocks from the beginning and some busy threads.
struct Target {
    running: Running,
    answers: usize,
    truth: std::path::PathBuf,
}

impl Target {
    fn start(dir: &tempfile::TempDir, threads: &str) -> Self {
        let truth = dir.path().join("truth");
        let mut command = std::process::Command::new(built("commanded"));
        command.arg(threads).env("TRUTH", &truth);
        let mut running = start(&mut command, true);
        running.wait_for_output("ready\n", 1);
        Self { running, answers: 0, truth }
    }

    fn obey(&mut self, command: &str) {
        self.running.say(command);
        self.answers += 1;
        self.running.wait_for_output("done\n", self.answers);
    }

    /// Lets it check its blocks and end; panics unless it is well.
    #[track_caller]
    fn end(mut self) -> Truth {
        self.running.say("q");
        let finished = self.running.finish().success("the program attached to");
        assert!(finished.stdout_text().ends_with("bye\n"), "{}", finished.stdout_text());
        Truth::read(&self.truth)
    }
}

/// Starts `heaptape attach` and waits until it records: it says so, or every probe has been in place for a while.
#[track_caller]
fn attach(trace: &std::path::Path, pid: u32, options: &[&str]) -> Running {
    let mut command = heaptape(&["attach", "-o"]);
    command.arg(trace).args(options).arg(pid.to_string());
    let mut recorder = start(&mut command, false);
    let (mut count, mut since) = (0, Instant::now());
    recorder.wait_until("the recorder to record", |recorder| {
        let said = recorder.stderr_so_far();
        assert!(!recorder.has_ended(), "attach ended early: {said}");
        let now = breakpoints(pid).map_or(0, |found| found.len());
        if now != count {
            (count, since) = (now, Instant::now());
        }
        said.contains("recording") || (count > 0 && since.elapsed() > Duration::from_secs(1))
    });
    recorder
}

/// Waits until no probe is left in a process.
#[track_caller]
fn wait_for_no_probes(target: &mut Running) {
    let pid = target.pid();
    target.wait_until("the probes to be gone", |_| breakpoints(pid).is_some_and(|left| left.is_empty()));
    assert_eq!(tracer(pid), 0, "the program is still traced");
}

/// The calls that `w` makes, as the trace should show them.
fn work() -> Vec<String> {
    (0..1000)
        .flat_map(|round| {
            let (born, grown) = (21001 + round, 22001 + round);
            let mut ops = vec![format!("malloc {born}"), format!("realloc {born} {grown}")];
            ops.extend((round % 2 == 1).then(|| format!("free {grown}")));
            ops
        })
        .collect()
}

#[track_caller]
fn main_thread_did(observed: &Observed, pid: u32, wanted: &[String]) {
    let image = observed.images.iter().find(|image| image.pid == pid).expect("the process is in the trace");
    let seen = &image.ops[&pid];
    let place = (0..wanted.len().max(seen.len())).find(|index| wanted.get(*index) != seen.get(*index));
    let near = |list: &[String]| {
        place.map(|place| list[place.saturating_sub(2).min(list.len())..(place + 3).min(list.len())].join(", "))
    };
    assert_eq!(
        place,
        None,
        "the main thread made {} calls of {}: {:?}, wanted {:?}",
        seen.len(),
        wanted.len(),
        near(seen),
        near(wanted)
    );
}

#[test]
fn attached_until_a_signal_detaches() {
    let Some(_live) = live() else { return };
    for number in [libc::SIGINT, libc::SIGTERM] {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let trace = dir.path().join("run.htape");
        let mut target = Target::start(&dir, "7");
        let pid = target.running.pid();
        target.obey("w"); // before: not to be seen
        let recorder = attach(&trace, pid, &["--lossless"]);
        target.obey("w");
        target.obey("o");
        target.obey("r");
        target.obey("w");
        signal(recorder.pid(), number);
        recorder.finish().success("attach, ended by a signal");
        wait_for_no_probes(&mut target.running);
        target.obey("w"); // after: not to be seen
        let truth = target.end();
        assert_eq!(truth.fact("read_eintr"), 0, "attaching interrupted a read");
        assert_eq!(truth.total().alloc_count, 4000);

        let observed = observe(&trace, &Own::Modules);
        possible(&observed);
        let olds = (0..50).map(|_| "free unknown".to_owned());
        let moved = (50..100).map(|index| format!("realloc unknown {}", 24001 + index));
        let wanted: Vec<String> = work().into_iter().chain(olds).chain(moved).chain(work()).collect();
        main_thread_did(&observed, pid, &wanted);
        let info = info(&trace);
        assert!(info.capture.complete);
        assert_eq!(info.totals.lost_count, Some(0));
        agrees(&observed, &info);
        // The busy threads may each have freed one block from before.
        let before = info.totals.free_before_recording_count;
        assert!((100..=107).contains(&before), "{before} frees of blocks from before the recording");
        let threads = observed.tables.threads.iter().filter(|thread| thread.process.0 == 0).count();
        assert!(threads >= 8, "{threads} of 8 threads were recorded");
    }
}

#[test]
fn attached_for_a_while() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let trace = dir.path().join("run.htape");
    let mut target = Target::start(&dir, "4");
    let recorder = attach(&trace, target.running.pid(), &["--duration", "2"]);
    target.obey("w");
    recorder.finish().success("attach for two seconds");
    wait_for_no_probes(&mut target.running);
    main_thread_did(&observe(&trace, &Own::Modules), target.running.pid(), &work());
    target.end();
    let info = info(&trace);
    assert!(info.capture.complete);
    assert!(info.totals.alloc_count > 1000);
}

#[test]
fn attached_until_the_target_ends() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let trace = dir.path().join("run.htape");
    let mut target = Target::start(&dir, "4");
    let pid = target.running.pid();
    let recorder = attach(&trace, pid, &["--lossless"]);
    target.obey("w");
    target.end();
    recorder.finish().success("attach, the target ended");
    let observed = observe(&trace, &Own::Modules);
    possible(&observed);
    main_thread_did(&observed, pid, &work());
    assert!(info(&trace).capture.complete);
}

#[test]
fn attached_again_and_again() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let mut target = Target::start(&dir, "16");
    let pid = target.running.pid();
    for round in 0..5 {
        let trace = dir.path().join(format!("run-{round}.htape"));
        let recorder = attach(&trace, pid, &["--lossless"]);
        target.obey("w");
        std::thread::sleep(Duration::from_millis(20 * round));
        signal(recorder.pid(), libc::SIGTERM);
        recorder.finish().success("attach");
        main_thread_did(&observe(&trace, &Own::Modules), pid, &work());
        wait_for_no_probes(&mut target.running);
    }
    let truth = target.end();
    assert_eq!(truth.fact("read_eintr"), 0);
}

#[test]
fn children_of_an_attached_process() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let trace = dir.path().join("run.htape");
    let mut target = Target::start(&dir, "3");
    let recorder = attach(&trace, target.running.pid(), &["--lossless"]);
    for _ in 0..5 {
        target.obey("f");
    }
    signal(recorder.pid(), libc::SIGTERM);
    recorder.finish().success("attach");
    target.end();
    let observed = observe(&trace, &Own::Modules);
    possible(&observed);
    let children: Vec<_> = observed.images.iter().skip(1).map(|image| image.counts).collect();
    assert_eq!(children.len(), 5);
    for child in children {
        assert_eq!((child.alloc_count, child.free_count), (100, 100));
        assert_eq!(child.alloc_bytes, (0..100).map(|index| 25_000 + index).sum::<u64>());
    }
}

/// Nobody but the target has probes: not a process that runs the same libc, not one that runs the same program.
#[test]
fn others_are_left_alone() {
    let Some(_live) = live() else { return };
    let (dir, other_dir) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
    let trace = dir.path().join("run.htape");
    let mut target = Target::start(&dir, "2");
    let other = Target::start(&other_dir, "2");
    let recorder = attach(&trace, target.running.pid(), &["--lossless"]);
    target.obey("w");
    let probed = breakpoints(target.running.pid()).expect("the target runs");
    assert!(!probed.is_empty(), "no breakpoints in the target: this test looks in the wrong place");
    for pid in [other.running.pid(), std::process::id()] {
        assert_eq!(breakpoints(pid), Some(Vec::new()), "process {pid} is not recorded and has probes");
    }
    let late_dir = tempfile::tempdir().expect("a folder");
    let late = Target::start(&late_dir, "2");
    assert_eq!(breakpoints(late.running.pid()), Some(Vec::new()), "a process started later has probes");
    signal(recorder.pid(), libc::SIGTERM);
    recorder.finish().success("attach");
    target.end();
    other.end();
    late.end();
}

/// A recorder that is killed leaves the process it attached to as it was.
#[test]
fn a_killed_recorder_lets_go() {
    let Some(_live) = live() else { return };
    for round in 0..3 {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let trace = dir.path().join("run.htape");
        let mut target = Target::start(&dir, "6");
        let recorder = attach(&trace, target.running.pid(), &["--lossless"]);
        target.obey("w");
        std::thread::sleep(Duration::from_millis(700 * round));
        signal(recorder.pid(), libc::SIGKILL);
        recorder.finish();
        wait_for_no_probes(&mut target.running);
        target.obey("w");
        target.end();
        assert!(!info(&trace).capture.complete);
    }
}

#[test]
fn what_cannot_be_attached_to_is_said() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let trace = dir.path().join("run.htape");
    // A pid beyond the limit, a kernel thread, and ourselves' parent of all kernel threads.
    for pid in ["4194999", "2"] {
        let finished = start(heaptape(&["attach", "-o"]).arg(&trace).arg(pid), false).finish();
        assert!(!finished.status.success(), "attached to {pid}");
        assert!(finished.stderr_text().contains(pid), "{}", finished.stderr_text());
        assert!(!finished.stderr_text().contains("panicked"), "{}", finished.stderr_text());
    }
}
