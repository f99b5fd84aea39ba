//! What matters most, in a few sentences. Responsible for the executive summary and the bottom line; the figures behind them stand
//! in the other parts.

use super::sentence::{Sentence, Value, bytes, count, counted, function, name, share, words};
use super::strategy::each;
use super::{Facts, MATTERS, survivors};
use crate::advice::Allocator;
use crate::arenas::{Trial, VerdictKind};
use crate::lifetimes::{Class, has_phases};
use crate::replay::Amount;
use crate::sites::ratio;

/// Four to eight sentences.
pub(super) fn summary(facts: &Facts<'_>) -> Vec<Sentence> {
    let mut said = Vec::new();
    said.extend(losses(facts));
    said.push(phase_shaped(facts));
    said.extend(peak(facts));
    said.push(teardown(facts));
    said.extend(single_sites(facts));
    said.push(growth(facts));
    said.push(leaks(facts));
    said.extend(no_help(facts));
    said
}

/// What all other sentences stand on, if it is shaky.
pub(super) fn losses(facts: &Facts<'_>) -> Option<Sentence> {
    let info = facts.given.info;
    let lost = info.totals.figures.lost_count.unwrap_or(0);
    let missing = info.capture.missing_event_count;
    if info.capture.loss_free {
        return None;
    }
    Some(
        Sentence::new(
            "not-loss-free",
            "The recording is not whole: {lost} lost and {missing} missing from the file, of {events} that can be read",
            [counted(lost, "event was", "events were"), counted(missing, "is", "are"), count(info.file.events)],
        )
        .and_if(
            !info.capture.not_loss_free_because.is_empty(),
            " ({because})",
            (!info.capture.not_loss_free_because.is_empty())
                .then(|| words(info.capture.not_loss_free_because.join("; ").trim_end_matches('.').to_owned())),
        )
        .and("; counts below are lower bounds, and blocks called durable may have been freed.", []),
    )
}

fn class(facts: &Facts<'_>, class: Class) -> Amount {
    let figures = facts.given.lifetimes.classes.iter().find(|figures| figures.class == class);
    figures.map_or_else(Amount::default, |figures| Amount { bytes: figures.bytes, count: figures.count })
}

fn phase_shaped(facts: &Facts<'_>) -> Sentence {
    let (blocks, all_bytes) = (facts.blocks(), facts.bytes());
    if !has_phases(facts.given.study) {
        let durable = class(facts, Class::Durable);
        return Sentence::new(
            "no-phases",
            "No phase was recognised, so that lifetimes are told by process and function alone: of {blocks}, {durable} \
             ({share}) are never freed.",
            [counted(blocks, "block", "blocks"), count(durable.count), share(durable.count, blocks)],
        );
    }
    let scratch = class(facts, Class::Scratch);
    let handed = class(facts, Class::HandedOver);
    let durable = class(facts, Class::Durable);
    let mut phases: Vec<_> = facts.scopes.phases.iter().filter(|phase| !phase.is_outside).collect();
    phases.sort_by_key(|phase| std::cmp::Reverse(phase.class(Class::Scratch).count));
    let top = phases
        .into_iter()
        .take(3)
        .filter(|phase| phase.class(Class::Scratch).count > 0)
        .map(|phase| {
            let scratch = phase.class(Class::Scratch);
            [name(&phase.name), count(scratch.count), share(scratch.count, phase.born.count), bytes(scratch.bytes)]
        })
        .collect::<Vec<_>>();
    let any = !top.is_empty();
    Sentence::new(
        "phase-shaped-lifetimes",
        "{scratch_share} of the {blocks} ({scratch_bytes_share} of the bytes) are scratch: they die in the phase instance \
         that they are born in; {handed_share} are freed by a later phase and {durable_share} ({durable_bytes_share} of the \
         bytes) never.",
        [
            share(scratch.count, blocks),
            counted(blocks, "block", "blocks"),
            share(scratch.bytes, all_bytes),
            share(handed.count, blocks),
            share(durable.count, blocks),
            share(durable.bytes, all_bytes),
        ],
    )
    .and_if(any, " The largest phase-shaped lifetimes: ", [])
    .list("{phase} ({scratch} blocks, {scratch_share} of its own, {scratch_bytes})", top)
    .and_if(any, ".", [])
}

