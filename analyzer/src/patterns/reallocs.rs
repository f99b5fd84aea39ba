//! Tables that grow by realloc. Responsible for chains of reallocs from the alloc that begins them to the free that ends them:
//! steps, bytes moved, final sizes, and what reserving would save; not for growth without realloc (see `appends`).
//!
//! A chain belongs to the site that began it, whoever makes it grow: that is where a capacity would be given.
//!
//! ```text
//!  alloc 64 ─▶ realloc 128 ─▶ realloc 256 ─▶ realloc 200 ─▶ free
//!              grew, moved    grew in place   shrank           final size 200, greatest 256
//! ```

use serde::Serialize;

use super::growth::{Growth, Run};
use super::listing::Listing;
use super::places::{PatternSite, Places, Site};
use super::sizes::Sizes;

/// The part of all chains that a reserved capacity is enough for.
const RESERVED_PART: f64 = 0.9;

/// A function whose blocks grow by realloc.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ReallocGrowth {
    /// Who allocates the first block of each chain.
    #[serde(flatten)]
    pub site: PatternSite,
    /// How the chains grow, mostly.
    pub kind: GrowthKind,
    /// Allocs that reallocs made greater.
    pub chain_count: u64,
    /// Allocs that none did.
    pub ungrown_count: u64,
    /// Reallocs to a greater size.
    pub grow_count: u64,
    /// Reallocs to a smaller size, or the same.
    pub shrink_count: u64,
    /// Of those that grow, reallocs whose block got another address.
    pub moved_count: u64,
    /// Old sizes of these: what was copied at least.
    pub moved_bytes: u64,
    /// Old sizes of all that grow: what is copied, or left behind, where no block can grow in place, as in an arena that others
    /// allocate from in between.
    pub old_bytes: u64,
    /// Sizes that the chains reached: half are at most this.
    pub median_final_bytes: u64,
    /// Nine in ten are at most this: the capacity to reserve.
    pub reserve_bytes: u64,
    /// The greatest.
    pub max_final_bytes: u64,
    /// Reallocs that reserving so much at the first alloc would save.
    pub reserve_saves_count: u64,
    /// What chains that end smaller would waste by it.
    pub reserve_wastes_bytes: u64,
    /// Chains that grow by the same step four times or more in a row.
    pub linear: Linear,
}

/// How chains grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum GrowthKind {
    /// Most steps are of the same size again and again: quadratic copying where the block cannot grow in place.
    Linear,
    /// Most steps add at least a quarter.
    Geometric,
    /// Neither.
    Uneven,
}

/// Growth by the same step.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Linear {
    /// Runs of such steps.
    pub run_count: u64,
    /// Their steps.
    pub step_count: u64,
    /// Bytes that a step adds, the commonest; 0 without any.
    pub step_bytes: u64,
    /// Old sizes, summed: what is copied where no block can grow in place.
    pub copied_bytes: u64,
    /// What a capacity that doubles would copy.
    pub doubling_copied_bytes: u64,
}

/// A chain that is not over.
#[derive(Debug, Clone, Copy)]
struct Chain {
    site: Site,
    growth: Growth,
    grew: bool,
}

/// The chain of a block; none for one that no realloc made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct ChainId(u32);

/// A realloc that came back with a block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moved {
    pub(super) old_bytes: u64,
    pub(super) new_bytes: u64,
    pub(super) other_address: bool,
}

#[derive(Debug, Clone, Default)]
struct Found {
    chain_count: u64,
    grow_count: u64,
    shrink_count: u64,
    wide_count: u64,
    moved_count: u64,
    moved_bytes: u64,
    old_bytes: u64,
    grown_to: Sizes,
    finals: Sizes,
    steps: Sizes,
    linear: Linear,
}

/// The detector.
#[derive(Debug)]
pub(super) struct Reallocs {
    chains: Vec<Chain>,
    free: Vec<u32>,
    found: Vec<Found>,
}

