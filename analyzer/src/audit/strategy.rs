//! What to do. Responsible for the steps, each from a suggestion, a growing table or a piece of advice, and for ordering all of it
//! by measured benefit; not for finding any of it (see `arenas`, `patterns`, `leaks`).

use std::collections::BTreeMap;

use serde::Serialize;

use super::sentence::{Sentence, Value, bytes, count, counted, function, share, words};
use super::{Facts, MATTERS, MOST_STEPS, WORTH_A_STEP};
use crate::advice::{Advice, Allocator};
use crate::arenas::{AtEnd, ScopeKind, Suggestion};
use crate::leaks::Confidence;
use crate::replay::Amount;
use crate::sites::ratio;

/// What frees and reallocs are parts of, so that they can be compared.
const CALLS: &str = "the allocator's calls";
/// Names in a list.
const NAMED: usize = 3;
/// Rows of the priorities.
const PRIORITIES: usize = 15;
/// Least part of its whole that a priority is worth.
const WORTH_A_ROW: f64 = 0.001;

/// A step.
#[derive(Debug, Clone, Serialize)]
pub struct Step {
    /// From 1.
    pub number: u64,
    /// What to do.
    pub title: Sentence,
    /// How, and with what result.
    pub points: Vec<Sentence>,
}

/// A target with what reaching it brings.
#[derive(Debug, Clone, Serialize)]
pub struct Priority {
    /// From 1: the greatest part of its whole first.
    pub rank: u64,
    /// Of which kind: `arena`, `append`, `reserve`, `leak`, or an allocator of advice.
    pub kind: &'static str,
    /// What to change.
    pub change: String,
    /// Where.
    pub target: Value,
    /// What it brings, with its unit.
    pub benefit: Value,
    /// The same as a part of the whole.
    pub share: Value,
    /// The whole, in words.
    pub whole: &'static str,
    /// What it costs, or how sure it is.
    pub cost: Sentence,
}

/// The steps: arenas first, the most objects first, then tables to seal or to reserve, then single sites.
pub(super) fn strategy(facts: &Facts<'_>) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    let mut add = |title: Sentence, points: Vec<Sentence>| {
        steps.push(Step { number: steps.len() as u64 + 1, title, points });
    };
    if let Some((title, points)) = before(facts) {
        add(title, points);
    }
    let suggestions = &facts.given.arenas.suggestions;
    let worth: Vec<&Suggestion> =
        suggestions.iter().filter(|one| one.object_share >= WORTH_A_STEP).take(MOST_STEPS).collect();
    for suggestion in &worth {
        let (title, points) = arena(suggestion);
        add(title, points);
    }
    if worth.len() < suggestions.len() {
        let rest = &suggestions[worth.len()..];
        add(
            Sentence::new(
                "small-arenas",
                "Leave {arenas} for later: they take {objects} together and save {frees_saved}.",
                [
                    counted(rest.len() as u64, "smaller arena", "smaller arenas"),
                    counted(rest.iter().map(|one| one.objects).sum(), "object", "objects"),
                    counted(rest.iter().map(|one| one.frees_saved).sum(), "free", "frees"),
                ],
            ),
            Vec::new(),
        );
    }
    if suggestions.is_empty() {
        let arenas = facts.given.arenas;
        add(
            Sentence::new(
                "no-arenas",
                "Open no arena yet: in {traces} {arenas} would pay. {verdict}",
                [
                    counted(arenas.trained_on.len() as u64, "trace", "traces"),
                    counted(0, "arena", "arenas"),
                    words(&arenas.verdict.sentence),
                ],
            ),
            Vec::new(),
        );
    }
    for (title, points) in single_sites(facts) {
        add(title, points);
    }
    steps
}

