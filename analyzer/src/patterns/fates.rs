//! What becomes of the blocks of each site, as far as advice needs it. Responsible for counting frees, survivors and scopes by
//! function; distributions of ages are in `lifetimes`.

use foldhash::{HashMap, HashMapExt};

use super::places::Site;
use crate::replay::Amount;

/// What became of a site's blocks.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fate {
    /// Freed, by whatever thread; ends of reallocs that replaced a block are no frees.
    pub(super) freed: Amount,
    /// Of them, freed by another thread.
    pub(super) freed_elsewhere: Amount,
    /// Blocks that a realloc replaced.
    pub(super) replaced_count: u64,
    /// Never freed.
    pub(super) survived: Amount,
    /// The greatest block.
    pub(super) max_bytes: u64,
}

/// The fates of all sites.
#[derive(Debug)]
pub(super) struct Fates {
    of_site: Vec<Fate>,
    /// Blocks freed by their own thread, by the function whose activation is their scope; none where that is the thread as a
    /// whole.
    scopes: HashMap<(Site, Option<u32>), u64>,
}

impl Fates {
    pub(super) fn new(site_count: usize) -> Self {
        Self { of_site: vec![Fate::default(); site_count], scopes: HashMap::new() }
    }

    /// The fate of a site, to be added to.
    #[inline]
    pub(super) fn of_mut(&mut self, site: Site) -> &mut Fate {
        &mut self.of_site[site.index()]
    }

    /// The fate of a site.
    pub(super) fn of(&self, site: Site) -> &Fate {
        &self.of_site[site.index()]
    }

    /// A block is freed by its own thread; its scope is an activation of this function.
    #[inline]
    pub(super) fn scope(&mut self, site: Site, function: Option<u32>) {
        *self.scopes.entry((site, function)).or_default() += 1;
    }

    /// Scopes by site, the commonest first.
    pub(super) fn scopes(&self) -> HashMap<Site, Vec<(Option<u32>, u64)>> {
        let mut by_site: HashMap<Site, Vec<(Option<u32>, u64)>> = HashMap::new();
        for ((site, function), count) in &self.scopes {
            by_site.entry(*site).or_default().push((*function, *count));
        }
        for scopes in by_site.values_mut() {
            scopes.sort_unstable_by_key(|(function, count)| (std::cmp::Reverse(*count), *function));
        }
        by_site
    }
}
