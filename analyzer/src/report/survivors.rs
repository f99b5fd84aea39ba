//! Survivors as text.

use std::io::{self, Write};

use super::screen::{Screen, Style};
use super::sites::{callers, own_function};
use super::table::Table;
use crate::survivors::Survivors;
use crate::units::{bytes, count, plural, share};

/// Prints survivors, each site with at most `caller_limit` callers.
///
/// # Errors
/// I/O.
pub fn survivors(out: &mut impl Write, screen: &Screen, leaks: &Survivors, caller_limit: usize) -> io::Result<()> {
    screen.doubts(out, &leaks.doubts)?;
    if leaks.groups.is_empty() {
        screen.heading(out, "Nothing was live at the end", &format!("in {}", leaks.scope))?;
        return Ok(());
    }
    for group in &leaks.groups {
        let blocks = plural(group.total.count, "block", "blocks");
        let title = format!("{} in {blocks} {}", bytes(group.total.bytes), group.ending.words());
        let shown = format!(
            "{} of {}, in {}",
            count(group.sites.len() as u64),
            plural(group.site_count, "site", "sites"),
            leaks.scope
        );
        screen.heading(out, &title, &shown)?;
        let mut table = Table::new(&[">#", ">bytes", ">", ">blocks", ">of births", "site"]);
        for site in &group.sites {
            table.styled_row([
                (site.rank.to_string(), Style::Faint),
                (bytes(site.live_at_end_bytes), Style::Strong),
                (share(site.live_at_end_bytes, group.total.bytes), Style::Faint),
                (count(site.live_at_end_count), Style::Plain),
                (count(site.birth_count), Style::Faint),
                (own_function(&site.stack, &[]), Style::Plain),
            ]);
            table.note(callers(&site.stack, caller_limit));
        }
        table.write(out, screen)?;
    }
    Ok(())
}
