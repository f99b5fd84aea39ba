//! A plan: which blocks go into which arena, opened and closed where. Responsible for its form in a file and for finding, in any
//! trace, the arena and the activation that a stack's blocks belong to; not for how plans are found (see `choose`, `keys`).
//!
//! A *key* is a path of functions and of calls in them, the allocating function first, wrappers left out: all blocks of stacks that
//! begin with it belong to its arena. A call is told by its return address, `@module+0x12`: one function often has many, with blocks of
//! different fates. The *scope* is a function: each activation of it has an arena of its own, opened with the first block and
//! closed when it returns. A phase that markers begin and end is a scope like a function (`phases::View` has it among the calls): it is
//! called `phase NAME`, and `@phase` stands for the call that it makes.
//!
//! ```text
//!   stack   main ─ compile ─ body ─ expr+0x40 ─ new_node+0x9 ─ malloc
//!   keys                                        new_node                            all that new_node allocates
//!                                               new_node @…+0x9                     what it allocates in this call
//!                                    expr     ◀ new_node @…+0x9                     when expr called it
//!   scope                     body              ⇒ the arena of that activation, frame 2
//! ```

use foldhash::{HashMap, HashMapExt};
use serde::{Deserialize, Serialize};
use trace_format::{Frame, StackId, Tables};

use super::growth::Policy;
use crate::error::AnalysisError;
use crate::leaks::Functions;
use crate::names::{Names, base_name};
use crate::phases::{IN_PHASE, PHASES_MODULE, phase_of};
use crate::wrappers::Wrappers;

/// Begins the text of a call in a key.
pub(super) const CALL: char = '@';
/// Number of the call that phases make, with whoever numbers names.
pub(super) const BY_PHASE: u32 = 0;
/// Version of the file's form.
const SCHEMA: u32 = 1;

/// Arenas for a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// Version of this form.
    pub schema: u32,
    /// How the arenas take memory.
    pub policy: Policy,
    /// The arenas.
    pub arenas: Vec<Arena>,
}

/// One kind of arena: there is one instance for each activation of its scope.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arena {
    /// The function whose activations it lives with, or `phase NAME`.
    pub scope: String,
    /// Of several activations on the stack, which one.
    pub nesting: Nesting,
    /// What becomes of its memory at the end of an activation.
    pub at_end: AtEnd,
    /// Paths, the allocating function first: each function may be followed by its call, `@module+0x12`, before its caller.
    pub keys: Vec<Vec<String>>,
}

/// Which of several activations of one function on a stack is meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nesting {
    /// Each activation has an arena of its own.
    Innermost,
    /// The outermost activation has one, calls inside of it share it.
    Outermost,
}

/// What becomes of an arena's memory at the end of an activation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AtEnd {
    /// It is given back.
    Destroy,
    /// The first chunk is kept for the thread's next activation.
    Reset,
}

impl Plan {
    /// A plan of these arenas.
    pub fn new(policy: Policy, arenas: Vec<Arena>) -> Self {
        Self { schema: SCHEMA, policy, arenas }
    }

    /// Reads a plan as `heaptape arenas --write-plan` writes it.
    ///
    /// # Errors
    /// The text is no plan, or one of a newer form; `origin` says whose text it is.
    pub fn parse(text: &str, origin: &str) -> Result<Self, AnalysisError> {
        let wrong = |what: String| AnalysisError::BadPlan { origin: origin.to_owned(), what };
        let plan: Self = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        if plan.schema != SCHEMA {
            return Err(wrong(format!("its schema is {}, this version reads {SCHEMA}", plan.schema)));
        }
        if let Some(empty) = plan.arenas.iter().find(|arena| arena.keys.iter().any(Vec::is_empty)) {
            return Err(wrong(format!("a key of the arena of {} is empty", empty.scope)));
        }
        Ok(plan)
    }

    /// Whether it takes a view with phases to find where blocks belong.
    pub fn has_phases(&self) -> bool {
        let mut names = self.arenas.iter().flat_map(|arena| arena.keys.iter().flatten().chain([&arena.scope]));
        names.any(|name| phase_of(name).is_some())
    }
}

/// Where the blocks of a stack belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Home {
    /// Index of the arena in the plan.
    pub arena: usize,
    /// Frame of the activation, counted from the root.
    pub frame: usize,
}

/// The functions of each stack by name, wrappers at the leaf left out.
#[derive(Debug)]
pub(super) struct StackPaths<'t> {
    tables: &'t Tables,
    /// By frame: number of the function that owns its code.
    functions: Vec<u32>,
    /// By function number: a number for its name, equal for equal names.
    names: Vec<u32>,
    /// By frame: a number for the call.
    calls: Vec<u32>,
    wrappers: Vec<bool>,
}

