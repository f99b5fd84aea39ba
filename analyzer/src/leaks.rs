//! What was never freed, and why. Responsible for findings with their class, evidence and what would settle them; the raw list
//! by site is `survivors`.
//!
//! Two passes over the trace: `survey` finds who survives, `groups` puts survivors of equal fate together, `evidence` watches
//! what happens around them, `classify` decides.

mod classify;
mod evidence;
mod groups;
mod suppress;
mod survey;

pub use classify::{Circumstances, Confidence, LeakClass, Verdict, classify};
pub use evidence::{Evidence, Repetition, Teardown};
pub use groups::{Functions, Group};
pub use suppress::Suppressions;

use foldhash::{HashMap, HashMapExt};
use serde::Serialize;
use trace_format::{EndReason, ProcessId, ReadError, StackId, Trace};

use crate::doubt::{Doubt, doubts};
use crate::error::AnalysisError;
use crate::names::Names;
use crate::profile::{Profile, choose, glob};
use crate::replay::{Amount, Outcome, replay_with};
use crate::selection::{Selection, Wanted};
use crate::site_tree::SiteTree;
use crate::sites::{StackFrame, stack_frames};
use crate::wrappers::Wrappers;

/// Findings of a trace. This is what `heaptape leaks --json` prints.
#[derive(Debug, Clone, Serialize)]
pub struct Leaks {
    /// Version of this interface.
    pub schema: u32,
    /// Which processes.
    pub scope: String,
    /// All survivors.
    pub total: Amount,
    /// Of them, leaks that are neither suppressed nor expected.
    pub leaked: Amount,
    /// What was found: leaks first, then the heaviest.
    pub findings: Vec<Finding>,
    /// Requests that returned NULL: no blocks, and no findings.
    pub failed_count: u64,
    /// What the figures do not know.
    pub doubts: Vec<Doubt>,
}

/// Survivors of equal fate.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// From 1.
    pub rank: u64,
    /// What they are.
    pub class: LeakClass,
    /// Whether that is a leak.
    pub leak: bool,
    /// Whether it is expected of this compiler, with the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expected: Option<String>,
    /// The suppression that covers it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub suppressed_by: Option<String>,
    /// Survivors.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Allocations like them, survivors included; a chain of reallocs is one.
    pub allocated_count: u64,
    /// The function that allocates.
    pub function: String,
    /// The function that made them what they were at last, if reallocs did elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub grown_in: Option<String>,
    /// The process.
    pub process: String,
    /// Its pid.
    pub pid: u32,
    /// Functions in which siblings, or the other parts of their owner, die; the most frequent first.
    pub siblings_die_in: Vec<DiesIn>,
    /// The function that is repeated, for growth.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repeats: Option<Repeats>,
    /// How sure.
    pub confidence: Confidence,
    /// Why, in a sentence.
    pub why: String,
    /// What would settle it.
    pub settle: String,
    /// Sites that a merged finding stands for; 1 else.
    pub site_count: u64,
    /// The stack of most of them, innermost first.
    pub stack: Vec<StackFrame>,
    /// A stack that siblings died with.
    pub death_stack: Vec<StackFrame>,
}

/// Where siblings die.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiesIn {
    /// The innermost function that is no wrapper.
    pub function: String,
    /// How many.
    pub count: u64,
}

/// What is repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Repeats {
    /// The function.
    pub function: String,
    /// How often it left something.
    pub iterations: u64,
    /// What each leaves.
    pub count_each: u64,
    /// The same in bytes.
    pub bytes_each: u64,
}

/// How to look for leaks.
#[derive(Debug, Default)]
pub struct LeakOptions {
    /// Profiles to choose from.
    pub profiles: Vec<Profile>,
    /// Functions that allocate on behalf of others.
    pub wrappers: Wrappers,
    /// Accepted leaks.
    pub suppressions: Suppressions,
    /// Threads that decode.
    pub decoders: usize,
}