/// Growing tables come before arenas: an arena keeps what they leave behind.
fn before(facts: &Facts<'_>) -> Option<(Sentence, Vec<Sentence>)> {
    let mut builders: BTreeMap<&str, u64> = BTreeMap::new();
    let suggestions = &facts.given.arenas.suggestions;
    for builder in suggestions.iter().flat_map(|one| &one.builders) {
        *builders.entry(&builder.function).or_default() += builder.reallocs;
    }
    let mut builders: Vec<(&str, u64)> = builders.into_iter().collect();
    builders.sort_by_key(|(name, reallocs)| (std::cmp::Reverse(*reallocs), *name));
    let patterns = facts.given.patterns;
    let mut points = Vec::new();
    if !builders.is_empty() {
        let left: u64 = suggestions.iter().map(|one| one.left_bytes).sum();
        points.push(
            Sentence::new(
                "builders",
                "Seal builders whose blocks would grow in an arena, or give them their final size: {builders} with {reallocs} \
                 would leave {left_bytes} behind there: ",
                [
                    counted(builders.len() as u64, "function", "functions"),
                    counted(builders.iter().map(|(_, reallocs)| reallocs).sum(), "realloc", "reallocs"),
                    bytes(left),
                ],
            )
            .list(
                "{function} ({reallocs})",
                builders.iter().take(NAMED).map(|(name, reallocs)| [function(name), count(*reallocs)]),
            )
            .and(".", []),
        );
    }
    let appends = &patterns.appends;
    if appends.count > 0 {
        points.push(
            Sentence::new(
                "append-builders",
                "Give tables that are allocated anew for each element a capacity: {steps} copied {copied_bytes}: ",
                [counted(appends.count, "step", "steps"), bytes(appends.bytes)],
            )
            .list(
                "{function} ({bytes})",
                appends.rows.iter().take(NAMED).map(|row| [function(&row.site.function), bytes(row.copied_bytes)]),
            )
            .and(".", []),
        );
    }
    let mut reserve: Vec<_> = patterns.reallocs.rows.iter().filter(|row| row.reserve_saves_count > 0).collect();
    reserve.sort_by_key(|row| std::cmp::Reverse(row.reserve_saves_count));
    if !reserve.is_empty() {
        points.push(
            Sentence::new("reserve", "Reserve at the first allocation: ", [])
                .list(
                    "{reserve_bytes} in {function} (saves {saves})",
                    reserve.iter().take(NAMED).map(|row| {
                        [
                            bytes(row.reserve_bytes),
                            function(&row.site.function),
                            counted(row.reserve_saves_count, "realloc", "reallocs"),
                        ]
                    }),
                )
                .and(".", []),
        );
    }
    let title = Sentence::new(
        "before-arenas",
        "Seal and reserve growing tables before any arena: {sites} grow blocks.",
        [counted(patterns.reallocs.site_count + appends.site_count, "function", "functions")],
    );
    (!points.is_empty()).then_some((title, points))
}

/// What the scope of an arena has one of each time.
pub(super) fn each(suggestion: &Suggestion) -> &'static str {
    match suggestion.scope_kind {
        ScopeKind::Function => "call",
        ScopeKind::Phase => "instance",
    }
}

