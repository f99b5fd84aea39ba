//! The lifetime map: one row per scope that memory lives with. Responsible for processes, phases, repeated calls that own an arena,
//! and threads, each with what lives there, how it is freed today and whether an arena fits; not for the parts that look closer.

use std::collections::BTreeMap;

use serde::Serialize;

use super::scopes::{Classes, PhaseScope, ThreadScope, sum};
use super::sentence::{Sentence, Value, bytes, count, counted, function, name, share, words};
use super::strategy::each;
use super::{Facts, MATTERS, WORTH_A_STEP};
use crate::info::ProcessInfo;
use crate::lifetimes::Class;
use crate::replay::Amount;
use crate::sites::ratio;

/// Rows for repeated calls at most.
const MOST_CALLS: usize = 6;
/// Part of everything from which on a thread is the process.
const NEARLY_ALL: f64 = 0.9;
/// Rows for threads at most.
const MOST_THREADS: usize = 6;

/// A scope.
#[derive(Debug, Clone, Serialize)]
pub struct MapRow {
    /// Of which kind: `process`, `phase`, `call`, `thread`.
    pub level: &'static str,
    /// What it is.
    pub scope: Sentence,
    /// Whose code makes most of what lives there.
    pub owner: Sentence,
    /// What lives there, and for how long.
    pub contents: Sentence,
    /// How it is allocated and freed today.
    pub pattern: Sentence,
    /// Whether an arena fits.
    pub suitability: Sentence,
}

/// The map: processes, phases, repeated calls, threads.
pub(super) fn map(facts: &Facts<'_>, phases: &[&PhaseScope]) -> Vec<MapRow> {
    let mut rows = Vec::new();
    let all = facts.given.info.totals.figures.counts.alloc_bytes;
    for process in &facts.given.info.processes {
        if ratio(process.figures.counts.alloc_bytes, all) >= MATTERS {
            rows.push(of_process(facts, process));
        }
    }
    rows.extend(phases.iter().map(|phase| of_phase(facts, phase)));
    rows.extend(of_calls(facts));
    let mut threads: Vec<&ThreadScope> = facts.scopes.threads.iter().filter(|thread| !thread.is_main).collect();
    // What does nearly all is the process, which has a row already.
    threads.retain(|thread| {
        let part = ratio(thread.born.bytes, facts.bytes()).max(ratio(thread.born.count, facts.blocks()));
        (MATTERS..NEARLY_ALL).contains(&part)
    });
    threads.sort_by(|one, other| (other.born.bytes, &one.name).cmp(&(one.born.bytes, &other.name)));
    rows.extend(threads.into_iter().take(MOST_THREADS).map(|thread| of_thread(facts, thread)));
    rows
}

fn of_process(facts: &Facts<'_>, process: &ProcessInfo) -> MapRow {
    let figures = &process.figures;
    let of_process = facts.scopes.phases.iter().filter(|phase| phase.process.index() as u32 == process.id);
    let mut classes = Classes::default();
    let mut homes = Amount::default();
    for phase in of_process {
        for (sum, amount) in classes.iter_mut().zip(&phase.classes) {
            *sum += *amount;
        }
        homes += phase.placed();
    }
    let durable = classes[Class::Durable.index()];
    let blocks = sum(&classes).count;
    let storms = &facts.given.patterns.storms;
    MapRow {
        level: "process",
        scope: Sentence::new(
            "process",
            "process {process}, {threads}",
            [name(&process.name), counted(process.thread_count, "thread", "threads")],
        ),
        owner: owner(
            facts.scopes.functions.iter().map(|one| (one.function.as_str(), one.namespace.as_str(), one.born)),
        ),
        contents: contents(blocks, figures.counts.alloc_bytes, &classes).and(
            "; peak {peak_bytes}, {end_bytes} at the end",
            [bytes(figures.peak_live_bytes), bytes(figures.live_at_end_bytes)],
        ),
        pattern: Sentence::new(
            "pattern",
            "{frees} one by one, {reallocs}",
            [
                counted(figures.counts.free_count, "free", "frees"),
                counted(figures.counts.realloc_count, "realloc", "reallocs"),
            ],
        )
        .and_if(
            storms.count > 0,
            ", {storm_share} of the frees in teardown storms",
            [share(storms.count, facts.frees())],
        ),
        suitability: Sentence::new(
            "suitability",
            "only for {durable} of {durable_bytes} that live as long as it, and they save no free; {placed} of {placed_bytes} belong \
             to the arenas below",
            [counted(durable.count, "block", "blocks"), bytes(durable.bytes), count(homes.count), bytes(homes.bytes)],
        ),
    }
}

