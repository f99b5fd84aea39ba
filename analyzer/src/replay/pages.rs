//! Blocks by birth number. Responsible for finding a live block at the cost of hardly a cache miss, in memory that follows
//! what is alive; not for heaps that fork (see `blocks`).
//!
//! Blocks born together mostly die together, and compilers keep hundreds of thousands alive: a hash table of blocks is
//! mostly cache misses, and doubles by moving all of them. Here 64 consecutive births are a *page*, and only pages are
//! hashed. The newest page has a slot for each of its births, so that one is found by its number alone. Older pages give
//! slots back as their blocks die: whenever half of the slots are empty, what lives moves to a slab of half as many.
//!
//! ```text
//!  births   … 64 ‥ 127 │ 128 ‥ 191 │ 192 ‥ 255 │ 256 ‥          directory (hashed)
//!  page          1     │     2     │     3     │   4 newest      1 ─▶ { laid out 0100…01, live 0000…01, at }
//!  alive         1     │     0     │    40     │   7             3 ─▶ { laid out 1111…11, live 1011…01, at }
//!                │             gone      │           │
//!  slabs       [b.]             [b.bbb‥ 64 ‥bb.b] [bb.b.…]       slot of a birth = at + births laid out before it
//! ```
//!
//! Slabs have 1, 2, 4 … 64 slots; one given back serves the next page that needs its size. Each birth is moved less than
//! once on average (32 of a page's blocks, then 16, 8 …), each page but the newest has fewer than two slots per live block.

use std::hash::{BuildHasher, Hasher};

use hashbrown::HashMap;
use hashbrown::hash_map::Entry;
use trace_format::BlockId;

/// Births per page: as many as a word has bits.
const PAGE: usize = 64;
const ALL: u64 = u64::MAX;
const LARGEST: u8 = PAGE.trailing_zeros() as u8;

/// Puts neighbours in number next to each other in a table of `hashbrown`, so that the table is walked, not jumped about in.
/// Only the seven bits that tell the entries of a group apart are mixed.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ByNumber;

/// The bits by which `hashbrown` tells the entries of a group apart.
const TELLING_BITS: u64 = 0x7f << 57;

impl BuildHasher for ByNumber {
    type Hasher = NumberHasher;

    fn build_hasher(&self) -> NumberHasher {
        NumberHasher(0)
    }
}

#[derive(Debug, Clone, Copy)]
pub(super) struct NumberHasher(u64);

impl Hasher for NumberHasher {
    #[inline]
    fn write_u64(&mut self, number: u64) {
        // 2^64 by the golden ratio, as Fibonacci hashing has it.
        self.0 = number & !TELLING_BITS | number.wrapping_mul(0x9e37_79b9_7f4a_7c15) & TELLING_BITS;
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64(self.0.rotate_left(8) ^ u64::from(*byte));
        }
    }

    #[inline]
    fn finish(&self) -> u64 {
        self.0
    }
}

/// Where a block is: its page, and its place among the births of that page.
#[inline]
fn place(id: BlockId) -> (u64, u32) {
    (id.0 / PAGE as u64, (id.0 % PAGE as u64) as u32)
}

#[inline]
fn block_id(number: u64, birth: u32) -> BlockId {
    BlockId(number * PAGE as u64 + u64::from(birth))
}

/// The births of a set, lowest first.
fn births(mut set: u64) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let birth = (set != 0).then(|| set.trailing_zeros())?;
        set &= set - 1;
        Some(birth)
    })
}

/// 64 consecutive births. `live` is part of `laid_out`.
#[derive(Debug, Clone, Copy)]
struct Page {
    /// The births that have a slot.
    laid_out: u64,
    live: u64,
    /// The first slot.
    at: u32,
    live_count: u8,
    /// Of how many slots there are, the logarithm.
    size: u8,
}

impl Page {
    /// The slot of a birth that has one.
    #[inline]
    fn slot(&self, birth: u32) -> usize {
        let before = if self.laid_out == ALL { birth } else { (self.laid_out & ((1 << birth) - 1)).count_ones() };
        self.at as usize + before as usize
    }

    #[inline]
    fn has(&self, birth: u32) -> bool {
        self.live >> birth & 1 == 1
    }

    /// A birth with a slot lives. Returns whether it did not before.
    #[inline]
    fn bear(&mut self, birth: u32) -> bool {
        let is_new = !self.has(birth);
        self.live |= 1 << birth;
        self.live_count += u8::from(is_new);
        is_new
    }

