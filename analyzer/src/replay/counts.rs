//! What is counted of one process and one domain. Responsible for the list of counters and their meaning; not for live
//! bytes (see `level`).

use std::ops::AddAssign;

use serde::Serialize;

/// How often what happened. Each event is in exactly one of `alloc`, `free`, `realloc`, `failed`, `free_of_dead` and
/// `free_before_recording`, except that a realloc of a block the recording never saw born is a realloc *and* one free
/// before recording (of a dead one: and one free of dead).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Counts {
    /// Successful allocs, `realloc(NULL, n)` included.
    pub alloc_count: u64,
    /// Frees of blocks that the recording saw born, `realloc(p, 0)` that returned NULL included.
    pub free_count: u64,
    /// Successful reallocs of a block.
    pub realloc_count: u64,
    /// Requested bytes of allocs plus new sizes of reallocs.
    pub alloc_bytes: u64,
    /// Allocs and reallocs that returned NULL.
    pub failed_count: u64,
    /// Frees of blocks from before the recording, or of blocks whose birth was lost.
    pub free_before_recording_count: u64,
    /// Frees of blocks already dead (glibc frees cached chunks again at thread exit).
    pub free_of_dead_count: u64,
    /// Reallocs that began and never returned; their old block counts as dead.
    pub unfinished_realloc_count: u64,
    /// Deaths that the recorder inferred because the address was born again.
    pub missed_free_count: u64,
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.alloc_count += other.alloc_count;
        self.free_count += other.free_count;
        self.realloc_count += other.realloc_count;
        self.alloc_bytes = self.alloc_bytes.wrapping_add(other.alloc_bytes);
        self.failed_count += other.failed_count;
        self.free_before_recording_count += other.free_before_recording_count;
        self.free_of_dead_count += other.free_of_dead_count;
        self.unfinished_realloc_count += other.unfinished_realloc_count;
        self.missed_free_count += other.missed_free_count;
    }
}
