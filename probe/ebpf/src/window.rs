//! Reads the stack of a walk. Responsible for doing so with few copies: the *window* holds a piece of the stack, and moves
//! when a word outside of it is wanted.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_probe_read_user, generated::bpf_probe_read_user as read_user};
use probe_abi::WINDOW_BYTES;

use crate::walk::{LAST, Walk, cfas_before};

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

/// How far out frames of a thread's stack before lie close together, from one on that begins at `last`; they are those from
/// `first` up to `count`, the halves of `range`. CFAs nearly always grow, so most need no look. A function of its own for the
/// verifier.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn reach(tid: u32, range: u64, mut last: u64) -> u64 {
    let (first, count) = (range as u32, (range >> 32) as u32);
    let Some(cfas) = cfas_before(tid) else { return last };
    // SAFETY: the index is below the length.
    let cfa = |at: u32| unsafe { *cfas.add((at & LAST) as usize) };
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
    // SAFETY: a map value, of this thread alone.
    let barrier = unsafe { (*state).barrier };
    let last = reach(walk.tid, now.at as u64 | (now.before_count as u64) << 32, slot + 8);
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
