//! The audit: what owns memory in a program today, what of it is scratch and what is durable, and where arenas would end the freeing of
//! single blocks. Responsible for turning the results of the other analyses into findings, each a computed sentence with its
//! figures, and tables; measures nothing itself and lays nothing out (see `report::audit`).
//!
//! ```text
//!   study ─▶ scopes: what is born where ─┐
//!   info, phases, lifetimes, leaks ──────┼─▶ summary, map, model, one part per phase, growth, transfers, survivors, facts,
//!   patterns, arenas ────────────────────┘   strategy, priorities, method, bottom line
//! ```
//!
//! No sentence is without a figure: what the trace does not show is said with a figure too, the one that is 0 or the one that the
//! search was made in.

mod growth;
mod homes;
mod map;
mod method;
mod model;
mod phase;
mod scopes;
mod sentence;
mod strategy;
mod summary;
mod survivors;
mod table;
mod transfers;

pub use homes::{Homes, homes};
pub use map::MapRow;
pub use phase::PhaseAudit;
pub use sentence::{Piece, Sentence, Value};
pub use strategy::{Priority, Step};
pub use table::Table;

use std::cmp::Reverse;
use std::collections::BTreeMap;

use serde::Serialize;
use trace_format::Trace;

use self::scopes::{PhaseScope, Scopes};
use self::sentence::{bytes, counted, name, share};
use crate::arenas::{Arenas, Suggestion};
use crate::doubt::Doubt;
use crate::error::AnalysisError;
use crate::info::Info;
use crate::leaks::Leaks;
use crate::lifetimes::{Lifetimes, Phases, Study};
use crate::names::Names;
use crate::patterns::{MootFrees, Patterns};
use crate::phases::OUTSIDE;
use crate::replay::Amount;
use crate::wrappers::Wrappers;

/// Part of all bytes, of all blocks or of the peak from which on a phase or a thread has a part of its own.
const MATTERS: f64 = 0.03;
/// Part of all objects from which on an arena is worth a step of its own.
const WORTH_A_STEP: f64 = 0.002;
/// Steps for arenas at most.
const MOST_STEPS: usize = 10;
/// Rows of most tables.
const LISTED: usize = 8;

/// What the audit is made of: results of one trace, except for the arenas, which may be of several.
#[derive(Debug)]
pub struct Material<'a> {
    /// The trace that is described.
    pub trace: &'a Trace,
    /// Its names.
    pub names: &'a Names,
    /// Functions that allocate on behalf of others.
    pub wrappers: &'a Wrappers,
    /// Its replay with phases.
    pub study: &'a Study,
    /// What was recorded.
    pub info: &'a Info,
    /// Its phases.
    pub phases: &'a Phases,
    /// What becomes of its blocks.
    pub lifetimes: &'a Lifetimes,
    /// What was never freed.
    pub leaks: &'a Leaks,
    /// What costs more than it must.
    pub patterns: &'a Patterns,
    /// Arenas, with their proof on all traces.
    pub arenas: &'a Arenas,
    /// How many blocks of each of the study's phases their plan takes.
    pub homes: &'a Homes,
}

/// An audit. This is what `heaptape report --format json` prints.
#[derive(Debug, Clone, Serialize)]
pub struct Audit {
    /// Version of this interface; rises when a field changes its meaning.
    pub schema: u32,
    /// The program that does most, by name.
    pub program: String,
    /// The trace that is described.
    pub trace: String,
    /// All traces that arenas were looked for and tried in.
    pub traces: Vec<String>,
    /// What was recorded.
    pub recorded: Vec<Sentence>,
    /// What matters most.
    pub summary: Vec<Sentence>,
    /// Who owns what for how long.
    pub map: Vec<MapRow>,
    /// What its classes of lifetimes mean, with their parts of all bytes.
    pub map_legend: Sentence,
    /// Which allocators there are, and how they are used.
    pub model: Section,
    /// The phases that matter, in the order in which they begin.
    pub phases: Vec<PhaseAudit>,
    /// What the other phases come to.
    pub other_phases: Option<Sentence>,
    /// Tables that grow by copying.
    pub growth: Section,
    /// Blocks that outlive their phase or change threads.
    pub transfers: Section,
    /// What was never freed.
    pub leaks: Section,
    /// Functions whose blocks are scratch, and functions whose blocks are durable.
    pub facts: Section,
    /// What to do, step by step.
    pub strategy: Vec<Step>,
    /// The same and more, by measured benefit.
    pub priorities: Vec<Priority>,
    /// How this was measured and how far to trust it.
    pub method: Section,
    /// What it comes to.
    pub bottom_line: Vec<Sentence>,
    /// Frees that the suggested arenas make unnecessary; null where none is suggested.
    pub moot_frees: Option<MootFrees>,
    /// What the figures do not know.
    pub doubts: Vec<Doubt>,
}

/// Sentences and tables on one subject.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Section {
    /// What is found.
    pub findings: Vec<Sentence>,
    /// The rows behind it.
    pub tables: Vec<Table>,
}

/// Everything that sentences are made of.
struct Facts<'a> {
    given: &'a Material<'a>,
    scopes: Scopes,
}

