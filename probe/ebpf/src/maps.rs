//! The maps that programs and collector share. Responsible for their kinds and sizes; the collector sets the size of
//! the ring when it loads them.

use aya_ebpf::{
    btf_maps::{Array as BtfArray, ArrayOfMaps},
    macros::{btf_map, map},
    maps::{Array, HashMap, PerCpuArray, RingBuf},
};
use probe_abi::{
    Control, CpuState, Descriptor, KNOWN_RULES, MAX_DESCRIPTORS, MAX_THREADS, THREAD_SLOTS, ThreadState, WALK_SLOTS,
    WalkState, Window,
    unwind::{MAX_TABLES, MAX_WIDE_RULES, Space, WideRule},
};

/// Entries are allocated when a thread first appears.
const NO_PREALLOC: u32 = 1;

/// The events.
#[map]
pub(crate) static RING: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Settings.
#[map]
pub(crate) static CONTROL: Array<Control> = Array::with_max_entries(1, 0);

/// The meaning of each probe, by cookie.
#[map]
pub(crate) static DESCRIPTORS: Array<Descriptor> = Array::with_max_entries(MAX_DESCRIPTORS, 0);

/// Pending calls, by thread id modulo the number of slots. An array is looked up without a call.
#[map]
pub(crate) static SLOTS: Array<ThreadState> = Array::with_max_entries(THREAD_SLOTS, 0);

/// Pending calls of threads whose slot another thread has, by thread id.
#[map]
pub(crate) static THREADS: HashMap<u32, ThreadState> = HashMap::with_max_entries(MAX_THREADS, NO_PREALLOC);

/// Memory for stack walks, by thread id modulo the number of slots. Per thread, not per CPU: a program can be preempted.
/// One map for each: it is small enough for the kernel to take it from its page allocator; copying user memory to where large
/// maps lie costs a search for the mapping each time.
#[btf_map]
pub(crate) static WALKS: ArrayOfMaps<BtfArray<WalkState, 1>, { WALK_SLOTS as usize }> = ArrayOfMaps::new();

/// Copies of stack memory for these walks.
#[btf_map]
pub(crate) static WINDOWS: ArrayOfMaps<BtfArray<Window, 1>, { WALK_SLOTS as usize }> = ArrayOfMaps::new();

/// The same for threads whose slot another thread has, by thread id.
#[map]
pub(crate) static MORE_WALKS: HashMap<u32, WalkState> = HashMap::with_max_entries(MAX_THREADS, NO_PREALLOC);

/// The same for these.
#[map]
pub(crate) static MORE_WINDOWS: HashMap<u32, Window> = HashMap::with_max_entries(MAX_THREADS, NO_PREALLOC);

/// Unwind tables, one array of words per module; each is as long as it needs to be.
#[btf_map]
pub(crate) static TABLES: ArrayOfMaps<BtfArray<u64, 1, TABLE_FLAGS>, { MAX_TABLES as usize }> = ArrayOfMaps::new();
/// `BPF_F_INNER_MAP` (tables differ in length) and `BPF_F_MMAPABLE` (the collector copies them in).
const TABLE_FLAGS: usize = 0x1000 | 0x400;

/// Rules that do not fit a row, of all modules.
#[map]
pub(crate) static WIDE_RULES: Array<WideRule> = Array::with_max_entries(MAX_WIDE_RULES, 0);

/// The code of each process, by number.
#[map]
pub(crate) static SPACES: HashMap<u32, Space> = HashMap::with_max_entries(1 << 14, NO_PREALLOC);

/// Rules found before, by address and space.
#[map]
pub(crate) static KNOWN: Array<Known> = Array::with_max_entries(KNOWN_RULES, 0);

/// Why we stopped a thread, by thread id; the collector deletes the entry when it has dealt with the stop.
#[map]
pub(crate) static STOPS: HashMap<u32, u32> = HashMap::with_max_entries(MAX_THREADS, NO_PREALLOC);

/// Losses and stops of each CPU.
#[map]
pub(crate) static CPUS: PerCpuArray<CpuState> = PerCpuArray::with_max_entries(1, 0);

/// A rule and the place it holds for. Two CPUs may write one entry at a time: halves that do not belong together fail the
/// test `check == key ^ rule × ODD`.
#[repr(C)]
pub(crate) struct Known {
    pub(crate) check: u64,
    pub(crate) rule: u64,
}
