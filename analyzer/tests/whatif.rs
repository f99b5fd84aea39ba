//! Scripts are what the trace says, and real allocators can do them. Responsible for the steps of a trace written by hand, for what the scripts
//! of the samples add up to, and for the contents of every block while they are done; not for times, which no test can know.

#[path = "whatif/planted.rs"]
mod planted;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use analyzer::arenas::{Arena, AtEnd, Chunks, Nesting, Plan, Policy, padded};
use analyzer::whatif::worker::{HeapKind, Measured, Order, perform};
use analyzer::whatif::{Bump, Header, Recorded, Script, Step, Written};
use analyzer::wrappers::Wrappers;
use analyzer::{Names, Outcome, Symboliser};
use tempfile::TempDir;
use trace_format::{Symbolise as _, Trace};

use planted::Planted;

const SAMPLES: [&str; 3] = ["cc1plus-small.htape", "rustc-small.htape", "tcc-small.htape"];

const POLICIES: [Policy; 5] = [
    Policy::Llvm,
    Policy::Rustc,
    Policy::Zig,
    Policy::Bumpalo,
    Policy::Custom { first_bytes: 1000, growth_percent: 150, max_bytes: 5000, last_in_place: true },
];

/// A trace, ready to be written as scripts.
struct Read {
    trace: Trace,
    names: Names,
    outcome: Outcome,
    wrappers: Wrappers,
    folder: TempDir,
}

impl Read {
    fn of(path: &Path) -> Self {
        let mut trace = Trace::open(path).unwrap();
        if trace.tables.symbols.iter().all(|symbols| symbols.functions.is_empty()) {
            trace.tables.symbols = Symboliser::new().symbolise(&trace.tables);
        }
        let names = Names::of(&trace.tables);
        let outcome = analyzer::replay(&trace, 1, |_| ()).unwrap();
        Self { trace, names, outcome, wrappers: Wrappers::default(), folder: tempfile::tempdir().unwrap() }
    }

    fn sample(name: &str) -> Self {
        Self::of(&Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples").join(name))
    }

    fn recorded(&self) -> Recorded<'_> {
        let Self { trace, names, outcome, wrappers, .. } = self;
        Recorded { trace, names, outcome, wrappers, profiles: &[], decoders: 1 }
    }

    fn write(&self, plan: Option<&Plan>) -> Written {
        let process = self.recorded().process(None).unwrap();
        self.recorded().write(process, plan, &self.folder.path().join("script"), |_| ()).unwrap()
    }

    fn steps(&self, plan: Option<&Plan>) -> (Header, Vec<Step>) {
        steps(&self.write(plan).path)
    }
}

fn words(path: &Path) -> Vec<u64> {
    std::fs::read(path).unwrap().chunks_exact(8).map(|word| u64::from_ne_bytes(word.try_into().unwrap())).collect()
}

fn steps(path: &Path) -> (Header, Vec<Step>) {
    let words = words(path);
    let script = Script::of(&words).unwrap();
    (*script.header(), script.steps().collect())
}

fn verified(script: &Path, heap: HeapKind, holes_like: Option<PathBuf>) -> Measured {
    perform(&Order { script: script.to_owned(), heap, holes_like, verify: true }).unwrap()
}

/// The planted trace's arenas.
fn plan(policy: Policy, at_end: AtEnd) -> Plan {
    let key = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    let arena = Arena { scope: "body".into(), nesting: Nesting::Innermost, at_end, keys: vec![key(&["node"])] };
    Plan::new(policy, vec![arena])
}

