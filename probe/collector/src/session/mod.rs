//! One recording from beginning to end: loads the kernel side, starts the threads, watches for signals, finishes the
//! trace. Responsible for who runs when, and for ending in order whatever happens; the work is done by the parts.
//!
//! ```text
//!   this thread   signals, duration, progress
//!   tracer        ptrace, placing probes           ──notices──┐
//!   intake        ring ── records in order ───────────────────┴─▶ TraceWriter ─▶ its own thread: zstd, file
//!   guardian      another process, for the worst case
//! ```

mod finish;
mod output;
mod taking;

use std::{
    ffi::OsString,
    fs::File,
    io,
    os::fd::AsRawFd as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use trace_format::{
    ModuleId, TraceWriter,
    table::{FrameSymbols, Header, Tables},
    writer::WriterOptions,
};

use self::{
    finish::{Ending, finish},
    output::Output,
    taking::take_in,
};
use crate::{
    CollectError,
    guardian::Guardian,
    intake::{Intake, Progress},
    kernel::{Kernel, Tuning},
    machine,
    markers::MarkerProfile,
    placer::Placer,
    tracer::{self, Before, Following, Signals, Subject, Tracer},
};

/// How long a launched program may take to end by itself after a signal that it probably got too.
const GRACE: Duration = Duration::from_millis(500);
/// Compression while recording: the fastest; every saved microsecond is the target's.
const ZSTD_LEVEL: i32 = 1;
/// Precision of event times. A probed call takes longer than this, so calls of a thread nearly always have times of their own.
const TICK_NS: u32 = 512;
// Compact records tell their time by ticks.
const _: () = assert!(TICK_NS == 1 << probe_abi::CompactRecord::TICK_SHIFT);

/// What and how to record.
#[derive(Debug, Clone)]
pub struct Options {
    /// The trace to write.
    pub output: PathBuf,
    /// How the kernel side behaves.
    pub tuning: Tuning,
    /// Which processes.
    pub following: Following,
    /// End after this time, if given.
    pub duration: Option<Duration>,
    /// Store addresses of known blocks.
    pub addresses: bool,
    /// Markers to place: in each process those of the first profile that is for it.
    pub markers: Vec<MarkerProfile>,
    /// What wrote the trace, for its header.
    pub recorder: String,
    /// An unwinder that checks stacks (`Tuning::check_every`), and the file it writes to.
    pub checker: Option<(PathBuf, PathBuf)>,
}

/// Names the frames of a finished recording, given files of the modules and, by frame, where its function begins in its
/// module as far as unwind information tells.
pub type Symbolise<'a> = dyn FnOnce(&Tables, Vec<(ModuleId, File)>, &[Option<u64>]) -> Vec<FrameSymbols> + 'a;

/// What the caller of a recording provides.
pub struct Hooks<'a> {
    /// Called once when everything the subject does from now on is recorded, with its pid.
    pub begun: &'a mut dyn FnMut(u32),
    /// Called about ten times a second.
    pub tick: &'a mut dyn FnMut(&Progress),
    /// Called once when all events are in.
    pub symbolise: Box<Symbolise<'a>>,
}

/// How a recording went.
#[derive(Debug)]
pub struct Recorded {
    /// Wait status of the launched program, if it ended.
    pub status: Option<i32>,
    /// Pid of the program launched or attached to.
    pub pid: u32,
    /// Whether it still runs.
    pub still_running: bool,
    /// Events in the trace.
    pub event_count: u64,
    /// Size of the trace.
    pub file_bytes: u64,
    /// Processes recorded.
    pub process_count: u64,
    /// Events lost.
    pub lost_count: u64,
    /// Peak and other figures are in the trace; these sentences are for the person now.
    pub warnings: Vec<String>,
    /// Why the trace is not whole although the target ran on, such as a full disk.
    pub failure: Option<CollectError>,
}

