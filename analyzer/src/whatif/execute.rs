#![expect(unsafe_code, reason = "blocks are raw memory, and every page of them is touched")]
//! Does the steps of a script. Responsible for slots and for touching every page of every block, as the program that was recorded did
//! sooner or later; for the time that this takes. Not for who goes on when (see `relay`), nor for what else is measured (see `worker`).
//!
//! One thread at a time goes on. The time that counts is the processor's for its steps, from when it has been handed the machine to when
//! it hands it on: touching is part of it, since a fresh page costs its first user a fault, and a block that came back soon is warm.

use std::io;
use std::ptr::NonNull;

use super::bump::Arenas;
use super::check::Script;
use super::heap::Heap;
use super::script::{Step, Steps};
use super::table::Table;
use super::usage::{Resident, thread_ns};
use super::watch::Watch;

const PAGE: usize = 4096;

/// Why a script was not done to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Failure {
    /// The allocator has no memory.
    #[error("the allocator had no memory for {size_bytes} bytes")]
    OutOfMemory {
        /// What was asked for.
        size_bytes: u64,
    },
    /// The script and an arena's memory disagree.
    #[error("the script puts a block where its arena has no room")]
    Disagrees,
}

/// How a thread's turn ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Turn {
    /// Who goes on; none: the script is over.
    pub(super) next: Option<u32>,
    /// The thread whose turn it was has nothing left to do.
    pub(super) ended: bool,
}

/// A script being done.
#[derive(Debug)]
pub(super) struct Machine<'w, H, W> {
    heap: H,
    watch: W,
    steps: Steps<'w>,
    /// What comes after the peak, until that is reached.
    rest: Option<Steps<'w>>,
    slots: Table<*mut u8>,
    arenas: Arenas,
    /// Processor time of all turns.
    pub(super) work_ns: u64,
    /// Times that the clock was read for it, in pairs.
    pub(super) reading_count: u64,
    /// Resident memory at the peak of what is requested. The kernel's own high-water mark is less exact where memory is given back
    /// right afterwards.
    pub(super) resident_bytes: u64,
}

// SAFETY: the pointers are to blocks that belong to the machine alone, whichever thread has it.
unsafe impl<H: Heap, W: Send> Send for Machine<'_, H, W> {}

impl<'w, H: Heap, W: Watch> Machine<'w, H, W> {
    /// Before the first step. All tables are in memory already.
    pub(super) fn new(script: &Script<'w>, heap: H, watch: W) -> io::Result<Self> {
        let header = script.header();
        let (steps, rest) = script.halves();
        Ok(Self {
            heap,
            watch,
            steps,
            rest: Some(rest),
            slots: Table::zeroed(header.slot_count as usize)?,
            arenas: Arenas::new(header.arena_count, header.chunk_count)?,
            work_ns: 0,
            reading_count: 0,
            resident_bytes: 0,
        })
    }

    /// Goes on until another thread is to.
    pub(super) fn turn(&mut self) -> Result<Turn, Failure> {
        loop {
            let began_ns = thread_ns();
            let turn = self.go_on();
            self.work_ns += thread_ns() - began_ns;
            self.reading_count += 1;
            if let Some(turn) = turn? {
                return Ok(turn);
            }
            self.resident_bytes = Resident::read().map_or(0, |resident| resident.now_bytes);
        }
    }

    /// What watched it.
    pub(super) fn into_watch(mut self) -> W {
        self.watch.over();
        self.watch
    }