fn of_phase(facts: &Facts<'_>, phase: &PhaseScope) -> MapRow {
    let scope = Sentence::new("phase", "{phase}", [name(&facts.phase_name(phase))]).and_if(
        phase.instances > 1,
        ", {instances}, {bytes_each} each",
        [
            counted(phase.instances, "instance", "instances"),
            bytes(phase.born.bytes.checked_div(phase.instances).unwrap_or(0)),
        ],
    );
    MapRow {
        level: "phase",
        scope,
        owner: owner(phase.sites.iter().map(|site| (site.function.as_str(), site.namespace.as_str(), site.born))),
        contents: contents(phase.born.count, phase.born.bytes, &phase.classes).and_if(
            phase.at_peak_bytes > 0,
            "; holds {at_peak_bytes} at the peak",
            [bytes(phase.at_peak_bytes)],
        ),
        pattern: pattern(facts, phase),
        suitability: suitability(facts, &phase.homes, phase.born, &phase.classes),
    }
}

/// What the classes mean.
pub(super) fn legend(facts: &Facts<'_>) -> Sentence {
    let classes = &facts.given.lifetimes.classes;
    let of = |class: Class| {
        let bytes = classes.iter().find(|figures| figures.class == class).map_or(0, |figures| figures.bytes);
        share(bytes, facts.bytes())
    };
    Sentence::new(
        "legend",
        "Shares are of bytes. Scratch ({scratch} of all) dies in the phase instance that it is born in; handed over ({handed_over}) in \
         another; process-wide ({process_wide}) outside of all phases; other thread ({other_thread}) on another than its own; durable \
         ({durable}) never. A block counts for the innermost phase.",
        Class::ALL.map(of),
    )
}

/// Calls that own an arena and come again and again.
fn of_calls(facts: &Facts<'_>) -> Vec<MapRow> {
    let repeated = facts
        .given
        .arenas
        .suggestions
        .iter()
        .filter(|suggestion| suggestion.instances > 1 && suggestion.object_share >= WORTH_A_STEP);
    repeated
        .take(MOST_CALLS)
        .map(|suggestion| MapRow {
            level: "call",
            scope: Sentence::new(
                "call",
                "arena {arena}: each {each} of {scope}, {instances}, {bytes_each} each",
                [
                    count(suggestion.rank),
                    words(each(suggestion)),
                    function(&suggestion.scope),
                    counted(suggestion.instances, "time", "times"),
                    bytes(suggestion.bytes / suggestion.instances),
                ],
            ),
            owner: owner(
                suggestion
                    .sites
                    .iter()
                    .map(|site| (site.function.as_str(), "[", Amount { bytes: site.bytes, count: site.objects })),
            ),
            contents: Sentence::new(
                "contents",
                "{objects} of {bytes} from {sites}, all dead when it ends",
                [
                    counted(suggestion.objects, "object", "objects"),
                    bytes(suggestion.bytes),
                    counted(suggestion.site_count, "function", "functions"),
                ],
            ),
            pattern: Sentence::new(
                "pattern",
                "{frees_saved} that its end makes moot, {reallocs}",
                [
                    counted(suggestion.frees_saved, "free", "frees"),
                    counted(suggestion.builders.iter().map(|builder| builder.reallocs).sum(), "realloc", "reallocs"),
                ],
            ),
            suitability: Sentence::new(
                "suitability",
                "fits: {held_bytes} held at most, memory in use × {drag}, peak {peak_change}; {escapees} must stay out",
                [
                    bytes(suggestion.held_peak_bytes),
                    Value::Factor(suggestion.drag),
                    Value::Change(suggestion.peak_change),
                    counted(suggestion.escapee_count, "function", "functions"),
                ],
            ),
        })
        .collect()
}

fn of_thread(facts: &Facts<'_>, thread: &ThreadScope) -> MapRow {
    let away = thread.classes[Class::OtherThread.index()];
    MapRow {
        level: "thread",
        scope: Sentence::new(
            "thread",
            "{threads} {thread} of {process}",
            [
                counted(thread.thread_count, "thread", "threads"),
                name(if thread.name.is_empty() { "without a name" } else { &thread.name }),
                name(&thread.process_name),
            ],
        ),
        owner: owner(thread.top.iter().map(|one| (one.function.as_str(), one.namespace.as_str(), one.born))),
        contents: contents(thread.born.count, thread.born.bytes, &thread.classes),
        pattern: Sentence::new(
            "pattern",
            "{deaths} there, {reallocs}; {handed_over} of its blocks are freed by other threads",
            [
                counted(thread.died.count, "death", "deaths"),
                counted(thread.realloc_count, "realloc", "reallocs"),
                count(away.count),
            ],
        ),
        suitability: suitability(facts, &thread.homes, thread.born, &thread.classes),
    }
}

