//! What must hold of every trace, whatever is in it: sums that can be made in two ways come out the same, as integers. Responsible
//! for the committed samples, for a recording of the planted compiler of `tests/workloads/minicompiler.c`, and for any others
//! (`$HEAPTAPE_TRACES`, separated by `:`). Live bytes over time are integrated here from the events themselves, with no code
//! of the analyzer's. Whether figures are true is not judged here but in `tests/tests/lifetimes.rs`.
//!
//! To renew the recording of the planted compiler, build it as `tests/src/workload.rs` does and run
//! `heaptape record -q --profile tests/workloads/minicompiler.toml -o minicompiler.htape -- ./minicompiler`.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};

use analyzer::Names;
use analyzer::lifetimes::{ClassFigures, Lifetimes, Phases, Study, Wish, alive_after, lifetimes, phases, study};
use analyzer::profile::{Profile, built_in};
use analyzer::replay::Amount;
use analyzer::selection::Wanted;
use analyzer::wrappers::Wrappers;
use trace_format::{BlockId, EntryId, Event, Op, ProcessId, Target, Trace};

/// Live bytes as the events say it. Blocks are known by their number and their process; a realloc is a death at its begin
/// and a birth at its end; where it fails, the old block was alive all the while, which only its peaks do not know.
#[derive(Default)]
struct Curve {
    live: HashMap<(ProcessId, BlockId), u64>,
    /// By thread and entry, the innermost last.
    moving: HashMap<(u32, EntryId), Vec<Moved>>,
    bytes: u64,
    peak_bytes: u64,
    time_ns: u64,
    byte_ns: u128,
    birth_count: u64,
    death_count: u64,
    /// The same for each process, and its peak.
    of_process: HashMap<ProcessId, (u64, u64)>,
}

/// A block that a realloc is moving.
struct Moved {
    block: BlockId,
    bytes: u64,
    begin_ns: u64,
}

impl Curve {
    fn of(trace: &Trace) -> Self {
        let mut curve = Self::default();
        let mut first = true;
        trace
            .for_each_chunk(0, |events| {
                for event in events {
                    if std::mem::take(&mut first) {
                        curve.time_ns = event.time_ns;
                    }
                    curve.event(trace, event);
                }
            })
            .expect("the trace can be read");
        curve
    }

    fn event(&mut self, trace: &Trace, event: &Event) {
        self.byte_ns += u128::from(event.time_ns - self.time_ns) * u128::from(self.bytes);
        self.time_ns = event.time_ns;
        let process = trace.tables.threads[event.thread.index()].process;
        let counts =
            |entry: EntryId| trace.tables.domains[trace.tables.entries[entry.index()].domain.index()].layer == 0;
        match event.op {
            Op::Alloc { entry, block, size_bytes, .. } if counts(entry) => self.birth(process, block, size_bytes),
            Op::Free { target: Target::Block(block), .. } | Op::MissedFree { block } => {
                self.death(process, block);
            }
            Op::ReallocBegin { entry, target: Target::Block(block), .. } => {
                if let Some(bytes) = self.death(process, block) {
                    self.moving.entry((event.thread.0, entry)).or_default().push(Moved {
                        block,
                        bytes,
                        begin_ns: event.time_ns,
                    });
                }
            }
            Op::ReallocEnd { entry, block, size_bytes, .. } if counts(entry) => {
                self.moving.entry((event.thread.0, entry)).or_default().pop();
                self.birth(process, block, size_bytes);
            }
            Op::ReallocFailed { entry } => {
                if let Some(Moved { block, bytes, begin_ns }) =
                    self.moving.entry((event.thread.0, entry)).or_default().pop()
                {
                    self.birth(process, block, bytes);
                    self.byte_ns += u128::from(event.time_ns - begin_ns) * u128::from(bytes);
                    (self.birth_count, self.death_count) = (self.birth_count - 1, self.death_count - 1);
                }
            }
            Op::ReallocFreed { entry } => {
                self.moving.entry((event.thread.0, entry)).or_default().pop();
            }
            Op::ProcessEnd { process, .. } => {
                let gone: Vec<BlockId> =
                    self.live.keys().filter(|(owner, _)| *owner == process).map(|(_, block)| *block).collect();
                for block in gone {
                    self.death(process, block);
                    self.death_count -= 1;
                }
            }
            _ => {}
        }
    }

