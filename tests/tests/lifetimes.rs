//! Phases and lifetimes of a planted compiler (`workloads/minicompiler.c`) are exactly what it says of itself, by markers and
//! by stacks alone; the scopes of its blocks are what follows from how it is written.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use tests::command::run;
use tests::live::live;
use tests::recorder::{Record, Recording, heaptape};
use tests::workload::built;
use trace_format::{Op, StackId, Trace};

/// Figures of a phase that the program and heaptape call the same.
const FIGURES: [&str; 13] = [
    "instances",
    "cut_short",
    "alloc_count",
    "alloc_bytes",
    "realloc_count",
    "inclusive_alloc_count",
    "inclusive_alloc_bytes",
    "free_count",
    "free_bytes",
    "left_behind_count",
    "left_behind_bytes",
    "peak_bytes",
    "own_peak_bytes",
];
/// The same of an instance.
const INSTANCE_FIGURES: [&str; 5] = ["number", "alloc_count", "alloc_bytes", "left_behind_count", "left_behind_bytes"];
/// The phase of which only the C library knows what it allocates.
const START: &str = "start";

/// A line of the program's.
#[derive(Debug, Clone, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Line {
    Place(Place),
    Instance(Instance),
    Cell { birth: String, death: Option<String>, count: u64, bytes: u64 },
}

#[derive(Debug, Clone, Deserialize)]
struct Place {
    #[serde(rename = "place")]
    number: u64,
    tid: u64,
    path: String,
    outside: bool,
    classes: Value,
    held: Vec<(u64, u64)>,
    #[serde(flatten)]
    figures: BTreeMap<String, Value>,
}

#[derive(Debug, Clone, Deserialize)]
struct Instance {
    place: u64,
    event_count: u64,
    #[serde(flatten)]
    figures: BTreeMap<String, Value>,
}

/// Count and bytes by phase of birth and of death.
type Matrix = BTreeMap<(String, Option<String>), (u64, u64)>;

/// What the program says.
#[derive(Default)]
struct Truth {
    places: Vec<Place>,
    instances: Vec<Instance>,
    matrix: Matrix,
}

impl Truth {
    fn of(recording: &Recording) -> Self {
        let mut truth = Self::default();
        for line in recording.finished.stdout_text().lines() {
            match serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")) {
                Line::Place(place) => truth.places.push(place),
                Line::Instance(instance) => truth.instances.push(instance),
                Line::Cell { birth, death, count, bytes } => {
                    let sum = truth.matrix.entry((birth, death)).or_default();
                    *sum = (sum.0 + count, sum.1 + bytes);
                }
            }
        }
        assert!(truth.places.len() > 15 && truth.instances.len() > 50 && truth.matrix.len() > 20);
        truth
    }

    /// As one who sees only events has it: instances without any are not there.
    fn seen_by_events(mut self) -> Self {
        let quiet = self.instances.iter().filter(|one| one.event_count == 0).count();
        assert_eq!(quiet, 1, "one instance has no event");
        self.instances.retain(|one| one.event_count > 0);
        for place in &mut self.places {
            let number =
                self.instances.iter_mut().filter(|one| one.place == place.number).zip(1..).map(|(one, number)| {
                    one.figures.insert("number".to_owned(), number.into());
                });
            let count = number.count();
            place.figures.insert("instances".to_owned(), count.into());
        }
        self
    }
}

fn profile() -> &'static str {
    concat!(env!("CARGO_MANIFEST_DIR"), "/workloads/minicompiler.toml")
}

fn record(with: &str) -> Recording {
    Record::new([built("minicompiler")]).options(&["--quiet", "--profile", with]).finish().expect_status(0)
}

fn analyse(command: &str, trace: &Path, options: &[&str]) -> Value {
    let mut heaptape = heaptape(&[command, "--json", "--profile", profile()]);
    let finished = run(heaptape.args(options).arg(trace)).success(command);
    serde_json::from_slice(&finished.stdout).expect("`--json` prints JSON")
}

