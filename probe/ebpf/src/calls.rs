//! Follows allocator calls from entry to return. Responsible for what counts as one event: the outermost call of a
//! domain, with what its arguments said and what it returned.
//!
//! A thread's pending calls form a stack. A call is known by its *slot*, the stack address of its return address.
//!
//! ```text
//!   higher addresses      slot 0x7f..e8  realloc   pending[0]
//!        │                slot 0x7f..90  malloc    pending[1]  nested: same domain, called from its own code
//!        ▼ stack grows
//! ```
//!
//! A pending call whose frame is gone (longjmp, exception, a return the kernel did not report) is dropped: at the next
//! entry of the thread, a call is *alive* only if the kernel's return trampoline, which is page aligned, still stands
//! in its slot and the new call is not above it on the same stack. Slots on different stacks (fibers, signal stacks)
//! are not compared. A call that jumps to another (`realloc(NULL, n)` to `malloc`) shares its slot with it.

use aya_ebpf::{bindings::pt_regs, helpers::bpf_probe_read_user};
use probe_abi::{
    Action, Control, Descriptor, FLAG_LEAF, FLAG_RESULT_BY_POINTER, FLAG_RET_PROBES, PENDING_DEPTH, Pending, Record,
    RecordKind, ThreadState,
};

use crate::{
    maps::{CPUS, DESCRIPTORS},
    record::{Start, count_loss, current, emit},
    threads,
};

/// Slots further apart than this stand on different stacks.
const SAME_STACK_BYTES: u64 = 8 << 20;
/// A nested call is at most this deep below the call it serves.
const NESTED_BYTES: u64 = 64 << 10;

const LAST: u32 = PENDING_DEPTH as u32 - 1;

/// Entry of an allocator function.
#[inline(always)]
pub(crate) fn enter<const WALKS: bool>(control: &Control, cookie: u32, regs: &pt_regs) {
    let Some(descriptor) = DESCRIPTORS.get(cookie) else { return };
    // A row goes blank when its process executes another program: its probes stay for a moment longer.
    if descriptor.action == 0 {
        return;
    }
    let (pid, tid) = current();
    let Some(thread) = threads::find_or_make(tid) else {
        lose_thread(descriptor);
        return;
    };
    let thread = unsafe { &mut *thread };
    let slot = regs.rsp.wrapping_add(descriptor.stack_adjust as u64);
    let pointer = argument(regs, descriptor.pointer_at);
    // A call that only returns something tells its return address then, and a walk finds it on its way; where one call may be
    // part of another, it is needed now. The page was written by the call itself; should the kernel have moved it since, the
    // event counts all the same.
    let later = thread.depth == 0
        && if descriptor.action == Action::Alloc as u8 {
            !WALKS || control.max_frames == 0 || descriptor.flags & FLAG_LEAF != 0
        } else {
            descriptor.action == Action::Free as u8
                && WALKS
                && control.max_frames > 0
                && control.free_stacks != 0
                && thread.last_freed != pointer
        };
    let mut return_address = 0;
    if !later {
        return_address = unsafe { bpf_probe_read_user::<u64>(slot as *const u64) }.unwrap_or(0);
    }
    let mut outer_domain = 0;
    let mut nested = false;
    if thread.depth > 0 && drop_gone(tid, slot, cookie) > 0 {
        let call = &thread.pending[((thread.depth - 1) & LAST) as usize];
        let tail = call.slot == slot;
        if tail {
            // The call before jumped here: what it was to return to is what we return to.
            return_address = call.return_address;
        }
        if call.domain != descriptor.domain {
            outer_domain = call.domain;
        } else if tail || serves(call, descriptor, slot, return_address) {
            nested = true;
        } else {
            outer_domain = call.outer_domain;
        }
    }
    let mut record = Record { pid, tid, descriptor: cookie, outer_domain, return_address, pointer, ..EMPTY_RECORD };

    if descriptor.action == Action::Free as u8 {
        let again = thread.last_freed == pointer && continues(thread, descriptor, cookie, slot, return_address);
        if pointer == 0 || nested || again {
            return;
        }
        thread.last_freed = pointer;
        thread.last_freed_descriptor = cookie as u64;
        thread.last_freed_slot = slot;
        record.kind = RecordKind::Free as u8;
    } else {
        record.size = argument(regs, descriptor.size_at);
        if descriptor.count_at != 0 {
            record.size = product(record.size, argument(regs, descriptor.count_at));
        }
        if thread.depth > LAST {
            // A chain of calls this deep does not exist: all of them are leftovers.
            thread.abandoned_count += thread.depth as u64;
            thread.depth = 0;
        }
        let released = descriptor.action == Action::Realloc as u8 && pointer != 0;
        let place = &mut thread.pending[(thread.depth & LAST) as usize];
        place.slot = slot;
        place.return_address = return_address;
        place.size = record.size;
        place.pointer = pointer;
        place.descriptor = cookie;
        place.domain = descriptor.domain;
        place.outer_domain = outer_domain;
        place.alignment = 0;
        if descriptor.alignment_at != 0 {
            place.alignment = bits(argument(regs, descriptor.alignment_at)) as u8;
        }
        place.nested = nested as u8;
        place.released = released as u8;
        place.ret_probes = descriptor.flags & FLAG_RET_PROBES;
        thread.depth += 1;
        thread.begin_count += 1;
        thread.nested_count += nested as u64;
        if nested || !released {
            return;
        }
        thread.last_freed = 0;
        record.kind = RecordKind::ReallocBegin as u8;
    }
    let start = Start { cfa: slot + 8, rbp: argument(regs, descriptor.rbp_at), space: descriptor.space };
    emit::<WALKS>(control, thread, if control.free_stacks != 0 { Some(start) } else { None }, &record);
}

