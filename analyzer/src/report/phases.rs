//! Phases as text.

use std::io::{self, Write};

use super::screen::{Screen, Style};
use super::table::Table;
use crate::lifetimes::{Class, ClassFigures, Phase, Phases, ProcessPhases};
use crate::phases::{OUTSIDE, PhaseSource};
use crate::units::{bytes, count, duration, plural, share};

/// Phases of one path, of all threads.
struct Line<'p> {
    phase: &'p Phase,
    depth: u32,
    threads: u64,
    instances: u64,
    time_ns: u64,
    alloc_count: u64,
    inclusive_bytes: u64,
    left_behind_bytes: u64,
    peak_bytes: u64,
    classes: Vec<ClassFigures>,
}

/// Phases with a smaller part of the time and of the bytes are left out of the table, in thousandths.
const SMALL: u64 = 5;

/// Columns that all of the table fits into.
const WIDE: usize = 140;
/// Columns, and whether a narrow screen shows them too.
const TITLES: [(&str, bool); 12] = [
    (">instances", true),
    (">time", true),
    (">", false),
    (">allocs", false),
    (">requested", true),
    (">", true),
    (">scratch", true),
    (">elsewhere", false),
    (">stays", true),
    (">left behind", true),
    (">peak", false),
    ("phase", true),
];

/// Prints phases as a tree; those of the same path on several threads are one line. Without `all`, small ones are left out.
///
/// # Errors
/// I/O.
pub fn phases(out: &mut impl Write, screen: &Screen, phases: &Phases, all: bool) -> io::Result<()> {
    screen.doubts(out, &phases.doubts)?;
    screen.heading(out, "Phases", &format!("in {}, {}", phases.scope, duration(phases.span_ns)))?;
    sources(out, screen, &phases.sources)?;
    // A narrow screen has room for what tells most; a phase without a name tells nothing.
    let wide = screen.columns >= WIDE;
    let titles: Vec<&str> = TITLES.iter().filter(|(_, needed)| wide || *needed).map(|(title, _)| *title).collect();
    let mut table = Table::new(&titles);
    let small = |line: &Line<'_>| {
        line.phase.source != PhaseSource::None
            && line.time_ns * 1000 < phases.span_ns * SMALL
            && line.inclusive_bytes * 1000 < phases.total.bytes * SMALL
    };
    let (hidden, shown): (Vec<_>, Vec<_>) = lines(phases).into_iter().partition(|line| !all && small(line));
    for line in shown {
        let class = |class: Class| line.classes[class.index()].bytes;
        let born: u64 = line.classes.iter().map(|class| class.bytes).sum();
        let outside = line.phase.source == PhaseSource::None;
        let name = format!("{}{}", "  ".repeat(line.depth as usize), line.phase.name);
        let threads = if line.threads > 1 { format!(" (×{} threads)", line.threads) } else { String::new() };
        let style = if outside { Style::Faint } else { Style::Plain };
        let only_inside = |text: String| if outside { String::new() } else { text };
        let cells = [
            (only_inside(count(line.instances)), style),
            (only_inside(duration(line.time_ns)), style),
            (only_inside(share(line.time_ns, phases.span_ns)), Style::Faint),
            (count(line.alloc_count), style),
            (bytes(line.inclusive_bytes), style),
            (share(line.inclusive_bytes, phases.total.bytes), Style::Faint),
            (share(class(Class::Scratch), born), style),
            (share(class(Class::HandedOver) + class(Class::ProcessWide) + class(Class::OtherThread), born), style),
            (share(class(Class::Durable), born), style),
            (only_inside(bytes(line.left_behind_bytes)), style),
            (only_inside(bytes(line.peak_bytes)), style),
            (format!("{name}{threads}"), if outside { Style::Faint } else { Style::Strong }),
        ];
        table
            .styled_row(cells.into_iter().zip(TITLES).filter(|(_, (_, needed))| wide || *needed).map(|(cell, _)| cell));
    }
    table.write(out, screen)?;
    if !hidden.is_empty() {
        let what = plural(hidden.len() as u64, "phase", "phases");
        let text = format!("{what} with less than 0.5 % of the time and of the bytes: --all shows them.");
        screen.paragraph(out, "  ", Style::Faint, &text)?;
    }
    screen.paragraph(
        out,
        "  ",
        Style::Faint,
        "time: of all its instances; requested: with the phases inside; scratch, elsewhere, stays: of the bytes born in the phase itself, those that die in \
         it, in another phase or by another thread, and with the process; left behind: born in its instances and alive at \
         their end; peak: most that the process had alive meanwhile.",
    )?;
    if phases.unmatched_end_count + phases.unended_count > 0 {
        let what = format!(
            "Begins do not equal ends: {} had no begin, {} no end. Phases that markers begin may be too long.",
            plural(phases.unmatched_end_count, "end", "ends"),
            plural(phases.unended_count, "begin", "begins"),
        );
        screen.paragraph(out, "! ", Style::Strong, &what)?;
    }
    Ok(())
}

