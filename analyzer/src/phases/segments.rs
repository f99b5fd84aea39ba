//! Phases without names: where the call tree branches. Responsible for finding the functions that share out a process's
//! allocations among them; not for when they are open (see `tracker`).
//!
//! The tree of function paths, weighed by bytes allocated below each. From the root, one goes down as long as one callee holds
//! nearly everything and no other holds much: that is the *spine*, which says nothing of phases. Where it branches, each
//! heavy callee is a phase; inside of it one goes on in the same way.
//!
//! ```text
//!   main 100 ─ compile 99 ─┬─ parse 30 ─ …                        ▶ parse
//!                          ├─ emit 65 ─ emit_all 64 ─┬─ select 40  ▶ emit_all, and in it select
//!                          │                         └─ …
//!                          └─ print 1                              too light
//! ```
//!
//! A spine that loses something noticeable on its way is more than one phase, each inside the one before; that of the root is
//! one from where it branches. A phase is open while its path is on the stack. It is called by the innermost function of its
//! spine that has a name of its own: those on the way there only call it. Memory: the tree of function paths. After the segmentation of calling context trees; a part of 3 % and
//! a spine of 90 % were measured to find the phases of rustc and gcc.

use foldhash::{HashMap, HashMapExt};
use trace_format::{StackId, Tables};

use super::rules::{PhaseId, Rules};

/// Part of all bytes that a phase holds at least.
const HEAVY: f64 = 0.03;
/// Part of its caller's bytes that a callee on the spine holds at least.
const SPINE: f64 = 0.9;
/// Part of all bytes that a spine loses at least from one phase to the next inside of it.
const NOTICEABLE: f64 = 0.01;
/// Phases inside each other.
const DEEPEST: usize = 5;

/// Paths of functions, and which of them stacks are.
#[derive(Debug)]
pub struct Paths {
    /// Parent and function of each path; the first is the empty one.
    nodes: Vec<(u32, u32)>,
    of_stack: Vec<u32>,
}

impl Paths {
    /// The paths of all stacks. `functions` numbers the function of each frame.
    pub fn of(tables: &Tables, functions: &[u32]) -> Self {
        let mut paths = Self { nodes: vec![(0, u32::MAX)], of_stack: vec![0] };
        let mut known: HashMap<(u32, u32), u32> = HashMap::new();
        for (at, stack) in tables.stacks.iter().enumerate().skip(1) {
            let parent = if stack.parent.index() < at { paths.of_stack[stack.parent.index()] } else { 0 };
            let function = functions.get(stack.frame.index()).copied().unwrap_or(u32::MAX);
            // A function that calls itself is one step.
            let path = if paths.nodes[parent as usize].1 == function && parent != 0 {
                parent
            } else {
                *known.entry((parent, function)).or_insert_with(|| {
                    paths.nodes.push((parent, function));
                    paths.nodes.len() as u32 - 1
                })
            };
            paths.of_stack.push(path);
        }
        paths
    }

    /// The path of a stack.
    pub fn of_stack(&self, stack: StackId) -> u32 {
        self.of_stack.get(stack.index()).copied().unwrap_or(0)
    }
}

/// Finds the phases of a process. `weights` are the bytes that it allocated at stacks; `name` calls a function, `is_way`
/// says of one that it only allocates for others.
pub fn segments(
    paths: &Paths,
    weights: impl IntoIterator<Item = (StackId, u64)>,
    name: impl Fn(u32) -> String,
    is_way: impl Fn(u32) -> bool,
    is_named: impl Fn(u32) -> bool,
) -> Rules {
    let mut bytes = vec![0u64; paths.nodes.len()];
    for (stack, weight) in weights {
        let at = paths.of_stack(stack) as usize;
        bytes[at] = bytes[at].saturating_add(weight);
    }
    for at in (1..bytes.len()).rev() {
        bytes[paths.nodes[at].0 as usize] += bytes[at];
    }
    let least = (bytes[0] as f64 * HEAVY).max(1.0);
    let mut heavy: HashMap<u32, Vec<u32>> = HashMap::new();
    // What only allocates for others is a phase only if something heavy that does more is called from it.
    let mut does_more = vec![false; paths.nodes.len()];
    for (at, (parent, function)) in paths.nodes.iter().enumerate().skip(1).rev() {
        does_more[at] |= bytes[at] as f64 >= least && !is_way(*function);
        does_more[*parent as usize] |= does_more[at];
    }
    for (at, (parent, _)) in paths.nodes.iter().enumerate().skip(1) {
        if bytes[at] as f64 >= least && does_more[at] {
            heavy.entry(*parent).or_default().push(at as u32);
        }
    }
    let mut search = Search {
        paths,
        bytes,
        heavy,
        found: HashMap::new(),
        rules: Rules::by_paths(),
        name: &name,
        is_way: &is_way,
        is_named: &is_named,
    };
    // The root's own spine is one phase, from where it branches.
    let spine = search.spine(0);
    match spine.last() {
        Some(branch) if *branch != 0 => {
            let name = search.open_at(*branch, &spine[1..], "");
            search.below(*branch, 1, &name);
        }
        _ => search.below(0, 0, ""),
    }
    let Search { mut rules, found, .. } = search;
    rules.set_paths(paths.of_stack.iter().map(|path| found.get(path).copied()).collect());
    rules
}

