//! Live bytes over time as a picture: layers of birth phases stacked over each other, phases as bands below. Responsible for the
//! SVG; the same chart gives the same picture.

use std::fmt::Write as _;
use std::io::{self, Write};

use crate::lifetimes::{Band, Chart};
use crate::units::{bytes, duration};

/// Colours that people with colour blindness tell apart (Okabe and Ito's, and lighter ones of the same hues).
const COLOURS: [&str; 10] =
    ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8c8c00", "#7a5cad", "#66c2a5", "#b0b0b0"];
const OUTSIDE_COLOUR: &str = "#808080";
const WIDTH: f64 = 1200.0;
const LEFT: f64 = 90.0;
const RIGHT: f64 = 300.0;
const TOP: f64 = 64.0;
const HEIGHT: f64 = 380.0;
const BAND: f64 = 18.0;
/// Pixels of a letter of a band's name.
const LETTER: f64 = 6.4;

/// Draws the chart.
///
/// # Errors
/// I/O.
pub fn timeline_svg(out: &mut impl Write, chart: &Chart, title: &str) -> io::Result<()> {
    let mut svg = String::new();
    let lanes = lanes(&chart.bands);
    let total = TOP + HEIGHT + 56.0 + lanes.len() as f64 * BAND + 24.0;
    let _ = write!(
        svg,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {total}\" width=\"{WIDTH}\" height=\"{total}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"{LEFT}\" y=\"26\" font-size=\"17\" font-weight=\"600\" fill=\"#202020\">Live bytes over time, by the phase they \
         were born in</text>\n\
         <text x=\"{LEFT}\" y=\"46\" fill=\"#606060\">{}</text>\n",
        escape(&subtitle(chart, title))
    );
    axes(&mut svg, chart);
    layers(&mut svg, chart);
    peak(&mut svg, chart);
    legend(&mut svg, chart);
    for (lane, row) in lanes.iter().zip(0..) {
        let y = TOP + HEIGHT + 56.0 + f64::from(row) * BAND;
        draw_lane(&mut svg, chart, lane, y);
    }
    svg.push_str("</svg>\n");
    out.write_all(svg.as_bytes())
}

fn subtitle(chart: &Chart, title: &str) -> String {
    let mut text = format!("{title} · {} · peak {}", duration(chart.span_ns), bytes(chart.peak_bytes));
    if !chart.doubts.is_empty() {
        text.push_str(" · in doubt: see `heaptape info`");
    }
    text
}

fn end_ns(chart: &Chart) -> u64 {
    (chart.bins.len() as u64 * chart.bin_ns).max(1)
}

fn x(chart: &Chart, ns: u64) -> f64 {
    LEFT + (WIDTH - LEFT - RIGHT) * (ns as f64 / end_ns(chart) as f64).min(1.0)
}

fn y(chart: &Chart, value: u64) -> f64 {
    TOP + HEIGHT - HEIGHT * value as f64 / top(chart) as f64
}

/// The top of the axis: the peak, rounded up to a round number.
fn top(chart: &Chart) -> u64 {
    let step = step(chart.peak_bytes.max(1), 5);
    chart.peak_bytes.max(1).div_ceil(step) * step
}

/// A step of 1, 2 or 5 times a power of two or ten that cuts a span into about `parts`.
fn step(span: u64, parts: u64) -> u64 {
    let least = (span / parts).max(1);
    let mut unit = 1u64;
    while unit.saturating_mul(1024) <= least {
        unit *= 1024;
    }
    [1, 2, 5, 10, 20, 50, 100, 200, 500, 1024]
        .into_iter()
        .map(|factor| factor * unit)
        .find(|step| *step >= least)
        .unwrap_or(least)
}

/// The same for times.
fn time_step(span: u64, parts: u64) -> u64 {
    let least = (span / parts).max(1);
    let mut unit = 1u64;
    while unit.saturating_mul(10) <= least {
        unit *= 10;
    }
    [1, 2, 5, 10].into_iter().map(|factor| factor * unit).find(|step| *step >= least).unwrap_or(least)
}

