//! What text is written to. Responsible for width and colours as given; not for finding them out (the command line does).

use std::io::{self, Write};

use crate::doubt::Doubt;

use super::width::clean;

/// Lines are never wrapped to less than this.
const NARROWEST: usize = 40;

/// Where a report goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Screen {
    /// Columns; `usize::MAX` shortens nothing.
    pub columns: usize,
    /// Whether to use ANSI colours.
    pub colour: bool,
}

/// How a piece of text stands out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Style {
    /// As it is.
    #[default]
    Plain,
    /// A heading or the answer.
    Strong,
    /// Less important.
    Faint,
    /// All is well.
    Good,
    /// A reason for doubt.
    Warning,
}

impl Screen {
    /// Text in a style. The text is cleaned of control characters first.
    pub fn paint(&self, style: Style, text: &str) -> String {
        let text = clean(text);
        let code = match style {
            _ if !self.colour || text.is_empty() => return text.into_owned(),
            Style::Plain => return text.into_owned(),
            Style::Strong => "1",
            Style::Faint => "2",
            Style::Good => "32",
            Style::Warning => "33",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }

    /// A heading with a remark.
    pub(super) fn heading(&self, out: &mut impl Write, title: &str, remark: &str) -> io::Result<()> {
        writeln!(
            out,
            "\n{}{}{}",
            self.paint(Style::Strong, title),
            if remark.is_empty() { "" } else { "  " },
            self.paint(Style::Faint, remark)
        )
    }

    /// A paragraph, wrapped at spaces, its first line after `mark`.
    pub(super) fn paragraph(&self, out: &mut impl Write, mark: &str, style: Style, text: &str) -> io::Result<()> {
        let indent = mark.chars().count();
        let columns = self.columns.max(NARROWEST).saturating_sub(indent);
        let mut line = String::new();
        let mut lead = mark.to_owned();
        for word in text.split(' ') {
            if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > columns {
                writeln!(out, "{lead}{}", self.paint(style, &line))?;
                lead = " ".repeat(indent);
                line.clear();
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
        writeln!(out, "{lead}{}", self.paint(style, &line))
    }

    /// The reasons for doubt, if any, before everything they touch.
    pub(super) fn doubts(&self, out: &mut impl Write, doubts: &[Doubt]) -> io::Result<()> {
        if doubts.is_empty() {
            return Ok(());
        }
        self.heading(out, "Doubts", "what the figures below do not know")?;
        for doubt in doubts {
            self.paragraph(out, "  ! ", Style::Warning, &doubt.sentence)?;
        }
        Ok(())
    }
}
