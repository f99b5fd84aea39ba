//! What a history of events means, computed as plainly as possible: heaps are maps that forks copy, and every figure is
//! summed up anew after each event. Responsible for following the words of `trace_format::Op` and
//! `analyzer::replay::Counts`; shares no code with the replay, only the names of anomalies.

use std::collections::{BTreeMap, BTreeSet};

use analyzer::replay::AnomalyKind;
use trace_format::{BlockId, DomainId, EntryId, Event, Op, Origin, ProcessId, StackId, Target, ThreadId};

/// One process image, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ProcessRow {
    pub(crate) origin: Origin,
    pub(crate) parent: Option<ProcessId>,
    pub(crate) shares_heap: bool,
}

/// The tables that events refer to.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    pub(crate) processes: Vec<ProcessRow>,
    /// Whose thread it is.
    pub(crate) threads: Vec<ProcessId>,
}

/// Entry points of each domain.
pub(crate) const ENTRIES_PER_DOMAIN: u32 = 3;
/// The layer of each domain: totals count those of layer 0.
pub(crate) const LAYERS: [u32; 3] = [0, 1, 0];
pub(crate) const ENTRY_COUNT: u32 = LAYERS.len() as u32 * ENTRIES_PER_DOMAIN;

pub(crate) fn domain_of(entry: EntryId) -> DomainId {
    DomainId(entry.0 / ENTRIES_PER_DOMAIN)
}

pub(crate) fn is_backing(domain: DomainId) -> bool {
    LAYERS[domain.index()] == 0
}

/// Bytes and blocks.
pub(crate) type Sum = (u64, u64);

/// Whose heap, which stack, which entry point.
pub(crate) type Site = (ProcessId, StackId, EntryId);

#[derive(Debug, Clone, Copy)]
pub(crate) struct Block {
    size_bytes: u64,
    site: Site,
}

#[derive(Debug)]
pub(crate) struct Heap {
    pub(crate) owner: ProcessId,
    users: BTreeSet<ProcessId>,
    pub(crate) live: BTreeMap<BlockId, Block>,
    pub(crate) inherited_at_start: Sum,
    pub(crate) inherited_at_end: Sum,
}

impl Heap {
    fn new(owner: ProcessId) -> Self {
        Self {
            owner,
            users: BTreeSet::from([owner]),
            live: BTreeMap::new(),
            inherited_at_start: (0, 0),
            inherited_at_end: (0, 0),
        }
    }

    /// Blocks of backing domains that came by fork.
    fn inherited(&self) -> Sum {
        sum(self.live.values().filter(|block| block.site.0 != self.owner && is_backing(domain_of(block.site.2))))
    }
}

fn sum<'b>(blocks: impl Iterator<Item = &'b Block>) -> Sum {
    blocks.fold((0, 0), |(bytes, count), block| (bytes + block.size_bytes, count + 1))
}

/// What a begin of a realloc did to the old block.
#[derive(Debug, Clone, Copy)]
enum Old {
    Died(BlockId, Block),
    NotLive,
    BeforeRecording,
    Dead,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Call {
    pub(crate) entry: EntryId,
    stack: StackId,
    old: Old,
}

/// How often what happened, in one process and domain.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) alloc_count: u64,
    pub(crate) free_count: u64,
    pub(crate) realloc_count: u64,
    pub(crate) alloc_bytes: u64,
    pub(crate) failed_count: u64,
    pub(crate) free_before_recording_count: u64,
    pub(crate) free_of_dead_count: u64,
    pub(crate) unfinished_realloc_count: u64,
    pub(crate) missed_free_count: u64,
}

/// What came of one site.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct SiteTally {
    pub(crate) alloc_count: u64,
    pub(crate) realloc_count: u64,
    pub(crate) alloc_bytes: u64,
    pub(crate) failed_count: u64,
    pub(crate) at_end: Sum,
}