impl ChainId {
    /// Whether a realloc made the block.
    pub(super) fn is_chain(self) -> bool {
        self.0 != 0
    }
}

impl Reallocs {
    pub(super) fn new(site_count: usize) -> Self {
        Self { chains: Vec::new(), free: Vec::new(), found: vec![Found::default(); site_count] }
    }

    /// A realloc returns a new block for an old one, made by an alloc at this site or by the chain's latest realloc.
    pub(super) fn moved(&mut self, site: Site, chain: ChainId, moved: Moved) -> ChainId {
        let id = if chain.is_chain() { chain } else { self.begin(site) };
        let chain = &mut self.chains[id.0 as usize - 1];
        let found = &mut self.found[chain.site.index()];
        let Moved { old_bytes, new_bytes, other_address } = moved;
        if new_bytes <= old_bytes {
            found.shrink_count += 1;
            return id;
        }
        found.chain_count += u64::from(!chain.grew);
        chain.grew = true;
        found.grow_count += 1;
        found.wide_count += u64::from(new_bytes - old_bytes >= old_bytes / 4);
        found.old_bytes = found.old_bytes.saturating_add(old_bytes);
        if other_address {
            found.moved_count += 1;
            found.moved_bytes = found.moved_bytes.saturating_add(old_bytes);
        }
        found.grown_to.add(new_bytes);
        let ended = chain.growth.step(old_bytes, new_bytes);
        found.count(ended);
        id
    }

    /// A block of this size is freed, or alive at the end.
    pub(super) fn over(&mut self, chain: ChainId, size_bytes: u64) {
        let Some(at) = chain.0.checked_sub(1) else { return };
        let chain = self.chains[at as usize];
        self.free.push(at);
        let found = &mut self.found[chain.site.index()];
        if chain.grew {
            found.finals.add(size_bytes);
        }
        found.count(chain.growth.end());
    }

    fn begin(&mut self, site: Site) -> ChainId {
        let chain = Chain { site, growth: Growth::default(), grew: false };
        match self.free.pop() {
            Some(at) => {
                self.chains[at as usize] = chain;
                ChainId(at + 1)
            }
            None => {
                self.chains.push(chain);
                ChainId(self.chains.len() as u32)
            }
        }
    }

    /// Reallocs that made blocks of a site greater.
    pub(super) fn grow_count(&self, site: Site) -> u64 {
        self.found[site.index()].grow_count
    }

    /// What was found, the most old bytes first.
    pub(super) fn finish(&self, places: &Places<'_>, limit: usize) -> Listing<ReallocGrowth> {
        let found = |site: Site| &self.found[site.index()];
        let ranked = places.ranked(|site| (found(site).old_bytes, found(site).grow_count));
        let sum = |figure: fn(&Found) -> u64| ranked.iter().map(|site| figure(found(*site))).sum();
        let describe = |site: &Site| found(*site).describe(places.describe(*site), places.alloc_count(*site));
        Listing {
            site_count: ranked.len() as u64,
            count: sum(|found| found.grow_count),
            bytes: sum(|found| found.old_bytes),
            rows: ranked.iter().take(limit).map(describe).collect(),
        }
    }
}

impl Found {
    fn count(&mut self, run: Option<Run>) {
        let Some(run) = run.filter(Run::is_linear) else { return };
        self.steps.add(run.step_bytes);
        self.linear.run_count += 1;
        self.linear.step_count += run.step_count;
        self.linear.copied_bytes = self.linear.copied_bytes.saturating_add(run.copied_bytes);
        let doubling = run.doubling_copied_bytes();
        self.linear.doubling_copied_bytes = self.linear.doubling_copied_bytes.saturating_add(doubling);
    }

