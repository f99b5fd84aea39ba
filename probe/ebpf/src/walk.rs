//! Walks the user stack with the unwind tables. Responsible for the frames of a call, which of them the thread's record
//! before had already, and how the walk ended; where rules come from is `rules`' business.
//!
//! ```text
//!                         ┌ frames of this call, innermost first      ┌ frames of the record before
//!   malloc's caller   a ──┤ (address, CFA)                        x ──┤
//!                     b   │                                       b   │  same address and CFA from here to the root:
//!                     c   │                                       c   │  kept = 3, and only `a` goes to the ring
//!   _start            d ──┘                                       d ──┘
//! ```
//!
//! Every frame is walked and compared, none is taken for granted: a return address deep in the stack changes while the
//! ones around it stay. Stack memory is read through a *window*, a copy that is made anew when a slot lies outside of it:
//! one copy costs about as much as two single reads. CFAs are not assumed to grow (fibers, signal
//! stacks).

use core::{
    ffi::c_void,
    intrinsics::{AtomicOrdering::Relaxed, atomic_cxchg},
};

use aya_ebpf::helpers::generated::bpf_loop;
use probe_abi::{
    MAX_FRAMES, PENDING_DEPTH, StackBuffer, WALK_SLOTS, WalkProgress, WalkState,
    unwind::{
        BASE_CFA, BASE_RBP, BASE_SAME, KIND_RBP, KIND_RSP, KIND_WIDE, Rule, SPECIAL_NONE, SPECIAL_PLT, SPECIAL_ROOT,
        SPECIAL_SIGNAL, UCONTEXT_RBP, UCONTEXT_RIP, UCONTEXT_RSP, WalkEnd,
    },
};

use crate::{
    maps::{MORE_WALKS, MORE_WINDOWS, WALKS, WIDE_RULES, WINDOWS},
    rules,
    same::{Met, same},
    threads,
    window::{move_to, read},
};

pub(crate) const LAST: u32 = MAX_FRAMES as u32 - 1;
/// The CFA of a frame whose own is not known: this far above its callee's, where `_start` has it.
const OUTERMOST: u64 = 8;

/// What a walk found; packed into one word because it is the result of a function that the verifier checks by itself.
#[derive(Clone, Copy)]
pub(crate) struct Outcome(u64);

impl Outcome {
    #[inline(always)]
    fn new(frame_count: u32, kept: u32, end: u8, same_cfa: bool) -> Self {
        Self(frame_count as u64 | (kept as u64) << 16 | (end as u64) << 32 | (same_cfa as u64) << 40)
    }

    /// Frames of the stack.
    #[inline(always)]
    pub(crate) fn frame_count(self) -> u32 {
        self.0 as u32 & 0xffff
    }

    /// Outermost ones that are those of the record before.
    #[inline(always)]
    pub(crate) fn kept(self) -> u32 {
        (self.0 >> 16) as u32 & 0xffff
    }

    /// How it ended, a [`WalkEnd`].
    #[inline(always)]
    pub(crate) fn end(self) -> u8 {
        (self.0 >> 32) as u8
    }

    /// Whether the outermost frame that is not kept has the CFA that the one in its place had before.
    #[inline(always)]
    pub(crate) fn same_cfa(self) -> bool {
        self.0 >> 40 != 0
    }
}

/// Memory for the walks of a thread, made if there is none.
#[inline(always)]
pub(crate) fn memory(tid: u32) -> Option<*mut WalkState> {
    let slot = WALKS.get(tid & (WALK_SLOTS - 1))?.get_ptr_mut(0)?;
    // SAFETY: a map value.
    if unsafe { (*slot).tid } == tid as u64 {
        return Some(slot);
    }
    let owner = unsafe { &raw mut (*slot).tid };
    // SAFETY: the field is aligned and lives in a map value.
    let (_, taken) = unsafe { atomic_cxchg::<u64, { Relaxed }, { Relaxed }>(owner, 0, tid as u64) };
    if taken {
        return Some(slot);
    }
    if let Some(known) = MORE_WALKS.get_ptr_mut(tid) {
        return Some(known);
    }
    // Any value will do for the buffers, and a program's stack is too small to make one.
    MORE_WALKS.insert(tid, unsafe { &*slot }, 1).ok()?;
    let window = WINDOWS.get(tid & (WALK_SLOTS - 1))?.get_ptr_mut(0)?;
    MORE_WINDOWS.insert(tid, unsafe { &*window }, 1).ok()?;
    let fresh = MORE_WALKS.get_ptr_mut(tid)?;
    // SAFETY: a map value, of this thread alone.
    unsafe {
        (*fresh).length = 0;
        (*fresh).barrier = 0;
    }
    Some(fresh)
}

