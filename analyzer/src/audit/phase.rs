//! One part per phase that matters. Responsible for what lives in it, what it hands on and leaves behind, and which arenas fit it.

use serde::Serialize;

use super::map::suitability;
use super::scopes::{PhaseScope, sum};
use super::sentence::{Sentence, Value, bytes, count, counted, function, name, share, words};
use super::{Facts, LISTED, Table};
use crate::lifetimes::Class;
use crate::phases::OUTSIDE;

/// Rows of its functions.
const SITES: usize = 5;

/// What a phase does with memory.
#[derive(Debug, Clone, Serialize)]
pub struct PhaseAudit {
    /// Names of the phases around it and its own.
    pub path: String,
    /// What to call it.
    pub title: String,
    /// Its process.
    pub process: String,
    /// What is found.
    pub findings: Vec<Sentence>,
    /// Who allocates in it.
    pub sites: Table,
    /// What to do there.
    pub strategy: Vec<Sentence>,
}

pub(super) fn phase(facts: &Facts<'_>, phase: &PhaseScope) -> PhaseAudit {
    let mut findings = vec![lives(facts, phase)];
    findings.extend(promotions(facts, phase));
    findings.extend(left_behind(phase));
    findings.push(leaks(facts, phase));
    findings.extend(growth(facts, phase));
    PhaseAudit {
        path: phase.path.clone(),
        title: facts.phase_name(phase),
        process: phase.process_name.clone(),
        findings,
        sites: sites(phase),
        strategy: strategy(facts, phase),
    }
}

/// What the phases without a part of their own come to.
pub(super) fn others(facts: &Facts<'_>, shown: usize) -> Option<Sentence> {
    let others: Vec<&PhaseScope> = facts.scopes.phases.iter().filter(|phase| !facts.matters(phase)).collect();
    let born = sum(others.iter().map(|phase| &phase.born));
    (!others.is_empty() && shown > 0).then(|| {
        Sentence::new(
            "other-phases",
            "{phases} less than 3 % of bytes, blocks and peak each; together {blocks} of {bytes} ({share} of the bytes) are born in \
             them.",
            [
                counted(others.len() as u64, "other phase makes", "other phases make"),
                counted(born.count, "block", "blocks"),
                bytes(born.bytes),
                share(born.bytes, facts.bytes()),
            ],
        )
    })
}

fn lives(facts: &Facts<'_>, phase: &PhaseScope) -> Sentence {
    let of = |class: Class| {
        let amount = phase.class(class);
        [words(class.words()), count(amount.count), bytes(amount.bytes), share(amount.bytes, phase.born.bytes)]
    };
    let classes = Class::ALL.into_iter().filter(|class| phase.class(*class).count > 0);
    let sentence = Sentence::new(
        "scratch-against-durable",
        "{blocks} of {bytes} ({share} of all bytes) are born here",
        [counted(phase.born.count, "block", "blocks"), bytes(phase.born.bytes), share(phase.born.bytes, facts.bytes())],
    );
    let sentence = if phase.is_outside {
        sentence.and(", on {threads}", [counted(phase.threads.values().sum(), "thread", "threads")])
    } else {
        sentence.and(
            " and in no phase inside, in {instances} of {time_ns}",
            [counted(phase.instances, "instance", "instances"), Value::Duration(phase.time_ns)],
        )
    };
    sentence.and(": ", []).list("{class} {count} ({bytes}, {share})", classes.map(of)).and(
        ". At most {own_peak_bytes} of them are alive at a time, {at_peak_bytes} when most is ({at_peak_share}).",
        [bytes(phase.own_peak_bytes), bytes(phase.at_peak_bytes), share(phase.at_peak_bytes, facts.peak_bytes())],
    )
}

fn promotions(facts: &Facts<'_>, phase: &PhaseScope) -> Option<Sentence> {
    let cells = facts.given.lifetimes.matrix.iter().filter(|cell| cell.birth == phase.path);
    let mut to: Vec<_> = cells.filter(|cell| cell.death.as_deref().is_some_and(|death| death != phase.path)).collect();
    to.sort_by_key(|cell| std::cmp::Reverse((cell.count, cell.bytes)));
    if to.is_empty() || phase.is_outside {
        return None;
    }
    let total: u64 = to.iter().map(|cell| cell.count).sum();
    let total_bytes: u64 = to.iter().map(|cell| cell.bytes).sum();
    let items = to.iter().take(4).map(|cell| {
        let death = cell.death.as_deref().unwrap_or_default();
        let death = if death == OUTSIDE { "outside of all phases" } else { death };
        [name(death), count(cell.count), bytes(cell.bytes)]
    });
    Some(
        Sentence::new(
            "promotions",
            "It hands on {count} of {bytes}: freed in ",
            [counted(total, "block", "blocks"), bytes(total_bytes)],
        )
        .list("{phase} {count} ({bytes})", items)
        .and_if(to.len() > 4, " and {more} others", [count(to.len() as u64 - to.len().min(4) as u64)])
        .and(".", []),
    )
}