/// Starts `command` and records it to its end.
///
/// # Errors
/// When the recording cannot begin; what goes wrong later is in [`Recorded::failure`].
pub fn record(command: &[OsString], options: &Options, hooks: Hooks<'_>) -> Result<Recorded, CollectError> {
    run(&Subject::Command(command.to_vec()), options, hooks)
}

/// Records a running process until it ends, the duration is over, or a signal asks to stop.
///
/// # Errors
/// As [`record`].
pub fn attach(pid: u32, options: &Options, hooks: Hooks<'_>) -> Result<Recorded, CollectError> {
    run(&Subject::Process(pid), options, hooks)
}

/// Whether this machine can record.
///
/// # Errors
/// `Unsupported` with what is missing.
pub fn check() -> Result<(), CollectError> {
    Kernel::load(Tuning::PROOF).map(drop)
}

fn run(subject: &Subject, options: &Options, hooks: Hooks<'_>) -> Result<Recorded, CollectError> {
    let began = Instant::now();
    let placer = Placer::new(&options.markers)?;
    let (kernel, ring) = Kernel::load(options.tuning)?;
    let (output, sink) = Output::create(&options.output, options.tuning.floor)?;
    let guardian = Guardian::start(&kernel)
        .map_err(|source| CollectError::System { doing: "cannot start the guardian process".into(), source })?;
    let mut asking = vec![libc::SIGINT, libc::SIGTERM, libc::SIGHUP];
    // What we were started to ignore (under nohup, in the background of a script) means neither us nor the target. But an
    // `attach` in the background of a script is ended by `kill -INT`, as other tools of its kind are.
    let attaching = matches!(subject, Subject::Process(_));
    asking.retain(|&signal| !tracer::is_ignored(signal) || attaching && signal == libc::SIGINT);
    let mask = tracer::block_signals(&[asking.as_slice(), &[libc::SIGCHLD]].concat());
    let before = Before { mask, files: tracer::raise_file_limit() };
    let system = |doing: &str, source| CollectError::System { doing: doing.into(), source };
    let asked = tracer::signal_fd(&asking).map_err(|source| system("cannot watch for signals", source))?;
    let signals = Arc::new(Signals::new().map_err(|source| system("cannot make an event descriptor", source))?);

    let (notices, inbox) = mpsc::channel();
    let gauge = ring.gauge();
    let low_bytes = options.tuning.ring_bytes / 8;
    let following = options.following.clone();
    let tracer = Tracer::new(kernel, placer, gauge, notices, Arc::clone(&signals), following, low_bytes)?;
    let tracer = match &options.checker {
        Some((program, output)) => tracer.with_checker(program, output)?,
        None => tracer,
    };
    let (begun, beginning) = mpsc::channel();
    let traced = {
        let (subject, before) = (subject.clone(), before);
        thread::Builder::new()
            .name("tracer".into())
            .spawn(move || tracer.run(&subject, &before, |result| drop(begun.send(result))))
            .map_err(|source| system("cannot start a thread", source))?
    };

    let header = header(subject, options);
    let start_ns = header.start_monotonic_ns;
    let settings = WriterOptions { addresses: options.addresses, zstd_level: ZSTD_LEVEL, ..WriterOptions::default() };
    let writer = TraceWriter::create(sink, &options.output, &header, settings)?;
    let progress = Arc::new(Progress::default());
    let intake = Intake::new(writer, start_ns, Arc::clone(&progress), Arc::clone(&signals));
    let drained = Arc::new(AtomicBool::new(false));
    let taking = {
        let (signals, drained) = (Arc::clone(&signals), Arc::clone(&drained));
        thread::Builder::new()
            .name("intake".into())
            .spawn(move || take_in(intake, ring, &inbox, &signals, &drained))
            .map_err(|source| system("cannot start a thread", source))?
    };

    let Hooks { begun: on_begun, tick, symbolise } = hooks;
    let first = beginning.recv().unwrap_or_else(|_| {
        Err(CollectError::System { doing: "the tracer ended early".into(), source: io::Error::other("no report") })
    });
    let end = match &first {
        Ok(pid) => {
            output.begin();
            on_begun(*pid);
            let launched = matches!(subject, Subject::Command(_));
            watch(&signals, &drained, asked.as_raw_fd(), options.duration, launched, tick, &progress)
        }
        Err(_) => "failed to begin",
    };
    let (kernel, mut placer, outcome) = traced.join().expect("the tracer does not panic");
    let (intake, broken) = taking.join().expect("the intake does not panic");
    guardian.dismiss(kernel.is_any_stopping());
    let pid = match first {
        Ok(pid) => pid,
        Err(error) => {
            placer.finish();
            drop(intake);
            output.discard(&options.output);
            return Err(error);
        }
    };
    let ending = Ending {
        kernel: &kernel,
        outcome: &outcome,
        progress: &progress,
        held_ns: signals.held_ns.load(Ordering::Relaxed),
        unwind_build_ns: placer.unwind_build_ns(),
        end,
        began,
    };
    let finished = finish(intake, broken, &ending, symbolise);
    placer.finish();
    let (mut recorded, failed_on_disk) = finished;
    recorded.pid = pid;
    recorded.status = outcome.status;
    if failed_on_disk && matches!(subject, Subject::Command(_)) && recorded.status.is_none() {
        // The recording is over, the program is not: whoever started us waits for it.
        recorded.status = tracer::wait_for(pid);
    }
    recorded.still_running = recorded.status.is_none();
    Ok(recorded)
}

