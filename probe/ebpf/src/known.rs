//! Takes the fresh frames of a walk among the known ones, once their record is in the ring. Responsible for what a run relies on:
//! which frames stand aside, and from where on the value of rbp matters.
//!
//! ```text
//!   frame          f      e      d      c      b      a (root)
//!   CFA from       rsp    rsp    rsp    rbp    rsp    undefined
//!   saves rbp      yes    no     yes    yes    no
//!   needs rbp      no     no     no     yes    no     no        c's CFA, from the rbp that d saved
//!   aside                        yes                  yes       so d's saved rbp must be what it was, too
//! ```

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use probe_abi::{
    RULE_NEEDS_RBP, SLOT_ASIDE, WalkState,
    unwind::{KIND_RBP, KIND_WIDE, Rule},
};

use crate::{
    walk::{LAST, cfa_of},
    window::FAR_BYTES,
};

/// Makes the stack of the thread's last walk the known one: `count` fresh frames, and `kept` outermost ones that were known.
#[inline(always)]
pub(crate) fn take(state: *mut WalkState, count: u32, kept: u32) {
    let mut context = state;
    // SAFETY: the callback has the signature that the helper calls, and `context` outlives the call.
    unsafe { bpf_loop(count, take_one as *mut c_void, (&raw mut context).cast(), 0) };
    // SAFETY: as above.
    unsafe { (*state).length = kept + count };
}

/// Takes one frame, the outermost first.
unsafe extern "C" fn take_one(index: u32, context: *mut *mut WalkState) -> u64 {
    // SAFETY: `bpf_loop` hands over the pointer that `take` gave it, to a map value of this thread alone.
    let state = unsafe { *context };
    let (count, kept) = unsafe { ((*state).progress.count, (*state).progress.kept) };
    let from = (count.wrapping_sub(1).wrapping_sub(index) & LAST) as usize;
    let to = kept.wrapping_add(index) & LAST;
    // SAFETY: the indices are below the lengths.
    unsafe {
        let fresh = &raw const (*state).fresh;
        let known = &raw mut (*state).known;
        let rules = (&raw mut (*known).rules).cast::<u32>();
        let cfa = *(&raw const (*fresh).cfas).cast::<u64>().add(from);
        let rule = Rule(*(&raw const (*fresh).rules).cast::<u32>().add(from));
        let outer_needs_rbp = to > 0 && *rules.add((to.wrapping_sub(1) & LAST) as usize) & RULE_NEEDS_RBP != 0;
        let outer_cfa = cfa_of(*(&raw const (*known).slots).cast::<u64>().add((to.wrapping_sub(1) & LAST) as usize));
        let gap = outer_cfa.wrapping_sub(cfa);
        let mut extent = 0;
        if to > 0 && gap <= FAR_BYTES {
            extent =
                gap as u32 + *(&raw const (*known).extents).cast::<u32>().add((to.wrapping_sub(1) & LAST) as usize);
        }
        let plain = rule.kind() <= KIND_RBP;
        let needs_rbp = if plain {
            rule.kind() == KIND_RBP || rule.rbp_slot() == 0 && outer_needs_rbp
        } else {
            rule.kind() == KIND_WIDE
        };
        let returns_to = *(&raw const (*known).addresses).cast::<u64>().add((to.wrapping_sub(1) & LAST) as usize);
        let aside =
            to == 0 || !plain || rule.rbp_slot() != 0 && outer_needs_rbp || cfa & 7 != 0 || returns_to & 0xfff == 0;
        let to = to as usize;
        *(&raw mut (*known).slots).cast::<u64>().add(to) =
            cfa.wrapping_sub(8) & !SLOT_ASIDE | if aside { SLOT_ASIDE } else { 0 };
        *(&raw mut (*known).addresses).cast::<u64>().add(to) = *(&raw const (*fresh).addresses).cast::<u64>().add(from);
        *(&raw mut (*known).rbps).cast::<u64>().add(to) = *(&raw const (*fresh).rbps).cast::<u64>().add(from);
        *(&raw mut (*known).extents).cast::<u32>().add(to) = extent;
        *rules.add(to) = rule.0 | if needs_rbp { RULE_NEEDS_RBP } else { 0 };
    }
    0
}
