//! How many blocks that are born in a phase a plan's arenas take. Responsible for a replay that knows both; not for what is said of it (see
//! `map`, `phase`).

use foldhash::{HashMap, HashMapExt};
use trace_format::{Event, ReadError, StackId, Trace};

use crate::arenas::{Placement, Plan};
use crate::lifetimes::{Wish, phases_of};
use crate::names::Names;
use crate::phases::{RowId, Tracker, View, Weaver};
use crate::profile::Profile;
use crate::replay::{Amount, Block, Observer, replay_with};
use crate::wrappers::Wrappers;

/// Blocks by the phase that they are born in and the plan's arena that takes them; no entry: none.
pub type Homes = HashMap<(RowId, usize), Amount>;

/// Replays a trace with the phases, and numbers of rows, that `lifetimes::study` has of the same arguments, and with a plan.
///
/// # Errors
/// The file became unreadable.
pub fn homes(
    trace: &Trace,
    names: &Names,
    (profiles, wish): (&[Profile], Wish),
    (plan, wrappers): (&Plan, &Wrappers),
    decoders: usize,
    mut progress: impl FnMut(u64),
) -> Result<Homes, ReadError> {
    let (tracker, _) = phases_of(trace, names, profiles, wish, decoders, &mut progress)?;
    let view = if plan.has_phases() {
        View::with_phases(trace, names, profiles, decoders, &mut progress)?
    } else {
        View::plain(trace, names)
    };
    let placement = Placement::of(plan, view.tables(), view.names(), wrappers);
    let placing = Placing { tracker, weaver: view.weaver(), placement, stack: StackId::EMPTY, homes: Homes::new() };
    let (_, placing) = replay_with(trace, placing, decoders, progress)?;
    Ok(placing.homes)
}

/// The observer.
struct Placing<'v> {
    tracker: Tracker<'v>,
    weaver: Option<Weaver<'v>>,
    placement: Placement<'v>,
    /// The event's stack as the plan sees it.
    stack: StackId,
    homes: Homes,
}

impl Observer for Placing<'_> {
    type Tag = ();

    const SEES_SURVIVORS: bool = false;

    fn event(&mut self, event: &Event) {
        self.tracker.step(event);
        self.stack = self.weaver.as_mut().map_or(event.stack, |weaver| weaver.event(event).stack);
    }

    fn born(&mut self, block: &Block, stack: StackId, _: Option<&Block>, event: &Event) {
        let stack = if stack == event.stack { self.stack } else { stack };
        if let Some(home) = self.placement.home(stack) {
            let row = self.tracker.current(event.thread);
            *self.homes.entry((row, home.arena)).or_default() += Amount { bytes: block.size_bytes, count: 1 };
        }
    }
}
