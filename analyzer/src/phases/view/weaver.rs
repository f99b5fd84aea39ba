//! Events on stacks with phases. Responsible for what an event says of the calls that go on, where phases have begun or ended.

use trace_format::{Event, Sequence, StackId};

use super::{Laid, Woven};
use crate::phases::spans::is_whole;

/// The phases that are open on a thread.
#[derive(Debug, Clone, Default)]
pub(super) struct Place {
    /// Outermost first: indices of the thread's spans.
    pub(super) open: Vec<usize>,
    /// The next to begin.
    next: usize,
    /// Its marker was the thread's last event.
    begun: Option<usize>,
    /// Phases open that were open at the thread's last event with a whole stack, and …
    kept: usize,
    /// … frames around what has begun and ended since; the largest number where nothing has.
    limit: u32,
    /// Stack of that event in the view, and …
    leaf: StackId,
    /// … in the trace.
    plain: StackId,
}

impl Place {
    /// Takes the thread's next event; `spans` are the thread's.
    pub(super) fn step(&mut self, spans: &[Laid], now: Sequence) {
        let depth = |at: usize| spans[at].span.depth;
        if let Some(begun) = self.begun.take()
            && spans[begun].span.end > now
        {
            self.limit = self.limit.min(depth(begun));
            self.open.push(begun);
        }
        while let Some(last) = self.open.last().copied().filter(|last| spans[*last].span.end <= now) {
            self.limit = self.limit.min(depth(last));
            self.open.pop();
            self.kept = self.kept.min(self.open.len());
        }
        while let Some(next) = spans.get(self.next).filter(|next| next.span.begin <= now) {
            if next.span.begin == now {
                self.begun = Some(self.next);
            }
            self.next += 1;
        }
    }

    /// What the last event was is no longer of use.
    fn settle(&mut self, leaf: StackId, plain: StackId) {
        self.leaf = leaf;
        self.plain = plain;
        self.kept = self.open.len();
        self.limit = u32::MAX;
    }
}

pub(super) fn places(count: usize) -> Vec<Place> {
    vec![Place { limit: u32::MAX, ..Place::default() }; count]
}

/// Puts events on these stacks.
#[derive(Debug)]
pub(crate) struct Weaver<'w> {
    woven: &'w Woven,
    places: Vec<Place>,
}

impl<'w> Weaver<'w> {
    pub(super) fn new(woven: &'w Woven) -> Self {
        Self { woven, places: places(woven.spans.len()) }
    }

    /// The next event as it is in the view.
    pub(crate) fn event(&mut self, event: &Event) -> Event {
        let plain = event.stack;
        let mut event = *event;
        let thread = event.thread.index();
        let Some(place) = self.places.get_mut(thread) else { return event };
        let spans = &self.woven.spans[thread];
        place.step(spans, event.sequence);
        if !is_whole(&event) {
            return event;
        }
        if let Some(innermost) = place.open.last() {
            event.stack = self.woven.known.get(plain, spans[*innermost].node).unwrap_or(plain);
        }
        if place.limit != u32::MAX {
            // Of the frames that go on, those outside of what has begun and ended do; the one that it lies in, the last of these, has moved.
            let going_on = self.woven.shared(place.plain, plain).saturating_sub(event.walk.renewed);
            let (going_on, moved) =
                if going_on >= place.limit { (place.limit - 1, true) } else { (going_on, event.walk.moved) };
            let beyond = place.kept.checked_sub(1).map_or(0, |around| {
                let around = spans[place.open[around]];
                self.woven.depths[around.node.index()] + 1 - around.span.depth
            });
            let shared = self.woven.shared(place.leaf, event.stack);
            event.walk.renewed = shared.saturating_sub(going_on + beyond);
            event.walk.moved = moved;
        }
        place.settle(event.stack, plain);
        event
    }
}
