//! Arena suggestions as text.

use std::io::{self, Write};

use super::screen::{Screen, Style};
use super::table::Table;
use crate::arenas::{Arenas, AtEnd, Suggestion, Trial, VerdictKind};
use crate::sites::ratio;
use crate::units::{bytes, count, plural};

/// Names in a sentence.
const NAMED: usize = 5;

/// Prints suggestions: at most `limit` of them in full.
///
/// # Errors
/// I/O.
pub fn arenas(out: &mut impl Write, screen: &Screen, arenas: &Arenas, limit: usize) -> io::Result<()> {
    screen.doubts(out, &arenas.doubts)?;
    let title = match arenas.suggestions.len() {
        0 => "No arena".to_owned(),
        many => plural(many as u64, "arena", "arenas"),
    };
    screen.heading(out, &title, &format!("chunks as in {}", arenas.policy.name()))?;
    let style = match arenas.verdict.kind {
        VerdictKind::Holds => Style::Good,
        VerdictKind::Breaks | VerdictKind::RaisesPeak => Style::Warning,
        VerdictKind::ThinEvidence | VerdictKind::Nothing => Style::Plain,
    };
    screen.paragraph(out, "", style, &arenas.verdict.sentence)?;
    if arenas.suggestions.is_empty() {
        return Ok(());
    }
    screen.heading(out, "What the plan comes to", "on the traces it was made from")?;
    trials(out, screen, &arenas.trained_on)?;
    if !arenas.held_out.is_empty() {
        screen.heading(out, "Proof", "on traces that the plan was not made from")?;
        trials(out, screen, &arenas.held_out)?;
    }
    screen.heading(out, "Suggestions", "")?;
    for suggestion in arenas.suggestions.iter().take(limit) {
        writeln!(out)?;
        one(out, screen, suggestion)?;
    }
    if arenas.suggestions.len() > limit {
        writeln!(out)?;
        let more = count((arenas.suggestions.len() - limit) as u64);
        screen.paragraph(out, "  ", Style::Faint, &format!("… and {more} more: --show N shows them."))?;
    }
    Ok(())
}

fn trials(out: &mut impl Write, screen: &Screen, trials: &[Trial]) -> io::Result<()> {
    let mut table = Table::new(&[
        ">objects",
        ">placed",
        ">outlive",
        ">other thread",
        ">frees saved",
        ">peak now",
        ">peak then",
        ">drag",
        "trace",
    ]);
    for trial in trials {
        let broken = |value: u64| (count(value), if value == 0 { Style::Plain } else { Style::Warning });
        table.styled_row([
            (count(trial.objects), Style::Plain),
            (percent(trial.placed_share), Style::Strong),
            broken(trial.outlived),
            broken(trial.handed_over),
            (percent_of(trial.frees_saved, trial.frees), Style::Plain),
            (bytes(trial.plain_peak_bytes), Style::Plain),
            (signed_percent(trial.peak_change), Style::Plain),
            (format!("{:.3}", trial.drag), Style::Plain),
            (trial.trace.clone(), Style::Plain),
        ]);
    }
    table.write(out, screen)
}

fn one(out: &mut impl Write, screen: &Screen, suggestion: &Suggestion) -> io::Result<()> {
    let head = format!(
        "{}. {}: {}, {} of all objects, −{} frees, peak {}",
        suggestion.rank,
        suggestion.name,
        plural(suggestion.site_count, "site", "sites"),
        percent(suggestion.object_share),
        count(suggestion.frees_saved),
        signed_percent(suggestion.peak_change),
    );
    screen.paragraph(out, "", Style::Strong, &head)?;
    let end = match suggestion.at_end {
        AtEnd::Destroy => "destroyed at each end",
        AtEnd::Reset => "reset at each end, its first chunk kept for the next",
    };
    let phases = match suggestion.phases.first() {
        None => String::new(),
        Some(phase) if phase.objects == suggestion.objects => format!(", in phase {}", phase.phase),
        Some(phase) => {
            format!(", {} of them in phase {}", percent(ratio(phase.objects, suggestion.objects)), phase.phase)
        }
    };
    let size = format!(
        "Opened {} for {} of {}{phases}; {end}; {} in {} held at most; memory in use × {:.3}.",
        plural(suggestion.instances, "time", "times"),
        plural(suggestion.objects, "object", "objects"),
        bytes(suggestion.bytes),
        bytes(suggestion.held_peak_bytes),
        plural(suggestion.chunks, "chunk", "chunks"),
        suggestion.drag,
    );
    screen.paragraph(out, "   ", Style::Plain, &size)?;
    let sites = suggestion.sites.iter().map(|site| format!("{} ({})", site.function, count(site.objects)));
    let line = listed("Allocate there:", sites, suggestion.site_count);
    screen.paragraph(out, "   ", Style::Plain, &line)?;
    if suggestion.pass_on_count > 0 {
        let functions = suggestion.pass_on.iter().map(|passed| passed.function.clone());
        let line = listed("Give an allocator parameter to:", functions, suggestion.pass_on_count);
        screen.paragraph(out, "   ", Style::Plain, &line)?;
    }
    if !suggestion.builders.is_empty() {
        let total: u64 = suggestion.builders.iter().map(|builder| builder.reallocs).sum();
        let builders = suggestion
            .builders
            .iter()
            .map(|builder| format!("{} ({} reallocs)", builder.function, count(builder.reallocs)));
        let what = format!(
            "Seal before, or reserve: {} reallocs leave {} behind in the arena:",
            count(total),
            bytes(suggestion.left_bytes)
        );
        let line = listed(&what, builders, suggestion.builders.len() as u64);
        screen.paragraph(out, "   ", Style::Plain, &line)?;
    }
    if suggestion.escapee_count > 0 {
        let escapees = suggestion.escapees.iter().map(|escapee| {
            format!("{} ({} of {} live longer)", escapee.function, count(escapee.escaping), count(escapee.objects))
        });
        let line = listed("Must stay with malloc, or be promoted:", escapees, suggestion.escapee_count);
        screen.paragraph(out, "   ", Style::Plain, &line)?;
    }
    for test in &suggestion.tests {
        let line = if !test.found {
            format!("On {}: a plan made without it has no such arena.", test.trace)
        } else if test.outlived + test.handed_over == 0 {
            format!("On {}: held for all {} objects.", test.trace, count(test.objects))
        } else {
            format!(
                "On {}: of {} objects {} outlived it, {} were freed by another thread.",
                test.trace,
                count(test.objects),
                count(test.outlived),
                count(test.handed_over)
            )
        };
        let style = if test.outlived + test.handed_over > 0 { Style::Warning } else { Style::Faint };
        screen.paragraph(out, "   ", style, &line)?;
    }
    Ok(())
}

fn listed(what: &str, items: impl Iterator<Item = String>, all: u64) -> String {
    let items: Vec<String> = items.take(NAMED).collect();
    let more = all.saturating_sub(items.len() as u64);
    let tail = if more == 0 { String::new() } else { format!(", and {} more", count(more)) };
    format!("{what} {}{tail}.", items.join(", "))
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn percent_of(part: u64, whole: u64) -> String {
    percent(if whole == 0 { 0.0 } else { part as f64 / whole as f64 })
}

fn signed_percent(change: f64) -> String {
    format!("{:+.2} %", 100.0 * change).replace('-', "−")
}
