//! What recording costs, in one run: user and system time of target and recorder together, until the trace is closed,
//! beside the same program unrecorded, beside the floor (the same probes with empty programs, no trace) and beside heaptrack.
//! What unwinding adds is the time that the kernel spent in our programs, with stacks less without (`bpf_stats`).
//!
//! `cargo bench -p tests --bench cost -- [--runs N] [--smoke] [--only NAME]`
//! Prints medians, ratios against the floor of the same round, the size of the traces and the speed of replay. Needs root.
//! `--smoke`: one run of small inputs, to see that everything works; its figures mean nothing.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use tests::bench::{Arguments, say, say_missed};
use tests::command::{Finished, run};
use tests::inputs;
use tests::live::live;
use tests::recorder::{heaptape, info};
use tests::requirements::find_program;
use tests::toolchain::{cc1plus_command, clang_command, rustc, rustc_command};

/// The bars this prints beside what it measures.
const BYTES_PER_EVENT_BAR: f64 = 3.5;
const REPLAY_BAR: f64 = 5e6;
const STACKED_BYTES_PER_EVENT_BAR: f64 = 3.0;

/// A compile that is measured.
struct Subject {
    name: &'static str,
    command: Vec<String>,
    /// Most that recording without stacks may cost, by the floor.
    cost_bar: Option<f64>,
    /// Most that unwinding may add to an event, ns.
    unwinding_bar_ns: Option<f64>,
    /// Most that recording with stacks of allocs may cost, by another way of running.
    stacks_bar: Option<(f64, Way)>,
}

impl Subject {
    fn new(name: &'static str, command: Vec<String>) -> Self {
        Self { name, command, cost_bar: None, unwinding_bar_ns: None, stacks_bar: None }
    }
}

fn subjects(smoke: bool, output: &std::path::Path) -> Vec<Subject> {
    let object = output.join("out.o");
    if smoke {
        return vec![
            Subject::new("cc1plus small.cpp", cc1plus_command(&inputs::path("small.cpp"), &object)),
            Subject::new("rustc small.rs", rustc_command(&rustc(), &inputs::path("small.rs"), &object)),
        ];
    }
    vec![
        Subject {
            cost_bar: Some(1.35),
            unwinding_bar_ns: Some(400.0),
            ..Subject::new("cc1plus medium.cpp", cc1plus_command(&inputs::path("medium.cpp"), &object))
        },
        Subject {
            unwinding_bar_ns: Some(400.0),
            stacks_bar: Some((1.1, Way::Heaptrack)),
            ..Subject::new("cc1plus large.cpp", cc1plus_command(&inputs::path("large.cpp"), &object))
        },
        Subject {
            cost_bar: Some(1.35),
            stacks_bar: Some((1.6, Way::Floor)),
            ..Subject::new("rustc medium.rs", rustc_command(&rustc(), &inputs::path("medium.rs"), &object))
        },
        Subject {
            unwinding_bar_ns: Some(800.0),
            stacks_bar: Some((0.8, Way::Heaptrack)),
            ..Subject::new("clang -O0 sqlite3.c", clang_command("-O0", &inputs::sqlite3_c(), &object))
        },
    ]
}

/// One way of running a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Native,
    Floor,
    Recorded,
    AllocStacks,
    AllStacks,
    Heaptrack,
}

impl Way {
    const ALL: [Self; 6] =
        [Self::Native, Self::Floor, Self::Recorded, Self::AllocStacks, Self::AllStacks, Self::Heaptrack];

    fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Floor => "floor",
            Self::Recorded => "record --stacks none",
            Self::AllocStacks => "record --no-free-stacks",
            Self::AllStacks => "record",
            Self::Heaptrack => "heaptrack",
        }
    }

    fn command(self, subject: &Subject, trace: &std::path::Path) -> Option<Command> {
        let mut command = match self {
            Self::Native => {
                let mut command = Command::new(&subject.command[0]);
                command.args(&subject.command[1..]);
                return Some(command);
            }
            // heaptrack never comes back from rustc, whose allocator it cannot replace.
            Self::Heaptrack if subject.name.starts_with("rustc") => return None,
            Self::Heaptrack => {
                let mut command = Command::new(find_program("heaptrack")?);
                command.arg("-o").arg(trace.with_extension("heaptrack"));
                command.args(&subject.command);
                return Some(command);
            }
            // Without markers, both.
            Self::Floor => heaptape(&["record", "--quiet", "--floor", "--profile", "none"]),
            Self::Recorded => heaptape(&["record", "--quiet", "--stacks", "none", "--profile", "none", "-o"]),
            Self::AllocStacks => heaptape(&["record", "--quiet", "--no-free-stacks", "-o"]),
            Self::AllStacks => heaptape(&["record", "--quiet", "-o"]),
        };
        if self != Self::Floor {
            command.arg(trace);
        }
        command.arg("--").args(&subject.command);
        Some(command)
    }
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn seconds(finished: &Finished) -> f64 {
    finished.cpu.as_secs_f64()
}

/// Replay on one core: `info` pinned to a CPU, less the time of an `info` over an empty recording.
fn replay_events_per_s(trace: &std::path::Path, runs: usize) -> Option<f64> {
    let taskset = find_program("taskset")?;
    let mut times: Vec<f64> = (0..runs)
        .map(|_| {
            let mut command = Command::new(&taskset);
            command.args(["-c", "0"]).arg(tests::recorder::binary()).arg("info").arg(trace);
            let finished = run(&mut command).success("heaptape info");
            seconds(&finished)
        })
        .collect();
    Some(info(trace).file.events as f64 / median(&mut times).max(Duration::from_millis(1).as_secs_f64()))
}

/// Seconds of a way of running, round by round.
fn of(times: &[Vec<f64>], way: Way) -> &[f64] {
    Way::ALL.iter().position(|each| *each == way).map_or(&[], |index| &times[index])
}

/// What a way costs by another: the median of the ratios within each round, which a slow spell of the machine leaves alone.
fn ratio(times: &[Vec<f64>], way: Way, by: Way) -> Option<f64> {
    let mut ratios: Vec<f64> = of(times, way).iter().zip(of(times, by)).map(|(one, other)| one / other).collect();
    (!ratios.is_empty()).then(|| median(&mut ratios))
}

/// What one recording cost, as it says itself, with the kernel's statistics on.
#[derive(Debug, Clone, Copy)]
struct Spent {
    /// What the kernel spent in our programs, seconds.
    programs: f64,
    /// What the recorder spent, all its threads, seconds.
    recorder: f64,
    events: f64,
    bytes_per_event: f64,
}

impl Spent {
    fn by(way: Way, subject: &Subject, trace: &std::path::Path) -> Option<Self> {
        let switch = std::path::Path::new("/proc/sys/kernel/bpf_stats_enabled");
        std::fs::write(switch, "1").ok()?;
        run(&mut way.command(subject, trace)?).success(way.name());
        let _ = std::fs::write(switch, "0");
        let info = tests::recorder::json("info", trace);
        let number = |pointer: &str| info.pointer(pointer).and_then(serde_json::Value::as_f64);
        Some(Self {
            programs: number("/capture/overhead/program_ns")? / 1e9,
            recorder: number("/capture/overhead/recorder_cpu_ns")? / 1e9,
            events: number("/file/events")?,
            bytes_per_event: number("/file/bytes_per_event")?,
        })
    }
}

/// Pairs of runs: without stacks and with them.
struct Stacks(Vec<(Spent, Spent)>);

impl Stacks {
    fn measure(way: Way, subject: &Subject, trace: &std::path::Path, runs: usize) -> Option<Self> {
        let pair = |_| Some((Spent::by(Way::Recorded, subject, trace)?, Spent::by(way, subject, trace)?));
        (0..runs).map(pair).collect::<Option<Vec<_>>>().map(Self)
    }