fn arena(suggestion: &Suggestion) -> (Sentence, Vec<Sentence>) {
    let title = Sentence::new(
        "arena",
        "Arena {arena}, one with each {each} of {scope}: {objects} ({object_share}) from {sites}, −{frees_saved}, peak \
         {peak_change}.",
        [
            count(suggestion.rank),
            words(each(suggestion)),
            function(&suggestion.scope),
            counted(suggestion.objects, "object", "objects"),
            Value::Share(suggestion.object_share),
            counted(suggestion.site_count, "function", "functions"),
            counted(suggestion.frees_saved, "free", "frees"),
            Value::Change(suggestion.peak_change),
        ],
    );
    let end = match suggestion.at_end {
        AtEnd::Destroy => "destroyed",
        AtEnd::Reset => "reset, its first chunk kept for the next",
    };
    let mut points = vec![
        Sentence::new(
            "arena-size",
            "Opened {instances}, {at_end} at each end; {held_bytes} held at most in {chunks}, memory in use × {drag}.",
            [
                counted(suggestion.instances, "time", "times"),
                words(end),
                bytes(suggestion.held_peak_bytes),
                counted(suggestion.chunks, "chunk", "chunks"),
                Value::Factor(suggestion.drag),
            ],
        ),
        Sentence::new("arena-sites", "Allocate there: ", [])
            .list(
                "{function} ({objects})",
                suggestion.sites.iter().take(NAMED).map(|site| [function(&site.function), count(site.objects)]),
            )
            .and_if(
                suggestion.site_count > NAMED as u64,
                " and {more} more",
                [count(suggestion.site_count.saturating_sub(NAMED as u64))],
            )
            .and(".", []),
    ];
    if suggestion.pass_on_count > 0 {
        points.push(
            Sentence::new(
                "arena-pass-on",
                "Give an allocator parameter to {pass_on}, first ",
                [counted(suggestion.pass_on_count, "function", "functions")],
            )
            .list(
                "{function} ({objects})",
                suggestion.pass_on.iter().take(NAMED).map(|one| [function(&one.function), count(one.objects)]),
            )
            .and(".", []),
        );
    }
    if suggestion.escapee_count > 0 {
        points.push(
            Sentence::new(
                "arena-escapees",
                "Promote, or leave with malloc, {escapees} whose blocks outlive the call: ",
                [counted(suggestion.escapee_count, "function", "functions")],
            )
            .list(
                "{function} ({escaping} of {objects})",
                suggestion
                    .escapees
                    .iter()
                    .take(NAMED)
                    .map(|one| [function(&one.function), count(one.escaping), count(one.objects)]),
            )
            .and(".", []),
        );
    }
    let tried: Vec<_> = suggestion.tests.iter().filter(|test| test.found).collect();
    if !suggestion.tests.is_empty() {
        let broken: u64 = tried.iter().map(|test| test.outlived + test.handed_over).sum();
        points.push(Sentence::new(
            "arena-proof",
            "Tried on {inputs}, found on {found}: {broken} of {objects} broke it.",
            [
                counted(suggestion.tests.len() as u64, "other input", "other inputs"),
                count(tried.len() as u64),
                count(broken),
                counted(tried.iter().map(|test| test.objects).sum(), "object", "objects"),
            ],
        ));
    }
    (title, points)
}

/// Advice by kind of allocator, other than arenas.
fn single_sites(facts: &Facts<'_>) -> Vec<(Sentence, Vec<Sentence>)> {
    let kinds = [
        (Allocator::FixedBuffer, "Use a fixed buffer on the stack"),
        (Allocator::ScratchBuffer, "Keep a scratch buffer from call to call"),
        (Allocator::Pool, "Use a pool"),
        (Allocator::Pages, "Take one-time tables straight from the system"),
    ];
    let mut said = Vec::new();
    for (kind, what) in kinds {
        let mut advised: Vec<&Advice> =
            facts.given.patterns.advice.iter().filter(|advice| advice.allocator == kind).collect();
        advised.sort_by_key(|advice| std::cmp::Reverse((advice.saves_free_count, advice.site.born.count)));
        if advised.is_empty() {
            continue;
        }
        let saves: u64 = advised.iter().map(|advice| advice.saves_free_count).sum();
        let born = advised.iter().fold(Amount::default(), |mut sum, advice| {
            sum += advice.site.born;
            sum
        });
        if kind == Allocator::Pages && ratio(born.bytes, facts.peak_bytes()) < MATTERS {
            continue;
        }
        let title = Sentence::new(
            "advice",
            "{what} for {sites} with {blocks} of {bytes}",
            [
                words(what),
                counted(advised.len() as u64, "function", "functions"),
                counted(born.count, "block", "blocks"),
                bytes(born.bytes),
            ],
        )
        .and_if(saves > 0, ": up to {frees_saved} saved", [counted(saves, "free", "frees")])
        .and(".", []);
        let points = advised
            .iter()
            .take(NAMED)
            .map(|advice| {
                Sentence::new(
                    "advice-site",
                    "{function} ({bytes}): {why} ({confidence} confidence).",
                    [
                        function(&advice.site.function),
                        bytes(advice.site.born.bytes),
                        words(advice.why.trim_end_matches('.')),
                        words(sure(advice.confidence)),
                    ],
                )
            })
            .collect();
        said.push((title, points));
    }
    said
}

fn sure(confidence: Confidence) -> &'static str {
    match confidence {
        Confidence::Low => "low",
        Confidence::Medium => "medium",
        Confidence::High => "high",
    }
}

