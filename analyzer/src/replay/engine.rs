//! What each event does. Responsible for the semantics of operations, processes and threads; the state itself is in
//! `blocks`, `cells`, `level` and `reallocs`.

use foldhash::HashMap;
use trace_format::{
    BlockId, DomainId, EndReason, EntryId, Event, Op, Origin, ProcessId, Sequence, StackId, StackQuality, Tables,
    Target, ThreadId,
};

use super::anomaly::{Anomalies, AnomalyKind};
use super::blocks::Block;
use super::cells::{Amount, CellId, Cells, Epochs};
use super::counts::Counts;
use super::heap::Heap;
use super::level::Level;
use super::loss::{Loss, Losses};
use super::observer::Observer;
use super::outcome::{Account, Outcome, ProcessOutcome};
use super::reallocs::{OldBlock, OpenRealloc, OpenReallocs};
use crate::layers::Layers;

/// Index into `Replay::heaps`.
type HeapIndex = usize;

/// The life of one process image.
#[derive(Debug, Clone, Copy, Default)]
struct Image {
    heap: Option<HeapIndex>,
    start_ns: u64,
    end: Option<(u64, EndReason)>,
}

/// A block about to be born.
struct Newborn<T> {
    entry: EntryId,
    stack: StackId,
    id: BlockId,
    size_bytes: u64,
    /// What a realloc moved it from.
    replaced: Option<Block<T>>,
}

/// A replay in progress.
#[derive(Debug)]
pub struct Replay<'t, O: Observer = ()> {
    tables: &'t Tables,
    layers: Layers,
    /// Domain of each entry, and whether it is a backing one.
    entries: Vec<(DomainId, bool)>,
    threads_of: Vec<Vec<ThreadId>>,
    images: Vec<Image>,
    heaps: Vec<Heap<O::Tag>>,
    cells: Cells,
    reallocs: OpenReallocs<O::Tag>,
    abandoned: Vec<OpenRealloc<O::Tag>>,
    total: Level,
    /// Rises with each new peak of `total`.
    epoch: u64,
    domains: Vec<Level>,
    next_birth: u64,
    event_count: u64,
    first_ns: u64,
    last_ns: u64,
    losses: Losses,
    anomalies: Anomalies,
    unknown_operation_count: u64,
    cut_stacks: HashMap<StackId, StackQuality>,
    observer: O,
}

impl<'t> Replay<'t> {
    /// Begins a replay of events that refer to these tables.
    pub fn new(tables: &'t Tables) -> Self {
        Self::observed(tables, ())
    }

    /// Ends the replay: processes without an end are taken as still running.
    pub fn finish(self) -> Outcome {
        self.finish_observed().0
    }
}

impl<'t, O: Observer> Replay<'t, O> {
    /// Begins a replay that tells an observer of each block.
    pub fn observed(tables: &'t Tables, observer: O) -> Self {
        let layers = Layers::of(tables);
        let known = |domain: DomainId| domain.index() < tables.domains.len();
        let entries = tables
            .entries
            .iter()
            .map(|entry| if known(entry.domain) { entry.domain } else { DomainId(0) })
            .map(|domain| (domain, layers.is_backing(domain)))
            .collect();
        let mut threads_of = vec![Vec::new(); tables.processes.len()];
        for (at, thread) in tables.threads.iter().enumerate() {
            if let Some(threads) = threads_of.get_mut(thread.process.index()) {
                threads.push(ThreadId::from(at));
            }
        }
        // An entry without a domain row still needs a place for its counts.
        let domain_count = tables.domains.len().max(1);
        Self {
            tables,
            layers,
            entries,
            threads_of,
            images: vec![Image::default(); tables.processes.len()],
            heaps: Vec::new(),
            cells: Cells::new(tables.stacks.len(), tables.processes.len()),
            reallocs: OpenReallocs::new(tables.threads.len()),
            abandoned: Vec::new(),
            total: Level::default(),
            epoch: 1,
            domains: vec![Level::default(); domain_count],
            next_birth: 0,
            event_count: 0,
            first_ns: 0,
            last_ns: 0,
            losses: Losses::default(),
            anomalies: Anomalies::default(),
            unknown_operation_count: 0,
            cut_stacks: HashMap::default(),
            observer,
        }
    }

