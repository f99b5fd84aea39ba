//! Births that may replace a block. Responsible for remembering the latest ones of a function on a thread and for telling which of
//! them fit a block that is freed; not for whether one does replace it (see `appends`).
//!
//! Sizes are told apart, so that many small blocks, such as the elements of a table copied one by one, do not push out the table.

use trace_format::{Sequence, ThreadId};

use super::places::Site;

/// Candidates that are kept per thread and function, each of another size; the oldest makes room.
const CANDIDATE_SIZES: usize = 16;
/// Candidates of one size: as many tables may take a step before the first predecessor is freed.
const CANDIDATES_OF_A_SIZE: usize = 8;
/// Successors that are guessed of a block, the latest ones.
const GUESSED_SUCCESSORS: usize = 4;
/// Events between the successor's birth and the predecessor's death, whatever the table's length.
const EVENTS_BETWEEN: u64 = 32;
/// The same for each element.
const EVENTS_PER_ELEMENT: u64 = 4;
/// How often the function may have returned in between.
const RETURNS_BETWEEN: u32 = 2;

/// A death that may be a predecessor's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Freed {
    pub(super) site: Site,
    pub(super) birth: Sequence,
    pub(super) size_bytes: u64,
    /// The thread that frees.
    pub(super) thread: ThreadId,
    /// That thread's events so far.
    pub(super) ordinal: u32,
}

/// A birth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) birth: Sequence,
    /// Events of its thread so far.
    pub(super) ordinal: u32,
    /// Frames down to the site's own.
    pub(super) depth: u32,
}

/// Latest births of a site on a thread.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    /// By size, the one used last at the end.
    of_size: Vec<(u64, Vec<Candidate>)>,
}

impl Candidates {
    /// A block is born.
    pub(super) fn add(&mut self, size_bytes: u64, candidate: Candidate) {
        let mut of_size = match self.of_size.iter().position(|(size, _)| *size == size_bytes) {
            Some(at) => self.of_size.remove(at),
            None if self.of_size.len() < CANDIDATE_SIZES => (size_bytes, Vec::new()),
            None => {
                let (_, mut oldest) = self.of_size.remove(0);
                oldest.clear();
                (size_bytes, oldest)
            }
        };
        if of_size.1.len() == CANDIDATES_OF_A_SIZE {
            of_size.1.remove(0);
        }
        of_size.1.push(candidate);
        self.of_size.push(of_size);
    }

    /// The latest candidate of each size that may replace a block.
    pub(super) fn fitting(&self, freed: &Freed, frames_since: &impl Fn(Sequence) -> Option<usize>) -> Fitting {
        let fits = |size_bytes: u64, candidate: &Candidate| {
            let step = size_bytes - freed.size_bytes;
            let between = u64::from(freed.ordinal.wrapping_sub(candidate.ordinal));
            candidate.birth > freed.birth
                && between <= EVENTS_BETWEEN + EVENTS_PER_ELEMENT.saturating_mul(freed.size_bytes / step)
                && frames_since(candidate.birth)
                    .is_none_or(|open| open as u64 + u64::from(RETURNS_BETWEEN) >= u64::from(candidate.depth))
        };
        let mut fitting = Fitting { old_bytes: freed.size_bytes, ..Fitting::default() };
        for (size_bytes, candidates) in self.of_size.iter().filter(|(size_bytes, _)| *size_bytes > freed.size_bytes) {
            if let Some(candidate) = candidates.iter().rfind(|candidate| fits(*size_bytes, candidate)) {
                let successor = Successor { birth: candidate.birth, size_bytes: *size_bytes };
                fitting.of_size[fitting.count] = successor;
                fitting.count += 1;
            }
        }
        fitting
    }

    /// One is dead, or has replaced a block for certain.
    pub(super) fn take(&mut self, successor: Successor) {
        if let Some((_, candidates)) = self.of_size.iter_mut().find(|(size, _)| *size == successor.size_bytes) {
            candidates.retain(|candidate| candidate.birth != successor.birth);
        }
    }
}

/// A block that may replace another.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Successor {
    pub(super) birth: Sequence,
    pub(super) size_bytes: u64,
}

/// Blocks that may replace one, each of another size.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fitting {
    old_bytes: u64,
    of_size: [Successor; CANDIDATE_SIZES],
    count: usize,
}

impl Fitting {
    /// The one that is greater by this.
    pub(super) fn grown_by(&self, step_bytes: u64) -> Option<Successor> {
        let wanted = self.old_bytes.checked_add(step_bytes)?;
        self.of_size[..self.count].iter().find(|successor| successor.size_bytes == wanted).copied()
    }

    /// As many as are guessed, the latest first.
    pub(super) fn latest(mut self) -> Vec<Successor> {
        let of_size = &mut self.of_size[..self.count];
        of_size.sort_unstable_by_key(|successor| std::cmp::Reverse(successor.birth));
        of_size[..self.count.min(GUESSED_SUCCESSORS)].to_vec()
    }
}
