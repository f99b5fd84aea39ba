//! Which allocators there are and how they are used today. Responsible for domains and layers, ways by which memory is reached,
//! requests of whole pages, sizes and fragmentation at the peak.

use super::sentence::{Sentence, Value, bytes, count, counted, function, name, share};
use super::{Facts, LISTED, Section, Table};
use crate::sites::ratio;

/// Rows of ways to memory.
const WAYS: usize = 6;

pub(super) fn model(facts: &Facts<'_>) -> Section {
    let mut findings = vec![layers(facts)];
    findings.extend(ways_said(facts));
    findings.extend(one_size(facts));
    findings.push(pages(facts));
    findings.push(chunks(facts));
    findings.extend(fragmentation(facts));
    Section { findings, tables: vec![domains(facts), ways(facts)] }
}

fn layers(facts: &Facts<'_>) -> Sentence {
    let info = facts.given.info;
    let counts = &info.totals.figures.counts;
    let on_top = info.totals.on_top_domains.len() as u64;
    let used = info.domains.iter().filter(|domain| domain.in_totals && domain.figures.counts.alloc_count > 0);
    let requests = counts.alloc_count + counts.realloc_count;
    Sentence::new(
        "layers",
        "{allocators} memory from the system and {on_top} on others, which the totals do not count; a request is of \
         {mean_bytes} on average, over {requests}.",
        [
            counted(used.count() as u64, "allocator takes", "allocators take"),
            counted(on_top, "stands", "stand"),
            bytes(counts.alloc_bytes.checked_div(requests).unwrap_or(0)),
            counted(requests, "alloc or realloc", "allocs and reallocs"),
        ],
    )
}

fn domains(facts: &Facts<'_>) -> Table {
    let rows = facts.given.info.domains.iter().filter(|domain| {
        domain.figures.counts.alloc_count + domain.figures.counts.realloc_count + domain.figures.counts.free_count > 0
    });
    Table::new(
        ("allocators", "Allocators"),
        &[
            ("domain", "allocator"),
            ("layer", "layer"),
            ("allocs", "allocs"),
            ("reallocs", "reallocs"),
            ("frees", "frees"),
            ("requested_bytes", "requested"),
            ("mean_bytes", "mean size"),
            ("peak_bytes", "peak"),
            ("end_bytes", "at the end"),
        ],
        LISTED,
        rows.map(|domain| {
            let counts = &domain.figures.counts;
            vec![
                name(&domain.name),
                count(u64::from(domain.layer)),
                count(counts.alloc_count),
                count(counts.realloc_count),
                count(counts.free_count),
                bytes(counts.alloc_bytes),
                bytes(counts.alloc_bytes.checked_div(counts.alloc_count + counts.realloc_count).unwrap_or(0)),
                bytes(domain.figures.peak_live_bytes),
                bytes(domain.figures.live_at_end_bytes),
            ]
        }),
    )
}

fn ways_said(facts: &Facts<'_>) -> Option<Sentence> {
    let first = facts.scopes.reached.first()?;
    let calls: u64 = facts.scopes.reached.iter().map(|way| way.alloc_count + way.realloc_count).sum();
    Some(Sentence::new(
        "ways",
        "Code reaches memory through {ways}; {function} is called for {share} of the requests.",
        [
            counted(facts.scopes.reached.len() as u64, "function", "functions"),
            function(&first.function),
            share(first.alloc_count + first.realloc_count, calls),
        ],
    ))
}

fn ways(facts: &Facts<'_>) -> Table {
    Table::new(
        ("ways", "Functions by which memory is reached"),
        &[("function", "function"), ("allocs", "allocs"), ("reallocs", "reallocs"), ("requested_bytes", "requested")],
        WAYS,
        facts.scopes.reached.iter().map(|way| {
            vec![function(&way.function), count(way.alloc_count), count(way.realloc_count), bytes(way.bytes)]
        }),
    )
}

