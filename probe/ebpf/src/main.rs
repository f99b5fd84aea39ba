//! The programs that run in the kernel at each probed allocator call. Responsible for turning calls into records, in
//! order and without loss; not for what a record means to a reader.
//!
//! ```text
//!   entry of malloc …     enter   ── pending call ──┐           (per-thread stack)
//!   return of malloc …    leave   ◀─────────────────┘ ── Alloc ──▶ ring
//!   entry of free         enter   ── Free ──▶ ring
//!   a marked place         marker  ── MarkerText, Marker ──▶ ring
//!   entry/return realloc  enter   ── ReallocBegin ──▶ ring, leave ── ReallocEnd ──▶ ring
//! ```
//!
//! **Order.** A record takes its place in the ring when it is reserved, and reservations are serialised by the ring's
//! lock. A free is reserved before the real free runs, an allocation after the real one ran. So whenever an address
//! passes from one owner to the next, on whatever threads, the ring holds the old owner's death before the new owner's
//! birth: the position in the ring is the order of events, and no clock is needed for it.
#![no_std]
#![no_main]
#![expect(internal_features, reason = "atomic operations on map values exist as intrinsics only on this target")]
#![feature(core_intrinsics)]

mod calls;
mod maps;
mod marker;
mod record;
mod rules;
mod threads;
mod walk;
mod window;

use aya_ebpf::{
    EbpfContext as _,
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};

/// An allocator function is entered.
#[uprobe]
pub fn enter(ctx: ProbeContext) -> u32 {
    calls::enter::<true>(ctx.as_ptr(), unsafe { &*ctx.regs });
    0
}

/// An allocator function returns (return probe).
#[uretprobe]
pub fn leave(ctx: RetProbeContext) -> u32 {
    // The return probe sees the stack after `ret`: the slot is just below.
    let regs = unsafe { &*ctx.regs };
    calls::leave::<true>(ctx.as_ptr(), regs, regs.rsp.wrapping_sub(8), false);
    0
}

/// An allocator function is about to execute `ret` (entry probe on the instruction).
#[uprobe]
pub fn leave_at_ret(ctx: ProbeContext) -> u32 {
    let regs = unsafe { &*ctx.regs };
    calls::leave::<true>(ctx.as_ptr(), regs, regs.rsp, true);
    0
}

/// `enter` of a recording without stacks.
#[uprobe]
pub fn enter_bare(ctx: ProbeContext) -> u32 {
    calls::enter::<false>(ctx.as_ptr(), unsafe { &*ctx.regs });
    0
}

/// `leave` of a recording without stacks.
#[uretprobe]
pub fn leave_bare(ctx: RetProbeContext) -> u32 {
    let regs = unsafe { &*ctx.regs };
    calls::leave::<false>(ctx.as_ptr(), regs, regs.rsp.wrapping_sub(8), false);
    0
}

/// The dynamic linker reports a change of its link map: stop the thread so that the collector can look.
#[uprobe]
pub fn link_map(_ctx: ProbeContext) -> u32 {
    record::stop_thread(probe_abi::STOP_LINK_MAP);
    0
}

/// A marked place is passed. It may sleep: the text that it names may not be in memory yet.
#[uprobe(sleepable)]
pub fn marker(ctx: ProbeContext) -> u32 {
    marker::hit::<true>(ctx.as_ptr(), unsafe { &*ctx.regs });
    0
}

/// `marker` of a recording without stacks.
#[uprobe(sleepable)]
pub fn marker_bare(ctx: ProbeContext) -> u32 {
    marker::hit::<false>(ctx.as_ptr(), unsafe { &*ctx.regs });
    0
}

/// Nothing: the cheapest program a probe can have, the floor that cost is measured against.
#[uprobe]
pub fn empty(_ctx: ProbeContext) -> u32 {
    0
}

/// Nothing, at return.
#[uretprobe]
pub fn empty_return(_ctx: RetProbeContext) -> u32 {
    0
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
