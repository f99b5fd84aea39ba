//! Whether a plan puts objects where they belong. Responsible for what counts as right, and for a table of it.
//!
//! With `T` the activation that an object's arena truly lived with and `P` the one that the plan's lives with, the plan is right about the
//! object if the object dies before `P` ends, on its own thread, and
//!
//! ```text
//!   same       P is T
//!   further in P is inside of T (the object did not need all of T)
//!   alike      P is outside of T, but nothing is born on their thread between the end of T and the end of P:
//!              what is kept longer is kept for nothing's cost
//!   as given   the program cuts the object back in an arena that lives with G, and P is outside of T but not of G:
//!              the plan keeps it no longer than the program's own arena is there
//! ```
//!
//! The last is right by the boundaries that the program has, and wrong by what the object needs: it is counted apart (`strictly_right` leaves
//! it out). The plan is wrong if `P` is further out than that, if the object outlives `P` (*broken*), or if the object is left in malloc. Objects without a
//! true scope count for nothing but for what they break.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::log::{ActivationId, Log};
use super::plan::Plan;
use super::truth::{Given, Truth};

/// What a plan does to objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Objects that have a true scope.
    pub objects: usize,
    /// Placed in the very activation.
    pub same: usize,
    /// Placed further in, and dead by then.
    pub further_in: usize,
    /// Placed further out, at no cost.
    pub alike: usize,
    /// Placed further out than needed, but not further than the program itself has it.
    pub as_given: usize,
    /// Placed too far out.
    pub too_long: usize,
    /// Placed where they outlive their arena.
    pub broken: usize,
    /// Left in malloc.
    pub left: usize,
}

impl Counts {
    /// Objects that the plan is right about.
    pub fn right(&self) -> usize {
        self.strictly_right() + self.as_given
    }

    /// Objects that the plan is right about and keeps no longer than they need.
    pub fn strictly_right(&self) -> usize {
        self.same + self.further_in + self.alike
    }

    /// The same as a part of all, from 0 to 1; 1 of none.
    pub fn right_share(&self) -> f64 {
        share(self.right(), self.objects).unwrap_or(1.0)
    }

    fn add(&mut self, other: &Self) {
        self.objects += other.objects;
        self.same += other.same;
        self.further_in += other.further_in;
        self.alike += other.alike;
        self.as_given += other.as_given;
        self.too_long += other.too_long;
        self.broken += other.broken;
        self.left += other.left;
    }
}

/// One arena of the truth.
#[derive(Debug, Clone)]
pub struct Row {
    /// What the program calls it.
    pub arena: String,
    /// The function that it lives with.
    pub scope: String,
    /// What the plan makes of its objects.
    pub counts: Counts,
    /// Where the plan puts most of them.
    pub planned: Option<String>,
}

/// A plan against the truth, on one run.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// By arena of the truth, those with the most objects first.
    pub rows: Vec<Row>,
    /// Their sums.
    pub total: Counts,
    /// Objects that the plan places, of all that the program logged.
    pub placed: usize,
    /// Of them, those that outlive their arena or are freed by another thread.
    pub broken: usize,
    /// Where those that break the plan are born, innermost function first, and which function's arena they outlive.
    pub breaking: BTreeMap<String, usize>,
    /// Objects without a true scope, and how many of them the plan places without breaking anything.
    pub unscoped: (usize, usize),
    /// Objects with a true scope whose path of functions and calls bears objects without one, too: no plan can place them.
    pub mixed: usize,
}

