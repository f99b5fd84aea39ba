//! How an arena takes memory from the allocator under it. Responsible for the growth policies of real bump allocators and for
//! the chunks of one arena, exactly; not for which blocks go into which arena (see `simulate`).
//!
//! ```text
//!   chunk 1 (full)        chunk 2 (current)
//!  ┌───────────────┐     ┌───────┬────┬──────────────┐     used = what was handed out, padding included
//!  │███████████████│     │███████│last│    free      │     held = both chunks whole
//!  └───────────────┘     └───────┴────┴──────────────┘     tail = held − used
//! ```
//!
//! The policies are those of the sources named at [`Policy`]; sizes are in bytes.

use serde::{Deserialize, Serialize};

/// How chunks grow, and whether the block that was handed out last can grow, shrink or go in place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// `llvm::BumpPtrAllocator`: slabs of 4 KiB that double after every 128; what is larger than a slab gets one of its own. Never
    /// reuses a block.
    Llvm,
    /// `rustc_arena::DroplessArena`: chunks of 4 KiB that double up to 2 MiB. Never reuses a block.
    Rustc,
    /// `std.heap.ArenaAllocator`: each node half as large again as the one before and the request together. The last block
    /// grows and is freed in place.
    Zig,
    /// `bumpalo::Bump`: chunks double from 512 bytes, less what malloc needs. The last block grows and is freed in place.
    Bumpalo,
    /// Anything else.
    Custom {
        /// First chunk.
        first_bytes: u64,
        /// The next chunk is this many times the one before, in percent: 200 doubles.
        growth_percent: u64,
        /// No chunk is larger, but for one block.
        max_bytes: u64,
        /// Whether the last block grows and is freed in place.
        last_in_place: bool,
    },
}

impl Policy {
    /// Whether the block that was handed out last can grow, shrink and go in place.
    pub fn last_in_place(self) -> bool {
        match self {
            Self::Llvm | Self::Rustc => false,
            Self::Zig | Self::Bumpalo => true,
            Self::Custom { last_in_place, .. } => last_in_place,
        }
    }

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Llvm => "llvm",
            Self::Rustc => "rustc",
            Self::Zig => "zig",
            Self::Bumpalo => "bumpalo",
            Self::Custom { .. } => "custom",
        }
    }

    /// Reads `llvm`, `rustc`, `zig`, `bumpalo`, or `FIRST:PERCENT:MAX[:in-place]` with sizes in bytes.
    pub fn parse(text: &str) -> Option<Self> {
        Some(match text {
            "llvm" => Self::Llvm,
            "rustc" => Self::Rustc,
            "zig" => Self::Zig,
            "bumpalo" => Self::Bumpalo,
            _ => {
                let mut parts = text.split(':');
                let mut number = || parts.next()?.parse::<u64>().ok();
                let (first_bytes, growth_percent, max_bytes) = (number()?, number()?, number()?);
                let last_in_place = match parts.next() {
                    None => false,
                    Some("in-place") => true,
                    Some(_) => return None,
                };
                let sound = first_bytes > 0 && growth_percent >= 100 && max_bytes >= first_bytes;
                if !sound || parts.next().is_some() {
                    return None;
                }
                Self::Custom { first_bytes, growth_percent, max_bytes, last_in_place }
            }
        })
    }
}

/// Alignment of blocks whose request names none: malloc's.
const ALIGNMENT: u64 = 16;
/// A block of LLVM's allocator that is larger gets a slab of its own.
const LLVM_SLAB: u64 = 4096;
/// LLVM's slabs double after this many.
const LLVM_DOUBLES_AFTER: u64 = 128;
/// First and largest chunk of rustc's arenas.
const RUSTC_PAGE: u64 = 4096;
/// The same.
const RUSTC_HUGE_PAGE: u64 = 2 << 20;
/// What Zig adds to each request for a node: its header and what keeps it aligned.
const ZIG_EXTRA: u64 = 16 + 16;
/// What bumpalo leaves to malloc in each chunk, and its own footer.
const BUMPALO_OVERHEAD: u64 = 16 + 48;

