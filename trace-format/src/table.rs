//! The things events refer to: processes, threads, modules, frames, stacks, allocators, probes. Responsible for their
//! fields and units; not for how they travel (each chunk carries what is new in it, the tail repeats them all).

use crate::event::StackQuality;
use crate::id::{DomainId, FrameId, ModuleId, ProcessId, StackId};

/// Every table of a trace, complete as far as the file is. Ids are indices.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tables {
    /// Executables, libraries, anonymous regions.
    pub modules: Vec<Module>,
    /// Code addresses.
    pub frames: Vec<Frame>,
    /// Stack tree; index 0 is the empty stack and its own parent.
    pub stacks: Vec<StackNode>,
    /// Process images in order of appearance.
    pub processes: Vec<Process>,
    /// Threads in order of appearance.
    pub threads: Vec<Thread>,
    /// Allocators.
    pub domains: Vec<Domain>,
    /// Entry points of allocators.
    pub entries: Vec<Entry>,
    /// Every probe that was placed or could not be, with the reason.
    pub probes: Vec<Probe>,
    /// How often allocations of one domain ran inside calls of another; later rows replace earlier ones of the same pair.
    pub nestings: Vec<Nesting>,
    /// What marker events stand for.
    pub markers: Vec<Marker>,
    /// What marker events say, each text once.
    pub texts: Vec<String>,
    /// Symbols of frames, by frame id; empty where symbolisation did not run. Innermost inlined function first.
    pub symbols: Vec<FrameSymbols>,
}

impl Tables {
    /// Frames of a stack. O(depth).
    pub fn stack_depth(&self, stack: StackId) -> u32 {
        let mut depth = 0;
        let mut node = stack;
        while node != StackId::EMPTY {
            node = self.stacks[node.index()].parent;
            depth += 1;
        }
        depth
    }

    /// Outer frames that two stacks have in common by name: the depth of their lowest common ancestor. O(depth).
    pub fn shared_depth(&self, one: StackId, other: StackId) -> u32 {
        // A node has a higher number than the one further out: the higher of two cannot be the other's ancestor.
        let (mut one, mut other) = (one, other);
        while one != other {
            let higher = if one > other { &mut one } else { &mut other };
            *higher = self.stacks[higher.index()].parent;
        }
        self.stack_depth(one)
    }
}

/// One mapped file or region that code ran from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Module {
    /// Path as the process saw it, or a bracketed name such as `[vdso]`, `[anonymous]`.
    pub path: String,
    /// GNU build id; empty where there is none.
    pub build_id: Vec<u8>,
    /// Size of the file in bytes, 0 where unknown; with the path it tells whether a binary at hand is the same.
    pub size_bytes: u64,
}

/// One code address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Frame {
    /// Where.
    pub module: ModuleId,
    /// ELF virtual address in the module (`st_value` terms) of the *return address* of a call; look up `address - 1`.
    /// For `[anonymous]`, the absolute address.
    pub address: u64,
}

/// A node of the stack tree: root-first, a stack is the path from the root to its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StackNode {
    /// The caller's node; `StackId::EMPTY` for outermost frames.
    pub parent: StackId,
    /// The code address.
    pub frame: FrameId,
}

/// One process image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Process {
    /// Process id.
    pub pid: u32,
    /// The image it came from: the forking parent, or the image of the same pid before an exec.
    pub parent: Option<ProcessId>,
    /// How it came to be.
    pub origin: Origin,
    /// File name of the executable.
    pub name: String,
    /// Full argument list; for a fork, that of its parent.
    pub command: Vec<String>,
    /// Whether its heap is its parent's (vfork).
    pub shares_heap: bool,
}

/// How a process image came to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Origin {
    /// Started by the recorder: its heap was empty.
    #[default]
    Launch,
    /// It ran before the recording: its heap was not empty.
    Attach,
    /// Forked; starts with its parent's blocks.
    Fork,
    /// Replaced the image before it: its heap is empty.
    Exec,
}

/// One thread.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Thread {
    /// Thread id.
    pub tid: u32,
    /// Its process image.
    pub process: ProcessId,
    /// Its name when first seen; empty where unknown.
    pub name: String,
}

