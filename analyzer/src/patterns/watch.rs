//! Shows every detector what it needs of each block. Responsible for following blocks and activations during the replay; the
//! patterns themselves are recognised in the detectors.
//!
//! It runs in a second pass: the first one has told which cells there are and when each process was at its peak. Memory: a tag with
//! each live block, and what the detectors keep.

use trace_format::{DomainId, Event, Op, ProcessId, Sequence, StackId, StackQuality, Tables, ThreadId};

use super::appends::Appends;
use super::candidates::Freed;
use super::chunks::ChunkWatch;
use super::fates::Fates;
use super::fragmentation::{Extent, Snapshot};
use super::page_requests::{PageKind, PageWatch};
use super::places::{CellPlace, Places};
use super::pools::Pools;
use super::reallocs::{ChainId, Moved, Reallocs};
use super::storms::Storms;
use super::temporaries::{ESCAPE, EVENTS, Temporaries};
use super::transfers::ThreadMatrix;
use crate::activations::Activations;
use crate::replay::{Amount, Block, Observer, Outcome};

/// What is kept with each live block.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Tag {
    address: u64,
    /// Events of its thread at its birth, as far as they fit.
    ordinal: u32,
    chain: ChainId,
    page: PageKind,
    /// The domain whose call it was born in, plus one; 0 for none.
    inside: u32,
}

/// The observer.
#[derive(Debug)]
pub(super) struct Watch<'p, 't> {
    places: &'p Places<'t>,
    activations: Activations<'t>,
    /// Allocs, frees and begins of reallocs, by thread.
    ordinals: Vec<u64>,
    /// Whether the event at hand has a stack to tell activations by.
    has_stack: bool,
    pub(super) fates: Fates,
    pub(super) appends: Appends,
    pub(super) reallocs: Reallocs,
    pub(super) storms: Storms<'t>,
    pub(super) temporaries: Temporaries,
    pub(super) pools: Pools,
    pub(super) threads: ThreadMatrix,
    pub(super) pages: PageWatch,
    pub(super) chunks: ChunkWatch,
    pub(super) snapshot: Snapshot,
}

impl<'p, 't> Watch<'p, 't> {
    pub(super) fn new(tables: &'t Tables, places: &'p Places<'t>, outcome: &Outcome) -> Self {
        let site_count = places.len();
        Self {
            places,
            activations: Activations::new(tables, places.functions.of_frames(tables.frames.len())),
            ordinals: vec![0; tables.threads.len()],
            has_stack: false,
            fates: Fates::new(site_count),
            appends: Appends::new(site_count),
            reallocs: Reallocs::new(site_count),
            storms: Storms::new(tables, &places.functions),
            temporaries: Temporaries::new(site_count),
            pools: Pools::new(site_count),
            threads: ThreadMatrix::default(),
            pages: PageWatch::new(site_count),
            chunks: ChunkWatch::new(tables),
            snapshot: Snapshot::new(outcome),
        }
    }

    fn ordinal(&self, thread: ThreadId) -> u64 {
        self.ordinals.get(thread.index()).copied().unwrap_or(0)
    }

    /// A block leaves its heap, by whatever; `at` is none for survivors.
    fn leave(&mut self, block: &Block<Tag>, place: CellPlace, at: Option<Sequence>) {
        let extent = Extent {
            site: place.site,
            process: place.process,
            domain: place.domain,
            address: block.tag.address,
            size_bytes: block.size_bytes,
            birth: block.birth_sequence,
        };
        self.snapshot.died(&extent, at);
    }

    /// A block is taken from below, or given back, by an allocator that stands on another.
    fn gives_back(&mut self, block: &Block<Tag>) {
        if let Some(inside) = block.tag.inside.checked_sub(1) {
            self.chunks.died(DomainId(inside), block.size_bytes);
        }
    }

    /// A block is freed by an event; its address is given back for good.
    fn freed(&mut self, block: &Block<Tag>, place: CellPlace, event: &Event) {
        let (site, thread, size_bytes) = (place.site, event.thread, block.size_bytes);
        let ordinal = self.ordinal(thread);
        let is_own = thread == block.thread;
        let amount = Amount { bytes: size_bytes, count: 1 };
        let fate = self.fates.of_mut(site);
        fate.freed += amount;
        if !is_own {
            fate.freed_elsewhere += amount;
            self.threads.freed(block.thread, thread, size_bytes);
        }
        self.pools.died(site, size_bytes, block.tag.address);
        self.reallocs.over(block.tag.chain, size_bytes);
        let open = self.activations.of(thread).filter(|_| self.has_stack && place.depth > 0);
        let scope = open.map(|open| open.scope(block.birth_sequence));
        let age = u64::from((ordinal as u32).wrapping_sub(block.tag.ordinal));
        let at_once = is_own
            && !block.tag.chain.is_chain()
            && age <= EVENTS
            && scope.is_none_or(|scope| scope as u64 + u64::from(ESCAPE) >= u64::from(place.depth));
        if at_once {
            self.temporaries.died(site, size_bytes);
        }
        self.pages.freed(site, block.tag.page, at_once);
        if block.tag.chain.is_chain() {
            self.appends.over(block.birth_sequence);
        } else {
            let freed = Freed { site, birth: block.birth_sequence, size_bytes, thread, ordinal: ordinal as u32 };
            self.appends.freed(&freed, |birth| open.map(|open| open.scope(birth)));
        }
        let (Some(open), Some(scope)) = (open, scope) else { return };
        if is_own {
            let inner = scope.min(place.depth as usize).checked_sub(1).and_then(|at| open.nodes().get(at));
            self.fates.scope(site, inner.and_then(|node| self.activations.function(*node)));
        }
        self.storms.freed(thread, open.nodes(), scope, site, size_bytes, ordinal);
    }
}

