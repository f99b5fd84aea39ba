//! Which allocator fits which site. Responsible for one piece of advice per site, with the figures it rests on, how sure it is, and
//! what would change it; not for finding those figures (see `patterns`), nor for where arenas open and close, which must be
//! simulated before anybody relies on it.
//!
//! The tree is the one that people use by hand, with figures in place of judgement:
//!
//! ```text
//!  fewer than 16 blocks ─── each 64 KiB or more, never freed?  ─▶ pages      one-time allocation: straight from the system
//!           │               else                               ─▶ (nothing is said)
//!  95 % die within two events, in the function or its caller?
//!           │               all of one KiB or less             ─▶ fixed buffer   on the stack: the size has a bound
//!           │               greater, up to 1 MiB               ─▶ scratch buffer kept from call to call
//!  5 % freed by other threads?                                 ─▶ general    somebody must own what is handed over
//!  95 % never freed?                                           ─▶ arena      as long as the process
//!  90 % share a scope that is no whole thread?                 ─▶ arena      opened and closed by that function
//!  90 % of one size, twenty born for each one alive?           ─▶ pool
//!  else                                                        ─▶ general    lifetimes differ
//! ```
//!
//! One recording is one input: that all blocks of a site died with their scope says that they did, not that they must. So an arena
//! or a fixed buffer is sure only with many blocks and no exception.

use serde::Serialize;

use crate::leaks::Confidence;
use crate::patterns::{PatternSite, STACK_BYTES};
use crate::replay::Amount;
use crate::sites::ratio;
use crate::units::{bytes, count, plural, share};

/// Fewer blocks say too little of a site.
const LEAST_BLOCKS: u64 = 16;
/// A block from which on a site of few blocks deserves pages.
const LARGE_BYTES: u64 = 64 * 1024;
/// Greatest scratch buffer that is kept.
const SCRATCH_BYTES: u64 = 1 << 20;
/// The part of blocks that must die at once.
const TEMPORARY_SHARE: f64 = 0.95;
/// The part of freed blocks from which on other threads matter.
const ELSEWHERE_SHARE: f64 = 0.05;
/// The part of blocks that must survive.
const DURABLE_SHARE: f64 = 0.95;
/// The part of blocks that must share their scope.
const SCOPE_SHARE: f64 = 0.9;
/// The part of births that reallocs make, from which on an arena needs sealed or reserved tables.
const GROWING_SHARE: f64 = 0.1;
/// Blocks from which on a rule without exception is sure.
const MANY_BLOCKS: u64 = 10_000;
/// Blocks from which on it is likely.
const SOME_BLOCKS: u64 = 100;

/// Functions whose activation lasts as long as their thread: a scope that is no scope.
const WHOLE_THREADS: [&str; 10] = [
    "main",
    "_start",
    "__libc_start_main",
    "__libc_start_call_main",
    "start_thread",
    "clone",
    "clone3",
    "std::rt::lang_start",
    "std::rt::lang_start_internal",
    "thread_start",
];

/// Kinds of allocators.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Allocator {
    /// Blocks that die together.
    Arena,
    /// A buffer of a known size, on the stack.
    FixedBuffer,
    /// A buffer that is kept and used again.
    ScratchBuffer,
    /// Slots of one size.
    Pool,
    /// What there is: malloc and free.
    General,
    /// Straight from the system.
    Pages,
}

impl Allocator {
    /// In words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Arena => "arena",
            Self::FixedBuffer => "fixed buffer",
            Self::ScratchBuffer => "scratch buffer",
            Self::Pool => "pool",
            Self::General => "general",
            Self::Pages => "pages",
        }
    }
}

/// What is known of a site.
#[derive(Debug, Clone, PartialEq)]
pub struct Facts {
    /// The site; its blocks include those that reallocs made.
    pub site: PatternSite,
    /// Blocks freed.
    pub freed: Amount,
    /// Of them, freed by another thread than their own.
    pub freed_elsewhere: Amount,
    /// Blocks that a realloc replaced.
    pub replaced_count: u64,
    /// Blocks never freed.
    pub survived: Amount,
    /// The greatest block.
    pub max_bytes: u64,
    /// Blocks freed by their own thread, with stacks that tell their scope.
    pub scoped_count: u64,
    /// The commonest scope of these.
    pub scope: Option<ScopeShare>,
    /// Blocks freed within two events of their thread, in the function or its caller.
    pub temporary_count: u64,
    /// The greatest of these.
    pub temporary_max_bytes: u64,
    /// Reallocs that made blocks of the site greater.
    pub grow_count: u64,
    /// The commonest size.
    pub one_size_bytes: u64,
    /// Blocks of that size.
    pub one_size_count: u64,
    /// The most of them alive at a time.
    pub one_size_max_live_count: u64,
    /// Of them, blocks that got the address of the one freed last.
    pub lifo_count: u64,
    /// Whether they could come from a pool.
    pub is_pool: bool,
}

