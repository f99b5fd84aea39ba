//! Tables that grow by allocate-copy-free. Responsible for finding blocks that replace a smaller one of the same function, step
//! by step of the same size; not for growth by realloc (see `reallocs`).
//!
//! ```text
//!  append(t):  new = malloc(n + δ)     ● birth of the successor, a candidate for a while
//!              memcpy(new, t, n)       │ at most 32 + 4·n/δ events of the thread: elements may be copied one by one
//!              free(t)                 ○ death of a block of n bytes: the candidate of n + δ bytes takes its place
//! ```
//!
//! Successor and predecessor are made by the same function (the first predecessor may be made by another), the successor is born and
//! the predecessor freed on one thread, and the function has returned at most twice in between. That fits by chance, too: a first
//! such pair is a *guess*, and a block may be the successor in several. A block that was guessed to have grown by δ and is replaced
//! by a candidate that is greater by δ again is a *table*; from there on only δ fits. It is *certain* as long as each successor was
//! the latest block that could be one.
//!
//! What was copied is the sum of the predecessors' sizes: exact if each predecessor was full. Blocks of the same size cannot be told
//! apart: where one function makes the successors of two tables before it frees either predecessor, and sizes coincide, a step
//! may be missed.
//!
//! Memory: a few candidates per thread and function, guesses and tables per live block.

use foldhash::{HashMap, HashMapExt};
use serde::Serialize;
use trace_format::{Sequence, ThreadId};

use super::candidates::{Candidate, Candidates, Fitting, Freed, Successor};
use super::growth::{Growth, Run};
use super::listing::Listing;
use super::places::{PatternSite, Places, Site};
use super::sizes::Sizes;

/// What a block is guessed to have replaced: so many sizes, the latest ones.
const GUESSES: usize = 8;
/// A first step adds at most so much of what was there, which is a header and an element at least.
const GREATEST_FIRST_STEP: u64 = 4;
/// Counts as there where there is less.
const LEAST_OLD_BYTES: u64 = 16;
/// A function whose tables grow by allocate-copy-free.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Append {
    /// Who allocates.
    #[serde(flatten)]
    pub site: PatternSite,
    /// Bytes that a step adds, the commonest: the size of an element.
    pub step_bytes: u64,
    /// Different ones.
    pub step_size_count: u64,
    /// Tables that grew at least four steps.
    pub chain_count: u64,
    /// Steps of them all: each an alloc, a copy and a free.
    pub append_count: u64,
    /// Bytes of the predecessors, summed: what was copied.
    pub copied_bytes: u64,
    /// What a capacity that doubles would have copied on the way to the same final sizes.
    pub doubling_copied_bytes: u64,
    /// Sizes that the tables reached: half are at most this.
    pub median_final_bytes: u64,
    /// The greatest.
    pub max_final_bytes: u64,
}

/// What a block may have replaced.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Guess {
    /// Size of the predecessor; 0 for no guess. Tables do not begin beyond 4 GiB.
    old_bytes: u32,
    /// An earlier step was smaller.
    rising: bool,
    /// The block was the latest that could replace it.
    certain: bool,
}

#[derive(Debug, Clone, Default)]
struct Found {
    steps: Sizes,
    finals: Sizes,
    chain_count: u64,
    append_count: u64,
    copied_bytes: u64,
    doubling_copied_bytes: u64,
}

/// A table: a block that replaced another that replaced another.
#[derive(Debug, Clone, Copy)]
struct Table {
    site: Site,
    growth: Growth,
    /// Each successor was the latest block that could be one.
    certain: bool,
}

/// The detector.
#[derive(Debug)]
pub(super) struct Appends {
    candidates: HashMap<(ThreadId, Site), Candidates>,
    /// The site of each thread's latest birth.
    last_sites: Vec<Option<Site>>,
    /// By birth of the block.
    guesses: HashMap<Sequence, [Guess; GUESSES]>,
    /// By birth of their latest block.
    tables: HashMap<Sequence, Table>,
    found: Vec<Found>,
}

impl Appends {
    pub(super) fn new(site_count: usize) -> Self {
        Self {
            candidates: HashMap::new(),
            last_sites: Vec::new(),
            guesses: HashMap::new(),
            tables: HashMap::new(),
            found: vec![Found::default(); site_count],
        }
    }

