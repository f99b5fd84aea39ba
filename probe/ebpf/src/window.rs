//! Reads the stack of a walk. Responsible for doing so with few copies: the *window* holds a piece of the stack, and moves
//! when a word outside of it is wanted.

use core::ffi::c_void;

use aya_ebpf::helpers::{bpf_probe_read_user, generated::bpf_probe_read_user as read_user};
use probe_abi::WINDOW_BYTES;

use crate::walk::Walk;

/// A window begins this far below the slot that is wanted: the callee's saved registers lie there.
const BELOW: u64 = 64;
/// A stack before that ended further away than this was another stack.
const LARGEST_STACK_BYTES: u64 = 8 << 20;
/// A window's size where nothing is known of the stack.
const GUESS_BYTES: u64 = 4096;

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
    if at & 7 == 0 && copy(walk, at.wrapping_sub(BELOW)) != 0 {
        // SAFETY: as above.
        return Some(unsafe { *window.add(BELOW as usize / 8) });
    }
    unsafe { bpf_probe_read_user(at as *const u64) }.ok()
}

/// Fills the window from an address on. A copy that fails leaves zeros, so it ends where it must not fail: at the end of
/// its page, or before the address where a copy failed before (the end of the stack).
#[inline(never)]
fn copy(walk: &Walk, start: u64) -> u32 {
    let (state, now) = (walk.state, walk.now());
    let window = walk.window.cast::<c_void>();
    // SAFETY: a map value, of this thread alone.
    let barrier = unsafe { (*state).barrier };
    now.window_start = start;
    now.window_bytes = 0;
    // As far as the stack before reached, if that is known: the rest of a page is not worth copying.
    let mut bytes = GUESS_BYTES;
    let top = now.top;
    if top > start && top - start < LARGEST_STACK_BYTES {
        bytes = top - start;
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
