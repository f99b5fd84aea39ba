//! Arena suggestions on the samples: what is surveyed with one mechanism (scopes by bisection, `survey`) must hold when it is
//! simulated with another (arenas that are opened and closed, `simulate`). Responsible for what must hold on any trace; live programs
//! with known arenas are in `tests/tests/arenas.rs`.

use std::path::Path;

use analyzer::Names;
use analyzer::arenas::{ArenaOptions, Arenas, Input, Plan, Policy, VerdictKind, arenas, simulate};
use analyzer::phases::View;
use analyzer::profile::built_in;
use analyzer::wrappers::Wrappers;
use trace_format::Trace;

const TRACES: [&str; 4] = [
    "../samples/rustc-small.htape",
    "../samples/cc1plus-small.htape",
    "../samples/tcc-small.htape",
    "tests/invariants/minicompiler.htape",
];

const POLICIES: [Policy; 6] = [
    Policy::Llvm,
    Policy::Rustc,
    Policy::Zig,
    Policy::Bumpalo,
    Policy::Custom { first_bytes: 64, growth_percent: 150, max_bytes: 1 << 16, last_in_place: true },
    // Chunks so large that no price on dead bytes keeps the peak: arenas have to be given up.
    Policy::Custom { first_bytes: 1 << 18, growth_percent: 100, max_bytes: 1 << 18, last_in_place: true },
];

fn open(path: &str) -> (Trace, Names) {
    let trace = Trace::open(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let names = Names::of(&trace.tables);
    (trace, names)
}

fn options(policy: Policy, max_peak: f64) -> ArenaOptions {
    ArenaOptions { policy, limit: 20, max_peak, wrappers: Wrappers::default(), profiles: built_in(), decoders: 0 }
}

fn found(trace: &Trace, names: &Names, options: &ArenaOptions) -> Arenas {
    let input = Input { label: "it".to_owned(), trace, names, held_out: false };
    arenas(&[input], options, |_| ()).unwrap()
}

#[test]
fn no_plan_breaks_on_the_trace_that_it_was_made_from_nor_exceeds_its_peak() {
    let mut placed = 0;
    for path in TRACES {
        let (trace, names) = open(path);
        for policy in POLICIES {
            for max_peak in [0.01, 0.5] {
                let found = found(&trace, &names, &options(policy, max_peak));
                let trial = &found.trained_on[0];
                assert_eq!((trial.outlived, trial.handed_over), (0, 0), "{path} {policy:?}");
                assert!(trial.peak_change <= max_peak, "{path} {policy:?}: {}", trial.peak_change);
                assert!(trial.drag >= 1.0 && trial.frees_saved <= trial.frees, "{path} {policy:?}");
                let objects: u64 = found.suggestions.iter().map(|suggestion| suggestion.objects).sum();
                assert_eq!(objects, trial.placed, "{path}: every object placed belongs to a suggestion");
                assert!(found.plan.arenas.len() <= 20);
                // One trace promises nothing.
                assert!(matches!(found.verdict.kind, VerdictKind::ThinEvidence | VerdictKind::Nothing));
                // Where memory is no object, a compiler has much that ends with some function.
                let is_roomy = max_peak > 0.1 && path.starts_with("../samples") && policy != POLICIES[5];
                assert!(!is_roomy || trial.placed_share > 0.3, "{path} {policy:?}: {}", trial.placed_share);
                placed += trial.placed;
            }
        }
    }
    assert!(placed > 20_000, "the plans hold something: {placed}");
}

/// What is allowed may be needed by an input that nobody recorded.
#[test]
fn a_plan_leaves_half_of_the_rise_that_is_allowed_where_it_can() {
    let (trace, names) = open("../samples/cc1plus-small.htape");
    let found = found(&trace, &names, &options(Policy::Llvm, 0.02));
    let trial = &found.trained_on[0];
    assert!(trial.peak_change <= 0.01 && trial.placed_share > 0.5, "{} {}", trial.peak_change, trial.placed_share);
}

#[test]
fn a_plan_says_the_same_when_it_comes_back_from_its_file() {
    let (trace, names) = open(TRACES[0]);
    let options = options(Policy::Bumpalo, 0.05);
    let found = found(&trace, &names, &options);
    let view = View::with_phases(&trace, &names, &options.profiles, 0, |_| ()).unwrap();
    let read = Plan::parse(&serde_json::to_string(&found.plan).unwrap(), "test").unwrap();
    assert_eq!(read, found.plan);
    let (_, simulated) = simulate(&view, &options.wrappers, &read, 0, |_| ()).unwrap();
    assert_eq!(simulated.peak_bytes, found.trained_on[0].peak_bytes);
    assert_eq!(simulated.placed_count(), found.trained_on[0].placed);
}

#[test]
fn without_arenas_nothing_changes() {
    for path in TRACES {
        let (trace, names) = open(path);
        let plan = Plan::new(Policy::Llvm, Vec::new());
        let (outcome, simulated) =
            simulate(&View::plain(&trace, &names), &Wrappers::default(), &plan, 0, |_| ()).unwrap();
        assert_eq!(simulated.peak_bytes, simulated.plain_peak_bytes, "{path}");
        assert_eq!(simulated.plain_peak_bytes, outcome.total.peak.bytes, "{path}: the peak is that of the replay");
        assert_eq!(simulated.alloc_count, outcome.total.counts.alloc_count, "{path}");
        assert_eq!(simulated.placed_count() + simulated.broken_count(), 0, "{path}");
    }
}

/// A trace that is held out gets the plan of the others, and each of several is left out once.
#[test]
fn proof_is_on_traces_that_the_plan_was_not_made_from() {
    let (one, one_names) = open(TRACES[0]);
    let (other, other_names) = open(TRACES[1]);
    let input = |label: &str, held_out| {
        let (trace, names) = if label == "one" { (&one, &one_names) } else { (&other, &other_names) };
        Input { label: label.to_owned(), trace, names, held_out }
    };
    let options = options(Policy::Rustc, 0.05);
    let found = arenas(&[input("one", false), input("other", true)], &options, |_| ()).unwrap();
    let labels = |found: &Arenas| {
        found.held_out.iter().map(|trial| (trial.trace.clone(), trial.made_from.clone())).collect::<Vec<_>>()
    };
    assert_eq!(labels(&found), [("other".to_owned(), vec!["one".to_owned()])]);
    let found = arenas(&[input("one", false), input("other", false)], &options, |_| ()).unwrap();
    assert_eq!(
        labels(&found),
        [("one".to_owned(), vec!["other".to_owned()]), ("other".to_owned(), vec!["one".to_owned()])]
    );
    // Another compiler's plan finds nothing to place.
    assert!(found.held_out.iter().all(|trial| trial.placed_share < 0.05));
}
