//! Writing a trace as a stream.
use std::io::Write;
use std::path::Path;

use crate::error::WriteError;
use crate::event::Op;
use crate::id::{BlockId, DomainId, EntryId, FrameId, ModuleId, ProcessId, Sequence, StackId, ThreadId};
use crate::table::{
    CaptureStats, Domain, Entry, Frame, FrameSymbols, Header, Module, Nesting, Probe, Process, Tables, Thread,
};

/// `Header::tick_ns` that recorders should use.
pub const DEFAULT_TICK_NS: u32 = 64;

/// How to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriterOptions {
    /// Events per chunk.
    pub chunk_events: usize,
    /// zstd level.
    pub zstd_level: i32,
    /// Whether addresses of blocks are stored.
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

/// Writes one trace.
#[derive(Debug)]
pub struct TraceWriter {
    tables: Tables,
}

impl TraceWriter {
    /// Begins a trace.
    ///
    /// # Errors
    /// I/O.
    pub fn create(
        _out: impl Write + Send + 'static,
        _path: &Path,
        _header: &Header,
        _options: WriterOptions,
    ) -> Result<Self, WriteError> {
        todo!()
    }

    /// Appends a module.
    pub fn module(&mut self, _module: Module) -> ModuleId {
        todo!()
    }

    /// Interns a frame.
    pub fn frame(&mut self, _frame: Frame) -> FrameId {
        todo!()
    }

    /// Interns a stack node.
    pub fn stack(&mut self, _parent: StackId, _frame: FrameId) -> StackId {
        todo!()
    }

    /// Appends a process image.
    pub fn process(&mut self, _process: Process) -> ProcessId {
        todo!()
    }

    /// Appends a thread.
    pub fn thread(&mut self, _thread: Thread) -> ThreadId {
        todo!()
    }

    /// Appends a domain.
    pub fn domain(&mut self, _domain: Domain) -> DomainId {
        todo!()
    }

    /// Appends an entry point.
    pub fn entry(&mut self, _entry: Entry) -> EntryId {
        todo!()
    }

    /// Appends a probe.
    pub fn probe(&mut self, _probe: Probe) {
        todo!()
    }

    /// Sets the nesting of a pair of domains.
    pub fn nesting(&mut self, _nesting: Nesting) {
        todo!()
    }

    /// The birth number the next `Alloc` or `ReallocEnd` must carry.
    pub fn next_block(&self) -> BlockId {
        todo!()
    }

    /// Appends an event.
    ///
    /// # Errors
    /// An earlier I/O error, or a broken rule.
    pub fn push(
        &mut self,
        _time_ns: u64,
        _thread: ThreadId,
        _stack: StackId,
        _op: &Op,
    ) -> Result<Sequence, WriteError> {
        todo!()
    }

    /// What has been registered so far.
    pub fn tables(&self) -> &Tables {
        &self.tables
    }

    /// Events pushed so far.
    pub fn event_count(&self) -> u64 {
        todo!()
    }

    /// Bytes written so far.
    pub fn written_bytes(&self) -> u64 {
        todo!()
    }

    /// Ends the current chunk early.
    ///
    /// # Errors
    /// I/O.
    pub fn flush(&mut self) -> Result<(), WriteError> {
        todo!()
    }

    /// Writes the tail.
    ///
    /// # Errors
    /// I/O.
    pub fn finish(self, _stats: CaptureStats, _symbols: Vec<FrameSymbols>) -> Result<Written, WriteError> {
        todo!()
    }
}
