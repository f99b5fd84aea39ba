//! Writes what a process did, with or without a plan's arenas, as a script. Responsible for slots, threads and arenas by number, and
//! for deciding what each arena does by the arithmetic of the simulation; not for which blocks go into which arena (see
//! `arenas::Following`), nor for doing it.
//!
//! ```text
//!   trace ─▶ replay ─▶ Following ─▶ OnlyOf one process ─▶ Writer ─▶ script
//! ```
//!
//! Memory: what is alive. The script goes to its file as it comes.

use std::io::{self, Seek, SeekFrom, Write};

use foldhash::{HashMap, HashMapExt};
use trace_format::{Entry, EntryKind, Event, Op, ThreadId};

use super::script::{Bump, HEADER_WORDS, Header, NUMBER_LIMIT, Step};
use crate::arenas::{AtEnd, Chunks, InstanceId, Plan, Policy, Stage, padded};

/// Blocks of malloc are aligned to this anyway.
const MALLOC_ALIGNMENT: u64 = 16;
/// No request is aligned to more; what a damaged trace says beyond is not believed.
const HIGHEST_ALIGNMENT: u64 = 1 << 30;
/// No address space has more; the same.
const LARGEST: u64 = 1 << 47;

/// What is kept with a block.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Place {
    slot: u32,
    /// Of a block in an arena: tells which was handed out last.
    stamp: u64,
}

/// Numbers that are used again; the latest that became free first.
#[derive(Debug, Default)]
struct Numbers {
    count: u32,
    spare: Vec<u32>,
}

impl Numbers {
    fn take(&mut self) -> u32 {
        self.spare.pop().unwrap_or_else(|| {
            self.count = self.count.saturating_add(1);
            self.count - 1
        })
    }

    fn give_back(&mut self, number: u32) {
        self.spare.push(number);
    }
}

/// An arena that is open, or kept for a thread's next activation.
#[derive(Debug, Clone, Copy, Default)]
struct Open {
    arena: usize,
    thread: ThreadId,
    /// Its number in the script.
    number: u32,
    chunks: Chunks,
    held_chunk_count: u32,
    /// Stamp of the block that was handed out last; 0: none.
    last: u64,
}

/// The stage.
#[derive(Debug)]
pub(super) struct Writer<'t, W> {
    out: W,
    entries: &'t [Entry],
    policy: Policy,
    at_end: Vec<AtEnd>,
    header: Header,
    /// By thread of the trace that has not ended: its number in the script.
    threads: HashMap<ThreadId, u32>,
    thread_count: u32,
    running: Option<ThreadId>,
    slots: Numbers,
    arenas: Numbers,
    /// By instance.
    open: Vec<Open>,
    /// Kept for the next instance, by thread and arena.
    parked: HashMap<(ThreadId, usize), Open>,
    stamp: u64,
    live_bytes: u64,
    /// The next step makes a new peak.
    rises: bool,
    chunk_count: u32,
    word_count: u64,
    failure: Option<io::Error>,
}

impl<'t, W: Write + Seek> Writer<'t, W> {
    /// Begins a script for a plan; a plan without arenas leaves everything to malloc.
    pub(super) fn new(out: W, entries: &'t [Entry], plan: &Plan) -> Self {
        let mut writer = Self {
            out,
            entries,
            policy: plan.policy,
            at_end: plan.arenas.iter().map(|arena| arena.at_end).collect(),
            header: Header::default(),
            threads: HashMap::new(),
            thread_count: 0,
            running: None,
            slots: Numbers::default(),
            arenas: Numbers::default(),
            open: Vec::new(),
            parked: HashMap::new(),
            stamp: 0,
            live_bytes: 0,
            rises: false,
            chunk_count: 0,
            word_count: 0,
            failure: None,
        };
        writer.words(&[0; HEADER_WORDS]);
        writer
    }

