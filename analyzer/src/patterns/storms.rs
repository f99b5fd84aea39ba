//! Teardown storms: a thousand frees, nearly one after the other, in one call of a function, of blocks that were there before
//! the call. Responsible for which function tears down, and for what was born where; not for whether an arena would fit.
//!
//! ```text
//!  main ─ compile ─ destroy ─ free_scope ─ free_tree ─ …      frees of blocks born before `destroy` was called
//!                   └ counts them all     └ counts its part
//! ```
//!
//! A free counts for each open activation that began after the block's birth; those are the innermost frames of the stack, from
//! the scope of the block inwards. Each keeps a run of such frees, which ends when other events of the thread between them
//! become more than an eighth. A run belongs to the outermost activation that has nearly all of it.
//!
//! Memory: threads × depth, and the storms' functions. Time per free: frames between scope and leaf.

use foldhash::{HashMap, HashMapExt};
use serde::Serialize;
use trace_format::{FrameId, StackId, Tables, ThreadId};

use super::listing::Listing;
use super::places::{Places, Site};
use crate::leaks::Functions;
use crate::replay::Amount;
use crate::sites::StackFrame;

/// Frees that make a storm.
const LEAST_FREES: u64 = 1000;
/// One other event for so many frees does not end a run.
const FREES_PER_OTHER: u64 = 8;
/// As many other events never do.
const OTHERS: u64 = 16;
/// Functions of birth that are listed.
const BIRTHS_SHOWN: usize = 5;

/// A function that tears down.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TeardownStorm {
    /// The function whose call frees them.
    pub function: String,
    /// Its calls, or parts of one, that freed so many.
    pub storm_count: u64,
    /// Blocks freed in them.
    pub free_count: u64,
    /// Their bytes.
    pub free_bytes: u64,
    /// Blocks freed in the greatest.
    pub largest_count: u64,
    /// Frees that a bulk teardown would save: all but one for each storm.
    pub saves_count: u64,
    /// Who made the blocks, the one that made most first, at most five.
    pub born_in: Vec<BornIn>,
    /// The stack of the function in the greatest, the innermost frame first.
    pub stack: Vec<StackFrame>,
}

/// Who made blocks.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct BornIn {
    /// The function.
    pub function: String,
    /// Blocks.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Phases at their birth, as far as the function's blocks go.
    pub phases: Vec<String>,
}

/// An open activation.
#[derive(Debug, Default)]
struct Frame {
    freed: Amount,
    /// Events of the thread before the run.
    began: u64,
    node: StackId,
    /// By birth; of the blocks whose scope is the frame around this one.
    births: HashMap<Site, Amount>,
    /// The function of the frame inside that had nearly all of it, with its stack: whose storm it is if this one's is library
    /// code.
    inner: Option<(u32, StackId)>,
}

#[derive(Debug, Default)]
struct Found {
    storm_count: u64,
    freed: Amount,
    largest_count: u64,
    births: HashMap<Site, Amount>,
    node: StackId,
}

/// The detector.
#[derive(Debug)]
pub(super) struct Storms<'t> {
    tables: &'t Tables,
    /// Number of each frame's function.
    functions: Vec<u32>,
    is_library: Vec<bool>,
    threads: Vec<Vec<Frame>>,
    found: HashMap<u32, Found>,
}

impl<'t> Storms<'t> {
    pub(super) fn new(tables: &'t Tables, functions: &Functions<'_>) -> Self {
        let of_frames = functions.of_frames(tables.frames.len());
        let is_library = of_frames.iter().map(|function| functions.is_library(*function)).collect();
        let threads = tables.threads.iter().map(|_| Vec::new()).collect();
        Self { tables, functions: of_frames, is_library, threads, found: HashMap::new() }
    }

    /// Activations of a thread from this frame inwards have ended.
    #[inline]
    pub(super) fn ended_from(&mut self, thread: ThreadId, frame: usize) {
        let Some(frames) = self.threads.get_mut(thread.index()) else { return };
        if frames.len() <= frame {
            return;
        }
        while self.threads[thread.index()].len() > frame {
            self.run_ends(thread.index(), None);
        }
    }

