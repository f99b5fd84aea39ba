//! The log that a program with arenas writes of itself (`workloads/arenas/log.h`), as a tree of activations and a list of objects.
//! Responsible for reading it whole; any line that cannot be is a fault of the program and panics.

use std::collections::HashMap;
use std::path::Path;

use object::{Object as _, ObjectSegment as _, ObjectSymbol as _, SymbolKind};

/// Number of an event: of its line in the log, from 0.
pub type EventId = usize;
/// Number of an activation.
pub type ActivationId = usize;

/// An event that never comes.
pub const NEVER: EventId = EventId::MAX;

/// One call of one function.
#[derive(Debug, Clone)]
pub struct Activation {
    /// Index into the names of the log.
    pub function: usize,
    /// Where it returns to in its caller, from where the file is loaded; none: another file called it.
    pub returns_to: Option<u64>,
    /// Its caller; none: the thread's first.
    pub caller: Option<ActivationId>,
    /// First event with it on the stack.
    pub began: EventId,
    /// First event of its thread without it; `NEVER` if it is open to the end.
    pub ended: EventId,
}

/// What a program puts into an arena, or leaves in malloc.
#[derive(Debug, Clone)]
pub struct Object {
    /// Index into the arenas of the log; none: it stays with malloc.
    pub arena: Option<usize>,
    /// Thread it was born on.
    pub thread: usize,
    /// Innermost activation at its birth.
    pub born_in: ActivationId,
    /// Event of its birth.
    pub born: EventId,
    /// Event and thread of its death; none: it lives to the end.
    pub died: Option<(EventId, usize)>,
    /// What ended its time in the arena: index into the releases of the log.
    pub release: Option<usize>,
}

/// An arena, or an obstack.
#[derive(Debug, Clone)]
pub struct Opened {
    /// What the program calls it.
    pub name: String,
    /// Innermost activation when it was opened.
    pub opened_in: ActivationId,
    /// That event.
    pub opened: EventId,
    /// Thread it was opened on.
    pub thread: usize,
}

/// An arena is closed, or cut back to one of its objects.
#[derive(Debug, Clone)]
pub struct Release {
    /// Index into the arenas of the log.
    pub arena: usize,
    /// The first object that goes; none: the arena is closed.
    pub from: Option<usize>,
    /// Innermost activation.
    pub released_in: ActivationId,
    /// That event.
    pub released: EventId,
    /// Thread.
    pub thread: usize,
}

/// All that a program says of its arenas.
#[derive(Debug, Default)]
pub struct Log {
    /// Names of functions.
    pub names: Vec<String>,
    /// All calls in which something happened.
    pub activations: Vec<Activation>,
    /// All objects, in the order of their birth.
    pub objects: Vec<Object>,
    /// All arenas, in the order in which they were opened.
    pub arenas: Vec<Opened>,
    /// All ends of arenas, whole or in part.
    pub releases: Vec<Release>,
    /// By thread from 0: events that are births.
    pub births: Vec<Vec<EventId>>,
    /// File name of the program.
    pub program: String,
    /// Address that the file is to be loaded at.
    pub base: u64,
}

impl Log {
    /// The log in a file, of this executable, whose symbols name functions.
    pub fn of(path: &Path, executable: &Path) -> Self {
        let text = std::fs::read_to_string(path).expect("the program wrote a log");
        let (base, symbols) = symbols(executable);
        let log = Self::read(&text, |offset| {
            symbols.get(&offset).cloned().unwrap_or_else(|| panic!("no function begins at {offset:#x}"))
        });
        let program = executable.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Self { program, base, ..log }
    }

    /// The log in a text; `name` knows the function at an offset.
    pub fn read(text: &str, name: impl Fn(u64) -> String) -> Self {
        let (functions, stacks, held) = (HashMap::new(), Vec::new(), Vec::new());
        let mut reader = Reader { log: Self::default(), functions, stacks, held, name };
        for (line, at) in text.lines().zip(0..) {
            reader.line(line, at).unwrap_or_else(|| panic!("line {} of a log of arenas is wrong: {line}", at + 1));
        }
        reader.log
    }

    /// Activations from the innermost outwards.
    pub fn stack(&self, innermost: ActivationId) -> impl Iterator<Item = ActivationId> + '_ {
        std::iter::successors(Some(innermost), |at| self.activations[*at].caller)
    }

    /// Name of an activation's function.
    pub fn function(&self, activation: ActivationId) -> &str {
        &self.names[self.activations[activation].function]
    }
}

struct Reader<N> {
    log: Log,
    functions: HashMap<u64, usize>,
    /// By thread, outermost first.
    stacks: Vec<Vec<ActivationId>>,
    /// By arena: its objects, the oldest first.
    held: Vec<Vec<usize>>,
    name: N,
}

