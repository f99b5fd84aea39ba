//! What a trace says a workload did, in the words in which workloads note their truth. Responsible for reading events,
//! telling the workload's own calls from those of libraries, and naming them; not for judging (see `expected`).

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use trace_format::id::{EntryId, ProcessId, StackId};
use trace_format::reader::Trace;
use trace_format::table::Tables;

use crate::oracle::replay::{Call, Named, Replay};
use crate::truth::Counts;
use crate::workload::built_dir;

/// Which calls are a workload's own.
#[derive(Debug, Clone)]
pub enum Own {
    /// Those whose return address lies in a file below the folder of built workloads.
    Modules,
    /// Those whose return address lies in this ELF address range of this file (static programs).
    Range {
        /// The executable.
        path: PathBuf,
        /// First address.
        start: u64,
        /// Address past the last.
        stop: u64,
    },
    /// Those of blocks of at least so many bytes (C++ and Rust programs, whose calls come from a library), except the
    /// sizes listed, which libraries are known to use.
    SizesFrom {
        /// Smallest own size.
        least_bytes: u64,
        /// Sizes that are not.
        except: Vec<u64>,
    },
}

/// One process image, vfork children merged into the image whose heap they share.
#[derive(Debug, Clone, Default)]
pub struct ObservedImage {
    /// Process id.
    pub pid: u32,
    /// Name in the process table.
    pub name: String,
    /// Own calls.
    pub counts: Counts,
    /// Own calls by thread id, in order.
    pub ops: BTreeMap<u32, Vec<String>>,
}

/// Everything of interest in one trace.
pub struct Observed {
    /// Every image that made own calls, in order of appearance.
    pub images: Vec<ObservedImage>,
    /// The naive replay, at its end.
    pub replay: Replay,
    /// The trace's tables.
    pub tables: Tables,
    /// The opened trace.
    pub trace: Trace,
}

/// Reads a whole trace. Panics where it cannot be read: a test that needs damaged traces opens them itself.
#[track_caller]
pub fn observe(path: &Path, own: &Own) -> Observed {
    let trace = Trace::open(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let tables = trace.tables.clone();
    let mut replay = Replay::default();
    let mut images: BTreeMap<ProcessId, ObservedImage> = BTreeMap::new();
    let mut filter = Filter { own: own.clone(), tables: &tables, stacks: HashMap::new(), built: built_dir() };
    trace
        .for_each_chunk(0, |events| {
            for event in events {
                let Some((heap, stack, call)) = replay.apply(event, &tables) else { continue };
                if !filter.is_own(stack, &call) {
                    continue;
                }
                let row = &tables.processes[heap.index()];
                let image = images.entry(heap).or_default();
                image.pid = row.pid;
                image.name.clone_from(&row.name);
                count(&mut image.counts, &call);
                // A vfork child runs on its parent's thread: the parent sleeps meanwhile.
                let thread = &tables.threads[event.thread.index()];
                let tid = if thread.process == heap { thread.tid } else { row.pid };
                image.ops.entry(tid).or_default().push(words(&tables, &call));
            }
        })
        .unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    replay.finish();
    drop(filter);
    Observed { images: images.into_values().collect(), replay, tables, trace }
}

struct Filter<'a> {
    own: Own,
    tables: &'a Tables,
    /// Whether a stack's innermost frame is own.
    stacks: HashMap<StackId, bool>,
    built: PathBuf,
}

