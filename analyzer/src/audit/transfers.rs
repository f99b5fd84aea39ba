//! Who makes what somebody else frees. Responsible for transfers between phases and between threads.

use super::sentence::{Sentence, bytes, count, counted, function, name, share};
use super::{Facts, LISTED, Section, Table, title};
use crate::patterns::SiteTransfer;

/// Rows of the tables of functions.
const SITES: usize = 5;

pub(super) fn transfers(facts: &Facts<'_>) -> Section {
    let found = &facts.given.patterns.transfers;
    let freed = found.freed.count;
    let mut section = Section::default();
    if found.to_phases.count == 0 {
        section.findings.push(Sentence::new(
            "no-phase-transfers",
            "No block is freed by a later phase ({count} of {freed}).",
            [count(0), counted(freed, "freed block", "freed blocks")],
        ));
    } else {
        section.findings.push(Sentence::new(
            "phase-transfers",
            "{count} of {bytes} ({share} of the freed) outlive the phase instance that they are born in and are freed by their \
             thread later, made by {sites}: a phase's arena must not take them, or they are promoted at its end.",
            [
                counted(found.to_phases.count, "block", "blocks"),
                bytes(found.to_phases.bytes),
                share(found.to_phases.count, freed),
                counted(found.phase_sites.site_count, "function", "functions"),
            ],
        ));
        section.tables.push(Table::new(
            ("phase_transfers", "From phase to phase"),
            &[("birth", "born in"), ("death", "freed in"), ("blocks", "blocks"), ("bytes", "bytes")],
            LISTED,
            found
                .phases
                .iter()
                .map(|row| vec![name(title(&row.birth)), name(title(&row.death)), count(row.count), bytes(row.bytes)]),
        ));
        section
            .tables
            .push(sites(("phase_transfer_sites", "Who makes what a later phase frees"), &found.phase_sites.rows));
    }
    if found.to_threads.count == 0 {
        section.findings.push(Sentence::new(
            "no-thread-transfers",
            "No block is freed by another thread than its own ({count} of {freed}), so that arenas may be per thread, without locks.",
            [count(0), counted(freed, "freed block", "freed blocks")],
        ));
    } else {
        section.findings.push(Sentence::new(
            "thread-transfers",
            "{count} of {bytes} ({share} of the freed) are freed by another thread than their own, made by {sites}: they stay with a \
             shared allocator, or their ownership moves with the message.",
            [
                counted(found.to_threads.count, "block", "blocks"),
                bytes(found.to_threads.bytes),
                share(found.to_threads.count, freed),
                counted(found.thread_sites.site_count, "function", "functions"),
            ],
        ));
        section.tables.push(Table::new(
            ("thread_transfers", "From thread to thread"),
            &[("birth", "born on"), ("death", "freed on"), ("blocks", "blocks"), ("bytes", "bytes")],
            LISTED,
            found.threads.iter().map(|row| {
                vec![
                    name(&thread_name(&row.birth_thread, row.birth_tid)),
                    name(&thread_name(&row.death_thread, row.death_tid)),
                    count(row.count),
                    bytes(row.bytes),
                ]
            }),
        ));
        section
            .tables
            .push(sites(("thread_transfer_sites", "Who makes what another thread frees"), &found.thread_sites.rows));
    }
    section
}

fn thread_name(thread: &str, tid: u32) -> String {
    if thread.is_empty() { format!("thread {tid}") } else { format!("{thread} ({tid})") }
}

fn sites(caption: (&'static str, &'static str), rows: &[SiteTransfer]) -> Table {
    Table::new(
        caption,
        &[("function", "function"), ("blocks", "blocks"), ("bytes", "bytes"), ("share", "of its freed")],
        SITES,
        rows.iter().map(|row| {
            vec![function(&row.site.function), count(row.count), bytes(row.bytes), super::Value::Share(row.share)]
        }),
    )
}