    /// `None`: at the peak.
    fn go_on(&mut self) -> Result<Option<Turn>, Failure> {
        let mut ended = false;
        while let Some(step) = self.steps.next() {
            match step {
                Step::Switch { thread } => return Ok(Some(Turn { next: Some(thread), ended })),
                Step::End => ended = true,
                Step::Allocate { slot, size_bytes } => {
                    let block = self.heap.allocate(size_bytes as usize);
                    self.born(slot, block, size_bytes)?;
                }
                Step::AllocateZeroed { slot, size_bytes } => {
                    let block = self.heap.allocate_zeroed(size_bytes as usize);
                    if let Some(block) = block {
                        // SAFETY: the block is that long.
                        unsafe { self.watch.zeroed(block, size_bytes) };
                    }
                    self.born(slot, block, size_bytes)?;
                }
                Step::AllocateAligned { slot, size_bytes, alignment_bytes } => {
                    let block = self.heap.allocate_aligned(size_bytes as usize, alignment_bytes as usize);
                    self.born(slot, block, size_bytes)?;
                }
                Step::Reallocate { slot, size_bytes, old_bytes } => {
                    self.watch.moves(slot);
                    // A realloc to nothing that returned a block must return one from every allocator.
                    let size = size_bytes.max(1) as usize;
                    let block = match NonNull::new(self.slots[slot as usize]) {
                        // SAFETY: the script was checked: the slot holds a live block of malloc's.
                        Some(old) => unsafe { self.heap.reallocate(old, size) },
                        None => return Err(Failure::Disagrees),
                    };
                    let block = block.ok_or(Failure::OutOfMemory { size_bytes })?;
                    // SAFETY: the block is that long.
                    unsafe {
                        touch(block, old_bytes, size_bytes);
                        self.watch.moved(slot, block, size_bytes);
                    }
                    self.slots[slot as usize] = block.as_ptr();
                }
                Step::Free { slot } => {
                    // SAFETY: the block that was put there is alive yet.
                    unsafe { self.watch.dies(slot) };
                    let block = std::mem::replace(&mut self.slots[slot as usize], std::ptr::null_mut());
                    if let Some(block) = NonNull::new(block) {
                        // SAFETY: the script was checked: the slot held a live block of malloc's.
                        unsafe { self.heap.free(block) };
                    }
                }
                Step::Bump { slot, size_bytes, arena, how } => {
                    let block = self.arenas.bump(self.heap, arena, size_bytes, how)?;
                    let old = self.slots[slot as usize];
                    let kept_bytes = how.moved_bytes.unwrap_or(0).min(size_bytes);
                    // SAFETY: the block is `size_bytes` long and new; the old one is in an open arena, as the script was
                    // checked, and at least `kept_bytes` long.
                    unsafe {
                        if how.zeroed {
                            block.write_bytes(0, size_bytes as usize);
                        }
                        if kept_bytes > 0 {
                            old.copy_to_nonoverlapping(block.as_ptr(), kept_bytes as usize);
                        }
                        touch(block, kept_bytes, size_bytes);
                        self.watch.bumped(slot, block, size_bytes, arena, how.moved_bytes);
                    }
                    self.slots[slot as usize] = block.as_ptr();
                }
                Step::Stretch { slot, size_bytes, old_bytes, arena } => {
                    self.arenas.stretch(arena, old_bytes, size_bytes)?;
                    if let Some(block) = NonNull::new(self.slots[slot as usize]) {
                        // SAFETY: the block is that long now.
                        unsafe {
                            touch(block, old_bytes, size_bytes);
                            self.watch.stretched(slot, block, old_bytes, size_bytes, arena);
                        }
                    }
                }
                Step::Pop { slot, size_bytes, arena } => {
                    // SAFETY: the block that was put there is alive yet.
                    unsafe { self.watch.popped(slot, arena) };
                    self.arenas.pop(arena, size_bytes)?;
                    self.slots[slot as usize] = std::ptr::null_mut();
                }
                Step::Close { arena } => {
                    // SAFETY: the arena's chunks are there yet.
                    unsafe { self.watch.ends(arena) };
                    self.arenas.end(self.heap, arena, false);
                }
                Step::Reset { arena } => {
                    // SAFETY: the same.
                    unsafe { self.watch.ends(arena) };
                    self.arenas.end(self.heap, arena, true);
                }
            }
        }
        if let Some(rest) = self.rest.take() {
            self.steps = rest;
            return Ok(None);
        }
        Ok(Some(Turn { next: None, ended }))
    }

    #[inline]
    fn born(&mut self, slot: u32, block: Option<NonNull<u8>>, size_bytes: u64) -> Result<(), Failure> {
        let block = block.ok_or(Failure::OutOfMemory { size_bytes })?;
        // SAFETY: the allocator says that the block is that long.
        unsafe {
            touch(block, 0, size_bytes);
            self.watch.born(slot, block, size_bytes);
        }
        self.slots[slot as usize] = block.as_ptr();
        Ok(())
    }
}

/// Writes to a block's bytes `from..to`: to the first one, if that is the block's, and to the first one of every page.
///
/// # Safety
/// The block is `to` bytes long.
#[inline]
pub(super) unsafe fn touch(block: NonNull<u8>, from_bytes: u64, to_bytes: u64) {
    let (from, to) = (from_bytes as usize, to_bytes as usize);
    if from == 0 && to > 0 {
        // SAFETY: the block has a first byte.
        unsafe { block.write_volatile(1) };
    }
    let start = block.as_ptr().addr();
    let mut at = (start + from).next_multiple_of(PAGE) - start;
    while at < to {
        // SAFETY: below the block's length.
        unsafe { block.add(at).write_volatile(1) };
        at += PAGE;
    }
}
