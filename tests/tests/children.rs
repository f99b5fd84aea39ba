//! Compiler drivers and other programs that start programs: one trace with everybody in it, or only those asked for.

use std::path::Path;
use std::process::Command;

use tests::command::run;
use tests::inputs;
use tests::live::live;
use tests::observed::{Own, observe};
use tests::oracle::preload::Counter;
use tests::recorder::{Info, Record, Recording, info};
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

/// A child outlives the process that was launched: the recording lasts as long as anybody recorded.
#[test]
fn a_child_that_outlives_its_parent() {
    let Some(_live) = live() else { return };
    let script = format!("(sleep 1; {} ) & exit 3", built("leaf").display());
    let recording = Record::new(["sh", "-c", &script]).options(&["--quiet"]).finish().expect_status(3);
    let info = info(&recording.trace);
    assert!(info.capture.complete);
    let observed = observe(&recording.trace, &Own::Modules);
    possible(&observed);
}