/// The memory of one open arena.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Chunks {
    /// Bytes handed out, padding and dead blocks included.
    pub used_bytes: u64,
    /// Bytes taken from below.
    pub held_bytes: u64,
    /// Chunks taken from below.
    pub count: u64,
    /// Free in the current chunk.
    free_bytes: u64,
    /// Size of the latest ordinary chunk.
    latest_bytes: u64,
    /// Ordinary chunks so far.
    ordinary_count: u64,
    /// First ordinary chunk: what a reset keeps.
    first_bytes: u64,
}

impl Chunks {
    /// Hands out a block. Returns bytes newly taken from below.
    pub fn allocate(&mut self, policy: Policy, size_bytes: u64) -> u64 {
        let size = padded(size_bytes);
        if size <= self.free_bytes {
            self.free_bytes -= size;
            self.used_bytes += size;
            return 0;
        }
        let (chunk, own) = self.next_chunk(policy, size);
        if own {
            // The current chunk stays current.
        } else {
            self.free_bytes = chunk.saturating_sub(size);
            self.latest_bytes = chunk;
            self.ordinary_count += 1;
            if self.ordinary_count == 1 {
                self.first_bytes = chunk;
            }
        }
        self.used_bytes += size;
        self.held_bytes += chunk;
        self.count += 1;
        chunk
    }

    /// The last block changes its size where it is, if the chunk has room. `None` if it has not.
    pub fn resize_last(&mut self, old_bytes: u64, new_bytes: u64) -> Option<()> {
        let (old, new) = (padded(old_bytes), padded(new_bytes));
        if new > old && new - old > self.free_bytes {
            return None;
        }
        self.free_bytes = self.free_bytes + old - new;
        self.used_bytes = self.used_bytes + new - old;
        Some(())
    }

    /// The last block goes.
    pub fn free_last(&mut self, size_bytes: u64) {
        let size = padded(size_bytes);
        self.free_bytes += size;
        self.used_bytes -= size;
    }

    /// Everything goes but the first chunk. Returns bytes given back.
    pub fn reset(&mut self) -> u64 {
        let kept = self.first_bytes.min(self.held_bytes);
        let given_back = self.held_bytes - kept;
        *self = Self {
            held_bytes: kept,
            count: 0,
            free_bytes: kept,
            latest_bytes: kept,
            ordinary_count: u64::from(kept > 0),
            first_bytes: kept,
            used_bytes: 0,
        };
        given_back
    }

    /// Ordinary chunks so far: one that is for a single block leaves the current chunk as it is, and is none.
    pub fn ordinary_count(&self) -> u64 {
        self.ordinary_count
    }

    /// Size of the chunk for a block that does not fit, and whether it is for that block alone.
    fn next_chunk(&self, policy: Policy, size: u64) -> (u64, bool) {
        match policy {
            Policy::Llvm => {
                if size > LLVM_SLAB {
                    return (size, true);
                }
                let doublings = (self.ordinary_count / LLVM_DOUBLES_AFTER).min(30);
                (LLVM_SLAB << doublings, false)
            }
            Policy::Rustc => {
                let next = match self.latest_bytes {
                    0 => RUSTC_PAGE,
                    latest => latest.min(RUSTC_HUGE_PAGE / 2) * 2,
                };
                (next.max(size).next_multiple_of(RUSTC_PAGE), false)
            }
            Policy::Zig => {
                let wanted = self.latest_bytes + size + ZIG_EXTRA;
                (wanted + wanted / 2, false)
            }
            Policy::Bumpalo => {
                let doubled = (2 * (self.latest_bytes + BUMPALO_OVERHEAD)).max(512);
                let whole = doubled.max((size + BUMPALO_OVERHEAD).next_power_of_two());
                (whole - BUMPALO_OVERHEAD, false)
            }
            Policy::Custom { first_bytes, growth_percent, max_bytes, .. } => {
                let next = match self.latest_bytes {
                    0 => first_bytes,
                    latest => (latest.saturating_mul(growth_percent) / 100).min(max_bytes),
                };
                if size > next { (size, true) } else { (next, false) }
            }
        }
    }
}

