//! Patterns and advice as text.

use std::io::{self, Write};

use super::screen::{Screen, Style};
use super::sites::{callers, own_function};
use super::table::Table;
use crate::patterns::{
    Append, BornIn, Chunks, Fragmentation, GrowthKind, Instead, Listing, PageRequests, PatternSite, Patterns, Pool,
    ReallocGrowth, SiteTransfer, TeardownStorm, Temporary, Transfers,
};
use crate::units::{bytes, count, plural, share};

/// Prints every pattern, those that were not found in one line, then the advice; stacks with at most `caller_limit` callers.
///
/// # Errors
/// I/O.
pub fn patterns(out: &mut impl Write, screen: &Screen, patterns: &Patterns, caller_limit: usize) -> io::Result<()> {
    screen.doubts(out, &patterns.doubts)?;
    let what = format!(
        "{}, {}, made by {} in {}",
        plural(patterns.total.count, "block", "blocks"),
        bytes(patterns.total.bytes),
        plural(patterns.site_count, "function", "functions"),
        patterns.scope
    );
    screen.heading(out, "Patterns", &what)?;
    summary(out, screen, patterns)?;
    appends(out, screen, &patterns.appends, caller_limit)?;
    reallocs(out, screen, &patterns.reallocs, caller_limit)?;
    storms(out, screen, &patterns.storms)?;
    temporaries(out, screen, &patterns.temporaries, caller_limit)?;
    pools(out, screen, &patterns.pools, caller_limit)?;
    transfers(out, screen, &patterns.transfers, caller_limit)?;
    page_requests(out, screen, &patterns.page_requests, caller_limit)?;
    chunks(out, screen, &patterns.chunks)?;
    fragmentation(out, screen, &patterns.fragmentation, caller_limit)?;
    if let Some(moot) = &patterns.moot_frees {
        screen.heading(out, "Frees made moot by arenas", &plural(moot.count, "free", "frees"))?;
        screen.paragraph(out, "  ", Style::Plain, &moot.sentence)?;
    }
    advice(out, screen, patterns, caller_limit)
}

fn summary(out: &mut impl Write, screen: &Screen, patterns: &Patterns) -> io::Result<()> {
    let pages = &patterns.page_requests.requests;
    let pins = &patterns.fragmentation.pins;
    let (threads, phases) = (&patterns.transfers.thread_sites, &patterns.transfers.phase_sites);
    let rows = [
        ("allocate-copy-free appends", "copied", amounts(&patterns.appends)),
        ("growth by realloc", "old bytes of reallocs that grow", amounts(&patterns.reallocs)),
        ("teardown storms", "freed in them", amounts(&patterns.storms)),
        ("temporaries", "freed within two events", amounts(&patterns.temporaries)),
        ("pools", "of one size, few alive", amounts(&patterns.pools)),
        ("freed by other threads", "", amounts(threads)),
        ("freed after their phase", "", amounts(phases)),
        ("whole pages for little", "alloc and free in pairs", amounts(pages)),
        ("nearly empty pages", "at the peak", amounts(pins)),
    ];
    let mut table = Table::new(&[">functions", ">count", ">bytes", "pattern"]);
    for (pattern, what, (site_count, number, size)) in rows {
        let style = if site_count == 0 { Style::Faint } else { Style::Plain };
        let pattern = if what.is_empty() { pattern.to_owned() } else { format!("{pattern}: {what}") };
        table.styled_row([(count(site_count), style), (count(number), style), (bytes(size), style), (pattern, style)]);
    }
    table.write(out, screen)
}

fn amounts<T>(listing: &Listing<T>) -> (u64, u64, u64) {
    (listing.site_count, listing.count, listing.bytes)
}

