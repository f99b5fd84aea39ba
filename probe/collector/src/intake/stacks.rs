//! Puts a thread's stack together from what each record says has changed. Responsible for the stack's node in the trace
//! and for which activations continue; not for walking it.
//!
//! ```text
//!   root    the thread's stack before        the record
//!    │      _start                 ─┐
//!    ▼      main                    │ kept     kept = 2, the same CFA
//!           parse    call at 10    ─┘          parse    call at 20   moved
//!           lex                                build                 new
//! ```
//!
//! Frames that are kept are the same activations. The first one that is not may still be: its function is what it was and so,
//! says the record, is its CFA, and only the call it is in has *moved*. All frames further in are new.

use probe_abi::unwind::WalkEnd;
use trace_format::{
    StackId,
    event::{StackQuality, Walk},
};

use super::nodes::Place;

/// A frame of a thread's stack now.
#[derive(Debug, Clone, Copy)]
struct Known {
    address: u64,
    place: Place,
}

/// The stack that a thread's last record had, the outermost frame first.
#[derive(Debug, Default)]
pub(super) struct ThreadStack {
    frames: Vec<Known>,
    /// Which meaning of addresses its nodes are of.
    generation: u32,
}

/// Names nodes of the stack tree.
pub(super) trait Nodes {
    /// The node of a return address under another node.
    fn node(&mut self, parent: Place, address: u64) -> Place;
    /// Another number since addresses mean something else.
    fn generation(&self) -> u32;
    /// Says that the nodes of a path will be asked for: its return addresses, outermost first, under a node.
    fn foresee(&self, parent: Place, path: impl Iterator<Item = u64>);
    /// Whether two nodes' frames are of one function.
    fn same_function(&self, one: StackId, other: StackId) -> bool;
}

impl ThreadStack {
    /// Applies what a record says: the outermost `kept` frames stay, `fresh` ones (their addresses, the innermost first) follow,
    /// the outermost of which has the CFA of the one in its place before, or has not. `None` where there are not as many to keep:
    /// the record belongs to a stack that is not known here.
    pub(super) fn apply(
        &mut self,
        kept: usize,
        same_cfa: bool,
        fresh: impl DoubleEndedIterator<Item = u64> + Clone,
        nodes: &mut impl Nodes,
    ) -> Option<(StackId, bool, u32)> {
        let before = self.frames.len();
        if kept > before {
            self.frames.clear();
            return None;
        }
        let same_code = self.generation == nodes.generation();
        self.generation = nodes.generation();
        if !same_code {
            // What is kept is known by its addresses only: its places are of the code before.
            let mut parent = Place::ROOT;
            for frame in &mut self.frames[..kept] {
                frame.place = nodes.node(parent, frame.address);
                parent = frame.place;
            }
        }
        let mut parent = if kept == 0 { Place::ROOT } else { self.frames[kept - 1].place };
        nodes.foresee(parent, fresh.clone().rev());
        let (mut depth, mut shared, mut moved) = (kept, true, false);
        let mut renewed = 0;
        for address in fresh.rev() {
            let known = self.frames.get_mut(depth);
            let place = match &known {
                // The same call under the same node: nothing to look up.
                Some(old) if shared && same_code && old.address == address => old.place,
                _ => nodes.node(parent, address),
            };
            let now = Known { address, place };
            match known {
                Some(old) => {
                    let (before, node) = (old.place.node, place.node);
                    if depth == kept {
                        moved = same_cfa && before != node && nodes.same_function(before, node);
                    }
                    shared &= before == node;
                    renewed += u32::from(shared);
                    *old = now;
                }
                None => {
                    shared = false;
                    self.frames.push(now);
                }
            }
            parent = place;
            depth += 1;
        }
        self.frames.truncate(depth);
        Some((parent.node, moved, renewed))
    }
}