impl Verdict {
    /// Compares.
    pub fn of(log: &Log, truth: &Truth, plan: &Plan) -> Self {
        let mut homes: BTreeMap<ActivationId, Option<(usize, ActivationId)>> = BTreeMap::new();
        let mut counts = vec![Counts::default(); truth.names.len()];
        let mut planned: Vec<BTreeMap<String, usize>> = vec![BTreeMap::new(); truth.names.len()];
        let (mut placed, mut broken, mut unscoped) = (0, 0, (0, 0));
        let mut breaking = BTreeMap::new();
        for (object, scope) in log.objects.iter().zip(&truth.scopes) {
            let home = *homes.entry(object.born_in).or_insert_with(|| plan.home(log, object.born_in));
            let home = home.map(|(_, activation)| activation);
            let ended = home.map(|home| log.activations[home].ended);
            // Who is never freed dies with the process: too late for all but what is open to the end.
            let breaks = ended.is_some_and(|ended| match object.died {
                Some((died, thread)) => thread != object.thread || died >= ended,
                None => ended != super::log::NEVER,
            });
            placed += usize::from(home.is_some());
            broken += usize::from(breaks);
            if let Some(home) = home.filter(|_| breaks) {
                let path: Vec<&str> = log.stack(object.born_in).take(4).map(|at| log.function(at)).collect();
                *breaking.entry(format!("{} outlives {}", path.join(" ← "), log.function(home))).or_default() += 1;
            }
            let Some(scope) = scope else {
                unscoped = (unscoped.0 + 1, unscoped.1 + usize::from(home.is_some() && !breaks));
                continue;
            };
            let row = &mut counts[scope.arena];
            row.objects += 1;
            let Some(home) = home else {
                row.left += 1;
                continue;
            };
            *planned[scope.arena].entry(log.function(home).to_owned()).or_default() += 1;
            if breaks {
                row.broken += 1;
            } else if scope.activation == Some(home) {
                row.same += 1;
            } else {
                let Some(activation) = scope.activation else {
                    row.too_long += 1;
                    continue;
                };
                if log.stack(home).any(|outer| outer == activation) {
                    row.further_in += 1;
                } else if births_between(log, object.thread, activation, home) == 0 {
                    row.alike += 1;
                } else if match scope.given {
                    Some(Given::Activation(given)) => log.stack(home).any(|outer| outer == given),
                    Some(Given::Process) => true,
                    None => false,
                } {
                    row.as_given += 1;
                } else {
                    row.too_long += 1;
                }
            }
        }
        let mut rows: Vec<Row> = truth
            .names
            .iter()
            .zip(counts)
            .zip(planned)
            .map(|(((arena, scope), counts), planned)| Row {
                arena: arena.clone(),
                scope: scope.clone(),
                counts,
                planned: planned.into_iter().max_by_key(|(_, count)| *count).map(|(function, _)| function),
            })
            .filter(|row| row.counts.objects > 0)
            .collect();
        rows.sort_by_key(|row| std::cmp::Reverse(row.counts.objects));
        let mut total = Counts::default();
        for row in &rows {
            total.add(&row.counts);
        }
        Self { rows, total, placed, broken, breaking, unscoped, mixed: mixed(log, truth) }
    }

    /// Objects that break the plan, as a part of those placed.
    pub fn broken_share(&self) -> f64 {
        share(self.broken, self.placed).unwrap_or(0.0)
    }

    /// The table of it.
    pub fn table(&self, title: &str) -> String {
        let mut text = format!(
            "{title}\n  {:<38} {:<28} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}  planned with\n",
            "arena", "lives with", "objects", "same", "inside", "alike", "as given", "too long", "broken", "left"
        );
        let rows =
            self.rows.iter().map(|row| (row.arena.as_str(), row.scope.as_str(), &row.counts, row.planned.as_deref()));
        for (arena, scope, counts, planned) in rows.chain([("all", "", &self.total, Some(""))]) {
            let _ = writeln!(
                text,
                "  {:<38} {:<28} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8} {:>8}  {}",
                short(arena, 38),
                short(scope, 28),
                counts.objects,
                counts.same,
                counts.further_in,
                counts.alike,
                counts.as_given,
                counts.too_long,
                counts.broken,
                counts.left,
                planned.unwrap_or("–")
            );
        }
        let _ = writeln!(
            text,
            "  right: {:.2} % of {} ({:.2} % strictly); broken: {} of {} placed ({:.4} %); without a scope: {}, placed unbroken {}; told apart from those by no path of calls: {}",
            100.0 * self.total.right_share(),
            self.total.objects,
            100.0 * share(self.total.strictly_right(), self.total.objects).unwrap_or(1.0),
            self.broken,
            self.placed,
            100.0 * self.broken_share(),
            self.unscoped.0,
            self.unscoped.1,
            self.mixed
        );
        for (place, count) in &self.breaking {
            let _ = writeln!(text, "  {count} × {place}");
        }
        text
    }
}

/// Functions and calls, the allocating function first.
type CallPath = Vec<(usize, Option<u64>)>;

/// Objects with a scope that share their path of functions and calls with objects without.
fn mixed(log: &Log, truth: &Truth) -> usize {
    let mut paths: BTreeMap<CallPath, (usize, usize)> = BTreeMap::new();
    for (object, scope) in log.objects.iter().zip(&truth.scopes) {
        let activation = |at: usize| (log.activations[at].function, log.activations[at].returns_to);
        let path = log.stack(object.born_in).map(activation).collect();
        let (with, without) = paths.entry(path).or_default();
        *(if scope.is_some() { with } else { without }) += 1;
    }
    paths.values().filter(|(_, without)| *without > 0).map(|(with, _)| with).sum()
}

/// Births on a thread after one activation has ended and before another one has.
fn births_between(log: &Log, thread: usize, inner: ActivationId, outer: ActivationId) -> usize {
    let births = &log.births[thread];
    let before = |activation: ActivationId| births.partition_point(|birth| *birth < log.activations[activation].ended);
    before(outer).saturating_sub(before(inner))
}

