//! What results do not know. Responsible for one sentence per reason for doubt, with where and how much; every report
//! carries them, so that nothing is lost silently. Not for the figures themselves.

use serde::Serialize;
use trace_format::Trace;

use crate::replay::{Loss, Outcome};
use crate::units::{at_time, bytes, count, plural};

/// Allocations from which on a domain that never frees looks odd.
const MANY_ALLOCS: u64 = 1_000;

/// One reason for doubt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Doubt {
    /// Which kind, for programs.
    pub kind: DoubtKind,
    /// A sentence for people: what, where, and which figures it can change.
    pub sentence: String,
}

/// Kinds of doubt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DoubtKind {
    /// Events were lost while recording.
    Lost,
    /// Program runs were skipped by the kernel, or calls do not balance.
    Unbalanced,
    /// Calls were left without a return.
    Unreturned,
    /// The recorder did not end the trace, or it was salvaged.
    Incomplete,
    /// Part of the file is damaged.
    Damaged,
    /// Events that cannot be.
    Impossible,
    /// Deaths that were inferred.
    MissedFrees,
    /// Reallocs that never returned.
    UnfinishedReallocs,
    /// Frees of blocks that were never seen born.
    BeforeRecording,
    /// An allocator whose frees are hardly seen.
    FreesUnseen,
    /// Operations of a newer version.
    UnknownOperations,
    /// Phases that markers end and that are no scopes.
    PhasesLeftOut,
    /// A plan's phases that the trace does not have.
    PhasesMissing,
}

/// All reasons to doubt the results of a replay, the gravest first.
pub fn doubts(trace: &Trace, outcome: &Outcome) -> Vec<Doubt> {
    let mut doubts = Vec::new();
    let mut say = |kind, sentence| doubts.push(Doubt { kind, sentence });
    lost(trace, outcome, &mut say);
    incomplete(trace, &mut say);
    impossible(outcome, &mut say);
    inferred(outcome, &mut say);
    frees_unseen(trace, outcome, &mut say);
    doubts
}

/// Phases whose instances are not all scopes of arenas.
pub(crate) fn phases_left_out(instance_count: u64) -> Doubt {
    let instances = plural(instance_count, "instance", "instances");
    Doubt {
        kind: DoubtKind::PhasesLeftOut,
        sentence: format!(
            "{instances} of phases that markers end do not nest with the calls of their thread, or too little is known of the \
             stacks at their begin and end: what is born in them has no arena by phase, and figures of a phase are without them."
        ),
    }
}

/// Scopes of a plan that nothing in the trace stands for.
pub(crate) fn phases_missing(scopes: &[String]) -> Doubt {
    Doubt {
        kind: DoubtKind::PhasesMissing,
        sentence: format!(
            "The plan has arenas for {}, which the trace does not have (its markers are other ones, or mean something else without \
             the plan's --profile): what would be in them is left with malloc.",
            scopes.join(", ")
        ),
    }
}

fn place(loss: &Loss) -> String {
    format!("at {} (sequence {}, CPU {})", at_time(loss.first_ns), count(loss.sequence), loss.cpu)
}

fn lost(trace: &Trace, outcome: &Outcome, say: &mut impl FnMut(DoubtKind, String)) {
    let losses = &outcome.losses;
    if let (Some(first), Some(last)) = (losses.located.first(), &losses.last) {
        let place = if losses.gap_count == 1 {
            place(first)
        } else {
            format!("in {} gaps, the first {}, the last {}", count(losses.gap_count), place(first), place(last))
        };
        let (births, deaths) = (count(losses.alloc_count), count(losses.free_count));
        say(
            DoubtKind::Lost,
            format!(
                "{} lost while recording {place}: {births} births, {deaths} deaths, {} others. alloc_count and \
                 realloc_count together are too low by up to {births}, free_count by up to {deaths}; up to {deaths} of the \
                 blocks counted as live may be dead; bytes and peak do not contain the lost births.",
                plural(losses.lost_count(), "event was", "events were"),
                count(losses.other_count),
            ),
        );
    }
    let Some(stats) = &trace.stats else { return };
    if stats.ring_failure_count > losses.lost_count() {
        let unplaced = stats.ring_failure_count - losses.lost_count();
        say(
            DoubtKind::Lost,
            format!(
                "{} lost at places that the trace does not name.",
                plural(unplaced, "more event was", "more events were")
            ),
        );
    }
    if stats.missed_run_count > 0 {
        let runs = plural(stats.missed_run_count, "run of our probes was", "runs of our probes were");
        say(
            DoubtKind::Unbalanced,
            format!("{runs} skipped by the kernel: as many calls may be missing from every count."),
        );
    }
    if stats.imbalance() > 0 {
        say(
            DoubtKind::Unbalanced,
            format!(
                "{} neither returned nor was abandoned nor is pending: as many allocs may be missing.",
                plural(stats.imbalance(), "call", "calls")
            ),
        );
    }
    if stats.call_abandoned_count > 0 {
        say(
            DoubtKind::Unreturned,
            format!(
                "{} left without a return: by longjmp or an exception, which allocates nothing, or because the kernel \
                 skipped the return probe, and then as many allocs are missing.",
                plural(stats.call_abandoned_count, "call was", "calls were")
            ),
        );
    }
    // Calls in flight at an attach return without a begin; a launched program has none.
    if stats.return_without_begin_count > 0 && trace.header.attached_pid == 0 {
        say(
            DoubtKind::Unbalanced,
            format!(
                "{} to a call that was not seen to begin: as many allocs may be missing.",
                plural(stats.return_without_begin_count, "return belongs", "returns belong")
            ),
        );
    }
}

