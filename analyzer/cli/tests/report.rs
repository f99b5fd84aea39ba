//! `heaptape report` as its readers have it. Responsible for what holds of every audit: no figure in Markdown that JSON does not have, no
//! sentence without a figure, sound tables, losses told at once; what each sample's audit says is in the snapshots.

mod support;

use std::collections::BTreeSet;

use analyzer::units;
use serde_json::Value;
use support::{Workshop, stdout, subcommands};

const TRACES: [&str; 4] = [
    "samples/cc1plus-small.htape",
    "samples/rustc-small.htape",
    "samples/tcc-small.htape",
    "damaged/cut-in-events.htape",
];
/// Units that a figure may be followed by.
const UNITS: [&str; 11] = ["%", "B", "KiB", "MiB", "GiB", "TiB", "ns", "µs", "ms", "s", "×"];

fn markdown(workshop: &Workshop, trace: &str) -> String {
    let output = workshop.run(&["report", trace]);
    assert!(output.status.success(), "{trace}: {}", String::from_utf8_lossy(&output.stderr));
    stdout(&output)
}

fn json(workshop: &Workshop, trace: &str) -> Value {
    let output = workshop.run(&["report", trace, "--json"]);
    assert!(output.status.success(), "{trace}: {}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Numbers in a text, each with its unit; those within names are none.
fn figures(text: &str) -> Vec<String> {
    let letters: Vec<char> = text.chars().collect();
    let is_part = |letter: char| letter.is_alphanumeric() || "_+/.{#$@-:".contains(letter);
    let mut found = Vec::new();
    let mut at = 0;
    while at < letters.len() {
        if !letters[at].is_ascii_digit() {
            at += 1;
            continue;
        }
        let from = at;
        while at < letters.len() && (letters[at].is_ascii_digit() || ",.".contains(letters[at])) {
            at += 1;
        }
        let number: String = letters[from..at].iter().collect();
        let number = number.trim_end_matches([',', '.']).to_owned();
        let sign = from.checked_sub(1).map(|before| letters[before]);
        let before = if sign == Some('+') { from.checked_sub(2) } else { from.checked_sub(1) };
        let before = before.map(|before| letters[before]);
        let after = letters.get(at).copied();
        if before.is_some_and(is_part) || after.is_some_and(|after| after.is_alphanumeric() || after == '_') {
            // The rest of a name.
            while at < letters.len() && is_part(letters[at]) {
                at += 1;
            }
            continue;
        }
        let unit: String = letters[at..]
            .iter()
            .skip(1)
            .take_while(|letter| letter.is_alphabetic() || "%".contains(**letter))
            .collect();
        let has_unit = after == Some(' ') && UNITS.contains(&unit.as_str());
        found.push(if has_unit { format!("{number} {unit}") } else { number });
    }
    found
}

/// Every way in which a report may show what is in JSON.
fn shown(value: &Value, all: &mut BTreeSet<String>) {
    match value {
        Value::Number(number) => {
            if let Some(whole) = number.as_u64() {
                all.extend([units::count(whole), units::bytes(whole), units::duration(whole)]);
                all.extend(units::duration(whole).split_once(' ').map(|(number, _)| number.to_owned()));
            }
            let real = number.as_f64().expect("a number").abs();
            all.extend([format!("{:.1} %", 100.0 * real), format!("{:.2} %", 100.0 * real)]);
            if real > 0.0 && real < 1.0 {
                all.extend(["0.1 %".to_owned(), "99.9 %".to_owned()]);
            }
            all.extend([format!("{real:.3}"), format!("{real:.1}"), format!("{real:.0}")]);
        }
        Value::String(text) => all.extend(figures(text)),
        Value::Array(items) => items.iter().for_each(|item| shown(item, all)),
        // A sentence is words and figures put together: its figures alone count.
        Value::Object(fields) => {
            let is_sentence = fields.contains_key("figures");
            fields
                .iter()
                .filter(|(name, _)| !(is_sentence && *name == "sentence"))
                .for_each(|(_, field)| shown(field, all));
        }
        Value::Bool(_) | Value::Null => {}
    }
}

/// Markdown without code, in which names stand.
fn without_code(text: &str) -> String {
    text.split('`').step_by(2).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_figure_in_markdown_is_one_in_json() {
    let workshop = Workshop::new();
    for trace in TRACES {
        let mut all = BTreeSet::new();
        shown(&json(&workshop, trace), &mut all);
        // Limits that are the same for all traces.
        all.extend(["3 %", "0.1 %"].map(str::to_owned));
        let text = without_code(&markdown(&workshop, trace));
        let found = figures(&text);
        assert!(found.len() > 50, "{trace}: {} figures", found.len());
        let unknown: Vec<_> = found.iter().filter(|figure| !all.contains(*figure)).collect();
        assert!(unknown.is_empty(), "{trace}: not in JSON: {unknown:?}");
    }
}

#[test]
fn no_sentence_is_without_a_figure() {
    fn check(value: &Value, trace: &str) {
        match value {
            Value::Object(fields) => {
                if let Some(figures) = fields.get("figures").and_then(Value::as_object)
                    && !["phase", "owner", "doubt"].contains(&fields["kind"].as_str().expect("a kind"))
                {
                    assert!(figures.values().any(Value::is_number), "{trace}: {}", fields["sentence"]);
                }
                fields.values().for_each(|field| check(field, trace));
            }
            Value::Array(items) => items.iter().for_each(|item| check(item, trace)),
            _ => {}
        }
    }
    let workshop = Workshop::new();
    for trace in TRACES {
        check(&json(&workshop, trace), trace);
    }
}

#[test]
fn no_part_is_more_than_the_whole() {
    fn check(value: &Value, trace: &str, count: &mut u64) {
        match value {
            Value::Object(fields) => {
                for (name, figure) in fields.get("figures").and_then(Value::as_object).into_iter().flatten() {
                    if let (true, Some(share)) = (name.ends_with("share"), figure.as_f64()) {
                        assert!((0.0..=1.0).contains(&share), "{trace}: {name} of {}", fields["sentence"]);
                        *count += 1;
                    }
                }
                fields.values().for_each(|field| check(field, trace, count));
            }
            Value::Array(items) => items.iter().for_each(|item| check(item, trace, count)),
            _ => {}
        }
    }
    let workshop = Workshop::new();
    for trace in TRACES {
        let mut count = 0;
        check(&json(&workshop, trace), trace, &mut count);
        assert!(count > 0, "{trace}: no shares");
    }
}

#[test]
fn tables_are_well_formed() {
    let workshop = Workshop::new();
    for trace in TRACES {
        let text = markdown(&workshop, trace);
        let columns = |line: &str| line.replace("\\|", "").matches('|').count();
        let mut lines = text.lines().peekable();
        let mut table_count = 0;
        while let Some(line) = lines.next() {
            if !line.starts_with('|') {
                continue;
            }
            table_count += 1;
            let rule = lines.next().expect("a rule below the head");
            assert!(rule.starts_with("| --"), "{trace}: {rule}");
            let mut row_count = 0;
            while let Some(row) = lines.next_if(|row| row.starts_with('|')) {
                assert_eq!(columns(row), columns(line), "{trace}: {row}");
                row_count += 1;
            }
            assert!(columns(rule) == columns(line) && row_count > 0, "{trace}: {line}");
        }
        assert!(table_count > 5 || trace.starts_with("damaged"), "{trace}: {table_count} tables");
        assert!(!text.contains("|||") && !text.contains("<script"), "{trace}");
    }
}

#[test]
fn a_trace_that_is_not_whole_says_so_first() {
    let workshop = Workshop::new();
    let audit = json(&workshop, "damaged/cut-in-events.htape");
    assert_eq!(audit["summary"][0]["kind"], "not-loss-free");
    assert_eq!(audit["method"]["findings"][0]["kind"], "not-loss-free");
    let whole = json(&workshop, "samples/tcc-small.htape");
    assert!(whole["summary"].as_array().expect("a list").iter().all(|said| said["kind"] != "not-loss-free"));
}

#[test]
fn several_traces_prove_and_the_first_is_described() {
    let workshop = Workshop::new();
    let traces = ["samples/rustc-small.htape", "samples/rustc-small.htape"];
    let output = workshop.run(&["report", traces[0], traces[1], "--format", "json", "-o", "audit.json"]);
    assert!(output.status.success() && output.stdout.is_empty());
    let text = std::fs::read_to_string(workshop.path("audit.json")).expect("the audit");
    let audit: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(audit["trace"], traces[0]);
    let table = &audit["method"]["tables"][0];
    assert_eq!((&table["name"], &table["row_count"]), (&"trials".into(), &4.into()));
    assert!(audit["moot_frees"]["count"].as_u64() > Some(0));
    assert!(subcommands(&workshop).iter().any(|name| name == "report"));
}
