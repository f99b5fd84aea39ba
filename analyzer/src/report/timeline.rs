//! Live bytes over time in a terminal: one line of blocks per layer, one per phase.

use std::io::{self, Write};

use super::phases::sources;
use super::screen::{Screen, Style};
use super::width::shorten;
use crate::lifetimes::{Band, Chart};
use crate::units::{bytes, duration};

/// Heights of a column.
const BLOCKS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Columns for names and figures.
const MARGIN: usize = 34;
/// Phases drawn, the longest ones.
const BANDS: usize = 16;

/// Prints the chart.
///
/// # Errors
/// I/O.
pub fn timeline(out: &mut impl Write, screen: &Screen, chart: &Chart) -> io::Result<()> {
    screen.doubts(out, &chart.doubts)?;
    let remark =
        format!("{}, peak {} at {}", duration(chart.span_ns), bytes(chart.peak_bytes), duration(chart.peak_ns));
    screen.heading(out, "Live bytes over time, by the phase they were born in", &remark)?;
    sources(out, screen, &chart.sources)?;
    let columns = screen.columns.saturating_sub(MARGIN + 2).clamp(20, 160);
    let end_ns = (chart.bins.len() as u64 * chart.bin_ns).max(1);
    let top = chart.peak_bytes.max(1);
    let column_of = |ns: u64| ((u128::from(ns) * columns as u128 / u128::from(end_ns)) as usize).min(columns - 1);
    let total: String = (0..columns)
        .map(|column| {
            let bins = span(column, columns, chart.bins.len());
            block(chart.max_bytes[bins].iter().copied().max().unwrap_or(0), top)
        })
        .collect();
    line(out, screen, "all", chart.peak_bytes, &total, Style::Strong)?;
    for (layer, name) in chart.layers.iter().enumerate() {
        let value = |bin: &Vec<u64>| bin[layer];
        let most = chart.bins.iter().map(value).max().unwrap_or(0);
        if most == 0 {
            continue;
        }
        let drawn: String = (0..columns)
            .map(|column| {
                let bins = span(column, columns, chart.bins.len());
                block(chart.bins[bins].iter().map(value).max().unwrap_or(0), top)
            })
            .collect();
        line(out, screen, name, most, &drawn, Style::Plain)?;
    }
    let mut bands: Vec<&Band> = chart.bands.iter().collect();
    bands.sort_by_key(|band| std::cmp::Reverse(band.end_ns - band.begin_ns));
    bands.truncate(BANDS);
    bands.sort_by_key(|band| (band.tid, band.begin_ns, band.depth));
    if !bands.is_empty() {
        writeln!(out)?;
    }
    for band in bands {
        let (from, to) = (column_of(band.begin_ns), column_of(band.end_ns));
        let drawn: String = (0..columns).map(|column| if (from..=to).contains(&column) { '━' } else { ' ' }).collect();
        let name = format!("{}{}", "  ".repeat(band.depth as usize), band.name);
        let many =
            if band.instances > 1 { format!("×{}", band.instances) } else { duration(band.end_ns - band.begin_ns) };
        let label = format!("  {:<21} {many:>9}", shorten(&name, 21));
        writeln!(out, "{} {}", screen.paint(Style::Faint, &label), drawn.trim_end())?;
    }
    Ok(())
}

fn line(out: &mut impl Write, screen: &Screen, name: &str, most: u64, drawn: &str, style: Style) -> io::Result<()> {
    let label = format!("  {:<21} {:>9}", shorten(name, 21), bytes(most));
    writeln!(out, "{} {}", screen.paint(style, &label), drawn.trim_end())
}

/// Bins under a column.
fn span(column: usize, columns: usize, bins: usize) -> std::ops::Range<usize> {
    let from = column * bins / columns;
    from.min(bins)..((column + 1) * bins / columns).max(from + 1).min(bins)
}

fn block(value: u64, top: u64) -> char {
    BLOCKS[(u128::from(value) * 8).div_ceil(u128::from(top)).min(8) as usize]
}
