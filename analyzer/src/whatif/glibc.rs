//! glibc's malloc, without memory. Responsible for where blocks would lie and how much would be resident, by the rules of `malloc.c`
//! (glibc 2.36; older and newer ones differ in what threads keep); not for whose blocks they are (see `predict`).
//!
//! What an allocator holds is not the sum of its blocks: small blocks settle in holes where large ones were, and a hole that
//! is a little too small serves nobody. No formula knows that; the rules do.
//!
//! ```text
//!   free ─▶ cache of the thread (7 per size, up to 1,040 bytes) ─▶ fast list (up to 128 bytes) ─┐ swept up together now and then
//!       └─▶ joined with free neighbours ─▶ unsorted ─▶ small bins (one size each, the oldest first)
//!                       │                         └─▶ large bins (the smallest that fits)
//!                       └─▶ top, if it is the last chunk ─▶ given back to the kernel beyond a threshold
//!   malloc: cache, fast list, small bin, unsorted (sorting what does not fit), the smallest that fits, top, more of it, a mapping
//! ```
//!
//! A chunk is told by the number of its first 16 bytes in its heap, its length in the same units. Left out: what was in the heap
//! before, what mappings cost the kernel, alignments above a page in the heaps of threads, and that such a heap is made anew beyond
//! 64 MiB. Memory: as much as the heaps that it models have.

mod heap;

use self::heap::{FAST, Heap, LARGE, LEAST, PAGE, UNIT, bytes};

/// Largest chunk that threads keep, units (`tcache_bins`).
const CACHED: u32 = 65;
/// Chunks of a size that a thread keeps (`tcache_count`).
const CACHE_DEPTH: usize = 7;
/// What a thread's cache itself takes, bytes.
const CACHE_BYTES: u64 = 640;
/// A free chunk of this size has the fast lists swept up, units (`FASTBIN_CONSOLIDATION_THRESHOLD`).
const SWEEPING: u32 = 65536 / UNIT as u32;
/// `DEFAULT_MMAP_THRESHOLD`, and the most it rises to by itself.
const MAPPED_FROM: u64 = 128 << 10;
const MAPPED_FROM_AT_MOST: u64 = 32 << 20;
/// Mappings at a time (`DEFAULT_MMAP_MAX`).
const MOST_MAPPINGS: u32 = 65_536;
/// Chunks that are sorted in one go (`MAX_ITERS`).
const MOST_SORTED: u32 = 10_000;

/// Where a block is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// A chunk of a heap.
    Chunk {
        /// The heap; 0 is the main one.
        heap: u32,
        /// The chunk's first unit of 16 bytes, counted from a place that is the same for all of the heap. The block begins in the next.
        at: u32,
    },
    /// A mapping of its own.
    Mapping {
        /// Its length.
        bytes: u64,
        /// How much of it was written to.
        resident_bytes: u64,
    },
}

/// Chunks that a thread keeps for itself.
#[derive(Debug, Clone)]
struct Cache {
    /// The thread's heap.
    heap: u32,
    /// Where this itself stands in it; nothing is kept before it does.
    at: Option<u32>,
    /// By size.
    chunks: Vec<Vec<(u32, u32)>>,
}

/// A process's malloc.
#[derive(Debug)]
pub struct Glibc {
    heaps: Vec<Heap>,
    /// Heaps of threads that ended.
    idle: Vec<u32>,
    threads: Vec<Option<Cache>>,
    mapped_bytes: u64,
    mapping_count: u32,
    mapped_from: u64,
    trimmed_from: u64,
    /// Most that was resident at a time.
    pub peak_bytes: u64,
}

fn units_of(size_bytes: u64) -> u32 {
    u32::try_from((size_bytes.saturating_add(8 + 15) / UNIT).max(u64::from(LEAST))).unwrap_or(u32::MAX / 2)
}

impl Cache {
    fn new(heap: u32) -> Self {
        Self { heap, at: None, chunks: vec![Vec::new(); CACHED as usize + 1] }
    }

    fn has_room(&self, units: u32) -> bool {
        self.at.is_some() && units <= CACHED && self.chunks[units as usize].len() < CACHE_DEPTH
    }

