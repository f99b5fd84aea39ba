//! What became of a group of survivors. Responsible for the class, how sure it is, and what would settle it: a pure function of
//! the group and the evidence.
//!
//! In this order; the first that holds is it:
//!
//! | class | holds if |
//! |---|---|
//! | live at detach | the process went on after the recording |
//! | live at exec | the process executed another program |
//! | intentional | a function whose purpose that is is on the stack |
//! | minority survivor | of at least 30 chains fewer than 5 % survive, the others are freed |
//! | bounded cache | some were freed, and the survivors are the latest |
//! | leaked on success | at least 8 chains, fewer than half freed |
//! | leaked on error | at least 8 chains, at least half freed |
//! | process constant | none was freed, and a function on the stack runs once per process |
//! | growth | none was freed, and each of at least 5 activations of a function that otherwise cleans up left the same |
//! | forgotten by teardown | none was freed, and most teardowns of one function found new ones of at least two |
//! | process constant | one alone, never freed |
//! | retained whole | several, none was freed |
//! | unclear | too few to say |

use serde::Serialize;

use super::evidence::Evidence;
use super::groups::{Group, MANY, MINORITY};

/// Fewest chains of which some were freed that say anything.
const SOME: u64 = 8;
/// Fewest iterations that are growth.
const ITERATIONS: u64 = 5;
/// Fewest survivors that a single teardown is blamed for.
const SEVERAL: u64 = 6;
/// Functions from a survivor's birth out to the activation that takes its siblings apart, at most, for a single teardown.
const NEAR: u32 = 3;
/// Part of the iterations, or of the teardowns, that must agree.
const MOST: f64 = 0.8;

/// Classes of survivors.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum LeakClass {
    /// The owner and its other parts die in its teardown, these never.
    ForgottenByTeardown,
    /// Most siblings are freed, few are not.
    MinoritySurvivor,
    /// Freed where it fails, left where it succeeds.
    LeakedOnSuccess,
    /// Freed where it succeeds, left where it fails.
    LeakedOnError,
    /// Each iteration of something repeated leaves the same.
    Growth,
    /// Too few to say.
    Unclear,
    /// Older ones are freed when new ones come.
    BoundedCache,
    /// Nothing of its kind is freed.
    RetainedWhole,
    /// Made once, kept to the end.
    ProcessConstant,
    /// Given up by a function whose purpose that is.
    Intentional,
    /// The process went on.
    LiveAtDetach,
    /// The process executed another program: its memory was given up as a whole.
    LiveAtExec,
}

impl LeakClass {
    /// Whether it is a leak.
    pub fn is_leak(self) -> bool {
        matches!(
            self,
            Self::ForgottenByTeardown
                | Self::MinoritySurvivor
                | Self::LeakedOnSuccess
                | Self::LeakedOnError
                | Self::Growth
        )
    }

    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::ForgottenByTeardown => "forgotten by teardown",
            Self::MinoritySurvivor => "minority survivor",
            Self::LeakedOnSuccess => "leaked on success",
            Self::LeakedOnError => "leaked on error",
            Self::Growth => "growth",
            Self::Unclear => "unclear",
            Self::BoundedCache => "bounded cache",
            Self::RetainedWhole => "retained whole",
            Self::ProcessConstant => "process constant",
            Self::Intentional => "intentional",
            Self::LiveAtDetach => "live at detach",
            Self::LiveAtExec => "live at exec",
        }
    }
}

/// How sure a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Confidence {
    /// It may well be something else.
    Low,
    /// Likely.
    Medium,
    /// Hardly anything else explains it.
    High,
}

/// A verdict.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The class.
    pub class: LeakClass,
    /// How sure.
    pub confidence: Confidence,
    /// The function that the class is about: the teardown that forgets, or what is repeated.
    pub about: Option<u32>,
    /// How often that was.
    pub times: u64,
    /// What one iteration leaves, for growth.
    pub per_iteration: Option<(u64, u64)>,
}

/// What is known of the process and the stacks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Circumstances {
    /// The process went on after the recording.
    pub went_on: bool,
    /// The process executed another program.
    pub executed: bool,
    /// A frame of the stack runs once per process.
    pub once: bool,
    /// A function on the stack gives memory up on purpose.
    pub on_purpose: bool,
}