fn axes(svg: &mut String, chart: &Chart) {
    let top = top(chart);
    let step = step(top, 5);
    let right = WIDTH - RIGHT;
    for value in (0..).map(|at| at * step).take_while(|value| *value <= top) {
        let y = y(chart, value);
        let _ = writeln!(
            svg,
            "<line x1=\"{LEFT}\" x2=\"{right}\" y1=\"{y:.1}\" y2=\"{y:.1}\" stroke=\"#e4e4e4\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#606060\">{}</text>",
            LEFT - 8.0,
            y + 4.0,
            bytes(value)
        );
    }
    let end = end_ns(chart);
    let step = time_step(end, 8);
    let bottom = TOP + HEIGHT;
    for ns in (0..).map(|at| at * step).take_while(|ns| *ns <= end) {
        let x = x(chart, ns);
        let _ = writeln!(
            svg,
            "<line x1=\"{x:.1}\" x2=\"{x:.1}\" y1=\"{bottom}\" y2=\"{:.1}\" stroke=\"#909090\"/>\
             <text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\" fill=\"#606060\">{}</text>",
            bottom + 5.0,
            bottom + 19.0,
            if ns == 0 { "0".to_owned() } else { duration(ns) }
        );
    }
}

/// Areas, the first layer at the bottom.
fn layers(svg: &mut String, chart: &Chart) {
    let mut below = vec![0u64; chart.bins.len()];
    for (layer, name) in chart.layers.iter().enumerate() {
        let above: Vec<u64> = chart.bins.iter().zip(&below).map(|(bin, below)| below + bin[layer]).collect();
        if above != below {
            let mut points = String::new();
            for (at, value) in above.iter().enumerate() {
                let _ = write!(points, "{:.1},{:.1} ", x(chart, (at as u64 + 1) * chart.bin_ns), y(chart, *value));
            }
            for (at, value) in below.iter().enumerate().rev() {
                let _ = write!(points, "{:.1},{:.1} ", x(chart, (at as u64 + 1) * chart.bin_ns), y(chart, *value));
            }
            let _ = writeln!(
                svg,
                "<polygon points=\"{}\" fill=\"{}\"><title>{}</title></polygon>",
                points.trim_end(),
                colour(chart, layer),
                escape(name)
            );
        }
        below = above;
    }
}

fn peak(svg: &mut String, chart: &Chart) {
    let (x, y) = (x(chart, chart.peak_ns + chart.bin_ns / 2), y(chart, chart.peak_bytes));
    let anchor = if x > (WIDTH - RIGHT) * 0.75 { "end" } else { "start" };
    let shift = if anchor == "end" { -8.0 } else { 8.0 };
    let _ = writeln!(
        svg,
        "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" fill=\"none\" stroke=\"#202020\" stroke-width=\"1.5\"/>\
         <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\" fill=\"#202020\" stroke=\"#ffffff\" stroke-width=\"3\" \
         paint-order=\"stroke\">peak {} at {}</text>",
        x + shift,
        y - 6.0,
        bytes(chart.peak_bytes),
        duration(chart.peak_ns)
    );
}

/// In the order of the stack, the top one first.
fn legend(svg: &mut String, chart: &Chart) {
    let left = WIDTH - RIGHT + 20.0;
    for (row, (layer, name)) in chart.layers.iter().enumerate().rev().enumerate() {
        let y = TOP + 8.0 + row as f64 * 22.0;
        let most = chart.bins.iter().map(|bin| bin[layer]).max().unwrap_or(0);
        let _ = writeln!(
            svg,
            "<rect x=\"{left}\" y=\"{:.1}\" width=\"12\" height=\"12\" fill=\"{}\"/>\
             <text x=\"{:.1}\" y=\"{:.1}\" fill=\"#202020\">{} <tspan fill=\"#707070\">{}</tspan><title>{}</title></text>",
            y - 10.0,
            colour(chart, layer),
            left + 18.0,
            y,
            escape(&short(name, 30)),
            bytes(most),
            escape(name)
        );
    }
}

