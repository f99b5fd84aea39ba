//! Walks frames that are what they were in the thread's stack before, a *run* of them. Responsible for knowing them
//! again at least cost; every other frame is `walk`'s business.
//!
//! A run begins at a frame with the address, the CFA and (where that matters) the rbp of one of the stack before. From there
//! on, a frame is what it was if the word that tells how the walk goes on is, its return address:
//!
//! ```text
//!   before   address a at CFA A ──▶ [A - 8] = b   address b at CFA B = A + rule of b ──▶ [B - 8] = c   …
//!   now      the same a and A   ──▶ [A - 8] = b?  so the same rule of b, the same B   ──▶ [B - 8] = c? …
//! ```
//!
//! So frames of a run cost one comparison each, and nothing is written down for them: known frames stand in order from the
//! root, where those that stay keep their places. A few need more than that word (*aside*): one that saved an rbp which a
//! frame further out counts its CFA from, the outermost one, one that returns to a return probe, and those with rules
//! or CFAs that hardly any has.
//!
//! A run that does not reach the root was none: the walk goes back to where it began, and takes frame by frame up to the one
//! that differs.

use probe_abi::{
    RULE_NEEDS_RBP, SLOT_ASIDE, WINDOW_BYTES,
    unwind::{
        BASE_CFA, BASE_RBP, BASE_SAME, KIND_RBP, KIND_RSP, KIND_WIDE, Rule, SPECIAL_NONE, SPECIAL_ROOT,
        SPECIAL_UNSUPPORTED, WalkEnd,
    },
};

use crate::{
    maps::WIDE_RULES,
    rules,
    walk::{LAST, Partner, Walk, cfa_of, foreign_or},
    window::{move_to, read},
};

/// Whether the frame being looked at begins a run: it is what its partner was, and so may be all that is further out.
#[inline(always)]
pub(crate) fn begins(walk: &Walk, partner: Partner) -> bool {
    let now = walk.now();
    let left = now.left;
    if left == 0 || left >= now.run_below || partner.address != now.address || now.count + left > now.limit {
        return false;
    }
    let rule = partner.rule();
    let base = match rule.kind() {
        KIND_RSP => now.sp,
        KIND_RBP => now.rbp,
        _ => return false,
    };
    if base.wrapping_add((rule.cfa_words() * 8) as u64) != partner.cfa {
        return false;
    }
    // SAFETY: a map value of this thread alone; the index is below the length.
    partner.rule & RULE_NEEDS_RBP == 0
        || now.rbp
            == unsafe { *(&raw const (*walk.known).rbps).cast::<u64>().add((left.wrapping_sub(1) & LAST) as usize) }
}

/// Goes on with a run. Returns 1 to end the walk.
#[inline(always)]
pub(crate) fn go_on(walk: &Walk) -> u64 {
    let now = walk.now();
    let last = (now.left.wrapping_sub(1) & LAST) as usize;
    // SAFETY: map values of this thread alone. What lies some places in front of a column belongs to the value, too;
    // nothing in front of the outermost frame is looked at, since that stands aside.
    let known = unsafe {
        Known {
            slots: (&raw const (*walk.known).slots).cast::<u64>().add(last),
            addresses: (&raw const (*walk.known).addresses).cast::<u64>().add(last),
            window: walk.window.cast_const(),
            window_start: now.window_start,
            window_bytes: now.window_bytes,
        }
    };
    // Each with its place as a constant: all are then found at a constant distance from a pointer for each column.
    macro_rules! follow {
        ($($at:literal)*) => {
            'run: {
                $(match known.follow::<$at>() {
                    Met::Known => {}
                    met => break 'run (met, $at),
                })*
                (Met::Known, follow!(@count $($at)*))
            }
        };
        (@count $($at:literal)*) => { 0 $(+ { let _ = $at; 1 })* };
    }
    let (met, passed) = follow!(0 1 2 3 4 5 6 7);
    now.left -= passed;
    match met {
        Met::Known => 0,
        Met::Outside => aside(walk),
        Met::Other => go_back(walk),
    }
}

/// What the next frame of a run is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Met {
    /// What it was.
    Known,
    /// Outside of the window, or aside.
    Outside,
    /// Another one.
    Other,
}

/// Known frames, from the one that a run has come to on.
struct Known {
    slots: *const u64,
    addresses: *const u64,
    window: *const u64,
    window_start: u64,
    window_bytes: u64,
}

impl Known {
    /// Follows the call of one frame, the one after `AT` others.
    #[inline(always)]
    fn follow<const AT: usize>(&self) -> Met {
        // SAFETY: as the caller says.
        let offset = unsafe { *self.slots.sub(AT) }.wrapping_sub(self.window_start);
        if offset >= self.window_bytes {
            return Met::Outside;
        }
        // SAFETY: the index is below the length; as the caller says.
        let (found, known) =
            unsafe { (*self.window.add((offset >> 3) as usize & (WINDOW_BYTES / 8 - 1)), *self.addresses.sub(AT + 1)) };
        if found == known { Met::Known } else { Met::Other }
    }
}