/// Functions that give memory up on purpose, in any program.
const ON_PURPOSE: [&str; 4] =
    ["llvm::BuryPointer", "alloc::boxed::Box<*>::leak", "core::mem::forget*", "*::leak_on_purpose"];

/// Functions that call another once per process, or that allocate for the C runtime itself.
const ONCE: [&str; 13] = [
    "_dl_allocate_tls",
    "<std::sync::once::Once>::call*",
    "std::sync::once::Once::call*",
    "std::sys::sync::once::*",
    "<std::sys::sync::once::*",
    "once_cell::*::initialize*",
    "<once_cell::*>::initialize*",
    "<std::sync::once_lock::OnceLock<*>>::initialize*",
    "std::sync::once_lock::OnceLock*::initialize*",
    "__pthread_once_slow",
    "_GLOBAL__sub_I_*",
    "__static_initialization_and_destruction*",
    "call_init",
];

/// The passes over the trace, with what the findings are made of.
#[derive(Debug)]
pub struct LeakStudy {
    /// What the replay found.
    pub outcome: Outcome,
    groups: Vec<Group>,
    evidence: Vec<Evidence>,
}

/// Runs both passes. `progress` is told how many events are done, of twice as many as the trace has.
///
/// # Errors
/// The file became unreadable.
pub fn leak_study(
    trace: &Trace,
    names: &Names,
    options: &LeakOptions,
    mut progress: impl FnMut(u64),
) -> Result<LeakStudy, ReadError> {
    let tables = &trace.tables;
    let tree = SiteTree::of(tables, names, &options.wrappers);
    let functions = Functions::of(names);
    let (outcome, survey) = replay_with(trace, survey::Survey::new(tables), options.decoders, &mut progress)?;
    let (origins, survivors) = survey.finish();
    let groups = groups::groups(&origins, &tree, &functions);
    let mut group_of: HashMap<(ProcessId, StackId), u32> = HashMap::new();
    for (at, group) in groups.iter().enumerate() {
        group_of.extend(group.origins.iter().map(|stack| ((group.process, *stack), at as u32)));
    }
    let watch = evidence::Watch::new(tables, &tree, &functions, &groups, group_of, survivors);
    let (_, watch) = replay_with(trace, watch, options.decoders, |events| progress(trace.event_count + events))?;
    let evidence = watch.finish();
    Ok(LeakStudy { outcome, groups, evidence })
}

