//! What a plan would have come to. Responsible for counting chunks, peak, drag and what frees are saved, exactly as a program with this plan
//! would; not for which block goes where (see `follow`), nor for real memory (see `whatif`).

use foldhash::{HashMap, HashMapExt};
use serde::Serialize;
use trace_format::{Event, ReadError, Sequence, ThreadId};

use super::crest::Stretches;
use super::follow::{Broken, Following, InstanceId, Stage};
use super::growth::{Chunks, Policy, in_malloc, padded};
use super::plan::{AtEnd, Placement, Plan};
use crate::phases::View;
use crate::replay::{CellId, Outcome};
use crate::wrappers::Wrappers;

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
    /// When most was in malloc and in chunks, in each stretch of the run.
    pub highs: Vec<High>,
}

/// A moment at which much is in malloc and in chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct High {
    /// The first event after it.
    pub after: Sequence,
    /// Requested bytes in malloc and chunks held.
    pub bytes: u64,
    /// Requested bytes that are alive, wherever they are.
    pub live_bytes: u64,
    /// Dead bytes in arenas.
    pub dead_bytes: u64,
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
    /// Dead bytes in open arenas.
    dead_bytes: u64,
    stretches: Stretches<High>,
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
            dead_bytes: 0,
            stretches: Stretches::default(),
            clock: 0,
            stamp: 0,
        }
    }

    /// What it came to; what was broken and placed is told by `Following`.
    pub(crate) fn into_figures(self) -> Simulated {
        let highs = self.stretches.highest().iter().map(|(_, high)| *high).filter(|high| high.bytes > 0).collect();
        Simulated { highs, ..self.figures }
    }

    fn raise(&mut self, event: &Event) {
        let high = High {
            after: Sequence(event.sequence.0 + 1),
            bytes: self.level.bytes,
            live_bytes: self.plain.bytes,
            dead_bytes: self.dead_bytes,
        };
        self.stretches.step();
        self.stretches.reach(high.bytes, || high);
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
        self.dead_bytes += size_bytes;
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
        self.dead_bytes -= contents.dead_bytes;
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

    fn allocate(&mut self, size_bytes: u64, home: Option<InstanceId>, event: &Event) -> u64 {
        self.advance(size_bytes);
        self.figures.alloc_count += 1;
        self.plain.add(size_bytes);
        match home {
            None => {
                self.level.add(size_bytes);
                self.raise(event);
                0
            }
            Some(instance) => {
                self.take(instance, size_bytes);
                self.beyond[self.instances[instance as usize].arena] -= size_bytes as i64;
                self.raise(event);
                let arena = &mut self.figures.arenas[self.instances[instance as usize].arena];
                arena.object_count += 1;
                arena.bytes += size_bytes;
                self.stamp
            }
        }
    }

    fn reallocate(
        &mut self,
        old: u64,
        old_bytes: u64,
        size_bytes: u64,
        home: Option<InstanceId>,
        event: &Event,
    ) -> u64 {
        self.advance(size_bytes);
        self.plain.subtract(old_bytes);
        self.plain.add(size_bytes);
        let Some(instance) = home else {
            self.level.subtract(old_bytes);
            self.level.add(size_bytes);
            self.raise(event);
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
        self.raise(event);
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

/// Runs a trace through a plan. Phases are scopes if the view has them.
///
/// # Errors
/// The file became unreadable.
pub fn simulate(
    view: &View<'_>,
    wrappers: &Wrappers,
    plan: &Plan,
    decoders: usize,
    progress: impl FnMut(u64),
) -> Result<(Outcome, Simulated), ReadError> {
    let placement = Placement::of(plan, view.tables(), view.names(), wrappers);
    let following = Following::new(placement, view.tables(), Simulation::new(plan));
    let (outcome, following) = view.replay_with(following, decoders, progress)?;
    let (simulation, broken, placed) = following.finish();
    Ok((outcome, Simulated { broken, placed, ..simulation.into_figures() }))
}
