//! Files that commands write. Responsible for whose they are, and for what is never written over or said to be written.

mod support;

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use support::Workshop;

const NOBODY: u32 = 65534;
const TRACE: &str = "samples/tcc-small.htape";

/// Everything in a folder, at any depth.
fn entries(folder: &Path) -> Vec<PathBuf> {
    let inside = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
    inside
        .flat_map(|path| if path.is_dir() { [vec![path.clone()], entries(&path)].concat() } else { vec![path] })
        .collect()
}

#[test]
fn what_is_made_under_sudo_is_the_users() {
    let workshop = Workshop::new();
    let owner = |path: &Path| fs::metadata(path).map(|file| (file.uid(), file.gid())).expect("it is there");
    if owner(&workshop.path("samples")).0 != 0 {
        eprintln!("SKIPPED: only root can give files away");
        return;
    }
    fs::write(workshop.path("old.svg"), "of before").expect("a file");
    let before = entries(&workshop.path(""));
    let commands: [&[&str]; 10] = [
        &["demo", "--sample", "--out", "shown/here"],
        &["flamegraph", TRACE],
        &["flamegraph", "damaged/cut-in-events.htape", "-o", "nothing.svg"],
        &["flamegraph", TRACE, "-o", "old.svg"],
        &["flamegraph", TRACE, "-o", "/dev/null"],
        &["timeline", TRACE],
        &["report", TRACE, "-o", "report.md"],
        &["arenas", TRACE, "--write-plan", "plan.json"],
        &["phases", TRACE, "--parquet", "tables"],
        &["salvage", "damaged/cut-in-tail.htape", "-o", "saved.htape"],
    ];
    for arguments in commands {
        let mut command = workshop.command(arguments);
        let output = command.envs([("SUDO_UID", "65534"), ("SUDO_GID", "65534")]).output().expect("it starts");
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    let made: Vec<_> = entries(&workshop.path("")).into_iter().filter(|path| !before.contains(path)).collect();
    assert!(made.len() >= 12, "{made:#?}");
    for path in &made {
        assert_eq!(owner(path), (NOBODY, NOBODY), "{}", path.display());
    }
    for path in before.iter().map(PathBuf::as_path).chain([Path::new("/dev/null")]) {
        assert_eq!(owner(path).0, 0, "{} was there before", path.display());
    }
    assert_ne!(fs::read(workshop.path("old.svg")).expect("a picture"), b"of before");
}

#[test]
fn a_full_disk_is_an_error() {
    let workshop = Workshop::new();
    let commands: [&[&str]; 4] = [
        &["flamegraph", TRACE, "-o", "/dev/full"],
        &["timeline", TRACE, "-o", "/dev/full"],
        &["report", TRACE, "-o", "/dev/full"],
        &["arenas", TRACE, "--write-plan", "/dev/full"],
    ];
    for arguments in commands {
        let output = workshop.run(arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {said}");
        assert!(said.contains("cannot write /dev/full: ") && said.contains("No space left"), "{arguments:?}: {said}");
        assert!(!said.contains("wrote"), "{arguments:?}: {said}");
    }
}

/// Whatever name it goes by, and also where there is nothing to draw.
#[test]
fn the_trace_is_not_written_over() {
    let workshop = Workshop::new();
    for trace in [TRACE, "damaged/cut-in-events.htape"] {
        let bytes = fs::read(workshop.path(trace)).expect("a trace");
        let link = format!("{trace}.link");
        fs::hard_link(workshop.path(trace), workshop.path(&link)).expect("a link");
        let commands: [&[&str]; 5] = [
            &["flamegraph", trace, "-o", &link],
            &["flamegraph", trace, "-o", trace],
            &["timeline", trace, "-o", &link],
            &["report", trace, "-o", &link],
            &["salvage", trace, "-o", &link],
        ];
        for arguments in commands {
            let output = workshop.run(arguments);
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(3), "{arguments:?}: {said}");
            assert!(said.contains("name another output file"), "{arguments:?}: {said}");
            assert_eq!(fs::read(workshop.path(trace)).expect("the trace"), bytes, "{arguments:?}");
        }
    }
}
