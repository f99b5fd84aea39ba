//! Which activation each object's arena truly lived with. Responsible for that, from a program's log; not for what anybody else
//! thinks of it (see `verdict`).
//!
//! An arena's time begins when it is opened and ends when it is closed; the part of an obstack that is cut back has its own time,
//! from the birth of the first object that goes to the cut. Its *scope* is the innermost activation that is open all that time:
//! the last one on the stack at the end that was there at the beginning.
//!
//! ```text
//!   begin   main ─ compile ─ body ─ arena_open          end   main ─ compile ─ body ─ finish ─ arena_close
//!                            └ the scope                                       └ came later
//! ```
//!
//! What is cut back has two scopes: that of its own time, which is all that it needs, and that of the obstack, which is what
//! the program gave it (none: as long as the process).
//!
//! Where that is the program's first function, the arena is as long as the process, and its objects have no scope: no plan could
//! place them. The same holds for objects that are never freed.

use super::log::{ActivationId, EventId, Log, NEVER, Release};

/// What is true of the objects that belong together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scope {
    /// Index into the names of the truth.
    pub arena: usize,
    /// The activation; none only in a truth that was shuffled.
    pub activation: Option<ActivationId>,
    /// Of what is cut back: how much longer the program's own arena lives.
    pub given: Option<Given>,
}

/// The arena that the program cuts objects back in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Given {
    /// It lives with this activation.
    Activation(ActivationId),
    /// It is as long as the process.
    Process,
}

/// The truth about a program's objects.
#[derive(Debug)]
pub struct Truth {
    /// Names of arenas and of the functions that they live with, for tables.
    pub names: Vec<(String, String)>,
    /// By object. None: it has no scope shorter than the process, or no arena.
    pub scopes: Vec<Option<Scope>>,
}

impl Truth {
    /// What a log says.
    pub fn of(log: &Log) -> Self {
        let mut names: Vec<(String, String)> = Vec::new();
        let mut own: Vec<Given> = vec![Given::Process; log.arenas.len()];
        for release in log.releases.iter().filter(|release| release.from.is_none()) {
            if let Some(activation) = scope_of(log, release) {
                own[release.arena] = Given::Activation(activation);
            }
        }
        let scope_of_release: Vec<Option<Scope>> = log
            .releases
            .iter()
            .map(|release| {
                let activation = scope_of(log, release)?;
                let given = release.from.map(|_| own[release.arena]);
                let part = if given.is_some() { ", cut back" } else { "" };
                let name = (format!("{}{part}", arena_name(log, release.arena)), log.function(activation).to_owned());
                let arena = names.iter().position(|known| *known == name).unwrap_or_else(|| {
                    names.push(name);
                    names.len() - 1
                });
                Some(Scope { arena, activation: Some(activation), given })
            })
            .collect();
        let scopes = log
            .objects
            .iter()
            .map(|object| {
                let scope = scope_of_release[object.release?].clone()?;
                // What another thread puts into an arena is none of the arena's thread's.
                let is_open = scope.activation.is_some_and(|at| log.stack(object.born_in).any(|open| open == at));
                is_open.then_some(scope)
            })
            .collect();
        Self { names, scopes }
    }

    /// A wrong truth, to see whether the comparison notices: each arena lives with the function of the next one.
    #[must_use]
    pub fn shuffled(&self, log: &Log) -> Self {
        let moved: Vec<usize> = (0..self.names.len())
            .map(|arena| {
                let others = (1..self.names.len()).map(|by| (arena + by) % self.names.len());
                others.into_iter().find(|other| self.names[*other].1 != self.names[arena].1).unwrap_or(arena)
            })
            .collect();
        let names =
            self.names.iter().zip(&moved).map(|((name, _), to)| (name.clone(), self.names[*to].1.clone())).collect();
        let scopes = self
            .scopes
            .iter()
            .zip(&log.objects)
            .map(|(scope, object)| {
                let arena = scope.as_ref()?.arena;
                let function = &self.names[moved[arena]].1;
                let activation = log.stack(object.born_in).find(|at| log.function(*at) == function);
                Some(Scope { arena, activation, given: None })
            })
            .collect();
        Self { names, scopes }
    }

