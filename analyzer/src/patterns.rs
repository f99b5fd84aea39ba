//! Patterns of allocation that cost more than they must, and what to do about them. Responsible for recognising them in a trace and
//! for the result that `heaptape patterns` shows; which allocator fits each site is decided in `advice`, arenas are not simulated
//! here.
//!
//! ```text
//!  first pass   study     phases, lifetimes, peaks      (see `lifetimes`)
//!  second pass  watch ─┬─▶ appends         tables that grow by allocate-copy-free
//!                      ├─▶ reallocs        tables that grow by realloc
//!                      ├─▶ storms          a thousand frees in a row in one call
//!                      ├─▶ temporaries     freed as soon as made
//!                      ├─▶ pools           one size, many, few alive
//!                      ├─▶ transfers       freed by other threads, in other phases
//!                      ├─▶ page_requests   whole pages for little
//!                      ├─▶ chunks          arenas' chunks against what they serve
//!                      ├─▶ fragmentation   live bytes against pages at the peak
//!                      └─▶ fates ─▶ advice what becomes of each site's blocks
//! ```
//!
//! A *site* is here a function, see `places`. Counts and bytes are exact; quantiles of sizes are exact up to a thousand different
//! sizes of a site.

mod appends;
mod candidates;
mod chunks;
mod fates;
mod fragmentation;
mod growth;
mod listing;
mod page_requests;
mod places;
mod pools;
mod reallocs;
mod sizes;
mod storms;
mod temporaries;
mod transfers;
mod watch;

pub use appends::Append;
pub use chunks::{ChunkDomain, Chunks};
pub use fragmentation::{Fragmentation, HeapPages, Pin};
pub use listing::Listing;
pub use page_requests::{PageRequest, PageRequests};
pub use places::PatternSite;
pub use pools::Pool;
pub use reallocs::{GrowthKind, Linear, ReallocGrowth};
pub use storms::{BornIn, TeardownStorm};
pub(crate) use temporaries::STACK_BYTES;
pub use temporaries::{Instead, Temporary};
pub use transfers::{PhaseTransfer, SiteTransfer, ThreadTransfer, Transfers};

use serde::Serialize;
use trace_format::Trace;

use crate::advice::{Advice, Facts, ScopeShare, advice};
use crate::arenas::Arenas;
use crate::doubt::{Doubt, doubts};
use crate::error::AnalysisError;
use crate::lifetimes::Study;
use crate::names::Names;
use crate::replay::{Amount, replay_with};
use crate::selection::{Selection, Wanted};
use crate::units::plural;
use crate::wrappers::Wrappers;
use places::{Places, Site};
use watch::Watch;

/// Patterns of a trace. This is what `heaptape patterns --json` prints.
#[derive(Debug, Clone, Serialize)]
pub struct Patterns {
    /// Version of this interface; rises when a field changes its meaning.
    pub schema: u32,
    /// Which processes and allocators.
    pub scope: String,
    /// All blocks: each alloc is one, and each realloc begins another.
    pub total: Amount,
    /// Sites that made them.
    pub site_count: u64,
    /// Tables that grow by allocate-copy-free; `count` is of steps, `bytes` of what they copied.
    pub appends: Listing<Append>,
    /// Tables that grow by realloc; `count` is of reallocs that grow, `bytes` of old sizes.
    pub reallocs: Listing<ReallocGrowth>,
    /// Teardown storms; `count` and `bytes` are of blocks freed in them.
    pub storms: Listing<TeardownStorm>,
    /// Blocks freed as soon as they are made.
    pub temporaries: Listing<Temporary>,
    /// Blocks of one size, of which few are alive at a time.
    pub pools: Listing<Pool>,
    /// Blocks that change hands.
    pub transfers: Transfers,
    /// Requests of whole pages.
    pub page_requests: PageRequests,
    /// Chunks of allocators that stand on others.
    pub chunks: Chunks,
    /// Live bytes against pages at the peak.
    pub fragmentation: Fragmentation,
    /// Frees that suggested arenas would make unnecessary; null until arenas were suggested, which is not done here.
    pub moot_frees: Option<MootFrees>,
    /// Which allocator fits which site, most blocks first.
    pub advice: Vec<Advice>,
    /// Sites that advice is given for; `advice` may hold fewer.
    pub advice_count: u64,
    /// What the figures do not know.
    pub doubts: Vec<Doubt>,
}

/// Frees that arenas make unnecessary. Filled by whoever simulates arenas, as `heaptape report` does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MootFrees {
    /// Frees.
    pub count: u64,
    /// Bytes of their blocks.
    pub bytes: u64,
    /// By which arenas, in a sentence.
    pub sentence: String,
}

