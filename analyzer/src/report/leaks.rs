//! Findings of leaks as text.

use std::io::{self, Write};

use super::screen::{Screen, Style};
use super::sites::callers;
use crate::leaks::{Finding, Leaks};
use crate::names::base_name;
use crate::units::{bytes, count, plural};

/// Prints findings: leaks in full, at most `limit` of them, the rest a line each; stacks with at most `caller_limit` callers.
///
/// # Errors
/// I/O.
pub fn leaks(
    out: &mut impl Write,
    screen: &Screen,
    leaks: &Leaks,
    limit: usize,
    caller_limit: usize,
) -> io::Result<()> {
    screen.doubts(out, &leaks.doubts)?;
    let is_open = |finding: &&Finding| finding.leak && finding.suppressed_by.is_none() && finding.expected.is_none();
    let (open, rest): (Vec<&Finding>, Vec<&Finding>) = leaks.findings.iter().partition(is_open);
    let survivors = format!(
        "{} of {} survived, in {}",
        plural(leaks.total.count, "block", "blocks"),
        bytes(leaks.total.bytes),
        leaks.scope
    );
    if open.is_empty() {
        screen.heading(out, "No leak found", &survivors)?;
    } else {
        let title = format!("{} of {}", plural(open.len() as u64, "leak", "leaks"), bytes(leaks.leaked.bytes));
        screen.heading(out, &title, &survivors)?;
    }
    for finding in open.iter().take(limit) {
        writeln!(out)?;
        let place = finding
            .stack
            .first()
            .filter(|frame| !frame.file.is_empty())
            .map_or_else(String::new, |frame| format!(" ({}:{})", base_name(&frame.file), frame.line));
        let head = format!(
            "{}. {}: {} in {}, from {}{place}",
            finding.rank,
            finding.class.words(),
            bytes(finding.bytes),
            plural(finding.count, "block", "blocks"),
            finding.function
        );
        screen.paragraph(out, "", Style::Strong, &head)?;
        if let Some(grown_in) = &finding.grown_in {
            screen.paragraph(out, "   ", Style::Plain, &format!("grown to that in {grown_in}"))?;
        }
        screen.paragraph(out, "   ", Style::Plain, &format!("{}.", sentence(&finding.why)))?;
        let path = callers(&finding.stack, caller_limit);
        if !path.is_empty() {
            screen.paragraph(out, "   ", Style::Faint, &format!("{} {path}", finding.function))?;
        }
        let death = finding
            .death_stack
            .first()
            .map(|frame| format!("siblings die in {} {}", frame.function, callers(&finding.death_stack, caller_limit)));
        if let Some(death) = death {
            screen.paragraph(out, "   ", Style::Faint, &death)?;
        }
        let confidence = format!("{:?} confidence. To settle it: {}.", finding.confidence, finding.settle);
        screen.paragraph(out, "   ", Style::Faint, &confidence)?;
    }
    if open.len() > limit {
        writeln!(out)?;
        screen.paragraph(
            out,
            "  ",
            Style::Faint,
            &format!("… and {} more: --limit N shows them.", count((open.len() - limit) as u64)),
        )?;
    }
    others(out, screen, &rest)
}

/// What survived and is no leak, by what it is.
fn others(out: &mut impl Write, screen: &Screen, rest: &[&Finding]) -> io::Result<()> {
    let mut said: Vec<(String, u64, u64, u64, &Finding)> = Vec::new();
    for finding in rest {
        let what = match (&finding.suppressed_by, &finding.expected) {
            (Some(pattern), _) => format!("suppressed by {pattern}"),
            (None, Some(expected)) => format!("expected: {expected}"),
            (None, None) => finding.class.words().to_owned(),
        };
        match said.iter_mut().find(|(known, ..)| *known == what) {
            Some((_, sites, blocks, total, heaviest)) => {
                *sites += finding.site_count;
                *blocks += finding.count;
                *total += finding.bytes;
                if finding.bytes > heaviest.bytes {
                    *heaviest = finding;
                }
            }
            None => said.push((what, finding.site_count, finding.count, finding.bytes, finding)),
        }
    }
    if said.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    screen.paragraph(out, "", Style::Strong, "Survivors that are no leaks")?;
    said.sort_by_key(|(.., total, _)| std::cmp::Reverse(*total));
    for (what, sites, blocks, total, heaviest) in said {
        let most = match heaviest.function.as_str() {
            "" => String::new(),
            function => format!("; the heaviest: {function}, {}", bytes(heaviest.bytes)),
        };
        let line = format!(
            "{what}: {} in {} of {}{most}",
            bytes(total),
            plural(blocks, "block", "blocks"),
            plural(sites, "site", "sites")
        );
        screen.paragraph(out, "  ", Style::Plain, &line)?;
    }
    Ok(())
}

/// With a capital letter.
fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