    /// A block is born by an alloc.
    pub(super) fn born(
        &mut self,
        site: Site,
        thread: ThreadId,
        birth: Sequence,
        size_bytes: u64,
        ordinal: u32,
        depth: u32,
    ) {
        if self.last_sites.len() <= thread.index() {
            self.last_sites.resize(thread.index() + 1, None);
        }
        self.last_sites[thread.index()] = Some(site);
        let candidates = self.candidates.entry((thread, site)).or_default();
        candidates.add(size_bytes, Candidate { birth, ordinal, depth });
    }

    /// A block is freed. `frames_since` tells how many of the thread's open frames were open at a birth; none where stacks do
    /// not tell.
    pub(super) fn freed(&mut self, freed: &Freed, frames_since: impl Fn(Sequence) -> Option<usize>) {
        let table = self.tables.remove(&freed.birth);
        let guesses = self.guesses.remove(&freed.birth).unwrap_or_default();
        let last_site = self.last_sites.get(freed.thread.index()).copied().flatten().filter(|last| *last != freed.site);
        // The first block of a table may have been made elsewhere.
        if let Some(others) = last_site.and_then(|last_site| self.candidates.get(&(freed.thread, last_site)))
            && table.is_none()
        {
            for successor in others.fitting(freed, &frames_since).latest() {
                self.guess(successor, freed, false, false);
            }
        }
        let mut candidates = self.candidates.get_mut(&(freed.thread, freed.site));
        if let Some(candidates) = &mut candidates {
            // What is dead replaces nothing.
            candidates.take(Successor { birth: freed.birth, size_bytes: freed.size_bytes });
        }
        let fitting = candidates.as_ref().map_or_else(Fitting::default, |all| all.fitting(freed, &frames_since));
        let latest = fitting.latest();
        let is_latest = |successor: Successor| latest.first().is_some_and(|latest| latest.birth == successor.birth);
        // As it went on before? What is certain goes first, then what has gone on for longest.
        let guessed = guesses.iter().filter(|guess| guess.old_bytes > 0).map(|guess| {
            let mut growth = Growth::after(guess.rising);
            growth.step(u64::from(guess.old_bytes), freed.size_bytes);
            Table { site: freed.site, growth, certain: true }
        });
        let grown = table
            .into_iter()
            .chain(guessed.filter(|_| table.is_none_or(|table| !table.certain)))
            .filter_map(|table| Some((fitting.grown_by(table.growth.step_bytes())?, table)))
            .max_by_key(|(successor, table)| (is_latest(*successor), table.growth.step_count(), successor.birth));
        let mut earlier_step = None;
        if let Some((successor, mut grown)) = grown {
            if let Some(other) = table.filter(|table| table.growth.step_bytes() != grown.growth.step_bytes()) {
                self.count(other.site, other.growth.end());
            }
            grown.growth.step(freed.size_bytes, successor.size_bytes);
            grown.certain &= is_latest(successor);
            self.succeeds(successor.birth, grown);
            if grown.certain {
                if let Some(candidates) = self.candidates.get_mut(&(freed.thread, freed.site)) {
                    candidates.take(successor);
                }
                return;
            }
        } else if let Some(mut table) = table {
            earlier_step = Some(table.growth.step_bytes()).filter(|_| table.certain);
            let ended = match latest.first() {
                Some(next) => table.growth.step(freed.size_bytes, next.size_bytes),
                None => table.growth.end(),
            };
            self.count(table.site, ended);
        } else {
            // Only what is certain, and no more than a doubling.
            let Guess { old_bytes, certain, .. } = guesses[0];
            if certain && guesses[1].old_bytes == 0 {
                let old_bytes = u64::from(old_bytes);
                earlier_step = Some(freed.size_bytes - old_bytes).filter(|step_bytes| *step_bytes <= old_bytes);
            }
        }
        for (at, successor) in latest.into_iter().enumerate() {
            let step_bytes = successor.size_bytes - freed.size_bytes;
            let rising = earlier_step.is_some_and(|earlier| step_bytes > earlier);
            self.guess(successor, freed, rising, at == 0);
        }
    }

