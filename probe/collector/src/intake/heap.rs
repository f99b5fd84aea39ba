//! Which block lives at an address. Responsible for turning addresses into birth numbers, with the deaths that were
//! missed and the addresses that are dead; not for sizes of anything but the sum of what lives.
//!
//! Each event looks one address up, nearly always one that no cache of the processor holds. So all that is asked of a slot lies
//! side by side (open addressing, no bytes of control apart), and [`Heap::foresee`] has it fetched some records ahead.

use trace_format::{BlockId, DomainId, event::Target};

use super::memory::{prefetch, table};

/// 2^64 divided by the golden ratio.
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
/// Slots of the first table.
const FEWEST_SLOTS: usize = 1 << 10;

/// An address in a domain. User addresses have 47 bits; the domain takes the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place(u64);

impl Place {
    fn new(domain: DomainId, address: u64) -> Self {
        Self(address ^ (u64::from(domain.0) << 48))
    }
}

/// The last block at an address.
#[derive(Debug, Clone, Copy)]
struct Slot {
    place: Place,
    size_bytes: u64,
    /// The block's number times two, plus one while it lives.
    state: u64,
}

impl Slot {
    /// Nobody's.
    const FREE: Self = Self { place: Place(0), size_bytes: 0, state: u64::MAX };

    fn is_free(&self) -> bool {
        self.state == u64::MAX
    }

    fn is_live(&self) -> bool {
        self.state & 1 == 1
    }

    fn block(&self) -> BlockId {
        BlockId(self.state >> 1)
    }
}

/// One address space. Grows with the number of distinct addresses handed out, never with the length of the recording.
#[derive(Debug, Default)]
pub(super) struct Heap {
    /// A power of two, at most two thirds full, or none.
    slots: Vec<Slot>,
    count: usize,
    live_bytes: u64,
}

/// A block that a realloc released, to be revived if the realloc fails.
#[derive(Debug, Clone, Copy)]
pub(super) struct Released(Slot);

impl Heap {
    /// Says that this address will be asked for soon.
    #[inline]
    pub(super) fn foresee(&self, domain: DomainId, address: u64) {
        if let Some(slot) = self.slots.get(self.home(Place::new(domain, address))) {
            // A quarter of the slots lie across two lines of the cache.
            prefetch(&slot.place);
            prefetch(&slot.state);
        }
    }

    /// A block is born. Returns the block that must have died there unseen, if one was still live.
    pub(super) fn born(&mut self, domain: DomainId, address: u64, block: BlockId, size_bytes: u64) -> Option<BlockId> {
        let place = Place::new(domain, address);
        let old = self.put(Slot { place, size_bytes, state: block.0 << 1 | 1 });
        old.is_live().then(|| old.block())
    }

    /// The block at an address dies. `cousins` are domains of the same module, whose blocks may be freed through this
    /// one's entry points.
    pub(super) fn dies(&mut self, domain: DomainId, cousins: &[DomainId], address: u64) -> (Target, Option<Released>) {
        let mut target = Target::Unknown { address };
        for domain in std::iter::once(domain).chain(cousins.iter().copied()) {
            let Some(slot) = self.find(Place::new(domain, address)) else { continue };
            let before = *slot;
            if before.is_live() {
                slot.state ^= 1;
                self.live_bytes = self.live_bytes.wrapping_sub(before.size_bytes);
                return (Target::Block(before.block()), Some(Released(before)));
            }
            target = Target::Dead { address };
        }
        (target, None)
    }

    /// A realloc failed: what it released lives on.
    pub(super) fn revive(&mut self, released: Released) {
        self.put(released.0);
    }

    /// The copy of a forked child. What it inherits is the parent's and weighs nothing here.
    pub(super) fn inherited(&self) -> Self {
        let slots = self.slots.iter().map(|slot| Slot { size_bytes: 0, ..*slot }).collect();
        Self { slots, count: self.count, live_bytes: 0 }
    }

    /// Requested bytes of all live blocks that are its own.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    /// Puts a live block where it belongs; returns what was there, dead where it was nothing.
    fn put(&mut self, slot: Slot) -> Slot {
        if 3 * (self.count + 1) > 2 * self.slots.len() {
            self.grow();
        }
        self.live_bytes = self.live_bytes.wrapping_add(slot.size_bytes);
        let index = self.index(slot.place);
        let old = std::mem::replace(&mut self.slots[index], slot);
        if old.is_free() {
            self.count += 1;
            return Slot { state: 0, ..old };
        }
        if old.is_live() {
            self.live_bytes = self.live_bytes.wrapping_sub(old.size_bytes);
        }
        old
    }

    fn find(&mut self, place: Place) -> Option<&mut Slot> {
        if self.slots.is_empty() {
            return None;
        }
        let index = self.index(place);
        Some(&mut self.slots[index]).filter(|slot| !slot.is_free())
    }

    /// Where a place is, or would be.
    #[inline]
    fn index(&self, place: Place) -> usize {
        let mut index = self.home(place);
        loop {
            let slot = &self.slots[index];
            if slot.is_free() || slot.place == place {
                return index;
            }
            index = (index + 1) & (self.slots.len() - 1);
        }
    }

