//! Blocks that change hands: freed by another thread than the one they were born on, or in another phase. Responsible for who
//! hands on how much to whom; not for whether that is wise.

use foldhash::{HashMap, HashMapExt};
use serde::Serialize;
use trace_format::ThreadId;

use super::fates::Fates;
use super::listing::Listing;
use super::places::{PatternSite, Places, Site};
use crate::lifetimes::Study;
use crate::phases::{PhaseSource, RowId};
use crate::replay::{Amount, CellId};
use crate::sites::ratio;

/// Blocks that change hands.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Transfers {
    /// Blocks that were freed.
    pub freed: Amount,
    /// Of them, freed by another thread.
    pub to_threads: Amount,
    /// From thread to thread, the most bytes first; blocks freed by their own thread are not listed.
    pub threads: Vec<ThreadTransfer>,
    /// Who makes what other threads free.
    pub thread_sites: Listing<SiteTransfer>,
    /// Blocks that their own thread freed when the phase instance they were born in was over.
    pub to_phases: Amount,
    /// From phase to phase, the most bytes first, `(outside)` being none. What goes from one instance of a phase to another of the
    /// same, or to a phase inside of it, is in no pair.
    pub phases: Vec<PhaseTransfer>,
    /// Who makes what other phases free: who promotes.
    pub phase_sites: Listing<SiteTransfer>,
}

/// Blocks born on one thread and freed by another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ThreadTransfer {
    /// The process.
    pub pid: u32,
    /// Where they were born.
    pub birth_tid: u32,
    /// Its name, empty where unknown.
    pub birth_thread: String,
    /// Where they were freed.
    pub death_tid: u32,
    /// Its name, empty where unknown.
    pub death_thread: String,
    /// Blocks.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Blocks born in one phase that died in another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PhaseTransfer {
    /// Path of the phase at birth, outermost first, joined by ` › `.
    pub birth: String,
    /// Path of the phase at death.
    pub death: String,
    /// Blocks.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What a function hands on.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SiteTransfer {
    /// Who allocates.
    #[serde(flatten)]
    pub site: PatternSite,
    /// Blocks of it that change hands.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Their part of the site's freed blocks, from 0 to 1.
    pub share: f64,
    /// Phases in which most of them were born; empty for transfers between threads.
    pub birth_phases: Vec<String>,
}

/// Follows blocks from thread to thread.
#[derive(Debug, Default)]
pub(super) struct ThreadMatrix {
    cells: HashMap<(ThreadId, ThreadId), Amount>,
}

impl ThreadMatrix {
    /// A block born on one thread is freed by another.
    pub(super) fn freed(&mut self, birth: ThreadId, death: ThreadId, size_bytes: u64) {
        *self.cells.entry((birth, death)).or_default() += Amount { bytes: size_bytes, count: 1 };
    }

    /// What was found, with what `study` knows of phases.
    pub(super) fn finish(self, places: &Places<'_>, fates: &Fates, study: &Study, limit: usize) -> Transfers {
        let left = left(places, study);
        let thread_sites = listing(places, limit, |site| fates.of(site).freed_elsewhere, fates, |_| Vec::new());
        let amount = |site: Site| left.get(&site).map_or(Amount::default(), |left| left.amount);
        let phases_of = |site: Site| left.get(&site).map_or_else(Vec::new, |left| left.phases(study));
        let phase_sites = listing(places, limit, amount, fates, phases_of);
        let mut freed = Amount::default();
        places.sites().for_each(|site| freed += fates.of(site).freed);
        let sum = |listing: &Listing<SiteTransfer>| Amount { bytes: listing.bytes, count: listing.count };
        Transfers {
            freed,
            to_threads: sum(&thread_sites),
            threads: self.threads(places, limit),
            to_phases: sum(&phase_sites),
            phases: phases(places, study, limit),
            thread_sites,
            phase_sites,
        }
    }

