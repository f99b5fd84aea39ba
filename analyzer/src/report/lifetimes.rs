//! Lifetimes as text.

use std::io::{self, Write};

use super::phases::sources;
use super::screen::{Screen, Style};
use super::sites::{callers, own_function};
use super::table::Table;
use crate::lifetimes::{Class, ClassFigures, Lifetimes};
use crate::units::{bytes, count, share};

/// Prints classes, the matrix of birth and death, and sites with at most `caller_limit` callers.
///
/// # Errors
/// I/O.
pub fn lifetimes(
    out: &mut impl Write,
    screen: &Screen,
    lives: &Lifetimes,
    limit: usize,
    caller_limit: usize,
) -> io::Result<()> {
    screen.doubts(out, &lives.doubts)?;
    let what = format!("{} blocks, {} in {}", count(lives.total.count), bytes(lives.total.bytes), lives.scope);
    screen.heading(out, "Lifetimes", &what)?;
    sources(out, screen, &lives.sources)?;
    let mut table = Table::new(&[">blocks", ">", ">bytes", ">", "class"]);
    for class in &lives.classes {
        table.styled_row([
            (count(class.count), Style::Plain),
            (share(class.count, lives.total.count), Style::Faint),
            (bytes(class.bytes), Style::Plain),
            (share(class.bytes, lives.total.bytes), Style::Faint),
            (meaning(class.class).to_owned(), Style::Plain),
        ]);
    }
    table.write(out, screen)?;
    let freed: u64 = lives.escape.optimistic.iter().sum();
    let near = |heights: &[u64]| heights.iter().take(3).sum::<u64>();
    if freed > 0 {
        let text = format!(
            "Of the blocks freed by their own thread, {} have their scope at most two frames out from where they are born ({} if \
             every loop is taken for a new call). On average {} are live.",
            share(near(&lives.escape.optimistic), freed).trim(),
            share(near(&lives.escape.pessimistic), freed).trim(),
            bytes(lives.mean_live_bytes as u64),
        );
        screen.paragraph(out, "  ", Style::Plain, &text)?;
    }
    screen.heading(out, "Born in, dead in", "the heaviest pairs of phases")?;
    let mut table = Table::new(&[">bytes", ">", ">blocks", "born in → dead in"]);
    for cell in lives.matrix.iter().take(limit) {
        let death = cell.death.as_deref().unwrap_or("never (the process ended)");
        let pair = if cell.death.as_deref() == Some(&cell.birth) {
            format!("{} → itself", cell.birth)
        } else {
            format!("{} → {death}", cell.birth)
        };
        table.styled_row([
            (bytes(cell.bytes), Style::Plain),
            (share(cell.bytes, lives.total.bytes), Style::Faint),
            (count(cell.count), Style::Plain),
            (pair, Style::Plain),
        ]);
    }
    table.write(out, screen)?;
    let shown = format!("{} of {}", count(lives.sites.len() as u64), count(lives.site_count));
    screen.heading(out, "Sites by bytes requested", &shown)?;
    let mut table =
        Table::new(&[">#", ">bytes", ">blocks", ">scratch", ">elsewhere", ">stays", ">median age", ">escape", "site"]);
    for site in &lives.sites {
        let part = |classes: &[Class]| {
            let of = |figures: &&ClassFigures| classes.contains(&figures.class);
            share(site.classes.iter().filter(of).map(|figures| figures.bytes).sum(), site.bytes)
        };
        table.styled_row([
            (site.rank.to_string(), Style::Faint),
            (bytes(site.bytes), Style::Strong),
            (count(site.count), Style::Plain),
            (part(&[Class::Scratch]), Style::Plain),
            (part(&[Class::HandedOver, Class::ProcessWide, Class::OtherThread]), Style::Plain),
            (part(&[Class::Durable]), Style::Plain),
            (site.median_age_bytes.map_or_else(|| "–".to_owned(), bytes), Style::Plain),
            (site.scope_function.as_ref().map_or_else(|| "–".to_owned(), |_| count(site.escape)), Style::Plain),
            (own_function(&site.stack, &[]), Style::Plain),
        ]);
        let scope = match &site.scope_function {
            Some(function) => {
                format!("scope: {function} ({})  ", share((site.scope_share * 1e6) as u64, 1_000_000).trim())
            }
            None => String::new(),
        };
        let phases = if site.birth_phases.is_empty() {
            String::new()
        } else {
            let more = if site.birth_phases.len() > 2 { ", …" } else { "" };
            format!("in {}{more}  ", site.birth_phases.iter().take(2).cloned().collect::<Vec<_>>().join(", "))
        };
        table.note(format!("{phases}{scope}{}", callers(&site.stack, caller_limit)));
    }
    table.write(out, screen)?;
    screen.paragraph(
        out,
        "  ",
        Style::Faint,
        "age: bytes allocated between birth and death; escape: frames between the allocating function and the activation that \
         most of its blocks die in (its scope).",
    )
}

fn meaning(class: Class) -> &'static str {
    match class {
        Class::Scratch => "scratch: die inside the phase instance they were born in",
        Class::HandedOver => "handed over: outlive it and die in another phase",
        Class::ProcessWide => "process-wide: freed, but no phase holds birth and death",
        Class::OtherThread => "other thread: freed by another thread than the one they were born on",
        Class::Durable => "durable: never freed",
    }
}