/// Makes findings.
///
/// # Errors
/// The selection names nothing.
pub fn leaks(
    trace: &Trace,
    study: &LeakStudy,
    names: &Names,
    wanted: &Wanted,
    options: &LeakOptions,
) -> Result<Leaks, AnalysisError> {
    let tables = &trace.tables;
    let selection = Selection::of(wanted, tables, &study.outcome)?;
    let tree = SiteTree::of(tables, names, &options.wrappers);
    let functions = Functions::of(names);
    let profile_of: Vec<Option<&Profile>> =
        tables.processes.iter().map(|process| choose(&options.profiles, process)).collect();
    let (mut total, mut leaked) = (Amount::default(), Amount::default());
    let mut findings: Vec<Finding> = Vec::new();
    let mut kept: HashMap<ProcessId, Finding> = HashMap::new();
    for (group, evidence) in study.groups.iter().zip(&study.evidence) {
        if !selection.includes_process(group.process) {
            continue;
        }
        let amount = Amount { bytes: group.survivor_bytes, count: group.survivor_count };
        total += amount;
        let profile = profile_of[group.process.index()];
        let stack = group.stacks.first().map_or(StackId::EMPTY, |(stack, _)| *stack);
        let frames = stack_frames(&tree, tree.full(stack), names);
        let end = study.outcome.processes[group.process.index()].end;
        let circumstances = Circumstances {
            went_on: !matches!(end, Some((_, EndReason::Exit(_) | EndReason::Exec))),
            executed: matches!(end, Some((_, EndReason::Exec))),
            once: frames.iter().any(|frame| ONCE.iter().any(|pattern| glob(pattern, &frame.function))),
            on_purpose: frames.iter().any(|frame| {
                ON_PURPOSE
                    .iter()
                    .copied()
                    .chain(profile.iter().flat_map(|profile| profile.intentional.iter().map(String::as_str)))
                    .any(|pattern| glob(pattern, &frame.function))
            }),
        };
        let verdict = classify(group, evidence, circumstances, |function| functions.is_library(function));
        let mut finding = finding(trace, &tree, names, &functions, group, evidence, &verdict);
        finding.suppressed_by = options.suppressions.covers(&frames);
        if let Some(keeps) = profile.and_then(|profile| profile.keeps.as_ref())
            && !matches!(verdict.class, LeakClass::LiveAtDetach | LeakClass::LiveAtExec)
            && finding.suppressed_by.is_none()
        {
            // Said once for the whole process.
            finding.expected = Some(keeps.clone());
            finding.class = LeakClass::RetainedWhole;
            finding.leak = false;
            match kept.get_mut(&group.process) {
                None => {
                    kept.insert(group.process, Finding { function: String::new(), ..finding });
                }
                Some(whole) => {
                    whole.count += finding.count;
                    whole.bytes += finding.bytes;
                    whole.allocated_count += finding.allocated_count;
                    whole.site_count += 1;
                }
            }
            continue;
        }
        if finding.leak && finding.suppressed_by.is_none() {
            leaked += amount;
        }
        findings.push(finding);
    }
    findings.extend(kept.into_values().map(|mut whole| {
        whole.why = format!("{}: all of its {} survivors are one finding", whole.process, whole.count);
        whole.settle = "`heaptape leaks --sites` lists them; a profile without `keeps` has them classified".to_owned();
        whole.siblings_die_in.clear();
        whole.death_stack.clear();
        whole
    }));
    findings.sort_by(|one, other| {
        let key =
            |finding: &Finding| (!finding.leak || finding.suppressed_by.is_some(), std::cmp::Reverse(finding.bytes));
        key(one).cmp(&key(other)).then_with(|| one.function.cmp(&other.function))
    });
    for (finding, rank) in findings.iter_mut().zip(1..) {
        finding.rank = rank;
    }
    Ok(Leaks {
        schema: 2,
        scope: selection.scope,
        total,
        leaked,
        findings,
        failed_count: study.outcome.total.counts.failed_count,
        doubts: doubts(trace, &study.outcome),
    })
}

fn finding(
    trace: &Trace,
    tree: &SiteTree,
    names: &Names,
    functions: &Functions<'_>,
    group: &Group,
    evidence: &Evidence,
    verdict: &Verdict,
) -> Finding {
    let process = &trace.tables.processes[group.process.index()];
    let name = |function: &u32| {
        if *function == u32::MAX { "[no stack]".to_owned() } else { functions.name(*function).to_owned() }
    };
    let function = group.functions.first().map_or_else(|| "[no stack]".to_owned(), name);
    let last = group.last_steps.first().and_then(|(stack, _)| functions.path(tree, *stack).next());
    let grown_in = last.map(|last| name(&last)).filter(|last| *last != function);
    let mut deaths: Vec<DiesIn> = if verdict.class == LeakClass::ForgottenByTeardown {
        let most = |teardown: &Teardown| teardown.with_survivors * 2 >= teardown.count && teardown.with_survivors > 0;
        let of =
            |(function, teardown): (&u32, &Teardown)| DiesIn { function: name(function), count: teardown.freed_count };
        evidence.teardowns.iter().filter(|(_, teardown)| most(teardown)).map(of).collect()
    } else {
        evidence.deaths.iter().map(|(function, count)| DiesIn { function: name(function), count: *count }).collect()
    };
    deaths.sort_by(|one, other| other.count.cmp(&one.count).then_with(|| one.function.cmp(&other.function)));
    deaths.truncate(5);
    let repeats = verdict.per_iteration.zip(verdict.about).map(|((count_each, bytes_each), function)| Repeats {
        function: name(&function),
        iterations: verdict.times,
        count_each,
        bytes_each,
    });
    let stack = group.stacks.first().map_or(StackId::EMPTY, |(stack, _)| *stack);
    let why = why(group, verdict, &deaths, repeats.as_ref(), &function);
    Finding {
        rank: 0,
        class: verdict.class,
        leak: verdict.class.is_leak(),
        expected: None,
        suppressed_by: None,
        count: group.survivor_count,
        bytes: group.survivor_bytes,
        allocated_count: group.count,
        function,
        grown_in,
        process: process.name.clone(),
        pid: process.pid,
        siblings_die_in: deaths,
        repeats,
        confidence: verdict.confidence,
        why,
        settle: settle(verdict.class).to_owned(),
        site_count: 1,
        stack: stack_frames(tree, tree.site(stack), names),
        death_stack: evidence.death_stack.map_or_else(Vec::new, |stack| stack_frames(tree, tree.site(stack), names)),
    }
}

