//! Flame graphs as files, the demonstration, and what `doctor` says about this machine. Responsible for what no snapshot
//! can hold: pictures that are well formed and show the stacks that `--json` lists, and exit codes that differ by machine.

mod support;

use std::{collections::BTreeSet, fs};

use quick_xml::{Reader, events::Event};
use serde_json::Value;
use support::{Workshop, samples, stdout, subcommands};

/// The titles of a picture's frames, each without its weight; panics where the XML is not well formed.
fn frames(svg: &str) -> BTreeSet<String> {
    let mut reader = Reader::from_str(svg);
    reader.config_mut().check_comments = true;
    let mut open: Vec<String> = Vec::new();
    let mut title = String::new();
    let mut titles = BTreeSet::new();
    loop {
        let event = reader.read_event().unwrap_or_else(|error| panic!("at byte {}: {error}", reader.error_position()));
        match event {
            Event::Start(tag) => {
                for attribute in tag.attributes() {
                    attribute.expect("a well-formed attribute");
                }
                open.push(String::from_utf8_lossy(tag.name().as_ref()).into_owned());
                title.clear();
            }
            Event::Text(text) => title += &text.decode().expect("UTF-8"),
            Event::GeneralRef(entity) => title += &format!("&{};", entity.decode().expect("UTF-8")),
            Event::End(_) => {
                if open.pop().expect("the reader matches tags") == "title"
                    && let Some((frame, weight)) = title.rsplit_once(" (")
                    && weight.ends_with("%)")
                {
                    let frame = quick_xml::escape::unescape(frame).expect("known entities");
                    titles.insert(frame.into_owned());
                }
                title.clear();
            }
            Event::Eof => break,
            _ => {}
        }
    }
    assert!(open.is_empty(), "unclosed: {open:?}");
    titles
}

#[test]
fn pictures_are_well_formed_and_show_what_json_lists() {
    let workshop = Workshop::new();
    for (sample, expected) in [
        ("samples/cc1plus-small.htape", ["main", "toplev::main", "malloc"]),
        ("samples/rustc-small.htape", ["main", "rustc_driver_impl::main", "malloc"]),
        ("samples/tcc-small.htape", ["__libc_start_main", "malloc", "realloc"]),
    ] {
        for by in ["bytes", "count", "peak"] {
            let drawn = workshop.run(&["flamegraph", sample, "--by", by, "-o", "picture.svg"]);
            assert!(drawn.status.success(), "{sample} by {by}");
            assert!(drawn.stdout.is_empty(), "the picture is in the file");
            let shown = frames(&fs::read_to_string(workshop.path("picture.svg")).expect("the picture"));
            for frame in expected {
                assert!(by == "peak" || shown.contains(frame), "{sample} by {by}: no {frame} in {shown:#?}");
            }

            let json = workshop.run(&["flamegraph", sample, "--by", by, "--json"]);
            let folded: Value = serde_json::from_slice(&json.stdout).expect("JSON");
            let stacks = folded["stacks"].as_array().expect("stacks");
            let weight = |stack: &Value| stack["weight"].as_u64().expect("a weight");
            assert_eq!(stacks.iter().map(weight).sum::<u64>(), folded["total"].as_u64().expect("a total"));
            let listed: BTreeSet<&str> =
                stacks.iter().flat_map(|stack| stack["stack"].as_str().expect("frames").split(';')).collect();
            let unlisted: Vec<_> =
                shown.iter().filter(|frame| *frame != "all" && !listed.contains(frame.as_str())).collect();
            assert!(unlisted.is_empty(), "{sample} by {by}: shown, not listed: {unlisted:#?}");
            let heaviest = stacks.iter().max_by_key(|stack| weight(stack)).expect("a stack");
            for frame in heaviest["stack"].as_str().expect("frames").split(';') {
                assert!(shown.contains(frame), "{sample} by {by}: listed, not shown: {frame}");
            }
        }
    }
}

#[test]
fn a_picture_goes_to_stdout_or_beside_the_trace() {
    let workshop = Workshop::new();
    let printed = stdout(&workshop.run(&["flamegraph", "samples/tcc-small.htape", "-o", "-"]));
    assert!(frames(&printed).contains("malloc"));
    assert!(workshop.run(&["flamegraph", "samples/tcc-small.htape"]).status.success());
    assert_eq!(fs::read_to_string(workshop.path("samples/tcc-small.svg")).expect("the picture"), printed);
}

#[test]
fn a_picture_of_nothing_is_well_formed() {
    let workshop = Workshop::new();
    let drawn = workshop.run(&["flamegraph", "damaged/cut-in-events.htape", "-o", "picture.svg"]);
    assert!(drawn.status.success());
    let picture = fs::read_to_string(workshop.path("picture.svg")).expect("the picture");
    assert!(frames(&picture).is_empty());
    assert!(picture.contains("nothing to draw"), "{picture}");
}

#[test]
fn the_demonstration_leaves_a_trace_and_a_picture() {
    let workshop = Workshop::new();
    let demo = workshop.run(&["demo", "--sample", "--out", "shown"]);
    assert_eq!(demo.status.code(), Some(0), "{}", String::from_utf8_lossy(&demo.stderr));
    let text = stdout(&demo);
    assert!(text.contains("cc1plus"), "the compiler is not named:\n{text}");
    let picture = fs::read_to_string(workshop.path("shown/flamegraph.svg")).expect("the picture");
    assert!(frames(&picture).contains("malloc"));
    assert_eq!(
        fs::read(workshop.path("shown/demo.htape")).expect("the trace"),
        fs::read(samples().join("cc1plus-small.htape")).expect("the sample"),
    );
}

/// 0 where this machine can record, 4 where it cannot; which of them is the machine's affair.
#[test]
fn doctor_ends_as_it_says() {
    let workshop = Workshop::new();
    if !subcommands(&workshop).contains(&"doctor".to_owned()) {
        return;
    }
    let doctor = workshop.run(&["doctor", "--json"]);
    let report: Value = serde_json::from_slice(&doctor.stdout).expect("JSON");
    let can_record = report["can_record"].as_bool().expect("a verdict");
    assert_eq!(doctor.status.code(), Some(if can_record { 0 } else { 4 }), "{report:#}");
    assert_eq!(report["reason"].is_null(), can_record, "{report:#}");
    let missing = workshop.run(&["doctor", "nosuch"]);
    assert_eq!(missing.status.code(), Some(3));
}