    fn median(&self, of: impl Fn(&Spent, &Spent) -> f64) -> f64 {
        median(&mut self.0.iter().map(|(without, with)| of(without, with)).collect::<Vec<f64>>())
    }

    /// What unwinding adds to the time in our programs, ns per event.
    fn unwinding_ns(&self) -> f64 {
        self.median(|without, with| (with.programs - without.programs) / with.events * 1e9)
    }

    /// Where the time of a recording goes that took `total` seconds, beside a floor and a native run.
    fn say_profile(&self, total: f64, floor: f64, native: f64, fixed: Fixed) {
        let programs = self.median(|without, _| without.programs);
        let walk = self.median(|without, with| with.programs - without.programs);
        let recorder = self.median(|_, with| with.recorder);
        let traps = floor - native - fixed.floor;
        let parts = [
            (native, "the compile"),
            (traps, "the traps of its probes"),
            (programs, "our programs without stacks"),
            (walk, "unwinding"),
            (recorder, "the recorder's threads, start and end included"),
            (total - native - traps - programs - walk - recorder, "not told apart"),
        ];
        for (seconds, part) in parts {
            say(&format!("    {seconds:>+18.3} s   {part}"));
        }
        say(&format!(
            "    {:>+18.3} s   of it fixed for each recording ({:.3} of the floor)",
            fixed.recording, fixed.floor
        ));
    }
}

/// What is spent on a compiler that says its version, above the same unrecorded, seconds.
#[derive(Debug, Clone, Copy)]
struct Fixed {
    recording: f64,
    floor: f64,
}

impl Fixed {
    fn measure(way: Way, subject: &Subject, trace: &std::path::Path, runs: usize) -> Option<Self> {
        let version = Subject::new(subject.name, vec![subject.command[0].clone(), "--version".to_owned()]);
        let cost = |way: Way| Some(seconds(&run(&mut way.command(&version, trace)?).success(way.name())));
        let above = |way: Way| {
            let costs = (0..runs).map(|_| Some(cost(way)? - cost(Way::Native)?)).collect::<Option<Vec<f64>>>();
            costs.map(|mut costs| median(&mut costs))
        };
        Some(Self { recording: above(way)?, floor: above(Way::Floor)? })
    }
}

fn main() {
    let arguments = Arguments::of_command_line(5);
    let Some(_live) = live() else { return };
    let dir = tempfile::tempdir().expect("a temporary folder can be made");
    let binary = tests::recorder::binary();
    say(&format!("{} runs each, medians of user + system CPU seconds; {}", arguments.runs, binary.display()));
    let mut missed = Vec::new();
    for subject in subjects(arguments.smoke, dir.path()) {
        if arguments.only.as_ref().is_some_and(|only| !subject.name.contains(only.as_str())) {
            continue;
        }
        missed.extend(measure(&subject, &arguments, dir.path()));
    }
    if !arguments.smoke {
        say_missed(&missed);
    }
}

