//! The live blocks of one heap. Responsible for cheap copies at fork; not for where a block is kept (see `pages`), nor for
//! counting.
//!
//! A fork copies the whole heap, and most children exec at once, so nothing is copied before it must be. At a fork the
//! table is frozen into a *base* that parent and child share; both go on with an empty table on top of it and remember
//! which blocks of the base have died for *them*:
//!
//! ```text
//!     parent: own ─┐ dead ─┐        child: own ─┐ dead ─┐
//!                  └───────┴──▶ base (frozen) ◀─┴───────┘      visible = own ∪ (base − dead)
//!                                 │ dead
//!                                 ▼
//!                               older base …                   one per fork whose child still lives
//! ```
//!
//! When the other side is gone, the base is taken back at the next fork at the cost of what changed since. When half of a
//! base is dead, or bases lie deeper than [`DEEPEST_BASE`], what is visible is copied out and the base let go. So memory
//! stays within a small factor of the blocks that are live, and a heap that never forks pays nothing.

use std::sync::Arc;

use hashbrown::HashSet;
use trace_format::{BlockId, Sequence, ThreadId};

use super::cells::CellId;
use super::pages::{ByNumber, Pages};

/// Bases on top of each other before a fork flattens them.
const DEEPEST_BASE: usize = 8;

/// One live block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Block<T = ()> {
    /// Bytes requested.
    pub size_bytes: u64,
    /// When it was born, in events.
    pub birth_sequence: Sequence,
    /// When it was born.
    pub birth_ns: u64,
    /// Which process, stack and entry point it was born from.
    pub cell: CellId,
    /// Which thread it was born on.
    pub thread: ThreadId,
    /// What an observer keeps with it.
    pub tag: T,
}

type Dead = HashSet<BlockId, ByNumber>;

/// All live blocks of a heap.
#[derive(Debug)]
pub struct LiveBlocks<T = ()> {
    own: Pages<Block<T>>,
    /// Blocks of the base that are dead here.
    dead: Dead,
    base: Option<Arc<Base<T>>>,
}

/// A frozen state shared by several heaps.
#[derive(Debug)]
struct Base<T> {
    blocks: Pages<Block<T>>,
    dead: Dead,
    below: Option<Arc<Base<T>>>,
    /// Blocks visible from here.
    visible_count: usize,
    /// Bases below, this one included.
    depth: usize,
}

impl<T> Default for LiveBlocks<T> {
    fn default() -> Self {
        Self { own: Pages::default(), dead: Dead::default(), base: None }
    }
}

impl<T: Copy + Default> LiveBlocks<T> {
    /// Blocks alive.
    pub fn len(&self) -> usize {
        self.own.len() + self.base.as_ref().map_or(0, |base| base.visible_count) - self.dead.len()
    }

    /// Whether none is alive.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A block is born, or lives on. The caller makes sure that it is not alive.
    #[inline]
    pub fn insert(&mut self, id: BlockId, block: Block<T>) {
        self.own.insert(id, block);
    }

    /// Whether a block is alive.
    pub fn contains(&self, id: BlockId) -> bool {
        self.own.get(id).is_some() || self.in_base(id).is_some()
    }

    /// A block dies. `None` if it was not alive.
    #[inline]
    pub fn remove(&mut self, id: BlockId) -> Option<Block<T>> {
        if let Some(block) = self.own.remove(id) {
            return Some(block);
        }
        self.base.as_ref()?;
        let block = self.in_base(id)?;
        self.dead.insert(id);
        if self.base.as_ref().is_some_and(|base| self.dead.len() * 2 > base.visible_count) {
            self.flatten();
        }
        Some(block)
    }

    /// A copy for a forked child.
    pub fn fork(&mut self) -> Self {
        self.take_back_unshared();
        if self.base.as_ref().is_some_and(|base| base.depth >= DEEPEST_BASE) {
            self.flatten();
        }
        if !self.own.is_empty() || !self.dead.is_empty() {
            let visible_count = self.len();
            let below = self.base.take();
            let depth = below.as_ref().map_or(0, |base| base.depth) + 1;
            let (blocks, dead) = (std::mem::take(&mut self.own), std::mem::take(&mut self.dead));
            self.base = Some(Arc::new(Base { blocks, dead, below, visible_count, depth }));
        }
        Self { base: self.base.clone(), ..Self::default() }
    }

    /// All blocks, in no particular order.
    pub fn into_blocks(mut self) -> Vec<Block<T>> {
        self.take_back_unshared();
        self.flatten();
        self.own.iter().map(|(_, block)| *block).collect()
    }

    fn in_base(&self, id: BlockId) -> Option<Block<T>> {
        let (mut dead, mut base) = (&self.dead, self.base.as_ref());
        while let Some(layer) = base {
            if dead.contains(&id) {
                return None;
            }
            if let Some(block) = layer.blocks.get(id) {
                return Some(*block);
            }
            (dead, base) = (&layer.dead, layer.below.as_ref());
        }
        None
    }

