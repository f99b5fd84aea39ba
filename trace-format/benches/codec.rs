//! How fast events are written and read, and how large they are. Responsible for one stream that behaves like a compiler
//! (few sites, sizes by site, short lives, an allocator that hands out again what was freed last); the figures that count
//! are those of real traces. `cargo bench -p trace-format`; `-- 1 2 3` compares zstd levels.
//!
//! Run it with `taskset -c 0` for CPU time per event: writer and compressor then share one processor.

use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use trace_format::{
    BlockId, CaptureStats, Domain, Entry, EntryId, EntryKind, Frame, Header, Module, Op, Process, StackId,
    StackQuality, Target, Thread, ThreadId, Trace, TraceWriter, Walk, WriterOptions,
};

const EVENT_COUNT: usize = 4_000_000;
const SITE_COUNT: u64 = 20_000;
const FUNCTION_COUNT: u64 = 3000;
/// Call sites in each function.
const CALLEES: u64 = 3;
const ROUNDS: usize = 5;

struct Step {
    time_ns: u64,
    thread: ThreadId,
    site: usize,
    walk: Walk,
    op: Op,
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below `end`, small numbers far more often.
    fn skewed(&mut self, end: u64) -> u64 {
        let bits = u64::from(64 - end.leading_zeros());
        let shift = self.next() % bits;
        self.next() % (end >> shift).max(1)
    }
}

/// An allocator with a cache for each size.
#[derive(Default)]
struct Heap {
    top: u64,
    cached: Vec<Vec<u64>>,
}

impl Heap {
    fn take(&mut self, class: usize) -> u64 {
        self.cached.resize_with(self.cached.len().max(class + 1), Vec::new);
        self.cached[class].pop().unwrap_or_else(|| {
            self.top += class as u64 * 16;
            0x5555_0000_0000 + self.top
        })
    }
}

/// What one activation of a function does: births by site, deaths by age. Compilers do the same again and again.
struct Function {
    acts: Vec<Act>,
}

enum Act {
    Birth {
        site: u64,
        size_bytes: u64,
    },
    /// The block born this many births ago, or if it is dead already the youngest.
    Death {
        site: u64,
        age: usize,
    },
}

fn functions(random: &mut Random) -> Vec<Function> {
    let act = |random: &mut Random| {
        let site = random.skewed(SITE_COUNT);
        if random.next() % 100 < 48 {
            Act::Death { site: site + SITE_COUNT, age: random.skewed(200) as usize }
        } else {
            Act::Birth { site, size_bytes: 8 + random.skewed(60) * 8 }
        }
    };
    (0..FUNCTION_COUNT).map(|_| Function { acts: (0..=random.skewed(60)).map(|_| act(random)).collect() }).collect()
}

/// The site whose frame is the caller of this one's.
fn caller(site: u64) -> u64 {
    site / CALLEES
}

/// How the stack of a site continues that of another: nearly always as the tree says. Where they part, most callees of a
/// function are called from several of its lines, so that the activation is the same and only its call moved.
fn walk(random: &mut Random, before: u64, site: u64) -> Walk {
    let (mut one, mut other) = (before, site);
    while one != other && caller(one) != caller(other) {
        let deeper = if one > other { &mut one } else { &mut other };
        *deeper = caller(*deeper);
    }
    let same_function = Random(caller(one)).next() % 100 < 40;
    let rarely = random.next().is_multiple_of(500);
    let quality = if random.next().is_multiple_of(5000) { StackQuality::NoRule } else { StackQuality::Complete };
    Walk { quality, renewed: u32::from(rarely), moved: one != other && same_function }
}

fn steps(event_count: usize) -> Vec<Step> {
    let mut random = Random(1);
    let functions = functions(&mut random);
    let mut heap = Heap::default();
    let mut live: Vec<(BlockId, u64, usize)> = Vec::new();
    let (mut births, mut time_ns, mut last_site) = (0, 0, 0);
    let mut steps = Vec::with_capacity(event_count + 64);
    while steps.len() < event_count {
        for act in &functions[random.skewed(FUNCTION_COUNT) as usize].acts {
            time_ns += 200 + random.skewed(1 << 10);
            let (site, op) = match *act {
                Act::Birth { site, size_bytes } => {
                    let class = (size_bytes as usize + 23) / 16;
                    let (entry, block, address) = (EntryId(0), BlockId(births), heap.take(class));
                    births += 1;
                    live.push((block, address, class));
                    (site, Op::Alloc { entry, block, size_bytes, alignment_bytes: 0, address, inside: None })
                }
                Act::Death { site, age } => {
                    let Some(last) = live.len().checked_sub(1) else { continue };
                    let wanted = births.saturating_sub(age as u64);
                    let index = live.binary_search_by_key(&wanted, |(block, _, _)| block.0).unwrap_or(last);
                    let (block, address, class) = live.remove(index);
                    heap.cached[class].push(address);
                    (site, Op::Free { entry: EntryId(1), target: Target::Block(block) })
                }
            };
            let walk = walk(&mut random, last_site, site);
            last_site = site;
            steps.push(Step { time_ns, thread: ThreadId(0), site: site as usize, walk, op });
        }
    }
    steps
}

