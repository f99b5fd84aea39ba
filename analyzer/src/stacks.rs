//! How well the stacks of a trace were taken. Responsible for figures; not for the stacks themselves.

use std::collections::BTreeMap;

use serde::Serialize;
use trace_format::{CaptureStats, Op, ReadError, StackQuality, StackSummary, Trace};

/// How stacks were taken.
#[derive(Debug, Clone, PartialEq, Serialize, Default)]
pub struct Stacks {
    /// Of births and failed allocs.
    pub alloc: StackFigures,
    /// Of frees and begins of reallocs.
    pub free: StackFigures,
    /// What unwinding took; null if the recording was cut off or no stack was unwound.
    pub unwinding: Option<Unwinding>,
}

/// Stacks of one kind of event.
#[derive(Debug, Clone, PartialEq, Serialize, Default)]
pub struct StackFigures {
    /// Events, with stacks and without.
    pub events: u64,
    /// Stacks that reach the root of their thread.
    pub complete: u64,
    /// Stacks that were cut short.
    pub truncated: u64,
    /// Events of which at most the return address is known.
    pub not_taken: u64,
    /// `complete` by all stacks that were taken; null without any.
    pub reaches_root_share: Option<f64>,
    /// Frames of a stack on average, over all events; null without any.
    pub mean_depth: Option<f64>,
    /// Truncated stacks by reason: `too-deep`, `unreadable`, `no-rule`, `unknown-code`, `unsupported`, `foreign-probe`,
    /// `no-room`, `unknown`.
    pub truncated_by_reason: BTreeMap<&'static str, u64>,
}

/// What unwinding took, as the recorder measured it itself.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Unwinding {
    /// Walks that were timed, one in 64 of each thread.
    pub timed_walk_count: u64,
    /// Their time on average; null without any.
    pub walk_ns: Option<f64>,
    /// Modules with an unwind table.
    pub table_count: u64,
    /// Rows of these tables.
    pub row_count: u64,
    /// Kernel memory for unwinding.
    pub kernel_bytes: u64,
    /// Time spent on making and loading tables; targets waited for it.
    pub build_ns: u64,
}

/// Figures of a trace: from its tail, or by counting where it has none.
///
/// # Errors
/// When the trace has no tail and cannot be read.
pub fn stacks(trace: &Trace) -> Result<Stacks, ReadError> {
    match &trace.stats {
        // Traces from before stacks were counted have none in their tail.
        Some(stats) if stats.alloc_stacks.event_count + stats.free_stacks.event_count > 0 => Ok(Stacks {
            alloc: figures(&stats.alloc_stacks),
            free: figures(&stats.free_stacks),
            unwinding: unwinding(stats),
        }),
        _ => {
            let (alloc, free) = counted(trace)?;
            Ok(Stacks { alloc: figures(&alloc), free: figures(&free), unwinding: None })
        }
    }
}

fn counted(trace: &Trace) -> Result<(StackSummary, StackSummary), ReadError> {
    let (mut alloc, mut free) = (StackSummary::default(), StackSummary::default());
    let mut depths = vec![0u64; trace.tables.stacks.len()];
    for (index, node) in trace.tables.stacks.iter().enumerate().skip(1) {
        depths[index] = depths[node.parent.index()] + 1;
    }
    trace.for_each_chunk(0, |events| {
        for event in events {
            let summary = match event.op {
                Op::Alloc { .. } | Op::AllocFailed { .. } | Op::ReallocEnd { .. } => &mut alloc,
                Op::Free { .. } | Op::ReallocBegin { .. } => &mut free,
                _ => continue,
            };
            summary.event_count += 1;
            summary.depth_sum += depths[event.stack.index()];
            let code = usize::from(event.walk.quality.code());
            if summary.end_counts.len() <= code {
                summary.end_counts.resize(code + 1, 0);
            }
            summary.end_counts[code] += 1;
        }
    })?;
    Ok((alloc, free))
}

fn figures(summary: &StackSummary) -> StackFigures {
    let complete = summary.count_of(StackQuality::Complete);
    let not_taken = summary.count_of(StackQuality::NotTaken);
    let truncated = summary.event_count.saturating_sub(complete + not_taken);
    let mut truncated_by_reason = BTreeMap::new();
    for (code, count) in summary.end_counts.iter().enumerate() {
        let quality = StackQuality::from_code(u8::try_from(code).unwrap_or(u8::MAX));
        if quality.is_truncated() && *count > 0 {
            *truncated_by_reason.entry(quality.name()).or_default() += count;
        }
    }
    let by = |part: u64, whole: u64| (whole > 0).then(|| part as f64 / whole as f64);
    StackFigures {
        events: summary.event_count,
        complete,
        truncated,
        not_taken,
        reaches_root_share: by(complete, complete + truncated),
        mean_depth: by(summary.depth_sum, summary.event_count),
        truncated_by_reason,
    }
}

fn unwinding(stats: &CaptureStats) -> Option<Unwinding> {
    (stats.unwind_table_count > 0).then(|| Unwinding {
        timed_walk_count: stats.unwind_sample_count,
        walk_ns: (stats.unwind_sample_count > 0)
            .then(|| stats.unwind_sample_ns as f64 / stats.unwind_sample_count as f64),
        table_count: stats.unwind_table_count,
        row_count: stats.unwind_row_count,
        kernel_bytes: stats.unwind_kernel_bytes,
        build_ns: stats.unwind_build_ns,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_of_the_stacks_that_were_taken() {
        let summary = StackSummary { event_count: 10, depth_sum: 50, end_counts: vec![6, 1, 0, 2, 1] };
        let figures = figures(&summary);
        assert_eq!((figures.complete, figures.truncated, figures.not_taken), (6, 2, 2));
        assert_eq!((figures.reaches_root_share, figures.mean_depth), (Some(0.75), Some(5.0)));
        assert_eq!(figures.truncated_by_reason, BTreeMap::from([("too-deep", 1), ("no-rule", 1)]));
    }
}
