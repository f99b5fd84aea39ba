//! Chunks of allocators that stand on others. Responsible for what an arena or pool takes from the allocator below against what it
//! serves; not for which allocators stand on others (see `layers`).
//!
//! ```text
//!  arena.alloc 40 ─┐
//!                  └─▶ malloc 65,536      a chunk: allocated inside a call of the arena
//!  arena.alloc 24                         served from it
//! ```
//!
//! Both sides have their own peak: a chunk may be kept when what was served from it is gone.

use serde::Serialize;
use trace_format::{DomainId, Tables};

use crate::replay::{Amount, Outcome};

/// A greater part of the chunks that is never used makes them near-empty.
const NEAR_EMPTY: f64 = 0.5;

/// Chunks of all allocators that stand on others.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Chunks {
    /// Allocators that stand on another, over all processes; empty where the trace has none.
    pub domains: Vec<ChunkDomain>,
    /// What the trace shows of chunks, in a sentence.
    pub sentence: String,
}

/// An allocator that stands on another.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ChunkDomain {
    /// Its name.
    pub domain: String,
    /// Its layer: how many allocators are below.
    pub layer: u32,
    /// Blocks that it took from below.
    pub chunk_count: u64,
    /// Their bytes.
    pub chunk_bytes: u64,
    /// The most bytes of chunks at a time.
    pub peak_chunk_bytes: u64,
    /// Blocks that it served.
    pub served_count: u64,
    /// Their bytes.
    pub served_bytes: u64,
    /// The most bytes that it served at a time.
    pub peak_served_bytes: u64,
    /// The part of the chunks, both at their peaks, that was never served, from 0 to 1.
    pub unused_share: f64,
    /// Whether that is more than half.
    pub near_empty: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct Taken {
    total: Amount,
    live_bytes: u64,
    peak_bytes: u64,
}

/// The detector.
#[derive(Debug)]
pub(super) struct ChunkWatch {
    of_domain: Vec<Taken>,
}

impl ChunkWatch {
    pub(super) fn new(tables: &Tables) -> Self {
        Self { of_domain: vec![Taken::default(); tables.domains.len()] }
    }

    /// A block of a backing allocator is born inside a call of this one.
    pub(super) fn born(&mut self, inside: DomainId, size_bytes: u64) {
        let Some(taken) = self.of_domain.get_mut(inside.index()) else { return };
        taken.total += Amount { bytes: size_bytes, count: 1 };
        taken.live_bytes = taken.live_bytes.saturating_add(size_bytes);
        taken.peak_bytes = taken.peak_bytes.max(taken.live_bytes);
    }

    /// Such a block dies.
    pub(super) fn died(&mut self, inside: DomainId, size_bytes: u64) {
        let Some(taken) = self.of_domain.get_mut(inside.index()) else { return };
        taken.live_bytes = taken.live_bytes.saturating_sub(size_bytes);
    }

    /// What was found.
    pub(super) fn finish(&self, tables: &Tables, outcome: &Outcome) -> Chunks {
        let on_top = (0..tables.domains.len()).map(DomainId::from).filter(|domain| !outcome.layers.is_backing(*domain));
        let domains: Vec<ChunkDomain> = on_top
            .map(|domain| {
                let (taken, account) = (&self.of_domain[domain.index()], &outcome.domains[domain.index()]);
                let unused_share = unused(account.peak.bytes, taken.peak_bytes);
                ChunkDomain {
                    domain: tables.domains[domain.index()].name.clone(),
                    layer: outcome.layers.layer(domain),
                    chunk_count: taken.total.count,
                    chunk_bytes: taken.total.bytes,
                    peak_chunk_bytes: taken.peak_bytes,
                    served_count: account.counts.alloc_count + account.counts.realloc_count,
                    served_bytes: account.counts.alloc_bytes,
                    peak_served_bytes: account.peak.bytes,
                    unused_share,
                    near_empty: unused_share > NEAR_EMPTY,
                }
            })
            .collect();
        let sentence = if domains.is_empty() {
            "The trace has no allocator that stands on another: what arenas inside the program do with their chunks was not \
             recorded, and nothing is said of it."
                .to_owned()
        } else {
            let near_empty = domains.iter().filter(|domain| domain.near_empty).count();
            format!(
                "{} of {} recorded allocators that stand on another never use more than half of their chunks.",
                near_empty,
                domains.len()
            )
        };
        Chunks { domains, sentence }
    }
}

/// The part of chunks that is not served.
fn unused(served_bytes: u64, chunk_bytes: u64) -> f64 {
    if chunk_bytes == 0 { 0.0 } else { 1.0 - served_bytes.min(chunk_bytes) as f64 / chunk_bytes as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use trace_format::Domain;

    #[test]
    fn chunks_are_weighed_at_their_peak_against_the_peak_of_what_they_serve() {
        let arena = Domain { name: "arena".into(), layer: 1, ..Domain::default() };
        let tables = Tables { domains: vec![Domain::default(), arena], ..Tables::default() };
        let mut watch = ChunkWatch::new(&tables);
        watch.born(DomainId(1), 4096);
        watch.born(DomainId(1), 4096);
        watch.died(DomainId(1), 4096);
        watch.born(DomainId(1), 1000);
        watch.born(DomainId(7), 1000);
        let mut outcome = crate::Replay::new(&tables).finish();
        outcome.domains[1].peak.bytes = 2048;
        let found = watch.finish(&tables, &outcome);
        let [domain] = &found.domains[..] else { panic!("one stands on another") };
        assert_eq!((domain.chunk_count, domain.chunk_bytes, domain.peak_chunk_bytes), (3, 9192, 8192));
        assert!((domain.unused_share - 0.75).abs() < 1e-9 && domain.near_empty);
    }

    #[test]
    fn without_such_an_allocator_nothing_is_claimed() {
        let tables = Tables { domains: vec![Domain::default()], ..Tables::default() };
        let found = ChunkWatch::new(&tables).finish(&tables, &crate::Replay::new(&tables).finish());
        assert!(found.domains.is_empty() && found.sentence.contains("no allocator"));
    }
}
