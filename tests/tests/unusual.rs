//! Unusual programs and unusual ways to start them, live: many short threads, forks among busy threads, a leader that
//! ends first, namespaces, other roots, other allocators, another tracer.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tests::command::{run, signal, start};
use tests::live::live;
use tests::observed::{Own, observe};
use tests::process::{breakpoints, state};
use tests::recorder::{Record, Recording, heaptape, info};
use tests::requirements::{DEBIAN_PACKAGES, find_program, program};
use tests::scenario::{Scenario, agrees, loss_free, possible};
use tests::truth::Truth;
use tests::workload::built;

#[track_caller]
fn exact(name: &str, arguments: &[&str]) {
    Scenario { arguments, ..Scenario::new(name) }.check();
}

/// `leaf` started in some way: whatever else happened, its five calls are there, once.
#[track_caller]
fn leaf_is_exact(recording: &Recording, truth: &Path) {
    let observed = observe(&recording.trace, &Own::SizesFrom { least_bytes: 3203, except: vec![4096, 72_704] });
    let info = info(&recording.trace);
    loss_free(&observed, &info);
    possible(&observed);
    agrees(&observed, &info);
    let planted = Truth::read(truth).total();
    let found = observed.images.iter().find(|image| image.counts == planted);
    let seen: Vec<_> = observed.images.iter().map(|image| (&image.name, image.counts)).collect();
    assert!(found.is_some(), "planted {planted:?}, seen {seen:?}");
}

#[test]
fn many_short_threads() {
    let Some(_live) = live() else { return };
    let scenario = Scenario::new("thread_storm");
    let checked = scenario.check();
    assert!(checked.observed.tables.threads.len() > 160, "one row per thread");
}

#[test]
fn forks_among_busy_threads() {
    let Some(_live) = live() else { return };
    exact("mt_fork", &[]);
}

#[test]
fn the_leader_ends_first() {
    let Some(_live) = live() else { return };
    exact("leaderless", &[]);
}

/// Threads are cut off in the middle of calls: each has freed what it allocated but for the call under way.
#[test]
fn ends_in_the_middle_of_calls() {
    let Some(_live) = live() else { return };
    for (how, status) in [("_exit", 5), ("return", 6), ("exec", 0)] {
        let checked = Scenario { arguments: &[how], status, ..Scenario::new("exit_race") }.check();
        for (tid, ops) in &checked.observed.images[0].ops {
            let allocs = ops.iter().filter(|op| op.starts_with("malloc")).count();
            let frees = ops.iter().filter(|op| op.starts_with("free")).count();
            assert!(allocs == frees || allocs == frees + 1, "{how}: thread {tid} made {allocs} allocs, {frees} frees");
        }
        assert_eq!(checked.observed.images.len(), if how == "exec" { 2 } else { 1 });
    }
}

#[test]
fn a_second_libc_in_another_namespace() {
    let Some(_live) = live() else { return };
    exact("dlmopen", &[&built("plugin.so").display().to_string()]);
}

#[test]
fn a_preloaded_allocator() {
    let Some(_live) = live() else { return };
    let preload = built("toy_malloc.so").display().to_string();
    for (name, arguments) in [("leaf", &[][..]), ("threads", &[]), ("churn", &["3", "20000"])] {
        let command = ["env".to_owned(), format!("LD_PRELOAD={preload}"), built(name).display().to_string()];
        let arguments = arguments.iter().map(|&argument| argument.to_owned());
        let recording =
            Record::new(command.into_iter().chain(arguments)).options(&["--quiet"]).finish().expect_status(0);
        let observed = observe(&recording.trace, &Own::Modules);
        let info = info(&recording.trace);
        loss_free(&observed, &info);
        possible(&observed);
        let found = tests::expected::differences(&Truth::read(&recording.truth), &observed);
        assert!(found.is_empty(), "{name} over a preloaded allocator:\n  {}", found.join("\n  "));
        assert!(info.domains.iter().any(|domain| domain.name.contains("toy_malloc")), "{:?}", info.domains);
    }
}

/// A planted call under the name of the function that does it in jemalloc: the array forms jump to the single ones, the aligned
/// ones call `aligned_alloc`.
fn as_jemalloc_names(op: &str) -> String {
    let words = op.split(' ').map(|word| match word {
        "_Znam" => "_Znwm",
        "_ZnamRKSt9nothrow_t" => "_ZnwmRKSt9nothrow_t",
        aligned if aligned.contains("St11align_val_t") => "aligned_alloc",
        other => other,
    });
    words.collect::<Vec<_>>().join(" ")
}

