//! Follows blocks from birth to death while a trace is replayed. Responsible for what is counted per phase, per cell and per
//! pair of birth and death; not for what is made of it (see `phases_report`, `lifetimes`).
//!
//! Memory: live blocks (a tag each), rows of phases, open phase instances, and per cell (distinct stack and process) one
//! [`CellLife`]. Time per event: frames that changed plus open phases.

use foldhash::{HashMap, HashMapExt};
use trace_format::{Event, Op, ProcessId, Sequence, StackId, Tables, ThreadId};

use super::class::Class;
use super::death::{Death, Moving};
use super::histogram::{Coarse, Histogram};
use super::peak::Peak;
use super::timeline::Timeline;
use crate::phases::{Change, OpenPhase, RowId, Tracker, open_since};
use crate::replay::{Amount, Block, Observer};

/// Phase instances that are listed one by one, for each row.
pub const LISTED_INSTANCES: usize = 4096;
/// Escape heights that are told apart; higher ones are one.
pub const ESCAPES: usize = 12;

/// What is kept with each live block.
#[derive(Debug, Clone, Copy, Default)]
pub struct Tag {
    /// Innermost phase at its birth.
    row: RowId,
    /// Phases open on its thread at its birth.
    open_phases: u32,
    /// Frames on its thread's stack at its birth.
    depth: u32,
    /// Bytes allocated before it.
    clock_bytes: u64,
}

/// What happened in a row of phases.
#[derive(Debug, Clone, Default)]
pub struct RowLife {
    /// Instances begun.
    pub instance_count: u64,
    /// Instances that the end of the thread, process or recording cut short.
    pub cut_short_count: u64,
    /// First begin and last end.
    pub begin_ns: u64,
    /// Last end.
    pub end_ns: u64,
    /// Time of all instances.
    pub time_ns: u64,
    /// Blocks born here and not in a phase inside: allocs and ends of reallocs.
    pub born: Amount,
    /// Of those, ends of reallocs.
    pub realloc_count: u64,
    /// Blocks that died here, wherever they were born; begins of reallocs too.
    pub died: Amount,
    /// Blocks born here, by what became of them.
    pub classes: [Amount; Class::COUNT],
    /// Blocks born here that are alive now.
    pub live: Amount,
    /// The most that was alive in the process while an instance was open, and who held it.
    pub peak: Peak,
    /// Most bytes born here that were alive at a time.
    pub own_peak_bytes: u64,
    /// Blocks born in an instance, phases inside it included, and alive at its end.
    pub left_behind: Amount,
    /// Ages of blocks born here that were freed, in bytes allocated meanwhile.
    pub ages_bytes: Histogram,
    /// The same in ns.
    pub ages_ns: Histogram,
    /// The first instances.
    pub instances: Vec<Instance>,
}

/// One instance of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Instance {
    /// When it began.
    pub begin_ns: u64,
    /// When it ended.
    pub end_ns: u64,
    /// First event in it.
    pub first: Sequence,
    /// First event after it.
    pub end: Sequence,
    /// Blocks born in it, phases inside it included.
    pub born: Amount,
    /// Of those, alive at its end.
    pub left_behind: Amount,
}

/// What became of the blocks of a cell.
#[derive(Debug, Clone, Default)]
pub struct CellLife {
    /// By class.
    pub classes: [Amount; Class::COUNT],
    /// By escape height, for blocks freed by their own thread: frames between the stack at birth and the scope.
    pub escapes: [u32; ESCAPES],
    /// The same, pessimistic reading.
    pub pessimistic_escapes: [u32; ESCAPES],
    /// Blocks whose two scopes differ between the readings.
    pub doubtful_scope_count: u32,
    /// Bytes × ns of life, within the trace.
    pub byte_ns: u128,
    /// Blocks whose scope is no activation: both ends share not even the thread's root.
    pub unscoped_count: u32,
    /// Ages of those freed, in bytes allocated meanwhile.
    pub ages_bytes: Coarse,
    /// The same in ns.
    pub ages_ns: Coarse,
    /// Row at birth, by count; few.
    pub rows: Vec<CellRow>,
}