/// The heading of a pattern; false if there is nothing below.
fn section<T>(out: &mut impl Write, screen: &Screen, title: &str, listing: &Listing<T>) -> io::Result<bool> {
    if listing.rows.is_empty() {
        return Ok(false);
    }
    let shown =
        format!("{} of {}", count(listing.rows.len() as u64), plural(listing.site_count, "function", "functions"));
    screen.heading(out, title, &shown)?;
    Ok(true)
}

/// What stands below a row: phases, remarks, callers.
fn note(site: &PatternSite, remark: &str, caller_limit: usize) -> String {
    let phases = match site.phases.first() {
        Some(phase) if phase != crate::phases::OUTSIDE => format!("in {phase}  "),
        _ => String::new(),
    };
    let remark = if remark.is_empty() { String::new() } else { format!("{remark}  ") };
    format!("{phases}{remark}{}", callers(&own_stack(site), caller_limit))
}

/// The stack from the site's own function outwards: what it calls in libraries is left out.
fn own_stack(site: &PatternSite) -> Vec<crate::sites::StackFrame> {
    let own = site.stack.iter().position(|frame| frame.function == site.function).unwrap_or(0);
    site.stack[own..].to_vec()
}

fn title(site: &PatternSite) -> String {
    if site.stack.is_empty() { site.function.clone() } else { own_function(&own_stack(site), &[]) }
}

fn appends(out: &mut impl Write, screen: &Screen, found: &Listing<Append>, caller_limit: usize) -> io::Result<()> {
    if !section(out, screen, "Tables that grow by allocate-copy-free", found)? {
        return Ok(());
    }
    let mut table = Table::new(&[">copied", ">doubling would", ">steps", ">tables", ">by", ">final size", "function"]);
    for row in &found.rows {
        table.styled_row([
            (bytes(row.copied_bytes), Style::Strong),
            (bytes(row.doubling_copied_bytes), Style::Plain),
            (count(row.append_count), Style::Plain),
            (count(row.chain_count), Style::Plain),
            (step(row), Style::Plain),
            (format!("{} … {}", bytes(row.median_final_bytes), bytes(row.max_final_bytes)), Style::Plain),
            (title(&row.site), Style::Plain),
        ]);
        table.note(note(&row.site, "", caller_limit));
    }
    table.write(out, screen)?;
    let text = "Each step allocates a little more, copies, and frees the old block. A capacity that doubles, or a builder that is \
                sealed once, copies as said. Final size: median … greatest.";
    screen.paragraph(out, "  ", Style::Faint, text)
}

fn step(row: &Append) -> String {
    let more = if row.step_size_count > 1 { "+" } else { "" };
    format!("{}{more}", bytes(row.step_bytes))
}

fn reallocs(
    out: &mut impl Write,
    screen: &Screen,
    found: &Listing<ReallocGrowth>,
    caller_limit: usize,
) -> io::Result<()> {
    if !section(out, screen, "Tables that grow by realloc", found)? {
        return Ok(());
    }
    let titles =
        [">old bytes", ">moved", ">reallocs", ">tables", ">reserve", ">saves", ">wastes", "growth", "function"];
    let mut table = Table::new(&titles);
    for row in &found.rows {
        let (kind, style) = match row.kind {
            GrowthKind::Linear => (format!("linear +{}", bytes(row.linear.step_bytes)), Style::Warning),
            GrowthKind::Geometric => ("geometric".to_owned(), Style::Plain),
            GrowthKind::Uneven => ("uneven".to_owned(), Style::Plain),
        };
        table.styled_row([
            (bytes(row.old_bytes), Style::Strong),
            (bytes(row.moved_bytes), Style::Plain),
            (count(row.grow_count), Style::Plain),
            (count(row.chain_count), Style::Plain),
            (bytes(row.reserve_bytes), Style::Plain),
            (count(row.reserve_saves_count), Style::Plain),
            (bytes(row.reserve_wastes_bytes), Style::Plain),
            (kind, style),
            (title(&row.site), Style::Plain),
        ]);
        let linear = row.linear;
        let remark = if linear.step_count == 0 {
            String::new()
        } else {
            format!(
                "{} by the same step: {} of old bytes, doubling {}",
                plural(linear.step_count, "realloc", "reallocs"),
                bytes(linear.copied_bytes),
                bytes(linear.doubling_copied_bytes)
            )
        };
        table.note(note(&row.site, &remark, caller_limit));
    }
    table.write(out, screen)?;
    let text = "Old bytes are copied wherever a block cannot grow in place; moved is what got another address. Reserve is enough for \
                nine tables in ten; saves: reallocs that it makes unnecessary, wastes: what smaller tables would not use.";
    screen.paragraph(out, "  ", Style::Faint, text)
}