    fn birth(&mut self, process: ProcessId, block: BlockId, bytes: u64) {
        assert!(self.live.insert((process, block), bytes).is_none(), "{block:?} is born twice");
        self.birth_count += 1;
        self.bytes += bytes;
        self.peak_bytes = self.peak_bytes.max(self.bytes);
        let (now, peak) = self.of_process.entry(process).or_default();
        *now += bytes;
        *peak = (*peak).max(*now);
    }

    fn death(&mut self, process: ProcessId, block: BlockId) -> Option<u64> {
        let bytes = self.live.remove(&(process, block))?;
        self.death_count += 1;
        self.bytes -= bytes;
        self.of_process.get_mut(&process)?.0 -= bytes;
        Some(bytes)
    }
}

/// A trace and all that is made of it.
struct Case {
    what: String,
    trace: Trace,
    study: Study,
    phases: Phases,
    lifetimes: Lifetimes,
    curve: Curve,
}

fn traces() -> Vec<PathBuf> {
    let samples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples");
    let mut traces: Vec<PathBuf> = std::fs::read_dir(samples)
        .expect("the samples are there")
        .map(|entry| entry.expect("the folder can be read").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "htape"))
        .collect();
    assert!(traces.len() >= 3, "{traces:?}");
    traces.sort();
    traces.push(planted());
    traces.extend(std::env::var_os("HEAPTAPE_TRACES").iter().flat_map(std::env::split_paths));
    traces
}

fn planted() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/invariants/minicompiler.htape")
}

fn profiles() -> Vec<Profile> {
    let text = include_str!("../../tests/workloads/minicompiler.toml");
    let planted = Profile::parse(text, "minicompiler.toml").expect("it is a profile");
    built_in().into_iter().chain([planted]).collect()
}

/// Calls `check` with every trace, seen with each source of phases.
fn for_each(check: impl Fn(&Case)) {
    for path in traces() {
        for wish in [Wish::Best, Wish::Stacks, Wish::Segments] {
            check(&case(&path, wish));
        }
    }
}

fn case(path: &Path, wish: Wish) -> Case {
    let trace = Trace::open(path).expect("the trace can be opened");
    assert!(trace.completeness.complete && trace.tables.processes.iter().all(|process| !process.shares_heap));
    let names = Names::of(&trace.tables);
    let study = study(&trace, &names, &profiles(), wish, 1, |_| ()).expect("the trace can be replayed");
    let wanted = Wanted::default();
    let phases = phases(&trace, &study, &wanted, usize::MAX).expect("all processes can be selected");
    let lifetimes = lifetimes(&trace, &study, &names, &wanted, &Wrappers::default(), usize::MAX)
        .expect("all processes can be selected");
    let (curve, what) = (Curve::of(&trace), format!("{} by {wish:?}", path.display()));
    Case { what, trace, study, phases, lifetimes, curve }
}

fn sum(amounts: impl IntoIterator<Item = (u64, u64)>) -> Amount {
    let mut sum = Amount::default();
    for (count, bytes) in amounts {
        sum += Amount { bytes, count };
    }
    sum
}

fn of_classes(classes: &[ClassFigures]) -> Amount {
    sum(classes.iter().map(|class| (class.count, class.bytes)))
}

#[test]
fn mean_live_bytes_times_time_is_size_times_lifetime() {
    for_each(|case| {
        let Case { what, study, lifetimes, curve, .. } = case;
        assert_eq!(study.collected.sums.byte_ns, curve.byte_ns, "{what}");
        let span_ns = study.outcome.last_ns - study.outcome.first_ns;
        let mean = curve.byte_ns as f64 / span_ns as f64;
        assert!((lifetimes.mean_live_bytes - mean).abs() <= mean * 1e-12, "{what}: {mean}");
        assert!(curve.byte_ns > 0, "{what}");
    });
}

