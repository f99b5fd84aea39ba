//! Live bytes against the pages that they hold. Responsible for an exact picture of each heap at the peak of its process, and for
//! who keeps pages that are nearly empty; not for what the allocator holds beside live blocks (headers, free lists, rounding), of
//! which a trace knows nothing.
//!
//! The peak is known from an earlier pass. A block was alive at it if it was born before and dies after, so no table of live
//! blocks is needed: blocks are taken down when they die. A block that a failed realloc takes away and brings back was alive
//! whenever no such realloc was under way.
//!
//! ```text
//!  pages   ████▓▓▓▓│█░░░░░░░│░░░░█░░░│░░░░░░░░│████████     touched: 4 of 5, span 5
//!                    nearly empty ────┘  hole
//! ```
//!
//! Memory: blocks alive at the peak, and twice that while they are sorted.

use foldhash::{HashMap, HashMapExt, HashSet};
use serde::Serialize;
use trace_format::{DomainId, ProcessId, Sequence};

use super::listing::Listing;
use super::page_requests::PAGE_BYTES;
use super::places::{PatternSite, Places, Site};
use crate::replay::{Amount, Outcome};
use crate::sites::ratio;

/// A page with less than this part live, one in so many, is nearly empty.
const NEARLY_EMPTY: u64 = 8;
/// A hole of so many bytes parts two regions: the span does not count it.
const REGION_GAP_BYTES: u64 = 1 << 20;

/// Live bytes against pages, by heap.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Fragmentation {
    /// Heaps at the peaks of their processes, the most pages first.
    pub heaps: Vec<HeapPages>,
    /// Sites with blocks on nearly empty pages; `count` and `bytes` are of such pages. A page with blocks of two sites counts for
    /// both, but once in the sums.
    pub pins: Listing<Pin>,
}

/// One allocator's memory in one process, at the peak of that process.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HeapPages {
    /// The process.
    pub process: String,
    /// Its pid.
    pub pid: u32,
    /// The allocator.
    pub domain: String,
    /// When the peak was.
    pub at_ns: u64,
    /// Blocks alive.
    pub live_count: u64,
    /// Their bytes, as requested.
    pub live_bytes: u64,
    /// Pages of 4 KiB that they touch.
    pub page_count: u64,
    /// Bytes of these pages.
    pub page_bytes: u64,
    /// Live bytes by bytes of pages, from 0 to 1.
    pub used_share: f64,
    /// From the first to the last page, holes of more than 1 MiB left out.
    pub span_bytes: u64,
    /// Regions that such holes part.
    pub region_count: u64,
    /// Pages of which less than an eighth is live.
    pub nearly_empty_page_count: u64,
    /// Live bytes on them.
    pub nearly_empty_live_bytes: u64,
    /// Pages by how much of them is live: up to an eighth, up to two eighths, … up to all.
    pub pages_by_eighths: [u64; 8],
}

/// Who keeps pages that are nearly empty.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pin {
    /// Who allocates.
    #[serde(flatten)]
    pub site: PatternSite,
    /// Nearly empty pages with blocks of it.
    pub page_count: u64,
    /// Of them, pages with blocks of nobody else.
    pub sole_page_count: u64,
    /// Its live bytes on them.
    pub live_bytes: u64,
}

/// A block alive at the peak.
#[derive(Debug, Clone, Copy)]
struct AtPeak {
    address: u64,
    size_bytes: u64,
    site: Site,
}

/// Where a block is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Extent {
    pub(super) site: Site,
    pub(super) process: ProcessId,
    pub(super) domain: DomainId,
    pub(super) address: u64,
    pub(super) size_bytes: u64,
    pub(super) birth: Sequence,
}

/// Takes down what was alive at the peak.
#[derive(Debug)]
pub(super) struct Snapshot {
    /// By process.
    peaks: Vec<Sequence>,
    blocks: HashMap<(ProcessId, DomainId), Vec<AtPeak>>,
    /// Births of blocks that outlived the peak but are settled: taken down already, or not there at the peak.
    settled: HashSet<Sequence>,
}

impl Snapshot {
    pub(super) fn new(outcome: &Outcome) -> Self {
        let peaks = outcome.processes.iter().map(|process| process.account.peak.sequence).collect();
        Self { peaks, blocks: HashMap::new(), settled: HashSet::default() }
    }