#[test]
fn a_script_is_what_the_trace_says() {
    let planted = Planted::calls();
    let read = Read::of(&planted.path);
    let (header, found) = read.steps(None);
    let expected = [
        Step::Allocate { slot: 0, size_bytes: 100 },
        Step::AllocateZeroed { slot: 1, size_bytes: 50 },
        Step::AllocateAligned { slot: 2, size_bytes: 70, alignment_bytes: 64 },
        Step::Reallocate { slot: 0, size_bytes: 200, old_bytes: 100 },
        Step::Switch { thread: 1 },
        Step::Allocate { slot: 3, size_bytes: 5_000_000_000 },
        Step::Free { slot: 1 },
        Step::Allocate { slot: 1, size_bytes: 1 },
        Step::End,
        Step::Switch { thread: 0 },
        Step::Free { slot: 3 },
        // A realloc that turned out to be a free.
        Step::Free { slot: 2 },
    ];
    assert_eq!(found, expected, "{found:#?}");
    assert_eq!((header.thread_count, header.slot_count, header.alloc_count), (2, 4, 5));
    assert_eq!((header.step_count, header.switch_count), (10, 2));
    assert_eq!(header.peak_bytes, 200 + 50 + 70 + 5_000_000_000);
    // One word for each of malloc, calloc and the switch, two for the others.
    assert_eq!(header.peak_at, 1 + 1 + 2 + 2 + 1 + 2);
}

#[test]
fn arenas_are_opened_filled_and_closed_where_the_plan_says() {
    let planted = Planted::bodies(2, &[100, 60]);
    let read = Read::of(&planted.path);
    let custom = Policy::Custom { first_bytes: 128, growth_percent: 200, max_bytes: 1024, last_in_place: false };
    let (header, found) = read.steps(Some(&plan(custom, AtEnd::Destroy)));
    let bump = |slot, size_bytes, chunk_bytes| Step::Bump {
        slot,
        size_bytes,
        arena: 0,
        how: Bump { chunk_bytes, ..Bump::default() },
    };
    let body = |slots: [u32; 2]| {
        [
            bump(slots[0], 100, Some(128)),
            bump(slots[1], 60, Some(256)),
            // The frees of both are no longer needed.
            Step::Close { arena: 0 },
        ]
    };
    let mut expected: Vec<Step> = vec![Step::Allocate { slot: 0, size_bytes: 10 }];
    expected.extend(body([1, 2]));
    expected.extend(body([2, 1]));
    expected.push(Step::Free { slot: 0 });
    assert_eq!(found, expected, "{found:#?}");
    assert_eq!((header.arena_count, header.chunk_count, header.slot_count), (1, 2, 3));
    assert_eq!(header.peak_bytes, 10 + 128 + 256);

    let (header, found) = read.steps(Some(&plan(custom, AtEnd::Reset)));
    let resets = found.iter().filter(|step| matches!(step, Step::Reset { .. })).count();
    let chunks = |step: &&Step| matches!(step, Step::Bump { how: Bump { chunk_bytes: Some(_), .. }, .. });
    // The second body finds the first chunk of the first one.
    assert_eq!((resets, found.iter().filter(chunks).count()), (2, 3), "{found:#?}");
    assert_eq!((header.arena_count, header.chunk_count), (1, 2));
}

/// A plan with phases takes two passes more, and each of them is told of.
#[test]
fn progress_is_told_over_all_passes() {
    let planted = Planted::phase("parse");
    let read = Read::of(&planted.path);
    let mut with_phase = plan(Policy::Llvm, AtEnd::Destroy);
    with_phase.arenas[0].scope = "phase parse".into();
    let event_count = read.trace.event_count;
    for (plan, passes) in [(None, 1), (Some(&plan(Policy::Llvm, AtEnd::Destroy)), 1), (Some(&with_phase), 3)] {
        let mut told = Vec::new();
        let process = read.recorded().process(None).unwrap();
        let path = read.folder.path().join("script");
        let written = read.recorded().write(process, plan, &path, |events| told.push(events)).unwrap();
        assert!(written.missing_scopes.is_empty());
        assert!(told.is_sorted(), "{told:?}");
        assert_eq!((told.len(), told.last()), (passes, Some(&(passes as u64 * event_count))), "{told:?}");
    }
}

/// A script without arenas, played on sizes alone.
#[derive(Default)]
struct Model {
    live: HashMap<u32, u64>,
    live_bytes: u64,
    peak_bytes: u64,
    alloc_count: u64,
    free_count: u64,
    realloc_count: u64,
    /// Blocks that nobody freed before their slot was used again.
    forgotten_bytes: u64,
}

