//! An audit as Markdown. Responsible for headings, lists, tables and short names; every figure shown is a field of the result.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::width::{clean, shorten};
use crate::audit::{Audit, MapRow, Piece, Priority, Section, Sentence, Step, Table, Value};
use crate::function_names::readable;

/// Letters of a function's name in a sentence.
const IN_TEXT: usize = 72;
/// Letters of a function's name in a table.
const IN_TABLE: usize = 56;
/// Letters of a command.
const COMMAND: usize = 100;

/// Writes an audit as Markdown.
///
/// # Errors
/// `out` cannot be written.
pub fn audit(out: &mut impl Write, audit: &Audit) -> io::Result<()> {
    writeln!(out, "# Allocation and Lifetime Audit of {}", escaped(&audit.program))?;
    paragraphs(out, &audit.recorded)?;
    heading(out, 2, "Executive Summary")?;
    list(out, &audit.summary, "- ")?;
    heading(out, 2, "High-Level Lifetime Map")?;
    map(out, &audit.map)?;
    paragraphs(out, std::slice::from_ref(&audit.map_legend))?;
    heading(out, 2, "Allocator Model Today")?;
    section(out, &audit.model)?;
    heading(out, 2, "Phases")?;
    for phase in &audit.phases {
        heading(out, 3, &phase.title)?;
        list(out, &phase.findings, "- ")?;
        table(out, &phase.sites)?;
        writeln!(out, "\nRecommended strategy:\n")?;
        list_items(out, &phase.strategy, "- ")?;
    }
    if let Some(others) = &audit.other_phases {
        paragraphs(out, std::slice::from_ref(others))?;
    }
    heading(out, 2, "Append and Growth Findings")?;
    section(out, &audit.growth)?;
    heading(out, 2, "Ownership Transfers")?;
    section(out, &audit.transfers)?;
    heading(out, 2, "Leaks")?;
    section(out, &audit.leaks)?;
    heading(out, 2, "Scratch vs Durable Facts")?;
    section(out, &audit.facts)?;
    heading(out, 2, "Recommended Allocation Strategy")?;
    steps(out, &audit.strategy)?;
    heading(out, 2, "Priority List")?;
    priorities(out, &audit.priorities)?;
    heading(out, 2, "Method, Losses and Confidence")?;
    section(out, &audit.method)?;
    heading(out, 2, "Bottom Line")?;
    paragraphs(out, &audit.bottom_line)
}

fn heading(out: &mut impl Write, level: usize, title: &str) -> io::Result<()> {
    writeln!(out, "\n{} {}", "#".repeat(level), escaped(title))
}

fn paragraphs(out: &mut impl Write, sentences: &[Sentence]) -> io::Result<()> {
    for sentence in sentences {
        writeln!(out, "\n{}", text(sentence, IN_TEXT))?;
    }
    Ok(())
}

fn list(out: &mut impl Write, sentences: &[Sentence], mark: &str) -> io::Result<()> {
    writeln!(out)?;
    list_items(out, sentences, mark)
}

fn list_items(out: &mut impl Write, sentences: &[Sentence], mark: &str) -> io::Result<()> {
    for sentence in sentences {
        writeln!(out, "{mark}{}", text(sentence, IN_TEXT))?;
    }
    Ok(())
}

fn section(out: &mut impl Write, section: &Section) -> io::Result<()> {
    list(out, &section.findings, "- ")?;
    for rows in &section.tables {
        if rows.rows().next().is_some() {
            table(out, rows)?;
        }
    }
    Ok(())
}

fn table(out: &mut impl Write, table: &Table) -> io::Result<()> {
    writeln!(out, "\n{}:\n", table.caption)?;
    let first = table.rows().next();
    let heads: Vec<&str> = table.columns.iter().map(|(_, head)| *head).collect();
    let rules: Vec<&str> =
        (0..heads.len()).map(|at| if first.is_some_and(|row| row[at].is_figure()) { "--:" } else { "---" }).collect();
    line(out, &heads)?;
    line(out, &rules)?;
    for row in table.rows() {
        let cells: Vec<String> = row.iter().map(|cell| value(cell, IN_TABLE)).collect();
        line(out, &cells)?;
    }
    if table.left_out_count > 0 {
        writeln!(out, "\n… and {} more.", crate::units::count(table.left_out_count))?;
    }
    Ok(())
}