/// An allocator with a fast path of its own in operator new, as it is delivered: its events come from probes on the operators,
/// and from the functions of C where the operators call these.
#[test]
fn a_preloaded_jemalloc() {
    let Some(_live) = live() else { return };
    let library = Path::new("/usr/lib/x86_64-linux-gnu/libjemalloc.so.2");
    assert!(
        library.is_file(),
        "libjemalloc2 is not installed; on Debian: apt-get install {}",
        DEBIAN_PACKAGES.join(" ")
    );
    let command =
        ["env".to_owned(), format!("LD_PRELOAD={}", library.display()), built("cpp_calls").display().to_string()];
    let recording = Record::new(command).options(&["--quiet"]).finish().expect_status(0);
    // By sizes, since the aligned operators call the C function from within the library. 72,704 bytes are libstdc++'s pool
    // for exceptions, 4096 are of `env`.
    let observed = observe(&recording.trace, &Own::SizesFrom { least_bytes: 1601, except: vec![4096, 72_704] });
    let info = info(&recording.trace);
    loss_free(&observed, &info);
    possible(&observed);
    agrees(&observed, &info);
    let mut planted = Truth::read(&recording.truth);
    for op in planted.threads.iter_mut().flat_map(|thread| &mut thread.ops) {
        *op = as_jemalloc_names(op);
    }
    assert!(planted.threads.iter().all(|thread| thread.complete), "not every call is listed");
    let found = tests::expected::differences(&planted, &observed);
    assert!(found.is_empty(), "over jemalloc:\n  {}", found.join("\n  "));
    assert!(info.domains.iter().any(|domain| domain.name.contains("jemalloc")), "{:?}", info.domains);
}

#[test]
fn through_the_dynamic_linker_by_name() {
    let Some(_live) = live() else { return };
    let linker = "/lib64/ld-linux-x86-64.so.2";
    let leaf = built("leaf").display().to_string();
    let recording = Record::new([linker, &leaf]).options(&["--quiet"]).finish().expect_status(0);
    leaf_is_exact(&recording, &recording.truth);
}

#[test]
fn through_a_script() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let script = dir.path().join("script");
    std::fs::write(&script, format!("#!/bin/sh\n{}\nexec {}\n", built("leaf").display(), built("leaf").display()))
        .expect("the folder is ours");
    run(Command::new("chmod").arg("755").arg(&script)).success("chmod");
    let recording = Record::new([&script]).options(&["--quiet"]).finish().expect_status(0);
    let planted = Truth::read(&recording.truth);
    let observed = observe(&recording.trace, &Own::Modules);
    loss_free(&observed, &info(&recording.trace));
    assert_eq!(planted.processes.len(), 2);
    let found = tests::expected::differences(&planted, &observed);
    assert!(found.is_empty(), "{}", found.join("\n  "));
}

/// Another root folder: the paths that the process sees are not the recorder's.
#[test]
fn in_another_root() {
    let Some(_live) = live() else { return };
    let root = tempfile::tempdir().expect("a temporary folder can be made");
    let copy = |from: &Path, to: &str| {
        let to = root.path().join(to);
        std::fs::create_dir_all(to.parent().expect("it has a folder")).expect("the folder is ours");
        std::fs::copy(from, &to).expect("the file can be copied");
    };
    copy(&built("leaf"), "leaf");
    copy(Path::new("/lib64/ld-linux-x86-64.so.2"), "lib64/ld-linux-x86-64.so.2");
    copy(Path::new("/lib/x86_64-linux-gnu/libc.so.6"), "lib/x86_64-linux-gnu/libc.so.6");
    let command = [program("chroot").display().to_string(), root.path().display().to_string(), "/leaf".to_owned()];
    let recording = Record::new(command).options(&["--quiet"]).variable("TRUTH", "/truth").finish().expect_status(0);
    leaf_is_exact(&recording, &root.path().join("truth"));
}

/// Another pid namespace, as in a container: the process believes that it is number 1.
#[test]
fn in_another_pid_namespace() {
    let Some(_live) = live() else { return };
    let leaf = built("leaf").display().to_string();
    let command = [&program("unshare").display().to_string(), "--pid", "--fork", "--mount-proc", &leaf];
    let recording = Record::new(command).options(&["--quiet"]).finish().expect_status(0);
    assert_eq!(Truth::read(&recording.truth).processes[0].pid, 1);
    leaf_is_exact(&recording, &recording.truth);
}