fn left_behind(phase: &PhaseScope) -> Option<Sentence> {
    (!phase.is_outside).then(|| {
        let each = phase.left_behind.bytes.checked_div(phase.instances).unwrap_or(0);
        Sentence::new(
            "left-behind",
            "Its instances leave {count} of {bytes} alive at their end, phases inside included",
            [counted(phase.left_behind.count, "block", "blocks"), bytes(phase.left_behind.bytes)],
        )
        .and_if(phase.instances > 1, " ({bytes_each} each)", [bytes(each)])
        .and(".", [])
    })
}

fn leaks(facts: &Facts<'_>, phase: &PhaseScope) -> Sentence {
    let born_here = |function: &str| {
        facts.scopes.functions.iter().any(|known| known.function == function && known.phase == phase.path)
    };
    let leaks: Vec<_> = facts
        .given
        .leaks
        .findings
        .iter()
        .filter(|finding| finding.leak && finding.suppressed_by.is_none() && born_here(&finding.function))
        .collect();
    if leaks.is_empty() {
        return Sentence::new(
            "no-leaks-here",
            "Nothing leaks here: {leaks} of functions that allocate mostly in it; {durable} of {durable_bytes} stay to the end.",
            [
                counted(0, "finding", "findings"),
                counted(phase.class(Class::Durable).count, "block", "blocks"),
                bytes(phase.class(Class::Durable).bytes),
            ],
        );
    }
    Sentence::new(
        "leaks-here",
        "{leaks} of functions that allocate mostly here: ",
        [counted(leaks.len() as u64, "leak", "leaks")],
    )
    .list(
        "{function} {count} ({bytes}, {class})",
        leaks.iter().take(4).map(|finding| {
            [function(&finding.function), count(finding.count), bytes(finding.bytes), words(finding.class.words())]
        }),
    )
    .and(".", [])
}

fn growth(facts: &Facts<'_>, phase: &PhaseScope) -> Option<Sentence> {
    let patterns = facts.given.patterns;
    let here = |phases: &[String]| phases.first() == Some(&phase.name);
    let appends: Vec<_> = patterns.appends.rows.iter().filter(|row| here(&row.site.phases)).collect();
    let reallocs: Vec<_> = patterns.reallocs.rows.iter().filter(|row| here(&row.site.phases)).collect();
    if appends.is_empty() && reallocs.is_empty() {
        return None;
    }
    let copied: u64 = appends.iter().map(|row| row.copied_bytes).sum();
    let grows: u64 = reallocs.iter().map(|row| row.grow_count).sum();
    let saves: u64 = reallocs.iter().map(|row| row.reserve_saves_count).sum();
    let sentence = Sentence { kind: "growth-here", pieces: Vec::new() };
    Some(
        sentence
            .and_if(
                !appends.is_empty(),
                "{append_sites} that allocate mostly here grow tables by allocate-copy-free and copied {copied_bytes}. ",
                [counted(appends.len() as u64, "function", "functions"), bytes(copied)],
            )
            .and_if(
                !reallocs.is_empty(),
                "{grow_sites} that allocate mostly here grow blocks by {grows}, of which reserving would save {reserve_saves}.",
                [
                    counted(reallocs.len() as u64, "function", "functions"),
                    counted(grows, "realloc", "reallocs"),
                    count(saves),
                ],
            ),
    )
}

fn sites(phase: &PhaseScope) -> Table {
    let caption = ("sites", "Who allocates here, by bytes");
    let columns = [
        ("function", "function"),
        ("blocks", "blocks"),
        ("bytes", "bytes"),
        ("outlive", "outlive it"),
        ("stay", "never freed"),
    ];
    Table::new(
        caption,
        &columns,
        SITES,
        phase.sites.iter().map(|site| {
            vec![
                function(&site.function),
                count(site.born.count),
                bytes(site.born.bytes),
                count(site.left.count),
                count(site.survived.count),
            ]
        }),
    )
}

fn strategy(facts: &Facts<'_>, phase: &PhaseScope) -> Vec<Sentence> {
    let mut said = vec![Sentence { kind: "strategy-here", pieces: Vec::new() }];
    said[0].pieces = suitability(facts, &phase.homes, phase.born, &phase.classes).pieces;
    let advised = facts.given.patterns.advice.iter().filter(|advice| {
        advice.site.phases.first() == Some(&phase.name)
            && !matches!(advice.allocator, crate::advice::Allocator::Arena | crate::advice::Allocator::General)
    });
    let advised: Vec<_> = advised.collect();
    if !advised.is_empty() {
        said.push(
            Sentence::new(
                "advice-here",
                "{sites} fit something else: ",
                [counted(advised.len() as u64, "function", "functions")],
            )
            .list(
                "{function} {allocator} ({blocks})",
                advised.iter().take(LISTED / 2).map(|advice| {
                    [function(&advice.site.function), words(advice.allocator.words()), count(advice.site.born.count)]
                }),
            )
            .and(".", []),
        );
    }
    said
}
