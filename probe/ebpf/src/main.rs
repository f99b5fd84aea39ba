//! The programs that run in the kernel at each probed allocator call. Responsible for turning calls into records, in
//! order and without loss; not for what a record means to a reader.
//!
//! ```text
//!   entry of malloc …     call    ── pending call ──┐           (per-thread stack)
//!   return of malloc …    call    ◀─────────────────┘ ── Alloc ──▶ ring
//!   entry of free         call    ── Free ──▶ ring
//!   a marked place         call    ── MarkerText, Marker ──▶ ring
//!   entry/return realloc  call    ── ReallocBegin ──▶ ring, ReallocEnd ──▶ ring
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
mod known;
mod maps;
mod marker;
mod record;
mod rules;
mod run;
mod threads;
mod walk;
mod window;

use core::ffi::c_void;

use aya_ebpf::{
    EbpfContext as _,
    bindings::pt_regs,
    helpers::generated::bpf_get_attach_cookie,
    macros::{uprobe, uretprobe},
    programs::{ProbeContext, RetProbeContext},
};
use probe_abi::{COOKIE_PLACE_SHIFT, Control, Place};

use maps::CONTROL;

/// An allocator function is entered or returns, or a marked place is passed: what the cookie says. One program for all of it, since
/// the kernel verifies each program by itself, and the walk takes nearly all of that time. It may sleep: the text that
/// a marker names may not be in memory yet.
#[uprobe(sleepable)]
pub fn call(ctx: ProbeContext) -> u32 {
    hit::<true>(ctx.as_ptr(), unsafe { &*ctx.regs });
    0
}

/// `call` of a recording without stacks.
#[uprobe(sleepable)]
pub fn call_bare(ctx: ProbeContext) -> u32 {
    hit::<false>(ctx.as_ptr(), unsafe { &*ctx.regs });
    0
}

/// The returns of `call`, where a return probe needs a program of its own (perf links).
#[uretprobe]
pub fn call_return(ctx: RetProbeContext) -> u32 {
    returned::<true>(ctx.as_ptr(), unsafe { &*ctx.regs });
    0
}

/// `call_return` of a recording without stacks.
#[uretprobe]
pub fn call_return_bare(ctx: RetProbeContext) -> u32 {
    returned::<false>(ctx.as_ptr(), unsafe { &*ctx.regs });
    0
}

#[inline(always)]
fn hit<const WALKS: bool>(ctx: *mut c_void, regs: &pt_regs) {
    let Some(control) = armed() else { return };
    let (place, row) = cookie(ctx);
    if place == Place::Entry as u32 {
        calls::enter::<WALKS>(control, row, regs);
    } else if place == Place::Marker as u32 {
        marker::hit::<WALKS>(control, row, regs);
    } else {
        calls::leave::<WALKS>(control, row, regs, place == Place::Ret as u32);
    }
}

#[inline(always)]
fn returned<const WALKS: bool>(ctx: *mut c_void, regs: &pt_regs) {
    let Some(control) = armed() else { return };
    let (_, row) = cookie(ctx);
    calls::leave::<WALKS>(control, row, regs, false);
}

/// The settings, while there is a recording.
#[inline(always)]
fn armed<'a>() -> Option<&'a Control> {
    CONTROL.get(0).filter(|control| control.armed != 0)
}

/// Where the probe that was hit stands, a [`Place`], and its row of the descriptor table.
#[inline(always)]
fn cookie(ctx: *mut c_void) -> (u32, u32) {
    let cookie = unsafe { bpf_get_attach_cookie(ctx) };
    ((cookie >> COOKIE_PLACE_SHIFT) as u32, cookie as u32)
}

/// The dynamic linker reports a change of its link map: stop the thread so that the collector can look.
#[uprobe]
pub fn link_map(_ctx: ProbeContext) -> u32 {
    record::stop_thread(probe_abi::STOP_LINK_MAP);
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