    #[inline]
    fn let_go(&mut self, birth: u32) {
        self.live &= !(1 << birth);
        self.live_count -= 1;
    }

    /// Whether a slab of half as many slots holds what lives.
    #[inline]
    fn is_sparse(&self) -> bool {
        self.live_count as usize * 2 <= 1 << self.size
    }
}

/// The slots of all pages.
#[derive(Debug)]
struct Slabs<B> {
    slots: Vec<B>,
    /// Slabs given back, by the logarithm of their size.
    free: [Vec<u32>; LARGEST as usize + 1],
}

impl<B: Copy + Default> Slabs<B> {
    /// A slab of 2^size slots.
    fn take(&mut self, size: u8) -> u32 {
        self.free[size as usize].pop().unwrap_or_else(|| {
            let at = self.slots.len();
            self.slots.resize(at + (1 << size), B::default());
            u32::try_from(at).expect("blocks of less than 128 GiB are alive at once")
        })
    }

    fn give_back(&mut self, page: &Page) {
        self.free[page.size as usize].push(page.at);
    }

    /// Moves a page to a slab with slots for these births, which are all that live and perhaps more.
    fn lay_out(&mut self, page: &mut Page, laid_out: u64) {
        let size = laid_out.count_ones().next_power_of_two().trailing_zeros() as u8;
        let moved = Page { laid_out, at: self.take(size), size, ..*page };
        for birth in births(page.live) {
            self.slots[moved.slot(birth)] = self.slots[page.slot(birth)];
        }
        self.give_back(page);
        *page = moved;
    }
}

/// Blocks by birth number; `B` is what is kept of each.
#[derive(Debug)]
pub(super) struct Pages<B> {
    older: HashMap<u64, Page, ByNumber>,
    newest: Option<(u64, Page)>,
    slabs: Slabs<B>,
    count: usize,
}

impl<B> Default for Pages<B> {
    fn default() -> Self {
        let slabs = Slabs { slots: Vec::new(), free: Default::default() };
        Self { older: HashMap::default(), newest: None, slabs, count: 0 }
    }
}

impl<B: Copy + Default> Pages<B> {
    pub(super) fn len(&self) -> usize {
        self.count
    }

    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn get(&self, id: BlockId) -> Option<&B> {
        let (number, birth) = place(id);
        let page = match &self.newest {
            Some((newest, page)) if *newest == number => page,
            _ => self.older.get(&number)?,
        };
        page.has(birth).then(|| &self.slabs.slots[page.slot(birth)])
    }

    /// Puts a block in, in place of one with the same number.
    #[inline]
    pub(super) fn insert(&mut self, id: BlockId, block: B) {
        let (number, birth) = place(id);
        let page = match &mut self.newest {
            Some((newest, page)) if *newest == number => page,
            Some((newest, _)) if *newest > number => return self.insert_late(number, birth, block),
            _ => self.open(number),
        };
        let (slot, is_new) = (page.slot(birth), page.bear(birth));
        self.slabs.slots[slot] = block;
        self.count += usize::from(is_new);
    }

    /// Makes a page the newest, with a slot for each of its births.
    #[cold]
    fn open(&mut self, number: u64) -> &mut Page {
        if let Some((number, mut page)) = self.newest.take() {
            match page.live_count {
                0 => self.slabs.give_back(&page),
                _ => {
                    if page.is_sparse() {
                        let live = page.live;
                        self.slabs.lay_out(&mut page, live);
                    }
                    self.older.insert(number, page);
                }
            }
        }
        // Older pages have smaller numbers: this one is new.
        let page = Page { laid_out: ALL, live: 0, at: self.slabs.take(LARGEST), live_count: 0, size: LARGEST };
        &mut self.newest.insert((number, page)).1
    }

    /// Puts a block into an older page: it lives on after a realloc that failed, or comes from a base (see `blocks`).
    fn insert_late(&mut self, number: u64, birth: u32, block: B) {
        let bit = 1 << birth;
        let page = match self.older.entry(number) {
            Entry::Occupied(page) => page.into_mut(),
            Entry::Vacant(none) => {
                none.insert(Page { laid_out: bit, live: 0, at: self.slabs.take(0), live_count: 0, size: 0 })
            }
        };
        if page.laid_out & bit == 0 {
            if page.laid_out < bit && page.laid_out.count_ones() < 1 << page.size {
                // Behind all others and there is room: no other slot changes.
                page.laid_out |= bit;
            } else {
                self.slabs.lay_out(page, page.live | bit);
            }
        }
        self.slabs.slots[page.slot(birth)] = block;
        self.count += usize::from(page.bear(birth));
    }