/// The file on disk is gone or another one while the program runs.
#[test]
fn with_its_file_replaced() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let copy = dir.path().join("churn");
    std::fs::copy(built("churn-static"), &copy).expect("the file can be copied");
    let truth = dir.path().join("truth");
    let mut target = start(Command::new(&copy).args(["2", "40000000"]).env("TRUTH", &truth), false);
    target.wait_until("the target", |target| state(target.pid()).is_some());
    std::fs::remove_file(&copy).expect("the folder is ours");
    std::fs::write(&copy, "another file").expect("the folder is ours");
    let trace = dir.path().join("run.htape");
    run(heaptape(&["attach", "--quiet", "--duration", "0.5", "-o"]).arg(&trace).arg(target.pid().to_string()))
        .success("attach to a program whose file is gone");
    let info = info(&trace);
    assert!(info.totals.alloc_count > 0, "nothing was recorded");
    let finished = target.finish().success("the program whose file is gone");
    assert_eq!(finished.stdout_text(), "churned\n");
}

/// A static program without symbols has no functions to find: said in words, and harmless.
#[test]
fn an_allocator_that_cannot_be_found() {
    let Some(_live) = live() else { return };
    let recording = Record::new([built("leaf-static-stripped")]).finish().expect_status(0);
    let shown = run(heaptape(&["info"]).arg(&recording.trace)).success("heaptape info");
    let said = recording.finished.stderr_text() + &shown.stdout_text() + &shown.stderr_text();
    let said = said.to_lowercase();
    assert!(said.contains("no allocator") || said.contains("symbol"), "an empty recording is not explained:\n{said}");
}

#[test]
fn arguments_that_are_no_text() {
    let Some(_live) = live() else { return };
    use std::os::unix::ffi::OsStrExt as _;
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let strange = std::ffi::OsStr::from_bytes(b"\xff\xfe line\nbreak");
    let native = run(Command::new(program("printf")).arg("%s").arg(strange));
    let mut command = heaptape(&["record", "--quiet", "-o"]);
    command.arg(dir.path().join("run.htape")).arg("--").arg(program("printf")).arg("%s").arg(strange);
    let recorded = run(&mut command).success("printf");
    assert_eq!(recorded.stdout, native.stdout);
    assert!(info(&dir.path().join("run.htape")).capture.complete);
}

/// A program that somebody has stopped is still stopped after we came and went.
#[test]
fn attached_to_while_stopped() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let trace = dir.path().join("run.htape");
    let mut target = start(Command::new(built("commanded")).arg("3"), true);
    target.wait_for_output("ready\n", 1);
    let pid = target.pid();
    signal(pid, libc::SIGSTOP);
    target.wait_until("the stop", |_| state(pid) == Some('T'));
    run(heaptape(&["attach", "--quiet", "--duration", "1", "-o"]).arg(&trace).arg(pid.to_string()))
        .success("attach to a stopped program");
    for _ in 0..20 {
        assert_eq!(state(pid), Some('T'), "the program that somebody stopped was resumed");
        std::thread::sleep(Duration::from_millis(20));
    }
    signal(pid, libc::SIGCONT);
    target.say("w");
    target.wait_for_output("done\n", 1);
    target.wait_until("no probes", |_| breakpoints(pid).is_some_and(|left| left.is_empty()));
    target.say("q");
    target.finish().success("the program that was stopped");
}

/// A process whose main thread has ended cannot be attached to: that is said, and it goes on.
#[test]
fn attached_to_without_its_leader() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let trace = dir.path().join("run.htape");
    let mut target = start(Command::new(built("leaderless")).arg("wait"), true);
    target.wait_for_output("ready\n", 1);
    let pid = target.pid();
    target.wait_until("the leader's end", |_| state(pid) == Some('Z'));
    let refused = run(heaptape(&["attach", "-o"]).arg(&trace).arg(pid.to_string()));
    assert!(!refused.status.success());
    assert!(refused.stderr_text().contains("main thread has ended"), "{}", refused.stderr_text());
    target.say("xxxxx");
    // Its main thread being gone, it looks as if it had ended: count its words instead.
    let words = |target: &mut tests::command::Running| target.stdout_so_far().matches("done\n").count();
    for _ in 0..250 {
        if words(&mut target) == 5 {
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(words(&mut target), 5, "it does not go on");
    drop(target.stdin.take());
    target.wait_until("its end", |_| tests::process::running(&built("leaderless")).is_empty());
}

/// Two recorders at once: the second one is refused in words, or both work; the program is well either way.
#[test]
fn attached_to_twice() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let mut target = start(Command::new(built("commanded")).arg("3"), true);
    target.wait_for_output("ready\n", 1);
    let pid = target.pid().to_string();
    let mut first = start(heaptape(&["attach", "-o"]).arg(dir.path().join("first.htape")).arg(&pid), false);
    first.wait_until("the first recorder", |recorder| recorder.stderr_so_far().contains("recording"));
    let second =
        run(heaptape(&["attach", "--quiet", "--duration", "1", "-o"]).arg(dir.path().join("second.htape")).arg(&pid));
    let said = second.stderr_text();
    assert!(second.status.success() || said.contains(&pid), "refused without a reason: {said:?}");
    assert!(!said.contains("panicked"), "{said}");
    target.say("w");
    target.wait_for_output("done\n", 1);
    signal(first.pid(), libc::SIGTERM);
    first.finish().success("the first recorder");
    assert!(info(&dir.path().join("first.htape")).totals.realloc_count >= 1000);
    target.say("q");
    target.finish().success("the program");
}

