//! The replay finds in random histories what a plain model of the same events finds. Responsible for comparing every
//! figure of an outcome and for making sure that the histories hold what they should; the histories are made in
//! `history`, their meaning in `model`.

#[path = "replay/history.rs"]
mod history;
#[path = "replay/model.rs"]
mod model;

use std::cell::RefCell;
use std::collections::BTreeMap;

use analyzer::Names;
use analyzer::lifetimes::{Wish, study};
use analyzer::replay::{Account, Amount, AnomalyKind, Counts, Outcome, Peak};
use proptest::prelude::*;
use proptest::test_runner::{Config, FileFailurePersistence, TestRunner};
use trace_format::{DomainId, EndReason, Op, ProcessId, Sequence, Trace};

use history::{History, step};
use model::{High, LAYERS, Model, Sum, Tally, domain_of, is_backing};

const CASES: u32 = 400;

fn counts(tally: Tally) -> Counts {
    let Tally {
        alloc_count,
        free_count,
        realloc_count,
        alloc_bytes,
        failed_count,
        free_before_recording_count,
        free_of_dead_count,
        unfinished_realloc_count,
        missed_free_count,
    } = tally;
    Counts {
        alloc_count,
        free_count,
        realloc_count,
        alloc_bytes,
        failed_count,
        free_before_recording_count,
        free_of_dead_count,
        unfinished_realloc_count,
        missed_free_count,
    }
}

fn amount((bytes, count): Sum) -> Amount {
    Amount { bytes, count }
}

fn peak(high: &High) -> Peak {
    let High { live: (bytes, count), sequence, time_ns, .. } = *high;
    Peak { bytes, count, sequence: Sequence(sequence), time_ns }
}

impl Model {
    /// What the model has of some processes and entry points.
    fn account(&self, high: &High, wanted: impl Fn(ProcessId, DomainId) -> bool) -> Account {
        let mut account = Account { peak: peak(high), ..Account::default() };
        for ((process, domain), tally) in &self.tallies {
            if wanted(*process, *domain) {
                account.counts += counts(*tally);
            }
        }
        for ((process, _, entry), site) in &self.sites {
            if wanted(*process, domain_of(*entry)) {
                account.at_end += amount(site.at_end);
            }
        }
        account
    }
}