/// What a block takes in an arena.
pub fn padded(size_bytes: u64) -> u64 {
    size_bytes.max(1).saturating_add(ALIGNMENT - 1) & !(ALIGNMENT - 1)
}

/// What a block takes in glibc's malloc, its header included (`malloc.c`: request2size).
pub fn in_malloc(size_bytes: u64) -> u64 {
    (size_bytes.saturating_add(8 + 15) & !15).max(32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(policy: Policy, sizes: &[u64]) -> Vec<u64> {
        let mut chunks = Chunks::default();
        sizes.iter().map(|size| chunks.allocate(policy, *size)).collect()
    }

    #[test]
    fn slabs_are_those_of_llvm() {
        assert_eq!(held(Policy::Llvm, &[16, 4080, 16, 5000, 16]), [4096, 0, 4096, 5008, 0]);
        let mut chunks = Chunks::default();
        let taken: Vec<u64> = (0..257).map(|_| chunks.allocate(Policy::Llvm, 4096)).collect();
        assert_eq!((taken[127], taken[128], chunks.count), (4096, 8192, 193));
    }

    #[test]
    fn chunks_are_those_of_rustc() {
        assert_eq!(held(Policy::Rustc, &[16, 4096, 5000, 20_000]), [4096, 8192, 16384, 32768]);
        let mut chunks = Chunks::default();
        let largest = (0..4000).map(|_| chunks.allocate(Policy::Rustc, 4096)).max();
        assert_eq!(largest, Some(2 << 20));
    }

    #[test]
    fn nodes_are_those_of_zig_and_the_last_block_goes_in_place() {
        let mut chunks = Chunks::default();
        assert_eq!(chunks.allocate(Policy::Zig, 100), (112 + 32) * 3 / 2);
        assert_eq!(chunks.resize_last(100, 200), Some(()));
        assert_eq!(chunks.resize_last(200, 300), None, "the node holds 216 bytes");
        chunks.free_last(200);
        assert_eq!((chunks.used_bytes, chunks.held_bytes), (0, 216));
    }

    #[test]
    fn what_is_held_is_never_less_than_what_is_used() {
        let policies = [
            Policy::Llvm,
            Policy::Rustc,
            Policy::Zig,
            Policy::Bumpalo,
            Policy::Custom { first_bytes: 100, growth_percent: 150, max_bytes: 1000, last_in_place: true },
        ];
        for policy in policies {
            let mut chunks = Chunks::default();
            let mut taken = 0;
            for step in 1..2000_u64 {
                taken += chunks.allocate(policy, step * 37 % 9000);
                assert!(chunks.used_bytes <= chunks.held_bytes, "{policy:?} at {step}");
                assert_eq!(chunks.held_bytes, taken);
            }
            let given_back = chunks.reset();
            assert_eq!(chunks.held_bytes + given_back, taken);
            assert_eq!(chunks.allocate(policy, 16), 0, "a reset arena has a chunk");
        }
    }

    #[test]
    fn policies_are_read_from_text() {
        assert_eq!(Policy::parse("zig"), Some(Policy::Zig));
        let custom = Policy::Custom { first_bytes: 64, growth_percent: 200, max_bytes: 4096, last_in_place: true };
        assert_eq!(Policy::parse("64:200:4096:in-place"), Some(custom));
        for wrong in ["", "llvm2", "0:200:5", "64:50:4096", "64:200", "64:200:32", "64:200:4096:x", "1:200:4:in-place:"]
        {
            assert_eq!(Policy::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn sizes_in_malloc_are_those_of_glibc() {
        for (asked, taken) in [(0, 32), (1, 32), (24, 32), (25, 48), (40, 48), (41, 64), (100, 112)] {
            assert_eq!(in_malloc(asked), taken, "{asked}");
        }
    }
}