impl Model {
    fn of(steps: &[Step]) -> Self {
        let mut model = Self::default();
        for step in steps {
            match *step {
                Step::Allocate { slot, size_bytes }
                | Step::AllocateZeroed { slot, size_bytes }
                | Step::AllocateAligned { slot, size_bytes, .. } => {
                    model.alloc_count += 1;
                    model.forgotten_bytes += model.live.insert(slot, size_bytes).unwrap_or(0);
                    model.live_bytes += size_bytes;
                }
                Step::Reallocate { slot, size_bytes, old_bytes } => {
                    model.realloc_count += 1;
                    assert_eq!(model.live.insert(slot, size_bytes), Some(old_bytes));
                    model.live_bytes = model.live_bytes - old_bytes + size_bytes;
                }
                Step::Free { slot } => {
                    model.free_count += 1;
                    model.live_bytes -= model.live.remove(&slot).expect("only what is alive is freed");
                }
                Step::Switch { .. } | Step::End => {}
                other => panic!("{other:?} without a plan"),
            }
            model.peak_bytes = model.peak_bytes.max(model.live_bytes);
        }
        model
    }
}

#[test]
fn scripts_of_the_samples_add_up_to_what_the_replay_counts() {
    for sample in SAMPLES {
        let read = Read::sample(sample);
        let process = read.recorded().process(None).unwrap();
        let account = read.outcome.processes[process.index()].account;
        let (header, steps) = read.steps(None);
        let model = Model::of(&steps);
        let counts = account.counts;
        assert_eq!(model.alloc_count, counts.alloc_count, "{sample}");
        assert_eq!(model.free_count, counts.free_count, "{sample}");
        assert_eq!(model.realloc_count, counts.realloc_count, "{sample}");
        assert_eq!((model.peak_bytes, model.forgotten_bytes), (header.peak_bytes, 0), "{sample}");
        assert_eq!(header.peak_bytes, account.peak.bytes, "{sample}");
        assert_eq!(model.live_bytes, account.at_end.bytes, "{sample}");
        let slots = model.live.len().max(header.slot_count as usize);
        assert!(slots as u64 <= model.alloc_count, "{sample}: slots are used again");
    }
}

#[test]
fn blocks_of_the_samples_keep_what_is_in_them() {
    for sample in SAMPLES {
        let read = Read::sample(sample);
        let written = read.write(None);
        let (_, steps) = steps(&written.path);
        let model = Model::of(&steps);
        let zeroed = steps.iter().filter(|step| matches!(step, Step::AllocateZeroed { .. })).count() as u64;
        // Before and after each realloc, at each free, at the end, and zeros.
        let looks = model.free_count + 2 * model.realloc_count + model.live.len() as u64 + zeroed;
        for heap in [HeapKind::System, HeapKind::Mimalloc] {
            for holes_like in [None, Some(written.path.clone())] {
                let measured = verified(&written.path, heap.clone(), holes_like);
                assert_eq!(measured.checked_count, looks, "{sample} with {heap:?}");
                assert!(measured.work_ns > 0);
            }
        }
    }
}

#[test]
fn blocks_in_arenas_keep_what_is_in_them() {
    for sample in SAMPLES {
        let read = Read::sample(sample);
        let heaps = [HeapKind::System, HeapKind::Mimalloc].into_iter().cycle();
        let ends = [AtEnd::Destroy, AtEnd::Reset, AtEnd::Reset].into_iter().cycle();
        for ((policy, heap), at_end) in POLICIES.into_iter().zip(heaps).zip(ends) {
            let plan = planted::anything(&read.trace, &read.names, policy, at_end);
            let written = read.write(Some(&plan));
            let (header, steps) = steps(&written.path);
            let bumps = steps.iter().filter(|step| matches!(step, Step::Bump { .. })).count() as u64;
            assert!(bumps * 4 > header.alloc_count, "{sample}: {bumps} of {} in arenas", header.alloc_count);
            let measured = verified(&written.path, heap, None);
            assert!(measured.checked_count >= bumps, "{sample} under {policy:?}");
        }
    }
}

