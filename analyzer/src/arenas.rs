//! Which sites should move into which arena, opened and closed where, what that saves and costs, and whether it holds on other
//! inputs. Responsible for the way from traces to suggestions with their proof; not for printing.
//!
//! ```text
//!  trace ─▶ crest: when most is alive ─▶ survey: how far blocks escape, what keeping them costs ─┐
//!  trace ─▶ …                                                                                   ├─▶ atoms: by function names
//!  trace ─▶ …                                                                                   ┘      │
//!                     simulate ◀── plan ◀── keys: shortest right paths ◀── choose: facility location ◀─┘
//!                        │                                                          ▲
//!                        ├─ over the peak that is allowed? less to spend ───────────┘
//!                        └─▶ figures, violations; on traces that the plan was not made from: proof
//! ```
//!
//! A plan never breaks on the traces it was made from. Whether it breaks on others is what the proof says: with several traces each is
//! left out once, a plan is made from the others, and tried on it.

mod atoms;
mod choose;
mod crest;
mod fit;
mod follow;
mod growth;
mod keys;
mod phases;
mod plan;
mod proof;
mod simulate;
mod study;
mod suggest;
mod survey;
mod turns;

pub use follow::{Broken, Following, InstanceId, Stage};
pub use growth::{Chunks, Policy, in_malloc, padded};
pub use plan::{Arena, AtEnd, Home, Nesting, Placement, Plan};
pub use proof::{BrokenSite, SAFE_SHARE, Trial, Verdict, VerdictKind};
pub(crate) use simulate::Simulation;
pub use simulate::{ArenaFigures, High, Simulated, simulate};
pub use suggest::{Builder, Escapee, InPhase, Passed, ScopeKind, Site, Suggestion, Tested};

use rayon::prelude::*;
use serde::Serialize;
use trace_format::{ReadError, Trace};

use self::atoms::{Atoms, Book};
use self::fit::Bench;
use self::phases::Phases;
use self::proof::verdict;
use self::study::study;
use crate::doubt::{Doubt, doubts, phases_left_out};
use crate::names::Names;
use crate::phases::View;
use crate::profile::Profile;
use crate::wrappers::Wrappers;

/// A trace to learn from, or to try a plan on.
#[derive(Debug)]
pub struct Input<'a> {
    /// What to call it.
    pub label: String,
    /// The trace.
    pub trace: &'a Trace,
    /// Its names.
    pub names: &'a Names,
    /// Only a plan is tried on it.
    pub held_out: bool,
}

/// How to look for arenas.
#[derive(Debug, Clone)]
pub struct ArenaOptions {
    /// How the arenas take memory.
    pub policy: Policy,
    /// Kinds of arenas at most.
    pub limit: usize,
    /// How much higher the peak may be, as a part of it.
    pub max_peak: f64,
    /// Functions that allocate on behalf of others.
    pub wrappers: Wrappers,
    /// Profiles of compilers: which phases arenas are in, and what markers mean, whose phases are scopes.
    pub profiles: Vec<Profile>,
    /// Threads that decode.
    pub decoders: usize,
}

/// Suggestions and their proof. This is what `heaptape arenas --json` prints.
#[derive(Debug, Clone, Serialize)]
pub struct Arenas {
    /// Version of this interface.
    pub schema: u32,
    /// How the arenas take memory.
    pub policy: Policy,
    /// The traces the plan was made from, with what it comes to on each.
    pub trained_on: Vec<Trial>,
    /// Traces that a plan was tried on without having been made from them.
    pub held_out: Vec<Trial>,
    /// What may be promised.
    pub verdict: Verdict,
    /// The arenas, those with the most objects first.
    pub suggestions: Vec<Suggestion>,
    /// What the figures do not know.
    pub doubts: Vec<Doubt>,
    /// The plan itself.
    pub plan: Plan,
}

