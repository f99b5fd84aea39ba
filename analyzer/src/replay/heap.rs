//! One heap: the memory of one process image and of the vfork children that borrow it. Responsible for telling own blocks
//! from inherited ones; not for the order of events (see `engine`).

use trace_format::ProcessId;

use super::blocks::LiveBlocks;
use super::cells::Amount;
use super::counts::Counts;
use super::level::Level;
use super::outcome::Inherited;

/// A heap and what happened in it.
#[derive(Debug)]
pub(super) struct Heap<T> {
    /// The process it was made for; blocks born elsewhere are inherited.
    pub(super) owner: ProcessId,
    /// Process images that use it and have not ended.
    pub(super) user_count: u32,
    pub(super) live: LiveBlocks<T>,
    /// Own blocks of backing domains.
    pub(super) level: Level,
    /// Rises with each new peak of `level`.
    pub(super) epoch: u64,
    /// By domain.
    pub(super) counts: Vec<Counts>,
    pub(super) inherited: Inherited,
    pub(super) inherited_live: Amount,
}

impl<T: Copy + Default> Heap<T> {
    pub(super) fn new(owner: ProcessId, domain_count: usize) -> Self {
        Self {
            owner,
            user_count: 1,
            live: LiveBlocks::default(),
            level: Level::default(),
            epoch: 1,
            counts: vec![Counts::default(); domain_count],
            inherited: Inherited::default(),
            inherited_live: Amount::default(),
        }
    }

    /// The heap of a child forked now: everything alive here is inherited there. The amounts count backing domains.
    pub(super) fn fork(&mut self, child: ProcessId) -> Self {
        let mut heap = Self::new(child, self.counts.len());
        heap.live = self.live.fork();
        heap.inherited_live = Amount {
            bytes: self.level.live_bytes.wrapping_add(self.inherited_live.bytes),
            count: self.level.live_count.wrapping_add(self.inherited_live.count),
        };
        heap.inherited.at_start = heap.inherited_live;
        heap
    }
}
