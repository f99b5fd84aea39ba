//! Hands records to the ring. Responsible for losing nothing silently: a record that finds no place is counted with its
//! CPU and time, and told to the reader in the ring as soon as there is room; and for stopping a thread before the
//! ring overflows.

use core::{
    intrinsics::{AtomicOrdering::Relaxed, atomic_xadd, atomic_xchg},
    mem::size_of,
};

use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_smp_processor_id,
    generated::{bpf_ktime_get_ns, bpf_ringbuf_query, bpf_send_signal_thread},
};
use probe_abi::{
    CompactRecord, Control, Loss, LossRecord, MAX_FRAMES, Record, RecordKind, STOP_BACKPRESSURE, STOP_CHECK,
    TIMED_WALKS, ThreadState, WalkedRecord, unwind::WalkEnd,
};

use crate::{
    known,
    maps::{CONTROL, CPUS, RING, STOPS},
    walk,
};

/// `BPF_RB_NO_WAKEUP`: the reader looks by itself.
const NO_WAKEUP: u64 = 1;
/// `BPF_RB_AVAIL_DATA`: bytes not yet read.
const AVAILABLE_DATA: u64 = 0;
const SIGSTOP: u32 = 19;

/// Where a stack walk starts, besides what the record says.
#[derive(Clone, Copy)]
pub(crate) struct Start {
    /// Canonical frame address of the allocator's frame: `rsp` before the call.
    pub(crate) cfa: u64,
    /// rbp of the allocator's caller.
    pub(crate) rbp: u64,
    /// The process's code.
    pub(crate) space: u32,
}

/// Completes `record` with time and stack and gives it to the ring. No stack is taken without a `start`, nor by programs that
/// do not walk: those have no code for it, and the kernel has less to verify.
#[inline(always)]
pub(crate) fn emit<const WALKS: bool>(
    control: &Control,
    thread: &mut ThreadState,
    start: Option<Start>,
    record: &Record,
) {
    let time_ns = unsafe { bpf_ktime_get_ns() };
    if control.lossy != 0 {
        tell_loss(0);
    }
    let count = thread.record_count;
    thread.record_count = count.wrapping_add(1);
    let near = thread.last_pid == record.pid as u64 && time_ns.wrapping_sub(thread.last_ns) < CompactRecord::NEAR_NS;
    let walked = match start {
        Some(start) if WALKS && control.max_frames > 0 => {
            let timed = count & (TIMED_WALKS - 1) == 0;
            send_with_frames(control.max_frames, start, record, time_ns, near, timed)
        }
        _ => None,
    };
    let sent = match walked {
        Some(sent) => sent,
        None => send(record, time_ns, near),
    };
    if !sent {
        count_loss(record.kind as u32, time_ns);
    }
    // Where a record was lost the reader may not know the thread, and the time may be far from all that it knows.
    thread.last_pid = if sent { record.pid as u64 } else { 0 };
    thread.last_ns = time_ns;
    if control.check_every != 0 && start.is_some() && count.wrapping_add(1) % control.check_every == 0 {
        stop_thread(STOP_CHECK);
        return;
    }
    if control.stop_bytes != 0 && count & control.check_mask == 0 {
        let unread = unsafe { bpf_ringbuf_query((&raw const RING).cast_mut().cast(), AVAILABLE_DATA) };
        if unread >= control.stop_bytes {
            stop_for_reader();
        }
    }
}

/// [`emit`] for a marker, which knows nothing of the thread's calls and happens seldom.
#[inline(always)]
pub(crate) fn emit_marker<const WALKS: bool>(control: &Control, start: Option<Start>, record: &Record) {
    let time_ns = unsafe { bpf_ktime_get_ns() };
    if control.lossy != 0 {
        tell_loss(0);
    }
    let walked = match start {
        Some(start) if WALKS && control.max_frames > 0 => {
            send_with_frames(control.max_frames, start, record, time_ns, false, false)
        }
        _ => None,
    };
    let sent = match walked {
        Some(sent) => sent,
        None => send(record, time_ns, false),
    };
    if !sent {
        count_loss(record.kind as u32, time_ns);
    }
    if control.stop_bytes != 0
        && unsafe { bpf_ringbuf_query((&raw const RING).cast_mut().cast(), AVAILABLE_DATA) } >= control.stop_bytes
    {
        stop_for_reader();
    }
}

/// Lets the thread rest until the ring is drained.
#[inline(never)]
fn stop_for_reader() -> u32 {
    if let Some(cpu) = CPUS.get_ptr_mut(0) {
        add(unsafe { &mut (*cpu).stop_count });
    }
    stop_thread(STOP_BACKPRESSURE);
    0
}

/// A record without frames. `near`: the reader knows its thread's process, and its time by the lower part.
#[inline(always)]
fn send(record: &Record, time_ns: u64, near: bool) -> bool {
    if let Some(compact) = if near { CompactRecord::of(record, time_ns) } else { None } {
        let Some(mut place) = RING.reserve::<CompactRecord>(0) else { return false };
        place.write(compact);
        place.submit(NO_WAKEUP);
        return true;
    }
    let Some(mut place) = RING.reserve::<Record>(0) else { return false };
    place.write(Record { time_ns, walk_end: WalkEnd::NotTaken as u8, ..*record });
    place.submit(NO_WAKEUP);
    true
}

