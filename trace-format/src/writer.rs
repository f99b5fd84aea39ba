//! Writing a trace as a stream. Responsible for the interface of the recorder, for checking what it hands over and for
//! ending chunks; not for bytes (see `encode`, `rows`) nor for the file (see `sink`).
//!
//! ```text
//! recorder ── push ──▶ ChunkEncoder ── 64 Ki events ──▶ queue ──▶ Sink: zstd, checksum, write   (second thread)
//!          ── frame, stack, … ──▶ Tables ── new rows ──┘          rows go ahead of the events that refer to them
//! ```

use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};
use std::thread::JoinHandle;

use crate::assemble::{NestingIndex, empty_tables};
use crate::column::Columns;
use crate::encode::ChunkEncoder;
use crate::error::WriteError;
use crate::event::{Op, Target, Walk};
use crate::id::{BlockId, DomainId, EntryId, FrameId, ModuleId, ProcessId, Sequence, StackId, ThreadId};
use crate::intern::Interner;
use crate::limits::{BATCH_BYTES, MAX_CHUNK_EVENTS, NO_MARKER};
use crate::rows::{Rows, TableLengths};
use crate::shape::is_known_code;
use crate::sink::{Job, Progress, Sink};
use crate::symbol_table::SymbolColumns;
use crate::table::{
    CaptureStats, Domain, Entry, Frame, FrameSymbols, Header, Marker, MarkerValue, Module, Nesting, Probe, Process,
    StackNode, StackSummary, Tables, Thread,
};
use crate::tail::Tail;

/// `Header::tick_ns` that recorders should use, and that the writer puts into a header that says 0.
///
/// The order of events is that of the file; times say when. A probed call costs about a microsecond, so 64 ns and also the 512 ns
/// of heaptape's own recorder tell the calls of a thread apart. Bytes per event of an 8 M event trace of cc1plus, by tick: 1 ns 2.51, 16 ns 2.05, 32 ns 1.89, 64 ns 1.65, 128 ns 1.50,
/// 256 ns 1.39, 1 µs 1.25.
pub const DEFAULT_TICK_NS: u32 = 64;

/// Chunks that wait for the second thread before `push` waits for it.
const QUEUE_CHUNKS: usize = 4;

/// How to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriterOptions {
    /// Events per chunk, from 1 to 262144.
    pub chunk_events: usize,
    /// zstd level of chunks. The same trace, both threads on one processor, until the file is closed:
    ///
    /// | level | -1 | 1 | 2 | 3 | 4 | 5 | 6 |
    /// |---|---|---|---|---|---|---|---|
    /// | bytes/event | 2.11 | 1.71 | 1.70 | 1.65 | 1.65 | 1.60 | 1.57 |
    /// | ns/event | 44 | 44 | 45 | 45 | 46 | 60 | 66 |
    pub zstd_level: i32,
    /// Whether addresses of blocks are stored; without, they read as 0. They take 0.37 of the 1.65 bytes per event.
    pub addresses: bool,
}

impl Default for WriterOptions {
    fn default() -> Self {
        Self { chunk_events: 65_536, zstd_level: 3, addresses: true }
    }
}

/// What `finish` wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Size of the file.
    pub file_bytes: u64,
    /// Events in it.
    pub event_count: u64,
    /// Chunks in it.
    pub chunk_count: u64,
}

/// Writes one trace. Dropped without `finish`, it writes what it has and leaves the trace without a tail.
#[derive(Debug)]
pub struct TraceWriter {
    path: PathBuf,
    header: Header,
    options: WriterOptions,
    tables: Tables,
    interner: Interner,
    /// Rows that chunks before this one brought.
    sent: TableLengths,
    nesting_index: NestingIndex,
    changed_nestings: Vec<Nesting>,
    changed_index: NestingIndex,
    encoder: ChunkEncoder,
    event_count: u64,
    salvaged: bool,
    /// Frames of each stack.
    depths: Vec<u32>,
    alloc_stacks: StackSummary,
    free_stacks: StackSummary,
    progress: Arc<Progress>,
    /// `None` once the trace is ended.
    jobs: Option<SyncSender<Job>>,
    used_columns: Receiver<Columns>,
    second_thread: Option<JoinHandle<()>>,
}

