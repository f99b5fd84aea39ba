//! Which functions' activations should have an arena. Responsible for the optimisation; not for naming what goes into them (see
//! `keys`) nor for what the choice comes to (see `simulate`).
//!
//! # Facility location
//!
//! An atom `a` (a path of functions) may live in the arena of a scope `F` if each of its blocks, in each trace, died before the
//! activation of `F` on its stack ended, on the thread it was born on. Serving it there is worth
//!
//! ```text
//!   value(a, F) = objects(a) − Σ_s μ_s · held(a, F, s) − λ · drag(a, F)
//! ```
//!
//! where `held` are dead bytes that its arena still holds at moment `s` and `drag` is dead bytes × time. A set S of scopes is worth
//!
//! ```text
//!   Σ_a max(0, max_{F ∈ S} value(a, F)) − Σ_{F ∈ S} (penalty + activations(F) · opening)
//! ```
//!
//! the uncapacitated facility location problem. Its objective is submodular, so greedy opening is within 1 − 1/e of the best; a scope
//! that another one makes useless is closed again afterwards, and swapped for a better one.
//!
//! The prices `μ` keep the peak: they start at nothing and rise for the moments at which the chosen arenas would hold more than
//! allowed (a multiplier for each moment, as in Lagrangian relaxation). Moments are added where a simulated plan holds too much. λ is small: it keeps memory from being wasted. That alone would
//! leave short-lived blocks in the arena of a whole phase wherever they are small. So of arenas that hold the same blocks the one
//! that ends sooner is better at any size, by the order of magnitude that blocks stay there after their death:
//!
//! ```text
//!   value(a, F) = objects(a) · (1 − LATE · log10(1 + stay(a, F) / SOON)) − …         stay = drag(a, F) / bytes(a)
//! ```
//!
//! Moments say what happened once. On another input the longest activation may be the one at the peak, so what one activation held at
//! most has a price too, by how it compares with the rise of the peak that is allowed:
//!
//! ```text
//!   value(a, F) = … − CROWD · all objects · w² / (w + CROWDED)                        w = most dead bytes(a, F) / rise allowed
//! ```

use super::atoms::{AtomFacts, Atoms, NameId, ScopeFacts};
use super::plan::{Nesting, activations, scope_frame};

/// Scopes that are considered at most, those that fit most objects.
const CONSIDERED: usize = 400;
/// Part of its process's allocations during one activation that makes a function as good as the process.
pub(super) const WHOLE_PROCESS: f64 = 0.9;
/// Objects that one activation must hold to pay for opening and closing its arena.
const OPENING: f64 = 2.0;
/// Most that opening may cost, as a part of the objects that fit.
const MOST_FOR_OPENING: f64 = 0.02;
/// Part of all objects that a scope must add to be worth an arena.
const PENALTY: f64 = 0.0005;
/// Part of all objects that doubling the memory in use, all the time, would be worth.
const DRAG: f64 = 0.05;
/// Part of all objects that it costs if an atom's dead bytes in one activation come to the rise of the peak that is allowed: on
/// another input the peak may be in that activation.
const CROWD: f64 = 0.0035;
/// Part of that rise from which on that is so. Less costs less than in proportion, for the most of many atoms is not at one time.
const CROWDED: f64 = 0.3;
/// Part of an object that it is worth less where it stays ten times as long.
const LATE: f64 = 0.1;
/// Part of all bytes allocated from which on it matters how long something stays.
const SOON: f64 = 0.001;
/// What threads begin with, no scopes of anybody's: what lives with them lives as long as the thread.
const ROOTS: &[&str] = &[
    "_start",
    "main",
    "__libc_start_main",
    "__libc_start_main_impl",
    "__libc_start_call_main",
    "start_thread",
    "clone",
    "__clone",
    "clone3",
    "__clone3",
];
/// Rounds of prices.
const ROUNDS: usize = 14;

/// A scope that could have arenas.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Scope {
    pub(super) name: NameId,
    pub(super) nesting: Nesting,
}

