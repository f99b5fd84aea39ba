//! One committed file for each version of the format stays readable for ever. The listing beside it is what the file was
//! made from, as this library's types print it; it may be written anew when those change, the file may not.

mod sample;

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;
use std::sync::Once;

use sample::{chunks_of, events_of, one_of_each, stream, write};
use trace_format::{
    BlockId, CaptureStats, Event, FormatVersion, Header, Op, Sequence, StackSummary, Tables, Target, Trace, Walk,
};

fn path(version: u16, extension: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("tests/versions/v{version}.{extension}"))
}

/// Leaves out the parts of a printed value that say nothing, so that listings from before these parts hold on.
fn without_defaults(printed: &str, defaults: &[String]) -> String {
    defaults.iter().fold(printed.to_owned(), |printed, default| printed.replace(default, ""))
}

/// Stats as version 1 had them at first.
fn print_stats(stats: &CaptureStats) -> String {
    let nothing = format!("{:#?},\n", StackSummary::default()).replace("\n ", "\n     ").replace("\n}", "\n    }");
    let mut defaults: Vec<String> = ["alloc", "free"].map(|name| format!("    {name}_stacks: {nothing}")).into();
    let counts = ["sample_count", "sample_ns", "table_count", "row_count", "kernel_bytes", "build_ns"];
    defaults.extend(counts.map(|name| format!("    unwind_{name}: 0,\n")));
    without_defaults(&format!("{stats:#?}\n"), &defaults)
}

fn listing(header: &Header, stats: &CaptureStats, tables: &Tables, events: &[Event]) -> String {
    // The committed file is older than markers.
    let tables = Tables { markers: Vec::new(), texts: Vec::new(), ..tables.clone() };
    let tables =
        without_defaults(&format!("{tables:#?}\n"), &["markers", "texts"].map(|name| format!("    {name}: [],\n")));
    let mut text = format!("{header:#?}\n{}{tables}", print_stats(stats));
    let no_walk = [format!("walk: {:?}, ", Walk::NONE)];
    for event in events {
        writeln!(text, "{}", without_defaults(&format!("{event:?}"), &no_walk)).unwrap();
    }
    text
}

/// Stats of the committed file, which is older than stack summaries and unwind tables.
fn stats() -> CaptureStats {
    CaptureStats {
        alloc_stacks: StackSummary::default(),
        free_stacks: StackSummary::default(),
        unwind_sample_count: 0,
        unwind_sample_ns: 0,
        unwind_table_count: 0,
        unwind_row_count: 0,
        unwind_kernel_bytes: 0,
        unwind_build_ns: 0,
        ..sample::stats()
    }
}

/// One event of each kind, then a stream of births and deaths; several chunks. Without walks: the file is older than they.
fn content() -> Vec<Event> {
    let mut events = one_of_each();
    let (sequence, births) = (events.len() as u64, 4);
    events.extend(stream(300, 42).into_iter().map(|mut event| {
        event.sequence = Sequence(event.sequence.0 + sequence);
        match &mut event.op {
            Op::Alloc { block, .. } | Op::Free { target: Target::Block(block), .. } => {
                *block = BlockId(block.0 + births);
            }
            _ => {}
        }
        event
    }));
    for event in &mut events {
        event.walk = Walk::NONE;
    }
    events
}

#[test]
fn the_file_of_every_version_reads_as_it_was_written() {
    for version in FormatVersion::OLDEST_READABLE.0..=current_version() {
        let trace = Trace::open(path(version, "htape")).unwrap();
        assert!(trace.completeness.complete, "version {version}: {:?}", trace.problems());
        let read = listing(&trace.header, trace.stats.as_ref().unwrap(), &trace.tables, &events_of(&trace, 2));
        let expected = fs::read_to_string(path(version, "txt")).unwrap();
        assert!(read == expected, "version {version} reads differently from tests/versions/v{version}.txt");
    }
}

/// The listing of the first version was not made by reading: it is what was handed to the writer.
#[test]
fn the_listing_of_the_current_version_is_what_was_written() {
    let (bytes, _) = write(&content(), chunks_of(64));
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("now.htape");
    fs::write(&file, bytes).unwrap();
    let tables = Trace::open(file).unwrap().tables;
    let expected = fs::read_to_string(path(current_version(), "txt")).unwrap();
    assert!(listing(&sample::header(), &stats(), &tables, &content()) == expected);
}

/// The files of the current version; made where there are none and `HEAPTAPE_NEW_VERSION` is set: `HEAPTAPE_NEW_VERSION=1 cargo test
/// -p trace-format --test versions`. A file is never written again, its listing is.
fn current_version() -> u16 {
    static MADE: Once = Once::new();
    let version = FormatVersion::CURRENT.0;
    MADE.call_once(|| {
        if env::var_os("HEAPTAPE_NEW_VERSION").is_none() {
            return;
        }
        let file = path(version, "htape");
        if !file.exists() {
            fs::write(&file, write(&content(), chunks_of(64)).0).unwrap();
        }
        let tables = Trace::open(&file).unwrap().tables;
        fs::write(path(version, "txt"), listing(&sample::header(), &stats(), &tables, &content())).unwrap();
    });
    version
}
