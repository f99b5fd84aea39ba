//! Makes a plan from some traces that keeps the peak of each. Responsible for the way from a choice to a plan that was tried, and back
//! when it holds too much; not for the choice itself (see `choose`) nor for what a plan comes to (see `simulate`).

use foldhash::HashMap;
use rayon::prelude::*;
use trace_format::{ReadError, Sequence};

use super::ArenaOptions;
use super::atoms::{AtomFacts, Atoms, Book};
use super::choose::{self, Budget, Choice, Market, Scope};
use super::keys::{self, Key};
use super::plan::{Arena, AtEnd, Plan};
use super::proof::{BrokenSite, broken_sites, change};
use super::simulate::{ArenaFigures, High, Simulated, simulate};
use super::study::{Studied, more, survey};
use super::survey::Sample;
use crate::phases::View;

/// Times that a plan is made when the one before had too high a peak, or useless arenas; after that, arenas are given up one by one.
const ATTEMPTS: usize = 6;
/// Part of the rise that is allowed which a plan should use on the traces it is made from: on another input it may use more.
const AIM: f64 = 0.5;
/// Plans that are made once one keeps to what is allowed, to come closer to the aim.
const MORE_TRIES: usize = 2;
/// How many times what was too much a plan must hold less the next time; each time so many times more.
const SHARPLY: f64 = 1.3;
/// Part of what is free below the peak at other moments that arenas may hold then: on another input the peak may be there.
const CAUTION: f64 = 0.25;
/// Twice the fewest objects of an instance, on average, that are worth an arena: one and a half.
const TWICE_FEWEST_OBJECTS: u64 = 3;
/// Activations in each trace from which on an arena keeps its first chunk for the next.
const MANY_ACTIVATIONS: u64 = 64;

/// A plan with what it was made of.
pub(super) struct Fitted {
    pub(super) plan: Plan,
    pub(super) keys: Vec<Key>,
    pub(super) scopes: Vec<Scope>,
    /// By trace that it was made from.
    pub(super) tried: Vec<(usize, Tried)>,
}

/// A plan, simulated on a trace.
pub(super) struct Tried {
    pub(super) simulated: Simulated,
    pub(super) broken: Vec<BrokenSite>,
}

/// Everything that is needed to make plans and to try them.
pub(super) struct Bench<'a, 't, P> {
    pub(super) views: &'a [View<'t>],
    pub(super) options: &'a ArenaOptions,
    pub(super) atoms: &'a Atoms,
    pub(super) book: &'a Book,
    pub(super) studied: &'a [Studied],
    pub(super) progress: &'a P,
}

impl<P: Fn(u64) + Sync> Bench<'_, '_, P> {
    /// Facts of some traces.
    pub(super) fn together(&self, traces: &[usize]) -> Vec<AtomFacts> {
        let counts: Vec<usize> = self.studied.iter().map(|studied| studied.live_bytes.len()).collect();
        self.atoms.together(traces, &counts)
    }

    /// What a plan comes to on a trace.
    pub(super) fn simulate(&self, at: usize, plan: &Plan) -> Result<Tried, ReadError> {
        let view = &self.views[at];
        let options = self.options;
        let progress = more(self.progress);
        let (outcome, simulated) = simulate(view, &options.wrappers, plan, options.decoders, progress)?;
        let broken = broken_sites(view, &options.wrappers, &outcome, plan, &simulated);
        Ok(Tried { simulated, broken })
    }

    /// Makes a plan from some traces that keeps the peak of each.
    ///
    /// The moments that dead bytes are priced at are those when most is alive. With arenas the peak may be at another one: then that
    /// moment is surveyed too, and the plan made again (a cutting plane: the constraint that was broken is added).
    pub(super) fn fit(&self, traces: &[usize]) -> Result<Fitted, ReadError> {
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
            let sampled =
                broken.par_iter().map(|(_, at, highs)| self.sample(*at, highs.iter().map(|high| high.after).collect()));
            let sampled = sampled.collect::<Result<Vec<_>, ReadError>>()?;
            for ((place, at, highs), sampled) in broken.into_iter().zip(sampled) {
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
        &self,
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
            let kept = fitted.keys.into_iter().filter(|key| !worse.contains(&fitted.scopes[key.scope]));
            let renumbered = kept.filter_map(|key| {
                let scope = choice.scopes.iter().position(|known| *known == fitted.scopes[key.scope])?;
                Some(Key { scope, ..key })
            });
            keys = renumbered.collect();
        }
    }