impl TraceWriter {
    /// Begins a trace: writes its header and starts the thread that writes the rest. `path` is for messages only.
    ///
    /// # Errors
    /// If the header cannot be written.
    pub fn create(
        out: impl Write + Send + 'static,
        path: &Path,
        header: &Header,
        options: WriterOptions,
    ) -> Result<Self, WriteError> {
        let mut header = header.clone();
        if header.tick_ns == 0 {
            header.tick_ns = DEFAULT_TICK_NS;
        }
        if !options.addresses && !header.options.iter().any(|option| option == WITHOUT_ADDRESSES) {
            header.options.push(WITHOUT_ADDRESSES.to_owned());
        }
        let options = WriterOptions { chunk_events: options.chunk_events.clamp(1, MAX_CHUNK_EVENTS), ..options };
        let progress = Arc::new(Progress::default());
        let sink = Sink::create(Box::new(out), path.to_owned(), &header, options.zstd_level, Arc::clone(&progress))?;
        let (jobs, receiver) = sync_channel(QUEUE_CHUNKS);
        let (used_sender, used_columns) = channel();
        let second_thread = std::thread::Builder::new()
            .name("trace-writer".to_owned())
            .spawn(move || sink.run(&receiver, &used_sender))
            .map_err(|source| WriteError::Io {
                path: path.to_owned(),
                written_bytes: progress.written_bytes(),
                source: Arc::new(source),
            })?;
        Ok(Self {
            path: path.to_owned(),
            encoder: ChunkEncoder::new(header.tick_ns, !options.addresses),
            header,
            options,
            tables: empty_tables(),
            interner: Interner::default(),
            sent: TableLengths::EMPTY,
            nesting_index: NestingIndex::default(),
            changed_nestings: Vec::new(),
            changed_index: NestingIndex::default(),
            event_count: 0,
            salvaged: false,
            depths: vec![0],
            alloc_stacks: StackSummary::default(),
            free_stacks: StackSummary::default(),
            progress,
            jobs: Some(jobs),
            used_columns,
            second_thread: Some(second_thread),
        })
    }

    /// Appends a module.
    pub fn module(&mut self, module: Module) -> ModuleId {
        self.tables.modules.push(module);
        ModuleId::from(self.tables.modules.len() - 1)
    }

    /// The id of a frame: one for each (module, address). Its module must be registered.
    pub fn frame(&mut self, frame: Frame) -> FrameId {
        assert!(frame.module.index() < self.tables.modules.len(), "the module of a frame is registered before it");
        self.interner.frame(&mut self.tables.frames, frame)
    }

    /// The id of the stack node for `frame` called from `parent`; both must be registered.
    #[inline]
    pub fn stack(&mut self, parent: StackId, frame: FrameId) -> StackId {
        self.assert_registered(parent, frame);
        let node = self.interner.stack(&mut self.tables.stacks, StackNode { parent, frame });
        if node.index() == self.depths.len() {
            self.depths.push(self.depths[parent.index()] + 1);
        }
        node
    }

    /// Appends a stack node without looking for it: the caller knows that `parent` has no node for `frame` yet.
    #[inline]
    pub fn new_stack(&mut self, parent: StackId, frame: FrameId) -> StackId {
        self.assert_registered(parent, frame);
        self.tables.stacks.push(StackNode { parent, frame });
        self.depths.push(self.depths[parent.index()] + 1);
        StackId::from(self.tables.stacks.len() - 1)
    }

    #[inline]
    fn assert_registered(&self, parent: StackId, frame: FrameId) {
        assert!(
            parent.index() < self.tables.stacks.len() && frame.index() < self.tables.frames.len(),
            "parent and frame of a stack node are registered before it"
        );
    }

