//! Reallocs between their begin and their end. Responsible for pairing the two halves; not for what a begin or an end does
//! to the heap.
//!
//! A begin pairs with the thread's innermost open begin of the same entry point. Whatever stands above the one that ends
//! belongs to calls whose frames are gone (longjmp, exception): those never returned.

use trace_format::{BlockId, EntryId, StackId};

use super::blocks::Block;

/// Open reallocs of one thread beyond this many: the outermost are given up as never returned.
const DEEPEST_OPEN: usize = 64;

/// What the begin did.
#[derive(Debug, Clone, Copy)]
pub(super) enum OldBlock<T> {
    /// It killed this block.
    Killed(BlockId, Block<T>),
    /// It named an address from before the recording.
    BeforeRecording,
    /// It named an address already dead.
    Dead,
    /// It named a block that is not alive: counted as an anomaly.
    Impossible,
}

/// A realloc that has begun.
#[derive(Debug, Clone, Copy)]
pub(super) struct OpenRealloc<T> {
    pub(super) entry: EntryId,
    pub(super) stack: StackId,
    pub(super) old: OldBlock<T>,
}

/// The open reallocs of every thread.
#[derive(Debug)]
pub(super) struct OpenReallocs<T> {
    of_thread: Vec<Vec<OpenRealloc<T>>>,
}

impl<T: Copy> OpenReallocs<T> {
    pub(super) fn new(thread_count: usize) -> Self {
        Self { of_thread: (0..thread_count).map(|_| Vec::new()).collect() }
    }

    /// A realloc begins. Returns one that must be given up, if there are too many.
    pub(super) fn begin(&mut self, thread: usize, open: OpenRealloc<T>) -> Option<OpenRealloc<T>> {
        let stack = &mut self.of_thread[thread];
        stack.push(open);
        (stack.len() > DEEPEST_OPEN).then(|| stack.remove(0))
    }

    /// A realloc of this entry ends. Calls inside it that never returned go to `abandoned`.
    pub(super) fn end(
        &mut self,
        thread: usize,
        entry: EntryId,
        abandoned: &mut Vec<OpenRealloc<T>>,
    ) -> Option<OpenRealloc<T>> {
        let stack = &mut self.of_thread[thread];
        let at = stack.iter().rposition(|open| open.entry == entry)?;
        abandoned.extend(stack.drain(at + 1..));
        stack.pop()
    }

    /// The thread ends: none of its reallocs will.
    pub(super) fn thread_end(&mut self, thread: usize) -> Vec<OpenRealloc<T>> {
        std::mem::take(&mut self.of_thread[thread])
    }
}
