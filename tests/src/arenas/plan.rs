//! A plan as `heaptape arenas --write-plan` writes it, and what it says of an object. Responsible for reading the documented form on
//! its own terms: it shares no code with the analyzer.

use serde::Deserialize;

use super::log::{ActivationId, Log};

/// Arenas for a program.
#[derive(Debug, Clone, Deserialize)]
pub struct Plan {
    /// Version of the form.
    pub schema: u32,
    /// The arenas.
    pub arenas: Vec<Arena>,
}

/// One kind of arena.
#[derive(Debug, Clone, Deserialize)]
pub struct Arena {
    /// The function whose activations it lives with.
    pub scope: String,
    /// Which of several activations on a stack.
    pub nesting: Nesting,
    /// Paths of functions, the allocating one first, each of which may be followed by the return address of its call, `@module+0x12`.
    pub keys: Vec<Vec<String>>,
}

/// Which of several activations on a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nesting {
    /// Each has an arena of its own.
    Innermost,
    /// All share the outermost one's.
    Outermost,
}

impl Plan {
    /// The plan in a text. Panics if it is none: its form is interface.
    pub fn read(text: &str) -> Self {
        let plan: Self = serde_json::from_str(text).unwrap_or_else(|error| panic!("not a plan ({error}): {text}"));
        assert_eq!(plan.schema, 1, "the plan's form changed");
        plan
    }

    /// The arena and the activation that blocks born in this activation belong to; none: they stay with malloc. The longest key
    /// that a stack begins with holds.
    pub fn home(&self, log: &Log, born_in: ActivationId) -> Option<(usize, ActivationId)> {
        let path = path(log, born_in);
        let length = |arena: &Arena| arena.keys.iter().filter(|key| begins(&path, key)).map(Vec::len).max();
        let lengths = self.arenas.iter().zip(0..).filter_map(|(arena, at)| Some((length(arena)?, at)));
        // Of keys that are alike the first arena's holds.
        let (_, at): (usize, usize) = lengths.max_by_key(|(length, at)| (*length, std::cmp::Reverse(*at)))?;
        let scope = &self.arenas[at].scope;
        let mut activations = log.stack(born_in).filter(|open| log.function(*open) == scope);
        let activation = match self.arenas[at].nesting {
            // It lives as long as the thread's first own function.
            _ if is_outside(scope) => log.stack(born_in).last(),
            Nesting::Innermost => activations.next(),
            Nesting::Outermost => activations.last(),
        };
        Some((at, activation?))
    }
}

/// A function on a stack, and the call in it that leads further in.
struct Frame<'a> {
    function: &'a str,
    /// None: a log cannot tell. So it is in the allocating function, whose call of malloc it does not see; the programs have
    /// one such call only.
    call: Option<String>,
}

/// The stack of an activation, innermost first.
fn path(log: &Log, born_in: ActivationId) -> Vec<Frame<'_>> {
    let call = |address: u64| format!("@{}+{:#x}", log.program, log.base + address);
    let inner = std::iter::once(None).chain(log.stack(born_in).map(Some));
    let frame = |(at, inner): (ActivationId, Option<ActivationId>)| Frame {
        function: log.function(at),
        call: inner.and_then(|inner| log.activations[inner].returns_to).map(call),
    };
    log.stack(born_in).zip(inner).map(frame).collect()
}

/// Whether a path begins with a key.
fn begins(path: &[Frame<'_>], key: &[String]) -> bool {
    let mut rest = path.iter();
    let mut call: Option<&str> = None;
    key.iter().all(|wanted| {
        if wanted.starts_with('@') {
            return call.take().is_none_or(|call| call == wanted);
        }
        match rest.next() {
            Some(frame) => {
                call = frame.call.as_deref();
                wanted == frame.function
            }
            None => is_outside(wanted),
        }
    })
}

/// Whether a function is one of those that the C library starts a thread with: logs know only the program's own.
fn is_outside(function: &str) -> bool {
    ["_start", "__libc_start_", "start_thread", "clone3", "__clone3", "clone"]
        .iter()
        .any(|name| if name.ends_with('_') { function.starts_with(name) } else { function == *name })
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: &str = r#"{"schema":1,"policy":"rustc","arenas":[
        {"scope":"f2","nesting":"innermost","at_end":"reset","keys":[["f9"]]},
        {"scope":"f2","nesting":"outermost","at_end":"destroy","keys":[["f9","@p+0x7","f3"],
            ["f9","@p+0x7","f4","f2","f1","@p+0x1","_start"],["f8","@p+0x7","f2","@p+0x2c"]]}]}"#;

    #[test]
    fn calls_are_told_apart() {
        let log = Log::read("1 0 1,2/1a,8/2c + 1 0 8\n1 2 8/2f + 2 0 8\n", |offset| format!("f{offset:x}"));
        let log = Log { program: "p".to_owned(), ..log };
        let plan = Plan::read(PLAN);
        let home = |object: usize| plan.home(&log, log.objects[object].born_in);
        assert_eq!((home(0), home(1)), (Some((1, 1)), None));
        let elsewhere = Log { base: 0x1000, ..log };
        assert_eq!(plan.home(&elsewhere, elsewhere.objects[0].born_in), None);
    }

    #[test]
    fn the_longest_key_holds_and_nesting_picks_the_activation() {
        let log = Log::read(
            "1 0 1,2,2,9 + 1 0 8\n1 3 3,9 + 2 0 8\n1 1 3,9 + 3 0 8\n1 1 2,4,9 + 4 0 8\n1 1 8 + 5 0 8\n",
            |offset| format!("f{offset:x}"),
        );
        let plan = Plan::read(PLAN);
        let home = |object: usize| plan.home(&log, log.objects[object].born_in);
        assert_eq!(home(0), Some((0, 2)), "the inner f2");
        assert_eq!(home(1), Some((1, 1)), "the outer f2");
        assert_eq!(home(2), None, "no f2 is open");
        assert_eq!(home(3), Some((1, log.objects[3].born_in - 2)), "a key may go on beyond the log");
        assert_eq!(home(4), None, "no key");
    }
}