    /// Replays the next events, in order.
    pub fn events(&mut self, events: &[Event]) {
        for event in events {
            self.event(event);
        }
    }

    /// Live requested bytes of backing domains now.
    pub fn live_bytes(&self) -> u64 {
        self.total.live_bytes
    }

    fn event(&mut self, event: &Event) {
        if self.event_count == 0 {
            self.first_ns = event.time_ns;
        }
        self.event_count += 1;
        self.last_ns = event.time_ns;
        self.observer.event(event);
        match event.op {
            Op::ProcessStart { process } => self.process_start(process, event),
            Op::ProcessEnd { process, reason } => self.process_end(process, reason, event),
            Op::Loss { cpu, first_ns, last_ns, alloc_count, free_count, other_count } => {
                let sequence = event.sequence.0;
                self.losses.add(Loss { sequence, cpu, first_ns, last_ns, alloc_count, free_count, other_count });
            }
            Op::Marker { .. } => {}
            Op::Unknown { .. } => self.unknown_operation_count += 1,
            _ => {
                if let Some(heap) = self.heap_of_thread(event) {
                    self.memory_event(event, heap);
                }
            }
        }
    }

    fn memory_event(&mut self, event: &Event, heap: HeapIndex) {
        match event.op {
            Op::Alloc { entry, block, size_bytes, .. } => {
                let Some(counts) = self.counts(heap, entry, event) else { return };
                counts.alloc_count += 1;
                counts.alloc_bytes = counts.alloc_bytes.wrapping_add(size_bytes);
                let stack = self.stack(event.stack, event);
                let newborn = Newborn { entry, stack, id: block, size_bytes, replaced: None };
                let cell = self.birth(heap, &newborn, event);
                let cell = self.cells.get_mut(cell);
                cell.alloc_count += 1;
                cell.alloc_bytes = cell.alloc_bytes.wrapping_add(size_bytes);
            }
            Op::AllocFailed { entry, .. } => {
                let stack = self.stack(event.stack, event);
                self.failure(heap, entry, stack, event);
            }
            Op::Free { entry, target } => {
                let old = self.death_of(heap, target, event);
                self.tell(heap, &old, |observer, block| observer.died(block, event));
                let Some(counts) = self.counts(heap, entry, event) else { return };
                count_free(counts, &old);
            }
            Op::ReallocBegin { entry, target, .. } => {
                let old = self.death_of(heap, target, event);
                self.tell(heap, &old, |observer, block| observer.moving(block, event));
                if self.counts(heap, entry, event).is_none() {
                    return;
                }
                let stack = self.stack(event.stack, event);
                let given_up = self.reallocs.begin(event.thread.index(), OpenRealloc { entry, stack, old });
                if let Some(open) = given_up {
                    self.never_returned(heap, &open);
                }
            }
            Op::ReallocEnd { entry, block, size_bytes, .. } => self.realloc_end(heap, entry, block, size_bytes, event),
            Op::ReallocFailed { entry } => {
                let open = self.close_realloc(heap, entry, event);
                let stack = self.stack(event.stack, event);
                let stack = if stack == StackId::EMPTY { open.map_or(stack, |open| open.stack) } else { stack };
                self.failure(heap, entry, stack, event);
                if let Some(OpenRealloc { old: OldBlock::Killed(id, block), .. }) = open {
                    self.tell(heap, &OldBlock::Killed(id, block), |observer, block| observer.stayed(block, event));
                    self.come_alive(heap, id, block, event.sequence, event.time_ns);
                }
            }
            Op::ReallocFreed { entry } => {
                let open = self.close_realloc(heap, entry, event);
                if let Some(open) = &open {
                    self.tell(heap, &open.old, |observer, block| observer.died_moving(block, event));
                }
                let Some(counts) = self.counts(heap, entry, event) else { return };
                count_free(counts, &open.map_or(OldBlock::Impossible, |open| open.old));
            }
            Op::MissedFree { block } => {
                let old = self.death_of(heap, Target::Block(block), event);
                self.tell(heap, &old, |observer, block| observer.died(block, event));
                if let OldBlock::Killed(_, block) = old {
                    let (domain, _) = self.entry_of(block.cell);
                    self.heaps[heap].counts[domain.index()].missed_free_count += 1;
                }
            }
            Op::ThreadEnd => {
                for open in self.reallocs.thread_end(event.thread.index()) {
                    self.never_returned(heap, &open);
                }
            }
            _ => {}
        }
    }