/// Says where the phases come from.
pub(super) fn sources(out: &mut impl Write, screen: &Screen, sources: &[ProcessPhases]) -> io::Result<()> {
    let mut said: Vec<String> = Vec::new();
    for source in sources {
        let process = &source.process;
        let text = match (&source.profile, source.source) {
            (Some(profile), PhaseSource::Marker) => {
                format!(
                    "{process}: phases of profile {profile}, by markers recorded live where it has them, else by stacks"
                )
            }
            (Some(profile), _) => {
                format!("{process}: phases of profile {profile}, by the functions on recorded stacks")
            }
            (None, PhaseSource::Segment) => format!("{process}: no profile; phases are segments of the call tree"),
            (None, _) => format!("{process}: no profile names its phases"),
        };
        if !said.contains(&text) {
            screen.paragraph(out, "  ", Style::Faint, &text)?;
            said.push(text);
        }
    }
    Ok(())
}

fn lines(phases: &Phases) -> Vec<Line<'_>> {
    let mut lines: Vec<(Vec<&str>, Line<'_>)> = Vec::new();
    let by_id: std::collections::BTreeMap<u32, &Phase> = phases.phases.iter().map(|phase| (phase.id, phase)).collect();
    let path = |phase: &Phase| {
        let mut names = Vec::new();
        let mut at = Some(phase.id);
        while let Some(phase) = at.and_then(|id| by_id.get(&id)) {
            names.push(phase.name.as_str());
            at = phase.parent;
        }
        names.reverse();
        names
    };
    for phase in &phases.phases {
        let path = path(phase);
        match lines.iter_mut().find(|(known, _)| *known == path) {
            Some((_, line)) => {
                line.threads += 1;
                line.instances += phase.instances;
                line.time_ns += phase.time_ns;
                line.alloc_count += phase.inclusive_alloc_count;
                line.inclusive_bytes += phase.inclusive_alloc_bytes;
                line.left_behind_bytes += phase.left_behind_bytes;
                line.peak_bytes = line.peak_bytes.max(phase.peak_bytes);
                for (mine, theirs) in line.classes.iter_mut().zip(&phase.classes) {
                    mine.count += theirs.count;
                    mine.bytes += theirs.bytes;
                }
            }
            None => lines.push((
                path,
                Line {
                    phase,
                    depth: phase.depth,
                    threads: 1,
                    instances: phase.instances,
                    time_ns: phase.time_ns,
                    alloc_count: phase.inclusive_alloc_count,
                    inclusive_bytes: phase.inclusive_alloc_bytes,
                    left_behind_bytes: phase.left_behind_bytes,
                    peak_bytes: phase.peak_bytes,
                    classes: phase.classes.clone(),
                },
            )),
        }
    }
    // A path of a later thread may come after others: put it where its parent is.
    let mut ordered: Vec<(Vec<&str>, Line<'_>)> = Vec::with_capacity(lines.len());
    for (path, line) in lines {
        let parent = &path[..path.len() - 1];
        let after = ordered.iter().rposition(|(known, _)| path.len() > 1 && known.starts_with(parent));
        match after {
            Some(at) => ordered.insert(at + 1, (path, line)),
            None => ordered.push((path, line)),
        }
    }
    let (outside, inside): (Vec<_>, Vec<_>) = ordered.into_iter().partition(|(path, _)| path == &[OUTSIDE]);
    inside.into_iter().chain(outside).map(|(_, line)| line).collect()
}