/// A thread's phases of one depth.
struct Lane<'c> {
    tid: u32,
    thread: &'c str,
    first: bool,
    bands: Vec<&'c Band>,
}

/// Lanes of all threads, by the first begin of the thread; deeper phases below.
fn lanes(bands: &[Band]) -> Vec<Lane<'_>> {
    let mut threads: Vec<(u64, u32)> = Vec::new();
    for band in bands {
        match threads.iter_mut().find(|(_, tid)| *tid == band.tid) {
            Some((begin_ns, _)) => *begin_ns = (*begin_ns).min(band.begin_ns),
            None => threads.push((band.begin_ns, band.tid)),
        }
    }
    threads.sort_unstable();
    let mut lanes = Vec::new();
    for (_, tid) in threads {
        for depth in 0..4 {
            // Spans of phases that take turns overlap: each goes into the first lane that has room.
            let mut of_depth: Vec<Lane<'_>> = Vec::new();
            for band in bands.iter().filter(|band| band.tid == tid && band.depth == depth) {
                let has_room = |lane: &&mut Lane<'_>| lane.bands.last().is_none_or(|last| last.end_ns <= band.begin_ns);
                match of_depth.iter_mut().find(has_room) {
                    Some(lane) => lane.bands.push(band),
                    None => of_depth.push(Lane {
                        tid,
                        thread: &band.thread,
                        first: depth == 0 && of_depth.is_empty(),
                        bands: vec![band],
                    }),
                }
            }
            lanes.append(&mut of_depth);
        }
    }
    lanes
}

fn draw_lane(svg: &mut String, chart: &Chart, lane: &Lane<'_>, y: f64) {
    if lane.first {
        let name = if lane.thread.is_empty() { lane.tid.to_string() } else { short(lane.thread, 12) };
        let _ = writeln!(
            svg,
            "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\" fill=\"#606060\" font-size=\"11\">{}<title>thread {}</title></text>",
            LEFT - 8.0,
            y + 12.0,
            escape(&name),
            lane.tid
        );
    }
    for band in &lane.bands {
        let (from, to) = (x(chart, band.begin_ns), x(chart, band.end_ns));
        let width = (to - from).max(1.0);
        let many = if band.instances > 1 { format!(" ×{}", band.instances) } else { String::new() };
        let of_layer = |layer: &String| layer.rsplit(" › ").next() == Some(band.name.as_str());
        let fill = chart.layers.iter().position(of_layer).map_or("#c8c8c8", |layer| colour(chart, layer));
        let _ = write!(
            svg,
            "<g><title>{}{many}: {} from {}</title><rect x=\"{from:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{:.1}\" \
             fill=\"{fill}\" fill-opacity=\"0.55\" stroke=\"#ffffff\" stroke-width=\"0.5\"/>",
            escape(&band.name),
            duration(band.end_ns - band.begin_ns),
            duration(band.begin_ns),
            BAND - 2.0
        );
        let letters = ((width - 6.0) / LETTER) as usize;
        if letters >= 4 {
            let label = short(&format!("{}{many}", band.name), letters);
            let _ = write!(
                svg,
                "<text x=\"{:.1}\" y=\"{:.1}\" font-size=\"11\" fill=\"#202020\">{}</text>",
                from + 3.0,
                y + 12.0,
                escape(&label)
            );
        }
        svg.push_str("</g>\n");
    }
}

fn colour(chart: &Chart, layer: usize) -> &'static str {
    if layer + 1 == chart.layers.len() { OUTSIDE_COLOUR } else { COLOURS[layer % COLOURS.len()] }
}

/// The end of a path tells most.
fn short(text: &str, letters: usize) -> String {
    let count = text.chars().count();
    if count <= letters {
        return text.to_owned();
    }
    let last = text.rsplit(" › ").next().unwrap_or(text);
    if last.chars().count() <= letters {
        return last.to_owned();
    }
    let kept: String = last.chars().take(letters.saturating_sub(1)).collect();
    format!("{kept}…")
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