    /// A block dies by the event with this number, or lives on at the end (none).
    #[inline]
    pub(super) fn died(&mut self, extent: &Extent, death: Option<Sequence>) {
        let Some(peak) = self.peaks.get(extent.process.index()) else { return };
        let was_alive = extent.birth <= *peak && death.is_none_or(|death| death > *peak);
        if was_alive && !self.settled.remove(&extent.birth) {
            let block = AtPeak { address: extent.address, size_bytes: extent.size_bytes, site: extent.site };
            self.blocks.entry((extent.process, extent.domain)).or_default().push(block);
        }
    }

    /// A block that a realloc took away (`died` told) comes back, for the realloc failed.
    pub(super) fn stayed(&mut self, process: ProcessId, birth: Sequence, now: Sequence) {
        if self.peaks.get(process.index()).is_some_and(|peak| birth <= *peak && now > *peak) {
            self.settled.insert(birth);
        }
    }

    /// The picture.
    pub(super) fn finish(self, places: &Places<'_>, outcome: &Outcome, limit: usize) -> Fragmentation {
        let mut pins = vec![PinCount::default(); places.len()];
        let mut heaps: Vec<((ProcessId, DomainId), Pages)> = self
            .blocks
            .into_iter()
            .map(|(key, mut blocks)| {
                blocks.sort_unstable_by_key(|block| (block.address, block.size_bytes));
                (key, Pages::of(&blocks, &mut pins))
            })
            .collect();
        heaps.sort_unstable_by_key(|(key, pages)| (std::cmp::Reverse((pages.page_count, pages.live.bytes)), *key));
        let ranked = places.ranked(|site| pins[site.index()].page_count);
        let describe = |site: &Site| {
            let PinCount { page_count, sole_page_count, live_bytes } = pins[site.index()];
            Pin { site: places.describe(*site), page_count, sole_page_count, live_bytes }
        };
        let nearly_empty: u64 = heaps.iter().map(|(_, pages)| pages.nearly_empty_page_count).sum();
        let pins = Listing {
            site_count: ranked.len() as u64,
            count: nearly_empty,
            bytes: nearly_empty * PAGE_BYTES,
            rows: ranked.iter().take(limit).map(describe).collect(),
        };
        let heaps = heaps.into_iter().map(|((process, domain), pages)| heap(places, outcome, process, domain, &pages));
        Fragmentation { heaps: heaps.collect(), pins }
    }
}

