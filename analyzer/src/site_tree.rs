//! Stacks as paths of named places. Responsible for merging stacks that nobody can tell apart by name, file and line, and
//! for stripping allocator wrappers at the leaf; not for weighing them (see `sites`, `flamegraph`).
//!
//! ```text
//!   recorded (return addresses)                         tree of places (root first)
//!   main+0x12 ─ parse+0x40 ─ xmalloc+0x9                main ─ parse ─ xmalloc     full
//!   main+0x12 ─ parse+0x58 ─ xmalloc+0x9                     └─ parse              site: xmalloc is a wrapper
//! ```
//! Both stacks are one site where there are no lines to tell `+0x40` from `+0x58`, and two where there are.

use foldhash::{HashMap, HashMapExt};
use trace_format::{StackId, Tables};

use crate::names::{Names, PlaceId};
use crate::wrappers::Wrappers;

/// A node of the tree of places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SiteId(u32);

/// The path without places: stacks that were not taken.
pub const NO_SITE: SiteId = SiteId(0);

#[derive(Debug, Clone, Copy)]
struct Node {
    parent: SiteId,
    place: PlaceId,
    /// It owns the code; the nodes below it up to the next owner are inlined into it.
    owner: bool,
}

/// Paths of places of all stacks of a trace. Memory: one node per distinct path.
#[derive(Debug)]
pub struct SiteTree {
    nodes: Vec<Node>,
    full: Vec<SiteId>,
    stripped: Vec<SiteId>,
}

impl SiteTree {
    /// The tree of a trace's stacks; `wrappers` are stripped from sites.
    pub fn of(tables: &Tables, names: &Names, wrappers: &Wrappers) -> Self {
        let mut tree = Self {
            nodes: vec![Node { parent: NO_SITE, place: PlaceId(0), owner: false }],
            full: Vec::with_capacity(tables.stacks.len()),
            stripped: Vec::with_capacity(tables.stacks.len()),
        };
        let mut children: HashMap<(SiteId, PlaceId, bool), SiteId> = HashMap::new();
        let mut known: HashMap<PlaceId, bool> = HashMap::new();
        for (at, stack) in tables.stacks.iter().enumerate() {
            if at == StackId::EMPTY.index() {
                tree.full.push(NO_SITE);
                tree.stripped.push(NO_SITE);
                continue;
            }
            // Parents come first in a sound trace; anything else is treated as outermost.
            let parent = if stack.parent.index() < at { stack.parent.index() } else { StackId::EMPTY.index() };
            let places = names.places(stack.frame);
            let wrapper_count = places
                .iter()
                .take_while(|place| {
                    *known.entry(**place).or_insert_with(|| wrappers.contains(&names.place(**place).function))
                })
                .count();
            let mut node = tree.full[parent];
            let mut site = NO_SITE;
            for (below_leaf, place) in places.iter().enumerate().rev() {
                node = tree.child(node, *place, below_leaf + 1 == places.len(), &mut children);
                if below_leaf >= wrapper_count {
                    site = node;
                }
            }
            if wrapper_count == places.len() {
                // Nothing but wrappers: the caller is the site, or this frame if there is no caller.
                site = if tree.stripped[parent] == NO_SITE { node } else { tree.stripped[parent] };
            }
            tree.full.push(node);
            tree.stripped.push(site);
        }
        tree
    }

    fn child(
        &mut self,
        parent: SiteId,
        place: PlaceId,
        owner: bool,
        children: &mut HashMap<(SiteId, PlaceId, bool), SiteId>,
    ) -> SiteId {
        *children.entry((parent, place, owner)).or_insert_with(|| {
            self.nodes.push(Node { parent, place, owner });
            SiteId(self.nodes.len() as u32 - 1)
        })
    }

    /// The whole path of a stack.
    pub fn full(&self, stack: StackId) -> SiteId {
        self.full.get(stack.index()).copied().unwrap_or(NO_SITE)
    }

    /// The path of a stack without the wrappers at its leaf.
    pub fn site(&self, stack: StackId) -> SiteId {
        self.stripped.get(stack.index()).copied().unwrap_or(NO_SITE)
    }