/// The first instant at which something was highest.
#[derive(Debug, Clone, Default)]
pub(crate) struct High {
    pub(crate) live: Sum,
    pub(crate) sequence: u64,
    pub(crate) time_ns: u64,
    /// What was alive of each site.
    pub(crate) sites: BTreeMap<Site, Sum>,
}

#[derive(Debug, Default)]
pub(crate) struct Model {
    pub(crate) heaps: Vec<Heap>,
    pub(crate) heap_of: BTreeMap<ProcessId, usize>,
    pub(crate) ended: BTreeSet<ProcessId>,
    /// Reallocs that have begun, the innermost last.
    pub(crate) calls: BTreeMap<ThreadId, Vec<Call>>,
    pub(crate) tallies: BTreeMap<(ProcessId, DomainId), Tally>,
    pub(crate) sites: BTreeMap<Site, SiteTally>,
    pub(crate) total: High,
    pub(crate) of_process: BTreeMap<ProcessId, High>,
    pub(crate) of_domain: BTreeMap<DomainId, High>,
    /// How often, and where first.
    pub(crate) anomalies: BTreeMap<AnomalyKind, (u64, u64)>,
    /// Gaps, and what was lost in them: births, deaths, others.
    pub(crate) lost: [u64; 4],
    pub(crate) unknown_operation_count: u64,
}

impl Model {
    pub(crate) fn event(&mut self, rows: &Rows, event: &Event) {
        match event.op {
            Op::ProcessStart { process } => self.start(rows, process, event),
            Op::ProcessEnd { process, .. } => self.end(rows, process, event),
            Op::Loss { alloc_count, free_count, other_count, .. } => {
                for (sum, lost) in self.lost.iter_mut().zip([1, alloc_count, free_count, other_count]) {
                    *sum += lost;
                }
            }
            Op::Unknown { .. } => self.unknown_operation_count += 1,
            Op::Marker { .. } => {}
            _ => self.of_thread(rows, event),
        }
        self.measure(event);
    }

    /// The recording ends.
    pub(crate) fn finish(&mut self, rows: &Rows) {
        for thread in 0..rows.threads.len() {
            self.leave_calls(rows, ThreadId::from(thread), 0);
        }
        for heap in 0..self.heaps.len() {
            if !self.heaps[heap].users.is_empty() {
                self.survive(heap);
            }
        }
    }

    fn cannot_be(&mut self, kind: AnomalyKind, event: &Event) {
        self.anomalies.entry(kind).or_insert((0, event.sequence.0)).0 += 1;
    }

    fn start(&mut self, rows: &Rows, process: ProcessId, event: &Event) {
        if self.heap_of.contains_key(&process) {
            return self.cannot_be(AnomalyKind::ProcessStartedTwice, event);
        }
        let row = rows.processes[process.index()];
        let mut own = Heap::new(process);
        if row.origin == Origin::Fork {
            let heap = row.parent.and_then(|parent| self.heap_of.get(&parent)).copied();
            match heap.filter(|heap| !self.heaps[*heap].users.is_empty()) {
                None => self.cannot_be(AnomalyKind::ParentUnknown, event),
                Some(heap) if row.shares_heap => {
                    self.heaps[heap].users.insert(process);
                    self.heap_of.insert(process, heap);
                    return;
                }
                Some(heap) => {
                    own.live = self.heaps[heap].live.clone();
                    own.inherited_at_start = own.inherited();
                }
            }
        }
        self.heaps.push(own);
        self.heap_of.insert(process, self.heaps.len() - 1);
    }

    fn end(&mut self, rows: &Rows, process: ProcessId, event: &Event) {
        let Some(&heap) = self.heap_of.get(&process) else {
            return self.cannot_be(AnomalyKind::ProcessNotStarted, event);
        };
        if !self.ended.insert(process) {
            return self.cannot_be(AnomalyKind::ProcessEnded, event);
        }
        for (thread, of) in rows.threads.iter().enumerate() {
            if *of == process {
                self.leave_calls(rows, ThreadId::from(thread), 0);
            }
        }
        self.heaps[heap].users.remove(&process);
        if self.heaps[heap].users.is_empty() {
            self.survive(heap);
        }
    }