fn why(group: &Group, verdict: &Verdict, deaths: &[DiesIn], repeats: Option<&Repeats>, function: &str) -> String {
    let (count, survivors) = (group.count, group.survivor_count);
    let place = deaths.first().map_or_else(|| "elsewhere".to_owned(), |death| format!("in {}", death.function));
    match verdict.class {
        LeakClass::MinoritySurvivor => {
            format!("{} of {count} were freed, most {place}; {survivors} never", count - survivors)
        }
        LeakClass::LeakedOnSuccess => {
            format!("only {} of {count} were freed, {place}: the path that frees is the exception", count - survivors)
        }
        LeakClass::LeakedOnError => {
            format!("{} of {count} were freed, {place}: the other paths do not free", count - survivors)
        }
        LeakClass::ForgottenByTeardown => format!(
            "none of {count} was freed, while what was born beside them dies {place}, which found new ones {} time{}",
            verdict.times,
            if verdict.times == 1 { "" } else { "s" }
        ),
        LeakClass::Growth => match repeats {
            Some(repeats) => format!(
                "each of {} calls of {} left {} ({} bytes) and cleaned up everything else",
                repeats.iterations, repeats.function, repeats.count_each, repeats.bytes_each
            ),
            None => "each iteration leaves the same".to_owned(),
        },
        LeakClass::BoundedCache => {
            format!("the {survivors} latest of {count} are held; all older ones were freed, most {place}")
        }
        LeakClass::RetainedWhole => {
            format!("none of the {count} that {function} made was freed, nor anything that they are part of")
        }
        LeakClass::ProcessConstant => "made once and kept to the end".to_owned(),
        LeakClass::Intentional => "a function on the stack gives memory up on purpose".to_owned(),
        LeakClass::LiveAtDetach => "the process went on when the recording ended".to_owned(),
        LeakClass::LiveAtExec => "the process executed another program, which gave all of its memory up".to_owned(),
        LeakClass::Unclear => format!("{survivors} of {count} survived: too few to say"),
    }
}

fn settle(class: LeakClass) -> &'static str {
    match class {
        LeakClass::MinoritySurvivor => {
            "read the path of the stack that survives beside one that is freed: which exit skips the free?"
        }
        LeakClass::LeakedOnSuccess => "record an input that fails more often: the share of freed ones rises",
        LeakClass::LeakedOnError => "record an input without errors: the survivors go away",
        LeakClass::ForgottenByTeardown => "add the free to the teardown and record again",
        LeakClass::Growth => "record twice as many iterations: the survivors double",
        LeakClass::BoundedCache => "record a longer run: the number held stays",
        LeakClass::RetainedWhole => "record two units in one process: what is retained whole doubles, constants do not",
        LeakClass::ProcessConstant => "record a larger input: it stays the same",
        LeakClass::Intentional | LeakClass::LiveAtExec => "nothing to settle",
        LeakClass::LiveAtDetach => "record to the end of the process",
        LeakClass::Unclear => "record a larger input",
    }
}