impl<'t> StackPaths<'t> {
    /// The paths of a trace; `intern` numbers names, and has given `@phase` the number [`BY_PHASE`].
    pub(super) fn new(
        tables: &'t Tables,
        names: &Names,
        wrappers: &Wrappers,
        mut intern: impl FnMut(&str) -> u32,
    ) -> Self {
        let functions = Functions::of(names);
        let count = functions.count();
        let call = |frame: &Frame| {
            let module = tables.modules.get(frame.module.index()).map_or("", |module| base_name(&module.path));
            if module == PHASES_MODULE { IN_PHASE.to_owned() } else { format!("{CALL}{module}+{:#x}", frame.address) }
        };
        Self {
            functions: functions.of_frames(tables.frames.len()),
            calls: tables.frames.iter().map(|frame| intern(&call(frame))).collect(),
            names: (0..count).map(|function| intern(functions.name(function))).collect(),
            wrappers: (0..count).map(|function| wrappers.contains(functions.name(function))).collect(),
            tables,
        }
    }

    /// By frame: number of the function that owns its code.
    pub(super) fn functions(&self) -> &[u32] {
        &self.functions
    }

    /// The number that `intern` gave a function's name.
    pub(super) fn name(&self, function: u32) -> Option<u32> {
        self.names.get(function as usize).copied()
    }

    /// A stack's functions, leaf first, each followed by its call, into `path`; returns how many wrappers at the leaf were left out. A
    /// stack of nothing but wrappers keeps the outermost.
    pub(super) fn path(&self, stack: StackId, path: &mut Vec<u32>) -> usize {
        path.clear();
        let mut wrapper_count = 0;
        let mut at = stack;
        while at != StackId::EMPTY && at.index() < self.tables.stacks.len() {
            let node = self.tables.stacks[at.index()];
            let function = self.functions.get(node.frame.index()).copied().unwrap_or(u32::MAX);
            let is_wrapper = self.wrappers.get(function as usize) == Some(&true);
            let outermost = node.parent == StackId::EMPTY || node.parent.index() >= at.index();
            if path.is_empty() && is_wrapper && !outermost {
                wrapper_count += 1;
            } else {
                path.push(self.name(function).unwrap_or(u32::MAX));
                path.push(self.calls.get(node.frame.index()).copied().unwrap_or(u32::MAX));
            }
            if outermost {
                break;
            }
            at = node.parent;
        }
        wrapper_count
    }
}

/// What is known of a stack.
#[derive(Debug, Clone, Copy)]
enum Known {
    NotYet,
    Malloc,
    Home(Home),
}

/// A plan, found on the stacks of one trace.
#[derive(Debug)]
pub struct Placement<'t> {
    paths: StackPaths<'t>,
    /// Keys as a tree: from a node by a function to the next; node 0 is the root.
    next: HashMap<(u32, u32), u32>,
    arena_of: HashMap<u32, usize>,
    /// By arena: number of its scope's name, and which activation.
    scopes: Vec<(u32, Nesting)>,
    /// By stack.
    known: Vec<Known>,
    path: Vec<u32>,
}

impl<'t> Placement<'t> {
    /// Finds a plan's functions in a trace. Where two keys begin alike, the longer one holds, and the one that tells calls.
    pub fn of(plan: &Plan, tables: &'t Tables, names: &Names, wrappers: &Wrappers) -> Self {
        let mut numbers: HashMap<String, u32> = [(IN_PHASE.to_owned(), BY_PHASE)].into_iter().collect();
        let mut intern = |name: &str| {
            let next = numbers.len() as u32;
            *numbers.entry(name.to_owned()).or_insert(next)
        };
        let paths = StackPaths::new(tables, names, wrappers, &mut intern);
        let mut next: HashMap<(u32, u32), u32> = HashMap::new();
        let mut arena_of = HashMap::new();
        let mut node_count = 1;
        for (at, arena) in plan.arenas.iter().enumerate() {
            for key in &arena.keys {
                let mut node = 0;
                for name in key {
                    node = *next.entry((node, intern(name))).or_insert_with(|| {
                        node_count += 1;
                        node_count - 1
                    });
                }
                arena_of.entry(node).or_insert(at);
            }
        }
        let scopes = plan.arenas.iter().map(|arena| (intern(&arena.scope), arena.nesting)).collect();
        Self { paths, next, arena_of, scopes, known: vec![Known::NotYet; tables.stacks.len()], path: Vec::new() }
    }