    /// The heap goes; what is alive in it survived.
    fn survive(&mut self, heap: usize) {
        let heap = &mut self.heaps[heap];
        heap.inherited_at_end = heap.inherited();
        for block in std::mem::take(&mut heap.live).into_values().filter(|block| block.site.0 == heap.owner) {
            let at_end = &mut self.sites.get_mut(&block.site).expect("it was born there").at_end;
            *at_end = (at_end.0 + block.size_bytes, at_end.1 + 1);
        }
    }

    /// Calls of a thread from this depth on never return.
    fn leave_calls(&mut self, rows: &Rows, thread: ThreadId, depth: usize) {
        let Some(calls) = self.calls.get_mut(&thread) else { return };
        for call in calls.split_off(depth) {
            let heap = self.heap_of[&rows.threads[thread.index()]];
            self.tally(heap, call.entry).unfinished_realloc_count += 1;
        }
    }

    fn tally(&mut self, heap: usize, entry: EntryId) -> &mut Tally {
        self.tallies.entry((self.heaps[heap].owner, domain_of(entry))).or_default()
    }

    fn of_thread(&mut self, rows: &Rows, event: &Event) {
        let process = rows.threads[event.thread.index()];
        if self.ended.contains(&process) {
            return self.cannot_be(AnomalyKind::ProcessEnded, event);
        }
        if !self.heap_of.contains_key(&process) {
            self.cannot_be(AnomalyKind::ProcessNotStarted, event);
            self.start(rows, process, event);
        }
        let heap = self.heap_of[&process];
        match event.op {
            Op::Alloc { entry, block, size_bytes, .. } => {
                let tally = self.tally(heap, entry);
                tally.alloc_count += 1;
                tally.alloc_bytes += size_bytes;
                let site = self.birth(heap, entry, block, size_bytes, event.stack);
                site.alloc_count += 1;
                site.alloc_bytes += size_bytes;
            }
            Op::AllocFailed { entry, .. } => self.failure(heap, entry, event.stack),
            Op::Free { entry, target } => {
                let old = self.death(heap, target, event);
                self.freed(heap, entry, old);
            }
            Op::ReallocBegin { entry, target, .. } => {
                let old = self.death(heap, target, event);
                self.calls.entry(event.thread).or_default().push(Call { entry, stack: event.stack, old });
            }
            Op::ReallocEnd { entry, block, size_bytes, .. } => {
                let call = self.close(rows, entry, event);
                let tally = self.tally(heap, entry);
                tally.realloc_count += 1;
                tally.alloc_bytes += size_bytes;
                tally.free_before_recording_count += u64::from(matches!(call, Some((_, Old::BeforeRecording))));
                tally.free_of_dead_count += u64::from(matches!(call, Some((_, Old::Dead))));
                let site = self.birth(heap, entry, block, size_bytes, stack_of(event, call));
                site.realloc_count += 1;
                site.alloc_bytes += size_bytes;
            }
            Op::ReallocFailed { entry } => {
                let call = self.close(rows, entry, event);
                self.failure(heap, entry, stack_of(event, call));
                if let Some((_, Old::Died(id, block))) = call {
                    self.heaps[heap].live.insert(id, block);
                }
            }
            Op::ReallocFreed { entry } => {
                let call = self.close(rows, entry, event);
                self.freed(heap, entry, call.map_or(Old::NotLive, |(_, old)| old));
            }
            Op::MissedFree { block } => {
                if let Old::Died(_, block) = self.death(heap, Target::Block(block), event) {
                    self.tally(heap, block.site.2).missed_free_count += 1;
                }
            }
            Op::ThreadEnd => self.leave_calls(rows, event.thread, 0),
            _ => unreachable!("it is no event of a thread"),
        }
    }

