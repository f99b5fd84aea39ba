//! How tables of the intake lie in memory. Responsible for telling processor and kernel what will be wanted; changes nothing but
//! time.
//!
//! The tables are looked into at places that nothing predicts, and are larger than what the processor remembers of pages: a
//! fetch would wait for the translation of its address first, twice as long in a virtual machine. So they ask for pages of
//! 2 MiB where they have grown large (not where they were copied for a forked child).

#![expect(unsafe_code, reason = "both hints are offered as unsafe functions")]

/// Tables smaller than this may hold no whole large page.
const LARGE_BYTES: usize = 4 << 20;

/// Begins to fetch what a reference points at.
#[inline]
pub(super) fn prefetch<T>(wanted: &T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which never faults.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(wanted).cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = wanted;
}

/// A table of `count` times `value`, on large pages where it is large and the kernel has any.
pub(super) fn table<T: Clone>(count: usize, value: T) -> Vec<T> {
    let mut table = Vec::with_capacity(count);
    let bytes = count * size_of::<T>();
    if bytes >= LARGE_BYTES {
        // SAFETY: advice about memory that is ours, before it is touched. A kernel that has no large pages refuses it.
        unsafe {
            let page = libc::sysconf(libc::_SC_PAGESIZE) as usize;
            let start = (table.as_ptr() as usize).next_multiple_of(page);
            let end = (table.as_ptr() as usize + bytes) / page * page;
            libc::madvise(start as *mut libc::c_void, end.saturating_sub(start), libc::MADV_HUGEPAGE);
        }
    }
    table.resize(count, value);
    table
}
