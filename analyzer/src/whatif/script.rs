//! Scripts: what one process did to its heap, as steps that name blocks by slot. Responsible for the form of a script in a file;
//! not for making one of a trace (see `writer`), nor for whether its steps make sense (see `check`).
//!
//! A script is read by the process that measures, while it measures. So nothing is left to look up: a block is a *slot*, a place in a
//! table, used again when the block is dead; an arena is a place in another. What the growth policy decides is decided when the
//! script is written, with the arithmetic of the simulation.
//!
//! ```text
//!   header │ word │ word │ …          a step is one word, with more behind it where it needs them
//!
//!   word   │ kind 5 bit │ slot, thread or arena 27 bit │ size 32 bit │     a size of 4 GiB or more: a word of its own
//! ```
//!
//! Words are in the machine's own order: a script never leaves the machine that wrote it.

/// Begins every script.
const MAGIC: u64 = u64::from_le_bytes(*b"htscript");
/// Version of the form.
const VERSION: u64 = 1;
/// Words before the first step.
pub(super) const HEADER_WORDS: usize = 11;

const KIND_BITS: u32 = 5;
const NUMBER_BITS: u32 = 27;
/// Slots, threads and arenas have smaller numbers.
pub const NUMBER_LIMIT: u32 = 1 << NUMBER_BITS;
/// Stands for a size that has a word of its own.
const LONG: u32 = u32::MAX;

/// What a script says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Header {
    /// Threads; number 0 is the first that does anything.
    pub thread_count: u32,
    /// Slots.
    pub slot_count: u32,
    /// Arenas that exist at a time.
    pub arena_count: u32,
    /// Chunks that arenas hold at a time.
    pub chunk_count: u32,
    /// Steps, switches of threads not counted.
    pub step_count: u64,
    /// Times another thread goes on.
    pub switch_count: u64,
    /// Blocks born, reallocs not counted.
    pub alloc_count: u64,
    /// Most bytes requested at a time, chunks of arenas counted whole.
    pub peak_bytes: u64,
    /// When that was: after the step that ends at this word, counted from the first step's first.
    pub peak_at: u64,
}

impl Header {
    pub(super) fn words(&self) -> [u64; HEADER_WORDS] {
        [
            MAGIC,
            VERSION,
            u64::from(self.thread_count),
            u64::from(self.slot_count),
            u64::from(self.arena_count),
            u64::from(self.chunk_count),
            self.step_count,
            self.switch_count,
            self.alloc_count,
            self.peak_bytes,
            self.peak_at,
        ]
    }

    /// The header of a script; `None` if this is none, or one of another version.
    pub(super) fn of(words: &[u64]) -> Option<Self> {
        let (header, _) = words.split_first_chunk::<HEADER_WORDS>()?;
        let [
            MAGIC,
            VERSION,
            threads,
            slots,
            arenas,
            chunks,
            step_count,
            switch_count,
            alloc_count,
            peak_bytes,
            peak_at,
        ] = *header
        else {
            return None;
        };
        Some(Self {
            thread_count: u32::try_from(threads).ok()?,
            slot_count: u32::try_from(slots).ok()?,
            arena_count: u32::try_from(arenas).ok()?,
            chunk_count: u32::try_from(chunks).ok()?,
            step_count,
            switch_count,
            alloc_count,
            peak_bytes,
            peak_at,
        })
    }
}

