//! Which paths of functions go into which arena. Responsible for the shortest keys that are right on all that was seen; not for
//! choosing the arenas (see `choose`).
//!
//! Atoms are sorted into a tree by their paths, the allocating function first. A node is a key candidate: it stands for all atoms
//! below it. It becomes a key of the scope that serves them best if no block below it outlives that scope in any trace, and if
//! telling its callers apart would not serve notably more:
//!
//! ```text
//!   new_node ─┬─ expr ─┬─ body      all fit `body`                     ▶ key [new_node, expr] → body
//!             │        └─ constant  fits `body` too
//!             └─ intern             lives as long as the process       ▶ [new_node, intern] stays with malloc
//! ```
//!
//! This is the context trie of LLVM's `MemProf`, with many labels instead of hot and cold. Short keys are what carries over to other
//! inputs: whole stacks do not come back.

use super::atoms::{AtomFacts, Atoms, NameId};
use super::choose::{Choice, Fit, outliving};

/// Part of what longer keys would serve that a short one may leave out.
const SIMPLER: f64 = 0.01;
/// Part of a call's objects outliving a scope from which on their fates are mixed.
const SPOILED: f64 = 0.01;
/// Part of a call's objects whose callers' fates are still mixed from which on no caller makes it safe: what sets them apart is not on
/// the stack, or far up. A function that all allocate with tells nothing by itself, but its callers do; those of a function that
/// recurs do not.
const UNEXPLAINED: f64 = 0.5;
/// Fewest traces that a key must be seen in, if there are as many.
const SEEN_IN: u32 = 2;
/// Fewest objects of a key.
const FEWEST: u64 = 8;

/// A key: all stacks that begin with this path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    /// The allocating function first.
    pub(super) path: Vec<NameId>,
    /// Index into the scopes of the choice.
    pub(super) scope: usize,
    /// Objects below it in the traces it was made from.
    pub(super) object_count: u64,
}

struct Row<'a> {
    path: &'a [NameId],
    count: u64,
    /// A bit for each trace.
    seen_in: u64,
    /// By scope: what it is worth there; `None` if some block outlives it.
    fits: Vec<Option<Fit>>,
    /// By scope: objects that outlive it.
    outliving: Vec<u64>,
}

impl Row<'_> {
    fn best(&self, spoiled: &[bool]) -> f64 {
        let fits = self.fits.iter().zip(spoiled).filter(|(_, spoiled)| !**spoiled);
        fits.filter_map(|(fit, _)| *fit).map(worth).fold(0.0, f64::max)
    }
}

/// Keys for the chosen scopes.
pub(super) fn keys(atoms: &Atoms, traces: &[usize], facts: &[AtomFacts], choice: &Choice) -> Vec<Key> {
    let seen_in = atoms.seen_in(traces);
    let least = SEEN_IN.min(traces.len() as u32);
    let mut rows: Vec<Row<'_>> = atoms
        .paths
        .iter()
        .zip(facts)
        .zip(seen_in)
        .filter(|((_, facts), _)| facts.count > 0)
        .map(|((path, facts), seen_in)| {
            let fits: Vec<Option<Fit>> = choice.scopes.iter().map(|scope| choice.value(path, facts, *scope)).collect();
            let outliving = choice.scopes.iter().map(|scope| outliving(path, facts, *scope)).collect();
            Row { path, count: facts.count, seen_in, fits, outliving }
        })
        .collect();
    rows.sort_unstable_by(|one, other| one.path.cmp(other.path));
    let mut found = Vec::new();
    let mut prefix = Vec::new();
    descend(&rows, &mut prefix, least, &vec![false; choice.scopes.len()], &mut found);
    found
}

fn worth(fit: Fit) -> f64 {
    match fit {
        Fit::Served(worth) => worth,
        Fit::Absent => 0.0,
    }
}