impl MootFrees {
    /// What the suggested arenas come to on the traces that they were found in; none where none is suggested.
    pub fn of(arenas: &Arenas) -> Option<Self> {
        let (suggestions, traces) = (&arenas.suggestions, arenas.trained_on.len() as u64);
        let count = suggestions.iter().map(|one| one.frees_saved).sum();
        (!suggestions.is_empty()).then(|| Self {
            count,
            bytes: suggestions.iter().map(|one| one.bytes).sum(),
            sentence: format!(
                "{} would make {} moot, in {}.",
                plural(suggestions.len() as u64, "kind of arena", "kinds of arenas"),
                plural(count, "free", "frees"),
                plural(traces, "trace", "traces"),
            ),
        })
    }
}

/// How to look for patterns.
#[derive(Debug, Default)]
pub struct PatternOptions {
    /// Functions that allocate on behalf of others.
    pub wrappers: Wrappers,
    /// Rows of each pattern that are listed.
    pub limit: usize,
    /// Threads that decode.
    pub decoders: usize,
}

/// Finds the patterns of the selected processes in another pass over the trace. `progress` is told how many events of it are
/// done.
///
/// # Errors
/// The selection names nothing, or the file became unreadable.
pub fn patterns(
    trace: &Trace,
    study: &Study,
    names: &Names,
    wanted: &Wanted,
    options: &PatternOptions,
    progress: impl FnMut(u64),
) -> Result<Patterns, AnalysisError> {
    let (tables, limit) = (&trace.tables, options.limit);
    let selection = Selection::of(wanted, tables, &study.outcome)?;
    let places = Places::of(trace, study, names, &selection, &options.wrappers);
    let watch = Watch::new(tables, &places, &study.outcome);
    let (_, watch) = replay_with(trace, watch, options.decoders, progress)?;
    let mut total = Amount::default();
    places.sites().for_each(|site| total += places.born(site));
    let mut advised = advised(&places, &watch);
    let advice_count = advised.len() as u64;
    advised.truncate(limit);
    let Watch { fates, appends, reallocs, storms, temporaries, pools, threads, pages, chunks, snapshot, .. } = watch;
    Ok(Patterns {
        schema: 1,
        total,
        site_count: places.len() as u64,
        appends: appends.finish(&places, limit),
        reallocs: reallocs.finish(&places, limit),
        storms: storms.finish(&places, limit),
        temporaries: temporaries.finish(&places, limit),
        pools: pools.finish(&places, limit),
        transfers: threads.finish(&places, &fates, study, limit),
        page_requests: pages.finish(&places, limit),
        chunks: chunks.finish(tables, &study.outcome),
        fragmentation: snapshot.finish(&places, &study.outcome, limit),
        moot_frees: None,
        advice: advised,
        advice_count,
        doubts: doubts(trace, &study.outcome),
        scope: selection.scope,
    })
}

/// Advice for all sites that there is any for, most blocks first.
fn advised(places: &Places<'_>, watch: &Watch<'_, '_>) -> Vec<Advice> {
    let scopes = watch.fates.scopes();
    let mut advised: Vec<Advice> = places
        .ranked(|site| (places.born(site).count, places.born(site).bytes))
        .into_iter()
        .filter_map(|site| advice(&facts(places, watch, site, scopes.get(&site).map_or(&[], Vec::as_slice))))
        .collect();
    for (advice, rank) in advised.iter_mut().zip(1..) {
        advice.rank = rank;
    }
    advised
}

fn facts(places: &Places<'_>, watch: &Watch<'_, '_>, site: Site, scopes: &[(Option<u32>, u64)]) -> Facts {
    let fate = watch.fates.of(site);
    let (temporary_count, temporary_max_bytes) = watch.temporaries.of(site);
    let one_size = watch.pools.commonest(site).unwrap_or_default();
    let born = places.born(site);
    let scoped_count = scopes.iter().map(|(_, count)| count).sum();
    let scope = scopes.first().map(|(function, count)| ScopeShare {
        function: function.map(|function| places.function_name(function)),
        count: *count,
    });
    Facts {
        site: places.describe(site),
        freed: fate.freed,
        freed_elsewhere: fate.freed_elsewhere,
        replaced_count: fate.replaced_count,
        survived: fate.survived,
        max_bytes: fate.max_bytes,
        scoped_count,
        scope,
        temporary_count,
        temporary_max_bytes,
        grow_count: watch.reallocs.grow_count(site),
        one_size_bytes: one_size.size_bytes,
        one_size_count: one_size.born_count,
        one_size_max_live_count: one_size.max_live_count,
        lifo_count: one_size.lifo_count,
        is_pool: one_size.is_pool(born.count),
    }
}