/// Everything that has a measured benefit, the greatest part of its whole first.
pub(super) fn priorities(facts: &Facts<'_>) -> Vec<Priority> {
    let mut found: Vec<(f64, Priority)> = Vec::new();
    let mut add = |kind, change: &str, target, benefit: Value, part: u64, whole: u64, of, cost| {
        let part = ratio(part, whole);
        let change = change.to_owned();
        if part >= WORTH_A_ROW {
            let share = Value::Share(part);
            found.push((part, Priority { rank: 0, kind, change, target, benefit, share, whole: of, cost }));
        }
    };
    let arenas = facts.given.arenas;
    // Of several traces, an arena's figures are sums: they are made comparable with the one that is described.
    let trained_frees: u64 = arenas.trained_on.iter().map(|trial| trial.frees).sum();
    let calls = facts.calls();
    let all_calls = (ratio(calls, facts.frees()) * trained_frees as f64) as u64;
    for one in &arenas.suggestions {
        let cost = Sentence::new(
            "cost",
            "peak {peak_change}; {pass_on} pass an allocator on, {escapees} stay out",
            [
                Value::Change(one.peak_change),
                counted(one.pass_on_count, "function", "functions"),
                counted(one.escapee_count, "function", "functions"),
            ],
        );
        let benefit = counted(one.frees_saved, "free less", "frees less");
        let change = format!("arena {}, with each {} of", one.rank, each(one));
        add("arena", &change, function(&one.scope), benefit, one.frees_saved, all_calls, CALLS, cost);
    }
    let patterns = facts.given.patterns;
    for row in &patterns.appends.rows {
        let saved = row.copied_bytes.saturating_sub(row.doubling_copied_bytes);
        let cost =
            Sentence::new("cost", "capacity that doubles; {tables}", [counted(row.chain_count, "table", "tables")]);
        let target = function(&row.site.function);
        add("append", "grow by doubling in", target, bytes(saved), saved, facts.bytes(), "the bytes requested", cost);
    }
    for row in &patterns.reallocs.rows {
        let cost = Sentence::new(
            "cost",
            "{reserve_bytes} at once, {wasted_bytes} unused",
            [bytes(row.reserve_bytes), bytes(row.reserve_wastes_bytes)],
        );
        let (saves, target) = (row.reserve_saves_count, function(&row.site.function));
        let benefit = counted(saves, "realloc less", "reallocs less");
        add("reserve", "reserve in", target, benefit, saves, calls, CALLS, cost);
    }
    for advice in &patterns.advice {
        let (kind, change) = match advice.allocator {
            Allocator::FixedBuffer => ("fixed_buffer", "fixed buffer in"),
            Allocator::ScratchBuffer => ("scratch_buffer", "scratch buffer in"),
            _ => continue,
        };
        let cost = Sentence::new(
            "cost",
            "{max_bytes} at most; {confidence} confidence",
            [bytes(advice.evidence.max_bytes), words(sure(advice.confidence))],
        );
        let (saves, target) = (advice.saves_free_count, function(&advice.site.function));
        add(kind, change, target, counted(saves, "free less", "frees less"), saves, calls, CALLS, cost);
    }
    for finding in facts.given.leaks.findings.iter().filter(|one| one.leak && one.suppressed_by.is_none()) {
        let cost = Sentence::new(
            "cost",
            "{class}, {count}",
            [words(finding.class.words()), counted(finding.count, "block", "blocks")],
        );
        let target = function(&finding.function);
        add(
            "leak",
            "free what leaks in",
            target,
            bytes(finding.bytes),
            finding.bytes,
            facts.peak_bytes(),
            "the peak",
            cost,
        );
    }
    found.sort_by(|one, other| other.0.total_cmp(&one.0));
    found.truncate(PRIORITIES);
    found.into_iter().zip(1..).map(|((_, priority), rank)| Priority { rank, ..priority }).collect()
}

/// What nobody should expect: the part of all objects that no arena takes.
pub(super) fn unplaced(facts: &Facts<'_>) -> Option<Sentence> {
    let trial = facts.given.arenas.trained_on.first()?;
    let left = trial.objects.saturating_sub(trial.placed);
    Some(Sentence::new(
        "unplaced",
        "{left} ({share}) stay with malloc: they share no call with others that it would pay to keep together.",
        [counted(left, "object", "objects"), share(left, trial.objects)],
    ))
}
