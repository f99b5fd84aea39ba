//! How much a script would have resident with glibc's malloc. Responsible for doing its steps in a model (see `glibc`); not for doing them in
//! memory (see `execute`), nor for what the plan itself comes to (see `arenas`).

use super::check::Script;
use super::glibc::{Glibc, Place};
use super::script::{Bump, Step};
use crate::arenas::padded;

/// Heaps of threads that glibc makes at most, for each processor.
const HEAPS_PER_PROCESSOR: u32 = 8;

/// The chunks of one arena.
#[derive(Debug, Default)]
struct Chunks {
    /// In the order in which they were taken.
    all: Vec<Place>,
    /// The first ordinary one, among them: what a reset keeps.
    first: Option<usize>,
    /// The one that blocks are taken from, and how much of it is.
    current: usize,
    used_bytes: u64,
}

impl Chunks {
    fn used(&mut self, malloc: &mut Glibc, used_bytes: u64) {
        self.used_bytes = used_bytes;
        if let Some(chunk) = self.all.get_mut(self.current) {
            malloc.touch(chunk, used_bytes);
        }
    }
}

/// Most bytes that are resident at a time. Threads are there from the start, as the replay has them; chunks are resident as far as
/// blocks were taken from them.
pub(super) fn resident_peak(script: &Script<'_>, processor_count: u32) -> u64 {
    let header = script.header();
    let mut malloc = Glibc::started(header.thread_count, HEAPS_PER_PROCESSOR * processor_count.max(1));
    let mut slots: Vec<Option<Place>> = vec![None; header.slot_count as usize];
    let mut arenas: Vec<Chunks> = Vec::new();
    arenas.resize_with(header.arena_count as usize, Chunks::default);
    let mut thread = 0;
    for step in script.steps() {
        match step {
            Step::Switch { thread: next } => thread = next,
            // The first one is the process's own, which goes on.
            Step::End if thread == 0 => {}
            Step::End => malloc.end(thread),
            Step::Allocate { slot, size_bytes } => {
                slots[slot as usize] = Some(malloc.allocate(thread, size_bytes, false));
            }
            Step::AllocateZeroed { slot, size_bytes } => {
                slots[slot as usize] = Some(malloc.allocate(thread, size_bytes, true));
            }
            Step::AllocateAligned { slot, size_bytes, alignment_bytes } => {
                slots[slot as usize] = Some(malloc.allocate_aligned(thread, size_bytes, alignment_bytes));
            }
            Step::Reallocate { slot, size_bytes, .. } => {
                if let Some(place) = &mut slots[slot as usize] {
                    *place = malloc.reallocate(thread, *place, size_bytes.max(1));
                }
            }
            Step::Free { slot } => {
                if let Some(place) = slots[slot as usize].take() {
                    malloc.free(thread, place);
                }
            }
            Step::Bump { slot, size_bytes, arena, how: Bump { chunk_bytes, own_chunk, .. } } => {
                slots[slot as usize] = None;
                let (chunks, size) = (&mut arenas[arena as usize], padded(size_bytes));
                match chunk_bytes {
                    Some(chunk_bytes) if own_chunk => chunks.all.push(malloc.allocate(thread, chunk_bytes, false)),
                    Some(chunk_bytes) => {
                        chunks.current = chunks.all.len();
                        chunks.first.get_or_insert(chunks.current);
                        chunks.all.push(malloc.reserve(thread, chunk_bytes));
                        chunks.used(&mut malloc, size);
                    }
                    None => chunks.used(&mut malloc, chunks.used_bytes.saturating_add(size)),
                }
            }
            Step::Stretch { size_bytes, old_bytes, arena, .. } => {
                let chunks = &mut arenas[arena as usize];
                let more = padded(size_bytes).saturating_sub(padded(old_bytes));
                chunks.used(&mut malloc, chunks.used_bytes.saturating_add(more));
            }
            Step::Pop { size_bytes, arena, .. } => {
                let chunks = &mut arenas[arena as usize];
                chunks.used_bytes = chunks.used_bytes.saturating_sub(padded(size_bytes));
            }
            Step::Close { arena } => {
                let chunks = std::mem::take(&mut arenas[arena as usize]);
                chunks.all.into_iter().rev().for_each(|chunk| malloc.free(thread, chunk));
            }
            Step::Reset { arena } => {
                let mut chunks = std::mem::take(&mut arenas[arena as usize]);
                let kept = chunks.first.map(|first| chunks.all.remove(first));
                chunks.all.into_iter().rev().for_each(|chunk| malloc.free(thread, chunk));
                let first = kept.is_some().then_some(0);
                arenas[arena as usize] = Chunks { all: kept.into_iter().collect(), first, ..Chunks::default() };
            }
        }
    }
    malloc.peak_bytes
}