    /// A block is freed. `nodes` is the thread's open stack, `scope` how many of its frames were open at the birth, `ordinal` how
    /// many events the thread had, this one included.
    #[inline]
    pub(super) fn freed(
        &mut self,
        thread: ThreadId,
        nodes: &[StackId],
        scope: usize,
        site: Site,
        size_bytes: u64,
        ordinal: u64,
    ) {
        let Some(frames) = self.threads.get_mut(thread.index()) else { return };
        if frames.len() < nodes.len() {
            frames.resize_with(nodes.len(), Frame::default);
        }
        let mut broken = false;
        for (frame, node) in frames.iter_mut().zip(nodes).skip(scope) {
            let others = (ordinal - frame.began).saturating_sub(frame.freed.count + 1);
            if frame.freed.count > 0 && others > OTHERS.max(frame.freed.count / FREES_PER_OTHER) {
                if frame.freed.count >= LEAST_FREES {
                    broken = true;
                    continue;
                }
                frame.clear();
            }
            frame.add(*node, size_bytes, ordinal);
        }
        if broken {
            for at in (scope..nodes.len()).rev() {
                let frame = &self.threads[thread.index()][at];
                let others = (ordinal - frame.began).saturating_sub(frame.freed.count + 1);
                if frame.freed.count >= LEAST_FREES && others > OTHERS.max(frame.freed.count / FREES_PER_OTHER) {
                    self.run_ends(thread.index(), Some(at));
                    self.threads[thread.index()][at].add(nodes[at], size_bytes, ordinal);
                }
            }
        }
        if let Some(frame) = self.threads[thread.index()].get_mut(scope).filter(|_| scope < nodes.len()) {
            *frame.births.entry(site).or_default() += Amount { bytes: size_bytes, count: 1 };
        }
    }

    /// The run of the innermost frame ends with it, or that of a frame that stays open.
    fn run_ends(&mut self, thread: usize, stays: Option<usize>) {
        let frames = &mut self.threads[thread];
        let at = stays.unwrap_or(frames.len() - 1);
        let frame = match stays {
            Some(at) => std::mem::take(&mut frames[at]),
            None => frames.pop().unwrap_or_default(),
        };
        if frame.freed.count < LEAST_FREES {
            return;
        }
        let of_frame = self.tables.stacks.get(frame.node.index()).map_or(FrameId(u32::MAX), |node| node.frame);
        let own = self.functions.get(of_frame.index()).copied().unwrap_or(u32::MAX);
        let is_library = self.is_library.get(of_frame.index()).copied().unwrap_or(true);
        let (function, node) = frame.inner.filter(|_| is_library).unwrap_or((own, frame.node));
        if let Some(around) = at.checked_sub(1).and_then(|at| frames.get_mut(at))
            && around.freed.count >= frame.freed.count - frame.freed.count / 10
            && around.began <= frame.began + OTHERS
        {
            // The frame around has it all: it is its storm.
            around.inner = Some((function, node));
            return;
        }
        let found = self.found.entry(function).or_default();
        found.storm_count += 1;
        found.freed += frame.freed;
        if frame.freed.count > found.largest_count {
            (found.largest_count, found.node) = (frame.freed.count, node);
        }
        for (site, amount) in frame.births {
            *found.births.entry(site).or_default() += amount;
        }
    }

    /// What was found, the most frees first.
    pub(super) fn finish(mut self, places: &Places<'_>, limit: usize) -> Listing<TeardownStorm> {
        for thread in 0..self.threads.len() {
            self.ended_from(ThreadId::from(thread), 0);
        }
        let mut found: Vec<(u32, Found)> = self.found.into_iter().collect();
        found.sort_unstable_by_key(|(function, found)| (std::cmp::Reverse(found.freed.count), *function));
        let describe = |(function, found): &(u32, Found)| TeardownStorm {
            function: places.function_name(*function),
            storm_count: found.storm_count,
            free_count: found.freed.count,
            free_bytes: found.freed.bytes,
            largest_count: found.largest_count,
            saves_count: found.freed.count - found.storm_count,
            born_in: born_in(places, &found.births),
            stack: places.stack(found.node),
        };
        Listing {
            site_count: found.len() as u64,
            count: found.iter().map(|(_, found)| found.freed.count).sum(),
            bytes: found.iter().map(|(_, found)| found.freed.bytes).sum(),
            rows: found.iter().take(limit).map(describe).collect(),
        }
    }
}

impl Frame {
    fn add(&mut self, node: StackId, size_bytes: u64, ordinal: u64) {
        if self.freed.count == 0 {
            self.began = ordinal - 1;
            self.node = node;
        }
        self.freed += Amount { bytes: size_bytes, count: 1 };
    }

