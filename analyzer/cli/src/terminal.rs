//! What stdout is. Responsible for its width and whether it takes colours.

use std::io::IsTerminal as _;

use analyzer::report::Screen;

/// Columns where stdout is no terminal: nothing is shortened for a file or a pipe.
const NO_TERMINAL: usize = usize::MAX;

/// The screen that reports are written for.
pub(crate) fn screen() -> Screen {
    let stdout = std::io::stdout();
    let is_terminal = stdout.is_terminal();
    let columns = if is_terminal {
        terminal_size::terminal_size().map_or(100, |(width, _)| usize::from(width.0))
    } else {
        std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok()).unwrap_or(NO_TERMINAL)
    };
    let colour = is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    Screen { columns, colour }
}
