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
mod follow;
mod growth;
mod keys;
mod plan;
mod simulate;
mod suggest;
mod survey;
mod turns;

pub use follow::{Broken, Following, InstanceId, Stage};
pub use growth::{Chunks, Policy, in_malloc, padded};
pub use plan::{Arena, AtEnd, Home, Nesting, Placement, Plan};
pub(crate) use simulate::Simulation;
pub use simulate::{ArenaFigures, High, Simulated, simulate};
pub use suggest::{Builder, Escapee, Passed, Site, Suggestion, Tested};

use foldhash::HashMap;
use serde::Serialize;
use trace_format::{ReadError, Sequence, Trace};

use self::atoms::{AtomFacts, Atoms, Book};
use self::choose::{Budget, Choice, Market};
use self::keys::Key;
use self::survey::{Sample, Survey};
use crate::doubt::{Doubt, doubts};
use crate::leaks::Functions;
use crate::names::Names;
use crate::replay::{Outcome, replay_with};
use crate::sites::ratio;
use crate::wrappers::Wrappers;

/// Most objects of a held-out trace that may break a plan that is called safe.
pub const SAFE_SHARE: f64 = 0.001;
/// Fewest other inputs that a promise needs.
const ENOUGH_INPUTS: usize = 3;
/// Times that a plan is made when the one before had too high a peak, or useless arenas; after that, arenas are given up one by one.
const ATTEMPTS: usize = 6;
/// Part of the rise that is allowed which a plan should use on the traces it is made from: on another input it may use more.
const AIM: f64 = 0.5;
/// Plans that are made once one keeps to what is allowed, to come closer to the aim.
const MORE_TRIES: usize = 2;
/// How many times what was too much a plan must hold less the next time; each time so many times more.
const SHARPLY: f64 = 1.3;
/// Sites that break a plan, listed.
const LISTED_BROKEN: usize = 20;
/// Callers of such a site, listed.
const LISTED_CALLERS: usize = 6;
/// Part of what is free below the peak at other moments that arenas may hold then: on another input the peak may be there.
const CAUTION: f64 = 0.25;
/// Twice the fewest objects of an instance, on average, that are worth an arena: one and a half.
const TWICE_FEWEST_OBJECTS: u64 = 3;
/// Activations in each trace from which on an arena keeps its first chunk for the next.
const MANY_ACTIVATIONS: u64 = 64;

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

/// What one trace says.
struct Studied {
    sample_count: usize,
    live_bytes: Vec<u64>,
    peak_bytes: u64,
    outcome: Outcome,
}

/// A plan with what it was made of.
struct Fitted {
    plan: Plan,
    keys: Vec<Key>,
    scopes: Vec<choose::Scope>,
    simulated: Vec<(usize, Tried)>,
}

/// A plan, simulated on a trace.
struct Tried {
    simulated: Simulated,
    broken: Vec<BrokenSite>,
}

/// Looks for arenas. `progress` is told of events done, over all passes.
///
/// # Errors
/// A file became unreadable.
pub fn arenas(
    inputs: &[Input<'_>],
    options: &ArenaOptions,
    mut progress: impl FnMut(u64),
) -> Result<Arenas, ReadError> {
    let mut book = Book::default();
    let mut atoms = Atoms::default();
    let mut studied = Vec::new();
    for input in inputs {
        studied.push(study(input, options, &mut atoms, &mut book, &mut progress)?);
    }
    let training: Vec<usize> = (0..inputs.len()).filter(|at| !inputs[*at].held_out).collect();
    let testing: Vec<usize> = (0..inputs.len()).filter(|at| inputs[*at].held_out).collect();
    let mut bench = Bench { inputs, options, atoms: &atoms, book: &book, studied: &studied, progress: &mut progress };
    let whole = bench.fit(&training)?;
    let trained_on: Vec<Trial> =
        whole.simulated.iter().map(|(at, tried)| bench.trial(*at, &training, &whole.plan, tried)).collect();
    let mut held_out = Vec::new();
    let mut tested = Vec::new();
    for at in &testing {
        let tried = bench.simulate(*at, &whole.plan)?;
        held_out.push(bench.trial(*at, &training, &whole.plan, &tried));
        tested.push((*at, whole.plan.clone(), tried.simulated));
    }
    if testing.is_empty() && training.len() > 1 {
        for left_out in &training {
            let others: Vec<usize> = training.iter().copied().filter(|at| at != left_out).collect();
            let fitted = bench.fit(&others)?;
            let tried = bench.simulate(*left_out, &fitted.plan)?;
            held_out.push(bench.trial(*left_out, &others, &fitted.plan, &tried));
            tested.push((*left_out, fitted.plan, tried.simulated));
        }
    }
    let facts = bench.together(&training);
    let simulated: Vec<&Simulated> = whole.simulated.iter().map(|(_, tried)| &tried.simulated).collect();
    let mut suggestions = suggest::suggestions(&suggest::Material {
        book: &book,
        atoms: &atoms,
        facts: &facts,
        plan: &whole.plan,
        scopes: &whole.scopes,
        keys: &whole.keys,
        simulated: &simulated,
    });
    for (at, plan, simulated) in &tested {
        let label = &inputs[*at].label;
        suggest::add_test(&mut suggestions, label, plan, simulated);
    }
    let mut all_doubts: Vec<Doubt> = Vec::new();
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
        plan: whole.plan,
    })
}

