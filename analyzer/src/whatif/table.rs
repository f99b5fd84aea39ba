//! Tables outside of any heap. Responsible for memory of a fixed length, all zero and already there; not for what is in it.

#![expect(
    unsafe_code,
    reason = "tables lie in mapped memory, so that they are not blocks of the heap that is measured"
)]

use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};

use memmap2::{Mmap, MmapMut, MmapOptions};

/// What may be a row of a table.
///
/// # Safety
/// All bytes zero are a value; nothing needs dropping; the alignment is at most that of a page.
pub(super) unsafe trait Row: Copy {}

// SAFETY: a null pointer.
unsafe impl Row for *mut u8 {}

// SAFETY: a number.
unsafe impl Row for u8 {}

/// A table.
#[derive(Debug)]
pub(super) struct Table<T> {
    memory: MmapMut,
    length: usize,
    rows: PhantomData<T>,
}

impl<T: Row> Table<T> {
    /// So many rows of zeros.
    pub(super) fn zeroed(length: usize) -> io::Result<Self> {
        let bytes = length.saturating_mul(size_of::<T>()).max(1);
        let memory = MmapOptions::new().len(bytes).populate().map_anon()?;
        Ok(Self { memory, length, rows: PhantomData })
    }
}

impl<T: Row> Deref for Table<T> {
    type Target = [T];

    #[inline]
    fn deref(&self) -> &[T] {
        // SAFETY: the memory is a page's multiple, as long as `length` rows, and began as zeros.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr().cast(), self.length) }
    }
}

impl<T: Row> DerefMut for Table<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut [T] {
        // SAFETY: as in `deref`, and the table is borrowed whole.
        unsafe { std::slice::from_raw_parts_mut(self.memory.as_mut_ptr().cast(), self.length) }
    }
}

/// A file as words, a rest of less than a word left out.
pub(super) fn words(file: &Mmap) -> &[u64] {
    // SAFETY: a mapping begins at a page, and any bytes make a word.
    let (before, words, _) = unsafe { file.align_to::<u64>() };
    debug_assert!(before.is_empty(), "a mapping begins at a page");
    words
}

/// Maps a file that nobody changes, all of it already in memory.
///
/// # Errors
/// It cannot be opened or mapped.
pub(super) fn map(path: &std::path::Path) -> io::Result<Mmap> {
    let file = std::fs::File::open(path)?;
    // SAFETY: scripts lie in a folder of the process that waits for this one, and are complete before it starts this one.
    unsafe { MmapOptions::new().populate().map(&file) }
}