/// Return of an allocator function. A return probe sees the stack after `ret`: the return address stood just below. A probe on
/// a `ret` also serves other functions, whose returns are nobody's.
#[inline(always)]
pub(crate) fn leave<const WALKS: bool>(control: &Control, cookie: u32, regs: &pt_regs, at_ret: bool) {
    let slot = if at_ret { regs.rsp } else { regs.rsp.wrapping_sub(8) };
    if DESCRIPTORS.get(cookie).is_none_or(|descriptor| descriptor.action == 0) {
        return;
    }
    let (pid, tid) = current();
    let Some(thread) = threads::find(tid) else { return };
    let thread = unsafe { &mut *thread };
    let depth = thread.depth;
    // The innermost call, almost always.
    let mut found = depth.wrapping_sub(1);
    if found > LAST || thread.pending[(found & LAST) as usize].slot != slot {
        found = find_pending(tid, slot);
        if found > LAST {
            thread.unmatched_count += !at_ret as u64;
            return;
        }
        thread.abandoned_count += depth.wrapping_sub(found + 1) as u64;
    }
    thread.depth = found;
    thread.return_count += 1;
    let call = &thread.pending[(found & LAST) as usize];
    if call.nested != 0 {
        return;
    }
    let call: Pending = *call;
    let Some(descriptor) = DESCRIPTORS.get(call.descriptor) else { return };
    let mut pointer = regs.rax;
    if descriptor.flags & FLAG_RESULT_BY_POINTER != 0 {
        pointer = if regs.rax as u32 == 0 {
            unsafe { bpf_probe_read_user(call.pointer as *const u64) }.unwrap_or(0)
        } else {
            0
        };
    }
    thread.last_freed = 0;
    let kind = if call.released != 0 { RecordKind::ReallocEnd } else { RecordKind::Alloc };
    let record = Record {
        kind: kind as u8,
        alignment: call.alignment,
        pid,
        tid,
        descriptor: call.descriptor,
        outer_domain: call.outer_domain,
        return_address: if call.return_address == 0 { regs.rip } else { call.return_address },
        pointer,
        size: call.size,
        ..EMPTY_RECORD
    };
    emit::<WALKS>(control, thread, Some(Start { cfa: slot + 8, rbp: regs.rbp, space: descriptor.space }), &record);
}

pub(crate) const EMPTY_RECORD: Record = Record {
    kind: 0,
    alignment: 0,
    frame_count: 0,
    kept: 0,
    outer_domain: 0,
    pid: 0,
    tid: 0,
    time_ns: 0,
    descriptor: 0,
    walk_end: 0,
    same_cfa: 0,
    reserved: [0; 2],
    return_address: 0,
    pointer: 0,
    size: 0,
};

/// The thread table is full: the call is lost, and counted as such.
#[inline(never)]
fn lose_thread(descriptor: &Descriptor) -> u32 {
    let Some(cpu) = CPUS.get_ptr_mut(0) else { return 0 };
    let cpu = unsafe { &mut *cpu };
    cpu.thread_failure_count += 1;
    let kind = if descriptor.action == Action::Free as u8 { RecordKind::Free } else { RecordKind::Alloc };
    count_loss(kind as u32, unsafe { aya_ebpf::helpers::generated::bpf_ktime_get_ns() })
}

