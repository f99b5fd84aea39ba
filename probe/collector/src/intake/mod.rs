//! Turns ring records and notices into the events of a trace. Responsible for names (which process, thread, block,
//! stack a number stands for) and for keeping records and notices in one order; not for reading the ring or for
//! deciding what is probed.

mod heap;
mod layout;
mod markers;
mod memory;
mod names;
mod nodes;
mod processes;
mod stacks;
mod target;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use hashbrown::HashMap;
use probe_abi::{LossRecord, Record, RecordKind, ThreadState, WalkedRecord, unwind::WalkEnd};
use trace_format::{
    DomainId, EntryId, StackId, ThreadId, TraceWriter, WriteError,
    event::{self, Op, Walk},
    table::{CaptureStats, Nesting, Thread},
};

use self::{
    heap::{Heap, Released},
    markers::{MarkerRow, Texts},
    names::Names,
    nodes::Place,
    stacks::{Nodes, ThreadStack},
    target::{Naming, Target},
};
use crate::{notice::ModuleFile, tracer::Signals};

type FastMap<K, V> = HashMap<K, V, foldhash::fast::FixedState>;

/// How a recording goes, for whoever watches it.
#[derive(Debug, Default)]
pub struct Progress {
    /// Events so far.
    pub event_count: AtomicU64,
    /// Requested bytes live now, over all processes.
    pub live_bytes: AtomicU64,
    /// Events lost so far.
    pub lost_count: AtomicU64,
    /// Bytes written so far.
    pub file_bytes: AtomicU64,
    /// Processes recorded so far.
    pub process_count: AtomicU64,
}

/// A realloc between its entry and its return.
struct OpenRealloc {
    row: u32,
    released: Option<Released>,
}

impl Caller {
    fn new(id: ThreadId, pid: u32) -> Self {
        Self { id, pid, open: Vec::new(), stack: ThreadStack::default() }
    }
}

struct Caller {
    id: ThreadId,
    pid: u32,
    open: Vec<OpenRealloc>,
    stack: ThreadStack,
}

/// What a descriptor row stands for.
#[derive(Clone)]
enum Row {
    Entry(EntryRow),
    Marker(MarkerRow),
}

/// An allocator function.
#[derive(Clone)]
struct EntryRow {
    entry: EntryId,
    domain: DomainId,
    cousins: Arc<[DomainId]>,
    module: Arc<ModuleFile>,
}

/// How often one domain allocated inside another.
#[derive(Default, Clone, Copy)]
struct Tally {
    count: u64,
    bytes: u64,
}

/// Counts an alloc of its domain.
fn tally(allocated: &mut Vec<Tally>, domain: DomainId, size_bytes: u64) {
    if domain.index() >= allocated.len() {
        allocated.resize(domain.index() + 1, Tally::default());
    }
    let tally = &mut allocated[domain.index()];
    tally.count += 1;
    tally.bytes += size_bytes;
}

pub(crate) struct Intake {
    writer: TraceWriter,
    start_ns: u64,
    /// Time of the last event: the order is the ring's, and a thread can be preempted between clock and reservation.
    last_ns: u64,
    names: Names,
    targets: FastMap<u32, Target>,
    callers: FastMap<u32, Caller>,
    rows: Vec<Option<Row>>,
    texts: Texts,
    heaps: Vec<Heap>,
    /// By domain.
    allocated: Vec<Tally>,
    nested: FastMap<(DomainId, DomainId), Tally>,
    stats: CaptureStats,
    orphan_count: u64,
    /// Warnings that are not told one by one.
    further_warning_count: u64,
    progress: Arc<Progress>,
    signals: Arc<Signals>,
    last_thread: ThreadId,
    /// By thread, the process that its last whole record named: what compact ones leave out. Kept for whoever is not known (yet), too.
    pids: FastMap<u32, u32>,
    /// The thread that was asked for last, and its process; zeros for none.
    last_pid: (u32, u32),
    /// The heap that an allocator's last record was about.
    last_heap: usize,
}

