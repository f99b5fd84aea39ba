//! Programs whose stacks are known from how they are written: exactly these frames, complete or marked with the reason.

use std::collections::HashMap;
use std::path::PathBuf;

use tests::live::live;
use tests::recorder::Record;
use tests::workload::built;
use trace_format::{Op, StackId, StackQuality, Tables, Trace};

/// Names of a stack's functions, the outermost first, and how its walk ended.
type Stack = (Vec<String>, StackQuality);

/// Stacks of the allocs of a program by size; a size stands for one case.
fn record(name: &str, arguments: &[PathBuf], options: &[&str]) -> HashMap<u64, Stack> {
    let command = std::iter::once(built(name)).chain(arguments.iter().cloned());
    let recording = Record::new(command).options(&["--quiet"]).options(options).finish().expect_status(0);
    let trace = Trace::open(&recording.trace).expect("the trace can be read");
    let tables = trace.tables.clone();
    let mut stacks = HashMap::new();
    trace
        .for_each_chunk(0, |events| {
            for event in events {
                if let Op::Alloc { size_bytes, .. } = event.op {
                    stacks.insert(size_bytes, (names(event.stack, &tables), event.walk.quality));
                }
            }
        })
        .expect("the trace can be read");
    stacks
}

fn names(stack: StackId, tables: &Tables) -> Vec<String> {
    let mut names = Vec::new();
    let mut node = stack;
    while node != StackId::EMPTY {
        let row = &tables.stacks[node.index()];
        let symbols = &tables.symbols[row.frame.index()].functions;
        names.extend(symbols.iter().map(|symbol| symbol.name.clone()));
        if symbols.is_empty() {
            names.push("?".to_owned());
        }
        node = row.parent;
    }
    names.reverse();
    names
}

/// The frames from the function named first on.
#[track_caller]
fn ends_with(stacks: &HashMap<u64, Stack>, size: u64, quality: StackQuality, expected: &[&str]) {
    let (found, ended) = stacks.get(&size).unwrap_or_else(|| panic!("no block of {size} bytes was recorded"));
    let tail = &found[found.len().saturating_sub(expected.len())..];
    assert_eq!(tail, expected, "{size}: the whole stack is {found:?}");
    assert_eq!(*ended, quality, "{size}: the whole stack is {found:?}");
}

/// A complete stack from `main` on. Above it stand the C library's start and `_start`, by whatever names.
#[track_caller]
fn complete(stacks: &HashMap<u64, Stack>, size: u64, expected: &[&str]) {
    ends_with(stacks, size, StackQuality::Complete, expected);
    assert!(stacks[&size].0.iter().filter(|name| *name == "main").count() <= 1);
}

/// A stack that consists of these frames alone.
#[track_caller]
fn alone(stacks: &HashMap<u64, Stack>, size: u64, quality: StackQuality, expected: &[&str]) {
    ends_with(stacks, size, quality, expected);
    assert_eq!(stacks[&size].0.len(), expected.len(), "{size}: {:?}", stacks[&size].0);
}

#[test]
fn of_c_and_of_hand_written_information() {
    let Some(_live) = live() else { return };
    shapes_of_c(&[]);
}

/// As on kernels before 6.6; see `perf_links.rs`.
#[test]
fn of_probes_that_are_linked_one_by_one() {
    let Some(_live) = live() else { return };
    shapes_of_c(&["--links", "perf"]);
}

