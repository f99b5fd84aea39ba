//! Which block lives at an address. Responsible for turning addresses into birth numbers, with the deaths that were
//! missed and the addresses that are dead; not for sizes of anything but the sum of what lives.

use hashbrown::{HashMap, hash_map::Entry};
use trace_format::{BlockId, DomainId, event::Target};

/// An address in a domain. User addresses have 47 bits; the domain takes the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Place(u64);

impl Place {
    fn new(domain: DomainId, address: u64) -> Self {
        Self(address ^ (u64::from(domain.0) << 48))
    }
}

/// The last block at an address.
#[derive(Debug, Clone, Copy)]
struct Slot {
    block: BlockId,
    size_bytes: u64,
    live: bool,
}

/// One address space. Grows with the number of distinct addresses handed out, never with the length of the recording.
#[derive(Debug, Clone, Default)]
pub(super) struct Heap {
    slots: HashMap<Place, Slot, foldhash::fast::FixedState>,
    live_bytes: u64,
}

/// A block that a realloc released, to be revived if the realloc fails.
#[derive(Debug, Clone, Copy)]
pub(super) struct Released {
    place: Place,
    slot: Slot,
}

impl Heap {
    /// A block is born. Returns the block that must have died there unseen, if one was still live.
    pub(super) fn born(&mut self, domain: DomainId, address: u64, block: BlockId, size_bytes: u64) -> Option<BlockId> {
        self.live_bytes = self.live_bytes.wrapping_add(size_bytes);
        let slot = Slot { block, size_bytes, live: true };
        let old = self.slots.insert(Place::new(domain, address), slot)?;
        old.live.then(|| {
            self.live_bytes = self.live_bytes.wrapping_sub(old.size_bytes);
            old.block
        })
    }

    /// The block at an address dies. `cousins` are domains of the same module, whose blocks may be freed through this
    /// one's entry points.
    pub(super) fn dies(&mut self, domain: DomainId, cousins: &[DomainId], address: u64) -> (Target, Option<Released>) {
        let mut target = Target::Unknown { address };
        for domain in std::iter::once(domain).chain(cousins.iter().copied()) {
            let place = Place::new(domain, address);
            let Entry::Occupied(mut entry) = self.slots.entry(place) else { continue };
            let slot = *entry.get();
            if slot.live {
                entry.get_mut().live = false;
                self.live_bytes = self.live_bytes.wrapping_sub(slot.size_bytes);
                return (Target::Block(slot.block), Some(Released { place, slot }));
            }
            target = Target::Dead { address };
        }
        (target, None)
    }

    /// A realloc failed: what it released lives on.
    pub(super) fn revive(&mut self, released: Released) {
        self.live_bytes = self.live_bytes.wrapping_add(released.slot.size_bytes);
        self.slots.insert(released.place, released.slot);
    }

    /// Requested bytes of all live blocks.
    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
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
    fn a_block_may_be_freed_through_a_cousin() {
        let mut heap = Heap::default();
        heap.born(ARENA, 0x1000, BlockId(0), 8);
        assert_eq!(heap.dies(LIBC, &[ARENA], 0x1000).0, Target::Block(BlockId(0)));
    }
}