/// CFAs of the frames of a thread's record before.
#[inline(always)]
pub(crate) fn cfas_before(tid: u32) -> Option<*const u64> {
    let slot = WALKS.get(tid & (WALK_SLOTS - 1))?.get_ptr(0)?;
    // SAFETY: a map value, of this thread alone.
    let state = if unsafe { (*slot).tid } == tid as u64 { slot } else { MORE_WALKS.get_ptr(tid)? };
    // SAFETY: as above.
    let buffer = unsafe { &raw const (*state).buffers[((*state).current & 1) as usize] };
    // SAFETY: as above.
    Some(unsafe { &raw const (*buffer).cfas }.cast::<u64>())
}

/// Where a thread's walks copy its stack to.
#[inline(always)]
fn window(tid: u32) -> Option<*mut u64> {
    let index = tid & (WALK_SLOTS - 1);
    let slot = WALKS.get(index)?.get_ptr(0)?;
    // SAFETY: a map value.
    let is_ours = unsafe { (*slot).tid } == tid as u64;
    let window = if is_ours { WINDOWS.get(index)?.get_ptr_mut(0) } else { MORE_WINDOWS.get_ptr_mut(tid) };
    Some(window?.cast())
}

/// Walks the stack of the running thread from the call that returns to `address` (0: to what stands below `sp`), where
/// `rsp` will be `sp` and rbp is `rbp`, into the buffer of the thread's [`WalkState`] that does not hold the record before.
#[inline(always)]
pub(crate) fn walk(tid: u32, address: u64, sp: u64, rbp: u64, space_and_limit: u64) -> Outcome {
    Outcome(walk_stack(tid, address, sp, rbp, space_and_limit))
}

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_stack(tid: u32, address: u64, sp: u64, rbp: u64, space_and_limit: u64) -> u64 {
    let Some(state) = memory(tid) else { return Outcome::new(0, 0, WalkEnd::NoRoom as u8, false).0 };
    let Some(window) = window(tid) else { return Outcome::new(0, 0, WalkEnd::NoRoom as u8, false).0 };
    // SAFETY: a map value, of this thread alone.
    let current = unsafe { (*state).current } & 1;
    let buffers = unsafe { &raw mut (*state).buffers };
    let mut walk = Walk {
        state,
        buffer: unsafe { &raw mut (*buffers)[(current ^ 1) as usize] },
        before: unsafe { &raw const (*buffers)[current as usize] },
        window,
        tid,
    };
    let (space, limit) = ((space_and_limit >> 32) as u32, space_and_limit as u32);
    // Rules of the stack before hold for its code.
    // SAFETY: as above.
    unsafe {
        if (*state).space != space {
            (*state).space = space;
            (*state).length = 0;
        }
    }
    *walk.now() = WalkProgress {
        address,
        call: address.wrapping_sub(1),
        sp,
        rbp,
        window_start: 0,
        window_bytes: 0,
        space,
        count: 0,
        end: WalkEnd::TooDeep as u32,
        before_count: unsafe { (*state).length },
        at: 0,
        run: NO_RUN,
        run_before: 0,
        limit: if limit < MAX_FRAMES as u32 { limit } else { MAX_FRAMES as u32 },
    };
    if address == 0 {
        let Some(found) = read(&walk, sp.wrapping_sub(8)) else {
            return Outcome::new(0, 0, WalkEnd::Unreadable as u8, false).0;
        };
        let now = walk.now();
        now.address = found;
        now.call = found.wrapping_sub(1);
    }
    // SAFETY: the callback has the signature that the helper calls, and `walk` outlives the call.
    unsafe { bpf_loop(2 * MAX_FRAMES as u32, step as *mut c_void, (&raw mut walk).cast(), 0) };
    let kept = kept(&mut walk);
    let same_cfa = partners(&walk).is_some_and(|partners| partners.cfa == partners.cfa_before);
    let now = walk.now();
    Outcome::new(now.count, kept, now.end as u8, same_cfa).0
}

/// What the steps of a walk work on. `bpf_loop` keeps the verifier from unrolling them.
#[repr(C)]
pub(crate) struct Walk {
    pub(crate) state: *mut WalkState,
    pub(crate) buffer: *mut StackBuffer,
    pub(crate) before: *const StackBuffer,
    pub(crate) window: *mut u64,
    pub(crate) tid: u32,
}