#[track_caller]
fn shapes_of_c(options: &[&str]) {
    let stacks = record("stack_shapes", &[], options);
    complete(&stacks, 100_001, &["main", "plain_a", "plain_b", "plain_c", "take"]);
    complete(&stacks, 100_002, &["main", "dynamic", "take"]);
    complete(&stacks, 100_003, &["main", "realigned", "take"]);
    complete(&stacks, 100_004, &["main", "calls_noreturn", "leave_for_good", "take"]);
    complete(&stacks, 100_005, &["main", "before_jump", "jumped_to", "take"]);
    let deep: Vec<&str> = ["main"].into_iter().chain(["recurse"; 301]).chain(["take"]).collect();
    complete(&stacks, 100_006, &deep);
    let too_deep: Vec<&str> = ["recurse"; 511].into_iter().chain(["take"]).collect();
    alone(&stacks, 100_007, StackQuality::TooDeep, &too_deep);
    complete(&stacks, 100_008, &["main", "huge", "take"]);
    // The signal was raised by the C library on behalf of `spins`; between it and the handler stands the kernel's frame.
    let (handled, quality) = &stacks[&100_009];
    let position = |name: &str| handled.iter().position(|found| found == name);
    let order = ["main", "interrupted", "spins", "handler", "handler_body", "take"].map(position);
    assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{handled:?}");
    assert_eq!(*quality, StackQuality::Complete);
    // A fiber's stack ends where the C library made it, not in `main`.
    let (fiber, quality) = &stacks[&100_010];
    assert!(fiber.ends_with(&["fiber", "fiber_body", "take"].map(str::to_owned)), "{fiber:?}");
    assert!(!fiber.contains(&"main".to_owned()), "{fiber:?} {quality:?}");
    ends_with(&stacks, 100_011, StackQuality::Complete, &["thread", "thread_body", "take"]);
    alone(&stacks, 100_012, StackQuality::UnknownCode, &["?", "called_back", "take"]);
    // The last of fifty calls, a second after the first.
    complete(&stacks, 100_013, &["main", "maps_code_again", "calls_it", "called_from_copy", "take"]);
    let other_way = |frame: &'static str| ["main", "goes_both_ways", frame, "found_by_rbp", "unmoved", "take"];
    complete(&stacks, 100_014, &other_way("small_frame"));
    complete(&stacks, 100_015, &other_way("large_frame"));
    let hand = |name: &'static str| ["main", "through_hand_written", name, "take"];
    complete(&stacks, 100_021, &hand("by_rbp"));
    complete(&stacks, 100_022, &hand("by_expression"));
    complete(&stacks, 100_023, &hand("rbp_by_expression"));
    alone(&stacks, 100_024, StackQuality::Unsupported, &["by_rbx", "take"]);
    alone(&stacks, 100_025, StackQuality::NoRule, &["without", "take"]);
    alone(&stacks, 100_026, StackQuality::Complete, &["is_root", "take"]);
}

#[test]
fn of_cpp() {
    let Some(_live) = live() else { return };
    let stacks = record("stack_shapes_cpp", &[built("stack_closed.so")], &[]);
    complete(&stacks, 200_001, &["main", "in_handler", "take"]);
    // While the stack is unwound, the frames of the unwinder stand between the function and its destructor.
    let (unwound, quality) = &stacks[&200_002];
    let position = |name: &str| unwound.iter().position(|found| found == name);
    let order = ["main", "catches", "unwound", "Guard::~Guard", "in_destructor", "take"].map(position);
    assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{unwound:?}");
    assert_eq!(*quality, StackQuality::Complete);
    complete(&stacks, 200_003, &["main", "calls_virtual", "Derived::act", "from_virtual", "take"]);
    let (lambda, quality) = &stacks[&200_004];
    assert!(lambda.ends_with(&["from_lambda", "take"].map(str::to_owned)), "{lambda:?}");
    assert!(lambda.contains(&"calls_lambda".to_owned()) && *quality == StackQuality::Complete, "{lambda:?}");
    complete(&stacks, 200_005, &["main", "news", "operator new"]);
    // Between `main`, which closes a library, and a destructor of it stands the C runtime's function without unwind information.
    let (closed, quality) = &stacks[&200_006];
    let position = |name: &str| closed.iter().position(|found| found == name);
    let order = ["main", "closes", "__do_global_dtors_aux", "__cxa_finalize", "Last::~Last", "take"].map(position);
    assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{closed:?}");
    assert_eq!(*quality, StackQuality::Complete);
}

#[test]
fn of_rust() {
    let Some(_live) = live() else { return };
    let stacks = record("stack_shapes_rs", &[], &[]);
    let within = |size: u64, expected: &[&str]| {
        let (found, quality) = stacks.get(&size).unwrap_or_else(|| panic!("no block of {size} bytes"));
        let mut rest = found.iter();
        for name in expected {
            assert!(rest.any(|found| found.starts_with(name)), "{size}: no {name} in its place in {found:?}");
        }
        assert_eq!(*quality, StackQuality::Complete, "{size}: {found:?}");
    };
    within(300_001, &["main", "shapes::main", "shapes::plain", "shapes::take"]);
    within(300_002, &["main", "shapes::main", "shapes::generic", "shapes::take"]);
    within(
        300_003,
        &["main", "shapes::main", "shapes::panics", "<shapes::Guard as core::ops::drop::Drop>::drop", "shapes::take"],
    );
    within(300_004, &["shapes::in_thread", "shapes::take"]);
}

