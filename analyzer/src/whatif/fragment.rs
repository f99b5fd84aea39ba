#![expect(unsafe_code, reason = "blocks are raw memory")]
//! A heap that has a history. Responsible for leaving holes in it before a replay begins; not for measuring.
//!
//! A fresh heap flatters everything: blocks that are born together lie together. So blocks of the script's own sizes are allocated, as many
//! bytes as it has alive at its peak, and half of them, shuffled, are freed. The shuffle is always the same.

use std::io;
use std::ptr::NonNull;

use super::check::Script;
use super::execute::{Failure, touch};
use super::heap::Heap;
use super::script::Step;
use super::table::Table;

/// No more blocks than this.
const MOST_BLOCKS: u64 = 1 << 20;
/// Where the shuffle begins.
const SEED: u64 = 0x9e37_79b9_7f4a_7c15;

/// Leaves holes in a heap. The blocks around them stay to the end of the process.
///
/// # Errors
/// There is no memory: for the table, or (inside) for a block.
pub(super) fn fragment(script: &Script<'_>, heap: impl Heap) -> io::Result<Result<(), Failure>> {
    let sizes = || {
        script.steps().filter_map(|step| match step {
            Step::Allocate { size_bytes, .. }
            | Step::AllocateZeroed { size_bytes, .. }
            | Step::AllocateAligned { size_bytes, .. } => Some(size_bytes),
            _ => None,
        })
    };
    let (count, sum) = sizes().fold((0_u64, 0_u64), |(count, sum), size| (count + 1, sum.saturating_add(size)));
    let wanted = script.header().peak_bytes.min(sum);
    let wanted_count = (u128::from(count) * u128::from(wanted) / u128::from(sum.max(1))) as u64;
    let stride = count.div_ceil(wanted_count.clamp(1, MOST_BLOCKS)).max(1) as usize;
    let mut blocks = Table::<*mut u8>::zeroed((count as usize).div_ceil(stride))?;
    for (place, size_bytes) in blocks.iter_mut().zip(sizes().step_by(stride)) {
        let Some(block) = heap.allocate(size_bytes as usize) else {
            return Ok(Err(Failure::OutOfMemory { size_bytes }));
        };
        // SAFETY: the block is that long.
        unsafe { touch(block, 0, size_bytes) };
        *place = block.as_ptr();
    }
    let mut random = SEED;
    for at in (1..blocks.len()).rev() {
        blocks.swap(at, (next(&mut random) % (at as u64 + 1)) as usize);
    }
    let half = blocks.len() / 2;
    for block in blocks[..half].iter().copied().filter_map(NonNull::new) {
        // SAFETY: it came from this allocator, and nobody else knows it.
        unsafe { heap.free(block) };
    }
    Ok(Ok(()))
}

/// Steele, Lea and Flood's `SplitMix64`.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