    fn realloc_end(&mut self, heap: HeapIndex, entry: EntryId, block: BlockId, size_bytes: u64, event: &Event) {
        let open = self.close_realloc(heap, entry, event);
        let Some(counts) = self.counts(heap, entry, event) else { return };
        counts.realloc_count += 1;
        counts.alloc_bytes = counts.alloc_bytes.wrapping_add(size_bytes);
        match open.map(|open| open.old) {
            Some(OldBlock::BeforeRecording) => counts.free_before_recording_count += 1,
            Some(OldBlock::Dead) => counts.free_of_dead_count += 1,
            Some(OldBlock::Killed(..) | OldBlock::Impossible) | None => {}
        }
        let stack = self.stack(event.stack, event);
        let stack = if stack == StackId::EMPTY { open.map_or(stack, |open| open.stack) } else { stack };
        let replaced = match open.map(|open| open.old) {
            Some(OldBlock::Killed(_, old)) => Some(old),
            _ => None,
        };
        let newborn = Newborn { entry, stack, id: block, size_bytes, replaced };
        let cell = self.birth(heap, &newborn, event);
        let cell = self.cells.get_mut(cell);
        cell.realloc_count += 1;
        cell.alloc_bytes = cell.alloc_bytes.wrapping_add(size_bytes);
    }

    /// Pairs the end of a realloc with its begin.
    fn close_realloc(&mut self, heap: HeapIndex, entry: EntryId, event: &Event) -> Option<OpenRealloc<O::Tag>> {
        let mut abandoned = std::mem::take(&mut self.abandoned);
        let open = self.reallocs.end(event.thread.index(), entry, &mut abandoned);
        for gone in abandoned.drain(..) {
            self.never_returned(heap, &gone);
        }
        self.abandoned = abandoned;
        if open.is_none() {
            self.anomalies.count(AnomalyKind::EndWithoutBegin, event.sequence);
        }
        open
    }

    fn never_returned(&mut self, heap: HeapIndex, open: &OpenRealloc<O::Tag>) {
        if let Some((domain, _)) = self.entries.get(open.entry.index()) {
            self.heaps[heap].counts[domain.index()].unfinished_realloc_count += 1;
        }
        self.tell(heap, &open.old, O::never_moved);
    }

    fn failure(&mut self, heap: HeapIndex, entry: EntryId, stack: StackId, event: &Event) {
        let Some(counts) = self.counts(heap, entry, event) else { return };
        counts.failed_count += 1;
        let cell = self.cells.of(self.heaps[heap].owner, stack, entry);
        self.cells.get_mut(cell).failed_count += 1;
    }

    fn birth(&mut self, heap: HeapIndex, newborn: &Newborn<O::Tag>, event: &Event) -> CellId {
        let Newborn { entry, stack, id, size_bytes, .. } = *newborn;
        if id.0 < self.next_birth {
            self.anomalies.count(AnomalyKind::DuplicateBirth, event.sequence);
            if let Some(old) = self.heaps[heap].live.remove(id) {
                self.fall(heap, &old);
            }
        }
        self.next_birth = self.next_birth.max(id.0.saturating_add(1));
        let cell = self.cells.of(self.heaps[heap].owner, stack, entry);
        let (birth_sequence, birth_ns, thread) = (event.sequence, event.time_ns, event.thread);
        let mut block = Block { size_bytes, birth_sequence, birth_ns, cell, thread, tag: O::Tag::default() };
        if self.entry_of(cell).1 {
            block.tag = self.observer.born(&block, stack, newborn.replaced.as_ref(), event);
        } else if let Some(old) = newborn.replaced {
            // To an allocator that the observer does not follow: to it, that is a free.
            self.tell(heap, &OldBlock::Killed(id, old), |observer, block| observer.died_moving(block, event));
        }
        self.come_alive(heap, id, block, event.sequence, event.time_ns);
        cell
    }

