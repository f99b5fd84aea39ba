//! Takes the blocks of a trace through a plan. Responsible for opening and closing arenas as a program with this plan would, and for what
//! that breaks; not for choosing the plan, nor for what a *stage* does with blocks and arenas: counting (see `simulate`) or a script
//! for real memory (see `whatif`).
//!
//! ```text
//!   event ─▶ Following: which arena, which activation ─▶ Stage ─┬─ Simulation   chunks, peak, drag
//!                                                               └─ a script for replay in real memory
//! ```
//!
//! An arena is opened with its first block and closed when the activation it lives with has left the thread's stack, or has turned back with
//! nothing alive (see `turns`). A block that
//! is freed later than that, or by another thread, *violates* the plan. Chains of reallocs stay in the arena that they began in.

use foldhash::{HashMap, HashMapExt};
use trace_format::{Event, Op, ProcessId, Sequence, StackId, StackQuality, Tables, ThreadId};

use super::plan::Placement;
use super::turns::Turns;
use crate::activations::{Activations, Open};
use crate::replay::{Amount, Block, CellId, Observer};

/// An open arena, by number; numbers are used again.
pub type InstanceId = u32;

/// Where blocks and arenas are put.
pub trait Stage {
    /// What it keeps with a block.
    type Slot: Copy + Default + std::fmt::Debug;

    /// An arena is opened.
    fn open(&mut self, instance: InstanceId, arena: usize, thread: ThreadId);

    /// An arena is closed.
    fn close(&mut self, instance: InstanceId);

    /// A block is born, in malloc or in an arena.
    fn allocate(&mut self, size_bytes: u64, home: Option<InstanceId>, event: &Event) -> Self::Slot;

    /// A block changes its size. Its home stays.
    fn reallocate(
        &mut self,
        old: Self::Slot,
        old_bytes: u64,
        size_bytes: u64,
        home: Option<InstanceId>,
        event: &Event,
    ) -> Self::Slot;

    /// A block is freed.
    fn free(&mut self, slot: Self::Slot, size_bytes: u64, home: Option<InstanceId>, event: &Event);

    /// A block dies whose arena is gone.
    fn free_late(&mut self, slot: Self::Slot, arena: usize, size_bytes: u64);

    /// A block dies with its process.
    fn abandon(&mut self, slot: Self::Slot, size_bytes: u64, home: Option<InstanceId>);

    /// A thread has ended; its arenas are closed.
    fn thread_ended(&mut self, thread: ThreadId);
}

/// What is kept with a block.
#[derive(Debug, Clone, Copy, Default)]
pub struct Resident<S> {
    slot: S,
    /// Instance and its generation; 0: malloc.
    instance: InstanceId,
    generation: u32,
    arena: u32,
    /// Where the chain began.
    cell: u32,
    thread: ThreadId,
    began: Sequence,
}

/// An arena that is, or was, open.
#[derive(Debug, Clone, Copy)]
struct Running {
    generation: u32,
    arena: usize,
}

/// What a plan breaks at one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Broken {
    /// Blocks that outlive their arena.
    pub outlived: Amount,
    /// Blocks that another thread frees.
    pub handed_over: Amount,
}

/// Follows the blocks of a trace through a plan.
#[derive(Debug)]
pub struct Following<'t, S: Stage> {
    placement: Placement<'t>,
    activations: Activations<'t>,
    turns: Turns,
    instances: Vec<Running>,
    spare: Vec<InstanceId>,
    /// By thread, outermost first: frame, arena, instance.
    open: Vec<Vec<(usize, usize, InstanceId)>>,
    /// By arena and cell.
    broken: HashMap<(usize, CellId), Broken>,
    /// By cell: chains begun in an arena.
    placed: Vec<u64>,
    /// Its image has ended; what is still open goes before the next event.
    exited: Option<ProcessId>,
    tables: &'t Tables,
    stage: S,
}

impl<'t, S: Stage> Following<'t, S> {
    /// Nothing has happened.
    pub fn new(placement: Placement<'t>, tables: &'t Tables, stage: S) -> Self {
        Self {
            activations: Activations::new(tables, placement.functions()),
            turns: Turns::new(tables.threads.len()),
            placement,
            // Number 0 stands for malloc.
            instances: vec![Running { generation: 0, arena: 0 }],
            spare: Vec::new(),
            open: vec![Vec::new(); tables.threads.len()],
            broken: HashMap::new(),
            placed: Vec::new(),
            exited: None,
            tables,
            stage,
        }
    }

    /// Closes what is open at the end, and gives back the stage and what was broken.
    pub fn finish(mut self) -> (S, HashMap<(usize, CellId), Broken>, Vec<u64>) {
        for thread in 0..self.open.len() {
            self.close(ThreadId::from(thread), 0);
        }
        (self.stage, self.broken, self.placed)
    }

    fn close(&mut self, thread: ThreadId, from: usize) {
        let Some(open) = self.open.get_mut(thread.index()) else { return };
        while let Some((frame, _, instance)) = open.last().copied() {
            if frame < from {
                return;
            }
            open.pop();
            self.instances[instance as usize].generation += 1;
            self.spare.push(instance);
            self.stage.close(instance);
        }
    }