/// A function of `random.c` on its stack: which, where it calls from, its canonical frame address.
type Told = (u64, u64, u64);

/// The functions of `random.c` in its own numbering.
const RANDOM: [&str; 13] = [
    "runs",
    "plain",
    "wider",
    "saves",
    "dynamic",
    "realigned",
    "large",
    "huge",
    "signals",
    "handler",
    "deep",
    "take",
    "drop",
];

fn told(path: &std::path::Path) -> Vec<Vec<Told>> {
    let bytes = std::fs::read(path).expect("the program wrote its stacks down");
    let mut words = bytes.as_chunks().0.iter().map(|&word| u64::from_le_bytes(word));
    let mut stacks = Vec::new();
    while let Some(count) = words.next() {
        let mut word = || words.next().expect("a whole file");
        stacks.push((0..count).map(|_| (word(), word(), word())).collect());
    }
    stacks
}

/// One event of `random.c` as the trace has it.
struct Seen {
    stack: StackId,
    /// Frames and names, the outermost first.
    frames: Vec<(trace_format::FrameId, String)>,
    /// Functions that it lacks.
    cut: usize,
}

/// Not only which functions are on the stack, but also which of them are still the same calls as at the event before: what
/// the program's own account of addresses and CFAs says.
#[test]
fn of_random_calls() {
    let Some(_live) = live() else { return };
    let recording = Record::new([built("stack_random")]).options(&["--quiet"]).finish().expect_status(0);
    let told = told(&recording.truth);
    let trace = Trace::open(&recording.trace).expect("the trace can be read");
    let tables = trace.tables.clone();
    let (mut at, mut moved_count, mut deep_count, mut before) = (0, 0, 0, None::<Seen>);
    let (mut address_of, mut frame_of) = (HashMap::new(), HashMap::new());
    trace
        .for_each_chunk(0, |events| {
            for event in events {
                let mut frames = Vec::new();
                let mut node = event.stack;
                while node != StackId::EMPTY {
                    let row = &tables.stacks[node.index()];
                    let name = tables.symbols[row.frame.index()].functions.last().map(|symbol| symbol.name.clone());
                    frames.push((row.frame, name.unwrap_or_default()));
                    node = row.parent;
                }
                frames.reverse();
                if !frames.last().is_some_and(|(_, name)| name == "take" || name == "drop") {
                    before = None;
                    continue;
                }
                let ours: Vec<usize> =
                    (0..frames.len()).filter(|&place| RANDOM.contains(&frames[place].1.as_str())).collect();
                // A stack that is too deep lacks its outermost functions.
                let cut = told[at].len().saturating_sub(ours.len());
                assert_eq!(cut > 0, event.walk.quality == StackQuality::TooDeep, "event {at}");
                deep_count += u32::from(cut > 0);
                assert!(cut == 0 || frames.len() == 512, "event {at}: {} frames", frames.len());
                let truth = &told[at][cut..];
                let names: Vec<&str> = ours.iter().map(|&place| frames[place].1.as_str()).collect();
                let expected: Vec<&str> = truth.iter().map(|told| RANDOM[told.0 as usize]).collect();
                assert_eq!(names, expected, "event {at}");
                for (&place, &(which, address, _)) in ours.iter().zip(truth) {
                    let frame = frames[place].0;
                    assert_eq!(*address_of.entry(frame).or_insert((which, address)), (which, address), "event {at}");
                    assert_eq!(*frame_of.entry((which, address)).or_insert(frame), frame, "event {at}");
                }
                if let Some(before) = &before {
                    let truth_before = &told[at - 1][before.cut..];
                    let same = truth.iter().zip(truth_before).take_while(|(now, before)| now == before).count();
                    let shared = tables.shared_depth(before.stack, event.stack);
                    let goes_on = shared.saturating_sub(event.walk.renewed) as usize;
                    let found = ours.iter().filter(|&&place| place < goes_on).count();
                    assert_eq!(found, same, "event {at}: {truth_before:x?} {truth:x?}");
                    // The first that does not go on may be a frame of the C library, of which the program knows nothing.
                    if ours.contains(&goes_on)
                        && before.frames.get(goes_on).is_some_and(|(_, name)| *name == frames[goes_on].1)
                    {
                        let moved = truth[same].2 == truth_before[same].2;
                        assert_eq!(event.walk.moved, moved, "event {at}: {truth_before:x?} {truth:x?}");
                        moved_count += u32::from(moved);
                    }
                }
                before = Some(Seen { stack: event.stack, frames, cut });
                at += 1;
            }
        })
        .expect("the trace can be read");
    assert_eq!(at, told.len());
    assert!(
        at > 60_000 && moved_count > 1000 && deep_count > 1000,
        "{at} events, {moved_count} times a frame was in another call, {deep_count} stacks too deep"
    );
}

