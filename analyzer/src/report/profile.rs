//! What became of a profile's names, as text.

use std::io::{self, Write};

use super::screen::{Screen, Style};
use super::table::Table;
use crate::profile::Check;
use crate::units::{count, plural};

/// Prints which names were found.
///
/// # Errors
/// I/O.
pub fn profile_check(out: &mut impl Write, screen: &Screen, check: &Check) -> io::Result<()> {
    let found = check.names.iter().filter(|named| named.function_count > 0).count();
    let remark = format!(
        "{found} of {} names found in {}",
        check.names.len(),
        plural(check.looked_in.len() as u64, "file", "files")
    );
    screen.heading(out, &format!("Profile {}", check.profile), &remark)?;
    let fired = check.names.iter().any(|named| named.fired_count.is_some());
    let mut table = if fired {
        Table::new(&["rule", "part", ">functions", ">fired", "name"])
    } else {
        Table::new(&["rule", "part", ">functions", "name"])
    };
    for named in &check.names {
        let style = if named.function_count > 0 { Style::Plain } else { Style::Faint };
        let functions = if named.function_count > 0 { count(named.function_count) } else { "not found".to_owned() };
        let mut cells = vec![(named.rule.clone(), style), (named.part.to_owned(), style), (functions, style)];
        if fired {
            cells.push((named.fired_count.map_or_else(|| "–".to_owned(), count), style));
        }
        cells.push((named.pattern.clone(), style));
        table.styled_row(cells);
        if let Some(example) = named.example.as_ref().filter(|example| **example != named.pattern) {
            table.note(format!("such as {example}"));
        }
    }
    table.write(out, screen)
}