    fn birth(&mut self, heap: usize, entry: EntryId, id: BlockId, size_bytes: u64, stack: StackId) -> &mut SiteTally {
        let site = (self.heaps[heap].owner, stack, entry);
        assert!(self.heaps[heap].live.insert(id, Block { size_bytes, site }).is_none(), "the writer numbers births");
        self.sites.entry(site).or_default()
    }

    fn death(&mut self, heap: usize, target: Target, event: &Event) -> Old {
        match target {
            Target::Unknown { .. } => Old::BeforeRecording,
            Target::Dead { .. } => Old::Dead,
            Target::Block(id) => match self.heaps[heap].live.remove(&id) {
                Some(block) => Old::Died(id, block),
                None => {
                    self.cannot_be(AnomalyKind::TargetNotLive, event);
                    Old::NotLive
                }
            },
        }
    }

    fn freed(&mut self, heap: usize, entry: EntryId, old: Old) {
        let tally = self.tally(heap, entry);
        match old {
            Old::Died(..) | Old::NotLive => tally.free_count += 1,
            Old::BeforeRecording => tally.free_before_recording_count += 1,
            Old::Dead => tally.free_of_dead_count += 1,
        }
    }

    fn failure(&mut self, heap: usize, entry: EntryId, stack: StackId) {
        self.tally(heap, entry).failed_count += 1;
        self.sites.entry((self.heaps[heap].owner, stack, entry)).or_default().failed_count += 1;
    }

    /// The thread's innermost call of this entry returns; those inside it never will.
    fn close(&mut self, rows: &Rows, entry: EntryId, event: &Event) -> Option<(StackId, Old)> {
        let depth = self.calls.get(&event.thread).and_then(|calls| calls.iter().rposition(|call| call.entry == entry));
        let Some(depth) = depth else {
            self.cannot_be(AnomalyKind::EndWithoutBegin, event);
            return None;
        };
        self.leave_calls(rows, event.thread, depth + 1);
        let call = self.calls.get_mut(&event.thread)?.pop()?;
        Some((call.stack, call.old))
    }

    /// Sums up what is alive where it was born, and notes what is now higher than ever.
    fn measure(&mut self, event: &Event) {
        let mut of_site: BTreeMap<Site, Sum> = BTreeMap::new();
        for heap in &self.heaps {
            for block in heap.live.values().filter(|block| block.site.0 == heap.owner) {
                let live = of_site.entry(block.site).or_default();
                *live = (live.0 + block.size_bytes, live.1 + 1);
            }
        }
        let live_where = |wanted: &dyn Fn(&Site) -> bool| {
            let chosen = of_site.iter().filter(|(site, _)| wanted(site));
            chosen.fold((0, 0), |sum: Sum, (_, live)| (sum.0 + live.0, sum.1 + live.1))
        };
        let note = |high: &mut High, live: Sum| {
            if live.0 > high.live.0 {
                *high = High { live, sequence: event.sequence.0, time_ns: event.time_ns, sites: of_site.clone() };
            }
        };
        note(&mut self.total, live_where(&|site| is_backing(domain_of(site.2))));
        for heap in &self.heaps {
            let live = live_where(&|site| is_backing(domain_of(site.2)) && site.0 == heap.owner);
            note(self.of_process.entry(heap.owner).or_default(), live);
        }
        for domain in (0..LAYERS.len()).map(DomainId::from) {
            note(self.of_domain.entry(domain).or_default(), live_where(&|site| domain_of(site.2) == domain));
        }
    }
}

/// The stack of the end of a call, or where none was taken that of its begin.
fn stack_of(event: &Event, call: Option<(StackId, Old)>) -> StackId {
    match call {
        Some((stack, _)) if event.stack == StackId::EMPTY => stack,
        _ => event.stack,
    }
}