/// A program under another tracer cannot be held by us; it must be told, or recorded without harm.
#[test]
fn attached_to_under_another_tracer() {
    let Some(_live) = live() else { return };
    let Some(strace) = find_program("strace") else {
        eprintln!("SKIPPED: strace is not installed");
        return;
    };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let mut target = start(Command::new(built("commanded")).arg("2"), true);
    target.wait_for_output("ready\n", 1);
    let pid = target.pid();
    let mut tracer =
        start(Command::new(strace).args(["-f", "-qq", "-o", "/dev/null", "-p"]).arg(pid.to_string()), false);
    tracer.wait_until("strace to attach", |_| tests::process::tracer(pid) != 0);
    let attempt = run(heaptape(&["attach", "--quiet", "--duration", "1", "-o"])
        .arg(dir.path().join("run.htape"))
        .arg(pid.to_string()));
    let said = attempt.stderr_text();
    assert!(!said.contains("panicked"), "{said}");
    assert!(attempt.status.success() || said.contains("trac"), "refused without the reason: {said:?}");
    target.say("w");
    target.wait_for_output("done\n", 1);
    signal(tracer.pid(), libc::SIGINT);
    tracer.finish();
    target.say("q");
    target.finish().success("the program");
}

/// Processes that wait for their children are told apart from them: what all took is counted once.
#[test]
fn time_of_children_is_counted_once() {
    let Some(_live) = live() else { return };
    let source = tests::inputs::path("medium.c").display().to_string();
    let script = format!("(gcc -O1 -c {source} -o /dev/null; :); gcc -O1 -c {source} -o /dev/null");
    let recording = Record::new(["bash", "-c", &script]).options(&["--quiet"]).finish().expect_status(0);
    let info = tests::recorder::json("info", &recording.trace);
    let seconds = |field: &str| info.pointer(field).and_then(serde_json::Value::as_f64).expect("a number") / 1e9;
    let targets = seconds("/capture/overhead/target_cpu_ns");
    let all = recording.finished.cpu.as_secs_f64() - seconds("/capture/overhead/recorder_cpu_ns");
    assert!((0.7..1.3).contains(&(targets / all)), "{targets} s of targets, {all} s beside the recorder");
}

/// What is not recorded is said: a program without an allocator that can be found, and names that nobody had.
#[test]
fn what_is_not_recorded_is_said() {
    let Some(_live) = live() else { return };
    let said = |options: &[&str], command: &[&std::ffi::OsStr]| {
        let recording = Record::new(command).options(&["--quiet"]).options(options).finish().expect_status(0);
        recording.finished.stderr_text()
    };
    let stripped = built("no_allocator");
    let words = said(&[], &[stripped.as_os_str()]);
    assert!(words.contains("`no_allocator`") && words.contains("allocator was found"), "{words:?}");
    assert_eq!(said(&["--only", "true"], &["sh".as_ref(), "-c".as_ref(), "true; /bin/true".as_ref()]), "");
    let words =
        said(&["--only", "clangd"], &["sh".as_ref(), "-c".as_ref(), "/bin/true; /bin/echo >/dev/null".as_ref()]);
    assert!(words.contains("clangd") && words.contains("echo") && words.contains("true"), "{words:?}");
    // By the name it was called by.
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let link = dir.path().join("my-compiler");
    std::os::unix::fs::symlink(built("leaf"), &link).expect("the folder is ours");
    assert_eq!(said(&["--only", "my-compiler"], &[link.as_os_str()]), "");
}
