//! Compiler drivers and other programs that start programs: one trace with everybody in it, or only those asked for.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use tests::command::run;
use tests::inputs;
use tests::live::live;
use tests::observed::{Own, observe};
use tests::oracle::preload::Counter;
use tests::recorder::{Info, Record, Recording, info};
use tests::requirements::program;
use tests::scenario::{agrees, loss_free, possible};
use tests::workload::built;

fn gcc(output: &Path) -> Vec<String> {
    let input = inputs::path("small.cpp").display().to_string();
    ["gcc", "-c", &input, "-o", &output.display().to_string()].map(str::to_owned).to_vec()
}

#[track_caller]
fn record(command: &[String], options: &[&str]) -> (Recording, Info) {
    let recording = Record::new(command).options(&["--quiet"]).options(options).finish().expect_status(0);
    let info = info(&recording.trace);
    (recording, info)
}

fn names(info: &Info) -> Vec<&str> {
    info.processes.iter().map(|process| process.name.as_str()).collect()
}

/// Every process of `gcc` is there, from its first call on: each image's counts are those of the preloaded counter.
#[test]
fn gcc_and_what_it_starts() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let preload = Counter::default();
    let line: Vec<String> = preload.prefix().into_iter().chain(gcc(&dir.path().join("out.o"))).collect();
    let (recording, info) = record(&line, &[]);
    let observed = observe(&recording.trace, &Own::Modules);
    loss_free(&observed, &info);
    possible(&observed);
    agrees(&observed, &info);
    let images = preload.images();
    assert_eq!(images.len(), 3, "gcc, cc1plus, as: {images:#?}");
    for image in images {
        let name = image.executable.file_name().expect("a file has a name").to_string_lossy().into_owned();
        // The image that loaded the counter: of the pid's images the one of this name.
        let sums = observed.replay.sum_where(|process, domain| {
            let row = &observed.tables.processes[process.index()];
            row.pid == image.pid && row.name == name && observed.tables.domains[domain.index()].name.starts_with("libc")
        });
        let list = |counts: &tests::truth::Counts| {
            [counts.alloc_count, counts.free_count, counts.realloc_count, counts.failed_count, counts.alloc_bytes]
        };
        assert_eq!(list(&sums.counts), list(&image.all), "{name}: recorded, counted");
    }
}

#[test]
fn the_process_table_says_who_is_who() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let (recording, info) = record(&gcc(&dir.path().join("out.o")), &[]);
    let names = names(&info);
    // The name is that of the file executed: `as` is a link to x86_64-linux-gnu-as.
    let assembler = names.iter().any(|name| *name == "as" || name.ends_with("-as"));
    assert!(names.contains(&"cc1plus") && assembler, "{names:?}");
    let row = info.processes.iter().find(|process| process.name == "cc1plus").expect("it is there");
    assert!(row.command.iter().any(|argument| argument.ends_with("small.cpp")), "{:?}", row.command);
    let observed = observe(&recording.trace, &Own::Modules);
    let cc1plus = observed.tables.processes.iter().find(|process| process.name == "cc1plus").expect("it is there");
    // cc1plus is the image that an exec made of what gcc forked.
    let fork = &observed.tables.processes[cc1plus.parent.expect("it has a parent").index()];
    assert_eq!(fork.pid, cc1plus.pid);
    let driver = &observed.tables.processes[fork.parent.expect("it has a parent").index()];
    assert_eq!(driver.pid, observed.tables.processes[0].pid);
}

#[test]
fn no_follow_records_the_first_process_alone() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let output = dir.path().join("out.o");
    let (recording, info) = record(&gcc(&output), &["--no-follow"]);
    assert!(output.is_file());
    let with_calls: Vec<&str> =
        info.processes.iter().filter(|process| process.totals.alloc_count > 0).map(|row| row.name.as_str()).collect();
    assert_eq!(with_calls.len(), 1, "{with_calls:?}");
    assert!(with_calls[0].contains("gcc"), "{with_calls:?}");
    let observed = observe(&recording.trace, &Own::Modules);
    possible(&observed);
    loss_free(&observed, &info);
}