    /// Ends the script.
    ///
    /// # Errors
    /// It could not be written, or has more blocks at a time than a script can name.
    pub(super) fn finish(mut self) -> io::Result<Header> {
        if let Some(failure) = self.failure.take() {
            return Err(failure);
        }
        let header = Header {
            thread_count: self.thread_count,
            slot_count: self.slots.count,
            arena_count: self.arenas.count,
            ..self.header
        };
        if [header.thread_count, header.slot_count, header.arena_count].iter().any(|count| *count > NUMBER_LIMIT) {
            let what = format!("more than {NUMBER_LIMIT} blocks are alive at a time");
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, what));
        }
        self.out.seek(SeekFrom::Start(0))?;
        self.words(&header.words());
        match self.failure {
            Some(failure) => Err(failure),
            None => self.out.flush().map(|()| header),
        }
    }

    fn words(&mut self, words: &[u64]) {
        if self.failure.is_some() {
            return;
        }
        for word in words {
            if let Err(failure) = self.out.write_all(&word.to_ne_bytes()) {
                self.failure = Some(failure);
                return;
            }
        }
        self.word_count += words.len() as u64;
    }

    fn step(&mut self, step: Step) {
        self.header.step_count += 1;
        self.words(step.words().as_slice());
        if std::mem::take(&mut self.rises) {
            self.header.peak_at = self.word_count - HEADER_WORDS as u64;
        }
    }

    /// A step of this thread.
    fn step_of(&mut self, thread: ThreadId, step: Step) {
        if self.running != Some(thread) {
            let number = *self.threads.entry(thread).or_insert_with(|| {
                self.thread_count += 1;
                self.thread_count - 1
            });
            // Number 0 begins.
            if number > 0 || self.header.step_count > 0 {
                self.header.switch_count += 1;
                self.words(Step::Switch { thread: number }.words().as_slice());
            }
            self.running = Some(thread);
        }
        self.step(step);
    }

    fn raise(&mut self, bytes: u64) {
        self.live_bytes += bytes;
        if self.live_bytes > self.header.peak_bytes {
            self.header.peak_bytes = self.live_bytes;
            self.rises = true;
        }
    }

    fn lower(&mut self, bytes: u64) {
        self.live_bytes = self.live_bytes.saturating_sub(bytes);
    }

    /// Whether an event's entry point returns zeroed memory, and the alignment that it asks for.
    fn request(&self, event: &Event) -> (bool, u64) {
        let Op::Alloc { entry, alignment_bytes, .. } = event.op else { return (false, 0) };
        let zeroed = self.entries.get(entry.index()).is_some_and(|entry| entry.kind == EntryKind::AllocZeroed);
        (zeroed, alignment_bytes.min(HIGHEST_ALIGNMENT).next_power_of_two())
    }

    /// A block in an arena, new or moved within it.
    fn bump(&mut self, instance: InstanceId, slot: u32, size_bytes: u64, mut how: Bump, thread: ThreadId) -> u64 {
        let open = &mut self.open[instance as usize];
        let ordinary_count = open.chunks.ordinary_count();
        let taken = open.chunks.allocate(self.policy, size_bytes);
        self.stamp += 1;
        open.last = self.stamp;
        let arena = open.number;
        if taken > 0 {
            open.held_chunk_count += 1;
            how.chunk_bytes = Some(taken);
            how.own_chunk = open.chunks.ordinary_count() == ordinary_count;
            if how.own_chunk {
                // There is no room behind it.
                open.last = 0;
            }
            self.chunk_count += 1;
            self.header.chunk_count = self.header.chunk_count.max(self.chunk_count);
            self.raise(taken);
        }
        self.step_of(thread, Step::Bump { slot, size_bytes, arena, how });
        self.stamp
    }

    /// An arena gives back everything.
    fn destroy(&mut self, open: Open) {
        self.step_of(open.thread, Step::Close { arena: open.number });
        self.lower(open.chunks.held_bytes);
        self.chunk_count -= open.held_chunk_count;
        self.arenas.give_back(open.number);
    }
}