/// One step of a script.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// From here on, this thread does what is done.
    Switch {
        /// Its number.
        thread: u32,
    },
    /// The thread that goes on ends. Another one goes on, or none.
    End,
    /// malloc.
    Allocate {
        /// Where the block is from now on; what stood there before is forgotten, not freed.
        slot: u32,
        /// Bytes requested.
        size_bytes: u64,
    },
    /// calloc.
    AllocateZeroed {
        /// As in `Allocate`.
        slot: u32,
        /// Bytes requested.
        size_bytes: u64,
    },
    /// `aligned_alloc` and its kin.
    AllocateAligned {
        /// As in `Allocate`.
        slot: u32,
        /// Bytes requested.
        size_bytes: u64,
        /// A power of two above malloc's own alignment.
        alignment_bytes: u64,
    },
    /// realloc.
    Reallocate {
        /// The block keeps its slot.
        slot: u32,
        /// New size.
        size_bytes: u64,
        /// Size so far.
        old_bytes: u64,
    },
    /// free.
    Free {
        /// The slot is empty afterwards.
        slot: u32,
    },
    /// A block in an arena.
    Bump {
        /// As in `Allocate`.
        slot: u32,
        /// Bytes requested.
        size_bytes: u64,
        /// The arena.
        arena: u32,
        /// How the block comes to be.
        how: Bump,
    },
    /// The block that an arena handed out last grows where it is.
    Stretch {
        /// The block.
        slot: u32,
        /// New size.
        size_bytes: u64,
        /// Size so far.
        old_bytes: u64,
        /// The arena.
        arena: u32,
    },
    /// The block that an arena handed out last is freed.
    Pop {
        /// The slot is empty afterwards.
        slot: u32,
        /// Its size.
        size_bytes: u64,
        /// The arena.
        arena: u32,
    },
    /// An arena gives back all its chunks.
    Close {
        /// The arena.
        arena: u32,
    },
    /// An arena gives back all its chunks but the first ordinary one, and begins again in it.
    Reset {
        /// The arena.
        arena: u32,
    },
}

/// How a block in an arena comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Bump {
    /// It must be zero.
    pub zeroed: bool,
    /// It is the new place of the block in this slot, which had so many bytes.
    pub moved_bytes: Option<u64>,
    /// It needs a chunk of so many bytes first.
    pub chunk_bytes: Option<u64>,
    /// That chunk is for this block alone.
    pub own_chunk: bool,
}

/// Kinds of step, as they stand in a word.
mod kind {
    pub(super) const SWITCH: u32 = 0;
    pub(super) const END: u32 = 1;
    pub(super) const ALLOCATE: u32 = 2;
    pub(super) const ALLOCATE_ZEROED: u32 = 3;
    pub(super) const ALLOCATE_ALIGNED: u32 = 4;
    pub(super) const REALLOCATE: u32 = 5;
    pub(super) const FREE: u32 = 6;
    pub(super) const BUMP: u32 = 7;
    pub(super) const STRETCH: u32 = 8;
    pub(super) const POP: u32 = 9;
    pub(super) const CLOSE: u32 = 10;
    pub(super) const RESET: u32 = 11;
}

/// Flags of a bump, above its arena.
mod flag {
    pub(super) const ZEROED: u64 = 1 << 32;
    pub(super) const MOVED: u64 = 1 << 33;
    pub(super) const CHUNK: u64 = 1 << 34;
    pub(super) const OWN: u64 = 1 << 35;
}

/// Most words that a step takes.
const MOST_WORDS: usize = 5;

/// The words of one step.
#[derive(Debug, Clone, Copy)]
pub(super) struct Words {
    words: [u64; MOST_WORDS],
    count: usize,
}

impl Words {
    fn begin(kind: u32, number: u32, size_bytes: u64) -> Self {
        let short = u32::try_from(size_bytes).ok().filter(|short| *short != LONG);
        let word = u64::from(kind) | u64::from(number) << KIND_BITS | u64::from(short.unwrap_or(LONG)) << 32;
        let mut words = Self { words: [word, 0, 0, 0, 0], count: 1 };
        if short.is_none() {
            words.push(size_bytes);
        }
        words
    }

    fn push(&mut self, word: u64) {
        self.words[self.count] = word;
        self.count += 1;
    }

    fn and(mut self, word: u64) -> Self {
        self.push(word);
        self
    }

    pub(super) fn as_slice(&self) -> &[u64] {
        &self.words[..self.count]
    }
}

