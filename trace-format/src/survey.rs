//! What a file holds, before any event is decoded. Responsible for putting header, tables, tail and the list of readable
//! chunks together from the envelopes of a walk, with or without a tail, and for saying what is missing; not for events.
//!
//! ```text
//! scan ──▶ envelopes ──▶ tail whole, and its tables, and its index fits? ──yes──▶ tables, chunks from the tail
//!                              │ no
//!                              └──▶ pre-pass: uncompress every chunk once for its facts and its new rows
//! ```

use std::fs::File;
use std::io;

use crate::assemble::Assembler;
use crate::damage::Damage;
use crate::decode::read_facts;
use crate::envelope::Kind;
use crate::generated::trace_capnp as schema;
use crate::limits::table_budget_bytes;
use crate::reader::Problem;
use crate::scan::{Found, Scan};
use crate::symbol_table::read_symbols;
use crate::table::{FrameSymbols, Header, Tables};
use crate::tail::{Tail, read_header, read_tail};

/// A chunk that can be decoded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ChunkPlace {
    pub(crate) found: Found,
    pub(crate) first_sequence: u64,
    pub(crate) event_count: u64,
    pub(crate) first_block: u64,
    /// First birth of the chunk after it: its own end before.
    pub(crate) block_limit: u64,
}

/// What a file holds.
#[derive(Debug)]
pub(crate) struct Survey {
    pub(crate) header: Header,
    pub(crate) tables: Tables,
    pub(crate) tail: Option<Tail>,
    /// In order; sequence and birth numbers never step back.
    pub(crate) chunks: Vec<ChunkPlace>,
    pub(crate) problems: Vec<Problem>,
    /// Sequence numbers without an event, those of the problems included.
    pub(crate) missing_event_count: u64,
    /// Whether header, a chunk or the tail was readable.
    pub(crate) found_anything: bool,
}

/// Surveys a file that was walked.
pub(crate) fn survey(file: &File, file_bytes: u64, scan: Scan) -> io::Result<Survey> {
    let mut surveyor = Surveyor { file, file_bytes, problems: scan.problems, tick_ns: 0 };
    let header = surveyor.header(&scan.found)?;
    let tail = surveyor.tail(&scan.found)?;
    if tail.is_none() {
        surveyor.problem(
            file_bytes,
            "the trace has no readable tail: its recorder was ended before it could write one, or the end is damaged",
        );
    } else if !scan.has_footer {
        surveyor.problem(file_bytes, "the footer is missing or damaged");
    }
    let tables = surveyor.whole_tables(tail.as_ref(), &scan.found)?;
    let indexed = tail.as_ref().and_then(|tail| indexed_chunks(tail, &scan.found));
    let (chunks, tables) = match (indexed, tables) {
        (Some(chunks), Some(tables)) => (chunks, tables),
        (_, tables) => {
            let (chunks, pieced) = surveyor.pre_pass(&scan.found)?;
            (chunks, tables.unwrap_or(pieced))
        }
    };
    let mut tables = tables;
    surveyor.symbols(&scan.found, &mut tables)?;
    let sequence_end = tail.as_ref().map(|tail| tail.sequence_end);
    let chunk_found = !chunks.is_empty();
    let chunks = surveyor.in_order(chunks);
    let missing_event_count = surveyor.find_gaps(&chunks, sequence_end);
    let found_anything = header.is_some() || tail.is_some() || chunk_found;
    let header = match (header, &tail) {
        (Some(header), _) => header,
        (None, Some(tail)) => tail.header.clone(),
        (None, None) => Header { tick_ns: surveyor.tick_ns, ..Header::default() },
    };
    let mut problems = surveyor.problems;
    problems.sort_by_key(|problem| problem.offset);
    Ok(Survey { header, tables, tail, chunks, problems, missing_event_count, found_anything })
}

/// The chunks of the tail's index that are there; `None` if the index does not fit the file.
fn indexed_chunks(tail: &Tail, found: &[Found]) -> Option<Vec<ChunkPlace>> {
    let mut entries = tail.chunks.iter().peekable();
    let mut chunks = Vec::new();
    for found in found.iter().filter(|found| found.envelope.kind == Kind::CHUNK) {
        while entries.next_if(|entry| entry.offset < found.offset).is_some() {}
        let entry = entries.next_if(|entry| entry.offset == found.offset)?;
        chunks.push(ChunkPlace {
            found: *found,
            first_sequence: entry.first_sequence,
            event_count: u64::from(entry.event_count),
            first_block: entry.first_block,
            block_limit: u64::MAX,
        });
    }
    Some(chunks)
}