impl<W: Write + Seek> Stage for Writer<'_, W> {
    type Slot = Place;

    fn open(&mut self, instance: InstanceId, arena: usize, thread: ThreadId) {
        let at = instance as usize;
        if at >= self.open.len() {
            self.open.resize_with(at + 1, Open::default);
        }
        self.open[at] = match self.parked.remove(&(thread, arena)) {
            Some(parked) => parked,
            None => Open { arena, thread, number: self.arenas.take(), ..Open::default() },
        };
    }

    fn close(&mut self, instance: InstanceId) {
        let mut open = self.open[instance as usize];
        let key = (open.thread, open.arena);
        if self.at_end[open.arena] != AtEnd::Reset || self.parked.contains_key(&key) {
            self.destroy(open);
            return;
        }
        let given_back = open.chunks.reset();
        self.step_of(open.thread, Step::Reset { arena: open.number });
        self.lower(given_back);
        let kept = open.chunks.ordinary_count() as u32;
        self.chunk_count -= open.held_chunk_count - kept;
        open.held_chunk_count = kept;
        open.last = 0;
        self.parked.insert(key, open);
    }

    fn allocate(&mut self, size_bytes: u64, home: Option<InstanceId>, event: &Event) -> Place {
        let size_bytes = size_bytes.min(LARGEST);
        let (zeroed, alignment_bytes) = self.request(event);
        let slot = self.slots.take();
        self.header.alloc_count += 1;
        if let Some(instance) = home {
            let stamp = self.bump(instance, slot, size_bytes, Bump { zeroed, ..Bump::default() }, event.thread);
            return Place { slot, stamp };
        }
        let step = if alignment_bytes > MALLOC_ALIGNMENT {
            Step::AllocateAligned { slot, size_bytes, alignment_bytes }
        } else if zeroed {
            Step::AllocateZeroed { slot, size_bytes }
        } else {
            Step::Allocate { slot, size_bytes }
        };
        self.raise(size_bytes);
        self.step_of(event.thread, step);
        Place { slot, stamp: 0 }
    }

    fn reallocate(
        &mut self,
        old: Place,
        old_bytes: u64,
        size_bytes: u64,
        home: Option<InstanceId>,
        event: &Event,
    ) -> Place {
        let (old_bytes, size_bytes) = (old_bytes.min(LARGEST), size_bytes.min(LARGEST));
        let slot = old.slot;
        let Some(instance) = home else {
            self.lower(old_bytes);
            self.raise(size_bytes);
            self.step_of(event.thread, Step::Reallocate { slot, size_bytes, old_bytes });
            return old;
        };
        if padded(size_bytes) <= padded(old_bytes) {
            // It stays where it is, and nothing is done.
            return old;
        }
        let open = &mut self.open[instance as usize];
        if open.last == old.stamp
            && self.policy.last_in_place()
            && open.chunks.resize_last(old_bytes, size_bytes).is_some()
        {
            let arena = open.number;
            self.step_of(event.thread, Step::Stretch { slot, size_bytes, old_bytes, arena });
            return old;
        }
        let how = Bump { moved_bytes: Some(old_bytes), ..Bump::default() };
        Place { slot, stamp: self.bump(instance, slot, size_bytes, how, event.thread) }
    }

    fn free(&mut self, place: Place, size_bytes: u64, home: Option<InstanceId>, event: &Event) {
        let (slot, size_bytes) = (place.slot, size_bytes.min(LARGEST));
        self.slots.give_back(slot);
        let Some(instance) = home else {
            self.lower(size_bytes);
            self.step_of(event.thread, Step::Free { slot });
            return;
        };
        // In an arena, only the last block can go; of all others nobody needs to free anything.
        let open = &mut self.open[instance as usize];
        if open.last == place.stamp && self.policy.last_in_place() {
            open.chunks.free_last(size_bytes);
            open.last = 0;
            let arena = open.number;
            self.step_of(event.thread, Step::Pop { slot, size_bytes, arena });
        }
    }

    fn free_late(&mut self, place: Place, _: usize, _: u64) {
        self.slots.give_back(place.slot);
    }

    fn abandon(&mut self, place: Place, size_bytes: u64, home: Option<InstanceId>) {
        self.slots.give_back(place.slot);
        if home.is_none() {
            self.lower(size_bytes.min(LARGEST));
        }
    }

    fn thread_ended(&mut self, thread: ThreadId) {
        for arena in 0..self.at_end.len() {
            if let Some(parked) = self.parked.remove(&(thread, arena)) {
                self.destroy(parked);
            }
        }
        if self.threads.contains_key(&thread) {
            self.step_of(thread, Step::End);
            // Should it do anything yet, it is another thread.
            self.threads.remove(&thread);
            self.running = None;
        }
    }
}