    /// A block is the latest of a table. If it may be of two, it is of the one that is certain, or has gone on for longer.
    fn succeeds(&mut self, birth: Sequence, table: Table) {
        let weight = |table: &Table| (table.certain, table.growth.step_count());
        match self.tables.get(&birth).copied() {
            Some(other) if weight(&other) > weight(&table) => self.count(table.site, table.growth.end()),
            other => {
                self.tables.insert(birth, table);
                if let Some(other) = other {
                    self.count(other.site, other.growth.end());
                }
            }
        }
    }

    /// A block may have replaced the one that is freed.
    fn guess(&mut self, successor: Successor, freed: &Freed, rising: bool, certain: bool) {
        let most = freed.size_bytes.max(LEAST_OLD_BYTES).saturating_mul(GREATEST_FIRST_STEP);
        let Some(old_bytes) = u32::try_from(freed.size_bytes).ok().filter(|old_bytes| *old_bytes > 0) else { return };
        if successor.size_bytes - freed.size_bytes > most {
            return;
        }
        let guess = Guess { old_bytes, rising, certain };
        let guesses = self.guesses.entry(successor.birth).or_default();
        match guesses.iter_mut().find(|known| known.old_bytes == old_bytes) {
            Some(known) => *known = guess,
            None => {
                guesses.rotate_right(1);
                guesses[0] = guess;
            }
        }
    }

    /// A block is over in another way: by a realloc, or alive at the end.
    pub(super) fn over(&mut self, birth: Sequence) {
        self.guesses.remove(&birth);
        if let Some(table) = self.tables.remove(&birth) {
            self.count(table.site, table.growth.end());
        }
    }

    fn count(&mut self, site: Site, run: Option<Run>) {
        let Some(run) = run.filter(Run::is_linear) else { return };
        let found = &mut self.found[site.index()];
        found.steps.add(run.step_bytes);
        found.finals.add(run.last_bytes);
        found.chain_count += 1;
        found.append_count += run.step_count;
        found.copied_bytes = found.copied_bytes.saturating_add(run.copied_bytes);
        found.doubling_copied_bytes = found.doubling_copied_bytes.saturating_add(run.doubling_copied_bytes());
    }

    /// What was found, the most copied bytes first.
    pub(super) fn finish(mut self, places: &Places<'_>, limit: usize) -> Listing<Append> {
        for (_, table) in std::mem::take(&mut self.tables) {
            self.count(table.site, table.growth.end());
        }
        let found = |site: Site| &self.found[site.index()];
        let ranked = places.ranked(|site| (found(site).copied_bytes, found(site).append_count));
        let sum = |figure: fn(&Found) -> u64| ranked.iter().map(|site| figure(found(*site))).sum();
        Listing {
            site_count: ranked.len() as u64,
            count: sum(|found| found.append_count),
            bytes: sum(|found| found.copied_bytes),
            rows: ranked.iter().take(limit).map(|site| found(*site).describe(places.describe(*site))).collect(),
        }
    }
}

