//! Second pass of the leak analysis: what happened around survivors. Responsible for watching teardowns, repetitions and the
//! deaths of siblings; not for what follows from it (see `classify`).
//!
//! # Teardowns
//!
//! A block that is freed has a scope: the innermost activation that was open from its birth to its death (see
//! `activations`). Whoever is called from that activation and frees it takes something apart that the activation owns. If a
//! survivor was born under the same activation, its owner may be what was taken apart:
//!
//! ```text
//!   compile ─┬─ lower ─┬─ new_inst ─ malloc     born, freed below: scope = compile
//!            │         └─ new_args ─ malloc     survives, born under the same compile
//!            └─ deinit ─ free                   a teardown in compile: new_args is asked about
//! ```
//!
//! One teardown proves little. A group is *forgotten* by a function if most of its teardowns found survivors born since the
//! one before: then teardowns and survivors belong to the same owners.
//!
//! # Repetitions
//!
//! For each function on the stacks of a group's survivors: how many of its activations left survivors, and how many each;
//! whether it cleans up otherwise (blocks born and freed inside of it). Here the pessimistic reading of activations counts: two
//! calls from one place are two iterations.
//!
//! Memory: open activations, groups, and functions on the stacks of survivors. At most [`WATCHED`] survivors of a group are
//! watched in this way.

use foldhash::{HashMap, HashMapExt};
use trace_format::{Event, Op, ProcessId, Sequence, StackId, Tables, ThreadId};

use super::groups::{Functions, Group};
use super::survey::{Link, link};
use crate::activations::Activations;
use crate::replay::{Block, Observer};
use crate::site_tree::SiteTree;

/// Survivors of a group that are watched.
pub(super) const WATCHED: u64 = 20_000;
/// Most groups that teardowns are watched for, the heaviest ones.
pub(super) const WATCHED_GROUPS: usize = 4_000;

/// What was seen of a group.
#[derive(Debug, Clone, Default)]
pub struct Evidence {
    /// Teardowns by function: all, and those that found survivors.
    pub teardowns: HashMap<u32, Teardown>,
    /// Repetitions by function.
    pub repetitions: HashMap<u32, Repetition>,
    /// Where siblings died: function, how often.
    pub deaths: HashMap<u32, u64>,
    /// A stack that siblings died with.
    pub death_stack: Option<StackId>,
    /// The latest begin of a survivor.
    pub last_birth: Sequence,
    /// Survivors watched.
    pub watched_count: u64,
}

/// Teardowns by one function in activations with survivors of one group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Teardown {
    /// How many.
    pub count: u64,
    /// Of them, those that found survivors born since the one before.
    pub with_survivors: u64,
    /// Blocks they freed.
    pub freed_count: u64,
    /// Functions from the survivors' births out to the activation, the least of all; 0 where that is another thread's.
    pub distance: u32,
}

/// Activations of one function that left survivors of one group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Repetition {
    /// How many.
    pub count: u64,
    /// Of them, those in which other blocks were born and freed.
    pub balanced_count: u64,
    /// How deep on the stack the deepest was.
    pub depth: u64,
    /// Activations of the function on any stack, with or without survivors.
    pub activation_count: u64,
    /// Survivors and their bytes left by one, with how many of them did just that; few.
    pub amounts: Vec<((u64, u64), u64)>,
}

/// Facts of one open activation, pessimistic reading.
#[derive(Debug, Default, Clone)]
struct Frame {
    function: u32,
    /// Survivors born in it, by group.
    survivors: HashMap<u32, (u64, u64)>,
    balanced: bool,
}

/// Marks of one open activation, optimistic reading.
#[derive(Debug, Default, Clone)]
struct Mark {
    /// Survivors born under it, by group, and how many functions further in.
    born: HashMap<u32, (u64, u32)>,
    /// This activation, as a teardown, was counted already.
    counted: bool,
}

#[derive(Debug, Default, Clone)]
struct ThreadState {
    frames: Vec<Frame>,
    marks: Vec<Mark>,
}

/// The observer.
#[derive(Debug)]
pub(super) struct Watch<'t> {
    tables: &'t Tables,
    tree: &'t SiteTree,
    functions: &'t Functions<'t>,
    activations: Activations<'t>,
    /// Function of each frame, by frame.
    of_frame: Vec<u32>,
    /// Begins of survivors, in order.
    survivors: Vec<Sequence>,
    /// Groups by origin; of siblings too.
    group_of: HashMap<(ProcessId, StackId), u32>,
    /// Groups by process and caller of the allocating function.
    by_caller: HashMap<(ProcessId, u32), Vec<u32>>,
    found: Vec<Evidence>,
    /// Survivors seen by a teardown function the last time, by group and function.
    seen: HashMap<(u32, u32), u64>,
    threads: Vec<ThreadState>,
    own_function: HashMap<StackId, u32>,
    born_total: Vec<u64>,
    /// Activations by function, pessimistic reading.
    activation_counts: Vec<u64>,
}