/// One allocator implementation, the same over all processes that use it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Domain {
    /// Such as `libc.so.6`, `rustc`, `libc.so.6 (je_)`: file name and prefix of its symbols.
    pub name: String,
    /// Where its code is.
    pub module: ModuleId,
    /// 0 for a backing allocator; arenas and pools declared by a profile are above 0.
    pub layer: u32,
}

/// One entry point of a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its domain.
    pub domain: DomainId,
    /// Its symbol, such as `posix_memalign`.
    pub symbol: String,
    /// What it does.
    pub kind: EntryKind,
}

/// What an entry point does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EntryKind {
    /// `malloc`, `valloc`, `pvalloc`, `memalign`, `aligned_alloc`, `posix_memalign`, `operator new`.
    Alloc,
    /// calloc.
    AllocZeroed,
    /// realloc, reallocarray.
    Realloc,
    /// free, cfree, sized frees, operator delete.
    Free,
    /// A kind this version does not know.
    Other(u8),
}

/// One probe of the plan, placed or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// The process image it was placed in.
    pub process: ProcessId,
    /// The file it stands in.
    pub module: ModuleId,
    /// The function it serves.
    pub symbol: String,
    /// File offset of the function.
    pub function_offset: u64,
    /// Bytes from the function's first instruction to the probed one.
    pub instruction_offset: u32,
    /// The probed instruction, disassembled.
    pub instruction: String,
    /// Whether the kernel emulates the instruction (cheap) or must single-step it (dear).
    pub emulated: bool,
    /// How the result is read.
    pub result: ResultProbe,
    /// Why here, or why not at all.
    pub reason: String,
    /// Whether the probe was placed.
    pub placed: bool,
}

/// How a probe learns a call's result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResultProbe {
    /// It needs none (frees).
    None,
    /// A return probe.
    Return,
    /// Entry probes on each `ret` of the function: used where an exception can pass through.
    RetInstructions,
}

/// Allocations of `inner` seen inside pending calls of `outer`, since the recording began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Nesting {
    /// The domain whose call was pending.
    pub outer: DomainId,
    /// The domain that allocated.
    pub inner: DomainId,
    /// How often.
    pub count: u64,
    /// How much, in requested bytes.
    pub bytes: u64,
    /// Allocations of `outer` altogether.
    pub outer_count: u64,
    /// Their requested bytes.
    pub outer_bytes: u64,
}

/// A function, or a place in one, that tells of phases while the program runs. Its events carry the stack of its caller.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Marker {
    /// Name of the rule that asked for it: the phase's name, unless its value says it. Begins and ends of one phase are events
    /// of markers of one name.
    pub name: String,
    /// Linkage name of the function, or `provider:name` of a static probe.
    pub symbol: String,
    /// What `Op::Marker::value` is.
    pub value: MarkerValue,
    /// How what it begins ends.
    pub ends_by: MarkerEnd,
}

/// What the value of a marker event is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MarkerValue {
    /// Nothing: 0.
    #[default]
    None,
    /// A number.
    Number,
    /// A row of `Tables::texts`.
    Text,
}

/// How a phase that a marker begins ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MarkerEnd {
    /// By an event of kind 2 of a marker of the same name, on the same thread.
    #[default]
    Explicit,
    /// With the activation of the marked function: it has returned, or was left, when a later stack of the thread does not
    /// continue the begin's innermost frame, or continues it in another call.
    Activation,
}

/// Symbols of one frame.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FrameSymbols {
    /// Innermost inlined function first, the function that owns the address last. Empty: unresolved.
    pub functions: Vec<Symbol>,
}

/// One function at an address.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Symbol {
    /// Demangled name.
    pub name: String,
    /// Linkage name where it differs from `name`, else empty.
    pub linkage_name: String,
    /// Source file, empty where unknown.
    pub file: String,
    /// Line from 1, 0 where unknown.
    pub line: u32,
}