    /// Makes bases that nobody else holds the own table again; the smaller side moves.
    fn take_back_unshared(&mut self) {
        while let Some(base) = self.base.take() {
            match Arc::try_unwrap(base) {
                Ok(mut alone) => {
                    for id in self.dead.drain() {
                        if alone.blocks.remove(id).is_none() {
                            alone.dead.insert(id);
                        }
                    }
                    for (id, block) in self.own.iter() {
                        alone.blocks.insert(id, *block);
                    }
                    self.own = alone.blocks;
                    self.dead = alone.dead;
                    self.base = alone.below;
                }
                Err(shared) => {
                    self.base = Some(shared);
                    return;
                }
            }
        }
    }

    /// Copies what is visible of all bases into the own table.
    fn flatten(&mut self) {
        let mut dead = std::mem::take(&mut self.dead);
        let mut base = self.base.take();
        while let Some(layer) = base {
            for (id, block) in layer.blocks.iter().filter(|(id, _)| !dead.contains(id)) {
                self.own.insert(id, *block);
            }
            dead.extend(layer.dead.iter().copied());
            base = layer.below.clone();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap as Plain;

    fn block(size_bytes: u64) -> Block {
        Block {
            size_bytes,
            birth_sequence: Sequence(0),
            birth_ns: 0,
            cell: CellId::default(),
            thread: ThreadId::default(),
            tag: (),
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Birth { heap: usize },
        Death { heap: usize, block: usize },
        Fork { heap: usize },
        End { heap: usize },
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            6 => (0..6usize).prop_map(|heap| Step::Birth { heap }),
            6 => (0..6usize, 0..1000usize).prop_map(|(heap, block)| Step::Death { heap, block }),
            2 => (0..6usize).prop_map(|heap| Step::Fork { heap }),
            1 => (0..6usize).prop_map(|heap| Step::End { heap }),
        ]
    }

    proptest! {
        /// Heaps that fork, die and change behave as full copies would.
        #[test]
        fn forks_behave_as_copies(steps in proptest::collection::vec(step(), 0..400)) {
            let mut heaps: Vec<(LiveBlocks, Plain<u64, u64>)> = vec![Default::default()];
            let mut next = 0;
            for step in steps {
                match step {
                    Step::Birth { heap } => {
                        let at = heap % heaps.len();
                        heaps[at].0.insert(BlockId(next), block(next));
                        heaps[at].1.insert(next, next);
                        next += 1;
                    }
                    Step::Death { heap, block } if next > 0 => {
                        let at = heap % heaps.len();
                        let id = block as u64 % next;
                        let expected = heaps[at].1.remove(&id);
                        prop_assert_eq!(heaps[at].0.contains(BlockId(id)), expected.is_some());
                        let found = heaps[at].0.remove(BlockId(id)).map(|block| block.size_bytes);
                        prop_assert_eq!(found, expected);
                    }
                    Step::Fork { heap } if heaps.len() < 24 => {
                        let at = heap % heaps.len();
                        let child = (heaps[at].0.fork(), heaps[at].1.clone());
                        heaps.push(child);
                    }
                    Step::End { heap } if heaps.len() > 1 => {
                        let (live, model) = heaps.swap_remove(heap % heaps.len());
                        let mut sizes: Vec<_> = live.into_blocks().iter().map(|block| block.size_bytes).collect();
                        sizes.sort_unstable();
                        let mut expected: Vec<_> = model.into_values().collect();
                        expected.sort_unstable();
                        prop_assert_eq!(sizes, expected);
                    }
                    _ => {}
                }
                for (live, model) in &heaps {
                    prop_assert_eq!(live.len(), model.len());
                }
            }
        }
    }

    #[test]
    fn a_parent_that_outlives_its_children_keeps_one_table() {
        let mut parent = LiveBlocks::<()>::default();
        for id in 0..10_000 {
            parent.insert(BlockId(id), block(id));
            if id % 100 == 0 {
                drop(parent.fork());
            }
        }
        drop(parent.fork());
        parent.take_back_unshared();
        assert!(parent.base.is_none());
        assert_eq!(parent.own.len(), 10_000);
    }

    #[test]
    fn a_dying_base_is_let_go_although_a_child_holds_it() {
        let mut parent = LiveBlocks::<()>::default();
        for id in 0..1_000 {
            parent.insert(BlockId(id), block(id));
        }
        let child = parent.fork();
        for id in 0..501 {
            parent.remove(BlockId(id));
        }
        assert!(parent.base.is_none(), "half of the base is dead: what is left was copied out");
        assert_eq!((parent.own.len(), parent.dead.len(), child.len()), (499, 0, 1_000));
    }
}