/// Arenas in a script hold what the same arithmetic holds, step by step, and that is what was predicted.
#[test]
fn a_plans_script_holds_what_was_predicted() {
    for sample in SAMPLES {
        let read = Read::sample(sample);
        for policy in POLICIES {
            let plan = planted::anything(&read.trace, &read.names, policy, AtEnd::Destroy);
            let written = read.write(Some(&plan));
            let (header, steps) = steps(&written.path);
            assert_eq!(header.peak_bytes, written.predicted.peak_bytes, "{sample} under {policy:?}");
            let plain = read.write(None);
            assert_eq!(plain.header.peak_bytes, written.predicted.plain_peak_bytes, "{sample}");
            assert_eq!(plain.predicted.peak_bytes, plain.predicted.plain_peak_bytes, "{sample}");
            let mut arenas: HashMap<u32, Chunks> = HashMap::new();
            for step in steps {
                match step {
                    Step::Bump { size_bytes, arena, how, .. } => {
                        let taken = arenas.entry(arena).or_default().allocate(policy, size_bytes);
                        assert_eq!(taken, how.chunk_bytes.unwrap_or(0), "{sample} under {policy:?}: {step:?}");
                        assert!(!how.own_chunk || taken >= padded(size_bytes));
                    }
                    Step::Stretch { size_bytes, old_bytes, arena, .. } => {
                        let chunks = arenas.get_mut(&arena).expect("an open arena");
                        assert_eq!(chunks.resize_last(old_bytes, size_bytes), Some(()));
                    }
                    Step::Pop { size_bytes, arena, .. } => {
                        arenas.get_mut(&arena).expect("an open arena").free_last(size_bytes);
                    }
                    Step::Close { arena } => drop(arenas.remove(&arena)),
                    _ => {}
                }
            }
        }
    }
}

#[test]
fn scripts_that_cannot_be_done_are_refused() {
    let planted = Planted::bodies(2, &[100, 60]);
    let read = Read::of(&planted.path);
    let written = read.write(Some(&plan(Policy::Llvm, AtEnd::Destroy)));
    let words = words(&written.path);
    assert!(Script::of(&words).is_ok());
    assert!(Script::of(&words[..5]).is_err() && Script::of(&[]).is_err());
    assert!(Script::of(&words[..words.len() - 1]).is_ok(), "a script may end after any step");
    let mut refused = 0;
    for at in 0..words.len() {
        for bit in 0..64 {
            let mut damaged = words.clone();
            damaged[at] ^= 1 << bit;
            refused += u64::from(Script::of(&damaged).is_err());
        }
    }
    assert!(refused > words.len() as u64, "{refused}");
    for (at, what) in [(2, "thread"), (3, "slot"), (4, "arena"), (5, "chunks")] {
        let mut damaged = words.clone();
        damaged[at] = 0;
        let error = Script::of(&damaged).unwrap_err();
        assert!(error.contains(what), "{error}");
    }
    // The last bump of a body has words of its own behind the first one.
    let mut damaged = words.clone();
    damaged[10] = 2;
    assert!(Script::of(&damaged).unwrap_err().contains("peak"));
}

#[test]
fn what_a_worker_cannot_do_it_says() {
    let planted = Planted::calls();
    let read = Read::of(&planted.path);
    let script = read.write(None).path;
    let order = |script: &Path, heap| Order { script: script.to_owned(), heap, holes_like: None, verify: false };
    let error = |order: &Order| perform(order).unwrap_err().to_string();
    assert!(error(&order(Path::new("/nosuch"), HeapKind::System)).contains("/nosuch"));
    assert!(error(&order(&planted.path, HeapKind::System)).contains("no script"));
    let library = HeapKind::Library("/bin/sh".into());
    let other = error(&order(&script, library));
    assert!(other.contains("/bin/sh") && other.contains("malloc is that of"), "{other}");
}
