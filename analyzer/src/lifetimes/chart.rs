//! Live bytes over time by birth phase, ready to draw. Responsible for the result that `heaptape timeline` shows: which phases get
//! a layer, what the bins hold, where phases begin and end; not for colours and axes (see `report`).

use serde::Serialize;
use trace_format::Trace;

use super::lives::path;
use super::study::{ProcessPhases, Study};
use crate::doubt::{Doubt, doubts};
use crate::phases::{OUTSIDE, PhaseSource, RowId};

/// Layers with a name; the others are one.
const NAMED_LAYERS: usize = 9;
/// Name of the layer of all others.
const OTHERS: &str = "other phases";
/// Instances drawn of one phase; of one with more, only the span from the first to the last is.
const DRAWN_INSTANCES: usize = 60;

/// Live bytes over time. This is what `heaptape timeline --json` prints.
#[derive(Debug, Clone, Serialize)]
pub struct Chart {
    /// Version of this interface.
    pub schema: u32,
    /// Time from the first to the last event.
    pub span_ns: u64,
    /// Length of a bin.
    pub bin_ns: u64,
    /// Paths of birth phases, the one with the highest peak of its own first; `other phases` and `(outside)` last.
    pub layers: Vec<String>,
    /// For each bin, the live bytes of each layer at its end.
    pub bins: Vec<Vec<u64>>,
    /// For each bin, the most bytes alive at a time within it.
    pub max_bytes: Vec<u64>,
    /// The greatest of those.
    pub peak_bytes: u64,
    /// In which bin, by its begin.
    pub peak_ns: u64,
    /// Phases in time.
    pub bands: Vec<Band>,
    /// Where the phases come from, by process.
    pub sources: Vec<ProcessPhases>,
    /// What the figures do not know.
    pub doubts: Vec<Doubt>,
}

/// An instance of a phase, or all of a phase that has many.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Band {
    /// Thread id.
    pub tid: u32,
    /// The thread's name.
    pub thread: String,
    /// Phases around it.
    pub depth: u32,
    /// Its name.
    pub name: String,
    /// Begin.
    pub begin_ns: u64,
    /// End.
    pub end_ns: u64,
    /// Instances that it stands for.
    pub instances: u64,
}

/// Makes the chart of all processes of a trace.
pub fn chart(trace: &Trace, study: &Study) -> Chart {
    let found = &study.collected;
    let timeline = &found.timeline;
    let paths: Vec<String> = (0..found.phases.len()).map(|row| path(study, RowId(row as u32))).collect();
    // The heaviest paths by their highest sum in any bin, threads together.
    let mut names: Vec<&str> = paths.iter().map(String::as_str).filter(|path| *path != OUTSIDE).collect();
    names.sort_unstable();
    names.dedup();
    let sums = |name: &str| {
        let rows: Vec<usize> = (0..paths.len()).filter(|row| paths[*row] == name).collect();
        let live =
            move |bin: &super::timeline::Bin| rows.iter().filter_map(|row| bin.live_bytes.get(*row)).sum::<u64>();
        timeline.bins.iter().map(live).max().unwrap_or(0)
    };
    let mut heaviest: Vec<(u64, &str)> = names.into_iter().map(|name| (sums(name), name)).collect();
    heaviest.retain(|(bytes, _)| *bytes > 0);
    heaviest.sort_unstable_by_key(|(bytes, name)| (std::cmp::Reverse(*bytes), *name));
    let has_others = heaviest.len() > NAMED_LAYERS;
    heaviest.truncate(NAMED_LAYERS);
    let mut layers: Vec<String> = heaviest.into_iter().map(|(_, name)| name.to_owned()).collect();
    if has_others {
        layers.push(OTHERS.to_owned());
    }
    layers.push(OUTSIDE.to_owned());
    let layer_of: Vec<usize> = paths
        .iter()
        .map(|path| {
            let known = layers.iter().position(|layer| layer == path);
            known.unwrap_or_else(|| layers.len() - 1 - usize::from(has_others))
        })
        .collect();
    let bins: Vec<Vec<u64>> = timeline
        .bins
        .iter()
        .map(|bin| {
            let mut live = vec![0; layers.len()];
            for (row, bytes) in bin.live_bytes.iter().enumerate() {
                live[layer_of.get(row).copied().unwrap_or(layers.len() - 1)] += bytes;
            }
            live
        })
        .collect();
    let max_bytes: Vec<u64> = timeline.bins.iter().map(|bin| bin.max_bytes).collect();
    let peak = max_bytes.iter().enumerate().max_by_key(|(at, bytes)| (**bytes, std::cmp::Reverse(*at)));
    let (peak_at, peak_bytes) = peak.map_or((0, 0), |(at, bytes)| (at, *bytes));
    Chart {
        schema: 1,
        span_ns: study.outcome.last_ns.saturating_sub(study.outcome.first_ns),
        bin_ns: timeline.bin_ns,
        layers,
        bins,
        max_bytes,
        peak_bytes,
        peak_ns: peak_at as u64 * timeline.bin_ns,
        bands: bands(trace, study),
        sources: study.sources.clone(),
        doubts: doubts(trace, &study.outcome),
    }
}

fn bands(trace: &Trace, study: &Study) -> Vec<Band> {
    let mut bands = Vec::new();
    for (row, life) in study.collected.phases.iter().zip(&study.collected.rows) {
        if row.source == PhaseSource::None || life.instances.is_empty() {
            continue;
        }
        let thread = &trace.tables.threads[row.thread.index()];
        let band = |begin_ns, end_ns, instances| Band {
            tid: thread.tid,
            thread: thread.name.clone(),
            depth: row.depth,
            name: row.name.clone(),
            begin_ns,
            end_ns,
            instances,
        };
        if life.instances.len() > DRAWN_INSTANCES {
            bands.push(band(life.begin_ns, life.end_ns, life.instance_count));
        } else {
            bands.extend(life.instances.iter().map(|instance| band(instance.begin_ns, instance.end_ns, 1)));
        }
    }
    bands.sort_by_key(|band| (band.tid, band.depth, band.begin_ns));
    bands
}
