//! What a plan would have done, block by block. Responsible for opening, filling and closing arenas exactly as a program with
//! this plan would, and for what that saves, keeps and breaks; not for choosing the plan, nor for real memory (see `Stage`).
//!
//! ```text
//!   event ─▶ Following: which arena, which activation ─▶ Stage ─┬─ Simulation   chunks, peak, drag, violations
//!                                                               └─ a script for replay in real memory
//! ```
//!
//! An arena is opened with its first block and closed when the activation it lives with has left the thread's stack, or has turned back with
//! nothing alive (see `turns`). A block that
//! is freed later than that, or by another thread, *violates* the plan. Chains of reallocs stay in the arena that they began in.

use foldhash::{HashMap, HashMapExt};
use serde::Serialize;
use trace_format::{Event, Op, ProcessId, ReadError, Sequence, StackId, StackQuality, Tables, ThreadId, Trace};

use super::growth::{Chunks, Policy, in_malloc, padded};
use super::plan::{AtEnd, Placement, Plan};
use super::turns::Turns;
use crate::activations::{Activations, Open};
use crate::names::Names;
use crate::replay::{Amount, Block, CellId, Observer, Outcome, replay_with};
use crate::wrappers::Wrappers;

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

/// What one arena of a plan came to.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct ArenaFigures {
    /// Times it was opened.
    pub instance_count: u64,
    /// Blocks in it: allocs.
    pub object_count: u64,
    /// Their bytes, reallocs included.
    pub bytes: u64,
    /// Frees of its blocks: with the arena nothing needs to be done.
    pub free_count: u64,
    /// Reallocs that only the last block could do in place.
    pub realloc_in_place_count: u64,
    /// Reallocs that moved.
    pub realloc_moved_count: u64,
    /// Bytes that those left behind, dead until the end.
    pub left_bytes: u64,
    /// Chunks taken from malloc.
    pub chunk_count: u64,
    /// Bytes of the chunks.
    pub chunk_bytes: u64,
    /// Most bytes that all open instances held at a time.
    pub held_peak_bytes: u64,
    /// Highest sum of requested bytes in malloc and chunks held, had this been the only arena.
    pub alone_peak_bytes: u64,
    /// Held and never handed out when an instance ended, sum.
    pub tail_bytes: u64,
    /// Dead bytes × bytes allocated while they were kept.
    pub drag_byte_bytes: f64,
}

/// What a plan came to.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Simulated {
    /// By arena of the plan.
    pub arenas: Vec<ArenaFigures>,
    /// By arena and cell: what it breaks.
    pub broken: HashMap<(usize, CellId), Broken>,
    /// By cell: blocks in an arena.
    pub placed: Vec<u64>,
    /// Blocks born: allocs.
    pub alloc_count: u64,
    /// Frees, reallocs not counted.
    pub free_count: u64,
    /// Highest sum of requested bytes in malloc and chunks held.
    pub peak_bytes: u64,
    /// The same without any arena.
    pub plain_peak_bytes: u64,
    /// Highest sum of what glibc takes for blocks and chunks.
    pub footprint_peak_bytes: u64,
    /// The same without any arena.
    pub plain_footprint_peak_bytes: u64,
    /// Live bytes × bytes allocated, without any arena.
    pub live_byte_bytes: f64,
}

impl Simulated {
    /// Blocks in arenas.
    pub fn placed_count(&self) -> u64 {
        self.arenas.iter().map(|arena| arena.object_count).sum()
    }

    /// Blocks that break the plan.
    pub fn broken_count(&self) -> u64 {
        self.broken.values().map(|broken| broken.outlived.count + broken.handed_over.count).sum()
    }
}

/// Arenas made of chunks, counted only.
#[derive(Debug)]
pub(crate) struct Simulation {
    policy: Policy,
    at_end: Vec<AtEnd>,
    figures: Simulated,
    instances: Vec<Contents>,
    /// Chunks kept for the next instance, by thread and arena.
    parked: HashMap<(ThreadId, usize), Chunks>,
    /// By arena: held by open instances and parked.
    held: Vec<u64>,
    /// By arena: what its chunks hold beyond the requested bytes that are alive in it.
    beyond: Vec<i64>,
    level: Sums,
    plain: Sums,
    clock: u64,
    stamp: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    bytes: u64,
    footprint_bytes: u64,
}

impl Sums {
    fn hold(&mut self, chunk_bytes: u64) {
        self.bytes += chunk_bytes;
        self.footprint_bytes += chunk_bytes;
    }