    /// A new run; keeps the map's memory.
    fn clear(&mut self) {
        self.births.clear();
        (self.freed, self.inner) = (Amount::default(), None);
    }
}

fn born_in(places: &Places<'_>, births: &HashMap<Site, Amount>) -> Vec<BornIn> {
    let mut births: Vec<(Site, Amount)> = births.iter().map(|(site, amount)| (*site, *amount)).collect();
    births.sort_unstable_by_key(|(site, amount)| (std::cmp::Reverse((amount.count, amount.bytes)), *site));
    births
        .into_iter()
        .take(BIRTHS_SHOWN)
        .map(|(site, Amount { bytes, count })| {
            let site = places.describe(site);
            BornIn { function: site.function, count, bytes, phases: site.phases }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Names;
    use trace_format::{Frame, FrameSymbols, ModuleId, StackNode, Symbol};

    const THREAD: ThreadId = ThreadId(0);
    /// `main ─ tear_down ─ destroy`, by their stacks.
    const NODES: [StackId; 3] = [StackId(1), StackId(2), StackId(3)];

    fn tables() -> Tables {
        let mut tables =
            Tables { stacks: vec![StackNode { parent: StackId(0), frame: FrameId(0) }], ..Tables::default() };
        for (at, name) in ["main", "tear_down", "destroy"].into_iter().enumerate() {
            tables.frames.push(Frame { module: ModuleId(0), address: at as u64 });
            tables.stacks.push(StackNode { parent: StackId(at as u32), frame: FrameId(at as u32) });
            let symbol = Symbol { name: name.into(), ..Symbol::default() };
            tables.symbols.push(FrameSymbols { functions: vec![symbol] });
        }
        tables.threads.push(trace_format::Thread::default());
        tables
    }

    /// Storms by function: how many, frees, the largest.
    fn storms(free: impl Fn(&mut Storms<'_>)) -> Vec<(String, u64, u64, u64)> {
        let tables = tables();
        let names = Names::with_symbols(&tables, &tables.symbols);
        let functions = Functions::of(&names);
        let mut storms = Storms::new(&tables, &functions);
        free(&mut storms);
        storms.ended_from(THREAD, 0);
        let found = storms.found.iter().map(|(function, found)| {
            let births: u64 = found.births.values().map(|amount| amount.count).sum();
            assert_eq!(births, found.freed.count, "all blocks have the frame around the storm as their scope");
            (functions.name(*function).to_owned(), found.storm_count, found.freed.count, found.largest_count)
        });
        found.collect()
    }

    fn free(storms: &mut Storms<'_>, scope: usize, ordinals: impl Iterator<Item = u64>) {
        for ordinal in ordinals {
            storms.freed(THREAD, &NODES, scope, Site(0), 8, ordinal);
        }
    }

    #[test]
    fn a_storm_is_the_outermost_call_that_has_it_all() {
        let found = storms(|storms| {
            free(storms, 1, 1..=600);
            // The inner function returns and is called again.
            storms.ended_from(THREAD, 2);
            free(storms, 1, 601..=1200);
        });
        assert_eq!(found, [("tear_down".to_owned(), 1, 1200, 1200)]);
    }

    #[test]
    fn blocks_born_in_the_call_around_make_it_a_storm_of_the_inner_one() {
        assert_eq!(storms(|storms| free(storms, 2, 1..=1000)), [("destroy".to_owned(), 1, 1000, 1000)]);
    }

    #[test]
    fn fewer_or_scattered_frees_are_none() {
        assert_eq!(storms(|storms| free(storms, 1, 1..=999)), []);
        // Every fourth event is something else.
        assert_eq!(storms(|storms| free(storms, 1, (1..=4000).filter(|ordinal| ordinal % 4 > 0))), []);
        // Every tenth is no harm.
        let found = storms(|storms| free(storms, 1, (1..=2000).filter(|ordinal| ordinal % 10 > 0)));
        assert_eq!(found, [("tear_down".to_owned(), 1, 1800, 1800)]);
    }

    #[test]
    fn a_pause_parts_two_storms_of_one_call() {
        let found = storms(|storms| {
            free(storms, 1, 1..=1500);
            free(storms, 1, 5001..=6100);
        });
        assert_eq!(found, [("tear_down".to_owned(), 2, 2600, 1500)]);
    }
}
