#![expect(unsafe_code, reason = "what is written to blocks is read back")]
//! Watches the contents of blocks. Responsible for telling whether blocks overlap, lose what was in them, or are not zero where they
//! should be: every block is filled with a pattern of its own, which must be there when it dies. Not part of a measurement: there
//! [`Unwatched`] does nothing.

use std::ptr::NonNull;

/// Is told of every block.
///
/// # Safety
/// Blocks are as long as said, and those that were told of and have not died are still there.
pub(super) trait Watch: Send {
    /// malloc returned a block. What was in the slot before is alive, and nobody will free it.
    unsafe fn born(&mut self, slot: u32, block: NonNull<u8>, size_bytes: u64);
    /// calloc returned a block, which nobody has written to.
    unsafe fn zeroed(&mut self, block: NonNull<u8>, size_bytes: u64);
    /// realloc is called.
    fn moves(&mut self, slot: u32);
    /// realloc returned.
    unsafe fn moved(&mut self, slot: u32, block: NonNull<u8>, size_bytes: u64);
    /// free is called.
    unsafe fn dies(&mut self, slot: u32);
    /// An arena handed out a block; `moved`: with the contents of the one in this slot.
    unsafe fn bumped(&mut self, slot: u32, block: NonNull<u8>, size_bytes: u64, arena: u32, moved_bytes: Option<u64>);
    /// A block in an arena has grown where it is.
    unsafe fn stretched(&mut self, slot: u32, block: NonNull<u8>, old_bytes: u64, size_bytes: u64, arena: u32);
    /// The last block in an arena goes.
    unsafe fn popped(&mut self, slot: u32, arena: u32);
    /// An arena is closed or reset.
    unsafe fn ends(&mut self, arena: u32);
    /// The script is over, all that is alive is still there.
    fn over(&mut self);
}

/// Looks at nothing.
#[derive(Debug)]
pub(super) struct Unwatched;

impl Watch for Unwatched {
    #[inline]
    unsafe fn born(&mut self, _: u32, _: NonNull<u8>, _: u64) {}
    #[inline]
    unsafe fn zeroed(&mut self, _: NonNull<u8>, _: u64) {}
    #[inline]
    fn moves(&mut self, _: u32) {}
    #[inline]
    unsafe fn moved(&mut self, _: u32, _: NonNull<u8>, _: u64) {}
    #[inline]
    unsafe fn dies(&mut self, _: u32) {}
    #[inline]
    unsafe fn bumped(&mut self, _: u32, _: NonNull<u8>, _: u64, _: u32, _: Option<u64>) {}
    #[inline]
    unsafe fn stretched(&mut self, _: u32, _: NonNull<u8>, _: u64, _: u64, _: u32) {}
    #[inline]
    unsafe fn popped(&mut self, _: u32, _: u32) {}
    #[inline]
    unsafe fn ends(&mut self, _: u32) {}
    #[inline]
    fn over(&mut self) {}
}

/// A block with its pattern.
#[derive(Debug, Clone, Copy)]
struct Filled {
    block: NonNull<u8>,
    size_bytes: u64,
    pattern: [u8; 8],
}

impl Filled {
    /// Whether the first bytes are what was written.
    ///
    /// # Safety
    /// At `block` are so many bytes.
    unsafe fn is_whole(&self, block: NonNull<u8>, size_bytes: u64) -> bool {
        // SAFETY: the caller's promise.
        let bytes = unsafe { std::slice::from_raw_parts(block.as_ptr(), size_bytes as usize) };
        let eights = bytes.chunks_exact(self.pattern.len());
        let rest = eights.remainder();
        rest == &self.pattern[..rest.len()] && eights.into_iter().all(|found| found == self.pattern)
    }
}

/// Looks at everything.
#[derive(Debug, Default)]
pub(super) struct Watched {
    /// Blocks of malloc's.
    slots: Vec<Option<Filled>>,
    /// Those that were forgotten.
    forgotten: Vec<Filled>,
    /// By arena: all blocks that it handed out, dead ones too: nothing else may be there before it ends.
    arenas: Vec<Vec<Filled>>,
    /// In which arena a slot's block is, and where in its list.
    in_arena: Vec<Option<(u32, usize)>>,
    seed: u64,
    /// Blocks whose contents were looked at.
    pub(super) checked_count: u64,
    /// The first thing that was wrong.
    pub(super) broken: Option<String>,
}

// SAFETY: the pointers are to blocks of the machine that it watches, and go where that goes.
unsafe impl Send for Watched {}

/// Makes room for a row.
fn row<T: Default + Clone>(rows: &mut Vec<T>, at: u32) -> &mut T {
    let at = at as usize;
    if at >= rows.len() {
        rows.resize(at + 1, T::default());
    }
    &mut rows[at]
}

impl Watched {
    unsafe fn fill(&mut self, block: NonNull<u8>, size_bytes: u64) -> Filled {
        self.seed += 1;
        // Knuth's multiplier: neighbours differ in all bytes but few.
        let pattern = self.seed.wrapping_mul(6_364_136_223_846_793_005).rotate_left(17).to_le_bytes();
        for at in (0..size_bytes as usize).step_by(pattern.len()) {
            let count = pattern.len().min(size_bytes as usize - at);
            // SAFETY: the block is that long.
            unsafe { block.add(at).as_ptr().copy_from_nonoverlapping(pattern.as_ptr(), count) };
        }
        Filled { block, size_bytes, pattern }
    }

