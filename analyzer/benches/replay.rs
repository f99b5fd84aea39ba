//! How fast a trace is replayed on one processor, and that the memory for it does not grow with the trace's length.
//! Responsible for traces that differ in nothing but length, and for one fresh process per trace, so that its peak of
//! memory is that of one replay; not for how fast a trace opens or is written (see the benchmark of `trace-format`).
//!
//! `cargo bench -p analyzer --bench replay`; `-- FILE…` replays real traces instead, named by absolute paths.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use analyzer::Replay;
use trace_format::{
    BlockId, CaptureStats, Domain, Entry, EntryId, EntryKind, Frame, Header, Module, Op, Origin, Process, StackId,
    StackQuality, Target, Thread, ThreadId, Trace, TraceWriter, Walk, WriterOptions,
};

const LENGTHS: [u64; 4] = [1_000_000, 2_000_000, 4_000_000, 8_000_000];
/// Blocks alive at most, in traces of every length.
const LIVE: usize = 100_000;
const ROUNDS: usize = 5;

const THREAD_COUNT: u64 = 4;
/// Stacks that allocate.
const ALLOC_SITES: u64 = 18_000;
/// Stacks that reallocate; they come after those that allocate.
const REALLOC_SITES: u64 = 2_000;
/// Frames that all stacks have in common, about as many as compilers have around their passes.
const TRUNK: u64 = 16;
/// Call sites in each function.
const CALLEES: u64 = 3;

const MALLOC: EntryId = EntryId(0);
const NEW: EntryId = EntryId(1);
const REALLOC: EntryId = EntryId(2);
const FREE: EntryId = EntryId(3);

struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    /// Below `end`, small numbers far more often.
    fn skewed(&mut self, end: u64) -> u64 {
        let bits = u64::from(64 - end.leading_zeros());
        let shift = self.below(bits);
        self.below((end >> shift).max(1))
    }
}

/// Writes what a compiler does that never stops: a few sites do most, most blocks die young, and the number of live ones
/// stays just below `live_limit`.
struct Workload {
    writer: TraceWriter,
    random: Random,
    stacks: Vec<StackId>,
    live: Vec<BlockId>,
    live_limit: usize,
    /// Each site has its turn before chance decides, so that traces of every length have used them all.
    alloc_turns: u64,
    realloc_turns: u64,
    thread: ThreadId,
    time_ns: u64,
}

impl Workload {
    fn create(path: &Path, live_limit: usize) -> io::Result<Self> {
        let file = File::create(path)?;
        let mut writer = TraceWriter::create(file, path, &Header::default(), WriterOptions::default())
            .expect("the header is writable");
        let module = writer.module(Module::default());
        let process = writer.process(Process { origin: Origin::Launch, ..Process::default() });
        for _ in 0..THREAD_COUNT {
            writer.thread(Thread { process, ..Thread::default() });
        }
        let domain = writer.domain(Domain { module, ..Domain::default() });
        for (symbol, kind) in [
            ("malloc", EntryKind::Alloc),
            ("operator new", EntryKind::Alloc),
            ("realloc", EntryKind::Realloc),
            ("free", EntryKind::Free),
        ] {
            writer.entry(Entry { domain, symbol: symbol.to_owned(), kind });
        }
        let mut root = StackId::EMPTY;
        for address in 1..=TRUNK {
            let frame = writer.frame(Frame { module, address });
            root = writer.stack(root, frame);
        }
        let mut stacks = Vec::new();
        for site in 0..ALLOC_SITES + REALLOC_SITES {
            let frame = writer.frame(Frame { module, address: (site + 1) * 4096 });
            let parent = if site == 0 { root } else { stacks[(site / CALLEES) as usize] };
            stacks.push(writer.stack(parent, frame));
        }
        Ok(Self {
            writer,
            random: Random(1),
            stacks,
            live: Vec::new(),
            live_limit,
            alloc_turns: 0,
            realloc_turns: 0,
            thread: ThreadId(0),
            time_ns: 0,
        })
    }

    fn push(&mut self, site: u64, op: &Op) {
        let walk = Walk { quality: StackQuality::Complete, ..Walk::NONE };
        let stack = self.stacks[site as usize];
        self.writer.push(self.time_ns, self.thread, stack, walk, op).expect("the stream keeps the rules");
    }

    fn step(&mut self) {
        self.time_ns += 100 + self.random.skewed(1 << 10);
        if self.random.below(200) == 0 {
            self.thread = ThreadId(self.random.below(THREAD_COUNT) as u32);
        }
        let full = self.live.len() >= self.live_limit;
        let filling = !full && self.alloc_turns < self.live_limit as u64;
        match self.random.below(100) {
            _ if filling => self.birth(),
            0..4 => self.realloc(),
            4..54 if !full => self.birth(),
            _ => self.death(),
        }
    }

    fn birth(&mut self) {
        let site = if self.alloc_turns < ALLOC_SITES { self.alloc_turns } else { self.random.skewed(ALLOC_SITES) };
        self.alloc_turns += 1;
        let block = self.writer.next_block();
        let entry = if site.is_multiple_of(3) { MALLOC } else { NEW };
        let size_bytes = 8 + self.random.skewed(60) * 8;
        let address = self.address();
        self.push(site, &Op::Alloc { entry, block, size_bytes, alignment_bytes: 0, address, inside: None });
        self.live.push(block);
    }

