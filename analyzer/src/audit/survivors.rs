//! What stays. Responsible for leaks and other survivors, and for the lists of functions whose blocks are scratch and of those whose
//! blocks are durable.

use std::collections::BTreeMap;

use super::scopes::FunctionFacts;
use super::sentence::{Sentence, bytes, count, counted, function, name, share, words};
use super::{Facts, LISTED, Section, Table};
use crate::leaks::Finding;
use crate::lifetimes::Class;
use crate::replay::Amount;
use crate::sites::ratio;

/// Part of a function's blocks that must be of a class.
const PURE: f64 = 0.9;

pub(super) fn leaks(facts: &Facts<'_>) -> Section {
    let leaks = facts.given.leaks;
    let is_leak = |finding: &&Finding| finding.leak && finding.suppressed_by.is_none();
    let found: Vec<&Finding> = leaks.findings.iter().filter(is_leak).collect();
    let mut section = Section::default();
    if found.is_empty() {
        section.findings.push(Sentence::new(
            "no-leaks",
            "{leaks} found among {survivors} of {bytes} that are alive at the end ({share} of the peak).",
            [
                counted(0, "leak was", "leaks were"),
                counted(leaks.total.count, "block", "blocks"),
                bytes(leaks.total.bytes),
                share(leaks.total.bytes, facts.peak_bytes()),
            ],
        ));
    } else {
        section.findings.push(Sentence::new(
            "leaks",
            "{count} of {bytes} leak, in {findings}: of their like others are freed, or each repetition leaves the same.",
            [
                counted(leaks.leaked.count, "block", "blocks"),
                bytes(leaks.leaked.bytes),
                counted(found.len() as u64, "finding", "findings"),
            ],
        ));
        section.tables.push(Table::new(
            ("leaks", "Leaks"),
            &[
                ("function", "function"),
                ("class", "kind"),
                ("blocks", "blocks"),
                ("bytes", "bytes"),
                ("allocated", "of allocated"),
                ("why", "why"),
            ],
            LISTED,
            found.iter().map(|finding| {
                vec![
                    function(&finding.function),
                    words(finding.class.words()),
                    count(finding.count),
                    bytes(finding.bytes),
                    count(finding.allocated_count),
                    words(&finding.why),
                ]
            }),
        ));
    }
    section.findings.extend(kept(&leaks.findings));
    section.findings.extend((leaks.failed_count > 0).then(|| {
        Sentence::new(
            "failed",
            "{count} returned no memory; they are no blocks.",
            [counted(leaks.failed_count, "request", "requests")],
        )
    }));
    section
}

/// Survivors of one class that are no leaks.
pub(super) struct Kept<'f> {
    pub(super) what: &'static str,
    pub(super) amount: Amount,
    heaviest: &'f Finding,
}

/// Survivors that are no leaks by class, the most bytes first.
pub(super) fn kept_classes(findings: &[Finding]) -> Vec<Kept<'_>> {
    let mut classes: BTreeMap<&'static str, Kept<'_>> = BTreeMap::new();
    for finding in findings.iter().filter(|finding| !finding.leak || finding.suppressed_by.is_some()) {
        let what = if finding.expected.is_some() { "expected of this program" } else { finding.class.words() };
        let kept = classes.entry(what).or_insert(Kept { what, amount: Amount::default(), heaviest: finding });
        kept.amount += Amount { bytes: finding.bytes, count: finding.count };
        if finding.bytes > kept.heaviest.bytes {
            kept.heaviest = finding;
        }
    }
    let mut classes: Vec<Kept<'_>> = classes.into_values().collect();
    classes.sort_by_key(|kept| std::cmp::Reverse(kept.amount.bytes));
    classes
}

fn kept(findings: &[Finding]) -> Option<Sentence> {
    let classes = kept_classes(findings);
    let heaviest = Some(classes.first()?.heaviest).filter(|finding| !finding.function.is_empty());
    let expected = findings.iter().find_map(|finding| finding.expected.as_deref());
    let items = classes
        .iter()
        .map(|kept| [words(kept.what), counted(kept.amount.count, "block", "blocks"), bytes(kept.amount.bytes)]);
    Some(
        Sentence::new("kept", "What stays and is no leak: ", [])
            .list("{class} {count} of {bytes}", items)
            .and_if(expected.is_some(), " ({expected})", expected.map(|expected| words(expected.trim_end_matches('.'))))
            .and(".", [])
            .and_if(
                heaviest.is_some(),
                " The heaviest of the first: {function}, {heaviest_bytes}.",
                heaviest.map(|finding| [function(&finding.function), bytes(finding.bytes)]).into_iter().flatten(),
            ),
    )
}

pub(super) fn facts(facts: &Facts<'_>) -> Section {
    let functions = &facts.scopes.functions;
    let pure = |class: Class| -> Vec<&FunctionFacts> {
        let mut pure: Vec<&FunctionFacts> = functions
            .iter()
            .filter(|function| {
                let of = function.classes[class.index()].count;
                of > 0 && ratio(of, function.born.count) >= PURE
            })
            .collect();
        pure.sort_by_key(|function| std::cmp::Reverse(function.classes[class.index()].bytes));
        pure
    };
    let mut section = Section::default();
    let lists = [
        (
            Class::Scratch,
            "scratch",
            ("scratch", "Scratch data observed"),
            "die in the phase instance that they are born in",
        ),
        (Class::Durable, "durable", ("durable", "Durable facts observed"), "are never freed"),
    ];
    for (class, kind, caption, what) in lists {
        let pure = pure(class);
        let total = pure.iter().fold(Amount::default(), |mut sum, function| {
            sum += function.classes[class.index()];
            sum
        });
        section.findings.push(
            Sentence::new(
                kind,
                "{functions} of {all} make blocks of which nine in ten and more {what}: {count} of {bytes}, {share} of all blocks.",
                [
                    count(pure.len() as u64),
                    counted(functions.len() as u64, "function", "functions"),
                    words(what),
                    counted(total.count, "block", "blocks"),
                    bytes(total.bytes),
                    share(total.count, facts.blocks()),
                ],
            ),
        );
        section.tables.push(Table::new(
            caption,
            &[
                ("function", "function"),
                ("phase", "mostly in"),
                ("blocks", "blocks"),
                ("bytes", "bytes"),
                ("share", "of its blocks"),
            ],
            LISTED,
            pure.iter().map(|one| {
                let of = one.classes[class.index()];
                vec![
                    function(&one.function),
                    name(super::title(&one.phase)),
                    count(of.count),
                    bytes(of.bytes),
                    share(of.count, one.born.count),
                ]
            }),
        ));
    }
    section
}