    /// Dead bytes that arenas may hold at a moment when so much is alive.
    fn spare(&self, at: usize, allowed: f64, live_bytes: u64) -> f64 {
        let peak = self.studied[at].peak_bytes as f64;
        (allowed - peak + CAUTION * (peak - live_bytes as f64).max(0.0)).max(0.0)
    }

    /// What would be held at some moments of a trace.
    fn sample(&self, at: usize, moments: Vec<Sequence>) -> Result<Vec<Sample>, ReadError> {
        let (_, facts) = survey(&self.views[at], self.options, moments, self.progress)?;
        Ok(facts.samples)
    }

    fn live_byte_bytes(&self, at: usize) -> f64 {
        // Half of the peak, on average: only a scale for the price of drag.
        let studied = &self.studied[at];
        studied.peak_bytes as f64 / 2.0 * studied.outcome.total.counts.alloc_bytes as f64
    }

    fn try_out(&self, traces: &[usize], all_scopes: &[Scope], keys: Vec<Key>) -> Result<Fitted, ReadError> {
        // Scopes that no key leads to are no arenas.
        let used: Vec<usize> = (0..all_scopes.len()).filter(|at| keys.iter().any(|key| key.scope == *at)).collect();
        let number: HashMap<usize, usize> = used.iter().enumerate().map(|(new, old)| (*old, new)).collect();
        let keys: Vec<Key> = keys.into_iter().map(|key| Key { scope: number[&key.scope], ..key }).collect();
        let scopes: Vec<Scope> = used.iter().map(|at| all_scopes[*at]).collect();
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
        let tried =
            traces.par_iter().map(|at| Ok((*at, self.simulate(*at, &plan)?))).collect::<Result<_, ReadError>>()?;
        Ok(Fitted { plan, keys, scopes, tried })
    }

    /// What is called again and again keeps a chunk.
    fn at_end(&self, traces: &[usize], scope: Scope) -> AtEnd {
        let activations = self.atoms.scope(traces, scope.name).activation_count;
        if activations >= MANY_ACTIVATIONS * traces.len() as u64 { AtEnd::Reset } else { AtEnd::Destroy }
    }
}

/// The scopes of arenas that hold too few objects at a time, or save no more frees than their chunks cost.
fn useless(fitted: &Fitted) -> Vec<Scope> {
    let sum = |arena: usize, of: fn(&ArenaFigures) -> u64| -> u64 {
        fitted.tried.iter().map(|(_, tried)| of(&tried.simulated.arenas[arena])).sum()
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
    fitted.tried.iter().zip(allowed).enumerate().filter_map(|(place, ((at, tried), allowed))| {
        let over = tried.simulated.highs.iter().filter(|high| high.bytes as f64 > *allowed);
        let over: Vec<High> = over.copied().collect();
        (!over.is_empty()).then_some((place, *at, over))
    })
}

/// How much higher the peak is with a plan, as a part; the worst trace.
fn rises(fitted: &Fitted) -> f64 {
    let peaks = fitted.tried.iter().map(|(_, tried)| &tried.simulated);
    peaks.map(|simulated| change(simulated.plain_peak_bytes, simulated.peak_bytes)).fold(f64::NEG_INFINITY, f64::max)
}

/// The scope of the arena that raises the peak of a trace most by itself.
fn raises_most(fitted: &Fitted) -> Option<Scope> {
    let rise = |arena: usize| {
        let of = |simulated: &Simulated| {
            change(simulated.plain_peak_bytes, simulated.arenas[arena].alone_peak_bytes.max(simulated.plain_peak_bytes))
        };
        fitted.tried.iter().map(|(_, tried)| of(&tried.simulated)).fold(0.0, f64::max)
    };
    let worst = (0..fitted.scopes.len()).max_by(|one, other| rise(*one).total_cmp(&rise(*other)))?;
    Some(fitted.scopes[worst])
}
