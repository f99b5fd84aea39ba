//! A naive replay of a trace's events: every heap a map, every rule of the event semantics checked at every event,
//! nothing clever. Responsible for what the events mean and whether they can have happened; shares no code with the
//! analyzer, whose answers are compared with this one's.

use std::collections::{BTreeMap, HashMap};

use trace_format::event::{Event, Op, Target};
use trace_format::id::{BlockId, DomainId, EntryId, ProcessId, StackId, ThreadId};
use trace_format::table::{Origin, Tables};

use crate::truth::Counts;

/// What a free or realloc named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named {
    /// A live block: its size, where it was allocated, and whether it was born in a process forked from.
    Live {
        /// Requested bytes.
        size_bytes: u64,
        /// Stack of its birth.
        born_at: StackId,
        /// Born in an ancestor, before the fork.
        inherited: bool,
    },
    /// An address never seen allocated.
    Unknown,
    /// An address whose block was already dead.
    Dead,
}

/// A finished call, put together from its one or two events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// Returned a block.
    Alloc {
        /// Entry point.
        entry: EntryId,
        /// Requested bytes.
        size_bytes: u64,
    },
    /// Returned none.
    Failed {
        /// Entry point.
        entry: EntryId,
        /// Requested bytes.
        size_bytes: u64,
    },
    /// Gave a block back.
    Free {
        /// Which.
        old: Named,
    },
    /// Resized a block.
    Realloc {
        /// Entry point.
        entry: EntryId,
        /// Which.
        old: Named,
        /// New size.
        size_bytes: u64,
    },
    /// Could not resize a block.
    ReallocFailed {
        /// Entry point.
        entry: EntryId,
        /// Which.
        old: Named,
        /// Size asked for.
        size_bytes: u64,
    },
    /// `realloc(p, 0)`.
    ReallocFreed {
        /// Which.
        old: Named,
    },
}

/// Counts of one process image in one domain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Sums {
    /// The ones programs note too. `live_*` are own blocks at the image's end.
    pub counts: Counts,
    /// Frees (and reallocs) of addresses never seen allocated.
    pub free_before_recording_count: u64,
    /// Frees (and reallocs) of dead addresses.
    pub free_of_dead_count: u64,
}

#[derive(Debug, Clone, Copy)]
struct Block {
    size_bytes: u64,
    address: u64,
    domain: DomainId,
    born_at: StackId,
    inherited: bool,
}

#[derive(Debug, Clone, Default)]
struct Heap {
    blocks: HashMap<BlockId, Block>,
    owners: HashMap<(DomainId, u64), BlockId>,
}

struct Pending {
    entry: EntryId,
    size_bytes: u64,
    old: Named,
    block: Option<(BlockId, Block)>,
    stack: StackId,
}

/// The replay's state.
#[derive(Default)]
pub struct Replay {
    heaps: HashMap<ProcessId, Heap>,
    pending: HashMap<ThreadId, Vec<Pending>>,
    sums: BTreeMap<(ProcessId, DomainId), Sums>,
    live_bytes: u64,
    peak_live_bytes: u64,
    next_block: u64,
    last: Option<(u64, u64)>,
    last_of_thread: HashMap<ThreadId, u64>,
    kinds: HashMap<String, usize>,
    /// Everything that cannot have happened, as sentences. Empty in a good trace.
    pub violations: Vec<String>,
    /// Times that step back further than the format promises: within a thread at all, across threads by 1 µs.
    pub time_violations: Vec<String>,
    /// Events lost, as the trace says.
    pub lost_count: u64,
    /// Births at live addresses.
    pub missed_free_count: u64,
    /// Images that ended, with the reason's debug form.
    pub ended: BTreeMap<ProcessId, String>,
    /// Events seen.
    pub event_count: u64,
}

impl Replay {
    /// The process image whose heap an image works in: itself, or for a vfork child the one it came from.
    pub fn heap_of(tables: &Tables, process: ProcessId) -> ProcessId {
        let mut at = process;
        while let Some(row) = tables.processes.get(at.index()) {
            match row.parent {
                Some(parent) if row.shares_heap => at = parent,
                _ => break,
            }
        }
        at
    }

