//! The writer's second thread. Responsible for turning finished chunks, rows and the tail into envelopes and for putting
//! them into the file in order; not for what is in them.

use std::io::Write;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};

use capnp::message::{Builder, HeapAllocator};

use crate::column::Columns;
use crate::encode::ChunkFacts;
use crate::envelope::{Envelope, FOOTER_BYTES, Footer, Kind, encode_mark};
use crate::error::WriteError;
use crate::generated::trace_capnp as schema;
use crate::limits::MAX_MESSAGE_BYTES;
use crate::message::Packer;
use crate::rows::{Rows, TableLengths, write_lengths};
use crate::symbol_table::SymbolColumns;
use crate::table::Header;
use crate::tail::{ChunkEntry, Tail, write_header, write_tail};
use crate::version::FormatVersion;

/// zstd level of tables, symbols and the tail: little data next to that of chunks.
const TABLE_LEVEL: i32 = 6;

/// Work for the second thread.
pub(crate) enum Job {
    /// Events, and how many rows of each table stand before them.
    Chunk(Box<(ChunkFacts, Columns, TableLengths)>),
    Tables(Box<Rows>),
    Symbols(Box<SymbolColumns>),
    Tail(Box<Tail>),
}

/// What both threads see.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    failed: AtomicBool,
    error: Mutex<Option<WriteError>>,
    written_bytes: AtomicU64,
    chunk_count: AtomicU64,
}

impl Progress {
    /// The first error, if there was one.
    #[inline]
    pub(crate) fn check(&self) -> Result<(), WriteError> {
        if self.failed.load(Ordering::Acquire) { Err(self.error()) } else { Ok(()) }
    }

    #[cold]
    fn error(&self) -> WriteError {
        let error = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        error.clone().expect("the error is set before `failed`")
    }

    fn fail(&self, error: WriteError) {
        *self.error.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
        self.failed.store(true, Ordering::Release);
    }

