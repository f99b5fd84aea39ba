//! Walks frames that are what they were in the thread's stack before. Responsible for knowing them again at least cost; every other frame is
//! `walk`'s business.

use probe_abi::{
    WINDOW_BYTES,
    unwind::{KIND_RBP, KIND_RSP, Rule},
};

use crate::walk::{LAST, NO_RUN, Walk};

/// What [`same`] met in the end.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Met {
    /// Nothing but frames that are what they were.
    Known,
    /// One that may be, but outside of the window.
    Outside,
    /// Another one.
    Other,
}

/// Walks frames that are what they were, up to eight of them: the same return address at the same CFA, within the
/// window, by a plain rule. It does what `frame` does, for most frames, in a fraction of the instructions:
///
/// ```text
///   before   address a ── rule of a ──▶ CFA of a          next frame: address b at CFA of a - 8, rule of b, CFA of b
///   now      address a, the same CFA ⇒ read CFA - 8: is it b?   yes, and b's rule counts from the CFA below ⇒ same CFA
/// ```
///
/// So only the first frame's CFA is computed, and those that count from rbp.
#[inline(always)]
pub(crate) fn same(walk: &Walk) -> Met {
    let now = walk.now();
    let (count, at) = (now.count, now.at);
    if at >= now.before_count || count >= now.limit {
        return Met::Other;
    }
    let left = if now.before_count - at < now.limit - count { now.before_count - at } else { now.limit - count };
    let (from, to) = ((at & LAST) as usize, (count & LAST) as usize);
    // SAFETY: map values of this thread alone; the indices are below the lengths, and what lies up to eight places behind the
    // last one belongs to the map value too.
    let mut run = unsafe {
        Run {
            before: (&raw const (*walk.before).addresses).cast::<u64>().add(from),
            before_cfas: (&raw const (*walk.before).cfas).cast::<u64>().add(from),
            before_rules: (&raw const (*walk.before).rules).cast::<Rule>().add(from),
            addresses: (&raw mut (*walk.buffer).addresses).cast::<u64>().add(to),
            cfas: (&raw mut (*walk.buffer).cfas).cast::<u64>().add(to),
            rules: (&raw mut (*walk.buffer).rules).cast::<Rule>().add(to),
            window: walk.window.cast_const(),
            window_start: now.window_start,
            window_bytes: now.window_bytes,
            left,
            taken: 0,
            address: now.address,
            sp: now.sp,
            rbp: now.rbp,
        }
    };
    // Each with its place as a constant: all are then found at a constant distance from a pointer for each column.
    macro_rules! take {
        ($($at:literal)*) => {
            'run: {
                $(if let Some(met) = run.take::<$at>() {
                    break 'run met;
                })*
                Met::Known
            }
        };
    }
    let met = take!(0 1 2 3 4 5 6 7);
    if run.taken > 0 && now.run == NO_RUN {
        now.run = count;
        now.run_before = at;
    }
    now.count = count + run.taken;
    now.at = at + run.taken;
    now.sp = run.sp;
    now.address = run.address;
    now.call = run.address.wrapping_sub(1);
    now.rbp = run.rbp;
    met
}

/// Frames that are what they were, being walked.
struct Run {
    /// From the next frame of the stack before on.
    before: *const u64,
    before_cfas: *const u64,
    before_rules: *const Rule,
    /// Where the next frame goes.
    addresses: *mut u64,
    cfas: *mut u64,
    rules: *mut Rule,
    window: *const u64,
    window_start: u64,
    window_bytes: u64,
    /// Frames that the stack before has, or this one may have.
    left: u32,
    taken: u32,
    address: u64,
    sp: u64,
    rbp: u64,
}

impl Run {
    /// Takes one frame, the one after `AT` others. What it met, if that is not such a frame.
    #[inline(always)]
    fn take<const AT: usize>(&mut self) -> Option<Met> {
        if AT > 0 && AT as u32 >= self.left {
            return Some(Met::Known);
        }
        // SAFETY: as the caller says.
        let (partner, rule) = unsafe { (*self.before.add(AT), *self.before_rules.add(AT)) };
        if partner != self.address || rule.kind() > KIND_RBP {
            return Some(Met::Other);
        }
        // SAFETY: as the caller says.
        let cfa = unsafe { *self.before_cfas.add(AT) };
        if AT == 0 || rule.kind() == KIND_RBP {
            let base = if rule.kind() == KIND_RSP { self.sp } else { self.rbp };
            if cfa != base.wrapping_add((rule.cfa_words() * 8) as u64) || cfa & 7 != self.window_start & 7 {
                return Some(Met::Other);
            }
        }
        let offset = cfa.wrapping_sub(8).wrapping_sub(self.window_start);
        if offset >= self.window_bytes {
            return Some(Met::Outside);
        }
        // SAFETY: the index is below the length.
        let next = unsafe { *self.window.add((offset >> 3) as usize & (WINDOW_BYTES / 8 - 1)) };
        // The root, or a return probe: for `frame` to look at, from here.
        if next & 0xfff == 0 {
            return Some(Met::Other);
        }
        let slot = rule.rbp_slot();
        if slot != 0 {
            let saved = offset.wrapping_add(8).wrapping_sub((slot * 8) as u64);
            if saved >= self.window_bytes {
                return Some(Met::Other);
            }
            // SAFETY: as above.
            self.rbp = unsafe { *self.window.add((saved >> 3) as usize & (WINDOW_BYTES / 8 - 1)) };
        }
        // SAFETY: as the caller says.
        unsafe {
            *self.addresses.add(AT) = self.address;
            *self.cfas.add(AT) = cfa;
            *self.rules.add(AT) = rule;
        }
        self.taken = AT as u32 + 1;
        self.sp = cfa;
        self.address = next;
        None
    }
}