fn one_size(facts: &Facts<'_>) -> Option<Sentence> {
    let pools = &facts.given.patterns.pools;
    let first = pools.rows.first()?;
    Some(Sentence::new(
        "one-size",
        "{pool_sites} make {pool_blocks} of one size each with few alive at a time, most {function}: {blocks} of {size_bytes} in \
         at most {slots}, {lifo_share} of them in the very block freed last.",
        [
            counted(pools.site_count, "function", "functions"),
            counted(pools.count, "block", "blocks"),
            function(&first.site.function),
            count(first.count),
            bytes(first.size_bytes),
            counted(first.slot_count, "slot", "slots"),
            Value::Share(first.lifo_share),
        ],
    ))
}

fn pages(facts: &Facts<'_>) -> Sentence {
    let requests = &facts.given.patterns.page_requests.requests;
    let Some(first) = requests.rows.first() else {
        return Sentence::new(
            "no-page-requests",
            "The allocator is not used as a page allocator: {page_pairs} of {blocks} are whole pages that are freed again.",
            [count(0), counted(facts.blocks(), "block", "blocks")],
        );
    };
    Sentence::new(
        "page-requests",
        "Whole pages are asked for and given back {page_pairs} by {sites}, {bytes} in all; most by {function} ({count}, \
         {at_once} freed at once).",
        [
            counted(requests.count, "time", "times"),
            counted(requests.site_count, "function", "functions"),
            bytes(requests.bytes),
            function(&first.site.function),
            count(first.count),
            count(first.freed_at_once_count),
        ],
    )
}

fn chunks(facts: &Facts<'_>) -> Sentence {
    let domains = &facts.given.patterns.chunks.domains;
    if domains.is_empty() {
        return Sentence::new(
            "no-chunks",
            "No allocator that was recorded stands on another ({stacked} of {allocators}): how full the chunks of the program's own \
             arenas are is not seen.",
            [count(0), count(facts.given.info.domains.len() as u64)],
        );
    }
    Sentence::new("chunks", "Of chunks taken from below, at the peaks: ", [])
        .list(
            "{allocator} took {chunk_bytes} and served {served_bytes} ({unused_share} unused)",
            domains.iter().map(|domain| {
                [
                    name(&domain.domain),
                    bytes(domain.peak_chunk_bytes),
                    bytes(domain.peak_served_bytes),
                    Value::Share(domain.unused_share),
                ]
            }),
        )
        .and(".", [])
}

fn fragmentation(facts: &Facts<'_>) -> Vec<Sentence> {
    let found = &facts.given.patterns.fragmentation;
    let most = found.heaps.first().map_or(0, |heap| heap.page_count);
    let heaps = found.heaps.iter().filter(|heap| ratio(heap.page_count, most) >= 0.1);
    heaps
        .take(3)
        .map(|heap| {
            let pin = found.pins.rows.first().filter(|_| heap.nearly_empty_page_count > 0);
            Sentence::new(
                "fragmentation",
                "At its peak {process} has {live_bytes} alive on {pages} of {domain} ({page_bytes}): {used_share} of them is in \
                 use, {nearly_empty} are less than an eighth full ({nearly_empty_share})",
                [
                    name(&heap.process),
                    bytes(heap.live_bytes),
                    counted(heap.page_count, "page", "pages"),
                    name(&heap.domain),
                    bytes(heap.page_bytes),
                    Value::Share(heap.used_share),
                    count(heap.nearly_empty_page_count),
                    share(heap.nearly_empty_page_count, heap.page_count),
                ],
            )
            .and_if(
                pin.is_some(),
                ", held most by {function} ({pinned})",
                pin.map(|pin| [function(&pin.site.function), count(pin.page_count)]).into_iter().flatten(),
            )
            .and(".", [])
        })
        .chain(found.heaps.is_empty().then(|| {
            Sentence::new(
                "no-heap",
                "Fragmentation is not known: {heaps} had blocks alive at a peak.",
                [counted(0, "heap", "heaps")],
            )
        }))
        .collect()
}