impl Facts<'_> {
    /// All births by alloc or realloc.
    fn blocks(&self) -> u64 {
        self.scopes.total.count
    }

    /// All bytes requested.
    fn bytes(&self) -> u64 {
        self.scopes.total.bytes
    }

    fn peak_bytes(&self) -> u64 {
        self.given.info.totals.figures.peak_live_bytes
    }

    fn frees(&self) -> u64 {
        self.given.info.totals.figures.counts.free_count
    }

    /// The rank of the suggestion for an arena of the plan.
    fn suggestion(&self, arena: usize) -> Option<&Suggestion> {
        let arena = self.given.arenas.plan.arenas.get(arena)?;
        let fits = |one: &&Suggestion| one.scope == arena.scope && one.nesting == arena.nesting;
        self.given.arenas.suggestions.iter().find(fits)
    }

    /// Whether a phase has a part of its own.
    fn matters(&self, phase: &PhaseScope) -> bool {
        let large = |part: u64, whole: u64| crate::sites::ratio(part, whole) >= MATTERS;
        large(phase.born.bytes, self.bytes())
            || large(phase.born.count, self.blocks())
            || large(phase.at_peak_bytes, self.peak_bytes())
    }

    /// The phases that matter, in the order in which they begin; what is outside of all last.
    fn phases_that_matter(&self) -> Vec<&PhaseScope> {
        let mut phases: Vec<&PhaseScope> = self.scopes.phases.iter().filter(|phase| self.matters(phase)).collect();
        phases.sort_by_key(|phase| (phase.is_outside, phase.begin_ns));
        phases
    }

    /// What to call a phase: with its process where several have phases.
    fn phase_name(&self, phase: &PhaseScope) -> String {
        let several = self.scopes.phases.iter().any(|other| other.process != phase.process);
        let title = title(&phase.path);
        if several { format!("{}: {title}", phase.process_name) } else { title.to_owned() }
    }

    /// Suggestions with how many blocks they take, the most first.
    fn homes(&self, homes: &BTreeMap<usize, Amount>) -> Vec<(&Suggestion, Amount)> {
        let of = |(at, amount): (&usize, &Amount)| Some((self.suggestion(*at)?, *amount));
        let mut homes: Vec<_> = homes.iter().filter(|(_, amount)| amount.count > 0).filter_map(of).collect();
        homes.sort_by_key(|(one, amount)| (Reverse(amount.count), one.rank));
        homes
    }

    /// Calls of the allocator.
    fn calls(&self) -> u64 {
        let counts = &self.given.info.totals.figures.counts;
        counts.alloc_count + counts.realloc_count + counts.free_count
    }

    /// The name of the program that requests most bytes.
    fn program(&self) -> &str {
        let processes = &self.given.info.processes;
        let most = processes.iter().max_by_key(|process| process.figures.counts.alloc_bytes);
        most.map_or("an unknown program", |process| &process.name)
    }
}

/// Makes the audit. O(cells × depth).
///
/// # Errors
/// The trace names no process.
pub fn audit(given: &Material<'_>) -> Result<Audit, AnalysisError> {
    let scopes = Scopes::of(given.trace, given.study, given.names, given.wrappers, given.homes)?;
    let facts = Facts { given, scopes };
    let shown = facts.phases_that_matter();
    let trials = given.arenas.trained_on.iter().chain(&given.arenas.held_out);
    let mut traces: Vec<String> = Vec::new();
    for trial in trials {
        if !traces.contains(&trial.trace) {
            traces.push(trial.trace.clone());
        }
    }
    Ok(Audit {
        schema: 1,
        program: facts.program().to_owned(),
        trace: given.info.file.path.clone(),
        traces,
        recorded: recorded(&facts),
        summary: summary::summary(&facts),
        map: map::map(&facts, &shown),
        map_legend: map::legend(&facts),
        model: model::model(&facts),
        phases: shown.iter().map(|phase| phase::phase(&facts, phase)).collect(),
        other_phases: phase::others(&facts),
        growth: growth::growth(&facts),
        transfers: transfers::transfers(&facts),
        leaks: survivors::leaks(&facts),
        facts: survivors::facts(&facts),
        strategy: strategy::strategy(&facts),
        priorities: strategy::priorities(&facts),
        method: method::method(&facts),
        bottom_line: summary::bottom_line(&facts),
        moot_frees: given.patterns.moot_frees.clone(),
        doubts: given.info.doubts.clone(),
    })
}

/// What to call the path of a phase.
fn title(path: &str) -> &str {
    if path == OUTSIDE { "outside of all phases" } else { path }
}

