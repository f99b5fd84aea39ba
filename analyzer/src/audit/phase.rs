//! One part per phase that matters. Responsible for what lives in it, what it hands on and leaves behind, and which arenas fit it.

use std::cmp::Reverse;

use serde::Serialize;

use super::scopes::{PhaseScope, sum};
use super::sentence::{Sentence, Value, bytes, count, counted, function, name, share, words};
use super::strategy::each;
use super::{Facts, Table, title};
use crate::advice::Allocator;
use crate::leaks::Finding;
use crate::lifetimes::Class;

/// What to do with blocks that outlive a phase whose other blocks go to arenas.
const PROMOTE: &str = "Promote at its end, or leave with malloc: ";
/// Names in a list.
const NAMED: usize = 3;
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
    findings.push(left_behind(phase, &leaks_here(facts, phase)));
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
pub(super) fn others(facts: &Facts<'_>) -> Option<Sentence> {
    if facts.scopes.phases.is_empty() {
        return Some(Sentence::new(
            "no-phases",
            "The trace shows {phases}: {blocks} are born in any.",
            [counted(0, "phase", "phases"), counted(0, "block", "blocks")],
        ));
    }
    let others: Vec<&PhaseScope> = facts.scopes.phases.iter().filter(|phase| !facts.matters(phase)).collect();
    let born = sum(others.iter().map(|phase| &phase.born));
    (!others.is_empty()).then(|| {
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
        [name(title(death)), count(cell.count), bytes(cell.bytes)]
    });
    Some(
        Sentence::new(
            "promotions",
            "It hands on {count} of {bytes}: freed in ",
            [counted(total, "block", "blocks"), bytes(total_bytes)],
        )
        .list("{phase} {count} ({bytes})", items)
        .and_if(to.len() > 4, " and in {more}", [counted(to.len() as u64 - to.len().min(4) as u64, "other", "others")])
        .and(".", []),
    )
}

/// Leaks of functions that allocate mostly in a phase.
fn leaks_here<'f>(facts: &'f Facts<'_>, phase: &PhaseScope) -> Vec<&'f Finding> {
    let born_here = |function: &str| {
        facts.scopes.functions.iter().any(|known| known.function == function && known.phase == phase.path)
    };
    let findings = facts.given.leaks.findings.iter();
    findings.filter(|finding| finding.leak && finding.suppressed_by.is_none() && born_here(&finding.function)).collect()
}

fn left_behind(phase: &PhaseScope, leaks: &[&Finding]) -> Sentence {
    let durable = phase.class(Class::Durable);
    let each = phase.left_behind.bytes.checked_div(phase.instances).unwrap_or(0);
    let sentence = Sentence { kind: "left-behind", pieces: Vec::new() };
    sentence
        .and_if(
            !phase.is_outside,
            "It leaves {count} of {bytes} alive at its end, phases inside included",
            [counted(phase.left_behind.count, "block", "blocks"), bytes(phase.left_behind.bytes)],
        )
        .and_if(!phase.is_outside && phase.instances > 1, " ({bytes_each} an instance)", [bytes(each)])
        .and_if(!phase.is_outside, "; of its own, ", [])
        .and(
            "{durable} ({durable_bytes}) stay to the end of the process, {leaks} of them leaked",
            [count(durable.count), bytes(durable.bytes), count(leaks.iter().map(|finding| finding.count).sum())],
        )
        .and_if(!leaks.is_empty(), ": ", [])
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
                "{append_sites} that allocate mostly here grow tables by allocate-copy-free and copied {copied_bytes}.",
                [counted(appends.len() as u64, "function", "functions"), bytes(copied)],
            )
            .and_if(!appends.is_empty() && !reallocs.is_empty(), " ", [])
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

/// What to do, from the suggestions that take its blocks down to single sites.
fn strategy(facts: &Facts<'_>, phase: &PhaseScope) -> Vec<Sentence> {
    let mut said = vec![arenas(facts, phase)];
    let mut leaving: Vec<_> = phase.sites.iter().filter(|site| site.left.count > 0).collect();
    leaving.sort_by_key(|site| Reverse((site.left.count, site.left.bytes)));
    if !leaving.is_empty() && !phase.is_outside {
        said.push(
            Sentence::new("promote-here", if phase.homes.is_empty() { "Outliving it: " } else { PROMOTE }, [])
                .list(
                    "{function} ({left} of {blocks})",
                    leaving
                        .iter()
                        .take(NAMED)
                        .map(|site| [function(&site.function), count(site.left.count), count(site.born.count)]),
                )
                .and_if(
                    leaving.len() > NAMED,
                    " and {more} more",
                    [count(leaving.len() as u64 - leaving.len().min(NAMED) as u64)],
                )
                .and(".", []),
        );
    }
    let advised = facts.given.patterns.advice.iter().filter(|advice| {
        advice.site.phases.first() == Some(&phase.name)
            && !matches!(advice.allocator, Allocator::Arena | Allocator::General)
    });
    let advised: Vec<_> = advised.collect();
    if !advised.is_empty() {
        said.push(
            Sentence::new(
                "advice-here",
                "{sites} something else: ",
                [counted(advised.len() as u64, "function fits", "functions fit")],
            )
            .list(
                "{function} ({allocator}, {blocks})",
                advised.iter().take(NAMED).map(|advice| {
                    let blocks = counted(advice.site.born.count, "block", "blocks");
                    [function(&advice.site.function), words(advice.allocator.words()), blocks]
                }),
            )
            .and_if(
                advised.len() > NAMED,
                " and {more} more",
                [count(advised.len() as u64 - advised.len().min(NAMED) as u64)],
            )
            .and(".", []),
        );
    }
    said
}

fn arenas(facts: &Facts<'_>, phase: &PhaseScope) -> Sentence {
    let homes = facts.homes(&phase.homes);
    if homes.is_empty() {
        let outliving = phase.born.count.saturating_sub(phase.class(Class::Scratch).count);
        let sentence = Sentence::new(
            "no-arena-here",
            "{arenas} suggested here: {outliving_share} of its blocks outlive it",
            [counted(0, "arena is", "arenas are"), share(outliving, phase.born.count)],
        );
        let kept = phase.kept_bytes();
        return sentence
            .and_if(
                kept > phase.own_peak_bytes,
                ", and kept to its end the others would hold {kept_bytes} where at most {alive_bytes} is alive at a time",
                [bytes(kept), bytes(phase.own_peak_bytes)],
            )
            .and(".", []);
    }
    Sentence::new("arenas-here", "Allocate ", [])
        .list(
            "{blocks} in arena {arena} (each {each} of {scope})",
            homes.iter().take(NAMED).map(|(one, amount)| {
                let blocks = counted(amount.count, "block", "blocks");
                [blocks, count(one.rank), words(each(one)), function(&one.scope)]
            }),
        )
        .and(
            "; arenas take {placed_share} of its blocks and {placed_bytes_share} of its bytes.",
            [share(phase.placed().count, phase.born.count), share(phase.placed().bytes, phase.born.bytes)],
        )
}