    fn realloc(&mut self) {
        let turn = self.realloc_turns;
        let site = ALLOC_SITES + if turn < REALLOC_SITES { turn } else { self.random.skewed(REALLOC_SITES) };
        self.realloc_turns += 1;
        let target = Target::Block(self.take_live());
        let size_bytes = 64 << self.random.below(6);
        self.push(site, &Op::ReallocBegin { entry: REALLOC, target, size_bytes });
        let (block, address) = (self.writer.next_block(), self.address());
        self.push(site, &Op::ReallocEnd { entry: REALLOC, block, size_bytes, address });
        self.live.push(block);
    }

    fn death(&mut self) {
        let target = Target::Block(self.take_live());
        let site = self.random.skewed(ALLOC_SITES);
        self.push(site, &Op::Free { entry: FREE, target });
    }

    /// A young block nearly always, of 8 one of any age.
    fn take_live(&mut self) -> BlockId {
        let count = self.live.len() as u64;
        let age = if self.random.below(8) == 0 { self.random.below(count) } else { self.random.below(count.min(64)) };
        self.live.swap_remove((count - 1 - age) as usize)
    }

    fn address(&mut self) -> u64 {
        0x5555_0000_0000 + self.random.below(self.live_limit as u64) * 512
    }
}

/// Makes a trace of this many events, or one more.
fn generate(path: &Path, event_count: u64, live_limit: usize) -> io::Result<()> {
    let mut workload = Workload::create(path, live_limit)?;
    while workload.writer.event_count() < event_count {
        workload.step();
    }
    workload.writer.finish(CaptureStats::default(), Vec::new()).expect("the trace is writable");
    Ok(())
}

/// The most memory this process has held, in KiB.
fn peak_memory_kib() -> io::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let number = line.and_then(|line| line.trim().trim_end_matches(" kB").parse().ok());
    number.ok_or_else(|| io::Error::other("the kernel does not say how much memory was used"))
}

fn median(mut run: impl FnMut() -> Duration) -> Duration {
    let mut times: Vec<_> = (0..ROUNDS).map(|_| run()).collect();
    times.sort_unstable();
    times[ROUNDS / 2]
}

/// The replay of one trace, in a process of its own: a row of the table.
fn replay(path: &Path, out: &mut impl Write) -> io::Result<()> {
    let trace = Trace::open(path).map_err(io::Error::other)?;
    let replay_all = || analyzer::replay(&trace, 1, |_| {}).expect("the trace is readable");
    // The first replay is the one whose memory counts.
    let outcome = replay_all();
    let memory_kib = peak_memory_kib()?;
    let both = median(|| {
        let start = Instant::now();
        drop(replay_all());
        start.elapsed()
    });
    let alone = median(|| {
        let (mut replay, mut spent) = (Replay::new(&trace.tables), Duration::ZERO);
        let one_chunk = |events: &[trace_format::Event]| {
            let start = Instant::now();
            replay.events(events);
            spent += start.elapsed();
        };
        trace.for_each_chunk(0, one_chunk).expect("the trace is readable");
        let start = Instant::now();
        drop(replay.finish());
        spent + start.elapsed()
    });
    let speed = |time: Duration| outcome.event_count as f64 / time.as_secs_f64() / 1e6;
    writeln!(
        out,
        "{:>12} {:>8} {:>12} {:>14.2} {:>14.2} {:>12.1}",
        outcome.event_count,
        outcome.cells.len(),
        outcome.total.peak.count,
        speed(both),
        speed(alone),
        memory_kib as f64 / 1024.0
    )
}

fn main() -> io::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let mut out = io::stdout();
    let (mut smoke, mut files) = (false, Vec::new());
    while let Some(argument) = arguments.next() {
        match argument.to_str() {
            Some("--replay-one") => {
                let path = arguments.next().ok_or_else(|| io::Error::other("--replay-one takes a trace"))?;
                return replay(Path::new(&path), &mut out);
            }
            Some("--smoke") => smoke = true,
            // Cargo says so to every benchmark.
            Some("--bench") => {}
            _ => files.push(PathBuf::from(argument)),
        }
    }
    let alone = |path: &Path| -> io::Result<()> {
        let status = Command::new(std::env::current_exe()?).arg("--replay-one").arg(path).status()?;
        if status.success() { Ok(()) } else { Err(io::Error::other(format!("{}: {status}", path.display()))) }
    };
    writeln!(
        out,
        "{:>12} {:>8} {:>12} {:>14} {:>14} {:>12}\n{:>12} {:>8} {:>12} {:>14} {:>14} {:>12}",
        "events",
        "cells",
        "live blocks",
        "decode+replay",
        "replay alone",
        "memory",
        "",
        "",
        "at the peak",
        "M events/s",
        "M events/s",
        "peak, MiB"
    )?;
    if !files.is_empty() {
        return files.iter().try_for_each(|path| alone(path));
    }
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("bench.htape");
    for length in LENGTHS {
        let (length, live_limit) = if smoke { (length / 20, LIVE / 20) } else { (length, LIVE) };
        generate(&path, length, live_limit)?;
        alone(&path)?;
    }
    Ok(())
}
