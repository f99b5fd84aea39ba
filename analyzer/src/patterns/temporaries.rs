//! Blocks that are freed as soon as they are made. Responsible for blocks that die within two events of their thread, in the
//! function that made them or its caller; not for longer lives, however short in bytes (see `lifetimes`).

use serde::Serialize;

use super::listing::Listing;
use super::places::{PatternSite, Places, Site};
use super::sizes::Sizes;
use crate::sites::ratio;

/// Events of the thread from birth to death: 1 is the very next.
pub(super) const EVENTS: u64 = 2;
/// Frames that the scope of a temporary may lie outwards of its site.
pub(super) const ESCAPE: u32 = 1;
/// Temporaries that make a site worth listing.
const LEAST: u64 = 100;
/// A buffer of so many bytes may stand on any stack.
pub(crate) const STACK_BYTES: u64 = 1024;

/// A function whose blocks are freed at once.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Temporary {
    /// Who allocates.
    #[serde(flatten)]
    pub site: PatternSite,
    /// Blocks that are freed within two events.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their part of the site's blocks, from 0 to 1.
    pub share: f64,
    /// Half are at most this.
    pub median_bytes: u64,
    /// Nine in ten are at most this.
    pub p90_bytes: u64,
    /// The greatest.
    pub max_bytes: u64,
    /// What could take their place.
    pub instead: Instead,
}

/// What could take the place of temporary blocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Instead {
    /// All fit into 1 KiB: a buffer on the stack.
    StackBuffer,
    /// Nine in ten do: a vector that begins on the stack (`SmallVec`).
    SmallVec,
    /// A buffer that is kept from call to call.
    ScratchBuffer,
}

/// The detector.
#[derive(Debug)]
pub(super) struct Temporaries {
    found: Vec<(Sizes, u64)>,
}

impl Temporaries {
    pub(super) fn new(site_count: usize) -> Self {
        Self { found: vec![(Sizes::default(), 0); site_count] }
    }

    /// A block died within two events.
    pub(super) fn died(&mut self, site: Site, size_bytes: u64) {
        let (sizes, bytes) = &mut self.found[site.index()];
        sizes.add(size_bytes);
        *bytes = bytes.saturating_add(size_bytes);
    }

    /// How many of a site's blocks are temporary, and the greatest size.
    pub(super) fn of(&self, site: Site) -> (u64, u64) {
        let (sizes, _) = &self.found[site.index()];
        (sizes.count(), sizes.max())
    }

    /// What was found, the most blocks first.
    pub(super) fn finish(&self, places: &Places<'_>, limit: usize) -> Listing<Temporary> {
        let found = |site: Site| &self.found[site.index()];
        let ranked = places.ranked(|site| {
            let (sizes, bytes) = found(site);
            let count = sizes.count();
            if count < LEAST { (0, 0) } else { (count, *bytes) }
        });
        Listing {
            site_count: ranked.len() as u64,
            count: ranked.iter().map(|site| found(*site).0.count()).sum(),
            bytes: ranked.iter().map(|site| found(*site).1).sum(),
            rows: ranked.iter().take(limit).map(|site| describe(places.describe(*site), found(*site))).collect(),
        }
    }
}

fn describe(site: PatternSite, (sizes, bytes): &(Sizes, u64)) -> Temporary {
    let p90_bytes = sizes.quantile(0.9);
    let instead = if sizes.max() <= STACK_BYTES {
        Instead::StackBuffer
    } else if p90_bytes <= STACK_BYTES {
        Instead::SmallVec
    } else {
        Instead::ScratchBuffer
    };
    Temporary {
        count: sizes.count(),
        bytes: *bytes,
        share: ratio(sizes.count(), site.born.count),
        median_bytes: sizes.quantile(0.5),
        p90_bytes,
        max_bytes: sizes.max(),
        instead,
        site,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_their_place_depends_on_the_greatest_sizes() {
        let site = || PatternSite {
            function: String::new(),
            born: crate::replay::Amount { bytes: 0, count: 200 },
            phases: Vec::new(),
            stack_count: 1,
            stack: Vec::new(),
        };
        let mut temporaries = Temporaries::new(1);
        let mut after = |size: u64, count: u64| {
            (0..count).for_each(|_| temporaries.died(Site(0), size));
            describe(site(), &temporaries.found[0])
        };
        let few = after(64, 100);
        assert_eq!((few.instead, few.share, few.bytes), (Instead::StackBuffer, 0.5, 6400));
        assert_eq!(after(5000, 2).instead, Instead::SmallVec);
        let many = after(5000, 98);
        assert_eq!((many.instead, many.max_bytes, many.median_bytes), (Instead::ScratchBuffer, 5000, 64));
    }
}