    fn release(&mut self, chunk_bytes: u64) {
        self.bytes = self.bytes.saturating_sub(chunk_bytes);
        self.footprint_bytes = self.footprint_bytes.saturating_sub(chunk_bytes);
    }

    fn add(&mut self, bytes: u64) {
        self.bytes += bytes;
        self.footprint_bytes += in_malloc(bytes);
    }

    fn subtract(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_sub(bytes);
        self.footprint_bytes = self.footprint_bytes.saturating_sub(in_malloc(bytes));
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Contents {
    arena: usize,
    thread: ThreadId,
    chunks: Chunks,
    /// Stamp of the block that was handed out last.
    last: u64,
    dead_bytes: u64,
    dead_byte_clock: f64,
}

impl Simulation {
    /// Nothing has happened.
    pub(crate) fn new(plan: &Plan) -> Self {
        Self {
            policy: plan.policy,
            at_end: plan.arenas.iter().map(|arena| arena.at_end).collect(),
            figures: Simulated { arenas: vec![ArenaFigures::default(); plan.arenas.len()], ..Simulated::default() },
            instances: Vec::new(),
            parked: HashMap::new(),
            held: vec![0; plan.arenas.len()],
            beyond: vec![0; plan.arenas.len()],
            level: Sums::default(),
            plain: Sums::default(),
            clock: 0,
            stamp: 0,
        }
    }

    /// What it came to; what was broken and placed is told by `Following`.
    pub(crate) fn into_figures(self) -> Simulated {
        self.figures
    }

    fn raise(&mut self) {
        let figures = &mut self.figures;
        let plain = self.plain.bytes as i64;
        for (arena, beyond) in figures.arenas.iter_mut().zip(&self.beyond) {
            arena.alone_peak_bytes = arena.alone_peak_bytes.max((plain + beyond).max(0) as u64);
        }
        figures.peak_bytes = figures.peak_bytes.max(self.level.bytes);
        figures.footprint_peak_bytes = figures.footprint_peak_bytes.max(self.level.footprint_bytes);
        figures.plain_peak_bytes = figures.plain_peak_bytes.max(self.plain.bytes);
        figures.plain_footprint_peak_bytes = figures.plain_footprint_peak_bytes.max(self.plain.footprint_bytes);
    }

    fn take(&mut self, instance: InstanceId, size_bytes: u64) {
        let contents = &mut self.instances[instance as usize];
        let ordinary_count = contents.chunks.ordinary_count();
        let chunk = contents.chunks.allocate(self.policy, size_bytes);
        self.stamp += 1;
        // Behind a block with a chunk of its own there is no room.
        let own_chunk = chunk > 0 && contents.chunks.ordinary_count() == ordinary_count;
        contents.last = if own_chunk { 0 } else { self.stamp };
        let arena = contents.arena;
        if chunk > 0 {
            self.level.hold(chunk);
            let figures = &mut self.figures.arenas[arena];
            figures.chunk_count += 1;
            figures.chunk_bytes += chunk;
            self.held[arena] += chunk;
            self.beyond[arena] += chunk as i64;
            figures.held_peak_bytes = figures.held_peak_bytes.max(self.held[arena]);
        }
    }

    fn advance(&mut self, size_bytes: u64) {
        self.figures.live_byte_bytes += self.plain.bytes as f64 * size_bytes as f64;
        self.clock += size_bytes;
    }

    fn dead(&mut self, instance: InstanceId, size_bytes: u64) {
        let contents = &mut self.instances[instance as usize];
        contents.dead_bytes += size_bytes;
        contents.dead_byte_clock += size_bytes as f64 * self.clock as f64;
    }
}

impl Stage for Simulation {
    type Slot = u64;

    fn open(&mut self, instance: InstanceId, arena: usize, thread: ThreadId) {
        let at = instance as usize;
        if at >= self.instances.len() {
            self.instances.resize_with(at + 1, Contents::default);
        }
        let chunks = self.parked.remove(&(thread, arena)).unwrap_or_default();
        self.instances[at] = Contents { arena, thread, chunks, ..Contents::default() };
        self.figures.arenas[arena].instance_count += 1;
    }

    fn close(&mut self, instance: InstanceId) {
        let mut contents = self.instances[instance as usize];
        let figures = &mut self.figures.arenas[contents.arena];
        figures.tail_bytes += contents.chunks.held_bytes - contents.chunks.used_bytes;
        figures.drag_byte_bytes += contents.dead_bytes as f64 * self.clock as f64 - contents.dead_byte_clock;
        let key = (contents.thread, contents.arena);
        let given_back = if self.at_end[contents.arena] == AtEnd::Reset && !self.parked.contains_key(&key) {
            let given_back = contents.chunks.reset();
            self.parked.insert(key, contents.chunks);
            given_back
        } else {
            contents.chunks.held_bytes
        };
        self.level.release(given_back);
        self.held[contents.arena] -= given_back;
        self.beyond[contents.arena] -= given_back as i64;
    }

    fn allocate(&mut self, size_bytes: u64, home: Option<InstanceId>, _: &Event) -> u64 {
        self.advance(size_bytes);
        self.figures.alloc_count += 1;
        self.plain.add(size_bytes);
        match home {
            None => {
                self.level.add(size_bytes);
                self.raise();
                0
            }
            Some(instance) => {
                self.take(instance, size_bytes);
                self.beyond[self.instances[instance as usize].arena] -= size_bytes as i64;
                self.raise();
                let arena = &mut self.figures.arenas[self.instances[instance as usize].arena];
                arena.object_count += 1;
                arena.bytes += size_bytes;
                self.stamp
            }
        }
    }

    fn reallocate(&mut self, old: u64, old_bytes: u64, size_bytes: u64, home: Option<InstanceId>, _: &Event) -> u64 {
        self.advance(size_bytes);
        self.plain.subtract(old_bytes);
        self.plain.add(size_bytes);
        let Some(instance) = home else {
            self.level.subtract(old_bytes);
            self.level.add(size_bytes);
            self.raise();
            return 0;
        };
        let contents = &mut self.instances[instance as usize];
        let arena = contents.arena;
        let fits_where_it_is = padded(size_bytes) <= padded(old_bytes)
            || contents.last == old
                && self.policy.last_in_place()
                && contents.chunks.resize_last(old_bytes, size_bytes).is_some();
        if !fits_where_it_is {
            self.dead(instance, old_bytes);
            self.take(instance, size_bytes);
        }
        self.beyond[arena] += old_bytes as i64 - size_bytes as i64;
        self.raise();
        let figures = &mut self.figures.arenas[arena];
        figures.bytes += size_bytes;
        if fits_where_it_is {
            figures.realloc_in_place_count += 1;
            old
        } else {
            figures.realloc_moved_count += 1;
            figures.left_bytes += old_bytes;
            self.stamp
        }
    }

    fn free(&mut self, slot: u64, size_bytes: u64, home: Option<InstanceId>, _: &Event) {
        self.figures.free_count += 1;
        self.plain.subtract(size_bytes);
        let Some(instance) = home else {
            self.level.subtract(size_bytes);
            return;
        };
        let contents = &mut self.instances[instance as usize];
        self.figures.arenas[contents.arena].free_count += 1;
        self.beyond[contents.arena] += size_bytes as i64;
        if contents.last == slot && self.policy.last_in_place() {
            contents.chunks.free_last(size_bytes);
            contents.last = 0;
        } else {
            self.dead(instance, size_bytes);
        }
    }

    fn free_late(&mut self, _: u64, arena: usize, size_bytes: u64) {
        self.figures.free_count += 1;
        self.plain.subtract(size_bytes);
        self.beyond[arena] += size_bytes as i64;
    }

    fn abandon(&mut self, _: u64, size_bytes: u64, home: Option<InstanceId>) {
        self.plain.subtract(size_bytes);
        match home {
            None => self.level.subtract(size_bytes),
            Some(instance) => {
                self.dead(instance, size_bytes);
                self.beyond[self.instances[instance as usize].arena] += size_bytes as i64;
            }
        }
    }

    fn thread_ended(&mut self, thread: ThreadId) {
        for arena in 0..self.at_end.len() {
            if let Some(chunks) = self.parked.remove(&(thread, arena)) {
                self.level.release(chunks.held_bytes);
                self.held[arena] -= chunks.held_bytes;
                self.beyond[arena] -= chunks.held_bytes as i64;
            }
        }
    }
}

/// Runs a trace through a plan.
///
/// # Errors
/// The file became unreadable.
pub fn simulate(
    trace: &Trace,
    names: &Names,
    wrappers: &Wrappers,
    plan: &Plan,
    decoders: usize,
    progress: impl FnMut(u64),
) -> Result<(Outcome, Simulated), ReadError> {
    let placement = Placement::of(plan, &trace.tables, names, wrappers);
    let following = Following::new(placement, &trace.tables, Simulation::new(plan));
    let (outcome, following) = replay_with(trace, following, decoders, progress)?;
    let (simulation, broken, placed) = following.finish();
    Ok((outcome, Simulated { broken, placed, ..simulation.figures }))
}