/// How many blocks share a scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScopeShare {
    /// The function whose activation it is; none where it is the thread as a whole.
    pub function: Option<String>,
    /// Blocks.
    pub count: u64,
}

/// Which allocator fits a site.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Advice {
    /// From 1, by blocks.
    pub rank: u64,
    /// Who allocates.
    #[serde(flatten)]
    pub site: PatternSite,
    /// What fits.
    pub allocator: Allocator,
    /// The function that an arena would be opened and closed by; null for other allocators and for an arena as long as the
    /// process.
    pub scope: Option<String>,
    /// How sure.
    pub confidence: Confidence,
    /// The figures, in a sentence.
    pub why: String,
    /// What would change the advice.
    pub would_change: String,
    /// Frees that it would make unnecessary, at most.
    pub saves_free_count: u64,
    /// The figures, for programs.
    pub evidence: Evidence,
}

/// Figures that advice rests on. Shares are from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Evidence {
    /// Of the blocks freed by their own thread, the part that share the commonest scope.
    pub scope_share: f64,
    /// Of all blocks, the part freed at once.
    pub temporary_share: f64,
    /// Of all blocks, the part never freed.
    pub durable_share: f64,
    /// Of the freed blocks, the part freed by another thread.
    pub elsewhere_share: f64,
    /// Of all blocks, the part that has the commonest size.
    pub one_size_share: f64,
    /// That size.
    pub one_size_bytes: u64,
    /// The most of that size alive at a time.
    pub max_live_count: u64,
    /// The greatest block.
    pub max_bytes: u64,
    /// Reallocs that made blocks of the site greater.
    pub grow_count: u64,
}

/// Advice for a site; none where too few blocks say too little.
pub fn advice(facts: &Facts) -> Option<Advice> {
    let born = facts.site.born.count;
    if born < LEAST_BLOCKS {
        return one_time(facts);
    }
    let evidence = facts.evidence();
    Some(if evidence.temporary_share >= TEMPORARY_SHARE && facts.temporary_max_bytes <= SCRATCH_BYTES {
        facts.temporary(&evidence)
    } else if evidence.elsewhere_share >= ELSEWHERE_SHARE {
        facts.handed_over(&evidence)
    } else if evidence.durable_share >= DURABLE_SHARE {
        facts.durable(&evidence)
    } else if let Some(scope) = facts.arena_scope() {
        facts.scoped(scope, &evidence)
    } else if facts.is_pool {
        facts.pooled(&evidence)
    } else {
        facts.mixed(&evidence)
    })
}

fn one_time(facts: &Facts) -> Option<Advice> {
    let born = facts.site.born;
    let is_large = born.count > 0 && born.bytes / born.count >= LARGE_BYTES;
    if !is_large || facts.survived.count < born.count {
        return None;
    }
    let why = format!("{} of {}, never freed", plural(born.count, "block", "blocks"), bytes(born.bytes));
    let change = "it being freed, or made once per unit of work on other inputs";
    Some(facts.advise(Allocator::Pages, None, Confidence::Medium, why, change, 0))
}

impl Facts {
    fn evidence(&self) -> Evidence {
        let born = self.site.born.count;
        Evidence {
            scope_share: ratio(self.scope.as_ref().map_or(0, |scope| scope.count), self.scoped_count),
            temporary_share: ratio(self.temporary_count, born),
            durable_share: ratio(self.survived.count, born),
            elsewhere_share: ratio(self.freed_elsewhere.count, self.freed.count),
            one_size_share: ratio(self.one_size_count, born),
            one_size_bytes: self.one_size_bytes,
            max_live_count: self.one_size_max_live_count,
            max_bytes: self.max_bytes,
            grow_count: self.grow_count,
        }
    }

    /// The function whose activation most blocks share as scope, if that is less than a thread's life and most blocks have a
    /// scope at all.
    fn arena_scope(&self) -> Option<&str> {
        let scope = self.scope.as_ref()?;
        let born_to_be_freed = self.site.born.count - self.replaced_count.min(self.site.born.count);
        if ratio(scope.count, born_to_be_freed.max(self.scoped_count)) < SCOPE_SHARE {
            return None;
        }
        scope.function.as_deref().filter(|function| !is_whole_thread(function))
    }