fn peak(facts: &Facts<'_>) -> Option<Sentence> {
    let mut holders: Vec<_> = facts.scopes.phases.iter().filter(|phase| phase.at_peak_bytes > 0).collect();
    holders.sort_by_key(|phase| std::cmp::Reverse(phase.at_peak_bytes));
    let total: u64 = holders.iter().map(|phase| phase.at_peak_bytes).sum();
    if total == 0 {
        return None;
    }
    let figures = &facts.given.info.totals.figures;
    let items = holders
        .iter()
        .take(3)
        .map(|phase| [name(&facts.phase_name(phase)), bytes(phase.at_peak_bytes), share(phase.at_peak_bytes, total)]);
    Some(
        Sentence::new(
            "peak-is-made-of",
            "The peak of {peak_bytes} in {peak_blocks} is reached after {peak_ns}",
            [
                bytes(figures.peak_live_bytes),
                counted(figures.peak_live_count, "block", "blocks"),
                Value::Duration(figures.peak_time_ns.saturating_sub(facts.given.study.outcome.first_ns)),
            ],
        )
        .and_if(total == figures.peak_live_bytes, "; it was born in ", [])
        .and_if(
            total != figures.peak_live_bytes,
            ". What is alive at the highest moment of any phase ({highest_bytes}) was born in ",
            [bytes(total)],
        )
        .list("{phase} ({bytes}, {share})", items)
        .and(".", []),
    )
}

/// The described trace, with the whole plan.
fn trial<'a>(facts: &'a Facts<'_>) -> Option<&'a Trial> {
    facts.given.arenas.trained_on.first()
}

fn teardown(facts: &Facts<'_>) -> Sentence {
    let arenas = facts.given.arenas;
    let storms = &facts.given.patterns.storms;
    let frees = facts.frees();
    let storm = |sentence: Sentence| {
        let saves: u64 = storms.rows.iter().map(|row| row.saves_count).sum();
        sentence.and_if(
            storms.count > 0,
            " {storm_frees} ({storm_share}) come in teardown storms, a thousand and more in a row in one call; bulk teardown \
             would replace {storm_saves} of them.",
            (storms.count > 0)
                .then(|| [counted(storms.count, "free", "frees"), share(storms.count, frees), count(saves)])
                .into_iter()
                .flatten(),
        )
    };
    let Some(trial) = trial(facts).filter(|trial| trial.placed > 0) else {
        return storm(Sentence::new(
            "no-bulk-teardown",
            "Bulk teardown would make {frees_saved} of the {frees} moot. {verdict}",
            [count(0), counted(frees, "free", "frees"), words(arenas.verdict.sentence.clone())],
        ));
    };
    let first = arenas.suggestions.first();
    let sentence = Sentence::new(
        "bulk-teardown",
        "Bulk teardown would make {frees_saved} of {frees} ({share}) moot: {arenas} take {placed_share} of the objects and move \
         the peak by {peak_change}",
        [
            count(trial.frees_saved),
            counted(trial.frees, "free", "frees"),
            share(trial.frees_saved, trial.frees),
            counted(trial.arena_count, "kind of arena", "kinds of arenas"),
            Value::Share(trial.placed_share),
            Value::Change(trial.peak_change),
        ],
    );
    let sentence = match first {
        Some(first) => sentence.and(
            "; the largest lives with each {each} of {scope} and takes {scope_objects} ({scope_share}).",
            [
                words(each(first)),
                function(&first.scope),
                counted(first.objects, "object", "objects"),
                Value::Share(first.object_share),
            ],
        ),
        None => sentence.and(".", []),
    };
    storm(sentence)
}