    fn threads(self, places: &Places<'_>, limit: usize) -> Vec<ThreadTransfer> {
        let mut cells: Vec<_> = self.cells.into_iter().collect();
        cells.sort_unstable_by_key(|(pair, amount)| (std::cmp::Reverse((amount.bytes, amount.count)), *pair));
        let tables = places.tables;
        let thread = |thread: ThreadId| {
            tables.threads.get(thread.index()).map_or((0, String::new(), 0), |thread| {
                let pid = tables.processes.get(thread.process.index()).map_or(0, |process| process.pid);
                (thread.tid, thread.name.clone(), pid)
            })
        };
        let describe = |((birth, death), amount): ((ThreadId, ThreadId), Amount)| {
            let ((birth_tid, birth_thread, pid), (death_tid, death_thread, _)) = (thread(birth), thread(death));
            let Amount { bytes, count } = amount;
            ThreadTransfer { pid, birth_tid, birth_thread, death_tid, death_thread, count, bytes }
        };
        cells.into_iter().take(limit).map(describe).collect()
    }
}

/// What of a site's blocks is freed after their phase.
#[derive(Debug, Default)]
struct Left {
    amount: Amount,
    /// By phase at birth.
    rows: HashMap<RowId, u64>,
}

impl Left {
    fn phases(&self, study: &Study) -> Vec<String> {
        let mut rows: Vec<(RowId, u64)> = self.rows.iter().map(|(row, count)| (*row, *count)).collect();
        rows.sort_unstable_by_key(|(row, count)| (std::cmp::Reverse(*count), *row));
        let mut names: Vec<String> = Vec::new();
        for (row, _) in rows {
            let name = &study.collected.phases[row.0 as usize].name;
            if !names.contains(name) && names.len() < 3 {
                names.push(name.clone());
            }
        }
        names
    }
}

fn left(places: &Places<'_>, study: &Study) -> HashMap<Site, Left> {
    let mut left: HashMap<Site, Left> = HashMap::new();
    for (at, life) in study.collected.cells.iter().enumerate() {
        let Some(place) = places.cell(CellId(at as u32)) else { continue };
        for row in life.rows.iter().filter(|row| row.left.count > 0) {
            let site = left.entry(place.site).or_default();
            site.amount += row.left;
            *site.rows.entry(row.row).or_default() += row.left.count;
        }
    }
    left
}

/// Pairs of phases of which the second is neither the first nor inside of it. Allocators are not told apart here.
fn phases(places: &Places<'_>, study: &Study, limit: usize) -> Vec<PhaseTransfer> {
    let rows = &study.collected.phases;
    let row = |row: RowId| &rows[row.0 as usize];
    let is_inside = |outer: RowId, inner: RowId| {
        let mut around = Some(inner);
        while let Some(at) = around {
            if at == outer {
                return true;
            }
            around = row(at).parent;
        }
        false
    };
    let mut cells: HashMap<(String, String), Amount> = HashMap::new();
    for ((birth, death), amount) in &study.collected.matrix {
        let Some(death) = *death else { continue };
        if row(*birth).source == PhaseSource::None
            || row(*birth).thread != row(death).thread
            || is_inside(*birth, death)
            || !places.has_process(row(*birth).thread)
        {
            continue;
        }
        let path = |row: RowId| study.phase_path(row).join(" › ");
        *cells.entry((path(*birth), path(death))).or_default() += *amount;
    }
    let mut cells: Vec<_> = cells.into_iter().collect();
    cells.sort_unstable_by(|(pair, amount), (other_pair, other)| {
        (other.bytes, other.count, pair).cmp(&(amount.bytes, amount.count, other_pair))
    });
    let describe = |((birth, death), Amount { bytes, count })| PhaseTransfer { birth, death, count, bytes };
    cells.into_iter().take(limit).map(describe).collect()
}

fn listing(
    places: &Places<'_>,
    limit: usize,
    amount: impl Fn(Site) -> Amount,
    fates: &Fates,
    birth_phases: impl Fn(Site) -> Vec<String>,
) -> Listing<SiteTransfer> {
    let ranked = places.ranked(|site| {
        let amount = amount(site);
        (amount.bytes.max(amount.count), amount.count)
    });
    let mut total = Amount::default();
    for site in &ranked {
        total += amount(*site);
    }
    let describe = |site: &Site| {
        let Amount { bytes, count } = amount(*site);
        let share = ratio(count, fates.of(*site).freed.count);
        SiteTransfer { site: places.describe(*site), count, bytes, share, birth_phases: birth_phases(*site) }
    };
    Listing {
        site_count: ranked.len() as u64,
        count: total.count,
        bytes: total.bytes,
        rows: ranked.iter().take(limit).map(describe).collect(),
    }
}