fn compare(history: &History, outcome: &Outcome) -> Result<(), TestCaseError> {
    let model = &history.model;
    prop_assert_eq!(outcome.event_count, history.events.len() as u64);
    let times = history.events.first().zip(history.events.last()).map(|(first, last)| (first.time_ns, last.time_ns));
    prop_assert_eq!((outcome.first_ns, outcome.last_ns), times.unwrap_or_default());
    prop_assert_eq!(outcome.unknown_operation_count, model.unknown_operation_count);
    prop_assert_eq!(outcome.total, model.account(&model.total, |_, domain| is_backing(domain)), "total");

    prop_assert_eq!(outcome.domains.len(), LAYERS.len());
    for (at, account) in outcome.domains.iter().enumerate() {
        let domain = DomainId::from(at);
        let high = model.of_domain.get(&domain).cloned().unwrap_or_default();
        prop_assert_eq!(*account, model.account(&high, |_, other| other == domain), "{:?}", domain);
    }

    prop_assert_eq!(outcome.processes.len(), history.rows.processes.len());
    for (at, found) in outcome.processes.iter().enumerate() {
        let process = ProcessId::from(at);
        let heap = model.heap_of.get(&process).map(|heap| &model.heaps[*heap]);
        let own = heap.filter(|heap| heap.owner == process);
        let high = model.of_process.get(&process).cloned().unwrap_or_default();
        let account = model.account(&high, |other, domain| other == process && is_backing(domain));
        prop_assert_eq!(found.account, account, "{:?}", process);
        let of_process =
            model.tallies.iter().filter(|((other, _), tally)| *other == process && **tally != Tally::default());
        let domains: Vec<_> = of_process.map(|((_, domain), tally)| (*domain, counts(*tally))).collect();
        prop_assert_eq!(&found.domains, &domains, "{:?}", process);
        prop_assert_eq!(found.started, heap.is_some());
        prop_assert_eq!(found.heap_of, heap.map(|heap| heap.owner).filter(|owner| *owner != process));
        prop_assert_eq!(found.end.is_some(), model.ended.contains(&process));
        let inherited = own.map_or(((0, 0), (0, 0)), |heap| (heap.inherited_at_start, heap.inherited_at_end));
        prop_assert_eq!(found.inherited.at_start, amount(inherited.0), "{:?}", process);
        prop_assert_eq!(found.inherited.at_end, amount(inherited.1), "{:?}", process);
    }

    prop_assert_eq!(outcome.cells.len(), model.sites.len());
    for cell in &outcome.cells {
        let key = (cell.process, cell.stack, cell.entry);
        prop_assert!(model.sites.contains_key(&key), "nothing came of {:?}", key);
        let site = model.sites[&key];
        let found = (cell.alloc_count, cell.realloc_count, cell.alloc_bytes, cell.failed_count);
        let expected = (site.alloc_count, site.realloc_count, site.alloc_bytes, site.failed_count);
        prop_assert_eq!(found, expected, "{:?}", key);
        prop_assert_eq!(cell.at_end, amount(site.at_end), "at the end, {:?}", key);
        let at = |high: &High| amount(high.sites.get(&key).copied().unwrap_or_default());
        prop_assert_eq!(cell.at_peak, at(&model.total), "at the peak, {:?}", key);
        prop_assert_eq!(cell.at_process_peak, at(&model.of_process[&key.0]), "at the peak of its process, {:?}", key);
        prop_assert_eq!(outcome.layers.is_backing(domain_of(cell.entry)), is_backing(domain_of(cell.entry)));
    }

    let losses = &outcome.losses;
    let lost = [losses.gap_count, losses.alloc_count, losses.free_count, losses.other_count];
    prop_assert_eq!(lost, model.lost);
    prop_assert_eq!(losses.lost_count(), model.lost[1..].iter().sum::<u64>());
    prop_assert_eq!(losses.located.len() as u64, model.lost[0]);
    let anomalies: BTreeMap<_, _> =
        outcome.anomalies.iter().map(|anomaly| (anomaly.kind, (anomaly.count, anomaly.first_sequence))).collect();
    prop_assert_eq!(anomalies.len(), outcome.anomalies.len(), "each kind of anomaly has one row");
    prop_assert_eq!(&anomalies, &model.anomalies);
    Ok(())
}

/// What happened over all histories.
#[derive(Debug, Default)]
struct Seen {
    counts: Counts,
    anomalies: BTreeMap<AnomalyKind, u64>,
    shared_heaps: u64,
    inherited_died: u64,
    execs: u64,
    /// Returns of reallocs right after an event of another thread.
    returns_between_others: u64,
}

impl Seen {
    fn add(&mut self, history: &History, outcome: &Outcome) {
        self.counts += outcome.total.counts;
        for anomaly in &outcome.anomalies {
            *self.anomalies.entry(anomaly.kind).or_default() += anomaly.count;
        }
        for process in &outcome.processes {
            self.shared_heaps += u64::from(process.heap_of.is_some());
            self.inherited_died += process.inherited.at_start.count - process.inherited.at_end.count;
        }
        for (at, event) in history.events.iter().enumerate() {
            self.execs += u64::from(matches!(event.op, Op::ProcessEnd { reason: EndReason::Exec, .. }));
            let returns =
                matches!(event.op, Op::ReallocEnd { .. } | Op::ReallocFailed { .. } | Op::ReallocFreed { .. });
            let other_before = at > 0 && history.events[at - 1].thread != event.thread;
            self.returns_between_others += u64::from(returns && other_before);
        }
    }

