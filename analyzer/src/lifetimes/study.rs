//! From a trace to what `phases`, `lifetimes` and `timeline` show. Responsible for choosing the phases' source for each process
//! and for running the replay with the collector; not for what is made of the result.

use trace_format::{Process, ReadError, Trace};

use super::collector::{Collected, Collector};
use super::timeline::Timeline;
use crate::activations::Activations;
use crate::names::Names;
use crate::phases::{Markers, PhaseSource, Rules, Tracker};
use crate::profile::{Profile, choose};
use crate::replay::{Outcome, replay_with};

/// Where a process's phases come from.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ProcessPhases {
    /// Process id.
    pub pid: u32,
    /// Its executable.
    pub process: String,
    /// The profile in use, if any.
    pub profile: Option<String>,
    /// What opens its phases, as far as the profile goes.
    pub source: PhaseSource,
    /// Phases of the profile that stacks are to show and that no recorded function is part of.
    pub unseen: Vec<String>,
}

/// A trace, replayed with its phases.
#[derive(Debug)]
pub struct Study {
    /// What the replay found.
    pub outcome: Outcome,
    /// What the collector found.
    pub collected: Collected,
    /// By process.
    pub sources: Vec<ProcessPhases>,
}

/// Which source of phases to use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Wish {
    /// Markers for the phases that have any in the trace, stacks for the others.
    #[default]
    Best,
    /// Stacks only.
    Stacks,
}

/// Replays a trace and follows every block through the phases of the first profile that fits each process.
///
/// # Errors
/// The file became unreadable.
pub fn study(
    trace: &Trace,
    names: &Names,
    profiles: &[Profile],
    wish: Wish,
    decoders: usize,
    progress: impl FnMut(u64),
) -> Result<Study, ReadError> {
    let tables = &trace.tables;
    let mut used: Vec<&Profile> = Vec::new();
    let of_process: Vec<Option<usize>> = tables
        .processes
        .iter()
        .map(|process| {
            let profile = choose(profiles, process)?;
            Some(used.iter().position(|known| known.name == profile.name).unwrap_or_else(|| {
                used.push(profile);
                used.len() - 1
            }))
        })
        .collect();
    let known = used.len();
    let mut rules: Vec<Rules> = used.iter().map(|profile| Rules::of(profile, tables, names)).collect();
    let markers = if wish == Wish::Best { Markers::of(tables, names, &used, &mut rules) } else { Markers::default() };
    // Markers of a program's own need no profile.
    let of_process: Vec<Option<usize>> =
        of_process.into_iter().map(|rules| rules.or((!markers.is_empty()).then_some(known))).collect();
    rules.push(Rules::default());
    let sources = tables
        .processes
        .iter()
        .zip(&of_process)
        .map(|(process, rules_at)| source_of(process, rules_at.map(|at| &rules[at]), &markers))
        .collect();
    let activations = Activations::new(tables, names.functions());
    let tracker = Tracker::new(tables, activations, rules, markers, of_process);
    let collector = Collector::new(tables, tracker, Timeline::default());
    let (outcome, collector) = replay_with(trace, collector, decoders, progress)?;
    Ok(Study { outcome, collected: collector.finish(), sources })
}

fn source_of(process: &Process, rules: Option<&Rules>, markers: &Markers) -> ProcessPhases {
    let source = match rules {
        None => PhaseSource::None,
        Some(_) if !markers.is_empty() => PhaseSource::Marker,
        Some(_) => PhaseSource::Stack,
    };
    ProcessPhases {
        pid: process.pid,
        process: process.name.clone(),
        profile: rules.map(|rules| rules.profile.clone()).filter(|profile| !profile.is_empty()),
        source,
        unseen: rules.map_or_else(Vec::new, Rules::unseen),
    }
}