/// What of a cell was born in a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CellRow {
    /// The phase.
    pub row: RowId,
    /// Blocks born in it: allocs and ends of reallocs.
    pub born: Amount,
    /// Of them, alive at the end.
    pub survived: Amount,
    /// Of them, freed by their own thread after the phase instance they were born in: handed over, or process-wide. None where
    /// no phase was open.
    pub left: Amount,
}

/// Sums over all blocks.
#[derive(Debug, Clone, Default)]
pub struct Sums {
    /// Bytes × ns of life, within the trace.
    pub byte_ns: u128,
    /// Bytes × bytes allocated meanwhile.
    pub byte_bytes: u128,
    /// Escape heights, optimistic reading.
    pub escapes: [u64; ESCAPES],
    /// Escape heights, pessimistic reading.
    pub pessimistic_escapes: [u64; ESCAPES],
    /// Blocks freed by their own thread.
    pub freed_count: u64,
    /// Of those, blocks whose two scopes differ between the readings.
    pub doubtful_scope_count: u64,
}

/// What a process has alive.
#[derive(Debug, Clone, Default)]
struct ProcessLife {
    live_bytes: u64,
    /// Rows of the open instances of its threads.
    open: Vec<RowId>,
}

/// The observer.
#[derive(Debug)]
pub struct Collector<'t> {
    tables: &'t Tables,
    tracker: Tracker<'t>,
    rows: Vec<RowLife>,
    cells: Vec<CellLife>,
    /// By row at birth and row at death; none for survivors.
    matrix: HashMap<(RowId, Option<RowId>), Amount>,
    instances: Vec<Vec<Running>>,
    processes: Vec<ProcessLife>,
    moving: Moving,
    sums: Sums,
    clock_bytes: u64,
    now_ns: u64,
    now: Sequence,
    timeline: Timeline,
}

/// An open instance.
#[derive(Debug, Clone, Copy)]
struct Running {
    instance: u64,
    facts: Instance,
    live: Amount,
}

/// What the collector found.
#[derive(Debug)]
pub struct Collected {
    /// Phases in their places.
    pub phases: Vec<crate::phases::Row>,
    /// By row.
    pub rows: Vec<RowLife>,
    /// By cell.
    pub cells: Vec<CellLife>,
    /// By row at birth and row at death.
    pub matrix: HashMap<(RowId, Option<RowId>), Amount>,
    /// Over all.
    pub sums: Sums,
    /// Live bytes over time.
    pub timeline: Timeline,
    /// End markers without a begin.
    pub unmatched_end_count: u64,
    /// Begin markers whose end never came.
    pub unended_count: u64,
}

impl<'t> Collector<'t> {
    /// Follows blocks through the phases that `tracker` opens and closes.
    pub fn new(tables: &'t Tables, tracker: Tracker<'t>, timeline: Timeline) -> Self {
        Self {
            tracker,
            rows: Vec::new(),
            cells: Vec::new(),
            matrix: HashMap::new(),
            instances: vec![Vec::new(); tables.threads.len()],
            processes: vec![ProcessLife::default(); tables.processes.len()],
            moving: Moving::new(tables.threads.len()),
            sums: Sums::default(),
            clock_bytes: 0,
            now_ns: 0,
            now: Sequence(0),
            timeline,
            tables,
        }
    }

    fn process_of(&self, thread: ThreadId) -> usize {
        self.tables.threads.get(thread.index()).map_or(0, |thread| thread.process.index())
    }

    fn row_mut(&mut self, row: RowId) -> &mut RowLife {
        let at = row.0 as usize;
        if at >= self.rows.len() {
            self.rows.resize_with(at + 1, RowLife::default);
        }
        &mut self.rows[at]
    }

    fn apply(&mut self, changes: &[Change], cut_short: bool) {
        for change in changes {
            match *change {
                Change::Opened(thread, open) => self.instance_begins(thread, &open),
                Change::Closed(thread, open) => self.instance_ends(thread, &open, cut_short),
            }
        }
    }

