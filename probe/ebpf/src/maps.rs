//! The maps that programs and collector share. Responsible for their kinds and sizes; the collector sets the size of
//! the ring when it loads them.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, PerCpuArray, RingBuf},
};
use probe_abi::{
    Control, CpuState, Descriptor, Frame, MAX_DESCRIPTORS, MAX_FRAMES, MAX_THREADS, Record, THREAD_SLOTS, ThreadState,
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

/// Where a thread's record is put together, by thread id. Per thread, not per CPU: a program can be preempted.
#[map]
pub(crate) static SCRATCH: HashMap<u32, Scratch> = HashMap::with_max_entries(MAX_THREADS, NO_PREALLOC);

/// Why we stopped a thread, by thread id; the collector deletes the entry when it has dealt with the stop.
#[map]
pub(crate) static STOPS: HashMap<u32, u32> = HashMap::with_max_entries(MAX_THREADS, NO_PREALLOC);

/// Losses and stops of each CPU.
#[map]
pub(crate) static CPUS: PerCpuArray<CpuState> = PerCpuArray::with_max_entries(1, 0);

/// A record with its frames.
#[repr(C)]
pub(crate) struct Scratch {
    pub(crate) record: Record,
    pub(crate) frames: [Frame; MAX_FRAMES],
}
