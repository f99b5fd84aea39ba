//! What-if replays as text.

use std::io::{self, Write};

use super::screen::{Screen, Style};
use super::table::Table;
use crate::units::{bytes, count, duration, plural};
use crate::whatif::{Change, Figures, Predicted, Spread, Tried, Verdict, WhatIf};

/// A replayed peak further than this from the prediction, as a part, is spoken of.
const FAR_OFF: f64 = 0.05;

/// Prints what replays took, and with a plan what was predicted beside it.
///
/// # Errors
/// I/O.
pub fn replay(out: &mut impl Write, screen: &Screen, whatif: &WhatIf) -> io::Result<()> {
    screen.doubts(out, &whatif.doubts)?;
    let subject = &whatif.subject;
    let remark = format!(
        "{} (pid {}): {} with {} on {}, at most {} alive; {} each{}",
        subject.process,
        subject.pid,
        plural(subject.steps, "call", "calls"),
        plural(subject.allocs, "alloc", "allocs"),
        plural(u64::from(subject.threads), "thread", "threads"),
        bytes(subject.peak_bytes),
        plural(u64::from(whatif.runs), "run", "runs"),
        if whatif.fragmented { ", in heaps with holes" } else { "" },
    );
    screen.heading(out, "Replay", &remark)?;
    let mut table =
        Table::new(&[">time", ">min – max", ">peak RSS", ">min – max", ">minor faults", ">min – max", "allocator"]);
    for tried in &whatif.tried {
        table.row(row(&tried.plain, &tried.allocator));
        if let Some(plan) = &tried.plan {
            table.row(row(plan, &format!("{} with the plan's arenas", tried.allocator)));
        }
    }
    table.write(out, screen)?;
    if let Some(predicted) = &whatif.predicted {
        beside(out, screen, predicted, &whatif.tried)?;
    }
    screen.paragraph(
        out,
        "  ",
        Style::Faint,
        "time: the processor's, for the allocator's calls and the first touch of each page; the program's own work is left out, so gains in \
         locality do not show. peak RSS: over what was resident before the first call. The middle one of the runs, then the \
         least and the most.",
    )
}

fn row(figures: &Figures, name: &str) -> [String; 7] {
    let of = |spread: Spread, show: fn(u64) -> String| {
        (show(spread.median), format!("{} – {}", show(spread.min), show(spread.max)))
    };
    let (time, times) = of(figures.time_ns, duration);
    let (peak, peaks) = of(figures.peak_bytes, bytes);
    let (faults, all_faults) = of(figures.minor_faults, count);
    [time, times, peak, peaks, faults, all_faults, name.to_owned()]
}