    fn put(&mut self, units: u32, heap: u32, at: u32) {
        self.chunks[units as usize].push((heap, at));
    }

    fn take(&mut self, units: u32) -> Option<(u32, u32)> {
        if units <= CACHED { self.chunks[units as usize].pop() } else { None }
    }
}

impl Glibc {
    /// A process that has not allocated yet, with so many threads to come.
    pub fn new(thread_count: u32) -> Self {
        Self {
            heaps: Vec::new(),
            idle: Vec::new(),
            threads: vec![None; thread_count as usize],
            mapped_bytes: 0,
            mapping_count: 0,
            mapped_from: MAPPED_FROM,
            trimmed_from: MAPPED_FROM,
            peak_bytes: 0,
        }
    }

    /// The same with all threads there already: each has a heap, unless there are more threads than that.
    pub(super) fn started(thread_count: u32, most_heaps: u32) -> Self {
        let mut malloc = Self::new(thread_count);
        for thread in 0..thread_count {
            if thread >= most_heaps {
                malloc.idle.push(thread % most_heaps);
            }
            let cache = malloc.cache_of(thread);
            malloc.threads[thread as usize] = Some(cache);
        }
        malloc
    }

    /// malloc of a block that is not written to yet, but for what stands in front of it (see `touch`).
    pub(super) fn reserve(&mut self, thread: u32, size_bytes: u64) -> Place {
        let (heaps, mapped_bytes) = (self.heaps.len(), self.mapped_bytes);
        let touched: Vec<u32> = self.heaps.iter().map(|heap| heap.touched).collect();
        let peak_bytes = self.peak_bytes;
        let mut place = self.allocate(thread, size_bytes, false);
        self.peak_bytes = peak_bytes;
        match &mut place {
            Place::Mapping { resident_bytes, .. } => {
                *resident_bytes = 0;
                self.mapped_bytes = mapped_bytes;
            }
            Place::Chunk { heap, .. } if (*heap as usize) < heaps => {
                self.heaps[*heap as usize].touched = touched[*heap as usize];
            }
            Place::Chunk { .. } => {}
        }
        self.touch(&mut place, 1);
        place
    }

    /// The first bytes of a block are written to.
    pub(super) fn touch(&mut self, place: &mut Place, size_bytes: u64) {
        match place {
            Place::Chunk { heap, at } => {
                let heap = &mut self.heaps[*heap as usize];
                let end = at.saturating_add(units_of(size_bytes).min(heap.units(*at)) + 1);
                heap.touched = heap.touched.max(end);
            }
            Place::Mapping { bytes, resident_bytes } => {
                let now = (size_bytes + UNIT).next_multiple_of(PAGE).min(*bytes);
                self.mapped_bytes += now.saturating_sub(*resident_bytes);
                *resident_bytes = now.max(*resident_bytes);
            }
        }
        self.note_peak();
    }

    /// malloc, or calloc, which does not take what the thread keeps.
    pub fn allocate(&mut self, thread: u32, size_bytes: u64, zeroed: bool) -> Place {
        let units = units_of(size_bytes);
        let mut cache = self.cache_of(thread);
        let kept = if zeroed { None } else { cache.take(units) };
        let place = match kept {
            Some((heap, at)) => Place::Chunk { heap, at },
            None => self.find(&mut cache, units),
        };
        self.threads[thread as usize] = Some(cache);
        self.note_peak();
        place
    }