impl Walk {
    /// Where it is.
    #[inline(always)]
    pub(crate) fn now<'a>(&self) -> &'a mut WalkProgress {
        // SAFETY: a map value, of this thread alone.
        unsafe { &mut (*self.state).progress }
    }

    #[inline(always)]
    fn end(&self, end: WalkEnd) -> u64 {
        self.now().end = end as u32;
        1
    }
}

pub(crate) const NO_RUN: u32 = u32::MAX;

/// Some frames. Returns 1 to end the walk.
unsafe extern "C" fn step(_index: u32, walk: *mut Walk) -> u64 {
    // SAFETY: `bpf_loop` hands over the pointer that `walk_stack` gave it.
    let walk = unsafe { &*walk };
    match same(walk) {
        Met::Known => 0,
        Met::Outside if move_to(walk, partner_cfa(walk).wrapping_sub(8)) != 0 => 0,
        Met::Outside | Met::Other => frame(walk),
    }
}

/// The CFA of the next frame of the stack before.
#[inline(always)]
fn partner_cfa(walk: &Walk) -> u64 {
    // SAFETY: a map value of this thread alone; the index is below the length.
    unsafe { *(&raw const (*walk.before).cfas).cast::<u64>().add((walk.now().at & LAST) as usize) }
}

/// One frame. Returns 1 to end the walk.
#[inline(always)]
fn frame(walk: &Walk) -> u64 {
    let now = walk.now();
    if now.count >= now.limit {
        return 1;
    }
    let partner = partner(walk);
    let rule = if partner.address == now.address && partner.rule != Rule::special(SPECIAL_NONE).0 {
        Rule(partner.rule)
    } else {
        match rules::rule_at(now.call, now.space) {
            Ok(rule) => rule,
            Err(end) => return stray(walk, end as u32),
        }
    };
    let base = match rule.kind() {
        KIND_RSP => now.sp,
        KIND_RBP => now.rbp,
        _ => return unusual(walk, rule),
    };
    let cfa = base.wrapping_add((rule.cfa_words() * 8) as u64);
    note(walk, cfa, rule);
    let Some(address) = read(walk, cfa - 8) else { return walk.end(WalkEnd::Unreadable) };
    let slot = rule.rbp_slot();
    if slot != 0 {
        let Some(rbp) = read(walk, cfa - (slot * 8) as u64) else { return walk.end(WalkEnd::Unreadable) };
        now.rbp = rbp;
    }
    go_out(walk, address, cfa)
}

/// A frame in code without a rule. The kernel's return trampoline is page aligned and belongs to no file; ours were seen
/// through already.
#[inline(never)]
fn stray(walk: &Walk, end: u32) -> u64 {
    let now = walk.now();
    let foreign = end == WalkEnd::UnknownCode as u32 && now.address & 0xfff == 0;
    now.end = if foreign { WalkEnd::ForeignProbe as u32 } else { end };
    note(walk, now.sp + OUTERMOST, Rule::special(SPECIAL_NONE));
    1
}

/// A frame of the stack before, with its rule.
#[derive(Clone, Copy)]
struct Partner {
    address: u64,
    rule: u32,
}

/// The innermost frame of the stack before that lies further out than the callee of the one being looked at. If its
/// address is the same, so is its rule.
#[inline(always)]
fn partner(walk: &Walk) -> Partner {
    let now = walk.now();
    // SAFETY: a map value, of this thread alone.
    let (addresses, cfas, rules) = unsafe {
        (
            (&raw const (*walk.before).addresses).cast::<u64>(),
            (&raw const (*walk.before).cfas).cast::<u64>(),
            (&raw const (*walk.before).rules).cast::<u32>(),
        )
    };
    let mut at = now.at;
    for _ in 0..2 {
        // SAFETY: the index is below the length.
        if at >= now.before_count || unsafe { *cfas.add((at & LAST) as usize) } > now.sp {
            break;
        }
        at += 1;
    }
    // Far behind: the stack before was deeper. Frames lie in order, but for those on other stacks; what is missed then
    // is found in the end.
    // SAFETY: the index is below the length.
    if at < now.before_count && unsafe { *cfas.add((at & LAST) as usize) } <= now.sp {
        at = first_beyond(walk.tid, now.sp, at as u64 | (now.before_count as u64) << 32);
    }
    now.at = at;
    if at >= now.before_count {
        return Partner { address: 0, rule: 0 };
    }
    // SAFETY: the index is below the length.
    unsafe { Partner { address: *addresses.add((at & LAST) as usize), rule: *rules.add((at & LAST) as usize) } }
}

