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
    Control, Frame, Loss, LossRecord, MAX_FRAMES, RECORD_TRUNCATED, Record, RecordKind, STOP_BACKPRESSURE, ThreadState,
};

use crate::{
    maps::{CONTROL, CPUS, RING, SCRATCH, STOPS},
    walk,
};

/// `BPF_RB_NO_WAKEUP`: the reader looks by itself.
const NO_WAKEUP: u64 = 1;
/// `BPF_RB_AVAIL_DATA`: bytes not yet read.
const AVAILABLE_DATA: u64 = 0;
const SIGSTOP: u32 = 19;

/// Completes `record` with time and stack and gives it to the ring. `frame_pointer` is rbp in the allocator's caller.
#[inline(always)]
pub(crate) fn emit(control: &Control, thread: &mut ThreadState, frame_pointer: u64, record: &Record, stack: bool) {
    let time_ns = unsafe { bpf_ktime_get_ns() };
    if control.lossy != 0 {
        tell_loss(0);
    }
    let count = thread.record_count;
    thread.record_count = count.wrapping_add(1);
    let sent = if stack && control.max_frames > 0 {
        send_with_frames(control, frame_pointer, record, time_ns)
    } else {
        send(record, time_ns)
    };
    if !sent {
        count_loss(record.kind as u32, time_ns);
    }
    if control.stop_bytes != 0 && count & control.check_mask == 0 {
        let unread = unsafe { bpf_ringbuf_query((&raw const RING).cast_mut().cast(), AVAILABLE_DATA) };
        if unread >= control.stop_bytes {
            stop_for_reader();
        }
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

#[inline(always)]
fn send(record: &Record, time_ns: u64) -> bool {
    let Some(mut place) = RING.reserve::<Record>(0) else { return false };
    place.write(Record { time_ns, ..*record });
    place.submit(NO_WAKEUP);
    true
}

#[inline(always)]
fn send_with_frames(control: &Control, frame_pointer: u64, record: &Record, time_ns: u64) -> bool {
    let walked = walk::walk(record.tid, frame_pointer, record.cfa, control.max_frames);
    let Some(scratch) = SCRATCH.get_ptr_mut(record.tid) else { return send(record, time_ns) };
    let scratch = unsafe { &mut *scratch };
    let count = walked as u32 & (MAX_FRAMES as u32 - 1);
    scratch.record = Record {
        time_ns,
        frame_count: count as u16,
        flags: if walked & walk::TRUNCATED != 0 { RECORD_TRUNCATED } else { 0 },
        ..*record
    };
    let length = size_of::<Record>() + count as usize * size_of::<Frame>();
    let bytes = unsafe { core::slice::from_raw_parts((&raw const *scratch).cast::<u8>(), length) };
    RING.output::<[u8]>(bytes, NO_WAKEUP).is_ok()
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