fn study(
    input: &Input<'_>,
    options: &ArenaOptions,
    atoms: &mut Atoms,
    book: &mut Book,
    progress: &mut impl FnMut(u64),
) -> Result<Studied, ReadError> {
    let tables = &input.trace.tables;
    let (_, crest) = replay_with(input.trace, crest::Crest::default(), options.decoders, &mut *progress)?;
    let moments = crest.moments();
    let wanted: Vec<Sequence> = moments.iter().map(|(at, _)| *at).collect();
    let functions = Functions::of(input.names).of_frames(tables.frames.len());
    let survey = Survey::new(tables, functions, wanted);
    let (outcome, survey) = replay_with(input.trace, survey, options.decoders, &mut *progress)?;
    let facts = survey.finish();
    atoms.add(input.trace, input.names, &options.wrappers, &outcome, &facts, book);
    Ok(Studied {
        sample_count: moments.len(),
        live_bytes: moments.iter().map(|(_, bytes)| *bytes).collect(),
        peak_bytes: outcome.total.peak.bytes,
        outcome,
    })
}

/// Everything that is needed to make plans and to try them.
struct Bench<'a, 'i, P> {
    inputs: &'a [Input<'i>],
    options: &'a ArenaOptions,
    atoms: &'a Atoms,
    book: &'a Book,
    studied: &'a [Studied],
    progress: &'a mut P,
}

impl<P: FnMut(u64)> Bench<'_, '_, P> {
    fn together(&self, traces: &[usize]) -> Vec<AtomFacts> {
        let counts: Vec<usize> = self.studied.iter().map(|studied| studied.sample_count).collect();
        self.atoms.together(traces, &counts)
    }

    fn simulate(&mut self, at: usize, plan: &Plan) -> Result<Tried, ReadError> {
        let input = &self.inputs[at];
        let options = self.options;
        let (outcome, simulated) =
            simulate(input.trace, input.names, &options.wrappers, plan, options.decoders, &mut *self.progress)?;
        let broken = broken_sites(input, &options.wrappers, &outcome, plan, &simulated);
        Ok(Tried { simulated, broken })
    }

    /// Makes a plan from some traces that keeps the peak of each.
    ///
    /// The moments that dead bytes are priced at are those when most is alive. With arenas the peak may be at another one: then that
    /// moment is surveyed too, and the plan made again (a cutting plane: the constraint that was broken is added).
    fn fit(&mut self, traces: &[usize]) -> Result<Fitted, ReadError> {
        let mut facts = self.together(traces);
        let rise = |part: f64| -> Vec<f64> {
            let peaks = traces.iter().map(|at| self.studied[*at].peak_bytes as f64);
            peaks.map(|peak| peak * (1.0 + part * self.options.max_peak)).collect()
        };
        let (allowed, aim) = (rise(1.0), rise(AIM));
        let mut budget = Budget::default();
        for (at, aim) in traces.iter().zip(&aim) {
            let live_bytes = &self.studied[*at].live_bytes;
            budget.spare.extend(live_bytes.iter().map(|live| self.spare(*at, *aim, *live)));
        }
        budget.rise = traces.iter().map(|at| self.studied[*at].peak_bytes as f64).fold(f64::INFINITY, f64::min)
            * self.options.max_peak;
        budget.live_time = traces.iter().map(|at| self.live_byte_bytes(*at)).sum();
        let is_scope = |name| !choose::is_root(self.book.name(name));
        let mut market = Market::of(self.atoms, &facts, is_scope, |name| self.atoms.scope(traces, name));
        // Plans that keep to what is allowed, if not to what is aimed at.
        let mut good_enough: Vec<Fitted> = Vec::new();
        for attempt in 0..ATTEMPTS {
            let choice = market.choose(&budget, self.options.limit);
            let keys = keys::keys(self.atoms, traces, &facts, &choice);
            let fitted = self.try_out(traces, &choice.scopes, keys)?;
            let broken: Vec<(usize, usize, Vec<High>)> = broken_moments(&fitted, &aim).collect();
            let useless = useless(&fitted);
            // Others may take what they held.
            market.give_up(&useless);
            if useless.is_empty() {
                if broken.is_empty() {
                    return Ok(fitted);
                }
                if broken_moments(&fitted, &allowed).next().is_none() {
                    good_enough.push(fitted);
                }
                if good_enough.len() > MORE_TRIES {
                    break;
                }
            }
            for (place, at, highs) in broken {
                let moments = highs.iter().map(|high| high.after).collect();
                let sampled = self.sample(at, moments)?;
                for (high, sample) in highs.iter().zip(&sampled) {
                    let (number, held) = (budget.spare.len() as u32, self.atoms.held(at, sample));
                    market.add_sample(number, &held);
                    for (atom, frame, bytes) in held {
                        facts[atom as usize].held.push((number, frame, bytes));
                    }
                    // What chunks hold beside dead blocks is known from the simulation only.
                    let less = SHARPLY * (1 + attempt) as f64 * (high.bytes as f64 - aim[place]);
                    let enough = (market.held_at(&choice, number) - less).max(0.0);
                    budget.spare.push(enough.min(self.spare(at, aim[place], high.live_bytes)));
                }
            }
        }
        if let Some(lowest) = good_enough.into_iter().min_by(|one, other| rises(one).total_cmp(&rises(other))) {
            return Ok(lowest);
        }
        let choice = market.choose(&budget, self.options.limit);
        self.without_the_worst(traces, &facts, &choice, &allowed)
    }