#[test]
fn only_records_processes_of_that_name() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let preload = Counter::default();
    let line: Vec<String> = preload.prefix().into_iter().chain(gcc(&dir.path().join("out.o"))).collect();
    let (recording, info) = record(&line, &["--only", "cc1plus"]);
    let with_calls: Vec<&str> =
        info.processes.iter().filter(|process| process.totals.alloc_count > 0).map(|row| row.name.as_str()).collect();
    assert_eq!(with_calls, ["cc1plus"]);
    let observed = observe(&recording.trace, &Own::Modules);
    possible(&observed);
    loss_free(&observed, &info);
    let counted = preload.image("cc1plus").all;
    let libc = observed.replay.sum_where(|_, domain| observed.tables.domains[domain.index()].name.starts_with("libc"));
    assert_eq!(libc.counts.alloc_count, counted.alloc_count);
    assert_eq!(libc.counts.free_count, counted.free_count);
    assert_eq!(libc.counts.alloc_bytes, counted.alloc_bytes);
}

/// `cargo build` in small: a shell that starts several rustc, each with an allocator in its executable and several
/// threads, some at the same time.
#[test]
fn several_rustc_at_once() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let rustc = tests::toolchain::rustc().display().to_string();
    let input = inputs::path("small.rs").display().to_string();
    let script = format!(
        "for i in 1 2 3; do {rustc} --emit=obj {input} -o {0}/$i.o & done; wait; {rustc} --emit=obj {input} -o {0}/4.o",
        dir.path().display()
    );
    let (recording, info) = record(&["sh".to_owned(), "-c".to_owned(), script], &[]);
    assert_eq!(names(&info).iter().filter(|name| **name == "rustc").count(), 4, "{:?}", names(&info));
    let observed = observe(&recording.trace, &Own::Modules);
    possible(&observed);
    loss_free(&observed, &info);
    for row in info.processes.iter().filter(|row| row.name == "rustc") {
        assert!(row.totals.alloc_count > 5000, "{row:?}");
    }
    let rustc_domains = info.domains.iter().filter(|domain| domain.name.starts_with("rustc")).count();
    assert_eq!(rustc_domains, 1, "one allocator in one file is one domain, however many processes use it");
}

/// A workspace of two crates and a build script: cargo, several rustc at the same time, the script, the linker's driver
/// and the linker; the program comes out whole.
#[test]
fn cargo_build() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let write = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::create_dir_all(path.parent().expect("it has a folder")).expect("the folder is ours");
        std::fs::write(path, text).expect("the folder is ours");
    };
    let manifest = |name: &str, more: &str| {
        format!("[package]\nname = \"{name}\"\nversion = \"0.1.0\"\nedition = \"2021\"\n{more}")
    };
    write("Cargo.toml", &manifest("whole", "[workspace]\n[dependencies]\npart = { path = \"part\" }\n"));
    write("build.rs", "fn main() { println!(\"cargo:rustc-env=BUILT=by-script\"); }\n");
    write("src/main.rs", "fn main() { println!(\"{} {}\", part::part(), env!(\"BUILT\")); }\n");
    write("part/Cargo.toml", &manifest("part", ""));
    write("part/src/lib.rs", "pub fn part() -> String { \"part\".repeat(2) }\n");
    let target = dir.path().join("out");
    let cargo = env!("CARGO");
    let recording = Record::new([cargo, "build", "--quiet", "--offline"])
        .options(&["--quiet"])
        .variable("CARGO_TARGET_DIR", &target.display().to_string())
        .current_dir(dir.path())
        .finish()
        .expect_status(0);
    assert_eq!(recording.finished.stderr_text(), "");
    let built = run(&mut Command::new(target.join("debug/whole"))).success("the built program");
    assert_eq!(built.stdout_text(), "partpart by-script\n");
    let info = info(&recording.trace);
    let observed = observe(&recording.trace, &Own::Modules);
    possible(&observed);
    loss_free(&observed, &info);
    agrees(&observed, &info);
    let names = names(&info);
    assert!(names.iter().filter(|name| **name == "rustc").count() >= 4, "{names:?}");
    assert!(names.contains(&"cargo") && names.contains(&"build-script-build"), "{names:?}");
}

