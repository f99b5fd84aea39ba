#![expect(unsafe_code, reason = "arenas hand out parts of raw memory")]
//! Arenas in real memory. Responsible for taking chunks from the allocator, handing out parts of them and giving them back; how large a
//! chunk is, and when one is needed, stands in the script.
//!
//! ```text
//!   chunks ─▶ node ─▶ node ─▶ node          first: what a reset keeps
//!              │       └ own chunk of one block
//!   cursor ───▶│
//! ```

use std::io;
use std::ptr::NonNull;

use super::execute::Failure;
use super::heap::Heap;
use super::script::Bump;
use super::table::{Row, Table};
use crate::arenas::padded;

/// One arena; one that holds nothing is all zero.
#[derive(Debug, Clone, Copy)]
struct Memory {
    /// Where the next block begins.
    cursor: *mut u8,
    /// Bytes from there to the end of the current chunk.
    free_bytes: u64,
    /// Bytes of the current chunk that are handed out.
    used_bytes: u64,
    /// The first ordinary chunk.
    first: *mut u8,
    first_bytes: u64,
    /// The latest chunk; 0: none.
    chunks: u32,
}

// SAFETY: zeros are null pointers and numbers; nothing to drop.
unsafe impl Row for Memory {}

/// A chunk in an arena's list.
#[derive(Debug, Clone, Copy)]
struct Node {
    chunk: *mut u8,
    /// The one before; 0: none.
    next: u32,
}

// SAFETY: as above.
unsafe impl Row for Node {}

/// All arenas of a replay.
#[derive(Debug)]
pub(super) struct Arenas {
    memory: Table<Memory>,
    /// Node 0 is none.
    nodes: Table<Node>,
    /// Nodes that are used again.
    spare: u32,
    fresh: u32,
}

impl Arenas {
    /// So many arenas that hold so many chunks together.
    pub(super) fn new(arena_count: u32, chunk_count: u32) -> io::Result<Self> {
        Ok(Self {
            memory: Table::zeroed(arena_count as usize)?,
            nodes: Table::zeroed(chunk_count as usize + 1)?,
            spare: 0,
            fresh: 1,
        })
    }

    /// Hands out a block.
    #[inline]
    pub(super) fn bump(
        &mut self,
        heap: impl Heap,
        arena: u32,
        size_bytes: u64,
        how: Bump,
    ) -> Result<NonNull<u8>, Failure> {
        let size = padded(size_bytes);
        if let Some(chunk_bytes) = how.chunk_bytes {
            let chunk = self.chunk(heap, arena, chunk_bytes)?;
            if size > chunk_bytes {
                return Err(Failure::Disagrees);
            }
            if how.own_chunk {
                return Ok(chunk);
            }
            let memory = &mut self.memory[arena as usize];
            memory.cursor = chunk.as_ptr();
            memory.free_bytes = chunk_bytes;
            memory.used_bytes = 0;
            if memory.first.is_null() {
                (memory.first, memory.first_bytes) = (chunk.as_ptr(), chunk_bytes);
            }
        }
        self.memory[arena as usize].take(size)
    }

    fn chunk(&mut self, heap: impl Heap, arena: u32, chunk_bytes: u64) -> Result<NonNull<u8>, Failure> {
        let chunk = heap.allocate(chunk_bytes as usize).ok_or(Failure::OutOfMemory { size_bytes: chunk_bytes })?;
        let node = if self.spare == 0 {
            self.fresh += 1;
            self.fresh - 1
        } else {
            let spare = self.spare;
            self.spare = self.nodes[spare as usize].next;
            spare
        };
        let memory = &mut self.memory[arena as usize];
        self.nodes[node as usize] = Node { chunk: chunk.as_ptr(), next: memory.chunks };
        memory.chunks = node;
        Ok(chunk)
    }

    /// The last block grows.
    #[inline]
    pub(super) fn stretch(&mut self, arena: u32, old_bytes: u64, size_bytes: u64) -> Result<(), Failure> {
        let more = padded(size_bytes).checked_sub(padded(old_bytes)).ok_or(Failure::Disagrees)?;
        self.memory[arena as usize].take(more).map(drop)
    }

    /// The last block goes.
    #[inline]
    pub(super) fn pop(&mut self, arena: u32, size_bytes: u64) -> Result<(), Failure> {
        self.memory[arena as usize].give_back(padded(size_bytes))
    }

    /// Everything goes, or all but the first ordinary chunk.
    pub(super) fn end(&mut self, heap: impl Heap, arena: u32, reset: bool) {
        let memory = &mut self.memory[arena as usize];
        let kept = if reset { memory.first } else { std::ptr::null_mut() };
        let mut at = std::mem::take(&mut memory.chunks);
        while at != 0 {
            let node = self.nodes[at as usize];
            match NonNull::new(node.chunk) {
                Some(chunk) if chunk.as_ptr() != kept => {
                    // SAFETY: the chunk came from this allocator, and with it leave the list and all of its blocks.
                    unsafe { heap.free(chunk) };
                    self.nodes[at as usize].next = self.spare;
                    self.spare = at;
                }
                _ => {
                    self.nodes[at as usize].next = 0;
                    memory.chunks = at;
                }
            }
            at = node.next;
        }
        if kept.is_null() {
            (memory.first, memory.first_bytes) = (kept, 0);
        }
        (memory.cursor, memory.free_bytes, memory.used_bytes) = (memory.first, memory.first_bytes, 0);
    }
}

impl Memory {
    #[inline]
    fn take(&mut self, bytes: u64) -> Result<NonNull<u8>, Failure> {
        self.free_bytes = self.free_bytes.checked_sub(bytes).ok_or(Failure::Disagrees)?;
        self.used_bytes += bytes;
        let block = NonNull::new(self.cursor).ok_or(Failure::Disagrees)?;
        // SAFETY: the current chunk has so many bytes left behind the cursor.
        self.cursor = unsafe { self.cursor.add(bytes as usize) };
        Ok(block)
    }

    #[inline]
    fn give_back(&mut self, bytes: u64) -> Result<(), Failure> {
        self.used_bytes = self.used_bytes.checked_sub(bytes).ok_or(Failure::Disagrees)?;
        self.free_bytes += bytes;
        // SAFETY: so many bytes of the current chunk are in front of the cursor.
        self.cursor = unsafe { self.cursor.sub(bytes as usize) };
        Ok(())
    }
}