    /// A block begins to live, or lives on after a failed realloc.
    fn come_alive(&mut self, heap: HeapIndex, id: BlockId, block: Block<O::Tag>, sequence: Sequence, time_ns: u64) {
        let (domain, backing) = self.entry_of(block.cell);
        let heap = &mut self.heaps[heap];
        heap.live.insert(id, block);
        let cell = self.cells.get_mut(block.cell);
        if cell.process != heap.owner {
            if backing {
                heap.inherited_live.bytes = heap.inherited_live.bytes.wrapping_add(block.size_bytes);
                heap.inherited_live.count += 1;
            }
            return;
        }
        cell.add(block.size_bytes, Epochs { total: self.epoch, process: heap.epoch });
        self.domains[domain.index()].add(block.size_bytes, sequence, time_ns);
        if backing {
            self.epoch += u64::from(self.total.add(block.size_bytes, sequence, time_ns));
            heap.epoch += u64::from(heap.level.add(block.size_bytes, sequence, time_ns));
        }
    }

    /// Takes the block that a free or realloc names out of the heap.
    fn death_of(&mut self, heap: HeapIndex, target: Target, event: &Event) -> OldBlock<O::Tag> {
        match target {
            Target::Block(id) => match self.heaps[heap].live.remove(id) {
                Some(block) => {
                    self.fall(heap, &block);
                    OldBlock::Killed(id, block)
                }
                None => {
                    self.anomalies.count(AnomalyKind::TargetNotLive, event.sequence);
                    OldBlock::Impossible
                }
            },
            Target::Unknown { .. } => OldBlock::BeforeRecording,
            Target::Dead { .. } => OldBlock::Dead,
        }
    }

    /// Lowers the levels by a block that has just left the heap.
    fn fall(&mut self, heap: HeapIndex, block: &Block<O::Tag>) {
        let (domain, backing) = self.entry_of(block.cell);
        let heap = &mut self.heaps[heap];
        let cell = self.cells.get_mut(block.cell);
        if cell.process != heap.owner {
            if backing {
                heap.inherited_live.bytes = heap.inherited_live.bytes.wrapping_sub(block.size_bytes);
                heap.inherited_live.count = heap.inherited_live.count.wrapping_sub(1);
            }
            return;
        }
        cell.remove(block.size_bytes, Epochs { total: self.epoch, process: heap.epoch });
        let dead = Amount { bytes: block.size_bytes, count: 1 };
        self.domains[domain.index()].remove(dead);
        if backing {
            self.total.remove(dead);
            heap.level.remove(dead);
        }
    }

    fn process_start(&mut self, process: ProcessId, event: &Event) {
        let (Some(image), Some(row)) = (self.images.get(process.index()), self.tables.processes.get(process.index()))
        else {
            self.anomalies.count(AnomalyKind::UnknownProcess, event.sequence);
            return;
        };
        if image.heap.is_some() {
            self.anomalies.count(AnomalyKind::ProcessStartedTwice, event.sequence);
            return;
        }
        let parent_heap = (row.shares_heap || row.origin == Origin::Fork)
            .then(|| {
                let heap = self.images.get(row.parent?.index())?.heap?;
                (self.heaps[heap].user_count > 0).then_some(heap)
            })
            .flatten();
        if parent_heap.is_none() && (row.shares_heap || row.origin == Origin::Fork) {
            self.anomalies.count(AnomalyKind::ParentUnknown, event.sequence);
        }
        let heap = match parent_heap {
            Some(shared) if row.shares_heap => {
                self.heaps[shared].user_count += 1;
                shared
            }
            Some(parent) => {
                let heap = self.heaps[parent].fork(process);
                self.new_heap(heap)
            }
            None => self.new_heap(Heap::new(process, self.domains.len())),
        };
        self.images[process.index()] = Image { heap: Some(heap), start_ns: event.time_ns, end: None };
    }