impl Intake {
    pub(crate) fn new(writer: TraceWriter, start_ns: u64, progress: Arc<Progress>, signals: Arc<Signals>) -> Self {
        Self {
            writer,
            start_ns,
            last_ns: 0,
            names: Names::default(),
            targets: FastMap::default(),
            callers: FastMap::default(),
            rows: Vec::new(),
            texts: Texts::default(),
            heaps: Vec::new(),
            allocated: Vec::new(),
            nested: FastMap::default(),
            stats: CaptureStats::default(),
            orphan_count: 0,
            further_warning_count: 0,
            progress,
            signals,
            last_thread: ThreadId(0),
            pids: FastMap::default(),
            last_pid: (0, 0),
            last_heap: 0,
        }
    }

    /// A record that will come soon: has the memory fetched that it will need. Most records are about the heap that the one
    /// before was about.
    #[inline]
    pub(crate) fn foresee(&self, bytes: &[u8]) {
        let compact = layout::compact(bytes).or_else(|| layout::walked(bytes).map(|walked| walked.compact));
        let what = match compact {
            Some(compact) => Some((compact.descriptor(), compact.pointer())),
            None => layout::record(bytes).map(|record| (record.descriptor, record.pointer)),
        };
        if let Some((descriptor, pointer)) = what
            && let Some(Some(Row::Entry(row))) = self.rows.get(descriptor as usize)
            && let Some(heap) = self.heaps.get(self.last_heap)
        {
            heap.foresee(row.domain, pointer);
        }
    }

    /// One record from the ring.
    pub(crate) fn record(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        let near_ns = self.start_ns + self.last_ns;
        if let Some(compact) = layout::compact(bytes) {
            let record = compact.whole(self.pid_of(compact.tid()), near_ns);
            return self.call(&record, layout::frames(bytes, 0, 0));
        }
        if let Some(walked) = layout::walked(bytes) {
            let record = walked.whole(self.pid_of(walked.compact.tid()), near_ns);
            return self.call(&record, layout::frames(bytes, size_of::<WalkedRecord>(), walked.frame_count));
        }
        if bytes.first() == Some(&(RecordKind::Loss as u8)) {
            return match layout::loss(bytes) {
                Some(loss) => self.loss(&loss),
                None => Ok(()),
            };
        }
        if bytes.first() == Some(&(RecordKind::MarkerText as u8)) {
            if let Some(text) = layout::text(bytes) {
                self.texts.put(&text);
            }
            return Ok(());
        }
        let Some(record) = layout::record(bytes) else {
            self.orphan_count += 1;
            return Ok(());
        };
        if self.last_pid != (record.tid, record.pid) {
            self.pids.insert(record.tid, record.pid);
            self.last_pid = (record.tid, record.pid);
        }
        self.call(&record, layout::frames(bytes, size_of::<Record>(), record.frame_count))
    }

    /// The process that a thread's last whole record named; 0 where there was none.
    #[inline]
    fn pid_of(&mut self, tid: u32) -> u32 {
        if tid != self.last_pid.0 {
            self.last_pid = (tid, self.pids.get(&tid).copied().unwrap_or(0));
        }
        self.last_pid.1
    }

