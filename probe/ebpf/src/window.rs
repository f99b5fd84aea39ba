//! Reads the stack of a walk. Responsible for doing so with few copies: the *window* holds a piece of the stack, and moves
//! when a word outside of it is wanted.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_probe_read_user, generated::bpf_probe_read_user as read_user};
use probe_abi::{Frame, WINDOW_BYTES};

use crate::walk::{LAST, Walk};

/// A window begins this far below the slot that is wanted: the callee's saved registers lie there.
const BELOW: u64 = 64;
/// Bytes of a window at least.
const LEAST_BYTES: u64 = 512;
/// Frames further apart than this are not worth one copy: what lies between costs more than another one.
const FAR_BYTES: u64 = 4096;
/// Frames taken at once where all lie close together.
const STRIDE: u32 = 4;
/// Times that is done for a window at most.
const STRIDES: u32 = 6;

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

/// How far out frames lie close together, from one on that begins at `last`. CFAs nearly always grow, so most need no look.
#[inline(always)]
fn reach(frames: *const Frame, first: u32, count: u32, mut last: u64) -> u64 {
    // SAFETY: the index is below the length.
    let cfa = |at: u32| unsafe { (*frames.add((at & LAST) as usize)).cfa };
    let outermost = cfa(count.wrapping_sub(1));
    if outermost.wrapping_sub(last) <= FAR_BYTES {
        return outermost;
    }
    let mut at = first;
    for _ in 0..STRIDES {
        let next = cfa(at + STRIDE - 1);
        if at + STRIDE > count || next.wrapping_sub(last) > FAR_BYTES {
            break;
        }
        last = next;
        at += STRIDE;
    }
    for _ in 0..STRIDE {
        let next = cfa(at);
        if at >= count || next.wrapping_sub(last) > FAR_BYTES {
            break;
        }
        last = next;
        at += 1;
    }
    last
}

/// Moves the window to a slot. It reaches as far out as frames of the stack before lay close together, which is where the next
/// slots will be: compilers have frames of many KiB, and between those nothing is wanted. Returns 0 if that cannot be read.
///
/// A copy that fails leaves zeros, so it ends where it must not fail: at the end of its page, or before the address where a
/// copy failed before (the end of the stack).
#[inline(never)]
pub(crate) fn move_to(walk: &Walk, slot: u64) -> u32 {
    let (state, now) = (walk.state, walk.now());
    let window = walk.window.cast::<c_void>();
    // SAFETY: map values, of this thread alone.
    let (barrier, frames) = unsafe { ((*state).barrier, (&raw const (*walk.before).frames).cast::<Frame>()) };
    let last = reach(frames, now.at, now.before_count, slot + 8);
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