/// An atom in a scope.
#[derive(Debug, Clone)]
struct Pair {
    atom: u32,
    /// The scope's frame on the atom's path.
    frame: u32,
    objects: f64,
    bytes: u64,
    drag: f64,
    most_dead: f64,
    /// Dead bytes held: sample, bytes.
    held: Vec<(u32, f64)>,
}

#[derive(Debug)]
struct Candidate {
    scope: Scope,
    cost: f64,
    pairs: Vec<Pair>,
}

/// What may be held beside what is live.
#[derive(Debug, Clone, Default)]
pub(super) struct Budget {
    /// Bytes by sample.
    pub(super) spare: Vec<f64>,
    /// Live bytes × bytes allocated, of all traces.
    pub(super) live_time: f64,
    /// How many bytes higher the peak may be, the least of all traces.
    pub(super) rise: f64,
}

/// The scopes chosen, and the prices they were chosen at.
#[derive(Debug, Clone, Default)]
pub(super) struct Choice {
    pub(super) scopes: Vec<Scope>,
    /// Price of a byte held at each sample, in objects.
    prices: Vec<f64>,
    drag_price: f64,
    /// Price of the most dead bytes that one activation holds, each.
    crowd_price: f64,
    rise_bytes: f64,
    /// Bytes allocated.
    bytes: f64,
}

impl Choice {
    /// What serving all objects of an atom in a scope is worth, if all fit; none if some do not, or the scope is not on the path.
    pub(super) fn value(&self, path: &[NameId], facts: &AtomFacts, scope: Scope) -> Option<Fit> {
        let Some(frame) = scope_frame(path, scope.name, scope.nesting) else { return Some(Fit::Absent) };
        if facts.fitting.get(frame) != Some(&facts.count) {
            return None;
        }
        let drag = facts.drag.get(frame).copied().unwrap_or(0.0);
        let held: f64 = held(facts, frame).map(|(sample, bytes)| self.price(sample) * bytes).sum();
        let most_dead = facts.most_dead.get(frame).copied().unwrap_or(0) as f64;
        let worth = self.timely(facts.count as f64, facts.bytes, drag);
        Some(Fit::Served(worth - held - self.drag_price * drag - self.crowding(most_dead)))
    }

    /// What it costs that one activation holds so many dead bytes.
    fn crowding(&self, most_dead: f64) -> f64 {
        let share = most_dead / self.rise_bytes.max(1.0);
        self.crowd_price * share * share / (share + CROWDED)
    }

    /// What objects of so many bytes, kept for so long, are worth but for the memory they take.
    fn timely(&self, objects: f64, bytes: u64, drag: f64) -> f64 {
        let stay = drag.max(0.0) / bytes.max(1) as f64 / self.bytes.max(1.0);
        objects * LATE.mul_add(-(1.0 + stay / SOON).log10(), 1.0)
    }

    fn price(&self, sample: u32) -> f64 {
        self.prices.get(sample as usize).copied().unwrap_or(0.0)
    }
}

/// Objects of an atom that outlive a scope on its path.
pub(super) fn outliving(path: &[NameId], facts: &AtomFacts, scope: Scope) -> u64 {
    let frame = scope_frame(path, scope.name, scope.nesting);
    frame.map_or(0, |frame| facts.count - facts.fitting.get(frame).copied().unwrap_or(0))
}

/// How an atom goes with a scope.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Fit {
    /// All fit; worth this much.
    Served(f64),
    /// The scope is not on its path.
    Absent,
}

/// Dead bytes that an arena at a frame would hold.
fn held(facts: &AtomFacts, frame: usize) -> impl Iterator<Item = (u32, f64)> + '_ {
    facts.held.iter().filter(move |(_, inner, _)| *inner as usize >= frame).map(|(at, _, bytes)| (*at, *bytes as f64))
}

/// Scopes and the atoms that fit them.
#[derive(Debug)]
pub(super) struct Market {
    candidates: Vec<Candidate>,
    atom_count: usize,
    object_count: f64,
    bytes: f64,
}