    /// Appends a process image. Its parent must be registered.
    pub fn process(&mut self, process: Process) -> ProcessId {
        let parent_known = process.parent.is_none_or(|parent| parent.index() < self.tables.processes.len());
        assert!(parent_known, "the parent of a process is registered before it");
        self.tables.processes.push(process);
        ProcessId::from(self.tables.processes.len() - 1)
    }

    /// Appends a thread. Its process must be registered.
    pub fn thread(&mut self, thread: Thread) -> ThreadId {
        assert!(
            thread.process.index() < self.tables.processes.len(),
            "the process of a thread is registered before it"
        );
        self.tables.threads.push(thread);
        ThreadId::from(self.tables.threads.len() - 1)
    }

    /// Appends a domain. Its module must be registered.
    pub fn domain(&mut self, domain: Domain) -> DomainId {
        assert!(domain.module.index() < self.tables.modules.len(), "the module of a domain is registered before it");
        self.tables.domains.push(domain);
        DomainId::from(self.tables.domains.len() - 1)
    }

    /// Appends an entry point. Its domain must be registered.
    pub fn entry(&mut self, entry: Entry) -> EntryId {
        assert!(
            entry.domain.index() < self.tables.domains.len(),
            "the domain of an entry point is registered before it"
        );
        self.tables.entries.push(entry);
        EntryId::from(self.tables.entries.len() - 1)
    }

    /// Appends a probe. Its process and module must be registered.
    pub fn probe(&mut self, probe: Probe) {
        assert!(
            probe.process.index() < self.tables.processes.len() && probe.module.index() < self.tables.modules.len(),
            "process and module of a probe are registered before it"
        );
        self.tables.probes.push(probe);
    }

    /// Appends a marker; returns its row.
    pub fn marker(&mut self, marker: Marker) -> u32 {
        self.tables.markers.push(marker);
        (self.tables.markers.len() - 1) as u32
    }

    /// The row of a text: one for each.
    pub fn text(&mut self, text: &str) -> u32 {
        self.interner.text(&mut self.tables.texts, text)
    }

    /// Sets the counts of a pair of domains, which must be registered: replaces those set before.
    pub fn nesting(&mut self, nesting: Nesting) {
        assert!(
            nesting.outer.max(nesting.inner).index() < self.tables.domains.len(),
            "the domains of a nesting are registered before it"
        );
        self.nesting_index.set(&mut self.tables.nestings, nesting);
        self.changed_index.set(&mut self.changed_nestings, nesting);
    }

    /// The birth number that the next `Alloc` or `ReallocEnd` must carry.
    #[inline]
    pub fn next_block(&self) -> BlockId {
        self.encoder.next_block()
    }

    /// Appends an event. Waits for the second thread if it is several chunks behind.
    ///
    /// # Errors
    /// `Rule` if the event names something that is not registered, a birth other than `next_block()`, or a block that is
    /// not born; the event is not written then, and the writer goes on. Otherwise the first error of the second thread.
    #[inline]
    pub fn push(
        &mut self,
        time_ns: u64,
        thread: ThreadId,
        stack: StackId,
        walk: Walk,
        op: &Op,
    ) -> Result<Sequence, WriteError> {
        self.progress.check()?;
        if thread.index() >= self.tables.threads.len() || stack.index() >= self.tables.stacks.len() || !self.allows(op)
        {
            return Err(self.rule(thread, stack, op));
        }
        let sequence = self.encoder.next_sequence();
        self.encoder.push(time_ns, thread, stack, walk, op);
        self.count_stack(stack, walk, op);
        self.event_count += 1;
        if self.encoder.event_count() >= self.options.chunk_events {
            self.end_chunk()?;
        }
        Ok(sequence)
    }

    #[inline]
    fn count_stack(&mut self, stack: StackId, walk: Walk, op: &Op) {
        let summary = match op {
            Op::Alloc { .. } | Op::AllocFailed { .. } | Op::ReallocEnd { .. } => &mut self.alloc_stacks,
            Op::Free { .. } | Op::ReallocBegin { .. } => &mut self.free_stacks,
            _ => return,
        };
        summary.add(self.depths[stack.index()], walk.quality);
    }

