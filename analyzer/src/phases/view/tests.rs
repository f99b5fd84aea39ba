//! A random program's own account of its calls and phases against what spans and woven events say.

use proptest::prelude::*;
use trace_format::{
    EntryId, Event, Frame, FrameId, Marker, MarkerEnd, MarkerValue, ModuleId, Op, Process, ProcessId, Sequence,
    StackId, StackNode, StackQuality, Tables, Target, Thread, ThreadId, Walk,
};

use super::loom::Loom;
use super::weaver::Weaver;
use crate::activations::Activations;
use crate::names::Names;
use crate::phases::spans::{Finder, is_whole};

/// Address, and a number that is the activation's own.
type Frames = Vec<(u64, u64)>;

/// What happens: an event with a stack, or a marker.
#[derive(Debug, Clone, Copy, PartialEq)]
enum What {
    Free,
    Begin(usize),
    End(usize),
}

/// An instance of a phase, as the program that it is of knows it.
#[derive(Debug, Clone, Copy)]
struct Instance {
    name: usize,
    begin: usize,
    end: usize,
}

/// The program's own account.
#[derive(Debug, Default)]
struct Told {
    events: Vec<(What, Frames)>,
    phases: Vec<Instance>,
}

/// A program that calls, returns, moves on in its functions, and begins and ends phases as it likes.
fn run(steps: &[(u8, u64)]) -> Told {
    let mut told = Told::default();
    let mut now: Frames = vec![(0, 0)];
    let mut fresh = 1;
    let mut open: Vec<usize> = Vec::new();
    for (what, choice) in steps {
        match what {
            0 | 1 if now.len() < 6 => {
                now.push((choice % 4 * 8, fresh));
                fresh += 1;
            }
            2 if now.len() > 1 => {
                now.pop();
            }
            3 => {
                let name = (choice % 3) as usize;
                open.push(told.phases.len());
                told.phases.push(Instance { name, begin: told.events.len(), end: usize::MAX });
                told.events.push((What::Begin(name), now.clone()));
            }
            // Nearly always the innermost.
            4 if !open.is_empty() => {
                let at = open.len() - 1 - if choice % 8 == 0 { (choice / 8) as usize % open.len() } else { 0 };
                let name = told.phases[open[at]].name;
                // An end ends the innermost of its name.
                let at = open.iter().rposition(|phase| told.phases[*phase].name == name).unwrap();
                told.phases[open.remove(at)].end = told.events.len();
                told.events.push((What::End(name), now.clone()));
            }
            _ => told.events.push((What::Free, now.clone())),
        }
        let top = now.last_mut().unwrap();
        top.0 = top.0 / 8 * 8 + (top.0 + choice % 2) % 8;
    }
    told
}

fn same(one: &Frames, other: &Frames) -> usize {
    one.iter().zip(other).take_while(|(one, other)| one.1 == other.1).count()
}

/// The trace of it: ends of phases have no stacks, as recorded.
fn recorded(told: &Told) -> (Tables, Vec<Event>) {
    let mut tables = Tables { stacks: vec![StackNode { parent: StackId(0), frame: FrameId(0) }], ..Tables::default() };
    tables.processes.push(Process::default());
    tables.threads.push(Thread { tid: 1, process: ProcessId(0), name: String::new() });
    tables.frames = (0..64).map(|address| Frame { module: ModuleId(0), address }).collect();
    tables.texts = vec!["one".into(), "two".into(), "three".into()];
    tables.markers.push(Marker {
        name: "own".into(),
        symbol: "heaptape:begin".into(),
        value: MarkerValue::Text,
        ends_by: MarkerEnd::Explicit,
    });
    let mut events = Vec::new();
    let mut before: Option<&Frames> = None;
    for (at, (what, frames)) in told.events.iter().enumerate() {
        let mut stack = StackId(0);
        for (address, _) in frames {
            let node = StackNode { parent: stack, frame: FrameId(*address as u32) };
            let known = tables.stacks.iter().skip(1).position(|known| *known == node).map(|at| at + 1);
            stack = StackId::from(known.unwrap_or(tables.stacks.len()));
            if known.is_none() {
                tables.stacks.push(node);
            }
        }
        let mut walk = Walk { quality: StackQuality::Complete, renewed: 0, moved: false };
        if let Some(before) = before {
            let shared = before.iter().zip(frames).take_while(|(one, other)| one.0 == other.0).count();
            let going_on = before.iter().zip(frames).take_while(|(one, other)| one == other).count();
            walk.renewed = (shared - going_on) as u32;
            walk.moved = going_on < same(before, frames);
        }
        let op = match what {
            What::Free => Op::Free { entry: EntryId(0), target: Target::Unknown { address: 0 } },
            What::Begin(name) => Op::Marker { id: 0, kind: 1, value: *name as u64 },
            What::End(name) => Op::Marker { id: 0, kind: 2, value: *name as u64 },
        };
        let has_stack = !matches!(what, What::End(_));
        if has_stack {
            before = Some(frames);
        } else {
            (stack, walk) = (StackId::EMPTY, Walk::NONE);
        }
        events.push(Event { sequence: Sequence(at as u64), time_ns: 0, thread: ThreadId(0), stack, walk, op });
    }
    (tables, events)
}

