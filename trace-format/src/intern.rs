//! Finding the id of a frame, stack node or text that was registered before. Responsible for one id per value; not for the
//! tables themselves, which it looks into instead of keeping keys.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use crate::id::{FrameId, StackId};
use crate::table::{Frame, StackNode, Tables};

/// Ids by value.
#[derive(Debug, Default)]
pub(crate) struct Interner {
    frames: HashTable<u32>,
    stacks: HashTable<u32>,
    /// How many rows of the stack tree are in `stacks`; the root is not looked for.
    stacks_known: usize,
    texts: HashTable<u32>,
    hasher: FixedState,
}

impl Interner {
    /// Knows the rows of these tables; of equal rows, the first.
    pub(crate) fn of(tables: &Tables) -> Self {
        let mut interner = Self::default();
        for (index, frame) in tables.frames.iter().enumerate() {
            interner.find_frame(&tables.frames, frame, index);
        }
        for (index, text) in tables.texts.iter().enumerate() {
            interner.find_text(&tables.texts, text, index);
        }
        interner
    }

    /// The id of the frame, which is appended if it is new.
    pub(crate) fn frame(&mut self, frames: &mut Vec<Frame>, frame: Frame) -> FrameId {
        let id = self.find_frame(frames, &frame, frames.len());
        if id == frames.len() {
            frames.push(frame);
        }
        FrameId::from(id)
    }

    /// The id of the node, which is appended if it is new.
    #[inline]
    pub(crate) fn stack(&mut self, stacks: &mut Vec<StackNode>, node: StackNode) -> StackId {
        // Rows may have been appended without a question.
        for row in self.stacks_known.max(1)..stacks.len() {
            self.find_stack(stacks, stacks[row], row);
        }
        let id = self.find_stack(stacks, node, stacks.len());
        if id == stacks.len() {
            stacks.push(node);
        }
        self.stacks_known = stacks.len();
        StackId::from(id)
    }

    /// The row of the text, which is appended if it is new.
    pub(crate) fn text(&mut self, texts: &mut Vec<String>, text: &str) -> u32 {
        let id = self.find_text(texts, text, texts.len());
        if id == texts.len() {
            texts.push(text.to_owned());
        }
        id as u32
    }

    /// The index of an equal row, or `next`, which is then known as its index.
    fn find_frame(&mut self, frames: &[Frame], frame: &Frame, next: usize) -> usize {
        let hasher = &self.hasher;
        let hash = |frame: &Frame| hasher.hash_one((frame.address, frame.module.0));
        let entry =
            self.frames.entry(hash(frame), |&id| frames[id as usize] == *frame, |&id| hash(&frames[id as usize]));
        match entry {
            Entry::Occupied(entry) => *entry.get() as usize,
            Entry::Vacant(entry) => {
                entry.insert(next as u32);
                next
            }
        }
    }

    fn find_text(&mut self, texts: &[String], text: &str, next: usize) -> usize {
        let hasher = &self.hasher;
        let hash = |text: &str| hasher.hash_one(text);
        let entry = self.texts.entry(hash(text), |&id| texts[id as usize] == text, |&id| hash(&texts[id as usize]));
        match entry {
            Entry::Occupied(entry) => *entry.get() as usize,
            Entry::Vacant(entry) => {
                entry.insert(next as u32);
                next
            }
        }
    }

    #[inline]
    fn find_stack(&mut self, stacks: &[StackNode], node: StackNode, next: usize) -> usize {
        let hasher = &self.hasher;
        let hash = |node: StackNode| hasher.hash_one(u64::from(node.parent.0) << 32 | u64::from(node.frame.0));
        let entry = self.stacks.entry(hash(node), |&id| stacks[id as usize] == node, |&id| hash(stacks[id as usize]));
        match entry {
            Entry::Occupied(entry) => *entry.get() as usize,
            Entry::Vacant(entry) => {
                entry.insert(next as u32);
                next
            }
        }
    }
}
