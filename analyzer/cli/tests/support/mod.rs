//! A folder to run the built binary in. Responsible for runs that come out the same on every machine: samples and damaged
//! traces under relative paths, no terminal, a fixed width, an environment of our own. Does not judge what comes out.

#![allow(dead_code, reason = "each test uses a part of it")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use tempfile::TempDir;

/// Columns that reports are written for where a test does not say.
pub(crate) const COLUMNS: &str = "100";
/// The samples, by the names they have in `samples/`.
const SAMPLES: [&str; 3] = ["cc1plus-small.htape", "rustc-small.htape", "tcc-small.htape"];

/// The committed samples.
pub(crate) fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../samples")
}

/// A temporary folder with `samples/` (copies) and `damaged/` (made of them), in which commands run.
pub(crate) struct Workshop(TempDir);

impl Workshop {
    pub(crate) fn new() -> Self {
        let workshop = Self(tempfile::tempdir().expect("a temporary folder"));
        fs::create_dir(workshop.path("samples")).expect("samples");
        for sample in SAMPLES {
            let bytes = fs::read(samples().join(sample)).unwrap_or_else(|error| panic!("{sample}: {error}"));
            fs::write(workshop.path("samples").join(sample), bytes).expect("a sample");
        }
        workshop.damage();
        workshop
    }

    /// The small sample, damaged in the ways that recordings are.
    fn damage(&self) {
        let whole = fs::read(self.path("samples/tcc-small.htape")).expect("a sample");
        let inside_events = whole.len() * 3 / 10;
        let mut flipped = whole.clone();
        flipped[inside_events] ^= 1;
        let damaged: [(&str, &[u8]); 6] = [
            ("empty", b""),
            ("five-bytes", &whole[..5]),
            ("cut-in-events", &whole[..inside_events]),
            ("cut-in-tail", &whole[..whole.len() - 60]),
            ("cut-in-footer", &whole[..whole.len() - 20]),
            ("flipped-bit", &flipped),
        ];
        fs::create_dir(self.path("damaged")).expect("damaged");
        for (name, bytes) in damaged {
            fs::write(self.path("damaged").join(name).with_extension("htape"), bytes).expect("a damaged trace");
        }
    }

    /// Where a file of this folder is.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.0.path().join(relative)
    }

    /// Runs heaptape with these arguments at the usual width.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.run_at(COLUMNS, arguments)
    }

    /// Runs heaptape with these arguments where a line has so many columns.
    pub(crate) fn run_at(&self, columns: &str, arguments: &[&str]) -> Output {
        self.command(arguments).env("COLUMNS", columns).output().expect("the built binary starts")
    }

    /// Heaptape with these arguments at the usual width, not run yet.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_heaptape"));
        command.args(arguments).current_dir(self.0.path()).env_clear();
        command.env("COLUMNS", COLUMNS).env("NO_COLOR", "1").stdin(Stdio::null());
        command
    }
}

/// What a run wrote to stdout.
pub(crate) fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("stdout is UTF-8")
}

/// The subcommands that `heaptape --help` lists, `help` itself left out.
pub(crate) fn subcommands(workshop: &Workshop) -> Vec<String> {
    let help = stdout(&workshop.run(&["--help"]));
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = listed.filter_map(|line| line.strip_prefix("  ")).filter(|line| !line.starts_with(' '));
    let names: Vec<_> = names.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect();
    assert!(names.iter().any(|name| name == "info"), "no subcommands in:\n{help}");
    names.into_iter().filter(|name| name != "help").collect()
}