    fn expect(&mut self, holds: bool, what: &str, filled: &Filled) {
        self.checked_count += 1;
        if !holds && self.broken.is_none() {
            self.broken = Some(format!("{what} (a block of {} bytes)", filled.size_bytes));
        }
    }

    unsafe fn look(&mut self, filled: &Filled, what: &str) {
        // SAFETY: the block is there yet.
        let holds = unsafe { filled.is_whole(filled.block, filled.size_bytes) };
        self.expect(holds, what, filled);
    }

    /// A slot gets another block.
    fn forget(&mut self, slot: u32) {
        if let Some(forgotten) = row(&mut self.slots, slot).take() {
            self.forgotten.push(forgotten);
        }
        *row(&mut self.in_arena, slot) = None;
    }
}

impl Watch for Watched {
    unsafe fn born(&mut self, slot: u32, block: NonNull<u8>, size_bytes: u64) {
        self.forget(slot);
        // SAFETY: the caller's promise.
        let filled = unsafe { self.fill(block, size_bytes) };
        *row(&mut self.slots, slot) = Some(filled);
    }

    unsafe fn zeroed(&mut self, block: NonNull<u8>, size_bytes: u64) {
        let zeros = Filled { block, size_bytes, pattern: [0; 8] };
        // SAFETY: the caller's promise.
        unsafe { self.look(&zeros, "calloc returned memory that is not zero") };
    }

    fn moves(&mut self, slot: u32) {
        if let Some(filled) = *row(&mut self.slots, slot) {
            // SAFETY: the block is there until realloc is called.
            unsafe { self.look(&filled, "something wrote over a block before its realloc") };
        }
    }

    unsafe fn moved(&mut self, slot: u32, block: NonNull<u8>, size_bytes: u64) {
        if let Some(old) = *row(&mut self.slots, slot) {
            // SAFETY: the new block is at least that long.
            let holds = unsafe { old.is_whole(block, old.size_bytes.min(size_bytes)) };
            self.expect(holds, "a realloc lost what was in its block", &old);
        }
        // SAFETY: the caller's promise.
        let filled = unsafe { self.fill(block, size_bytes) };
        *row(&mut self.slots, slot) = Some(filled);
    }

    unsafe fn dies(&mut self, slot: u32) {
        if let Some(filled) = row(&mut self.slots, slot).take() {
            // SAFETY: the caller's promise.
            unsafe { self.look(&filled, "something wrote over a block before it was freed") };
        }
    }

    unsafe fn bumped(&mut self, slot: u32, block: NonNull<u8>, size_bytes: u64, arena: u32, moved_bytes: Option<u64>) {
        let old = row(&mut self.in_arena, slot).and_then(|(arena, at)| self.arenas[arena as usize].get(at).copied());
        if let (Some(old), Some(moved_bytes)) = (old, moved_bytes) {
            // It may have shrunk where it was: then less is moved.
            let kept_bytes = old.size_bytes.min(moved_bytes).min(size_bytes);
            // SAFETY: the new block is at least that long.
            let holds = unsafe { old.is_whole(block, kept_bytes) };
            self.expect(holds, "a move within an arena lost what was in its block", &old);
        }
        self.forget(slot);
        // SAFETY: the caller's promise.
        let filled = unsafe { self.fill(block, size_bytes) };
        let blocks = row(&mut self.arenas, arena);
        blocks.push(filled);
        let at = blocks.len() - 1;
        *row(&mut self.in_arena, slot) = Some((arena, at));
    }

    unsafe fn stretched(&mut self, slot: u32, block: NonNull<u8>, old_bytes: u64, size_bytes: u64, arena: u32) {
        let Some((_, at)) = *row(&mut self.in_arena, slot) else { return };
        let old = self.arenas[arena as usize][at];
        // SAFETY: the block is longer than it was.
        let holds = unsafe { old.is_whole(block, old.size_bytes.min(old_bytes)) };
        self.expect(holds, "a block lost what was in it when it grew where it is", &old);
        // SAFETY: the caller's promise.
        self.arenas[arena as usize][at] = unsafe { self.fill(block, size_bytes) };
    }

    unsafe fn popped(&mut self, slot: u32, arena: u32) {
        let Some((_, at)) = row(&mut self.in_arena, slot).take() else { return };
        let blocks = &mut self.arenas[arena as usize];
        let filled = blocks[at];
        // Others keep their places: what is last in the arena is last in the list.
        blocks.truncate(at);
        // SAFETY: the caller's promise.
        unsafe { self.look(&filled, "something wrote over the last block of an arena") };
    }

    unsafe fn ends(&mut self, arena: u32) {
        for filled in std::mem::take(row(&mut self.arenas, arena)) {
            // SAFETY: the caller's promise.
            unsafe { self.look(&filled, "something wrote over a block in an arena") };
        }
    }

    fn over(&mut self) {
        let rest: Vec<Filled> = self.slots.drain(..).flatten().chain(self.forgotten.drain(..)).collect();
        let in_arenas: Vec<Filled> = self.arenas.drain(..).flatten().collect();
        for filled in rest.into_iter().chain(in_arenas) {
            // SAFETY: nothing has freed it.
            unsafe { self.look(&filled, "something wrote over a block that was never freed") };
        }
    }
}