    fn call(
        &mut self,
        record: &Record,
        frames: impl DoubleEndedIterator<Item = u64> + Clone,
    ) -> Result<(), WriteError> {
        let Some(target) = self.targets.get_mut(&record.pid) else {
            self.orphan_count += 1;
            return Ok(());
        };
        let caller = match self.callers.get_mut(&record.tid) {
            Some(caller) if caller.pid == record.pid => caller,
            _ => {
                let name = names::thread_name(record.pid, record.tid);
                let id = self.writer.thread(Thread { tid: record.tid, process: target.id, name });
                self.callers.insert(record.tid, Caller::new(id, record.pid));
                self.callers.get_mut(&record.tid).expect("just inserted")
            }
        };
        let mut nodes = Naming { names: &mut self.names, writer: &mut self.writer, target: &mut *target };
        let walked = if record.walk_end == WalkEnd::NotTaken as u8 {
            None
        } else {
            caller.stack.apply(usize::from(record.kept), record.same_cfa != 0, frames, &mut nodes)
        };
        if record.walk_end == WalkEnd::UnknownCode as u8 && nodes.target.wants_another_look(record.time_ns) {
            self.signals.look_again(record.pid);
        }
        // Not before: the thread and its stack are known from now on, whatever becomes of this record.
        let Some(row) = self.rows.get(record.descriptor as usize).and_then(Option::as_ref) else {
            self.orphan_count += 1;
            return Ok(());
        };
        let (stack, walk) = match walked {
            Some((stack, moved, renewed)) => (stack, stacks::walk(record.walk_end, moved, renewed)),
            None => (nodes.node(Place::ROOT, record.return_address).node, Walk::NONE),
        };
        let thread = caller.id;
        self.last_thread = thread;
        let time_ns = record.time_ns.saturating_sub(self.start_ns).max(self.last_ns);
        self.last_ns = time_ns;
        let row = match row {
            Row::Entry(row) if record.kind != RecordKind::Marker as u8 => row,
            Row::Marker(row) if record.kind == RecordKind::Marker as u8 => {
                let value = self.texts.value(&mut self.writer, record, row);
                let op = Op::Marker { id: row.id, kind: row.kind, value };
                return self.writer.push(time_ns, thread, stack, walk, &op).map(drop);
            }
            _ => {
                self.orphan_count += 1;
                return Ok(());
            }
        };
        let entry = row.entry;
        self.last_heap = target.heap;
        let heap = &mut self.heaps[target.heap];
        let live_before = heap.live_bytes();
        let size_bytes = record.size;
        match record.kind {
            kind if kind == RecordKind::Free as u8 => {
                let (mut block, _) = heap.dies(row.domain, &row.cousins, record.pointer);
                if let event::Target::Unknown { address } = block
                    && target.began_empty
                    && names::module_of(&target.ranges, record.return_address)
                        .is_some_and(|module| Arc::ptr_eq(module, &row.module))
                {
                    // The allocator frees what it never handed out (glibc its per-thread cache, at thread exit).
                    block = event::Target::Dead { address };
                }
                self.writer.push(time_ns, thread, stack, walk, &Op::Free { entry, target: block })?;
            }
            kind if kind == RecordKind::Alloc as u8 && record.pointer == 0 => {
                self.writer.push(time_ns, thread, stack, walk, &Op::AllocFailed { entry, size_bytes })?;
            }
            kind if kind == RecordKind::Alloc as u8 => {
                tally(&mut self.allocated, row.domain, size_bytes);
                let inside = match record.outer_domain {
                    0 => None,
                    outer => target.domains.get(&outer).copied(),
                };
                if let Some(outer) = inside {
                    let tally = self.nested.entry((outer, row.domain)).or_default();
                    tally.count += 1;
                    tally.bytes += size_bytes;
                }
                let block = self.writer.next_block();
                if let Some(block) = heap.born(row.domain, record.pointer, block, size_bytes) {
                    self.stats.impossible_count += 1;
                    self.writer.push(time_ns, thread, stack, walk, &Op::MissedFree { block })?;
                }
                let alignment_bytes = if record.alignment == 0 { 0 } else { 1 << (record.alignment - 1).min(63) };
                let address = record.pointer;
                let op = Op::Alloc { entry, block, size_bytes, alignment_bytes, address, inside };
                self.writer.push(time_ns, thread, stack, walk, &op)?;
            }
            kind if kind == RecordKind::ReallocBegin as u8 => {
                let (block, released) = heap.dies(row.domain, &row.cousins, record.pointer);
                caller.open.push(OpenRealloc { row: record.descriptor, released });
                let op = Op::ReallocBegin { entry, target: block, size_bytes };
                self.writer.push(time_ns, thread, stack, walk, &op)?;
            }
            kind if kind == RecordKind::ReallocEnd as u8 => {
                // A begin without an end (it never returned) lies above the one that ends now, or is all there is.
                let released = match caller.open.iter().rposition(|open| open.row == record.descriptor) {
                    Some(index) => {
                        let open = caller.open.drain(index..).next().expect("there is one at the index");
                        open.released
                    }
                    None => None,
                };
                if record.pointer != 0 {
                    tally(&mut self.allocated, row.domain, size_bytes);
                    let block = self.writer.next_block();
                    if let Some(block) = heap.born(row.domain, record.pointer, block, size_bytes) {
                        self.stats.impossible_count += 1;
                        self.writer.push(time_ns, thread, stack, walk, &Op::MissedFree { block })?;
                    }
                    let op = Op::ReallocEnd { entry, block, size_bytes, address: record.pointer };
                    self.writer.push(time_ns, thread, stack, walk, &op)?;
                } else if size_bytes == 0 {
                    self.writer.push(time_ns, thread, stack, walk, &Op::ReallocFreed { entry })?;
                } else {
                    if let Some(released) = released {
                        heap.revive(released);
                    }
                    self.writer.push(time_ns, thread, stack, walk, &Op::ReallocFailed { entry })?;
                }
            }
            _ => self.orphan_count += 1,
        }
        let change = heap.live_bytes().wrapping_sub(live_before);
        if change != 0 {
            self.progress
                .live_bytes
                .store(self.progress.live_bytes.load(Ordering::Relaxed).wrapping_add(change), Ordering::Relaxed);
        }
        Ok(())
    }