impl Observer for Watch<'_, '_> {
    type Tag = Tag;

    fn event(&mut self, event: &Event) {
        if matches!(event.op, Op::Alloc { .. } | Op::Free { .. } | Op::ReallocBegin { .. })
            && let Some(ordinal) = self.ordinals.get_mut(event.thread.index())
        {
            *ordinal += 1;
        }
        self.has_stack = event.walk.quality != StackQuality::NotTaken;
        if let Some(step) = self.activations.step(event) {
            self.storms.ended_from(event.thread, step.ended_from());
        }
    }

    fn born(&mut self, block: &Block<Tag>, _stack: StackId, replaced: Option<&Block<Tag>>, event: &Event) -> Tag {
        let (address, alignment_bytes, inside) = match event.op {
            Op::Alloc { address, alignment_bytes, inside, .. } => (address, alignment_bytes, inside),
            Op::ReallocEnd { address, .. } => (address, 0, None),
            _ => (0, 0, None),
        };
        let mut tag = Tag {
            address,
            ordinal: self.ordinal(event.thread) as u32,
            inside: inside.map_or(0, |domain| domain.0.saturating_add(1)),
            ..Tag::default()
        };
        if let Some(inside) = inside {
            self.chunks.born(inside, block.size_bytes);
        }
        let Some(place) = self.places.cell(block.cell) else { return tag };
        let fate = self.fates.of_mut(place.site);
        fate.max_bytes = fate.max_bytes.max(block.size_bytes);
        self.pools.born(place.site, block.size_bytes, address);
        match replaced.and_then(|old| Some((old, self.places.cell(old.cell)?))) {
            Some((old, origin)) => {
                let moved = Moved {
                    old_bytes: old.size_bytes,
                    new_bytes: block.size_bytes,
                    other_address: old.tag.address != address,
                };
                tag.chain = self.reallocs.moved(origin.site, old.tag.chain, moved);
            }
            None if matches!(event.op, Op::Alloc { .. }) => {
                tag.page = PageKind::of(block.size_bytes, alignment_bytes);
                self.pages.born(place.site, block.size_bytes, tag.page);
                let (site, birth) = (place.site, block.birth_sequence);
                self.appends.born(site, event.thread, birth, block.size_bytes, tag.ordinal, place.depth);
            }
            // The end of a realloc of a block from before the recording.
            None => {}
        }
        tag
    }

    fn died(&mut self, block: &Block<Tag>, event: &Event) {
        self.gives_back(block);
        let Some(place) = self.places.cell(block.cell) else { return };
        self.leave(block, place, Some(event.sequence));
        if matches!(event.op, Op::Free { .. }) {
            self.freed(block, place, event);
        } else {
            // Nobody knows when.
            self.fates.of_mut(place.site).freed += Amount { bytes: block.size_bytes, count: 1 };
            self.pools.died(place.site, block.size_bytes, block.tag.address);
            self.reallocs.over(block.tag.chain, block.size_bytes);
            self.appends.over(block.birth_sequence);
        }
    }

    fn moving(&mut self, block: &Block<Tag>, event: &Event) {
        self.gives_back(block);
        let Some(place) = self.places.cell(block.cell) else { return };
        self.leave(block, place, Some(event.sequence));
        self.pools.died(place.site, block.size_bytes, block.tag.address);
        self.appends.over(block.birth_sequence);
        self.fates.of_mut(place.site).replaced_count += 1;
    }

    fn stayed(&mut self, block: &Block<Tag>, event: &Event) {
        if let Some(inside) = block.tag.inside.checked_sub(1) {
            self.chunks.born(DomainId(inside), block.size_bytes);
        }
        let Some(place) = self.places.cell(block.cell) else { return };
        self.snapshot.stayed(place.process, block.birth_sequence, event.sequence);
        self.pools.stayed(place.site, block.size_bytes, block.tag.address);
        self.fates.of_mut(place.site).replaced_count -= 1;
    }

    fn died_moving(&mut self, block: &Block<Tag>, _event: &Event) {
        let Some(place) = self.places.cell(block.cell) else { return };
        let fate = self.fates.of_mut(place.site);
        fate.replaced_count -= 1;
        fate.freed += Amount { bytes: block.size_bytes, count: 1 };
        self.reallocs.over(block.tag.chain, block.size_bytes);
    }

    fn never_moved(&mut self, block: &Block<Tag>) {
        self.reallocs.over(block.tag.chain, block.size_bytes);
    }

    fn survived(&mut self, block: &Block<Tag>, _process: ProcessId) {
        let Some(place) = self.places.cell(block.cell) else { return };
        self.leave(block, place, None);
        self.fates.of_mut(place.site).survived += Amount { bytes: block.size_bytes, count: 1 };
        self.reallocs.over(block.tag.chain, block.size_bytes);
        self.appends.over(block.birth_sequence);
    }
}
