//! Who may do what: without root nothing is recorded and everything is read; with sudo the trace belongs to the user.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::Command;

use tests::command::{is_root, run};
use tests::live::live;
use tests::recorder::{Record, binary, heaptape};
use tests::requirements::program;
use tests::workload::built;

/// The binary where everybody can reach it.
fn public_binary(dir: &tempfile::TempDir) -> PathBuf {
    let copy = dir.path().join("heaptape");
    std::fs::copy(binary(), &copy).expect("the binary can be copied");
    for path in [dir.path(), copy.as_path()] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("the folder is ours");
    }
    copy
}

fn as_nobody(binary: &PathBuf) -> Command {
    let mut command = Command::new(program("setpriv"));
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all"]).arg(binary);
    command
}

#[test]
fn recording_without_root_is_refused_in_a_sentence() {
    if !is_root() {
        eprintln!("SKIPPED: only root can become somebody else");
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let binary = public_binary(&dir);
    let proof = dir.path().join("ran");
    let trace = dir.path().join("run.htape");
    let attempts: [&[&str]; 2] = [&["record", "-o"], &["attach", "-o"]];
    // Root without what root can do, as in a container, is told so too.
    let powerless = || {
        let mut command = Command::new(program("setpriv"));
        command.args(["--bounding-set=-bpf,-perfmon", "--inh-caps=-bpf,-perfmon"]).arg(&binary);
        command
    };
    let both = attempts.into_iter().flat_map(|attempt| [(attempt, as_nobody(&binary)), (attempt, powerless())]);
    for (attempt, mut command) in both {
        command.args(attempt).arg(&trace);
        if attempt[0] == "record" {
            command.arg("--").arg("touch").arg(&proof);
        } else {
            command.arg("1");
        }
        let finished = run(&mut command);
        let said = finished.stderr_text();
        assert_eq!(finished.shell_status(), 4, "{attempt:?}: {said}");
        assert_eq!(said.trim_end().lines().count(), 1, "one sentence: {said:?}");
        assert!(said.contains("sudo") || said.contains("--privileged"), "what is missing and how to get it: {said:?}");
        assert!(!proof.exists() && !trace.exists(), "it began all the same");
    }
}

#[test]
fn reading_needs_no_root() {
    let Some(_live) = live() else { return };
    let recording = Record::new([built("basic")]).options(&["--quiet"]).finish().expect_status(0);
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let binary = public_binary(&dir);
    let trace = dir.path().join("run.htape");
    std::fs::copy(&recording.trace, &trace).expect("the trace can be copied");
    std::fs::set_permissions(&trace, std::fs::Permissions::from_mode(0o644)).expect("the file is ours");
    for command in ["info", "sites", "leaks", "verify"] {
        run(as_nobody(&binary).arg(command).arg(&trace)).success(command);
    }
}

#[test]
fn the_trace_belongs_to_the_user_behind_sudo() {
    let Some(_live) = live() else { return };
    let record = Record::new([built("leaf")]).options(&["--quiet"]);
    let recording = record.variable("SUDO_UID", "65534").variable("SUDO_GID", "65534").finish().expect_status(0);
    let file = std::fs::metadata(&recording.trace).expect("the trace exists");
    assert_eq!((file.uid(), file.gid()), (65534, 65534));
    // The target itself is root's, as it would be without a recorder.
    let recording = Record::new(["id", "-u"]).options(&["--quiet"]).variable("SUDO_UID", "65534").finish();
    assert_eq!(recording.expect_status(0).finished.stdout_text(), "0\n");
}

/// What stood at the trace's name is kept until a recording begins, and stays whose it is.
#[test]
fn what_was_there_before_is_kept() {
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let trace = dir.path().join("run.htape");
    std::fs::write(&trace, "what was there before").expect("the folder is ours");
    let attempts: [&[&str]; 2] = [&["record", "--quiet", "-o"], &["attach", "--quiet", "-o"]];
    for attempt in attempts {
        let mut command = heaptape(attempt);
        command.arg(&trace);
        if attempt[0] == "record" {
            command.args(["--", "/nonexistent/program"]);
        } else {
            command.arg("4194304");
        }
        assert_ne!(run(&mut command).shell_status(), 0);
        assert_eq!(std::fs::read_to_string(&trace).expect("it is still there"), "what was there before", "{attempt:?}");
    }
    let longer = vec![b'x'; 1 << 20];
    std::fs::write(&trace, longer).expect("the folder is ours");
    for output in [trace.as_path(), std::path::Path::new("/dev/null")] {
        let mut command = heaptape(&["record", "--quiet", "-o"]);
        command.arg(output).arg("--").arg(built("leaf")).env("SUDO_UID", "65534").env("SUDO_GID", "65534");
        run(&mut command).success("record");
        let file = std::fs::metadata(output).expect("it is still there");
        assert_eq!((file.uid(), file.gid()), (0, 0), "{output:?} changed hands");
    }
    run(heaptape(&["verify"]).arg(&trace)).success("verify");
}

#[test]
fn usage_errors_and_unreadable_files_have_their_own_status() {
    let finished = run(&mut heaptape(&["info", "/nonexistent.htape"]));
    assert_eq!(finished.shell_status(), 3, "{}", finished.stderr_text());
    assert!(finished.stderr_text().contains("/nonexistent.htape"), "{}", finished.stderr_text());
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let path = dir.path().join("text.htape");
    std::fs::write(&path, "this is no trace").expect("the folder is ours");
    for command in ["info", "sites", "leaks", "verify"] {
        let finished = run(heaptape(&[command]).arg(&path));
        assert_eq!(finished.shell_status(), 3, "{command}: {}", finished.stderr_text());
    }
    assert_eq!(run(&mut heaptape(&["record"])).shell_status(), 2);
    assert_eq!(run(&mut heaptape(&["no-such-command"])).shell_status(), 2);
}
