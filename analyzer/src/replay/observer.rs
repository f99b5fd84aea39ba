//! Who else wants to know of each block. Responsible for the interface between the replay and the analyses that follow blocks
//! from birth to death; not for what they make of it.

use std::fmt::Debug;

use trace_format::{Event, ProcessId, StackId};

use super::blocks::Block;

/// Is told of every event, and of every block of a backing allocator in the heap of the process that it was born in (not of
/// what a forked child inherited). Keeps a tag with each block.
///
/// A realloc tells twice: `moving` when the old block dies; then `born` with `replaced`, or `stayed` if it failed, or
/// `died_moving` if it turned out to be a free, or `never_moved` if it never returned.
pub trait Observer {
    /// What it keeps with a block.
    type Tag: Copy + Default + Debug;

    /// Whether `survived` is to be called: it takes a look at each block that is alive at an end.
    const SEES_SURVIVORS: bool = true;

    /// Any event, before it takes effect.
    fn event(&mut self, _event: &Event) {}

    /// A block is born from this stack; `replaced` is the block that a realloc moved it from.
    fn born(
        &mut self,
        block: &Block<Self::Tag>,
        stack: StackId,
        replaced: Option<&Block<Self::Tag>>,
        event: &Event,
    ) -> Self::Tag;

    /// A block is freed.
    fn died(&mut self, _block: &Block<Self::Tag>, _event: &Event) {}

    /// A realloc of a block begins.
    fn moving(&mut self, _block: &Block<Self::Tag>, _event: &Event) {}

    /// That realloc failed: the block lives on.
    fn stayed(&mut self, _block: &Block<Self::Tag>, _event: &Event) {}

    /// That realloc was a free.
    fn died_moving(&mut self, _block: &Block<Self::Tag>, _event: &Event) {}

    /// That realloc never returned.
    fn never_moved(&mut self, _block: &Block<Self::Tag>) {}

    /// A block is alive when its process image, or the recording, ends.
    fn survived(&mut self, _block: &Block<Self::Tag>, _process: ProcessId) {}
}

/// Nobody.
impl Observer for () {
    type Tag = ();

    const SEES_SURVIVORS: bool = false;

    fn born(&mut self, _: &Block, _: StackId, _: Option<&Block>, _: &Event) {}
}
