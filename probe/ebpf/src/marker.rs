//! Passes markers on: places that tell which phase a program is in. Responsible for a marker's value and for its record;
//! knows nothing of allocator calls, and leaves the thread's pending ones alone.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::pt_regs,
    helpers::{
        bpf_probe_read_user,
        generated::{
            bpf_copy_from_user, bpf_ktime_get_ns, bpf_probe_read_user as read_user,
            bpf_probe_read_user_str as read_user_text,
        },
    },
};
use probe_abi::{
    Action, Control, FLAG_MARKER_END, FLAG_MARKER_INSIDE, FLAG_MARKER_TEXT, FLAG_MARKER_VALUE, MAX_DEREFERENCES,
    MAX_TEXT_BYTES, Record, RecordKind, TEXT_SENT, TextRecord, UNREADABLE,
};

use crate::{
    calls::{EMPTY_RECORD, argument},
    maps::{DESCRIPTORS, RING},
    record::{Start, count_loss, current, emit_marker},
    walk::original_return,
};

/// `BPF_RB_NO_WAKEUP`: the reader looks by itself.
const NO_WAKEUP: u64 = 1;
/// One more than the longest text, and its NUL: a text that fills it is longer than we take.
const TEXT_ROOM: u32 = MAX_TEXT_BYTES as u32 + 2;

/// A marked place.
#[inline(always)]
pub(crate) fn hit<const WALKS: bool>(control: &Control, cookie: u32, regs: &pt_regs) {
    let Some(descriptor) = DESCRIPTORS.get(cookie) else { return };
    if descriptor.action != Action::Marker as u8 {
        return;
    }
    let (pid, tid) = current();
    let flags = descriptor.flags;
    let (return_address, cfa) = if flags & FLAG_MARKER_INSIDE != 0 {
        // The innermost frame is the function that the place is in: it is "called" at the place itself.
        (regs.rip.wrapping_add(1), regs.rsp)
    } else {
        let slot = regs.rsp.wrapping_add(descriptor.stack_adjust as u64);
        (return_address(tid, slot), slot.wrapping_add(8))
    };
    let mut pointer = 0;
    if flags & FLAG_MARKER_VALUE != 0 {
        pointer = follow(argument(regs, descriptor.pointer_at), descriptor.count_at as u32, descriptor.offsets());
        if flags & FLAG_MARKER_TEXT != 0 {
            if pointer != UNREADABLE {
                let counted = descriptor.size_at != 0;
                let length = if counted { argument(regs, descriptor.size_at) } else { u64::MAX };
                pointer = if send_text(pid, tid, pointer, length) != 0 { TEXT_SENT } else { UNREADABLE };
            }
        } else if pointer != UNREADABLE {
            pointer = match descriptor.alignment_at {
                1 => pointer & 0xff,
                2 => pointer & 0xffff,
                4 => pointer & 0xffff_ffff,
                _ => pointer,
            };
        }
    }
    let kind = RecordKind::Marker as u8;
    let record = Record { kind, pid, tid, descriptor: cookie, return_address, pointer, ..EMPTY_RECORD };
    // An end tells all with its name.
    let rbp = if flags & FLAG_MARKER_INSIDE != 0 { regs.rbp } else { argument(regs, descriptor.rbp_at) };
    let start = if flags & FLAG_MARKER_END != 0 { None } else { Some(Start { cfa, rbp, space: descriptor.space }) };
    emit_marker::<WALKS>(control, start, &record);
}

/// What a call whose return address stands in `slot` returns to, also where a return probe has replaced it.
#[inline(always)]
fn return_address(tid: u32, slot: u64) -> u64 {
    let found = unsafe { bpf_probe_read_user::<u64>(slot as *const u64) }.unwrap_or(0);
    if found & 0xfff == 0 { original_return(tid, slot, found) } else { found }
}

/// Goes from pointer to pointer; [`UNREADABLE`] where one leads nowhere.
#[inline(always)]
fn follow(from: u64, count: u32, offsets: [i32; MAX_DEREFERENCES]) -> u64 {
    let mut value = from;
    for index in 0..MAX_DEREFERENCES as u32 {
        if index >= count {
            break;
        }
        value = word(value.wrapping_add(offsets[index as usize] as i64 as u64));
        if value == UNREADABLE {
            break;
        }
    }
    value
}

/// The word at an address, wherever its page is; [`UNREADABLE`] if there is none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn word(address: u64) -> u64 {
    if let Ok(found) = unsafe { bpf_probe_read_user::<u64>(address as *const u64) } {
        return found;
    }
    let mut found = 0u64;
    // SAFETY: eight bytes are copied to where eight bytes are.
    let failed = unsafe { bpf_copy_from_user((&raw mut found).cast(), 8, address as *const c_void) };
    if failed != 0 { UNREADABLE } else { found }
}

/// Has the page of an address brought into memory, if there is one.
#[inline(always)]
fn touch(address: u64) {
    let mut byte = 0u8;
    // SAFETY: one byte is copied to where one byte is.
    unsafe { bpf_copy_from_user((&raw mut byte).cast(), 1, address as *const c_void) };
}

/// Puts a text into the ring: `length` bytes of it, or up to its NUL where that is all ones. Returns 1 unless it could not
/// be read or found no place.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn send_text(pid: u32, tid: u32, address: u64, length: u64) -> u32 {
    let sent = try_text(pid, tid, address, length);
    if sent < 2 {
        return sent;
    }
    // Its pages may not be in memory yet, which cannot be waited for while a record is being written.
    let last = if length < MAX_TEXT_BYTES as u64 { length } else { MAX_TEXT_BYTES as u64 };
    touch(address);
    touch(address.wrapping_add(last));
    (try_text(pid, tid, address, length) == 1) as u32
}

/// 1: sent, 0: lost, 2: cannot be read now.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn try_text(pid: u32, tid: u32, address: u64, length: u64) -> u32 {
    let Some(mut place) = RING.reserve::<TextRecord>(0) else {
        count_loss(RecordKind::MarkerText as u32, unsafe { bpf_ktime_get_ns() });
        return 0;
    };
    let record = place.as_mut_ptr();
    let from = address as *const c_void;
    // SAFETY: the record is as long as the ring says, its text at least as long as what is read.
    let read = unsafe {
        let text = (&raw mut (*record).text).cast::<c_void>();
        if length == u64::MAX {
            let with_nul = read_user_text(text, TEXT_ROOM, from);
            if with_nul < 0 { with_nul } else { with_nul - 1 }
        } else {
            let room = if length > MAX_TEXT_BYTES as u64 { MAX_TEXT_BYTES as u32 + 1 } else { length as u32 };
            let failed = read_user(text, room, from);
            if failed < 0 { failed } else { room as i64 }
        }
    };
    if read < 0 {
        place.discard(NO_WAKEUP);
        return 2;
    }
    // SAFETY: as above.
    unsafe {
        (*record).kind = RecordKind::MarkerText as u8;
        (*record).length = read as u8;
        (*record).reserved = [0; 2];
        (*record).pid = pid;
        (*record).tid = tid;
    }
    place.submit(NO_WAKEUP);
    1
}
