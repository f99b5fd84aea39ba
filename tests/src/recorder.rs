//! Drives the `heaptape` command and reads its `--json`. Responsible for where the binary comes from and for the shape
//! of answers that tests rely on; not for what the answers should be.
//!
//! The binary is `$HEAPTAPE_BIN` where set; else the one that cargo builds from this workspace, in the profile of the
//! test that asks, once per test process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use serde::Deserialize;
use serde_json::Value;

use crate::command::{Finished, Running, run, start};
use crate::workload::scratch_dir;

/// Path of the `heaptape` binary.
pub fn binary() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        if let Some(path) = std::env::var_os("HEAPTAPE_BIN") {
            let path = PathBuf::from(path);
            assert!(path.is_file(), "HEAPTAPE_BIN names {}, which is no file", path.display());
            return path;
        }
        let profile = scratch_dir().parent().map(Path::to_path_buf).expect("the scratch folder lies in target/PROFILE");
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["build", "--quiet", "--package", "heaptape"]);
        cargo.args(["--manifest-path", concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml")]);
        cargo.arg("--target-dir").arg(profile.parent().expect("target/PROFILE has a parent"));
        if profile.ends_with("release") {
            cargo.arg("--release");
        }
        let status = cargo.status().expect("cargo starts");
        assert!(status.success(), "{cargo:?} failed");
        profile.join("heaptape")
    })
}

/// A `heaptape` command with its arguments.
pub fn heaptape(arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(arguments);
    command
}

/// A recording of a launched command, made in a folder of its own that vanishes with this value.
pub struct Recording {
    /// Where everything of this recording lies.
    pub dir: tempfile::TempDir,
    /// The trace.
    pub trace: PathBuf,
    /// The file that is `$TRUTH` for the target.
    pub truth: PathBuf,
    /// How the recorder ended and what it and the target said.
    pub finished: Finished,
}

/// A recording to be made: options, environment, command.
#[derive(Default)]
pub struct Record {
    options: Vec<String>,
    variables: Vec<(String, String)>,
    command: Vec<String>,
    current_dir: Option<PathBuf>,
}

impl Record {
    /// Of this command line.
    pub fn new(command: impl IntoIterator<Item = impl AsRef<std::ffi::OsStr>>) -> Self {
        let text = |part: &std::ffi::OsStr| part.to_str().expect("test commands are UTF-8").to_owned();
        Self { command: command.into_iter().map(|part| text(part.as_ref())).collect(), ..Self::default() }
    }

    /// With recorder options.
    #[must_use]
    pub fn options(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(|&option| option.to_owned()));
        self
    }

    /// With a variable in the recorder's and so in the target's environment.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// In this folder.
    #[must_use]
    pub fn current_dir(mut self, dir: &Path) -> Self {
        self.current_dir = Some(dir.to_owned());
        self
    }

    /// Starts recording.
    pub fn start(&self, with_stdin: bool) -> (Running, tempfile::TempDir, PathBuf, PathBuf) {
        let dir = tempfile::tempdir().expect("a temporary folder can be made");
        let (trace, truth) = (dir.path().join("run.htape"), dir.path().join("truth"));
        let mut command = heaptape(&["record", "-o"]);
        command.arg(&trace).args(&self.options).arg("--").args(&self.command).env("TRUTH", &truth);
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        if let Some(dir) = &self.current_dir {
            command.current_dir(dir);
        }
        (start(&mut command, with_stdin), dir, trace, truth)
    }

    /// Records to the end.
    #[track_caller]
    pub fn finish(&self) -> Recording {
        let (running, dir, trace, truth) = self.start(false);
        let finished = running.finish();
        Recording { dir, trace, truth, finished }
    }
}