/// Blocks that the C library made in `start_workers`: how many, and their bytes. It keeps them while there are workers.
fn of_the_c_library(trace: &PathBuf) -> (u64, u64) {
    let trace = Trace::open(trace).expect("the trace can be read");
    let tables = &trace.tables;
    let is_start = |mut node: StackId| {
        while node != StackId::EMPTY {
            let row = &tables.stacks[node.index()];
            if tables.symbols[row.frame.index()].functions.iter().any(|symbol| symbol.name == "start_workers") {
                return true;
            }
            node = row.parent;
        }
        false
    };
    let mut sum = (0, 0);
    let mut add = |event: &trace_format::Event| {
        if let Op::Alloc { size_bytes, .. } = event.op
            && is_start(event.stack)
        {
            sum = (sum.0 + 1, sum.1 + size_bytes);
        }
    };
    trace.for_each_chunk(0, |events| events.iter().for_each(&mut add)).expect("the trace can be read");
    sum
}

/// Path of each row, as the program has it.
fn paths(rows: &[Value]) -> Vec<(u64, String)> {
    let mut paths: BTreeMap<u64, String> = BTreeMap::new();
    let mut found = Vec::new();
    for row in rows {
        let name = row["name"].as_str().unwrap();
        let path = match row["parent"].as_u64() {
            Some(parent) => format!("{} › {name}", paths[&parent]),
            None => name.to_owned(),
        };
        paths.insert(row["id"].as_u64().unwrap(), path.clone());
        found.push((row["tid"].as_u64().unwrap(), path));
    }
    found
}

fn assert_phases(truth: &Truth, found: &Value, library: (u64, u64), source: &str) {
    assert_eq!((&found["unmatched_end_count"], &found["unended_count"]), (&0.into(), &0.into()));
    let rows = found["phases"].as_array().unwrap();
    let paths = paths(rows);
    let row_of = |tid: u64, path: &str| {
        let at = paths.iter().position(|(its, name)| (*its, name.as_str()) == (tid, path));
        &rows[at.unwrap_or_else(|| panic!("no row for {path} on {tid} in {paths:?}"))]
    };
    let main = truth.places[0].tid;
    let start = row_of(main, START);
    assert_eq!((start["alloc_count"].as_u64(), start["alloc_bytes"].as_u64()), (Some(library.0), Some(library.1)));
    let idle = rows.iter().filter(|row| row["inclusive_alloc_count"] == 0 && row["free_count"] == 0).count();
    assert_eq!(rows.len() - idle, truth.places.len() + 1, "{paths:?}");
    for place in &truth.places {
        let row = row_of(place.tid, &place.path);
        let what = format!("{source}: {} on {}", place.path, place.tid);
        assert_eq!(row["source"], if place.outside { "none" } else { source }, "{what}");
        // The C library's own blocks are alive all the while.
        let library_bytes = if place.outside { 0 } else { library.1 };
        for name in FIGURES {
            let more = if name == "peak_bytes" { library_bytes } else { 0 };
            assert_eq!(row[name].as_u64().unwrap(), place.figures[name].as_u64().unwrap() + more, "{what}: {name}");
        }
        assert_eq!(row["classes"], place.classes, "{what}");
        let id_of = |place: u64| {
            let place = &truth.places[place as usize];
            row_of(place.tid, &place.path)["id"].as_u64().unwrap()
        };
        let mut held: Vec<(u64, u64)> = place.held.iter().map(|(place, bytes)| (id_of(*place), *bytes)).collect();
        held.extend((library_bytes > 0).then(|| (start["id"].as_u64().unwrap(), library_bytes)));
        held.sort_unstable_by_key(|(row, bytes)| (std::cmp::Reverse(*bytes), *row));
        let expected_sum: u64 = held.iter().map(|(_, bytes)| bytes).sum();
        assert_eq!(expected_sum, row["peak_bytes"].as_u64().unwrap(), "{what}: the truth adds up");
        held.truncate(5);
        let number = |held: &Value, name: &str| held[name].as_u64().unwrap();
        let found = row["peak_held_by"].as_array().unwrap();
        let found: Vec<(u64, u64)> = found.iter().map(|held| (number(held, "phase"), number(held, "bytes"))).collect();
        assert_eq!(found, held, "{what}: who held the peak");
        assert_instances(truth, place, row, &what);
    }
}