impl Market {
    /// All scopes that are worth considering.
    pub(super) fn of(
        atoms: &Atoms,
        facts: &[AtomFacts],
        is_scope: impl Fn(NameId) -> bool,
        scope_facts: impl Fn(NameId) -> ScopeFacts,
    ) -> Self {
        use foldhash::{HashMap, HashMapExt};
        let mut totals: HashMap<Scope, f64> = HashMap::new();
        let mut object_count = 0.0;
        for (path, facts) in atoms.paths.iter().zip(facts).filter(|(_, facts)| facts.count > 0) {
            object_count += facts.count as f64;
            for (scope, _) in scopes_of(path, facts) {
                *totals.entry(scope).or_default() += facts.count as f64;
            }
        }
        let mut ranked: Vec<(Scope, f64)> = totals
            .into_iter()
            .filter(|(scope, _)| scope.name != u32::MAX && is_scope(scope.name))
            .filter(|(scope, _)| scope_facts(scope.name).longest_share < WHOLE_PROCESS)
            .collect();
        ranked.sort_by(|one, other| other.1.total_cmp(&one.1).then(one.0.cmp(&other.0)));
        ranked.truncate(CONSIDERED);
        let mut at: HashMap<Scope, usize> = HashMap::new();
        let mut candidates: Vec<Candidate> = Vec::new();
        for (scope, _) in &ranked {
            at.insert(*scope, candidates.len());
            let opening = scope_facts(scope.name).activation_count as f64 * OPENING;
            candidates.push(Candidate { scope: *scope, cost: PENALTY * object_count + opening, pairs: Vec::new() });
        }
        for ((path, facts), atom) in atoms.paths.iter().zip(facts).zip(0..).filter(|((_, facts), _)| facts.count > 0) {
            for (scope, frame) in scopes_of(path, facts) {
                if let Some(at) = at.get(&scope) {
                    let mut sums: Vec<(u32, f64)> = held(facts, frame).collect();
                    sums.sort_unstable_by_key(|(sample, _)| *sample);
                    sums.dedup_by(|next, kept| {
                        let same = next.0 == kept.0;
                        if same {
                            kept.1 += next.1;
                        }
                        same
                    });
                    candidates[*at].pairs.push(Pair {
                        atom,
                        frame: frame as u32,
                        objects: facts.count as f64,
                        bytes: facts.bytes,
                        drag: facts.drag.get(frame).copied().unwrap_or(0.0),
                        most_dead: facts.most_dead.get(frame).copied().unwrap_or(0) as f64,
                        held: sums,
                    });
                }
            }
        }
        // Opening costs no more than what the activations with objects could hold: most open none.
        for candidate in &mut candidates {
            let objects: f64 = candidate.pairs.iter().map(|pair| pair.objects).sum();
            candidate.cost = candidate.cost.min(PENALTY * object_count + objects * MOST_FOR_OPENING);
        }
        let bytes = facts.iter().map(|facts| facts.bytes as f64).sum();
        Self { candidates, atom_count: atoms.paths.len(), object_count, bytes }
    }

    /// Another moment, which has this number: atom, innermost frame that its dead blocks fit, their bytes.
    pub(super) fn add_sample(&mut self, number: u32, held: &[(u32, u32, u64)]) {
        use foldhash::{HashMap, HashMapExt};
        let mut of_atom: HashMap<u32, Vec<(u32, u64)>> = HashMap::new();
        for (atom, frame, bytes) in held {
            of_atom.entry(*atom).or_default().push((*frame, *bytes));
        }
        for pair in self.candidates.iter_mut().flat_map(|candidate| &mut candidate.pairs) {
            let Some(held) = of_atom.get(&pair.atom) else { continue };
            let bytes: u64 = held.iter().filter(|(inner, _)| *inner >= pair.frame).map(|(_, bytes)| bytes).sum();
            if bytes > 0 {
                pair.held.push((number, bytes as f64));
            }
        }
    }

    /// Dead bytes that the scopes of a choice would hold at a moment.
    pub(super) fn held_at(&self, choice: &Choice, number: u32) -> f64 {
        let open: Vec<usize> =
            (0..self.candidates.len()).filter(|at| choice.scopes.contains(&self.candidates[*at].scope)).collect();
        let serving = self.serving(&open, &self.values(choice, &self.standing(choice)));
        let pairs = serving.iter().flatten().map(|(candidate, pair)| &self.candidates[*candidate].pairs[*pair]);
        pairs.flat_map(|pair| &pair.held).filter(|(sample, _)| *sample == number).map(|(_, bytes)| bytes).sum()
    }