impl Recording {
    /// Panics with the recorder's words unless the target, and so the recorder, exited with this shell status.
    #[track_caller]
    #[expect(clippy::return_self_not_must_use, reason = "asserting is its point")]
    pub fn expect_status(self, status: i32) -> Self {
        assert_eq!(
            self.finished.shell_status(),
            status,
            "stdout: {}\nstderr: {}",
            self.finished.stdout_text(),
            self.finished.stderr_text()
        );
        assert!(self.trace.is_file(), "no trace was written; stderr: {}", self.finished.stderr_text());
        self
    }

    /// What `heaptape info --json` says of the trace.
    #[track_caller]
    pub fn info(&self) -> Info {
        info(&self.trace)
    }
}

/// The totals of a trace, a domain or a process. Each field's name is part of heaptape's interface.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub struct Totals {
    /// Blocks born other than by realloc of a block.
    pub alloc_count: u64,
    /// Live blocks given back.
    pub free_count: u64,
    /// Blocks resized or moved.
    pub realloc_count: u64,
    /// Requested bytes of allocs and new sizes of reallocs.
    pub alloc_bytes: u64,
    /// Requests refused.
    pub failed_count: u64,
    /// Events lost; null where losses cannot be told apart by process or domain.
    pub lost_count: Option<u64>,
    /// Frees of addresses never seen allocated.
    pub free_before_recording_count: u64,
    /// Frees of dead addresses.
    pub free_of_dead_count: u64,
    /// Most bytes live at one time.
    pub peak_live_bytes: u64,
    /// Bytes live at the end.
    pub live_at_end_bytes: u64,
    /// Blocks live at the end.
    pub live_at_end_count: u64,
}

/// One row of `domains`.
#[derive(Debug, Clone, Deserialize)]
pub struct DomainInfo {
    /// Its name.
    pub name: String,
    /// Whether totals count it: allocators on top of others are left out.
    pub in_totals: bool,
    /// Its totals.
    #[serde(flatten)]
    pub totals: Totals,
}

/// One row of `processes`.
#[derive(Debug, Clone, Deserialize)]
pub struct ProcessInfo {
    /// Process id.
    pub pid: u32,
    /// File name of the executable.
    pub name: String,
    /// Argument list.
    pub command: Vec<String>,
    /// Its totals.
    #[serde(flatten)]
    pub totals: Totals,
}

/// The `file` object.
#[derive(Debug, Clone, Copy, Deserialize)]
pub struct FileInfo {
    /// Size of the trace.
    pub bytes: u64,
    /// Events in it.
    pub events: u64,
    /// Their ratio.
    pub bytes_per_event: f64,
}

/// The `capture` object, as far as it is interface.
#[derive(Debug, Clone, Deserialize)]
pub struct CaptureInfo {
    /// Whether the recording ended in good order and the file is whole.
    pub complete: bool,
    /// Probes, placed or not.
    pub probe_plan: Vec<Value>,
    /// What the recording cost.
    pub overhead: Value,
}

/// `heaptape info --json`.
#[derive(Debug, Clone, Deserialize)]
pub struct Info {
    /// Over everything.
    pub totals: Totals,
    /// By allocator.
    pub domains: Vec<DomainInfo>,
    /// By process image.
    pub processes: Vec<ProcessInfo>,
    /// The file.
    pub file: FileInfo,
    /// The recording.
    pub capture: CaptureInfo,
}

/// Runs `heaptape info --json`, which must succeed on every readable trace.
#[track_caller]
pub fn info(trace: &Path) -> Info {
    let value = json("info", trace);
    Info::deserialize(&value).unwrap_or_else(|error| panic!("`info --json` lacks what it promises: {error}\n{value:#}"))
}

/// Runs a data command with `--json`, which must succeed.
#[track_caller]
pub fn json(subcommand: &str, trace: &Path) -> Value {
    let finished = run(heaptape(&[subcommand]).arg(trace).arg("--json")).success(&format!("heaptape {subcommand}"));
    serde_json::from_slice(&finished.stdout)
        .unwrap_or_else(|error| panic!("`{subcommand} --json` is not JSON ({error}): {}", finished.stdout_text()))
}