    /// Takes a block out.
    #[inline]
    pub(super) fn remove(&mut self, id: BlockId) -> Option<B> {
        let (number, birth) = place(id);
        if let Some((newest, page)) = &mut self.newest
            && *newest == number
        {
            return page.has(birth).then(|| {
                page.let_go(birth);
                self.count -= 1;
                self.slabs.slots[page.slot(birth)]
            });
        }
        let page = self.older.get_mut(&number).filter(|page| page.has(birth))?;
        let block = self.slabs.slots[page.slot(birth)];
        page.let_go(birth);
        self.count -= 1;
        if page.is_sparse() {
            self.thin_out(number);
        }
        Some(block)
    }

    /// Gives slots of an older page back.
    fn thin_out(&mut self, number: u64) {
        if let Entry::Occupied(mut page) = self.older.entry(number) {
            if page.get().live == 0 {
                self.slabs.give_back(&page.remove());
            } else {
                let page = page.get_mut();
                self.slabs.lay_out(page, page.live);
            }
        }
    }

    /// All blocks, those of a page together and in order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (BlockId, &B)> {
        let newest = self.newest.iter().map(|(number, page)| (number, page));
        self.older.iter().chain(newest).flat_map(move |(number, page)| {
            births(page.live).map(move |birth| (block_id(*number, birth), &self.slabs.slots[page.slot(birth)]))
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        /// Births with as many numbers left out before each.
        Births { count: usize, left_out: u64 },
        /// Of what is alive, the n-th dies, and as many of its neighbours as said.
        Deaths { first: usize, count: usize },
        /// The n-th of the dead lives again.
        Revival(usize),
        /// Of a number that is perhaps not alive.
        Stray(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (1..200usize, 0..3u64).prop_map(|(count, left_out)| Step::Births { count, left_out }),
            6 => (0..1000usize, 1..100usize).prop_map(|(first, count)| Step::Deaths { first, count }),
            2 => (0..1000usize).prop_map(Step::Revival),
            1 => (0..2000u64).prop_map(Step::Stray),
        ]
    }

    fn slots_in_use(pages: &Pages<u64>) -> usize {
        let given_back: usize = pages.slabs.free.iter().enumerate().map(|(size, slabs)| slabs.len() << size).sum();
        pages.slabs.slots.len() - given_back
    }

    proptest! {
        /// As an ordered map does, in no more slots than promised.
        #[test]
        fn pages_behave_as_a_map(steps in proptest::collection::vec(step(), 0..60)) {
            let (mut pages, mut model, mut dead) = (Pages::default(), BTreeMap::new(), Vec::new());
            let mut next = 0;
            for step in steps {
                match step {
                    Step::Births { count, left_out } => for _ in 0..count {
                        next += left_out;
                        pages.insert(BlockId(next), next * 3);
                        model.insert(next, next * 3);
                        next += 1;
                    },
                    Step::Deaths { first, count } => {
                        let first = first.checked_rem(model.len()).unwrap_or(0);
                        let dying: Vec<u64> = model.keys().skip(first).take(count).copied().collect();
                        for id in dying {
                            prop_assert_eq!(pages.remove(BlockId(id)), model.remove(&id));
                            dead.push(id);
                        }
                    }
                    Step::Revival(at) if !dead.is_empty() => {
                        let id = dead.swap_remove(at % dead.len());
                        pages.insert(BlockId(id), id);
                        model.insert(id, id);
                    }
                    Step::Revival(_) => {}
                    Step::Stray(id) => {
                        prop_assert_eq!(pages.get(BlockId(id)), model.get(&id));
                        prop_assert_eq!(pages.remove(BlockId(id)), model.remove(&id));
                    }
                }
                prop_assert_eq!(pages.len(), model.len());
                prop_assert!(slots_in_use(&pages) <= 2 * model.len() + PAGE);
                let all: BTreeMap<u64, u64> = pages.iter().map(|(id, block)| (id.0, *block)).collect();
                prop_assert_eq!(&all, &model);
            }
        }
    }

    #[test]
    fn slots_given_back_are_used_again() {
        let mut pages = Pages::default();
        for id in 0..1_000_000 {
            pages.insert(BlockId(id), id);
            if id >= 10_000 && id % 100 != 0 {
                pages.remove(BlockId(id - 10_000));
            }
        }
        assert!(pages.len() > 10_000);
        assert!(pages.slabs.slots.len() < 4 * pages.len(), "{} slots", pages.slabs.slots.len());
    }
}