    /// The arena that a stack's blocks belong to now, opened if it is not.
    fn home(&mut self, stack: StackId, event: &Event) -> Option<InstanceId> {
        if event.walk.quality != StackQuality::Complete {
            return None;
        }
        let home = self.placement.home(stack)?;
        let open = self.open.get_mut(event.thread.index())?;
        let at = open.partition_point(|(frame, arena, _)| (*frame, *arena) < (home.frame, home.arena));
        if let Some((frame, arena, instance)) = open.get(at)
            && (*frame, *arena) == (home.frame, home.arena)
        {
            return Some(*instance);
        }
        let instance = self.spare.pop().unwrap_or_else(|| {
            self.instances.push(Running { generation: 0, arena: 0 });
            self.instances.len() as InstanceId - 1
        });
        self.instances[instance as usize].arena = home.arena;
        open.insert(at, (home.frame, home.arena, instance));
        self.stage.open(instance, home.arena, event.thread);
        Some(instance)
    }

    /// The instance of a block, if it is still the one it was.
    fn instance(&self, resident: &Resident<S::Slot>) -> Option<InstanceId> {
        let running = self.instances[resident.instance as usize];
        (resident.instance != 0 && running.generation == resident.generation).then_some(resident.instance)
    }

    fn over(&mut self, block: &Block<Resident<S::Slot>>, event: &Event) {
        let resident = block.tag;
        let scope = self.activations.of(resident.thread).map_or(0, |open| open.scope(resident.began));
        self.turns.died(resident.thread, scope);
        let instance = self.instance(&resident);
        if resident.instance != 0 && instance.is_none() {
            self.outlived(&resident, block.size_bytes);
            return;
        }
        if instance.is_some() && event.thread != resident.thread {
            self.breaks(&resident).handed_over += Amount { bytes: block.size_bytes, count: 1 };
        }
        self.stage.free(resident.slot, block.size_bytes, instance, event);
    }

    fn outlived(&mut self, resident: &Resident<S::Slot>, size_bytes: u64) {
        self.breaks(resident).outlived += Amount { bytes: size_bytes, count: 1 };
        self.stage.free_late(resident.slot, resident.arena as usize, size_bytes);
    }

    fn breaks(&mut self, resident: &Resident<S::Slot>) -> &mut Broken {
        self.broken.entry((resident.arena as usize, CellId(resident.cell))).or_default()
    }

    fn thread_ended(&mut self, thread: ThreadId) {
        self.close(thread, 0);
        self.stage.thread_ended(thread);
    }

    fn process_ended(&mut self, process: ProcessId) {
        for thread in 0..self.tables.threads.len() {
            if self.tables.threads[thread].process == process {
                self.thread_ended(ThreadId::from(thread));
            }
        }
    }
}

impl<S: Stage> Observer for Following<'_, S>
where
    S::Slot: 'static,
{
    type Tag = Resident<S::Slot>;

    fn event(&mut self, event: &Event) {
        if let Some(process) = self.exited.take() {
            self.process_ended(process);
        }
        match event.op {
            Op::ThreadEnd => self.thread_ended(event.thread),
            Op::ProcessEnd { process, .. } => self.exited = Some(process),
            _ => {}
        }
        if let Some(step) = self.activations.step(event) {
            let depth = self.activations.of(event.thread).map_or(0, Open::depth);
            let ended_from = self.turns.step(event.thread, step, depth);
            self.close(event.thread, ended_from);
        }
    }

    fn born(
        &mut self,
        block: &Block<Self::Tag>,
        stack: StackId,
        replaced: Option<&Block<Self::Tag>>,
        event: &Event,
    ) -> Self::Tag {
        if let Some(old) = replaced {
            let instance = self.instance(&old.tag);
            if old.tag.instance != 0 && instance.is_none() {
                self.outlived(&old.tag, old.size_bytes);
                // From here on it is malloc's.
                let slot = self.stage.allocate(block.size_bytes, None, event);
                return Resident { slot, instance: 0, ..old.tag };
            }
            let slot = self.stage.reallocate(old.tag.slot, old.size_bytes, block.size_bytes, instance, event);
            return Resident { slot, ..old.tag };
        }
        self.turns.born(event.thread);
        let instance = self.home(stack, event);
        let slot = self.stage.allocate(block.size_bytes, instance, event);
        let running = self.instances[instance.unwrap_or(0) as usize];
        if instance.is_some() {
            let at = block.cell.index();
            if at >= self.placed.len() {
                self.placed.resize(at + 1, 0);
            }
            self.placed[at] += 1;
        }
        Resident {
            slot,
            instance: instance.unwrap_or(0),
            generation: running.generation,
            arena: running.arena as u32,
            cell: block.cell.0,
            thread: event.thread,
            began: event.sequence,
        }
    }

    fn died(&mut self, block: &Block<Self::Tag>, event: &Event) {
        self.over(block, event);
    }

    fn died_moving(&mut self, block: &Block<Self::Tag>, event: &Event) {
        self.over(block, event);
    }

    fn never_moved(&mut self, block: &Block<Self::Tag>) {
        let instance = self.instance(&block.tag);
        self.stage.abandon(block.tag.slot, block.size_bytes, instance);
    }

    fn survived(&mut self, block: &Block<Self::Tag>, _: ProcessId) {
        let resident = block.tag;
        let instance = self.instance(&resident);
        if resident.instance != 0 && instance.is_none() {
            self.outlived(&resident, block.size_bytes);
        } else {
            self.stage.abandon(resident.slot, block.size_bytes, instance);
        }
    }
}
