//! Reads what workloads noted about themselves (`workloads/truth.h` writes it). Responsible for its form; not for
//! comparing it with anything.

use std::collections::BTreeMap;
use std::path::Path;

use serde::Deserialize;

/// Counts of one process image or thread, by heaptape's counting rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub struct Counts {
    /// Blocks born other than by realloc of a block.
    pub alloc_count: u64,
    /// Blocks given back, inherited ones included.
    pub free_count: u64,
    /// Blocks resized or moved.
    pub realloc_count: u64,
    /// Requests refused.
    pub failed_count: u64,
    /// Bytes requested: sizes of allocs and new sizes of reallocs.
    pub alloc_bytes: u64,
    /// Frees (not reallocs) of blocks that were born in the forking parent.
    #[serde(default)]
    pub inherited_free_count: u64,
    /// Own blocks live at the end.
    #[serde(default)]
    pub live_count: i64,
    /// Their bytes.
    #[serde(default)]
    pub live_bytes: i64,
}

/// What one process image noted.
#[derive(Debug, Clone, Deserialize)]
pub struct ProcessTruth {
    /// Process id.
    pub pid: u32,
    /// What the program calls itself there.
    pub image: String,
    /// How many calls may have been under way, beside those counted, when it ended.
    pub slack: u64,
    /// ELF address of the first byte of the workload's code; 0 unless it says so.
    pub own_start: u64,
    /// ELF address past its last byte.
    pub own_stop: u64,
    /// Its counts.
    #[serde(flatten)]
    pub counts: Counts,
}

/// What one thread noted.
#[derive(Debug, Clone, Deserialize)]
pub struct ThreadTruth {
    /// Process id.
    pub pid: u32,
    /// Thread id.
    pub tid: u32,
    /// Whether `ops` lists every call.
    pub complete: bool,
    /// Its counts.
    #[serde(flatten)]
    pub counts: Counts,
    /// Its calls in order: `malloc 4097`, `free 4097`, `realloc 10 20`, `realloc-free 10`, `fail malloc 99`; a size that
    /// has no value is `*`.
    pub ops: Vec<String>,
}

#[derive(Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Line {
    Process(ProcessTruth),
    Thread(ThreadTruth),
    Fact { name: String, value: u64 },
}

/// Everything one run of a workload noted, over all its processes.
#[derive(Debug, Clone, Default)]
pub struct Truth {
    /// Images in the order in which they ended.
    pub processes: Vec<ProcessTruth>,
    /// Threads.
    pub threads: Vec<ThreadTruth>,
    /// Named numbers; of several with one name, their sum.
    pub facts: BTreeMap<String, u64>,
}

impl Truth {
    /// Reads the file that was `$TRUTH` of a run.
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("the workload wrote no truth to {}: {error}", path.display()));
        let mut truth = Self::default();
        for line in text.lines() {
            match serde_json::from_str(line).unwrap_or_else(|error| panic!("bad truth line ({error}): {line}")) {
                Line::Process(process) => truth.processes.push(process),
                Line::Thread(thread) => truth.threads.push(thread),
                Line::Fact { name, value } => *truth.facts.entry(name).or_default() += value,
            }
        }
        assert!(!truth.processes.is_empty(), "no process of the workload reached its end");
        truth
    }

    /// Counts of all processes together.
    pub fn total(&self) -> Counts {
        self.processes.iter().fold(Counts::default(), |sum, process| sum.plus(&process.counts))
    }

    /// The number noted under a name.
    pub fn fact(&self, name: &str) -> u64 {
        *self.facts.get(name).unwrap_or_else(|| panic!("the workload noted nothing called {name}"))
    }
}

impl Counts {
    /// Field by field.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self {
            alloc_count: self.alloc_count + other.alloc_count,
            free_count: self.free_count + other.free_count,
            realloc_count: self.realloc_count + other.realloc_count,
            failed_count: self.failed_count + other.failed_count,
            alloc_bytes: self.alloc_bytes + other.alloc_bytes,
            inherited_free_count: self.inherited_free_count + other.inherited_free_count,
            live_count: self.live_count + other.live_count,
            live_bytes: self.live_bytes + other.live_bytes,
        }
    }
}
