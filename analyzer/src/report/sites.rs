//! Sites as text.

use std::io::{self, Write};

use super::screen::{Screen, Style};
use super::table::Table;
use crate::grouping::Grouping;
use crate::metric::Metric;
use crate::names::base_name;
use crate::sites::{Site, Sites, StackFrame};
use crate::units::{bytes, count, plural, share};

/// Prints sites, each with at most `caller_limit` callers.
///
/// # Errors
/// I/O.
pub fn sites(out: &mut impl Write, screen: &Screen, sites: &Sites, caller_limit: usize) -> io::Result<()> {
    screen.doubts(out, &sites.doubts)?;
    let shown = format!("{} of {}, in {}", count(sites.sites.len() as u64), count(sites.site_count), sites.scope);
    let rows = match sites.grouping {
        Grouping::Stack | Grouping::Depth(_) => "Sites",
        Grouping::Function => "Functions",
        Grouping::File => "Files",
        Grouping::Namespace => "Namespaces",
    };
    screen.heading(out, &format!("{rows} by {}", sites.metric.words()), &shown)?;
    let row = match sites.grouping {
        Grouping::Stack | Grouping::Depth(_) => "site",
        Grouping::Function => "function",
        Grouping::File => "file",
        Grouping::Namespace => "namespace, crate or class",
    };
    let mut table = Table::new(&[">#", ">requested", ">", ">allocs", ">at peak", ">", ">live at end", row]);
    let all = &sites.totals;
    if all.weight(sites.metric).0 == 0 && !sites.sites.is_empty() {
        let what = format!("  Nothing to rank: no {}.", sites.metric.words());
        return screen.paragraph(out, "", Style::Plain, &what);
    }
    let strong = |metric| if sites.metric == metric { Style::Strong } else { Style::Plain };
    for site in &sites.sites {
        let it = &site.figures;
        let calls = it.alloc_count + it.realloc_count;
        table.styled_row([
            (site.rank.to_string(), Style::Faint),
            (bytes(it.alloc_bytes), strong(Metric::Bytes)),
            (share(it.alloc_bytes, all.alloc_bytes), Style::Faint),
            (count(calls), strong(Metric::Count)),
            (bytes(it.peak_bytes), strong(Metric::Peak)),
            (share(it.peak_bytes, all.peak_bytes), Style::Faint),
            (bytes(it.live_at_end_bytes), strong(Metric::LiveAtEnd)),
            (title(site), Style::Plain),
        ]);
        table.note(callers(&site.stack, caller_limit));
    }
    table.write(out, screen)?;
    if all.failed_count > 0 {
        let failed = format!("{} requests returned NULL; they are in no figure here.", count(all.failed_count));
        screen.paragraph(out, "  ", Style::Faint, &failed)?;
    }
    Ok(())
}

/// What a row is, and how many stacks it stands for if it says so by nothing else.
fn title(site: &Site) -> String {
    match &site.name {
        None => own_function(&site.stack, &site.entries),
        Some(name) => format!("{name} ({})", plural(site.stack_count, "stack", "stacks")),
    }
}

/// The site itself with its place.
pub(super) fn own_function(stack: &[StackFrame], entries: &[String]) -> String {
    match stack.first() {
        Some(frame) => with_place(frame),
        None if entries.is_empty() => "[no stack]".to_owned(),
        None => format!("{} [no stack]", entries.join(", ")),
    }
}

fn with_place(frame: &StackFrame) -> String {
    match (frame.file.as_str(), frame.line) {
        ("", _) => frame.function.clone(),
        (file, 0) => format!("{} ({})", frame.function, base_name(file)),
        (file, line) => format!("{} ({}:{line})", frame.function, base_name(file)),
    }
}

/// `← caller ← its caller …`.
pub(super) fn callers(stack: &[StackFrame], limit: usize) -> String {
    let mut text = String::new();
    for frame in stack.iter().skip(1).take(limit) {
        text.push_str("← ");
        text.push_str(&frame.function);
        text.push(' ');
    }
    if stack.len() > limit + 1 && limit > 0 {
        text.push_str("← …");
    }
    text.trim_end().to_owned()
}