    fn instance_begins(&mut self, thread: ThreadId, open: &OpenPhase) {
        let (now_ns, now) = (self.now_ns, self.now);
        let process = self.process_of(thread);
        let live = self.processes.get(process).map_or(0, |process| process.live_bytes);
        let row = self.row_mut(open.row);
        if row.instance_count == 0 {
            row.begin_ns = now_ns;
        }
        row.instance_count += 1;
        row.peak.raise(live, now_ns);
        let facts = Instance { begin_ns: now_ns, first: now, ..Instance::default() };
        let running = Running { instance: open.instance, facts, live: Amount::default() };
        self.instances[thread.index()].push(running);
        if let Some(process) = self.processes.get_mut(process) {
            process.open.push(open.row);
        }
    }

    fn instance_ends(&mut self, thread: ThreadId, open: &OpenPhase, cut_short: bool) {
        let running = &mut self.instances[thread.index()];
        let Some(at) = running.iter().rposition(|running| running.instance == open.instance) else { return };
        let running = running.remove(at);
        let process = self.process_of(thread);
        if let Some(process) = self.processes.get_mut(process)
            && let Some(at) = process.open.iter().rposition(|row| *row == open.row)
        {
            process.open.swap_remove(at);
        }
        let mut peak = std::mem::take(&mut self.row_mut(open.row).peak);
        let rows = self.tracker.rows().iter().zip(&self.rows).zip(0..);
        let of_process = rows.filter(|((phase, _), _)| self.process_of(phase.thread) == process);
        peak.settle(of_process.map(|((_, life), at)| (RowId(at), life.live.bytes)));
        let (now_ns, now) = (self.now_ns, self.now);
        let row = self.row_mut(open.row);
        row.peak = peak;
        row.end_ns = now_ns;
        row.time_ns += now_ns.saturating_sub(running.facts.begin_ns);
        row.cut_short_count += u64::from(cut_short);
        row.left_behind += running.live;
        if row.instances.len() < LISTED_INSTANCES {
            row.instances.push(Instance { end_ns: now_ns, end: now, left_behind: running.live, ..running.facts });
        }
    }

    /// Before the live bytes of a row of a process change: puts them aside for the peaks of all open phases.
    #[inline]
    fn before_change(&mut self, process: usize, row: RowId) {
        let live = self.rows[row.0 as usize].live.bytes;
        let Some(process) = self.processes.get(process) else { return };
        for open in &process.open {
            self.rows[open.0 as usize].peak.put_aside(row, live);
        }
    }

    /// After the live bytes of a process have grown: raises the peaks of its open phases.
    #[inline]
    fn after_growth(&mut self, process: usize) {
        let Some(process) = self.processes.get(process) else { return };
        for open in &process.open {
            self.rows[open.0 as usize].peak.raise(process.live_bytes, self.now_ns);
        }
    }

    fn grow(&mut self, thread: ThreadId, row: RowId, size_bytes: u64, birth: Sequence) {
        let process = self.process_of(thread);
        self.row_mut(row);
        self.before_change(process, row);
        let life = &mut self.rows[row.0 as usize];
        life.live.bytes += size_bytes;
        life.live.count += 1;
        life.own_peak_bytes = life.own_peak_bytes.max(life.live.bytes);
        if let Some(process) = self.processes.get_mut(process) {
            process.live_bytes += size_bytes;
        }
        self.after_growth(process);
        let open = open_since(self.tracker.open(thread), birth);
        for running in self.instances[thread.index()].iter_mut().take(open) {
            running.live.bytes += size_bytes;
            running.live.count += 1;
        }
        self.timeline.changed(row, self.rows[row.0 as usize].live.bytes);
    }

    fn shrink(&mut self, block: &Block<Tag>) {
        let process = self.process_of(block.thread);
        let row = block.tag.row;
        self.before_change(process, row);
        let life = &mut self.rows[row.0 as usize];
        life.live.bytes = life.live.bytes.saturating_sub(block.size_bytes);
        life.live.count = life.live.count.saturating_sub(1);
        if let Some(process) = self.processes.get_mut(process) {
            process.live_bytes = process.live_bytes.saturating_sub(block.size_bytes);
        }
        let open = open_since(self.tracker.open(block.thread), block.birth_sequence);
        for running in self.instances[block.thread.index()].iter_mut().take(open) {
            running.live.bytes = running.live.bytes.saturating_sub(block.size_bytes);
            running.live.count = running.live.count.saturating_sub(1);
        }
        self.timeline.changed(row, self.rows[row.0 as usize].live.bytes);
    }