fn measure(subject: &Subject, arguments: &Arguments, dir: &std::path::Path) -> Vec<String> {
    let trace: PathBuf = dir.join("run.htape");
    say(&format!("\n{}", subject.name));
    // One run of each way after the other, again and again: what the machine does meanwhile falls on all alike.
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); Way::ALL.len()];
    let mut sizes = Vec::new();
    for _ in 0..arguments.runs {
        for (index, way) in Way::ALL.into_iter().enumerate() {
            let Some(mut command) = way.command(subject, &trace) else { continue };
            let finished = run(&mut command);
            // heaptrack's script may end by a broken pipe of its own once everything is written.
            let finished = match way {
                Way::Heaptrack if finished.stdout_text().contains("Heaptrack finished!") => finished,
                _ => finished.success(way.name()),
            };
            times[index].push(seconds(&finished));
            if way == Way::Recorded {
                let info = info(&trace);
                assert_eq!(info.totals.lost_count, Some(0), "a lossy recording is not to be compared");
                sizes.push((info.file.events, info.file.bytes_per_event, replay_events_per_s(&trace, 1)));
            }
        }
    }
    for way in Way::ALL {
        match (of(&times, way), ratio(&times, way, Way::Floor)) {
            ([], _) | (_, None) => say(&format!("  {:<22} not available", way.name())),
            (seconds, Some(ratio)) => {
                let seconds = median(&mut seconds.to_vec());
                say(&format!("  {:<22} {seconds:>8.3} s   {ratio:>5.2} × floor", way.name()));
            }
        }
    }
    let (events, bytes_per_event, _) = sizes[sizes.len() / 2];
    say(&format!("  trace                  {events} events, {bytes_per_event:.2} bytes each"));
    let mut speeds: Vec<f64> = sizes.iter().filter_map(|(_, _, speed)| *speed).collect();
    let speed = (!speeds.is_empty()).then(|| median(&mut speeds));
    if let Some(speed) = speed {
        say(&format!("  replay on one core     {:.1} million events/s (the whole of `info`)", speed / 1e6));
    }
    let mut unwinding_ns = None;
    let mut stacked_bytes = None;
    for way in [Way::AllocStacks, Way::AllStacks] {
        if let Some(stacks) = Stacks::measure(way, subject, &trace, arguments.runs) {
            let (added, bytes) = (stacks.unwinding_ns(), stacks.median(|_, with| with.bytes_per_event));
            say(&format!("  unwinding adds         {added:.0} ns to an event, {bytes:.2} bytes each ({})", way.name()));
            let seconds = |way| median(&mut of(&times, way).to_vec());
            if let Some(fixed) = Fixed::measure(way, subject, &trace, arguments.runs) {
                stacks.say_profile(seconds(way), seconds(Way::Floor), seconds(Way::Native), fixed);
            }
            (unwinding_ns, stacked_bytes) = (Some(added), Some(bytes));
        }
    }
    let cost = ratio(&times, Way::Recorded, Way::Floor).expect("the recording was measured");
    let stacks = subject.stacks_bar.and_then(|(bar, way)| Some((ratio(&times, Way::AllocStacks, way)?, bar, way)));
    if let Some((ratio, bar, way)) = stacks {
        say(&format!("  stacks of allocs cost  {ratio:.2} × {} (bar {bar})", way.name()));
    }
    let bars = [
        (
            subject.cost_bar.is_some_and(|bar| cost > bar),
            format!("cost {cost:.2} × floor (bar {})", subject.cost_bar.unwrap_or(0.0)),
        ),
        (
            bytes_per_event > BYTES_PER_EVENT_BAR && events > 1_000_000,
            format!("{bytes_per_event:.2} bytes per event (bar {BYTES_PER_EVENT_BAR})"),
        ),
        (
            speed.is_some_and(|speed| speed < REPLAY_BAR) && events > 1_000_000,
            format!("replay of {:.1} million events/s (bar {:.0})", speed.unwrap_or(0.0) / 1e6, REPLAY_BAR / 1e6),
        ),
        (
            stacks.is_some_and(|(ratio, bar, _)| ratio > bar),
            stacks.map_or(String::new(), |(ratio, bar, way)| {
                format!("stacks of allocs cost {ratio:.2} × {} (bar {bar})", way.name())
            }),
        ),
        (
            unwinding_ns.zip(subject.unwinding_bar_ns).is_some_and(|(added, bar)| added > bar),
            format!(
                "unwinding adds {:.0} ns (bar {:.0})",
                unwinding_ns.unwrap_or(0.0),
                subject.unwinding_bar_ns.unwrap_or(0.0)
            ),
        ),
        (
            stacked_bytes.is_some_and(|bytes| bytes > STACKED_BYTES_PER_EVENT_BAR) && events > 1_000_000,
            format!(
                "{:.2} bytes per event with all stacks (bar {STACKED_BYTES_PER_EVENT_BAR})",
                stacked_bytes.unwrap_or(0.0)
            ),
        ),
    ];
    bars.into_iter().filter(|(missed, _)| *missed).map(|(_, what)| format!("{}: {what}", subject.name)).collect()
}