/// A record with the frames that are not those of the stack before; says whether it found a place, or nothing where
/// there is no stack.
#[inline(always)]
fn send_with_frames(limit: u32, start: Start, record: &Record, time_ns: u64, near: bool, timed: bool) -> Option<bool> {
    let space_and_limit = (start.space as u64) << 32 | limit as u64;
    let found = walk::walk(record.tid, record.return_address, start.cfa, start.rbp, space_and_limit);
    if timed {
        count_time(time_ns);
    }
    // SAFETY: a map value, of this thread alone.
    let state = unsafe { &mut *walk::memory_and_window(record.tid)?.0 };
    // The mask is for the verifier.
    let fresh = found.fresh() & (2 * MAX_FRAMES as u32 - 1);
    let frames = &raw mut state.fresh;
    // SAFETY: in front of the frames stands the record, behind it as many frames as are sent.
    let sent = unsafe {
        let known = record.return_address != 0 || fresh + found.kept() == 0;
        let record = Record {
            return_address: if known { record.return_address } else { state.progress.innermost },
            time_ns,
            frame_count: fresh as u16,
            kept: found.kept() as u16,
            walk_end: found.end(),
            same_cfa: found.same_cfa() as u8,
            ..*record
        };
        match if near { CompactRecord::of(&record, time_ns) } else { None } {
            Some(compact) => {
                let front = frames.cast::<u8>().add(size_of::<Record>() - size_of::<WalkedRecord>());
                *front.cast::<WalkedRecord>() = WalkedRecord {
                    kind: RecordKind::Walked as u8,
                    walk_end: record.walk_end,
                    same_cfa: record.same_cfa,
                    reserved: 0,
                    frame_count: record.frame_count,
                    kept: record.kept,
                    compact,
                };
                let length = size_of::<WalkedRecord>() + fresh as usize * 8;
                RING.output::<[u8]>(core::slice::from_raw_parts(front, length), NO_WAKEUP).is_ok()
            }
            None => {
                *(&raw mut (*frames).record).cast::<Record>() = record;
                let length = size_of::<Record>() + fresh as usize * 8;
                let bytes = core::slice::from_raw_parts(frames.cast::<u8>(), length);
                RING.output::<[u8]>(bytes, NO_WAKEUP).is_ok()
            }
        }
    };
    if !sent {
        // The reader does not know this stack: the next one comes whole.
        state.length = 0;
        return Some(false);
    }
    known::take(state, fresh, found.kept());
    Some(true)
}

/// Adds the time since `begin_ns` to the timed walks of this CPU.
#[inline(never)]
fn count_time(begin_ns: u64) -> u32 {
    if let Some(cpu) = CPUS.get_ptr_mut(0) {
        let cpu = unsafe { &mut *cpu };
        let spent = unsafe { bpf_ktime_get_ns() } - begin_ns;
        add(&mut cpu.timed_walk_count);
        // SAFETY: the field is aligned and lives in a map value.
        unsafe { atomic_xadd::<u64, u64, { Relaxed }>(&raw mut cpu.timed_walk_ns, spent) };
    }
    0
}

/// Adds one to a counter of this CPU. A program can be preempted by another one on the same CPU: hence atomic.
#[inline(always)]
fn add(field: &mut u64) {
    // SAFETY: the field is aligned and lives in a map value.
    unsafe { atomic_xadd::<u64, u64, { Relaxed }>(field, 1) };
}

/// Takes what a counter holds.
#[inline(always)]
fn take(field: &mut u64) -> u64 {
    // SAFETY: the field is aligned and lives in a map value.
    unsafe { atomic_xchg::<u64, { Relaxed }>(field, 0) }
}

/// Counts a record of `kind` that found no place.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn count_loss(kind: u32, time_ns: u64) -> u32 {
    let Some(cpu) = CPUS.get_ptr_mut(0) else { return 0 };
    let cpu = unsafe { &mut *cpu };
    if let Some(control) = CONTROL.get_ptr_mut(0) {
        unsafe { (*control).lossy = 1 };
    }
    add(&mut cpu.lost_count);
    let loss = &mut cpu.untold;
    if kind == RecordKind::Free as u32 || kind == RecordKind::ReallocBegin as u32 {
        add(&mut loss.free_count);
    } else if kind == RecordKind::Alloc as u32 || kind == RecordKind::ReallocEnd as u32 {
        add(&mut loss.alloc_count);
    } else {
        add(&mut loss.other_count);
    }
    if loss.first_ns == 0 {
        loss.first_ns = time_ns;
    }
    loss.last_ns = time_ns;
    1
}

/// Puts this CPU's losses into the ring, where they stand between the records they were lost between.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn tell_loss(_unused: u32) -> u32 {
    let Some(cpu) = CPUS.get_ptr_mut(0) else { return 0 };
    let cpu = unsafe { &mut *cpu };
    if cpu.untold.first_ns == 0 {
        return 0;
    }
    let Some(mut place) = RING.reserve::<LossRecord>(0) else { return 0 };
    let number = unsafe { bpf_get_smp_processor_id() } as u32;
    let untold = &mut cpu.untold;
    let loss = Loss {
        first_ns: take(&mut untold.first_ns),
        last_ns: untold.last_ns,
        alloc_count: take(&mut untold.alloc_count),
        free_count: take(&mut untold.free_count),
        other_count: take(&mut untold.other_count),
    };
    place.write(LossRecord { kind: RecordKind::Loss as u8, reserved: [0; 3], cpu: number, loss });
    place.submit(NO_WAKEUP);
    1
}

/// Stops the current thread when it returns to user mode. The collector traces it and sees the stop before it takes
/// effect; `reason` tells it that the stop is ours.
#[inline(always)]
pub(crate) fn stop_thread(reason: u32) {
    let (_, tid) = current();
    if STOPS.insert(tid, reason, 0).is_ok() {
        unsafe { bpf_send_signal_thread(SIGSTOP) };
    }
}

/// Process id and thread id of the running thread.
#[inline(always)]
pub(crate) fn current() -> (u32, u32) {
    let both = bpf_get_current_pid_tgid();
    ((both >> 32) as u32, both as u32)
}