impl<'t> Watch<'t> {
    /// Watches these groups. `survivors` are the begins of surviving chains, in order; `group_of` says for each origin which
    /// group it is of.
    pub(super) fn new(
        tables: &'t Tables,
        tree: &'t SiteTree,
        functions: &'t Functions<'t>,
        groups: &[Group],
        group_of: HashMap<(ProcessId, StackId), u32>,
        survivors: Vec<Sequence>,
    ) -> Self {
        let of_frame = functions.of_frames(tables.frames.len());
        let mut by_caller: HashMap<(ProcessId, u32), Vec<u32>> = HashMap::new();
        for (at, group) in groups.iter().enumerate().take(WATCHED_GROUPS) {
            for (stack, _) in &group.stacks {
                let path: Vec<u32> = functions.path(tree, *stack).collect();
                if let Some(caller) = path.get(1) {
                    let list = by_caller.entry((group.process, *caller)).or_default();
                    if !list.contains(&(at as u32)) {
                        list.push(at as u32);
                    }
                }
            }
        }
        Self {
            activations: Activations::new(tables, of_frame.clone()),
            threads: vec![ThreadState::default(); tables.threads.len()],
            found: vec![Evidence::default(); groups.len()],
            born_total: vec![0; groups.len()],
            activation_counts: Vec::new(),
            seen: HashMap::new(),
            own_function: HashMap::new(),
            tables,
            tree,
            functions,
            of_frame,
            survivors,
            group_of,
            by_caller,
        }
    }

    /// What was seen, by group.
    pub(super) fn finish(mut self) -> Vec<Evidence> {
        for thread in 0..self.threads.len() {
            self.close(thread, 0);
        }
        for evidence in &mut self.found {
            for (function, repetition) in &mut evidence.repetitions {
                repetition.activation_count = self.activation_counts.get(*function as usize).copied().unwrap_or(0);
            }
        }
        self.found
    }

    fn process(&self, thread: ThreadId) -> ProcessId {
        self.tables.threads.get(thread.index()).map_or(ProcessId(0), |thread| thread.process)
    }

    /// Ends activations of the pessimistic reading from a frame on.
    fn close(&mut self, thread: usize, from: usize) {
        while self.threads[thread].frames.len() > from {
            let Some(frame) = self.threads[thread].frames.pop() else { return };
            let depth = self.threads[thread].frames.len() as u64;
            if frame.survivors.is_empty() {
                continue;
            }
            for (group, amount) in frame.survivors {
                let repetition = self.found[group as usize].repetitions.entry(frame.function).or_default();
                repetition.count += 1;
                repetition.depth = repetition.depth.max(depth);
                repetition.balanced_count += u64::from(frame.balanced);
                // Many different amounts: not the same each time, whatever they are.
                if repetition.amounts.len() >= 64 {
                    continue;
                }
                match repetition.amounts.iter_mut().find(|(known, _)| *known == amount) {
                    Some((_, count)) => *count += 1,
                    None => repetition.amounts.push((amount, 1)),
                }
            }
        }
    }

    fn follow(&mut self, event: &Event) {
        let Some(step) = self.activations.step(event) else { return };
        let thread = event.thread.index();
        let again_from = step.kept + usize::from(step.moved && !step.fell_back);
        self.close(thread, again_from);
        let Some(open) = self.activations.of(event.thread) else { return };
        let state = &mut self.threads[thread];
        state.marks.truncate(step.ended_from());
        for node in &open.nodes()[state.frames.len().min(open.depth())..] {
            let function = self.of_frame[self.tables.stacks[node.index()].frame.index()];
            if function as usize >= self.activation_counts.len() {
                self.activation_counts.resize(function as usize + 1, 0);
            }
            self.activation_counts[function as usize] += 1;
            state.frames.push(Frame { function, ..Frame::default() });
        }
        state.marks.resize_with(open.depth(), Mark::default);
    }

    fn own_function(&mut self, stack: StackId) -> u32 {
        if let Some(function) = self.own_function.get(&stack) {
            return *function;
        }
        let function = self.functions.path(self.tree, stack).next().unwrap_or(u32::MAX);
        self.own_function.insert(stack, function);
        function
    }

    /// Frames of a stack out from, and with, the innermost that is neither wrapper nor library code.
    fn own_depth(&self, stack: StackId) -> u32 {
        let own = self.functions.path(self.tree, stack).next();
        let mut node = stack;
        while node != StackId::EMPTY && Some(self.of_frame[self.tables.stacks[node.index()].frame.index()]) != own {
            node = self.tables.stacks[node.index()].parent;
        }
        self.activations.depth(if node == StackId::EMPTY { stack } else { node })
    }