fn recorded(facts: &Facts<'_>) -> Vec<Sentence> {
    let info = facts.given.info;
    let counts = &info.totals.figures.counts;
    let processes: Vec<_> = info.processes.iter().filter(|process| process.figures.counts.alloc_count > 0).collect();
    let command = info.recording.command.join(" ");
    let mut said = vec![
        Sentence::new(
            "recorded",
            "{trace} holds {events} of {processes}, recorded over {wall_ns}",
            [
                name(&info.file.path),
                counted(info.file.events, "event", "events"),
                counted(processes.len() as u64, "process", "processes"),
                Value::Duration(info.recording.event_span_ns),
            ],
        )
        .and_if(!command.is_empty(), " of {command}", [Value::Command(command.clone())])
        .and(
            ": {allocs} and {reallocs} of {bytes} together, {frees}, and a peak of {peak_bytes}.",
            [
                counted(counts.alloc_count, "allocation", "allocations"),
                counted(counts.realloc_count, "realloc", "reallocs"),
                bytes(counts.alloc_bytes),
                counted(counts.free_count, "free", "frees"),
                bytes(facts.peak_bytes()),
            ],
        ),
    ];
    let heaviest = processes.iter().max_by_key(|process| process.figures.counts.alloc_bytes);
    if let Some(heaviest) = heaviest.filter(|_| processes.len() > 1) {
        said.push(Sentence::new(
            "heaviest-process",
            "{process} (pid {pid}) requests {share} of the bytes; the figures are of all processes together where no other is \
             named.",
            [
                name(&heaviest.name),
                Value::Words(heaviest.pid.to_string()),
                share(heaviest.figures.counts.alloc_bytes, counts.alloc_bytes),
            ],
        ));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arenas::{ArenaOptions, Input, Policy, arenas};
    use crate::leaks::{LeakOptions, leak_study, leaks};
    use crate::lifetimes::{Wish, lifetimes, phases, study};
    use crate::patterns::{PatternOptions, patterns};
    use crate::selection::Wanted;

    /// The audit of the smallest sample, with something changed in what is known of its recording.
    fn audit_with(change: impl FnOnce(&mut Info)) -> Audit {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../samples/tcc-small.htape");
        let trace = Trace::open(std::path::Path::new(path)).unwrap();
        let (names, wrappers, wanted) = (Names::of(&trace.tables), Wrappers::default(), Wanted::default());
        let study = study(&trace, &names, &[], Wish::Best, 0, |_| ()).unwrap();
        let mut info = crate::info::info(&trace, &study.outcome, crate::stacks::stacks(&trace).unwrap());
        change(&mut info);
        let leak_options = LeakOptions::default();
        let leak_study = leak_study(&trace, &names, &leak_options, |_| ()).unwrap();
        let pattern_options = PatternOptions { limit: 10, ..PatternOptions::default() };
        let input = Input { label: path.to_owned(), trace: &trace, names: &names, held_out: false };
        let arena_options = ArenaOptions {
            policy: Policy::parse("bumpalo").unwrap(),
            limit: 5,
            max_peak: 0.01,
            wrappers: wrappers.clone(),
            profiles: Vec::new(),
            decoders: 0,
        };
        let arenas = arenas(&[input], &arena_options, |_| ()).unwrap();
        let homes = homes(&trace, &names, (&[], Wish::Best), (&arenas.plan, &wrappers), 0, |_| ()).unwrap();
        audit(&Material {
            trace: &trace,
            names: &names,
            wrappers: &wrappers,
            study: &study,
            info: &info,
            phases: &phases(&trace, &study, &wanted, 0).unwrap(),
            lifetimes: &lifetimes(&trace, &study, &names, &wanted, &wrappers, 0).unwrap(),
            leaks: &leaks(&trace, &leak_study, &names, &wanted, &leak_options).unwrap(),
            patterns: &patterns(&trace, &study, &names, &wanted, &pattern_options, |_| ()).unwrap(),
            arenas: &arenas,
            homes: &homes,
        })
        .unwrap()
    }

    #[test]
    fn losses_are_the_first_thing_said() {
        let lossy = audit_with(|info| {
            info.totals.figures.lost_count = Some(1_234);
            info.capture.loss_free = false;
            info.capture.not_loss_free_because = vec!["the ring was full.".to_owned()];
        });
        let first = lossy.summary[0].text();
        assert_eq!(lossy.summary[0].kind, "not-loss-free");
        assert!(first.contains("1,234 events were lost") && first.contains("(the ring was full)"), "{first}");
        assert_eq!(lossy.method.findings[0].kind, "not-loss-free");
    }

    #[test]
    fn a_whole_recording_says_so_in_its_method_alone() {
        let whole = audit_with(|_| ());
        assert!(whole.summary.iter().all(|said| said.kind != "not-loss-free"));
        assert_eq!(whole.method.findings[0].kind, "loss-free");
    }

    #[test]
    fn the_map_and_the_phases_add_up_to_all_blocks() {
        let audit = audit_with(|_| ());
        let blocks = |sentence: &Sentence| match sentence.values().find(|(name, _)| *name == "blocks") {
            Some((_, Value::Count(blocks, _))) => *blocks,
            other => panic!("{other:?}"),
        };
        let process = audit.map.iter().find(|row| row.level == "process").map(|row| blocks(&row.contents));
        let phases: u64 = audit.phases.iter().map(|phase| blocks(&phase.findings[0])).sum();
        assert_eq!(process, Some(phases + audit.other_phases.as_ref().map_or(0, blocks)));
    }
}