    /// What the death of a block by this event is.
    fn death(&mut self, block: &Block<Tag>, event: &Event) -> Death {
        let (thread, tag) = (event.thread, block.tag);
        let row = self.tracker.current(thread);
        let same_thread = thread == block.thread;
        let open = self.tracker.open(thread);
        let still_open = open_since(open, block.birth_sequence).min(tag.open_phases as usize);
        let stack = self.tracker.activations().of(thread).filter(|_| same_thread);
        let depth = tag.depth as usize;
        let scopes =
            stack.map(|stack| (stack.scope(block.birth_sequence), stack.pessimistic_scope(block.birth_sequence)));
        Death {
            birth: block.birth_sequence,
            row,
            class: Class::of_freed(same_thread, tag.open_phases as usize, still_open, open.len()),
            age_ns: event.time_ns.saturating_sub(block.birth_ns),
            age_bytes: self.clock_bytes.saturating_sub(tag.clock_bytes),
            escapes: scopes
                .map(|(scope, pessimistic)| (depth.saturating_sub(scope), depth.saturating_sub(pessimistic))),
            unscoped: scopes.is_some_and(|(scope, _)| scope.min(depth) == 0),
        }
    }

    /// A block's life is over.
    fn over(&mut self, block: &Block<Tag>, death: &Death) {
        let (tag, class) = (block.tag, death.class.index());
        let amount = Amount { bytes: block.size_bytes, count: 1 };
        self.row_mut(death.row).died += amount;
        *self.matrix.entry((tag.row, Some(death.row))).or_default() += amount;
        self.sums.byte_ns += u128::from(death.age_ns) * u128::from(block.size_bytes);
        self.sums.byte_bytes += u128::from(death.age_bytes) * u128::from(block.size_bytes);
        let row = &mut self.rows[tag.row.0 as usize];
        row.classes[class] += amount;
        row.ages_bytes.add(death.age_bytes);
        row.ages_ns.add(death.age_ns);
        let cell = &mut self.cells[block.cell.index()];
        cell.classes[class] += amount;
        if tag.open_phases > 0
            && matches!(death.class, Class::HandedOver | Class::ProcessWide)
            && let Some(known) = cell.rows.iter_mut().find(|known| known.row == tag.row)
        {
            known.left += amount;
        }
        cell.byte_ns += u128::from(death.age_ns) * u128::from(block.size_bytes);
        cell.ages_bytes.add(death.age_bytes);
        cell.ages_ns.add(death.age_ns);
        if let Some((escape, pessimistic)) = death.escapes {
            self.sums.freed_count += 1;
            self.sums.doubtful_scope_count += u64::from(escape != pessimistic);
            self.sums.escapes[escape.min(ESCAPES - 1)] += 1;
            self.sums.pessimistic_escapes[pessimistic.min(ESCAPES - 1)] += 1;
            cell.escapes[escape.min(ESCAPES - 1)] += 1;
            cell.pessimistic_escapes[pessimistic.min(ESCAPES - 1)] += 1;
            cell.doubtful_scope_count += u32::from(escape != pessimistic);
            cell.unscoped_count += u32::from(death.unscoped);
        }
    }

    /// The result, once the replay is done.
    pub fn finish(mut self) -> Collected {
        for change in self.tracker.finish() {
            if let Change::Closed(thread, open) = change {
                self.instance_ends(thread, &open, true);
            }
        }
        let row_count = self.tracker.rows().len();
        self.rows.resize_with(row_count, RowLife::default);
        self.timeline.finish(self.now_ns);
        Collected {
            phases: self.tracker.rows().to_vec(),
            rows: self.rows,
            cells: self.cells,
            matrix: self.matrix,
            sums: self.sums,
            timeline: self.timeline,
            unmatched_end_count: self.tracker.unmatched_end_count(),
            unended_count: self.tracker.unended_count(),
        }
    }
}

