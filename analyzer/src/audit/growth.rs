//! Tables that grow. Responsible for allocate-copy-free appends and for reallocs, with what reserving would save.

use super::sentence::{Sentence, Value, bytes, count, counted, function, share, words};
use super::{Facts, LISTED, Section, Table};
use crate::patterns::{Append, GrowthKind, ReallocGrowth};

pub(super) fn growth(facts: &Facts<'_>) -> Section {
    let appends = &facts.given.patterns.appends;
    let reallocs = &facts.given.patterns.reallocs;
    let mut findings = Vec::new();
    let mut tables = Vec::new();
    if appends.count == 0 {
        findings.push(Sentence::new(
            "no-appends",
            "No table was seen growing by allocate-copy-free: {steps} in {blocks}.",
            [counted(0, "step", "steps"), counted(facts.blocks(), "block", "blocks")],
        ));
    } else {
        let doubling: u64 = appends.rows.iter().map(|row| row.doubling_copied_bytes).sum();
        findings.push(Sentence::new(
            "appends",
            "{sites} allocate a table anew for each element, copy and free: {steps} copied {copied_bytes} ({share} of all bytes \
             requested); a capacity that doubles would have copied {doubling_bytes}.",
            [
                counted(appends.site_count, "function", "functions"),
                counted(appends.count, "step", "steps"),
                bytes(appends.bytes),
                share(appends.bytes, facts.bytes()),
                bytes(doubling),
            ],
        ));
        tables.push(append_table(&appends.rows));
    }
    if reallocs.count == 0 {
        findings.push(Sentence::new(
            "no-reallocs",
            "No block is made greater by realloc: {grows} in {blocks}.",
            [counted(0, "realloc that grows", "reallocs that grow"), counted(facts.blocks(), "block", "blocks")],
        ));
    } else {
        findings.push(reallocs_said(facts));
        tables.push(realloc_table(&reallocs.rows));
    }
    Section { findings, tables }
}

fn reallocs_said(facts: &Facts<'_>) -> Sentence {
    let reallocs = &facts.given.patterns.reallocs;
    let moved: u64 = reallocs.rows.iter().map(|row| row.moved_count).sum();
    let moved_bytes: u64 = reallocs.rows.iter().map(|row| row.moved_bytes).sum();
    let saves: u64 = reallocs.rows.iter().map(|row| row.reserve_saves_count).sum();
    let wastes: u64 = reallocs.rows.iter().map(|row| row.reserve_wastes_bytes).sum();
    let linear = reallocs.rows.iter().filter(|row| row.kind == GrowthKind::Linear).count() as u64;
    Sentence::new(
        "reallocs",
        "{grows} make blocks greater; {moved} had to move and copied {moved_bytes}. {linear} by the same step again and again. \
         Reserving at the first allocation what nine in ten reach would save {reserve_saves} ({saves_share}) and waste \
         {wasted_bytes} in those that end smaller.",
        [
            counted(reallocs.count, "realloc", "reallocs"),
            count(moved),
            bytes(moved_bytes),
            counted(linear, "function grows", "functions grow"),
            count(saves),
            share(saves, reallocs.count),
            bytes(wastes),
        ],
    )
}

fn append_table(rows: &[Append]) -> Table {
    Table::new(
        ("appends", "Grown by allocate-copy-free"),
        &[
            ("function", "function"),
            ("tables", "tables"),
            ("steps", "steps"),
            ("step_bytes", "step"),
            ("median_bytes", "median end"),
            ("copied_bytes", "copied"),
            ("doubling_bytes", "if doubled"),
        ],
        LISTED,
        rows.iter().map(|row| {
            vec![
                function(&row.site.function),
                count(row.chain_count),
                count(row.append_count),
                bytes(row.step_bytes),
                bytes(row.median_final_bytes),
                bytes(row.copied_bytes),
                bytes(row.doubling_copied_bytes),
            ]
        }),
    )
}

fn realloc_table(rows: &[ReallocGrowth]) -> Table {
    let kind = |kind: GrowthKind| match kind {
        GrowthKind::Linear => "same step",
        GrowthKind::Geometric => "by a part",
        GrowthKind::Uneven => "uneven",
    };
    Table::new(
        ("reallocs", "Grown by realloc"),
        &[
            ("function", "function"),
            ("kind", "growth"),
            ("blocks", "blocks"),
            ("grows", "reallocs"),
            ("moved_bytes", "moved"),
            ("reserve_bytes", "reserve"),
            ("saves", "saves"),
            ("wastes_bytes", "wastes"),
        ],
        LISTED,
        rows.iter().map(|row| {
            let reserve = if row.reserve_saves_count == 0 { Value::None } else { bytes(row.reserve_bytes) };
            vec![
                function(&row.site.function),
                words(kind(row.kind)),
                count(row.chain_count),
                count(row.grow_count),
                bytes(row.moved_bytes),
                reserve,
                count(row.reserve_saves_count),
                bytes(row.reserve_wastes_bytes),
            ]
        }),
    )
}