/// A name of at most so many characters, its end left out.
fn short(name: &str, limit: usize) -> String {
    if name.chars().count() <= limit { name.to_owned() } else { name.chars().take(limit - 1).chain(['…']).collect() }
}

fn share(part: usize, whole: usize) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// f1 calls f2 twice; each time f2 has an arena with two objects, made in f3, of which the second is dropped early by f4. Then f1
    /// makes an object that stays with malloc.
    const TWICE: &str = "\
        1 0 f,1,2,a o 1 a\n1 3 3 + 1 1 8\n1 3 3 + 2 1 8\n1 3 4 - 2\n1 3 b c 1\n1 4 . - 1\n\
        1 2 2,a o 2 a\n1 3 3 + 3 2 8\n1 3 3 + 4 2 8\n1 3 4 - 4\n1 3 b c 2\n1 4 . - 3\n\
        1 2 5 + 5 0 8\n1 1 6 - 5\n";
    /// The same with an outer call that does nothing else.
    const WRAPPED: &str = "1 0 f,1,2,a o 1 a\n1 3 3 + 1 1 8\n1 3 b c 1\n1 4 . - 1\n1 1 6 + 2 0 8\n1 2 . - 2\n";

    fn verdict(text: &str, scope: &str, keys: &str, shuffle: bool) -> Verdict {
        let log = Log::read(text, |offset| format!("f{offset:x}"));
        let plan = format!(
            r#"{{"schema":1,"arenas":[{{"scope":"{scope}","nesting":"innermost","at_end":"reset","keys":{keys}}}]}}"#
        );
        let truth = Truth::of(&log);
        let truth = if shuffle { truth.shuffled(&log) } else { truth };
        Verdict::of(&log, &truth, &Plan::read(&plan))
    }

    #[test]
    fn the_true_scope_is_right() {
        let found = verdict(TWICE, "f2", r#"[["f3"]]"#, false);
        // What was dropped early was not the arena's any more when it closed, so nothing is known of its scope.
        assert_eq!((found.total.objects, found.total.same, found.placed, found.broken), (2, 2, 4, 0));
        assert!((found.total.right_share() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn a_scope_too_far_out_is_wrong_if_something_is_born_meanwhile() {
        let found = verdict(TWICE, "f1", r#"[["f3"]]"#, false);
        assert_eq!((found.total.same, found.total.too_long, found.broken), (0, 2, 0));
        let found = verdict(WRAPPED, "f1", r#"[["f3"]]"#, false);
        assert_eq!((found.total.alike, found.total.too_long), (1, 0));
    }

    #[test]
    fn a_scope_too_far_in_is_broken() {
        let found = verdict(TWICE, "f3", r#"[["f3"]]"#, false);
        assert_eq!((found.total.broken, found.broken, found.placed), (2, 4, 4));
    }

    #[test]
    fn what_the_plan_leaves_and_what_it_breaks_besides_is_counted() {
        let found = verdict(TWICE, "f1", r#"[["f5"]]"#, false);
        assert_eq!((found.total.left, found.placed, found.broken, found.unscoped), (2, 1, 1, (3, 0)));
    }

    #[test]
    fn what_is_cut_back_may_stay_as_long_as_its_obstack() {
        // f2's obstack; f3 makes an object in it and cuts back to it, twice.
        let text = "1 0 f,1,2,a o 1 obstack\n1 3 3,6 + 1 1 8\n1 4 b r 1 1\n1 5 . - 1\n\
            1 3 3,6 + 2 1 8\n1 4 b r 1 2\n1 5 . - 2\n1 3 b c 1\n1 2 7 + 3 0 8\n";
        let found = verdict(text, "f3", r#"[["f6"]]"#, false);
        assert_eq!((found.total.objects, found.total.same), (2, 2));
        let found = verdict(text, "f2", r#"[["f6"]]"#, false);
        assert_eq!(
            (found.total.as_given, found.total.right(), found.total.strictly_right()),
            (1, 2, 1),
            "the last is alike"
        );
        let found = verdict(text, "f1", r#"[["f6"]]"#, false);
        assert_eq!((found.total.too_long, found.total.right()), (2, 0));
    }

    #[test]
    fn a_shuffled_truth_is_noticed() {
        let two = "1 0 f,1,2,a o 1 a\n1 3 3 + 1 1 8\n1 3 b c 1\n1 4 . - 1\n1 2 6,a o 2 b\n1 3 7 + 2 2 8\n1 3 b c 2\n1 4 . - 2\n";
        assert_eq!(verdict(two, "f2", r#"[["f3"]]"#, false).total.same, 1);
        assert_eq!(verdict(two, "f2", r#"[["f3"]]"#, true).total.right(), 0);
    }
}