struct Surveyor<'a> {
    file: &'a File,
    file_bytes: u64,
    problems: Vec<Problem>,
    /// Of the first chunk that the pre-pass read.
    tick_ns: u32,
}

impl Surveyor<'_> {
    fn problem(&mut self, offset: u64, what: impl Into<String>) {
        self.problems.push(Problem { offset, what: what.into(), missing_event_count: None });
    }

    fn damage(&mut self, found: &Found, damage: &Damage) {
        self.problem(found.offset, format!("a {} is damaged: {damage}", found.envelope.kind.name()));
    }

    /// Reads an envelope's message with `read`; damage becomes a problem and `None`.
    fn read<T>(
        &mut self,
        found: &Found,
        read: impl FnOnce(&crate::message::MessageReader<'_>, u64) -> Result<T, Damage>,
    ) -> io::Result<Option<T>> {
        let result = found.unpack(self.file)?.and_then(|message| read(&message.reader()?, message.bytes()));
        Ok(match result {
            Ok(value) => Some(value),
            Err(damage) => {
                self.damage(found, &damage);
                None
            }
        })
    }

    fn header(&mut self, found: &[Found]) -> io::Result<Option<Header>> {
        for found in of_kind(found, Kind::HEADER) {
            let header =
                self.read(found, |message, _| read_header(message.get_root::<schema::header::Reader<'_>>()?))?;
            if header.is_some() {
                return Ok(header);
            }
        }
        self.problem(crate::envelope::MARK_BYTES as u64, "the header is missing or damaged");
        Ok(None)
    }

    /// The last tail that is whole.
    fn tail(&mut self, found: &[Found]) -> io::Result<Option<Tail>> {
        let chunk_limit = self.file_bytes / crate::envelope::ENVELOPE_BYTES as u64;
        let mut last = None;
        for found in of_kind(found, Kind::TAIL) {
            let tail = self.read(found, |message, _| read_tail(message.get_root()?, chunk_limit))?;
            last = tail.or(last);
        }
        Ok(last)
    }

    /// The tables, if all of their parts are there and readable.
    fn whole_tables(&mut self, tail: Option<&Tail>, found: &[Found]) -> io::Result<Option<Tables>> {
        let mut assembler = Assembler::new(table_budget_bytes(self.file_bytes));
        let (mut count, mut whole) = (0, tail.is_some());
        for found in of_kind(found, Kind::TABLES) {
            let add = |message: &crate::message::MessageReader<'_>, bytes| assembler.add(message.get_root()?, bytes);
            whole &= self.read(found, add)?.is_some();
            count += 1;
        }
        if let Some(tail) = tail
            && whole
            && (count != tail.table_offsets.len() || assembler.lost_row_count() > 0)
        {
            let what = format!("the tail names {} parts of the tables, {count} are there", tail.table_offsets.len());
            self.problem(self.file_bytes, what);
            whole = false;
        }
        Ok(whole.then(|| assembler.finish()))
    }

    /// Facts of every chunk, and what rows the file has: those of tables and those of chunks, which early recorders repeated
    /// at the end. Damaged tables were reported before.
    fn pre_pass(&mut self, found: &[Found]) -> io::Result<(Vec<ChunkPlace>, Tables)> {
        let mut assembler = Assembler::new(table_budget_bytes(self.file_bytes));
        let mut chunks = Vec::new();
        for found in found {
            if found.envelope.kind == Kind::TABLES {
                // Damage was a problem of the pass before.
                if let Ok(message) = found.unpack(self.file)? {
                    let _ = message.reader().and_then(|reader| assembler.add(reader.get_root()?, message.bytes()));
                }
            }
            if found.envelope.kind != Kind::CHUNK {
                continue;
            }
            let facts = self.read(found, |message, bytes| {
                let chunk = message.get_root::<schema::chunk::Reader<'_>>()?;
                let facts = read_facts(chunk)?;
                assembler.add(chunk.get_dictionary()?, bytes)?;
                Ok(facts)
            })?;
            if let Some(facts) = facts {
                self.tick_ns = if self.tick_ns == 0 { facts.tick_ns } else { self.tick_ns };
                chunks.push(ChunkPlace {
                    found: *found,
                    first_sequence: facts.first_sequence.0,
                    event_count: u64::from(facts.event_count),
                    first_block: facts.first_block.0,
                    block_limit: u64::MAX,
                });
            }
        }
        Ok((chunks, assembler.finish()))
    }

    fn symbols(&mut self, found: &[Found], tables: &mut Tables) -> io::Result<()> {
        let mut budget_bytes = table_budget_bytes(self.file_bytes);
        let mut rows: Vec<FrameSymbols> = Vec::new();
        for found in of_kind(found, Kind::SYMBOLS) {
            rows.resize(tables.frames.len(), FrameSymbols::default());
            self.read(found, |message, _| read_symbols(message.get_root()?, &mut rows, &mut budget_bytes))?;
        }
        tables.symbols = rows;
        Ok(())
    }

    /// Leaves out chunks whose numbers step back.
    fn in_order(&mut self, chunks: Vec<ChunkPlace>) -> Vec<ChunkPlace> {
        let (mut sequence, mut block) = (0, 0);
        let mut kept = Vec::with_capacity(chunks.len());
        for chunk in chunks {
            if chunk.first_sequence < sequence || chunk.first_block < block {
                self.problem(
                    chunk.found.offset,
                    format!("a chunk begins at event {}, where {sequence} were read already", chunk.first_sequence),
                );
                continue;
            }
            sequence = chunk.first_sequence.saturating_add(chunk.event_count);
            block = chunk.first_block;
            if let Some(before) = kept.last_mut() {
                let before: &mut ChunkPlace = before;
                before.block_limit = block;
            }
            kept.push(chunk);
        }
        kept
    }

    /// Reports events that no chunk holds; returns how many. A gap is explained by the one problem that lies between the chunks
    /// around it, if it is the only one; otherwise it is a problem of its own. O(n log n): gaps and problems come by offset.
    fn find_gaps(&mut self, chunks: &[ChunkPlace], sequence_end: Option<u64>) -> u64 {
        self.problems.sort_by_key(|problem| problem.offset);
        let mut unexplained = Vec::new();
        let mut next_problem = 0;
        let mut missing = 0u64;
        let (mut sequence, mut from) = (0, 0);
        let ends = chunks.iter().map(|chunk| (chunk.first_sequence, chunk.event_count, chunk.found.offset));
        let tail_end = sequence_end.map(|end| (end, 0, self.file_bytes));
        for (first, count, offset) in ends.chain(tail_end) {
            if first > sequence {
                let lost = first - sequence;
                missing = missing.saturating_add(lost);
                let rest = &self.problems[next_problem..];
                let start = next_problem + rest.partition_point(|problem| problem.offset < from);
                let between = self.problems[start..].iter().take_while(|problem| problem.offset < offset).count();
                next_problem = start + between;
                if between == 1 {
                    self.problems[start].missing_event_count = Some(lost);
                } else {
                    let what = format!("events {sequence} to {} are missing", first - 1);
                    unexplained.push(Problem { offset, what, missing_event_count: Some(lost) });
                }
            }
            sequence = sequence.max(first.saturating_add(count));
            from = offset;
        }
        self.problems.append(&mut unexplained);
        missing
    }
}

fn of_kind(found: &[Found], kind: Kind) -> impl Iterator<Item = &Found> {
    found.iter().filter(move |found| found.envelope.kind == kind)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::Envelope;

    /// Half a million gaps, every other one with a problem that explains it: with a look at every problem for every gap this
    /// would take many minutes.
    #[test]
    fn gaps_are_explained_in_one_go() {
        const GAP_COUNT: u64 = 500_000;
        let file = File::open("/dev/null").expect("it is everywhere");
        let mut surveyor = Surveyor { file: &file, file_bytes: u64::MAX, problems: Vec::new(), tick_ns: 1 };
        let envelope =
            Envelope { kind: Kind::CHUNK, flags: 0, payload_bytes: 0, message_bytes: 0, payload_checksum: 0 };
        let chunk = |index: u64| ChunkPlace {
            found: Found { offset: 10 * (index + 1), envelope },
            first_sequence: 2 * index + 1,
            event_count: 1,
            first_block: 0,
            block_limit: 0,
        };
        let chunks: Vec<_> = (0..GAP_COUNT).map(chunk).collect();
        for index in (0..GAP_COUNT).rev().step_by(2) {
            surveyor.problem(10 * index + 5, "damage");
        }
        assert_eq!(surveyor.find_gaps(&chunks, Some(2 * GAP_COUNT + 7)), GAP_COUNT + 7);
        let counts = surveyor.problems.iter().map(|problem| problem.missing_event_count);
        assert_eq!(counts.sum::<Option<u64>>(), Some(GAP_COUNT + 7), "each gap has its problem");
        assert_eq!(surveyor.problems.len() as u64, GAP_COUNT + 1);
    }
}
