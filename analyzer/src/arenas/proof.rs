//! What a plan comes to on a trace, and what may be promised of it. Responsible for the figures of a trial and the verdict in words;
//! not for simulating (see `simulate`) nor for making plans (see `fit`).

use serde::Serialize;

use super::Input;
use super::atoms::Book;
use super::fit::Tried;
use super::plan::{Plan, StackPaths, functions};
use super::simulate::Simulated;
use crate::phases::View;
use crate::replay::Outcome;
use crate::sites::ratio;
use crate::wrappers::Wrappers;

/// Most objects of a held-out trace that may break a plan that is called safe.
pub const SAFE_SHARE: f64 = 0.001;
/// Fewest other inputs that a promise needs.
const ENOUGH_INPUTS: usize = 3;
/// Sites that break a plan, listed.
const LISTED_BROKEN: usize = 20;
/// Callers of such a site, listed.
const LISTED_CALLERS: usize = 6;

/// What may be promised of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// In a word.
    pub kind: VerdictKind,
    /// In a sentence.
    pub sentence: String,
}

/// What may be promised of a plan, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum VerdictKind {
    /// It held on enough other inputs.
    Holds,
    /// It broke on another input.
    Breaks,
    /// It raised the peak of another input by more than is allowed.
    RaisesPeak,
    /// Too few inputs to say.
    ThinEvidence,
    /// No arena is worth it.
    Nothing,
}

/// A plan on one trace.
#[derive(Debug, Clone, Serialize)]
pub struct Trial {
    /// The trace.
    pub trace: String,
    /// What the plan was made from.
    pub made_from: Vec<String>,
    /// Events of the trace.
    pub events: u64,
    /// Blocks born by alloc: objects.
    pub objects: u64,
    /// Of them, in arenas.
    pub placed: u64,
    /// The same as a part.
    pub placed_share: f64,
    /// Objects that are freed after their arena is gone.
    pub outlived: u64,
    /// Objects that another thread frees.
    pub handed_over: u64,
    /// Both as a part of the objects placed.
    pub violation_share: f64,
    /// Frees of the program.
    pub frees: u64,
    /// Frees that an arena's end makes needless, less those of its chunks.
    pub frees_saved: u64,
    /// Highest sum of requested bytes alive.
    pub plain_peak_bytes: u64,
    /// The same with the arenas' chunks in place of what is in them.
    pub peak_bytes: u64,
    /// The difference as a part.
    pub peak_change: f64,
    /// Highest sum of what glibc takes for all blocks.
    pub plain_footprint_peak_bytes: u64,
    /// The same with arenas.
    pub footprint_peak_bytes: u64,
    /// Mean memory in use with dead blocks kept, as a multiple of what is alive.
    pub drag: f64,
    /// Arenas of the plan.
    pub arena_count: u64,
    /// Functions that allocate objects which break it; `broken` may hold fewer.
    pub broken_count: u64,
    /// Those with the most.
    pub broken: Vec<BrokenSite>,
}

/// Objects that break a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BrokenSite {
    /// The scope of the arena they were put into.
    pub scope: String,
    /// The allocating function.
    pub function: String,
    /// Its callers, innermost first, as far as the scope.
    pub callers: Vec<String>,
    /// Objects of that stack in the arena.
    pub objects: u64,
    /// Objects that are freed after their arena is gone.
    pub outlived: u64,
    /// Objects that another thread frees.
    pub handed_over: u64,
}