/// Of a thread's stack before, the first frame from `low` up to `high` (the halves of `range`) that lies further out than `sp`, by
/// halving. A function of its own for the verifier, which would go through it anew for each way that leads here.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn first_beyond(tid: u32, sp: u64, range: u64) -> u32 {
    let (mut low, mut high) = (range as u32, (range >> 32) as u32);
    let Some(cfas) = cfas_before(tid) else { return low };
    for _ in 0..9 {
        let middle = (low + high) >> 1;
        // SAFETY: the index is below the length.
        if low < high && unsafe { *cfas.add((middle & LAST) as usize) } <= sp {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

/// Goes on to the frame that a call returns to.
#[inline(always)]
fn go_out(walk: &Walk, found: u64, cfa: u64) -> u64 {
    let mut address = found;
    if address & 0xfff == 0 {
        if address == 0 {
            return walk.end(WalkEnd::Root);
        }
        address = original_return(walk.tid, cfa - 8, address);
    }
    let now = walk.now();
    now.address = address;
    now.call = address.wrapping_sub(1);
    now.sp = cfa;
    0
}

/// A frame with a rule that few frames have: root, wide, signal, PLT, or none that can be expressed.
#[inline(never)]
fn unusual(walk: &Walk, rule: Rule) -> u64 {
    let now = walk.now();
    if rule.kind() != KIND_WIDE {
        let code = rule.cfa_words();
        if code == SPECIAL_SIGNAL {
            return signal(walk, rule);
        }
        if code != SPECIAL_PLT {
            note(walk, now.sp + OUTERMOST, rule);
            return walk.end(if code == SPECIAL_ROOT { WalkEnd::Root } else { WalkEnd::Unsupported });
        }
        let cfa = now.sp + if now.call & 15 >= 11 { 16 } else { 8 };
        note(walk, cfa, rule);
        let Some(address) = read(walk, cfa - 8) else { return walk.end(WalkEnd::Unreadable) };
        return go_out(walk, address, cfa);
    }
    let Some(wide) = WIDE_RULES.get(rule.wide_index()) else { return walk.end(WalkEnd::Unsupported) };
    let base = if wide.cfa_base == BASE_RBP { now.rbp } else { now.sp };
    let mut cfa = base.wrapping_add(wide.cfa_offset as i64 as u64);
    if wide.cfa_deref != 0 {
        let Some(value) = read(walk, cfa) else {
            note(walk, now.sp + OUTERMOST, rule);
            return walk.end(WalkEnd::Unreadable);
        };
        cfa = value.wrapping_add(wide.cfa_add as i64 as u64);
    }
    note(walk, cfa, rule);
    let Some(address) = read(walk, cfa - 8) else { return walk.end(WalkEnd::Unreadable) };
    if wide.rbp_base != BASE_SAME {
        let saved = match wide.rbp_base {
            BASE_CFA => cfa,
            BASE_RBP => now.rbp,
            _ => now.sp,
        };
        let Some(rbp) = read(walk, saved.wrapping_add(wide.rbp_offset as i64 as u64)) else {
            return walk.end(WalkEnd::Unreadable);
        };
        now.rbp = rbp;
    }
    go_out(walk, address, cfa)
}

/// The frame that the kernel made to call a signal handler: behind it stands what was interrupted, wherever that was.
#[inline(always)]
fn signal(walk: &Walk, rule: Rule) -> u64 {
    let now = walk.now();
    let context = now.sp;
    let (Some(rip), Some(rsp), Some(rbp)) =
        (read(walk, context + UCONTEXT_RIP), read(walk, context + UCONTEXT_RSP), read(walk, context + UCONTEXT_RBP))
    else {
        note(walk, context + OUTERMOST, rule);
        return walk.end(WalkEnd::Unreadable);
    };
    note(walk, rsp, rule);
    // Not a call: the rule of this very instruction counts.
    now.address = rip.wrapping_add(1);
    now.call = rip;
    now.sp = rsp;
    now.rbp = rbp;
    0
}

/// Writes the frame down and compares it with its partner in the stack before.
#[inline(always)]
fn note(walk: &Walk, cfa: u64, rule: Rule) {
    let now = walk.now();
    let address = now.address;
    let index = now.count & LAST;
    // SAFETY: the index is below the length, in map values of this thread alone.
    let (partner, partner_cfa) = unsafe {
        *(&raw mut (*walk.buffer).addresses).cast::<u64>().add(index as usize) = address;
        *(&raw mut (*walk.buffer).cfas).cast::<u64>().add(index as usize) = cfa;
        *(&raw mut (*walk.buffer).rules).cast::<u32>().add(index as usize) = rule.0;
        let at = (now.at & LAST) as usize;
        (
            *(&raw const (*walk.before).addresses).cast::<u64>().add(at),
            *(&raw const (*walk.before).cfas).cast::<u64>().add(at),
        )
    };
    now.count = index + 1;
    let at = now.at;
    if at < now.before_count && partner == address && partner_cfa == cfa {
        let goes_on = now.run != NO_RUN && at.wrapping_sub(now.run_before) == index.wrapping_sub(now.run);
        if !goes_on {
            now.run = index;
            now.run_before = at;
        }
        now.at = at + 1;
    } else {
        now.run = NO_RUN;
    }
}

/// How many of the outermost frames are those of the record before: the longest common end of both lists.
///
/// The walk has found it nearly always: a run that reaches the end of both, and whose inner neighbours differ. Where it
/// has not (CFAs that do not grow, many frames passed at once), the lists are compared from the root.
#[inline(always)]
fn kept(walk: &mut Walk) -> u32 {
    let now = walk.now();
    let (count, before_count) = (now.count, now.before_count);
    if count == 0 || before_count == 0 {
        now.run = 0;
        return 0;
    }
    let aligned = now.run != NO_RUN && now.at == before_count;
    now.run = if aligned { count.wrapping_sub(now.run) } else { 0 };
    if partners_agree(walk) {
        // SAFETY: the callback has the signature that the helper calls, and `walk` outlives the call.
        unsafe { bpf_loop(MAX_FRAMES as u32, compare as *mut c_void, (&raw mut *walk).cast(), 0) };
    }
    now.run
}

/// Compares one more pair of frames, further in. Returns 1 at the first that differs.
unsafe extern "C" fn compare(_index: u32, walk: *mut Walk) -> u64 {
    // SAFETY: `bpf_loop` hands over the pointer that `kept` gave it.
    let walk = unsafe { &*walk };
    if !partners_agree(walk) {
        return 1;
    }
    walk.now().run += 1;
    0
}

/// Two frames with as many frames outside of them, one of each list.
struct Partners {
    address: u64,
    address_before: u64,
    cfa: u64,
    cfa_before: u64,
}

/// The frames of both lists with `run` frames outside of them.
#[inline(always)]
fn partners(walk: &Walk) -> Option<Partners> {
    let now = walk.now();
    let ours = now.count.wrapping_sub(now.run).wrapping_sub(1);
    if ours > LAST {
        return None;
    }
    // SAFETY: the index is below the length. Volatile: the compiler must not join both tests of an index into one, which
    // the verifier does not follow.
    let (address, cfa) = unsafe {
        (
            (&raw const (*walk.buffer).addresses).cast::<u64>().add(ours as usize).read_volatile(),
            (&raw const (*walk.buffer).cfas).cast::<u64>().add(ours as usize).read_volatile(),
        )
    };
    let theirs = now.before_count.wrapping_sub(now.run).wrapping_sub(1);
    if theirs > LAST {
        return None;
    }
    // SAFETY: the index is below the length.
    let (address_before, cfa_before) = unsafe {
        (
            *(&raw const (*walk.before).addresses).cast::<u64>().add(theirs as usize),
            *(&raw const (*walk.before).cfas).cast::<u64>().add(theirs as usize),
        )
    };
    Some(Partners { address, address_before, cfa, cfa_before })
}

/// Whether both lists have a frame with `run` frames outside of it, and the same.
#[inline(always)]
fn partners_agree(walk: &Walk) -> bool {
    partners(walk)
        .is_some_and(|partners| partners.address == partners.address_before && partners.cfa == partners.cfa_before)
}

/// A return probe replaces a return address by the kernel's trampoline, which is page aligned; the pending call
/// remembers what stood there. A function of its own for the verifier.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn original_return(tid: u32, slot: u64, found: u64) -> u64 {
    let Some(thread) = threads::find(tid) else { return found };
    // SAFETY: a map value.
    let thread = unsafe { &*thread };
    let mut address = found;
    for index in 0..PENDING_DEPTH {
        let call = &thread.pending[index];
        if (index as u32) < thread.depth && call.slot == slot && call.return_address != 0 {
            address = call.return_address;
        }
    }
    address
}
