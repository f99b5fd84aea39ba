//! Walks the user stack with the unwind tables. Responsible for the frames of a call, which of them the thread's record
//! before had already, and how the walk ended; where rules come from is `rules`' business.
//!
//! ```text
//!                     frames of this call        known frames, those of the record before
//!   malloc's caller   a  (address, CFA)          x
//!                     b                          b [2]   same address and CFA from here to the root:
//!                     c                          c [1]   kept = 3, and only `a` is fresh and goes to the ring
//!   _start            d                          d [0]
//! ```
//!
//! Every frame is walked and compared, none is taken for granted: a return address deep in the stack changes while the
//! ones around it stay. Those that are what they were are walked by `run`. Stack memory is read through a *window*, a
//! copy that is made anew when a slot lies outside of it: one copy costs about as much as two single reads. CFAs are
//! not assumed to grow (fibers, signal stacks).

use core::{
    ffi::c_void,
    intrinsics::{AtomicOrdering::Relaxed, atomic_cxchg},
};

use aya_ebpf::helpers::generated::bpf_loop;
use probe_abi::{
    FreshFrames, KnownFrames, MAX_FRAMES, PENDING_DEPTH, RULE_NEEDS_RBP, SLOT_ASIDE, WALK_SLOTS, WalkProgress,
    WalkState,
    unwind::{
        BASE_CFA, BASE_RBP, BASE_SAME, KIND_RBP, KIND_RSP, KIND_WIDE, Rule, SPECIAL_NONE, SPECIAL_PLT, SPECIAL_ROOT,
        SPECIAL_SIGNAL, UCONTEXT_RBP, UCONTEXT_RIP, UCONTEXT_RSP, WalkEnd,
    },
};

use crate::{
    maps::{MORE_WALKS, MORE_WINDOWS, WALKS, WIDE_RULES, WINDOWS},
    rules, run, threads,
    window::read,
};

pub(crate) const LAST: u32 = MAX_FRAMES as u32 - 1;
/// The CFA of a frame whose own is not known: this far above its callee's, where `_start` has it.
const OUTERMOST: u64 = 8;

/// What a walk found; packed into one word because it is the result of a function that the verifier checks by itself.
#[derive(Clone, Copy)]
pub(crate) struct Outcome(u64);

impl Outcome {
    #[inline(always)]
    fn new(fresh: u32, kept: u32, end: u8, same_cfa: bool) -> Self {
        Self(fresh as u64 | (kept as u64) << 16 | (end as u64) << 32 | (same_cfa as u64) << 40)
    }

    /// Frames that are not those of the record before, the innermost.
    #[inline(always)]
    pub(crate) fn fresh(self) -> u32 {
        self.0 as u32 & 0xffff
    }

    /// Frames that are, the outermost.
    #[inline(always)]
    pub(crate) fn kept(self) -> u32 {
        (self.0 >> 16) as u32 & 0xffff
    }

    /// How it ended, a [`WalkEnd`].
    #[inline(always)]
    pub(crate) fn end(self) -> u8 {
        (self.0 >> 32) as u8
    }

    /// Whether the outermost fresh frame has the CFA that the one in its place had before.
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
    // Who is there stays there, even once its slot is free: what is known of its frames is.
    if let Some(known) = MORE_WALKS.get_ptr_mut(tid) {
        return Some(known);
    }
    let owner = unsafe { &raw mut (*slot).tid };
    // SAFETY: the field is aligned and lives in a map value.
    let (_, taken) = unsafe { atomic_cxchg::<u64, { Relaxed }, { Relaxed }>(owner, 0, tid as u64) };
    if taken {
        return Some(slot);
    }
    // Any value will do for the frames, and a program's stack is too small to make one.
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

/// The CFA of the function whose return address stands in a known slot.
#[inline(always)]
pub(crate) fn cfa_of(slot: u64) -> u64 {
    (slot & !SLOT_ASIDE) + 8
}

/// A thread's memory, and where its walks copy its stack to.
#[inline(always)]
pub(crate) fn memory_and_window(tid: u32) -> Option<(*mut WalkState, *mut u64)> {
    let index = tid & (WALK_SLOTS - 1);
    let slot = WALKS.get(index)?.get_ptr_mut(0)?;
    // SAFETY: a map value.
    if unsafe { (*slot).tid } == tid as u64 {
        return Some((slot, WINDOWS.get(index)?.get_ptr_mut(0)?.cast()));
    }
    Some((MORE_WALKS.get_ptr_mut(tid)?, MORE_WINDOWS.get_ptr_mut(tid)?.cast()))
}

/// Walks the stack of the running thread from the call that returns to `address` (0: to what stands below `sp`), where
/// `rsp` will be `sp` and rbp is `rbp`: into the fresh frames of the thread's [`WalkState`] as far as they are not
/// those of the record before.
#[inline(always)]
pub(crate) fn walk(tid: u32, address: u64, sp: u64, rbp: u64, space_and_limit: u64) -> Outcome {
    Outcome(walk_stack(tid, address, sp, rbp, space_and_limit))
}

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn walk_stack(tid: u32, address: u64, sp: u64, rbp: u64, space_and_limit: u64) -> u64 {
    if memory(tid).is_none() {
        return Outcome::new(0, 0, WalkEnd::NoRoom as u8, false).0;
    }
    let Some((state, window)) = memory_and_window(tid) else {
        return Outcome::new(0, 0, WalkEnd::NoRoom as u8, false).0;
    };
    // SAFETY: a map value, of this thread alone.
    let mut walk =
        unsafe { Walk { state, fresh: &raw mut (*state).fresh, known: &raw mut (*state).known, window, tid } };
    let (space, limit) = ((space_and_limit >> 32) as u32, space_and_limit as u32);
    // Rules of the stack before hold for its code.
    // SAFETY: a map value, of this thread alone.
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
        innermost: address,
        space,
        count: 0,
        end: WalkEnd::TooDeep as u32,
        // SAFETY: as above.
        left: unsafe { (*state).length },
        run: 0,
        run_below: u32::MAX,
        kept: 0,
        limit: if limit < MAX_FRAMES as u32 { limit } else { MAX_FRAMES as u32 },
    };
    if address == 0 {
        let Some(found) = read(&walk, sp.wrapping_sub(8)) else {
            return Outcome::new(0, 0, WalkEnd::Unreadable as u8, false).0;
        };
        let now = walk.now();
        now.innermost = found;
        now.address = found;
        now.call = found.wrapping_sub(1);
    }
    // SAFETY: the callback has the signature that the helper calls, and `walk` outlives the call.
    unsafe { bpf_loop(MOST_STEPS, step as *mut c_void, (&raw mut walk).cast(), 0) };
    keep_more(&mut walk);
    let same_cfa = partners(&walk).is_some_and(|partners| partners.cfa == partners.cfa_known);
    let now = walk.now();
    Outcome::new(now.count, now.kept, now.end as u8, same_cfa).0
}