fn storms(out: &mut impl Write, screen: &Screen, found: &Listing<TeardownStorm>) -> io::Result<()> {
    if !section(out, screen, "Teardown storms", found)? {
        return Ok(());
    }
    let mut table = Table::new(&[">frees", ">bytes", ">storms", ">largest", ">bulk saves", "function"]);
    for row in &found.rows {
        table.styled_row([
            (count(row.free_count), Style::Strong),
            (bytes(row.free_bytes), Style::Plain),
            (count(row.storm_count), Style::Plain),
            (count(row.largest_count), Style::Plain),
            (count(row.saves_count), Style::Plain),
            (row.function.clone(), Style::Plain),
        ]);
        let birth = |born: &BornIn| format!("{} from {}", count(born.count), born.function);
        table.note(row.born_in.iter().take(2).map(birth).collect::<Vec<_>>().join(", "));
    }
    table.write(out, screen)?;
    let text = "One call frees a thousand blocks or more, nearly one after the other, that were there before it.";
    screen.paragraph(out, "  ", Style::Faint, text)
}

fn temporaries(
    out: &mut impl Write,
    screen: &Screen,
    found: &Listing<Temporary>,
    caller_limit: usize,
) -> io::Result<()> {
    if !section(out, screen, "Temporaries", found)? {
        return Ok(());
    }
    let mut table = Table::new(&[">blocks", ">of all", ">bytes", ">p90 size", ">max size", "instead", "function"]);
    for row in &found.rows {
        let instead = match row.instead {
            Instead::StackBuffer => "stack buffer",
            Instead::SmallVec => "SmallVec",
            Instead::ScratchBuffer => "scratch",
        };
        table.styled_row([
            (count(row.count), Style::Strong),
            (share(row.count, row.site.born.count), Style::Faint),
            (bytes(row.bytes), Style::Plain),
            (bytes(row.p90_bytes), Style::Plain),
            (bytes(row.max_bytes), Style::Plain),
            (instead.to_owned(), Style::Plain),
            (title(&row.site), Style::Plain),
        ]);
        table.note(note(&row.site, "", caller_limit));
    }
    table.write(out, screen)?;
    let text = "Freed within two events of their thread, by the function that made them or its caller.";
    screen.paragraph(out, "  ", Style::Faint, text)
}

fn pools(out: &mut impl Write, screen: &Screen, found: &Listing<Pool>, caller_limit: usize) -> io::Result<()> {
    if !section(out, screen, "One size, few alive", found)? {
        return Ok(());
    }
    let mut table = Table::new(&[">blocks", ">size", ">slots", ">their bytes", ">reused at once", "function"]);
    for row in &found.rows {
        table.styled_row([
            (count(row.count), Style::Strong),
            (bytes(row.size_bytes), Style::Plain),
            (count(row.slot_count), Style::Plain),
            (bytes(row.slot_bytes), Style::Plain),
            (percent(row.lifo_share), Style::Plain),
            (title(&row.site), Style::Plain),
        ]);
        table.note(note(&row.site, "", caller_limit));
    }
    table.write(out, screen)?;
    let text = "Slots: the most alive at a time. Reused at once: births that got the block freed last, so the allocator is a pool \
                already there. Expect little speed of a pool.";
    screen.paragraph(out, "  ", Style::Faint, text)
}

