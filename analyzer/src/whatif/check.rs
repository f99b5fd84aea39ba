#![expect(unsafe_code, reason = "what is known of slots and arenas lies in tables")]
//! Whether a script can be done. Responsible for refusing one whose steps would touch memory that is not theirs, before the first step is
//! done. Not for what the steps mean to a heap.
//!
//! It runs in the process that measures, so what it keeps lies in tables: a large block of malloc's that comes and goes would change
//! how glibc treats large blocks afterwards.

use super::script::{HEADER_WORDS, Header, Step, Steps};
use super::table::{Row, Table};

/// Where the block of a slot is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    /// 0: nowhere, 1: with malloc, above: in the arena of that number plus 2.
    place: u32,
    /// Ends of that arena before the block was born.
    end_count: u32,
}

// SAFETY: numbers.
unsafe impl Row for Held {}

impl Held {
    const NOTHING: Self = Self { place: 0, end_count: 0 };
    const MALLOC: Self = Self { place: 1, end_count: 0 };

    fn in_arena(arena: u32, end_count: u32) -> Self {
        Self { place: arena.saturating_add(2), end_count }
    }
}

/// A script that can be done.
#[derive(Debug, Clone, Copy)]
pub struct Script<'w> {
    header: Header,
    words: &'w [u64],
}

impl<'w> Script<'w> {
    /// Checks a script.
    ///
    /// # Errors
    /// It is none, or one that cannot be done; says what is wrong.
    pub fn of(words: &'w [u64]) -> Result<Self, String> {
        let header = Header::of(words).ok_or("this is no script of this version")?;
        let script = Self { header, words: &words[HEADER_WORDS..] };
        let Header { thread_count, slot_count, arena_count, chunk_count, .. } = header;
        for (count, what) in
            [(thread_count, "threads"), (slot_count, "slots"), (arena_count, "arenas"), (chunk_count, "chunks")]
        {
            if count as usize > script.words.len() {
                return Err(format!("it says that it has {count} {what}, more than steps"));
            }
        }
        let mut check = Check {
            header,
            slots: table(header.slot_count)?,
            arenas: table(header.arena_count)?,
            chunk_count: 0,
            thread: 0,
            ended: table(header.thread_count)?,
        };
        let mut steps = script.steps();
        let mut has_peak = header.peak_at == 0;
        let mut count = 0_u64;
        while let Some(step) = steps.next() {
            check.step(step).map_err(|what| format!("step {count} ({step:?}) {what}"))?;
            has_peak |= header.peak_at == steps.at();
            count += 1;
        }
        match (steps.is_over(), has_peak) {
            (true, true) => Ok(script),
            (true, false) => Err("its peak is within a step".to_owned()),
            (false, _) => Err("it ends within a step".to_owned()),
        }
    }

    /// What it says of itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Its steps to the peak, and those after it.
    pub(super) fn halves(&self) -> (Steps<'w>, Steps<'w>) {
        let (before, after) = self.words.split_at(self.header.peak_at as usize);
        (Steps::of(before), Steps::of(after))
    }

    /// Its steps.
    pub fn steps(&self) -> Steps<'w> {
        Steps::of(self.words)
    }
}

fn table<T: Row>(length: u32) -> Result<Table<T>, String> {
    Table::zeroed(length as usize).map_err(|error| error.to_string())
}

/// What an arena holds.
#[derive(Debug, Clone, Copy)]
struct Chunks {
    /// Ends so far: blocks from before are gone.
    end_count: u32,
    held_count: u32,
    /// Whether one of them is an ordinary one, which a reset keeps.
    has_ordinary: bool,
}

// SAFETY: numbers, and false.
unsafe impl Row for Chunks {}

/// Whether a thread has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ended(bool);

// SAFETY: false.
unsafe impl Row for Ended {}

struct Check {
    header: Header,
    slots: Table<Held>,
    arenas: Table<Chunks>,
    chunk_count: u32,
    thread: u32,
    ended: Table<Ended>,
}

impl Check {
    fn step(&mut self, step: Step) -> Result<(), &'static str> {
        if !matches!(step, Step::Switch { .. }) && self.ended.get(self.thread as usize) != Some(&Ended(false)) {
            return Err("is of a thread that there is not");
        }
        match step {
            Step::Switch { thread } => {
                if self.ended.get(thread as usize) != Some(&Ended(false)) || thread == self.thread {
                    return Err("goes to a thread that there is not");
                }
                self.thread = thread;
            }
            Step::End => self.ended[self.thread as usize] = Ended(true),
            Step::Allocate { slot, .. } | Step::AllocateZeroed { slot, .. } => self.put(slot, Held::MALLOC)?,
            Step::AllocateAligned { slot, alignment_bytes, .. } => {
                if !alignment_bytes.is_power_of_two() {
                    return Err("is aligned to no power of two");
                }
                self.put(slot, Held::MALLOC)?;
            }
            Step::Reallocate { slot, .. } => self.expect(slot, Held::MALLOC)?,
            Step::Free { slot } => {
                self.expect(slot, Held::MALLOC)?;
                self.put(slot, Held::NOTHING)?;
            }
            Step::Bump { slot, arena, how, .. } => {
                let held = self.in_arena(arena)?;
                if how.moved_bytes.is_some() {
                    self.expect(slot, held)?;
                }
                if how.chunk_bytes.is_some() {
                    let chunks = &mut self.arenas[arena as usize];
                    chunks.held_count += 1;
                    chunks.has_ordinary |= !how.own_chunk;
                    self.chunk_count += 1;
                    if self.chunk_count > self.header.chunk_count {
                        return Err("needs more chunks than the header says");
                    }
                }
                self.put(slot, held)?;
            }
            Step::Stretch { slot, size_bytes, old_bytes, arena } => {
                let held = self.in_arena(arena)?;
                self.expect(slot, held)?;
                if size_bytes < old_bytes {
                    return Err("shrinks");
                }
            }
            Step::Pop { slot, arena, .. } => {
                let held = self.in_arena(arena)?;
                self.expect(slot, held)?;
                self.put(slot, Held::NOTHING)?;
            }
            Step::Close { arena } => self.end(arena, false)?,
            Step::Reset { arena } => self.end(arena, true)?,
        }
        Ok(())
    }

    fn in_arena(&self, arena: u32) -> Result<Held, &'static str> {
        let chunks = self.arenas.get(arena as usize).ok_or("names an arena that there is not")?;
        Ok(Held::in_arena(arena, chunks.end_count))
    }

    /// All blocks of an arena are gone.
    fn end(&mut self, arena: u32, reset: bool) -> Result<(), &'static str> {
        let chunks = self.arenas.get_mut(arena as usize).ok_or("names an arena that there is not")?;
        chunks.end_count += 1;
        chunks.has_ordinary &= reset;
        let kept = u32::from(chunks.has_ordinary);
        self.chunk_count -= chunks.held_count - kept;
        chunks.held_count = kept;
        Ok(())
    }

    fn put(&mut self, slot: u32, held: Held) -> Result<(), &'static str> {
        *self.slots.get_mut(slot as usize).ok_or("names a slot that there is not")? = held;
        Ok(())
    }

    fn expect(&self, slot: u32, held: Held) -> Result<(), &'static str> {
        match self.slots.get(slot as usize) {
            Some(found) if *found == held => Ok(()),
            _ => Err("names a block that is not there"),
        }
    }
}
