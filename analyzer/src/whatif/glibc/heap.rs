//! One heap of glibc's: what `malloc.c` calls an arena. Responsible for its chunks, lists and bins; not for threads, nor for mappings (see the
//! parent).

use std::collections::BTreeSet;

pub(super) const UNIT: u64 = 16;
pub(super) const PAGE: u64 = 4096;
/// Smallest chunk, units.
pub(super) const LEAST: u32 = 2;
/// Largest chunk of the fast lists, units (`global_max_fast`).
pub(super) const FAST: u32 = 8;
/// Chunks from here on are large, units (`MIN_LARGE_SIZE`).
pub(super) const LARGE: u32 = 64;
/// What the main heap is enlarged by beyond need, and keeps when it shrinks (`top_pad`).
const TOP_PAD: u64 = 128 << 10;
/// First chunk of a heap: before it are heads of lists. A page's multiple, since alignments count from the heap's begin.
const BASE: u32 = 256;
/// What a heap that is not the main one begins with (`heap_info`, `malloc_state`), units.
const HEAP_HEAD: u32 = 0x8d0 / UNIT as u32;
/// Head of the unsorted list; those of the small bins have the number of their size.
const UNSORTED: u32 = 0;
/// In place of a neighbour in a list: the chunk is in the large bins.
const IN_LARGE_BIN: u32 = u32::MAX;

/// What glibc keeps in front of a chunk.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tag {
    pub(super) units: u32,
    /// Length of the chunk before, if that is free; 0: it is in use.
    pub(super) before: u32,
    /// Neighbours in a list: of a free chunk only.
    pub(super) next: u32,
    pub(super) previous: u32,
}

/// A chunk in the large bins: its size, its rank among those of its size, where it is. One of each size is the first, and
/// the others follow it, the latest before the earlier ones.
type Large = (u32, u32, u32);

const FIRST: u32 = 0;

/// What `malloc.c` calls an arena.
#[derive(Debug)]
pub(super) struct Heap {
    pub(super) tags: Vec<Tag>,
    pub(super) fast: [Vec<u32>; FAST as usize + 1],
    /// Small bins that may have chunks, by size.
    small: u64,
    large: BTreeSet<Large>,
    large_count: u32,
    pub(super) last_remainder: u32,
    pub(super) top: u32,
    /// One past the top.
    pub(super) end: u32,
    /// One past the last unit that was ever written to, since it was last given back.
    pub(super) touched: u32,
    is_main: bool,
}

pub(super) fn bytes(units: u32) -> u64 {
    u64::from(units) * UNIT
}

/// The large bin for a size (`largebin_index_64`).
fn large_bin(units: u32) -> u64 {
    let size = bytes(units);
    match () {
        () if size >> 6 <= 48 => 48 + (size >> 6),
        () if size >> 9 <= 20 => 91 + (size >> 9),
        () if size >> 12 <= 10 => 110 + (size >> 12),
        () if size >> 15 <= 4 => 119 + (size >> 15),
        () if size >> 18 <= 2 => 124 + (size >> 18),
        () => 126,
    }
}

impl Heap {
    pub(super) fn new(is_main: bool) -> Self {
        let (top, end) = if is_main {
            (BASE, BASE)
        } else {
            let whole = (bytes(HEAP_HEAD) + TOP_PAD).next_multiple_of(PAGE);
            (BASE + HEAP_HEAD, BASE + (whole / UNIT) as u32)
        };
        let mut heap = Self {
            tags: vec![Tag::default(); end as usize + 2],
            fast: Default::default(),
            small: 0,
            large: BTreeSet::new(),
            large_count: 0,
            last_remainder: 0,
            top,
            end,
            touched: top,
            is_main,
        };
        for head in 0..LARGE {
            (heap.tags[head as usize].next, heap.tags[head as usize].previous) = (head, head);
        }
        heap
    }

    pub(super) fn tag(&mut self, at: u32) -> &mut Tag {
        &mut self.tags[at as usize]
    }

    pub(super) fn units(&self, at: u32) -> u32 {
        self.tags[at as usize].units
    }

    /// Whether a chunk that is not the top is in a list or bin.
    pub(super) fn is_free(&self, at: u32) -> bool {
        self.tags[(at + self.units(at)) as usize].before > 0
    }

    pub(super) fn resident_bytes(&self) -> u64 {
        bytes(self.touched - BASE).next_multiple_of(PAGE)
    }

    fn link(&mut self, head: u32, at: u32) {
        let first = self.tags[head as usize].next;
        (self.tag(at).next, self.tag(at).previous) = (first, head);
        self.tag(head).next = at;
        self.tag(first).previous = at;
    }

    /// Takes a free chunk out of the list or bin it is in.
    pub(super) fn unlink(&mut self, at: u32) {
        let Tag { units, next, previous, .. } = self.tags[at as usize];
        if previous == IN_LARGE_BIN {
            self.leave_large_bin((units, next, at));
        } else {
            self.tag(previous).next = next;
            self.tag(next).previous = previous;
        }
    }

    /// A chunk that is in no list is in use from now on.
    pub(super) fn used(&mut self, at: u32) {
        let next = at + self.units(at);
        self.tag(next).before = 0;
    }

    /// A free chunk of so many units begins here.
    pub(super) fn unsorted(&mut self, at: u32, units: u32) {
        self.tag(at).units = units;
        self.tag(at + units).before = units;
        self.link(UNSORTED, at);
    }