fn heap(places: &Places<'_>, outcome: &Outcome, process: ProcessId, domain: DomainId, pages: &Pages) -> HeapPages {
    let row = &places.tables.processes[process.index()];
    let page_bytes = pages.page_count * PAGE_BYTES;
    HeapPages {
        process: row.name.clone(),
        pid: row.pid,
        domain: places.tables.domains.get(domain.index()).map_or_else(String::new, |domain| domain.name.clone()),
        at_ns: outcome.processes[process.index()].account.peak.time_ns,
        live_count: pages.live.count,
        live_bytes: pages.live.bytes,
        page_count: pages.page_count,
        page_bytes,
        used_share: ratio(pages.live.bytes, page_bytes),
        span_bytes: pages.span_bytes,
        region_count: pages.region_count,
        nearly_empty_page_count: pages.nearly_empty_page_count,
        nearly_empty_live_bytes: pages.nearly_empty_live_bytes,
        pages_by_eighths: pages.by_eighths,
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct PinCount {
    page_count: u64,
    sole_page_count: u64,
    live_bytes: u64,
}

/// Pages that blocks touch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Pages {
    live: Amount,
    page_count: u64,
    span_bytes: u64,
    region_count: u64,
    nearly_empty_page_count: u64,
    nearly_empty_live_bytes: u64,
    by_eighths: [u64; 8],
}

/// The page that is being filled.
#[derive(Debug, Default)]
struct Page {
    number: Option<u64>,
    live_bytes: u64,
    owners: Vec<(Site, u64)>,
}

impl Pages {
    /// Of blocks in the order of their addresses. O(blocks + pages).
    fn of(blocks: &[AtPeak], pins: &mut [PinCount]) -> Self {
        let mut pages = Self::default();
        let mut page = Page::default();
        for block in blocks {
            pages.live += Amount { bytes: block.size_bytes, count: 1 };
            // A block without bytes holds its page all the same.
            let end = block.address.saturating_add(block.size_bytes.max(1));
            let (first, last) = (block.address / PAGE_BYTES, (end - 1) / PAGE_BYTES);
            for number in first..=last {
                if page.number != Some(number) {
                    if page.number.is_some_and(|before| before > number) {
                        // Blocks that overlap: only a damaged trace has them. Their pages count once.
                        continue;
                    }
                    pages.settle(&mut page, pins);
                    pages.reach(page.number, number);
                    page.number = Some(number);
                }
                let begin = block.address.max(number * PAGE_BYTES);
                let here = end.min((number + 1).saturating_mul(PAGE_BYTES)) - begin;
                let here = here.min(block.size_bytes);
                page.live_bytes += here;
                match page.owners.iter_mut().find(|(site, _)| *site == block.site) {
                    Some((_, bytes)) => *bytes += here,
                    None => page.owners.push((block.site, here)),
                }
            }
        }
        pages.settle(&mut page, pins);
        pages
    }

    /// The next page is touched.
    fn reach(&mut self, before: Option<u64>, number: u64) {
        self.page_count += 1;
        let gap_bytes = before.map(|before| (number - before - 1).saturating_mul(PAGE_BYTES));
        match gap_bytes {
            Some(gap_bytes) if gap_bytes <= REGION_GAP_BYTES => self.span_bytes += gap_bytes + PAGE_BYTES,
            _ => {
                self.region_count += 1;
                self.span_bytes += PAGE_BYTES;
            }
        }
    }

    /// No block of a page is left.
    fn settle(&mut self, page: &mut Page, pins: &mut [PinCount]) {
        if page.number.is_none() {
            return;
        }
        let eighth = (page.live_bytes.min(PAGE_BYTES) * 8).div_ceil(PAGE_BYTES).max(1) as usize - 1;
        self.by_eighths[eighth] += 1;
        if page.live_bytes < PAGE_BYTES / NEARLY_EMPTY {
            self.nearly_empty_page_count += 1;
            self.nearly_empty_live_bytes += page.live_bytes;
            let sole = page.owners.len() == 1;
            for (site, bytes) in &page.owners {
                let pin = &mut pins[site.index()];
                pin.page_count += 1;
                pin.sole_page_count += u64::from(sole);
                pin.live_bytes += bytes;
            }
        }
        page.owners.clear();
        page.live_bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(address: u64, size_bytes: u64, site: u32) -> AtPeak {
        AtPeak { address, size_bytes, site: Site(site) }
    }

    #[test]
    fn pages_are_counted_once_however_many_blocks_touch_them() {
        let mut pins = vec![PinCount::default(); 2];
        let blocks = [
            block(0x1000, 100, 0),
            block(0x1800, 100, 1),
            // Reaches from the second page into the third.
            block(0x2f00, 0x200, 0),
            block(0x10_0000, 0x3000, 1),
            // A region of its own: alone on its page, and of no bytes.
            block(0x1000_0000, 0, 0),
        ];
        let pages = Pages::of(&blocks, &mut pins);
        assert_eq!(pages.live, Amount { bytes: 200 + 0x200 + 0x3000, count: 5 });
        assert_eq!((pages.page_count, pages.region_count), (7, 2));
        assert_eq!(pages.span_bytes, 0x10_3000 - 0x1000 + PAGE_BYTES);
        assert_eq!(pages.by_eighths, [4, 0, 0, 0, 0, 0, 0, 3]);
        assert_eq!((pages.nearly_empty_page_count, pages.nearly_empty_live_bytes), (4, 200 + 0x200));
        assert_eq!(pins[0], PinCount { page_count: 4, sole_page_count: 3, live_bytes: 100 + 0x200 });
        assert_eq!(pins[1], PinCount { page_count: 1, sole_page_count: 0, live_bytes: 100 });
    }

    #[test]
    fn failed_reallocs_neither_lose_nor_double_a_block() {
        let outcome = |peak: u64| {
            let tables = trace_format::Tables {
                processes: vec![trace_format::Process::default()],
                ..trace_format::Tables::default()
            };
            let mut outcome = crate::Replay::new(&tables).finish();
            outcome.processes[0].account.peak.sequence = Sequence(peak);
            outcome
        };
        let extent = Extent {
            site: Site(0),
            process: ProcessId(0),
            domain: DomainId(0),
            address: 64,
            size_bytes: 8,
            birth: Sequence(10),
        };
        // Away from 20 to 30, dead at 40.
        for (peak, expected) in [(5, 0), (10, 1), (15, 1), (20, 0), (25, 0), (30, 1), (35, 1), (40, 0)] {
            let mut snapshot = Snapshot::new(&outcome(peak));
            snapshot.died(&extent, Some(Sequence(20)));
            snapshot.stayed(ProcessId(0), Sequence(10), Sequence(30));
            snapshot.died(&extent, Some(Sequence(40)));
            let found: usize = snapshot.blocks.values().map(Vec::len).sum();
            assert_eq!(found, expected, "peak at {peak}");
        }
    }
}