#[test]
fn the_peak_is_the_maximum_of_the_curve() {
    for_each(|case| {
        let Case { what, study, curve, .. } = case;
        assert_eq!(study.outcome.total.peak.bytes, curve.peak_bytes, "{what}");
        for (at, process) in study.outcome.processes.iter().enumerate() {
            let peak = curve.of_process.get(&ProcessId::from(at)).map_or(0, |(_, peak)| *peak);
            assert_eq!(process.account.peak.bytes, peak, "{what}: process {at}");
        }
        let highest = study.collected.timeline.bins.iter().map(|bin| bin.max_bytes).max();
        assert_eq!(highest, Some(curve.peak_bytes), "{what}: the timeline");
    });
}

/// Cells know their part of a peak by epochs, the flame graph by phase by a replay that stands still there.
#[test]
fn what_was_alive_at_a_peak_adds_up_by_phase() {
    for path in traces() {
        for wish in [Wish::Best, Wish::Stacks, Wish::Segments] {
            let Case { what, trace, study, .. } = case(&path, wish);
            let names = Names::of(&trace.tables);
            let instant = study.outcome.total.peak.sequence;
            let alive = alive_after(&trace, &names, &profiles(), wish, 1, instant, |_| ()).expect("it was read before");
            let mut total = 0;
            for (at, cell) in study.outcome.cells.iter().enumerate() {
                let rows = alive.of_cell(at);
                let bytes: u64 = rows.iter().map(|(_, bytes)| bytes).sum();
                let backing = study.outcome.in_totals(cell, &trace.tables.entries);
                assert_eq!(bytes, if backing { cell.at_peak.bytes } else { 0 }, "{what}: cell {at}");
                let born_in = |row| study.collected.cells[at].rows.iter().any(|part| part.row == row);
                assert!(rows.iter().all(|(row, _)| born_in(*row)), "{what}: cell {at}: the same phases");
                total += bytes;
            }
            assert_eq!(total, study.outcome.total.peak.bytes, "{what}");
        }
    }
}

#[test]
fn every_block_is_born_once_and_dies_or_survives_once() {
    for_each(|case| {
        let Case { what, study, phases, lifetimes, curve, .. } = case;
        let counts = study.outcome.total.counts;
        let births = Amount { bytes: counts.alloc_bytes, count: counts.alloc_count + counts.realloc_count };
        assert_eq!(births.count, curve.birth_count, "{what}");
        let of_rows = |figures: fn(&analyzer::lifetimes::Phase) -> (u64, u64)| sum(phases.phases.iter().map(figures));
        assert_eq!(of_rows(|row| (row.alloc_count, row.alloc_bytes)), births, "{what}: rows");
        assert_eq!((phases.total, lifetimes.total), (births, births), "{what}: totals");
        let reallocs: u64 = phases.phases.iter().map(|row| row.realloc_count).sum();
        assert_eq!(reallocs, counts.realloc_count, "{what}");
        let cells = lifetimes.matrix.iter();
        assert_eq!(sum(cells.clone().map(|cell| (cell.count, cell.bytes))), births, "{what}: matrix");
        assert_eq!(of_classes(&lifetimes.classes), births, "{what}: classes");
        assert_eq!(sum(lifetimes.sites.iter().map(|site| (site.count, site.bytes))), births, "{what}: sites");
        let survivors = study.outcome.total.at_end;
        let deaths = of_rows(|row| (row.free_count, row.free_bytes));
        let both = sum([(deaths.count, deaths.bytes), (survivors.count, survivors.bytes)]);
        assert_eq!(both, births, "{what}: deaths and survivors");
        assert_eq!(deaths.count, curve.death_count, "{what}: deaths");
        let alive = cells.filter(|cell| cell.death.is_none()).map(|cell| (cell.count, cell.bytes));
        assert_eq!(sum(alive), survivors, "{what}: the matrix' survivors");
        let own_thread: u64 = study.collected.sums.escapes.iter().sum();
        let same_thread = deaths.count - lifetimes.classes.iter().find(|it| it.class == other_thread()).unwrap().count;
        assert_eq!((own_thread, study.collected.sums.freed_count), (same_thread, same_thread), "{what}: escapes");
        assert_eq!(study.collected.sums.pessimistic_escapes.iter().sum::<u64>(), same_thread, "{what}: escapes");
    });
}

