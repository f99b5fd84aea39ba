//! What several runs of a replay say together. Responsible for spreads, for what changed and whether that is more than chance, and for the
//! prediction beside it; not for running (see `runs`), nor for printing.
//!
//! The middle of a few runs is their median, the spread goes from the least to the most. What changed is more than chance only if
//! the spreads without and with do not overlap:
//!
//! ```text
//!   without   ├──────●───┤                   without       ├──●───┤
//!   with           ├───●────┤                with   ├──●─┤
//!             overlap: below noise                  apart: a gain
//! ```

use serde::Serialize;

use super::worker::{HeapKind, Measured};
use crate::doubt::Doubt;

/// A result with its spread over the runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Spread {
    /// The middle one; of an even number of runs, the lower of both.
    pub median: u64,
    /// The least.
    pub min: u64,
    /// The most.
    pub max: u64,
}

impl Spread {
    /// Of some runs; of none, zeros.
    pub fn of(runs: impl IntoIterator<Item = u64>) -> Self {
        let mut runs: Vec<u64> = runs.into_iter().collect();
        runs.sort_unstable();
        match (runs.first(), runs.last()) {
            (Some(min), Some(max)) => Self { median: runs[(runs.len() - 1) / 2], min: *min, max: *max },
            _ => Self::default(),
        }
    }
}

/// What the runs of one script took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Figures {
    /// Processor time of the allocator's work, touching included, ns.
    pub time_ns: Spread,
    /// Peak of resident memory over what was resident before, bytes.
    pub peak_bytes: Spread,
    /// Page faults.
    pub minor_faults: Spread,
}

impl Figures {
    /// Of some runs.
    pub fn of(runs: &[Measured]) -> Self {
        Self {
            time_ns: Spread::of(runs.iter().map(|run| run.work_ns)),
            peak_bytes: Spread::of(runs.iter().map(|run| run.peak_bytes)),
            minor_faults: Spread::of(runs.iter().map(|run| run.minor_fault_count)),
        }
    }
}

/// What a change is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Less in every run than in any without.
    Gain,
    /// More in every run than in any without.
    Cost,
    /// The spreads overlap.
    BelowNoise,
}

/// How much more there is with a plan than without, as a part of what there is without: -0.1 is a tenth less.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Change {
    /// Between the medians.
    pub median: f64,
    /// Between the least with and the most without.
    pub low: f64,
    /// Between the most with and the least without.
    pub high: f64,
    /// Whether that is more than chance.
    pub verdict: Verdict,
}

impl Change {
    /// From one spread to another.
    pub fn between(without: Spread, with: Spread) -> Self {
        let verdict = if with.max < without.min {
            Verdict::Gain
        } else if with.min > without.max {
            Verdict::Cost
        } else {
            Verdict::BelowNoise
        };
        Self {
            median: part_more(without.median, with.median),
            low: part_more(without.max, with.min),
            high: part_more(without.min, with.max),
            verdict,
        }
    }
}

/// How much more `with` is, as a part of `without`; of nothing, 0.
fn part_more(without: u64, with: u64) -> f64 {
    if without == 0 { 0.0 } else { with as f64 / without as f64 - 1.0 }
}

/// What the simulation says of the process that is replayed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Predicted {
    /// Highest sum of requested bytes and of chunks, with the plan.
    pub peak_bytes: u64,
    /// The same without.
    pub plain_peak_bytes: u64,
    /// Highest sum of what glibc takes for blocks and chunks, with the plan.
    pub footprint_bytes: u64,
    /// The same without.
    pub plain_footprint_bytes: u64,
    /// Change of the footprint's peak, as a part.
    pub footprint_change: f64,
    /// Most that glibc's malloc would have resident, holes between blocks included, with the plan. `None`: there was not the
    /// memory to find out.
    pub resident_bytes: Option<u64>,
    /// The same without.
    pub plain_resident_bytes: Option<u64>,
    /// Change of that, as a part; of the footprint where it is not known.
    pub peak_change: f64,
    /// Blocks that are freed after their arena is gone: the replay leaves them out, a program would use memory that is no longer its.
    pub outlived: u64,
    /// Blocks in an arena that another thread frees.
    pub handed_over: u64,
}

impl Predicted {
    /// From what a simulation counted.
    pub fn new(peak_bytes: u64, plain_peak_bytes: u64, footprint_bytes: u64, plain_footprint_bytes: u64) -> Self {
        let footprint_change = part_more(plain_footprint_bytes, footprint_bytes);
        Self {
            peak_bytes,
            plain_peak_bytes,
            footprint_bytes,
            plain_footprint_bytes,
            footprint_change,
            resident_bytes: None,
            plain_resident_bytes: None,
            peak_change: footprint_change,
            outlived: 0,
            handed_over: 0,
        }
    }