/// The trace's word for the end of a walk.
pub(super) fn quality(walk_end: u8) -> StackQuality {
    const ENDS: [(WalkEnd, StackQuality); 9] = [
        (WalkEnd::Root, StackQuality::Complete),
        (WalkEnd::TooDeep, StackQuality::TooDeep),
        (WalkEnd::Unreadable, StackQuality::Unreadable),
        (WalkEnd::NotTaken, StackQuality::NotTaken),
        (WalkEnd::NoRule, StackQuality::NoRule),
        (WalkEnd::UnknownCode, StackQuality::UnknownCode),
        (WalkEnd::Unsupported, StackQuality::Unsupported),
        (WalkEnd::ForeignProbe, StackQuality::ForeignProbe),
        (WalkEnd::NoRoom, StackQuality::NoRoom),
    ];
    ENDS.iter().find(|(end, _)| *end as u8 == walk_end).map_or(StackQuality::NotTaken, |(_, quality)| *quality)
}

/// What the trace keeps of a walk.
pub(super) fn walk(walk_end: u8, moved: bool, renewed: u32) -> Walk {
    Walk { quality: quality(walk_end), renewed, moved }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Nodes as a map; addresses of one hundred are one function.
    #[derive(Default)]
    struct Tree(HashMap<(StackId, u64), StackId>, Vec<u64>, u32);

    impl Nodes for Tree {
        fn node(&mut self, parent: Place, address: u64) -> Place {
            let next = StackId(self.0.len() as u32 + 1);
            let node = *self.0.entry((parent.node, address)).or_insert(next);
            if node == next {
                self.1.push(address);
            }
            Place::of(node)
        }

        fn generation(&self) -> u32 {
            self.2
        }

        fn foresee(&self, _parent: Place, _path: impl Iterator<Item = u64>) {}

        fn same_function(&self, one: StackId, other: StackId) -> bool {
            self.1[one.0 as usize - 1] / 100 == self.1[other.0 as usize - 1] / 100
        }
    }

    #[test]
    fn a_stack_grows_from_what_is_kept() {
        let (mut tree, mut stack) = (Tree::default(), ThreadStack::default());
        let mut apply = |kept, same_cfa, fresh: &[u64]| stack.apply(kept, same_cfa, fresh.iter().copied(), &mut tree);
        let (inner, moved, renewed) = apply(0, false, &[301, 201, 101]).expect("nothing to keep");
        assert!(!moved && renewed == 0);
        // Only the innermost call moved, within its function and frame.
        let (other, moved, renewed) = apply(2, true, &[305]).expect("2 are there");
        assert!(other != inner && moved && renewed == 0);
        // Another function in the frame's place.
        let (_, moved, renewed) = apply(2, true, &[405]).expect("2 are there");
        assert!(!moved && renewed == 0);
        // Back to the first stack: the same node, but the frame in the middle is a new activation (its CFA differs).
        let (again, moved, renewed) = apply(1, false, &[301, 201]).expect("1 is there");
        assert!(again == inner && !moved && renewed == 1, "the frame at 201 is shared by name only: {renewed}");
        // The same stack once more: everything is kept.
        assert_eq!(apply(3, false, &[]), Some((inner, false, 0)));
        assert_eq!(apply(4, false, &[]), None, "it never had four");
        assert_eq!(apply(1, false, &[]), None, "and now nothing is known");
    }

    #[test]
    fn a_frame_is_looked_up_again_once_addresses_mean_something_else() {
        let (mut tree, mut stack) = (Tree::default(), ThreadStack::default());
        let both = [201, 101];
        let (before, ..) = stack.apply(0, false, both.into_iter(), &mut tree).expect("nothing to keep");
        // What forgets its nodes gives new ones.
        (tree.0, tree.2) = (HashMap::from([((StackId::EMPTY, 1), StackId(1))]), 1);
        tree.1 = vec![1];
        let (after, ..) = stack.apply(0, false, both.into_iter(), &mut tree).expect("nothing to keep");
        assert_ne!(before, after);
    }
}