    /// The owning function of each stack frame of a path, root first; functions inlined into it are left out.
    pub fn physical_frames(&self, site: SiteId) -> Vec<PlaceId> {
        let mut frames = Vec::new();
        let mut at = site;
        while at != NO_SITE {
            let node = self.nodes[at.0 as usize];
            if node.owner {
                frames.push(node.place);
            }
            at = node.parent;
        }
        frames.reverse();
        frames
    }

    /// Places of a path, leaf first.
    pub fn path(&self, site: SiteId) -> impl Iterator<Item = PlaceId> + '_ {
        let mut at = site;
        std::iter::from_fn(move || {
            let node = self.nodes.get(at.0 as usize).filter(|_| at != NO_SITE)?;
            at = node.parent;
            Some(node.place)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trace_format::{Frame, FrameId, FrameSymbols, ModuleId, StackNode, Symbol};

    fn symbols(functions: &[(&str, u32)]) -> FrameSymbols {
        let symbol = |(name, line): &(&str, u32)| Symbol { name: (*name).into(), line: *line, ..Symbol::default() };
        FrameSymbols { functions: functions.iter().map(symbol).collect() }
    }

    /// Stack 1.. of these frames, each the child of the given stack.
    fn tree(frames: &[(u32, &[(&str, u32)])]) -> (SiteTree, Names) {
        let mut tables =
            Tables { stacks: vec![StackNode { parent: StackId(0), frame: FrameId(0) }], ..Tables::default() };
        let mut all = Vec::new();
        for (at, (parent, functions)) in frames.iter().enumerate() {
            tables.frames.push(Frame { module: ModuleId(0), address: at as u64 });
            tables.stacks.push(StackNode { parent: StackId(*parent), frame: FrameId::from(at) });
            all.push(symbols(functions));
        }
        let names = Names::with_symbols(&tables, &all);
        (SiteTree::of(&tables, &names, &Wrappers::default()), names)
    }

    fn path(tree: &SiteTree, names: &Names, site: SiteId) -> String {
        tree.path(site).map(|place| names.place(place).function.clone()).collect::<Vec<_>>().join(" < ")
    }

    #[test]
    fn equal_names_and_lines_are_one_site_and_different_lines_are_two() {
        let (tree, _) = tree(&[(0, &[("main", 1)]), (1, &[("f", 7)]), (1, &[("f", 7)]), (1, &[("f", 8)])]);
        assert_eq!(tree.site(StackId(2)), tree.site(StackId(3)));
        assert_ne!(tree.site(StackId(2)), tree.site(StackId(4)));
    }

    #[test]
    fn wrappers_go_from_the_leaf_only_even_when_inlined() {
        let (tree, names) = tree(&[
            (0, &[("main", 0)]),
            (1, &[("xmalloc", 0)]),
            (2, &[("std::allocator<int>::allocate", 0), ("operator new", 0)]),
            (1, &[("alloc::raw_vec::finish_grow", 0), ("push", 0)]),
            (2, &[("callback", 0)]),
        ]);
        assert_eq!(path(&tree, &names, tree.site(StackId(3))), "main");
        assert_eq!(
            path(&tree, &names, tree.full(StackId(3))),
            "std::allocator<int>::allocate < operator new < xmalloc < main"
        );
        assert_eq!(path(&tree, &names, tree.site(StackId(4))), "push < main");
        assert_eq!(path(&tree, &names, tree.site(StackId(5))), "callback < xmalloc < main");
    }

    #[test]
    fn a_stack_of_wrappers_alone_keeps_one() {
        let (tree, names) = tree(&[(0, &[("operator new", 0)]), (1, &[("xmalloc", 0)])]);
        assert_eq!(path(&tree, &names, tree.site(StackId(1))), "operator new");
        assert_eq!(path(&tree, &names, tree.site(StackId(2))), "operator new");
        assert_eq!(tree.site(StackId(0)), NO_SITE);
        assert_eq!(tree.site(StackId(99)), NO_SITE);
    }
}