fn assert_instances(truth: &Truth, place: &Place, row: &Value, what: &str) {
    let expected: Vec<&Instance> = truth.instances.iter().filter(|one| one.place == place.number).collect();
    let none = Vec::new();
    let listed = row["instance_list"].as_array().unwrap_or(&none);
    assert_eq!(listed.len(), expected.len(), "{what}");
    let (mut end, mut time) = (0, 0);
    for (one, expected) in listed.iter().zip(expected) {
        for name in INSTANCE_FIGURES {
            assert_eq!(one[name], expected.figures[name], "{what}: {name} of {one}");
        }
        let number = |name: &str| one[name].as_u64().unwrap();
        assert!(end <= number("begin_ns") && number("begin_ns") <= number("end_ns"), "{what}: {one}");
        // Between its first event and the first after it lie at least its own.
        assert!(number("end_event") - number("first_event") >= expected.event_count, "{what}: {one}");
        end = number("end_ns");
        time += end - number("begin_ns");
    }
    assert_eq!(row["time_ns"].as_u64(), Some(time), "{what}");
}

fn assert_matrix(truth: &Truth, found: &Value, library: (u64, u64)) {
    let number = |value: &Value, name: &str| value[name].as_u64().unwrap();
    let mut matrix = Matrix::new();
    let mut of_library = (0, 0);
    for cell in found["matrix"].as_array().unwrap() {
        let (birth, death) = (cell["birth"].as_str().unwrap().to_owned(), cell["death"].as_str().map(str::to_owned));
        let amount = (number(cell, "count"), number(cell, "bytes"));
        if birth == START {
            of_library = (of_library.0 + amount.0, of_library.1 + amount.1);
        } else {
            assert!(matrix.insert((birth, death), amount).is_none(), "twice: {cell}");
        }
    }
    assert_eq!(matrix, truth.matrix);
    assert_eq!(of_library, library);
    let sum = |values: &mut dyn Iterator<Item = (u64, u64)>| values.fold((0, 0), |a, b| (a.0 + b.0, a.1 + b.1));
    let total = sum(&mut truth.matrix.values().copied().chain([library]));
    assert_eq!((number(&found["total"], "count"), number(&found["total"], "bytes")), total);
    for (at, class) in found["classes"].as_array().unwrap().iter().enumerate() {
        let of = |place: &Place| (number(&place.classes[at], "count"), number(&place.classes[at], "bytes"));
        let expected = sum(&mut truth.places.iter().map(of));
        // Nobody planted what the C library does with its own; it keeps them or frees them when it joins.
        let slack = if matches!(class["class"].as_str(), Some("durable" | "process_wide")) { library } else { (0, 0) };
        let found = (number(class, "count"), number(class, "bytes"));
        assert!(found == expected || found == (expected.0 + slack.0, expected.1 + slack.1), "{class}: {expected:?}");
    }
}

/// The begin of a site's stack and the mean size of its blocks; how many, the function whose activation is the scope, frames
/// up to it.
type Scope<'a> = (&'a [&'a str], u64, u64, Option<&'a str>, u64);

