//! Recording from the command line: options shared by `record` and `attach`, the running display, and how we end.
//! Responsible for being a wrapper nobody notices: the target's streams are its own, its exit status becomes ours.

use std::{
    ffi::OsString,
    fmt::Write as _,
    fs::File,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use analyzer::{names::name_by_start, symbolise::Symboliser};
use anyhow::{Context as _, bail};
use probe_collector::{CollectError, Following, Hooks, Options, Recorded, Tuning};
use trace_format::{ModuleId, symbols::Symbolise as _, table::Tables};

use crate::{markers, progress::RecordingBar};

/// Exit code where this machine or user cannot record.
const CANNOT_RECORD: u8 = 4;
/// A record with a stack of [`MAX_FRAMES`] takes 8 KiB.
const SMALLEST_RING_WITH_STACKS: u64 = 1 << 16;
/// Deepest stack walk, frames.
const MAX_FRAMES: u32 = 512;

/// Options of every recording.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct RecordingArgs {
    /// The trace to write [default: NAME.htape, numbered if that exists]
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Record this process alone, not its children
    #[arg(long)]
    no_follow: bool,
    /// Record only processes whose executable is called NAME, or that were called by this name (may be given several times);
    /// others are followed, not recorded
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Never lose an event: let threads rest while the ring is drained [default for launched programs]
    #[arg(long, overrides_with = "no_lossless")]
    lossless: bool,
    /// Never make the target wait: count and locate what is lost [default for attach]
    #[arg(long)]
    no_lossless: bool,
    /// Size of the ring between kernel and recorder, a power of two; at least 65536 unless `--stacks none`
    #[arg(long, value_name = "BYTES", default_value = "16777216", value_parser = ring_size)]
    ring_bytes: u64,
    /// How stacks are taken: `full` unwinds them to their root, `none` takes the return address of the call alone
    #[arg(long, value_enum, default_value = "full")]
    stacks: Stacks,
    /// Take no stacks for frees (their return address is always taken)
    #[arg(long)]
    no_free_stacks: bool,
    /// Leave block addresses out of the trace (a smaller file, no questions about fragmentation)
    #[arg(long)]
    no_addresses: bool,
    /// Mark phases while recording: `auto` by the built-in profile of the compiler that is recorded, `none`, or by a profile of
    /// your own (see `samples/README.md`)
    #[arg(long, value_name = "auto|none|FILE", default_value = "auto")]
    profile: String,
    /// Stop recording after this many seconds; the target goes on
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    duration: Option<Duration>,
    /// Print nothing unless something is wrong
    #[arg(short, long)]
    quiet: bool,
    /// Attach empty programs and write nothing: what the probes cost by themselves
    #[arg(long, hide = true)]
    floor: bool,
    /// How probes are linked: `perf` as on kernels without `uprobe_multi`, one by one
    #[arg(long, hide = true, value_enum, default_value = "auto")]
    links: Links,
    /// Have one in `--check-every` stacks looked at by this unwinder, which writes to the trace's name with `.checks`
    #[arg(long, hide = true, value_name = "PROGRAM")]
    check_stacks: Option<PathBuf>,
    /// See `--check-stacks`
    #[arg(long, hide = true, value_name = "N", default_value = "1000")]
    check_every: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Stacks {
    /// All frames, by unwind tables, without frame pointers.
    Full,
    /// The return address alone.
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Links {
    /// The best that the kernel has.
    Auto,
    /// One perf event for each probe.
    Perf,
}

fn ring_size(text: &str) -> Result<u64, String> {
    let bytes: u64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if bytes.is_power_of_two() && (1 << 12..=1 << 30).contains(&bytes) {
        Ok(bytes)
    } else {
        Err("must be a power of two from 4096 to 1073741824".to_owned())
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

impl RecordingArgs {
    /// Options for a demonstration: a launched program, nothing said.
    pub(crate) fn quiet_demo(output: PathBuf) -> Self {
        Self {
            output: Some(output),
            no_follow: false,
            only: Vec::new(),
            lossless: false,
            no_lossless: false,
            ring_bytes: 1 << 24,
            stacks: Stacks::Full,
            no_free_stacks: false,
            no_addresses: false,
            profile: "auto".to_owned(),
            duration: None,
            quiet: true,
            floor: false,
            links: Links::Auto,
            check_stacks: None,
            check_every: 0,
        }
    }

    /// Refuses what cannot work together.
    fn check(&self) -> anyhow::Result<()> {
        if self.stacks == Stacks::Full && self.ring_bytes < SMALLEST_RING_WITH_STACKS {
            bail!(
                "a ring of {} bytes may not hold one deep stack: give --ring-bytes {SMALLEST_RING_WITH_STACKS} or more, or \
                 --stacks none",
                self.ring_bytes
            );
        }
        Ok(())
    }

    fn options(&self, name: &str, lossless_by_default: bool) -> anyhow::Result<Options> {
        let output = self.output.clone().unwrap_or_else(|| unused_name(name));
        let checker = self.check_stacks.clone().map(|program| (program, output.with_extension("checks")));
        let lossless = self.lossless || (lossless_by_default && !self.no_lossless);
        Ok(Options {
            output,
            checker,
            tuning: Tuning {
                ring_bytes: self.ring_bytes,
                lossless,
                max_frames: if self.stacks == Stacks::Full { MAX_FRAMES } else { 0 },
                free_stacks: !self.no_free_stacks,
                floor: self.floor,
                check_every: if self.check_stacks.is_some() { self.check_every } else { 0 },
                // A child that is not followed inherits breakpoints. The kernel takes away those of perf links as it meets them,
                // those of others it keeps.
                perf_links: self.links == Links::Perf || self.no_follow,
            },
            following: Following { children: !self.no_follow, only: self.only.clone() },
            duration: self.duration,
            addresses: !self.no_addresses,
            markers: markers::profiles(&self.profile)?,
            recorder: env!("CARGO_PKG_VERSION").to_owned(),
        })
    }
}

/// `NAME.htape`, or the first of `NAME.1.htape`, `NAME.2.htape`… that does not exist.
fn unused_name(name: &str) -> PathBuf {
    let name = Path::new(name).file_name().map_or_else(|| "heaptape".into(), |name| name.to_string_lossy());
    let first = PathBuf::from(format!("{name}.htape"));
    let numbered = (1..).map(|number| PathBuf::from(format!("{name}.{number}.htape")));
    std::iter::once(first).chain(numbered).find(|path| !path.exists()).expect("some number is free")
}

/// Launches and records a command; ends as it ends.
pub(crate) fn record(args: &RecordingArgs, command: &[OsString]) -> anyhow::Result<ExitCode> {
    let Some(program) = command.first() else { bail!("no command given: heaptape record -- COMMAND…") };
    args.check()?;
    let options = args.options(&program.to_string_lossy(), true)?;
    match perform(args, Announce::No, &options, |options, hooks| probe_collector::record(command, options, hooks)) {
        Ok(recorded) => {
            report(args, &options, &recorded);
            Ok(as_target(&recorded))
        }
        Err(error) => refuse(error),
    }
}

/// Attaches to a process.
pub(crate) fn attach(args: &RecordingArgs, pid: u32) -> anyhow::Result<ExitCode> {
    args.check()?;
    let options = args.options(&format!("pid-{pid}"), false)?;
    match perform(args, Announce::Yes, &options, |options, hooks| probe_collector::attach(pid, options, hooks)) {
        Ok(recorded) => {
            report(args, &options, &recorded);
            Ok(if recorded.failure.is_some() { ExitCode::from(3) } else { ExitCode::SUCCESS })
        }
        Err(error) => refuse(error),
    }
}

/// Whether this machine and user can record.
pub(crate) fn can_record() -> Result<(), String> {
    probe_collector::check().map_err(|error| error.to_string())
}

/// Records a small compile for the demonstration, with whatever compiler is at hand. `None` when there is none.
pub(crate) fn record_demo(output: &Path) -> anyhow::Result<Option<Vec<String>>> {
    let folder = tempfile::tempdir().context("cannot make a temporary folder")?;
    let object = folder.path().join("demo.o").display().to_string();
    let candidates = [
        ("cc", "demo.c", "#include <stdio.h>\nint main(void) { return puts(\"hi\"); }\n"),
        ("rustc", "demo.rs", "fn main() { println!(\"hi\"); }\n"),
    ];
    for (compiler, file, source) in candidates {
        let path = folder.path().join(file);
        std::fs::write(&path, source).context("cannot write a source file")?;
        let mut command = vec![compiler.to_owned(), path.display().to_string()];
        if compiler == "rustc" {
            command.push("--emit=obj".into());
        } else {
            command.extend(["-O2".into(), "-c".into()]);
        }
        command.extend(["-o".into(), object.clone()]);
        let words: Vec<OsString> = command.iter().map(OsString::from).collect();
        let args = RecordingArgs::quiet_demo(output.to_owned());
        let options = args.options(compiler, true)?;
        match perform(&args, Announce::No, &options, |options, hooks| probe_collector::record(&words, options, hooks)) {
            Ok(recorded) if recorded.status == Some(0) && recorded.failure.is_none() => return Ok(Some(command)),
            Ok(_) | Err(CollectError::Launch { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(None)
}

/// Whether the beginning of a recording is worth a line: a launched program speaks for itself.
#[derive(Clone, Copy)]
enum Announce {
    Yes,
    No,
}

fn perform(
    args: &RecordingArgs,
    subject: Announce,
    options: &Options,
    begin: impl FnOnce(&Options, Hooks<'_>) -> Result<Recorded, CollectError>,
) -> Result<Recorded, CollectError> {
    let bar = RecordingBar::new(args.quiet || args.floor);
    let mut tick = |progress: &probe_collector::Progress| bar.update(progress);
    let symbolise = |tables: &Tables, files: Vec<(ModuleId, File)>, starts: &[Option<u64>]| {
        let symboliser = files.into_iter().fold(Symboliser::new(), |all, (module, file)| all.with_file(module, file));
        let mut symbols = { symboliser }.symbolise(tables);
        name_by_start(tables, starts, &mut symbols);
        symbols
    };
    let announce = !args.quiet && matches!(subject, Announce::Yes);
    let mut begun = |pid: u32| {
        if announce {
            eprintln!("heaptape: recording process {pid} into {}; Ctrl-C ends it", options.output.display());
        }
    };
    let result = begin(options, Hooks { begun: &mut begun, tick: &mut tick, symbolise: Box::new(symbolise) });
    bar.finish();
    result
}

fn report(args: &RecordingArgs, options: &Options, recorded: &Recorded) {
    for warning in &recorded.warnings {
        eprintln!("heaptape: warning: {warning}");
    }
    if recorded.lost_count > 0 {
        eprintln!(
            "heaptape: warning: {} events were lost (the ring was full); `heaptape info` says where",
            recorded.lost_count
        );
    }
    if let Some(failure) = &recorded.failure {
        eprintln!("heaptape: error: {failure}");
        if recorded.still_running {
            eprintln!("heaptape: process {} goes on unrecorded", recorded.pid);
        }
        return;
    }
    if args.quiet || args.floor {
        return;
    }
    let mut line = format!(
        "heaptape: {} events of {} process{} in {} ({} bytes)",
        recorded.event_count,
        recorded.process_count,
        if recorded.process_count == 1 { "" } else { "es" },
        options.output.display(),
        recorded.file_bytes
    );
    if recorded.still_running {
        let _ = write!(line, "; process {} goes on", recorded.pid);
    }
    eprintln!("{line}");
}

/// Ends as the target ended: with its exit code, or by its signal.
fn as_target(recorded: &Recorded) -> ExitCode {
    match recorded.status {
        Some(status) if status & 0x7f == 0 => ExitCode::from((status >> 8 & 0xff) as u8),
        Some(status) => {
            let signal = status & 0x7f;
            end_by(signal);
            ExitCode::from(128 + signal as u8)
        }
        None if recorded.failure.is_some() => ExitCode::from(3),
        None => ExitCode::SUCCESS,
    }
}

/// Ends this process by a signal, so that whoever waits for it sees what it would see of the target.
#[expect(unsafe_code, reason = "raising a signal on ourselves is a system call")]
fn end_by(signal: i32) {
    // SAFETY: plain numbers and live structures; nothing of ours runs afterwards but the return below, if the signal
    // could not be raised.
    unsafe {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        libc::signal(signal, libc::SIG_DFL);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::sigprocmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
        libc::raise(signal);
    }
}

/// A recording that could not begin: exit code 4 where the machine or user is the reason.
fn refuse(error: CollectError) -> anyhow::Result<ExitCode> {
    match error {
        CollectError::Unsupported { reason } => {
            eprintln!("heaptape: {reason}");
            Ok(ExitCode::from(CANNOT_RECORD))
        }
        CollectError::Launch { program, source } => {
            eprintln!("heaptape: cannot start `{program}`: {source}");
            let missing = source.kind() == std::io::ErrorKind::NotFound;
            Ok(ExitCode::from(if missing { 127 } else { 126 }))
        }
        other => Err(other.into()),
    }
}