    /// With what glibc's malloc would have resident, without and with the plan.
    pub(super) fn resident(self, plain_resident_bytes: u64, resident_bytes: u64) -> Self {
        Self {
            resident_bytes: Some(resident_bytes),
            plain_resident_bytes: Some(plain_resident_bytes),
            peak_change: part_more(plain_resident_bytes, resident_bytes),
            ..self
        }
    }

    /// How much higher the peak should be with an allocator: how others than glibc's lay out blocks is not known.
    pub(super) fn change_with(&self, heap: &HeapKind) -> f64 {
        if *heap == HeapKind::System { self.peak_change } else { self.footprint_change }
    }
}

/// A plan beside no plan, with one allocator.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Compared {
    /// Of the time.
    pub time: Change,
    /// Of the peak of resident memory.
    pub peak: Change,
    /// What that was predicted to be, as a part.
    pub predicted: f64,
    /// The replayed peak with the plan, as a part of the replayed peak without, over the same of the prediction, less 1.
    pub off_prediction: f64,
}

/// One allocator.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Tried {
    /// Its name, or path.
    pub allocator: String,
    /// Everything by malloc.
    pub plain: Figures,
    /// With the plan's arenas over it.
    pub plan: Option<Figures>,
    /// Both beside each other.
    pub change: Option<Compared>,
}

impl Tried {
    /// From the runs without and with a plan.
    pub fn new(allocator: String, plain: &[Measured], plan: Option<(&[Measured], f64)>) -> Self {
        let plain = Figures::of(plain);
        let with = plan.map(|(runs, _)| Figures::of(runs));
        let change = plan.map(|(runs, predicted)| {
            let with = Figures::of(runs);
            let peak = Change::between(plain.peak_bytes, with.peak_bytes);
            Compared {
                time: Change::between(plain.time_ns, with.time_ns),
                peak,
                predicted,
                off_prediction: (1.0 + peak.median) / (1.0 + predicted) - 1.0,
            }
        });
        Self { allocator, plain, plan: with, change }
    }
}

/// What was replayed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Subject {
    /// Name of the process.
    pub process: String,
    /// Its pid.
    pub pid: u32,
    /// Threads that allocated.
    pub threads: u32,
    /// Times another one went on.
    pub switches: u64,
    /// Blocks born.
    pub allocs: u64,
    /// Allocs, frees and reallocs.
    pub steps: u64,
    /// Most requested bytes alive at a time.
    pub peak_bytes: u64,
}

/// A replay. This is what `heaptape replay --json` prints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WhatIf {
    /// Version of this interface.
    pub schema: u32,
    /// The process.
    pub subject: Subject,
    /// Runs of each.
    pub runs: u32,
    /// Whether the heaps began with holes.
    pub fragmented: bool,
    /// What the plan should come to.
    pub predicted: Option<Predicted>,
    /// By allocator.
    pub tried: Vec<Tried>,
    /// What the figures do not know.
    pub doubts: Vec<Doubt>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(min: u64, median: u64, max: u64) -> Spread {
        Spread { median, min, max }
    }

    #[test]
    fn spreads_are_of_the_runs() {
        assert_eq!(Spread::of([5, 1, 9]), spread(1, 5, 9));
        assert_eq!(Spread::of([4, 1]), spread(1, 1, 4));
        assert_eq!(Spread::of([]), Spread::default());
    }

    #[test]
    fn what_overlaps_is_below_noise() {
        let verdict = |without, with| Change::between(without, with).verdict;
        assert_eq!(verdict(spread(90, 100, 110), spread(70, 80, 89)), Verdict::Gain);
        assert_eq!(verdict(spread(90, 100, 110), spread(70, 80, 90)), Verdict::BelowNoise);
        assert_eq!(verdict(spread(90, 100, 110), spread(111, 120, 130)), Verdict::Cost);
        let change = Change::between(spread(80, 100, 120), spread(60, 90, 100));
        assert!((change.median + 0.1).abs() < 1e-9 && (change.low + 0.5).abs() < 1e-9, "{change:?}");
        assert!((change.high - 0.25).abs() < 1e-9, "{change:?}");
        assert_eq!(Change::between(Spread::default(), spread(1, 1, 1)).median.to_bits(), 0.0_f64.to_bits());
    }

    #[test]
    fn a_replay_is_held_against_the_prediction() {
        let measured = |peak_bytes| Measured { work_ns: 10, peak_bytes, ..Measured::default() };
        let predicted = Predicted::new(0, 0, 130, 100).resident(100, 110);
        assert!((predicted.change_with(&HeapKind::Mimalloc) - 0.3).abs() < 1e-9);
        let change = predicted.change_with(&HeapKind::System);
        let tried = Tried::new("glibc".into(), &[measured(1000)], Some((&[measured(1100)], change)));
        let change = tried.change.unwrap();
        assert!(change.off_prediction.abs() < 1e-9, "{change:?}");
        assert_eq!((change.peak.verdict, change.time.verdict), (Verdict::Cost, Verdict::BelowNoise));
    }
}