    fn temporary(&self, evidence: &Evidence) -> Advice {
        let part = percent(evidence.temporary_share);
        let why = format!(
            "{part} of {} blocks are freed within two events, the greatest has {}",
            count(self.site.born.count),
            bytes(self.temporary_max_bytes)
        );
        let saves = self.temporary_count;
        if self.temporary_max_bytes <= STACK_BYTES {
            let confidence = sure(evidence.temporary_share, self.temporary_count);
            let change = "greater blocks on other inputs: then a vector that begins on the stack";
            return self.advise(Allocator::FixedBuffer, None, confidence, why, change, saves);
        }
        let confidence = sure(evidence.temporary_share, self.temporary_count);
        let change = "the function being entered again while its buffer is in use";
        self.advise(Allocator::ScratchBuffer, None, confidence, why, change, saves)
    }

    fn handed_over(&self, evidence: &Evidence) -> Advice {
        let why = format!(
            "{} of {} freed blocks are freed by another thread",
            percent(evidence.elsewhere_share),
            count(self.freed.count)
        );
        let confidence = if self.freed.count >= SOME_BLOCKS { Confidence::High } else { Confidence::Medium };
        let change = "the receiving thread copying what it keeps: then the rest may lie in an arena of the sender";
        self.advise(Allocator::General, None, confidence, why, change, 0)
    }

    fn durable(&self, evidence: &Evidence) -> Advice {
        let why = format!(
            "{} of {} blocks ({}) are never freed",
            percent(evidence.durable_share),
            count(self.site.born.count),
            bytes(self.survived.bytes)
        );
        let confidence = sure(evidence.durable_share, self.survived.count);
        let change = "the process going on to another unit of work, where they would have to be freed";
        self.advise(Allocator::Arena, None, confidence, why, change, self.freed.count)
    }

    fn scoped(&self, scope: &str, evidence: &Evidence) -> Advice {
        let mut why = format!(
            "{} of {} blocks freed by their own thread die in the call of {scope} that they were born in",
            percent(evidence.scope_share),
            count(self.scoped_count)
        );
        let growing = ratio(self.grow_count, self.site.born.count) >= GROWING_SHARE;
        let mut confidence = sure(evidence.scope_share, self.scoped_count);
        if growing {
            why.push_str(&format!(
                "; {} reallocs make blocks greater: reserve, or seal them first",
                count(self.grow_count)
            ));
            confidence = confidence.min(Confidence::Medium);
        }
        let change = "blocks that outlive that call on other inputs, or a call so long that dead blocks pile up in it";
        self.advise(Allocator::Arena, Some(scope.to_owned()), confidence, why, change, self.freed.count)
    }

    fn pooled(&self, evidence: &Evidence) -> Advice {
        let why = format!(
            "{} of {} blocks have {}, at most {} of them alive; {} reuse the block freed last, so the allocator is nearly a pool \
             already: expect little speed",
            percent(evidence.one_size_share),
            count(self.site.born.count),
            bytes(self.one_size_bytes),
            count(self.one_size_max_live_count),
            share(self.lifo_count, self.one_size_count)
        );
        let confidence = sure(evidence.one_size_share, self.one_size_count);
        let change = "more of them alive at a time on other inputs";
        self.advise(Allocator::Pool, None, confidence, why, change, 0)
    }

    fn mixed(&self, evidence: &Evidence) -> Advice {
        let scope = match &self.scope {
            Some(ScopeShare { function: Some(function), .. }) => {
                format!("the commonest scope, a call of {function}, has {}", percent(evidence.scope_share))
            }
            Some(_) => format!("{} have no scope but their thread", percent(evidence.scope_share)),
            None => "no scope is known".to_owned(),
        };
        let why = format!(
            "of {} blocks, {} are never freed, {} at once; {scope}",
            count(self.site.born.count),
            percent(evidence.durable_share),
            percent(evidence.temporary_share)
        );
        let confidence = if self.scoped_count >= SOME_BLOCKS { Confidence::Medium } else { Confidence::Low };
        let change = "its callers being told apart: `heaptape lifetimes` has each stack's scope";
        self.advise(Allocator::General, None, confidence, why, change, 0)
    }

    fn advise(
        &self,
        allocator: Allocator,
        scope: Option<String>,
        confidence: Confidence,
        why: String,
        would_change: &str,
        saves_free_count: u64,
    ) -> Advice {
        Advice {
            rank: 0,
            site: self.site.clone(),
            allocator,
            scope,
            confidence,
            why,
            would_change: would_change.to_owned(),
            saves_free_count,
            evidence: self.evidence(),
        }
    }
}

