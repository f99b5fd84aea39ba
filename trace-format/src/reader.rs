//! Reading a trace. Responsible for the interface of the analyzer: opening a file however damaged and handing out its
//! events in order and in bounded memory; not for finding its parts (see `scan`, `survey`) nor for their bytes.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use crate::damage::Damage;
use crate::decode::{Bounds, decode_chunk, read_facts};
use crate::envelope::{MARK_BYTES, Mark, decode_mark};
use crate::error::ReadError;
use crate::event::Event;
use crate::generated::trace_capnp as schema;
use crate::id::{BlockId, Sequence};
use crate::pipeline;
use crate::scan::scan;
use crate::survey::{ChunkPlace, survey};
use crate::table::{CaptureStats, Header, Tables};
use crate::version::FormatVersion;

/// Something wrong with a trace that reading survived.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Where in the file.
    pub offset: u64,
    /// What, as a sentence without its full stop.
    pub what: String,
    /// Events missing because of it, where known.
    pub missing_event_count: Option<u64>,
}

/// Whether a trace is whole.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Completeness {
    /// The recorder ended the trace itself and nothing is damaged or missing.
    pub complete: bool,
    /// Whether the tail is there and readable: not so when the recorder was killed.
    pub has_tail: bool,
    /// Whether `heaptape salvage` wrote the file: the recording may have gone on beyond its end.
    pub salvaged: bool,
    /// What is wrong, in file order.
    pub problems: Vec<Problem>,
    /// Events known to be missing: sequence numbers without an event. Not known is what a killed recorder did not write.
    pub missing_event_count: u64,
}

/// An opened trace.
#[derive(Debug)]
pub struct Trace {
    /// The file.
    pub path: PathBuf,
    /// What it says of itself.
    pub header: Header,
    /// All tables, complete as far as the file goes, whether or not there is a tail. Every id in them is in range.
    /// `symbols` is empty, or has a row for each frame.
    pub tables: Tables,
    /// What the recorder counted; none without a tail.
    pub stats: Option<CaptureStats>,
    /// Whether it is whole.
    pub completeness: Completeness,
    /// Size of the file.
    pub file_bytes: u64,
    /// Events in readable chunks.
    pub event_count: u64,
    ends: Option<(Sequence, BlockId)>,
    file: File,
    chunks: Vec<ChunkPlace>,
    found_in_decoding: Mutex<Vec<Problem>>,
}

