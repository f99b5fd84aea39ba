//! Finds the state of a thread. Responsible for making it fast: nearly every thread has a slot of its own in an array;
//! those whose slot is taken are in a hash table.

use core::intrinsics::{AtomicOrdering::Relaxed, atomic_cxchg};

use probe_abi::{THREAD_SLOTS, ThreadState};

use crate::maps::{SLOTS, THREADS};

/// The state of a thread that has one.
#[inline(always)]
pub(crate) fn find(tid: u32) -> Option<*mut ThreadState> {
    let slot = SLOTS.get_ptr_mut(tid & (THREAD_SLOTS - 1))?;
    if unsafe { (*slot).tid } == tid as u64 { Some(slot) } else { THREADS.get_ptr_mut(tid) }
}

/// The state of a thread, made if it has none. `None` when there is no room for it.
#[inline(always)]
pub(crate) fn find_or_make(tid: u32) -> Option<*mut ThreadState> {
    let slot = SLOTS.get_ptr_mut(tid & (THREAD_SLOTS - 1))?;
    if unsafe { (*slot).tid } == tid as u64 {
        return Some(slot);
    }
    make(tid);
    find(tid)
}

/// An all-zero value to start with; a program's stack is too small for it.
static ZERO_THREAD: [u64; size_of::<ThreadState>() / 8] = [0; size_of::<ThreadState>() / 8];

/// Takes the thread's slot if nobody has it, else a place in the hash table. A slot given back is all zero. Who is in the
/// table stays there, even once the slot is free: its calls may be pending.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn make(tid: u32) -> u32 {
    if THREADS.get_ptr_mut(tid).is_some() {
        return 1;
    }
    let Some(slot) = SLOTS.get_ptr_mut(tid & (THREAD_SLOTS - 1)) else { return 0 };
    let owner = unsafe { &raw mut (*slot).tid };
    // SAFETY: the field is aligned and lives in a map value.
    let (_, taken) = unsafe { atomic_cxchg::<u64, { Relaxed }, { Relaxed }>(owner, 0, tid as u64) };
    if taken {
        return 1;
    }
    let thread = unsafe { &*(&raw const ZERO_THREAD).cast::<ThreadState>() };
    THREADS.insert(tid, thread, 1).is_ok() as u32
}
