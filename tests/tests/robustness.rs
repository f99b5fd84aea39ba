//! Recorders that are killed, targets that are killed, disks that are full: the target goes on, no probe remains, the
//! trace is readable as far as it was written.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tests::command::{Running, run, signal};
use tests::live::live;
use tests::observed::{Own, observe};
use tests::process::{breakpoints, running, state, thread_states};
use tests::recorder::{Record, heaptape, info};
use tests::requirements::program;
use tests::scenario::{every_command_reads, possible};
use tests::truth::Truth;
use tests::workload::built;

/// A deterministic source of moments; the seed is printed with every failure by the test's name and round.
struct Moments(u64);

impl Moments {
    fn next_ms(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// Waits until the target has run to its own end.
#[track_caller]
fn wait_for_target(recorder: &mut Running, executable: &Path, look: bool) {
    let mut clean = !look;
    recorder.wait_until("the target to end by itself", |_| {
        let alive = running(executable);
        for pid in &alive {
            clean = clean || breakpoints(*pid).is_some_and(|left| left.is_empty());
        }
        alive.is_empty()
    });
    assert!(clean, "breakpoints were in the target to its end");
}

/// A trace without a tail: explained, readable by every command, salvageable.
#[track_caller]
fn readable_but_incomplete(trace: &Path) {
    let verify = run(heaptape(&["verify"]).arg(trace));
    let said = verify.stdout_text() + &verify.stderr_text();
    assert!(verify.shell_status() < 100 && !said.contains("panicked"), "verify: {said}");
    assert!(said.contains("tail") || said.contains("incomplete") || said.contains("not complete"), "verify: {said}");
    every_command_reads(trace);
    assert!(!info(trace).capture.complete, "a trace whose recorder was killed calls itself complete");
    let observed = observe(trace, &Own::Modules);
    possible(&observed);

    let salvaged = trace.with_extension("salvaged.htape");
    run(heaptape(&["salvage"]).arg(trace).arg("-o").arg(&salvaged)).success("salvage");
    run(heaptape(&["verify"]).arg(&salvaged)).success("verify of a salvaged trace");
    let again = observe(&salvaged, &Own::Modules);
    assert_eq!(again.replay.event_count, observed.replay.event_count, "salvage keeps every readable event");
    assert_eq!(info(&salvaged).totals, info(trace).totals);
}

/// Kills the recorder of a busy target after a while and checks everything that must hold then.
#[track_caller]
fn kill_recorder_after(delay: Duration, options: &[&str], while_held_back: bool) {
    let churn = built("churn");
    let record =
        Record::new([churn.as_os_str(), "2".as_ref(), "12000000".as_ref()]).options(&["--quiet"]).options(options);
    let (mut recorder, _dir, trace, truth) = record.start(false);
    recorder.wait_until("the trace to begin", |recorder| {
        assert!(!recorder.has_ended(), "the recorder ended: {}", recorder.stderr_so_far());
        std::fs::metadata(&trace).is_ok_and(|file| file.len() > 0) && !running(&churn).is_empty()
    });
    std::thread::sleep(delay);
    if while_held_back {
        // A recorder that does not drain its ring holds the target back for good.
        signal(recorder.pid(), libc::SIGSTOP);
        let target = running(&churn);
        let mut since = Instant::now();
        recorder.wait_until("the target to be held back", |_| {
            let busy = target.iter().any(|pid| thread_states(*pid).contains(&'R'));
            if busy {
                since = Instant::now();
            }
            since.elapsed() > Duration::from_millis(300)
        });
        assert_eq!(running(&churn), target, "the target ended while it was held back");
    }
    signal(recorder.pid(), libc::SIGKILL);
    wait_for_target(&mut recorder, &churn, true);
    let finished = recorder.finish();
    assert_eq!(finished.shell_status(), 128 + libc::SIGKILL);
    assert_eq!(finished.stdout_text(), "churned\n", "the target's last words; stderr: {}", finished.stderr_text());
    let planted = Truth::read(&truth).total();
    assert_eq!(planted.alloc_count, 24_000_000);
    readable_but_incomplete(&trace);
    let seen = observe(&trace, &Own::Modules).replay.sum_where(|_, _| true).counts;
    assert!(seen.alloc_count <= planted.alloc_count + 100, "more was recorded than happened");

    // Nothing waits in the kernel for the next process that maps the same files.
    let mut next = tests::command::start(&mut Command::new(built("commanded")), true);
    next.wait_for_output("ready\n", 1);
    assert_eq!(breakpoints(next.pid()), Some(Vec::new()), "probes remain for new processes");
    next.say("q");
    next.finish().success("a new process");
}

#[test]
fn the_recorder_is_killed_at_any_moment() {
    let Some(_live) = live() else { return };
    let mut moments = Moments(20_240_607);
    for round in 0..5 {
        let delay = Duration::from_millis(moments.next_ms(2500));
        eprintln!("round {round}: killed {delay:?} after the trace began");
        kill_recorder_after(delay, &[], false);
    }
}

#[test]
fn the_recorder_is_killed_while_the_target_is_held_back() {
    let Some(_live) = live() else { return };
    let mut moments = Moments(19_700_101);
    for round in 0..5 {
        let delay = Duration::from_millis(moments.next_ms(2500));
        eprintln!("round {round}: killed {delay:?} after the trace began");
        kill_recorder_after(delay, &["--stacks", "none", "--ring-bytes", "4096"], round % 2 == 0);
    }
}

/// Killed while it prepares: whatever it had started is not left hanging.
#[test]
fn the_recorder_is_killed_before_it_records() {
    let Some(_live) = live() else { return };
    let churn = built("churn");
    let mut moments = Moments(424_242);
    for round in 0..10 {
        let delay = Duration::from_millis(moments.next_ms(300));
        eprintln!("round {round}: killed {delay:?} after its start");
        let record = Record::new([churn.as_os_str(), "1".as_ref(), "100000".as_ref()]).options(&["--quiet"]);
        let (mut recorder, _dir, trace, _) = record.start(false);
        std::thread::sleep(delay);
        signal(recorder.pid(), libc::SIGKILL);
        wait_for_target(&mut recorder, &churn, false);
        recorder.finish();
        if trace.is_file() {
            let finished = run(heaptape(&["info"]).arg(&trace));
            assert!(matches!(finished.shell_status(), 0 | 3), "info: {}", finished.stderr_text());
        }
    }
}

#[test]
fn the_target_is_killed() {
    let Some(_live) = live() else { return };
    let churn = built("churn");
    for (number, delay_ms) in [(libc::SIGKILL, 300), (libc::SIGTERM, 700), (libc::SIGKILL, 0)] {
        let record = Record::new([churn.as_os_str(), "3".as_ref(), "1000000000".as_ref()]).options(&["--quiet"]);
        let (mut recorder, _dir, trace, _) = record.start(false);
        recorder.wait_until("the target", |_| !running(&churn).is_empty());
        std::thread::sleep(Duration::from_millis(delay_ms));
        for pid in running(&churn) {
            signal(pid, number);
        }
        let finished = recorder.finish();
        assert_eq!(finished.shell_status(), 128 + number, "{}", finished.stderr_text());
        if delay_ms > 0 {
            let info = info(&trace);
            assert!(info.capture.complete, "the recorder saw the end and wrote it");
            assert_eq!(info.totals.lost_count, Some(0));
        }
        if trace.is_file() {
            possible(&observe(&trace, &Own::Modules));
        }
    }
}

/// SIGTERM to the recorder alone, or its time being up: the recording ends well, the target goes on.
#[test]
fn the_recorder_stops_and_the_target_goes_on() {
    let Some(_live) = live() else { return };
    let churn = built("churn");
    for (options, number) in [(&[][..], Some(libc::SIGTERM)), (&[], Some(libc::SIGINT)), (&["--duration", "1"], None)] {
        let record =
            Record::new([churn.as_os_str(), "2".as_ref(), "12000000".as_ref()]).options(&["--quiet"]).options(options);
        let (mut recorder, _dir, trace, truth) = record.start(false);
        recorder.wait_until("the trace to begin", |_| {
            std::fs::metadata(&trace).is_ok_and(|file| file.len() > 0) && !running(&churn).is_empty()
        });
        if let Some(number) = number {
            std::thread::sleep(Duration::from_millis(500));
            signal(recorder.pid(), number);
        }
        wait_for_target(&mut recorder, &churn, true);
        let finished = recorder.finish();
        assert_eq!(finished.stdout_text(), "churned\n", "{}", finished.stderr_text());
        assert_eq!(Truth::read(&truth).total().alloc_count, 24_000_000);
        let info = info(&trace);
        assert!(info.capture.complete, "the recorder was asked to stop and did");
        assert!(info.totals.alloc_count > 0 && info.totals.lost_count == Some(0));
        possible(&observe(&trace, &Own::Modules));
    }
}

/// A recording that ends while threads rest for it, or are about to: none of them stays stopped.
#[test]
fn nobody_stays_stopped_when_the_recording_ends() {
    let Some(_live) = live() else { return };
    let churn = built("churn");
    let mut target = tests::command::start(Command::new(&churn).args(["4", "1000000000"]), false);
    target.wait_until("the target to run", |target| thread_states(target.pid()).len() > 1);
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let mut moments = Moments(55_555);
    for round in 0..10 {
        let mut line = heaptape(&["attach", "--quiet", "--lossless", "--stacks", "none", "--ring-bytes", "4096", "-o"]);
        line.arg(dir.path().join("run.htape")).arg(target.pid().to_string());
        let mut recorder = tests::command::start(&mut line, false);
        recorder
            .wait_until("the recording to begin", |_| breakpoints(target.pid()).is_some_and(|found| !found.is_empty()));
        std::thread::sleep(Duration::from_millis(50 + moments.next_ms(50)));
        signal(recorder.pid(), libc::SIGTERM);
        recorder.finish().success("the recorder");
        let states = thread_states(target.pid());
        assert!(!states.contains(&'T') && !states.contains(&'t'), "round {round}: {states:?}");
    }
    signal(target.pid(), libc::SIGKILL);
    target.finish();
}

/// A target that somebody has stopped is let go of as it is, all its threads, and the recording ends.
#[test]
fn a_stopped_target_stays_stopped_when_the_recording_ends() {
    let Some(_live) = live() else { return };
    let churn = built("churn");
    let record = Record::new([churn.as_os_str(), "3".as_ref(), "1000000000".as_ref()]);
    let (mut recorder, _dir, trace, _) = record.options(&["--quiet", "--duration", "1"]).start(false);
    recorder.wait_until("the target", |_| running(&churn).iter().any(|pid| thread_states(*pid).len() > 1));
    let targets = running(&churn);
    let [target] = targets[..] else { panic!("targets: {targets:?}") };
    signal(target, libc::SIGSTOP);
    recorder.wait_until("the recorder to end", |recorder| {
        recorder.has_ended() || state(recorder.pid()).is_none_or(|state| state == 'Z')
    });
    let states = thread_states(target);
    assert!(states.len() > 1 && states.iter().all(|state| *state == 'T'), "{states:?}");
    // Traced by nobody, and free of probes.
    assert_eq!(breakpoints(target), Some(Vec::new()));
    signal(target, libc::SIGKILL);
    recorder.finish().success("the recorder");
    assert!(info(&trace).capture.complete);
}

/// A file system of one MiB.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let mut mount = Command::new(program("mount"));
        run(mount.args(["-t", "tmpfs", "-o", "size=1m", "heaptape-test"]).arg(dir.path())).success("mount");
        Self(dir)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new(program("umount")).arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn the_disk_is_full() {
    let Some(_live) = live() else { return };
    let disk = SmallDisk::mount();
    let trace = disk.0.path().join("run.htape");
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let truth = dir.path().join("truth");
    let mut command = heaptape(&["record", "--quiet", "-o"]);
    command.arg(&trace).arg("--").arg(built("churn")).args(["2", "2000000"]).env("TRUTH", &truth);
    let finished = run(&mut command);
    let said = finished.stderr_text();
    assert_eq!(finished.stdout_text(), "churned\n", "the target's last words; stderr: {said}");
    assert_eq!(Truth::read(&truth).total().alloc_count, 4_000_000, "the target did all it had to do");
    assert!(said.to_lowercase().contains("space"), "the reason in words: {said:?}");
    assert!(said.contains("run.htape"), "which file: {said:?}");
    let graph = dir.path().join("graph.svg");
    for command in
        [vec!["info"], vec!["sites"], vec!["leaks"], vec!["flamegraph", "-o", graph.to_str().expect("UTF-8")]]
    {
        run(heaptape(&command[..1]).arg(&trace).args(&command[1..])).success(command[0]);
    }
    let info = info(&trace);
    assert!(!info.capture.complete);
    assert!(info.totals.alloc_count > 0, "nothing of a full MiB is readable");
    possible(&observe(&trace, &Own::Modules));
}

#[test]
fn a_folder_that_cannot_be_written_is_said_before_the_target_runs() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let proof = dir.path().join("ran");
    let finished = run(heaptape(&["record", "-o", "/nonexistent/run.htape", "--", "touch"]).arg(&proof));
    assert!(!finished.status.success());
    assert!(finished.stderr_text().contains("/nonexistent/run.htape"), "{}", finished.stderr_text());
    assert!(!proof.exists(), "the target ran although it could not be recorded");
}

/// The helper process that resumes what the recorder stopped ends with it, and so does everything else it started.
#[test]
fn no_process_of_the_recorder_remains() {
    let Some(_live) = live() else { return };
    let binary = std::fs::canonicalize(tests::recorder::binary()).expect("the binary exists");
    let recording = Record::new([built("leaf")]).options(&["--quiet"]).finish().expect_status(0);
    drop(recording);
    let churn = built("churn");
    let record = Record::new([churn.as_os_str(), "2".as_ref(), "3000000".as_ref()]).options(&["--quiet"]);
    let (mut recorder, _dir, trace, _) = record.start(false);
    recorder.wait_until("the trace to begin", |_| std::fs::metadata(&trace).is_ok_and(|file| file.len() > 0));
    signal(recorder.pid(), libc::SIGKILL);
    wait_for_target(&mut recorder, &churn, false);
    recorder.wait_until("the recorder's helpers to end", |_| {
        running(&binary).iter().all(|pid| state(*pid).is_none_or(|state| state == 'Z'))
    });
    recorder.finish();
}
