//! Guessing where a new block lies. Responsible for the rule that the schema calls recall, the same when writing and when
//! reading; not for the bytes of a guess.
//!
//! An allocator's caches hand out again what the same thread freed last in the same size. So the writer remembers, for
//! each (thread, size class), the addresses of the 16 blocks that died last, newest first, and stores a birth's rank in
//! that list instead of its address. Only blocks born in the same chunk are remembered: a chunk decodes alone. On traces
//! of cc1plus, 4 of 5 births have a rank, and addresses take 0.3 instead of 1.0 bytes per event.

use crate::id::{BlockId, ThreadId};

/// Addresses remembered in each list; also the code of "not in the list".
pub(crate) const RANKS: usize = 16;

/// Lists; several (thread, size class) share one.
const LISTS: usize = 512;

/// Lists that a step from one thread to the next skips.
const THREAD_STRIDE: usize = 61;

/// What is remembered within one chunk. Addresses are rotated; 0 stands for none.
#[derive(Debug)]
pub(crate) struct Recall {
    lists: Vec<[u64; RANKS]>,
    first_block: BlockId,
    /// Address and size class of each block born in this chunk.
    births: Vec<(u64, usize)>,
}

impl Recall {
    pub(crate) fn new(first_block: BlockId) -> Self {
        Self { lists: vec![[0; RANKS]; LISTS], first_block, births: Vec::new() }
    }

    /// Begins a chunk.
    pub(crate) fn clear(&mut self, first_block: BlockId) {
        self.lists.fill([0; RANKS]);
        self.first_block = first_block;
        self.births.clear();
    }

    /// 16-byte classes, as malloc has them with its 8 bytes of header.
    #[inline]
    fn class(size_bytes: u64) -> usize {
        (size_bytes.saturating_add(23) / 16).max(2) as usize % LISTS
    }

    #[inline]
    fn list(&mut self, thread: ThreadId, class: usize) -> &mut [u64; RANKS] {
        &mut self.lists[(class + thread.index() % LISTS * THREAD_STRIDE) % LISTS]
    }

    /// The rank of the address of a birth, which takes it out of its list, or `RANKS`.
    #[inline]
    pub(crate) fn rank(&mut self, thread: ThreadId, size_bytes: u64, rotated: u64) -> usize {
        let class = Self::class(size_bytes);
        self.births.push((rotated, class));
        let list = self.list(thread, class);
        match list.iter().position(|&known| known == rotated) {
            Some(rank) => {
                take(list, rank);
                rank
            }
            None => RANKS,
        }
    }

    /// The address of a birth from its rank, or what `address` gives if it has none.
    #[inline]
    pub(crate) fn address<E>(
        &mut self,
        thread: ThreadId,
        size_bytes: u64,
        rank: usize,
        address: impl FnOnce() -> Result<u64, E>,
    ) -> Result<u64, E> {
        let class = Self::class(size_bytes);
        let list = self.list(thread, class);
        let rotated = if rank < RANKS { take(list, rank) } else { address()? };
        self.births.push((rotated, class));
        Ok(rotated)
    }

    /// A block dies.
    #[inline]
    pub(crate) fn death(&mut self, thread: ThreadId, block: BlockId) {
        let Some(index) = block.0.checked_sub(self.first_block.0) else { return };
        let Some(&(rotated, class)) = self.births.get(index as usize) else { return };
        let list = self.list(thread, class);
        let before = *list;
        list[1..].copy_from_slice(&before[..RANKS - 1]);
        list[0] = rotated;
    }
}

/// Takes the address of this rank out of a list.
#[inline]
fn take(list: &mut [u64; RANKS], rank: usize) -> u64 {
    let rotated = list[rank];
    if rank == 0 {
        // By far the most frequent, and of a known length.
        let before = *list;
        list[..RANKS - 1].copy_from_slice(&before[1..]);
    } else {
        list.copy_within(rank + 1.., rank);
    }
    list[RANKS - 1] = 0;
    rotated
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_died_last_in_the_same_size_and_thread_has_rank_0() {
        let mut recall = Recall::new(BlockId(5));
        for (block, address) in [(5, 100), (6, 200), (7, 300)] {
            assert_eq!(recall.rank(ThreadId(0), 24, address), RANKS);
            recall.death(ThreadId(0), BlockId(block));
        }
        assert_eq!(recall.rank(ThreadId(1), 24, 300), RANKS, "another thread has its own list");
        assert_eq!(recall.rank(ThreadId(0), 100, 300), RANKS, "another size has its own list");
        assert_eq!(recall.rank(ThreadId(0), 20, 200), 1);
        assert_eq!(recall.rank(ThreadId(0), 24, 300), 0);
        assert_eq!(recall.rank(ThreadId(0), 24, 100), 0);
        recall.death(ThreadId(0), BlockId(4));
        recall.death(ThreadId(0), BlockId(99));
        recall.clear(BlockId(0));
        assert_eq!(recall.rank(ThreadId(0), 24, 100), RANKS, "nothing is remembered from chunk to chunk");
    }
}