    /// These scopes are considered no more.
    pub(super) fn give_up(&mut self, scopes: &[Scope]) {
        self.candidates.retain(|candidate| !scopes.contains(&candidate.scope));
    }

    /// Chooses at most `limit` scopes within the budget.
    pub(super) fn choose(&self, budget: &Budget, limit: usize) -> Choice {
        let mut choice = Choice {
            scopes: Vec::new(),
            prices: vec![0.0; budget.spare.len()],
            drag_price: DRAG * self.object_count / budget.live_time.max(1.0),
            crowd_price: CROWD * self.object_count,
            rise_bytes: budget.rise,
            bytes: self.bytes,
        };
        let standing = self.standing(&choice);
        let mut best: Option<(f64, Choice)> = None;
        let unit = self.object_count / budget.spare.iter().copied().fold(1.0, f64::max);
        for round in 0..ROUNDS {
            let (opened, serving) = self.open(&self.values(&choice, &standing), limit);
            let mut sums = vec![0.0; budget.spare.len()];
            let mut worth = 0.0;
            for (candidate, pair) in serving.iter().flatten() {
                let pair = &self.candidates[*candidate].pairs[*pair];
                worth += pair.objects;
                for (sample, bytes) in &pair.held {
                    sums[*sample as usize] += bytes;
                }
            }
            let mut fits = true;
            for ((price, sum), spare) in choice.prices.iter_mut().zip(&sums).zip(&budget.spare) {
                if *sum > *spare {
                    fits = false;
                    let over = (sum / spare.max(1.0)).min(16.0);
                    *price = (*price * (1.0 + 0.5 * over.sqrt())).max(unit * 0.02);
                }
            }
            choice.scopes = opened.iter().map(|at| self.candidates[*at].scope).collect();
            if fits {
                if best.as_ref().is_none_or(|(known, _)| worth > *known) {
                    best = Some((worth, choice.clone()));
                }
                if round == 0 {
                    break;
                }
                for price in &mut choice.prices {
                    *price *= 0.8;
                }
            }
        }
        best.map_or(choice, |(_, choice)| choice)
    }

    /// What serving each pair of each candidate is worth, but for what is held at moments: the part that their prices leave alone.
    fn standing(&self, choice: &Choice) -> Vec<Vec<f64>> {
        let value = |pair: &Pair| {
            let worth = choice.timely(pair.objects, pair.bytes, pair.drag);
            worth - choice.drag_price * pair.drag - choice.crowding(pair.most_dead)
        };
        self.candidates.iter().map(|candidate| candidate.pairs.iter().map(value).collect()).collect()
    }

    /// What serving each pair of each candidate is worth at these prices.
    fn values(&self, prices: &Choice, standing: &[Vec<f64>]) -> Vec<Vec<f64>> {
        let held = |pair: &Pair| -> f64 { pair.held.iter().map(|(sample, bytes)| prices.price(*sample) * bytes).sum() };
        let values = |candidate: &Candidate, standing: &[f64]| {
            candidate.pairs.iter().zip(standing).map(|(pair, worth)| worth - held(pair)).collect()
        };
        self.candidates.iter().zip(standing).map(|(candidate, standing)| values(candidate, standing)).collect()
    }