/// Blocks that need no allocator at all.
fn single_sites(facts: &Facts<'_>) -> Option<Sentence> {
    let patterns = facts.given.patterns;
    let temporaries = &patterns.temporaries;
    let first = temporaries.rows.first()?;
    let buffers: Vec<_> = patterns
        .advice
        .iter()
        .filter(|advice| matches!(advice.allocator, Allocator::FixedBuffer | Allocator::ScratchBuffer))
        .collect();
    let saves: u64 = buffers.iter().map(|advice| advice.saves_free_count).sum();
    Some(Sentence::new(
        "temporaries",
        "{temporaries} ({share} of all) are freed within two events of their birth, most by {function} ({top_count}); buffers on \
         the stack or kept from call to call in {buffer_sites} would save up to {saves}.",
        [
            counted(temporaries.count, "block", "blocks"),
            share(temporaries.count, facts.blocks()),
            function(&first.site.function),
            count(first.count),
            counted(buffers.len() as u64, "function", "functions"),
            counted(saves, "free", "frees"),
        ],
    ))
}

fn growth(facts: &Facts<'_>) -> Sentence {
    let (appends, reallocs) = (&facts.given.patterns.appends, &facts.given.patterns.reallocs);
    let copied = if appends.count == 0 {
        Sentence::new(
            "growth",
            "No table grows by allocate-copy-free: {append_steps} found in {blocks}.",
            [counted(0, "such step", "such steps"), counted(facts.blocks(), "block", "blocks")],
        )
    } else {
        let top = appends.rows.first();
        Sentence::new(
            "growth",
            "Tables of {append_sites} grow by allocate-copy-free: {append_steps} copied {copied_bytes}",
            [
                counted(appends.site_count, "function", "functions"),
                counted(appends.count, "step", "steps"),
                bytes(appends.bytes),
            ],
        )
        .and_if(
            top.is_some(),
            ", most in {function} ({top_bytes})",
            top.map(|top| [function(&top.site.function), bytes(top.copied_bytes)]).into_iter().flatten(),
        )
        .and(".", [])
    };
    if reallocs.count == 0 {
        return copied;
    }
    let saves: u64 = reallocs.rows.iter().map(|row| row.reserve_saves_count).sum();
    copied.and(
        " {grows} make blocks of {grow_sites} greater; reserving at the first allocation what nine in ten reach would save \
         {reserve_saves}.",
        [
            counted(reallocs.count, "realloc", "reallocs"),
            counted(reallocs.site_count, "function", "functions"),
            count(saves),
        ],
    )
}

fn leaks(facts: &Facts<'_>) -> Sentence {
    let leaks = facts.given.leaks;
    let mut found: Vec<_> =
        leaks.findings.iter().filter(|finding| finding.leak && finding.suppressed_by.is_none()).collect();
    found.sort_by_key(|finding| std::cmp::Reverse(finding.bytes));
    if found.is_empty() {
        return Sentence::new(
            "no-leaks",
            "{leaks} found: {survivors} of {survivor_bytes} survive",
            [
                counted(0, "leak was", "leaks were"),
                counted(leaks.total.count, "block", "blocks"),
                bytes(leaks.total.bytes),
            ],
        )
        .and_if(leaks.total.count > 0, ": ", [])
        .list(
            "{class} {bytes}",
            survivors::kept_classes(&leaks.findings)
                .into_iter()
                .take(3)
                .map(|kept| [words(kept.what), bytes(kept.amount.bytes)]),
        )
        .and(".", []);
    }
    let items = found
        .iter()
        .take(3)
        .map(|finding| [function(&finding.function), bytes(finding.bytes), words(finding.class.words())]);
    Sentence::new(
        "leaks",
        "{leaked} of {leaked_bytes} leak ({share} of the surviving bytes), in {findings}: ",
        [
            counted(leaks.leaked.count, "block", "blocks"),
            bytes(leaks.leaked.bytes),
            share(leaks.leaked.bytes, leaks.total.bytes),
            counted(found.len() as u64, "finding", "findings"),
        ],
    )
    .list("{function} ({bytes}, {class})", items)
    .and(".", [])
}