    /// A plan that keeps the peak, made by giving up what is useless or raises the peak most; no arena if need be.
    fn without_the_worst(
        &mut self,
        traces: &[usize],
        facts: &[AtomFacts],
        choice: &Choice,
        allowed: &[f64],
    ) -> Result<Fitted, ReadError> {
        let mut keys = keys::keys(self.atoms, traces, facts, choice);
        loop {
            let fitted = self.try_out(traces, &choice.scopes, keys)?;
            let mut worse = useless(&fitted);
            if broken_moments(&fitted, allowed).next().is_some() {
                worse.extend(raises_most(&fitted));
            }
            if worse.is_empty() {
                return Ok(fitted);
            }
            // `try_out` numbers the scopes that have keys; back to the numbers of the choice.
            let number = |scope: &choose::Scope| choice.scopes.iter().position(|known| known == scope).unwrap_or(0);
            let kept = fitted.keys.iter().filter(|key| !worse.contains(&fitted.scopes[key.scope]));
            keys = kept.map(|key| Key { scope: number(&fitted.scopes[key.scope]), ..key.clone() }).collect();
        }
    }

    /// Dead bytes that arenas may hold at a moment when so much is alive.
    fn spare(&self, at: usize, allowed: f64, live_bytes: u64) -> f64 {
        let peak = self.studied[at].peak_bytes as f64;
        (allowed - peak + CAUTION * (peak - live_bytes as f64).max(0.0)).max(0.0)
    }

    /// What would be held at some moments of a trace.
    fn sample(&mut self, at: usize, moments: Vec<Sequence>) -> Result<Vec<Sample>, ReadError> {
        let input = &self.inputs[at];
        let functions = Functions::of(input.names).of_frames(input.trace.tables.frames.len());
        let survey = Survey::new(&input.trace.tables, functions, moments);
        let (_, survey) = replay_with(input.trace, survey, self.options.decoders, &mut *self.progress)?;
        Ok(survey.finish().samples)
    }

    fn live_byte_bytes(&self, at: usize) -> f64 {
        // Half of the peak, on average: only a scale for the price of drag.
        let studied = &self.studied[at];
        studied.peak_bytes as f64 / 2.0 * studied.outcome.total.counts.alloc_bytes as f64
    }

    fn try_out(&mut self, traces: &[usize], all_scopes: &[choose::Scope], keys: Vec<Key>) -> Result<Fitted, ReadError> {
        // Scopes that no key leads to are no arenas.
        let used: Vec<usize> = (0..all_scopes.len()).filter(|at| keys.iter().any(|key| key.scope == *at)).collect();
        let number: HashMap<usize, usize> = used.iter().enumerate().map(|(new, old)| (*old, new)).collect();
        let keys: Vec<Key> = keys.into_iter().map(|key| Key { scope: number[&key.scope], ..key }).collect();
        let scopes: Vec<choose::Scope> = used.iter().map(|at| all_scopes[*at]).collect();
        let arenas = scopes.iter().enumerate().map(|(at, scope)| Arena {
            scope: self.book.name(scope.name).to_owned(),
            nesting: scope.nesting,
            at_end: self.at_end(traces, *scope),
            keys: keys
                .iter()
                .filter(|key| key.scope == at)
                .map(|key| key.path.iter().map(|name| self.book.name(*name).to_owned()).collect())
                .collect(),
        });
        let plan = Plan::new(self.options.policy, arenas.collect());
        let mut simulated = Vec::new();
        for at in traces {
            let figures = self.simulate(*at, &plan)?;
            simulated.push((*at, figures));
        }
        Ok(Fitted { plan, keys, scopes, simulated })
    }