/// Keys of all rows, which begin alike with `prefix`. Returns what they serve.
fn descend(rows: &[Row<'_>], prefix: &mut Vec<NameId>, least: u32, spoiled: &[bool], found: &mut Vec<Key>) -> f64 {
    let count: u64 = rows.iter().map(|row| row.count).sum();
    let seen_in = rows.iter().fold(0, |seen, row| seen | row.seen_in);
    if count < FEWEST || seen_in.count_ones() < least {
        return 0.0;
    }
    let mut spoiled = spoiled.to_vec();
    // A function's calls may have different fates; its own impurity says nothing of one of them.
    if !prefix.is_empty() && prefix.len().is_multiple_of(2) {
        spoil(rows, prefix.len(), &mut spoiled);
    }
    let most: f64 = rows.iter().map(|row| row.best(&spoiled)).sum();
    if most <= 0.0 {
        return 0.0;
    }
    let (label, here) = if prefix.is_empty() { (0, 0.0) } else { best_label(rows, &spoiled) };
    if here >= (1.0 - SIMPLER) * most {
        found.push(Key { path: prefix.clone(), scope: label, object_count: count });
        return here;
    }
    let before = found.len();
    let depth = prefix.len();
    let mut below = 0.0;
    let mut from = 0;
    while from < rows.len() {
        let Some(next) = rows[from].path.get(depth).copied() else {
            // A path that ends here is a prefix of others: nothing shorter tells it apart.
            from += 1;
            continue;
        };
        let to = from + rows[from..].partition_point(|row| row.path.get(depth) == Some(&next));
        prefix.push(next);
        below += descend(&rows[from..to], prefix, least, &spoiled, found);
        prefix.pop();
        from = to;
    }
    if here > 0.0 && here >= (1.0 - SIMPLER) * below {
        found.truncate(before);
        found.push(Key { path: prefix.clone(), scope: label, object_count: count });
        return here;
    }
    below
}

/// The scope that serves these rows best without breaking for any, and what it serves.
fn best_label(rows: &[Row<'_>], spoiled: &[bool]) -> (usize, f64) {
    (0..spoiled.len())
        .filter(|scope| !spoiled[*scope])
        .filter_map(|scope| {
            let mut sum = 0.0;
            for row in rows {
                sum += worth(row.fits[scope]?);
            }
            Some((scope, sum))
        })
        .max_by(|one, other| one.1.total_cmp(&other.1).then(other.0.cmp(&one.0)))
        .unwrap_or((0, 0.0))
}

/// Gives up scopes that too much of this outlives, if the next call up the stack does not tell what. `depth` is how much the rows share.
fn spoil(rows: &[Row<'_>], depth: usize, spoiled: &mut [bool]) {
    for (scope, spoiled) in spoiled.iter_mut().enumerate().filter(|(_, spoiled)| !**spoiled) {
        let (on_path, outliving) = fates(rows, scope);
        if outliving as f64 <= SPOILED * on_path as f64 {
            continue;
        }
        let by_caller = rows.chunk_by(|one, other| caller(one, depth) == caller(other, depth));
        let unexplained: u64 = by_caller
            .map(|rows| fates(rows, scope))
            .filter(|(on_path, outliving)| *outliving as f64 > SPOILED * *on_path as f64 && outliving < on_path)
            .map(|(on_path, _)| on_path)
            .sum();
        *spoiled = unexplained as f64 > UNEXPLAINED * on_path as f64;
    }
}

/// The function and the call in it that come after so much of a path.
fn caller<'a>(row: &Row<'a>, depth: usize) -> Option<&'a [NameId]> {
    row.path.get(depth..depth + 2)
}

/// Objects that have a scope on their path, and how many of them outlive it.
fn fates(rows: &[Row<'_>], scope: usize) -> (u64, u64) {
    let on_path = rows.iter().filter(|row| row.fits[scope] != Some(Fit::Absent));
    on_path.fold((0, 0), |(count, outliving), row| (count + row.count, outliving + row.outliving[scope]))
}