impl Trial {
    /// A plan that was made from some of the inputs, tried on one.
    pub(super) fn of(inputs: &[Input<'_>], at: usize, made_from: &[usize], plan: &Plan, tried: &Tried) -> Self {
        let simulated = &tried.simulated;
        let (mut outlived, mut handed_over) = (0, 0);
        for broken in simulated.broken.values() {
            outlived += broken.outlived.count;
            handed_over += broken.handed_over.count;
        }
        let placed = simulated.placed_count();
        let freed: u64 = simulated.arenas.iter().map(|arena| arena.free_count).sum();
        let chunks: u64 = simulated.arenas.iter().map(|arena| arena.chunk_count).sum();
        let drag: f64 = simulated.arenas.iter().map(|arena| arena.drag_byte_bytes).sum();
        Self {
            trace: inputs[at].label.clone(),
            made_from: made_from.iter().map(|at| inputs[*at].label.clone()).collect(),
            events: inputs[at].trace.event_count,
            objects: simulated.alloc_count,
            placed,
            placed_share: ratio(placed, simulated.alloc_count),
            outlived,
            handed_over,
            violation_share: ratio(outlived + handed_over, placed),
            frees: simulated.free_count,
            frees_saved: freed.saturating_sub(chunks),
            plain_peak_bytes: simulated.plain_peak_bytes,
            peak_bytes: simulated.peak_bytes,
            peak_change: change(simulated.plain_peak_bytes, simulated.peak_bytes),
            plain_footprint_peak_bytes: simulated.plain_footprint_peak_bytes,
            footprint_peak_bytes: simulated.footprint_peak_bytes,
            drag: 1.0 + drag / simulated.live_byte_bytes.max(1.0),
            arena_count: plan.arenas.len() as u64,
            broken_count: tried.broken.len() as u64,
            broken: tried.broken.iter().take(LISTED_BROKEN).cloned().collect(),
        }
    }
}

/// The sites whose objects break a plan, those with the most first.
pub(super) fn broken_sites(
    view: &View<'_>,
    wrappers: &Wrappers,
    outcome: &Outcome,
    plan: &Plan,
    simulated: &Simulated,
) -> Vec<BrokenSite> {
    let mut book = Book::default();
    let paths = StackPaths::new(view.tables(), view.names(), wrappers, |name| book.intern(name));
    let mut path = Vec::new();
    let mut sites: Vec<BrokenSite> = Vec::new();
    for ((arena, cell), broken) in &simulated.broken {
        let Some(row) = outcome.cells.get(cell.index()) else { continue };
        paths.path(row.stack, &mut path);
        let scope = &plan.arenas[*arena].scope;
        let mut names = functions(&path).map(|(name, _)| book.name(name).to_owned());
        let function = names.next().unwrap_or_default();
        let callers: Vec<String> = names.take(LISTED_CALLERS).collect();
        sites.push(BrokenSite {
            scope: scope.clone(),
            function,
            callers,
            objects: simulated.placed.get(cell.index()).copied().unwrap_or(0),
            outlived: broken.outlived.count,
            handed_over: broken.handed_over.count,
        });
    }
    sites.sort_by(|one, other| {
        (&one.scope, &one.function, &one.callers).cmp(&(&other.scope, &other.function, &other.callers))
    });
    sites.dedup_by(|next, kept| {
        let same = (&next.scope, &next.function, &next.callers) == (&kept.scope, &kept.function, &kept.callers);
        if same {
            kept.objects += next.objects;
            kept.outlived += next.outlived;
            kept.handed_over += next.handed_over;
        }
        same
    });
    sites.sort_by_key(|site| std::cmp::Reverse(site.outlived + site.handed_over));
    sites
}

/// How much more `after` is than `before`, as a part.
pub(super) fn change(before: u64, after: u64) -> f64 {
    if before == 0 { 0.0 } else { after as f64 / before as f64 - 1.0 }
}

pub(super) fn verdict(trained_on: &[Trial], held_out: &[Trial], plan: &Plan, max_peak: f64) -> Verdict {
    let said = |kind, sentence| Verdict { kind, sentence };
    if plan.arenas.is_empty() {
        return said(
            VerdictKind::Nothing,
            "No arena is worth it: too few objects end with a function, or keeping them would raise the peak by more than \
             is allowed."
                .to_owned(),
        );
    }
    let worst = held_out.iter().max_by(|one, other| one.violation_share.total_cmp(&other.violation_share));
    let Some(worst) = worst else {
        return said(
            VerdictKind::ThinEvidence,
            format!(
                "One trace says what happened once, not what always happens: nothing is promised. Record {ENOUGH_INPUTS} or \
                 more different inputs and give all of them."
            ),
        );
    };
    if worst.violation_share > SAFE_SHARE {
        return said(
            VerdictKind::Breaks,
            format!(
                "On {} {:.3} % of the objects placed outlive their arena or change threads, more than {} %: the sites below \
                 that break must stay with malloc, or be promoted.",
                worst.trace,
                100.0 * worst.violation_share,
                100.0 * SAFE_SHARE
            ),
        );
    }
    let highest = held_out.iter().max_by(|one, other| one.peak_change.total_cmp(&other.peak_change));
    if let Some(highest) = highest.filter(|highest| highest.peak_change > max_peak) {
        return said(
            VerdictKind::RaisesPeak,
            format!(
                "On {} the peak would be {:.2} % higher, more than the {:.2} % that are allowed: give it to train on, too, or \
                 allow less, so that the plan leaves more room.",
                highest.trace,
                100.0 * highest.peak_change,
                100.0 * max_peak
            ),
        );
    }
    let inputs = held_out.len();
    if trained_on.len().max(inputs) < ENOUGH_INPUTS {
        return said(
            VerdictKind::ThinEvidence,
            format!(
                "It held on {inputs} input{} that it was not made from; {ENOUGH_INPUTS} different ones are the least that a \
                 promise needs.",
                if inputs == 1 { "" } else { "s" }
            ),
        );
    }
    said(
        VerdictKind::Holds,
        format!(
            "On {inputs} inputs that it was not made from at most {:.4} % of the objects placed broke it. So few inputs \
             leave a chance of up to {:.0} % that another one breaks it more (95 % confidence).",
            100.0 * worst.violation_share,
            100.0 * (1.0 - 0.05_f64.powf(1.0 / inputs as f64))
        ),
    )
}