/// A place that `stepped.c` was interrupted at, as the stack of its handler's block has it.
struct Stepped {
    size: u64,
    names: Vec<String>,
    quality: StackQuality,
    /// Path of the file that the interrupted code is from, and the address in it.
    module: String,
    address: u64,
}

/// Stacks of the blocks of `stepped.c`, each from another instruction of what it calls: where it was interrupted is what it says
/// itself, and between the function that calls and the handler nothing is missing.
fn stepped(name: &str) -> Vec<Stepped> {
    let recording = Record::new([built(name)]).options(&["--quiet"]).finish().expect_status(0);
    let bytes = std::fs::read(&recording.truth).expect("the program wrote down where it was interrupted");
    let told: Vec<u64> = bytes.as_chunks().0.iter().map(|&word| u64::from_le_bytes(word)).collect();
    let trace = Trace::open(&recording.trace).expect("the trace can be read");
    let tables = trace.tables.clone();
    let mut found = Vec::new();
    trace
        .for_each_chunk(0, |events| {
            for event in events {
                let Op::Alloc { size_bytes: size @ 100_101..=100_103, .. } = event.op else { continue };
                let names = names(event.stack, &tables);
                // Out of `take` and `handler` and the kernel's frame.
                let node = (0..3).fold(event.stack, |node, _| tables.stacks[node.index()].parent);
                assert!(node != StackId::EMPTY, "{size}: nothing is known of what was interrupted: {names:?}");
                let frame = tables.frames[tables.stacks[node.index()].frame.index()];
                let module = tables.modules[frame.module.index()].path.clone();
                found.push(Stepped { size, names, quality: event.walk.quality, module, address: frame.address - 1 });
            }
        })
        .expect("the trace can be read");
    assert_eq!(found.len(), told.len());
    for (stepped, told) in found.iter().zip(told) {
        // Files are mapped by pages.
        assert_eq!(stepped.address % 4096, told % 4096, "{told:#x}: {:?}", stepped.names);
        if stepped.quality == StackQuality::Complete {
            let caller = ["unbound", "bound", "clocks"][stepped.size as usize - 100_101];
            let position = |name: &str| stepped.names.iter().position(|found| found == name);
            let order = ["main", caller, "handler", "take"].map(position);
            assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{told:#x}: {:?}", stepped.names);
            assert_eq!(order[0].map(|main| main + 1), order[1], "{told:#x}: {:?}", stepped.names);
        } else {
            // The dynamic linker finds the frame of its trampoline by rbx, which is not followed.
            let outermost = &stepped.names[0];
            let is_known = outermost.starts_with("_dl_runtime_resolve") || offset_in(name, stepped, ".plt").is_some();
            assert!(stepped.quality == StackQuality::Unsupported && is_known, "{told:#x}: {:?}", stepped.names);
        }
    }
    found
}

/// Distance from the beginning of a section of a workload, if what was interrupted lies in it.
fn offset_in(name: &str, stepped: &Stepped, section: &str) -> Option<u64> {
    use object::{Object as _, ObjectSection as _};
    let bytes = std::fs::read(built(name)).expect("the workload is built");
    let file = object::File::parse(&*bytes).expect("it is an ELF file");
    let section = file.section_by_name(section)?;
    let is_ours = stepped.module == built(name).display().to_string();
    let offset = stepped.address.checked_sub(section.address())?;
    (is_ours && offset < section.size()).then_some(offset)
}

/// Which instructions of the entries of a section were interrupted: whether in its first entry, and the distance from the entry's
/// beginning; with how the walks ended.
fn entries(name: &str, all: &[Stepped], size: u64, section: &str) -> Vec<(bool, u64, StackQuality)> {
    let of_size = all.iter().filter(|stepped| stepped.size == size);
    of_size
        .filter_map(|stepped| {
            let offset = offset_in(name, stepped, section)?;
            Some((offset < 16, offset % 16, stepped.quality))
        })
        .collect()
}

#[test]
fn of_single_instructions() {
    use StackQuality::{Complete, Unsupported};
    let Some(_live) = live() else { return };
    let all = stepped("stack_stepped");
    // jmp (to the next instruction); push; jmp to the first entry: push; jmp to the dynamic linker.
    let first_call = [(false, 0), (false, 6), (false, 11), (true, 0), (true, 6)];
    assert_eq!(
        entries("stack_stepped", &all, 100_101, ".plt"),
        first_call.map(|(first, offset)| (first, offset, Complete))
    );
    assert_eq!(entries("stack_stepped", &all, 100_102, ".plt"), [(false, 0, Complete)]);
    for size in [100_102, 100_103] {
        let of_size = || all.iter().filter(|stepped| stepped.size == size);
        assert!(of_size().count() > 3 && of_size().all(|stepped| stepped.quality == Complete), "{size}");
    }
    let resolved = all.iter().filter(|stepped| stepped.size == 100_101 && stepped.quality == Complete);
    assert!(resolved.filter(|stepped| stepped.names.iter().any(|name| name == "getppid")).count() > 1);
    let in_vdso = all.iter().filter(|stepped| stepped.size == 100_103 && stepped.module == "[vdso]").count();
    assert!(in_vdso > 20, "the vdso was interrupted {in_vdso} times");

    // With `endbr64` ahead of it, an entry pushes elsewhere than where the special rule takes it to (`unwind/rule.rs`): said, not
    // guessed. Once bound, calls pass through another section.
    let name = "stack_stepped-ibt";
    let all = stepped(name);
    let first_call = [
        (false, 0, Unsupported),
        (false, 4, Unsupported),
        (false, 9, Unsupported),
        (true, 0, Complete),
        (true, 6, Complete),
    ];
    assert_eq!(entries(name, &all, 100_101, ".plt"), first_call);
    assert_eq!(entries(name, &all, 100_102, ".plt"), []);
    assert!(
        entries(name, &all, 100_102, ".plt.sec")
            .iter()
            .any(|(_, offset, quality)| (*offset, *quality) == (4, Complete))
    );
}

/// A thread whose place for walks becomes free keeps what is known of its frames: they are in the same calls as before.
#[test]
fn of_threads_that_share_a_place_of_the_recorders() {
    let Some(_live) = live() else { return };
    let recording = Record::new([built("same_slot").as_os_str(), "8192".as_ref()]).options(&["--quiet"]).finish();
    let trace = Trace::open(&recording.expect_status(0).trace).expect("the trace can be read");
    let tables = trace.tables.clone();
    let (mut second, mut before, mut count) = (None, StackId::EMPTY, 0);
    trace
        .for_each_chunk(0, |events| {
            for event in events {
                if matches!(event.op, Op::Alloc { size_bytes: 1409, .. }) {
                    (second, before) = (Some(event.thread), event.stack);
                    continue;
                }
                if second != Some(event.thread) || event.walk.quality == StackQuality::NotTaken {
                    continue;
                }
                let shared = tables.shared_depth(before, event.stack).saturating_sub(event.walk.renewed);
                // Of those that are elsewhere in their code, the outermost may go on too.
                let goes_on = shared as usize + usize::from(event.walk.moved);
                let names = names(event.stack, &tables);
                let main = names.iter().position(|name| name == "main").expect("it calls from main");
                assert!(goes_on > main, "{:?}: of {names:?} only {goes_on} frames are still the same calls", event.op);
                (before, count) = (event.stack, count + 1);
            }
        })
        .expect("the trace can be read");
    assert_eq!(count, 4, "both halves of a realloc, free, calloc");
}
