//! Which allocators stand on top of others. Responsible for deciding what the totals count; not for counting.
//!
//! An arena, a pool or an interposer takes its memory from another allocator, so adding both up would count every byte
//! twice. Totals count *backing* domains (layer 0) only. A domain is on top of another when the trace says so
//! (`Domain::layer` above 0), or when the recorder saw it: at least half of its allocations, by number or by bytes,
//! had an allocation of the other domain inside (`Nesting`).
//!
//! ```text
//!   arena.alloc ──┐ 381,755 calls            nesting(arena → libc): 381,750 of 381,755
//!                 └─▶ libc malloc            ⇒ arena is layer 1, libc layer 0: totals count libc
//! ```

use std::collections::BTreeMap;

use trace_format::{DomainId, Tables};

/// Layers beyond this are not told apart; no real program stacks allocators so high.
const HIGHEST_LAYER: u32 = 32;

/// The layer of every domain.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Layers {
    layer_of: Vec<u32>,
}

impl Layers {
    /// Decides the layers of a trace's domains. Of several nesting rows of one pair the last one holds.
    pub fn of(tables: &Tables) -> Self {
        let domain_count = tables.domains.len();
        let last_rows: BTreeMap<_, _> =
            tables.nestings.iter().map(|nesting| ((nesting.outer, nesting.inner), nesting)).collect();
        let mut below: Vec<Vec<usize>> = vec![Vec::new(); domain_count];
        for ((outer, inner), nesting) in last_rows {
            let (outer, inner) = (outer.index(), inner.index());
            if outer >= domain_count || inner >= domain_count || outer == inner {
                continue;
            }
            if half(nesting.count, nesting.outer_count) || half(nesting.bytes, nesting.outer_bytes) {
                below[outer].push(inner);
            }
        }
        let mut states = vec![State::New; domain_count];
        for domain in 0..domain_count {
            visit(domain, &below, &mut states, HIGHEST_LAYER);
        }
        let layer_of = states
            .into_iter()
            .zip(&tables.domains)
            .map(|(state, domain)| match state {
                State::Done(layer) => layer.max(domain.layer),
                State::New | State::Open => domain.layer,
            })
            .collect();
        Self { layer_of }
    }

    /// The layer of a domain: 0 takes its memory from the kernel.
    pub fn layer(&self, domain: DomainId) -> u32 {
        self.layer_of.get(domain.index()).copied().unwrap_or(0)
    }

    /// Whether totals count this domain.
    pub fn is_backing(&self, domain: DomainId) -> bool {
        self.layer(domain) == 0
    }
}

/// Whether `part` is at least half of a `whole` that exists.
fn half(part: u64, whole: u64) -> bool {
    whole > 0 && part >= whole.div_ceil(2)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    New,
    Open,
    Done(u32),
}

/// One more than the deepest layer below. An edge back to a domain being visited is ignored: in a cycle the domain
/// reached last is the backing one, so that no byte goes uncounted.
fn visit(domain: usize, below: &[Vec<usize>], states: &mut [State], levels_left: u32) -> Option<u32> {
    match states[domain] {
        State::Done(layer) => return Some(layer),
        State::Open => return None,
        State::New if levels_left == 0 => return None,
        State::New => states[domain] = State::Open,
    }
    let deepest = below[domain].iter().filter_map(|&inner| visit(inner, below, states, levels_left - 1)).max();
    let layer = deepest.map_or(0, |deepest| deepest + 1);
    states[domain] = State::Done(layer);
    Some(layer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use trace_format::{Domain, Nesting};

    fn nesting(outer: u32, inner: u32, count: u64, outer_count: u64) -> Nesting {
        let (outer, inner) = (DomainId(outer), DomainId(inner));
        Nesting { outer, inner, count, bytes: 0, outer_count, outer_bytes: 0 }
    }

    fn layers(domain_count: usize, nestings: Vec<Nesting>) -> Vec<u32> {
        let tables = Tables { domains: vec![Domain::default(); domain_count], nestings, ..Tables::default() };
        Layers::of(&tables).layer_of
    }

    #[test]
    fn half_of_the_calls_is_on_top_and_less_is_not() {
        assert_eq!(layers(2, vec![nesting(0, 1, 5, 10)]), [1, 0]);
        assert_eq!(layers(2, vec![nesting(0, 1, 4, 10)]), [0, 0]);
        assert_eq!(layers(2, vec![nesting(0, 1, 5, 11)]), [0, 0]);
        assert_eq!(layers(2, vec![nesting(0, 1, 0, 0)]), [0, 0]);
    }

    #[test]
    fn half_of_the_bytes_is_enough() {
        let chunky = Nesting { count: 1, bytes: 4096, outer_count: 1000, outer_bytes: 8000, ..nesting(0, 1, 0, 0) };
        assert_eq!(layers(2, vec![chunky]), [1, 0]);
    }

    #[test]
    fn the_last_row_of_a_pair_holds() {
        assert_eq!(layers(2, vec![nesting(0, 1, 9, 10), nesting(0, 1, 9, 1000)]), [0, 0]);
        assert_eq!(layers(2, vec![nesting(0, 1, 1, 10), nesting(0, 1, 900, 1000)]), [1, 0]);
    }

    #[test]
    fn layers_stack_up_and_cycles_keep_a_backing_domain() {
        assert_eq!(layers(3, vec![nesting(0, 1, 1, 1), nesting(1, 2, 1, 1)]), [2, 1, 0]);
        assert_eq!(layers(2, vec![nesting(0, 1, 1, 1), nesting(1, 0, 1, 1)]), [1, 0]);
        assert_eq!(layers(1, vec![nesting(0, 0, 1, 1), nesting(0, 7, 1, 1)]), [0]);
    }

    #[test]
    fn a_declared_layer_holds_without_nesting() {
        let tables = Tables { domains: vec![Domain { layer: 2, ..Domain::default() }], ..Tables::default() };
        assert_eq!(Layers::of(&tables).layer(DomainId(0)), 2);
        assert!(Layers::of(&tables).is_backing(DomainId(9)), "an unknown domain hides nothing");
    }
}