/// Waits for the end of the recording; returns why it came.
fn watch(
    signals: &Signals,
    drained: &AtomicBool,
    asked: i32,
    duration: Option<Duration>,
    launched: bool,
    tick: &mut dyn FnMut(&Progress),
    progress: &Progress,
) -> &'static str {
    let start = Instant::now();
    let mut asked_at: Option<Instant> = None;
    loop {
        let signalled = tracer::poll(&[asked], 100);
        tick(progress);
        if signals.root_ended.load(Ordering::Acquire) {
            return if asked_at.is_some() { "interrupted" } else { "exited" };
        }
        if drained.load(Ordering::Acquire) {
            return "the trace could not be written";
        }
        if signalled {
            asked_at.get_or_insert_with(Instant::now);
        }
        let patience = if launched { GRACE } else { Duration::ZERO };
        if asked_at.is_some_and(|at| at.elapsed() >= patience) {
            signals.stop();
            return "interrupted";
        }
        if duration.is_some_and(|duration| start.elapsed() >= duration) {
            signals.stop();
            return "duration";
        }
    }
}

fn header(subject: &Subject, options: &Options) -> Header {
    let tuning = &options.tuning;
    let (command, attached_pid) = match subject {
        Subject::Command(command) => (command.iter().map(|word| word.to_string_lossy().into_owned()).collect(), 0),
        Subject::Process(pid) => (Vec::new(), *pid),
    };
    Header {
        recorder: options.recorder.clone(),
        kernel: machine::kernel_release(),
        machine: std::env::consts::ARCH.to_owned(),
        cpu_count: thread::available_parallelism().map_or(0, |count| count.get() as u32),
        start_unix_ns: machine::unix_ns(),
        // Ticks of the trace are ticks of the clock.
        start_monotonic_ns: machine::monotonic_ns() / u64::from(TICK_NS) * u64::from(TICK_NS),
        tick_ns: TICK_NS,
        command,
        attached_pid,
        options: vec![
            format!("lossless={}", tuning.lossless),
            format!("stacks={}", if tuning.max_frames > 0 { "full" } else { "none" }),
            format!("free-stacks={}", tuning.free_stacks),
            format!("follow={}", options.following.children),
            format!("ring-bytes={}", tuning.ring_bytes),
            format!("addresses={}", options.addresses),
        ],
    }
}