fn write(steps: &[Step], out: impl Write + Send + 'static, zstd_level: i32) -> (Duration, Duration, u64) {
    let options = WriterOptions { zstd_level, ..WriterOptions::default() };
    let mut writer = TraceWriter::create(out, Path::new("bench"), &Header::default(), options).expect("it is writable");
    let module = writer.module(Module::default());
    let process = writer.process(Process::default());
    writer.thread(Thread { process, ..Thread::default() });
    let domain = writer.domain(Domain { module, ..Domain::default() });
    for (symbol, kind) in [("malloc", EntryKind::Alloc), ("free", EntryKind::Free)] {
        writer.entry(Entry { domain, symbol: symbol.to_owned(), kind });
    }
    let mut stacks = Vec::new();
    for site in 0..SITE_COUNT * 2 {
        let frame = writer.frame(Frame { module, address: site * 24 });
        let parent = if site == 0 { StackId::EMPTY } else { stacks[caller(site) as usize] };
        stacks.push(writer.stack(parent, frame));
    }
    let start = Instant::now();
    for step in steps {
        let stack = stacks[step.site];
        writer.push(step.time_ns, step.thread, stack, step.walk, &step.op).expect("the stream keeps the rules");
    }
    let pushed = start.elapsed();
    let written = writer.finish(CaptureStats::default(), Vec::new()).expect("it is writable");
    (pushed, start.elapsed(), written.file_bytes)
}

fn main() -> io::Result<()> {
    let levels: Vec<i32> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let levels = if levels.is_empty() { vec![WriterOptions::default().zstd_level] } else { levels };
    let mut out = io::stdout().lock();
    let smoke = std::env::args().any(|argument| argument == "--smoke");
    let steps = steps(if smoke { EVENT_COUNT / 20 } else { EVENT_COUNT });
    let count = steps.len() as f64;
    let moved = steps.iter().filter(|step| step.walk.moved).count() as f64 / count * 100.0;
    writeln!(out, "{count} events, {moved:.0} % with a call that moved")?;
    let best = |mut run: Box<dyn FnMut() -> Duration + '_>| {
        (0..ROUNDS).map(|_| run()).min().expect("there is a round").as_secs_f64()
    };
    for level in levels {
        let mut file_bytes = 0;
        let mut pushed = Duration::MAX;
        let all = best(Box::new(|| {
            let (push, all, bytes) = write(&steps, io::sink(), level);
            (pushed, file_bytes) = (pushed.min(push), bytes);
            all
        }));
        writeln!(
            out,
            "write, zstd {level}: {:.2} bytes/event, push {:.1} ns/event, until closed {:.1} ns/event ({:.1} M events/s)",
            file_bytes as f64 / count,
            pushed.as_secs_f64() * 1e9 / count,
            all * 1e9 / count,
            count / all / 1e6
        )?;
    }
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("bench.htape");
    write(&steps, std::fs::File::create(&path)?, WriterOptions::default().zstd_level);
    let open = best(Box::new(|| {
        let start = Instant::now();
        assert!(Trace::open(&path).expect("it is readable").completeness.complete);
        start.elapsed()
    }));
    writeln!(out, "open: {:.2} ms", open * 1e3)?;
    for decoders in [0, 1, 2] {
        let trace = Trace::open(&path).expect("it is readable");
        let read = best(Box::new(|| {
            let (start, mut births) = (Instant::now(), 0u64);
            let count_births = |events: &[trace_format::Event]| {
                births += events.iter().filter(|event| matches!(event.op, Op::Alloc { .. })).count() as u64;
            };
            trace.for_each_chunk(decoders, count_births).expect("it is readable");
            assert!(births > 0);
            start.elapsed()
        }));
        writeln!(out, "read, {decoders} decoders: {:.1} M events/s", count / read / 1e6)?;
    }
    Ok(())
}
