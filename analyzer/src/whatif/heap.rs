#![expect(unsafe_code, reason = "allocators are called as C programs call them")]
//! The allocators that a replay can call. Responsible for calling them; not for which one is wanted (see `allocator`), nor for what
//! is done with the blocks.

use std::ptr::NonNull;

/// An allocator.
pub(super) trait Heap: Copy + Send {
    /// malloc. `None`: there is no memory.
    fn allocate(self, size_bytes: usize) -> Option<NonNull<u8>>;

    /// calloc.
    fn allocate_zeroed(self, size_bytes: usize) -> Option<NonNull<u8>>;

    /// `aligned_alloc`; the alignment is a power of two.
    fn allocate_aligned(self, size_bytes: usize, alignment_bytes: usize) -> Option<NonNull<u8>>;

    /// realloc to a size above 0.
    ///
    /// # Safety
    /// The block is a live one of this allocator; it is no longer, unless there is no memory.
    unsafe fn reallocate(self, block: NonNull<u8>, size_bytes: usize) -> Option<NonNull<u8>>;

    /// free.
    ///
    /// # Safety
    /// The block is a live one of this allocator; it is no longer.
    unsafe fn free(self, block: NonNull<u8>);
}

/// Whatever `malloc` is in this process: the C library's, or that of a library loaded before it.
#[derive(Debug, Clone, Copy)]
pub(super) struct System;

impl Heap for System {
    #[inline]
    fn allocate(self, size_bytes: usize) -> Option<NonNull<u8>> {
        // SAFETY: malloc takes any size.
        NonNull::new(unsafe { libc::malloc(size_bytes) }.cast())
    }

    #[inline]
    fn allocate_zeroed(self, size_bytes: usize) -> Option<NonNull<u8>> {
        // SAFETY: calloc takes any size.
        NonNull::new(unsafe { libc::calloc(1, size_bytes) }.cast())
    }

    #[inline]
    fn allocate_aligned(self, size_bytes: usize, alignment_bytes: usize) -> Option<NonNull<u8>> {
        // SAFETY: the alignment is a power of two; all allocators take any size with it.
        NonNull::new(unsafe { libc::aligned_alloc(alignment_bytes, size_bytes) }.cast())
    }

    #[inline]
    unsafe fn reallocate(self, block: NonNull<u8>, size_bytes: usize) -> Option<NonNull<u8>> {
        // SAFETY: the caller's promise.
        NonNull::new(unsafe { libc::realloc(block.as_ptr().cast(), size_bytes) }.cast())
    }

    #[inline]
    unsafe fn free(self, block: NonNull<u8>) {
        // SAFETY: the caller's promise.
        unsafe { libc::free(block.as_ptr().cast()) }
    }
}

/// mimalloc, built in under names of its own.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mimalloc;

impl Heap for Mimalloc {
    #[inline]
    fn allocate(self, size_bytes: usize) -> Option<NonNull<u8>> {
        // SAFETY: it takes any size.
        NonNull::new(unsafe { libmimalloc_sys::mi_malloc(size_bytes) }.cast())
    }

    #[inline]
    fn allocate_zeroed(self, size_bytes: usize) -> Option<NonNull<u8>> {
        // SAFETY: it takes any size.
        NonNull::new(unsafe { libmimalloc_sys::mi_zalloc(size_bytes) }.cast())
    }

    #[inline]
    fn allocate_aligned(self, size_bytes: usize, alignment_bytes: usize) -> Option<NonNull<u8>> {
        // SAFETY: the alignment is a power of two.
        NonNull::new(unsafe { libmimalloc_sys::mi_malloc_aligned(size_bytes, alignment_bytes) }.cast())
    }

    #[inline]
    unsafe fn reallocate(self, block: NonNull<u8>, size_bytes: usize) -> Option<NonNull<u8>> {
        // SAFETY: the caller's promise.
        NonNull::new(unsafe { libmimalloc_sys::mi_realloc(block.as_ptr().cast(), size_bytes) }.cast())
    }

    #[inline]
    unsafe fn free(self, block: NonNull<u8>) {
        // SAFETY: the caller's promise.
        unsafe { libmimalloc_sys::mi_free(block.as_ptr().cast()) }
    }
}

/// The file that `malloc` is in.
#[cfg(target_os = "linux")]
pub(super) fn home_of_malloc() -> Option<std::path::PathBuf> {
    use std::ffi::{CStr, OsStr};
    use std::os::unix::ffi::OsStrExt as _;

    let mut found = std::mem::MaybeUninit::<libc::Dl_info>::zeroed();
    let malloc: unsafe extern "C" fn(usize) -> *mut libc::c_void = libc::malloc;
    // SAFETY: the address is that of a function, and `found` is written to only.
    let known = unsafe { libc::dladdr(malloc as *const libc::c_void, found.as_mut_ptr()) };
    // SAFETY: all zero is a value of `Dl_info`, and dladdr wrote another one or nothing.
    let found = unsafe { found.assume_init() };
    if known == 0 || found.dli_fname.is_null() {
        return None;
    }
    // SAFETY: dladdr gives a name that ends with zero and lives as long as the library is loaded: to the end.
    let name = unsafe { CStr::from_ptr(found.dli_fname) };
    Some(OsStr::from_bytes(name.to_bytes()).into())
}