    /// Opens scopes one by one, the most worthy first; then closes and swaps. Returns them, and for each atom where it is served.
    fn open(&self, values: &[Vec<f64>], limit: usize) -> (Vec<usize>, Vec<Option<(usize, usize)>>) {
        let mut served = vec![0.0_f64; self.atom_count];
        let mut open: Vec<usize> = Vec::new();
        let gain = |at: usize, served: &[f64]| -> f64 {
            let gains = self.candidates[at].pairs.iter().zip(&values[at]);
            let sum: f64 = gains.map(|(pair, value)| (value - served[pair.atom as usize]).max(0.0)).sum();
            sum - self.candidates[at].cost
        };
        // Lazy greedy: a gain only ever falls, so one that is still the highest after it was made anew is the highest.
        let mut queue: Vec<(f64, usize)> = (0..self.candidates.len()).map(|at| (gain(at, &served), at)).collect();
        queue.sort_by(|one, other| one.0.total_cmp(&other.0).then(other.1.cmp(&one.1)));
        while open.len() < limit
            && let Some((_, at)) = queue.pop()
        {
            let fresh = gain(at, &served);
            if fresh <= 0.0 {
                continue;
            }
            if queue.last().is_some_and(|next| next.0 > fresh) {
                let place = queue.partition_point(|other| other.0 < fresh);
                queue.insert(place, (fresh, at));
                continue;
            }
            open.push(at);
            serve(&self.candidates[at], &values[at], &mut served);
        }
        self.improve(&mut open, values, limit);
        let serving = self.serving(&open, values);
        (open, serving)
    }

    /// Closes scopes that the others have made useless, and swaps the least useful one as long as that helps.
    fn improve(&self, open: &mut Vec<usize>, values: &[Vec<f64>], limit: usize) {
        for _ in 0..8 {
            let Some((least, loss)) = (0..open.len())
                .map(|at| {
                    let mut others = open.clone();
                    let closed = others.remove(at);
                    (at, self.worth(open, values) - self.worth(&others, values), closed)
                })
                .min_by(|one, other| one.1.total_cmp(&other.1).then(one.2.cmp(&other.2)))
                .map(|(at, loss, _)| (at, loss))
            else {
                return;
            };
            if loss <= 0.0 {
                open.remove(least);
                continue;
            }
            if open.len() < limit {
                return;
            }
            let mut others = open.clone();
            others.remove(least);
            let mut served = vec![0.0_f64; self.atom_count];
            for at in &others {
                serve(&self.candidates[*at], &values[*at], &mut served);
            }
            let gain = |at: usize| {
                let pairs = self.candidates[at].pairs.iter().zip(&values[at]);
                let sum: f64 = pairs.map(|(pair, value)| (value - served[pair.atom as usize]).max(0.0)).sum();
                sum - self.candidates[at].cost
            };
            let better = (0..self.candidates.len())
                .filter(|at| !open.contains(at))
                .map(|at| (gain(at), at))
                .max_by(|one, other| one.0.total_cmp(&other.0).then(other.1.cmp(&one.1)));
            match better {
                Some((gain, at)) if gain > loss * 1.001 => {
                    *open = others;
                    open.push(at);
                }
                _ => return,
            }
        }
    }

    fn worth(&self, open: &[usize], values: &[Vec<f64>]) -> f64 {
        let mut served = vec![0.0_f64; self.atom_count];
        for at in open {
            serve(&self.candidates[*at], &values[*at], &mut served);
        }
        served.iter().sum::<f64>() - open.iter().map(|at| self.candidates[*at].cost).sum::<f64>()
    }

    /// For each atom the candidate and the pair that serve it best.
    fn serving(&self, open: &[usize], values: &[Vec<f64>]) -> Vec<Option<(usize, usize)>> {
        let mut served = vec![0.0_f64; self.atom_count];
        let mut serving = vec![None; self.atom_count];
        for at in open {
            for ((pair, value), index) in self.candidates[*at].pairs.iter().zip(&values[*at]).zip(0..) {
                let atom = pair.atom as usize;
                if *value > served[atom] {
                    served[atom] = *value;
                    serving[atom] = Some((*at, index));
                }
            }
        }
        serving
    }
}

/// Whether a function is one that threads begin with.
pub(super) fn is_root(name: &str) -> bool {
    ROOTS.contains(&name)
}

fn serve(candidate: &Candidate, values: &[f64], served: &mut [f64]) {
    for (pair, value) in candidate.pairs.iter().zip(values) {
        let atom = &mut served[pair.atom as usize];
        *atom = value.max(*atom);
    }
}