    /// Takes one event. Returns the call it completes, with the process image whose heap it touched and the stack of
    /// the call.
    pub fn apply(&mut self, event: &Event, tables: &Tables) -> Option<(ProcessId, StackId, Call)> {
        self.event_count += 1;
        self.check_order(event);
        let Some(thread) = tables.threads.get(event.thread.index()) else {
            self.violations.push(format!(
                "event {} names thread {} of {}",
                event.sequence.0,
                event.thread.0,
                tables.threads.len()
            ));
            return None;
        };
        let process = Self::heap_of(tables, thread.process);
        let call = match event.op {
            Op::Alloc { entry, block, size_bytes, address, .. } => {
                self.birth(event, tables, process, entry, block, size_bytes, address, event.stack);
                let counts = self.counts(process, tables, entry);
                counts.counts.alloc_count += 1;
                counts.counts.alloc_bytes += size_bytes;
                Call::Alloc { entry, size_bytes }
            }
            Op::AllocFailed { entry, size_bytes } => {
                self.counts(process, tables, entry).counts.failed_count += 1;
                Call::Failed { entry, size_bytes }
            }
            Op::Free { entry, target } => {
                let (old, _) = self.death(event, process, target);
                self.count_free(process, tables, entry, old);
                Call::Free { old }
            }
            Op::ReallocBegin { entry, target, size_bytes } => {
                let (old, block) = self.death(event, process, target);
                let pending = Pending { entry, size_bytes, old, block, stack: event.stack };
                self.pending.entry(event.thread).or_default().push(pending);
                return None;
            }
            Op::ReallocEnd { entry, block, size_bytes, address } => {
                let pending = self.close(event, entry)?;
                if size_bytes != pending.size_bytes {
                    self.violation(event, "a realloc ends with another size than it began with");
                }
                self.birth(event, tables, process, entry, block, size_bytes, address, pending.stack);
                let sums = self.counts(process, tables, entry);
                sums.counts.realloc_count += 1;
                sums.counts.alloc_bytes += size_bytes;
                sums.free_before_recording_count += u64::from(pending.old == Named::Unknown);
                sums.free_of_dead_count += u64::from(pending.old == Named::Dead);
                return Some((process, pending.stack, Call::Realloc { entry, old: pending.old, size_bytes }));
            }
            Op::ReallocFailed { entry } => {
                let pending = self.close(event, entry)?;
                if let Some((id, block)) = pending.block {
                    self.revive(event, process, id, block);
                }
                self.counts(process, tables, entry).counts.failed_count += 1;
                let call = Call::ReallocFailed { entry, old: pending.old, size_bytes: pending.size_bytes };
                return Some((process, pending.stack, call));
            }
            Op::ReallocFreed { entry } => {
                let pending = self.close(event, entry)?;
                if pending.size_bytes != 0 {
                    self.violation(event, "a realloc of a size above 0 was taken for a free");
                }
                self.count_free(process, tables, entry, pending.old);
                return Some((process, pending.stack, Call::ReallocFreed { old: pending.old }));
            }
            Op::MissedFree { block } => {
                self.missed_free_count += 1;
                self.death(event, process, Target::Block(block));
                return None;
            }
            Op::ProcessStart { process } => {
                self.start(event, tables, process);
                return None;
            }
            Op::ProcessEnd { process, reason } => {
                if self.ended.insert(process, format!("{reason:?}")).is_some() {
                    self.violation(event, "a process image ends twice");
                }
                if tables.processes.get(process.index()).is_some_and(|row| !row.shares_heap) {
                    self.drop_heap(process);
                }
                return None;
            }
            Op::Loss { alloc_count, free_count, other_count, .. } => {
                self.lost_count += alloc_count + free_count + other_count;
                return None;
            }
            Op::ThreadEnd | Op::Marker { .. } | Op::Unknown { .. } => return None,
        };
        Some((process, event.stack, call))
    }

    /// Ends the replay: heaps of images still running are what is live at the end of the recording.
    pub fn finish(&mut self) {
        let open: Vec<ProcessId> = self.heaps.keys().copied().collect();
        for process in open {
            self.drop_heap(process);
        }
    }

    /// How many reallocs never came back: left by longjmp or an exception, or cut off by the end.
    pub fn open_realloc_count(&self) -> usize {
        self.pending.values().map(Vec::len).sum()
    }

    /// Sums by process image and domain.
    pub fn sums(&self) -> &BTreeMap<(ProcessId, DomainId), Sums> {
        &self.sums
    }

    /// Sums of the images and domains that a filter keeps.
    pub fn sum_where(&self, mut keep: impl FnMut(ProcessId, DomainId) -> bool) -> Sums {
        let mut all = Sums::default();
        for (_, sums) in self.sums.iter().filter(|((process, domain), _)| keep(*process, *domain)) {
            all.counts = all.counts.plus(&sums.counts);
            all.free_before_recording_count += sums.free_before_recording_count;
            all.free_of_dead_count += sums.free_of_dead_count;
        }
        all
    }

    /// Most bytes live at one time, over all processes and domains; inherited blocks count once, for their owner.
    pub fn peak_live_bytes(&self) -> u64 {
        self.peak_live_bytes
    }

    fn violation(&mut self, event: &Event, what: &str) {
        // The first ones of a kind tell; a broken trace would fill memory with the rest.
        let kind: String = what.chars().filter(|letter| !letter.is_ascii_hexdigit()).collect();
        let seen = self.kinds.entry(kind).or_default();
        *seen += 1;
        if *seen <= 3 {
            self.violations.push(format!("{what}: {event:?}"));
        }
    }

    fn time_violation(&mut self, event: &Event, what: &str) {
        if self.time_violations.len() < 5 {
            self.time_violations.push(format!("{what}: {event:?}"));
        }
    }

