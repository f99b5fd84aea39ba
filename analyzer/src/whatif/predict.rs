//! How much a script would have resident with glibc's malloc. Responsible for doing its steps in a model (see `glibc`); not for doing them in
//! memory (see `execute`), nor for what the plan itself comes to (see `arenas`).

use super::check::Script;
use super::glibc::{Glibc, Place};
use super::script::{Bump, Step};

/// The chunks of one arena.
#[derive(Debug, Default)]
struct Chunks {
    /// In the order in which they were taken.
    all: Vec<Place>,
    /// The first ordinary one, among them: what a reset keeps.
    first: Option<usize>,
}

/// Most bytes that are resident at a time.
pub(super) fn resident_peak(script: &Script<'_>) -> u64 {
    let header = script.header();
    let mut malloc = Glibc::new(header.thread_count);
    let mut slots: Vec<Option<Place>> = vec![None; header.slot_count as usize];
    let mut arenas: Vec<Chunks> = Vec::new();
    arenas.resize_with(header.arena_count as usize, Chunks::default);
    let mut thread = 0;
    for step in script.steps() {
        match step {
            Step::Switch { thread: next } => thread = next,
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
            Step::Bump { slot, arena, how: Bump { chunk_bytes, own_chunk, .. }, .. } => {
                slots[slot as usize] = None;
                let chunks = &mut arenas[arena as usize];
                if let Some(chunk_bytes) = chunk_bytes {
                    if !own_chunk {
                        chunks.first.get_or_insert(chunks.all.len());
                    }
                    chunks.all.push(malloc.allocate(thread, chunk_bytes, false));
                }
            }
            Step::Stretch { .. } | Step::Pop { .. } => {}
            Step::Close { arena } => {
                let chunks = std::mem::take(&mut arenas[arena as usize]);
                chunks.all.into_iter().rev().for_each(|chunk| malloc.free(thread, chunk));
            }
            Step::Reset { arena } => {
                let chunks = &mut arenas[arena as usize];
                let kept = chunks.first.map(|first| chunks.all.remove(first));
                let gone = std::mem::replace(&mut chunks.all, kept.into_iter().collect());
                chunks.first = (!chunks.all.is_empty()).then_some(0);
                gone.into_iter().rev().for_each(|chunk| malloc.free(thread, chunk));
            }
        }
    }
    malloc.peak_bytes
}