struct Search<'p, F: Fn(u32) -> String, W: Fn(u32) -> bool, N: Fn(u32) -> bool> {
    paths: &'p Paths,
    bytes: Vec<u64>,
    heavy: HashMap<u32, Vec<u32>>,
    found: HashMap<u32, PhaseId>,
    rules: Rules,
    name: &'p F,
    is_way: &'p W,
    is_named: &'p N,
}

impl<F: Fn(u32) -> String, W: Fn(u32) -> bool, N: Fn(u32) -> bool> Search<'_, F, W, N> {
    /// The one callee that holds nearly all of a path, if it has just one heavy callee.
    fn next(&self, path: u32) -> Option<u32> {
        match self.heavy.get(&path).map(Vec::as_slice) {
            Some([only]) if self.bytes[*only as usize] as f64 >= SPINE * self.bytes[path as usize] as f64 => {
                Some(*only)
            }
            _ => None,
        }
    }

    /// The spine from a path on, with the path.
    fn spine(&self, path: u32) -> Vec<u32> {
        let mut spine = vec![path];
        while let Some(next) = spine.last().and_then(|last| self.next(*last)) {
            spine.push(next);
        }
        spine
    }

    /// Phases below a path that is no phase itself, or was made one.
    fn below(&mut self, path: u32, depth: usize, outer: &str) {
        if depth >= DEEPEST {
            return;
        }
        for child in self.heavy.get(&path).cloned().unwrap_or_default() {
            self.along(&self.spine(child), depth, outer);
        }
    }

    /// Phases on a spine and below it.
    fn along(&mut self, spine: &[u32], depth: usize, outer: &str) {
        let (Some(first), Some(end)) = (spine.first(), spine.last()) else { return };
        if depth >= DEEPEST {
            return;
        }
        // Where it has lost something since its first path, another phase begins.
        let noticeable = (self.bytes[0] as f64 * NOTICEABLE) as u64;
        let lost = |at: &u32| self.bytes[*first as usize] - self.bytes[*at as usize] >= noticeable.max(1);
        let next = spine.iter().position(lost).unwrap_or(spine.len());
        let name = self.open_at(*first, &spine[..next], outer);
        if next < spine.len() {
            self.along(&spine[next..], depth + 1, &name);
        } else {
            self.below(*end, depth + 1, &name);
        }
    }

    /// Makes a phase of a path, called by the innermost of these that has a name of its own.
    fn open_at(&mut self, path: u32, spine: &[u32], outer: &str) -> String {
        let function = |path: &u32| self.paths.nodes[*path as usize].1;
        let own = |path: &&u32| !(self.is_way)(function(path));
        let named = spine.iter().rev().find(|path| own(path) && (self.is_named)(function(path)));
        let called = named.or_else(|| spine.iter().rev().find(own)).map_or(path, |path| *path);
        let function = (self.name)(self.paths.nodes[called as usize].1);
        // Two phases of one name in different places are two.
        let mut name = function.clone();
        let mut number = 1;
        while self.rules.has(&name) && name != outer {
            number += 1;
            name = format!("{function} #{number}");
        }
        let phase = self.rules.define(&name, true);
        self.found.insert(path, phase);
        name
    }
}