/// What the steps of a walk work on. `bpf_loop` keeps the verifier from unrolling them.
#[repr(C)]
pub(crate) struct Walk {
    pub(crate) state: *mut WalkState,
    pub(crate) fresh: *mut FreshFrames,
    pub(crate) known: *mut KnownFrames,
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

/// Each frame is at most passed in a run, moved a window for, where a run ends, and walked by itself.
const MOST_STEPS: u32 = 4 * MAX_FRAMES as u32 + 8;

/// One frame, or some of a run. Returns 1 to end the walk.
unsafe extern "C" fn step(_index: u32, walk: *mut Walk) -> u64 {
    // SAFETY: `bpf_loop` hands over the pointer that `walk_stack` gave it.
    let walk = unsafe { &*walk };
    let now = walk.now();
    if now.run == 0 {
        let partner = partner(walk);
        if !run::begins(walk, partner) {
            return frame(walk, partner);
        }
        now.run = now.left;
    }
    run::go_on(walk)
}

/// One frame. Returns 1 to end the walk.
#[inline(always)]
fn frame(walk: &Walk, partner: Partner) -> u64 {
    let now = walk.now();
    if now.count >= now.limit {
        return 1;
    }
    let rule = if partner.address == now.address && partner.rule() != Rule::special(SPECIAL_NONE) {
        partner.rule()
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
    now.end = foreign_or(end, now.address);
    note(walk, now.sp + OUTERMOST, Rule::special(SPECIAL_NONE));
    1
}

/// `end`, unless it is another's return probe that stands at `address`.
#[inline(always)]
pub(crate) fn foreign_or(end: u32, address: u64) -> u32 {
    let foreign = end == WalkEnd::UnknownCode as u32 && address & 0xfff == 0;
    if foreign { WalkEnd::ForeignProbe as u32 } else { end }
}

/// A known frame.
#[derive(Clone, Copy)]
pub(crate) struct Partner {
    pub(crate) address: u64,
    pub(crate) cfa: u64,
    /// With [`RULE_NEEDS_RBP`].
    pub(crate) rule: u32,
}

impl Partner {
    #[inline(always)]
    pub(crate) fn rule(self) -> Rule {
        Rule(self.rule & !RULE_NEEDS_RBP)
    }
}

/// The innermost known frame that lies further out than the callee of the one being looked at. If its address is the same, so is
/// its rule.
#[inline(always)]
fn partner(walk: &Walk) -> Partner {
    let now = walk.now();
    // SAFETY: a map value, of this thread alone.
    let slots = unsafe { (&raw const (*walk.known).slots).cast::<u64>() };
    // SAFETY: the index is below the length.
    let cfa = |left: u32| cfa_of(unsafe { *slots.add((left.wrapping_sub(1) & LAST) as usize) });
    let mut left = now.left;
    for _ in 0..2 {
        if left == 0 || cfa(left) > now.sp {
            break;
        }
        left -= 1;
    }
    // Far behind: the stack before was deeper. Frames lie in order, but for those on other stacks; what is missed then
    // is found in the end.
    if left != 0 && cfa(left) <= now.sp {
        left = left_beyond(walk.tid, now.sp, left);
    }
    now.left = left;
    if left == 0 {
        return Partner { address: 0, cfa: 0, rule: 0 };
    }
    let index = (left.wrapping_sub(1) & LAST) as usize;
    // SAFETY: the index is below the length.
    unsafe {
        Partner {
            address: *(&raw const (*walk.known).addresses).cast::<u64>().add(index),
            cfa: cfa(left),
            rule: *(&raw const (*walk.known).rules).cast::<u32>().add(index),
        }
    }
}

/// How many of a thread's `left` outermost known frames lie further out than `sp`, by halving. A function of its own
/// for the verifier, which would go through it anew for each way that leads here.
#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn left_beyond(tid: u32, sp: u64, left: u32) -> u32 {
    let (mut low, mut high) = (0u32, left);
    let Some((state, _)) = memory_and_window(tid) else { return 0 };
    // SAFETY: a map value, of this thread alone.
    let slots = unsafe { (&raw const (*state).known.slots).cast::<u64>() };
    for _ in 0..10 {
        let middle = (low + high) >> 1;
        // SAFETY: the index is below the length.
        if low < high && cfa_of(unsafe { *slots.add((middle & LAST) as usize) }) > sp {
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

/// Writes a fresh frame down.
#[inline(always)]
fn note(walk: &Walk, cfa: u64, rule: Rule) {
    let now = walk.now();
    let index = (now.count & LAST) as usize;
    // SAFETY: the index is below the length, in a map value of this thread alone.
    unsafe {
        *(&raw mut (*walk.fresh).addresses).cast::<u64>().add(index) = now.address;
        *(&raw mut (*walk.fresh).cfas).cast::<u64>().add(index) = cfa;
        *(&raw mut (*walk.fresh).rbps).cast::<u64>().add(index) = now.rbp;
        *(&raw mut (*walk.fresh).rules).cast::<u32>().add(index) = rule.0;
    }
    now.count = index as u32 + 1;
}

/// Keeps known frames that were walked as fresh ones: kept are as many of the outermost frames as both stacks share.
///
/// Nearly always that is what the last run has found. Where there was none to the root (CFAs that do not grow, rules that are not
/// plain), frames are compared from the root.
#[inline(always)]
fn keep_more(walk: &mut Walk) {
    if partners_agree(walk) {
        // SAFETY: the callback has the signature that the helper calls, and `walk` outlives the call.
        unsafe { bpf_loop(MAX_FRAMES as u32, keep as *mut c_void, (&raw mut *walk).cast(), 0) };
    }
}

/// Keeps one more frame, further in. Returns 1 at the first that differs.
unsafe extern "C" fn keep(_index: u32, walk: *mut Walk) -> u64 {
    // SAFETY: `bpf_loop` hands over the pointer that `keep_more` gave it.
    let walk = unsafe { &*walk };
    if !partners_agree(walk) {
        return 1;
    }
    let now = walk.now();
    let (ours, theirs) = ((now.count.wrapping_sub(1) & LAST) as usize, (now.kept & LAST) as usize);
    // A run takes all values of rbp from one walk.
    // SAFETY: the indices are below the lengths, in map values of this thread alone.
    unsafe {
        *(&raw mut (*walk.known).rbps).cast::<u64>().add(theirs) =
            *(&raw const (*walk.fresh).rbps).cast::<u64>().add(ours);
    }
    now.count -= 1;
    now.kept += 1;
    0
}

/// The outermost fresh frame, and the known one in its place.
struct Partners {
    address: u64,
    address_known: u64,
    cfa: u64,
    cfa_known: u64,
}

/// See [`Partners`].
#[inline(always)]
fn partners(walk: &Walk) -> Option<Partners> {
    let now = walk.now();
    let ours = now.count.wrapping_sub(1);
    if ours > LAST {
        return None;
    }
    // SAFETY: the index is below the length. Volatile: the compiler must not join both tests of an index into one, which
    // the verifier does not follow.
    let (address, cfa) = unsafe {
        (
            (&raw const (*walk.fresh).addresses).cast::<u64>().add(ours as usize).read_volatile(),
            (&raw const (*walk.fresh).cfas).cast::<u64>().add(ours as usize).read_volatile(),
        )
    };
    let theirs = now.kept;
    // SAFETY: a map value, of this thread alone.
    if theirs >= unsafe { (*walk.state).length } || theirs > LAST {
        return None;
    }
    // SAFETY: the index is below the length.
    let (address_known, slot) = unsafe {
        (
            *(&raw const (*walk.known).addresses).cast::<u64>().add(theirs as usize),
            *(&raw const (*walk.known).slots).cast::<u64>().add(theirs as usize),
        )
    };
    // Both as a slot tells them, should one be no address.
    Some(Partners { address, address_known, cfa: cfa_of(cfa.wrapping_sub(8)), cfa_known: cfa_of(slot) })
}

/// Whether both stacks have such a frame, and the same.
#[inline(always)]
fn partners_agree(walk: &Walk) -> bool {
    partners(walk)
        .is_some_and(|partners| partners.address == partners.address_known && partners.cfa == partners.cfa_known)
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