impl Filter<'_> {
    fn is_own(&mut self, stack: StackId, call: &Call) -> bool {
        if let Own::SizesFrom { least_bytes, except } = &self.own {
            let named = |old: &Named| match old {
                Named::Live { size_bytes, .. } => Some(*size_bytes),
                Named::Unknown | Named::Dead => None,
            };
            let size = match call {
                Call::Alloc { size_bytes, .. } | Call::Failed { size_bytes, .. } => Some(*size_bytes),
                Call::Free { old }
                | Call::Realloc { old, .. }
                | Call::ReallocFailed { old, .. }
                | Call::ReallocFreed { old } => named(old),
            };
            return size.is_some_and(|size| size >= *least_bytes && !except.contains(&size));
        }
        // A library function may end in a jump to free; the return address is then that of its own caller. What a
        // workload frees it has allocated itself.
        let born_at = match call {
            Call::Free { old: Named::Live { born_at, .. } } => Some(*born_at),
            _ => None,
        };
        self.leaf(stack) && born_at.is_none_or(|born_at| self.leaf(born_at))
    }

    fn leaf(&mut self, stack: StackId) -> bool {
        if let Some(known) = self.stacks.get(&stack) {
            return *known;
        }
        let is_own = self.leaf_is_own(stack);
        self.stacks.insert(stack, is_own);
        is_own
    }

    fn leaf_is_own(&self, stack: StackId) -> bool {
        if stack == StackId::EMPTY {
            return false;
        }
        let frame = self.tables.frames[self.tables.stacks[stack.index()].frame.index()];
        let path = Path::new(&self.tables.modules[frame.module.index()].path);
        match &self.own {
            Own::Modules => path.starts_with(&self.built),
            Own::Range { path: executable, start, stop } => {
                path == executable && (*start..*stop).contains(&(frame.address - 1))
            }
            Own::SizesFrom { .. } => unreachable!("told by sizes"),
        }
    }
}

fn count(counts: &mut Counts, call: &Call) {
    match call {
        Call::Alloc { size_bytes, .. } => {
            counts.alloc_count += 1;
            counts.alloc_bytes += size_bytes;
            counts.live_count += 1;
            counts.live_bytes += *size_bytes as i64;
        }
        Call::Failed { .. } | Call::ReallocFailed { .. } => counts.failed_count += 1,
        Call::Free { old } | Call::ReallocFreed { old } => {
            counts.free_count += 1;
            if let Named::Live { inherited: true, .. } = old {
                counts.inherited_free_count += 1;
            } else {
                counts.live_count -= 1;
                counts.live_bytes -= size_of(old) as i64;
            }
        }
        Call::Realloc { old, size_bytes, .. } => {
            counts.realloc_count += 1;
            counts.alloc_bytes += size_bytes;
            counts.live_bytes += *size_bytes as i64;
            if let Named::Live { inherited: true, .. } = old {
                counts.live_count += 1;
            } else {
                counts.live_bytes -= size_of(old) as i64;
            }
        }
    }
}

fn size_of(old: &Named) -> u64 {
    if let Named::Live { size_bytes, .. } = old { *size_bytes } else { 0 }
}

/// A call in the words of `workloads/truth.h`.
fn words(tables: &Tables, call: &Call) -> String {
    let symbol = |entry: &EntryId| canonical(&tables.entries[entry.index()].symbol);
    let size = |old: &Named| match old {
        Named::Live { size_bytes, .. } => size_bytes.to_string(),
        Named::Unknown => "unknown".to_owned(),
        Named::Dead => "dead".to_owned(),
    };
    match call {
        Call::Alloc { entry, size_bytes } => format!("{} {size_bytes}", symbol(entry)),
        Call::Failed { entry, size_bytes } => format!("fail {} {size_bytes}", symbol(entry)),
        Call::Free { old } => format!("free {}", size(old)),
        Call::Realloc { entry, old, size_bytes } => format!("{} {} {size_bytes}", symbol(entry), size(old)),
        Call::ReallocFailed { entry, old, size_bytes } => {
            format!("fail {} {} {size_bytes}", symbol(entry), size(old))
        }
        Call::ReallocFreed { old } => format!("realloc-free {}", size(old)),
    }
}

/// One name for the several that libc gives one function.
pub fn canonical(symbol: &str) -> &str {
    match symbol.strip_prefix("__libc_").unwrap_or(symbol) {
        "aligned_alloc" => "memalign",
        "cfree" => "free",
        other => other,
    }
}