    fn describe(&self, site: PatternSite, alloc_count: u64) -> ReallocGrowth {
        let reserve_bytes = self.finals.quantile(RESERVED_PART);
        let kind = if self.linear.step_count * 2 >= self.grow_count {
            GrowthKind::Linear
        } else if self.wide_count * 2 >= self.grow_count {
            GrowthKind::Geometric
        } else {
            GrowthKind::Uneven
        };
        ReallocGrowth {
            site,
            kind,
            chain_count: self.chain_count,
            ungrown_count: alloc_count.saturating_sub(self.chain_count),
            grow_count: self.grow_count,
            shrink_count: self.shrink_count,
            moved_count: self.moved_count,
            moved_bytes: self.moved_bytes,
            old_bytes: self.old_bytes,
            median_final_bytes: self.finals.quantile(0.5),
            reserve_bytes,
            max_final_bytes: self.finals.max(),
            reserve_saves_count: self.grown_to.count_up_to(reserve_bytes),
            reserve_wastes_bytes: self.finals.missing_to(reserve_bytes),
            linear: Linear {
                step_bytes: self.steps.commonest().map_or(0, |(step_bytes, _)| step_bytes),
                ..self.linear
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SITE: Site = Site(0);

    fn grow(reallocs: &mut Reallocs, sizes: &[u64], moves: impl Fn(usize) -> bool) {
        let mut chain = ChainId::default();
        for (at, pair) in sizes.windows(2).enumerate() {
            let moved = Moved { old_bytes: pair[0], new_bytes: pair[1], other_address: moves(at) };
            chain = reallocs.moved(SITE, chain, moved);
        }
        reallocs.over(chain, sizes[sizes.len() - 1]);
    }

    fn described(reallocs: &Reallocs, alloc_count: u64) -> ReallocGrowth {
        let site = PatternSite {
            function: String::new(),
            born: crate::replay::Amount::default(),
            phases: Vec::new(),
            stack_count: 1,
            stack: Vec::new(),
        };
        reallocs.found[0].describe(site, alloc_count)
    }

    #[test]
    fn one_more_each_time_is_linear_and_what_it_copies_is_exact() {
        let mut reallocs = Reallocs::new(1);
        let sizes: Vec<u64> = (1..=50).map(|count| count * 16).collect();
        grow(&mut reallocs, &sizes, |at| at % 2 == 0);
        let found = described(&reallocs, 3);
        assert_eq!((found.kind, found.chain_count, found.ungrown_count), (GrowthKind::Linear, 1, 2));
        assert_eq!((found.grow_count, found.old_bytes), (49, 16 * 49 * 50 / 2));
        assert_eq!((found.moved_count, found.moved_bytes), (25, (1..=49).step_by(2).map(|count| count * 16).sum()));
        let doubling = 16 * (1 + 2 + 4 + 8 + 16 + 32);
        let linear = Linear {
            run_count: 1,
            step_count: 49,
            step_bytes: 16,
            copied_bytes: found.old_bytes,
            doubling_copied_bytes: doubling,
        };
        assert_eq!(found.linear, linear);
        assert_eq!((found.reserve_bytes, found.reserve_saves_count, found.reserve_wastes_bytes), (800, 49, 0));
    }

    #[test]
    fn doubling_is_geometric_and_reserving_serves_nine_in_ten() {
        let mut reallocs = Reallocs::new(1);
        for _ in 0..9 {
            grow(&mut reallocs, &[8, 16, 32], |_| true);
        }
        grow(&mut reallocs, &[8, 16, 32, 64, 128, 100], |_| false);
        let found = described(&reallocs, 10);
        assert_eq!((found.kind, found.linear), (GrowthKind::Geometric, Linear::default()));
        assert_eq!((found.chain_count, found.grow_count, found.shrink_count), (10, 22, 1));
        assert_eq!((found.reserve_bytes, found.reserve_saves_count, found.max_final_bytes), (32, 20, 100));
        assert_eq!((found.moved_count, found.moved_bytes), (18, 9 * 24));
        assert!(reallocs.chains.len() == 1, "chains that are over make room");
    }
}