/// Drops pending calls of a thread whose frame is gone. A function of its own for the verifier, as are those below.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn drop_gone(tid: u32, slot: u64, descriptor: u32) -> u32 {
    let Some(thread) = threads::find(tid) else { return 0 };
    let thread = unsafe { &mut *thread };
    for _ in 0..PENDING_DEPTH {
        if thread.depth == 0 {
            break;
        }
        let call = &thread.pending[((thread.depth - 1) & LAST) as usize];
        let above = slot > call.slot && slot - call.slot < SAME_STACK_BYTES;
        // In one slot stand a call and those it jumped to (tail calls), or a call and its successor from the same place.
        let again = slot == call.slot && call.ret_probes != 0 && call.descriptor == descriptor;
        if !above && !again && stands(call) {
            break;
        }
        thread.depth -= 1;
        thread.abandoned_count += 1;
    }
    thread.depth
}

/// Index of the innermost pending call of a thread that stands in `slot`; above [`LAST`] where there is none.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn find_pending(tid: u32, slot: u64) -> u32 {
    let Some(thread) = threads::find(tid) else { return u32::MAX };
    let thread = unsafe { &mut *thread };
    let mut found = u32::MAX;
    for index in 0..PENDING_DEPTH as u32 {
        if index < thread.depth && thread.pending[(index & LAST) as usize].slot == slot {
            found = index;
        }
    }
    found
}

/// Whether what a pending call left in its slot still stands there: the return trampoline, or its return address where
/// no return probe replaced it.
#[inline(always)]
fn stands(call: &Pending) -> bool {
    match unsafe { bpf_probe_read_user(call.slot as *const u64) } {
        Ok(found) if call.ret_probes != 0 => found == call.return_address,
        Ok(found) => found != 0 && found & 0xfff == 0,
        // Not readable just now says nothing.
        Err(_) => true,
    }
}

/// Whether a call with this slot and return address comes from inside `call`, which is of the same domain.
#[inline(always)]
fn serves(call: &Pending, descriptor: &Descriptor, slot: u64, return_address: u64) -> bool {
    let inside = return_address >= descriptor.text_start && return_address < descriptor.text_end;
    inside && call.slot > slot && call.slot - slot < NESTED_BYTES
}

/// Whether a free of the block that the thread freed last is part of that same free: the first function called this one
/// from its own code, or jumped to it.
#[inline(always)]
fn continues(thread: &ThreadState, descriptor: &Descriptor, cookie: u32, slot: u64, return_address: u64) -> bool {
    let Some(last) = DESCRIPTORS.get(thread.last_freed_descriptor as u32) else { return false };
    // The same block can be freed anew if another thread got it meanwhile: that call does not stand in the one before.
    let within = slot < thread.last_freed_slot && thread.last_freed_slot - slot < NESTED_BYTES;
    let inside = within && return_address >= descriptor.text_start && return_address < descriptor.text_end;
    let jumped = slot == thread.last_freed_slot && thread.last_freed_descriptor as u32 != cookie;
    last.domain == descriptor.domain && (inside || jumped)
}

/// An argument, from where the descriptor says it stands.
#[inline(always)]
pub(crate) fn argument(regs: &pt_regs, at: u8) -> u64 {
    match at {
        0 => 0,
        1 => regs.rdi,
        2 => regs.rsi,
        3 => regs.rdx,
        4 => regs.rcx,
        5 => regs.r8,
        6 => regs.r9,
        7 => regs.rax,
        8 => regs.rbx,
        9 => regs.rbp,
        10 => regs.r10,
        11 => regs.r11,
        12 => regs.r12,
        13 => regs.r13,
        14 => regs.r14,
        15 => regs.r15,
        _ => unsafe { bpf_probe_read_user((regs.rsp + 8 * (at & 0x7f) as u64) as *const u64) }.unwrap_or(0),
    }
}

/// `a * b`, all ones where it may not fit. A request of 2^62 bytes and more fails in any case, so the test need not be
/// sharp: it counts bits, for there is no wide multiplication here.
#[inline(always)]
fn product(a: u64, b: u64) -> u64 {
    if (a | b) >> 32 != 0 && bits(a) + bits(b) > 64 { u64::MAX } else { a.wrapping_mul(b) }
}

/// Significant bits of a value: floor(log2) plus one, 0 for 0.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn bits(value: u64) -> u64 {
    let mut count = (value != 0) as u64;
    let mut rest = value;
    for step in [32u64, 16, 8, 4, 2, 1] {
        if rest >> step != 0 {
            rest >>= step;
            count += step;
        }
    }
    count
}