fn incomplete(trace: &Trace, say: &mut impl FnMut(DoubtKind, String)) {
    let completeness = &trace.completeness;
    if completeness.salvaged {
        say(
            DoubtKind::Incomplete,
            "The file was salvaged: the recording may have gone on beyond its end, so counts are lower bounds and blocks \
             live at the end may have been freed."
                .to_owned(),
        );
    } else if !completeness.has_tail {
        say(
            DoubtKind::Incomplete,
            "The recording was cut off (no tail): what came after the last whole chunk is missing, so counts are lower \
             bounds, blocks live at the end may have been freed, and whether events were lost is not known."
                .to_owned(),
        );
    }
    // A missing tail is a problem of its own in the list; it is told above.
    let problems = trace.problems();
    let damaged: Vec<_> =
        problems.iter().filter(|problem| problem.missing_event_count.is_some_and(|count| count > 0)).collect();
    if let Some(first) = damaged.first() {
        let events: u64 = damaged.iter().filter_map(|problem| problem.missing_event_count).sum();
        say(
            DoubtKind::Damaged,
            format!(
                "{} missing because the file is damaged in {}, the first at offset {} ({}): every count is a lower bound, and \
                 frees of blocks born in a gap look impossible.",
                plural(events, "event is", "events are"),
                plural(damaged.len() as u64, "place", "places"),
                count(first.offset),
                first.what,
            ),
        );
    } else if let Some(first) = problems.first().filter(|_| completeness.has_tail) {
        say(
            DoubtKind::Damaged,
            format!(
                "The file is damaged in {}, the first at offset {} ({}).",
                plural(problems.len() as u64, "place", "places"),
                count(first.offset),
                first.what
            ),
        );
    }
}

fn impossible(outcome: &Outcome, say: &mut impl FnMut(DoubtKind, String)) {
    for anomaly in &outcome.anomalies {
        say(
            DoubtKind::Impossible,
            format!(
                "{} {}, the first at sequence {}.",
                count(anomaly.count),
                anomaly.kind.words(),
                count(anomaly.first_sequence)
            ),
        );
    }
    if outcome.unknown_operation_count > 0 {
        say(
            DoubtKind::UnknownOperations,
            format!(
                "{} of a kind that this version of heaptape does not know; a newer one may count more.",
                plural(outcome.unknown_operation_count, "event is", "events are")
            ),
        );
    }
}

fn inferred(outcome: &Outcome, say: &mut impl FnMut(DoubtKind, String)) {
    let counts = &outcome.total.counts;
    if counts.missed_free_count > 0 {
        say(
            DoubtKind::MissedFrees,
            format!(
                "{} inferred because the address was given out again: those blocks lived shorter than shown.",
                plural(counts.missed_free_count, "death was", "deaths were")
            ),
        );
    }
    if counts.unfinished_realloc_count > 0 {
        say(
            DoubtKind::UnfinishedReallocs,
            format!(
                "{} never returned; their old blocks count as dead.",
                plural(counts.unfinished_realloc_count, "realloc", "reallocs")
            ),
        );
    }
    if counts.free_before_recording_count > 0 && outcome.losses.alloc_count > 0 {
        say(
            DoubtKind::BeforeRecording,
            format!(
                "{} of a block never seen born: up to {} of them may be blocks whose birth was lost, the others are from \
                 before the recording.",
                plural(counts.free_before_recording_count, "free is", "frees are"),
                count(outcome.losses.alloc_count.min(counts.free_before_recording_count))
            ),
        );
    }
}

/// An allocator whose frees are inlined or not probed shows births without deaths: thousands of false leaks.
fn frees_unseen(trace: &Trace, outcome: &Outcome, say: &mut impl FnMut(DoubtKind, String)) {
    for (account, domain) in outcome.domains.iter().zip(&trace.tables.domains) {
        let counts = &account.counts;
        let births = counts.alloc_count + counts.realloc_count;
        let deaths = counts.free_count + counts.realloc_count + counts.missed_free_count;
        if births >= MANY_ALLOCS && deaths.saturating_mul(100) < births {
            say(
                DoubtKind::FreesUnseen,
                format!(
                    "Of {}'s {} births only {} died: either the program does not free, or its frees do not go through \
                     the probed functions; then the {} counted as live at the end are no leaks.",
                    domain.name,
                    count(births),
                    count(deaths),
                    bytes(account.at_end.bytes)
                ),
            );
        }
    }
}