/// A child outlives the process that was launched: the recording ends with the latter, and the child goes on by itself, unharmed;
/// the trace has it up to there, as one that still ran.
#[test]
fn a_child_that_outlives_its_parent() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let path = |name: &str| dir.path().join(name);
    let read = |name: &str| std::fs::read_to_string(path(name)).unwrap_or_default();
    run(Command::new(program("mkfifo")).arg(path("orders"))).success("mkfifo");
    // For both directions, so that nobody waits for the other side.
    let mut orders = File::options().read(true).write(true).open(path("orders")).expect("the folder is ours");
    let child = built("commanded");
    let script = format!(
        "({} 2 <orders >said 2>&1; echo $? >status) >/dev/null 2>&1 & until grep -q ready said; do sleep 0.02; done; exit 3",
        child.display()
    );
    let recording =
        Record::new(["sh", "-c", &script]).options(&["--quiet"]).current_dir(dir.path()).finish().expect_status(3);
    let [pid] = tests::process::running(&child)[..] else { panic!("the child does not go on: {:?}", read("said")) };
    assert_eq!(tests::process::tracer(pid), 0, "it is still held");
    assert_eq!(tests::process::breakpoints(pid), Some(Vec::new()), "probes are left in it");
    assert!(!tests::process::thread_states(pid).contains(&'T'), "a stop is left in it");
    // It works on with the blocks from before, and checks at its end what is in them.
    orders.write_all(b"worw").expect("it reads its orders");
    wait_until("its work", || read("said").matches("done\n").count() == 4);
    orders.write_all(b"q").expect("it reads its orders");
    wait_until("its end", || read("status").ends_with('\n'));
    assert_eq!(read("status"), "0\n", "{}", read("said"));

    let info = info(&recording.trace);
    assert!(info.capture.complete);
    let observed = observe(&recording.trace, &Own::Modules);
    possible(&observed);
    loss_free(&observed, &info);
    let ended = |name: &str| {
        let process = observed.tables.processes.iter().rposition(|row| row.name == name).expect("it is in the trace");
        observed.replay.ended.iter().find(|(id, _)| id.index() == process).map(|(_, reason)| reason.as_str())
    };
    assert_eq!(ended("commanded"), Some("Detached"));
    let row = info.processes.iter().find(|row| row.name == "commanded").expect("it is in the trace");
    // What it did before it was ready, and beside that only what its threads did meanwhile: of its work nothing.
    let image = observed.images.iter().find(|image| image.pid == row.pid).expect("it made calls of its own");
    assert!(image.counts.alloc_count >= 400 && image.counts.realloc_count == 0, "{:?}", image.counts);
    let shell = observed.replay.ended.values().filter(|reason| **reason == format!("Exit({})", 3 << 8)).count();
    assert_eq!(shell, 1, "{:?}", observed.replay.ended);
}

/// Waits for something that somebody else does.
#[track_caller]
fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("waited in vain for {what}");
}

/// A child that is not followed gets rid of the breakpoints that it inherits when it meets them: it is not slowed.
#[test]
fn children_that_are_not_followed_are_not_slowed() {
    let Some(_live) = live() else { return };
    let program = built("forks_on");
    let (mut recorder, _dir, trace, _) = Record::new([&program]).options(&["--quiet", "--no-follow"]).start(true);
    recorder.wait_for_output("ready\n", 1);
    let both = tests::process::running(&program);
    let [parent, child] = both[..] else { panic!("not two processes: {both:?}") };
    let (parent, child) = if tests::process::parent(child) == Some(parent) { (parent, child) } else { (child, parent) };
    let left = |pid| tests::process::breakpoints(pid).expect("it waits").len();
    // malloc at its entry, free at its entry, at the least.
    assert!(left(parent) > 2 && left(child) + 2 <= left(parent), "{} of {} left", left(child), left(parent));
    recorder.stdin = None;
    recorder.finish().success("forks_on");
    assert_eq!(info(&trace).processes.len(), 1);
}