    /// `aligned_alloc`; the alignment is a power of two.
    pub fn allocate_aligned(&mut self, thread: u32, size_bytes: u64, alignment_bytes: u64) -> Place {
        let units = units_of(size_bytes);
        let alignment = u32::try_from(alignment_bytes / UNIT).unwrap_or(1).max(1);
        let mut cache = self.heap_of(thread);
        // What is asked for is a chunk's size already, to which the size of a header is added once more.
        let mut place = self.find(&mut cache, units.saturating_add(alignment + LEAST + 1));
        if let Place::Chunk { heap, at } = place {
            let whole = self.heaps[heap as usize].units(at);
            // The block begins one unit after its chunk.
            let mut begin = (at + 1).next_multiple_of(alignment) - 1;
            if begin != at && begin - at < LEAST {
                begin += alignment;
            }
            if begin != at {
                let heap_now = &mut self.heaps[heap as usize];
                heap_now.tag(at).units = begin - at;
                heap_now.tag(begin).units = whole - (begin - at);
                heap_now.tag(begin).before = 0;
                self.release(&mut cache, heap, at);
            }
            if self.heaps[heap as usize].units(begin) > units + LEAST {
                self.shorten(&mut cache, heap, begin, units);
            }
            place = Place::Chunk { heap, at: begin };
        }
        self.threads[thread as usize] = Some(cache);
        self.note_peak();
        place
    }

    /// realloc to a size above 0.
    pub fn reallocate(&mut self, thread: u32, old: Place, size_bytes: u64) -> Place {
        let units = units_of(size_bytes);
        let Place::Chunk { heap, at } = old else {
            self.unmap(old, false);
            return self.map(units);
        };
        let mut cache = self.cache_of(thread);
        let now = &mut self.heaps[heap as usize];
        let (whole, next) = (now.units(at), at + now.units(at));
        let mut place = old;
        if whole < units {
            if next == now.top && whole + (now.end - now.top) >= units + LEAST {
                now.top = at;
                now.take_top(units);
            } else if next != now.top && now.is_free(next) && whole + now.units(next) >= units {
                now.unlink(next);
                let joined = whole + now.units(next);
                now.tag(at).units = joined;
                now.used(at);
                self.shorten(&mut cache, heap, at, units);
            } else {
                place = self.find_in(heap, &mut cache, units);
                if place == (Place::Chunk { heap, at: next }) {
                    // What was found is what comes after the block, swept up only just now: both are one.
                    place = old;
                    let now = &mut self.heaps[heap as usize];
                    now.tag(at).units = whole + now.units(next);
                    self.shorten(&mut cache, heap, at, units);
                } else {
                    self.release(&mut cache, heap, at);
                }
            }
        } else {
            self.shorten(&mut cache, heap, at, units);
        }
        self.threads[thread as usize] = Some(cache);
        self.note_peak();
        place
    }

    /// free.
    pub fn free(&mut self, thread: u32, place: Place) {
        match place {
            Place::Mapping { .. } => self.unmap(place, true),
            Place::Chunk { heap, at } => {
                let mut cache = self.cache_of(thread);
                self.release(&mut cache, heap, at);
                self.threads[thread as usize] = Some(cache);
            }
        }
    }

    /// A thread ends: what it kept is free, its heap serves the next one.
    pub fn end(&mut self, thread: u32) {
        let Some(cache) = self.threads[thread as usize].take() else { return };
        let kept = cache.chunks.into_iter().flat_map(|list| list.into_iter().rev());
        for (heap, at) in kept.chain(cache.at.map(|at| (cache.heap, at))) {
            self.release_past_cache(heap, at);
        }
        self.idle.push(cache.heap);
    }

    fn note_peak(&mut self) {
        let heaps: u64 = self.heaps.iter().map(Heap::resident_bytes).sum();
        self.peak_bytes = self.peak_bytes.max(heaps + self.mapped_bytes);
    }

    /// What the thread keeps; it is put back afterwards.
    fn cache_of(&mut self, thread: u32) -> Cache {
        let mut cache = self.heap_of(thread);
        if cache.at.is_none()
            && let Place::Chunk { at, .. } = self.find(&mut cache, units_of(CACHE_BYTES))
        {
            cache.at = Some(at);
        }
        cache
    }

    /// The same, for a call that does not begin it.
    fn heap_of(&mut self, thread: u32) -> Cache {
        self.threads[thread as usize].take().unwrap_or_else(|| {
            Cache::new(self.idle.pop().unwrap_or_else(|| {
                self.heaps.push(Heap::new(self.heaps.is_empty()));
                self.heaps.len() as u32 - 1
            }))
        })
    }

    /// A chunk of the thread's heap.
    fn find(&mut self, cache: &mut Cache, units: u32) -> Place {
        self.find_in(cache.heap, cache, units)
    }

