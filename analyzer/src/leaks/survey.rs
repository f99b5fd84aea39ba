//! First pass of the leak analysis: who survives. Responsible for counting, per stack that chains of blocks began at, how many
//! there were and how many are left; not for why (see `evidence`).
//!
//! A *chain* is what a program sees as one allocation: a block and what reallocs made of it. It is counted where it began, and
//! it is alive while its last block is.

use foldhash::{HashMap, HashMapExt};
use trace_format::{Event, ProcessId, Sequence, StackId, Tables};

use crate::replay::{Block, Observer};

/// What is kept with a live block: where its chain began.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Link {
    /// Number of the event that began the chain.
    pub began: Sequence,
    /// Its stack.
    pub origin: StackId,
    /// The stack of the last step.
    pub last: StackId,
}

/// Chains that began at one stack in one process.
#[derive(Debug, Clone, Default)]
pub(super) struct Origin {
    /// Chains.
    pub count: u64,
    /// Of them, alive at the end.
    pub survivor_count: u64,
    /// Their bytes.
    pub survivor_bytes: u64,
    /// The latest begin of one that was freed.
    pub last_freed_birth: Option<Sequence>,
    /// The earliest begin of one that was not.
    pub first_survivor_birth: Option<Sequence>,
    /// Stacks of the last steps of survivors, with how many; few.
    pub last_steps: Vec<(StackId, u64)>,
}

/// The observer.
#[derive(Debug)]
pub(super) struct Survey<'t> {
    tables: &'t Tables,
    origins: HashMap<(ProcessId, StackId), Origin>,
    /// Begins of chains that survived.
    survivors: Vec<Sequence>,
}

impl<'t> Survey<'t> {
    /// Nothing is known yet.
    pub(super) fn new(tables: &'t Tables) -> Self {
        Self { tables, origins: HashMap::new(), survivors: Vec::new() }
    }

    /// What was found: chains by origin, and the begins of survivors in order.
    pub(super) fn finish(mut self) -> (HashMap<(ProcessId, StackId), Origin>, Vec<Sequence>) {
        self.survivors.sort_unstable();
        (self.origins, self.survivors)
    }

    fn origin(&mut self, block: &Block<Link>) -> &mut Origin {
        let process = self.tables.threads.get(block.thread.index()).map_or(ProcessId(0), |thread| thread.process);
        self.origins.entry((process, block.tag.origin)).or_default()
    }

    fn freed(&mut self, block: &Block<Link>) {
        let began = block.tag.began;
        let origin = self.origin(block);
        origin.last_freed_birth = origin.last_freed_birth.max(Some(began));
    }
}

/// The link of a new block.
pub(super) fn link(stack: StackId, replaced: Option<&Block<Link>>, event: &Event) -> Link {
    match replaced {
        Some(old) => Link { last: stack, ..old.tag },
        None => Link { began: event.sequence, origin: stack, last: stack },
    }
}

impl Observer for Survey<'_> {
    type Tag = Link;

    fn born(&mut self, block: &Block<Link>, stack: StackId, replaced: Option<&Block<Link>>, event: &Event) -> Link {
        let link = link(stack, replaced, event);
        if replaced.is_none() {
            self.origin(&Block { tag: link, ..*block }).count += 1;
        }
        link
    }

    fn died(&mut self, block: &Block<Link>, _event: &Event) {
        self.freed(block);
    }

    fn died_moving(&mut self, block: &Block<Link>, _event: &Event) {
        self.freed(block);
    }

    fn survived(&mut self, block: &Block<Link>, _process: ProcessId) {
        let link = block.tag;
        self.survivors.push(link.began);
        let origin = self.origin(block);
        origin.survivor_count += 1;
        origin.survivor_bytes += block.size_bytes;
        origin.first_survivor_birth =
            Some(origin.first_survivor_birth.map_or(link.began, |first| first.min(link.began)));
        match origin.last_steps.iter_mut().find(|(stack, _)| *stack == link.last) {
            Some((_, count)) => *count += 1,
            None => origin.last_steps.push((link.last, 1)),
        }
    }
}
