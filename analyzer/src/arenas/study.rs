//! What one trace says of arenas before there is a plan. Responsible for its two passes, crest and survey; not for what is done with the
//! facts.

use trace_format::{ReadError, Sequence};

use super::ArenaOptions;
use super::crest::Crest;
use super::survey::{Facts, Survey};
use crate::leaks::Functions;
use crate::phases::View;
use crate::replay::Outcome;

/// What one trace says, beside its facts.
pub(super) struct Studied {
    /// What is alive at each moment that was surveyed.
    pub(super) live_bytes: Vec<u64>,
    /// Highest sum of requested bytes alive.
    pub(super) peak_bytes: u64,
    pub(super) outcome: Outcome,
}

/// Finds the moments when most is alive, and surveys the trace there.
pub(super) fn study(
    view: &View<'_>,
    options: &ArenaOptions,
    progress: &(impl Fn(u64) + Sync),
) -> Result<(Studied, Facts), ReadError> {
    let (_, crest) = view.replay_with(Crest::default(), options.decoders, more(progress))?;
    let (wanted, live_bytes) = crest.moments().into_iter().unzip();
    let (outcome, facts) = survey(view, options, wanted, progress)?;
    Ok((Studied { live_bytes, peak_bytes: outcome.total.peak.bytes, outcome }, facts))
}

/// Surveys a trace; `moments` are to be sampled.
pub(super) fn survey(
    view: &View<'_>,
    options: &ArenaOptions,
    moments: Vec<Sequence>,
    progress: &(impl Fn(u64) + Sync),
) -> Result<(Outcome, Facts), ReadError> {
    let (tables, names) = (view.tables(), view.names());
    let functions = Functions::of(names).of_frames(tables.frames.len());
    let survey = Survey::new(tables, functions, moments);
    let (outcome, survey) = view.replay_with(survey, options.decoders, more(progress))?;
    Ok((outcome, survey.finish()))
}

/// Tells of events since the last time, where a replay tells of all so far.
pub(super) fn more(progress: &impl Fn(u64)) -> impl FnMut(u64) {
    let mut told = 0;
    move |done| progress(done - std::mem::replace(&mut told, done))
}
