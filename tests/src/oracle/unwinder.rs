//! libunwind as a second opinion on stacks (`oracles/unwind.c`): builds it, has heaptape stop threads for it, and compares
//! what it saw with the stacks of the trace. It shares nothing with heaptape's unwinder but the file it reads tables from.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use trace_format::{Event, Op, StackId, StackQuality, Tables, Trace};

use crate::workload::{build_if_changed, run_compiler, scratch_dir};

/// Path of the built unwinder.
pub fn program() -> &'static Path {
    static PATH: OnceLock<PathBuf> = OnceLock::new();
    PATH.get_or_init(|| {
        let source = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/oracles/unwind.c"));
        let dir = scratch_dir().join("oracles");
        std::fs::create_dir_all(&dir).expect("the target folder is writable");
        let output = dir.canonicalize().expect("the folder was just made").join("unwind");
        let flags = ["-O2", "-Wall", "-Wextra", "-Werror"];
        build_if_changed(&output, [source.clone()], flags, |part| {
            let mut command = Command::new("gcc");
            command.args(flags).arg(&source).arg("-o").arg(part);
            command.args(["-lunwind-x86_64", "-lunwind"]);
            run_compiler(command);
        });
        output
    })
}

/// Options that have one in `every` stacks of each thread checked.
pub fn options(every: u32) -> Vec<String> {
    let every = every.to_string();
    ["--check-stacks", &program().display().to_string(), "--check-every", &every].map(str::to_owned).to_vec()
}

/// A frame: file, and address in it.
pub type Place = (String, u64);

/// A stack that libunwind saw, the innermost frame first.
#[derive(Debug, Clone)]
struct Seen {
    /// 0: it found the end.
    end: i32,
    frames: Vec<Place>,
}

/// Stacks of a trace beside libunwind's.
#[derive(Debug, Default)]
pub struct Agreement {
    /// Stacks that both walked at the same stop.
    pub compared_count: u64,
    /// Of these, equal frame by frame.
    pub equal_count: u64,
    /// Not equal, but marked as truncated in the trace.
    pub marked_count: u64,
    /// Not equal and not marked: wrong. In words, the first few.
    pub wrong: Vec<String>,
    /// Wrong ones, all.
    pub wrong_count: u64,
    /// All walked stacks of the trace.
    pub walked_count: u64,
    /// Of these, complete.
    pub complete_count: u64,
    /// Frames of all walked stacks.
    pub frame_count: u64,
    /// Threads with a compared stack.
    pub thread_count: u64,
    /// Walked stacks by their end.
    pub ends: HashMap<&'static str, u64>,
}

impl Agreement {
    /// Compares a trace with what the unwinder wrote beside it.
    pub fn of(trace: &Path) -> Self {
        let seen = read(&trace.with_extension("checks"));
        let trace = Trace::open(trace).unwrap_or_else(|error| panic!("{}: {error}", trace.display()));
        let tables = trace.tables.clone();
        let mut this = Self::default();
        let mut ordinals = vec![0u64; tables.threads.len()];
        let mut threads = vec![false; tables.threads.len()];
        trace
            .for_each_chunk(0, |events| {
                for event in events {
                    // One record of the kernel side is one event, but for deaths that were concluded.
                    if !is_record(&event.op) {
                        continue;
                    }
                    let thread = &tables.threads[event.thread.index()];
                    let ordinal = &mut ordinals[event.thread.index()];
                    *ordinal += 1;
                    this.count(event, &tables);
                    let pid = tables.processes[thread.process.index()].pid;
                    if let Some(seen) = seen.get(&(pid, thread.tid, *ordinal)) {
                        threads[event.thread.index()] = true;
                        this.compare(event, &tables, seen);
                    }
                }
            })
            .unwrap_or_else(|error| panic!("{error}"));
        this.thread_count = threads.iter().filter(|thread| **thread).count() as u64;
        this
    }