    /// By frame: number of the function that owns its code.
    pub fn functions(&self) -> Vec<u32> {
        self.paths.functions().to_vec()
    }

    /// Where blocks of a stack belong; none: they stay with malloc. O(depth) the first time.
    pub fn home(&mut self, stack: StackId) -> Option<Home> {
        match self.known.get(stack.index()) {
            Some(Known::Home(home)) => return Some(*home),
            Some(Known::Malloc) => return None,
            Some(Known::NotYet) | None => {}
        }
        let home = self.find(stack);
        if let Some(known) = self.known.get_mut(stack.index()) {
            *known = home.map_or(Known::Malloc, Known::Home);
        }
        home
    }

    fn find(&mut self, stack: StackId) -> Option<Home> {
        let mut path = std::mem::take(&mut self.path);
        self.paths.path(stack, &mut path);
        // A key may leave calls out: the nodes reached with and without them.
        let mut nodes = vec![0];
        let mut arena = None;
        for frame in path.chunks_exact(2) {
            nodes = self.step(&nodes, frame[0]);
            arena = self.arena_at(&nodes).or(arena);
            let told = self.step(&nodes, frame[1]);
            arena = self.arena_at(&told).or(arena);
            nodes.extend(told);
            if nodes.is_empty() {
                break;
            }
        }
        let home = arena.and_then(|arena| {
            let (scope, nesting) = self.scopes[arena];
            Some(Home { arena, frame: scope_frame(&path, scope, nesting)? })
        });
        self.path = path;
        home
    }

    fn step(&self, nodes: &[u32], name: u32) -> Vec<u32> {
        nodes.iter().filter_map(|node| self.next.get(&(*node, name)).copied()).collect()
    }

    fn arena_at(&self, nodes: &[u32]) -> Option<usize> {
        nodes.iter().rev().find_map(|node| self.arena_of.get(node).copied())
    }
}

/// The frame, counted from the root, of a scope's activation on a path that runs from the leaf to the root.
pub(super) fn scope_frame(path: &[u32], scope: u32, nesting: Nesting) -> Option<usize> {
    let mut found = activations(path).filter(|(name, _)| *name == scope);
    let (_, frame) = match nesting {
        Nesting::Innermost => found.next(),
        Nesting::Outermost => found.next_back(),
    }?;
    Some(frame)
}

/// The activations on a path that runs from the leaf to the root, innermost first: name, and frame counted from the root. A call that goes on
/// in a phase is the one that the phase lies in.
pub(super) fn activations(path: &[u32]) -> impl DoubleEndedIterator<Item = (u32, usize)> + '_ {
    let count = path.len() / 2;
    let goes_on = |at: usize| path.get(2 * at + 3) == Some(&BY_PHASE);
    (0..count).filter(move |at| !goes_on(*at)).map(move |at| (path[2 * at], count - 1 - at))
}

/// The functions among them, without phases.
pub(super) fn functions(path: &[u32]) -> impl Iterator<Item = (u32, usize)> + '_ {
    let count = path.len() / 2;
    activations(path).filter(move |(_, frame)| path[2 * (count - 1 - frame) + 1] != BY_PHASE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_found_from_the_root() {
        let path = [5, 50, 7, 70, 3, 30, 7, 71, 1, 10];
        assert_eq!(scope_frame(&path, 7, Nesting::Innermost), Some(3));
        assert_eq!(scope_frame(&path, 7, Nesting::Outermost), Some(1));
        assert_eq!(scope_frame(&path, 9, Nesting::Outermost), None);
    }

    #[test]
    fn plans_survive_their_file_and_others_are_refused() {
        let arena = Arena {
            scope: "body".into(),
            nesting: Nesting::Innermost,
            at_end: AtEnd::Reset,
            keys: vec![vec!["new_node".into(), "expr".into()]],
        };
        let plan = Plan::new(Policy::Rustc, vec![arena]);
        let text = serde_json::to_string(&plan).unwrap();
        assert_eq!(Plan::parse(&text, "x").unwrap(), plan);
        for (wrong, part) in [
            (text.replace("\"schema\":1", "\"schema\":9"), "schema is 9"),
            (text.replace("[\"new_node\",\"expr\"]", "[]"), "a key of the arena of body is empty"),
            ("{}".to_owned(), "missing field"),
        ] {
            let error = Plan::parse(&wrong, "x.json").unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("x.json"), "{error}");
        }
    }
}