    fn loss(&mut self, record: &LossRecord) -> Result<(), WriteError> {
        let loss = record.loss;
        let lost = loss.alloc_count + loss.free_count + loss.other_count;
        self.progress.lost_count.fetch_add(lost, Ordering::Relaxed);
        if self.writer.tables().threads.is_empty() {
            return Ok(());
        }
        let op = Op::Loss {
            cpu: record.cpu,
            first_ns: loss.first_ns.saturating_sub(self.start_ns),
            last_ns: loss.last_ns.saturating_sub(self.start_ns),
            alloc_count: loss.alloc_count,
            free_count: loss.free_count,
            other_count: loss.other_count,
        };
        let time_ns = self.later(loss.last_ns);
        self.writer.push(time_ns, self.last_thread, StackId::EMPTY, Walk::NONE, &op).map(drop)
    }

    /// A time of the trace, never before the last event's.
    fn later(&mut self, monotonic_ns: u64) -> u64 {
        self.last_ns = self.last_ns.max(monotonic_ns.saturating_sub(self.start_ns));
        self.last_ns
    }

    /// Losses that found no place in the ring to the very end.
    pub(crate) fn untold_loss(&mut self, cpu: u32, loss: probe_abi::Loss) -> Result<(), WriteError> {
        self.loss(&LossRecord { kind: RecordKind::Loss as u8, reserved: [0; 3], cpu, loss })
    }

    /// Adds what the kernel side counted for a thread.
    pub(crate) fn count_calls(&mut self, state: &ThreadState) {
        self.stats.call_begin_count += state.begin_count;
        self.stats.call_return_count += state.return_count;
        self.stats.call_abandoned_count += state.abandoned_count;
        self.stats.call_pending_count += u64::from(state.depth);
        self.stats.return_without_begin_count += state.unmatched_count;
        self.stats.nested_call_count += state.nested_count;
    }

    /// Tells the watcher how it goes.
    pub(crate) fn report(&self) {
        self.progress.event_count.store(self.writer.event_count(), Ordering::Relaxed);
        self.progress.file_bytes.store(self.writer.written_bytes(), Ordering::Relaxed);
    }

    /// Ends the chunk, so that a recorder that is killed has lost little.
    pub(crate) fn flush(&mut self) -> Result<(), WriteError> {
        self.tell_nestings();
        self.writer.flush()
    }

    fn tell_nestings(&mut self) {
        for (&(outer, inner), nested) in &self.nested {
            let of_outer = self.allocated.get(outer.index()).copied().unwrap_or_default();
            self.writer.nesting(Nesting {
                outer,
                inner,
                count: nested.count,
                bytes: nested.bytes,
                outer_count: of_outer.count,
                outer_bytes: of_outer.bytes,
            });
        }
    }

    /// Hands over what is needed to finish the trace.
    pub(crate) fn into_parts(mut self) -> Finished {
        self.tell_nestings();
        if self.orphan_count > 0 {
            self.stats.impossible_count += self.orphan_count;
            self.stats
                .warnings
                .push(format!("{} records named a process or probe that is not known", self.orphan_count));
        }
        if self.further_warning_count > 0 {
            self.stats.warnings.push(format!("{} more warnings about processes", self.further_warning_count));
        }
        let starts = self.names.function_starts();
        Finished { writer: self.writer, stats: self.stats, files: self.names.into_files(), starts }
    }
}

/// What remains of an intake.
pub(crate) struct Finished {
    pub(crate) writer: TraceWriter,
    pub(crate) stats: CaptureStats,
    pub(crate) files: Vec<(trace_format::ModuleId, std::fs::File)>,
    /// By frame, where its function begins.
    pub(crate) starts: Vec<Option<u64>>,
}