    fn check_order(&mut self, event: &Event) {
        if let Some((sequence, time_ns)) = self.last {
            if event.sequence.0 <= sequence {
                self.violation(event, "the sequence does not grow");
            }
            if event.time_ns + 1000 <= time_ns {
                self.time_violation(event, &format!("time steps back by {} ns", time_ns - event.time_ns));
            }
        }
        let latest = self.last.map_or(0, |(_, time_ns)| time_ns).max(event.time_ns);
        self.last = Some((event.sequence.0, latest));
        let of_thread = self.last_of_thread.insert(event.thread, event.time_ns);
        if of_thread.is_some_and(|before| before > event.time_ns) {
            self.time_violation(event, "time steps back within a thread");
        }
    }

    fn counts(&mut self, process: ProcessId, tables: &Tables, entry: EntryId) -> &mut Sums {
        let domain = tables.entries.get(entry.index()).map_or(DomainId(u32::MAX), |entry| entry.domain);
        self.sums.entry((process, domain)).or_default()
    }

    fn count_free(&mut self, process: ProcessId, tables: &Tables, entry: EntryId, old: Named) {
        let sums = self.counts(process, tables, entry);
        match old {
            Named::Live { inherited, .. } => {
                sums.counts.free_count += 1;
                sums.counts.inherited_free_count += u64::from(inherited);
            }
            Named::Unknown => sums.free_before_recording_count += 1,
            Named::Dead => sums.free_of_dead_count += 1,
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of a birth, named at both call sites")]
    fn birth(
        &mut self,
        event: &Event,
        tables: &Tables,
        process: ProcessId,
        entry: EntryId,
        id: BlockId,
        size_bytes: u64,
        address: u64,
        born_at: StackId,
    ) {
        if id.0 < self.next_block || (id.0 > self.next_block && self.lost_count == 0) {
            let wanted = self.next_block;
            self.violation(event, &format!("birth {} where {wanted} was next", id.0));
        }
        self.next_block = id.0 + 1;
        if address == 0 {
            self.violation(event, "a block at address 0");
        }
        let Some(domain) = tables.entries.get(entry.index()).map(|entry| entry.domain) else {
            return self.violation(event, "an entry point that is in no table");
        };
        let block = Block { size_bytes, address, domain, born_at, inherited: false };
        self.live_bytes += size_bytes;
        self.peak_live_bytes = self.peak_live_bytes.max(self.live_bytes);
        let heap = self.heaps.entry(process).or_default();
        heap.blocks.insert(id, block);
        if let Some(owner) = heap.owners.insert((domain, address), id) {
            self.violation(event, &format!("address {address:#x} is owned by birth {} already", owner.0));
        }
    }

    fn revive(&mut self, event: &Event, process: ProcessId, id: BlockId, block: Block) {
        let heap = self.heaps.entry(process).or_default();
        heap.blocks.insert(id, block);
        let owner = heap.owners.insert((block.domain, block.address), id);
        if !block.inherited {
            self.live_bytes += block.size_bytes;
        }
        if owner.is_some() {
            self.violation(event, "a failed realloc's block was given to somebody else meanwhile");
        }
    }

    fn death(&mut self, event: &Event, process: ProcessId, target: Target) -> (Named, Option<(BlockId, Block)>) {
        let id = match target {
            Target::Unknown { .. } => return (Named::Unknown, None),
            Target::Dead { .. } => return (Named::Dead, None),
            Target::Block(id) => id,
        };
        let heap = self.heaps.entry(process).or_default();
        let Some(block) = heap.blocks.remove(&id) else {
            self.violation(event, "a block dies that is not live in this heap");
            return (Named::Dead, None);
        };
        heap.owners.remove(&(block.domain, block.address));
        if !block.inherited {
            self.live_bytes -= block.size_bytes;
        }
        let named = Named::Live { size_bytes: block.size_bytes, born_at: block.born_at, inherited: block.inherited };
        (named, Some((id, block)))
    }

    fn close(&mut self, event: &Event, entry: EntryId) -> Option<Pending> {
        let stack = self.pending.entry(event.thread).or_default();
        // Calls that were left by longjmp lie above the one that returns.
        let place = stack.iter().rposition(|pending| pending.entry == entry);
        let Some(place) = place else {
            self.violation(event, "a realloc ends that never began");
            return None;
        };
        Some(stack.remove(place))
    }

    fn start(&mut self, event: &Event, tables: &Tables, process: ProcessId) {
        let Some(row) = tables.processes.get(process.index()) else {
            return self.violation(event, "a process starts that is in no table");
        };
        if row.shares_heap {
            return;
        }
        let mut heap = Heap::default();
        if let (Origin::Fork, Some(parent)) = (row.origin, row.parent) {
            heap = self.heaps.get(&Self::heap_of(tables, parent)).cloned().unwrap_or_default();
            for block in heap.blocks.values_mut() {
                block.inherited = true;
            }
        }
        if self.heaps.insert(process, heap).is_some() {
            self.violation(event, "a process starts twice, or after its first event");
        }
    }

    fn drop_heap(&mut self, process: ProcessId) {
        let Some(heap) = self.heaps.remove(&process) else { return };
        for block in heap.blocks.values().filter(|block| !block.inherited) {
            self.live_bytes -= block.size_bytes;
            let sums = self.sums.entry((process, block.domain)).or_default();
            sums.counts.live_count += 1;
            sums.counts.live_bytes += block.size_bytes as i64;
        }
    }
}