impl<N: Fn(u64) -> String> Reader<N> {
    fn line(&mut self, line: &str, at: EventId) -> Option<()> {
        let mut words = line.split(' ');
        let thread: usize = words.next()?.parse::<usize>().ok()?.checked_sub(1)?;
        let kept: usize = words.next()?.parse().ok()?;
        let entered = words.next()?;
        if self.stacks.len() <= thread {
            self.stacks.resize(thread + 1, Vec::new());
            self.log.births.resize(thread + 1, Vec::new());
        }
        for ended in self.stacks[thread].drain(kept..) {
            self.log.activations[ended].ended = at;
        }
        for offset in entered.split(',').filter(|offset| *offset != ".") {
            let (offset, call) = offset.split_once('/').map_or((offset, None), |(offset, call)| (offset, Some(call)));
            let function = self.function(u64::from_str_radix(offset, 16).ok()?);
            let returns_to = match call {
                Some(call) => Some(u64::from_str_radix(call, 16).ok()?),
                None => None,
            };
            let caller = self.stacks[thread].last().copied();
            self.stacks[thread].push(self.log.activations.len());
            self.log.activations.push(Activation { function, returns_to, caller, began: at, ended: NEVER });
        }
        let innermost = *self.stacks[thread].last()?;
        let what = words.next()?;
        let mut number = || words.next()?.parse::<usize>().ok();
        let log = &mut self.log;
        match what {
            "+" => {
                (number()? == log.objects.len() + 1).then_some(())?;
                let arena = number()?.checked_sub(1);
                if let Some(arena) = arena {
                    self.held.get_mut(arena)?.push(log.objects.len());
                }
                let (born_in, born) = (innermost, at);
                log.objects.push(Object { arena, thread, born_in, born, died: None, release: None });
                log.births[thread].push(at);
            }
            "-" => log.objects.get_mut(number()? - 1)?.died = Some((at, thread)),
            "o" => {
                (number()? == log.arenas.len() + 1).then_some(())?;
                let name = words.next()?.to_owned();
                log.arenas.push(Opened { name, opened_in: innermost, opened: at, thread });
                self.held.push(Vec::new());
            }
            "c" | "r" => {
                let arena = number()? - 1;
                let from = if what == "r" { Some(number()? - 1) } else { None };
                let release = log.releases.len();
                log.releases.push(Release { arena, from, released_in: innermost, released: at, thread });
                let held = self.held.get_mut(arena)?;
                for object in held.drain(held.partition_point(|object| Some(*object) < from)..) {
                    let object = &mut log.objects[object];
                    object.release = object.died.is_none().then_some(release);
                }
            }
            _ => return None,
        }
        Some(())
    }

    fn function(&mut self, offset: u64) -> usize {
        *self.functions.entry(offset).or_insert_with(|| {
            self.log.names.push((self.name)(offset));
            self.log.names.len() - 1
        })
    }
}

/// Where an executable is to be loaded, and names of its functions by their offset from there.
fn symbols(executable: &Path) -> (u64, HashMap<u64, String>) {
    let bytes = std::fs::read(executable).expect("the program can be read");
    let file = object::File::parse(&*bytes).expect("the program is an ELF file");
    let base = file.segments().map(|segment| segment.address()).min().unwrap_or(0);
    let functions = file.symbols().filter(|symbol| symbol.kind() == SymbolKind::Text && symbol.is_definition());
    let named = functions.map(|symbol| (symbol.address() - base, symbol.name().unwrap_or("").to_owned()));
    (base, named.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str =
        "1 0 1,2/1c,9/2f o 1 scratch\n1 2 3 + 1 1 40\n1 2 3 + 2 0 8\n1 2 9 c 1\n1 3 . - 1\n1 1 2,3 - 2\n";

    #[test]
    fn activations_and_objects_are_told_apart() {
        let log = Log::read(TEXT, |offset| format!("f{offset:x}"));
        assert_eq!(log.activations.len(), 8);
        assert_eq!((log.activations[0].ended, log.activations[1].ended), (NEVER, 5));
        assert_eq!((log.activations[3].began, log.activations[3].ended), (1, 2));
        let stack: Vec<&str> = log.stack(log.objects[0].born_in).map(|at| log.function(at)).collect();
        assert_eq!(stack, ["f3", "f2", "f1"]);
        assert_eq!((log.activations[0].returns_to, log.activations[1].returns_to), (None, Some(0x1c)));
        assert_eq!((log.objects[0].release, log.objects[1].release), (Some(0), None));
        assert_eq!((log.objects[0].died, log.objects[1].died), (Some((4, 0)), Some((5, 0))));
        assert_eq!(log.births, [vec![1, 2]]);
    }

    #[test]
    #[should_panic(expected = "line 2 of a log of arenas is wrong")]
    fn a_line_that_makes_no_sense_is_a_fault() {
        Log::read("1 0 1 o 1 x\n1 1 . ? 3\n", |_| String::new());
    }
}