    /// Where the search for a place begins; 0 while there are no slots.
    #[inline]
    fn home(&self, place: Place) -> usize {
        // Folded first: bits of a product depend on no higher ones of its factors.
        let mixed = (place.0 ^ place.0 >> 32).wrapping_mul(ODD);
        (mixed >> 32) as usize & self.slots.len().saturating_sub(1)
    }

    #[cold]
    fn grow(&mut self) {
        let wider = table((2 * self.slots.len()).max(FEWEST_SLOTS), Slot::FREE);
        for slot in std::mem::replace(&mut self.slots, wider).into_iter().filter(|slot| !slot.is_free()) {
            let index = self.index(slot.place);
            self.slots[index] = slot;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIBC: DomainId = DomainId(0);
    const ARENA: DomainId = DomainId(1);

    #[test]
    fn an_address_has_one_owner_at_a_time_and_per_domain() {
        let mut heap = Heap::default();
        assert_eq!(heap.born(LIBC, 0x1000, BlockId(0), 8), None);
        assert_eq!(heap.born(ARENA, 0x1000, BlockId(1), 4), None, "an arena's first block shares its chunk's address");
        assert_eq!(heap.dies(LIBC, &[], 0x1000).0, Target::Block(BlockId(0)));
        assert_eq!(heap.dies(LIBC, &[], 0x1000).0, Target::Dead { address: 0x1000 });
        assert_eq!(heap.dies(LIBC, &[], 0x2000).0, Target::Unknown { address: 0x2000 });
        assert_eq!(heap.born(LIBC, 0x1000, BlockId(2), 16), None);
        assert_eq!(heap.born(LIBC, 0x1000, BlockId(3), 32), Some(BlockId(2)), "its death was missed");
        assert_eq!(heap.live_bytes(), 36);
    }

    #[test]
    fn a_failed_realloc_revives_what_it_released() {
        let mut heap = Heap::default();
        heap.born(LIBC, 0x1000, BlockId(0), 8);
        let (_, released) = heap.dies(LIBC, &[], 0x1000);
        assert_eq!(heap.live_bytes(), 0);
        heap.revive(released.expect("it was live"));
        assert_eq!(heap.live_bytes(), 8);
        assert_eq!(heap.dies(LIBC, &[], 0x1000).0, Target::Block(BlockId(0)));
    }

    #[test]
    fn what_a_child_inherits_weighs_nothing() {
        let mut parent = Heap::default();
        parent.born(LIBC, 0x1000, BlockId(0), 8);
        parent.born(LIBC, 0x2000, BlockId(1), 16);
        let mut child = parent.inherited();
        assert_eq!(child.live_bytes(), 0);
        assert_eq!(child.born(LIBC, 0x3000, BlockId(2), 32), None);
        assert_eq!(child.dies(LIBC, &[], 0x1000).0, Target::Block(BlockId(0)));
        assert_eq!(child.born(LIBC, 0x2000, BlockId(3), 64), Some(BlockId(1)), "its death was missed");
        assert_eq!((parent.live_bytes(), child.live_bytes()), (24, 96));
    }

    #[test]
    fn a_block_may_be_freed_through_a_cousin() {
        let mut heap = Heap::default();
        heap.born(ARENA, 0x1000, BlockId(0), 8);
        assert_eq!(heap.dies(LIBC, &[ARENA], 0x1000).0, Target::Block(BlockId(0)));
    }

    #[test]
    fn many_addresses_are_those_of_a_map() {
        let mut heap = Heap::default();
        let mut known = std::collections::HashMap::<(DomainId, u64), (BlockId, bool)>::new();
        heap.foresee(LIBC, 0x1000);
        let mut random = 1_u64;
        for number in 0..40_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let domain = [LIBC, ARENA][(random >> 33) as usize % 2];
            // Few addresses, so that they come again, close together and far apart.
            let address = [0x1000, 0x7fff_0000_0000][(random >> 34) as usize % 2] + 16 * ((random >> 40) % 3000);
            heap.foresee(domain, address);
            let before = known.get(&(domain, address)).copied();
            if random >> 63 == 0 {
                let missed = heap.born(domain, address, BlockId(number), number);
                assert_eq!(missed, before.and_then(|(block, live)| live.then_some(block)));
                known.insert((domain, address), (BlockId(number), true));
            } else {
                let expected = match before {
                    Some((block, true)) => Target::Block(block),
                    Some((_, false)) => Target::Dead { address },
                    None => Target::Unknown { address },
                };
                assert_eq!(heap.dies(domain, &[], address).0, expected);
                if let Some((block, _)) = before {
                    known.insert((domain, address), (block, false));
                }
            }
        }
        let live = known.values().filter(|(_, live)| *live).map(|(block, _)| block.0).sum::<u64>();
        assert_eq!(heap.live_bytes(), live, "each block was as large as its number");
        assert!(known.len() > 2 * FEWEST_SLOTS, "the table grew: {}", known.len());
    }
}