fn other_thread() -> analyzer::lifetimes::Class {
    analyzer::lifetimes::Class::OtherThread
}

#[test]
fn each_phase_adds_up() {
    for_each(|case| {
        let Case { what, trace, study, phases, curve, .. } = case;
        let ids: HashSet<u32> = phases.phases.iter().map(|row| row.id).collect();
        assert_eq!(ids.len(), phases.phases.len(), "{what}: each row once");
        for row in &phases.phases {
            let what = format!("{what}: {} on {}, row {}", row.name, row.tid, row.id);
            let life = &study.collected.rows[row.id as usize];
            assert_eq!(of_classes(&row.classes), Amount { bytes: row.alloc_bytes, count: row.alloc_count }, "{what}");
            assert_eq!(life.live, Amount::default(), "{what}: nothing is alive after the end");
            let children = phases.phases.iter().filter(|child| child.parent == Some(row.id));
            let inside = children.map(|child| (child.inclusive_alloc_count, child.inclusive_alloc_bytes));
            let inclusive = sum(inside.chain([(row.alloc_count, row.alloc_bytes)]));
            let said = Amount { bytes: row.inclusive_alloc_bytes, count: row.inclusive_alloc_count };
            assert_eq!(inclusive, said, "{what}: inclusive");
            let process = study.collected.phases[row.id as usize].thread;
            let process = trace.tables.threads[process.index()].process;
            let highest = curve.of_process.get(&process).map_or(0, |(_, peak)| *peak);
            assert!(row.peak_bytes <= highest && highest <= curve.peak_bytes, "{what}: peak");
            assert!(row.own_peak_bytes <= highest && row.own_peak_bytes <= row.alloc_bytes, "{what}: own peak");
            let held: u64 = life.peak.holders().iter().map(|(_, bytes)| *bytes).sum();
            assert_eq!(held, row.peak_bytes, "{what}: holders");
            assert!(life.peak.holders().is_sorted_by(|a, b| a.1 >= b.1), "{what}: holders");
            let age_count = life.ages_ns.count();
            let freed: u64 = row.classes.iter().filter(|it| it.class.words() != "durable").map(|it| it.count).sum();
            assert_eq!((age_count, life.ages_bytes.count()), (freed, freed), "{what}: ages");
        }
    });
}

#[test]
fn instances_add_up() {
    for_each(|case| {
        for row in &case.phases.phases {
            let what = format!("{}: {} on {}, row {}", case.what, row.name, row.tid, row.id);
            assert!(row.instances as usize <= analyzer::lifetimes::LISTED_INSTANCES, "{what}: too many to be listed");
            assert_eq!(row.instance_list.len() as u64, row.instances, "{what}");
            let list = row.instance_list.iter();
            let left = sum(list.clone().map(|it| (it.left_behind_count, it.left_behind_bytes)));
            assert_eq!(left, Amount { bytes: row.left_behind_bytes, count: row.left_behind_count }, "{what}: left");
            let born = sum(list.clone().map(|it| (it.alloc_count, it.alloc_bytes)));
            if row.instances > 0 {
                let inclusive = Amount { bytes: row.inclusive_alloc_bytes, count: row.inclusive_alloc_count };
                assert_eq!(born, inclusive, "{what}: born");
                let ends = (row.instance_list[0].begin_ns, row.instance_list.last().unwrap().end_ns);
                assert_eq!((row.begin_ns, row.end_ns), ends, "{what}");
            }
            assert_eq!(list.clone().map(|it| it.end_ns - it.begin_ns).sum::<u64>(), row.time_ns, "{what}: time");
            for one in list.clone() {
                assert!(one.left_behind_count <= one.alloc_count && one.left_behind_bytes <= one.alloc_bytes, "{what}");
                assert!(one.first_event <= one.end_event, "{what}");
            }
            let apart = list.clone().zip(list.skip(1)).all(|(one, next)| one.end_event <= next.first_event);
            assert!(apart, "{what}: instances of one row follow each other");
            // What a phase left alive outlived it: no less than what never died.
            assert!(row.instances == 0 || row.left_behind_count >= durable(&row.classes), "{what}: left behind");
        }
    });
}

