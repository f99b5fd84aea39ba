//! Reads the stack of a walk. Responsible for doing so with few copies: the *window* holds a piece of the stack, and moves
//! when a word outside of it is wanted.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_probe_read_user, generated::bpf_probe_read_user as read_user};
use probe_abi::WINDOW_BYTES;

use crate::walk::{LAST, Walk, cfa_of, memory_and_window};

/// A window begins this far below the slot that is wanted: the callee's saved registers lie there.
const BELOW: u64 = 64;
/// Bytes of a window at least.
const LEAST_BYTES: u64 = 512;
/// Frames further apart than this are not worth one copy: what lies between costs more than another one.
pub(crate) const FAR_BYTES: u64 = 4096;

/// Eight bytes of the stack.
#[inline(always)]
pub(crate) fn read(walk: &Walk, at: u64) -> Option<u64> {
    let now = walk.now();
    let window = walk.window;
    let offset = at.wrapping_sub(now.window_start);
    if offset < now.window_bytes && offset & 7 == 0 {
        // SAFETY: the index is below the length.
        return Some(unsafe { *window.add((offset >> 3) as usize & (WINDOW_BYTES / 8 - 1)) });
    }
    if at & 7 == 0 && move_to(walk, at) != 0 {
        // SAFETY: as above.
        return Some(unsafe { *window.add(BELOW as usize / 8) });
    }
    unsafe { bpf_probe_read_user(at as *const u64) }.ok()
}

/// Moves the window to a slot. It reaches as far out as frames of the stack before lay close together, which is where the next
/// slots will be: compilers have frames of many KiB, and between those nothing is wanted. Returns 0 if that cannot be read.
///
/// A copy that fails leaves zeros, so it ends where it must not fail: at the end of its page, or before the address where a
/// copy failed before (the end of the stack).
#[inline(always)]
pub(crate) fn move_to(walk: &Walk, slot: u64) -> u32 {
    move_window(walk.tid, slot)
}

/// [`move_to`] as a function of its own for the verifier, which would go through it anew for each way that leads there.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn move_window(tid: u32, slot: u64) -> u32 {
    let Some((state, window)) = memory_and_window(tid) else { return 0 };
    let window = window.cast::<c_void>();
    // SAFETY: map values, of this thread alone.
    let (now, known, barrier) = unsafe { (&mut (*state).progress, &raw const (*state).known, (*state).barrier) };
    let mut last = slot + 8;
    if now.left != 0 {
        let next = (now.left.wrapping_sub(1) & LAST) as usize;
        // SAFETY: a map value of this thread alone; the index is below the length.
        let (cfa, extent) = unsafe {
            (
                cfa_of(*(&raw const (*known).slots).cast::<u64>().add(next)),
                *(&raw const (*known).extents).cast::<u32>().add(next) as u64,
            )
        };
        // The next known frame may lie a little further in.
        if (cfa + FAR_BYTES).wrapping_sub(last) <= 2 * FAR_BYTES && cfa + extent > last {
            last = cfa + extent;
        }
    }
    let start = slot.wrapping_sub(BELOW);
    now.window_start = start;
    now.window_bytes = 0;
    let mut bytes = last.wrapping_sub(start);
    if bytes < LEAST_BYTES {
        bytes = LEAST_BYTES;
    }
    if barrier > start && barrier - start < bytes {
        bytes = barrier - start;
    }
    // The mask and the test are for the verifier.
    let mut whole = if bytes > WINDOW_BYTES as u64 { WINDOW_BYTES as u64 } else { bytes };
    whole &= 2 * WINDOW_BYTES as u64 - 1;
    if whole > WINDOW_BYTES as u64 {
        whole = WINDOW_BYTES as u64;
    }
    // SAFETY: the window is as long as that.
    if unsafe { read_user(window, whole as u32, start as *const c_void) } != 0 {
        unsafe { (*state).barrier = (start | 0xfff) + 1 };
        whole = 4096 - (start & 0xfff);
        // SAFETY: as above.
        if unsafe { read_user(window, whole as u32, start as *const c_void) } != 0 {
            return 0;
        }
    }
    now.window_bytes = whole & !7;
    (now.window_bytes > BELOW) as u32
}