fn transfers(out: &mut impl Write, screen: &Screen, found: &Transfers, caller_limit: usize) -> io::Result<()> {
    if !found.threads.is_empty() {
        let what = format!("{} of {} frees", count(found.to_threads.count), count(found.freed.count));
        screen.heading(out, "Freed by another thread", &what)?;
        let mut table = Table::new(&[">blocks", ">bytes", "from thread → to thread"]);
        for row in &found.threads {
            let name = |tid: u32, name: &str| {
                if name.is_empty() { tid.to_string() } else { format!("{name} ({tid})") }
            };
            let pair =
                format!("{} → {}", name(row.birth_tid, &row.birth_thread), name(row.death_tid, &row.death_thread));
            table.row([count(row.count), bytes(row.bytes), pair]);
        }
        table.write(out, screen)?;
    }
    site_transfers(out, screen, "Who makes what other threads free", &found.thread_sites, caller_limit)?;
    if !found.phases.is_empty() {
        let what = format!("{} of {} frees", count(found.to_phases.count), count(found.freed.count));
        screen.heading(out, "Freed after their phase", &what)?;
        let mut table = Table::new(&[">blocks", ">bytes", "born in → freed in"]);
        for row in &found.phases {
            table.row([count(row.count), bytes(row.bytes), format!("{} → {}", row.birth, row.death)]);
        }
        table.write(out, screen)?;
    }
    site_transfers(out, screen, "Who makes what outlives its phase", &found.phase_sites, caller_limit)
}

fn site_transfers(
    out: &mut impl Write,
    screen: &Screen,
    heading: &str,
    found: &Listing<SiteTransfer>,
    caller_limit: usize,
) -> io::Result<()> {
    if !section(out, screen, heading, found)? {
        return Ok(());
    }
    let mut table = Table::new(&[">bytes", ">blocks", ">of its frees", "function"]);
    for row in &found.rows {
        table.styled_row([
            (bytes(row.bytes), Style::Strong),
            (count(row.count), Style::Plain),
            (percent(row.share), Style::Plain),
            (title(&row.site), Style::Plain),
        ]);
        let born = if row.birth_phases.is_empty() {
            String::new()
        } else {
            format!("born in {}", row.birth_phases.join(", "))
        };
        let site = PatternSite { phases: Vec::new(), ..row.site.clone() };
        table.note(note(&site, &born, caller_limit));
    }
    table.write(out, screen)
}

fn page_requests(out: &mut impl Write, screen: &Screen, found: &PageRequests, caller_limit: usize) -> io::Result<()> {
    if !section(out, screen, "Whole pages for little", &found.requests)? {
        return Ok(());
    }
    let mut table = Table::new(&[">pairs", ">requests", ">aligned", ">at once", ">bytes", ">max size", "function"]);
    for row in &found.requests.rows {
        table.styled_row([
            (count(row.freed_count), Style::Strong),
            (count(row.count), Style::Plain),
            (count(row.aligned_count), Style::Plain),
            (count(row.freed_at_once_count), Style::Plain),
            (bytes(row.bytes), Style::Plain),
            (bytes(row.max_bytes), Style::Plain),
            (title(&row.site), Style::Plain),
        ]);
        table.note(note(&row.site, "", caller_limit));
    }
    table.write(out, screen)?;
    let text = "Requests of whole pages, or aligned to pages, of at most 64 KiB, that are freed again. The trace holds calls of \
                allocators, not of the kernel: whether pages were mapped and unmapped for them it cannot show.";
    screen.paragraph(out, "  ", Style::Faint, text)
}