/// What a trace says of itself before its first event.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Header {
    /// heaptape version that recorded.
    pub recorder: String,
    /// Kernel release (`uname -r`).
    pub kernel: String,
    /// Machine (`uname -m`).
    pub machine: String,
    /// Processors online.
    pub cpu_count: u32,
    /// Wall clock at start, ns since the Unix epoch.
    pub start_unix_ns: u64,
    /// `CLOCK_MONOTONIC` at start.
    pub start_monotonic_ns: u64,
    /// Precision of `Event::time_ns`.
    pub tick_ns: u32,
    /// The command launched, or empty for attach.
    pub command: Vec<String>,
    /// The pid attached to, or 0.
    pub attached_pid: u32,
    /// Recording options that matter to a reader, as `name=value` (`lossless`, `stacks`, `free-stacks`, `follow`, `ring-bytes`).
    pub options: Vec<String>,
}

/// What the recorder counted, written in the tail. All counts are over the whole recording.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CaptureStats {
    /// Ring reservations that failed: each is one lost event.
    pub ring_failure_count: u64,
    /// Program runs the kernel skipped (recursion protection), summed over programs.
    pub missed_run_count: u64,
    /// Probed calls begun.
    pub call_begin_count: u64,
    /// Returns seen for them.
    pub call_return_count: u64,
    /// Pending calls whose frame was gone (longjmp, exception, exit inside the call).
    pub call_abandoned_count: u64,
    /// Calls still pending when their thread or the recording ended.
    pub call_pending_count: u64,
    /// Returns without a begin (calls in flight at attach).
    pub return_without_begin_count: u64,
    /// Calls nested in a call of the same domain: not events.
    pub nested_call_count: u64,
    /// Times a thread was stopped because the ring was nearly full.
    pub backpressure_stop_count: u64,
    /// Time threads spent stopped for it, summed.
    pub backpressure_ns: u64,
    /// Births at an address that was live.
    pub impossible_count: u64,
    /// CPU time (user + system) of the recorder until it wrote this.
    pub recorder_cpu_ns: u64,
    /// CPU time of recorded processes, as far as `wait4` told.
    pub target_cpu_ns: u64,
    /// Time inside our eBPF programs, 0 where the kernel does not keep it (`kernel.bpf_stats_enabled`).
    pub program_ns: u64,
    /// Runs of our eBPF programs, 0 likewise.
    pub program_run_count: u64,
    /// Wall time of the recording.
    pub wall_ns: u64,
    /// Why the recording ended: `exited`, `interrupted`, `duration`, `disk full`…
    pub end: String,
    /// Things the person should know, one sentence each.
    pub warnings: Vec<String>,
    /// Stacks of births and failed allocs. The writer counts them itself.
    pub alloc_stacks: StackSummary,
    /// Stacks of frees and begins of reallocs. The writer counts them itself.
    pub free_stacks: StackSummary,
    /// Stack walks that were timed.
    pub unwind_sample_count: u64,
    /// Their time.
    pub unwind_sample_ns: u64,
    /// Modules with an unwind table.
    pub unwind_table_count: u64,
    /// Rows of these tables.
    pub unwind_row_count: u64,
    /// Kernel memory for unwinding.
    pub unwind_kernel_bytes: u64,
    /// Time spent on making and loading tables; targets waited for it.
    pub unwind_build_ns: u64,
}

/// How the stacks of some events were taken.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StackSummary {
    /// The events.
    pub event_count: u64,
    /// Frames of all their stacks.
    pub depth_sum: u64,
    /// Events by the code of their quality; without trailing zeros.
    pub end_counts: Vec<u64>,
}

impl StackSummary {
    /// Events whose stack has a quality.
    pub fn count_of(&self, quality: StackQuality) -> u64 {
        self.end_counts.get(usize::from(quality.code())).copied().unwrap_or(0)
    }

    /// Adds an event.
    #[inline]
    pub(crate) fn add(&mut self, depth: u32, quality: StackQuality) {
        self.event_count += 1;
        self.depth_sum += u64::from(depth);
        let code = usize::from(quality.code());
        if code >= self.end_counts.len() {
            self.end_counts.resize(code + 1, 0);
        }
        self.end_counts[code] += 1;
    }
}

impl CaptureStats {
    /// Calls that neither returned nor were abandoned nor are pending: 0 in a loss-free recording.
    pub fn imbalance(&self) -> u64 {
        let ended = self.call_return_count + self.call_abandoned_count + self.call_pending_count;
        self.call_begin_count.abs_diff(ended)
    }
}