/// A planted compiler's phases: three threads work and end while phases of the main thread are open.
#[test]
fn stacks_see_what_markers_say() {
    let figures = |case: &Case| {
        let rows = case.phases.phases.iter();
        let rows = rows.filter(|row| row.inclusive_alloc_count + row.free_count > 0);
        let figures = rows.map(|row| {
            // Nothing happens in one instance: no stack shows it.
            let with_events = row
                .instance_list
                .iter()
                .filter(|it| it.alloc_count > 0)
                .map(|it| (it.alloc_count, it.alloc_bytes, it.left_behind_count, it.left_behind_bytes));
            let instances: Vec<_> = with_events.collect();
            let held: Vec<u64> = row.peak_held_by.iter().map(|held| held.bytes).collect();
            let own = (row.alloc_bytes, row.free_bytes, row.peak_bytes, row.own_peak_bytes, row.cut_short);
            ((row.tid, row.depth, row.name.clone()), (own, held, row.classes.clone(), instances))
        });
        figures.collect::<Vec<_>>()
    };
    let (markers, stacks) = (case(&planted(), Wish::Best), case(&planted(), Wish::Stacks));
    let (mut of_markers, mut of_stacks) = (figures(&markers), figures(&stacks));
    of_markers.sort_by(|one, other| one.0.cmp(&other.0));
    of_stacks.sort_by(|one, other| one.0.cmp(&other.0));
    assert!(of_markers.len() > 15, "{of_markers:?}");
    assert_eq!(of_markers, of_stacks);
    assert_eq!(markers.lifetimes.matrix, stacks.lifetimes.matrix);
    assert_eq!(markers.study.collected.sums.escapes, stacks.study.collected.sums.escapes);
}

#[test]
fn processes_and_allocators_add_up_to_all() {
    for_each(|case| {
        let Case { what, trace, study, lifetimes: all, .. } = case;
        let names = Names::of(&trace.tables);
        let of = |wanted: &Wanted| {
            lifetimes(trace, study, &names, wanted, &Wrappers::default(), 0).expect("it is in the trace")
        };
        let process = |process: &trace_format::Process| Wanted { process: Some(process.pid.to_string()), domain: None };
        let domain = |domain: &trace_format::Domain| Wanted { process: None, domain: Some(domain.name.clone()) };
        let domains = trace.tables.domains.iter().filter(|domain| domain.layer == 0);
        for wanted in
            [trace.tables.processes.iter().map(process).collect::<Vec<_>>(), domains.map(domain).collect::<Vec<_>>()]
        {
            let parts: Vec<Lifetimes> = wanted.iter().map(of).collect();
            assert_eq!(sum(parts.iter().map(|part| (part.total.count, part.total.bytes))), all.total, "{what}");
            let mean: f64 = parts.iter().map(|part| part.mean_live_bytes).sum();
            assert!((mean - all.mean_live_bytes).abs() <= mean * 1e-9, "{what}: {mean}");
            let doubtful: u64 = parts.iter().map(|part| part.escape.doubtful_count).sum();
            assert_eq!(doubtful, all.escape.doubtful_count, "{what}");
            for (at, count) in all.escape.optimistic.iter().enumerate() {
                assert_eq!(parts.iter().map(|part| part.escape.optimistic[at]).sum::<u64>(), *count, "{what}");
            }
        }
        assert_eq!(all.escape.optimistic, study.collected.sums.escapes, "{what}");
        assert_eq!(all.escape.pessimistic, study.collected.sums.pessimistic_escapes, "{what}");
    });
}

fn durable(classes: &[ClassFigures]) -> u64 {
    classes.iter().find(|it| it.class == analyzer::lifetimes::Class::Durable).map_or(0, |it| it.count)
}