impl Step {
    /// The step as words.
    pub(super) fn words(self) -> Words {
        match self {
            Self::Switch { thread } => Words::begin(kind::SWITCH, thread, 0),
            Self::End => Words::begin(kind::END, 0, 0),
            Self::Allocate { slot, size_bytes } => Words::begin(kind::ALLOCATE, slot, size_bytes),
            Self::AllocateZeroed { slot, size_bytes } => Words::begin(kind::ALLOCATE_ZEROED, slot, size_bytes),
            Self::AllocateAligned { slot, size_bytes, alignment_bytes } => {
                Words::begin(kind::ALLOCATE_ALIGNED, slot, size_bytes).and(alignment_bytes)
            }
            Self::Reallocate { slot, size_bytes, old_bytes } => {
                Words::begin(kind::REALLOCATE, slot, size_bytes).and(old_bytes)
            }
            Self::Free { slot } => Words::begin(kind::FREE, slot, 0),
            Self::Bump { slot, size_bytes, arena, how } => {
                let flags = [
                    (how.zeroed, flag::ZEROED),
                    (how.moved_bytes.is_some(), flag::MOVED),
                    (how.chunk_bytes.is_some(), flag::CHUNK),
                    (how.own_chunk, flag::OWN),
                ];
                let flags = flags.iter().filter(|(is_set, _)| *is_set).fold(0, |flags, (_, flag)| flags | flag);
                let mut words = Words::begin(kind::BUMP, slot, size_bytes).and(u64::from(arena) | flags);
                how.moved_bytes.into_iter().chain(how.chunk_bytes).for_each(|bytes| words.push(bytes));
                words
            }
            Self::Stretch { slot, size_bytes, old_bytes, arena } => {
                Words::begin(kind::STRETCH, slot, size_bytes).and(old_bytes).and(u64::from(arena))
            }
            Self::Pop { slot, size_bytes, arena } => Words::begin(kind::POP, slot, size_bytes).and(u64::from(arena)),
            Self::Close { arena } => Words::begin(kind::CLOSE, arena, 0),
            Self::Reset { arena } => Words::begin(kind::RESET, arena, 0),
        }
    }
}

/// Reads steps from words, in order.
#[derive(Debug, Clone)]
pub struct Steps<'w> {
    words: &'w [u64],
    at: usize,
}

impl<'w> Steps<'w> {
    /// Steps from these words on, which have no header.
    pub(super) fn of(words: &'w [u64]) -> Self {
        Self { words, at: 0 }
    }

    /// Words read so far.
    pub(super) fn at(&self) -> u64 {
        self.at as u64
    }

    /// Whether all words were read. After a `None` from `next`: whether the script ends there as it should.
    pub(super) fn is_over(&self) -> bool {
        self.at == self.words.len()
    }

    #[inline]
    fn word(&mut self) -> Option<u64> {
        let word = *self.words.get(self.at)?;
        self.at += 1;
        Some(word)
    }
}

impl Iterator for Steps<'_> {
    type Item = Step;

    #[inline]
    fn next(&mut self) -> Option<Step> {
        let first_at = self.at;
        let step = self.step();
        if step.is_none() {
            // A word that is no step, or a step without all its words: the script ends before it.
            self.at = first_at;
        }
        step
    }
}