/// How sure a rule is that this part of so many blocks follows.
fn sure(part: f64, blocks: u64) -> Confidence {
    if part >= 1.0 && blocks >= MANY_BLOCKS {
        Confidence::High
    } else if part >= TEMPORARY_SHARE && blocks >= SOME_BLOCKS {
        Confidence::Medium
    } else {
        Confidence::Low
    }
}

fn is_whole_thread(function: &str) -> bool {
    WHOLE_THREADS.iter().any(|whole| function == *whole || function.starts_with(&format!("{whole}::")))
}

fn percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A site with so many blocks of 100 bytes, all freed by their own thread, in no scope.
    fn facts(born: u64) -> Facts {
        let all = Amount { bytes: born * 100, count: born };
        Facts {
            site: PatternSite {
                function: "f".into(),
                born: all,
                phases: Vec::new(),
                stack_count: 1,
                stack: Vec::new(),
            },
            freed: all,
            freed_elsewhere: Amount::default(),
            replaced_count: 0,
            survived: Amount::default(),
            max_bytes: 100,
            scoped_count: born,
            scope: Some(ScopeShare { function: None, count: born }),
            temporary_count: 0,
            temporary_max_bytes: 0,
            grow_count: 0,
            one_size_bytes: 100,
            one_size_count: born,
            one_size_max_live_count: born,
            lifo_count: 0,
            is_pool: false,
        }
    }

    fn scope(function: &str, count: u64) -> ScopeShare {
        ScopeShare { function: Some(function.into()), count }
    }

    #[test]
    fn each_branch_of_the_tree() {
        let all = Amount { bytes: 50_000, count: 500 };
        let few = |survived| Facts { survived, ..facts(2) };
        let large = Amount { bytes: 200_000, count: 2 };
        let cases: Vec<(&str, Facts, Option<Allocator>)> = vec![
            ("too few", facts(15), None),
            (
                "few but large and kept",
                Facts { site: PatternSite { born: large, ..facts(2).site }, ..few(large) },
                Some(Allocator::Pages),
            ),
            ("few and kept but small", few(Amount { bytes: 200, count: 2 }), None),
            ("lifetimes differ", facts(500), Some(Allocator::General)),
            (
                "small temporaries",
                Facts { temporary_count: 480, temporary_max_bytes: 1024, ..facts(500) },
                Some(Allocator::FixedBuffer),
            ),
            (
                "greater temporaries",
                Facts { temporary_count: 500, temporary_max_bytes: 1025, ..facts(500) },
                Some(Allocator::ScratchBuffer),
            ),
            (
                "other threads, whatever the scope",
                Facts {
                    freed_elsewhere: Amount { bytes: 2500, count: 25 },
                    scope: Some(scope("pass", 475)),
                    ..facts(500)
                },
                Some(Allocator::General),
            ),
            ("kept", Facts { survived: all, freed: Amount::default(), ..facts(500) }, Some(Allocator::Arena)),
            ("one scope", Facts { scope: Some(scope("pass", 460)), ..facts(500) }, Some(Allocator::Arena)),
            (
                "the thread is no scope",
                Facts { scope: Some(scope("main", 500)), ..facts(500) },
                Some(Allocator::General),
            ),
            ("too few in one scope", Facts { scope: Some(scope("pass", 440)), ..facts(500) }, Some(Allocator::General)),
            ("a pool", Facts { is_pool: true, ..facts(500) }, Some(Allocator::Pool)),
        ];
        for (what, facts, expected) in cases {
            let found = advice(&facts);
            assert_eq!(found.as_ref().map(|advice| advice.allocator), expected, "{what}: {found:?}");
            if let Some(found) = found {
                assert!(
                    found.why.contains(|letter: char| letter.is_ascii_digit()),
                    "{what}: no figure in {}",
                    found.why
                );
            }
        }
    }

    #[test]
    fn growth_in_an_arena_is_warned_of_and_never_sure() {
        let plain = advice(&Facts { scope: Some(scope("pass", 20_000)), ..facts(20_000) }).unwrap();
        assert_eq!((plain.confidence, plain.scope.as_deref()), (Confidence::High, Some("pass")));
        assert_eq!(plain.saves_free_count, 20_000);
        let growing =
            advice(&Facts { scope: Some(scope("pass", 20_000)), grow_count: 5_000, ..facts(20_000) }).unwrap();
        assert_eq!(growing.confidence, Confidence::Medium);
        assert!(growing.why.contains("reserve"), "{}", growing.why);
    }
}
