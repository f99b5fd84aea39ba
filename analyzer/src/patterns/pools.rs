//! Blocks of one size that come and go. Responsible for sites that make many blocks of the same size of which few are alive at a
//! time; not for what a pool would gain: allocators of today keep such lists themselves, so expect little speed.

use serde::Serialize;

use super::listing::Listing;
use super::places::{PatternSite, Places, Site};
use crate::sites::ratio;

/// Sizes of a site that are followed, the first ones seen.
const SIZES: usize = 8;
/// Addresses freed last that are remembered of each size.
const FREED: usize = 8;
/// Blocks of the size that make a pool worth while.
const LEAST: u64 = 1000;
/// The part of the site's blocks that must be of the size.
const SHARE: f64 = 0.9;
/// Blocks for each one alive at most.
const TURNOVER: u64 = 20;

/// A function whose blocks could come from a pool.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pool {
    /// Who allocates.
    #[serde(flatten)]
    pub site: PatternSite,
    /// The size.
    pub size_bytes: u64,
    /// Blocks of that size.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their part of the site's blocks, from 0 to 1.
    pub share: f64,
    /// The most that were alive at a time: slots that a pool needs.
    pub slot_count: u64,
    /// What these slots take.
    pub slot_bytes: u64,
    /// The part of births, from 0 to 1, that got the very block freed last: the allocator is a pool already.
    pub lifo_share: f64,
}

/// Blocks of one size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct OneSize {
    pub(super) size_bytes: u64,
    pub(super) born_count: u64,
    live_count: u64,
    pub(super) max_live_count: u64,
    pub(super) lifo_count: u64,
    freed: Freed,
}

/// Addresses freed last and not given out again, the latest last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Freed {
    addresses: [u64; FREED],
    count: usize,
}

impl Freed {
    fn push(&mut self, address: u64) {
        if self.count == FREED {
            self.addresses.rotate_left(1);
            self.count -= 1;
        }
        self.addresses[self.count] = address;
        self.count += 1;
    }

    /// An address is given out. Whether it is the latest.
    fn take(&mut self, address: u64) -> bool {
        let Some(at) = self.addresses[..self.count].iter().rposition(|freed| *freed == address) else { return false };
        self.addresses[at..self.count].rotate_left(1);
        self.count -= 1;
        at == self.count
    }
}

/// The detector.
#[derive(Debug)]
pub(super) struct Pools {
    of_site: Vec<Vec<OneSize>>,
}

impl Pools {
    pub(super) fn new(site_count: usize) -> Self {
        Self { of_site: vec![Vec::new(); site_count] }
    }

    /// A block is born. O(sizes followed).
    #[inline]
    pub(super) fn born(&mut self, site: Site, size_bytes: u64, address: u64) {
        let sizes = &mut self.of_site[site.index()];
        let at = match sizes.iter().position(|one| one.size_bytes == size_bytes) {
            Some(at) => at,
            None if sizes.len() < SIZES => {
                sizes.push(OneSize { size_bytes, ..OneSize::default() });
                sizes.len() - 1
            }
            None => return,
        };
        let one = &mut sizes[at];
        one.born_count += 1;
        one.live_count += 1;
        one.max_live_count = one.max_live_count.max(one.live_count);
        one.lifo_count += u64::from(one.freed.take(address));
    }

    /// A block dies.
    #[inline]
    pub(super) fn died(&mut self, site: Site, size_bytes: u64, address: u64) {
        if let Some(one) = self.of_site[site.index()].iter_mut().find(|one| one.size_bytes == size_bytes) {
            one.live_count = one.live_count.saturating_sub(1);
            one.freed.push(address);
        }
    }

    /// A block that `died` was told of lives on.
    pub(super) fn stayed(&mut self, site: Site, size_bytes: u64, address: u64) {
        if let Some(one) = self.of_site[site.index()].iter_mut().find(|one| one.size_bytes == size_bytes) {
            one.live_count += 1;
            one.freed.take(address);
        }
    }

    /// The size that a site makes most blocks of.
    pub(super) fn commonest(&self, site: Site) -> Option<OneSize> {
        self.of_site[site.index()].iter().max_by_key(|one| (one.born_count, one.size_bytes)).copied()
    }

    /// What was found, the most blocks first.
    pub(super) fn finish(&self, places: &Places<'_>, limit: usize) -> Listing<Pool> {
        let found = |site: Site| self.commonest(site).filter(|one| one.is_pool(places.born(site).count));
        let weight = |site: Site| found(site).map_or((0, 0), |one| (one.born_count, one.size_bytes));
        let ranked = places.ranked(weight);
        let pools: Vec<(Site, OneSize)> = ranked.iter().filter_map(|site| Some((*site, found(*site)?))).collect();
        let bytes = |one: &OneSize| one.born_count.saturating_mul(one.size_bytes);
        Listing {
            site_count: pools.len() as u64,
            count: pools.iter().map(|(_, one)| one.born_count).sum(),
            bytes: pools.iter().map(|(_, one)| bytes(one)).sum(),
            rows: pools
                .iter()
                .take(limit)
                .map(|(site, one)| Pool {
                    site: places.describe(*site),
                    size_bytes: one.size_bytes,
                    count: one.born_count,
                    bytes: bytes(one),
                    share: ratio(one.born_count, places.born(*site).count),
                    slot_count: one.max_live_count,
                    slot_bytes: one.max_live_count.saturating_mul(one.size_bytes),
                    lifo_share: ratio(one.lifo_count, one.born_count),
                })
                .collect(),
        }
    }
}

impl OneSize {
    /// Whether a site with so many births could have a pool of this size. Where one is alive at a time it is a buffer.
    pub(super) fn is_pool(&self, born_count: u64) -> bool {
        self.born_count >= LEAST
            && ratio(self.born_count, born_count) >= SHARE
            && self.max_live_count > 1
            && self.max_live_count.saturating_mul(TURNOVER) <= self.born_count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_the_most_alive_and_reuse_is_of_the_block_freed_last() {
        let mut pools = Pools::new(1);
        for round in 0..1000u64 {
            pools.born(Site(0), 48, 0x1000);
            pools.born(Site(0), 48, 0x2000);
            pools.died(Site(0), 48, 0x2000);
            if round % 2 == 0 {
                pools.born(Site(0), 48, 0x2000);
                pools.died(Site(0), 48, 0x2000);
            }
            pools.died(Site(0), 48, 0x1000);
        }
        let one = pools.commonest(Site(0)).unwrap();
        assert_eq!((one.born_count, one.max_live_count), (2500, 2));
        // All but the first of each address.
        assert_eq!(one.lifo_count, 2498);
        assert!(one.is_pool(2500) && one.is_pool(2777) && !one.is_pool(2778));
    }

    #[test]
    fn many_alive_or_one_alone_are_no_pool() {
        let one = OneSize { size_bytes: 8, born_count: 1000, max_live_count: 51, ..OneSize::default() };
        assert!(!one.is_pool(1000));
        assert!(OneSize { max_live_count: 50, ..one }.is_pool(1000));
        assert!(!OneSize { max_live_count: 1, ..one }.is_pool(1000));
        assert!(!OneSize { max_live_count: 50, born_count: 999, ..one }.is_pool(999));
    }
}