impl Found {
    fn describe(&self, site: PatternSite) -> Append {
        Append {
            site,
            step_bytes: self.steps.commonest().map_or(0, |(step_bytes, _)| step_bytes),
            step_size_count: self.steps.distinct(),
            chain_count: self.chain_count,
            append_count: self.append_count,
            copied_bytes: self.copied_bytes,
            doubling_copied_bytes: self.doubling_copied_bytes,
            median_final_bytes: self.finals.quantile(0.5),
            max_final_bytes: self.finals.max(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SITE: Site = Site(0);
    const THREAD: ThreadId = ThreadId(0);

    /// A thread that allocates and frees at one site.
    struct Program {
        appends: Appends,
        sequence: u64,
    }

    impl Program {
        fn new() -> Self {
            Self { appends: Appends::new(1), sequence: 0 }
        }

        fn alloc(&mut self, size_bytes: u64) -> (Sequence, u64) {
            self.sequence += 1;
            let birth = Sequence(self.sequence);
            self.appends.born(SITE, THREAD, birth, size_bytes, self.sequence as u32, 3);
            (birth, size_bytes)
        }

        fn free(&mut self, (birth, size_bytes): (Sequence, u64)) {
            self.sequence += 1;
            let ordinal = self.sequence as u32;
            self.appends.freed(&Freed { site: SITE, birth, size_bytes, thread: THREAD, ordinal }, |_| Some(3));
        }

        fn append(&mut self, table: &mut (Sequence, u64), step: u64) {
            let new = self.alloc(table.1 + step);
            self.free(*table);
            *table = new;
        }

        fn found(mut self) -> Found {
            for (_, table) in std::mem::take(&mut self.appends.tables) {
                self.appends.count(table.site, table.growth.end());
            }
            self.appends.found.remove(0)
        }
    }

    #[test]
    fn tables_that_grow_side_by_side_are_told_apart() {
        let mut program = Program::new();
        let mut tables: Vec<(Sequence, u64)> = [8, 24, 40].iter().map(|size| program.alloc(*size)).collect();
        for _ in 0..20 {
            for (table, step) in tables.iter_mut().zip([8, 24, 40]) {
                program.append(table, step);
                let other = program.alloc(100);
                program.free(other);
            }
        }
        let found = program.found();
        assert_eq!((found.chain_count, found.append_count), (3, 60));
        assert_eq!(found.copied_bytes, (8 + 24 + 40) * 20 * 21 / 2);
        assert_eq!((found.steps.distinct(), found.finals.max()), (3, 40 * 21));
    }

    proptest! {
        /// Tables that grow in random order, among blocks of sizes that no table has. What was copied is known from how they
        /// grow.
        #[test]
        fn what_is_copied_is_exact(
            elements in proptest::collection::btree_set(1..40u64, 1..6),
            turns in proptest::collection::vec((any::<usize>(), 0..4u8, 0..3u64), 0..400),
        ) {
            let steps: Vec<u64> = elements.into_iter().map(|element| element * 8).collect();
            let mut program = Program::new();
            let mut tables: Vec<(Sequence, u64)> = steps.iter().map(|step| program.alloc(*step)).collect();
            let mut counts = vec![0u64; tables.len()];
            let mut noise = Vec::new();
            for (which, what, size) in turns {
                let at = which % tables.len();
                match what {
                    0 => noise.push(program.alloc(5 + 2 * size)),
                    1 if !noise.is_empty() => { let gone = noise.remove(which % noise.len()); program.free(gone); }
                    _ => { program.append(&mut tables[at], steps[at]); counts[at] += 1; }
                }
            }
            let long = || steps.iter().zip(&counts).filter(|(_, count)| **count >= 4);
            let expected: u64 = long().map(|(step, count)| step * count * (count + 1) / 2).sum();
            let found = program.found();
            prop_assert_eq!((found.chain_count, found.append_count), (long().count() as u64, long().map(|it| it.1).sum()));
            prop_assert_eq!(found.copied_bytes, expected);
        }
    }

    #[test]
    fn elements_copied_one_by_one_do_not_hide_a_table() {
        let mut program = Program::new();
        let mut elements = vec![program.alloc(5)];
        let mut table = program.alloc(16);
        for count in 2..100u64 {
            let new = program.alloc(16 * count);
            let copies: Vec<_> = (0..count).map(|at| program.alloc(5 + at % 3)).collect();
            for element in elements {
                program.free(element);
            }
            program.free(table);
            (table, elements) = (new, copies);
        }
        let found = program.found();
        assert_eq!((found.chain_count, found.append_count, found.copied_bytes), (1, 98, 16 * 98 * 99 / 2));
    }

    #[test]
    fn blocks_that_never_overlap_are_no_table() {
        let mut program = Program::new();
        for size in 1..100 {
            let block = program.alloc(size * 8);
            program.free(block);
        }
        assert_eq!(program.found().chain_count, 0);
    }

    #[test]
    fn a_candidate_of_an_activation_long_gone_is_none() {
        let mut program = Program::new();
        let mut table = program.alloc(8);
        for _ in 0..20 {
            let new = program.alloc(table.1 + 8);
            program.sequence += 1;
            let (birth, size_bytes) = table;
            let ordinal = program.sequence as u32;
            program.appends.freed(&Freed { site: SITE, birth, size_bytes, thread: THREAD, ordinal }, |_| Some(0));
            table = new;
        }
        assert_eq!(program.found().chain_count, 0);
    }

    #[test]
    fn doubling_is_no_finding() {
        let mut program = Program::new();
        let mut table = program.alloc(8);
        for _ in 0..20 {
            let step = table.1;
            program.append(&mut table, step);
        }
        assert_eq!(program.found().chain_count, 0);
    }
}