impl Steps<'_> {
    #[inline]
    fn step(&mut self) -> Option<Step> {
        let first = self.word()?;
        let number = (first as u32) >> KIND_BITS;
        let short = (first >> 32) as u32;
        let size_bytes = if short == LONG { self.word()? } else { u64::from(short) };
        Some(match first as u32 & ((1 << KIND_BITS) - 1) {
            kind::SWITCH => Step::Switch { thread: number },
            kind::END => Step::End,
            kind::ALLOCATE => Step::Allocate { slot: number, size_bytes },
            kind::ALLOCATE_ZEROED => Step::AllocateZeroed { slot: number, size_bytes },
            kind::ALLOCATE_ALIGNED => Step::AllocateAligned { slot: number, size_bytes, alignment_bytes: self.word()? },
            kind::REALLOCATE => Step::Reallocate { slot: number, size_bytes, old_bytes: self.word()? },
            kind::FREE => Step::Free { slot: number },
            kind::BUMP => {
                let word = self.word()?;
                let how = Bump {
                    zeroed: word & flag::ZEROED != 0,
                    moved_bytes: if word & flag::MOVED != 0 { Some(self.word()?) } else { None },
                    chunk_bytes: if word & flag::CHUNK != 0 { Some(self.word()?) } else { None },
                    own_chunk: word & flag::OWN != 0,
                };
                Step::Bump { slot: number, size_bytes, arena: word as u32, how }
            }
            kind::STRETCH => {
                let old_bytes = self.word()?;
                Step::Stretch { slot: number, size_bytes, old_bytes, arena: self.word()? as u32 }
            }
            kind::POP => Step::Pop { slot: number, size_bytes, arena: self.word()? as u32 },
            kind::CLOSE => Step::Close { arena: number },
            kind::RESET => Step::Reset { arena: number },
            _ => return None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn size() -> impl Strategy<Value = u64> {
        prop_oneof![0..100_000u64, Just(u64::from(LONG) - 1), Just(u64::from(LONG)), any::<u64>()]
    }

    fn step() -> impl Strategy<Value = Step> {
        let number = || 0..NUMBER_LIMIT;
        let how = (any::<bool>(), proptest::option::of(size()), proptest::option::of(size()), any::<bool>());
        let how = how.prop_map(|(zeroed, moved_bytes, chunk_bytes, own_chunk)| Bump {
            zeroed,
            moved_bytes,
            chunk_bytes,
            own_chunk,
        });
        prop_oneof![
            number().prop_map(|thread| Step::Switch { thread }),
            Just(Step::End),
            (number(), size()).prop_map(|(slot, size_bytes)| Step::Allocate { slot, size_bytes }),
            (number(), size()).prop_map(|(slot, size_bytes)| Step::AllocateZeroed { slot, size_bytes }),
            (number(), size(), size()).prop_map(|(slot, size_bytes, alignment_bytes)| Step::AllocateAligned {
                slot,
                size_bytes,
                alignment_bytes
            }),
            (number(), size(), size()).prop_map(|(slot, size_bytes, old_bytes)| Step::Reallocate {
                slot,
                size_bytes,
                old_bytes
            }),
            number().prop_map(|slot| Step::Free { slot }),
            (number(), size(), number(), how).prop_map(|(slot, size_bytes, arena, how)| Step::Bump {
                slot,
                size_bytes,
                arena,
                how
            }),
            (number(), size(), size(), number()).prop_map(|(slot, size_bytes, old_bytes, arena)| Step::Stretch {
                slot,
                size_bytes,
                old_bytes,
                arena
            }),
            (number(), size(), number()).prop_map(|(slot, size_bytes, arena)| Step::Pop { slot, size_bytes, arena }),
            number().prop_map(|arena| Step::Close { arena }),
            number().prop_map(|arena| Step::Reset { arena }),
        ]
    }

    proptest! {
        #[test]
        fn steps_are_read_as_they_were_written(steps in proptest::collection::vec(step(), 0..50)) {
            let words: Vec<u64> = steps.iter().flat_map(|step| step.words().as_slice().to_vec()).collect();
            let mut read = Steps::of(&words);
            let found: Vec<Step> = read.by_ref().collect();
            prop_assert_eq!(found, steps);
            prop_assert!(read.is_over());
        }

        #[test]
        fn any_words_are_read_to_an_end(words in proptest::collection::vec(any::<u64>(), 0..50)) {
            prop_assert!(Steps::of(&words).count() <= words.len());
        }
    }

    #[test]
    fn headers_are_read_as_they_were_written() {
        let header = Header { thread_count: 1, slot_count: 2, peak_bytes: u64::MAX, ..Header::default() };
        assert_eq!(Header::of(&header.words()), Some(header));
        assert_eq!(Header::of(&[0; HEADER_WORDS]), None);
        assert_eq!(Header::of(&header.words()[1..]), None);
    }
}