    /// Objects that have a scope shorter than the process.
    pub fn scoped_count(&self) -> usize {
        self.scopes.iter().flatten().count()
    }
}

/// The innermost activation that is open while what is released was there; none: the process.
fn scope_of(log: &Log, release: &Release) -> Option<ActivationId> {
    let arena = &log.arenas[release.arena];
    let (began, thread) = match release.from {
        Some(object) => (log.objects[object].born, log.objects[object].thread),
        None => (arena.opened, arena.thread),
    };
    let activation = (thread == release.thread).then(|| spanning(log, release.released_in, began)).flatten()?;
    // The first function of the first thread is the process.
    (thread != 0 || log.activations[activation].caller.is_some()).then_some(activation)
}

/// The innermost activation on a stack that was open at an event before.
fn spanning(log: &Log, innermost: ActivationId, began: EventId) -> Option<ActivationId> {
    log.stack(innermost).find(|at| {
        let activation = &log.activations[*at];
        debug_assert!(activation.ended == NEVER || activation.ended > began);
        activation.began <= began
    })
}

/// An obstack has no name of its own: that of the function which begins it stands for it.
fn arena_name(log: &Log, arena: usize) -> String {
    let opened = &log.arenas[arena];
    if opened.name != "obstack" {
        return opened.name.clone();
    }
    let by = log.stack(opened.opened_in).nth(1).map_or("?", |caller| log.function(caller));
    format!("obstack of {by}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log(text: &str) -> Log {
        Log::read(text, |offset| format!("f{offset:x}"))
    }

    /// What is said of each object: name of its arena, and function.
    fn scopes(log: &Log) -> Vec<Option<(String, String)>> {
        let truth = Truth::of(log);
        let row = |scope: &Option<Scope>| scope.as_ref().map(|scope| truth.names[scope.arena].clone());
        truth.scopes.iter().map(row).collect()
    }

    #[test]
    fn an_arena_lives_with_the_function_that_opens_and_closes_it() {
        // f1 calls f2, which opens by f9, allocates in f3 and closes by a helper's call of f8.
        let log = log("1 0 1,2,9 o 1 a\n1 2 3 + 1 1 8\n1 2 7,8 c 1\n1 4 . - 1\n");
        assert_eq!(scopes(&log), [Some(("a".to_owned(), "f2".to_owned()))]);
    }

    #[test]
    fn a_second_call_of_the_same_function_is_not_the_scope() {
        // f2 opens and returns; f1 calls it again, and it closes.
        let log = log("1 0 5,1,2,9 o 1 a\n1 2 2,3 + 1 1 8\n1 2 2,8 c 1\n1 4 . - 1\n");
        assert_eq!(scopes(&log), [Some(("a".to_owned(), "f1".to_owned()))]);
    }

    #[test]
    fn arenas_as_long_as_the_process_and_objects_that_stay_have_no_scope() {
        let log =
            log("1 0 1,9 o 1 a\n1 1 3 + 1 1 8\n1 1 3 + 2 0 8\n1 1 9 o 2 b\n1 1 3 + 3 2 8\n1 1 8 c 1\n1 2 . - 1\n");
        assert_eq!(scopes(&log), [None, None, None]);
    }

    #[test]
    fn a_part_that_is_cut_back_has_its_own_scope() {
        // An obstack of f1's; f2 makes an object and cuts back to it before it returns.
        let log = log(
            "1 0 5,1,9 o 1 obstack\n1 2 6 + 1 1 8\n1 2 2,6 + 2 1 8\n1 3 8 r 1 2\n1 4 . - 2\n1 2 8 c 1\n1 3 . - 1\n",
        );
        let expected = [("obstack of f1", "f1"), ("obstack of f1, cut back", "f2")];
        assert_eq!(scopes(&log), expected.map(|(arena, scope)| Some((arena.to_owned(), scope.to_owned()))));
    }
}
