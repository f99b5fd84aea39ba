//! Stacks of real compilers against libunwind, taken at the same stops: equal, or marked as truncated.

use tests::inputs;
use tests::live::live;
use tests::oracle::unwinder::{Agreement, options};
use tests::recorder::Record;
use tests::toolchain::{cc1plus_command, clang_command, rustc, rustc_command, zig_program};

/// Fewest stacks that are compared.
const FEWEST: u64 = 2000;

#[track_caller]
#[expect(clippy::print_stdout, reason = "figures for the reader of a test log")]
fn agrees(what: &str, command: &[String], every: u32) -> Agreement {
    let options = options(every);
    let words: Vec<&str> = options.iter().map(String::as_str).chain(["--quiet"]).collect();
    let recording = Record::new(command).options(&words).finish().expect_status(0);
    let found = Agreement::of(&recording.trace);
    println!(
        "{what}: {} compared in {} threads, {:.3} % equal, {} marked, {} wrong; of {} walked {:.3} % reach the root, \
         {:.1} frames each, ends {:?}",
        found.compared_count,
        found.thread_count,
        found.equal_share() * 100.0,
        found.marked_count,
        found.wrong_count,
        found.walked_count,
        found.root_share() * 100.0,
        found.frame_count as f64 / found.walked_count.max(1) as f64,
        found.ends,
    );
    assert!(found.compared_count >= FEWEST, "{what}: only {} stacks were compared", found.compared_count);
    assert!(found.wrong.is_empty(), "{what}: {} wrong stacks\n{}", found.wrong_count, found.wrong.join("\n"));
    assert!(found.equal_share() >= 0.995, "{what}: only {:.3} % equal", found.equal_share() * 100.0);
    assert!(found.root_share() >= 0.99, "{what}: only {:.3} % reach the root", found.root_share() * 100.0);
    found
}

#[test]
fn of_cc1plus() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    agrees("cc1plus", &cc1plus_command(&inputs::path("medium.cpp"), &dir.path().join("out.s")), 301);
}

#[test]
fn of_clang() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    agrees("clang", &clang_command("-O0", &inputs::sqlite3_c(), &dir.path().join("out.o")), 401);
}

#[test]
fn of_rustc_and_all_its_threads() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let mut command = rustc_command(&rustc(), &inputs::path("medium.rs"), &dir.path().join("out.o"));
    command.extend(["-C", "opt-level=1", "-C", "codegen-units=4"].map(str::to_owned));
    let found = agrees("rustc", &command, 601);
    assert!(found.thread_count >= 3, "only {} threads", found.thread_count);
}

/// Frame pointers everywhere, two threads, deep recursion.
#[test]
#[expect(clippy::print_stderr, reason = "a test that is skipped says why")]
fn of_a_program_that_zig_built() {
    let Some(_live) = live() else { return };
    for mode in ["Debug", "ReleaseFast"] {
        match zig_program("tree", mode) {
            Ok(program) => {
                let found = agrees(&format!("zig {mode}"), &[program.display().to_string()], 71);
                assert_eq!(found.thread_count, 2);
            }
            Err(reason) => eprintln!("skipped: {reason}"),
        }
    }
}