impl Trace {
    /// Opens a trace: reads it once from end to end, checks all checksums and puts the tables together. A damaged or
    /// unfinished trace opens as far as it is readable; see `completeness`.
    ///
    /// # Errors
    /// If the file cannot be read, is no trace, is too new, or holds nothing readable.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, ReadError> {
        let path = path.as_ref().to_owned();
        let io_error = |source| ReadError::Io { path: path.clone(), source };
        let metadata = std::fs::metadata(&path).map_err(io_error)?;
        if !metadata.is_file() {
            return Err(ReadError::NotAFile { path });
        }
        let file = File::open(&path).map_err(io_error)?;
        let file_bytes = file.metadata().map_err(io_error)?.len();
        let mark_problem = check_mark(&file, file_bytes, &path)?;
        let scan = scan(&file, file_bytes).map_err(io_error)?;
        let mut survey = survey(&file, file_bytes, scan).map_err(io_error)?;
        if let Some(problem) = mark_problem {
            survey.problems.insert(0, problem);
        }
        if !survey.found_anything {
            let (offset, what) = match survey.problems.into_iter().next() {
                Some(problem) => (problem.offset, problem.what),
                None => (file_bytes, "the file ends after its mark".to_owned()),
            };
            return Err(ReadError::NothingReadable { path, offset, what });
        }
        let has_tail = survey.tail.is_some();
        let salvaged = survey.tail.as_ref().is_some_and(|tail| tail.salvaged);
        Ok(Self {
            ends: survey.tail.as_ref().map(|tail| (Sequence(tail.sequence_end), BlockId(tail.block_count))),
            header: survey.header,
            tables: survey.tables,
            stats: survey.tail.map(|tail| tail.stats),
            completeness: Completeness {
                complete: has_tail && !salvaged && survey.problems.is_empty(),
                has_tail,
                salvaged,
                problems: survey.problems,
                missing_event_count: survey.missing_event_count,
            },
            file_bytes,
            event_count: survey.chunks.iter().map(|chunk| chunk.event_count).sum(),
            chunks: survey.chunks,
            found_in_decoding: Mutex::default(),
            file,
            path,
        })
    }

    /// Hands all readable events to `f`, chunk by chunk, in order. `decoders` threads decode ahead of `f`, each at most
    /// two chunks; with 0 the calling thread decodes. A chunk that cannot be decoded is left out and reported in
    /// `problems`; that takes a file whose checksums hold and whose content is wrong.
    ///
    /// # Errors
    /// If the file cannot be read any more.
    pub fn for_each_chunk(&self, decoders: usize, mut f: impl FnMut(&[Event])) -> Result<(), ReadError> {
        let bounds = Bounds::of(&self.tables);
        let decode = |index: usize, events: &mut Vec<Event>| self.decode(&self.chunks[index], &bounds, events);
        if decoders == 0 {
            let mut events = Vec::new();
            for index in 0..self.chunks.len() {
                decode(index, &mut events)?;
                if !events.is_empty() {
                    f(&events);
                }
            }
            return Ok(());
        }
        pipeline::in_order(self.chunks.len(), decoders, decode, |events| {
            if !events.is_empty() {
                f(events);
            }
        })
    }

    /// All problems known by now: those of `completeness` and those that decoding found since.
    pub fn problems(&self) -> Vec<Problem> {
        let found = self.found_in_decoding.lock().unwrap_or_else(PoisonError::into_inner);
        let mut problems = self.completeness.problems.clone();
        problems.extend(found.iter().cloned());
        problems.sort_by_key(|problem| problem.offset);
        problems
    }

    /// Chunks that are readable.
    pub fn chunk_count(&self) -> usize {
        self.chunks.len()
    }

    /// Sequence and birth number after the last, as the tail says.
    pub(crate) fn ends(&self) -> Option<(Sequence, BlockId)> {
        self.ends
    }

    /// Where the readable chunks are, in order.
    pub(crate) fn chunks(&self) -> &[ChunkPlace] {
        &self.chunks
    }

    /// Decodes one chunk; leaves `events` empty if it is damaged.
    fn decode(&self, place: &ChunkPlace, bounds: &Bounds, events: &mut Vec<Event>) -> Result<(), ReadError> {
        events.clear();
        let message =
            place.found.unpack(&self.file).map_err(|source| ReadError::Io { path: self.path.clone(), source })?;
        let result = message.and_then(|message| {
            let reader = message.reader()?;
            let chunk = reader.get_root::<schema::chunk::Reader<'_>>()?;
            let facts = read_facts(chunk)?;
            let (sequence, count) = (place.first_sequence, place.event_count);
            if facts.first_sequence.0 != sequence
                || u64::from(facts.event_count) != count
                || facts.first_block.0 != place.first_block
            {
                return Err(Damage::new("it holds other events than the index of the tail says"));
            }
            if facts.first_block.0 + u64::from(facts.block_count) > place.block_limit {
                return Err(Damage::new("it holds births that the chunk after it holds too"));
            }
            decode_chunk(chunk, bounds, events)
        });
        if let Err(damage) = result {
            events.clear();
            let problem = Problem {
                offset: place.found.offset,
                what: format!("a chunk is damaged: {damage}"),
                missing_event_count: Some(place.event_count),
            };
            let mut found = self.found_in_decoding.lock().unwrap_or_else(PoisonError::into_inner);
            if !found.contains(&problem) {
                found.push(problem);
            }
        }
        Ok(())
    }
}

/// Refuses what is no trace of a readable version; a mark that is damaged but recognisable is a problem only.
fn check_mark(file: &File, file_bytes: u64, path: &Path) -> Result<Option<Problem>, ReadError> {
    let path = path.to_owned();
    let mut mark = [0; MARK_BYTES];
    let length = mark.len().min(usize::try_from(file_bytes).unwrap_or(MARK_BYTES));
    if let Err(source) = file.read_exact_at(&mut mark[..length], 0) {
        return Err(ReadError::Io { path, source });
    }
    if file_bytes == 0 {
        return Err(ReadError::Empty { path });
    }
    let known = crate::envelope::MARK_MAGIC;
    let seen = length.min(known.len());
    if mark[..seen] != known[..seen] {
        return Err(ReadError::NotATrace { path, found: mark[..seen].escape_ascii().to_string() });
    }
    if length < MARK_BYTES {
        return Err(ReadError::CutInMark { path, file_bytes });
    }
    match decode_mark(&mark) {
        Mark::Whole(version) => match version.check_readable_by(FormatVersion::CURRENT) {
            Ok(()) => Ok(None),
            Err(source) => Err(ReadError::Version { path, source }),
        },
        Mark::Damaged => Ok(Some(Problem {
            offset: 0,
            what: format!("the mark is damaged; the trace is read as version {}", FormatVersion::CURRENT),
            missing_event_count: None,
        })),
        Mark::None => unreachable!("the magic was compared above"),
    }
}
