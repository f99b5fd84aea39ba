//! Aligned tables. Responsible for column widths; the last column takes what is left of the line and is shortened in the
//! middle.

use std::io::{self, Write};

use super::screen::{Screen, Style};
use super::width::{clean, shorten};

/// Widest that a column other than the last may be.
const WIDEST: usize = 28;
/// Narrowest that the last column may be before lines are cut.
const NARROWEST_LAST: usize = 16;
const INDENT: &str = "  ";
const GAP: &str = "  ";

/// A table being filled.
#[derive(Debug)]
pub(super) struct Table {
    /// Title and whether the column is right-aligned.
    columns: Vec<(&'static str, bool)>,
    rows: Vec<Row>,
}

#[derive(Debug)]
struct Row {
    cells: Vec<(String, Style)>,
    /// A faint line below.
    note: String,
}

impl Table {
    /// Columns by title; those whose title begins with `>` are right-aligned.
    pub(super) fn new(titles: &[&'static str]) -> Self {
        let columns = titles.iter().map(|title| match title.strip_prefix('>') {
            Some(title) => (title, true),
            None => (*title, false),
        });
        Self { columns: columns.collect(), rows: Vec::new() }
    }

    /// Adds a row; its last cell may be long.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.styled_row(cells.into_iter().map(|cell| (cell, Style::Plain)));
    }

    /// Adds a row with styles.
    pub(super) fn styled_row(&mut self, cells: impl IntoIterator<Item = (String, Style)>) {
        let cells = cells.into_iter().map(|(text, style)| (clean(&text).into_owned(), style)).collect();
        self.rows.push(Row { cells, note: String::new() });
    }

    /// Puts a line below the last row.
    pub(super) fn note(&mut self, note: String) {
        if let Some(row) = self.rows.last_mut() {
            row.note = note;
        }
    }

    pub(super) fn write(&self, out: &mut impl Write, screen: &Screen) -> io::Result<()> {
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(at, (title, _))| {
                let cells = self.rows.iter().filter_map(|row| row.cells.get(at)).map(|(text, _)| text.chars().count());
                cells
                    .max()
                    .unwrap_or(0)
                    .min(if at + 1 == self.columns.len() { usize::MAX } else { WIDEST })
                    .max(title.chars().count())
            })
            .collect();
        let taken: usize = widths.iter().rev().skip(1).map(|width| width + GAP.len()).sum();
        let last = screen.columns.saturating_sub(INDENT.len() + taken).max(NARROWEST_LAST);
        let titles: Vec<_> = self.columns.iter().map(|(title, _)| ((*title).to_owned(), Style::Faint)).collect();
        self.line(out, screen, &titles, &widths, last)?;
        for row in &self.rows {
            self.line(out, screen, &row.cells, &widths, last)?;
            if !row.note.is_empty() {
                let note = shorten(&row.note, screen.columns.saturating_sub(6)).into_owned();
                writeln!(out, "      {}", screen.paint(Style::Faint, &note))?;
            }
        }
        Ok(())
    }

    fn line(
        &self,
        out: &mut impl Write,
        screen: &Screen,
        cells: &[(String, Style)],
        widths: &[usize],
        last: usize,
    ) -> io::Result<()> {
        let mut left = screen.columns.saturating_sub(INDENT.len());
        let mut line = INDENT.to_owned();
        for (at, (text, style)) in cells.iter().enumerate() {
            let is_last = at + 1 == self.columns.len();
            let width = if is_last { last } else { widths[at] };
            let text = shorten(text, width.min(left));
            let padding = " ".repeat(if is_last && !self.columns[at].1 {
                0
            } else {
                widths[at].saturating_sub(text.chars().count()).min(left)
            });
            let painted = screen.paint(*style, &text);
            if self.columns[at].1 {
                line.push_str(&padding);
                line.push_str(&painted);
            } else {
                line.push_str(&painted);
                line.push_str(&padding);
            }
            left = left.saturating_sub(text.chars().count() + padding.len());
            if !is_last && left > GAP.len() {
                line.push_str(GAP);
                left -= GAP.len();
            } else {
                left = if is_last { left } else { 0 };
            }
        }
        writeln!(out, "{}", line.trim_end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(table: &Table, columns: usize) -> Vec<String> {
        let mut out = Vec::new();
        table.write(&mut out, &Screen { columns, colour: false }).unwrap();
        String::from_utf8(out).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn columns_align_and_no_line_is_wider_than_the_screen() {
        let mut table = Table::new(&[">bytes", "name", "site"]);
        table.row(["1".into(), "a".into(), "short".into()]);
        table.row(["12,345".into(), "much longer name than any column may be".into(), "x".repeat(200)]);
        table.note("y".repeat(200));
        assert_eq!(lines(&table, usize::MAX)[1], "       1  a                             short");
        for columns in [20, 40, 60, 80, 120, 300] {
            for line in lines(&table, columns) {
                assert!(line.chars().count() <= columns, "{columns}: {line}");
            }
        }
    }
}