    /// A chain ends by a free.
    fn freed(&mut self, block: &Block<Link>, event: &Event) {
        let function = self.own_function(event.stack);
        let process = self.process(block.thread);
        if let Some(group) = self.group_of.get(&(process, block.tag.origin)) {
            let evidence = &mut self.found[*group as usize];
            *evidence.deaths.entry(function).or_default() += 1;
            if evidence.death_stack.is_none() && event.stack != StackId::EMPTY {
                evidence.death_stack = Some(event.stack);
            }
        }
        let Some(open) = self.activations.of(event.thread) else { return };
        let depth = open.depth();
        if event.thread != block.thread {
            self.freed_elsewhere(block, event, function, depth);
            return;
        }
        let scope = open.scope(block.tag.began);
        let pessimistic = open.pessimistic_scope(block.tag.began);
        let state = &mut self.threads[event.thread.index()];
        for frame in state.frames.iter_mut().take(pessimistic).rev() {
            if frame.balanced {
                break;
            }
            frame.balanced = true;
        }
        // Freed by the scope itself, or by what it calls?
        if scope == 0 || scope >= depth || state.marks[scope].counted && state.marks[scope - 1].born.is_empty() {
            return;
        }
        let first = !std::mem::replace(&mut state.marks[scope].counted, true);
        let born: Vec<(u32, (u64, u32))> =
            state.marks[scope - 1].born.iter().map(|(group, born)| (*group, *born)).collect();
        self.teardown(&born, function, first);
    }

    /// A block that was born on another thread: its scope is no activation. Groups whose survivors were allocated on behalf of
    /// the same function are asked about.
    fn freed_elsewhere(&mut self, block: &Block<Link>, event: &Event, function: u32, depth: usize) {
        let process = self.process(block.thread);
        let caller = self.functions.path(self.tree, block.tag.origin).nth(1);
        let Some(groups) = caller.and_then(|caller| self.by_caller.get(&(process, caller))) else { return };
        let born = groups.iter().map(|group| (*group, (self.born_total[*group as usize], 0)));
        let born: Vec<(u32, (u64, u32))> = born.filter(|(_, (born, _))| *born > 0).collect();
        let state = &mut self.threads[event.thread.index()];
        let first = match depth.checked_sub(1).and_then(|innermost| state.marks.get_mut(innermost)) {
            Some(mark) => !std::mem::replace(&mut mark.counted, true),
            None => true,
        };
        self.teardown(&born, function, first);
    }

    fn teardown(&mut self, born: &[(u32, (u64, u32))], function: u32, first: bool) {
        for (group, (count, distance)) in born {
            let teardown = self.found[*group as usize].teardowns.entry(function).or_default();
            teardown.distance = if teardown.freed_count == 0 { *distance } else { teardown.distance.min(*distance) };
            teardown.freed_count += 1;
            if first {
                teardown.count += 1;
                let seen = self.seen.entry((*group, function)).or_default();
                teardown.with_survivors += u64::from(*count > *seen);
                *seen = *count;
            }
        }
    }

    fn survivor_born(&mut self, block: &Block<Link>, link: &Link, event: &Event) {
        let process = self.process(event.thread);
        let Some(group) = self.group_of.get(&(process, link.origin)).copied() else { return };
        let evidence = &mut self.found[group as usize];
        evidence.last_birth = evidence.last_birth.max(event.sequence);
        if group as usize >= WATCHED_GROUPS || evidence.watched_count >= WATCHED {
            return;
        }
        evidence.watched_count += 1;
        self.born_total[group as usize] += 1;
        let own_depth = self.own_depth(link.origin);
        let state = &mut self.threads[event.thread.index()];
        for (mark, depth) in state.marks.iter_mut().zip(1..) {
            let distance = own_depth.saturating_sub(depth);
            let born = mark.born.entry(group).or_insert((0, distance));
            *born = (born.0 + 1, born.1.min(distance));
        }
        for frame in &mut state.frames {
            let amount = frame.survivors.entry(group).or_default();
            amount.0 += 1;
            amount.1 += block.size_bytes;
        }
    }
}

impl Observer for Watch<'_> {
    type Tag = Link;

    const SEES_SURVIVORS: bool = false;

    fn event(&mut self, event: &Event) {
        if event.op == Op::ThreadEnd {
            self.close(event.thread.index(), 0);
        }
        // Every event: one that is left out would look like one that is missing, across which nothing continues.
        self.follow(event);
    }

    fn born(&mut self, block: &Block<Link>, stack: StackId, replaced: Option<&Block<Link>>, event: &Event) -> Link {
        let link = link(stack, replaced, event);
        if replaced.is_none() && self.survivors.binary_search(&link.began).is_ok() {
            self.survivor_born(block, &link, event);
        }
        link
    }

    fn died(&mut self, block: &Block<Link>, event: &Event) {
        self.freed(block, event);
    }

    fn died_moving(&mut self, block: &Block<Link>, event: &Event) {
        self.freed(block, event);
    }
}
