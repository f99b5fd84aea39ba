//! Compares what a workload planted with what was observed, and says each difference in words. Responsible for the
//! comparison's rules; not for where the two sides come from.

use crate::observed::{Observed, ObservedImage, canonical};
use crate::truth::{Counts, ProcessTruth, ThreadTruth, Truth};

/// Every difference between a workload's truth and a trace; empty when the trace is exact.
pub fn differences(truth: &Truth, observed: &Observed) -> Vec<String> {
    let mut found = Vec::new();
    let mut images: Vec<&ObservedImage> = observed.images.iter().collect();
    for planted in &truth.processes {
        // Images of one pid (exec) stand in the same order on both sides.
        let Some(place) = images.iter().position(|image| image.pid == planted.pid) else {
            if planted.counts != Counts::default() {
                found.push(format!("process {} ({}) is not in the trace at all", planted.pid, planted.image));
            }
            continue;
        };
        let image = images.remove(place);
        found.extend(count_differences(planted, image));
        for thread in truth.threads.iter().filter(|thread| thread.pid == planted.pid && thread.complete) {
            // Threads of an earlier or later image of the pid are told by their counts.
            let Some(ops) = image.ops.get(&thread.tid) else { continue };
            found.extend(op_differences(thread, ops, truth));
        }
    }
    for image in images {
        found.push(format!("the trace shows calls of process {} ({}) that planted none", image.pid, image.name));
    }
    found
}

fn count_differences(planted: &ProcessTruth, image: &ObservedImage) -> Vec<String> {
    let slack = planted.slack;
    let near = |planted: u64, observed: u64| observed >= planted && observed <= planted + slack;
    let (wanted, got) = (&planted.counts, &image.counts);
    let rows = [
        ("alloc_count", wanted.alloc_count, got.alloc_count),
        ("free_count", wanted.free_count, got.free_count),
        ("realloc_count", wanted.realloc_count, got.realloc_count),
        ("failed_count", wanted.failed_count, got.failed_count),
        ("inherited_free_count", wanted.inherited_free_count, got.inherited_free_count),
    ];
    let mut found: Vec<String> = rows
        .iter()
        .filter(|(_, wanted, got)| !near(*wanted, *got))
        .map(|(name, wanted, got)| {
            format!("process {} ({}): {name} is {got}, planted {wanted}", planted.pid, planted.image)
        })
        .collect();
    if slack == 0 {
        let rows = [
            ("alloc_bytes", wanted.alloc_bytes as i64, got.alloc_bytes as i64),
            ("live_count", wanted.live_count, got.live_count),
            ("live_bytes", wanted.live_bytes, got.live_bytes),
        ];
        for (name, wanted, got) in rows.iter().filter(|(_, wanted, got)| wanted != got) {
            found.push(format!("process {} ({}): {name} is {got}, planted {wanted}", planted.pid, planted.image));
        }
    }
    found
}

fn op_differences(planted: &ThreadTruth, observed: &[String], truth: &Truth) -> Vec<String> {
    let several_images = truth.threads.iter().filter(|thread| thread.tid == planted.tid).count() > 1;
    let place = (0..planted.ops.len().max(observed.len()))
        .find(|index| !is_same(planted.ops.get(*index).map(String::as_str), observed.get(*index).map(String::as_str)));
    let Some(place) = place else { return Vec::new() };
    if several_images {
        // The same thread id went through an exec: only one of the lists belongs to this image.
        let other = truth.threads.iter().filter(|thread| thread.tid == planted.tid).any(|thread| {
            thread.ops.len() == observed.len()
                && thread.ops.iter().zip(observed).all(|(planted, seen)| is_same(Some(planted), Some(seen)))
        });
        if other {
            return Vec::new();
        }
    }
    let around =
        |list: &[String]| list[place.saturating_sub(3).min(list.len())..(place + 4).min(list.len())].join(", ");
    vec![format!(
        "thread {} of process {}: call {place} differs: planted [… {} …], observed [… {} …]",
        planted.tid,
        planted.pid,
        around(&planted.ops),
        around(observed)
    )]
}

fn is_same(planted: Option<&str>, observed: Option<&str>) -> bool {
    let (Some(planted), Some(observed)) = (planted, observed) else { return planted == observed };
    let planted: Vec<&str> = planted.split(' ').map(canonical).collect();
    let observed: Vec<&str> = observed.split(' ').collect();
    match planted.split_last() {
        Some((&"*", rest)) => observed.starts_with(rest),
        _ => planted == observed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_compared_by_meaning() {
        assert!(is_same(Some("malloc 10"), Some("malloc 10")));
        assert!(!is_same(Some("malloc 10"), Some("malloc 11")));
        assert!(is_same(Some("aligned_alloc 10"), Some("memalign 10")));
        assert!(is_same(Some("fail calloc *"), Some("fail calloc 18446744073709551615")));
        assert!(!is_same(Some("fail calloc *"), Some("fail malloc 7")));
        assert!(!is_same(Some("free 10"), None));
    }
}
