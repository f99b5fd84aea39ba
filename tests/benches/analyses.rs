//! How long each analysis takes on a long trace, and how much memory: each is run as a user runs it, by the command, in a process of its
//! own, beside `info`, which is the replay alone.
//!
//! `cargo bench -p tests --bench analyses -- [--runs N] [--smoke] [--only COMMAND] [TRACE…]`
//! Without a trace it records rustc on large.rs (17 million events), which needs root. Prints medians of wall time, events per second,
//! processor time and the most memory resident, beside the bars.
//! `--smoke`: a small sample instead, to see that everything works; its figures mean nothing.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tests::bench::{Arguments, say, say_missed};
use tests::command::run;
use tests::inputs;
use tests::live::live;
use tests::recorder::{heaptape, info};
use tests::toolchain::{rustc, rustc_command};

/// A command that is measured.
struct Subject {
    name: &'static str,
    options: &'static [&'static str],
    /// Most seconds that it may take on 17 million events and 2 processors.
    seconds_bar: Option<f64>,
    /// Most memory.
    bytes_bar: Option<u64>,
}

const fn subject(name: &'static str, options: &'static [&'static str]) -> Subject {
    Subject { name, options, seconds_bar: None, bytes_bar: None }
}

const SUBJECTS: [Subject; 7] = [
    subject("info", &["--json"]),
    subject("phases", &["--json"]),
    Subject { seconds_bar: Some(10.0), ..subject("lifetimes", &["--json"]) },
    subject("leaks", &["--json"]),
    subject("patterns", &["--json"]),
    Subject { seconds_bar: Some(60.0), bytes_bar: Some(4 << 30), ..subject("arenas", &["--json"]) },
    subject("report", &[]),
];

fn main() {
    let arguments = Arguments::of_command_line(3);
    let temporary = tempfile::tempdir().expect("a temporary folder can be made");
    let mut traces: Vec<PathBuf> = arguments.rest.iter().map(PathBuf::from).collect();
    if traces.is_empty() {
        traces.extend(if arguments.smoke { Some(sample()) } else { recorded(temporary.path()) });
    }
    let missed: Vec<String> = traces.iter().flat_map(|trace| measure(trace, &arguments)).collect();
    if !arguments.smoke && !traces.is_empty() {
        say_missed(&missed);
    }
}

fn sample() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples/rustc-small.htape")
}

fn recorded(folder: &Path) -> Option<PathBuf> {
    let _live = live()?;
    let trace = folder.join("large.htape");
    let command = rustc_command(&rustc(), &inputs::path("large.rs"), &folder.join("out.o"));
    let finished = run(heaptape(&["record", "--quiet", "-o"]).arg(&trace).arg("--").args(&command));
    finished.success("recording rustc large.rs");
    Some(trace)
}

/// One table; returns the bars that were missed. They are for a trace of 17 million events, and scaled for others.
fn measure(trace: &Path, arguments: &Arguments) -> Vec<String> {
    let events = info(trace).file.events;
    let scale = events as f64 / 17e6;
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let name = trace.file_name().unwrap_or_default().to_string_lossy();
    let runs = arguments.runs;
    say(&format!("\n{name}: {events} events, {processors} processors, median of {runs} runs"));
    say("  command     wall s  events/s    cpu s  peak MiB  bars");
    let mut missed = Vec::new();
    let wanted = |subject: &&Subject| arguments.only.as_ref().is_none_or(|only| only == subject.name);
    for subject in SUBJECTS.iter().filter(wanted) {
        let mut walls = Vec::new();
        let mut cpus = Vec::new();
        let mut peak = 0;
        for _ in 0..runs {
            let begin = Instant::now();
            let finished = run(heaptape(&[subject.name]).arg(trace).args(subject.options)).success(subject.name);
            walls.push(begin.elapsed());
            cpus.push(finished.cpu);
            peak = finished.peak_rss_bytes.max(peak);
        }
        let (wall, cpu) = (median(walls), median(cpus));
        let mut bars = Vec::new();
        if let Some(bar) = subject.seconds_bar {
            bars.push(format!("{:.1} s", bar * scale));
            if wall > bar * scale {
                missed.push(format!("{name}: {} takes {wall:.1} s", subject.name));
            }
        }
        if let Some(bar) = subject.bytes_bar {
            bars.push(format!("{} MiB", bar >> 20));
            if peak > bar {
                missed.push(format!("{name}: {} takes {} MiB", subject.name, peak >> 20));
            }
        }
        say(&format!(
            "  {:<10} {wall:>7.2}  {:>8.2e}  {cpu:>7.2}  {:>8}  {}",
            subject.name,
            events as f64 / wall,
            peak >> 20,
            bars.join(", ")
        ));
    }
    missed
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort_unstable();
    times[times.len() / 2].as_secs_f64()
}