    fn new_heap(&mut self, heap: Heap<O::Tag>) -> HeapIndex {
        self.heaps.push(heap);
        self.heaps.len() - 1
    }

    fn process_end(&mut self, process: ProcessId, reason: EndReason, event: &Event) {
        let Some(image) = self.images.get_mut(process.index()) else {
            self.anomalies.count(AnomalyKind::UnknownProcess, event.sequence);
            return;
        };
        let Some(heap) = image.heap else {
            self.anomalies.count(AnomalyKind::ProcessNotStarted, event.sequence);
            return;
        };
        if image.end.is_some() {
            self.anomalies.count(AnomalyKind::ProcessEnded, event.sequence);
            return;
        }
        image.end = Some((event.time_ns, reason));
        for at in 0..self.threads_of[process.index()].len() {
            let thread = self.threads_of[process.index()][at];
            for open in self.reallocs.thread_end(thread.index()) {
                self.never_returned(heap, &open);
            }
        }
        self.heaps[heap].user_count -= 1;
        if self.heaps[heap].user_count == 0 {
            self.heap_end(heap);
        }
    }

    /// The last user of a heap is gone: what is alive survived it. Its own blocks are counted by cell.
    fn heap_end(&mut self, heap: HeapIndex) {
        let heap = &mut self.heaps[heap];
        heap.inherited.at_end = std::mem::take(&mut heap.inherited_live);
        let live = std::mem::take(&mut heap.live);
        if O::SEES_SURVIVORS {
            for block in live.into_blocks() {
                let cell = self.cells.get(block.cell);
                if cell.process == heap.owner && self.entries[cell.entry.index()].1 {
                    self.observer.survived(&block, heap.owner);
                }
            }
        }
        let epochs = Epochs { total: self.epoch, process: heap.epoch };
        self.cells.end(heap.owner, epochs, |entry, survived| {
            let (domain, backing) = self.entries[entry.index()];
            self.domains[domain.index()].remove(survived);
            if backing {
                self.total.remove(survived);
                heap.level.remove(survived);
            }
        });
    }

    /// The heap that an event of a thread works on.
    fn heap_of_thread(&mut self, event: &Event) -> Option<HeapIndex> {
        let Some(thread) = self.tables.threads.get(event.thread.index()) else {
            self.anomalies.count(AnomalyKind::UnknownThread, event.sequence);
            return None;
        };
        let Some(image) = self.images.get(thread.process.index()) else {
            self.anomalies.count(AnomalyKind::UnknownProcess, event.sequence);
            return None;
        };
        if image.end.is_some() {
            self.anomalies.count(AnomalyKind::ProcessEnded, event.sequence);
            return None;
        }
        if image.heap.is_none() {
            self.anomalies.count(AnomalyKind::ProcessNotStarted, event.sequence);
            self.process_start(thread.process, event);
        }
        self.images[thread.process.index()].heap
    }

    /// The counters of the domain that an entry point belongs to.
    fn counts(&mut self, heap: HeapIndex, entry: EntryId, event: &Event) -> Option<&mut Counts> {
        let Some((domain, _)) = self.entries.get(entry.index()) else {
            self.anomalies.count(AnomalyKind::UnknownEntry, event.sequence);
            return None;
        };
        Some(&mut self.heaps[heap].counts[domain.index()])
    }

    fn entry_of(&self, cell: CellId) -> (DomainId, bool) {
        self.entries[self.cells.get(cell).entry.index()]
    }