fn map(out: &mut impl Write, rows: &[MapRow]) -> io::Result<()> {
    if rows.is_empty() {
        return Ok(());
    }
    writeln!(out)?;
    line(out, &["Scope", "Owner", "What lives there", "Allocator pattern today", "Arena suitability"])?;
    line(out, &["---"; 5])?;
    for row in rows {
        let cells = [&row.scope, &row.owner, &row.contents, &row.pattern, &row.suitability];
        line(out, &cells.map(|cell| text(cell, IN_TABLE)))?;
    }
    Ok(())
}

fn steps(out: &mut impl Write, steps: &[Step]) -> io::Result<()> {
    for step in steps {
        writeln!(out, "\n{}. {}", step.number, text(&step.title, IN_TEXT))?;
        if !step.points.is_empty() {
            list(out, &step.points, "   - ")?;
        }
    }
    Ok(())
}

fn priorities(out: &mut impl Write, priorities: &[Priority]) -> io::Result<()> {
    if priorities.is_empty() {
        return writeln!(out, "\nNothing that was found is worth 0.1 % of the frees, reallocs, bytes or the peak.");
    }
    writeln!(out)?;
    line(out, &["", "what", "benefit", "part", "cost and confidence"])?;
    line(out, &["--:", "---", "--:", "---", "---"])?;
    for row in priorities {
        let cells = [
            row.rank.to_string(),
            format!("{} {}", row.change, value(&row.target, IN_TABLE)),
            value(&row.benefit, IN_TABLE),
            format!("{} of {}", value(&row.share, IN_TABLE), row.whole),
            text(&row.cost, IN_TABLE),
        ];
        line(out, &cells)?;
    }
    Ok(())
}

/// A line of a table.
fn line(out: &mut impl Write, cells: &[impl AsRef<str>]) -> io::Result<()> {
    let mut text = String::from("|");
    for cell in cells {
        _ = write!(text, " {} |", cell.as_ref().replace('|', "\\|"));
    }
    writeln!(out, "{text}")
}

fn text(sentence: &Sentence, letters: usize) -> String {
    let piece = |piece: &Piece| match piece {
        Piece::Text(text) => text.clone(),
        Piece::Value(_, one) => value(one, letters),
    };
    sentence.pieces.iter().map(piece).collect()
}

fn value(value: &Value, letters: usize) -> String {
    match value {
        Value::Function(name) => code(&readable(&clean(name), letters)),
        Value::Command(command) => code(&shorten(&clean(command), COMMAND)),
        Value::Name(name) | Value::Words(name) => escaped(name),
        figure => figure.text(),
    }
}

/// A code span. A backtick in it needs two around it.
fn code(name: &str) -> String {
    if name.contains('`') { format!("`` {name} ``") } else { format!("`{name}`") }
}

/// Text that Markdown takes for nothing else. What a program calls itself must not make headings or links.
fn escaped(text: &str) -> String {
    let text = clean(text);
    // A name without symbol says where it is; its build id is for programs.
    let parts: Vec<&str> = text.split(" (build id ").collect();
    let mut letters: Vec<char> = parts[0].chars().collect();
    for part in &parts[1..] {
        letters.extend(part.split_once(')').map_or(*part, |(_, rest)| rest).chars());
    }
    let mut safe = String::with_capacity(letters.len());
    for (at, letter) in letters.iter().enumerate() {
        let is_word =
            |at: Option<usize>| at.and_then(|at| letters.get(at)).is_some_and(|letter| letter.is_alphanumeric());
        let special = match letter {
            '\\' | '`' | '*' | '<' | '>' | '[' | ']' | '#' => true,
            // Within a word it is none of Markdown's.
            '_' => !(is_word(at.checked_sub(1)) && is_word(Some(at + 1))),
            _ => false,
        };
        if special {
            safe.push('\\');
        }
        safe.push(*letter);
    }
    safe
}
