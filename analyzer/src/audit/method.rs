//! How the audit was made and how far to trust it. Responsible for the quality of the recording and its stacks, the source of
//! phases, the proof of the arenas, and what no trace can tell.

use super::sentence::{Sentence, Value, bytes, count, counted, name, share, words};
use super::{Facts, Section, Table, strategy, summary};
use crate::arenas::Trial;
use crate::phases::PhaseSource;

pub(super) fn method(facts: &Facts<'_>) -> Section {
    let mut findings = vec![recording(facts)];
    findings.extend(doubts(facts));
    findings.push(stacks(facts));
    findings.extend(phase_sources(facts));
    findings.push(scopes(facts));
    findings.push(verdict(facts));
    findings.extend(strategy::unplaced(facts));
    findings.extend(unknown(facts));
    Section { findings, tables: vec![trials(facts)] }
}

fn recording(facts: &Facts<'_>) -> Sentence {
    let info = facts.given.info;
    let overhead = info.capture.overhead;
    let recorder = info.capture.counters;
    let sentence = match summary::losses(facts) {
        Some(said) => said,
        None => Sentence::new(
            "loss-free",
            "The recording is whole: {lost} lost, {impossible} impossible, {missing} missing from the file.",
            [
                counted(0, "event", "events"),
                count(recorder.map_or(0, |counters| counters.impossible_count)),
                count(info.capture.missing_event_count),
            ],
        ),
    };
    sentence.and_if(
        overhead.is_some(),
        " Recording took {recorder_ns} of the processor beside {target_ns} of what was recorded: times are longer than without.",
        overhead
            .map(|overhead| [Value::Duration(overhead.recorder_cpu_ns), Value::Duration(overhead.target_cpu_ns)])
            .into_iter()
            .flatten(),
    )
}

fn doubts(facts: &Facts<'_>) -> Vec<Sentence> {
    let doubts = &facts.given.info.doubts;
    if doubts.is_empty() {
        return vec![Sentence::new(
            "no-doubts",
            "The replay gives {doubts} for doubt: every free fits a block that was seen born, or one from before.",
            [counted(0, "reason", "reasons")],
        )];
    }
    doubts.iter().map(|doubt| Sentence::new("doubt", "{doubt}", [words(&doubt.sentence)])).collect()
}

fn stacks(facts: &Facts<'_>) -> Sentence {
    let stacks = &facts.given.info.stacks;
    let one = |figures: &crate::stacks::StackFigures| {
        let share = figures.reaches_root_share.map_or(Value::None, Value::Share);
        [counted(figures.events, "event", "events"), share]
    };
    let [allocs, alloc_share] = one(&stacks.alloc);
    let [frees, free_share] = one(&stacks.free);
    Sentence::new(
        "stacks",
        "Stacks were taken of {allocs} that allocate and {frees} that free; {alloc_share} and {free_share} of them reach the root \
         of their thread.",
        [allocs, frees, alloc_share, free_share],
    )
}

fn phase_sources(facts: &Facts<'_>) -> Vec<Sentence> {
    let rows = &facts.given.phases.phases;
    let of = |pid: u32| rows.iter().filter(move |row| row.pid == pid && row.source != PhaseSource::None).count() as u64;
    facts
        .given
        .phases
        .sources
        .iter()
        .filter(|source| of(source.pid) > 0)
        .map(|source| {
            let how = match source.source {
                PhaseSource::Marker => "markers recorded live",
                PhaseSource::Stack => "functions on recorded stacks",
                PhaseSource::Segment => "segments of the call tree, without any names given",
                PhaseSource::None => "nothing",
            };
            Sentence::new("phase-source", "Phases of {process} come from {how}", [name(&source.process), words(how)])
                .and_if(source.profile.is_some(), " by profile {profile}", source.profile.as_deref().map(name))
                .and(": {rows} seen", [counted(of(source.pid), "phase on a thread", "phases on threads")])
                .and_if(
                    !source.unseen.is_empty(),
                    ", {unseen} of the profile not",
                    (!source.unseen.is_empty()).then(|| count(source.unseen.len() as u64)),
                )
                .and(".", [])
        })
        .collect()
}

fn scopes(facts: &Facts<'_>) -> Sentence {
    let sums = &facts.given.study.collected.sums;
    Sentence::new(
        "scopes",
        "Two calls from the same place with no event between them cannot be told apart: the scope of {doubtful} of {freed} \
         ({share}) depends on it.",
        [
            count(sums.doubtful_scope_count),
            counted(sums.freed_count, "freed block", "freed blocks"),
            share(sums.doubtful_scope_count, sums.freed_count),
        ],
    )
}

fn verdict(facts: &Facts<'_>) -> Sentence {
    let arenas = facts.given.arenas;
    Sentence::new(
        "verdict",
        "The arenas were found in {trained_on} and a plan was tried on {held_out} that it was not made from. {verdict}",
        [
            counted(arenas.trained_on.len() as u64, "trace", "traces"),
            counted(arenas.held_out.len() as u64, "input", "inputs"),
            words(&arenas.verdict.sentence),
        ],
    )
}

fn trials(facts: &Facts<'_>) -> Table {
    let arenas = facts.given.arenas;
    let row = |what: &'static str| {
        move |trial: &Trial| {
            vec![
                name(&trial.trace),
                words(what),
                count(trial.objects),
                Value::Share(trial.placed_share),
                count(trial.outlived),
                count(trial.handed_over),
                share(trial.frees_saved, trial.frees),
                Value::Change(trial.peak_change),
                Value::Factor(trial.drag),
            ]
        }
    };
    Table::new(
        ("trials", "The plan on each trace, simulated object by object"),
        &[
            ("trace", "trace"),
            ("role", "plan made"),
            ("objects", "objects"),
            ("placed_share", "placed"),
            ("outlived", "outlive"),
            ("handed_over", "other thread"),
            ("frees_saved_share", "frees saved"),
            ("peak_change", "peak"),
            ("drag", "memory in use ×"),
        ],
        usize::MAX,
        arenas
            .trained_on
            .iter()
            .map(row("from it"))
            .chain(arenas.held_out.iter().map(row("without it")))
            .collect::<Vec<_>>(),
    )
}

/// What no trace knows.
fn unknown(facts: &Facts<'_>) -> Vec<Sentence> {
    let mut said = Vec::new();
    if let Some(trial) = facts.given.arenas.trained_on.first() {
        said.push(Sentence::new(
            "requested-bytes",
            "Bytes are those requested; glibc would take {footprint_bytes} at the peak for the {peak_bytes} requested, and \
             {footprint_then_bytes} with the arenas. Times and page faults are not predicted here; `heaptape replay --plan` \
             measures them.",
            [
                bytes(trial.plain_footprint_peak_bytes),
                bytes(trial.plain_peak_bytes),
                bytes(trial.footprint_peak_bytes),
            ],
        ));
    }
    said.push(Sentence::new(
        "one-program",
        "The trace knows what {calls} did, not what other inputs would have: who reads a block last, and whether a pointer \
         to it is kept, is not recorded.",
        [counted(facts.given.info.totals.figures.counts.alloc_count, "allocation", "allocations")],
    ));
    said
}