const SCOPES: [Scope; 22] = [
    (&["main"], 555, 1, Some("main"), 0),
    (&["main"], 66, 1, Some("main"), 0),
    (&["lex_file", "main"], 5000, 1, Some("lex_file"), 0),
    (&["lex_file", "main"], 2222, 1, Some("main"), 1),
    (&["lex_line", "lex_file"], 309, 20, Some("lex_file"), 1),
    (&["new_node", "parse_item", "parse_file", "main"], 744, 9, Some("main"), 3),
    (&["nest", "nest", "nest", "nest", "nest", "nest", "parse_expressions"], 77, 1, Some("parse_expressions"), 6),
    // Too far out to be told.
    (&["nest", "nest", "nest", "nest", "nest", "nest", "nest"], 77, 1, None, 11),
    (&["parse_file", "main"], 1000, 1, Some("parse_file"), 0),
    (&["check_function", "check_file"], 1204, 8, Some("check_function"), 0),
    (&["check_function", "check_file"], 2500, 8, Some("check_function"), 0),
    (&["intern", "resolve", "check_function"], 48, 24, Some("intern"), 0),
    (&["intern", "resolve", "check_function"], 165, 24, Some("resolve"), 1),
    (&["intern", "lower_function"], 164, 9, Some("lower_function"), 1),
    (&["new_body", "lower_function"], 928, 9, Some("lower_function"), 1),
    (&["new_body", "lower_file"], 900, 1, None, 0),
    (&["lower_function", "lower_file"], 1904, 9, Some("lower_file"), 1),
    (&["lower_file", "main"], 64, 1, Some("lower_file"), 0),
    (&["codegen_unit", "worker"], 3004, 9, Some("codegen_unit"), 0),
    (&["encode", "codegen_unit", "worker"], 4000, 9, Some("encode"), 0),
    (&["note_unit", "worker"], 24, 9, Some("worker"), 1),
    (&["emit_file", "main"], 100, 1, Some("emit_file"), 0),
];

fn assert_scopes(found: &Value) {
    let sites = found["sites"].as_array().unwrap();
    assert_eq!(found["site_count"].as_u64(), Some(sites.len() as u64));
    for (begin, size, count, scope, escape) in SCOPES {
        let fits = |site: &&Value| {
            let stack = site["stack"].as_array().unwrap();
            let begins = begin.iter().zip(stack).all(|(name, frame)| frame["function"] == *name);
            begins && site["bytes"].as_u64().unwrap() / site["count"].as_u64().unwrap() == size
        };
        let fitting: Vec<&Value> = sites.iter().filter(fits).collect();
        let [site] = fitting[..] else { panic!("{begin:?} of {size}: {} sites", fitting.len()) };
        assert_eq!(site["count"], count, "{begin:?} of {size}");
        assert_eq!(site["scope_function"].as_str(), scope, "{begin:?} of {size}: {site}");
        if scope.is_some() || escape > 0 {
            assert_eq!(site["escape"], escape, "{begin:?} of {size}: {site}");
            // Every third type is kept, and one to the end.
            let share = if size == 165 { 16.0 / 23.0 } else { 1.0 };
            let found = site["scope_share"].as_f64().unwrap();
            assert!((found - share).abs() < 1e-9, "{begin:?} of {size}: {found}");
        }
    }
}

fn assert_exact(recording: &Recording, truth: &Truth, options: &[&str], source: &str) {
    let library = of_the_c_library(&recording.trace);
    let phases = analyse("phases", &recording.trace, &[&["--all", "--instances", "1000"], options].concat());
    assert_phases(truth, &phases, library, source);
    let lifetimes = analyse("lifetimes", &recording.trace, &[&["--limit", "1000"], options].concat());
    assert_matrix(truth, &lifetimes, library);
    assert_scopes(&lifetimes);
}

#[test]
fn by_markers() {
    let Some(_live) = live() else { return };
    let recording = record(profile());
    assert_exact(&recording, &Truth::of(&recording), &[], "marker");
    // The same trace with its markers left aside.
    let truth = Truth::of(&recording).seen_by_events();
    assert_exact(&recording, &truth, &["--source", "stacks"], "stack");
}

#[test]
fn by_stacks_alone() {
    let Some(_live) = live() else { return };
    let recording = record("none");
    let truth = Truth::of(&recording).seen_by_events();
    assert_exact(&recording, &truth, &["--source", "stacks"], "stack");
    assert_exact(&recording, &truth, &[], "stack");
}
