//! Finds nodes of a process's stack tree. Responsible for one node per path, found fast; not for what a frame is called.
//!
//! Most of the intake's time is spent here, and most of that is waiting for memory: a compiler's tree has hundreds of
//! thousands of nodes, and each one leads to the next. So a node is looked up by a hash of its *path*, the addresses from
//! the root to it, which is known before its parent has been found: the processor fetches several at once.

use hashbrown::HashTable;
use trace_format::StackId;

/// 2^64 divided by the golden ratio.
const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

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
        let product = u128::from((self.path ^ address).wrapping_add(ODD)) * u128::from(ODD);
        product as u64 ^ (product >> 64) as u64
    }

    /// As a node of a tree that keeps its own order.
    #[cfg(test)]
    pub(super) fn of(node: StackId) -> Self {
        Self { node, path: 0 }
    }
}

/// One node, by its path.
#[derive(Debug, Clone, Copy)]
struct Slot {
    path: u64,
    address: u64,
    parent: StackId,
    node: StackId,
}

/// All nodes of a process.
#[derive(Debug, Clone, Default)]
pub(super) struct NodeTable {
    slots: HashTable<Slot>,
    generation: u32,
}

impl NodeTable {
    /// The node of a return address under another node, or the place that a new one will have.
    #[inline]
    pub(super) fn find(&self, parent: Place, address: u64) -> Result<Place, Unplaced> {
        let path = parent.onward(address);
        let is_it = |slot: &Slot| slot.parent == parent.node && slot.address == address;
        match self.slots.find(path, is_it) {
            Some(slot) => Ok(Place { node: slot.node, path }),
            None => Err(Unplaced { path, address, parent: parent.node }),
        }
    }

    /// Gives a place that was not found its node.
    pub(super) fn insert(&mut self, at: Unplaced, node: StackId) -> Place {
        let Unplaced { path, address, parent } = at;
        self.slots.insert_unique(path, Slot { path, address, parent, node }, |slot| slot.path);
        Place { node, path }
    }

    /// Forgets all nodes: addresses mean something else from now on.
    pub(super) fn clear(&mut self) {
        self.slots.clear();
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
    address: u64,
    parent: StackId,
}

#[cfg(test)]
mod tests {
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
}