    /// A history that lacks something proves nothing about it.
    fn assert_everything(&self) {
        let counts = serde_json::to_value(self.counts).unwrap();
        for (name, count) in counts.as_object().unwrap() {
            assert!(count.as_u64() > Some(u64::from(CASES / 2)), "too little of {name}: {self:?}");
        }
        for kind in [
            AnomalyKind::TargetNotLive,
            AnomalyKind::EndWithoutBegin,
            AnomalyKind::ProcessNotStarted,
            AnomalyKind::ProcessStartedTwice,
            AnomalyKind::ProcessEnded,
            AnomalyKind::ParentUnknown,
        ] {
            assert!(self.anomalies.contains_key(&kind), "no {kind:?}: {self:?}");
        }
        let rarer = [self.shared_heaps, self.inherited_died, self.execs, self.returns_between_others];
        assert!(rarer.iter().all(|count| *count > u64::from(CASES / 4)), "{self:?}");
    }
}

/// Whoever follows blocks from birth to death finds each of them once.
fn follow(trace: &Trace, outcome: &Outcome) -> Result<(), TestCaseError> {
    let names = Names::of(&trace.tables);
    let study = study(trace, &names, &[], Wish::Best, 1, |_| ()).unwrap();
    let counts = outcome.total.counts;
    let births = Amount { bytes: counts.alloc_bytes, count: counts.alloc_count + counts.realloc_count };
    let sum = |amounts: &mut dyn Iterator<Item = Amount>| {
        amounts.fold(Amount::default(), |mut sum, amount| {
            sum += amount;
            sum
        })
    };
    let found = &study.collected;
    prop_assert_eq!(sum(&mut found.rows.iter().map(|row| row.born)), births, "born");
    prop_assert_eq!(sum(&mut found.rows.iter().flat_map(|row| row.classes)), births, "classes");
    prop_assert_eq!(sum(&mut found.cells.iter().flat_map(|cell| cell.classes)), births, "cells");
    prop_assert_eq!(sum(&mut found.matrix.values().copied()), births, "matrix");
    let alive = found.matrix.iter().filter(|((_, death), _)| death.is_none());
    prop_assert_eq!(sum(&mut alive.map(|(_, amount)| *amount)), outcome.total.at_end, "survivors");
    prop_assert_eq!(sum(&mut found.rows.iter().map(|row| row.live)), Amount::default(), "nobody lives on");
    for row in &found.rows {
        let held: u64 = row.peak.holders().iter().map(|(_, bytes)| *bytes).sum();
        prop_assert_eq!(held, row.peak.bytes, "holders");
    }
    let highest = found.timeline.bins.iter().map(|bin| bin.max_bytes).max();
    prop_assert_eq!(highest, Some(outcome.total.peak.bytes), "timeline");
    Ok(())
}

#[test]
fn the_replay_agrees_with_a_plain_model() {
    let failure_persistence = Some(Box::new(FileFailurePersistence::WithSource("proptest-regressions")) as _);
    let config = Config { source_file: Some(file!()), failure_persistence, ..Config::with_cases(CASES) };
    let seen = RefCell::new(Seen::default());
    let histories = (prop::collection::vec(step(), 0..400), 1..200usize, 1..3usize);
    let result = TestRunner::new(config).run(&histories, |(steps, chunk_events, decoders)| {
        let history = History::of(&steps);
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("history.htape");
        history.write(&path, chunk_events);
        let trace = Trace::open(&path).unwrap();
        prop_assert!(trace.completeness.complete);
        let outcome = analyzer::replay(&trace, decoders, |_| {}).unwrap();
        compare(&history, &outcome)?;
        follow(&trace, &outcome)?;
        seen.borrow_mut().add(&history, &outcome);
        Ok(())
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
    seen.into_inner().assert_everything();
}