    /// A chunk of a heap, not one that the thread keeps (`_int_malloc`).
    fn find_in(&mut self, heap: u32, cache: &mut Cache, units: u32) -> Place {
        let now = &mut self.heaps[heap as usize];
        let found = |at| Place::Chunk { heap, at };
        if units <= FAST
            && let Some(at) = now.fast[units as usize].pop()
        {
            while cache.has_room(units)
                && let Some(more) = now.fast[units as usize].pop()
            {
                cache.put(units, heap, more);
            }
            return found(at);
        }
        if units >= LARGE {
            now.sweep();
        } else if let Some(at) = now.take_small(units) {
            while cache.has_room(units)
                && let Some(more) = now.take_small(units)
            {
                cache.put(units, heap, more);
            }
            return found(at);
        }
        loop {
            let (mut has_cached, mut sorted) = (false, 0);
            while sorted < MOST_SORTED
                && let Some((at, is_only)) = now.oldest_unsorted()
            {
                sorted += 1;
                let whole = now.units(at);
                now.unlink(at);
                if units < LARGE && is_only && at == now.last_remainder && whole > units + LEAST {
                    now.last_remainder = now.cut(at, units).unwrap_or(0);
                    return found(at);
                }
                if whole != units {
                    now.sort(at);
                    continue;
                }
                now.used(at);
                if !cache.has_room(units) {
                    return found(at);
                }
                cache.put(units, heap, at);
                has_cached = true;
            }
            if has_cached && let Some((heap, at)) = cache.take(units) {
                return Place::Chunk { heap, at };
            }
            if let Some(at) = now.take_fitting(units) {
                let rest = now.cut(at, units);
                if units < LARGE
                    && let Some(rest) = rest
                {
                    now.last_remainder = rest;
                }
                return found(at);
            }
            if now.end - now.top >= units + LEAST {
                return found(now.take_top(units));
            }
            if !now.has_fast() {
                break;
            }
            now.sweep();
        }
        if bytes(units) >= self.mapped_from && self.mapping_count < MOST_MAPPINGS || !now.enlarge(units) {
            return self.map(units);
        }
        found(now.take_top(units))
    }

    /// Frees what a chunk has beyond so many units.
    fn shorten(&mut self, cache: &mut Cache, heap: u32, at: u32, units: u32) {
        let now = &mut self.heaps[heap as usize];
        let whole = now.units(at);
        if whole - units < LEAST {
            return;
        }
        let rest = at + units;
        now.tag(at).units = units;
        now.tag(rest).units = whole - units;
        now.tag(rest).before = 0;
        now.used(rest);
        self.release(cache, heap, rest);
    }

    /// `_int_free`.
    fn release(&mut self, cache: &mut Cache, heap: u32, at: u32) {
        let units = self.heaps[heap as usize].units(at);
        if cache.has_room(units) {
            cache.put(units, heap, at);
        } else {
            self.release_past_cache(heap, at);
        }
    }

    fn release_past_cache(&mut self, heap: u32, at: u32) {
        let now = &mut self.heaps[heap as usize];
        let units = now.units(at);
        if units <= FAST {
            now.fast[units as usize].push(at);
            return;
        }
        if now.join(at) >= SWEEPING {
            now.sweep();
            now.trim(self.trimmed_from);
        }
    }

    fn map(&mut self, units: u32) -> Place {
        let mapped = (bytes(units) + 8).next_multiple_of(PAGE);
        self.mapped_bytes += mapped;
        self.mapping_count += 1;
        self.note_peak();
        Place::Mapping { bytes: mapped, resident_bytes: mapped }
    }

    fn unmap(&mut self, place: Place, by_free: bool) {
        let Place::Mapping { bytes, resident_bytes } = place else { return };
        self.mapped_bytes = self.mapped_bytes.saturating_sub(resident_bytes);
        self.mapping_count = self.mapping_count.saturating_sub(1);
        if by_free && bytes > self.mapped_from && bytes <= MAPPED_FROM_AT_MOST {
            (self.mapped_from, self.trimmed_from) = (bytes, 2 * bytes);
        }
    }
}