/// Decides. `is_library` says of a function that it belongs to a language's library.
pub fn classify(
    group: &Group,
    evidence: &Evidence,
    circumstances: Circumstances,
    is_library: impl Fn(u32) -> bool,
) -> Verdict {
    let verdict = |class, confidence| Verdict { class, confidence, about: None, times: 0, per_iteration: None };
    if circumstances.went_on {
        return verdict(LeakClass::LiveAtDetach, Confidence::High);
    }
    if circumstances.executed {
        return verdict(LeakClass::LiveAtExec, Confidence::High);
    }
    if circumstances.on_purpose {
        return verdict(LeakClass::Intentional, Confidence::High);
    }
    let (count, survivors) = (group.count, group.survivor_count);
    let freed = count - survivors.min(count);
    if freed > 0 {
        let is_latest = group.first_survivor_birth > group.last_freed_birth;
        if count >= MANY && (survivors as f64) < MINORITY * count as f64 {
            let confidence = if is_latest { Confidence::Medium } else { Confidence::High };
            return verdict(LeakClass::MinoritySurvivor, confidence);
        }
        if is_latest {
            return verdict(LeakClass::BoundedCache, Confidence::Medium);
        }
        if count < SOME || survivors < 2 {
            return verdict(LeakClass::Unclear, Confidence::Low);
        }
        let confidence = if count >= MANY { Confidence::High } else { Confidence::Medium };
        let class = if freed < survivors { LeakClass::LeakedOnSuccess } else { LeakClass::LeakedOnError };
        return verdict(class, confidence);
    }
    if circumstances.once {
        return verdict(LeakClass::ProcessConstant, Confidence::High);
    }
    if let Some((function, times, amount)) = repetition(evidence, &is_library) {
        let confidence = if times >= 2 * ITERATIONS { Confidence::High } else { Confidence::Medium };
        return Verdict {
            class: LeakClass::Growth,
            confidence,
            about: Some(function),
            times,
            per_iteration: Some(amount),
        };
    }
    if survivors > 1
        && let Some((function, times)) = forgetful_teardown(evidence, survivors)
    {
        let confidence = if times > 1 { Confidence::High } else { Confidence::Medium };
        return Verdict {
            class: LeakClass::ForgottenByTeardown,
            confidence,
            about: Some(function),
            times,
            per_iteration: None,
        };
    }
    let class = if survivors == 1 { LeakClass::ProcessConstant } else { LeakClass::RetainedWhole };
    verdict(class, Confidence::Medium)
}

/// The function most of whose teardowns found new survivors; the one with the most teardowns, then with the most frees.
fn forgetful_teardown(evidence: &Evidence, survivors: u64) -> Option<(u32, u64)> {
    evidence
        .teardowns
        .iter()
        .filter(|(_, teardown)| teardown.with_survivors as f64 >= MOST.min(0.5) * teardown.count as f64)
        .filter(|(_, teardown)| teardown.with_survivors > 0)
        // A single one may be of something else: it must take apart enough, from near where the survivors come from.
        .filter(|(_, teardown)| {
            teardown.with_survivors > 1
                || teardown.freed_count * 2 >= survivors && survivors >= SEVERAL && teardown.distance <= NEAR
        })
        .max_by_key(|(function, teardown)| {
            (teardown.with_survivors, teardown.freed_count, std::cmp::Reverse(**function))
        })
        .map(|(function, teardown)| (*function, teardown.with_survivors))
}

/// The function that leaves the same again and again, and otherwise cleans up: the one with the most
/// iterations, then the innermost one of the program's own.
fn repetition(evidence: &Evidence, is_library: impl Fn(u32) -> bool) -> Option<(u32, u64, (u64, u64))> {
    evidence
        .repetitions
        .iter()
        .filter(|(_, repetition)| repetition.count >= ITERATIONS)
        .filter(|(_, repetition)| repetition.balanced_count as f64 >= MOST * repetition.count as f64)
        .filter(|(_, repetition)| repetition.count as f64 >= MOST * repetition.activation_count as f64)
        .filter_map(|(function, repetition)| {
            let (amount, times) = repetition.amounts.iter().max_by_key(|(amount, times)| (*times, *amount))?;
            let rank = (*times, !is_library(*function), repetition.depth, std::cmp::Reverse(*function));
            (*times as f64 >= MOST * repetition.count as f64).then_some((rank, *function, *times, *amount))
        })
        .max_by_key(|(rank, ..)| *rank)
        .map(|(_, function, times, amount)| (function, times, amount))
}