/// What the program says of its phases: those that nest, with how many calls lie around.
fn nesting(told: &Told) -> Vec<(Instance, usize)> {
    let has_stack = |at: &usize| !matches!(told.events[*at].0, What::End(_));
    let nests = |(number, phase): (usize, &Instance)| {
        if phase.end == usize::MAX {
            return None;
        }
        let mut later = told.phases.iter().skip(number + 1);
        if later.any(|later| later.begin < phase.end && phase.end < later.end) {
            return None;
        }
        let last = (0..phase.end).rev().find(has_stack)?;
        let around = same(&told.events[phase.begin].1, &told.events[last].1);
        let next = (phase.end..told.events.len()).find(has_stack);
        let goes_on = next.is_some_and(|next| same(&told.events[last].1, &told.events[next].1) > around);
        (around > 0 && !goes_on).then_some((*phase, around))
    };
    told.phases.iter().enumerate().filter_map(nests).collect()
}

/// What an event's stack must consist of: activations and instances of phases by their own numbers, outermost first.
fn chain(told: &Told, nesting: &[(Instance, usize)], at: usize) -> Vec<(u64, Option<usize>)> {
    let frames = &told.events[at].1;
    let mut chain: Vec<(u64, Option<usize>)> = Vec::new();
    let mut from = 0;
    let open = nesting.iter().filter(|(phase, _)| phase.begin < at && at < phase.end);
    let mut around = None;
    for (phase, depth) in open {
        chain.extend(frames[from..*depth].iter().map(|(_, activation)| (*activation, around)));
        around = Some(phase.begin);
        chain.push((u64::MAX, around));
        from = depth - 1;
    }
    chain.extend(frames[from..].iter().map(|(_, activation)| (*activation, around)));
    chain
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Which calls and phases go on from one event to another is what the program says, whatever it does.
    #[test]
    fn phases_and_calls_live_as_long_as_they_do(steps in proptest::collection::vec((0..8u8, 0..64u64), 1..120)) {
        let told = run(&steps);
        let (tables, events) = recorded(&told);
        let names = Names::with_symbols(&tables, &[]);
        let mut finder = Finder::new(&tables, &names, &[]);
        for event in &events {
            finder.event(event);
        }
        let spans = finder.finish();
        let nesting = nesting(&told);
        let found: Vec<(usize, usize, usize)> = spans.of_thread[0]
            .iter()
            .map(|span| (span.begin.0 as usize, span.end.0 as usize, span.depth as usize))
            .collect();
        let expected: Vec<(usize, usize, usize)> =
            nesting.iter().map(|(phase, depth)| (phase.begin, phase.end, *depth)).collect();
        prop_assert_eq!(found, expected);

        let mut loom = Loom::new(&tables, &spans);
        for event in &events {
            loom.event(event);
        }
        let woven = loom.finish(&tables, &spans);
        let functions = (0..woven.tables.frames.len() as u32).collect();
        let mut activations = Activations::new(&woven.tables, functions);
        let mut weaver = Weaver::new(&woven);
        let mut plain = Activations::new(&tables, (0..tables.frames.len() as u32).collect());
        let inside = |at: usize| nesting.iter().any(|(phase, _)| phase.begin < at && at < phase.end);
        for (at, event) in events.iter().enumerate() {
            let event = weaver.event(event);
            let (step, plain_step) = (activations.step(&event), plain.step(&events[at]));
            // A call that went back in its function in the trace went back in the view, or is not taken to go on.
            if let (Some(step), Some(plain_step)) = (step, plain_step)
                && !inside(at)
                && plain_step.fell_back
            {
                prop_assert!(step.fell_back || step.kept < plain_step.kept, "event {}: {:?} {:?}", at, step, plain_step);
            }
            if !is_whole(&event) {
                continue;
            }
            let now = chain(&told, &nesting, at);
            let open = activations.of(ThreadId(0)).unwrap();
            prop_assert_eq!(open.depth(), now.len(), "event {}", at);
            for birth in (0..=at).filter(|birth| is_whole(&events[*birth])) {
                let then = chain(&told, &nesting, birth);
                let going_on = then.iter().zip(&now).take_while(|(one, other)| one == other).count();
                prop_assert_eq!(open.scope(Sequence(birth as u64)), going_on, "{} to {}", birth, at);
            }
        }
    }
}
