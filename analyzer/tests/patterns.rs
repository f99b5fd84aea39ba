//! What must hold of the patterns of every trace, and growth by realloc against a plain reading of the events that keeps every
//! chain of blocks whole and sums up afterwards. Responsible for the committed samples, a recording of the planted compiler, and
//! any other traces (`$HEAPTAPE_TRACES`, separated by `:`). Planted figures are checked in `tests/tests/patterns.rs`, growth by
//! copying in random histories beside its detector.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use analyzer::Names;
use analyzer::lifetimes::{Class, Study, Wish, lifetimes, study};
use analyzer::patterns::{PatternOptions, Patterns, patterns};
use analyzer::profile::built_in;
use analyzer::replay::Amount;
use analyzer::selection::Wanted;
use analyzer::wrappers::Wrappers;
use trace_format::{BlockId, EntryId, Event, Op, ProcessId, Target, Trace};

struct Case {
    what: String,
    trace: Trace,
    names: Names,
    study: Study,
    patterns: Patterns,
}

fn cases() -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths: Vec<PathBuf> = ["cc1plus", "rustc", "tcc"]
        .map(|name| folder.join(format!("../samples/{name}-small.htape")))
        .into_iter()
        .chain([folder.join("tests/invariants/minicompiler.htape")])
        .collect();
    paths.extend(std::env::var_os("HEAPTAPE_TRACES").iter().flat_map(std::env::split_paths));
    paths
        .iter()
        .map(|path| {
            let trace = Trace::open(path).expect("the trace can be opened");
            let names = Names::of(&trace.tables);
            let study = study(&trace, &names, &built_in(), Wish::Best, 1, |_| ()).expect("it can be replayed");
            let options = PatternOptions { limit: usize::MAX, ..PatternOptions::default() };
            let patterns = patterns(&trace, &study, &names, &Wanted::default(), &options, |_| ())
                .expect("all processes can be selected");
            Case { what: path.display().to_string(), trace, names, study, patterns }
        })
        .collect()
}

/// Events of backing allocators, decoded.
fn events(trace: &Trace) -> Vec<Event> {
    let mut events = Vec::new();
    trace.for_each_chunk(1, |chunk| events.extend_from_slice(chunk)).expect("the trace can be read");
    events
}

#[test]
fn patterns_agree_with_what_else_is_known() {
    for Case { what, trace, names, study, patterns } in cases() {
        let births = study.outcome.total.counts.alloc_count + study.outcome.total.counts.realloc_count;
        assert_eq!(patterns.total, Amount { bytes: study.outcome.total.counts.alloc_bytes, count: births }, "{what}");
        // Every process at its own peak, by address: the same bytes and blocks as by the replay's levels.
        let (mut live, mut peaks) = (Amount::default(), Amount::default());
        for heap in &patterns.fragmentation.heaps {
            live += Amount { bytes: heap.live_bytes, count: heap.live_count };
            assert!(heap.live_bytes <= heap.page_bytes && heap.page_bytes <= heap.span_bytes, "{what}: {heap:?}");
            assert_eq!(heap.pages_by_eighths.iter().sum::<u64>(), heap.page_count, "{what}: {heap:?}");
        }
        for process in &study.outcome.processes {
            peaks += Amount { bytes: process.account.peak.bytes, count: process.account.peak.count };
        }
        assert_eq!(live, peaks, "{what}: alive at the peaks");
        let all = lifetimes(&trace, &study, &names, &Wanted::default(), &Wrappers::default(), 0).expect("all");
        let other_thread = all.classes.iter().find(|class| class.class == Class::OtherThread).expect("each class");
        let of_lifetimes = Amount { bytes: other_thread.bytes, count: other_thread.count };
        // Lifetimes count a realloc by another thread too.
        let to_threads = patterns.transfers.to_threads;
        assert!(to_threads.count <= of_lifetimes.count && to_threads.bytes <= of_lifetimes.bytes, "{what}");
        let counts = &study.outcome.total.counts;
        assert_eq!(patterns.transfers.freed.count, counts.free_count + counts.missed_free_count, "{what}: freed");
        assert!(patterns.temporaries.count <= patterns.transfers.freed.count, "{what}");
        for advice in &patterns.advice {
            assert!(advice.saves_free_count <= advice.site.born.count && !advice.why.is_empty(), "{what}: {advice:?}");
        }
    }
}

/// A chain of blocks, from an alloc on.
#[derive(Default, Clone)]
struct Chain {
    sizes: Vec<u64>,
    addresses: Vec<u64>,
}