    /// What has been registered so far.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Events pushed so far.
    pub fn event_count(&self) -> u64 {
        self.event_count
    }

    /// Bytes written so far; behind what was pushed by up to some chunks.
    pub fn written_bytes(&self) -> u64 {
        self.progress.written_bytes()
    }

    /// Ends the current chunk early, so that a recorder that is killed loses little. Does not wait for the disk. Does
    /// nothing if there is nothing new.
    ///
    /// # Errors
    /// The first error of the second thread.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        self.progress.check()?;
        let nothing_new = self.encoder.event_count() == 0
            && self.sent == TableLengths::of(&self.tables)
            && self.changed_nestings.is_empty();
        if nothing_new { Ok(()) } else { self.end_chunk() }
    }

    /// Ends the trace: writes the last chunk, symbols (by frame id; trailing rows may be missing) and the
    /// tail, and waits for it. Syncing the file is the caller's business.
    ///
    /// # Errors
    /// The first error of the second thread.
    pub fn finish(mut self, mut stats: CaptureStats, mut symbols: Vec<FrameSymbols>) -> Result<Written, WriteError> {
        self.flush()?;
        stats.alloc_stacks = std::mem::take(&mut self.alloc_stacks);
        stats.free_stacks = std::mem::take(&mut self.free_stacks);
        symbols.truncate(self.tables.frames.len());
        let mut next = 0;
        while next < symbols.len() {
            self.send(Job::Symbols(Box::new(SymbolColumns::take(&symbols, &mut next))))?;
        }
        self.send(Job::Tail(Box::new(Tail {
            header: self.header.clone(),
            stats,
            event_count: self.event_count,
            block_count: self.encoder.next_block().0,
            sequence_end: self.encoder.next_sequence().0,
            salvaged: self.salvaged,
            ..Tail::default()
        })))?;
        self.join();
        self.progress.check()?;
        Ok(Written {
            file_bytes: self.progress.written_bytes(),
            event_count: self.event_count,
            chunk_count: self.progress.chunk_count(),
        })
    }

    /// Takes over the tables of another trace as they are: its ids stay.
    pub(crate) fn take_over(&mut self, tables: Tables) {
        self.interner = Interner::of(&tables);
        self.nesting_index = NestingIndex::of(&tables.nestings);
        self.changed_nestings.clone_from(&tables.nestings);
        self.changed_index = NestingIndex::of(&tables.nestings);
        self.depths = depths(&tables);
        self.tables = tables;
        self.salvaged = true;
    }

    /// Nothing of the trace that was taken over is missing.
    pub(crate) fn is_whole(&mut self) {
        self.salvaged = false;
    }

    /// Leaves out lost events: the next one has this number and the next birth that one. Neither may step back.
    pub(crate) fn skip_to(&mut self, sequence: Sequence, block: BlockId) -> Result<(), WriteError> {
        self.flush()?;
        debug_assert!(sequence >= self.encoder.next_sequence() && block >= self.encoder.next_block(), "order goes on");
        self.encoder.begin(sequence, block);
        Ok(())
    }

    /// Has the next chunks tick otherwise than the header says.
    pub(crate) fn set_tick_ns(&mut self, tick_ns: u32) -> Result<(), WriteError> {
        if self.encoder.tick_ns() != tick_ns {
            self.flush()?;
            self.encoder.set_tick_ns(tick_ns);
        }
        Ok(())
    }

    /// What the trace says of itself.
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// Where the next event goes.
    pub(crate) fn next_sequence(&self) -> Sequence {
        self.encoder.next_sequence()
    }

    /// Whether everything that the operation names is there.
    #[inline]
    fn allows(&self, op: &Op) -> bool {
        let entry_known = |entry: EntryId| entry.index() < self.tables.entries.len();
        let target_known = |target: Target| match target {
            Target::Block(block) => block < self.next_block(),
            Target::Unknown { .. } | Target::Dead { .. } => true,
        };
        match *op {
            Op::Alloc { entry, block, inside, .. } => {
                entry_known(entry)
                    && block == self.next_block()
                    && inside.is_none_or(|domain| domain.index() < self.tables.domains.len())
            }
            Op::Free { entry, target } | Op::ReallocBegin { entry, target, .. } => {
                entry_known(entry) && target_known(target)
            }
            Op::ReallocEnd { entry, block, .. } => entry_known(entry) && block == self.next_block(),
            Op::AllocFailed { entry, .. } | Op::ReallocFailed { entry } | Op::ReallocFreed { entry } => {
                entry_known(entry)
            }
            Op::MissedFree { block } => block < self.next_block(),
            Op::ProcessStart { process } | Op::ProcessEnd { process, .. } => {
                process.index() < self.tables.processes.len()
            }
            Op::Marker { id, value, .. } => {
                let marker = self.tables.markers.get(id as usize);
                let text_known = value == u64::MAX || value < self.tables.texts.len() as u64;
                marker.map_or(id == NO_MARKER, |marker| marker.value != MarkerValue::Text || text_known)
            }
            Op::ThreadEnd | Op::Loss { .. } => true,
            Op::Unknown { code } => !is_known_code(code),
        }
    }

    #[cold]
    fn rule(&self, thread: ThreadId, stack: StackId, op: &Op) -> WriteError {
        WriteError::Rule {
            path: self.path.clone(),
            sequence: self.encoder.next_sequence().0,
            rule: format!(
                "everything named is registered first, births are numbered in order (next: {}) and blocks are born \
                 before they die; got {op:?} on thread {} with stack {}",
                self.next_block().0,
                thread.0,
                stack.0
            ),
        }
    }

    /// Sends all rows that are new, then the events so far, which may refer to them.
    fn end_chunk(&mut self) -> Result<(), WriteError> {
        self.send_rows()?;
        if self.encoder.event_count() == 0 {
            return Ok(());
        }
        let fresh = self.used_columns.try_recv().map_or_else(
            |_| Columns::default(),
            |mut columns| {
                columns.clear();
                columns
            },
        );
        let (facts, columns) = self.encoder.take(fresh);
        self.send(Job::Chunk(Box::new((facts, columns, self.sent))))
    }

    fn send_rows(&mut self) -> Result<(), WriteError> {
        let all = TableLengths::of(&self.tables);
        while self.sent != all || !self.changed_nestings.is_empty() {
            let mut rows = Rows::take(&self.tables, &mut self.sent);
            if self.sent == all {
                // Nestings refer to domains: they come with the last rows.
                let batch = self.changed_nestings.len().min(BATCH_BYTES / size_of::<Nesting>());
                rows = rows.with(self.changed_nestings.drain(..batch).collect());
            }
            self.send(Job::Tables(Box::new(rows)))?;
        }
        self.changed_index = NestingIndex::default();
        Ok(())
    }

    fn send(&mut self, job: Job) -> Result<(), WriteError> {
        self.progress.check()?;
        let jobs = self.jobs.as_ref().expect("a trace that is ended is consumed");
        if jobs.send(job).is_err() {
            self.join();
        }
        Ok(())
    }

    /// Ends the second thread; passes its panic on.
    fn join(&mut self) {
        self.jobs = None;
        if let Some(Err(panic)) = self.second_thread.take().map(JoinHandle::join)
            && !std::thread::panicking()
        {
            std::panic::resume_unwind(panic);
        }
    }
}

/// Header option of traces without addresses.
pub(crate) const WITHOUT_ADDRESSES: &str = "addresses=false";

/// Frames of each stack; a node comes after the one further out.
fn depths(tables: &Tables) -> Vec<u32> {
    let mut depths: Vec<u32> = Vec::with_capacity(tables.stacks.len());
    for (index, node) in tables.stacks.iter().enumerate() {
        let depth = if index == 0 { 0 } else { depths.get(node.parent.index()).map_or(1, |depth| depth + 1) };
        depths.push(depth);
    }
    depths
}

impl Drop for TraceWriter {
    fn drop(&mut self) {
        if self.jobs.is_some() {
            // Nobody is left to tell of an error.
            let _ = self.flush();
            self.join();
        }
    }
}