fn beside(out: &mut impl Write, screen: &Screen, predicted: &Predicted, tried: &[Tried]) -> io::Result<()> {
    let modelled = match (predicted.plain_resident_bytes, predicted.resident_bytes) {
        (Some(plain), Some(plan)) => {
            format!("; resident in a model of its malloc {} and {}", bytes(plain), bytes(plan))
        }
        _ => String::new(),
    };
    let remark = format!(
        "simulated: {} requested without, {} with the plan; in glibc's sizes {} and {}{modelled}",
        bytes(predicted.plain_peak_bytes),
        bytes(predicted.peak_bytes),
        bytes(predicted.plain_footprint_bytes),
        bytes(predicted.footprint_bytes),
    );
    screen.heading(out, "Predicted against replayed", &remark)?;
    let mut table = Table::new(&[
        ">predicted peak",
        ">replayed peak",
        ">min … max",
        ">off by",
        ">replayed time",
        ">min … max",
        "allocator",
    ]);
    for tried in tried {
        let Some(change) = &tried.change else { continue };
        table.row([
            percent(change.predicted),
            percent(change.peak.median),
            spread(&change.peak),
            percent(change.off_prediction),
            percent(change.time.median),
            spread(&change.time),
            tried.allocator.clone(),
        ]);
    }
    table.write(out, screen)?;
    for tried in tried {
        let Some(change) = &tried.change else { continue };
        let text = format!("{}: time: {}; peak: {}.", tried.allocator, verdict(&change.time), verdict(&change.peak));
        let both = [change.time.verdict, change.peak.verdict];
        let style = match both {
            _ if both.contains(&Verdict::Cost) => Style::Warning,
            _ if both.contains(&Verdict::Gain) => Style::Good,
            _ => Style::Plain,
        };
        screen.paragraph(out, "  ", style, &text)?;
        if change.off_prediction.abs() > FAR_OFF {
            let text = format!(
                "{}: the peak is {} off the prediction, which is {}.",
                tried.allocator,
                part(change.off_prediction.abs()),
                if tried.allocator == "glibc" && predicted.resident_bytes.is_some() {
                    "by the rules of glibc 2.36, in a heap without holes"
                } else {
                    "of blocks and chunks, not of what the allocator keeps between them"
                }
            );
            screen.paragraph(out, "! ", Style::Warning, &text)?;
        }
    }
    if predicted.outlived + predicted.handed_over > 0 {
        let text = format!(
            "The plan breaks: {} freed after {} arena is gone, {} by another thread. The replay leaves the former out; a program \
             would have to keep them with malloc.",
            plural(predicted.outlived, "block is", "blocks are"),
            if predicted.outlived == 1 { "its" } else { "their" },
            plural(predicted.handed_over, "is freed", "are freed"),
        );
        screen.paragraph(out, "! ", Style::Warning, &text)?;
    }
    Ok(())
}

/// Says what a change is worth.
fn verdict(change: &Change) -> String {
    match change.verdict {
        Verdict::BelowNoise => "gain is below noise".to_owned(),
        Verdict::Gain => format!("the plan gains {}", part(-change.median)),
        Verdict::Cost => format!("the plan costs {}", part(change.median)),
    }
}

fn spread(change: &Change) -> String {
    format!("{} … {}", percent(change.low), percent(change.high))
}

/// `+1.2 %`, `-0.3 %`.
fn percent(part_more: f64) -> String {
    format!("{:+.1} %", part_more * 100.0)
}

/// `1.2 %`.
fn part(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::whatif::worker::Measured;
    use crate::whatif::{Subject, Tried};

    fn runs(values: [(u64, u64); 3]) -> Vec<Measured> {
        let measured = |(work_ns, peak_bytes)| Measured { work_ns, peak_bytes, minor_fault_count: 7, checked_count: 0 };
        values.map(measured).to_vec()
    }

    #[test]
    fn what_overlaps_is_said_to_be_below_noise() {
        let plain = runs([(1_000_000, 1 << 20), (1_100_000, 1 << 20), (1_200_000, 1 << 20)]);
        let plan = runs([(900_000, 9 << 17), (950_000, 9 << 17), (1_000_000, 9 << 17)]);
        let predicted = Predicted { outlived: 1, ..Predicted::new(0, 0, 110, 100) };
        let whatif = WhatIf {
            schema: 1,
            subject: Subject {
                process: "cc1".into(),
                pid: 1,
                threads: 1,
                switches: 0,
                allocs: 2,
                steps: 3,
                peak_bytes: 4,
            },
            runs: 3,
            fragmented: true,
            predicted: Some(predicted),
            tried: vec![Tried::new("glibc".into(), &plain, Some((&plan, predicted.footprint_change)))],
            doubts: Vec::new(),
        };
        let mut out = Vec::new();
        replay(&mut out, &Screen { columns: usize::MAX, colour: false }, &whatif).unwrap();
        let text = String::from_utf8(out).unwrap();
        for part in [
            "Replay  cc1 (pid 1): 3 calls with 2 allocs on 1 thread, at most 4 B alive; 3 runs each, in heaps with holes",
            "glibc with the plan's arenas",
            "glibc: time: gain is below noise; peak: the plan costs 12.5 %.",
            "+10.0 %",
            "+2.3 %",
            "The plan breaks: 1 block is freed after its arena is gone, 0 are freed by another thread.",
        ] {
            assert!(text.contains(part), "{part}:\n{text}");
        }
    }
}