    pub(crate) fn written_bytes(&self) -> u64 {
        self.written_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn chunk_count(&self) -> u64 {
        self.chunk_count.load(Ordering::Relaxed)
    }
}

/// The file being written.
pub(crate) struct Sink {
    out: Box<dyn Write + Send>,
    path: PathBuf,
    progress: Arc<Progress>,
    chunk_packer: Packer,
    table_packer: Packer,
    offset: u64,
    chunks: Vec<ChunkEntry>,
    table_offsets: Vec<u64>,
    symbol_offsets: Vec<u64>,
}

impl Sink {
    /// Writes mark and header.
    pub(crate) fn create(
        out: Box<dyn Write + Send>,
        path: PathBuf,
        header: &Header,
        zstd_level: i32,
        progress: Arc<Progress>,
    ) -> Result<Self, WriteError> {
        let packer = |level| Packer::new(level).map_err(|source| io_error(&path, 0, source));
        let (chunk_packer, table_packer) = (packer(zstd_level)?, packer(TABLE_LEVEL)?);
        let mut sink = Self {
            out,
            path,
            progress,
            chunk_packer,
            table_packer,
            offset: 0,
            chunks: Vec::new(),
            table_offsets: Vec::new(),
            symbol_offsets: Vec::new(),
        };
        sink.write(&encode_mark(FormatVersion::CURRENT))?;
        let mut message = Builder::new_default();
        write_header(header, message.init_root::<schema::header::Builder<'_>>());
        sink.write_envelope(Kind::HEADER, &message, "the header")?;
        Ok(sink)
    }

    /// Works until there is no more work or an error. Columns go back through `used` to be filled again.
    pub(crate) fn run(mut self, jobs: &Receiver<Job>, used: &Sender<Columns>) {
        for job in jobs {
            // After an error the rest is taken and dropped, so that the recorder never waits for a full queue.
            if self.progress.check().is_ok()
                && let Err(error) = self.work(job, used)
            {
                self.progress.fail(error);
            }
        }
    }

    fn work(&mut self, job: Job, used: &Sender<Columns>) -> Result<(), WriteError> {
        match job {
            Job::Chunk(chunk) => {
                let (facts, columns, lengths) = *chunk;
                self.write_chunk(&facts, &columns, lengths)?;
                // The writer may be gone already; then nobody needs the columns.
                let _ = used.send(columns);
                Ok(())
            }
            Job::Tables(rows) => {
                let mut message = Builder::new_default();
                rows.write(message.init_root());
                self.table_offsets.push(self.offset);
                self.write_envelope(Kind::TABLES, &message, "a part of the tables")
            }
            Job::Symbols(symbols) => {
                let mut message = Builder::new_default();
                symbols.write(message.init_root());
                self.symbol_offsets.push(self.offset);
                self.write_envelope(Kind::SYMBOLS, &message, "a part of the symbols")
            }
            Job::Tail(tail) => self.write_tail(*tail),
        }
    }

    fn write_chunk(&mut self, facts: &ChunkFacts, columns: &Columns, lengths: TableLengths) -> Result<(), WriteError> {
        self.chunks.push(ChunkEntry {
            offset: self.offset,
            first_sequence: facts.first_sequence.0,
            event_count: facts.event_count,
            first_time_ns: facts.first_tick.saturating_mul(u64::from(facts.tick_ns)),
            first_block: facts.first_block.0,
        });
        let columns = columns.finished();
        let words = columns.iter().map(|(_, _, bytes)| bytes.len() / 8 + 8).sum::<usize>() + 1024;
        let mut message = Builder::new(HeapAllocator::new().first_segment_words(words as u32));
        let mut chunk = message.init_root::<schema::chunk::Builder<'_>>();
        chunk.set_first_sequence(facts.first_sequence.0);
        chunk.set_event_count(facts.event_count);
        chunk.set_first_block(facts.first_block.0);
        chunk.set_block_count(facts.block_count);
        chunk.set_first_tick(facts.first_tick);
        chunk.set_tick_ns(facts.tick_ns);
        chunk.set_without_addresses(facts.without_addresses);
        let mut list = chunk.reborrow().init_columns(columns.len() as u32);
        for (index, (kind, encoding, bytes)) in columns.into_iter().enumerate() {
            let mut column = list.reborrow().get(index as u32);
            column.set_kind(kind);
            column.set_encoding(encoding);
            column.set_data(bytes);
        }
        write_lengths(lengths, chunk.init_dictionary());
        self.write_envelope(Kind::CHUNK, &message, "a chunk")?;
        self.progress.chunk_count.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn write_tail(&mut self, mut tail: Tail) -> Result<(), WriteError> {
        tail.chunks = std::mem::take(&mut self.chunks);
        tail.table_offsets = std::mem::take(&mut self.table_offsets);
        tail.symbol_offsets = std::mem::take(&mut self.symbol_offsets);
        let mut message = Builder::new_default();
        write_tail(&tail, message.init_root());
        let tail_offset = self.offset;
        self.write_envelope(Kind::TAIL, &message, "the tail")?;
        let footer = Footer { tail_offset, file_bytes: self.offset + FOOTER_BYTES as u64 };
        self.write(&footer.encode())?;
        self.out.flush().map_err(|source| io_error(&self.path, self.offset, source))
    }

    fn write_envelope(
        &mut self,
        kind: Kind,
        message: &Builder<HeapAllocator>,
        what: &'static str,
    ) -> Result<(), WriteError> {
        let packer = if kind == Kind::CHUNK { &mut self.chunk_packer } else { &mut self.table_packer };
        let (envelope, payload): (Envelope, &[u8]) = packer.pack(kind, message).map_err(|error| {
            let limit_bytes = u64::from(MAX_MESSAGE_BYTES);
            WriteError::TooLarge { path: self.path.clone(), what, bytes: error.bytes, limit_bytes }
        })?;
        // One write each: a reader of a file that is still being written sees at most one cut envelope.
        let written = self.out.write_all(&envelope.encode()).and_then(|()| self.out.write_all(payload));
        written.map_err(|source| io_error(&self.path, self.offset, source))?;
        self.advance(envelope.total_bytes());
        Ok(())
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.out.write_all(bytes).map_err(|source| io_error(&self.path, self.offset, source))?;
        self.advance(bytes.len() as u64);
        Ok(())
    }

    fn advance(&mut self, bytes: u64) {
        self.offset += bytes;
        self.progress.written_bytes.store(self.offset, Ordering::Relaxed);
    }
}

fn io_error(path: &std::path::Path, written_bytes: u64, source: std::io::Error) -> WriteError {
    WriteError::Io { path: path.to_owned(), written_bytes, source: Arc::new(source) }
}