    fn count(&mut self, event: &Event, tables: &Tables) {
        if event.walk.quality != StackQuality::NotTaken {
            self.walked_count += 1;
            self.complete_count += u64::from(event.walk.quality == StackQuality::Complete);
            self.frame_count += u64::from(tables.stack_depth(event.stack));
            *self.ends.entry(event.walk.quality.name()).or_default() += 1;
        }
    }

    fn compare(&mut self, event: &Event, tables: &Tables, seen: &Seen) {
        self.compared_count += 1;
        let ours = frames(event.stack, tables);
        // At its entry the thread still is in the allocator, which the trace names apart.
        let at_entry = matches!(event.op, Op::Free { .. } | Op::ReallocBegin { .. });
        let theirs = &seen.frames[usize::from(at_entry).min(seen.frames.len())..];
        let equal = ours.len() == theirs.len() && ours.iter().zip(theirs).all(|(ours, theirs)| same(ours, theirs));
        if equal {
            self.equal_count += 1;
        } else if event.walk.quality.is_truncated() {
            self.marked_count += 1;
        } else {
            self.wrong_count += 1;
            if self.wrong.len() < 5 {
                let list = |frames: &[Place]| {
                    let words: Vec<String> = frames
                        .iter()
                        .map(|(file, at)| format!("{}:{at:x}", file.rsplit('/').next().unwrap_or(file)))
                        .collect();
                    words.join(" ")
                };
                self.wrong.push(format!(
                    "event {} {:?} {}:\n  trace     {}\n  libunwind {} (end {})",
                    event.sequence.0,
                    event.op,
                    event.walk.quality.name(),
                    list(&ours),
                    list(theirs),
                    seen.end
                ));
            }
        }
    }

    /// Share of all walked stacks that reach their root.
    pub fn root_share(&self) -> f64 {
        self.complete_count as f64 / self.walked_count.max(1) as f64
    }

    /// Share of the compared ones that are equal.
    pub fn equal_share(&self) -> f64 {
        self.equal_count as f64 / self.compared_count.max(1) as f64
    }
}

fn is_record(op: &Op) -> bool {
    matches!(
        op,
        Op::Alloc { .. }
            | Op::AllocFailed { .. }
            | Op::Free { .. }
            | Op::ReallocBegin { .. }
            | Op::ReallocEnd { .. }
            | Op::ReallocFailed { .. }
            | Op::ReallocFreed { .. }
    )
}

/// The trace keeps the address after the call; of an interrupted instruction, the one after its first byte.
fn same(ours: &Place, theirs: &Place) -> bool {
    let same_file = ours.0 == theirs.0 || (!ours.0.starts_with('/') && !theirs.0.starts_with('/'));
    same_file && (ours.1 == theirs.1 || ours.1 == theirs.1 + 1)
}

/// A stack of the trace, the innermost frame first.
pub fn frames(stack: StackId, tables: &Tables) -> Vec<Place> {
    let mut frames = Vec::new();
    let mut node = stack;
    while node != StackId::EMPTY {
        let row = &tables.stacks[node.index()];
        let frame = &tables.frames[row.frame.index()];
        frames.push((tables.modules[frame.module.index()].path.clone(), frame.address));
        node = row.parent;
    }
    frames
}

fn read(path: &Path) -> HashMap<(u32, u32, u64), Seen> {
    let text = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines()
        .map(|line| {
            let mut words = line.split(' ');
            let mut number = || words.next().and_then(|word| word.parse::<i64>().ok()).expect("a number");
            let (pid, tid, ordinal, end) = (number() as u32, number() as u32, number() as u64, number() as i32);
            let place = |word: &str| {
                let (file, at) = word.rsplit_once(':').expect("file and address");
                (file.to_owned(), u64::from_str_radix(at, 16).expect("a hexadecimal address"))
            };
            ((pid, tid, ordinal), Seen { end, frames: words.map(place).collect() })
        })
        .collect()
}