/// What would be tempting and would not pay.
fn no_help(facts: &Facts<'_>) -> Vec<Sentence> {
    let mut said = Vec::new();
    let reallocs = &facts.given.patterns.reallocs;
    if reallocs.bytes > 0 {
        let peak = facts.peak_bytes();
        said.push(Sentence::new(
            "no-arena-under-growing-tables",
            "Putting today's growing tables on an arena as they are would not help: their {grows} replace {old_bytes} of old \
             sizes ({factor} of the peak), all of it left behind where a block cannot grow in place. Seal them first, or reserve.",
            [
                counted(reallocs.count, "realloc", "reallocs"),
                bytes(reallocs.bytes),
                share(reallocs.bytes, peak),
            ],
        ));
    }
    said.extend(phase_arena(facts));
    said
}

/// The phase whose scratch would weigh most if it were kept to its end.
fn phase_arena(facts: &Facts<'_>) -> Option<Sentence> {
    let phase = facts.scopes.phases.iter().filter(|phase| !phase.is_outside).max_by_key(|phase| phase.kept_bytes())?;
    let (kept, peak) = (phase.kept_bytes(), facts.peak_bytes());
    (ratio(kept, peak) >= MATTERS && kept > phase.own_peak_bytes).then(|| {
        Sentence::new(
            "no-arena-for-a-phase",
            "Nor would one arena for a whole phase such as {phase}: it would keep {scratch_bytes} of scratch to the end of an \
             instance, {factor} × the peak, of which at most {alive_bytes} is alive at a time.",
            [name(&phase.name), bytes(kept), Value::Factor(ratio(kept, peak)), bytes(phase.own_peak_bytes)],
        )
    })
}

/// Two or three sentences.
pub(super) fn bottom_line(facts: &Facts<'_>) -> Vec<Sentence> {
    let mut said = Vec::new();
    let scratch = class(facts, Class::Scratch);
    let frees = facts.frees();
    let arenas = facts.given.arenas;
    match trial(facts).filter(|trial| trial.placed > 0) {
        Some(trial) => said.push(Sentence::new(
            "bottom-line",
            "{program} frees {frees} blocks one by one; {share} of these frees serve lifetimes that end with a call, and {arenas} \
             would end them together at {peak_change} of the peak.",
            [
                name(facts.program()),
                count(frees),
                share(trial.frees_saved, trial.frees),
                counted(trial.arena_count, "arena", "arenas"),
                Value::Change(trial.peak_change),
            ],
        )),
        None => said.push(Sentence::new(
            "bottom-line",
            "{program} frees {frees} blocks one by one, and {scratch_share} of all blocks are scratch of their phase; yet {arenas} \
             would pay in {traces}.",
            [
                name(facts.program()),
                count(frees),
                share(scratch.count, facts.blocks()),
                counted(0, "arena", "arenas"),
                counted(arenas.trained_on.len() as u64, "trace", "traces"),
            ],
        )),
    }
    if let Some(first) = super::strategy::priorities(facts).first() {
        said.push(Sentence::new(
            "first-thing-to-do",
            "By measured benefit the first of the list is: {change} {target}, {benefit} ({share} of {whole}).",
            [
                words(first.change.clone()),
                first.target.clone(),
                first.benefit.clone(),
                first.share.clone(),
                words(first.whole),
            ],
        ));
    }
    let held = arenas.held_out.len() as u64;
    let proof = match arenas.verdict.kind {
        VerdictKind::Holds => "that is enough for a promise",
        VerdictKind::Breaks => "it broke there, so that the sites named must stay or be promoted",
        VerdictKind::RaisesPeak => "the peak rose there by more than is allowed, so that the plan needs more room",
        VerdictKind::ThinEvidence => "too few for a promise: record more and different inputs before acting on it",
        VerdictKind::Nothing => "there was nothing to try",
    };
    if arenas.plan.arenas.is_empty() {
        return said;
    }
    if held == 0 {
        said.push(Sentence::new(
            "not-proven",
            "None of it is proven yet: the arenas were found in {traces} and tried on {held_out}; record other inputs before acting \
             on it.",
            [
                counted(arenas.trained_on.len() as u64, "trace", "traces"),
                counted(held, "other input", "other inputs"),
            ],
        ));
        return said;
    }
    said.push(Sentence::new(
        "how-sure",
        "It was tried on {held_out} that it was not made from; {proof}.",
        [counted(held, "input", "inputs"), words(proof)],
    ));
    said
}
