//! Walks the user stack. Responsible for the frames above an allocator call; the interface (`walk`) stays when the
//! walker is replaced by one that needs no frame pointers.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_probe_read_user, generated::bpf_loop};
use probe_abi::{Frame, MAX_FRAMES, PENDING_DEPTH, ThreadState};

use crate::{maps::SCRATCH, threads};

/// Set in the result of [`walk`] when the walk was cut short.
pub(crate) const TRUNCATED: u64 = 1 << 32;

/// Follows frame pointers from the caller of an allocator and writes what it finds into the thread's scratch record:
///
/// ```text
///   rbp ─▶ [ saved rbp ][ return address ]      cfa = rbp + 16
/// ```
///
/// A chain must rise (`cfa` is where the caller's frame begins), and ends at 0 or where nothing is readable. Returns
/// how many frames it wrote, with [`TRUNCATED`].
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk(tid: u32, frame_pointer: u64, cfa: u64, limit: u32) -> u64 {
    let Some(thread) = threads::find(tid) else { return TRUNCATED };
    let Some(scratch) = SCRATCH.get_ptr_mut(tid) else { return TRUNCATED };
    let frames = unsafe { &raw mut (*scratch).frames }.cast::<Frame>();
    let mut chain = Chain { thread, frames, pointer: frame_pointer, floor: cfa, count: 0, outcome: TRUNCATED };
    let steps = if limit < MAX_FRAMES as u32 { limit } else { MAX_FRAMES as u32 - 1 };
    // SAFETY: the callback has the signature that the helper calls, and `chain` outlives the call.
    unsafe { bpf_loop(steps, step as *mut c_void, (&raw mut chain).cast(), 0) };
    chain.count | chain.outcome
}

/// The state of a walk. `bpf_loop` keeps the verifier from unrolling it.
#[repr(C)]
struct Chain {
    thread: *const ThreadState,
    frames: *mut Frame,
    pointer: u64,
    floor: u64,
    count: u64,
    outcome: u64,
}

/// One step: reads the frame that `chain.pointer` names. Returns 1 to end the walk.
unsafe extern "C" fn step(index: u32, chain: *mut Chain) -> u64 {
    // SAFETY: `bpf_loop` hands over the pointer that `walk` gave it.
    let chain = unsafe { &mut *chain };
    let pointer = chain.pointer;
    if pointer == 0 {
        chain.outcome = 0;
        return 1;
    }
    if pointer < chain.floor || pointer & 7 != 0 || index >= MAX_FRAMES as u32 {
        return 1;
    }
    let Ok([saved, found]) = (unsafe { bpf_probe_read_user(pointer as *const [u64; 2]) }) else { return 1 };
    if found == 0 {
        chain.outcome = 0;
        return 1;
    }
    // SAFETY: a map value for as long as the program runs.
    let thread = unsafe { &*chain.thread };
    let address = if found & 0xfff == 0 { original_return(thread, pointer + 8, found) } else { found };
    chain.floor = pointer + 16;
    // SAFETY: the index is below the length.
    unsafe { *chain.frames.add(index as usize) = Frame { address, cfa: chain.floor } };
    chain.count = index as u64 + 1;
    chain.pointer = saved;
    0
}

/// A return probe replaces a return address by the kernel's trampoline, which is page aligned; the pending call
/// remembers what stood there.
#[inline(always)]
fn original_return(thread: &ThreadState, slot: u64, found: u64) -> u64 {
    let mut address = found;
    for index in 0..PENDING_DEPTH {
        let call = &thread.pending[index];
        if (index as u32) < thread.depth && call.slot == slot {
            address = call.return_address;
        }
    }
    address
}