impl Observer for Collector<'_> {
    type Tag = Tag;

    fn event(&mut self, event: &Event) {
        (self.now_ns, self.now) = (event.time_ns, event.sequence);
        self.timeline.advance(event.time_ns);
        let changes = self.tracker.step(event);
        if !changes.is_empty() {
            let changes = changes.to_vec();
            self.apply(&changes, matches!(event.op, Op::ThreadEnd | Op::ProcessEnd { .. }));
        }
    }

    fn born(&mut self, block: &Block<Tag>, _stack: StackId, replaced: Option<&Block<Tag>>, event: &Event) -> Tag {
        if let Some(old) = replaced {
            self.died_moving(old, event);
        }
        let thread = event.thread;
        let row = self.tracker.current(thread);
        let depth = self.tracker.activations().of(thread).map_or(0, crate::activations::Open::depth) as u32;
        let open_phases = self.tracker.open(thread).len() as u32;
        let tag = Tag { row, open_phases, depth, clock_bytes: self.clock_bytes };
        self.clock_bytes = self.clock_bytes.wrapping_add(block.size_bytes);
        let life = self.row_mut(row);
        life.born += Amount { bytes: block.size_bytes, count: 1 };
        life.realloc_count += u64::from(replaced.is_some());
        for running in &mut self.instances[thread.index()] {
            running.facts.born += Amount { bytes: block.size_bytes, count: 1 };
        }
        self.grow(thread, row, block.size_bytes, block.birth_sequence);
        let at = block.cell.index();
        if at >= self.cells.len() {
            self.cells.resize_with(at + 1, CellLife::default);
        }
        let rows = &mut self.cells[at].rows;
        let born = Amount { bytes: block.size_bytes, count: 1 };
        match rows.iter_mut().find(|known| known.row == row) {
            Some(known) => known.born += born,
            None => rows.push(CellRow { row, born, survived: Amount::default(), left: Amount::default() }),
        }
        tag
    }

    fn died(&mut self, block: &Block<Tag>, event: &Event) {
        self.shrink(block);
        let death = self.death(block, event);
        self.over(block, &death);
    }

    fn moving(&mut self, block: &Block<Tag>, event: &Event) {
        self.shrink(block);
        let death = self.death(block, event);
        self.moving.begin(event.thread, death);
    }

    fn stayed(&mut self, block: &Block<Tag>, event: &Event) {
        self.moving.end(event.thread, block.birth_sequence);
        self.grow(block.thread, block.tag.row, block.size_bytes, block.birth_sequence);
    }

    fn died_moving(&mut self, block: &Block<Tag>, event: &Event) {
        if let Some(death) = self.moving.end(event.thread, block.birth_sequence) {
            self.over(block, &death);
        }
    }

    fn never_moved(&mut self, block: &Block<Tag>) {
        if let Some(death) = self.moving.give_up(block.birth_sequence) {
            self.over(block, &death);
        }
    }

    fn survived(&mut self, block: &Block<Tag>, _process: ProcessId) {
        let amount = Amount { bytes: block.size_bytes, count: 1 };
        *self.matrix.entry((block.tag.row, None)).or_default() += amount;
        self.rows[block.tag.row.0 as usize].classes[Class::Durable.index()] += amount;
        let age_ns = self.now_ns.saturating_sub(block.birth_ns);
        let cell = &mut self.cells[block.cell.index()];
        cell.classes[Class::Durable.index()] += amount;
        if let Some(known) = cell.rows.iter_mut().find(|known| known.row == block.tag.row) {
            known.survived += amount;
        }
        cell.byte_ns += u128::from(age_ns) * u128::from(block.size_bytes);
        let age_bytes = self.clock_bytes.saturating_sub(block.tag.clock_bytes);
        self.sums.byte_ns += u128::from(age_ns) * u128::from(block.size_bytes);
        self.sums.byte_bytes += u128::from(age_bytes) * u128::from(block.size_bytes);
        self.shrink(block);
    }
}