/// A block in its heap.
type Key = (ProcessId, BlockId);
/// A block that a realloc has taken.
type Moving = (Key, Chain);

/// Every chain that a trace's reallocs make.
fn chains(trace: &Trace) -> Vec<Chain> {
    let mut of_block: HashMap<Key, Chain> = HashMap::new();
    let mut moving: HashMap<(u32, EntryId), Vec<Option<Moving>>> = HashMap::new();
    let mut over = Vec::new();
    for event in events(trace) {
        let process = trace.tables.threads[event.thread.index()].process;
        match event.op {
            Op::Alloc { block, size_bytes, address, .. } => {
                of_block.insert((process, block), Chain { sizes: vec![size_bytes], addresses: vec![address] });
            }
            Op::Free { target: Target::Block(block), .. } | Op::MissedFree { block } => {
                over.extend(of_block.remove(&(process, block)));
            }
            Op::ReallocBegin { entry, target, .. } => {
                let old = match target {
                    Target::Block(block) => of_block.remove(&(process, block)).map(|chain| ((process, block), chain)),
                    _ => None,
                };
                moving.entry((event.thread.0, entry)).or_default().push(old);
            }
            Op::ReallocEnd { entry, block, size_bytes, address } => {
                let old = moving.get_mut(&(event.thread.0, entry)).and_then(Vec::pop).flatten();
                let mut chain = old.map_or_else(Chain::default, |(_, chain)| chain);
                chain.sizes.push(size_bytes);
                chain.addresses.push(address);
                of_block.insert((process, block), chain);
            }
            Op::ReallocFailed { entry } => {
                if let Some((key, chain)) = moving.get_mut(&(event.thread.0, entry)).and_then(Vec::pop).flatten() {
                    of_block.insert(key, chain);
                }
            }
            Op::ReallocFreed { entry } => {
                let old = moving.get_mut(&(event.thread.0, entry)).and_then(Vec::pop).flatten();
                over.extend(old.map(|(_, chain)| chain));
            }
            _ => {}
        }
    }
    over.extend(of_block.into_values());
    over
}

/// Runs of at least so many equal steps, with the bytes before each; those between rising steps only from sixteen on.
fn linear_steps(sizes: &[u64]) -> (u64, u64) {
    let grown: Vec<(u64, u64)> =
        sizes.windows(2).filter(|pair| pair[1] > pair[0]).map(|pair| (pair[0], pair[1] - pair[0])).collect();
    let runs: Vec<&[(u64, u64)]> = grown.chunk_by(|one, next| one.1 == next.1).collect();
    let (mut steps, mut bytes) = (0, 0);
    for (at, run) in runs.iter().enumerate() {
        let rises = at > 0 && runs[at - 1][0].1 < run[0].1 || runs.get(at + 1).is_some_and(|next| next[0].1 > run[0].1);
        if run.len() >= if rises { 16 } else { 4 } {
            steps += run.len() as u64;
            bytes += run.iter().map(|(old, _)| old).sum::<u64>();
        }
    }
    (steps, bytes)
}

#[test]
fn growth_by_realloc_is_what_the_chains_say() {
    for Case { what, trace, patterns, .. } in cases() {
        let (mut grow, mut shrink, mut old_bytes, mut moved) = (0, 0, 0, (0, 0));
        let mut linear = (0, 0);
        for chain in chains(&trace) {
            for (sizes, addresses) in chain.sizes.windows(2).zip(chain.addresses.windows(2)) {
                if sizes[1] <= sizes[0] {
                    shrink += 1;
                    continue;
                }
                grow += 1;
                old_bytes += sizes[0];
                if addresses[0] != addresses[1] {
                    moved = (moved.0 + 1, moved.1 + sizes[0]);
                }
            }
            let (steps, bytes) = linear_steps(&chain.sizes);
            linear = (linear.0 + steps, linear.1 + bytes);
        }
        let rows = &patterns.reallocs.rows;
        let sum = |figure: fn(&analyzer::patterns::ReallocGrowth) -> u64| rows.iter().map(figure).sum::<u64>();
        assert_eq!((sum(|row| row.linear.step_count), sum(|row| row.linear.copied_bytes)), linear, "{what}: linear");
        assert_eq!((sum(|row| row.grow_count), sum(|row| row.old_bytes)), (grow, old_bytes), "{what}: growth");
        assert_eq!((sum(|row| row.moved_count), sum(|row| row.moved_bytes)), moved, "{what}: moved");
        assert!(sum(|row| row.shrink_count) <= shrink, "{what}: sites whose blocks only shrink are not listed");
    }
}