/// Looks for arenas, as many plans at a time as there are processors. `progress` is told how many more events were read, over all
/// passes.
///
/// Memory: what `Survey` and `Simulation` keep of each trace that is read at a time, and the `View` of each.
///
/// # Errors
/// A file became unreadable.
pub fn arenas<'a>(
    inputs: &[Input<'a>],
    options: &ArenaOptions,
    progress: impl Fn(u64) + Sync,
) -> Result<Arenas, ReadError> {
    // Several traces are read at a time as it is.
    let decoders = if inputs.len() > 1 { 0 } else { options.decoders };
    let options = &ArenaOptions { decoders, ..options.clone() };
    let mut book = Book::default();
    let mut atoms = Atoms::default();
    let mut studied = Vec::new();
    let with_phases = |input: &Input<'a>| {
        View::with_phases(input.trace, input.names, &options.profiles, options.decoders, study::more(&progress))
    };
    let views = inputs.par_iter().map(with_phases).collect::<Result<Vec<_>, _>>()?;
    let found = views.par_iter().map(|view| study(view, options, &progress)).collect::<Result<Vec<_>, _>>()?;
    for (view, (trace, facts)) in views.iter().zip(found) {
        atoms.add(view, &options.wrappers, &trace.outcome, &facts, &mut book);
        studied.push(trace);
    }
    let bench = Bench { views: &views, options, atoms: &atoms, book: &book, studied: &studied, progress: &progress };
    let training: Vec<usize> = (0..inputs.len()).filter(|at| !inputs[*at].held_out).collect();
    let testing: Vec<usize> = (0..inputs.len()).filter(|at| inputs[*at].held_out).collect();
    let leaves_out = testing.is_empty() && training.len() > 1;
    // What each plan is made from, and what it is tried on beside that.
    let mut folds = vec![(training.clone(), testing)];
    for left_out in training.iter().filter(|_| leaves_out) {
        let others = training.iter().copied().filter(|at| at != left_out).collect();
        folds.push((others, vec![*left_out]));
    }
    let fit = |(made_from, tried_on): (Vec<usize>, Vec<usize>)| {
        let fitted = bench.fit(&made_from)?;
        let tried = tried_on.into_iter().map(|at| Ok((at, bench.simulate(at, &fitted.plan)?)));
        let tried = tried.collect::<Result<Vec<_>, ReadError>>()?;
        Ok((made_from, fitted, tried))
    };
    let fitted = folds.into_par_iter().map(fit).collect::<Result<Vec<_>, ReadError>>()?;
    let trial = |at, made_from: &[usize], plan, tried| Trial::of(inputs, at, made_from, plan, tried);
    let mut held_out = Vec::new();
    for (made_from, fitted, tried) in &fitted {
        held_out.extend(tried.iter().map(|(at, tried)| trial(*at, made_from, &fitted.plan, tried)));
    }
    let (_, whole, _) = &fitted[0];
    let trained_on: Vec<Trial> =
        whole.tried.iter().map(|(at, tried)| trial(*at, &training, &whole.plan, tried)).collect();
    let facts = bench.together(&training);
    let simulated: Vec<&Simulated> = whole.tried.iter().map(|(_, tried)| &tried.simulated).collect();
    let mut suggestions = suggest::suggestions(&suggest::Material {
        book: &book,
        atoms: &atoms,
        facts: &facts,
        phases: &Phases::of(&options.profiles, inputs),
        plan: &whole.plan,
        scopes: &whole.scopes,
        keys: &whole.keys,
        simulated: &simulated,
    });
    for (_, fitted, tried) in &fitted {
        for (at, tried) in tried {
            suggest::add_test(&mut suggestions, &inputs[*at].label, &fitted.plan, &tried.simulated);
        }
    }
    let mut all_doubts: Vec<Doubt> = Vec::new();
    let left_out: u64 = views.iter().map(View::left_out_count).sum();
    if left_out > 0 {
        all_doubts.push(phases_left_out(left_out));
    }
    for (input, studied) in inputs.iter().zip(&studied) {
        for doubt in doubts(input.trace, &studied.outcome) {
            if !all_doubts.contains(&doubt) {
                all_doubts.push(doubt);
            }
        }
    }
    Ok(Arenas {
        schema: 1,
        policy: options.policy,
        verdict: verdict(&trained_on, &held_out, &whole.plan, options.max_peak),
        trained_on,
        held_out,
        suggestions,
        doubts: all_doubts,
        plan: whole.plan.clone(),
    })
}