    /// What is called again and again keeps a chunk.
    fn at_end(&self, traces: &[usize], scope: choose::Scope) -> AtEnd {
        let activations = self.atoms.scope(traces, scope.name).activation_count;
        if activations >= MANY_ACTIVATIONS * traces.len() as u64 { AtEnd::Reset } else { AtEnd::Destroy }
    }

    fn trial(&self, at: usize, made_from: &[usize], plan: &Plan, tried: &Tried) -> Trial {
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
        Trial {
            trace: self.inputs[at].label.clone(),
            made_from: made_from.iter().map(|at| self.inputs[*at].label.clone()).collect(),
            events: self.inputs[at].trace.event_count,
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
fn broken_sites(
    input: &Input<'_>,
    wrappers: &Wrappers,
    outcome: &Outcome,
    plan: &Plan,
    simulated: &Simulated,
) -> Vec<BrokenSite> {
    let mut book = Book::default();
    let paths = plan::StackPaths::new(&input.trace.tables, input.names, wrappers, |name| book.intern(name));
    let mut path = Vec::new();
    let mut sites: Vec<BrokenSite> = Vec::new();
    for ((arena, cell), broken) in &simulated.broken {
        let Some(row) = outcome.cells.get(cell.index()) else { continue };
        paths.path(row.stack, &mut path);
        let scope = &plan.arenas[*arena].scope;
        let mut names = path.iter().step_by(2).map(|name| book.name(*name).to_owned());
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

/// The scopes of arenas that hold too few objects at a time, or save no more frees than their chunks cost.
fn useless(fitted: &Fitted) -> Vec<choose::Scope> {
    let sum = |arena: usize, of: fn(&ArenaFigures) -> u64| -> u64 {
        fitted.simulated.iter().map(|(_, tried)| of(&tried.simulated.arenas[arena])).sum()
    };
    let is_useful = |arena: usize| {
        sum(arena, |figures| figures.object_count) * 2
            >= TWICE_FEWEST_OBJECTS * sum(arena, |figures| figures.instance_count)
            && sum(arena, |figures| figures.free_count) > sum(arena, |figures| figures.chunk_count)
    };
    (0..fitted.scopes.len()).filter(|arena| !is_useful(*arena)).map(|arena| fitted.scopes[arena]).collect()
}

/// Moments at which more is held than is allowed: place among the traces of the plan, the trace, and its moments.
fn broken_moments<'f>(
    fitted: &'f Fitted,
    allowed: &'f [f64],
) -> impl Iterator<Item = (usize, usize, Vec<High>)> + use<'f> {
    fitted.simulated.iter().zip(allowed).enumerate().filter_map(|(place, ((at, tried), allowed))| {
        let over = tried.simulated.highs.iter().filter(|high| high.bytes as f64 > *allowed);
        let over: Vec<High> = over.copied().collect();
        (!over.is_empty()).then_some((place, *at, over))
    })
}

/// How much higher the peak is with a plan, as a part; the worst trace.
fn rises(fitted: &Fitted) -> f64 {
    let peaks = fitted.simulated.iter().map(|(_, tried)| &tried.simulated);
    peaks.map(|simulated| change(simulated.plain_peak_bytes, simulated.peak_bytes)).fold(f64::NEG_INFINITY, f64::max)
}

/// The scope of the arena that raises the peak of a trace most by itself.
fn raises_most(fitted: &Fitted) -> Option<choose::Scope> {
    let rise = |arena: usize| {
        let of = |simulated: &Simulated| {
            change(simulated.plain_peak_bytes, simulated.arenas[arena].alone_peak_bytes.max(simulated.plain_peak_bytes))
        };
        fitted.simulated.iter().map(|(_, tried)| of(&tried.simulated)).fold(0.0, f64::max)
    };
    let worst = (0..fitted.scopes.len()).max_by(|one, other| rise(*one).total_cmp(&rise(*other)))?;
    Some(fitted.scopes[worst])
}

/// How much more `after` is than `before`, as a part.
fn change(before: u64, after: u64) -> f64 {
    if before == 0 { 0.0 } else { after as f64 / before as f64 - 1.0 }
}

fn verdict(trained_on: &[Trial], held_out: &[Trial], plan: &Plan, max_peak: f64) -> Verdict {
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
                "On {} the peak would be {:.2} % higher, more than the {:.2} % that are allowed: give it to train on, too, or                  allow less, so that the plan leaves more room.",
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
