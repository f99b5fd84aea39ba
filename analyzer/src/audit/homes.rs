//! How many blocks that are born in a phase a plan's arenas take. Responsible for a replay that knows both; not for what is said of it (see
//! `map`, `phase`).

use foldhash::{HashMap, HashMapExt};
use trace_format::{Event, ReadError, StackId, StackQuality, ThreadId, Trace};

use crate::arenas::{Placement, Plan};
use crate::lifetimes::{Wish, phases_of};
use crate::names::Names;
use crate::phases::{RowId, Tracker, View, Weaver, row_path};
use crate::profile::Profile;
use crate::replay::{Amount, Block, Observer, over_all_passes, replay_with};
use crate::wrappers::Wrappers;

/// Blocks by the thread and the path of the phase that they are born in, and by the plan's arena that takes them; no entry: none.
pub type Homes = HashMap<(ThreadId, String, usize), Amount>;

/// Replays a trace with the phases that `lifetimes::study` has of the same arguments, and with a plan: what it takes is what the
/// simulation counts, and reallocs where they began. `progress` is told of events, over all passes.
///
/// # Errors
/// The file became unreadable.
pub fn homes(
    trace: &Trace,
    names: &Names,
    (profiles, wish): (&[Profile], Wish),
    (plan, wrappers): (&Plan, &Wrappers),
    decoders: usize,
    progress: impl FnMut(u64),
) -> Result<Homes, ReadError> {
    let mut told = over_all_passes(progress);
    let (tracker, _) = phases_of(trace, names, profiles, wish, decoders, &mut told)?;
    let view = if plan.has_phases() {
        View::with_phases(trace, names, profiles, decoders, &mut told)?
    } else {
        View::plain(trace, names)
    };
    let placement = Placement::of(plan, view.tables(), view.names(), wrappers);
    let placing = Placing { tracker, weaver: view.weaver(), placement, stack: StackId::EMPTY, homes: HashMap::new() };
    let (_, placing) = replay_with(trace, placing, decoders, told)?;
    let rows = placing.tracker.rows();
    let mut homes = Homes::new();
    for ((row, home), amount) in placing.homes {
        *homes.entry((rows[row.0 as usize].thread, row_path(rows, row).join(" › "), home)).or_default() += amount;
    }
    Ok(homes)
}

/// The observer.
struct Placing<'v> {
    tracker: Tracker<'v>,
    weaver: Option<Weaver<'v>>,
    placement: Placement<'v>,
    /// The event's stack as the plan sees it.
    stack: StackId,
    homes: HashMap<(RowId, usize), Amount>,
}

impl Observer for Placing<'_> {
    /// The arena of the chain, if it has one.
    type Tag = Option<u32>;

    const SEES_SURVIVORS: bool = false;

    fn event(&mut self, event: &Event) {
        self.tracker.step(event);
        self.stack = self.weaver.as_mut().map_or(event.stack, |weaver| weaver.event(event).stack);
    }

    fn born(
        &mut self,
        block: &Block<Option<u32>>,
        stack: StackId,
        replaced: Option<&Block<Option<u32>>>,
        event: &Event,
    ) -> Option<u32> {
        let is_whole = event.walk.quality == StackQuality::Complete;
        let home = match replaced {
            Some(old) => old.tag,
            None if is_whole => {
                let stack = if stack == event.stack { self.stack } else { stack };
                self.placement.home(stack).map(|home| home.arena as u32)
            }
            None => None,
        };
        if let Some(home) = home {
            let row = self.tracker.current(event.thread);
            *self.homes.entry((row, home as usize)).or_default() += Amount { bytes: block.size_bytes, count: 1 };
        }
        home
    }
}