fn chunks(out: &mut impl Write, screen: &Screen, found: &Chunks) -> io::Result<()> {
    screen.heading(out, "Chunks of allocators on top of others", "")?;
    if !found.domains.is_empty() {
        let titles = [">chunks", ">at peak", ">served", ">at peak", ">unused", "allocator"];
        let mut table = Table::new(&titles);
        for row in &found.domains {
            let style = if row.near_empty { Style::Warning } else { Style::Plain };
            table.styled_row([
                (count(row.chunk_count), Style::Plain),
                (bytes(row.peak_chunk_bytes), Style::Plain),
                (count(row.served_count), Style::Plain),
                (bytes(row.peak_served_bytes), Style::Plain),
                (percent(row.unused_share), style),
                (row.domain.clone(), Style::Plain),
            ]);
        }
        table.write(out, screen)?;
    }
    screen.paragraph(out, "  ", Style::Faint, &found.sentence)
}

fn fragmentation(out: &mut impl Write, screen: &Screen, found: &Fragmentation, caller_limit: usize) -> io::Result<()> {
    if found.heaps.is_empty() {
        return Ok(());
    }
    screen.heading(out, "Live bytes against pages", "at the peak of each process")?;
    let titles = [">live", ">pages", ">used", ">span", ">nearly empty", "heap"];
    let mut table = Table::new(&titles);
    for heap in &found.heaps {
        table.row([
            bytes(heap.live_bytes),
            format!("{} ({})", count(heap.page_count), bytes(heap.page_bytes)),
            percent(heap.used_share),
            format!("{} in {}", bytes(heap.span_bytes), count(heap.region_count)),
            format!("{} pages", count(heap.nearly_empty_page_count)),
            format!("{} ({}), {}", heap.process, heap.pid, heap.domain),
        ]);
    }
    table.write(out, screen)?;
    let text = "Bytes are as requested: headers and rounding of the allocator count as unused. Span: from the first to the last page, \
                in regions parted by holes of more than 1 MiB. Nearly empty: less than an eighth is live.";
    screen.paragraph(out, "  ", Style::Faint, text)?;
    if section(out, screen, "Who keeps nearly empty pages", &found.pins)? {
        let mut table = Table::new(&[">pages", ">alone on", ">live bytes there", "function"]);
        for row in &found.pins.rows {
            table.styled_row([
                (count(row.page_count), Style::Strong),
                (count(row.sole_page_count), Style::Plain),
                (bytes(row.live_bytes), Style::Plain),
                (title(&row.site), Style::Plain),
            ]);
            table.note(note(&row.site, "", caller_limit));
        }
        table.write(out, screen)?;
    }
    Ok(())
}

fn advice(out: &mut impl Write, screen: &Screen, patterns: &Patterns, caller_limit: usize) -> io::Result<()> {
    let shown = format!(
        "{} of {}",
        count(patterns.advice.len() as u64),
        plural(patterns.advice_count, "function", "functions")
    );
    screen.heading(out, "Allocator advice, by blocks", &shown)?;
    let mut table = Table::new(&[">#", ">blocks", ">bytes", ">frees saved", "allocator", "sure", "function"]);
    for row in &patterns.advice {
        table.styled_row([
            (row.rank.to_string(), Style::Faint),
            (count(row.site.born.count), Style::Plain),
            (bytes(row.site.born.bytes), Style::Plain),
            (count(row.saves_free_count), Style::Plain),
            (row.allocator.words().to_owned(), Style::Strong),
            (format!("{:?}", row.confidence).to_lowercase(), Style::Plain),
            (title(&row.site), Style::Plain),
        ]);
        table.note(note(&row.site, "", caller_limit));
    }
    table.write(out, screen)?;
    writeln!(out)?;
    for row in &patterns.advice {
        let text = format!("{}. Would change it: {}.", row.why, row.would_change);
        screen.paragraph(out, &format!("  {:>3}. ", row.rank), Style::Plain, &text)?;
    }
    let text = "One recording is one input: advice says what held in it. Before an arena is built, simulate it, on other inputs too.";
    screen.paragraph(out, "  ", Style::Faint, text)
}

fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}
