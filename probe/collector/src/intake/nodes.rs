//! Finds nodes of a process's stack tree. Responsible for one node per path, found fast; not for what a frame is called.
//!
//! Most of the intake's time is spent here, and most of that is waiting for memory: a compiler's tree has hundreds of
//! thousands of nodes, and each one leads to the next. So a node is looked up by a hash of its *path*, the addresses from
//! the root to it, which is known before its parent has been found: the processor fetches several at once. And each look
//! fetches one line of the cache: slots are a quarter of one, and those of equal hashes lie side by side.
//!
//! Nothing rests on hashes being different. Under one parent the hash is a bijection of the address, so parent and hash
//! together are parent and address:
//!
//! ```text
//!   path(node) = mix(path(parent) ⊕ address)          mix: 64 bits → 64 bits, invertible
//! ```

use trace_format::StackId;

use super::memory::{prefetch, table};

/// 2^64 divided by the golden ratio.
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;
/// Slots of the first table.
const FEWEST_SLOTS: usize = 1 << 10;

/// A node and the hash of its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) node: StackId,
    path: u64,
}

impl Place {
    /// The empty stack.
    pub(super) const ROOT: Self = Self { node: StackId::EMPTY, path: 0 };

    /// The path's hash with one more address.
    #[inline]
    fn onward(self, address: u64) -> u64 {
        mix(self.path ^ address)
    }

    /// As a node of a tree that keeps its own order.
    #[cfg(test)]
    pub(super) fn of(node: StackId) -> Self {
        Self { node, path: 0 }
    }
}

/// Shifts by half a word or more and products with odd numbers can be undone: so can this.
#[inline]
fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 32)).wrapping_mul(ODD);
    (value ^ (value >> 32)).wrapping_mul(ODD)
}

/// One node, by its path; the empty stack, which is under nothing, marks a slot that is free.
#[derive(Debug, Clone, Copy)]
struct Slot {
    path: u64,
    parent: StackId,
    node: StackId,
}

const FREE: Slot = Slot { path: 0, parent: StackId::EMPTY, node: StackId::EMPTY };

/// All nodes of a process: open addressing, at most two thirds full.
#[derive(Debug, Clone, Default)]
pub(super) struct NodeTable {
    /// A power of two, or none.
    slots: Vec<Slot>,
    count: usize,
    generation: u32,
}

impl NodeTable {
    /// The node of a return address under another node, or the place that a new one will have.
    #[inline]
    pub(super) fn find(&self, parent: Place, address: u64) -> Result<Place, Unplaced> {
        let path = parent.onward(address);
        let unplaced = Unplaced { path, parent: parent.node };
        if self.slots.is_empty() {
            return Err(unplaced);
        }
        let slot = self.slots[self.slot(path, parent.node)];
        if slot.node == StackId::EMPTY { Err(unplaced) } else { Ok(Place { node: slot.node, path }) }
    }

    /// Says that the nodes of a path will be asked for: where they are is known before any of them is found, so all are fetched
    /// at once.
    #[inline]
    pub(super) fn foresee(&self, parent: Place, path: impl Iterator<Item = u64>) {
        let mut place = parent;
        for address in path {
            place.path = place.onward(address);
            if let Some(slot) = self.slots.get(self.home(place.path)) {
                prefetch(slot);
            }
        }
    }

    /// Gives a place that was not found its node.
    pub(super) fn insert(&mut self, at: Unplaced, node: StackId) -> Place {
        if 3 * (self.count + 1) > 2 * self.slots.len() {
            self.grow();
        }
        let Unplaced { path, parent } = at;
        let index = self.slot(path, parent);
        self.slots[index] = Slot { path, parent, node };
        self.count += 1;
        Place { node, path }
    }

    /// Where a path is, or would be.
    #[inline]
    fn slot(&self, path: u64, parent: StackId) -> usize {
        let mask = self.slots.len() - 1;
        let mut index = self.home(path);
        loop {
            let slot = &self.slots[index];
            if slot.path == path && slot.parent == parent || slot.node == StackId::EMPTY {
                return index;
            }
            index = (index + 1) & mask;
        }
    }

    /// Where the search for a path begins; 0 while there are no slots.
    #[inline]
    fn home(&self, path: u64) -> usize {
        // Both halves depend on all bits: see `mix`.
        (path >> 32) as usize & self.slots.len().saturating_sub(1)
    }

    #[cold]
    fn grow(&mut self) {
        let wider = table((2 * self.slots.len()).max(FEWEST_SLOTS), FREE);
        let slots = std::mem::replace(&mut self.slots, wider);
        for slot in slots.into_iter().filter(|slot| slot.node != StackId::EMPTY) {
            let index = self.slot(slot.path, slot.parent);
            self.slots[index] = slot;
        }
    }

    /// Forgets all nodes: addresses mean something else from now on.
    pub(super) fn clear(&mut self) {
        self.slots.clear();
        self.count = 0;
        self.generation += 1;
    }

    /// Rises with each [`NodeTable::clear`].
    pub(super) fn generation(&self) -> u32 {
        self.generation
    }
}

/// A path that has no node yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unplaced {
    path: u64,
    parent: StackId,
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn paths_have_nodes_of_their_own() {
        let mut table = NodeTable::default();
        let mut next = 0;
        let mut place = |table: &mut NodeTable, parent, address| match table.find(parent, address) {
            Ok(place) => place,
            Err(unplaced) => {
                next += 1;
                table.insert(unplaced, StackId(next))
            }
        };
        let main = place(&mut table, Place::ROOT, 10);
        let inner = place(&mut table, main, 20);
        assert_ne!(place(&mut table, Place::ROOT, 20), inner, "the same address elsewhere");
        assert_eq!(place(&mut table, main, 20), inner);
        table.clear();
        assert_eq!(table.generation(), 1);
        assert_ne!(place(&mut table, main, 20).node, inner.node, "forgotten");
    }

    #[test]
    fn equal_hashes_are_told_apart() {
        let mut table = NodeTable::default();
        let one = Place { node: StackId(1), path: 5 };
        let other = Place { node: StackId(2), path: 5 };
        let unplaced = table.find(one, 7).expect_err("the table is empty");
        table.insert(unplaced, StackId(3));
        assert!(table.find(one, 7).is_ok() && table.find(other, 7).is_err());
    }

    #[test]
    fn many_nodes_are_those_of_a_map() {
        let (mut table, mut known) = (NodeTable::default(), HashMap::new());
        let (mut places, mut random) = (vec![Place::ROOT], 1_u64);
        for _ in 0..20_000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            // Few parents and addresses, and addresses that differ in one end only: they meet again and lie close.
            let parent = places[(random >> 40) as usize % places.len() % 700];
            let address = [0x7f00_0000_0000, 1 << 60][(random >> 33) as usize % 2] + ((random >> 50) << 4);
            let next = StackId(places.len() as u32);
            let place = match table.find(parent, address) {
                Ok(place) => place,
                Err(unplaced) => table.insert(unplaced, next),
            };
            let expected = *known.entry((parent.node, address)).or_insert(next);
            assert_eq!(place.node, expected);
            if expected == next {
                places.push(place);
            }
        }
        assert_eq!(known.len() + 1, places.len());
        assert!(known.len() > 2 * FEWEST_SLOTS, "the table grew: {}", known.len());
    }
}
