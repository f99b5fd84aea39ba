//! Small requests made as if for pages. Responsible for sites that ask for whole pages, or aligned to pages, of at most 64 KiB and
//! give them back; not for calls to the kernel, which a trace does not hold.
//!
//! A page allocator that serves small, short-lived requests costs a system call and a page fault each. A trace holds what malloc
//! and its kin were asked for, so what is found here is their shadow: requests of whole pages.

use serde::Serialize;

use super::listing::Listing;
use super::places::{PatternSite, Places, Site};
use crate::replay::Amount;

/// Size of a page on the machines that can be recorded.
pub(super) const PAGE_BYTES: u64 = 4096;
/// Greater requests deserve pages.
const SMALL_BYTES: u64 = 64 * 1024;
/// Pairs of alloc and free that make a site worth listing.
const LEAST: u64 = 16;

/// Requests of whole pages. Beside them, what a trace can and cannot show.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PageRequests {
    /// Whether the trace holds calls that map and unmap pages. No version of the format does so far.
    pub maps_recorded: bool,
    /// Sites that ask for whole pages and give them back; `count` is of pairs of alloc and free.
    pub requests: Listing<PageRequest>,
}

/// A function that asks for whole pages.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PageRequest {
    /// Who allocates.
    #[serde(flatten)]
    pub site: PatternSite,
    /// Requests for whole pages, or aligned to pages, of at most 64 KiB.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of them, aligned to pages at least.
    pub aligned_count: u64,
    /// Of them, freed.
    pub freed_count: u64,
    /// Of those freed, within two events of their thread.
    pub freed_at_once_count: u64,
    /// The greatest.
    pub max_bytes: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Found {
    born: Amount,
    aligned_count: u64,
    freed_count: u64,
    freed_at_once_count: u64,
    max_bytes: u64,
}

/// Whether a request is one for pages, and for aligned ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum PageKind {
    #[default]
    No,
    Whole,
    Aligned,
}

impl PageKind {
    /// Of a request.
    pub(super) fn of(size_bytes: u64, alignment_bytes: u64) -> Self {
        if size_bytes == 0 || size_bytes > SMALL_BYTES {
            Self::No
        } else if alignment_bytes >= PAGE_BYTES {
            Self::Aligned
        } else if size_bytes.is_multiple_of(PAGE_BYTES) {
            Self::Whole
        } else {
            Self::No
        }
    }
}

/// The detector.
#[derive(Debug)]
pub(super) struct PageWatch {
    found: Vec<Found>,
}

impl PageWatch {
    pub(super) fn new(site_count: usize) -> Self {
        Self { found: vec![Found::default(); site_count] }
    }

    /// A block is born by an alloc.
    #[inline]
    pub(super) fn born(&mut self, site: Site, size_bytes: u64, kind: PageKind) {
        if kind == PageKind::No {
            return;
        }
        let found = &mut self.found[site.index()];
        found.born += Amount { bytes: size_bytes, count: 1 };
        found.aligned_count += u64::from(kind == PageKind::Aligned);
        found.max_bytes = found.max_bytes.max(size_bytes);
    }

    /// It is freed, within two events or later.
    #[inline]
    pub(super) fn freed(&mut self, site: Site, kind: PageKind, at_once: bool) {
        if kind == PageKind::No {
            return;
        }
        let found = &mut self.found[site.index()];
        found.freed_count += 1;
        found.freed_at_once_count += u64::from(at_once);
    }

    /// What was found, the most pairs first.
    pub(super) fn finish(&self, places: &Places<'_>, limit: usize) -> PageRequests {
        let found = |site: Site| &self.found[site.index()];
        let ranked = places.ranked(|site| {
            let found = found(site);
            if found.freed_count < LEAST { (0, 0) } else { (found.freed_count, found.born.bytes) }
        });
        let rows = ranked.iter().take(limit).map(|site| {
            let found = found(*site);
            PageRequest {
                site: places.describe(*site),
                count: found.born.count,
                bytes: found.born.bytes,
                aligned_count: found.aligned_count,
                freed_count: found.freed_count,
                freed_at_once_count: found.freed_at_once_count,
                max_bytes: found.max_bytes,
            }
        });
        let requests = Listing {
            site_count: ranked.len() as u64,
            count: ranked.iter().map(|site| found(*site).freed_count).sum(),
            bytes: ranked.iter().map(|site| found(*site).born.bytes).sum(),
            rows: rows.collect(),
        };
        PageRequests { maps_recorded: false, requests }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_pages_up_to_64_kib_are_page_requests() {
        for (size_bytes, alignment_bytes, expected) in [
            (4096, 0, PageKind::Whole),
            (65_536, 16, PageKind::Whole),
            (65_537, 4096, PageKind::No),
            (69_632, 0, PageKind::No),
            (100, 4096, PageKind::Aligned),
            (100, 64, PageKind::No),
            (0, 4096, PageKind::No),
            (4095, 0, PageKind::No),
        ] {
            assert_eq!(PageKind::of(size_bytes, alignment_bytes), expected, "{size_bytes} at {alignment_bytes}");
        }
    }
}