/// A frame of a run whose slot is outside of the window, or that stands aside. Returns 1 to end the walk.
#[inline(never)]
fn aside(walk: &Walk) -> u64 {
    let now = walk.now();
    let index = now.left.wrapping_sub(1);
    if index > LAST {
        return go_back(walk);
    }
    // SAFETY: map values of this thread alone; the index is below the length.
    let (slot, rule) = unsafe {
        (
            *(&raw const (*walk.known).slots).cast::<u64>().add(index as usize),
            *(&raw const (*walk.known).rules).cast::<u32>().add(index as usize),
        )
    };
    if slot & SLOT_ASIDE == 0 {
        return if move_to(walk, slot) != 0 { 0 } else { go_back(walk) };
    }
    let (slot, plain) = (slot & !SLOT_ASIDE, Rule(rule & !RULE_NEEDS_RBP));
    if index == 0 {
        return outermost(walk, slot, plain);
    }
    let cfa = slot + 8;
    let saved = if plain.kind() <= KIND_RBP {
        if plain.rbp_slot() == 0 { 0 } else { cfa.wrapping_sub((plain.rbp_slot() * 8) as u64) }
    } else {
        match saved_by_wide(walk, plain, cfa) {
            Some(saved) => saved,
            None => return go_back(walk),
        }
    };
    // SAFETY: as above. Volatile: the compiler must not leave out the mask, which the verifier needs.
    let (address, rule, rbp) = unsafe {
        let outer = ((&raw const now.left).read_volatile().wrapping_sub(2) & LAST) as usize;
        (
            *(&raw const (*walk.known).addresses).cast::<u64>().add(outer),
            *(&raw const (*walk.known).rules).cast::<u32>().add(outer),
            *(&raw const (*walk.known).rbps).cast::<u64>().add(outer),
        )
    };
    // What stands behind a return probe is not told by its address.
    if address & 0xfff == 0 || read(walk, slot) != Some(address) {
        return go_back(walk);
    }
    if saved != 0 && rule & RULE_NEEDS_RBP != 0 && read(walk, saved) != Some(rbp) {
        return go_back(walk);
    }
    now.left = index;
    0
}

/// Where a frame of a run with a wide rule saved rbp, 0 where it did not; nothing where its CFA is another than `cfa`,
/// or its rule not wide.
#[inline(always)]
fn saved_by_wide(walk: &Walk, rule: Rule, cfa: u64) -> Option<u64> {
    if rule.kind() != KIND_WIDE {
        return None;
    }
    let now = walk.now();
    let wide = WIDE_RULES.get(rule.wide_index())?;
    // SAFETY: map values of this thread alone; the indices are below the length.
    let (rbp, callee) = unsafe {
        (
            *(&raw const (*walk.known).rbps).cast::<u64>().add((now.left.wrapping_sub(1) & LAST) as usize),
            *(&raw const (*walk.known).slots).cast::<u64>().add((now.left & LAST) as usize),
        )
    };
    // A run begins at a plain frame, so this one has a callee in it.
    let sp = cfa_of(callee);
    if wide.cfa_deref != 0 {
        let base = if wide.cfa_base == BASE_RBP { rbp } else { sp };
        let value = read(walk, base.wrapping_add(wide.cfa_offset as i64 as u64))?;
        if value.wrapping_add(wide.cfa_add as i64 as u64) != cfa {
            return None;
        }
    }
    let base = match wide.rbp_base {
        BASE_SAME => return Some(0),
        BASE_CFA => cfa,
        BASE_RBP => rbp,
        _ => sp,
    };
    Some(base.wrapping_add(wide.rbp_offset as i64 as u64))
}

/// The outermost frame of the stack before, at the end of a run. The walk ends here as it did then, if that can be told at once.
#[inline(always)]
fn outermost(walk: &Walk, slot: u64, rule: Rule) -> u64 {
    let now = walk.now();
    let end = if rule.kind() <= KIND_RBP {
        match read(walk, slot) {
            Some(0) => WalkEnd::Root as u32,
            Some(_) if now.count + now.run == now.limit => WalkEnd::TooDeep as u32,
            Some(_) => return go_back(walk),
            None => WalkEnd::Unreadable as u32,
        }
    } else if rule == Rule::special(SPECIAL_ROOT) {
        WalkEnd::Root as u32
    } else if rule == Rule::special(SPECIAL_UNSUPPORTED) {
        WalkEnd::Unsupported as u32
    } else if rule == Rule::special(SPECIAL_NONE) {
        // SAFETY: a map value of this thread alone.
        let address = unsafe { *(&raw const (*walk.known).addresses).cast::<u64>() };
        match rules::rule_at(address.wrapping_sub(1), now.space) {
            Ok(_) => return go_back(walk),
            Err(end) => foreign_or(end as u32, address),
        }
    } else {
        return go_back(walk);
    };
    now.end = end;
    now.kept = now.run;
    1
}

/// Ends a run before its end: the frame that it has come to does not call what it called before.
#[inline(always)]
fn go_back(walk: &Walk) -> u64 {
    let now = walk.now();
    now.run_below = now.left;
    now.left = now.run;
    now.run = 0;
    0
}