/// The two crates or namespaces that make most; the two functions where the one that makes most is in none.
fn owner<'a>(sites: impl Iterator<Item = (&'a str, &'a str, Amount)> + Clone) -> Sentence {
    let total: u64 = sites.clone().map(|(_, _, born)| born.bytes).sum();
    let mut namespaces: BTreeMap<&str, u64> = BTreeMap::new();
    for (_, namespace, born) in sites.clone() {
        *namespaces.entry(namespace).or_default() += born.bytes;
    }
    let mut namespaces: Vec<(&str, u64)> = namespaces.into_iter().collect();
    namespaces.sort_by_key(|(namespace, bytes)| (std::cmp::Reverse(*bytes), *namespace));
    let owner = Sentence::new("owner", "", []);
    if namespaces.first().is_none_or(|(namespace, _)| namespace.starts_with('[')) {
        let items = sites.take(2).map(|(site, _, born)| [function(site), share(born.bytes, total)]);
        return owner.list("{function} ({share})", items);
    }
    namespaces.retain(|(namespace, _)| !namespace.starts_with('['));
    let items = namespaces.into_iter().take(2).map(|(namespace, bytes)| [name(namespace), share(bytes, total)]);
    owner.list("{namespace} ({share})", items)
}

/// What lives there: how much, and for how long by parts of its bytes.
fn contents(blocks: u64, all_bytes: u64, classes: &Classes) -> Sentence {
    let total = sum(classes);
    let part = |class: Class| share(classes[class.index()].bytes, total.bytes);
    let mut parts: Vec<[Value; 2]> = Vec::new();
    for class in Class::ALL {
        if classes[class.index()].bytes > 0 {
            parts.push([words(class.words()), part(class)]);
        }
    }
    Sentence::new("contents", "{blocks} of {bytes}: ", [counted(blocks, "block", "blocks"), bytes(all_bytes)])
        .list("{class} {share}", parts)
}

/// How a phase allocates and frees.
fn pattern(facts: &Facts<'_>, phase: &PhaseScope) -> Sentence {
    let patterns = facts.given.patterns;
    let here = |phases: &[String]| phases.first() == Some(&phase.name);
    let temporaries: u64 =
        patterns.temporaries.rows.iter().filter(|row| here(&row.site.phases)).map(|row| row.count).sum();
    let appends: u64 =
        patterns.appends.rows.iter().filter(|row| here(&row.site.phases)).map(|row| row.append_count).sum();
    Sentence::new(
        "pattern",
        "{deaths} one by one, {reallocs}",
        [counted(phase.died.count, "free", "frees"), counted(phase.realloc_count, "realloc", "reallocs")],
    )
    .and_if(temporaries > 0, ", {temporaries} freed at once", [count(temporaries)])
    .and_if(appends > 0, ", {append_steps} by allocate-copy-free", [counted(appends, "append", "appends")])
}

/// Which suggested arenas take what is born there, or why none does.
pub(super) fn suitability(
    facts: &Facts<'_>,
    homes: &BTreeMap<usize, Amount>,
    born: Amount,
    classes: &Classes,
) -> Sentence {
    let placed = sum(homes.values());
    let total = sum(classes);
    let outliving = total.count - classes[Class::Scratch.index()].count;
    if placed.count == 0 {
        let durable = classes[Class::Durable.index()];
        return Sentence::new(
            "no-arena",
            "no arena suggested ({placed} of its blocks); {outliving_share} outlive it, {durable_share} never die",
            [count(0), share(outliving, total.count), share(durable.count, total.count)],
        );
    }
    Sentence::new(
        "arenas",
        "{placed_share} of the blocks ({placed_bytes}) go to ",
        [share(placed.count, born.count), bytes(placed.bytes)],
    )
    .list(
        "arena {arena} ({blocks})",
        facts.homes(homes).into_iter().take(3).map(|(one, amount)| [count(one.rank), count(amount.count)]),
    )
    .and("; {outliving_share} outlive it", [share(outliving, total.count)])
}