/// The scopes on a path that hold all of its objects, with their frames.
fn scopes_of<'a>(path: &'a [NameId], facts: &'a AtomFacts) -> impl Iterator<Item = (Scope, usize)> + 'a {
    activations(path).enumerate().flat_map(move |(at, (name, frame))| {
        let fits = facts.fitting.get(frame) == Some(&facts.count);
        let innermost = fits && activations(path).take(at).all(|(inner, _)| inner != name);
        // Where it is the only one both are the same: the innermost stands for it.
        let outermost = fits && !innermost && activations(path).skip(at + 1).all(|(outer, _)| outer != name);
        let scope = |nesting| (Scope { name, nesting }, frame);
        let one = innermost.then(|| scope(Nesting::Innermost));
        let other = outermost.then(|| scope(Nesting::Outermost));
        one.into_iter().chain(other)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAIN: NameId = 0;
    const PHASE: NameId = 1;
    const BODY: NameId = 2;
    const NEW: NameId = 3;
    const OBJECTS: u64 = 100_000;
    const BYTES: u64 = 100 * OBJECTS;
    const RISE: f64 = 10_000.0;

    /// Objects of `new_node` under `main ─ phase ─ body`, which all end with the body. Calls have numbers from 10.
    fn atoms() -> Atoms {
        let mut atoms = Atoms::default();
        atoms.paths.push([NEW, 10, BODY, 11, PHASE, 12, MAIN, 13].into());
        atoms
    }

    fn facts() -> AtomFacts {
        AtomFacts {
            count: OBJECTS,
            bytes: BYTES,
            fitting: vec![OBJECTS, OBJECTS, OBJECTS, 0],
            drag: vec![0.0; 3],
            most_dead: vec![0; 3],
            ..AtomFacts::default()
        }
    }

    fn chosen(facts: &AtomFacts, spare: Vec<f64>) -> Vec<NameId> {
        let budget = Budget { spare, live_time: 1e15, rise: RISE };
        let span = |name| ScopeFacts { activation_count: 1, longest_share: if name == MAIN { 1.0 } else { 0.5 } };
        let market = Market::of(
            &atoms(),
            std::slice::from_ref(facts),
            |name| !is_root(["main", "", "", ""][name as usize]),
            span,
        );
        market.choose(&budget, 20).scopes.into_iter().map(|scope| scope.name).collect()
    }

    #[test]
    fn of_scopes_that_hold_the_same_the_one_that_ends_sooner_is_chosen() {
        let mut facts = facts();
        // In the phase's arena an object stays while half of all bytes are allocated, in the body's not at all.
        facts.drag[1] = BYTES as f64 * BYTES as f64 / 2.0;
        assert_eq!(chosen(&facts, vec![]), [BODY]);
        // What outlives its body is the phase's.
        facts.fitting[2] = OBJECTS - 1;
        assert_eq!(chosen(&facts, vec![]), [PHASE]);
        // And what outlives that is nobody's: an arena as long as the process is none.
        facts.fitting[1] = OBJECTS - 1;
        assert_eq!(chosen(&facts, vec![]), [0; 0]);
    }

    #[test]
    fn what_would_be_held_at_a_moment_keeps_to_what_may_be() {
        let mut facts = facts();
        facts.fitting[2] = 0;
        facts.held = vec![(0, 1, 5_000)];
        assert_eq!(chosen(&facts, vec![5_000.0]), [PHASE]);
        assert_eq!(chosen(&facts, vec![4_999.0]), [0; 0]);
        // Held by a body that has ended by then.
        facts.fitting[2] = OBJECTS;
        facts.held = vec![(0, 1, 5_000)];
        assert_eq!(chosen(&facts, vec![4_999.0]), [BODY]);
    }

    #[test]
    fn one_activation_must_not_hold_far_more_than_the_peak_may_rise() {
        let mut facts = facts();
        facts.fitting[2] = 0;
        facts.most_dead[1] = RISE as u64;
        assert_eq!(chosen(&facts, vec![]), [PHASE], "as much as it may rise");
        facts.most_dead[1] = 1_000 * RISE as u64;
        assert_eq!(chosen(&facts, vec![]), [0; 0], "the peak of another input may be in that activation");
    }
}