    /// The chunk that has been unsorted for longest, and whether it is the only one.
    pub(super) fn oldest_unsorted(&self) -> Option<(u32, bool)> {
        let Tag { next, previous, .. } = self.tags[UNSORTED as usize];
        (previous != UNSORTED).then_some((previous, next == previous))
    }

    /// Puts a chunk that is in no list into its bin.
    pub(super) fn sort(&mut self, at: u32) {
        let units = self.units(at);
        if units < LARGE {
            self.link(units, at);
            self.small |= 1 << units;
        } else {
            self.large_count += 1;
            let is_first = self.large.range((units, FIRST, 0)..(units + 1, FIRST, 0)).next().is_none();
            let rank = if is_first { FIRST } else { u32::MAX - self.large_count };
            (self.tag(at).next, self.tag(at).previous) = (rank, IN_LARGE_BIN);
            self.large.insert((units, rank, at));
        }
    }

    fn leave_large_bin(&mut self, gone: Large) {
        self.large.remove(&gone);
        let (units, rank, _) = gone;
        if rank == FIRST
            && let Some(&heir) = self.large.range((units, FIRST, 0)..(units + 1, FIRST, 0)).next()
        {
            self.large.remove(&heir);
            self.large.insert((units, FIRST, heir.2));
            self.tag(heir.2).next = FIRST;
        }
    }

    /// The oldest of a small bin, in use from now on.
    pub(super) fn take_small(&mut self, units: u32) -> Option<u32> {
        let last = self.tags[units as usize].previous;
        if last == units {
            self.small &= !(1 << units);
            return None;
        }
        self.unlink(last);
        self.used(last);
        Some(last)
    }

    /// The free chunk of the bins that fits best, out of its bin.
    pub(super) fn take_fitting(&mut self, units: u32) -> Option<u32> {
        let mut larger = if units < LARGE - 1 { self.small >> (units + 1) << (units + 1) } else { 0 };
        while larger != 0 {
            let size = larger.trailing_zeros();
            if let Some(found) = self.take_small(size) {
                return Some(found);
            }
            larger &= larger - 1;
        }
        let &first = self.large.range((units, FIRST, 0)..).next()?;
        let size = first.0;
        let mut others = self.large.range((size, FIRST + 1, 0)..(size + 1, FIRST, 0));
        // In the bin of its own size it is found from the small end, in the next ones the last is taken.
        let is_own_bin = units >= LARGE && large_bin(units) == large_bin(size);
        let other = if is_own_bin { others.next() } else { others.next_back() };
        let chosen = *other.unwrap_or(&first);
        self.leave_large_bin(chosen);
        Some(chosen.2)
    }

    /// Cuts a chunk that is in no list; the rest is free.
    pub(super) fn cut(&mut self, at: u32, units: u32) -> Option<u32> {
        let whole = self.units(at);
        if whole - units < LEAST {
            self.used(at);
            return None;
        }
        self.tag(at).units = units;
        let rest = at + units;
        self.tag(rest).before = 0;
        self.unsorted(rest, whole - units);
        Some(rest)
    }

    /// `malloc_consolidate`.
    pub(super) fn sweep(&mut self) {
        for size in LEAST..=FAST {
            for at in std::mem::take(&mut self.fast[size as usize]).into_iter().rev() {
                self.join(at);
            }
        }
    }

    pub(super) fn has_fast(&self) -> bool {
        self.fast.iter().any(|list| !list.is_empty())
    }

    /// Joins a chunk with free neighbours. Returns the units of what became of it.
    pub(super) fn join(&mut self, mut at: u32) -> u32 {
        let mut units = self.units(at);
        let next = at + units;
        let before = self.tags[at as usize].before;
        if before > 0 {
            at -= before;
            units += before;
            self.unlink(at);
        }
        if next == self.top {
            units += self.end - self.top;
            self.top = at;
            self.tag(at).units = units;
            return units;
        }
        let next_units = self.units(next);
        if self.is_free(next) {
            self.unlink(next);
            units += next_units;
        }
        self.unsorted(at, units);
        units
    }

    pub(super) fn take_top(&mut self, units: u32) -> u32 {
        let at = self.top;
        self.tag(at).units = units;
        self.top += units;
        self.tag(at + units).before = 0;
        self.touched = self.touched.max(self.top + 1);
        at
    }

    /// Makes the top large enough for so many units. Returns whether that could be: units have 32 bits.
    pub(super) fn enlarge(&mut self, units: u32) -> bool {
        let have = bytes(self.end - self.top);
        let pad = if self.is_main { TOP_PAD } else { 0 };
        let more = (bytes(units) + bytes(LEAST) + pad).saturating_sub(have).next_multiple_of(PAGE);
        let end = u32::try_from(u64::from(self.end) + more / UNIT).ok().filter(|end| *end < u32::MAX - LARGE);
        let Some(end) = end else { return false };
        self.end = end;
        self.tags.resize(self.end as usize + 2, Tag::default());
        true
    }

    /// Gives the end of a large top back (`systrim`, `heap_trim`).
    pub(super) fn trim(&mut self, trimmed_from: u64) {
        let top = bytes(self.end - self.top);
        let spare = top.saturating_sub(bytes(LEAST) + 1 + TOP_PAD);
        if top < trimmed_from || spare < PAGE {
            return;
        }
        self.end -= (spare / PAGE * PAGE / UNIT) as u32;
        self.tags.truncate(self.end as usize + 2);
        self.touched = self.touched.min(self.end);
    }
}