    fn stack(&mut self, stack: StackId, event: &Event) -> StackId {
        if stack.index() < self.tables.stacks.len().max(1) {
            if event.walk.quality.is_truncated() {
                self.cut_stacks.entry(stack).or_insert(event.walk.quality);
            }
            return stack;
        }
        self.anomalies.count(AnomalyKind::UnknownStack, event.sequence);
        StackId::EMPTY
    }

    /// Tells the observer of an own block of a backing domain.
    #[inline]
    fn tell(&mut self, heap: HeapIndex, old: &OldBlock<O::Tag>, say: impl FnOnce(&mut O, &Block<O::Tag>)) {
        if let OldBlock::Killed(_, block) = old
            && self.entry_of(block.cell).1
            && self.cells.get(block.cell).process == self.heaps[heap].owner
        {
            say(&mut self.observer, block);
        }
    }

    /// Ends the replay as `finish` does, and gives the observer back.
    pub fn finish_observed(mut self) -> (Outcome, O) {
        for thread in 0..self.tables.threads.len() {
            let open = self.reallocs.thread_end(thread);
            let process = self.tables.threads[thread].process;
            if let Some(heap) = self.images.get(process.index()).and_then(|image| image.heap) {
                for open in open {
                    self.never_returned(heap, &open);
                }
            }
        }
        for heap in 0..self.heaps.len() {
            if self.heaps[heap].user_count > 0 {
                self.heap_end(heap);
            }
        }
        self.outcome()
    }

    fn outcome(self) -> (Outcome, O) {
        let Self { heaps, images, layers, entries, observer, .. } = self;
        let epochs: Vec<u64> = images.iter().map(|image| image.heap.map_or(0, |heap| heaps[heap].epoch)).collect();
        let cells = self.cells.finish(self.epoch, |process| epochs.get(process.index()).copied().unwrap_or(0));

        let mut domains: Vec<Account> =
            self.domains.iter().map(|level| Account { peak: level.peak, ..Account::default() }).collect();
        let mut total = Account { peak: self.total.peak, ..Account::default() };
        let mut processes: Vec<ProcessOutcome> = images
            .iter()
            .enumerate()
            .map(|(at, image)| ProcessOutcome {
                heap_of: image.heap.map(|heap| heaps[heap].owner).filter(|owner| owner.index() != at),
                started: image.heap.is_some(),
                start_ns: image.start_ns,
                end: image.end,
                ..ProcessOutcome::default()
            })
            .collect();
        for heap in heaps {
            let process = &mut processes[heap.owner.index()];
            process.account.peak = heap.level.peak;
            process.inherited = heap.inherited;
            for (at, counts) in heap.counts.iter().enumerate().filter(|(_, counts)| **counts != Counts::default()) {
                let domain = DomainId::from(at);
                process.domains.push((domain, *counts));
                domains[at].counts += *counts;
                if layers.is_backing(domain) {
                    process.account.counts += *counts;
                    total.counts += *counts;
                }
            }
        }
        for cell in &cells {
            let (domain, backing) = entries[cell.entry.index()];
            domains[domain.index()].at_end += cell.at_end;
            if backing {
                total.at_end += cell.at_end;
                processes[cell.process.index()].account.at_end += cell.at_end;
            }
        }
        domains.truncate(self.tables.domains.len());
        let outcome = Outcome {
            event_count: self.event_count,
            first_ns: self.first_ns,
            last_ns: self.last_ns,
            layers,
            total,
            domains,
            processes,
            cells,
            cut_stacks: self.cut_stacks,
            losses: self.losses,
            anomalies: self.anomalies.into_vec(),
            unknown_operation_count: self.unknown_operation_count,
        };
        (outcome, observer)
    }
}

/// Counts a free by what it named.
fn count_free<T>(counts: &mut Counts, old: &OldBlock<T>) {
    match old {
        OldBlock::Killed(..) | OldBlock::Impossible => counts.free_count += 1,
        OldBlock::BeforeRecording => counts.free_before_recording_count += 1,
        OldBlock::Dead => counts.free_of_dead_count += 1,
    }
}
